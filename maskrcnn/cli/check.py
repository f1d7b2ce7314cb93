"""`maskrcnn check DATA`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def check(
    data: Annotated[Path, typer.Argument(help="Annotations in any known format: a file, a folder or a zip.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    val: Annotated[Path | None, typer.Option(help="Validation data, if not in DATA.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to check for; default: what train would choose.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting; repeatable.")
    ] = None,
    keypoints: Annotated[
        bool, typer.Option("--keypoints", help="Also read keypoints, as train --keypoints does.")
    ] = False,
    unlabelled: Annotated[
        str | None, typer.Option(help="Images without annotations: background or skip. Default: as the format does.")
    ] = None,
    no_masks: Annotated[bool, typer.Option("--no-masks", help="As for train --no-masks: boxes are enough.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also open every image.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a bad record instead of skipping it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html: images, classes, sizes, problems.")] = None,
) -> None:
    """Report what was read from a data set, what was dropped, and why. Exit code 2 if train would stop."""
    from ..data.check import check as describe
    from ..data.check import renumbered, unreadable_images
    from ..data.dataset import match_categories
    from ..data.formats import find_splits, read_dataset
    from ..data.usable import require_usable, shared_images
    from ..device import choose_device
    from ..reports.data_report import Part, write_data_report
    from ..training.recipes import preview
    from ..training.run import divided, require_all_readable

    train_source, val_source = find_splits(data, val, images=images, keypoints=keypoints)
    train = read_dataset(train_source, images, strict=strict, keypoints=keypoints, unlabelled=unlabelled)
    asked = [*(settings or []), *(["model.mask_head.enabled=false"] if no_masks else [])]
    chosen, lines = preview(train, asked, model=model, gpu=choose_device(None).type == "cuda")
    config, page = chosen.model, chosen.model.input.page or None
    train = replace(train, page=page)
    parts = {"train": train}
    print(describe(train, config, verify=verify))
    if val_source is not None:
        print()
        held = read_dataset(val_source, images, strict=strict, keypoints=keypoints, unlabelled=unlabelled, page=page)
        for line in renumbered(train, held):
            print(line)
        parts["val"] = match_categories(train, held)
        print(describe(parts["val"], config, verify=verify))
        if same := shared_images(train, held):
            print(f"note: {same}")
    if out is not None:
        shown = [
            Part(name, data, unreadable_images(data, config.input.channels) if verify else ())
            for name, data in parts.items()
        ]
        print(f"\n{write_data_report(out, shown, chosen, lines)} shows the images, and every problem")
    for dataset in parts.values():
        require_usable(
            dataset, masks=config.mask_head.enabled, keypoints=keypoints, channels=config.input.channels, noted=False
        )
    own, rest, division = divided(parts["train"], parts.get("val"), chosen)
    require_all_readable(own, rest, division, config)
