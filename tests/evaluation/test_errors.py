"""Kinds of error on scenes known by hand, and beside hotcoco's on drawn ones."""

from dataclasses import replace

import numpy as np
import pytest
from hotcoco import COCO, COCOeval
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    ERRORS,
    IGNORED,
    LOCALISATION,
    average_precision,
    best_operating,
    best_thresholds,
    calibration,
    confusion,
    gains,
    judge,
    missed,
    operating_points,
)
from maskrcnn.evaluation.sparse import Objects

NAMES = {
    "Cls": "classification", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background",
    "Miss": "missed",
}  # fmt: skip


def objects(rows, *, scores=False):
    """Rows of image, label, x, y, width, height, and a score or whether it is a crowd."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    images, labels = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    ends = {"scores": table[:, 6]} if scores else {"ignore": table[:, 6] > 0}
    return replace(Objects(images, labels, table[:, 2:6], table[:, 4] * table[:, 5]), **ends)


TRUTH = [
    [0, 0, 0, 0, 10, 10, 0],
    [0, 1, 50, 50, 20, 20, 0],
    [0, 0, 80, 80, 10, 10, 1],
    [1, 0, 30, 30, 10, 10, 0],
    [1, 1, 70, 10, 10, 10, 0],
]
FOUND = [
    [0, 0, 0, 0, 10, 10, 0.9],
    [0, 0, 0, 0, 10, 9, 0.8],
    [0, 0, 50, 50, 20, 20, 0.7],
    [1, 0, 30, 30, 10, 4, 0.6],
    [1, 1, 30, 30, 10, 4, 0.5],
    [1, 1, 70, 70, 10, 4, 0.4],
    [0, 0, 80, 80, 10, 10, 0.35],
]
KINDS = [CORRECT, DUPLICATE, CLASSIFICATION, LOCALISATION, BOTH, BACKGROUND, IGNORED]


def judged(truth=TRUTH, found=FOUND, classes=2, limit=100):
    return judge(objects(truth), objects(found, scores=True), classes, max_detections=limit)


def test_every_kind_of_error_is_known() -> None:
    judgement = judged()
    kinds = np.empty(len(FOUND), dtype=int)
    kinds[judgement.rows] = judgement.kinds
    assert kinds.tolist() == KINDS
    explained = np.empty(len(FOUND), dtype=int)
    explained[judgement.rows] = judgement.objects
    assert explained.tolist() == [0, 0, 1, 3, 3, -1, 2]
    assert missed(judgement).tolist() == [False, False, False, False, True]
    assert judgement.wanted.tolist() == [2, 2]


def test_the_confusion_of_classes_counts_background_on_both_sides() -> None:
    table = confusion(judged(), np.array([0.0, 0.0]))
    # Class 1 at (50, 50) is taken for class 0; loose boxes find nothing; the crowd does not count.
    assert table.tolist() == [[1, 0, 1], [1, 0, 1], [2, 2, 0]]
    assert confusion(judged(), np.array([0.85, 0.85])).tolist() == [[1, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_the_best_threshold_lies_below_the_last_detection_that_helps() -> None:
    judgement = judged()
    thresholds, precision, recall = operating_points(judgement)
    assert thresholds == pytest.approx([0.85, 0.75, 0.65, 0.55, 0.45, 0.4])
    assert precision == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    assert recall == pytest.approx([1 / 4] * 6)
    best = best_operating(judgement)
    assert best is not None
    assert best == pytest.approx((0.85, 1.0, 0.25, 0.4))
    assert best_operating(judgement, 1) is None
    assert best_thresholds(judgement, few=1) == pytest.approx([0.85, 0.85])


def test_a_rare_class_takes_the_threshold_of_all() -> None:
    truth = [[0, 0, 20 * i, 0, 10, 10, 0] for i in range(20)] + [[0, 1, 0, 50, 10, 10, 0]]
    found = [[*row[:6], 0.9 - i / 100] for i, row in enumerate(truth)]
    found[-1][6] = 0.2
    judgement = judged(truth, found)
    assert best_thresholds(judgement) == pytest.approx([0.71, 0.2])  # both classes are all right
    wrong = [[0, 1, 0, 80, 10, 10, 0.3]] * 3
    assert best_thresholds(judged(truth, found + wrong)) == pytest.approx([0.71, 0.505])


def test_calibration_is_the_share_that_is_right() -> None:
    bins = calibration(judged())
    assert [(b.count, b.correct) for b in bins] == [(1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 1)]
    assert [b.score for b in bins] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_nothing_found_and_nothing_to_find() -> None:
    empty = judged(found=[])
    assert average_precision(empty) == 0
    assert set(gains(empty).values()) == {0.0}
    assert confusion(empty, np.zeros(2)).tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]
    assert best_thresholds(empty).tolist() == [0.5, 0.5]
    nothing = judged(truth=[])
    assert average_precision(nothing) == -1
    assert set(gains(nothing).values()) == {0.0}


def test_only_the_best_detections_of_an_image_and_class_count() -> None:
    assert len(judged(limit=1).kinds) == 3  # of two images and two classes, one pair has none


# --- beside hotcoco --------------------------------------------------------------------------------------------------

places = st.tuples(
    st.integers(0, 1), st.integers(0, 1), st.integers(0, 5), st.integers(0, 5), st.integers(3, 8), st.integers(3, 8)
)


@settings(max_examples=150)
@given(st.lists(places, min_size=1, max_size=8), st.lists(places, min_size=1, max_size=10), st.randoms())
def test_kinds_gains_and_confusion_equal_hotcoco(truth, found, random) -> None:
    scores = random.sample(range(1, 100), len(found))
    truth = [(i, k, x + 0.013 * n, y + 0.007 * n, *sides) for n, (i, k, x, y, *sides) in enumerate(truth)]  # no ties
    judgement = judged([[*row, 0] for row in truth], [[*row, s / 100] for row, s in zip(found, scores, strict=True)])
    table = np.array(truth, dtype=np.float64)
    coco = COCO.from_arrays(
        [{"id": i, "height": 20, "width": 20} for i in (1, 2)],
        [{"id": i, "name": str(i)} for i in (1, 2)],
        table[:, 0].astype(int) + 1,
        table[:, 1].astype(int) + 1,
        table[:, 2:],
        area=table[:, 4] * table[:, 5],
        iscrowd=np.zeros(len(truth), dtype=bool),
    )
    rows = [
        {"image_id": i + 1, "category_id": k + 1, "bbox": [float(v) for v in box], "score": s / 100}
        for (i, k, *box), s in zip(found, scores, strict=True)
    ]
    run = COCOeval(coco, coco.load_res(rows), "bbox")
    run.evaluate()
    theirs = run.tide_errors()
    counts: dict[str, int] = dict(zip(ERRORS, np.bincount(judgement.kinds, minlength=7)[1:6].tolist(), strict=True))
    counts["missed"] = int(missed(judgement).sum())
    assert counts == {name: theirs["counts"][short] for short, name in NAMES.items()}
    assert average_precision(judgement) == pytest.approx(theirs["ap_base"], abs=1e-9)
    expected = {name: theirs["delta_ap"][short] for short, name in NAMES.items()}
    assert gains(judgement) == pytest.approx(expected, abs=1e-9)
    assert confusion(judgement, np.zeros(2)).tolist() == run.confusion_matrix()["matrix"].tolist()
