"""`maskrcnn evaluate WEIGHTS DATA`."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    weights: Annotated[Path, typer.Argument(help="Checkpoint.")],
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with val.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where metrics.json goes; default: beside the checkpoint.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Per image; default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(help="Images at once.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU where there is one.")] = None,
) -> None:
    """COCO's average precision and recall of a checkpoint, for boxes and masks, per class."""
