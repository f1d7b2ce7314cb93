"""What counts as the same answer, what is drawn, and the report: by hand, without any of the rivals."""

from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks.evaluation import DETECTIONS, OBJECTS, draw
from benchmarks.harness import Left, Middle, Row
from benchmarks.machine import facts
from benchmarks.rivals import Answer, golden_shapes, kept, pairs, probability_iou, rle_iou
from benchmarks.scenes import box_of, ellipses, write_coco
from maskrcnn.data.formats import read_dataset

BOXES = np.array([[0, 0, 10, 10], [20, 20, 30, 40], [50, 50, 60, 60]], dtype=np.float32)
LABELS = np.array([1, 2, 3])
MASKS = np.stack([np.ones((4, 4)), np.zeros((4, 4)), np.eye(4)])


def answer(boxes: np.ndarray = BOXES, labels: np.ndarray = LABELS, masks: Any = MASKS) -> Answer:
    return Answer(boxes, labels, list(masks))


def test_the_same_detections_in_another_order_are_all_kept() -> None:
    order = [2, 0, 1]
    other = answer(BOXES[order], LABELS[order], MASKS[order])
    assert {(i, j) for i, j in pairs(answer(), other)} == {(0, 1), (1, 2), (2, 0)}
    assert kept(answer(), other) == kept(answer(), answer()) == 1.0
    assert kept(answer(BOXES[:0], LABELS[:0], MASKS[:0]), answer()) == 1.0


def test_another_label_or_a_moved_box_is_not_kept() -> None:
    assert kept(answer(), answer(labels=np.array([1, 9, 3]))) == pytest.approx(2 / 3)
    moved = BOXES + np.array([[0, 0, 0, 0], [1, 0, 1, 0], [0.2, 0, 0.2, 0]])  # IoU 1, 9 / 11, 9.8 / 10.2
    assert kept(answer(), answer(boxes=moved)) == pytest.approx(2 / 3)
    assert kept(answer(), answer(boxes=moved), iou=0.8) == 1.0
    assert kept(answer(), answer(BOXES[:1], LABELS[:1], MASKS[:1])) == pytest.approx(1 / 3)


def test_masks_are_compared_pair_by_pair() -> None:
    """Ten pixels of sixteen are common; two empty masks are equal; the last two are the same."""
    other = answer(masks=np.stack([np.tril(np.ones((4, 4))), np.zeros((4, 4)), np.eye(4)]))
    assert probability_iou(answer(), other) == pytest.approx((10 / 16 + 1 + 1) / 3)
    coco = pytest.importorskip("pycocotools.mask")
    one, two = (
        answer(masks=[coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in found.masks])
        for found in (answer(), other)
    )
    assert rle_iou(one, two) == pytest.approx((10 / 16 + 1 + 1) / 3)


def test_drawn_scenes_agree_with_their_json(tmp_path, rng) -> None:
    scenes = [ellipses(rng, (40, 60), count, (4.0, 9.0)) for count in (3, 5)]
    labels = [np.array([0, 1, 1]), np.array([1, 0, 0, 1, 0])]
    dataset = read_dataset(write_coco(tmp_path, scenes, labels, 2))
    assert dataset.annotation_counts.tolist() == [3, 5]
    record = dataset.record(1)
    assert record.labels.tolist() == labels[1].tolist()
    np.testing.assert_allclose(record.boxes, [box_of(bitmap) for bitmap in scenes[1][1]])
    assert box_of(np.pad(np.ones((2, 3), bool), ((1, 4), (2, 6)))).tolist() == [2, 1, 5, 3]


def test_drawn_detections_find_all_objects_and_more(tmp_path) -> None:
    path, rows = draw(tmp_path, 2)
    dataset = read_dataset(path)
    assert dataset.annotation_counts.tolist() == [OBJECTS, OBJECTS]
    assert [sum(row["image_id"] == n for row in rows) for n in (1, 2)] == [DETECTIONS, DETECTIONS]
    first, found = dataset.record(0), [row for row in rows if row["image_id"] == 1]
    xyxy = np.array([row["bbox"] for row in found])
    xyxy[:, 2:] += xyxy[:, :2]
    mine = Answer(first.boxes, np.array([dataset.categories[k].id for k in first.labels]), [])
    theirs = Answer(xyxy, np.array([row["category_id"] for row in found]), [])
    assert kept(mine, theirs, iou=0.5) == 1.0
    assert all(row["bbox"][2] > 0 and row["bbox"][3] > 0 for row in rows)


def test_r101_is_r50_with_a_longer_res4() -> None:
    fifty, more = golden_shapes("detectron2-mask_rcnn_R_50_FPN"), golden_shapes("detectron2-mask_rcnn_R_101_FPN")
    new = more.keys() - fifty.keys()
    assert fifty.keys() < more.keys()
    assert {name.split(".")[3] for name in new if ".res4." in name} == {str(n) for n in range(6, 23)}
    assert len(new) == 17 * sum(".res4.5." in name for name in fifty)


def test_the_report_counts_bars_and_lists_what_was_not_compared() -> None:
    one = Middle(1.0, 1.0, 1.0)
    rows = [Row("a", one, bar=2.0), Row("b", one, bar=0.5), Row("c", one), Left("d", "not importable")]
    text = program.report(rows, facts(2) | {"seconds": 5})
    assert "- bars: 1 of 2 hold" in text
    assert "- not compared: d: not importable" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][2:] == ["a", "b", "c"]


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    found = facts(2)
    assert "torch" in found["versions"]
    assert "2 of" in found["processor"]
    assert platform.node() not in str(found)
