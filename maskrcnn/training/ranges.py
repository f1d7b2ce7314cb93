"""Which numbers of a run's settings make sense. Their types are checked as they are read (config.py)."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

from ..config import Config
from ..errors import ConfigError

_AT_LEAST_1 = (
    *("train.batch", "train.accumulate", "model.classes"),
    *("model.input.channels", "model.input.max_size", "model.backbone.width", "model.backbone.blocks"),
    *("model.backbone.groups", "model.backbone.width_per_group", "model.fpn.channels"),
    *(f"model.rpn.{name}" for name in ("convs", "samples", "pre_nms_train", "pre_nms_test")),
    *(f"model.rpn.{name}" for name in ("post_nms_train", "post_nms_test")),
    *(f"model.box_head.{name}" for name in ("pool_size", "channels", "samples", "max_detections")),
    *(f"model.{head}.{name}" for head in ("mask_head", "keypoint_head") for name in ("pool_size", "channels")),
)
_AT_LEAST_0 = (
    *("train.lr", "train.weight_decay", "train.warmup_steps", "train.clip_norm", "train.gamma", "train.workers"),
    *("train.evaluate_every", "train.checkpoint_every", "train.log_every", "train.patience", "train.augment.crop"),
    *("model.input.min_size", "model.backbone.freeze_at", "model.pool.sampling", "model.mask_head.convs"),
    *("model.rpn.min_size", "model.box_head.min_size", "model.keypoint_head.convs"),
)
_ABOVE_0 = (
    *("train.epochs", "train.milestones", "train.augment.scale", "train.augment.min_sizes", "model.input.std"),
    *("model.input.zoom", "model.anchors.sizes", "model.anchors.ratios"),
)
_SHARES = (
    *("train.warmup_factor", "train.augment.horizontal_flip", "train.augment.vertical_flip"),
    *(f"train.augment.{name}" for name in ("brightness", "contrast", "saturation", "min_visible")),
    *("model.rpn.positive_iou", "model.rpn.negative_iou", "model.rpn.positive_fraction", "model.rpn.nms_iou"),
    *("model.box_head.positive_iou", "model.box_head.positive_fraction", "model.box_head.nms_iou"),
    *("model.box_head.score_threshold", "model.mask_head.threshold"),
)
_DECAYS = ("train.momentum", "train.ema")

_RULES = (
    (_AT_LEAST_1, "1 or more", lambda x: x >= 1),
    (_AT_LEAST_0, "0 or more", lambda x: x >= 0),
    (_ABOVE_0, "more than 0", lambda x: x > 0),
    (_SHARES, "between 0 and 1", lambda x: 0 <= x <= 1),
    (_DECAYS, "0 or more and less than 1", lambda x: 0 <= x < 1),
)


def check_ranges(config: Config) -> None:
    """Raises `ConfigError`, naming the setting and what it may be, for a number that makes no sense."""
    for names, words, holds in _RULES:
        for name in names:
            value = reduce(getattr, name.split("."), config)
            if not all(holds(number) for number in _numbers(value)):
                raise ConfigError(f"{name} is {words}; it got {value!r}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    else:
        yield value
