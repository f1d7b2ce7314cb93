"""`maskrcnn evaluate WEIGHTS DATA`."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.run import METRICS
from ..evaluation.run import evaluate as run
from .options import options_of
from .views import TtaOption, ViewsOption, parse_views

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TASKS = ("box", "mask", "boundary", "keypoint")


@options_of(run, without=("out", "tta", "masks", "parts"))
def evaluate(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for metrics.json, report.html and what report compares. Default: runs/evaluate-N."),
    ] = None,
    no_masks: Annotated[
        bool, typer.Option("--no-masks", help="Measure boxes only; data without masks needs it.")
    ] = False,
    tta: TtaOption = False,
    tta_views: ViewsOption = None,
    **arguments: Any,
) -> None:
    """Measure a model on a data set: COCO's AP and AR."""
    out = out or next_folder(Path("runs"), "evaluate")
    metrics = run(out=out, tta=parse_views(tta, tta_views), masks=not no_masks, **arguments)
    print("\n".join(table(metrics)))
    print(f"{out / 'report.html'} shows mistakes and curves, {out / METRICS} holds all figures")


def next_folder(parent: Path, name: str) -> Path:
    """The first of NAME-1, NAME-2, ... that does not exist."""
    return next(path for n in count(1) if not (path := parent / f"{name}-{n}").exists())


def table(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines of text, first of all classes, then by class. A dash stands for what was not measured."""
    from ..evaluation.operating import operating_words

    tasks = [task for task in TASKS if task in metrics]
    yield " " * 20 + "".join(f"{name:>8}" for name in FIGURES)
    for task in tasks:
        yield f"{task:<20}{_figures(metrics[task])}"
    for row in metrics["per_class"]:
        for task in tasks:
            yield f"{row['name'][:11]:<12}{task:<8}{_figures(row[task])}"
    yield from operating_words(metrics["operating"])
    for note in metrics["notes"]:
        yield f"note: {note}"
    for side, names in metrics["unmatched"].items():
        if names:
            yield f"categories that only the {side} has: {', '.join(names)}"


def _figures(figures: Mapping[str, float]) -> str:
    values = (figures.get(name, -1) for name in FIGURES)
    return "".join(f"{value:>8.3f}" if value >= 0 else f"{'-':>8}" for value in values)
