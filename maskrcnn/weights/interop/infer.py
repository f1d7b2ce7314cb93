"""The structure of a model, which foreign checkpoints do not state, from names and shapes of its tensors, and back."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...config import BackboneConfig, BoxHeadConfig, FPNConfig, KeypointHeadConfig, MaskHeadConfig, ModelConfig, preset
from ...errors import CheckpointError
from ...model.build import build
from ...model.mask_rcnn import MaskRCNN

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def empty_model(config: ModelConfig) -> MaskRCNN:
    """The model of a config on the meta device: tensors with names and shapes, but without values."""
    with torch.device("meta"):
        return build(config, draw=False)


def infer(shapes: Shapes) -> ModelConfig:
    """The `ModelConfig` whose model has tensors of these names and shapes. What shapes do not show has its default.

    Shown are depth, width, cardinality, norms, features, convolutions, classes, keypoints, and the side of a pooled map
    if a layer depends on it. Raises `CheckpointError` if this is no Mask R-CNN.
    """
    pyramid = "neck.laterals.0.conv.weight" in shapes
    c4 = any(name.startswith("box_pool.trunk.") for name in shapes)
    features = "fpn" if pyramid else "c4" if c4 else "c5"
    base = preset(f"R-50-{features.upper()}")
    backbone = infer_backbone(shapes, features)
    classes = _shape(shapes, "box_head.class_logits.weight")[0] - 1
    if classes < 1:
        raise CheckpointError("its box_head.class_logits has 1 row: there is no class beside the background")
    anchors, known = _shape(shapes, "rpn.objectness.weight")[0], len(base.anchors.sizes[0]) * len(base.anchors.ratios)
    if anchors != known:  # sizes and ratios leave no other trace
        raise CheckpointError(f"it has {anchors} anchors per position, not {known}: their sizes and ratios are unknown")
    outputs = "neck.outputs.0"
    fpn = FPNConfig(_shape(shapes, f"{outputs}.conv.weight")[0], _norm(shapes, outputs)) if pyramid else base.fpn
    group = f"-{backbone.groups}x{backbone.width_per_group}d" if backbone.groups > 1 else ""
    return replace(
        base,
        name=f"{'X' if group else 'R'}-{depth(backbone)}{group}-{features.upper()}",
        classes=classes,
        input=replace(base.input, channels=_shape(shapes, "backbone.stem.conv.weight")[1]),
        backbone=backbone,
        fpn=fpn,
        rpn=replace(base.rpn, convs=max(1, _count(shapes, "rpn.convs"))),
        box_head=_box_head(shapes, base.box_head, classes),
        mask_head=_mask_head(shapes, base.mask_head, classes),
        keypoint_head=_keypoint_head(shapes),
    )


def infer_backbone(shapes: Shapes, features: str = "fpn") -> BackboneConfig:
    """The `BackboneConfig` of tensors under `backbone.` (and `box_pool.trunk.` for C4)."""
    width = _shape(shapes, "backbone.stem.conv.weight")[0]
    second = _shape(shapes, "backbone.res2.0.conv2.conv.weight")  # [middle, middle / groups, 3, 3]
    bottleneck = "backbone.res2.0.conv3.conv.weight" in shapes
    last = "box_pool.trunk" if features == "c4" else "backbone.res5"
    stages: Any = tuple(_count(shapes, stem) for stem in ("backbone.res2", "backbone.res3", "backbone.res4", last))
    if 0 in stages:
        raise CheckpointError(f"it has {list(stages)} blocks in the stages of its ResNet; each should have some")
    groups = second[0] // second[1] if bottleneck else 1
    per_group = second[1] * 64 // width if bottleneck else 64
    if second[0] != groups * per_group * width // 64 or second[0] % groups:
        raise CheckpointError(f"its backbone.res2.0.conv2 has shape {list(second)}, which fits no stem of {width}")
    if (norm := _norm(shapes, "backbone.stem", frozen="frozen_bn")) == "none":
        raise CheckpointError("it has no norm at backbone.stem.norm")
    return BackboneConfig(
        block="bottleneck" if bottleneck else "basic",
        blocks=stages,
        width=width,
        groups=groups,
        width_per_group=per_group,
        norm=norm,
        features=features,  # type: ignore[arg-type]
    )


def depth(backbone: BackboneConfig) -> int:
    """Layers with weights, the classifier of ImageNet among them: 50 of R-50."""
    return sum(backbone.blocks) * (3 if backbone.block == "bottleneck" else 2) + 2


def _box_head(shapes: Shapes, base: BoxHeadConfig, classes: int) -> BoxHeadConfig:
    agnostic = classes > 1 and _shape(shapes, "box_head.box_deltas.weight")[0] == 4
    if base.kind == "res5":
        return replace(base, class_agnostic=agnostic)
    convs = _count(shapes, "box_head.convs")
    rows, columns = _shape(shapes, "box_head.fc.0.weight")[:2]
    below = ("box_head.convs.0.conv", "neck.outputs.0.conv", "backbone.res5.0.conv3.conv", "backbone.res5.0.conv2.conv")
    source = next((name for name in below if f"{name}.weight" in shapes), below[-1])
    channels = _shape(shapes, f"{source}.weight")[0]
    side = math.isqrt(columns // channels)
    return BoxHeadConfig(
        kind="4conv1fc" if convs else "2fc",
        # If the columns are no square map, the error is in the table of shapes that do not fit.
        pool_size=side if side * side * channels == columns else base.pool_size,
        channels=rows,
        norm=_norm(shapes, "box_head.convs.0"),
        class_agnostic=agnostic,
    )


def _mask_head(shapes: Shapes, base: MaskHeadConfig, classes: int) -> MaskHeadConfig:
    if "mask_head.predictor.weight" not in shapes:
        return replace(base, enabled=False)
    rows, channels = _shape(shapes, "mask_head.predictor.weight")[:2]
    convs = _count(shapes, "mask_head.convs")
    return MaskHeadConfig(
        kind="fcn" if convs else "res5",
        convs=convs or base.convs,
        channels=channels,
        norm=_norm(shapes, "mask_head.convs.0"),
        class_agnostic=classes > 1 and rows == 1,
    )


def _keypoint_head(shapes: Shapes) -> KeypointHeadConfig:
    if "keypoint_head.deconv.weight" not in shapes:
        return KeypointHeadConfig()
    channels, keypoints = _shape(shapes, "keypoint_head.deconv.weight")[:2]
    convs = _count(shapes, "keypoint_head.convs")
    return KeypointHeadConfig(enabled=True, num_keypoints=keypoints, convs=convs, channels=channels)


def _norm(shapes: Shapes, stem: str, frozen: str = "bn") -> Any:
    """The kind of a norm; `frozen` is that of batch norms without a count of batches, frozen only in the backbone."""
    ends = {"num_batches_tracked": "bn", "running_var": frozen, "weight": "gn"}
    return next((kind for end, kind in ends.items() if f"{stem}.norm.{end}" in shapes), "none")


def _count(shapes: Shapes, stem: str) -> int:
    """The number of numbered parts under `stem`. Raises `CheckpointError` if a number is missing."""
    pattern = re.compile(re.escape(stem) + r"\.(\d+)\.")
    found = {int(match[1]) for match in map(pattern.match, shapes) if match}
    if found != set(range(len(found))):
        raise CheckpointError(f"the parts of {stem} are numbered {sorted(found)}, not from 0 without a gap")
    return len(found)


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of a layer's weights. Raises `CheckpointError` if there are none."""
    if name not in shapes:
        raise CheckpointError(f"it has no {name}, which a Mask R-CNN has")
    if len(shapes[name]) < 2 or 0 in shapes[name]:
        raise CheckpointError(f"its {name} has shape {list(shapes[name])}, which no layer has")
    return shapes[name]
