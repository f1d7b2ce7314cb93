"""torchvision's `maskrcnn_resnet50_fpn`, `fasterrcnn_…` and `keypointrcnn_…`, v1 and v2, and its ResNets alone.

Row i of its predictors is class i, 0 the background: with 91 rows the labels are COCO's own ids, ten of which never
occur. The files released for v1 are older than today's module names; both are read.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...config import BackboneConfig, ModelConfig
from .names import Row
from .origin import Origin
from .profiles import with_profile
from .rows import background_to_last

_KEYPOINT_CONVS = 16  # at most; the file numbers them with the ReLUs between

_SHARED: tuple[Row, ...] = (
    ("backbone.stem.conv.{x}", "backbone.body.conv1.{x}"),
    ("backbone.stem.norm.{x}", "backbone.body.bn1.{x}"),
    ("backbone.res{s}.{n}.conv{m}.conv.{x}", "backbone.body.layer{s-1}.{n}.conv{m}.{x}"),
    ("backbone.res{s}.{n}.conv{m}.norm.{x}", "backbone.body.layer{s-1}.{n}.bn{m}.{x}"),
    ("backbone.res{s}.{n}.shortcut.conv.{x}", "backbone.body.layer{s-1}.{n}.downsample.0.{x}"),
    ("backbone.res{s}.{n}.shortcut.norm.{x}", "backbone.body.layer{s-1}.{n}.downsample.1.{x}"),
    ("neck.laterals.{i}.conv.{x}", "backbone.fpn.inner_blocks.{i}.0.{x}"),
    ("neck.laterals.{i}.norm.{x}", "backbone.fpn.inner_blocks.{i}.1.{x}"),
    ("neck.outputs.{i}.conv.{x}", "backbone.fpn.layer_blocks.{i}.0.{x}"),
    ("neck.outputs.{i}.norm.{x}", "backbone.fpn.layer_blocks.{i}.1.{x}"),
    ("rpn.convs.{i}.conv.{x}", "rpn.head.conv.{i}.0.{x}"),
    ("rpn.objectness.{x}", "rpn.head.cls_logits.{x}"),
    ("rpn.deltas.{x}", "rpn.head.bbox_pred.{x}"),
    ("box_head.convs.{i}.conv.{x}", "roi_heads.box_head.{i}.0.{x}"),
    ("box_head.convs.{i}.norm.{x}", "roi_heads.box_head.{i}.1.{x}"),
    ("box_head.class_logits.{x}", "roi_heads.box_predictor.cls_score.{x}"),
    ("box_head.box_deltas.{x}", "roi_heads.box_predictor.bbox_pred.{x}"),
    ("mask_head.convs.{i}.conv.{x}", "roi_heads.mask_head.{i}.0.{x}"),
    ("mask_head.convs.{i}.norm.{x}", "roi_heads.mask_head.{i}.1.{x}"),
    ("mask_head.deconv.{x}", "roi_heads.mask_predictor.conv5_mask.{x}"),
    ("mask_head.predictor.{x}", "roi_heads.mask_predictor.mask_fcn_logits.{x}"),
    *(
        (f"keypoint_head.convs.{i}.conv.{{x}}", f"roi_heads.keypoint_head.{2 * i}.{{x}}")
        for i in range(_KEYPOINT_CONVS)
    ),
    ("keypoint_head.deconv.{x}", "roi_heads.keypoint_predictor.kps_score_lowres.{x}"),
)
_TWO_LAYERS: tuple[Row, ...] = (
    ("box_head.fc.0.{x}", "roi_heads.box_head.fc6.{x}"),
    ("box_head.fc.1.{x}", "roi_heads.box_head.fc7.{x}"),
)
_ONE_LAYER: tuple[Row, ...] = (("box_head.fc.0.{x}", "roi_heads.box_head.5.{x}"),)  # of v2, after four convolutions
_OLD: tuple[Row, ...] = (  # the released files of v1
    ("neck.laterals.{i}.conv.{x}", "backbone.fpn.inner_blocks.{i}.{x}"),
    ("neck.outputs.{i}.conv.{x}", "backbone.fpn.layer_blocks.{i}.{x}"),
    ("rpn.convs.0.conv.{x}", "rpn.head.conv.{x}"),
    ("mask_head.convs.{i}.conv.{x}", "roi_heads.mask_head.mask_fcn{i+1}.{x}"),
)


def table_to_write(config: ModelConfig) -> Sequence[Row]:
    """The rows that today's modules are named by."""
    return _SHARED + (_ONE_LAYER if config.box_head.kind == "4conv1fc" else _TWO_LAYERS)


def _recognise(names: Collection[str]) -> bool:
    return any(name.startswith(("backbone.body.", "layer1.0.")) for name in names)


def _backbone_prefix(names: Collection[str]) -> str:
    return "" if any(name.startswith("backbone.") for name in names) else "backbone.body."


def _settle(config: ModelConfig, theirs: Mapping[str, Tensor], rest: Mapping[str, Any]) -> ModelConfig:
    """v2 has batch norms in its heads.

    The files released for v1, all of R-50 with frozen norms, are read with epsilon 0; every other model has 1e-5.
    """
    second = config.fpn.norm == "bn"
    config = with_profile(config, "torchvision_v2" if second else "torchvision")
    backbone = replace(config.backbone, norm_eps=1e-5)
    released = backbone == BackboneConfig()  # the R-50 with frozen norms
    return replace(config, backbone=replace(backbone, norm_eps=0.0) if released else backbone)


TORCHVISION = Origin(
    name="torchvision",
    recognise=_recognise,
    backbone_prefix=_backbone_prefix,
    table=_SHARED + _TWO_LAYERS + _ONE_LAYER + _OLD,
    ignored=re.compile(r"(backbone\.body\.)?fc\.(weight|bias)"),  # the classifier of ImageNet
    to_ours=background_to_last,
    settle=_settle,
)
