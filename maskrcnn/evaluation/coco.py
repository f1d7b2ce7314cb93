"""COCO's average precision and recall of boxes, masks and keypoints, computed by faster-coco-eval.

Predictions are rows as COCO writes them: `image_id`, `category_id`, `score`, `bbox` (x, y, width, height, pixels of the
original image), `segmentation` (RLE) and `keypoints` (x, y, score of each keypoint of the row's category). Ground truth
comes from the data set as it was read, through no transform.

A figure is a number in 0..1, or -1 where there is nothing to measure, as in pycocotools; a task without objects has a
sentence in `notes`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..categories import Category, keypoint_slices
from ..data.dataset import NO_MASK, Dataset, keypoint_order
from ..errors import DataError

TASKS = ("box", "mask", "keypoint")
KEYPOINT_DETECTIONS = 20  # per image and category, COCO's own limit for keypoints

_FIELD = {"box": "bbox", "mask": "segmentation", "keypoint": "keypoints"}
_KIND = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
_AREAS = {"s": "small", "m": "medium", "l": "large"}

Row = Mapping[str, Any]
Metrics = dict[str, Any]


class Curves(NamedTuple):
    """What AP averages: precision over recall, all sizes, with the largest number of detections."""

    recall: np.ndarray  # float64 [101], 0..1
    ious: np.ndarray  # float64 [10], the thresholds 0.50, 0.55 .. 0.95
    precision: (
        np.ndarray
    )  # float64 [10 101 K], the best at this recall or a higher one; NaN for classes without objects
    scores: np.ndarray  # float64 [10 101 K], of the detection that reaches this recall
    names: tuple[str, ...]  # of the K classes


def evaluate_rows(
    dataset: Dataset,
    rows: Iterable[Row],
    *,
    max_detections: int = 100,
    tasks: Sequence[str] = TASKS,
    categories: Sequence[Category] | None = None,
) -> Metrics:
    """The metrics of `measure_rows`, ready for json."""
    return measure_rows(dataset, rows, max_detections=max_detections, tasks=tasks, categories=categories)[0]


def measure_rows(
    dataset: Dataset,
    rows: Iterable[Row],
    *,
    max_detections: int = 100,
    tasks: Sequence[str] = TASKS,
    categories: Sequence[Category] | None = None,
) -> tuple[Metrics, dict[str, Curves]]:
    """Metrics and precision-recall curves of predictions on a data set.

    Args:
        dataset: images and ground truth. Crowds are ignore regions.
        rows: predictions on these images, in any order.
        max_detections: how many of an image's best, per category, count: COCO's largest `maxDets`. Above 100,
            `AP@100` and `AR100` say what 100 would have given. Keypoints keep COCO's 20.
        tasks: of "box", "mask" and "keypoint". One that predictions or data set have nothing for is left out and noted.
        categories: those that `category_id` of the rows speaks of, where they are not the data set's. They are matched
            by name; what has no counterpart is listed under `unmatched`, and its rows do not count.

    Returns a dict with, for each task, `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl` and the recalls `AR1`, `AR10`, `AR100`
    (or the limit), `ARs`, `ARm`, `ARl`; `per_class`, the same by class with the number of objects and, at IoU 0.5, the
    best F1 and the score threshold that gives it; counts; `notes`. Then the curves, by task.

    Raises `DataError` for a row of an unknown image or category and as `keypoint_order` does, ValueError for an unknown
    task or a limit below 1.
    """
    _check_request(tasks, max_detections)
    theirs = dataset.categories if categories is None else categories
    order, notes = keypoint_order(dataset, theirs)
    matched, unmatched = _match_rows(dataset, rows, theirs, order)
    truth = _ground_truth(dataset)
    predicted = Counter(row["category_id"] for row in matched)
    per_class: list[dict[str, Any]] = [
        {"id": c.id, "name": c.name, "objects": truth.objects[k], "predictions": predicted[c.id]}
        for k, c in enumerate(dataset.categories)
    ]
    metrics: Metrics = {}
    curves: dict[str, Curves] = {}
    for task in tasks:
        reason = _missing(task, truth, matched, dataset)
        if reason:
            notes.append(reason)
            continue
        pieces = _run(task, dataset, truth, matched, max_detections)
        metrics[task] = _summary(pieces, max_detections, task)
        if metrics[task]["AP"] < 0:
            notes.append(f"{task}: the data set has no object to find, so there is no AP")
        curves[task] = _curves(pieces, dataset)
        for entry, figures in zip(per_class, _class_figures(pieces, dataset, curves[task]), strict=True):
            entry[task] = figures
    metrics |= {
        "per_class": per_class,
        "images": len(dataset),
        "objects": sum(truth.objects),
        "predictions": len(matched),
        "max_detections": max_detections,
        "unmatched": unmatched,
        "notes": notes,
    }
    return metrics, curves


def _check_request(tasks: Sequence[str], max_detections: int) -> None:
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or max_detections < 1:
        raise ValueError(
            f"tasks are {', '.join(TASKS)} and the limit is at least 1, not {unknown} and {max_detections}"
        )


# --- the two sides of the comparison ------------------------------------------------------------------------------


class _Truth(NamedTuple):
    images: list[dict[str, int]]
    annotations: list[dict[str, Any]]  # with `keypoints` where the data set has keypoints; without masks
    segmentations: list[Any]  # as COCO writes them, None where there is no mask
    objects: list[int]  # by label, without crowds
    num_keypoints: int


def _ground_truth(dataset: Dataset) -> _Truth:
    table, chosen = dataset.objects, dataset.object_rows()
    boxes = table.boxes[chosen]  # a copy
    boxes[:, 2:] -= boxes[:, :2]
    labels = table.labels[chosen]
    category_ids = np.array([category.id for category in dataset.categories], dtype=np.int64)[labels]
    image_ids = np.repeat(dataset.image_ids, dataset.annotation_counts)
    columns = (image_ids, category_ids, boxes, table.areas[chosen], table.ignore[chosen].astype(np.int64))
    annotations = [
        {"id": i, "image_id": image_id, "category_id": category_id, "bbox": box, "area": area, "iscrowd": crowd}
        # Ids are our own: faster-coco-eval takes id 0 for "unmatched", and files do have one.
        for i, (image_id, category_id, box, area, crowd) in enumerate(
            zip(*(c.tolist() for c in columns), strict=True), 1
        )
    ]
    if table.keypoints is not None:
        _add_keypoints(annotations, table.keypoints[chosen], labels, dataset.categories)
    sizes = zip(dataset.image_ids.tolist(), dataset.sizes.tolist(), strict=True)
    images = [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in sizes]
    objects = np.bincount(labels[~table.ignore[chosen]], minlength=len(dataset.categories)).tolist()
    segmentations = [s for i in range(len(dataset)) for s in _segmentations(dataset, i)]
    return _Truth(images, annotations, segmentations, objects, dataset.num_keypoints)


def _segmentations(dataset: Dataset, i: int) -> list[Any]:
    first, last = dataset.objects.offsets[dataset.rows[i] : dataset.rows[i] + 2]
    if (dataset.objects.kinds[first:last] == NO_MASK).all():
        return [None] * int(last - first)
    return [_segmentation(segmentation) for segmentation in dataset.record(i).segmentations]


def _segmentation(segmentation: Any) -> Any:
    match segmentation:
        case None:
            return None
        case list():
            return [polygon.ravel().tolist() for polygon in segmentation]
        case counts, size:
            return {"size": list(size), "counts": counts.tolist()}


def _add_keypoints(
    annotations: list[dict[str, Any]], keypoints: np.ndarray, labels: np.ndarray, categories: Sequence[Category]
) -> None:
    slices = keypoint_slices(categories)
    for annotation, all_keypoints, label in zip(
        annotations, keypoints.astype(np.float64), labels.tolist(), strict=True
    ):
        mine = all_keypoints[slices[label]]
        annotation["keypoints"] = mine.ravel().tolist()
        annotation["num_keypoints"] = int((mine[:, 2] > 0).sum())


def _match_rows(
    dataset: Dataset, rows: Iterable[Row], theirs: Sequence[Category], order: Mapping[int, list[int]]
) -> tuple[list[Row], dict[str, list[str]]]:
    """The rows with the data set's category ids and keypoints in its `order`, and the names that only one side
    knows.
    """
    image_ids = set(dataset.image_ids.tolist())
    id_of = {category.name: category.id for category in dataset.categories}
    translated = {category.id: id_of.get(category.name) for category in theirs}
    same = all(id == translated_id for id, translated_id in translated.items())
    kept: list[Row] = []
    for row in rows:
        if row["image_id"] not in image_ids:
            raise DataError(f"{dataset.source}: a prediction is of image {row['image_id']!r}, which is not in the file")
        if row["category_id"] not in translated:
            known = ", ".join(map(str, sorted(translated)))
            raise DataError(f"a prediction has category {row['category_id']!r}; the model's categories are {known}")
        category_id = translated[row["category_id"]]
        if category_id is None:
            continue
        if (keypoints := order.get(row["category_id"])) and "keypoints" in row:
            row = {**row, "keypoints": np.reshape(row["keypoints"], (-1, 3))[keypoints].ravel().tolist()}
        kept.append(row if same else {**row, "category_id": category_id})
    known_names = {category.name for category in theirs}
    unmatched = {
        "model": [category.name for category in theirs if category.name not in id_of],
        "dataset": [category.name for category in dataset.categories if category.name not in known_names],
    }
    return kept, unmatched


def _missing(task: str, truth: _Truth, rows: list[Row], dataset: Dataset) -> str:
    """Why a task cannot be evaluated; empty where it can."""
    if task == "mask" and truth.segmentations and all(segmentation is None for segmentation in truth.segmentations):
        return "mask: the data set has boxes only"
    if task == "keypoint" and not truth.num_keypoints:
        return "keypoint: the data set has no keypoints"
    if task == "keypoint":  # where nothing is found that could have keypoints, the answer is 0
        with_keypoints = {category.id for category in dataset.categories if category.keypoints}
        rows = [row for row in rows if row["category_id"] in with_keypoints]
    if rows and not any(row.get(_FIELD[task]) for row in rows):
        return f"{task}: the predictions have none"
    return ""


# --- faster-coco-eval ---------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """COCO's arrays for some classes, -1 where a class has no object. A: all sizes, then `areas`; M: `limits`."""

    labels: list[int]
    precision: np.ndarray  # [10 101 k A M]
    recall: np.ndarray  # [10 k A M]
    scores: np.ndarray  # [10 101 k A M]
    areas: list[str]
    limits: list[int]


def _run(task: str, dataset: Dataset, truth: _Truth, rows: list[Row], max_detections: int) -> list[_Piece]:
    """One piece for all classes; for keypoints one a class, since each class has its own keypoints and sigmas."""
    labels = list(range(len(dataset.categories)))
    if task != "keypoint":
        limits = sorted({limit for limit in (1, 10, 100, max_detections) if limit <= max_detections})
        return [_evaluate(task, dataset, truth, rows, labels, limits, None)]
    return [
        _evaluate(task, dataset, truth, rows, [label], [KEYPOINT_DETECTIONS], dataset.categories[label].sigmas)
        for label in labels
        if dataset.categories[label].keypoints
    ]


def _evaluate(
    task: str,
    dataset: Dataset,
    truth: _Truth,
    rows: list[Row],
    labels: list[int],
    limits: list[int],
    sigmas: Sequence[float] | None,
) -> _Piece:
    from faster_coco_eval import COCO, COCOeval_faster

    ids = [dataset.categories[label].id for label in labels]
    wanted = set(ids)
    annotations = [annotation for annotation in truth.annotations if annotation["category_id"] in wanted]
    if task == "mask":
        annotations = [_with_mask(a, s) for a, s in zip(truth.annotations, truth.segmentations, strict=True)]
    categories = [{"id": id, "name": dataset.categories[label].name} for id, label in zip(ids, labels, strict=True)]
    gt = COCO({"info": {}, "images": truth.images, "annotations": annotations, "categories": categories})
    mine = [row for row in rows if row["category_id"] in wanted and row.get(_FIELD[task])]
    found = COCO({**gt.dataset, "annotations": _found(task, mine)})
    run = COCOeval_faster(gt, found, _KIND[task], kpt_oks_sigmas=None if sigmas is None else list(sigmas))  # type: ignore[arg-type]
    run.params.catIds = ids
    run.params.maxDets = limits
    run.evaluate()
    run.accumulate()
    arrays = (np.asarray(run.eval[name]) for name in ("precision", "recall", "scores"))
    return _Piece(labels, *arrays, areas=list(run.params.areaRngLbl), limits=limits)


def _found(task: str, rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as faster-coco-eval's `loadRes` completes them: with an id, and an area that comes from the task's own
    field alone. A mask must not count with the area of its box.
    """
    from faster_coco_eval.core import mask as mask_api

    field = _FIELD[task]
    match task:
        case "box":
            areas = [row["bbox"][2] * row["bbox"][3] for row in rows]
        case "mask":
            areas = np.asarray(mask_api.area([row["segmentation"] for row in rows])).tolist() if rows else []
        case _:
            areas = [float(np.ptp(row["keypoints"][0::3]) * np.ptp(row["keypoints"][1::3])) for row in rows]
    return [
        {
            "id": i, "image_id": row["image_id"], "category_id": row["category_id"], "score": row["score"],
            field: row[field], "area": area, "iscrowd": 0,
        }
        for i, (row, area) in enumerate(zip(rows, areas, strict=True), 1)
    ]  # fmt: skip


def _with_mask(annotation: dict[str, Any], segmentation: Any) -> dict[str, Any]:
    if segmentation is not None:
        return annotation | {"segmentation": segmentation}
    # An object without a mask can be neither found nor missed: what lies in its box is left out of the count.
    x, y, width, height = annotation["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return annotation | {"segmentation": [corners], "iscrowd": 1}


# --- figures ------------------------------------------------------------------------------------------------------


def _mean(values: Iterable[np.ndarray]) -> float:
    """Over all classes that have objects (not -1); -1 where none has."""
    joined = np.concatenate([np.ravel(value) for value in values]) if values else np.zeros(0)
    joined = joined[joined > -1]
    return float(joined.mean()) if joined.size else -1.0


def _summary(pieces: list[_Piece], max_detections: int, task: str) -> dict[str, float]:
    areas, limits = pieces[0].areas, pieces[0].limits
    last = len(limits) - 1
    figures = {
        "AP": _mean([p.precision[:, :, :, 0, last] for p in pieces]),
        "AP50": _mean([p.precision[0, :, :, 0, last] for p in pieces]),
        "AP75": _mean([p.precision[5, :, :, 0, last] for p in pieces]),
    }
    named = [(letter, areas.index(area)) for letter, area in _AREAS.items() if area in areas]
    figures |= {f"AP{letter}": _mean([p.precision[:, :, :, a, last] for p in pieces]) for letter, a in named}
    if task != "keypoint" and max_detections > 100:
        figures["AP@100"] = _mean([p.precision[:, :, :, 0, limits.index(100)] for p in pieces])
    figures |= {f"AR{limit}": _mean([p.recall[:, :, 0, m] for p in pieces]) for m, limit in enumerate(limits)}
    figures |= {f"AR{letter}": _mean([p.recall[:, :, a, last] for p in pieces]) for letter, a in named}
    return figures


def _curves(pieces: list[_Piece], dataset: Dataset) -> Curves:
    ious, recall = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
    precision = np.full((len(ious), len(recall), len(dataset.categories)), np.nan)
    scores = np.zeros_like(precision)
    for piece in pieces:
        measured = piece.precision[..., 0, -1]
        precision[..., piece.labels] = np.where(measured > -1, measured, np.nan)
        scores[..., piece.labels] = np.maximum(piece.scores[..., 0, -1], 0)
    return Curves(recall, ious, precision, scores, tuple(category.name for category in dataset.categories))


def _class_figures(pieces: list[_Piece], dataset: Dataset, curves: Curves) -> list[dict[str, float | None]]:
    figures: list[dict[str, float | None]] = []
    recalls: dict[int, np.ndarray] = {}
    for piece in pieces:
        recalls |= {label: piece.recall[:, k, 0, -1] for k, label in enumerate(piece.labels)}
    for label in range(len(dataset.categories)):
        precision = np.nan_to_num(curves.precision[..., label], nan=-1.0)
        f1, threshold = _best_f1(curves, label)
        figures.append({
            "AP": _mean([precision]),
            "AP50": _mean([precision[0]]),
            "AP75": _mean([precision[5]]),
            "AR": _mean([recalls.get(label, np.zeros(0))]),
            "F1": f1,
            "threshold": threshold,
        })  # fmt: skip
    return figures


def _best_f1(curves: Curves, label: int) -> tuple[float, float | None]:
    """The best F1 at IoU 0.5, and the score from which on detections count for it; -1, None without objects."""
    precision = curves.precision[0, :, label]
    if np.isnan(precision).any():
        return -1.0, None
    f1 = 2 * precision * curves.recall / np.maximum(precision + curves.recall, 1e-12)
    best = int(f1.argmax())
    return float(f1[best]), float(curves.scores[0, best, label]) if f1[best] > 0 else None
