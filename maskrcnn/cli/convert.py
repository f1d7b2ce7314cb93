"""`maskrcnn convert IN OUT`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Checkpoint of any framework, or name of a release.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    to: Annotated[str | None, typer.Option(help="Write for torchvision or detectron2 instead of our format.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting; can be repeated.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names: a,b,c, or a file with one name per line.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write even if the other framework lacks a setting.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not download anything.")] = False,
) -> None:
    """Convert a checkpoint to our format or another framework's."""
    from ..thresholds import in_words
    from ..weights.checkpoint import save_checkpoint
    from ..weights.interop.write import write_foreign
    from ..weights.read import read_checkpoint

    if to is None and out.suffix != ".safetensors":
        raise ConfigError(f"{out}: our checkpoints are called *.safetensors; use --to to write another framework's")
    found = read_checkpoint(source, settings=settings or (), classes=_names(classes), offline=offline or None)
    if to is None:
        save_checkpoint(out, found)
        print(f"wrote {out}: {found.config.name}, {found.config.classes} classes, settings of {found.config.profile}")
        return
    needed = write_foreign(out, found, to, force=force)
    print(f"wrote {out}: {len(found.state)} tensors for {to}. Set there:")
    for name, value in needed.items():
        print(f"  {name:<41} {value!r}")
    if found.thresholds:
        print(
            f"its best score threshold ({in_words(found.thresholds)}) has no place in a file of {to}: leave out what "
            "scores less there"
        )


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines() if os.path.isfile(text) else text.split(",")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--classes {text}: is not a UTF-8 text with one name per line ({error})") from error
    return [line.strip() for line in lines if line.strip()]
