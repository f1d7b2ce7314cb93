"""Figures at given thresholds, by hand."""

import numpy as np
import pytest

from maskrcnn.categories import Category
from maskrcnn.evaluation.operating import at_thresholds, chosen_thresholds, class_operating, operating_metrics
from tests.evaluation.test_errors import judged

# image, class, x, y, width, height, crowd; then score
TRUTH = [[0, 0, 0, 0, 10, 10, 0], [0, 0, 40, 0, 10, 10, 0], [1, 0, 0, 0, 10, 10, 0], [1, 1, 60, 0, 10, 10, 0]]
FOUND = [
    [0, 0, 0, 0, 10, 10, 0.9],
    [0, 0, 0, 60, 10, 10, 0.8],  # nothing there
    [1, 0, 0, 0, 10, 10, 0.7],
    [1, 0, 0, 60, 10, 10, 0.6],  # nothing there
    [1, 1, 60, 0, 10, 10, 0.3],
]


def test_figures_at_thresholds_by_hand() -> None:
    judgement = judged(TRUTH, FOUND)
    # 4 of 5 detections count. Class 0 has 2 of 2 objects in image 0, and 2 of 1 in image 1; class 1 misses its object.
    every = at_thresholds(judgement, np.array([0.5, 0.5]))
    assert every == pytest.approx((2 / 4, 2 / 4, 2 / 4, (0 + 1 + 1) / 4))
    assert at_thresholds(judgement, np.array([0.5, 0.3]), 1) == pytest.approx((1, 1, 1, 0))
    assert at_thresholds(judgement, np.array([0.5, 0.5]), 1) == pytest.approx((0, 0, 0, 1))
    assert at_thresholds(judgement, np.array([0.65, 0.5]), 0) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 0))
    assert class_operating(judgement, np.array([0.65, 0.3]))[1]["threshold"] == 0.3


def test_crowds_neither_help_nor_hurt() -> None:
    crowd = [[0, 0, 20, 20, 30, 30, 1]]
    on_it = [[0, 0, 20, 20, 28, 28, 0.95]]
    found = at_thresholds(judged(TRUTH + crowd, FOUND + on_it), np.array([0.5, 0.5]))
    assert found == at_thresholds(judged(TRUTH, FOUND), np.array([0.5, 0.5]))


def test_nothing_found_and_nothing_to_find() -> None:
    half = np.array([0.5, 0.5])
    assert at_thresholds(judged(TRUTH, []), half) == (0, 0, 0, 1)
    assert at_thresholds(judged([], FOUND), half) == (-1, -1, -1, -1)
    assert "best_F1" not in operating_metrics(judged(TRUTH, []), half, "box", "default")
    assert chosen_thresholds(judged(TRUTH, []), [Category(1, "a"), Category(2, "b")], [Category(9, "b")]) == ()


def test_thresholds_are_those_of_the_models_classes_by_name() -> None:
    truth = [[0, 0, 20 * i, 0, 10, 10, 0] for i in range(20)] + [[0, 1, 20 * i, 50, 10, 10, 0] for i in range(20)]
    found = [[*row[:6], 0.9 - row[1] / 2 - i / 100] for i, row in enumerate(truth)]
    theirs = [Category(1, "a"), Category(2, "b")]
    a, b, c = chosen_thresholds(judged(truth, found), theirs, [theirs[0], theirs[1], Category(3, "c")])
    assert (a, b) == pytest.approx((0.71, 0.01))
    assert c == b  # of all classes: every detection is right
