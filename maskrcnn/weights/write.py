"""Our checkpoints as those of torchvision and Detectron2: for users who keep other tools."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import ModelConfig, to_dict
from ..errors import ConfigError
from ..profiles import with_profile
from . import from_detectron2, from_torchvision
from .checkpoint import Checkpoint, replacing
from .names import Row, rename_all
from .rows import background_to_first


class Target(NamedTuple):
    """A framework to write for."""

    table: Callable[[ModelConfig], Sequence[Row]]
    to_theirs: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    fixed: tuple[str, ...]  # switches that have one value there, which its profile names
    possible: Mapping[str, tuple[Any, ...]]  # and those that have a few
    suffixes: tuple[str, ...]
    settings: Callable[[ModelConfig], dict[str, Any]]


_BOXES = ("box_arithmetic.inclusive", "box_arithmetic.frame", "box_arithmetic.nms_closed")
_POOLS = ("pool.operator", "pool.aggregate", "pool.level_epsilon", "pool.level_epsilon_place")
_FIXED = (
    "input.resize",
    "input.size_rounding",
    "anchors.rounding",
    "anchors.order",
    "anchors.stride",
    *_BOXES,
    *_POOLS,
    "mask_head.loss",
    "mask_head.paste",
    "keypoint_head.upsample",
)


def write_foreign(path: str | Path, checkpoint: Checkpoint, to: str, *, force: bool = False) -> dict[str, Any]:
    """Writes a checkpoint that `to` ("torchvision" or "detectron2") loads; returns what has to be set there by hand.

    Raises `ConfigError` with a table where a switch of the model cannot be expressed there, unless `force`, and always
    where a tensor has no place there.
    """
    path = Path(path)
    if to not in TARGETS:
        raise ConfigError(f"checkpoints can be written for {' and '.join(TARGETS)}, not for {to!r}")
    target = TARGETS[to]
    if path.suffix not in target.suffixes:
        raise ConfigError(f"{path}: a checkpoint for {to} is called {' or '.join('*' + s for s in target.suffixes)}")
    foreign = to_foreign(checkpoint, to, force=force)
    with replacing(path) as temporary:
        if path.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in foreign.items()}
            with open(temporary, "wb") as file:
                pickle.dump({"model": arrays, "__author__": "maskrcnn"}, file, protocol=4)
        else:
            torch.save({"model": foreign} if to == "detectron2" else foreign, temporary)
    return target.settings(checkpoint.config)


def to_foreign(checkpoint: Checkpoint, to: str, *, force: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint under `to`'s names, in `to`'s order of rows. Raises as `write_foreign` does."""
    target, config = TARGETS[to], checkpoint.config
    if (rows := inexpressible(config, to)) and not force:
        table = "\n".join(f"  {name:<30} {value!s:<24} {there}" for name, value, there in rows)
        raise ConfigError(
            f"{to} cannot express these switches, so it would answer differently; --force writes all the same\n"
            f"  {'switch':<30} {'here':<24} {to}\n{table}"
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    foreign, unknown = rename_all(target.to_theirs(state), target.table(config), to_ours=False)
    if unknown:
        raise ConfigError(f"{to} has no place for {len(unknown)} tensors, such as {', '.join(sorted(unknown)[:4])}")
    return {name: tensor.contiguous() for name, tensor in foreign.items()}


def inexpressible(config: ModelConfig, to: str) -> list[tuple[str, Any, str]]:
    """The switches of `config` that `to` has no setting for: name, value, what it would be there."""
    target = TARGETS[to]
    here, there = to_dict(config), to_dict(with_profile(config, to))
    one_size = all(len(sizes) == 1 for sizes in config.anchors.sizes)  # then there is nothing to put in order
    rows = []
    for name in (*target.fixed, *target.possible):
        room, _, leaf = name.partition(".")
        if not here[room].get("enabled", True) or (name == "anchors.order" and one_size):
            continue
        value = here[room][leaf]
        choices = target.possible.get(name, (there[room][leaf],))
        if value not in choices:
            rows.append((name, value, " or ".join(map(str, choices))))
    return rows


def _torchvision_settings(config: ModelConfig) -> dict[str, Any]:
    """Arguments of its builders."""
    settings: dict[str, Any] = {
        "num_classes": config.classes + 1,
        "min_size": config.input.min_size,
        "max_size": config.input.max_size,
        "image_mean": [round(value / 255, 6) for value in config.input.mean],
        "image_std": [round(value / 255, 6) for value in config.input.std],
        "box_score_thresh": config.box_head.score_threshold,
        "box_nms_thresh": config.box_head.nms_iou,
        "box_detections_per_img": config.box_head.max_detections,
        "rpn_post_nms_top_n_test": config.rpn.post_nms_test,
    }
    if config.keypoint_head.enabled:
        settings["num_keypoints"] = config.keypoint_head.joints
    if config.backbone.norm == "frozen_bn" and config.backbone.norm_eps != 1e-5:
        settings["eps of every FrozenBatchNorm2d"] = config.backbone.norm_eps
    return settings


def _detectron2_settings(config: ModelConfig) -> dict[str, Any]:
    """Keys of its yaml."""
    head = "MODEL.ROI_BOX_HEAD"
    return {
        "INPUT.FORMAT": config.input.channel_order.upper(),
        "INPUT.MIN_SIZE_TEST": config.input.min_size,
        "INPUT.MAX_SIZE_TEST": config.input.max_size,
        "MODEL.PIXEL_MEAN": list(config.input.mean),
        "MODEL.PIXEL_STD": list(config.input.std),
        "MODEL.RESNETS.STRIDE_IN_1X1": config.backbone.stride_in == "1x1",
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in config.anchors.sizes],
        "MODEL.ROI_HEADS.NUM_CLASSES": config.classes,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": config.box_head.score_threshold,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": config.box_head.nms_iou,
        f"{head}.POOLER_TYPE": "ROIAlignV2" if config.pool.aligned else "ROIAlign",
        f"{head}.POOLER_SAMPLING_RATIO": config.pool.sampling,
        "TEST.DETECTIONS_PER_IMAGE": config.box_head.max_detections,
    }


def _same(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return state


TARGETS: Mapping[str, Target] = {
    "torchvision": Target(
        table=from_torchvision.table_to_write,
        to_theirs=background_to_first,
        fixed=(*_FIXED, "input.channel_order", "pool.aligned"),
        possible={
            "rpn.features": ("shared",),
            "backbone.features": ("fpn",),
            "backbone.stride_in": ("3x3",),
            "backbone.norm": ("frozen_bn", "bn"),
            "box_head.class_agnostic": (False,),
            "mask_head.class_agnostic": (False,),
            "mask_head.kind": ("fcn",),
        },
        suffixes=(".pth", ".pt"),
        settings=_torchvision_settings,
    ),
    "detectron2": Target(
        table=from_detectron2.table_to_write,
        to_theirs=_same,
        fixed=_FIXED,
        possible={
            "rpn.features": ("shared",),
            "backbone.features": ("fpn", "c4", "dc5"),
            "backbone.norm_eps": (1e-5,),
            "mask_head.kind": ("fcn", "res5"),
        },
        suffixes=(".pth", ".pkl"),
        settings=_detectron2_settings,
    ),
}
