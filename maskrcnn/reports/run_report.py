"""One page that shows what a run did: `report.html`, a single file that needs no network.

The plots need matplotlib, an extra; without it the page says so and holds everything else.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..config import flat
from ..evaluation.coco import Curves
from .page import data_address, framed, page_path, table, tiles, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_PLOTS = "The plots need matplotlib: pip install 'maskrcnn[plots]', then write the report again."

_LONGEST_SIDE = 1024  # pixels; larger images are reduced before they are embedded
_NAMES = {"box": "Boxes", "mask": "Masks", "keypoint": "Keypoints"}
_MEASURES = {"box": "IoU", "mask": "IoU", "keypoint": "OKS"}
_IOUS = (0, 2, 4, 5, 6, 8)  # the thresholds of `Curves.ious` that are plotted: 0.50, 0.60, 0.70, 0.75, 0.80, 0.90
_MOST_LINES = 12  # classes in one plot
_DARK = "#1d2430"
_COLOURS = (
    "#3b6fb6", "#d1703c", "#4a9a5b", "#b84a62", "#7d62b0", "#8a6d4b", "#c78fb5", "#6f7680", "#a3a339", "#3fa3b5",
)  # fmt: skip

Records = Sequence[Mapping[str, Any]]


def write_report(
    out: Path,
    *,
    metrics: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
    overlays: Sequence[Path] = (),
    curves: Mapping[str, Curves] | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "Mask R-CNN",
    command: str = "",
) -> Path:
    """Writes the page to `out`, a file or a folder that gets `report.html`, and returns its path.

    Args:
        metrics, curves: from `evaluation.coco.measure_rows`.
        history: the records of a run's `log.jsonl`. Those of kind "step" and "evaluation" are plotted.
        overlays: images to embed, in this order, reduced to 1024 pixels if they are larger.
        settings: the settings of the run. Nested mappings become dotted names.
        command: how to do the same on other data.

    Raises FileNotFoundError if an overlay does not exist.
    """
    records = list(history)
    steps, evaluations = ([r for r in records if r.get("kind") == kind] for kind in ("step", "evaluation"))
    body = [
        f"<h1>{escape(title)}</h1><p class=under>{escape(_counts(metrics))}</p>",
        _tiles(metrics, steps),
        *(f"<p class=note>{escape(note)}</p>" for note in metrics.get("notes", ())),
        _images(overlays),
        *_plots(steps, evaluations, curves or {}),
        "<h2>Average precision and recall</h2>" + _figures_table(metrics),
        "<h2>By class</h2>" + _class_table(metrics),
        f"<h2>The same on your own data</h2><pre>{escape(command)}</pre>" if command else "",
        _settings(settings or {}),
    ]
    return write_page(page_path(out), title, body)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, without lines that were cut short because the run was killed."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


# --- words and tables ---------------------------------------------------------------------------------------------


def _counts(metrics: Mapping[str, Any]) -> str:
    counts = [f"{metrics[name]:,} {name}" for name in ("images", "objects", "predictions") if name in metrics]
    if "max_detections" in metrics:
        counts.append(f"at most {metrics['max_detections']} detections per image and class")
    return ", ".join(counts)


def _tiles(metrics: Mapping[str, Any], steps: Records) -> str:
    shown = []
    for task in _present(metrics):
        shown.append((f"{_NAMES[task]}, AP", _number(metrics[task].get("AP"))))
        shown.append((f"{_NAMES[task]}, AP at {_MEASURES[task]} 0.5", _number(metrics[task].get("AP50"))))
    if steps:
        shown.append(("training steps", f"{steps[-1]['step']:,}"))
        if "seconds" in steps[-1]:
            shown.append(("training time", _duration(steps[-1]["seconds"])))
    return tiles(shown)


def _present(metrics: Mapping[str, Any]) -> list[str]:
    return [task for task in _NAMES if task in metrics]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _number(value: float | None) -> str:
    return "–" if value is None or value < 0 else f"{value:.3f}"


def _figures_table(metrics: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for task in _present(metrics) for name in metrics[task]))
    rows = [[_NAMES[task], *(_number(metrics[task].get(name)) for name in names)] for task in _present(metrics)]
    sizes = "s, m, l: objects with an area below 32 × 32 pixels, below 96 × 96 pixels, and larger."
    return table(["", *names], rows) + f"<p class=under>{sizes}</p>"


def _class_table(metrics: Mapping[str, Any]) -> str:
    present = _present(metrics)
    figures = [(task, name) for task in present for name in ("AP", "AP50")]
    head = ["class", "objects", "predictions", *(f"{_NAMES[task].lower()} {name}" for task, name in figures)]
    best = next((task for task in ("mask", "box", "keypoint") if task in present), None)
    if best:
        figures += [(best, "F1"), (best, "threshold")]
        head += ["best F1", "at score"]
    rows = [
        [entry["name"], f"{entry['objects']:,}", f"{entry['predictions']:,}"]
        + [_number(entry[task][name]) for task, name in figures]
        for entry in metrics.get("per_class", ())
    ]
    under = "Best F1 at IoU 0.5 and the score threshold that gives it: a good first threshold for your own use."
    return table(head, rows) + (f"<p class=under>{under}</p>" if best else "")


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in flat(settings).items()]
    return "<details><summary>Settings</summary>" + table(["", "value"], rows) + "</details>" if rows else ""


# --- images and plots ---------------------------------------------------------------------------------------------


def _images(overlays: Sequence[Path]) -> str:
    figures = []
    for path in overlays:
        with Image.open(path) as image:
            figures.append(framed(image, path.name, _LONGEST_SIDE))
    return f"<h2>Predictions</h2><div class=images>{''.join(figures)}</div>" if overlays else ""


def _plots(steps: Records, evaluations: Records, curves: Mapping[str, Curves]) -> list[str]:
    if not (steps or evaluations or curves):
        return []
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return [f"<p class=note>{escape(NO_PLOTS)}</p>"]
    plots = []
    if steps or evaluations:
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_losses(left, steps, evaluations)
        _draw_progress(right, steps, evaluations)
        plots.append("<h2>Training</h2>" + _plot(figure, "losses and average precision over the steps"))
    for task, of_task in curves.items():
        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_thresholds(left, of_task, _MEASURES[task])
        _draw_classes(right, of_task, _MEASURES[task])
        heading = f"{_NAMES[task]}: precision over recall"
        plots.append(f"<h2>{heading}</h2>" + _plot(figure, heading))
    return plots


def _plot(figure: "Figure", description: str) -> str:
    stored = io.BytesIO()
    figure.savefig(stored, format="png", dpi=150)
    return f'<img class=plot alt="{description}" src="{data_address(stored, "png")}">'


def _draw_losses(axes: "Axes", steps: Records, evaluations: Records) -> None:
    at = [record["step"] for record in steps]
    if steps:
        axes.plot(at, [record["loss"] for record in steps], color=_DARK, linewidth=2, label="total")
    terms = sorted({name for record in steps for name in record.get("losses", {})})
    for colour, name in zip(_COLOURS, terms, strict=False):
        values = [record.get("losses", {}).get(name, np.nan) for record in steps]
        axes.plot(at, values, color=colour, linewidth=1.2, label=name)
    validation = [(record["step"], record["loss"]) for record in evaluations if record.get("loss") is not None]
    if validation:
        axes.plot(*zip(*validation, strict=True), "o--", color=_DARK, markersize=4, label="total, validation")
    _finish(axes, "Loss", "step", ylim=(0, None))


def _draw_progress(axes: "Axes", steps: Records, evaluations: Records) -> None:
    """AP over time if there are at least two evaluations, else the learning rate."""
    if len(evaluations) < 2:
        rates = [(record["step"], record["lr"]) for record in steps if "lr" in record]
        axes.plot([step for step, _ in rates], [lr for _, lr in rates], color=_COLOURS[0], label="lr")
        _finish(axes, "Learning rate", "step", ylim=(0, None))
        return
    at = [record["step"] for record in evaluations]
    for colour, (task, name) in zip(_COLOURS, _NAMES.items(), strict=False):
        values = [(record.get("metrics", {}).get(task) or {}).get("AP", -1.0) for record in evaluations]
        if max(values) >= 0:
            values = [np.nan if value < 0 else value for value in values]
            axes.plot(at, values, "o-", color=colour, markersize=4, label=name)
    _finish(axes, "AP on the validation images", "step", ylim=(0, 1))


def _draw_thresholds(axes: "Axes", curves: Curves, measure: str) -> None:
    known = ~np.isnan(curves.precision[0, 0])
    for i, threshold in enumerate(_IOUS if known.any() else ()):
        precision = curves.precision[threshold][:, known].mean(axis=1)
        label = f"{measure} {curves.ious[threshold]:.2f}: {precision.mean():.2f}"
        axes.plot(curves.recall, precision, color=_COLOURS[0], alpha=1 - 0.75 * i / (len(_IOUS) - 1), label=label)
    title = f"Mean of the classes, by {measure}"
    _finish(axes, title, "recall", "precision", low_legend=True, xlim=(0, 1), ylim=(0, 1.02))


def _draw_classes(axes: "Axes", curves: Curves, measure: str) -> None:
    means = curves.precision[0].mean(axis=0)
    known = [k for k in np.argsort(-means, kind="stable") if not np.isnan(means[k])]
    for i, k in enumerate(known[:_MOST_LINES]):
        line, colour = "-" if i < len(_COLOURS) else "--", _COLOURS[i % len(_COLOURS)]
        label = f"{curves.names[k]}: {means[k]:.2f}"
        axes.plot(curves.recall, curves.precision[0, :, k], color=colour, linestyle=line, label=label)
    some = f", the best {_MOST_LINES}" if len(known) > _MOST_LINES else ""
    _finish(axes, f"Classes at {measure} 0.50{some}", "recall", low_legend=True, xlim=(0, 1), ylim=(0, 1.02))


def _finish(axes: "Axes", title: str, across: str, up: str = "", *, low_legend: bool = False, **limits: Any) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xlabel=across, ylabel=up, **limits)
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_lines():
        axes.legend(loc="lower left" if low_legend else "best", framealpha=0.85, edgecolor="none", fontsize=8.5)
