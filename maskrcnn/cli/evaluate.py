"""`maskrcnn evaluate WEIGHTS DATA`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .views import TtaOption, ViewsOption, parse_views

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TASKS = ("box", "mask", "keypoint")


def evaluate(
    weights: Annotated[Path, typer.Argument(help="Checkpoint file, folder of a run, or name of a model.")],
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with val.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    out: Annotated[Path, typer.Option(help="File to write the metrics to.")] = Path("metrics.json"),
    max_detections: Annotated[int | None, typer.Option(help="Per image. Default: the model's setting.")] = None,
    batch: Annotated[int, typer.Option(help="Images per batch.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    tta: TtaOption = False,
    tta_views: ViewsOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a bad record instead of skipping it.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: a GPU if there is one.")] = None,
) -> None:
    """Measure a model on a data set: COCO's AP and AR."""
    from ..evaluation.run import evaluate as run

    metrics = run(
        weights,
        data,
        images=images,
        out=out,
        max_detections=max_detections,
        batch=batch,
        workers=workers,
        precision=precision,
        tta=parse_views(tta, tta_views),
        strict=strict,
        device=device,
    )
    print("\n".join(table(metrics)))
    print(f"{out} holds all figures, with recall and by class")


def table(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines of text, first of all classes, then by class. A dash stands for what was not measured."""
    tasks = [task for task in TASKS if task in metrics]
    yield " " * 20 + "".join(f"{name:>8}" for name in FIGURES)
    for task in tasks:
        yield f"{task:<20}{_figures(metrics[task])}"
    for row in metrics["per_class"]:
        for task in tasks:
            yield f"{row['name'][:13]:<14}{task:<6}{_figures(row[task])}"
    for note in metrics["notes"]:
        yield f"note: {note}"
    for side, names in metrics["unmatched"].items():
        if names:
            yield f"categories that only the {side} has: {', '.join(names)}"


def _figures(figures: Mapping[str, float]) -> str:
    values = (figures.get(name, -1) for name in FIGURES)
    return "".join(f"{value:>8.3f}" if value >= 0 else f"{'-':>8}" for value in values)
