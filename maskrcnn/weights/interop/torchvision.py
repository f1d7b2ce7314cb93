"""torchvision's `maskrcnn_resnet50_fpn`, `fasterrcnn_…` and `keypointrcnn_…`, v1 and v2, and its ResNets alone.

Row i of its predictors is class i, and 0 is the background: with 91 rows the labels are COCO's own ids, ten of which
never occur. The files released for v1 have older names than today's modules; both are read.
"""

import re
from dataclasses import replace
from typing import Any

from ...config import BackboneConfig, ModelConfig
from .origin import FIXED, Contents, Origin, Row, Target, conv_rows
from .profiles import with_profile
from .rows import background_to_first, background_to_last

_SHARED: tuple[Row, ...] = (
    *conv_rows("backbone.stem", "backbone.body.", "conv1", "bn1"),
    *conv_rows("backbone.res{s}.{n}.conv{m}", "backbone.body.layer{s-1}.{n}.", "conv{m}", "bn{m}"),
    *conv_rows("backbone.res{s}.{n}.shortcut", "backbone.body.layer{s-1}.{n}.downsample", ".0", ".1"),
    *conv_rows("neck.laterals.{i}", "backbone.fpn.inner_blocks.{i}", ".0", ".1"),
    *conv_rows("neck.outputs.{i}", "backbone.fpn.layer_blocks.{i}", ".0", ".1"),
    ("rpn.convs.{i}.conv.{x}", "rpn.head.conv.{i}.0.{x}"),
    ("rpn.objectness.{x}", "rpn.head.cls_logits.{x}"),
    ("rpn.deltas.{x}", "rpn.head.bbox_pred.{x}"),
    *conv_rows("box_head.convs.{i}", "roi_heads.box_head.{i}", ".0", ".1"),
    ("box_head.class_logits.{x}", "roi_heads.box_predictor.cls_score.{x}"),
    ("box_head.box_deltas.{x}", "roi_heads.box_predictor.bbox_pred.{x}"),
    *conv_rows("mask_head.convs.{i}", "roi_heads.mask_head.{i}", ".0", ".1"),
    ("mask_head.deconv.{x}", "roi_heads.mask_predictor.conv5_mask.{x}"),
    ("mask_head.predictor.{x}", "roi_heads.mask_predictor.mask_fcn_logits.{x}"),
    # The file numbers the ReLUs between these convolutions, too.
    *((f"keypoint_head.convs.{i}.conv.{{x}}", f"roi_heads.keypoint_head.{2 * i}.{{x}}") for i in range(16)),
    ("keypoint_head.deconv.{x}", "roi_heads.keypoint_predictor.kps_score_lowres.{x}"),
)
_TWO_LAYERS: tuple[Row, ...] = (("box_head.fc.{i}.{x}", "roi_heads.box_head.fc{i+6}.{x}"),)
_ONE_LAYER: tuple[Row, ...] = (("box_head.fc.0.{x}", "roi_heads.box_head.5.{x}"),)  # of v2, after four convolutions
_OLD: tuple[Row, ...] = (  # the released files of v1
    ("neck.laterals.{i}.conv.{x}", "backbone.fpn.inner_blocks.{i}.{x}"),
    ("neck.outputs.{i}.conv.{x}", "backbone.fpn.layer_blocks.{i}.{x}"),
    ("rpn.convs.0.conv.{x}", "rpn.head.conv.{x}"),
    ("mask_head.convs.{i}.conv.{x}", "roi_heads.mask_head.mask_fcn{i+1}.{x}"),
)


def _settle(config: ModelConfig, contents: Contents) -> ModelConfig:
    """v2 has batch norms in its heads. The files released for v1, all R-50 with frozen norms, need epsilon 0."""
    config = with_profile(config, "torchvision_v2" if config.fpn.norm == "bn" else "torchvision")
    eps = 0.0 if replace(config.backbone, norm_eps=1e-5) == BackboneConfig() else 1e-5
    return replace(config, backbone=replace(config.backbone, norm_eps=eps))


TORCHVISION = Origin(
    name="torchvision",
    recognise=re.compile(r"backbone\.body\.|layer1\.0\."),
    prefix="backbone.body.",
    table=_SHARED + _TWO_LAYERS + _ONE_LAYER + _OLD,
    ignored=re.compile(r"(backbone\.body\.)?fc\.(weight|bias)"),  # the classifier of ImageNet
    to_ours=background_to_last,
    settle=_settle,
)


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Arguments of its builders."""
    image, box, rpn = config.input, config.box_head, config.rpn
    settings: dict[str, Any] = {
        "num_classes": config.classes + 1,
        "min_size": image.min_size,
        "max_size": image.max_size,
        "image_mean": [round(value / 255, 6) for value in image.mean],
        "image_std": [round(value / 255, 6) for value in image.std],
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


TARGET = Target(
    table=lambda config: _SHARED + (_ONE_LAYER if config.box_head.kind == "4conv1fc" else _TWO_LAYERS),
    to_theirs=background_to_first,
    fixed=(*FIXED, "input.channel_order", "pool.aligned", "rpn.min_size"),
    choices=lambda config: {
        "input.channels": (3,),
        "rpn.features": ("shared",),
        "backbone.features": ("fpn",),
        "backbone.width": (64,),
        "backbone.stride_in": ("3x3",),
        "backbone.norm": ("frozen_bn", "bn"),
        "box_head.class_agnostic": (False,),
        "mask_head.class_agnostic": (False,),
        "mask_head.kind": ("fcn",),
    },
    suffixes=(".pth", ".pt"),
    settings=_settings,
)
