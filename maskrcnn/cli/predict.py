"""`maskrcnn predict WEIGHTS IMAGES...`."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    weights: Annotated[Path, typer.Argument(help="Checkpoint.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or quoted globs.")],
    out: Annotated[Path, typer.Option(help="Folder for what is saved.")] = Path("predictions"),
    save: Annotated[str, typer.Option(help="What to save: overlay, coco, or both with a comma.")] = "overlay,coco",
    score_threshold: Annotated[float | None, typer.Option(help="Least score; default: the model's own.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Per image; default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(help="Images at once.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU where there is one.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Pass over images that cannot be read.")] = False,
) -> None:
    """Find the objects in images; save overlays, COCO results, or both."""
