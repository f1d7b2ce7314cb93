"""The smallest model that has every part, trained for a few steps, and the run of it before the first step."""

from pathlib import Path
from typing import Any

from maskrcnn.training.distributed import Ranks
from maskrcnn.training.run import Run, describe, prepare_run
from maskrcnn.training.train import train

SMALLEST = (
    "model.backbone.width=8",
    "model.backbone.blocks=[1,1,1,1]",
    "model.backbone.norm=gn",
    "model.fpn.channels=16",
    "model.box_head.channels=32",
    "model.box_head.samples=16",
    "model.mask_head.channels=16",
    "model.mask_head.convs=1",
    "model.rpn.pre_nms_train=100",
    "train.workers=0",
    "train.batch=2",
    "train.log_every=1",
    "train.precision=fp32",
    "train.augment.crop=64",
)


def train_small(data: Path, out: Path, *settings: str, **arguments: Any) -> Path:
    """Two epochs unless `arguments` of `train` say otherwise."""
    arguments = {"model": "R-18-FPN-tiny", "recipe": "paper", "epochs": 2, **arguments}
    return train(data, out=out, overrides=(*SMALLEST, *settings), **arguments)


def make_run(data: Path, *settings: str, **arguments: Any) -> tuple[Run, list[str]]:
    """What `train` would run on R-18-FPN-tiny, and what it would print before."""
    defaults: dict[str, Any] = {
        "model": "R-18-FPN-tiny",
        "recipe": "paper",
        "out": data / "run",
        **dict.fromkeys(("weights", "config", "schedule", "val", "images")),
        "strict": False,
        "ranks": Ranks(),
    }
    run = prepare_run(data, settings, **{**defaults, **arguments})
    return run, describe(run)
