"""Boxes: numbers by hand (Detectron2's, torchvision's and Detectron's), and properties."""

import math

import pytest
import torch

from maskrcnn.ops.boxes import (
    area,
    clip,
    decode,
    encode,
    intersection,
    iou,
    last_pixels,
    mirror,
    to_canvas,
    to_image,
)

PROPOSAL, TARGET = torch.tensor([[10.0, 20, 50, 100]]), torch.tensor([[14.0, 16, 60, 92]])
ONE, TEN = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)
DETECTRON = torch.tensor([0.0, 0, 1, 1])  # to be added to Detectron's boxes, which end on their last pixel
NONE = torch.zeros(4)
DELTAS = [
    (ONE, NONE, (0.175, -0.075, 0.1397619, -0.0512933)),
    (TEN, NONE, (1.75, -0.75, 0.6988096, -0.2564665)),
    (ONE, DETECTRON, (0.1707317, -0.0740741, 0.1365755, -0.0506437)),
    (TEN, DETECTRON, (1.7073171, -0.7407407, 0.6828777, -0.2532187)),
]


@pytest.mark.parametrize(("weights", "added", "answer"), DELTAS)
def test_deltas_by_hand(weights, added, answer) -> None:
    got = encode(TARGET + added, PROPOSAL + added, weights)
    torch.testing.assert_close(got, torch.tensor([answer]), rtol=0, atol=1e-6)


def test_growth_is_limited_above_only() -> None:
    got = decode(torch.tensor([[0.0, 0, 10, -10]]), PROPOSAL)
    torch.testing.assert_close(got, torch.tensor([[-1220.0, 59.99818, 1280, 60.00182]]), rtol=0, atol=1e-3)


def test_areas_and_overlaps_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 9], [5, 5, 3, 9], [2, 2, 2, 2]])
    b = torch.tensor([[0.0, 0, 10, 5], [0, 0, 9, 4], [20, 20, 30, 30]])
    assert area(a).tolist() == [100, 81, 0, 0]
    assert area(a + DETECTRON).tolist() == [121, 100, 0, 1]
    assert intersection(a[:1], b).tolist() == [[50, 36, 0]]
    torch.testing.assert_close(iou(a[:2], b), torch.tensor([[0.5, 0.36, 0], [45 / 86, 36 / 81, 0]]))
    assert iou(a[1:2] + DETECTRON, b[1:2] + DETECTRON).item() == 0.5
    assert iou(a[3:], a[3:]).item() == 0  # 0 / 0


def test_clipping_by_hand() -> None:
    boxes = torch.tensor([[[-5.0, -6, 30, 40], [3, 4, 5, 6]]] * 2)
    sizes = torch.tensor([[20, 10], [50, 25]])  # height, width
    assert clip(boxes, sizes).tolist() == [[[0, 0, 10, 20], [3, 4, 5, 6]], [[0, 0, 25, 40], [3, 4, 5, 6]]]
    assert clip(boxes[:, :, None], sizes).shape == (2, 2, 1, 4)


def test_clipping_keeps_a_pixel_of_detectrons_boxes() -> None:
    """Detectron clips corners to 0..W - 1 and 0..H - 1, so that a box beyond the border becomes one pixel of it."""
    boxes = torch.tensor([[[-5.0, -6, 30, 40], [12, 23, 15, 27], [-9, -8, -3, -2], [3, 4, 5, 6]]])
    clipped = clip(boxes + DETECTRON, torch.tensor([[20, 10]]), keep=1.0)
    wanted = [[0.0, 0, 9, 19], [9, 19, 9, 19], [0, 0, 0, 0], [3, 4, 5, 6]]
    assert last_pixels(clipped, inclusive=True)[0].tolist() == wanted


def test_last_pixels_by_hand() -> None:
    box = torch.tensor([[10.0, 20, 31, 41]])
    assert last_pixels(box, inclusive=True).tolist() == [[10, 20, 30, 40]]
    assert torch.equal(last_pixels(box, inclusive=False), box)


@pytest.mark.parametrize(
    ("inclusive", "on_canvas"),
    [
        (False, [[5.0, 40, 15, 80], [0, 0, 30, 30]]),
        (True, [[5.0, 40, 15.5, 79], [0, 0, 28, 28]]),  # the last pixels 29, 39 and 9, 9 become 14.5, 78 and 27, 27
    ],
)
def test_boxes_of_the_image_on_the_canvas_and_back(inclusive: bool, on_canvas: list[list[float]]) -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 40]], [[0, 0, 10, 10]]])
    scales = torch.tensor([[2.0, 0.5], [3.0, 3.0]])  # y, x
    got = to_canvas(boxes, scales, inclusive)
    assert got[:, 0].tolist() == on_canvas
    torch.testing.assert_close(to_image(got, scales, inclusive), boxes)


def test_decode_undoes_encode(torch_rng: torch.Generator) -> None:
    low = torch.rand(2, 50, 2, generator=torch_rng) * 100
    boxes = torch.cat((low, low + torch.rand(2, 50, 2, generator=torch_rng) * 80 + 1), -1)
    reference = boxes.roll(1, 1)
    back = decode(encode(boxes, reference, TEN), reference, TEN)
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-3)


def test_a_box_without_extent_has_finite_deltas() -> None:
    empty = torch.tensor([[3.0, 3, 3, 3]])
    assert encode(TARGET, empty).isfinite().all()
    assert encode(empty, PROPOSAL).isfinite().all()
    assert math.isclose(decode(torch.zeros(1, 4), PROPOSAL)[0, 2].item(), 50.0)


def test_a_mirror_by_hand_and_twice() -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 40]], [[0, 1, 50, 2]]])
    widths = torch.tensor([100, 50])
    assert mirror(boxes, widths).tolist() == [[[70, 20, 90, 40]], [[0, 1, 50, 2]]]
    assert last_pixels(mirror(boxes + DETECTRON, widths), inclusive=True)[0].tolist() == [[69, 20, 89, 40]]
    assert torch.equal(mirror(mirror(boxes, widths), widths), boxes)
