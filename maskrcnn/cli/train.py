"""`maskrcnn train DATA`."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Argument(help="COCO json, or a folder with train.json and val.json.")],
    model: Annotated[str | None, typer.Option(help="R-50-FPN unless given, R-18-FPN, R-101-FPN, ...")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint or name to start from; else from scratch.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, runs/NAME unless given.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once, per process.")] = None,
    val: Annotated[Path | None, typer.Option(help="COCO json to evaluate on; else found, or a tenth.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the json.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as a TOML file.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation and sampling.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")] = None,
    schedule: Annotated[str | None, typer.Option(help="1x, s1x, 2x, 3x, paper, step or cosine.")] = None,
    stages: Annotated[str | None, typer.Option(help="rpn,heads: the RPN first, then the rest on its boxes.")] = None,
    proposals: Annotated[Path | None, typer.Option(help="Train the heads on the boxes in this file.")] = None,
    no_masks: Annotated[bool, typer.Option("--no-masks", help="Boxes only: Faster R-CNN with RoIAlign.")] = False,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Keypoints, too, as the json names them.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A bad record is an error, not skipped.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write its log, too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU where there is one.")] = None,
) -> None:
    """Train on your own data; the same command again resumes."""
    from ..training.loop import train as run

    run(
        data,
        model=model,
        weights=weights,
        out=out,
        epochs=epochs,
        batch=batch,
        overrides=settings or [],
        config=config,
        val=val,
        images=images,
        precision=precision,
        seed=seed,
        patience=patience,
        schedule=schedule,
        stages=stages.split(",") if stages else (),
        proposals=proposals,
        strict=strict,
        masks=not no_masks,
        keypoints=keypoints,
        tensorboard=tensorboard,
        device=device,
    )
