"""Pasting: answers by hand, kernels equal to the reference, and the rules of the other frameworks, written again."""

import pytest
import torch
from torch.nn import functional as F

from maskrcnn.ops.dispatch import implementations, recorded_paths
from maskrcnn.ops.paste import RULES, paste

IMPLS = implementations("paste")


def square_of_ones():
    mask = torch.zeros(1, 28, 28)
    mask[:, 7:21, 7:21] = 1
    return mask


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("rule", "left", "right"), [("padded", 4, 10), ("grid", 5, 9)])
def test_paste_gives_the_known_answer(rule, left, right, impl) -> None:
    """Detectron and torchvision (`padded`) set 42 pixels for this mask and box, Detectron2 (`grid`) sets 30."""
    answer = torch.zeros(1, 20, 20, dtype=torch.bool)
    answer[:, 7:13, left : right + 1] = True
    with recorded_paths() as paths:
        got = paste(square_of_ones(), torch.tensor([[2.3, 3.6, 13.1, 15.9]]), (20, 20), rule=rule, impl=impl)
    assert paths == [f"paste:{impl}"]
    assert torch.equal(got, answer)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_full_mask_fills_its_box_and_a_half_reaches_half(impl) -> None:
    box = torch.tensor([[4.0, 2.0, 12.0, 10.0]])
    full = paste(torch.ones(1, 4, 4), box, (14, 16), impl=impl)
    answer = torch.zeros(1, 14, 16, dtype=torch.bool)
    answer[:, 2:10, 4:12] = True
    assert torch.equal(full, answer)
    soft = paste(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), box, (14, 16), threshold=None, impl=impl)
    row = soft[0, 6, 4:12]  # mask cells of four pixels with centres at 2 and 6 of the box's 8
    torch.testing.assert_close(row, torch.tensor([0.625, 0.875, 0.875, 0.625, 0.375, 0.125, 0.0, 0.0]))


def draw(seed, count=6):
    """Smooth, hard and noisy masks; boxes inside, across and beyond the image, tiny, of its size, and without area."""
    rng = torch.Generator().manual_seed(seed)
    M = int(torch.randint(1, 29, (1,), generator=rng))
    H, W = (int(side) for side in torch.randint(1, 50, (2,), generator=rng))
    masks = F.interpolate(torch.rand(count, 1, 4, 4, generator=rng), (M, M), mode="bilinear")[:, 0]
    masks[1] = torch.rand(M, M, generator=rng)
    masks[2] = (masks[2] > 0.5).float()
    middle = torch.rand(count, 2, generator=rng) * torch.tensor([W, H])
    extent = torch.rand(count, 2, generator=rng) * 70
    boxes = torch.cat([middle - extent / 2, middle + extent / 2], dim=1)
    boxes[2] = (boxes[2] * 2).round() / 2  # edges on borders and centres of pixels, where values tie
    boxes[3] = torch.tensor([0, 0, W, H])
    boxes[4, 2:] = boxes[4, :2] + 0.3
    boxes[5, 2] = boxes[5, 0]
    return masks, boxes, (H, W)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("impl", IMPLS)
def test_every_implementation_equals_the_reference(impl, rule) -> None:
    for seed in range(6 if impl == "triton" else 40):  # interpreted, and slow
        masks, boxes, size = draw(seed)
        for threshold in (0.5, 0.3, None):
            answer = paste(masks, boxes, size, threshold=threshold, rule=rule, impl="reference")
            assert torch.equal(paste(masks, boxes, size, threshold=threshold, rule=rule, impl=impl), answer)


@pytest.mark.parametrize("impl", IMPLS)
def test_without_objects_or_pixels_the_answer_is_empty(impl) -> None:
    assert paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 7), impl=impl).shape == (0, 5, 7)
    assert paste(torch.ones(2, 28, 28), torch.ones(2, 4), (0, 7), impl=impl).shape == (2, 0, 7)
    outside = torch.tensor([[-9.0, -9.0, -3.0, -3.0], [20.0, 20.0, 30.0, 30.0], [8.0, 8.0, 2.0, 2.0]])
    assert not paste(torch.ones(3, 8, 8), outside, (10, 10), impl=impl).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_does_not_spread_to_other_slots(impl, rule) -> None:
    masks, boxes, size = draw(3)
    answer = paste(masks, boxes, size, rule=rule, impl=impl)
    masks, boxes = masks.clone(), boxes.clone()
    masks[1], boxes[1] = float("nan"), float("nan")
    boxes[4] = float("inf")
    got = paste(masks, boxes, size, rule=rule, impl=impl)
    real = [0, 2, 3, 5]
    assert torch.equal(got[real], answer[real])
    assert not got[1].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("impl", IMPLS)
def test_an_object_does_not_depend_on_its_neighbours(impl, rule) -> None:
    masks, boxes, size = draw(5)
    together = paste(masks, boxes, size, rule=rule, impl=impl)
    alone = [paste(masks[n : n + 1], boxes[n : n + 1], size, rule=rule, impl=impl)[0] for n in range(len(masks))]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("seed", range(12))
def test_grid_is_detectron2s_grid_sampling(seed) -> None:
    masks, boxes, (H, W) = draw(seed, count=6)
    masks, boxes = masks[:5], boxes[:5]
    x = (torch.arange(W) + 0.5 - boxes[:, 0, None]) / (boxes[:, 2] - boxes[:, 0])[:, None] * 2 - 1
    y = (torch.arange(H) + 0.5 - boxes[:, 1, None]) / (boxes[:, 3] - boxes[:, 1])[:, None] * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], dim=3)
    answer = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    torch.testing.assert_close(paste(masks, boxes, (H, W), threshold=None), answer, atol=2e-5, rtol=0)  # huge scales
    clear = (answer - 0.5).abs() > 2e-5
    assert torch.equal(paste(masks, boxes, (H, W))[clear], (answer >= 0.5)[clear])


@pytest.mark.parametrize("seed", range(12))
def test_padded_is_torchvisions_resize(seed) -> None:
    masks, boxes, (H, W) = draw(seed)
    scale = (masks.shape[-1] + 2) / masks.shape[-1]
    half, middle = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale, (boxes[:, 2:] + boxes[:, :2]) * 0.5
    answer = torch.zeros(len(masks), H, W)
    for n, mask in enumerate(F.pad(masks, (1,) * 4)):
        x1, y1, x2, y2 = torch.cat([middle[n] - half[n], middle[n] + half[n]]).to(torch.int64).tolist()
        w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        whole = F.interpolate(mask[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0]
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x1 + w, W), min(y1 + h, H)
        if left < right and top < bottom:
            answer[n, top:bottom, left:right] = whole[top - y1 : bottom - y1, left - x1 : right - x1]
    torch.testing.assert_close(paste(masks, boxes, (H, W), threshold=None, rule="padded"), answer, atol=1e-5, rtol=0)
    clear = (answer - 0.5).abs() > 1e-5
    assert torch.equal(paste(masks, boxes, (H, W), rule="padded")[clear], (answer > 0.5)[clear])


def test_wrong_arguments_are_refused() -> None:
    masks, boxes = torch.ones(1, 4, 4), torch.ones(1, 4)
    with pytest.raises(ValueError, match="grid, padded"):
        paste(masks, boxes, (4, 4), rule="nearest")
    with pytest.raises(ValueError, match="threshold"):
        paste(masks, boxes, (4, 4), threshold=0.0)
