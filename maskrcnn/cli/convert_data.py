"""`maskrcnn convert-data DATA OUT --to FORMAT`."""

from typing import Annotated, Any

import typer

from ..data.convert import convert_data as run
from .options import options_of


@options_of(run, without=("to",))
def convert_data(
    *,
    to: Annotated[str, typer.Option(help="Format to write: labelme, yolo, coco, geojson, csv, ...")],
    **arguments: Any,
) -> None:
    """Write a data set in another format."""
    for line in run(to=to, **arguments).describe():
        print(line)
