"""`maskrcnn check DATA`."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with train.json and val.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    val: Annotated[Path | None, typer.Option(help="COCO json of the validation images.")] = None,
    model: Annotated[str, typer.Option(help="Model whose anchors are compared with the objects' sizes.")] = "R-50-FPN",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting.")] = None,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Read keypoints, too.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Open every image and list those that fail.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first invalid record.")] = False,
) -> None:
    """Report what a data set holds and what is wrong with it."""
    from ..config import Config, override, preset
    from ..data.check import check as describe
    from ..data.check import renumbered
    from ..data.dataset import match_categories
    from ..data.formats import find_splits, read_dataset

    config = override(Config(model=preset(model)), settings or []).model
    train_json, val_json = find_splits(data, val, keypoints=keypoints)
    train = read_dataset(train_json, images, strict=strict, keypoints=keypoints)
    print(describe(train, config, verify=verify))
    if val_json is not None:
        print()
        held = read_dataset(val_json, images, strict=strict, keypoints=keypoints)
        for line in renumbered(train, held):
            print(line)
        print(describe(match_categories(train, held), config, verify=verify))
