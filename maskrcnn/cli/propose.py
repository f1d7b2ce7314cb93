"""`maskrcnn propose WEIGHTS DATA`."""

from pathlib import Path
from typing import Annotated

import typer


def propose(
    weights: Annotated[Path, typer.Argument(help="Checkpoint of any origin, a folder of a run or stage, or a name.")],
    data: Annotated[Path, typer.Argument(help="Annotations in any known format: a file, a folder or a zip.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("proposals.safetensors"),
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    batch: Annotated[int, typer.Option(help="Images per batch.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="A bad record is an error, not skipped.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU if there is one.")] = None,
) -> None:
    """Save the proposals of a model's RPN, for train --proposals."""
    from ..training.two_stage import propose as run

    figures = run(
        weights, data, out, images=images, batch=batch, workers=workers, precision=precision, strict=strict,
        device=device,
    )  # fmt: skip
    recall = ", ".join(f"{name} {_figure(figures[name])}" for name in ("AR", "AR50", "AR75"))
    print(f"{out}: at most {figures['proposals']} proposals an image, of {figures['objects']} objects {recall}")


def _figure(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
