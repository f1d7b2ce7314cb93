"""AP and AR: answers by hand, equality with pycocotools, and the edges where other evaluators say -1 or nan."""

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import DataError
from maskrcnn.evaluation.coco import evaluate_rows, measure_rows

SIZE = (96, 128)  # height, width
CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dust"}, {"id": 40, "name": "hair"}]
KEYPOINTS = ["head", "left_foot", "right_foot"]
SIGMAS = [0.05, 0.1, 0.2]


def write_dataset(folder, annotations, *, images=2, categories=CATEGORIES, keypoints=False):
    stored = io.BytesIO()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(stored, "PNG")
    entries = []
    for i in range(1, images + 1):
        (folder / f"{i}.png").write_bytes(stored.getvalue())
        entries.append({"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]})
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


def rectangle_rle(box):
    mask_api = pytest.importorskip("pycocotools.mask")
    x, y, w, h = (round(side) for side in box)
    bitmap = np.zeros(SIZE, dtype=np.uint8, order="F")
    bitmap[y : y + h, x : x + w] = 1
    return mask_api.encode(bitmap)


# --- answers by hand ------------------------------------------------------------------------------


def test_an_exact_prediction_is_worth_one(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(0, [10, 10, 20, 30])])
    metrics = evaluate_rows(dataset, [row([10, 10, 20, 30], segmentation=rectangle_rle([10, 10, 20, 30]))])
    for task in ("box", "mask"):
        assert metrics[task]["AP"] == pytest.approx(1)
        assert metrics[task]["AR1"] == 1
        assert metrics[task]["APs"] == pytest.approx(1)
        assert metrics[task]["APl"] == -1
    assert metrics["per_class"][0]["box"] == pytest.approx(
        {"AP": 1, "AP50": 1, "AP75": 1, "AR": 1, "F1": 1, "threshold": 0.9}
    )
    assert metrics["per_class"][1]["box"] == {
        "AP": -1,
        "AP50": -1,
        "AP75": -1,
        "AR": -1,
        "F1": -1,
        "threshold": None,
    }
    assert (metrics["objects"], metrics["predictions"], metrics["images"]) == (1, 1, 2)
    assert "keypoint" not in metrics
    assert metrics["notes"] == ["keypoint: the data set has no keypoints"]
    json.dumps(metrics, allow_nan=False)


def test_a_shifted_prediction_counts_below_its_iou(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 50, 50])])
    metrics = evaluate_rows(dataset, [row([0, 0, 50, 31.0])], tasks=["box"])  # IoU 0.62: 0.50, 0.55 and 0.60
    assert metrics["box"]["AP"] == pytest.approx(0.3)
    assert metrics["box"]["AP50"] == pytest.approx(1)
    assert metrics["box"]["AP75"] == 0


def test_half_of_the_objects_found_is_half_of_the_recall(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20]), annotation(2, [60, 0, 20, 20])])
    rows = [row([0, 0, 20, 20], 0.9), row([30, 50, 20, 20], 0.8)]
    metrics, curves = measure_rows(dataset, rows, tasks=["box"])
    assert metrics["box"]["AP"] == pytest.approx(51 / 101)
    assert metrics["box"]["AR100"] == 0.5
    assert metrics["per_class"][0]["box"]["F1"] == pytest.approx(2 / 3)
    assert metrics["per_class"][0]["box"]["threshold"] == pytest.approx(0.9)
    precision = curves["box"].precision[0, :, 0]
    assert precision.tolist() == pytest.approx([1] * 51 + [0] * 50)
    assert np.isnan(curves["box"].precision[0, :, 1:]).all()
    assert curves["box"].names == ("cell", "dust", "hair")


def test_many_objects_count_up_to_the_limit(tmp_path) -> None:
    boxes = [[x * 6, y * 4, 5, 3] for x in range(20) for y in range(20)]
    dataset = write_dataset(tmp_path, [annotation(i, box) for i, box in enumerate(boxes)])
    rows = [row(box, 1 - i / 1000) for i, box in enumerate(boxes)]
    metrics = evaluate_rows(dataset, rows, max_detections=400, tasks=["box"])["box"]
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["AP@100"] == pytest.approx(26 / 101)
    recalls = [metrics[f"AR{n}"] for n in (1, 10, 100, 400)]
    assert recalls == pytest.approx([1 / 400, 10 / 400, 0.25, 1])
    few = evaluate_rows(dataset, rows, max_detections=5, tasks=["box"])["box"]
    assert (few["AR1"], few["AR5"]) == pytest.approx((1 / 400, 5 / 400))
    assert "AR10" not in few


def test_a_mask_counts_with_its_own_area_not_that_of_its_box(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 40, 40])])  # medium: 1600 pixels
    false = rectangle_rle([60, 60, 10, 10])  # small: ignored among the medium ones, if its own area counts
    rows = [
        row([60, 10, 60, 60], 0.95, segmentation=false),
        row([0, 0, 40, 40], segmentation=rectangle_rle([0, 0, 40, 40])),
    ]
    metrics = evaluate_rows(dataset, rows)
    assert metrics["mask"]["APm"] == pytest.approx(1)
    assert metrics["mask"]["AP"] == pytest.approx(0.5)
    assert metrics["box"]["APm"] == pytest.approx(0.5)


# --- nothing there --------------------------------------------------------------------------------


def test_no_prediction_is_zero(tmp_path) -> None:
    metrics = evaluate_rows(write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])]), [])
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == metrics["box"]["AR100"] == 0.0
    assert metrics["per_class"][0]["mask"]["F1"] == 0.0
    assert metrics["per_class"][0]["mask"]["threshold"] is None


@pytest.mark.parametrize("rows", [[], [row([0, 0, 5, 5])]], ids=["nothing predicted", "something predicted"])
def test_no_ground_truth_is_minus_one_as_in_pycocotools_and_said(tmp_path, rows) -> None:
    metrics = evaluate_rows(write_dataset(tmp_path, []), rows)
    assert set(metrics["box"].values()) == {-1.0}
    assert any("box" in note and "no object" in note for note in metrics["notes"])
    assert metrics["predictions"] == len(rows)
    json.dumps(metrics, allow_nan=False)


def test_only_crowds_are_nothing_to_find(tmp_path) -> None:
    crowd = annotation(1, [0, 0, 50, 50], iscrowd=1)
    metrics = evaluate_rows(write_dataset(tmp_path, [crowd]), [row([5, 5, 10, 10])], tasks=["box"])
    assert metrics["box"]["AP"] == -1
    assert metrics["objects"] == 0


def test_an_object_without_a_mask_is_neither_found_nor_missed(tmp_path) -> None:
    entries = [annotation(1, [0, 0, 20, 20]), annotation(2, [50, 50, 20, 20])]
    del entries[1]["segmentation"]
    boxes = ([50, 50, 20, 20], [0, 0, 20, 20])
    rows = [row(box, 0.9 - i / 10, segmentation=rectangle_rle(box)) for i, box in enumerate(boxes)]
    dataset = write_dataset(tmp_path, entries)
    assert evaluate_rows(dataset, rows)["mask"]["AP"] == pytest.approx(1)
    assert evaluate_rows(dataset, rows[1:])["mask"]["AP"] == pytest.approx(1)
    assert evaluate_rows(dataset, rows[1:])["box"]["AP"] == pytest.approx(51 / 101)


def test_boxes_alone_leave_masks_out(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])])
    metrics = evaluate_rows(dataset, [row([0, 0, 20, 20])])
    assert "mask" not in metrics
    assert "mask: the predictions have none" in metrics["notes"]


# --- categories and wrong rows --------------------------------------------------------------------


def test_categories_are_matched_by_name(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20], category_id=7)])
    model = [Category(1, "dust"), Category(2, "cell"), Category(7, "unused-7")]
    rows = [row([0, 0, 20, 20], category_id=1), row([0, 0, 20, 20], category_id=7)]
    metrics = evaluate_rows(dataset, rows, categories=model)
    assert metrics["box"]["AP"] == pytest.approx(1)
    assert metrics["predictions"] == 1
    assert metrics["unmatched"] == {"model": ["unused-7"], "dataset": ["hair"]}
    assert rows[0]["category_id"] == 1  # theirs, untouched


@pytest.mark.parametrize(
    ("wrong", "words"), [({"image_id": 99}, "image 99"), ({"category_id": 5}, "category 5")], ids=["image", "category"]
)
def test_a_row_of_something_unknown_is_told(tmp_path, wrong, words) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])])
    with pytest.raises(DataError, match=words):
        evaluate_rows(dataset, [row([0, 0, 20, 20], **wrong)])


def test_unknown_tasks_and_limits_are_refused(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [])
    with pytest.raises(ValueError, match="boxes"):
        evaluate_rows(dataset, [], tasks=["boxes"])
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_rows(dataset, [], max_detections=0)


def test_a_part_of_a_data_set_is_measured_alone(tmp_path) -> None:
    dataset = write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20]), annotation(2, [5, 5, 20, 20], image_id=2)])
    metrics = evaluate_rows(dataset.subset([1]), [row([5, 5, 20, 20], image_id=2)])
    assert metrics["box"]["AP"] == pytest.approx(1)
    assert metrics["objects"] == 1


# --- pycocotools ----------------------------------------------------------------------------------


def random_case(rng, *, images, objects):
    """Annotations with polygons, RLEs of both kinds, crowds and empty images, and predictions near, far and doubled."""
    mask_api = pytest.importorskip("pycocotools.mask")
    annotations, rows = [], []
    for image_id in range(2, images + 1):  # the first has no object
        for _ in range(int(rng.integers(0, objects))):
            w, h = rng.uniform(4, 60, 2).round(2).tolist()
            x, y = rng.uniform(0, SIZE[1] - w), rng.uniform(0, SIZE[0] - h)
            box = [round(x, 2), round(y, 2), w, h]
            category_id = int(rng.choice([3, 7]))
            entry = annotation(len(annotations), box, image_id=image_id, category_id=category_id)
            if rng.random() < 0.4:
                entry["segmentation"] = rectangle_rle(box)
                entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode()
            if rng.random() < 0.15:
                entry["iscrowd"] = 1
                bitmap = mask_api.decode(rectangle_rle(box))
                runs = np.diff(np.flatnonzero(np.diff(bitmap.ravel(order="F"), prepend=0, append=2)), prepend=0)
                entry["segmentation"] = {"size": list(SIZE), "counts": runs.tolist()}
            annotations.append(entry)
            for _ in range(int(rng.integers(0, 3))):
                moved = (np.array(box) + rng.normal(0, 3, 4)).round(1)
                moved[2:] = np.maximum(moved[2:], 3)
                guess = category_id if rng.random() < 0.8 else 40
                rows.append((moved.tolist(), image_id, guess))
        rows.append((rng.uniform(1, 40, 4).round(1).tolist(), image_id, 3))
    rows.append(([5.0, 5.0, 30.0, 20.0], 1, 7))
    scores = rng.permutation(len(rows)) / len(rows)
    return annotations, [
        row(box, float(score), image_id=image_id, category_id=category_id, segmentation=rectangle_rle(box))
        for (box, image_id, category_id), score in zip(rows, scores, strict=True)
    ]


def pycocotools_arrays(path, rows, kind, limits, *, sigmas=None):
    cocoeval, coco = pytest.importorskip("pycocotools.cocoeval"), pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO(str(path))
        run = cocoeval.COCOeval(gt, gt.loadRes(rows), kind)
        run.params.maxDets = limits
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.array(sigmas)
        run.evaluate()
        run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def mean(values) -> Any:
    return values[values > -1].mean() if (values > -1).any() else -1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
@pytest.mark.parametrize(("seed", "limit"), [(0, 100), (1, 300), (2, 3)])
def test_it_is_equal_to_pycocotools(tmp_path, seed, limit) -> None:
    annotations, rows = random_case(np.random.default_rng(seed), images=10, objects=15)
    for i, entry in enumerate(annotations):
        entry["id"] = i + 1  # pycocotools, too, takes 0 for "unmatched"
    dataset = write_dataset(tmp_path, annotations, images=10)
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
        assert metrics[task] == pytest.approx(expected, abs=1e-6)
        assert 0.05 < expected["AP"] < 0.9  # not trivially equal
        for k, entry in enumerate(metrics["per_class"]):
            assert entry[task]["AP"] == pytest.approx(mean(precision[:, :, k, 0, -1]), abs=1e-6)
            assert entry[task]["AR"] == pytest.approx(mean(recall[:, k, 0, -1]), abs=1e-6)
        known = precision[..., 0, -1] > -1
        assert np.array_equal(known, ~np.isnan(curves[task].precision))
        assert curves[task].precision[known] == pytest.approx(precision[..., 0, -1][known], abs=1e-6)


def keypoints_case(rng, category_id, sigmas, first_id):
    """Objects of a category in six images, some crowds, some with no keypoint labelled, and what was found of them."""
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


def test_keypoints_are_equal_to_pycocotools_with_their_own_sigmas(tmp_path) -> None:
    """Two categories, of other keypoints and other sigmas: each as pycocotools has it alone, and the mean of all."""
    rng = np.random.default_rng(0)
    wings = {"id": 40, "name": "wing", "keypoints": ["root", "tip"], "sigmas": [0.03, 0.3]}
    figure = {"id": 7, "name": "figure", "keypoints": KEYPOINTS, "sigmas": SIGMAS}
    cases = {c["id"]: keypoints_case(rng, c["id"], c["sigmas"], 100 * c["id"]) for c in (figure, wings)}
    every = [annotation(1, [5, 5, 20, 20]), *cases[7][0], *cases[40][0]]
    assert any(entry.get("num_keypoints") == 0 for entry in every)
    categories = [CATEGORIES[0], figure, wings]
    dataset = write_dataset(tmp_path, every, images=6, categories=categories, keypoints=True)
    metrics = evaluate_rows(dataset, [*cases[7][1], *cases[40][1]], tasks=["keypoint"])
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
        assert metrics["per_class"][k]["keypoint"]["AP"] == pytest.approx(own, abs=1e-6)
        other = pycocotools_arrays(theirs, rows, "keypoints", [20], sigmas=[0.05] * len(category["sigmas"]))[0]
        assert mean(other[..., 0, -1]) != pytest.approx(own, abs=1e-3)
    precision, recall = (np.concatenate(both, axis=-3) for both in zip(*arrays, strict=True))
    assert metrics["keypoint"]["AP"] == pytest.approx(mean(precision[..., 0, -1]), abs=1e-6)
    assert metrics["keypoint"]["AP50"] == pytest.approx(mean(precision[0, ..., 0, -1]), abs=1e-6)
    assert metrics["keypoint"]["APm"] == pytest.approx(mean(precision[..., 1, -1]), abs=1e-6)
    assert metrics["keypoint"]["AR20"] == pytest.approx(mean(recall[..., 0, -1]), abs=1e-6)


def test_keypoints_that_are_missed_are_worth_nothing(tmp_path) -> None:
    """0 where no object of a category with keypoints is found; not measured where such objects come without
    keypoints.
    """
    categories = [CATEGORIES[0], {"id": 7, "name": "figure", "keypoints": KEYPOINTS, "sigmas": SIGMAS}]
    keypoints = {"keypoints": [20, 20, 2, 30, 40, 2, 50, 50, 1], "num_keypoints": 3}
    annotations = [annotation(1, [5, 5, 20, 20]), annotation(2, [10, 10, 70, 70], category_id=7, **keypoints)]
    dataset = write_dataset(tmp_path, annotations, categories=categories, keypoints=True)
    assert evaluate_rows(dataset, [row([5, 5, 20, 20])])["keypoint"]["AP"] == 0
    assert evaluate_rows(dataset, [])["keypoint"]["AP"] == 0
    metrics = evaluate_rows(dataset, [row([10, 10, 70, 70], category_id=7)])
    assert "keypoint" not in metrics
    assert "keypoint: the predictions have none" in metrics["notes"]


def figures(tmp_path):
    """Two figures, each with another first keypoint; and rows of them without a fault."""
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
    metrics = evaluate_rows(dataset, turned, tasks=["keypoint"], categories=[model])
    assert metrics["keypoint"]["AP"] == 1
    assert not metrics["notes"]
    without_names = model._replace(keypoints=("keypoint-1", "keypoint-2", "keypoint-3"))
    metrics = evaluate_rows(dataset, turned, tasks=["keypoint"], categories=[without_names])
    assert metrics["keypoint"]["AP"] < 0.5
    assert metrics["notes"] == [
        "keypoint: the keypoints of 'figure' are head, left_foot, right_foot; the model's are "
        "keypoint-1, keypoint-2, keypoint-3; "
        "they are taken in this order"
    ]


def test_another_number_of_keypoints_is_a_sentence(tmp_path) -> None:
    dataset, rows = figures(tmp_path)
    with pytest.raises(DataError, match=r"val\.json: the keypoints of 'figure' are head, .*; the model's are head$"):
        evaluate_rows(dataset, rows, categories=[Category(7, "figure", keypoints=("head",))])


def test_nothing_is_printed(tmp_path, capfd) -> None:
    evaluate_rows(write_dataset(tmp_path, [annotation(1, [0, 0, 20, 20])]), [row([0, 0, 20, 20])])
    assert capfd.readouterr() == ("", "")
