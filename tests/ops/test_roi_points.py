"""RoIAlign, RoIPool and RoIWarp against their definitions, values and gradients, on random and on edge cases; answers
of RoIPool (of torchvision's operator, which equal those of Caffe2's) and RoIWarp (by hand)."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from maskrcnn.ops.dispatch import implementations, use
from maskrcnn.ops.roi_align import roi_align
from maskrcnn.ops.roi_points import roi_points
from tests.ops import definitions

IMPLS = implementations("roi_points")


def roi_pool(*arguments, sampling=0, aligned=False, **numbers):
    return roi_points(*arguments, rule="roi_pool", **numbers)


def roi_warp(*arguments, sampling=0, aligned=False, **numbers):
    return roi_points(*arguments, rule="roi_warp", **numbers)


OPERATORS = {"roi_align": roi_align, "roi_pool": roi_pool, "roi_warp": roi_warp}
ALL = [(rule, aggregate) for rule in OPERATORS for aggregate in ("average", "max")]


class Case(NamedTuple):
    name: str
    maps: tuple = ((9, 11), (5, 6))
    boxes: tuple = ()  # drawn at random if there are none
    size: int = 3
    sampling: int = 2
    aligned: bool = True


EDGES = (
    (0, 0, 36, 44),  # the whole map
    (8, 8, 8, 8),  # no extent
    (8, 8, 9, 9),  # less than a pixel of the map
    (-20, -12, 10, 14),  # across the corner
    (30, 26, 90, 80),  # across the opposite corner
    (100, 100, 140, 140),  # beyond
    (20, 20, 10, 12),  # corners exchanged
    (2, 6, 18, 22),  # halves of a pixel, which are rounded away from zero
    (-2, -6, 18, 22),
    (4, 0, 16, 12),  # samples fall on centres
)
CASES = [
    Case("drawn"),
    Case("drawn, adaptive", sampling=0),
    Case("drawn, legacy", aligned=False),
    Case("drawn, legacy and adaptive", aligned=False, sampling=0),
    Case("edges", boxes=EDGES),
    Case("edges, adaptive", boxes=EDGES, sampling=0),
    Case("edges, legacy", boxes=EDGES, aligned=False, sampling=0, size=2),
    Case("one bin", size=1, boxes=EDGES),
    Case("maps of a pixel", maps=((1, 1), (1, 2))),
]


def draw(case, rng):
    B, C = 2, 3
    maps = [rng.standard_normal((B, C, h, w)).astype(np.float32) for h, w in case.maps]
    scales = [(0.25, 0.25), (0.125, 0.125)]  # powers of two: the same product in float32
    if case.boxes:
        boxes = np.broadcast_to(np.array(case.boxes, np.float32), (B, len(case.boxes), 4)).copy()
    else:
        centre, side = rng.random((B, 8, 2)) * 50 - 5, np.exp(rng.uniform(0, 4, (B, 8, 2)))
        boxes = np.concatenate([centre - side / 2, centre + side / 2], 2).astype(np.float32)
    levels = rng.integers(0, len(maps), boxes.shape[:2])
    valid = rng.random(boxes.shape[:2]) < 0.8
    grad = rng.standard_normal((*boxes.shape[:2], C, case.size, case.size)).astype(np.float32)
    return maps, scales, boxes, levels, valid, grad


@pytest.mark.parametrize(("rule", "aggregate"), ALL)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_equal_their_definition(case, rule, aggregate, impl, rng) -> None:
    maps, scales, boxes, levels, valid, grad = draw(case, rng)
    numbers = {"scales": scales, "size": case.size, "sampling": case.sampling, "aligned": case.aligned}
    wanted, wanted_grads = definitions.pool(rule, maps, boxes, levels, valid, aggregate=aggregate, grad=grad, **numbers)
    tensors = [torch.tensor(m, requires_grad=True) for m in maps]
    with use(impl):
        got = OPERATORS[rule](
            tensors, torch.tensor(boxes), torch.tensor(levels), torch.tensor(valid), aggregate=aggregate, **numbers
        )
    grads = torch.autograd.grad(got, tensors, torch.tensor(grad))
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=0, atol=1e-5)
    for g, w in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=0, atol=2e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rule", "aggregate"), ALL)
@pytest.mark.parametrize(("size", "every"), [(6, 2), (7, 3)])
def test_every_second_bin_equals_that_bin_among_all(size, every, rule, aggregate, impl, rng) -> None:
    maps, scales, *slots, _ = draw(Case("drawn", size=size), rng)
    slots = [torch.tensor(a) for a in slots]
    tensors = [torch.tensor(m, requires_grad=True) for m in maps]
    numbers = {"scales": scales, "size": size, "sampling": 0, "aligned": True, "aggregate": aggregate}
    with use(impl):
        wanted = OPERATORS[rule](tensors, *slots, **numbers)[..., ::every, ::every]
        got = OPERATORS[rule](tensors, *slots, every=every, **numbers)
    assert torch.equal(got, wanted)
    weight = torch.randn(got.shape)
    grads = [torch.autograd.grad((out * weight).sum(), tensors) for out in (got, wanted)]
    for g, w in zip(*grads, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", ["roi_pool", "roi_warp"])
def test_neither_padding_nor_other_images_change_the_answer(rule, impl, rng) -> None:
    maps, scales, boxes, levels, valid, _ = draw(Case("drawn"), rng)
    arguments = [torch.tensor(a) for a in (boxes, levels, valid)]
    maps = [torch.tensor(m) for m in maps]
    numbers = {"scales": scales, "size": 3, "aggregate": "max"}
    with use(impl):
        wanted = OPERATORS[rule](maps, *arguments, **numbers)
    arguments[0][~arguments[2]] = float("nan")
    arguments[1][~arguments[2]] = 1 << 40
    with use(impl):
        got = OPERATORS[rule](maps, *arguments, **numbers)
    assert torch.equal(got, wanted)
    assert not got[~arguments[2]].any()
    for b in range(2):
        with use(impl):
            alone = OPERATORS[rule]([m[b : b + 1] for m in maps], *[a[b : b + 1] for a in arguments], **numbers)
        torch.testing.assert_close(alone[0], wanted[b], rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", ["roi_pool", "roi_warp"])
def test_of_equal_pixels_the_first_takes_the_gradient(rule, impl) -> None:
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    one = torch.zeros(1, 1, dtype=torch.int64)
    numbers = {"scales": [(1.0, 1.0)], "size": 1, "aggregate": "max"}
    with use(impl):
        out = OPERATORS[rule]([features], torch.tensor([[[0.0, 0, 3, 3]]]), one, one == 0, **numbers)
    out.sum().backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [1] + [0] * 15


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rule", "aggregate"), ALL)
def test_bfloat16_adds_up_in_float32(rule, aggregate, impl) -> None:
    """2000 boxes each give one pixel a gradient of 1; in bfloat16, 256 + 1 would be 256."""
    features = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    boxes = torch.tensor([0.0, 0, 1, 1]).expand(1, 2000, 4)
    levels = torch.zeros(1, 2000, dtype=torch.int64)
    numbers = {"scales": [(1.0, 1.0)], "size": 1, "sampling": 2, "aligned": True, "aggregate": aggregate}
    with use(impl):
        out = OPERATORS[rule]([features], boxes, levels, levels == 0, **numbers)
    assert out.dtype == torch.bfloat16
    assert (out == 1).all()
    out.sum().backward()
    assert features.grad is not None
    assert features.grad.item() == 2000


@pytest.mark.parametrize("rule", ["roi_pool", "roi_warp"])
def test_impossible_calls_are_refused(rule) -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    arguments = ([torch.zeros(1, 1, 4, 4)], torch.zeros(1, 1, 4), one, one == 0)
    for wrong in ({"aggregate": "median"}, {"size": 0}, {"every": 0}, {"scales": []}):
        with pytest.raises(ValueError, match=rule):
            OPERATORS[rule](*arguments, **{"scales": [(1.0, 1.0)], "size": 2, **wrong})


BY_HAND = [  # a map of 6 x 8 pixels with value 10 y + x, 2 x 2 bins
    (1.0, (1, 1, 5, 4), (23, 25, 43, 45)),
    (1.0, (0, 0, 0.4, 0.4), (0, 0, 0, 0)),
    (1.0, (-3, -2, 3, 2), (0, 3, 20, 23)),
    (1.0, (5, 3, 12, 9), (57, 0, 0, 0)),
    (0.25, (5, 6, 22, 19), (33, 36, 53, 56)),
]


def ramp() -> torch.Tensor:
    return (10.0 * torch.arange(6)[:, None] + torch.arange(8))[None, None]


@pytest.mark.parametrize(("scale", "box", "answer"), BY_HAND)
def test_roi_pool_gives_the_known_answer(scale, box, answer) -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    got = roi_pool([ramp()], torch.tensor([[box]]).float(), one, one == 0, scales=[(scale, scale)], size=2)
    assert got.flatten().tolist() == list(answer)


def test_roi_pool_gives_the_mean_of_a_bin() -> None:
    """Box (1, 1, 4, 2): columns 1 .. 4 and rows 1, 2; the bins are (11, 12), (13, 14), (21, 22), (23, 24)."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    box = torch.tensor([[[1.0, 1, 4, 2]]])
    got = roi_pool([ramp()], box, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate="average")
    assert got.flatten().tolist() == [11.5, 13.5, 21.5, 23.5]


@pytest.mark.parametrize(("aggregate", "answer"), [("max", (28, 30, 43, 45)), ("average", (19.5, 21.5, 34.5, 36.5))])
def test_roi_warp_gives_the_known_answer(aggregate, answer) -> None:
    """A map of 6 x 8 pixels with value 10 y + x and the box (1, 1, 5, 4): 3 x 3 samples in bins of 2 x 1.5."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    box = torch.tensor([[[1.0, 1, 5, 4]]])
    got = roi_warp([ramp()], box, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate=aggregate)
    assert got.flatten().tolist() == list(answer)


def test_roi_warps_samples_outside_do_not_count() -> None:
    """On a map of ones each bin's mean is one, also if the box hangs over the edge, and zero if no sample is inside."""
    one = torch.zeros(1, 2, dtype=torch.int64)
    boxes = torch.tensor([[[-3.0, -3, 3, 3], [20, 20, 30, 30]]])
    got = roi_warp([torch.ones(1, 1, 5, 5)], boxes, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate="average")
    assert got[0, 0].flatten().tolist() == [1, 1, 1, 1]
    assert not got[0, 1].any()
