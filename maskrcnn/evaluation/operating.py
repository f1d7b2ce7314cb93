"""What a model is worth as it is used: with one threshold for each class, and the objects counted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..categories import Category
from ..thresholds import Thresholds, for_categories, in_words
from .errors import CORRECT, IGNORED, IOU, Judgement, best_operating, best_thresholds

UNKNOWN = -1.0  # of figures, without an object
WORDS = {  # by whom thresholds were chosen
    "training": "the score threshold of the training",
    "default": "the default score threshold, as no training of ours evaluated the model",
    "these images": "the best score threshold",
}


class AtThreshold(NamedTuple):
    """Detections that reach the threshold of their class, against the objects, both without crowds."""

    precision: float  # 0..1
    recall: float
    f1: float
    count_error: float  # sum |predicted - true| / sum true, over images and classes; -1 without objects

    def to_dict(self) -> dict[str, float]:
        """As the metrics name them."""
        return {"F1": self.f1, "precision": self.precision, "recall": self.recall, "count_error": self.count_error}


def at_thresholds(judgement: Judgement, thresholds: np.ndarray, label: int | None = None) -> AtThreshold:
    """The figures of one class, or of all together. `thresholds`: float64 [K]."""
    found, truth = judgement.found, judgement.truth
    counted, real = judgement.above(thresholds) & (judgement.kinds != IGNORED), judgement.real
    if label is not None:
        counted, real = counted & (found.labels == label), real & (truth.labels == label)
    predicted, wanted = int(counted.sum()), int(real.sum())
    if not wanted:
        return AtThreshold(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    right = int((counted & (judgement.kinds == CORRECT)).sum())
    keys = np.concatenate([objects.images * judgement.classes + objects.labels for objects in (found, truth)])
    signs = np.concatenate([counted.astype(np.int64), -real.astype(np.int64)])
    off = np.abs(np.bincount(np.unique(keys, return_inverse=True)[1], weights=signs)).sum()
    f1 = 2 * right / (predicted + wanted)
    return AtThreshold(right / max(predicted, 1), right / wanted, f1, float(off) / wanted)


def operating_metrics(judgement: Judgement, thresholds: np.ndarray, task: str, chosen_by: str) -> dict[str, Any]:
    """All classes together, as the metrics hold them. `chosen_by` is a key of `WORDS`."""
    low, high = float(thresholds.min()), float(thresholds.max())
    found = {"task": task, "iou": IOU, "chosen_by": chosen_by, "lowest": low, "highest": high}
    found |= at_thresholds(judgement, thresholds).to_dict()
    if (best := best_operating(judgement)) is not None:
        found |= {"best_F1": best.f1, "best_threshold": best.threshold}
    return found


def class_operating(judgement: Judgement, thresholds: np.ndarray) -> list[dict[str, float]]:
    """The same of each class."""
    return [
        {"threshold": float(threshold), **at_thresholds(judgement, thresholds, label).to_dict()}
        for label, threshold in enumerate(thresholds)
    ]


def chosen_thresholds(judgement: Judgement, theirs: Sequence[Category], own: Sequence[Category]) -> Thresholds:
    """The thresholds of the best F1 for a model's `own` categories, measured on data with `theirs`.

    A class with few objects there, or none, gets the one of all classes. Empty if no detection is right.
    """
    every = best_operating(judgement)
    if every is None:
        return ()
    return for_categories(best_thresholds(judgement).tolist(), theirs, own, default=every.threshold)


def operating_words(operating: Mapping[str, Any]) -> list[str]:
    """What `operating_metrics` found, in sentences; none without an object."""
    if operating["F1"] == UNKNOWN:
        return []
    chosen, where = operating["chosen_by"], in_words((operating["lowest"], operating["highest"]))
    words = [
        f"at {WORDS[chosen]} ({where}), {operating['task']} IoU {operating['iou']}: F1 {operating['F1']:.3f}, "
        f"precision {operating['precision']:.3f}, recall {operating['recall']:.3f}, "
        f"counts off by {operating['count_error']:.1%}"
    ]
    if "best_F1" in operating and chosen != "these images":
        best, at = operating["best_F1"], operating["best_threshold"]
        words.append(f"best F1 on these images with one score threshold: {best:.3f}, at {at:.2f}")
    return words
