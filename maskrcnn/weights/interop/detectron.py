"""Detectron's blobs (Caffe2): scale and shift instead of norms, background first, anchors of one map ratio-major.

A `model_final.pkl` is a pickle of {"blobs": {name: array}, "cfg": YAML text}, a backbone of ImageNet only the blobs.
Detectron2's copies of those keep Caffe2's names, with norms that are not folded.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from ...config import ModelConfig
from .origin import Contents, Origin, Row, State
from .profiles import with_profile
from .rows import anchors_to_size_major, background_to_last

_BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
_ENDS = {"w": "weight", "b": "bias"}
_GROUP_ENDS = {"s": "weight", "b": "bias"}
_BATCH_ENDS = {  # ImageNet's networks were converted in several ways
    **_GROUP_ENDS,
    **{"gamma": "weight", "beta": "bias", "rm": "running_mean", "riv": "running_var"},
    **{"running_mean": "running_mean", "running_var": "running_var"},
}


def _layer(ours: str, theirs: str) -> tuple[Row, ...]:
    return tuple((f"{ours}.{mine}", f"{theirs}_{end}") for end, mine in _ENDS.items())


def _conv(ours: str, theirs: str) -> tuple[Row, ...]:
    """A convolution and its norm: of groups, or of a batch, which is called `folded` until `_unfold` has seen it."""
    groups = tuple((f"{ours}.norm.{mine}", f"{theirs}_gn_{end}") for end, mine in _GROUP_ENDS.items())
    batch = tuple((f"{ours}.folded.{mine}", f"{theirs}_bn_{end}") for end, mine in _BATCH_ENDS.items())
    return (*_layer(f"{ours}.conv", theirs), *groups, *batch)


def _rpn(suffix: str) -> tuple[Row, ...]:
    return (
        *_conv("rpn.convs.0", f"conv_rpn{suffix}"),
        *_layer("rpn.objectness", f"rpn_cls_logits{suffix}"),
        *_layer("rpn.deltas", f"rpn_bbox_pred{suffix}"),
    )


_TABLE: tuple[Row, ...] = (
    *_conv("backbone.stem", "conv1"),
    *_conv("backbone.stem", "res_conv1"),
    *(row for ours, b in _BRANCHES.items() for row in _conv(f"backbone.res{{s}}.{{n}}.{ours}", f"res{{s}}_{{n}}_{b}")),
    # The second number is that of the stage's last block and is not needed; the top lateral has no "_lateral".
    *_conv("neck.laterals.3", "fpn_inner_res5_{n}_sum"),
    *_conv("neck.laterals.{i}", "fpn_inner_res{i+2}_{n}_sum_lateral"),
    *_conv("neck.outputs.{i}", "fpn_res{i+2}_{n}_sum"),
    *_rpn(""),
    *_rpn("_fpn2"),
    *_layer("box_head.fc.0", "fc6"),
    *_layer("box_head.fc.1", "fc7"),
    *_conv("box_head.convs.{i}", "head_conv{i+1}"),
    *_layer("box_head.class_logits", "cls_score"),
    *_layer("box_head.box_deltas", "bbox_pred"),
    *_conv("mask_head.convs.{i}", "_[mask]_fcn{i+1}"),  # the brackets are part of the name
    *_conv("mask_head.convs.{i}", "_mask_fcn{i+1}"),
    *_layer("mask_head.deconv", "conv5_mask"),
    *_layer("mask_head.predictor", "mask_fcn_logits"),
    *_conv("keypoint_head.convs.{i}", "conv_fcn{i+1}"),
    *_layer("keypoint_head.deconv", "kps_score_lowres"),
)


def _to_ours(state: State) -> dict[str, Tensor]:
    """Unfolds norms; puts the background last, the anchors of one map size-major, and res5 into the head of a C4."""
    result = background_to_last(_unfold(state))
    if "rpn.objectness.weight" in result and "neck.laterals.0.conv.weight" not in result:
        result = anchors_to_size_major(result)
        sees, res4 = (result.get(f"{name}.conv.weight") for name in ("rpn.convs.0", "backbone.res4.0.conv3"))
        if sees is not None and res4 is not None and sees.shape[1:2] == res4.shape[:1]:
            result = {name.replace("backbone.res5.", "box_pool.trunk."): tensor for name, tensor in result.items()}
    return result


def _unfold(state: State) -> dict[str, Tensor]:
    """Folded norms as norms of mean 0 and variance 1, for an epsilon of 0."""
    result = {name.replace(".folded.", ".norm."): tensor for name, tensor in state.items()}
    for name, scale in state.items():
        stem = name.removesuffix(".folded.weight")
        if stem != name and f"{stem}.folded.running_var" not in state:
            result[f"{stem}.norm.running_mean"] = torch.zeros_like(scale)
            result[f"{stem}.norm.running_var"] = torch.ones_like(scale)
    return result


def _settle(config: ModelConfig, contents: Contents) -> ModelConfig:
    """Folded norms have epsilon 0, the rows of anchors are size-major by now, and the file's own settings count."""
    config = with_profile(config, "detectron")
    live = re.compile(r"_bn_(running_var|riv)$")
    unfolded = config.backbone.norm == "gn" or any(map(live.search, contents.tensors))
    backbone = replace(config.backbone, norm_eps=1e-5 if unfolded else 0.0)
    weights = config.box_head.weights
    if isinstance(text := contents.rest.get("cfg"), str) and text:
        if found := re.search(r"\bSTRIDE_1X1:\s*(true|false)", text, re.IGNORECASE):
            backbone = replace(backbone, stride_in="1x1" if found[1].lower() == "true" else "3x3")
        # Four numbers in brackets, or one a line; files that are too old to have the setting were trained with ones.
        found = re.search(r"\bBBOX_REG_WEIGHTS:\s*(?:!!python/\w+)?\s*((?:[-\[\], \n]+[0-9.]+){4})", text)
        weights = tuple(float(number) for number in re.findall(r"[0-9.]+", found[1])) if found else (1.0,) * 4
    return replace(
        config,
        backbone=backbone,
        anchors=replace(config.anchors, order="size-major"),
        box_head=replace(config.box_head, weights=weights),
    )


DETECTRON = Origin(
    name="detectron",
    recognise=re.compile(r"conv1_w$"),
    prefix="",
    table=_TABLE,
    # Momentum of the solver, the fixed bilinear weights of the keypoints, a stem's zero bias, ImageNet's classifier.
    ignored=re.compile(r".*_momentum|kps_score_[wb]|conv1_b|fc1000_[wb]|pred_[wb]|lr|weight_order|model_iter.*"),
    to_ours=_to_ours,
    settle=_settle,
)
