"""One page that shows what a run or an evaluation did: `report.html`, a single file that needs no network."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..config import flat
from ..data.dataset import Dataset
from ..evaluation.coco import Curves
from ..evaluation.errors import Judgement, best_thresholds
from ..thresholds import in_words
from .evaluation_report import (
    MEASURES,
    NAMES,
    class_table,
    curve_sections,
    figures_table,
    judgement_sections,
    number,
    present,
    share,
)
from .mistakes import mistakes_section
from .page import page_path, table, tiles, write_page
from .plots import STYLE, Line, line_chart

Records = Sequence[Mapping[str, Any]]


def write_report(
    out: Path,
    *,
    metrics: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
    curves: Mapping[str, Curves] | None = None,
    judgement: Judgement | None = None,
    thresholds: np.ndarray | None = None,
    dataset: Dataset | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "Mask R-CNN",
    command: str = "",
    kept: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page to `out`, a file or a folder that gets `report.html`, and returns its path.

    Args:
        metrics, curves: from `evaluation.coco.measure_rows`.
        history: the records of a run's `log.jsonl`. Those of kind "step" and "evaluation" are plotted.
        judgement: of the masks, else of the boxes, on `dataset`, from `evaluation.errors.judge_rows`.
        thresholds: float64 [K], of its classes; default: those of the best F1.
        settings: the settings of the run. Nested mappings become dotted names.
        command: how to do the same on other data.
        kept: sections of an earlier page from `kept_sections`, instead of a judgement.
    """
    records = list(history)
    steps, evaluations = ([r for r in records if r.get("kind") == kind] for kind in ("step", "evaluation"))
    judged = dict(kept or {})
    if judgement is not None and dataset is not None:
        names = [category.name for category in dataset.categories]
        task = "box" if judgement.truth.runs is None else "mask"
        least = best_thresholds(judgement) if thresholds is None else thresholds
        judged = {
            "images": mistakes_section(dataset, judgement, least),
            "detections": "\n".join(judgement_sections(judgement, least, names, task)),
        }
    body = [
        f"<h1>{escape(title)}</h1><p class=under>{escape(_counts(metrics))}</p>",
        tiles(_numbers(metrics, steps)),
        *(f"<p class=note>{escape(note)}</p>" for note in metrics.get("notes", ())),
        _marked(judged, "images"),
        _training(steps, evaluations),
        _marked(judged, "detections"),
        *curve_sections(curves or {}),
        figures_table(metrics),
        class_table(metrics),
        f"<h2>The same on your own data</h2><pre>{escape(command)}</pre>" if command else "",
        _settings(settings or {}),
    ]
    return write_page(page_path(out), title, body, STYLE)


def _marked(judged: Mapping[str, str], name: str) -> str:
    """A section that `kept_sections` finds again."""
    return f"<!--{name}-->{judged[name]}<!--/{name}-->" if name in judged else ""


def kept_sections(page: Path, metrics: Path) -> dict[str, str]:
    """The sections of a page that need the detections; none if the metrics are newer, of a later evaluation."""
    if not page.is_file() or (metrics.is_file() and metrics.stat().st_mtime > page.stat().st_mtime):
        return {}
    text, found = page.read_text(encoding="utf-8"), {}
    for name in ("images", "detections"):
        _, begun, rest = text.partition(f"<!--{name}-->")
        section, ended, _ = rest.partition(f"<!--/{name}-->")
        if begun and ended:
            found[name] = section
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, without lines that were cut short because the run was killed."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _counts(metrics: Mapping[str, Any]) -> str:
    counts = [f"{metrics[name]:,} {name}" for name in ("images", "objects", "predictions") if name in metrics]
    if "max_detections" in metrics:
        counts.append(f"at most {metrics['max_detections']} detections per image and class")
    return ", ".join(counts)


def _numbers(metrics: Mapping[str, Any], steps: Records) -> Iterator[tuple[str, str]]:
    for task in present(metrics):
        yield f"{NAMES[task]}, AP", number(metrics[task].get("AP"))
        yield f"{NAMES[task]}, AP at {MEASURES[task]} 0.5", number(metrics[task].get("AP50"))
    if operating := metrics.get("operating"):
        yield f"F1, from score {in_words((operating['lowest'], operating['highest']))}", number(operating["F1"])
        yield "counts are off by", share(operating["count_error"])
    if steps:
        yield "training steps", f"{steps[-1]['step']:,}"
        if "seconds" in steps[-1]:
            yield "training time", _duration(steps[-1]["seconds"])


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in flat(settings).items()]
    return "<details><summary>Settings</summary>" + table(["", "value"], rows) + "</details>" if rows else ""


# --- the training ----------------------------------------------------------------------------------------------------


def _training(steps: Records, evaluations: Records) -> str:
    """Losses, average precision and the learning rate over the steps."""
    charts = [
        line_chart("Loss", _losses(steps, evaluations), x="step", floor=0.0),
        line_chart("AP on the validation images", _progress(evaluations), x="step", floor=0.0),
        line_chart(
            "Learning rate",
            [Line("learning rate", [r["step"] for r in steps if "lr" in r], [r["lr"] for r in steps if "lr" in r])],
            x="step", floor=0.0,
        ) if any("lr" in record for record in steps) else "",
    ]  # fmt: skip
    return f"<h2>Training</h2><div class=charts>{''.join(charts)}</div>" if any(charts) else ""


def _losses(steps: Records, evaluations: Records) -> Iterator[Line]:
    at = [record["step"] for record in steps]
    if steps:
        yield Line("total", at, [record["loss"] for record in steps], colour=7)
    for place, name in enumerate(sorted({name for record in steps for name in record.get("losses", {})})):
        yield Line(name, at, [record.get("losses", {}).get(name, np.nan) for record in steps], colour=place)
    seen = [(record["step"], record["loss"]) for record in evaluations if record.get("loss") is not None]
    if seen:
        yield Line("total, validation", *zip(*seen, strict=True), dashed=True, colour=7, dots=True)


def _progress(evaluations: Records) -> Iterator[Line]:
    at = [record["step"] for record in evaluations]
    for task, name in NAMES.items():
        values = [(record.get("metrics", {}).get(task) or {}).get("AP", -1.0) for record in evaluations]
        if max(values, default=-1.0) >= 0:
            yield Line(name, at, [np.nan if value < 0 else value for value in values], dots=True)
