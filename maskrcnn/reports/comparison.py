"""Several runs on one page: their curves over each other, the settings that differ, and which differences of AP are
more than noise."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import flat
from ..evaluation.bootstrap import (
    FEW_IMAGES,
    LEVEL,
    Estimate,
    Spread,
    class_differences,
    difference,
    estimate,
    spread,
)
from ..evaluation.matches import Matches
from .evaluation_report import NAMES, number, present
from .folders import RunFolder
from .page import page_path, table, write_page
from .plots import STYLE, Interval, Line, interval_chart, line_chart

_LISTED = 8  # classes in a sentence
_CHARTED = 30  # classes in a chart
_TASKS = ("mask", "box")  # of which AP is compared; the first that both have


class Pair(NamedTuple):
    """A run beside the first one."""

    base: RunFolder
    other: RunFolder
    task: str  # box or mask; empty if AP is not compared
    reason: str  # why it is not
    spreads: tuple[Spread, ...] = ()


def compare(runs: Sequence[RunFolder], lists: int = 200) -> list[Pair]:
    """The first run beside each other one, with intervals of `lists` drawn lists of images."""
    base, known = runs[0], {}

    def of(run: RunFolder, task: str) -> Spread:
        if (run.name, task) not in known:
            known[run.name, task] = spread(run.matches[task], lists)
        return known[run.name, task]

    pairs = []
    for other in runs[1:]:
        task = next((task for task in _TASKS if task in base.matches and task in other.matches), "")
        reason = _why_not(base, other, task)
        spreads = () if reason else (of(base, task), of(other, task))
        pairs.append(Pair(base, other, "" if reason else task, reason, spreads))
    return pairs


def _why_not(base: RunFolder, other: RunFolder, task: str) -> str:
    """Why the APs of two runs cannot be compared; empty if they can."""
    for run in (base, other):
        if not run.matches:
            return f"{run.name} has no matches.npz, which every evaluation of this release leaves: evaluate it again"
    if not task:
        return f"{base.name} and {other.name} measured different things"
    a, b = base.matches[task], other.matches[task]
    if a.fingerprint != b.fingerprint:
        return f"{other.name} was evaluated on other annotations than {base.name} ({_images(b)}, not {_images(a)})"
    if not np.array_equal(np.sort(a.image_ids), np.sort(b.image_ids)):
        return f"{other.name} was evaluated on other images of the same annotations ({_images(b)}, not {_images(a)})"
    if not np.array_equal(a.image_ids, b.image_ids) or a.names != b.names:
        return f"{other.name} was evaluated with images or classes in another order than {base.name}"
    return ""


def _images(matches: Matches) -> str:
    return f"{len(matches.image_ids):,} images, {len(matches.object_labels):,} objects, {len(matches.names)} classes"


def write_comparison(out: Path, runs: Sequence[RunFolder], pairs: Sequence[Pair]) -> Path:
    """Writes the page to `out`, a file or a folder that gets `report.html`, and returns its path."""
    body = [
        f"<h1>{len(runs)} runs compared</h1><p class=under>{escape(', '.join(run.name for run in runs))}</p>",
        "<h2>In words</h2>" + "".join(f"<p class=word>{escape(sentence)}</p>" for sentence in sentences(pairs)),
        _overview(runs, pairs),
        _curves(runs),
        *(_by_class(pair) for pair in pairs if pair.task),
        _settings(runs),
    ]
    return write_page(page_path(out), " and ".join(run.name for run in runs[:3]), body, STYLE + _STYLE)


_STYLE = "p.word { margin: .5rem 0; max-width: 60rem; } td { white-space: nowrap; }"


# --- words -----------------------------------------------------------------------------------------------------------


def sentences(pairs: Sequence[Pair]) -> Iterator[str]:
    """What the comparison shows, for a page or a terminal."""
    for pair in pairs:
        if not pair.task:
            yield f"AP is not compared: {pair.reason}."
            continue
        yield from _words(pair)
    for name in dict.fromkeys(_limits(pair) for pair in pairs if pair.task):
        if name:
            yield name
    if any(pair.task and len(pair.spreads[0].drawn) for pair in pairs):
        yield (
            f"An interval ({LEVEL:.0%}) says how much AP depends on the choice of the images of the evaluation. It "
            "does not say how much it depends on the seed of a training: train twice to see that."
        )


def _words(pair: Pair) -> Iterator[str]:
    base, other = pair.spreads
    found = difference(base, other)
    what = f"{pair.other.name} against {pair.base.name}, AP of {NAMES[pair.task].lower()}"
    change = f"{base.ap:.3f} → {other.ap:.3f}, {_signed(found)}"
    if np.isnan(base.ap):
        yield f"{what}: there is no object to find."
        return
    if np.isnan(found.low):
        yield f"{what}: {change}. Without --bootstrap nobody knows what of that is noise."
        return
    verdict = f"{'better' if found.value > 0 else 'worse'} by more than noise" if found.outside else "within noise"
    yield f"{what}: {change}: {verdict}."
    classes = class_differences(base, other)
    judged = {k: one for k, one in classes.items() if not np.isnan(one.low)}
    names = pair.base.matches[pair.task].names
    outside = sorted((k for k, one in judged.items() if one.outside), key=lambda k: -abs(judged[k].value))
    if not outside:
        yield f"Of {len(judged)} classes none differs by more than noise{_few(classes, judged)}."
        return
    parts = []
    for word, sign in (("better", 1), ("worse", -1)):
        some = [f"{names[k]} {judged[k].value:+.3f}" for k in outside if judged[k].value * sign > 0]
        more = f" and {len(some) - _LISTED} more" if len(some) > _LISTED else ""
        if some:
            parts.append(f"{len(some)} {word} ({', '.join(some[:_LISTED])}{more})")
    chance = (1 - LEVEL) * len(judged)
    yield (
        f"Of {len(judged)} classes {len(outside)} {'differ' if len(outside) > 1 else 'differs'} by more than "
        f"noise: {', '.join(parts)}; by chance alone about {chance:.1f} would{_few(classes, judged)}."
    )


def _few(classes: Mapping[int, Estimate], judged: Mapping[int, Estimate]) -> str:
    few = len(classes) - len(judged)
    return f"; {few} with objects in fewer than {FEW_IMAGES} images are not judged" if few else ""


def _limits(pair: Pair) -> str:
    limits = [run.metrics.get("max_detections") for run in (pair.base, pair.other)]
    if limits[0] == limits[1]:
        return ""
    names = pair.other.name, pair.base.name
    return f"Of {names[0]} at most {limits[1]} detections of an image and class count, of {names[1]} {limits[0]}."


def _signed(one: Estimate) -> str:
    if np.isnan(one.low):
        return f"{one.value:+.3f}"
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


# --- tables and charts -----------------------------------------------------------------------------------------------


def _overview(runs: Sequence[RunFolder], pairs: Sequence[Pair]) -> str:
    tasks = [task for task in NAMES if any(task in present(run.metrics) for run in runs)]
    spreads = {run.name: (pair.task, one) for pair in pairs if pair.task
               for run, one in zip((pair.base, pair.other), pair.spreads, strict=True)}  # fmt: skip
    rows = []
    for run in runs:
        row = [run.name, f"{run.metrics['images']:,}" if "images" in run.metrics else "–"]
        row.append(f"{run.steps[-1]['step']:,}" if run.steps else "–")
        for task in tasks:
            figures = run.metrics.get(task) or {}
            text = number(figures.get("AP"))
            if run.name in spreads and spreads[run.name][0] == task and len(spreads[run.name][1].drawn):
                found = estimate(spreads[run.name][1])
                text += f" ({found.low:.3f} to {found.high:.3f})"
            row += [text, *(number(figures.get(name)) for name in ("AP50", "APs", "APm", "APl"))]
        rows.append(row)
    head = ["run", "images", "steps"]
    head += [f"{NAMES[task].lower()} {name}" for task in tasks for name in ("AP", "AP50", "APs", "APm", "APl")]
    return "<h2>Runs</h2>" + table(head, rows)


def _curves(runs: Sequence[RunFolder]) -> str:
    """Loss, learning rate and AP of the runs that were trained; a run has the same colour in every chart."""
    loss, rate, progress = [], [], {task: [] for task in NAMES}
    for colour, run in enumerate(runs):
        steps = [record for record in run.steps if "loss" in record]
        loss.append(Line(run.name, [r["step"] for r in steps], [r["loss"] for r in steps], colour=colour))
        seen = [(r["step"], r["loss"]) for r in run.evaluations if r.get("loss") is not None]
        at, values = zip(*seen, strict=True) if seen else ((), ())
        loss.append(Line(f"{run.name}, validation", at, values, dashed=True, colour=colour, dots=True))
        rates = [r for r in run.steps if "lr" in r]
        rate.append(Line(run.name, [r["step"] for r in rates], [r["lr"] for r in rates], colour=colour))
        for task, lines in progress.items():
            figures = [(r["step"], (r.get("metrics", {}).get(task) or {}).get("AP", -1.0)) for r in run.evaluations]
            known = [(step, value) for step, value in figures if value >= 0]
            at, values = zip(*known, strict=True) if known else ((), ())
            lines.append(Line(run.name, at, values, colour=colour, dots=True))
    charts = line_chart("Loss", loss, x="step", floor=0.0)
    for task, lines in progress.items():
        charts += line_chart(f"{NAMES[task]}: AP on the validation images of each run", lines, x="step", floor=0.0)
    charts += line_chart("Learning rate", rate, x="step", floor=0.0)
    return f"<h2>Training</h2><div class=charts>{charts}</div>" if charts else ""


def _by_class(pair: Pair) -> str:
    base, other = pair.spreads
    found, names = class_differences(base, other), pair.base.matches[pair.task].names
    objects = np.bincount(pair.base.matches[pair.task].object_labels, minlength=len(names))
    order = sorted(found, key=lambda k: (not found[k].outside, -abs(found[k].value)))
    rows, looks = [], []
    for k in order:
        one = found[k]
        says = (
            "–"
            if np.isnan(one.low)
            else ("▲ better" if one.value > 0 else "▼ worse")
            if one.outside
            else "within noise"
        )
        interval = "–" if np.isnan(one.low) else f"{one.low:+.3f} to {one.high:+.3f}"
        counts, values = (objects[k], base.images[k]), (base.classes[k], other.classes[k])
        row = [names[k], *(f"{count:,}" for count in counts), *map(number, values), f"{one.value:+.3f}", interval, says]
        rows.append(row)
        looks.append([""] * 7 + ["font-weight:600" if one.outside else "color:var(--soft)"])
    head = ["class", "objects", "images", pair.base.name, pair.other.name, "difference", f"{LEVEL:.0%} interval", ""]
    shown = sorted(order[:_CHARTED], key=lambda k: -found[k].value)
    some = f", the {_CHARTED} that say most" if len(order) > _CHARTED else ""
    chart = interval_chart(
        f"Difference of AP{some}", [Interval(names[k], *found[k], strong=found[k].outside) for k in shown]
    )
    return (
        f"<h2>{escape(pair.other.name)} against {escape(pair.base.name)}, {NAMES[pair.task].lower()} by class</h2>"
        f"<p class=under>AP. The same {len(base.drawn):,} drawn lists of images for both runs.</p>"
        f"<div class=charts>{chart}</div><details open><summary>Table</summary>{table(head, rows, looks)}</details>"
    )


def _settings(runs: Sequence[RunFolder]) -> str:
    """The settings that are not the same in all runs."""
    every = [flat(run.settings) for run in runs]
    names = [name for name in dict.fromkeys(name for one in every for name in one)
             if len({repr(one.get(name)) for one in every}) > 1]  # fmt: skip
    if not names:
        return "<h2>Settings that differ</h2><p class=under>none</p>"
    rows = [[name, *(str(one[name]) if name in one else "–" for one in every)] for name in names]
    return "<h2>Settings that differ</h2>" + table(["", *(run.name for run in runs)], rows)
