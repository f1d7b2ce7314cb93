"""The sparse evaluation equals the ordinary one, whatever is drawn: crowds, equal scores, boxes in boxes, no mask."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.evaluation import coco
from maskrcnn.evaluation.sparse import runs_of
from maskrcnn.ops.rle import counts_from_bitmap, string_from_counts
from tests.ops.test_runs import bitmaps_of

SIZE = (40, 50)
CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dust"}]


def box_of(draw: Any) -> tuple[float, float, float, float]:
    """x, y, width, height on a coarse grid, so that boxes are often equal or nested; some are medium, some small."""
    x, y = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    width, height = draw(st.integers(1, 5 - x)), draw(st.integers(1, 4 - y))
    jitter = draw(st.sampled_from([0.0, 0.0, 0.4, 1.0]))
    return 10.0 * x + jitter, 10.0 * y, 10.0 * width - 2 * jitter, 10.0 * height - jitter


def mask_of(box: tuple[float, float, float, float]) -> dict[str, Any]:
    x, y, width, height = (round(side) for side in box)
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[y : y + height, x : x + width] = True
    return {"size": list(SIZE), "counts": string_from_counts(counts_from_bitmap(bitmap)).decode()}


@st.composite
def cases(draw: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Annotations and predictions of two images and two classes, and a limit of detections."""
    annotations, rows = [], []
    for _ in range(draw(st.integers(0, 8))):
        box = box_of(draw)
        x, y, width, height = box
        kind = draw(st.sampled_from(["polygon", "polygon", "rle", "crowd", "none"]))
        entry = {
            "id": len(annotations) + 1,
            "image_id": draw(st.integers(1, 2)),
            "category_id": draw(st.sampled_from([3, 3, 7])),
            "bbox": list(box),
            "area": width * height * draw(st.sampled_from([1.0, 1.0, 0.2, 9.0])),
            "iscrowd": int(kind == "crowd"),
            "segmentation": box,  # drawn by the test: type checks draw random numbers, which a strategy may not
        }
        if kind == "polygon":
            entry["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if kind == "none":
            del entry["segmentation"]
        annotations.append(entry)
    for _ in range(draw(st.integers(0, 10))):
        box = box_of(draw)
        rows.append(
            {
                "image_id": draw(st.integers(1, 2)),
                "category_id": draw(st.sampled_from([3, 3, 7])),
                "bbox": list(box),
                "score": draw(st.sampled_from([0.2, 0.5, 0.9])),
                "segmentation": box,
            }
        )
    return annotations, rows, draw(st.sampled_from([1, 2, 100]))


def dataset_of(folder: Path, annotations: list[dict[str, Any]]) -> Dataset:
    images = [{"id": id, "file_name": f"{id}.png", "height": SIZE[0], "width": SIZE[1]} for id in (1, 2)]
    for image in images:
        (folder / image["file_name"]).touch()
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return read_dataset(path)


def close(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            close(one, other)
    else:
        assert a == pytest.approx(b, abs=1e-9, nan_ok=True)


@given(cases())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_equals_the_ordinary_evaluation(tmp_path: Path, case: Any) -> None:
    annotations, rows, limit = case
    for entry in (*annotations, *rows):
        if isinstance(entry.get("segmentation"), tuple):
            entry["segmentation"] = mask_of(entry["segmentation"])
    dataset = dataset_of(tmp_path, annotations)
    want, curves = coco.measure_rows(dataset, rows, max_detections=limit, tasks=["box", "mask"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "DENSE", -1)
        patch.setattr(coco, "_truth", None)  # the ordinary evaluation must not run
        got, found = coco.measure_rows(dataset, rows, max_detections=limit, tasks=["box", "mask"])
    close(got, want)
    for task in curves:
        np.testing.assert_allclose(found[task].precision, curves[task].precision, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[task].scores, curves[task].scores, rtol=0, atol=1e-9)


def test_many_objects_need_no_table_of_all_pairs(tmp_path: Path) -> None:
    """2,100 detections of 2,100 objects: more pairs than `DENSE`; one in ten is missed, one in ten moved away."""
    cells = [(x, y) for y in range(30) for x in range(70)]
    annotations, rows = [], []
    for n, (x, y) in enumerate(cells):
        box = [8.0 * x, 8.0 * y, 6.0, 6.0]
        annotations.append(
            {"id": n + 1, "image_id": 1, "category_id": 3, "bbox": box, "area": 36.0, "iscrowd": 0,
             "segmentation": [[box[0], box[1], box[0] + 6, box[1], box[0] + 6, box[1] + 6, box[0], box[1] + 6]]}
        )  # fmt: skip
        if n % 10 != 3:
            moved = [box[0] + 600 * (n % 10 == 7), *box[1:]]
            rows.append({"image_id": 1, "category_id": 3, "bbox": moved, "score": 1 - n / 5000})
    images = [{"id": 1, "file_name": "1.png", "height": 240, "width": 1200}]
    (tmp_path / "1.png").touch()
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    assert len(rows) * len(annotations) < coco.DENSE
    dataset = read_dataset(path)
    want = coco.measure_rows(dataset, rows, max_detections=3000, tasks=["box"])[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "DENSE", 10**6)
        patch.setattr(coco, "_truth", None)
        got = coco.measure_rows(dataset, rows, max_detections=3000, tasks=["box"])[0]
    close(got, want)
    assert got["box"]["AR3000"] == pytest.approx(0.8)


def test_masks_are_drawn_in_their_own_windows() -> None:
    """Polygons over the border, in two parts, without area; run lengths; and a box in place of a mask."""
    counts = counts_from_bitmap(np.eye(*SIZE, dtype=bool))
    polygons = [
        [np.array([[-5.0, -5], [10, -5], [10, 10], [-5, 10]]), np.array([[45.0, 30], [60, 30], [60, 50]])],
        [np.array([[3.2, 4.7], [20.1, 6.3], [11.9, 33.3]])],
        [np.array([[100.0, 100], [120, 100], [120, 120]])],
    ]
    found = runs_of([polygons[0], (counts, SIZE), polygons[1], None, polygons[2]], np.full((5, 4), 7.0), SIZE)
    from maskrcnn.data.bitmaps import draw_bitmap

    want = [draw_bitmap(one, SIZE) for one in (polygons[0], (counts, SIZE), polygons[1])]
    box = [np.array([[7.0, 7], [14, 7], [14, 14], [7, 14]])]
    want += [draw_bitmap(box, SIZE), np.zeros(SIZE, bool)]
    np.testing.assert_array_equal(bitmaps_of(found, SIZE), want)
