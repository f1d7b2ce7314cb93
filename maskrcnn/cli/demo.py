"""`maskrcnn demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, run, predictions and report.")] = Path("runs/demo"),
) -> None:
    """Draw a small data set, train on it, evaluate, and predict."""
    from ..demo import demo as run

    run(out)
