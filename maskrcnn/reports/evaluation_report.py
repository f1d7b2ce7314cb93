"""What an evaluation found, as sections of a page: curves, kinds of error, confusion, calibration, tables by class."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..evaluation.coco import Curves
from ..evaluation.errors import (
    CORRECT,
    ERRORS,
    Judgement,
    best_operating,
    calibration,
    confusion,
    gains,
    missed,
    operating_points,
)
from ..evaluation.operating import operating_words
from .page import table
from .plots import Line, Mark, bar_chart, heat_table, line_chart

NAMES = {"box": "Boxes", "mask": "Masks", "boundary": "Boundaries", "keypoint": "Keypoints"}
MEASURES = {"box": "IoU", "mask": "IoU", "boundary": "boundary IoU", "keypoint": "OKS"}
_IOUS = (0, 2, 4, 5, 6, 8)  # the thresholds of `Curves.ious` that are plotted: 0.50, 0.60, 0.70, 0.75, 0.80, 0.90
_MOST_LINES = 12  # classes in one plot
_MOST_CLASSES = 40  # of a confusion matrix; of more the most frequent mistakes are listed
_LISTED = 25
_KINDS = {
    "classification": "wrong class",
    "localisation": "wrong place",
    "both": "wrong class and place",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed",
}

Metrics = Mapping[str, Any]


def curve_sections(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Precision over recall of each task."""
    for task, of_task in curves.items():
        charts = _by_iou(of_task, MEASURES[task]) + _by_class(of_task, MEASURES[task])
        if charts:
            yield f"<h2>{NAMES[task]}: precision over recall</h2><div class=charts>{charts}</div>"


def _by_iou(curves: Curves, measure: str) -> str:
    known = ~np.isnan(curves.precision[0, 0])
    if not known.any():
        return ""
    means = {i: curves.precision[i][:, known].mean(axis=1) for i in _IOUS}
    lines = [
        Line(f"{measure} {curves.ious[i]:.2f}: {mean.mean():.3f}", curves.recall, mean) for i, mean in means.items()
    ]
    return line_chart(f"Mean of the classes, by {measure}", lines, x="recall", y="precision", shares=True)


def _by_class(curves: Curves, measure: str) -> str:
    means = curves.precision[0].mean(axis=0)
    known = [k for k in np.argsort(-means, kind="stable").tolist() if not np.isnan(means[k])]
    if len(known) < 2:
        return ""
    lines = [Line(f"{curves.names[k]}: {means[k]:.3f}", curves.recall, curves.precision[0, :, k]) for k in known]
    some = f", the best {_MOST_LINES}" if len(known) > _MOST_LINES else ""
    title = f"Classes at {measure} 0.50{some}"
    return line_chart(title, lines[:_MOST_LINES], x="recall", y="precision", shares=True)


# --- from a judgement ------------------------------------------------------------------------------------------------


def judgement_sections(judgement: Judgement, thresholds: np.ndarray, names: Sequence[str], task: str) -> Iterator[str]:
    """Scores, kinds of error, confusion and calibration of the detections of one task, at these thresholds, [K]."""
    what = NAMES[task].lower()
    yield (
        f"<h2>Scores and thresholds, {what}</h2><p class=under>A detection counts as right from IoU 0.5.</p>"
        f"<div class=charts>{_over_thresholds(judgement)}{_f1_by_class(judgement, names)}{_calibrated(judgement)}</div>"
    )
    yield (
        f"<h2>Kinds of error, {what}</h2><p class=under>As TIDE (Bolya et al. 2020) defines them.</p>"
        f"<div class=charts>{_errors(judgement, thresholds)}{_gains(judgement)}</div>"
    )
    yield _confused(judgement, thresholds, names)


def _over_thresholds(judgement: Judgement) -> str:
    at, precision, recall = operating_points(judgement)
    best = best_operating(judgement)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    lines = [Line("precision", at, precision), Line("recall", at, recall), Line("F1", at, f1)]
    marks = [] if best is None else [Mark(best.threshold, f"best F1 {best.f1:.3f} at score {best.threshold:.2f}")]
    return line_chart("All classes, over the threshold", lines, x="lowest score that counts", marks=marks, shares=True)


def _f1_by_class(judgement: Judgement, names: Sequence[str]) -> str:
    known = np.argsort(-judgement.wanted, kind="stable")[: (judgement.wanted > 0).sum()].tolist()
    if len(known) < 2:
        return ""
    lines = []
    for k in known[:_MOST_LINES]:
        at, precision, recall = operating_points(judgement, k)
        best = best_operating(judgement, k)
        found = "nothing right" if best is None else f"{best.f1:.3f} at {best.threshold:.2f}"
        lines.append(Line(f"{names[k]}: {found}", at, 2 * precision * recall / np.maximum(precision + recall, 1e-12)))
    some = f", the {_MOST_LINES} with most objects" if len(known) > _MOST_LINES else ""
    return line_chart(f"F1 of the classes{some}", lines, x="lowest score that counts", y="F1", shares=True)


def _calibrated(judgement: Judgement) -> str:
    bins = calibration(judgement)
    total = sum(one.count for one in bins)
    error = sum(one.count * abs(one.correct - one.score) for one in bins) / max(total, 1)
    lines = [
        Line("share that is right", [one.score for one in bins], [one.correct for one in bins], dots=True),
        Line("if scores were probabilities", [0, 1], [0, 1], dashed=True, colour=7),
    ]
    title = f"Calibration: scores are off by {error:.3f} in the mean"
    return line_chart(title, lines if bins else [], x="score", y="right", shares=True)


def _errors(judgement: Judgement, thresholds: np.ndarray) -> str:
    chosen = np.bincount(judgement.kinds[judgement.above(thresholds)], minlength=len(ERRORS) + 2)
    right = int(chosen[CORRECT])
    rows = [("right", float(right), f"{right:,}")]
    rows += [(_KINDS[name], float(n), f"{n:,}") for name, n in zip(ERRORS, chosen[1:].tolist(), strict=False)]
    lost = int((judgement.real & ~judgement.found_at(thresholds)).sum())
    rows.append(("objects not found", float(lost), f"{lost:,}"))
    counted = right + int(chosen[1 : len(ERRORS) + 1].sum())
    note = f"{counted:,} detections, {int(judgement.wanted.sum()):,} objects"
    return bar_chart("Detections that reach the threshold of their class", rows, note)


def _gains(judgement: Judgement) -> str:
    rows = [(_KINDS[name], gain, f"+{max(gain, 0):.3f}") for name, gain in gains(judgement).items()]
    lost = int(missed(judgement).sum())
    note = f"All detections count here. {lost:,} objects have no detection that is wrong in class or place alone."
    return bar_chart("AP at IoU 0.5 that each kind costs", rows, note)


def _confused(judgement: Judgement, thresholds: np.ndarray, names: Sequence[str]) -> str:
    counts = confusion(judgement, thresholds)
    heading = (
        "<h2>Confusion of classes</h2><p class=under>Rows: the objects' classes. Columns: what was found there.</p>"
    )
    rows, columns = [*names, "background"], [*names, "not found"]
    used = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(used) <= _MOST_CLASSES:
        keep = sorted({*used.tolist(), len(names)})
        shown = heat_table(["", *(columns[k] for k in keep)], [rows[k] for k in keep], counts[np.ix_(keep, keep)])
        return heading + shown
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off[:-1, :-1], axis=None)[:_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if off[:-1, :-1].flat[place]]
    listed = [[rows[a], columns[b], f"{off[a, b]:,}"] for a, b in pairs]
    return heading + table(["class", "taken for", "times"], listed)


# --- tables ----------------------------------------------------------------------------------------------------------


def present(metrics: Metrics) -> list[str]:
    """The tasks that were measured."""
    return [task for task in NAMES if task in metrics]


def number(value: float | None) -> str:
    """Three decimals; a dash for what was not measured."""
    return "–" if value is None or value < 0 else f"{value:.3f}"


def share(value: float) -> str:
    """In per cent; a dash for what was not measured."""
    return "–" if value < 0 else f"{value:.1%}"


def figures_table(metrics: Metrics) -> str:
    names = list(dict.fromkeys(name for task in present(metrics) for name in metrics[task]))
    rows = [[NAMES[task], *(number(metrics[task].get(name)) for name in names)] for task in present(metrics)]
    sizes = "s, m, l: objects with an area below 32 × 32 pixels, below 96 × 96 pixels, and larger."
    return "<h2>Average precision and recall</h2>" + table(["", *names], rows) + f"<p class=under>{sizes}</p>"


def class_table(metrics: Metrics) -> str:
    tasks = present(metrics)
    figures = [(task, name) for task in tasks for name in ("AP", "AP50")]
    head = ["class", "objects", "predictions", *(f"{NAMES[task].lower()} {name}" for task, name in figures)]
    operating = {"F1": "F1", "precision": "precision", "recall": "recall", "threshold": "from score"}
    known = any("operating" in entry for entry in metrics.get("per_class", ()))
    head += [*operating.values(), "counts off by"] if known else []
    rows = [
        [entry["name"], f"{entry['objects']:,}", f"{entry['predictions']:,}"]
        + [number(entry[task][name]) for task, name in figures]
        + [number(entry["operating"][name]) for name in operating if known]
        + [share(entry["operating"]["count_error"])] * known
        for entry in metrics.get("per_class", ())
    ]
    words = " ".join(operating_words(metrics["operating"])) if known else ""
    return "<h2>By class</h2>" + table(head, rows) + f"<p class=under>{escape(words)}</p>"
