"""RoIAlign: answers by hand, each implementation against the formula in plain Python and against finite differences."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.ops.dispatch import implementations, recorded_paths, use
from maskrcnn.ops.roi_align import roi_align
from tests.ops.kernel_checks import determinism

IMPLS = implementations("roi_align")
KERNELS = [impl for impl in IMPLS if impl != "reference"]
NAN, INF = float("nan"), float("inf")

# relative to the largest value: float32 sums of up to 64 terms in another order; one rounding to 8 bits (bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
CUT_OFF = {torch.float32: 2e-6, torch.bfloat16: 2**-7}  # Triton's interpreter does not round to bfloat16, it truncates

# spec: map of 6 x 8 pixels with value 10 y + x, 2 x 2 bins; legacy is `aligned=False`
BY_HAND = [  # box, legacy 2, legacy 0, aligned 2, aligned 0
    ((1, 1, 5, 4), (19.5, 21.5, 34.5, 36.5), (19.5, 21.5, 34.5, 36.5), (14, 16, 29, 31), (14, 16, 29, 31)),
    ((0, 0, 0.4, 0.4), (2.75, 3.25, 7.75, 8.25), (2.75, 3.25, 7.75, 8.25), (0, 0, 0, 0), (0, 0, 0, 0)),
    ((-3, -2, 3, 2), (0, 0.75, 5, 11.5), (0, 0.75, 10 / 3, 11.5), (0, 0.5, 0, 6), (0, 0.5, 5 / 3, 6)),
    ((5, 3, 12, 9), (50.1875, 0, 0, 0), (37.1875, 0, 0, 0), (46.1875, 0, 0, 0), (46.109375, 0, 18.703125, 0)),
]


def ramp() -> torch.Tensor:
    return (10.0 * torch.arange(6)[:, None] + torch.arange(8))[None, None]


def pool(maps, boxes, *, scale=1.0, levels=None, valid=None, **kwargs):
    """`roi_align` with one level's numbers filled in."""
    shape = boxes.shape[:2]
    levels = torch.zeros(shape, dtype=torch.int64) if levels is None else levels
    valid = torch.ones(shape, dtype=torch.bool) if valid is None else valid
    return roi_align(maps, boxes, levels, valid, scales=[(scale, scale)] * len(maps), **kwargs)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("column", "aligned", "sampling"), [(1, False, 2), (2, False, 0), (3, True, 2), (4, True, 0)])
def test_roi_align_gives_the_known_answer(column, aligned, sampling, impl) -> None:
    boxes = torch.tensor([[row[0] for row in BY_HAND]])
    with recorded_paths() as paths:
        got = pool([ramp()], boxes, size=2, sampling=sampling, aligned=aligned, impl=impl)
    assert paths == [f"roi_align:{impl}"]
    answer = torch.tensor([row[column] for row in BY_HAND]).view(1, 4, 1, 2, 2)
    torch.testing.assert_close(got, answer, rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_roi_align_scales_boxes(impl) -> None:
    box = torch.tensor([[[5.0, 6, 22, 19]]])
    legacy = pool([ramp()], box, scale=0.25, size=2, sampling=2, aligned=False, impl=impl)
    assert legacy.flatten().tolist() == [25.4375, 27.5625, 41.6875, 43.8125]
    aligned = pool([ramp()], box, scale=0.25, size=2, sampling=0, aligned=True, impl=impl)
    assert aligned.flatten().tolist() == [19.9375, 22.0625, 36.1875, 38.3125]


def test_the_largest_point_wins_and_takes_the_gradient() -> None:
    """In a bin of 2 x 2 pixels with a point on each, the largest pixel counts, or the first of the largest ones."""
    features = torch.tensor([[[[1.0, 5, 2, 2], [3, 4, 2, 2]]]], requires_grad=True)
    box = torch.tensor([[[0.0, 0, 4, 2]]])
    with recorded_paths() as paths:
        out = pool([features], box, size=2, sampling=2, aligned=True, aggregate="max")
    assert paths == ["roi_align:reference"]  # the kernels have no maximum
    # bins are 2 wide and 1 high: points at x = 0, 1 | 2, 3 and y = -0.25 -> 0, 0.25 | 0.75, 1.25 -> 1
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([[5.0, 2], [4.25, 2]]))
    out[0, 0, 0, 0].sum().backward()
    assert features.grad is not None
    assert features.grad[0, 0].tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]


class Case(NamedTuple):
    name: str
    maps: tuple = ((13, 17), (7, 9), (4, 5))  # height, width of each level
    channels: int = 5
    slots: int = 12
    batch: int = 2
    size: int = 3
    sampling: int = 2
    aligned: bool = True
    spread: float = 1.0  # how far boxes reach, in canvases
    valid_fraction: float = 0.7

    def inputs(self, rng: np.random.Generator, dtype=torch.float32):
        """Maps, boxes, levels, valid and the other arguments. Level 0 has half the canvas's pixels."""
        B, R = self.batch, self.slots
        maps = [torch.tensor(rng.standard_normal((B, self.channels, h, w))).to(dtype) for h, w in self.maps]
        height, width = 2 * self.maps[0][0], 2 * self.maps[0][1]
        centre = (rng.random((B, R, 2)) * 1.2 - 0.1) * (width, height)
        side = np.exp(rng.uniform(0, math.log(self.spread * height), (B, R, 2)))
        boxes = torch.tensor(np.concatenate([centre - side / 2, centre + side / 2], 2), dtype=torch.float32)
        levels = torch.tensor(rng.integers(0, len(self.maps), (B, R)))
        valid = torch.tensor(rng.random((B, R)) < self.valid_fraction)
        return maps, boxes, levels, valid, self.numbers(height, width)

    def numbers(self, height, width):
        return {
            "scales": [(h / height, w / width) for h, w in self.maps],
            "size": self.size,
            "sampling": self.sampling,
            "aligned": self.aligned,
        }


CASES = [
    Case("pyramid"),
    Case("legacy", aligned=False),
    Case("adaptive", sampling=0, spread=2.0),
    Case("adaptive, legacy", sampling=0, aligned=False),
    Case("one point", sampling=1, size=7),
    Case("one level, one channel", maps=((12, 12),), channels=1, size=14),
    Case("maps of one pixel", maps=((1, 1), (1, 3), (2, 1))),
    Case("far too large boxes", spread=30.0),
    Case("many channels, odd", channels=67),
    Case("one slot", slots=1, batch=1, valid_fraction=1.1),
    Case("all valid", valid_fraction=1.1),
    Case("none valid", valid_fraction=-1.0),
    Case("no slots", slots=0),
    Case("no images", batch=0),
    Case("no channels", channels=0),
    Case("a map for each object", maps=((9, 12),) * 10, channels=1, sampling=0, aligned=False),
]


def differentiate(maps, out, grad):
    """The gradient of (out * grad).sum() to each map."""
    return torch.autograd.grad(out, maps, grad, allow_unused=False)


def assert_near(got, wanted, dtype, impl="reference") -> None:
    assert got.dtype == wanted.dtype == dtype
    largest = wanted.float().abs().max().item() if wanted.numel() else 0.0
    tolerance = (CUT_OFF if impl == "triton" else TOLERANCE)[dtype]
    torch.testing.assert_close(got.float(), wanted.float(), rtol=0, atol=tolerance * max(largest, 1.0))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_equal_the_reference(rng, case, impl, dtype) -> None:
    maps, boxes, levels, valid, numbers = case.inputs(rng, dtype)
    maps = [features.requires_grad_() for features in maps]
    with recorded_paths() as paths:
        got = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
        wanted = roi_align(maps, boxes, levels, valid, **numbers, impl="reference")
    assert paths == [f"roi_align:{impl}", "roi_align:reference"]
    assert got.shape == wanted.shape == (case.batch, case.slots, case.channels, case.size, case.size)
    assert_near(got, wanted, dtype, impl)
    grad = torch.tensor(rng.standard_normal(got.shape)).to(dtype)
    for one, other in zip(differentiate(maps, got, grad), differentiate(maps, wanted, grad), strict=True):
        assert_near(one, other, dtype, impl)


def limit_grids(monkeypatch, most) -> None:
    """An adaptive grid has at most `most` points per bin and axis."""
    for module in ("roi_align", *(f"kernels.roi_align_{kernel}" for kernel in KERNELS)):
        monkeypatch.setattr(f"maskrcnn.ops.{module}.LARGEST_GRID", most)


@pytest.mark.parametrize("impl", KERNELS)
def test_an_adaptive_grid_is_limited(rng, impl, monkeypatch) -> None:
    limit_grids(monkeypatch, 2)
    test_kernels_equal_the_reference(rng, Case("adaptive", sampling=0, spread=4.0), impl, torch.float32)


IN_ORDER = [
    Case("pyramid", maps=((6, 5), (3, 4)), slots=5, size=2),
    Case("adaptive, legacy", maps=((6, 5), (3, 4)), slots=5, size=2, sampling=0, aligned=False),
    Case("a map for each object", maps=((3, 4),) * 10, channels=1, slots=6, size=2, sampling=0),
]


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("case", IN_ORDER, ids=lambda case: case.name)
def test_a_deterministic_gradient_equals_the_other(rng, case, impl) -> None:
    """If torch is asked for determinism; on a CPU always."""
    maps, boxes, levels, valid, numbers = case.inputs(rng)
    maps = [features.requires_grad_() for features in maps]
    wanted = roi_align(maps, boxes, levels, valid, **numbers, impl="reference")
    got = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
    grad = torch.tensor(rng.standard_normal(got.shape), dtype=torch.float32)
    with determinism(True):
        first, second = (torch.autograd.grad(got, maps, grad, retain_graph=True) for _ in range(2))
    for one, other, right in zip(first, second, differentiate(maps, wanted, grad), strict=True):
        assert torch.equal(one, other)
        assert_near(one, right, torch.float32)


def formula(features, box, scale, size, sampling, aligned, aggregate):
    """RoIAlign of one box and one channel, point for point, in Python's numbers."""
    height, width = features.shape
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (corner * scale[1 - k % 2] - offset for k, corner in enumerate(box))
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    grid_y, grid_x = (sampling, sampling) if sampling else (math.ceil(h / size), math.ceil(w / size))
    out = np.zeros((size, size))
    for p in range(size):
        for q in range(size):
            points = []
            for i in range(grid_y):
                for j in range(grid_x):
                    y = y1 + p * h / size + (i + 0.5) * h / size / grid_y
                    x = x1 + q * w / size + (j + 0.5) * w / size / grid_x
                    if y < -1 or y > height or x < -1 or x > width:
                        points.append(0.0)
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = int(y), int(x)
                    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    a, b = y - top, x - left
                    points.append(
                        (1 - a) * (1 - b) * features[top, left] + (1 - a) * b * features[top, right]
                        + a * (1 - b) * features[low, left] + a * b * features[low, right]
                    )  # fmt: skip
            if points:
                out[p, q] = max(points) if aggregate == "max" else sum(points) / len(points)
    return out


@pytest.mark.parametrize(("impl", "aggregate"), [*((impl, "average") for impl in IMPLS), ("reference", "max")])
@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: case.name)
def test_roi_align_is_the_formula(rng, case, impl, aggregate) -> None:
    maps, boxes, levels, valid, numbers = case.inputs(rng)
    got = roi_align(maps, boxes, levels, valid, **numbers, aggregate=aggregate, impl=impl)
    for b in range(case.batch):
        for r in range(case.slots):
            wanted = np.zeros((case.size, case.size))
            if valid[b, r]:
                level = int(levels[b, r])
                at = (boxes[b, r].tolist(), numbers["scales"][level], case.size, case.sampling, case.aligned, aggregate)
                wanted = formula(maps[level][b, 0].double().numpy(), *at)
            np.testing.assert_allclose(got[b, r, 0].numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("sampling", [0, 2])
def test_the_gradient_is_the_slope(rng, sampling) -> None:
    """The kernels equal the reference, and the reference equals finite differences in float64."""
    case = Case("small", maps=((5, 6), (3, 3)), channels=2, slots=3, size=2, sampling=sampling, valid_fraction=1.1)
    maps, boxes, levels, valid, numbers = case.inputs(rng, torch.float64)
    maps = [features.requires_grad_() for features in maps]
    for aggregate in ("average", "max"):
        assert torch.autograd.gradcheck(
            lambda *maps, a=aggregate: roi_align(maps, boxes, levels, valid, **numbers, aggregate=a),
            maps,
            fast_mode=True,
        )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("poison", [NAN, INF, -INF, 3e38])
def test_padding_does_not_matter(rng, poison, sampling, impl) -> None:
    """Slots that are not valid may hold any box and level, and receive any gradient."""
    maps, boxes, levels, valid, numbers = Case("", sampling=sampling).inputs(rng)
    maps = [features.requires_grad_() for features in maps]
    grad = torch.tensor(rng.standard_normal((2, 12, 5, 3, 3)), dtype=torch.float32)
    wanted = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
    wanted_grads = differentiate(maps, wanted, grad)
    assert (wanted[~valid] == 0).all()
    boxes = torch.where(valid[..., None], boxes, poison)
    levels = torch.where(valid, levels, torch.tensor([-1, 3, 1 << 62, -(1 << 63)] * 6).view(2, 12))
    got = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
    assert torch.equal(got, wanted)
    grad = torch.where(valid[:, :, None, None, None], grad, poison if impl != "reference" else 7.0)
    for one, other in zip(differentiate(maps, got, grad), wanted_grads, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_impossible_boxes_do_not_change_the_others(rng, aligned, sampling, impl, monkeypatch) -> None:
    """A model that has diverged gives such boxes. No memory outside the maps may be read for them."""
    limit_grids(monkeypatch, 3)  # 1024 x 1024 points of a bin take minutes
    maps, boxes, levels, _, numbers = Case("", sampling=sampling, aligned=aligned).inputs(rng)
    every = torch.ones(2, 12, dtype=torch.bool)
    maps = [features.requires_grad_() for features in maps]
    wanted = roi_align(maps, boxes, levels, every, **numbers, impl=impl)
    wild = [(NAN,) * 4, (0, NAN, 5, 9), (-INF, -INF, INF, INF), (9, 9, 1, 1), (-1e30, 0, 1e30, 4), (0, 0, 5, NAN)]
    boxes[0, :6] = torch.tensor(wild)
    got = roi_align(maps, boxes, levels, every, **numbers, impl=impl)
    assert torch.equal(got[0, 6:], wanted[0, 6:])
    assert torch.equal(got[1], wanted[1])
    assert all(grad.isfinite().all() for grad in differentiate(maps, got, torch.ones_like(got)))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_valid_slot_without_a_level_is_empty(rng, impl) -> None:
    maps, boxes, levels, _, numbers = Case("").inputs(rng)
    levels[0, 0], levels[1, 3] = 3, -1
    out = roi_align(maps, boxes, levels, torch.ones(2, 12, dtype=torch.bool), **numbers, impl=impl)
    assert (out[0, 0] == 0).all()
    assert (out[1, 3] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_an_image_does_not_depend_on_the_others_in_its_batch(rng, impl) -> None:
    maps, boxes, levels, valid, numbers = Case("", batch=3).inputs(rng)
    together = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
    for b in range(3):
        own = slice(b, b + 1)
        alone = roi_align([m[own] for m in maps], boxes[own], levels[own], valid[own], **numbers, impl=impl)
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("impl", [impl for impl in KERNELS if impl == "numba"])
def test_the_number_of_threads_changes_no_bit(rng, impl) -> None:
    """Each thread owns rows of the map, so that nothing races and each sum has one order."""
    maps, boxes, levels, valid, numbers = Case("", maps=((40, 50), (20, 25)), slots=300, size=7).inputs(rng)
    maps = [features.requires_grad_() for features in maps]
    grad = torch.tensor(rng.standard_normal((2, 300, 5, 7, 7)), dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            out = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
            results.append((out, *differentiate(maps, out, grad)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("impl", [impl for impl in KERNELS if impl != "triton"])  # see CUT_OFF
def test_bfloat16_is_rounded_to_the_nearest_even(impl) -> None:
    """A point half-way between two pixels gives their mean, as PyTorch rounds it; also for infinities and NaN."""
    bits = torch.arange(-(1 << 15), 1 << 15, 7).to(torch.int16).view(torch.bfloat16)
    finite = bits[bits.isfinite()]
    left, right = finite, finite.roll(1)
    features = torch.stack([left, right]).t().reshape(1, -1, 1, 2)  # every channel is a pair of pixels
    box = torch.tensor([[[0.0, -0.5, 1.0, 0.5]]])  # its centre lies at x = 0.5, y = 0
    got = pool([features], box, size=1, sampling=1, aligned=False, impl=impl)
    assert torch.equal(got.flatten(), (left.float() * 0.5 + right.float() * 0.5).bfloat16())
    special = torch.tensor([INF, -INF, NAN], dtype=torch.bfloat16).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    got = pool([special], box, size=1, sampling=1, aligned=False, impl=impl)
    torch.testing.assert_close(got.flatten(), special[0, :, 0, 0], equal_nan=True)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_answer_is_channels_last_in_memory(rng, impl) -> None:
    maps, boxes, levels, valid, numbers = Case("").inputs(rng)
    maps = [features.to(memory_format=torch.channels_last).requires_grad_() for features in maps]
    out = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
    assert out.permute(0, 1, 3, 4, 2).is_contiguous()
    for grad in differentiate(maps, out, torch.ones_like(out)):
        assert grad.is_contiguous(memory_format=torch.channels_last) or impl == "reference"


@pytest.mark.parametrize("impl", KERNELS)
def test_only_maps_that_need_a_gradient_get_one(rng, impl) -> None:
    maps, boxes, levels, valid, numbers = Case("").inputs(rng)
    maps[1].requires_grad_()
    boxes.requires_grad_()
    roi_align(maps, boxes, levels, valid, **numbers, impl=impl).sum().backward()
    assert maps[0].grad is maps[2].grad is boxes.grad is None
    assert maps[1].grad is not None
    assert maps[1].grad.abs().sum() > 0


class NoLook(TorchDispatchMode):
    """Refuses every operation whose result's shape, or the control flow after it, depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("aggregate", ["average", "max"])
def test_with_a_fixed_grid_the_reference_never_looks_at_values(rng, aggregate) -> None:
    maps, boxes, levels, valid, given = Case("").inputs(rng)
    maps = [features.requires_grad_() for features in maps]
    with NoLook(), use("reference"):
        out = roi_align(maps, boxes, levels, valid, **given, aggregate=aggregate)
        differentiate(maps, out, torch.ones_like(out))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"aggregate": "sum"}, "aggregate"),
        ({"scales": []}, "0 scales"),
        ({"size": 0}, "size=0"),
        ({"sampling": -1}, "sampling=-1"),
        ({"aggregate": "max", "impl": "numba"}, "max"),
    ],
)
def test_impossible_arguments_are_refused(rng, wrong, message) -> None:
    maps, boxes, levels, valid, numbers = Case("").inputs(rng)
    with pytest.raises(ValueError, match=message):
        roi_align(maps, boxes, levels, valid, **{**numbers, **wrong})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_run_the_reference_and_record_it(rng, dtype) -> None:
    maps, boxes, levels, valid, numbers = Case("").inputs(rng, dtype)
    with recorded_paths() as paths:
        assert roi_align(maps, boxes, levels, valid, **numbers).dtype == dtype
    assert paths == ["roi_align:reference"]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 2])
def test_torchvision_agrees(rng, sampling, aligned) -> None:
    ops = pytest.importorskip("torchvision.ops")
    case = Case("", maps=((30, 40),), slots=50, size=7, sampling=sampling, aligned=aligned, valid_fraction=1.1)
    maps, boxes, levels, valid, numbers = case.inputs(rng)
    maps[0].requires_grad_()
    got = roi_align(maps, boxes, levels, valid, **numbers)
    wanted = ops.roi_align(maps[0], list(boxes), (7, 7), 0.5, sampling, aligned).view(got.shape)
    assert_near(got, wanted, torch.float32)
    grad = torch.tensor(rng.standard_normal(got.shape), dtype=torch.float32)
    ours, theirs = (differentiate(maps, out, grad)[0] for out in (got, wanted))
    assert_near(ours, theirs, torch.float32)
