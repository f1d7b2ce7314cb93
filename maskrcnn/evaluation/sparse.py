"""COCO's evaluation over pairs that overlap, for images with so many objects that all pairs would not fit in memory.

It follows cocoapi's rules (`evaluateImg` and `accumulate` of cocoeval.py) and gives the same arrays. Only pairs with an
IoU of 0.5, the lowest threshold, can match; a grid finds them, and masks are compared as runs. Ties are decided as
there: detections of equal scores keep their order, and of equal IoUs the last one wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.bitmaps import pack_polygons
from ..data.dataset import NO_MASK, Dataset, Segmentation
from ..ops.coco_raster import coco_raster
from ..ops.nearby import overlapping
from ..ops.rle import string_from_counts
from ..ops.runs import Runs, bounds, concatenate, decode, from_bitmaps, from_counts, move, select, shared

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small .. large; both ends belong


@dataclass(frozen=True, eq=False)
class Objects:
    """The ground truth, or the detections, of all images. Images are numbered from 0, so are classes."""

    images: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n]
    boxes: np.ndarray  # float64 [n 4], x, y, width, height
    areas: np.ndarray  # float64 [n], which decides whether an object is small, medium or large
    runs: Runs | None = None  # its masks, if masks are compared
    heights: np.ndarray | None = None  # int64 [n], of its image, with masks
    ignore: np.ndarray | None = None  # bool [n], crowds of the ground truth
    scores: np.ndarray | None = None  # float64 [n], of detections


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # detections, objects and their IoU, [P] each


def measure(
    truth: Objects, found: Objects, classes: int, limits: Sequence[int], close: Pairs | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cocoapi's precision [10 101 K 4 M], recall [10 K 4 M] and scores [10 101 K 4 M], M the limits of detections per
    image and class, in ascending order. Both sides are compared by masks if both have `runs`, else by boxes, unless
    the `close` pairs are given.
    """
    assert found.scores is not None
    order = np.lexsort((-found.scores, found.images, found.labels))  # as it is stable, equal scores keep their order
    labels, images, scores = found.labels[order], found.images[order], found.scores[order]
    begins = np.flatnonzero(np.diff(labels, prepend=-1) | np.diff(images, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    place = np.full(len(order), -1)  # of each detection among those that count
    counts = rank < limits[-1]
    place[order[counts]] = np.arange(counts.sum())
    labels, scores, rank, areas = labels[counts], scores[counts], rank[counts], found.areas[order][counts]
    ignore = np.zeros(len(truth.images), dtype=bool) if truth.ignore is None else truth.ignore

    detections, objects, ious = close_pairs(truth, found) if close is None else close
    number = place[detections]
    kept = np.argsort(number, kind="stable")[(number < 0).sum() :]
    pairs = number[kept], objects[kept], ious[kept]
    K, A, M = classes, len(AREAS), len(limits)
    precision = np.full((len(IOUS), len(RECALLS), K, A, M), -1.0)
    recall, at = np.full((len(IOUS), K, A, M), -1.0), precision.copy()
    ranked = np.lexsort((-scores, labels))  # within a class by score, then by image and place there
    of_class = np.searchsorted(labels[ranked], np.arange(K + 1))
    for a, (low, high) in enumerate(AREAS):
        outside = ignore | (truth.areas < low) | (truth.areas > high)
        matched = match(pairs, len(labels), ignore, outside)
        hit = matched >= 0
        free = np.where(hit, np.append(outside, False)[matched], (areas < low) | (areas > high))
        wanted = np.bincount(truth.labels[~outside], minlength=K)
        for label in np.flatnonzero(wanted).tolist():
            mine = ranked[of_class[label] : of_class[label + 1]]
            for m, limit in enumerate(limits):
                chosen = mine[rank[mine] < limit]
                curve = curve_of(hit[:, chosen], free[:, chosen], scores[chosen], int(wanted[label]))
                precision[:, :, label, a, m], recall[:, label, a, m], at[:, :, label, a, m] = curve
    return precision, recall, at


def close_pairs(truth: Objects, found: Objects, *, least: float = IOUS[0], of_one_class: bool = True) -> Pairs:
    """Detections and objects of one image, and of one class, with an IoU of at least `least`, and that IoU, [P] each.

    For a crowd the union is the detection alone, as in cocoapi.
    """
    classes = 1 + int(truth.labels.max(initial=0) + found.labels.max(initial=0))
    groups = [side.images * classes + side.labels if of_one_class else side.images for side in (found, truth)]
    if truth.runs is not None and found.runs is not None:
        assert truth.heights is not None
        assert found.heights is not None
        boxes = [bounds(found.runs, found.heights), bounds(truth.runs, truth.heights)]
        left, right = overlapping(*boxes, *groups)
        common = shared(found.runs, truth.runs, left, right).astype(np.float64)
        own, theirs = found.runs.areas[left].astype(np.float64), truth.runs.areas[right].astype(np.float64)
    else:
        left, right = overlapping(*(_corners(side.boxes) for side in (found, truth)), *groups)
        a, b = found.boxes[left], truth.boxes[right]
        sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        common = sides[:, 0] * sides[:, 1]
        own, theirs = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    total = own + theirs - common
    if truth.ignore is not None:
        total = np.where(truth.ignore[right], own, total)
    ious = np.divide(common, total, out=np.zeros(len(common)), where=total > 0)
    close = ious >= least
    return left[close], right[close], ious[close]


def match(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    detections: int,
    crowds: np.ndarray,
    outside: np.ndarray,
    thresholds: np.ndarray = IOUS,
) -> np.ndarray:
    """The object to which each detection is matched at each IoU, int64 [T D]; -1 for none.

    `pairs` are detections, numbered in the order of their scores, objects, and IoUs. An object is matched once, unless
    it is one of the `crowds`; objects `outside` do not count, and are matched only if no other one is left.
    """
    matched = np.full((len(thresholds), detections), -1)
    number, objects, ious = pairs
    thresholds = np.minimum(thresholds, 1 - 1e-10)
    alone = np.bincount(number, minlength=detections)[number] == 1
    alone &= crowds[objects] | (np.bincount(objects, minlength=len(crowds))[objects] == 1)
    # nobody else wants these objects
    matched[:, number[alone]] = np.where(ious[alone] >= thresholds[:, None], objects[alone], -1)
    number, objects, ious = number[~alone], objects[~alone], ious[~alone]
    wishes = np.lexsort((-objects, -ious, outside[objects], number))  # best first, of each detection in its turn
    number, objects, ious = number[wishes].tolist(), objects[wishes].tolist(), ious[wishes].tolist()
    for t, threshold in enumerate(thresholds.tolist()):
        taken: set[int] = set()
        last = -1  # detection that is matched
        for one, wanted, iou in zip(number, objects, ious, strict=True):
            if one != last and iou >= threshold and wanted not in taken:
                last = one
                matched[t, one] = wanted
                if not crowds[wanted]:
                    taken.add(wanted)
    return matched


def curve_of(
    hit: np.ndarray, free: np.ndarray, scores: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision [T 101], recall [T] and scores [T 101] of one class; `hit` and `free` [T n] are best first."""
    right, wrong = (np.cumsum(which, axis=1, dtype=np.float64) for which in (hit & ~free, ~hit & ~free))
    reached = right / wanted
    precision = right / (wrong + right + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curve, at = np.zeros((2, len(hit), len(RECALLS)))
    for t in range(len(hit)):
        place = np.searchsorted(reached[t], RECALLS, side="left")
        known = place < len(scores)
        curve[t, known], at[t, known] = precision[t, place[known]], scores[place[known]]
    return curve, reached[:, -1] if len(scores) else np.zeros(len(hit)), at


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


# --- from a data set and rows of results ------------------------------------------------------------------------------


def truth_of(dataset: Dataset, images: np.ndarray, *, masks: bool) -> Objects:
    """The ground truth of a data set whose images have these numbers. With `masks`, an object without one is a crowd in
    the form of its box: detections there do not count."""
    table, chosen, counts = dataset.objects, dataset.object_rows(), dataset.annotation_counts
    boxes, ignore = table.boxes[chosen], table.ignore[chosen]
    boxes[:, 2:] -= boxes[:, :2]
    runs = None
    if masks:
        ignore |= table.kinds[chosen] == NO_MASK
        runs = concatenate([
            runs_of(record.segmentations, boxes[last - len(record.segmentations) : last], record.size)
            for record, last in zip(map(dataset.record, range(len(dataset))), np.cumsum(counts).tolist(), strict=True)
        ])  # fmt: skip
    return Objects(
        images=np.repeat(images, counts),
        labels=table.labels[chosen].astype(np.int64),
        boxes=boxes,
        areas=table.areas[chosen],
        runs=runs,
        heights=np.repeat(dataset.sizes[:, 0], counts),
        ignore=ignore,
    )


def found_of(rows: Sequence[Mapping[str, Any]], *, masks: bool) -> Objects:
    """Detections in COCO's result format, with image and category numbers from 1."""
    boxes = np.array([row.get("bbox", [0, 0, 0, 0]) for row in rows], dtype=np.float64).reshape(-1, 4)
    runs = None
    if masks:
        counts = [row["segmentation"]["counts"] for row in rows]
        counts = [string_from_counts(given) if isinstance(given, list) else given for given in counts]
        runs = decode([text.encode("ascii") if isinstance(text, str) else text for text in counts])
    return Objects(
        images=np.array([row["image_id"] for row in rows], dtype=np.int64) - 1,
        labels=np.array([row["category_id"] for row in rows], dtype=np.int64) - 1,
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3] if runs is None else runs.areas.astype(np.float64),
        runs=runs,
        heights=np.array([row["segmentation"]["size"][0] for row in rows], dtype=np.int64) if masks else None,
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
    )


def runs_of(segmentations: Sequence[Segmentation], boxes: np.ndarray, size: tuple[int, int]) -> Runs:
    """The masks of an image's objects, as cocoapi draws them. `boxes`, [n 4], x, y, width, height, are drawn for those
    without a mask. No bitmap is larger than its object."""
    drawn, corners, given = [], [], []  # an object's place is that of its kind
    is_given = np.array([isinstance(segmentation, tuple) for segmentation in segmentations], dtype=bool)
    for segmentation, (x, y, width, height) in zip(segmentations, boxes.tolist(), strict=True):
        if isinstance(segmentation, tuple):
            given.append(segmentation[0].astype(np.int64))
            continue
        corner = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
        polygons = [np.array(corner)] if segmentation is None else segmentation
        points, offsets, _ = pack_polygons([polygons])
        low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, size[::-1])
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, low, size[::-1])
        every, window = np.array([[0, len(polygons)]]), (int(high[1] - low[1]), int(high[0] - low[0]))
        drawn.append(coco_raster(points, offsets, every, low[None].astype(np.float64), np.ones((1, 2)), window)[0])
        corners.append(low[::-1])
    heights = np.array([len(window) for window in drawn], dtype=np.int64)
    moved = move(from_bitmaps(drawn), heights, size[0], np.array(corners, dtype=np.int64).reshape(-1, 2))
    lengths = np.array([len(counts) for counts in given], dtype=np.int64)
    read = from_counts(np.concatenate([np.zeros(0, np.int64), *given]), lengths)
    place = np.where(is_given, len(drawn) + np.cumsum(is_given), np.cumsum(~is_given)) - 1
    return select(concatenate([moved, read]), place)
