"""Detectron's blobs (Caffe2): scale and shift instead of norms, background first, anchors of one map ratio-major.

Names and layouts: Detectron's `model_final.pkl`, a pickle of {"blobs": {name: array}, "cfg": YAML text}; ImageNet
backbones are the blobs alone. Detectron2's copies of those keep Caffe2's names, with norms unfolded.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...config import ModelConfig
from .names import Row
from .origin import Origin
from .profiles import with_profile
from .rows import anchors_to_size_major, background_to_last

_BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
_ENDS = (("weight", "s"), ("bias", "b"))
_BATCH_ENDS = (  # of ImageNet's networks, which several hands converted
    *_ENDS,
    ("weight", "gamma"),
    ("bias", "beta"),
    ("running_mean", "rm"),
    ("running_var", "riv"),
    ("running_mean", "running_mean"),
    ("running_var", "running_var"),
)


def _plain(ours: str, theirs: str) -> tuple[Row, ...]:
    """A layer with weight and bias."""
    return ((f"{ours}.weight", f"{theirs}_w"), (f"{ours}.bias", f"{theirs}_b"))


def _norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """A norm of groups, or of a batch, which is `folded` until `_unfold` has seen it."""
    groups = tuple((f"{ours}.norm.{mine}", f"{theirs}_gn_{yours}") for mine, yours in _ENDS)
    return groups + tuple((f"{ours}.folded.{mine}", f"{theirs}_bn_{yours}") for mine, yours in _BATCH_ENDS)


def _blocks() -> tuple[Row, ...]:
    rows: list[Row] = []
    for conv, branch in _BRANCHES.items():
        ours, theirs = f"backbone.res{{s}}.{{n}}.{conv}", f"res{{s}}_{{n}}_{branch}"
        rows += [(f"{ours}.conv.weight", f"{theirs}_w"), *_norm(ours, theirs)]
    return tuple(rows)


def _rpn(suffix: str) -> tuple[Row, ...]:
    return (
        *_plain("rpn.convs.0.conv", f"conv_rpn{suffix}"),
        *_plain("rpn.objectness", f"rpn_cls_logits{suffix}"),
        *_plain("rpn.deltas", f"rpn_bbox_pred{suffix}"),
    )


def _masks(theirs: str) -> tuple[Row, ...]:
    ours = "mask_head.convs.{i}"
    return (*_plain(f"{ours}.conv", f"{theirs}_fcn{{i+1}}"), *_norm(ours, f"{theirs}_fcn{{i+1}}"))


def _fpn(ours: str, theirs: str) -> tuple[Row, ...]:
    return (*_plain(f"{ours}.conv", theirs), *_norm(ours, theirs))


_TABLE: tuple[Row, ...] = (
    ("backbone.stem.conv.weight", "conv1_w"),
    *_norm("backbone.stem", "conv1"),
    *_norm("backbone.stem", "res_conv1"),
    *_blocks(),
    # The second number is that of the stage's last block and says nothing; the top lateral has no "_lateral".
    *_fpn("neck.laterals.3", "fpn_inner_res5_{n}_sum"),
    *_fpn("neck.laterals.{i}", "fpn_inner_res{i+2}_{n}_sum_lateral"),
    *_fpn("neck.outputs.{i}", "fpn_res{i+2}_{n}_sum"),
    *_rpn(""),
    *_rpn("_fpn2"),
    *_plain("box_head.fc.0", "fc6"),
    *_plain("box_head.fc.1", "fc7"),
    *_fpn("box_head.convs.{i}", "head_conv{i+1}"),
    *_plain("box_head.class_logits", "cls_score"),
    *_plain("box_head.box_deltas", "bbox_pred"),
    *_masks("_[mask]"),  # the brackets are part of the name
    *_masks("_mask"),
    *_plain("mask_head.deconv", "conv5_mask"),
    *_plain("mask_head.predictor", "mask_fcn_logits"),
    *_plain("keypoint_head.convs.{i}.conv", "conv_fcn{i+1}"),
    *_plain("keypoint_head.deconv", "kps_score_lowres"),
)


def _recognise(names: Collection[str]) -> bool:
    return "conv1_w" in names


def _to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norms unfolded, background last, anchors of one map size-major, and res5 in the head where that is C4."""
    result = background_to_last(_unfold(state))
    if "rpn.objectness.weight" in result and "neck.laterals.0.conv.weight" not in result:
        result = anchors_to_size_major(result)
        sees, res4 = (result.get(f"{name}.conv.weight") for name in ("rpn.convs.0", "backbone.res4.0.conv3"))
        if sees is not None and res4 is not None and sees.shape[1:2] == res4.shape[:1]:
            result = {name.replace("backbone.res5.", "box_pool.trunk."): tensor for name, tensor in result.items()}
    return result


def _unfold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folded norms as norms of mean 0 and variance 1, to be read with epsilon 0."""
    result = {name.replace(".folded.", ".norm."): tensor for name, tensor in state.items()}
    for name, scale in state.items():
        stem = name.removesuffix(".folded.weight")
        if stem != name and f"{stem}.folded.running_var" not in state:
            result[f"{stem}.norm.running_mean"] = torch.zeros_like(scale)
            result[f"{stem}.norm.running_var"] = torch.ones_like(scale)
    return result


def _settle(config: ModelConfig, theirs: Mapping[str, Tensor], rest: Mapping[str, Any]) -> ModelConfig:
    """Folded norms have epsilon 0, rows of anchors are size-major by now, and the file's own settings are heard."""
    config = with_profile(config, "detectron")
    unfolded = config.backbone.norm == "gn" or any(re.fullmatch(r".*_bn_(running_var|riv)", name) for name in theirs)
    text = rest.get("cfg")
    text = text if isinstance(text, str) else ""
    stride = config.backbone.stride_in
    if found := re.search(r"\bSTRIDE_1X1:\s*(true|false)", text, re.IGNORECASE):
        stride = "1x1" if found[1].lower() == "true" else "3x3"
    config = replace(
        config,
        backbone=replace(config.backbone, stride_in=stride, norm_eps=1e-5 if unfolded else 0.0),
        anchors=replace(config.anchors, order="size-major"),
    )
    if text and (weights := _numbers(text, "BBOX_REG_WEIGHTS", default=(1.0, 1.0, 1.0, 1.0))):
        config = replace(config, box_head=replace(config.box_head, weights=weights))
    return config


def _numbers(text: str, key: str, *, default: tuple[float, ...]) -> tuple[float, ...]:
    """Four numbers of a setting in YAML, in brackets or one a line; the default of older files where it is absent."""
    found = re.search(rf"\b{key}:\s*(?:!!python/\w+)?\s*((?:[-\[\], \n]+[0-9.]+){{4}})", text)
    return tuple(float(number) for number in re.findall(r"[0-9.]+", found[1])) if found else default


def _backbone_prefix(names: Collection[str]) -> str:
    return ""


DETECTRON = Origin(
    name="detectron",
    recognise=_recognise,
    backbone_prefix=_backbone_prefix,
    table=_TABLE,
    # Momentum of the solver, the fixed bilinear weights of the keypoints, a stem's zero bias, ImageNet's classifier.
    ignored=re.compile(r".*_momentum|kps_score_[wb]|conv1_b|fc1000_[wb]|pred_[wb]|lr|weight_order|model_iter.*"),
    to_ours=_to_ours,
    settle=_settle,
)
