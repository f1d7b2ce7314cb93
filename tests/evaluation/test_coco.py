"""AP and AR: answers by hand, equality with pycocotools, and the cases in which evaluators return -1 or NaN."""

import contextlib
import io
import json
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import DataError
from maskrcnn.evaluation.coco import measure_rows

SIZE = (96, 128)  # height, width
CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dust"}, {"id": 40, "name": "hair"}]
KEYPOINTS = ["head", "left_foot", "right_foot"]
SIGMAS = [0.05, 0.1, 0.2]


def write_dataset(folder, annotations, *, image_ids=(1, 2), categories=CATEGORIES, keypoints=False):
    Image.new("RGB", (SIZE[1], SIZE[0])).save(folder / "image.png")
    entries = [{"id": id, "file_name": f"{id}.png", "height": SIZE[0], "width": SIZE[1]} for id in image_ids]
    for entry in entries:
        shutil.copy(folder / "image.png", folder / entry["file_name"])
    path = folder / "val.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    dataset = read_dataset(path, keypoints=keypoints)
    assert not dataset.report.problems
    return dataset


def annotation(id, box, *, image_id=1, category_id=3, **more):
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = {"id": id, "image_id": image_id, "category_id": category_id, "bbox": box, "area": w * h, "iscrowd": 0}
    return {**entry, "segmentation": [polygon], **more}


def row(box, score=0.9, *, image_id=1, category_id=3, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, **more}


def metrics_of(*arguments, **named):
    return measure_rows(*arguments, **named)[0]


def rectangle_rle(box):
    mask_api = pytest.importorskip("pycocotools.mask")
    x, y, w, h = (round(side) for side in box)
    bitmap = np.zeros(SIZE, dtype=np.uint8, order="F")
    bitmap[y : y + h, x : x + w] = 1
    return mask_api.encode(bitmap)


# --- answers by hand ------------------------------------------------------------------------------


def test_an_exact_prediction_gives_one(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(0, [10, 10, 20, 30])])
    metrics = metrics_of(dataset, [row([10, 10, 20, 30], segmentation=rectangle_rle([10, 10, 20, 30]))])
    for task in ("box", "mask"):
        assert metrics[task]["AP"] == pytest.approx(1)
        assert metrics[task]["AR1"] == 1
        assert metrics[task]["APs"] == pytest.approx(1)
        assert metrics[task]["APl"] == -1
    assert metrics["per_class"][0]["box"] == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "AR": 1})
    assert metrics["per_class"][1]["box"] == {"AP": -1, "AP50": -1, "AP75": -1, "AR": -1}
    assert (metrics["objects"], metrics["predictions"], metrics["images"]) == (1, 1, 2)
    assert "keypoint" not in metrics
    assert metrics["notes"] == ["keypoint: the data set has no keypoints"]
    json.dumps(metrics, allow_nan=False)


def test_a_shifted_prediction_counts_below_its_iou(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 50, 50])])
    metrics = metrics_of(dataset, [row([0, 0, 50, 31.0])], tasks=["box"])  # IoU 0.62: 0.50, 0.55 and 0.60
    assert metrics["box"]["AP"] == pytest.approx(0.3)
    assert metrics["box"]["AP50"] == pytest.approx(1)
    assert metrics["box"]["AP75"] == 0


def test_half_of_the_objects_found_is_half_of_the_recall(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20]), annotation(2, [60, 0, 20, 20])])
    rows = [row([0, 0, 20, 20], 0.9), row([30, 50, 20, 20], 0.8)]
    metrics, curves = measure_rows(dataset, rows, tasks=["box"])
    assert metrics["box"]["AP"] == pytest.approx(51 / 101)
    assert metrics["box"]["AR100"] == 0.5
    precision = curves["box"].precision[0, :, 0]
    assert precision.tolist() == pytest.approx([1] * 51 + [0] * 50)
    assert np.isnan(curves["box"].precision[0, :, 1:]).all()
    assert curves["box"].names == ("cell", "dust", "hair")


def test_many_objects_count_up_to_the_limit(tmp_path) -> None:
    boxes = [[x * 6, y * 4, 5, 3] for x in range(20) for y in range(20)]
    dataset = write_dataset(tmp_path, [annotation(i, box) for i, box in enumerate(boxes)])
    rows = [row(box, 1 - i / 1000) for i, box in enumerate(boxes)]
    metrics = metrics_of(dataset, rows, max_detections=400, tasks=["box"])["box"]
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AP@100"] == pytest.approx(26 / 101)
    recalls = [metrics[f"AR{n}"] for n in (1, 10, 100, 400)]
    assert recalls == pytest.approx([1 / 400, 10 / 400, 0.25, 1])
    few = metrics_of(dataset, rows, max_detections=5, tasks=["box"])["box"]
    assert (few["AR1"], few["AR5"]) == pytest.approx((1 / 400, 5 / 400))
    assert "AR10" not in few


def test_a_mask_counts_with_its_own_area_not_with_that_of_its_box(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 40, 40])])  # medium: 1600 pixels
    false = rectangle_rle([60, 60, 10, 10])  # small, so it is ignored among the medium ones
    rows = [
        row([60, 10, 60, 60], 0.95, segmentation=false),
        row([0, 0, 40, 40], segmentation=rectangle_rle([0, 0, 40, 40])),
    ]
    metrics = metrics_of(dataset, rows)
    assert metrics["mask"]["APm"] == pytest.approx(1)
    assert metrics["mask"]["AP"] == pytest.approx(0.5)
    assert metrics["box"]["APm"] == pytest.approx(0.5)


# --- nothing there --------------------------------------------------------------------------------


def test_no_prediction_is_zero(tmp_path) -> None:
    metrics = metrics_of(write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])]), [])
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == metrics["box"]["AR100"] == 0.0


@pytest.mark.parametrize("rows", [[], [row([0, 0, 5, 5])]], ids=["no prediction", "one prediction"])
def test_without_objects_ap_is_minus_one_with_a_note(tmp_path, rows) -> None:
    metrics = metrics_of(write_dataset(tmp_path, []), rows)
    assert set(metrics["box"].values()) == {-1.0}
    assert any("box" in note and "no object" in note for note in metrics["notes"])
    assert metrics["predictions"] == len(rows)
    json.dumps(metrics, allow_nan=False)


def test_crowds_are_not_objects_to_find(tmp_path) -> None:
    crowd = annotation(1, [0, 0, 50, 50], iscrowd=1)
    metrics = metrics_of(write_dataset(tmp_path, [crowd]), [row([5, 5, 10, 10])], tasks=["box"])
    assert metrics["box"]["AP"] == -1
    assert metrics["objects"] == 0


def test_an_object_without_a_mask_is_neither_found_nor_missed(tmp_path) -> None:
    entries = [annotation(1, [0, 0, 20, 20]), annotation(2, [50, 50, 20, 20])]
    del entries[1]["segmentation"]
    boxes = ([50, 50, 20, 20], [0, 0, 20, 20])
    rows = [row(box, 0.9 - i / 10, segmentation=rectangle_rle(box)) for i, box in enumerate(boxes)]
    dataset = write_dataset(tmp_path, entries)
    assert metrics_of(dataset, rows)["mask"]["AP"] == pytest.approx(1)
    assert metrics_of(dataset, rows[1:])["mask"]["AP"] == pytest.approx(1)
    assert metrics_of(dataset, rows[1:])["box"]["AP"] == pytest.approx(51 / 101)


def test_boxes_alone_leave_masks_out(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])])
    metrics = metrics_of(dataset, [row([0, 0, 20, 20])])
    assert "mask" not in metrics
    assert "mask: the predictions contain none" in metrics["notes"]


# --- categories and wrong rows --------------------------------------------------------------------


def test_categories_are_matched_by_name(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20], category_id=7)])
    model = [Category(1, "dust"), Category(2, "cell"), Category(7, "unused-7")]
    rows = [row([0, 0, 20, 20], category_id=1), row([0, 0, 20, 20], category_id=7)]
    metrics = metrics_of(dataset, rows, categories=model)
    assert metrics["box"]["AP"] == pytest.approx(1)
    assert metrics["predictions"] == 1
    assert metrics["unmatched"] == {"model": ["unused-7"], "dataset": ["hair"]}
    assert rows[0]["category_id"] == 1  # theirs, untouched


@pytest.mark.parametrize(
    ("wrong", "words"), [({"image_id": 99}, "image 99"), ({"category_id": 5}, "category 5")], ids=["image", "category"]
)
def test_an_unknown_image_or_category_is_an_error(tmp_path, wrong, words) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])])
    with pytest.raises(DataError, match=words):
        metrics_of(dataset, [row([0, 0, 20, 20], **wrong)])


def test_unknown_tasks_and_limits_are_refused(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [])
    with pytest.raises(ValueError, match="boxes"):
        metrics_of(dataset, [], tasks=["boxes"])
    with pytest.raises(ValueError, match="at least 1"):
        metrics_of(dataset, [], max_detections=0)


def test_a_subset_is_measured_alone(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20]), annotation(2, [5, 5, 20, 20], image_id=2)])
    metrics = metrics_of(dataset.subset([1]), [row([5, 5, 20, 20], image_id=2)])
    assert metrics["box"]["AP"] == pytest.approx(1)
    assert metrics["objects"] == 1


# --- pycocotools ----------------------------------------------------------------------------------


def random_case(rng, *, image_ids, objects, levels):
    """Annotations with polygons, RLEs of both kinds, boxes alone, crowds and areas that are not those of the boxes; and
    predictions near, far and doubled, with scores of so many levels. The first image has no object.
    """
    mask_api = pytest.importorskip("pycocotools.mask")
    annotations, rows = [], []
    for image_id in image_ids[1:]:
        for _ in range(int(rng.integers(0, objects))):
            w, h = rng.uniform(4, 60, 2).round(2).tolist()
            x, y = rng.uniform(0, SIZE[1] - w), rng.uniform(0, SIZE[0] - h)
            box = [round(x, 2), round(y, 2), w, h]
            category_id = int(rng.choice([3, 7]))
            area = w * h * float(rng.choice([0.3, 1, 5]))
            entry = annotation(len(annotations), box, image_id=image_id, category_id=category_id, area=area)
            kind = rng.random()
            if kind < 0.4:
                entry["segmentation"] = rectangle_rle(box)
                entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode()
            elif kind < 0.55:
                entry["iscrowd"] = 1
                bitmap = mask_api.decode(rectangle_rle(box))
                runs = np.diff(np.flatnonzero(np.diff(bitmap.ravel(order="F"), prepend=0, append=2)), prepend=0)
                entry["segmentation"] = {"size": list(SIZE), "counts": runs.tolist()}
            elif kind < 0.65:
                del entry["segmentation"]
            annotations.append(entry)
            for _ in range(int(rng.integers(0, 3))):
                moved = (np.array(box) + rng.normal(0, 3, 4)).round(1)
                moved[2:] = np.maximum(moved[2:], 3)
                guess = category_id if rng.random() < 0.8 else 40
                rows.append((moved.tolist(), image_id, guess))
        rows.append((rng.uniform(1, 40, 4).round(1).tolist(), image_id, 3))
    rows.append(([5.0, 5.0, 30.0, 20.0], image_ids[0], 7))
    scores = rng.permutation(len(rows)) * levels // len(rows) / levels
    return annotations, [
        row(box, float(score), image_id=image_id, category_id=category_id, segmentation=rectangle_rle(box))
        for (box, image_id, category_id), score in zip(rows, scores, strict=True)
    ]


def pycocotools_arrays(path, rows, kind, limits, *, sigmas=None):
    """Precision [10 101 K A M] and recall [10 K A M] of pycocotools, with its rule for objects without a mask."""
    cocoeval, coco = pytest.importorskip("pycocotools.cocoeval"), pytest.importorskip("pycocotools.coco")
    content = {"info": {}} | json.loads(path.read_text())
    for number, entry in enumerate(content["annotations"], 1):
        entry["id"] = number  # 0 means "no match"
        if kind == "segm" and "segmentation" not in entry:
            entry |= {"segmentation": annotation(0, entry["bbox"])["segmentation"], "iscrowd": 1}
    with contextlib.redirect_stdout(io.StringIO()):
        gt, found = coco.COCO(), coco.COCO()
        gt.dataset, found.dataset = content, content | {"annotations": []}
        gt.createIndex()
        found.createIndex()
        run = cocoeval.COCOeval(gt, gt.loadRes(rows) if rows else found, kind)
        run.params.maxDets = limits
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.array(sigmas)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def mean(values) -> Any:
    return values[values > -1].mean() if (values > -1).any() else -1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
@pytest.mark.parametrize(
    ("seed", "limit", "options", "left_out"),
    [
        (0, 100, {}, ""),
        (1, 1000, {"image_ids": range(1, 4), "objects": 300}, ""),
        (2, 3, {}, ""),
        (3, 100, {"levels": 3}, ""),
        (4, 100, {"image_ids": [7, -2, 0, 30, -9, 12, 5], "levels": 3}, ""),
        (5, 100, {}, "predictions"),
        (6, 100, {}, "objects"),
    ],
    ids=["plain", "1000 detections", "3 detections", "equal scores", "unsorted ids", "no prediction", "no object"],
)
def test_figures_equal_those_of_pycocotools(tmp_path, seed, limit, options, left_out) -> None:
    options = {"image_ids": range(1, 11), "objects": 15, "levels": 10**6} | options
    annotations, rows = random_case(np.random.default_rng(seed), **options)
    annotations, rows = annotations * (left_out != "objects"), rows * (left_out != "predictions")
    dataset = write_dataset(tmp_path, annotations, image_ids=options["image_ids"])
    metrics, curves = measure_rows(dataset, rows, max_detections=limit)
    limits = sorted({min(limit, n) for n in (1, 10, 100, limit)})
    for task, kind, field in (("box", "bbox", "bbox"), ("mask", "segm", "segmentation")):
        theirs = [{key: one[key] for key in ("image_id", "category_id", "score", field)} for one in rows]
        precision, recall = pycocotools_arrays(dataset.source, theirs, kind, limits)
        expected = {"AP": mean(precision[..., 0, -1]), "AP50": mean(precision[0, ..., 0, -1])}
        expected |= {"AP75": mean(precision[5, ..., 0, -1])}
        expected |= {f"AP{area}": mean(precision[..., a, -1]) for a, area in enumerate("sml", start=1)}
        expected |= {f"AR{n}": mean(recall[..., 0, m]) for m, n in enumerate(limits)}
        expected |= {f"AR{area}": mean(recall[..., a, -1]) for a, area in enumerate("sml", start=1)}
        expected |= {"AP@100": mean(precision[..., 0, limits.index(100)])} if limit > 100 else {}
        assert metrics[task] == pytest.approx(expected, abs=1e-9)
        assert left_out or 0.05 < expected["AP"] < 0.9  # not trivially equal
        for k, entry in enumerate(metrics["per_class"]):
            assert entry[task]["AP"] == pytest.approx(mean(precision[:, :, k, 0, -1]), abs=1e-9)
            assert entry[task]["AR"] == pytest.approx(mean(recall[:, k, 0, -1]), abs=1e-9)
        known = precision[..., 0, -1] > -1
        assert np.array_equal(known, ~np.isnan(curves[task].precision))
        assert curves[task].precision[known] == pytest.approx(precision[..., 0, -1][known], abs=1e-9)


def keypoints_case(rng, category_id, sigmas, first_id):
    """Objects of a category in six images, some crowds, some without labelled keypoints, and a prediction for each."""
    annotations, rows = [], []
    for id in range(first_id, first_id + 28):
        keypoints = np.column_stack([rng.uniform(10, 80, (len(sigmas), 2)).round(1), rng.integers(0, 3, len(sigmas))])
        keypoints[keypoints[:, 2] == 0] = 0
        image_id, crowd = int(rng.integers(1, 7)), int(rng.random() < 0.1)
        more = {
            "keypoints": keypoints.ravel().tolist(),
            "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            "iscrowd": crowd,
        }
        annotations.append(annotation(id, [10.0, 10.0, 70.0, 70.0], image_id=image_id, category_id=category_id, **more))
        found = keypoints + np.column_stack([rng.normal(0, 4, (len(sigmas), 2)), np.ones(len(sigmas))])
        both = {"image_id": image_id, "category_id": category_id}
        rows.append({**both, "score": float(rng.random()), "keypoints": found.ravel().tolist()})
    return annotations, rows


def test_keypoints_with_their_own_sigmas_equal_those_of_pycocotools(tmp_path) -> None:
    """Two categories with different keypoints and sigmas: each equals pycocotools alone, and their mean is the AP."""
    rng = np.random.default_rng(0)
    wings = {"id": 40, "name": "wing", "keypoints": ["root", "tip"], "sigmas": [0.03, 0.3]}
    figure = {"id": 7, "name": "figure", "keypoints": KEYPOINTS, "sigmas": SIGMAS}
    cases = {c["id"]: keypoints_case(rng, c["id"], c["sigmas"], 100 * c["id"]) for c in (figure, wings)}
    every = [annotation(1, [5, 5, 20, 20]), *cases[7][0], *cases[40][0]]
    assert any(entry.get("num_keypoints") == 0 for entry in every)
    categories = [CATEGORIES[0], figure, wings]
    dataset = write_dataset(tmp_path, every, image_ids=range(1, 7), categories=categories, keypoints=True)
    metrics = metrics_of(dataset, [*cases[7][1], *cases[40][1]], tasks=["keypoint"])
    assert metrics["per_class"][0]["keypoint"]["AP"] == -1
    arrays = []
    for k, category in ((1, figure), (2, wings)):  # pycocotools knows one list of sigmas at a time
        annotations, rows = cases[category["id"]]
        content = json.loads(dataset.source.read_text())
        theirs = tmp_path / f"{category['name']}.json"
        theirs.write_text(json.dumps(content | {"annotations": annotations, "categories": [category], "info": {}}))
        arrays.append(pycocotools_arrays(theirs, rows, "keypoints", [20], sigmas=category["sigmas"]))
        own = mean(arrays[-1][0][..., 0, -1])
        assert 0.05 < own < 0.95
        assert metrics["per_class"][k]["keypoint"]["AP"] == pytest.approx(own, abs=1e-9)
        other = pycocotools_arrays(theirs, rows, "keypoints", [20], sigmas=[0.05] * len(category["sigmas"]))[0]
        assert mean(other[..., 0, -1]) != pytest.approx(own, abs=1e-3)
    precision, recall = (np.concatenate(both, axis=-3) for both in zip(*arrays, strict=True))
    assert metrics["keypoint"]["AP"] == pytest.approx(mean(precision[..., 0, -1]), abs=1e-9)
    assert metrics["keypoint"]["AP50"] == pytest.approx(mean(precision[0, ..., 0, -1]), abs=1e-9)
    assert metrics["keypoint"]["APm"] == pytest.approx(mean(precision[..., 1, -1]), abs=1e-9)
    assert metrics["keypoint"]["AR20"] == pytest.approx(mean(recall[..., 0, -1]), abs=1e-9)


def test_missed_keypoints_give_zero(tmp_path) -> None:
    """AP is 0 if no object of a category with keypoints is found, and is left out if those found have no keypoints."""
    categories = [CATEGORIES[0], {"id": 7, "name": "figure", "keypoints": KEYPOINTS, "sigmas": SIGMAS}]
    keypoints = {"keypoints": [20, 20, 2, 30, 40, 2, 50, 50, 1], "num_keypoints": 3}
    annotations = [annotation(1, [5, 5, 20, 20]), annotation(2, [10, 10, 70, 70], category_id=7, **keypoints)]
    dataset = write_dataset(tmp_path, annotations, categories=categories, keypoints=True)
    assert metrics_of(dataset, [row([5, 5, 20, 20])])["keypoint"]["AP"] == 0
    assert metrics_of(dataset, [])["keypoint"]["AP"] == 0
    metrics = metrics_of(dataset, [row([10, 10, 70, 70], category_id=7)])
    assert "keypoint" not in metrics
    assert "keypoint: the predictions contain none" in metrics["notes"]


def figures(tmp_path):
    """Two figures, each with another first keypoint, and a perfect prediction for each."""
    categories = [CATEGORIES[0], {"id": 7, "name": "figure", "keypoints": KEYPOINTS, "sigmas": SIGMAS}]
    annotations = [
        annotation(i, [10, 10, 70, 70], image_id=i, category_id=7, keypoints=[20 * i, 20, 2, 30, 40, 2, 50, 50, 1])
        for i in (1, 2)
    ]
    rows = [row([10, 10, 70, 70], image_id=a["image_id"], category_id=7, keypoints=a["keypoints"]) for a in annotations]
    return write_dataset(tmp_path, annotations, categories=categories, keypoints=True), rows


def test_keypoints_in_another_order_are_matched_by_name(tmp_path) -> None:
    dataset, rows = figures(tmp_path)
    turned = [
        {**r, "category_id": 1, "keypoints": np.reshape(r["keypoints"], (3, 3))[::-1].ravel().tolist()} for r in rows
    ]
    model = Category(1, "figure", keypoints=tuple(KEYPOINTS[::-1]))
    metrics = metrics_of(dataset, turned, tasks=["keypoint"], categories=[model])
    assert metrics["keypoint"]["AP"] == 1
    assert not metrics["notes"]
    without_names = model._replace(keypoints=("keypoint-1", "keypoint-2", "keypoint-3"))
    metrics = metrics_of(dataset, turned, tasks=["keypoint"], categories=[without_names])
    assert metrics["keypoint"]["AP"] < 0.5
    assert metrics["notes"] == [
        "keypoint: the keypoints of 'figure' are head, left_foot, right_foot; the model's are "
        "keypoint-1, keypoint-2, keypoint-3; "
        "they are taken in this order"
    ]


def test_another_number_of_keypoints_is_an_error(tmp_path) -> None:
    dataset, rows = figures(tmp_path)
    with pytest.raises(DataError, match=r"val\.json: the keypoints of 'figure' are head, .*; the model's are head$"):
        metrics_of(dataset, rows, categories=[Category(7, "figure", keypoints=("head",))])


def test_keypoints_without_sigmas_are_an_error(tmp_path) -> None:
    dataset, rows = figures(tmp_path)
    dataset.categories = tuple(category._replace(sigmas=()) for category in dataset.categories)
    with pytest.raises(DataError, match=r"val\.json: category 'figure' has 0 sigmas for 3 keypoints"):
        metrics_of(dataset, rows)


def test_nothing_is_printed(tmp_path, capfd) -> None:
    metrics_of(write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])]), [row([0, 0, 20, 20])])
    assert capfd.readouterr() == ("", "")
