"""From logits to detections, by hand."""

from typing import Any

import pytest
import torch

from maskrcnn.config import BoxArithmetic, BoxHeadConfig, KeypointHeadConfig
from maskrcnn.model.inference import candidates, locate_keypoints, mask_probabilities, select
from maskrcnn.structures import Detections, Images, Proposals
from tests.model.small import looking

PLAIN = BoxArithmetic()
NUMBERS: dict[str, Any] = {"max_detections": 4}
BOXES = torch.tensor([[[10.0, 10, 30, 30], [11, 10, 31, 30], [50, 50, 70, 70], [0, 0, 200, 5]]])


def images_of(size: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)) -> Images:
    """An image of this size on its canvas, made by scaling an original; its pixels do not matter."""
    sizes, scales = torch.tensor([size]), torch.tensor([scale])
    return Images(torch.zeros(1, 3, *size), sizes, (sizes / scales).round().long(), scales, torch.zeros(1).long())


def found(
    scores: list[list[float]],
    boxes: torch.Tensor = BOXES,
    *,
    valid: torch.Tensor | None = None,
    deltas: torch.Tensor | None = None,
    scale: float = 1.0,
    arithmetic: BoxArithmetic = PLAIN,
    **changes: Any,
) -> Detections:
    """What is left of proposals in an image of 60 x 100, given scores of two classes and background, no deltas."""
    N = boxes.shape[1]
    proposals = Proposals(boxes, torch.zeros(1, N), torch.ones(1, N, dtype=torch.bool) if valid is None else valid)
    deltas = torch.zeros(1, N, 2, 4) if deltas is None else deltas
    images, config = images_of((60, 100), (scale, scale)), BoxHeadConfig(**{**NUMBERS, **changes})
    every = candidates(proposals, torch.tensor([scores]).log(), deltas, images, config, arithmetic)
    return select(every, images, config, arithmetic)


def test_suppression_within_a_class_best_first_clipped() -> None:
    got = found([[0.6, 0.2, 0.2], [0.7, 0.1, 0.2], [0.0, 0.04, 0.96], [0.0, 0.3, 0.7]])
    # class 0: the second box beats the first. class 1: 0.3 of the fourth, 0.2 of the first, which beats the second
    assert got.labels[got.valid].tolist() == [0, 1, 1]
    torch.testing.assert_close(got.scores[got.valid], torch.tensor([0.7, 0.3, 0.2]))
    assert got.boxes[got.valid].tolist() == [[11, 10, 31, 30], [0, 0, 100, 5], [10, 10, 30, 30]]
    assert got.boxes.shape == (1, 4, 4)
    assert not got.boxes[~got.valid].any()
    assert not got.labels[~got.valid].any()


def test_agnostic_suppression_leaves_one_class_of_an_object() -> None:
    """As above, but the second box suppresses the first of both classes, and its own lesser class."""
    scores = [[0.6, 0.2, 0.2], [0.7, 0.1, 0.2], [0.0, 0.04, 0.96], [0.0, 0.3, 0.7]]
    got = found(scores, nms="agnostic")
    assert got.labels[got.valid].tolist() == [0, 1]
    assert got.boxes[got.valid].tolist() == [[11, 10, 31, 30], [0, 0, 100, 5]]


def test_a_score_at_the_threshold_is_not_enough_and_slots_are_limited() -> None:
    got = found([[0.5, 0.25, 0.25]] * 4, score_threshold=0.5)
    assert not got.valid.any()
    got = found([[0.5, 0.25, 0.25]] * 4, max_detections=1)
    assert got.valid.sum() == 1


def test_deltas_of_the_class_are_used_and_of_all_classes_where_agnostic() -> None:
    deltas = torch.zeros(1, 4, 2, 4)
    deltas[:, :, 1, 0] = 10.0  # a whole width to the right
    scores = [[0.8, 0.1, 0.1], [0.0, 0.0, 1.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]]
    got = found(scores, deltas=deltas)
    assert got.boxes[0, :2].tolist() == [[70, 50, 90, 60], [10, 10, 30, 30]]
    got = found(scores, deltas=deltas[:, :, 1:])
    assert got.boxes[0, :2].tolist() == [[70, 50, 90, 60], [30, 10, 50, 30]]


def test_what_is_not_finite_or_not_real_is_no_detection() -> None:
    boxes = BOXES.clone()
    boxes[0, 0] = float("nan")
    scores = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]]
    got = found(scores, boxes, valid=torch.tensor([[True, True, False, False]]), score_threshold=0.3)
    assert got.boxes[got.valid].tolist() == [[11, 10, 31, 30]]


def test_small_boxes_are_dropped_on_request() -> None:
    scores = [[0.0, 0.0, 1.0]] * 3 + [[0.9, 0.0, 0.1]]
    assert found(scores, min_size=4.0).valid.sum() == 1
    assert found(scores, min_size=5.0).valid.sum() == 0


def test_in_the_images_own_pixels_a_box_ends_on_its_last_pixel() -> None:
    """Scale 2: boxes of 10 x 10 and 10 x 5 pixels overlap by exactly half in the image, by less on the canvas.

    Their last pixels are 9 and 4 in the image, 18 and 8 on the canvas, where a pixel is added to each.
    """
    boxes = torch.tensor([[[0.0, 0, 19, 19], [0, 0, 19, 9]]])
    scores = [[0.9, 0.0, 0.1], [0.8, 0.0, 0.2]]
    in_image = BoxArithmetic(inclusive=True, frame="image", nms_closed=True)
    on_canvas = BoxArithmetic(inclusive=True, frame="canvas", nms_closed=True)
    assert found(scores, boxes, scale=2.0, arithmetic=in_image).valid.sum() == 1
    assert found(scores, boxes, scale=2.0, arithmetic=on_canvas).valid.sum() == 2
    got = found([[0.9, 0.0, 0.1]], torch.tensor([[[0.0, 0, 301, 301]]]), scale=2.0, arithmetic=in_image)
    assert got.boxes[0, 0].tolist() == [0, 0, 99, 59]  # the image is 30 x 50: its last pixel is 49, 29


@pytest.mark.parametrize("points", ["cells", "pixels"])
@pytest.mark.parametrize("frame", ["canvas", "image"])
@pytest.mark.parametrize("allowed", [True, False])
def test_keypoints_lie_in_their_boxes_on_the_canvas(frame, points, allowed) -> None:
    """One cell of 4 x 4 each; the box is 8 x 8 on the canvas, 4 x 2 in the image."""
    logits = torch.zeros(1, 2, 1, 4, 4)
    logits[0, 0, 0, 1, 2] = 20.0
    boxes = torch.tensor([[[10.0, 20, 18, 28], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, False]])
    detections = Detections(boxes, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64), None, None, valid)
    config = KeypointHeadConfig(score="logit", points=points, frame=frame)
    with looking(allowed):
        got = locate_keypoints(logits, detections, images_of((30, 30), (4.0, 2.0)), config, PLAIN)
    # of pixels, on the canvas a cell is two, of which the first counts; in the image half a pixel high, one wide
    x, y = (15.0, 23.0) if points == "cells" else (15.0, 22.0) if frame == "image" else (14.5, 22.5)
    torch.testing.assert_close(got[0, 0, 0, :2], torch.tensor([x, y]), rtol=0, atol=1e-4)
    assert got[0, 0, 0, 2] > 5
    assert not got[0, 1].any()


def test_the_probability_of_a_class_that_competes() -> None:
    logs = torch.tensor([0.2, 0.7]).log().view(1, 1, 2, 1, 1)
    torch.testing.assert_close(mask_probabilities(logs), torch.full((1, 1, 1, 1), 0.7))
