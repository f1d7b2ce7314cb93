"""`maskrcnn train DATA`."""

from typing import Annotated, Any

import typer

from ..training.train import train as run
from .options import options_of


@options_of(run, without=("overrides", "masks", "transform", "callbacks", "parts"))
def train(
    *,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting; repeatable.")
    ] = None,
    no_masks: Annotated[bool, typer.Option("--no-masks", help="Boxes only: Faster R-CNN with RoIAlign.")] = False,
    **arguments: Any,
) -> None:
    """Train on your own data; the same command again resumes."""
    run(overrides=settings or (), masks=not no_masks, **arguments)
