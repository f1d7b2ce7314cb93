"""COCO's average precision and recall for boxes, masks and keypoints, computed by hotcoco.

If an image has very many objects of a class, `sparse.py` computes the same without a table of all pairs.

Predictions are rows in COCO's result format: `image_id`, `category_id`, `score`, `bbox` (x, y, width, height in pixels
of the original image), `segmentation` (RLE) and `keypoints` (x, y and score of each keypoint of the row's category).
The ground truth is the data set as it was read, without transforms.

Every figure is between 0 and 1, or -1 if there is nothing to measure, as in pycocotools. `notes` says which tasks were
left out or have no objects, and why.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..categories import Category, keypoint_slices
from ..data.dataset import NO_MASK, Dataset, Segmentation, keypoint_order
from ..errors import DataError
from .boundary import boundary_pairs
from .sparse import Objects, found_of, measure, truth_of

if TYPE_CHECKING:
    from hotcoco import COCO

TASKS = ("box", "mask", "keypoint")
KEYPOINT_DETECTIONS = 20  # per image and category, COCO's limit for keypoints
DENSE = 2**22  # pairs of an image and category, 32 MiB of IoUs, above which only those that overlap are compared

_FIELD = {"box": "bbox", "mask": "segmentation", "keypoint": "keypoints"}
_IOU_TYPE = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}

Row = Mapping[str, Any]
Metrics = dict[str, Any]


class Curves(NamedTuple):
    """The precision-recall curves that AP averages: objects of all sizes, with the largest number of detections."""

    recall: np.ndarray  # float64 [101], 0..1
    ious: np.ndarray  # float64 [10], the thresholds 0.50, 0.55 .. 0.95
    precision: np.ndarray  # float64 [10 101 K], the best at this recall or above; NaN for classes without objects
    scores: np.ndarray  # float64 [10 101 K], of the detection that reaches this recall
    names: tuple[str, ...]  # of the K classes


def measure_rows(
    dataset: Dataset,
    rows: Iterable[Row],
    *,
    max_detections: int = 100,
    tasks: Sequence[str] = TASKS,
    categories: Sequence[Category] | None = None,
) -> tuple[Metrics, dict[str, Curves]]:
    """Metrics, ready for JSON, and precision-recall curves of predictions on a data set.

    Args:
        dataset: images and ground truth. Crowds are regions to ignore.
        rows: predictions on these images, in any order.
        max_detections: how many detections count, per image and category: COCO's largest `maxDets`. Above 100, `AP@100`
            and `AR100` are the figures for 100. Keypoints keep COCO's limit of 20.
        tasks: some of "box", "mask" and "keypoint". A task for which the predictions or the data set have nothing is
            left out, with a note.
        categories: the categories that `category_id` of the rows refers to, if they are not those of the data set.
            They are matched by name. Names on one side only are listed under `unmatched`; their rows do not count.

    Returns:
        A dict with, for each task, `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl` and the recalls `AR1`, `AR10`, `AR100` (or
        the limit), `ARs`, `ARm`, `ARl`; `per_class`, the same by class, with the number of objects; counts; and
        `notes`. Then the curves of each task.

    Raises `DataError` for a row with an unknown image or category, and if one category has different numbers of
    keypoints on the two sides; ValueError for an unknown task or a limit below 1.
    """
    if set(tasks) - set(TASKS) or max_detections < 1:
        raise ValueError(f"tasks are {TASKS} and max_detections is at least 1, not {tasks} and {max_detections}")
    theirs = dataset.categories if categories is None else categories
    order, notes = keypoint_order(dataset, theirs)
    found = renumber(dataset, rows, theirs, order)
    names, their_names = [category.name for category in dataset.categories], [category.name for category in theirs]
    chosen = dataset.object_rows()
    real = dataset.objects.labels[chosen][~dataset.objects.ignore[chosen]]
    objects = np.bincount(real, minlength=len(names)).tolist()
    predictions = Counter(row["category_id"] for row in found)
    per_class: list[dict[str, Any]] = [
        {"id": category.id, "name": category.name, "objects": objects[label], "predictions": predictions[label + 1]}
        for label, category in enumerate(dataset.categories)
    ]
    metrics: Metrics = {}
    curves: dict[str, Curves] = {}
    for task in tasks:
        if reason := _nothing_to_measure(task, dataset, found):
            notes.append(reason)
            continue
        measured = _measure(task, dataset, found, max_detections)
        metrics[task] = _summary(measured)
        if metrics[task]["AP"] < 0:
            notes.append(f"{task}: the data set has no object to find, so there is no AP")
        curves[task] = _curves(measured, names)
        for label, entry in enumerate(per_class):
            entry[task] = _class_figures(measured, label)
    metrics |= {
        "per_class": per_class,
        "images": len(dataset),
        "objects": sum(objects),
        "predictions": len(found),
        "max_detections": max_detections,
        "unmatched": {
            "model": [name for name in their_names if name not in names],
            "dataset": [name for name in names if name not in their_names],
        },
        "notes": notes,
    }
    return metrics, curves


def measure_boundaries(
    dataset: Dataset, truth: Objects, found: Objects, max_detections: int
) -> tuple[Metrics, Curves, list[Metrics]]:
    """Boundary AP, its curves, and the figures of each class, from both sides with masks; images are places in the data
    set."""
    numbers, names = image_numbers(dataset) - 1, [category.name for category in dataset.categories]
    truth, found = (replace(side, images=numbers[side.images]) for side in (truth, found))
    close = boundary_pairs(truth, found, dataset.sizes[np.argsort(numbers)])
    limits = _limits(max_detections)
    measured = _Measured(*measure(truth, found, len(names), limits, close), limits=limits)
    curves = _curves(measured, names)
    return _summary(measured), curves, [_class_figures(measured, label) for label in range(len(names))]


# --- predictions and ground truth for hotcoco -----------------------------------------------------------------------
# hotcoco takes no negative ids, and an object with id 0 means "no match" to COCO's evaluators. So images, categories
# and objects are numbered from 1: images in the order of their ids, which decides between equal scores.


def image_numbers(dataset: Dataset) -> np.ndarray:
    """int64 [N], 1..N."""
    return np.unique(dataset.image_ids, return_inverse=True)[1] + 1


def renumber(
    dataset: Dataset, rows: Iterable[Row], theirs: Sequence[Category], order: Mapping[int, list[int]]
) -> list[Row]:
    """The rows of matched categories, with these numbers as ids and with keypoints in the data set's `order`."""
    images = {dataset.stated_id(i): number for i, number in enumerate(image_numbers(dataset).tolist())}
    number_of = {category.name: number for number, category in enumerate(dataset.categories, 1)}
    categories = {category.id: number_of.get(category.name) for category in theirs}
    renumbered: list[Row] = []
    for row in rows:
        image_id, category_id = row["image_id"], row["category_id"]
        if image_id not in images:
            raise DataError(f"{dataset.source}: a prediction is for image {image_id!r}, which is not in the file")
        if category_id not in categories:
            known = ", ".join(map(str, sorted(categories)))
            raise DataError(f"a prediction has category {category_id!r}; the model's categories are {known}")
        if categories[category_id] is None:
            continue
        row = {**row, "image_id": images[image_id], "category_id": categories[category_id]}
        if category_id in order and row.get("keypoints"):
            row["keypoints"] = np.reshape(row["keypoints"], (-1, 3))[order[category_id]].ravel().tolist()
        renumbered.append(row)
    return renumbered


def _nothing_to_measure(task: str, dataset: Dataset, found: list[Row]) -> str:
    """Why a task cannot be measured; empty if it can."""
    if task == "mask":
        kinds = dataset.objects.kinds[dataset.object_rows()]
        if len(kinds) and (kinds == NO_MASK).all():
            return "mask: the data set has boxes only"
    if task == "keypoint":
        if not dataset.num_keypoints:
            return "keypoint: the data set has no keypoints"
        stated = dataset.objects.keypoints
        if stated is None or not (stated[dataset.object_rows(), :, 2] > 0).any():
            return "keypoint: no keypoint of the data set is labelled"
        # Without any detection of a category that has keypoints, the answer is 0.
        with_keypoints = {number for number, category in enumerate(dataset.categories, 1) if category.keypoints}
        found = [row for row in found if row["category_id"] in with_keypoints]
    if found and not any(row.get(_FIELD[task]) for row in found):
        return f"{task}: the predictions contain none"
    return ""


def _truth(dataset: Dataset, task: str) -> "COCO":
    from hotcoco import COCO

    table, chosen = dataset.objects, dataset.object_rows()
    labels, boxes, ignore = table.labels[chosen], table.boxes[chosen], table.ignore[chosen]  # copies
    boxes[:, 2:] -= boxes[:, :2]
    segmentations = None
    if task == "mask":
        every = (segmentation for i in range(len(dataset)) for segmentation in dataset.record(i).segmentations)
        segmentations = [_segmentation(one, box) for one, box in zip(every, boxes.tolist(), strict=True)]
        # An object without a mask can be neither found nor missed: detections in its box do not count.
        ignore |= table.kinds[chosen] == NO_MASK
    numbers = image_numbers(dataset)
    sized = zip(numbers.tolist(), dataset.sizes.tolist(), strict=True)
    truth = COCO.from_arrays(
        [{"id": number, "height": height, "width": width} for number, (height, width) in sized],
        [{"id": number, "name": category.name} for number, category in enumerate(dataset.categories, 1)],
        np.repeat(numbers, dataset.annotation_counts),
        labels + 1,
        boxes,
        area=table.areas[chosen],
        iscrowd=ignore,
        segmentation=segmentations,
    )
    if task == "keypoint" and table.keypoints is not None:
        slices = keypoint_slices(dataset.categories)
        every = zip(table.keypoints[chosen].astype(np.float64), labels.tolist(), strict=True)
        own = [keypoints[slices[label]] for keypoints, label in every]
        truth.update_anns([
            {"id": id, "keypoints": keypoints.ravel().tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum())}
            for id, keypoints in enumerate(own, 1)
        ])  # fmt: skip
    return truth


def _segmentation(segmentation: Segmentation, box: list[float]) -> Any:
    """The segmentation as COCO writes it; the box as a polygon if there is none."""
    match segmentation:
        case None:
            x, y, width, height = box
            return [[x, y, x + width, y, x + width, y + height, x, y + height]]
        case list():
            return [polygon.ravel().tolist() for polygon in segmentation]
        case counts, size:
            return {"size": list(size), "counts": counts.tolist()}


# --- figures ------------------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """COCO's arrays. K: classes; A: all sizes, then small (not for keypoints), medium and large; M: `limits`."""

    precision: np.ndarray  # float64 [10 101 K A M], -1 for classes without objects
    recall: np.ndarray  # float64 [10 K A M]
    scores: np.ndarray  # float64 [10 101 K A M]
    limits: list[int]


def _measure(task: str, dataset: Dataset, found: list[Row], max_detections: int) -> _Measured:
    """One evaluation of all classes; for keypoints one for each class, since each class has its own sigmas."""
    from hotcoco import COCOeval

    limits = [KEYPOINT_DETECTIONS] if task == "keypoint" else _limits(max_detections)
    field = _FIELD[task]
    if task != "keypoint" and _most_pairs(dataset, found) > DENSE:
        objects = truth_of(dataset, image_numbers(dataset) - 1, masks=task == "mask")
        rows = found_of([row for row in found if row.get(field)], masks=task == "mask")
        return _Measured(*measure(objects, rows, len(dataset.categories), limits), limits=limits)
    truth = _truth(dataset, task)
    # Without other fields, so that a mask counts with its own area and not with that of its box.
    names = ("image_id", "category_id", "score", field)
    detections = truth.load_res([{name: row[name] for name in names} for row in found if row.get(field)])
    every = list(range(len(dataset.categories)))
    arrays: dict[str, np.ndarray] = {}
    for labels in [every] if task != "keypoint" else [[k] for k in every if dataset.categories[k].keypoints]:
        run = COCOeval(truth, detections, _IOU_TYPE[task])
        run.params.cat_ids = [label + 1 for label in labels]
        run.params.max_dets = limits
        if task == "keypoint":
            run.params.kpt_oks_sigmas = _sigmas(dataset, labels[0])
        run.evaluate()
        run.accumulate()
        assert run.eval is not None
        for name in ("precision", "recall", "scores"):
            part = run.eval[name]  # [... k A M]
            whole = arrays.setdefault(name, np.full((*part.shape[:-3], len(every), *part.shape[-2:]), -1.0))
            whole[..., labels, :, :] = part
    return _Measured(**arrays, limits=limits)


def _limits(max_detections: int) -> list[int]:
    return sorted({limit for limit in (1, 10, 100, max_detections) if limit <= max_detections})


def _most_pairs(dataset: Dataset, found: list[Row]) -> int:
    """The most pairs of a detection and an object that an image and category has."""
    labels = dataset.objects.labels[dataset.object_rows()]
    images = np.repeat(image_numbers(dataset), dataset.annotation_counts)
    objects = Counter(zip(images.tolist(), (labels + 1).tolist(), strict=True))
    detections = Counter((row["image_id"], row["category_id"]) for row in found)
    return max((count * objects[both] for both, count in detections.items()), default=0)


def _sigmas(dataset: Dataset, label: int) -> list[float]:
    category = dataset.categories[label]
    if len(category.sigmas) != len(category.keypoints):  # hotcoco would give 0, without a word
        counts = f"{len(category.sigmas)} sigmas for {len(category.keypoints)} keypoints"
        raise DataError(f"{dataset.source}: category {category.name!r} has {counts}; it needs one for each")
    return list(category.sigmas)


def _mean(values: np.ndarray) -> float:
    """Over the values that were measured, which are not -1; -1 if there are none."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _average_precision(precision: np.ndarray) -> dict[str, float]:
    """From precision [10 101 ...]."""
    return {"AP": _mean(precision), "AP50": _mean(precision[0]), "AP75": _mean(precision[5])}


def _summary(measured: _Measured) -> dict[str, float]:
    precision, recall, _, limits = measured
    sizes = list(enumerate("sml" if precision.shape[-2] == 4 else "ml", 1))
    figures = _average_precision(precision[..., 0, -1])
    figures |= {f"AP{size}": _mean(precision[..., a, -1]) for a, size in sizes}
    if limits[-1] > 100:
        figures["AP@100"] = _mean(precision[..., 0, limits.index(100)])
    figures |= {f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(limits)}
    figures |= {f"AR{size}": _mean(recall[..., a, -1]) for a, size in sizes}
    return figures


def _curves(measured: _Measured, names: Sequence[str]) -> Curves:
    precision = measured.precision[..., 0, -1]
    return Curves(
        recall=np.linspace(0, 1, 101),
        ious=np.linspace(0.5, 0.95, 10),
        precision=np.where(precision > -1, precision, np.nan),
        scores=np.maximum(measured.scores[..., 0, -1], 0),
        names=tuple(names),
    )


def _class_figures(measured: _Measured, label: int) -> dict[str, float]:
    figures = _average_precision(measured.precision[:, :, label, 0, -1])
    return figures | {"AR": _mean(measured.recall[:, label, 0, -1])}
