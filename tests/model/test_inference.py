"""From logits to detections, by hand."""

import pytest
import torch

from maskrcnn.model.inference import candidates, competing_mask_probabilities, keypoints, select
from maskrcnn.structures import Detections, Proposals

NUMBERS = {"weights": (10.0, 10.0, 5.0, 5.0), "score_threshold": 0.05, "nms_iou": 0.5, "max_detections": 4}
BOTH = ("inclusive", "in_image")
BOXES = torch.tensor([[[10.0, 10, 30, 30], [11, 10, 31, 30], [50, 50, 70, 70], [0, 0, 200, 5]]])


def found(scores: list[list[float]], boxes: torch.Tensor = BOXES, **changes):
    """What is left of proposals in an image of 60 x 100, given scores of two classes and background, no deltas."""
    N = boxes.shape[1]
    proposals = Proposals(boxes, torch.zeros(1, N), changes.pop("valid", torch.ones(1, N, dtype=torch.bool)))
    scales = changes.pop("scales", torch.ones(1, 2))
    deltas = changes.pop("deltas", torch.zeros(1, N, 2, 4))
    logits = torch.tensor([scores]).log()
    numbers = {**NUMBERS, **changes}
    first = {name: numbers[name] for name in ("weights", "score_threshold", *BOTH, "min_size") if name in numbers}
    second = {name: numbers[name] for name in ("nms_iou", "max_detections", *BOTH, "closed") if name in numbers}
    return select(candidates(proposals, logits, deltas, torch.tensor([[60, 100]]), scales, **first), scales, **second)


def test_suppression_within_a_class_best_first_clipped() -> None:
    got = found([[0.6, 0.2, 0.2], [0.7, 0.1, 0.2], [0.0, 0.04, 0.96], [0.0, 0.3, 0.7]])
    # class 0: the second box beats the first. class 1: 0.3 of the fourth, 0.2 of the first, which beats the second
    assert got.labels[got.valid].tolist() == [0, 1, 1]
    torch.testing.assert_close(got.scores[got.valid], torch.tensor([0.7, 0.3, 0.2]))
    assert got.boxes[got.valid].tolist() == [[11, 10, 31, 30], [0, 0, 100, 5], [10, 10, 30, 30]]
    assert got.boxes.shape == (1, 4, 4)
    assert not got.boxes[~got.valid].any()
    assert not got.labels[~got.valid].any()


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


def test_in_the_images_own_pixels_widths_count_one_more() -> None:
    """Scale 2 and inclusive corners: boxes of 10 x 10 and 10 x 5 pixels overlap by exactly half there."""
    boxes = torch.tensor([[[0.0, 0, 18, 18], [0, 0, 18, 8]]])
    scores = [[0.9, 0.0, 0.1], [0.8, 0.0, 0.2]]
    way = {"inclusive": True, "closed": True, "scales": torch.full((1, 2), 2.0)}
    assert found(scores, boxes, in_image=True, **way).valid.sum() == 1
    assert found(scores, boxes, in_image=False, **way).valid.sum() == 2
    got = found([[0.9, 0.0, 0.1]], torch.tensor([[[0.0, 0, 300, 300]]]), in_image=True, **way)
    assert got.boxes[0, 0].tolist() == [0, 0, 98, 58]  # the image is 30 x 50: its last pixel is 49, 29


@pytest.mark.parametrize("points", ["cells", "pixels"])
@pytest.mark.parametrize("in_image", [False, True])
def test_keypoints_lie_in_their_boxes_on_the_canvas(in_image, points) -> None:
    """One cell of 4 x 4 each; the box is 8 x 8 on the canvas, 4 x 2 in the image."""
    logits = torch.zeros(1, 2, 1, 4, 4)
    logits[0, 0, 0, 1, 2] = 20.0
    boxes = torch.tensor([[[10.0, 20, 18, 28], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, False]])
    detections = Detections(boxes, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64), None, None, valid)
    got = keypoints(
        logits, detections, torch.tensor([[4.0, 2.0]]), score="logit", points=points, in_image=in_image, bound=(30, 30)
    )
    # of pixels, on the canvas a cell is two, of which the first counts; in the image half a pixel high, one wide
    x, y = (15.0, 23.0) if points == "cells" else (15.0, 22.0) if in_image else (14.5, 22.5)
    torch.testing.assert_close(got[0, 0, 0, :2], torch.tensor([x, y]), rtol=0, atol=1e-4)
    assert got[0, 0, 0, 2] > 5
    assert not got[0, 1].any()


def test_the_probability_of_a_class_that_competes() -> None:
    logs = torch.tensor([0.2, 0.7]).log().view(1, 1, 2, 1, 1)
    torch.testing.assert_close(competing_mask_probabilities(logs), torch.full((1, 1, 1, 1), 0.7))
