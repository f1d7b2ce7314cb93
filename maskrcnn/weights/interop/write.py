"""Our checkpoints as those of torchvision and Detectron2: for users who keep other tools."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...config import ModelConfig, to_dict
from ...errors import ConfigError
from ...files import replacing
from ..checkpoint import Checkpoint
from . import detectron2 as from_detectron2
from . import torchvision as from_torchvision
from .infer import depth
from .names import Row, rename_all
from .profiles import with_profile
from .rows import background_to_first


class Target(NamedTuple):
    """A framework to write for."""

    table: Callable[[ModelConfig], Sequence[Row]]
    to_theirs: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    fixed: tuple[str, ...]  # switches that have one value there, which its profile names
    possible: Callable[[ModelConfig], Mapping[str, tuple[Any, ...]]]  # and those that have a few
    suffixes: tuple[str, ...]
    settings: Callable[[ModelConfig], dict[str, Any]]


_BOXES = ("box_arithmetic.inclusive", "box_arithmetic.frame", "box_arithmetic.nms_closed")
_POOLS = ("pool.level_epsilon", "pool.level_epsilon_place")
_FIXED = (
    "input.resize",
    "input.size_rounding",
    "input.canvas",
    "anchors.rounding",
    "anchors.order",
    "anchors.stride",
    *_BOXES,
    *_POOLS,
    "box_head.min_size",
    "mask_head.paste",
    *(f"keypoint_head.{name}" for name in ("upsample", "shift", "score", "frame", "points")),
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
    possible = target.possible(config)
    one_size = all(len(sizes) == 1 for sizes in config.anchors.sizes)  # then there is nothing to put in order
    rows = []
    for name in (*target.fixed, *possible):
        room, _, leaf = name.partition(".")
        if not here[room].get("enabled", True) or (name == "anchors.order" and one_size):
            continue
        value = here[room][leaf]
        choices = possible.get(name, (there[room][leaf],))
        if value not in choices:
            rows.append((name, value, " or ".join(map(str, choices))))
    return rows


def _torchvision_possible(config: ModelConfig) -> dict[str, tuple[Any, ...]]:
    return {
        **_in_both(config),
        "input.channels": (3,),
        "rpn.features": ("shared",),
        "backbone.features": ("fpn",),
        "backbone.width": (64,),
        "backbone.stride_in": ("3x3",),
        "backbone.norm": ("frozen_bn", "bn"),
        "box_head.class_agnostic": (False,),
        "mask_head.class_agnostic": (False,),
        "mask_head.kind": ("fcn",),
    }


def _detectron2_possible(config: ModelConfig) -> dict[str, tuple[Any, ...]]:
    return {
        **_in_both(config),
        "rpn.features": ("shared",),
        "backbone.block": ("bottleneck", "basic") if config.backbone.features == "fpn" else ("bottleneck",),
        "backbone.features": ("fpn", "c4", "dc5"),
        "backbone.norm_eps": (1e-5,),
        "box_head.res5_stride": (2,),
        "mask_head.kind": ("fcn", "res5"),
        "mask_head.threshold": (0.5,),
    }


def _in_both(config: ModelConfig) -> dict[str, tuple[Any, ...]]:
    """Both always resize, to a side and within a bound; of RoI operators and mask losses they are written these."""
    return {
        "input.min_size": (config.input.min_size or "more than 0",),
        "input.zoom": (1.0,),
        "pool.operator": ("roi_align",),
        "pool.aggregate": ("average",),
        "mask_head.loss": ("sigmoid",),
    }


def _torchvision_settings(config: ModelConfig) -> dict[str, Any]:
    """Arguments of its builders."""
    box, rpn = config.box_head, config.rpn
    settings: dict[str, Any] = {
        "num_classes": config.classes + 1,
        "min_size": config.input.min_size,
        "max_size": config.input.max_size,
        "image_mean": [round(value / 255, 6) for value in config.input.mean],
        "image_std": [round(value / 255, 6) for value in config.input.std],
        "rpn_pre_nms_top_n_test": rpn.pre_nms_test,
        "rpn_post_nms_top_n_test": rpn.post_nms_test,
        "rpn_nms_thresh": rpn.nms_iou,
        "box_score_thresh": box.score_threshold,
        "box_nms_thresh": box.nms_iou,
        "box_detections_per_img": box.max_detections,
        "bbox_reg_weights": list(box.weights),
        "sizes of its AnchorGenerator": [list(sizes) for sizes in config.anchors.sizes],
        "aspect_ratios of its AnchorGenerator": list(config.anchors.ratios),
        "sampling_ratio of MultiScaleRoIAlign": config.pool.sampling,
    }
    if config.keypoint_head.enabled:
        settings["num_keypoints"] = config.keypoint_head.num_keypoints
    for name, head in (("mask", config.mask_head), ("keypoint", config.keypoint_head)):
        if head.enabled and head.pool_size != 14:
            settings[f"output_size of its {name}_roi_pool"] = head.pool_size
    if config.backbone.norm == "frozen_bn" and config.backbone.norm_eps != 1e-5:
        settings["eps of every FrozenBatchNorm2d"] = config.backbone.norm_eps
    return settings


_BASES = {"fpn": "Base-RCNN-FPN.yaml", "c4": "Base-RCNN-C4.yaml", "dc5": "Base-RCNN-DilatedC5.yaml"}
_NORMS = {"none": "", "frozen_bn": "FrozenBN", "bn": "BN", "gn": "GN"}


def _detectron2_settings(config: ModelConfig) -> dict[str, Any]:
    """Keys of its yaml, beside those of the file that it starts from."""
    net, rpn = config.backbone, config.rpn
    values: dict[str, Any] = {
        "_BASE_": _BASES.get(net.features, ""),
        "INPUT.FORMAT": config.input.channel_order.upper(),
        "INPUT.MIN_SIZE_TEST": config.input.min_size,
        "INPUT.MAX_SIZE_TEST": config.input.max_size,
        "MODEL.PIXEL_MEAN": list(config.input.mean),
        "MODEL.PIXEL_STD": list(config.input.std),
        "MODEL.MASK_ON": config.mask_head.enabled,
        "MODEL.KEYPOINT_ON": config.keypoint_head.enabled,
        "MODEL.RESNETS.DEPTH": depth(net),
        "MODEL.RESNETS.NORM": _NORMS[net.norm],
        "MODEL.RESNETS.STRIDE_IN_1X1": net.stride_in == "1x1",
        "MODEL.RESNETS.NUM_GROUPS": net.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": net.width_per_group * net.width // 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": net.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": net.width * (4 if net.block == "bottleneck" else 1),
        "MODEL.FPN.OUT_CHANNELS": config.fpn.channels,
        "MODEL.FPN.NORM": _NORMS[config.fpn.norm],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in config.anchors.sizes],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(config.anchors.ratios)],
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": rpn.min_size,
        "MODEL.RPN.CONV_DIMS": [-1] * rpn.convs,
        "MODEL.RPN.NMS_THRESH": rpn.nms_iou,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn.pre_nms_test,
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn.post_nms_test,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.classes,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": config.box_head.score_threshold,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": config.box_head.nms_iou,
        "TEST.DETECTIONS_PER_IMAGE": config.box_head.max_detections,
    }
    return {name: value for name, value in values.items() if net.features == "fpn" or ".FPN." not in name} | {
        f"MODEL.ROI_{name}": value for name, value in _detectron2_heads(config).items()
    }


def _detectron2_heads(config: ModelConfig) -> dict[str, Any]:
    """The keys of the heads that there are."""
    box, mask, keypoints = config.box_head, config.mask_head, config.keypoint_head
    convs = {"4conv1fc": 4}.get(box.kind, 0)
    values: dict[str, Any] = {
        "BOX_HEAD.BBOX_REG_WEIGHTS": list(box.weights),
        "BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": box.class_agnostic,
    }
    sides = {"BOX_HEAD": box.pool_size}
    if box.kind != "res5":
        values |= {"BOX_HEAD.NUM_CONV": convs, "BOX_HEAD.NUM_FC": 1 if convs else 2, "BOX_HEAD.FC_DIM": box.channels}
        values |= {"BOX_HEAD.NORM": _NORMS[box.norm]}
    if box.kind == "res5":
        sides = {"BOX_HEAD": box.pool_size * box.res5_stride}
    if mask.enabled:
        values |= {"MASK_HEAD.CONV_DIM": mask.channels, "MASK_HEAD.NORM": _NORMS[mask.norm]}
        values |= {"MASK_HEAD.NUM_CONV": mask.convs if mask.kind == "fcn" else 0}
        values |= {"MASK_HEAD.CLS_AGNOSTIC_MASK": mask.class_agnostic}
        sides |= {"MASK_HEAD": mask.pool_size} if mask.kind == "fcn" else {}
    if keypoints.enabled:
        values |= {"KEYPOINT_HEAD.NUM_KEYPOINTS": keypoints.num_keypoints}
        values |= {"KEYPOINT_HEAD.CONV_DIMS": [keypoints.channels] * keypoints.convs}
        sides |= {"KEYPOINT_HEAD": keypoints.pool_size}
    for head, side in sides.items():
        values[f"{head}.POOLER_RESOLUTION"] = side
        values[f"{head}.POOLER_TYPE"] = "ROIAlignV2" if config.pool.aligned else "ROIAlign"
        values[f"{head}.POOLER_SAMPLING_RATIO"] = config.pool.sampling
    return values


def _same(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return state


TARGETS: Mapping[str, Target] = {
    "torchvision": Target(
        table=from_torchvision.table_to_write,
        to_theirs=background_to_first,
        fixed=(*_FIXED, "input.channel_order", "pool.aligned", "rpn.min_size"),
        possible=_torchvision_possible,
        suffixes=(".pth", ".pt"),
        settings=_torchvision_settings,
    ),
    "detectron2": Target(
        table=from_detectron2.table_to_write,
        to_theirs=_same,
        fixed=_FIXED,
        possible=_detectron2_possible,
        suffixes=(".pth", ".pkl"),
        settings=_detectron2_settings,
    ),
}
