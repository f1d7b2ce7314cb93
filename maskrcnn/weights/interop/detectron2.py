"""Detectron2's models: FPN, C4 and DC5, masks, boxes, keypoints, every norm; and its backbones alone.

Background is the last class, as with us. Pixels are BGR of 0..255; a ResNet of MSRA has its strides in the 1x1
convolutions, a ResNeXt and a model of group norms in the 3x3.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...config import InputConfig, ModelConfig
from .names import Row
from .origin import Origin
from .profiles import with_profile

_HEADS: tuple[Row, ...] = (
    ("neck.laterals.{i}.conv.{x}", "backbone.fpn_lateral{i+2}.{x}"),
    ("neck.laterals.{i}.norm.{x}", "backbone.fpn_lateral{i+2}.norm.{x}"),
    ("neck.outputs.{i}.conv.{x}", "backbone.fpn_output{i+2}.{x}"),
    ("neck.outputs.{i}.norm.{x}", "backbone.fpn_output{i+2}.norm.{x}"),
    ("rpn.objectness.{x}", "proposal_generator.rpn_head.objectness_logits.{x}"),
    ("rpn.deltas.{x}", "proposal_generator.rpn_head.anchor_deltas.{x}"),
    ("box_pool.trunk.{n}.{c}.conv.{x}", "roi_heads.res5.{n}.{c}.{x}"),
    ("box_pool.trunk.{n}.{c}.norm.{x}", "roi_heads.res5.{n}.{c}.norm.{x}"),
    ("box_head.convs.{i}.conv.{x}", "roi_heads.box_head.conv{i+1}.{x}"),
    ("box_head.convs.{i}.norm.{x}", "roi_heads.box_head.conv{i+1}.norm.{x}"),
    ("box_head.fc.{i}.{x}", "roi_heads.box_head.fc{i+1}.{x}"),
    ("box_head.class_logits.{x}", "roi_heads.box_predictor.cls_score.{x}"),
    ("box_head.box_deltas.{x}", "roi_heads.box_predictor.bbox_pred.{x}"),
    ("mask_head.convs.{i}.conv.{x}", "roi_heads.mask_head.mask_fcn{i+1}.{x}"),
    ("mask_head.convs.{i}.norm.{x}", "roi_heads.mask_head.mask_fcn{i+1}.norm.{x}"),
    ("mask_head.deconv.{x}", "roi_heads.mask_head.deconv.{x}"),
    ("mask_head.predictor.{x}", "roi_heads.mask_head.predictor.{x}"),
    ("keypoint_head.convs.{i}.conv.{x}", "roi_heads.keypoint_head.conv_fcn{i+1}.{x}"),
    ("keypoint_head.deconv.{x}", "roi_heads.keypoint_head.score_lowres.{x}"),
)
_ONE_CONV: Row = ("rpn.convs.0.conv.{x}", "proposal_generator.rpn_head.conv.{x}")
_MORE_CONVS: Row = ("rpn.convs.{i}.conv.{x}", "proposal_generator.rpn_head.conv.conv{i}.{x}")


def _body(prefix: str) -> tuple[Row, ...]:
    return (
        ("backbone.stem.conv.{x}", f"{prefix}stem.conv1.{{x}}"),
        ("backbone.stem.norm.{x}", f"{prefix}stem.conv1.norm.{{x}}"),
        ("backbone.res{s}.{n}.{c}.conv.{x}", f"{prefix}res{{s}}.{{n}}.{{c}}.{{x}}"),
        ("backbone.res{s}.{n}.{c}.norm.{x}", f"{prefix}res{{s}}.{{n}}.{{c}}.norm.{{x}}"),
    )


def table_to_write(config: ModelConfig) -> Sequence[Row]:
    """The rows that its modules are named by."""
    prefix = "backbone.bottom_up." if config.backbone.features == "fpn" else "backbone."
    return (*_body(prefix), _ONE_CONV if config.rpn.convs == 1 else _MORE_CONVS, *_HEADS)


def _recognise(names: Collection[str]) -> bool:
    return any(
        name.startswith(("backbone.bottom_up.stem.", "backbone.stem.conv1.", "stem.conv1.weight")) for name in names
    )


def _backbone_prefix(names: Collection[str]) -> str:
    return "" if any(name.startswith("backbone.") for name in names) else "backbone."


def _settle(config: ModelConfig, theirs: Mapping[str, Tensor], rest: Mapping[str, Any]) -> ModelConfig:
    """Its profile, in which C5 is dilated; older files hold their pixels, ImageNet's say whom they were taken from."""
    if config.backbone.features == "c5":
        config = replace(config, backbone=replace(config.backbone, features="dc5"))
    config = with_profile(replace(config, name=config.name.replace("-C5", "-DC5")), "detectron2")
    if "pixel_mean" in theirs and "pixel_std" in theirs:
        mean, std = (tuple(theirs[name].flatten().tolist()) for name in ("pixel_mean", "pixel_std"))
        config = replace(config, input=replace(config.input, mean=mean, std=std))
    if str(rest.get("__author__")).lower() == "torchvision":
        pixels = InputConfig()  # those of torchvision
        changed = replace(config.input, channel_order="rgb", mean=pixels.mean, std=pixels.std)
        config = replace(config, input=changed, backbone=replace(config.backbone, stride_in="3x3"))
    return config


def _same(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


DETECTRON2 = Origin(
    name="detectron2",
    recognise=_recognise,
    backbone_prefix=_backbone_prefix,
    table=(*_body("backbone.bottom_up."), *_body("backbone."), _ONE_CONV, _MORE_CONVS, *_HEADS),
    ignored=re.compile(
        r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*|(backbone\.)?stem\.fc\..*|.*linear\..*"
    ),
    to_ours=_same,
    settle=_settle,
)
