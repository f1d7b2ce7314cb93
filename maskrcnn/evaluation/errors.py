"""What is right and what is wrong with each detection: the six kinds of error of TIDE (Bolya et al. 2020, section 2.2),
the confusion of classes, and the score that is the best threshold.

Everything follows from one matching at IoU 0.5, by masks if both sides have them. It is that of COCO's evaluation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..categories import Category
from ..data.dataset import Dataset
from ..ops.runs import select
from .coco import image_numbers, renumber
from .sparse import Objects, close_pairs, curve_of, found_of, match, truth_of

IOU, BACKGROUND_IOU = 0.5, 0.1  # from which a detection is right, and below which it lies on background
ERRORS: tuple[str, ...] = ("classification", "localisation", "both", "duplicate", "background")
KINDS = ("correct", *ERRORS, "ignored")
CORRECT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))
FEW = 20  # objects of a class, below which its threshold is that of all classes


class Operating(NamedTuple):
    """Detections with at least this score."""

    threshold: float  # 0..1
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Judgement:
    """Detections and objects, and what each detection is. D detections, N objects, K classes."""

    truth: Objects
    found: Objects  # those that count, by image and class, best first
    rows: np.ndarray  # int64 [D], the places of these among all detections
    kinds: np.ndarray  # int64 [D], indices into KINDS
    objects: np.ndarray  # int64 [D], the object that is matched or that explains the error; -1 for none
    classes: int

    @property
    def real(self) -> np.ndarray:
        """bool [N], objects that can be found or missed: all but crowds."""
        return ~_crowds(self.truth)

    @cached_property
    def wanted(self) -> np.ndarray:
        """int64 [K], how many of them each class has."""
        return np.bincount(self.truth.labels[self.real], minlength=self.classes)

    def found_at(self, thresholds: np.ndarray) -> np.ndarray:
        """bool [N], objects with a correct detection of at least its class's threshold, float64 [K]."""
        chosen = (self.kinds == CORRECT) & self.above(thresholds)
        found = np.zeros(len(self.truth.images), dtype=bool)
        found[self.objects[chosen]] = True
        return found

    def above(self, thresholds: np.ndarray) -> np.ndarray:
        """bool [D], detections of at least the threshold of their class, float64 [K]."""
        return _scores(self.found) >= thresholds[self.found.labels]


def judge_rows(
    dataset: Dataset,
    rows: Iterable[Mapping[str, Any]],
    *,
    task: str,
    max_detections: int,
    categories: Sequence[Category] | None = None,
) -> Judgement:
    """The rows of `coco.measure_rows` judged by their boxes or, if `task` is "mask", by their masks.

    Images are numbered by their place in the data set. Rows of categories that the data set lacks do not count.
    """
    masks = task == "mask"
    numbers = image_numbers(dataset) - 1
    kept = renumber(dataset, rows, dataset.categories if categories is None else categories, {})
    found = found_of([row for row in kept if not masks or row.get("segmentation")], masks=masks)
    truth = truth_of(dataset, numbers, masks=masks)
    judgement = judge(truth, found, len(dataset.categories), max_detections=max_detections)
    place = np.argsort(numbers)  # of each number in the data set
    return replace(
        judgement,
        truth=replace(truth, images=place[truth.images]),
        found=replace(judgement.found, images=place[judgement.found.images]),
    )


def judge(truth: Objects, found: Objects, classes: int, *, max_detections: int) -> Judgement:
    """Every detection judged; the best `max_detections` of an image and class count, as in COCO's evaluation."""
    scores = _scores(found)
    order = np.lexsort((-scores, found.images, found.labels))
    begins = np.flatnonzero(np.diff(found.labels[order], prepend=-1) | np.diff(found.images[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    order = order[rank < max_detections]
    place = np.full(len(scores), -1)
    place[order] = np.arange(len(order))

    number, objects, ious = close_pairs(truth, found, least=BACKGROUND_IOU, of_one_class=False)
    number = place[number]
    crowds, same = _crowds(truth), truth.labels[objects] == found.labels[order][number]
    kept = (number >= 0) & (same | ~crowds[objects])
    number, objects, ious, same = number[kept], objects[kept], ious[kept], same[kept]
    matched = _matched((number[same], objects[same], ious[same]), len(order), crowds)
    hit = matched >= 0
    kinds = np.full(len(order), BACKGROUND)
    kinds[hit] = np.where(crowds[matched[hit]], IGNORED, CORRECT)
    explained = np.where(hit, matched, -1)

    used = np.zeros(len(crowds), dtype=bool)
    used[matched[hit]] = True
    open_ = ~hit[number] & ~crowds[objects]
    near = _Nearest(number[open_], objects[open_], ious[open_], len(order))
    own, other = near.best(same[open_]), near.best(~same[open_])
    repeated = near.best(same[open_] & used[objects[open_]])
    wrong = [  # in TIDE's order; the first that holds
        (LOCALISATION, own, (own.iou >= BACKGROUND_IOU) & (own.iou <= IOU)),
        (CLASSIFICATION, other, other.iou >= IOU),
        (DUPLICATE, repeated, repeated.iou >= IOU),
        (BOTH, other, np.maximum(own.iou, other.iou) > BACKGROUND_IOU),
    ]
    left = ~hit
    for kind, cause, holds in wrong:
        chosen = left & holds
        kinds[chosen], explained[chosen] = kind, cause.object[chosen]
        left &= ~chosen
    return Judgement(truth, _take(found, order), order, kinds, explained, classes)


# --- TIDE ------------------------------------------------------------------------------------------------------------


def missed(judgement: Judgement) -> np.ndarray:
    """bool [N], objects that no detection finds, and none would if its class or its place were right."""
    reached = np.isin(judgement.kinds, (CORRECT, CLASSIFICATION, LOCALISATION))
    free = judgement.real
    free[judgement.objects[reached]] = False
    return free


def average_precision(judgement: Judgement) -> float:
    """AP at IoU 0.5, the mean of the classes that have objects; -1 if none has."""
    counts = judgement.kinds != IGNORED
    found, correct = judgement.found, judgement.kinds == CORRECT
    return _mean_ap(found.labels[counts], _scores(found)[counts], correct[counts], judgement.wanted)


def gains(judgement: Judgement) -> dict[str, float]:
    """By how much `average_precision` would rise without the errors of each kind, and of "missed" objects.

    A detection of a wrong class or place is put right if its object has no other detection, the best one if several
    have this object; every other error is taken away, and so are missed objects (TIDE, section 2.3).
    """
    base, kinds = average_precision(judgement), judgement.kinds
    found, scores, counts = judgement.found, _scores(judgement.found), kinds != IGNORED
    has_one = np.zeros(len(judgement.truth.images), dtype=bool)
    has_one[judgement.objects[kinds == CORRECT]] = True
    mine = np.flatnonzero(np.isin(kinds, (CLASSIFICATION, LOCALISATION)))
    mine = mine[~has_one[judgement.objects[mine]]]
    mine = mine[np.argsort(-scores[mine], kind="stable")]
    best = np.zeros(len(kinds), dtype=bool)  # of those that could be its detection, for each object
    best[mine[np.unique(judgement.objects[mine], return_index=True)[1]]] = True
    gained = {}
    for kind, name in enumerate(ERRORS, 1):
        right = best & (kinds == kind)
        kept = counts & ((kinds != kind) | right)
        labels = found.labels.copy()
        labels[right] = judgement.truth.labels[judgement.objects[right]]
        correct = (kinds == CORRECT) | right
        gained[name] = _mean_ap(labels[kept], scores[kept], correct[kept], judgement.wanted) - base
    lost = np.bincount(judgement.truth.labels[missed(judgement)], minlength=judgement.classes)
    without = _mean_ap(found.labels[counts], scores[counts], (kinds == CORRECT)[counts], judgement.wanted, lost)
    return {**gained, "missed": without - base}


def _mean_ap(
    labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, wanted: np.ndarray, lost: np.ndarray | int = 0
) -> float:
    """The mean over classes that have objects, `wanted`; without `lost` ones, but not fewer than one."""
    values, left = [], np.maximum(wanted - lost, 1)
    for label in np.flatnonzero(wanted).tolist():
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        hit = correct[mine][None]
        values.append(curve_of(hit, np.zeros_like(hit), scores[mine], int(left[label]))[0].mean())
    return float(np.mean(values)) if values else -1.0


# --- thresholds, confusion, calibration ------------------------------------------------------------------------------


def operating_points(judgement: Judgement, label: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from high to low with the precision and recall that each gives, float64 [n], of a class or of all."""
    mine = judgement.kinds != IGNORED
    if label is not None:
        mine &= judgement.found.labels == label
    wanted = int(judgement.wanted.sum() if label is None else judgement.wanted[label])
    order = np.argsort(-_scores(judgement.found)[mine], kind="stable")
    scores, correct = _scores(judgement.found)[mine][order], (judgement.kinds[mine] == CORRECT)[order]
    last = np.flatnonzero(np.diff(scores, append=-1.0))  # equal scores come together
    right = np.cumsum(correct)[last].astype(np.float64)
    between = np.append(scores[last][1:], scores[last][-1:])
    thresholds = (scores[last] + between) / 2  # half-way to the next, so that rounding moves no detection across
    return thresholds, right / (last + 1), right / max(wanted, 1)


def best_operating(judgement: Judgement, label: int | None = None) -> Operating | None:
    """The threshold of the best F1; None if nothing is right, or nothing is there to be found."""
    thresholds, precision, recall = operating_points(judgement, label)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    if not len(f1) or not f1.max() > 0:
        return None
    best = int(f1.argmax())
    return Operating(*(float(values[best]) for values in (thresholds, precision, recall, f1)))


def best_thresholds(judgement: Judgement, few: int = FEW) -> np.ndarray:
    """float64 [K], the threshold of the best F1 of each class; that of all for one with fewer than `few` objects."""
    every = best_operating(judgement)
    default = 0.5 if every is None else every.threshold
    own = [best_operating(judgement, k) if judgement.wanted[k] >= few else None for k in range(judgement.classes)]
    return np.array([default if point is None else point.threshold for point in own])


def confusion(judgement: Judgement, thresholds: np.ndarray) -> np.ndarray:
    """int64 [K + 1, K + 1]: objects of each class (rows) by the class of their detection (columns).

    Detections of at least the threshold of their class, float64 [K], are matched to objects of any class, best scores
    first. The last column counts objects without a detection, the last row detections without an object; those of
    crowds do not count.
    """
    truth, classes = judgement.truth, judgement.classes
    found = _take(judgement.found, np.flatnonzero(judgement.above(thresholds)))
    scores = _scores(found)
    order = np.lexsort((-scores, found.images))
    place = np.argsort(order)
    number, objects, ious = close_pairs(truth, found, least=IOU, of_one_class=False)
    ious = ious + 1e-9 * (truth.labels[objects] == found.labels[number])  # of equal ones, that of its own class
    crowds = _crowds(truth)
    matched = _matched((place[number], objects, ious), len(order), crowds)[place]
    hit = matched >= 0
    counted = hit & ~np.append(crowds, True)[matched]
    table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(table, (truth.labels[matched[counted]], found.labels[counted]), 1)
    np.add.at(table, (np.full(int((~hit).sum()), classes), found.labels[~hit]), 1)
    alone = judgement.real
    alone[matched[counted]] = False
    np.add.at(table, (truth.labels[alone], np.full(int(alone.sum()), classes)), 1)
    return table


class Bin(NamedTuple):
    """Detections whose scores lie in one tenth of 0..1."""

    count: int
    score: float  # their mean
    correct: float  # share of them, 0..1


def calibration(judgement: Judgement, bins: int = 10) -> list[Bin]:
    """How often detections of a score are right; bins without detections are left out."""
    counts = judgement.kinds != IGNORED
    scores, correct = _scores(judgement.found)[counts], (judgement.kinds == CORRECT)[counts]
    which = np.minimum((scores * bins).astype(np.int64), bins - 1)
    return [
        Bin(int(mine.sum()), float(scores[mine].mean()), float(correct[mine].mean()))
        for mine in (which == i for i in range(bins))
        if mine.any()
    ]


# --- parts -----------------------------------------------------------------------------------------------------------


class _Best(NamedTuple):
    iou: np.ndarray  # float64 [D], 0 for none
    object: np.ndarray  # int64 [D], -1 for none


class _Nearest:
    """For each detection the object of the highest IoU among some pairs."""

    def __init__(self, number: np.ndarray, objects: np.ndarray, ious: np.ndarray, detections: int) -> None:
        order = np.argsort(ious, kind="stable")  # the last one, which is the best, stays
        self.number, self.objects, self.ious, self.order, self.count = number, objects, ious, order, detections

    def best(self, among: np.ndarray) -> _Best:
        chosen = self.order[among[self.order]]
        iou, object_ = np.zeros(self.count), np.full(self.count, -1)
        iou[self.number[chosen]] = self.ious[chosen]
        object_[self.number[chosen]] = self.objects[chosen]
        return _Best(iou, object_)


def _matched(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], detections: int, crowds: np.ndarray) -> np.ndarray:
    number, objects, ious = pairs
    close = ious >= IOU
    return match((number[close], objects[close], ious[close]), detections, crowds, crowds, np.array([IOU]))[0]


def _crowds(truth: Objects) -> np.ndarray:
    return np.zeros(len(truth.images), dtype=bool) if truth.ignore is None else truth.ignore


def _scores(found: Objects) -> np.ndarray:
    assert found.scores is not None
    return found.scores


def _take(found: Objects, index: Sequence[int] | np.ndarray) -> Objects:
    index = np.asarray(index, dtype=np.int64)
    return replace(
        found,
        images=found.images[index],
        labels=found.labels[index],
        boxes=found.boxes[index],
        areas=found.areas[index],
        scores=_scores(found)[index],
        runs=None if found.runs is None else select(found.runs, index),
        heights=None if found.heights is None else found.heights[index],
    )
