"""Matching: answers by hand, kernels beside the reference, padding that holds NaN, images independent of each other."""

import pytest
import torch

from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.match import match

IMPLS = implementations("match")
NAN = float("nan")


def mask(*values: int) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.bool)


@pytest.mark.parametrize("impl", IMPLS)
def test_match_gives_the_known_answer(impl) -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60], [0, 0, 5, 10], [90, 90, 99, 99]]])
    gt = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 40], [40, 50, 60, 60], [0, 0, 0, 0]]])
    with recorded_paths() as paths:
        found = match(boxes, gt, mask(1, 1, 1, 0), mask(0, 0, 1, 0), impl=impl)
    assert paths == [f"match:{impl}"]
    torch.testing.assert_close(found.iou, torch.tensor([[1.0, 0.5, 0, 0.5, 0]]))
    assert found.index[0, [0, 1, 3]].tolist() == [0, 0, 0]  # the second box: 0.5 with both, the first counts
    assert found.best_of_gt.tolist() == [[True, True, False, False, False]]  # and of the second object it is the best
    torch.testing.assert_close(found.ignored, torch.tensor([[0.0, 0, 1, 0, 0]]))  # a crowd is no object


@pytest.mark.parametrize("impl", IMPLS)
def test_detectrons_boxes_overlap_as_there_after_a_pixel_is_added(impl) -> None:
    added = torch.tensor([0.0, 0, 1, 1])
    boxes, gt = torch.tensor([[[0.0, 0, 9, 4]]]) + added, torch.tensor([[[0.0, 0, 9, 9]]]) + added
    assert match(boxes, gt, mask(1), mask(0), impl=impl).iou.item() == 0.5


@pytest.mark.parametrize("impl", IMPLS)
def test_only_candidates_can_be_the_best(impl) -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 20]]])
    found = match(boxes, boxes[:, :1], mask(1), mask(0), candidates=mask(0, 1), impl=impl)
    assert found.best_of_gt.tolist() == [[False, True]]
    assert found.iou.tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize("impl", IMPLS)
def test_without_objects_nothing_matches(impl) -> None:
    boxes, gt = torch.tensor([[[0.0, 0, 10, 10]]]), torch.full((1, 3, 4), NAN)
    none = torch.zeros(1, 3, dtype=torch.bool)
    found = match(boxes, gt, none, none, impl=impl)
    assert (found.iou.item(), found.index.item(), found.best_of_gt.item(), found.ignored.item()) == (0, 0, False, 0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("boxes", "objects"), [(0, 3), (2, 0), (0, 0)])
def test_without_slots_the_answer_is_empty_or_zero(impl, boxes: int, objects: int) -> None:
    real = torch.ones(2, objects, dtype=torch.bool)
    found = match(torch.ones(2, boxes, 4), torch.ones(2, objects, 4), real, ~real, impl=impl)
    assert all(values.shape == (2, boxes) and not values.any() for values in found)
    assert (found.index.dtype, found.best_of_gt.dtype) == (torch.int64, torch.bool)


def draw(rng, B=3, N=200, G=9):
    def boxes(n):
        low = torch.rand(B, n, 2, generator=rng) * 60
        return torch.cat((low, low + torch.rand(B, n, 2, generator=rng) * 50), -1).round()  # so that values tie

    return (
        boxes(N),
        boxes(G),
        torch.rand(B, G, generator=rng) < 0.7,
        torch.rand(B, G, generator=rng) < 0.3,
        torch.rand(B, N, generator=rng) < 0.8,
    )


@pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl != "reference"])
@pytest.mark.parametrize("pixel", [0.0, 1.0])  # with 0 some boxes are empty
@pytest.mark.parametrize("filtered", [False, True])
def test_kernels_equal_the_reference(impl, pixel, filtered, torch_rng) -> None:
    boxes, gt, valid, ignore, candidates = draw(torch_rng)
    boxes, gt = (table + pixel * torch.tensor([0.0, 0, 1, 1]) for table in (boxes, gt))
    among = candidates if filtered else None
    wanted = match(boxes, gt, valid, ignore, candidates=among, impl="reference")
    got = match(boxes, gt, valid, ignore, candidates=among, impl=impl)
    torch.testing.assert_close(got.iou, wanted.iou, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.ignored, wanted.ignored, rtol=0, atol=1e-6)
    hit = wanted.iou > 0
    assert torch.equal(got.index[hit], wanted.index[hit])
    assert torch.equal(got.best_of_gt, wanted.best_of_gt)


@pytest.mark.parametrize("impl", IMPLS)
def test_neither_padding_nor_other_images_change_the_answer(impl, torch_rng) -> None:
    boxes, gt, valid, ignore, _ = draw(torch_rng)
    wanted = match(boxes, gt, valid, ignore, impl=impl)
    poisoned = torch.where(valid[..., None], gt, NAN)
    for got in (
        match(boxes, poisoned, valid, ignore | ~valid, impl=impl),
        [
            torch.cat(parts)
            for parts in zip(
                *(
                    match(boxes[b : b + 1], gt[b : b + 1], valid[b : b + 1], ignore[b : b + 1], impl=impl)
                    for b in range(3)
                ),
                strict=True,
            )
        ],
    ):
        for g, w in zip(got, wanted, strict=True):
            assert torch.equal(g, w)
