"""`maskrcnn check DATA`."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with train.json and val.json.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    val: Annotated[Path | None, typer.Option(help="COCO json of the validation images.")] = None,
    model: Annotated[str, typer.Option(help="Model whose anchors are compared with the object sizes.")] = "R-50-FPN",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting; repeatable.")
    ] = None,
    keypoints: Annotated[
        bool, typer.Option("--keypoints", help="Also read keypoints, as train --keypoints does.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also open every image.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a bad record instead of skipping it.")] = False,
) -> None:
    """Report what was read from a data set, what was dropped, and why."""
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
