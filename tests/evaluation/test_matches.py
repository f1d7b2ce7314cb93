"""AP from stored matches equals that of an evaluation of the list of images; boundary AP equals another library's."""

import json
from dataclasses import replace

import numpy as np
import pytest

from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import DataError
from maskrcnn.evaluation.bootstrap import class_differences, difference, spread
from maskrcnn.evaluation.boundary import boundaries, erode
from maskrcnn.evaluation.coco import measure_boundaries, measure_rows
from maskrcnn.evaluation.errors import judge_rows
from maskrcnn.evaluation.matches import (
    MATCHES,
    average_precisions,
    curves_of,
    draw_lists,
    matches_of,
    mean_precision,
    read_matches,
    write_matches,
)
from maskrcnn.ops.rle import counts_from_bitmap, string_from_counts
from maskrcnn.ops.runs import from_bitmaps
from tests.ops.test_runs import bitmaps_of

SIZE = (90, 120)
CATEGORIES = [{"id": 4, "name": "cell"}, {"id": 9, "name": "dust"}, {"id": 11, "name": "none"}]


def blob(rng, centre, radius):
    """An ellipse with a bite, bool [H W]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = centre
    mask = ((x - cx) / (1.5 * radius)) ** 2 + ((y - cy) / radius) ** 2 <= 1
    mask &= (x - cx) ** 2 + (y - cy + radius) ** 2 > (radius / 2) ** 2
    return mask


def coded(mask):
    return {"size": list(SIZE), "counts": string_from_counts(counts_from_bitmap(mask)).decode()}


def box_of(mask):
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]


def scene(rng, images):
    """Annotations, some of them crowds, and rows: displaced, missing, doubled, of a wrong class."""
    annotations, rows = [], []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(1, 5)):
            centre, radius = rng.uniform((5, 5), (85, 115)), rng.uniform(4, 30)
            mask = blob(rng, centre, radius)
            if mask.sum() < 4:
                continue
            label = int(rng.choice([4, 9]))
            crowd = int(rng.random() < 0.15)
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": crowd}
            annotations.append({**entry, "bbox": box_of(mask), "area": int(mask.sum()), "segmentation": coded(mask)})
            for _ in range(rng.integers(0, 3)):
                found = blob(rng, centre + rng.normal(0, radius / 8, 2), radius * rng.uniform(0.85, 1.2))
                if found.any():
                    label = label if rng.random() < 0.9 else 9
                    row = {"image_id": image_id, "category_id": label, "segmentation": coded(found)}
                    rows.append({**row, "bbox": box_of(found), "score": float(rng.random())})
    return annotations, rows


def written(folder, images, annotations):
    folder.mkdir(exist_ok=True)
    entries = [{"id": id, "file_name": f"{id}.png", "height": SIZE[0], "width": SIZE[1]} for id in images]
    for entry in entries:
        (folder / entry["file_name"]).touch()
    path = folder / "val.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": CATEGORIES}))
    return read_dataset(path)


@pytest.fixture
def evaluated(tmp_path, rng):
    annotations, rows = scene(rng, 6)
    dataset = written(tmp_path / "all", range(1, 7), annotations)
    tables = matches_of(judge_rows(dataset, rows, task="mask", max_detections=100), dataset)
    return dataset, annotations, rows, tables


def test_ap_of_a_list_of_images_is_that_of_an_evaluation(tmp_path, rng, evaluated) -> None:
    """Each list is written as a data set in which an image that is drawn twice has two ids."""
    _, annotations, rows, tables = evaluated
    lists = [np.arange(6), *(rng.integers(0, 6, 6) for _ in range(4)), np.full(6, 2)]
    times = np.array([np.bincount(drawn, minlength=6) for drawn in lists], dtype=np.int32)
    found = {task: average_precisions(table, times) for task, table in tables.items()}
    for b, drawn in enumerate(lists):
        copies, copied_rows = [], []
        for place, image in enumerate(sorted(drawn.tolist()), 1):
            mine = [entry for entry in annotations if entry["image_id"] == image + 1]
            copies += [{**entry, "image_id": place, "id": len(copies) + n} for n, entry in enumerate(mine, 1)]
            copied_rows += [{**row, "image_id": place} for row in rows if row["image_id"] == image + 1]
        dataset = written(tmp_path / f"list{b}", range(1, 7), copies)
        want = measure_rows(dataset, copied_rows, tasks=("box", "mask"))[0]
        for task, values in found.items():
            for label, entry in enumerate(want["per_class"]):
                ap = values[b, label].mean()
                assert entry[task]["AP"] == pytest.approx(-1 if np.isnan(ap) else ap, abs=1e-12)
                assert entry[task]["AP50"] == pytest.approx(-1 if np.isnan(ap) else values[b, label, 0], abs=1e-12)
            assert want[task]["AP"] == pytest.approx(mean_precision(values)[b], abs=1e-12)


def test_many_lists_at_once_are_as_one_after_another(evaluated, monkeypatch) -> None:
    table, times = evaluated[3]["mask"], draw_lists(6, 20)
    assert (times.sum(axis=1) == 6).all()
    whole = average_precisions(table, times)
    monkeypatch.setattr("maskrcnn.evaluation.matches._ELEMENTS", 1)
    np.testing.assert_array_equal(average_precisions(table, times), whole)


def test_the_file_gives_back_what_was_written(tmp_path, evaluated) -> None:
    dataset, _, rows, tables = evaluated
    write_matches(tmp_path, tables)
    read = read_matches(tmp_path)
    for task, table in tables.items():
        for name, value in vars(table).items():
            np.testing.assert_array_equal(getattr(read[task], name), value)
    curves = measure_rows(dataset, rows, tasks=("mask",))[1]["mask"]
    np.testing.assert_allclose(curves_of(read["mask"]).precision, curves.precision, rtol=0, atol=1e-12)
    (tmp_path / MATCHES).write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        read_matches(tmp_path)


def test_no_detection_is_an_ap_of_zero(evaluated) -> None:
    dataset = evaluated[0]
    table = matches_of(judge_rows(dataset, [], task="mask", max_detections=100), dataset)["mask"]
    values = average_precisions(table, draw_lists(6, 3))
    assert np.nanmax(values) == 0
    assert np.isnan(values[:, 2]).all()


def test_a_difference_that_is_none_lies_within_its_interval(evaluated) -> None:
    table = evaluated[3]["mask"]
    base = spread(table, 100)
    same = difference(base, spread(table, 100))
    assert same == (0, 0, 0)
    assert not same.outside
    worse = spread(replace(table, right=np.zeros_like(table.right)), 100)
    lost = difference(base, worse)
    assert lost.outside
    assert lost.value < 0
    assert all(np.isnan(one.low) for one in class_differences(base, worse).values())  # six images are too few


# --- boundaries ------------------------------------------------------------------------------------------------------


def test_erosion_by_hand() -> None:
    mask = np.ones((5, 7), dtype=bool)
    want = np.zeros_like(mask)
    want[2, 2:5] = True
    np.testing.assert_array_equal(erode(mask, 2), want)
    assert not erode(mask, 3).any()
    mask[2, 3] = False
    assert not erode(mask, 2).any()


def test_the_border_of_the_image_is_a_boundary() -> None:
    whole = np.ones(SIZE, dtype=bool)
    found = bitmaps_of(boundaries(from_bitmaps([whole]), np.array([SIZE])), SIZE)[0]
    want = whole.copy()
    want[3:-3, 3:-3] = False  # 2 % of a diagonal of 150 pixels
    np.testing.assert_array_equal(found, want)


def test_boundary_ap_is_that_of_faster_coco_eval(evaluated) -> None:
    library = pytest.importorskip("faster_coco_eval")
    dataset, annotations, rows, _ = evaluated
    judgement = judge_rows(dataset, rows, task="mask", max_detections=100)
    figures, _, classes = measure_boundaries(dataset, judgement.truth, judgement.found, 100)
    images = [{"id": id, "height": SIZE[0], "width": SIZE[1]} for id in range(1, 7)]
    alone = [{name: row[name] for name in row if name != "bbox"} for row in rows]  # or areas would be those of boxes
    truth = library.COCO({"images": images, "annotations": annotations, "categories": CATEGORIES})
    run = library.COCOeval_faster(truth, truth.loadRes(alone), "boundary", print_function=lambda *_: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert [figures[name] for name in names] == pytest.approx(run.stats[:12].tolist(), abs=1e-9)
    assert 0 < figures["AP"] < measure_rows(dataset, rows, tasks=("mask",))[0]["mask"]["AP"]
    assert classes[2]["AP"] == -1
