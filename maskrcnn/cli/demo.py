"""`maskrcnn demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder that it fills.")] = Path("runs/demo"),
) -> None:
    """Draw a small data set, train on it, evaluate, predict, and show how to do the same on your own data."""
    from ..demo import demo as run

    run(out)
