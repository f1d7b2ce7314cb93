"""`maskrcnn convert IN OUT`."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint of any origin, or a release's name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[str | None, typer.Option(help="Write it for torchvision or detectron2, not for us.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of its classes: a,b,c or a file of one a line.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write what the other cannot express, too.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
) -> None:
    """Read a checkpoint of torchvision, Detectron2 or Detectron, or write one for them."""
    from ..errors import ConfigError
    from ..weights.checkpoint import save_checkpoint
    from ..weights.interop.write import write_foreign
    from ..weights.read import read_checkpoint

    if to is None and out.suffix != ".safetensors":
        raise ConfigError(f"{out}: our checkpoints are called *.safetensors; for others there is --to")
    found = read_checkpoint(source, settings=settings or (), classes=_names(classes), offline=offline or None)
    if to is None:
        save_checkpoint(out, found.state, found.config, found.categories, found.provenance)
        print(f"{out}: {found.config.name}, {found.config.classes} classes, answers as {found.config.profile}")
        return
    needed = write_foreign(out, found, to, force=force)
    print(f"{out}: {len(found.state)} tensors for {to}, whose settings have to be")
    for name, value in needed.items():
        print(f"  {name:<41} {value!r}")


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return [line.strip() for line in lines if line.strip()]
