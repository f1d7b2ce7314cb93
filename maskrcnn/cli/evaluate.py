"""`maskrcnn evaluate WEIGHTS DATA`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .views import TtaOption, ViewsOption, parse_views

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TASKS = ("box", "mask", "keypoint")


def evaluate(
    weights: Annotated[Path, typer.Argument(help="Checkpoint of any origin, a run's folder, or a name.")],
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with val.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    out: Annotated[Path, typer.Option(help="The json that the metrics go to.")] = Path("metrics.json"),
    max_detections: Annotated[int | None, typer.Option(help="Per image; default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(help="Images at once.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    tta: TtaOption = False,
    tta_views: ViewsOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="A bad record is an error, not skipped.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU where there is one.")] = None,
) -> None:
    """Measure a checkpoint: COCO's AP and AR of boxes and masks."""
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
    print(f"{out}: every figure, also per class and with recall")


def table(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The figures as lines of text, classes below; what could not be measured is a dash."""
    tasks = [task for task in TASKS if task in metrics]
    yield " " * 20 + "".join(f"{name:>8}" for name in FIGURES)
    for task in tasks:
        yield f"{task:<20}" + "".join(f"{_figure(metrics[task].get(name)):>8}" for name in FIGURES)
    for row in metrics.get("per_class", []):
        for task in tasks:
            if isinstance(row.get(task), Mapping):
                figures = "".join(f"{_figure(row[task].get(name)):>8}" for name in FIGURES)
                yield f"{str(row.get('name', ''))[:13]:<14}{task:<6}{figures}"
    for note in metrics.get("notes", []):
        yield f"note: {note}"
    for side, names in metrics.get("unmatched", {}).items():
        if names:
            yield f"categories that only the {side} has: {', '.join(names)}"


def _figure(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.3f}"
