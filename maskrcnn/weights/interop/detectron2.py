"""Detectron2's models: FPN, C4 and DC5, masks, boxes, keypoints, every norm; and its backbones alone.

Background is the last class, as in ours. Pixels are BGR of 0..255. MSRA's ResNets have their strides in the 1x1
convolutions; ResNeXt and models with group norm have them in the 3x3.
"""

import re
from dataclasses import replace
from typing import Any

from ...config import InputConfig, ModelConfig
from .infer import depth
from .origin import FIXED, Contents, Origin, Row, Target, conv_rows
from .profiles import with_profile

_HEADS: tuple[Row, ...] = (
    *conv_rows("neck.laterals.{i}", "backbone.fpn_lateral{i+2}"),
    *conv_rows("neck.outputs.{i}", "backbone.fpn_output{i+2}"),
    ("rpn.objectness.{x}", "proposal_generator.rpn_head.objectness_logits.{x}"),
    ("rpn.deltas.{x}", "proposal_generator.rpn_head.anchor_deltas.{x}"),
    *conv_rows("box_pool.trunk.{n}.{c}", "roi_heads.res5.{n}.{c}"),
    *conv_rows("box_head.convs.{i}", "roi_heads.box_head.conv{i+1}"),
    ("box_head.fc.{i}.{x}", "roi_heads.box_head.fc{i+1}.{x}"),
    ("box_head.class_logits.{x}", "roi_heads.box_predictor.cls_score.{x}"),
    ("box_head.box_deltas.{x}", "roi_heads.box_predictor.bbox_pred.{x}"),
    *conv_rows("mask_head.convs.{i}", "roi_heads.mask_head.mask_fcn{i+1}"),
    ("mask_head.deconv.{x}", "roi_heads.mask_head.deconv.{x}"),
    ("mask_head.predictor.{x}", "roi_heads.mask_head.predictor.{x}"),
    *conv_rows("keypoint_head.convs.{i}", "roi_heads.keypoint_head.conv_fcn{i+1}"),
    ("keypoint_head.deconv.{x}", "roi_heads.keypoint_head.score_lowres.{x}"),
)
_ONE_CONV = conv_rows("rpn.convs.0", "proposal_generator.rpn_head.conv")
_MORE_CONVS = conv_rows("rpn.convs.{i}", "proposal_generator.rpn_head.conv.conv{i}")


def _body(prefix: str) -> tuple[Row, ...]:
    blocks = conv_rows("backbone.res{s}.{n}.{c}", f"{prefix}res{{s}}.{{n}}.{{c}}")
    return *conv_rows("backbone.stem", f"{prefix}stem.conv1"), *blocks


def _settle(config: ModelConfig, contents: Contents) -> ModelConfig:
    """Its C5 is dilated. Older files hold their pixels; those of ImageNet's networks say whose weights they are."""
    if config.backbone.features == "c5":
        backbone = replace(config.backbone, features="dc5")
        config = replace(config, backbone=backbone, name=config.name.replace("-C5", "-DC5"))
    config, theirs = with_profile(config, "detectron2"), contents.tensors
    if "pixel_mean" in theirs and "pixel_std" in theirs:
        mean, std = (tuple(theirs[name].flatten().tolist()) for name in ("pixel_mean", "pixel_std"))
        config = replace(config, input=replace(config.input, mean=mean, std=std))
    if str(contents.rest.get("__author__")).lower() == "torchvision":
        pixels = InputConfig()  # those of torchvision
        changed = replace(config.input, channel_order="rgb", mean=pixels.mean, std=pixels.std)
        config = replace(config, input=changed, backbone=replace(config.backbone, stride_in="3x3"))
    return config


DETECTRON2 = Origin(
    name="detectron2",
    recognise=re.compile(r"backbone\.bottom_up\.stem\.|(backbone\.)?stem\.conv1\."),
    prefix="backbone.",
    table=(*_body("backbone.bottom_up."), *_body("backbone."), *_ONE_CONV, *_MORE_CONVS, *_HEADS),
    ignored=re.compile(
        r"pixel_(mean|std)|proposal_generator\.anchor_generator\..*|(backbone\.)?stem\.fc\..*|.*linear\..*"
    ),
    to_ours=dict,
    settle=_settle,
)


_BASES = {"fpn": "Base-RCNN-FPN.yaml", "c4": "Base-RCNN-C4.yaml", "dc5": "Base-RCNN-DilatedC5.yaml"}
_NORMS = {"none": "", "frozen_bn": "FrozenBN", "bn": "BN", "gn": "GN"}


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Keys of its YAML, beside those of the base file."""
    image, net, rpn, box = config.input, config.backbone, config.rpn, config.box_head
    model: dict[str, Any] = {
        "PIXEL_MEAN": list(image.mean),
        "PIXEL_STD": list(image.std),
        "MASK_ON": config.mask_head.enabled,
        "KEYPOINT_ON": config.keypoint_head.enabled,
        "RESNETS.DEPTH": depth(net),
        "RESNETS.NORM": _NORMS[net.norm],
        "RESNETS.STRIDE_IN_1X1": net.stride_in == "1x1",
        "RESNETS.NUM_GROUPS": net.groups,
        "RESNETS.WIDTH_PER_GROUP": net.width_per_group * net.width // 64,
        "RESNETS.STEM_OUT_CHANNELS": net.width,
        "RESNETS.RES2_OUT_CHANNELS": net.width * (4 if net.block == "bottleneck" else 1),
    }
    if net.features == "fpn":
        model |= {"FPN.OUT_CHANNELS": config.fpn.channels, "FPN.NORM": _NORMS[config.fpn.norm]}
    model |= {
        "ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in config.anchors.sizes],
        "ANCHOR_GENERATOR.ASPECT_RATIOS": [list(config.anchors.ratios)],
        "PROPOSAL_GENERATOR.MIN_SIZE": rpn.min_size,
        "RPN.CONV_DIMS": [-1] * rpn.convs,
        "RPN.NMS_THRESH": rpn.nms_iou,
        "RPN.PRE_NMS_TOPK_TEST": rpn.pre_nms_test,
        "RPN.POST_NMS_TOPK_TEST": rpn.post_nms_test,
        "ROI_HEADS.NUM_CLASSES": config.classes,
        "ROI_HEADS.SCORE_THRESH_TEST": box.score_threshold,
        "ROI_HEADS.NMS_THRESH_TEST": box.nms_iou,
        **_heads(config),
    }
    return {
        "_BASE_": _BASES.get(net.features, ""),
        "INPUT.FORMAT": image.channel_order.upper(),
        "INPUT.MIN_SIZE_TEST": image.min_size,
        "INPUT.MAX_SIZE_TEST": image.max_size,
        "TEST.DETECTIONS_PER_IMAGE": box.max_detections,
        **{f"MODEL.{name}": value for name, value in model.items()},
    }


def _heads(config: ModelConfig) -> dict[str, Any]:
    box, mask, keypoint = config.box_head, config.mask_head, config.keypoint_head
    heads = {"BOX": {"BBOX_REG_WEIGHTS": list(box.weights), "CLS_AGNOSTIC_BBOX_REG": box.class_agnostic}}
    sides = {"BOX": box.pool_size * box.res5_stride if box.kind == "res5" else box.pool_size}
    if box.kind != "res5":
        convs, layers = (4, 1) if box.kind == "4conv1fc" else (0, 2)
        heads["BOX"] |= {"NUM_CONV": convs, "NUM_FC": layers, "FC_DIM": box.channels, "NORM": _NORMS[box.norm]}
    if mask.enabled:
        convs = mask.convs if mask.kind == "fcn" else 0
        heads["MASK"] = {"CONV_DIM": mask.channels, "NORM": _NORMS[mask.norm], "NUM_CONV": convs}
        heads["MASK"] |= {"CLS_AGNOSTIC_MASK": mask.class_agnostic}
        sides |= {"MASK": mask.pool_size} if mask.kind == "fcn" else {}
    if keypoint.enabled:
        dims = [keypoint.channels] * keypoint.convs
        heads["KEYPOINT"] = {"NUM_KEYPOINTS": keypoint.num_keypoints, "CONV_DIMS": dims}
        sides["KEYPOINT"] = keypoint.pool_size
    pooler = {"TYPE": "ROIAlignV2" if config.pool.aligned else "ROIAlign", "SAMPLING_RATIO": config.pool.sampling}
    for head, side in sides.items():
        heads[head] |= {f"POOLER_{name}": value for name, value in {"RESOLUTION": side, **pooler}.items()}
    return {f"ROI_{head}_HEAD.{name}": value for head, rows in heads.items() for name, value in rows.items()}


TARGET = Target(
    table=lambda config: (
        *_body("backbone.bottom_up." if config.backbone.features == "fpn" else "backbone."),
        *(_ONE_CONV if config.rpn.convs == 1 else _MORE_CONVS),
        *_HEADS,
    ),
    to_theirs=dict,
    fixed=FIXED,
    choices=lambda config: {
        "rpn.features": ("shared",),
        "backbone.block": ("bottleneck", "basic") if config.backbone.features == "fpn" else ("bottleneck",),
        "backbone.features": ("fpn", "c4", "dc5"),
        "backbone.norm_eps": (1e-5,),
        "box_head.res5_stride": (2,),
        "mask_head.kind": ("fcn", "res5"),
        "mask_head.threshold": (0.5,),
    },
    suffixes=(".pth", ".pkl"),
    settings=_settings,
)
