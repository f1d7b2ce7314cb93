"""One page that shows what a run did: `report.html`, a single file that needs no network.

The plots need matplotlib, an extra; without it the page says so and holds everything else.
"""

import base64
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

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; background: #f6f7f9; margin: 0 auto; max-width: 72rem;
  padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.under { color: #5a6472; margin: .25rem 0 0; }
p.note { background: #fff3d6; padding: .5rem .75rem; border-radius: 6px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles div { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: .75rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; } .tiles span { color: #5a6472; font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; background: #fff; }
th, td { padding: .35rem .8rem; border: 1px solid #dfe3e8; text-align: right; font-variant-numeric: tabular-nums; }
th { background: #eef0f3; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
img.plot { max-width: 100%; background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; } figcaption { padding: .4rem .75rem; color: #5a6472; font-size: .85rem; }
pre { background: #1d2430; color: #eef0f3; padding: .75rem 1rem; border-radius: 8px; overflow-x: auto; }
summary { cursor: pointer; margin: 2rem 0 .75rem; font-weight: 600; }
"""


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
    path = out if out.suffix == ".html" else out / "report.html"
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
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(filter(None, body)) + "</html>\n", encoding="utf-8")
    return path


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
    tiles = []
    for task in _present(metrics):
        tiles.append((f"{_NAMES[task]}, AP", _number(metrics[task].get("AP"))))
        tiles.append((f"{_NAMES[task]}, AP at {_MEASURES[task]} 0.5", _number(metrics[task].get("AP50"))))
    if steps:
        tiles.append(("training steps", f"{steps[-1]['step']:,}"))
        if "seconds" in steps[-1]:
            tiles.append(("training time", _duration(steps[-1]["seconds"])))
    return f"<div class=tiles>{''.join(f'<div><b>{value}</b><span>{name}</span></div>' for name, value in tiles)}</div>"


def _present(metrics: Mapping[str, Any]) -> list[str]:
    return [task for task in _NAMES if task in metrics]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _number(value: float | None) -> str:
    return "–" if value is None or value < 0 else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _figures_table(metrics: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for task in _present(metrics) for name in metrics[task]))
    rows = [[_NAMES[task], *(_number(metrics[task].get(name)) for name in names)] for task in _present(metrics)]
    sizes = "s, m, l: objects with an area below 32 × 32 pixels, below 96 × 96 pixels, and larger."
    return _table(["", *names], rows) + f"<p class=under>{sizes}</p>"


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
    return _table(head, rows) + (f"<p class=under>{under}</p>" if best else "")


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in flat(settings).items()]
    return "<details><summary>Settings</summary>" + _table(["", "value"], rows) + "</details>" if rows else ""


# --- images and plots ---------------------------------------------------------------------------------------------


def _images(overlays: Sequence[Path]) -> str:
    figures = (f"<figure>{_embedded(path)}<figcaption>{escape(path.name)}</figcaption></figure>" for path in overlays)
    return f"<h2>Predictions</h2><div class=images>{''.join(figures)}</div>" if overlays else ""


def _embedded(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stored = io.BytesIO()
    small.save(stored, "JPEG", quality=90)
    return f'<img alt="{escape(path.name)}" src="{_data(stored, "jpeg")}">'


def _data(stored: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stored.getvalue()).decode()}"


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
    return f'<img class=plot alt="{description}" src="{_data(stored, "png")}">'


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
