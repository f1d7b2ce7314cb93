"""The structure of a model from the names and shapes of its tensors: what a foreign checkpoint does not say."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...config import (
    AnchorConfig,
    BackboneConfig,
    BoxHeadConfig,
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ModelConfig,
    preset,
)
from ...errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

_RATIOS = 3
_LEVELS = 5  # of anchors on a pyramid


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def infer(shapes: Shapes) -> ModelConfig:
    """The `ModelConfig` whose model has tensors of these names and shapes; every switch has its default.

    Depth, width, cardinality, norms, features, convolutions, classes and keypoints are read; sides of pooled maps too
    where a layer depends on them. Raises `CheckpointError` for what is no Mask R-CNN.
    """
    features = _features(shapes)
    backbone = infer_backbone(shapes, features)
    base = preset("R-50-FPN" if features == "fpn" else "R-50-C4" if features == "c4" else "R-50-C5")
    classes = _shape(shapes, "box_head.class_logits.weight")[0] - 1
    if classes < 1:
        raise CheckpointError("its box_head.class_logits has 1 row: there is no class beside the background")
    return replace(
        base,
        name=_name(backbone),
        classes=classes,
        input=InputConfig(channels=_shape(shapes, "backbone.stem.conv.weight")[1]),
        backbone=backbone,
        fpn=_fpn(shapes) if features == "fpn" else FPNConfig(),
        anchors=_anchors(shapes, features),
        rpn=replace(base.rpn, convs=max(1, _count(shapes, "rpn.convs"))),
        box_head=_box_head(shapes, features, classes),
        mask_head=_mask_head(shapes, features, classes),
        keypoint_head=_keypoint_head(shapes),
    )


def infer_backbone(shapes: Shapes, features: str = "fpn") -> BackboneConfig:
    """The `BackboneConfig` of tensors under `backbone.` (and `box_pool.trunk.` for C4)."""
    width = _shape(shapes, "backbone.stem.conv.weight")[0]
    second = _shape(shapes, "backbone.res2.0.conv2.conv.weight")  # [middle, middle / groups, 3, 3]
    bottleneck = "backbone.res2.0.conv3.conv.weight" in shapes
    stages = [_count(shapes, f"backbone.res{stage}") for stage in (2, 3, 4, 5)]
    if features == "c4":
        stages[3] = _count(shapes, "box_pool.trunk")
    if 0 in stages:
        raise CheckpointError(f"it has {stages} blocks in the stages of its ResNet; each should have some")
    groups = second[0] // second[1] if bottleneck else 1
    per_group = second[1] * 64 // width if bottleneck else 64
    if second[0] != groups * per_group * width // 64 or second[0] % groups:
        raise CheckpointError(f"its backbone.res2.0.conv2 has shape {list(second)}, which fits no stem of {width}")
    return BackboneConfig(
        block="bottleneck" if bottleneck else "basic",
        blocks=(stages[0], stages[1], stages[2], stages[3]),
        width=width,
        groups=groups,
        width_per_group=per_group,
        norm=_norm(shapes, "backbone.stem"),  # type: ignore[arg-type]
        features=features,  # type: ignore[arg-type]
    )


def _features(shapes: Shapes) -> str:
    if "neck.laterals.0.conv.weight" in shapes:
        return "fpn"
    return "c4" if any(name.startswith("box_pool.trunk.") for name in shapes) else "c5"


def _fpn(shapes: Shapes) -> FPNConfig:
    channels = _shape(shapes, "neck.outputs.0.conv.weight")[0]
    return FPNConfig(channels=channels, norm=_head_norm(shapes, "neck.outputs.0"))  # type: ignore[arg-type]


def _anchors(shapes: Shapes, features: str) -> AnchorConfig:
    """Sizes and ratios leave no trace but their number; the paper's are taken where that fits."""
    per_cell = _shape(shapes, "rpn.objectness.weight")[0]
    known = AnchorConfig() if features == "fpn" else preset("R-50-C4").anchors
    expected = len(known.sizes[0]) * len(known.ratios)
    if per_cell != expected:
        raise CheckpointError(f"it has {per_cell} anchors a position, where {expected} are known: their sizes are not")
    return known


def _box_head(shapes: Shapes, features: str, classes: int) -> BoxHeadConfig:
    agnostic = classes > 1 and _shape(shapes, "box_head.box_deltas.weight")[0] == 4
    if features == "c4":
        return BoxHeadConfig(kind="res5", class_agnostic=agnostic)
    convs = _count(shapes, "box_head.convs")
    rows, columns = _shape(shapes, "box_head.fc.0.weight")[:2]
    source = "box_head.convs.0.conv.weight" if convs else "neck.outputs.0.conv.weight"
    channels = _shape(shapes, source)[0] if source in shapes else _last_stage(shapes)
    return BoxHeadConfig(
        kind="4conv1fc" if convs else "2fc",
        pool_size=_side(columns, channels),
        channels=rows,
        norm=_head_norm(shapes, "box_head.convs.0") if convs else "none",  # type: ignore[arg-type]
        class_agnostic=agnostic,
    )


def _side(columns: int, channels: int) -> int:
    """Of the map that so many numbers are; the usual one where they are no square, which the table then tells."""
    side = math.isqrt(columns // channels)
    return side if side * side * channels == columns else BoxHeadConfig().pool_size


def _last_stage(shapes: Shapes) -> int:
    last = "conv3" if "backbone.res2.0.conv3.conv.weight" in shapes else "conv2"
    return _shape(shapes, f"backbone.res5.0.{last}.conv.weight")[0]


def _mask_head(shapes: Shapes, features: str, classes: int) -> MaskHeadConfig:
    if "mask_head.predictor.weight" not in shapes:
        return MaskHeadConfig(enabled=False, kind="res5" if features == "c4" else "fcn")
    rows, channels = _shape(shapes, "mask_head.predictor.weight")[:2]
    convs = _count(shapes, "mask_head.convs")
    return MaskHeadConfig(
        kind="fcn" if convs else "res5",
        convs=convs or MaskHeadConfig().convs,
        channels=channels,
        norm=_head_norm(shapes, "mask_head.convs.0") if convs else "none",  # type: ignore[arg-type]
        class_agnostic=classes > 1 and rows == 1,
    )


def _keypoint_head(shapes: Shapes) -> KeypointHeadConfig:
    if "keypoint_head.deconv.weight" not in shapes:
        return KeypointHeadConfig()
    channels, keypoints = _shape(shapes, "keypoint_head.deconv.weight")[:2]
    return KeypointHeadConfig(
        enabled=True, num_keypoints=keypoints, convs=_count(shapes, "keypoint_head.convs"), channels=channels
    )


def _norm(shapes: Shapes, stem: str) -> str:
    """Frozen norms are batch norms without a count of batches."""
    if f"{stem}.norm.num_batches_tracked" in shapes:
        return "bn"
    if f"{stem}.norm.running_var" in shapes:
        return "frozen_bn"
    if f"{stem}.norm.weight" in shapes:
        return "gn"
    raise CheckpointError(f"it has no norm at {stem}.norm")


def _head_norm(shapes: Shapes, stem: str) -> str:
    """Norms outside the backbone are never frozen, whether their batches were counted or not."""
    kind = _norm(shapes, stem) if f"{stem}.norm.weight" in shapes else "none"
    return "bn" if kind == "frozen_bn" else kind


def _count(shapes: Shapes, stem: str) -> int:
    """How many numbered parts there are under `stem`. Raises `CheckpointError` where one is left out."""
    pattern = re.compile(re.escape(stem) + r"\.(\d+)\.")
    found = {int(match[1]) for match in map(pattern.match, shapes) if match}
    if found != set(range(len(found))):
        raise CheckpointError(f"the parts of {stem} are numbered {sorted(found)}, not from 0 without a gap")
    return len(found)


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    """Of a layer's weights. Raises `CheckpointError` where there are none."""
    if name not in shapes:
        raise CheckpointError(f"it has no {name}: a Mask R-CNN does")
    if len(shapes[name]) < 2 or 0 in shapes[name]:
        raise CheckpointError(f"its {name} has shape {list(shapes[name])}, which no layer has")
    return shapes[name]


def _name(backbone: BackboneConfig) -> str:
    """Network-depth-features."""
    groups = f"-{backbone.groups}x{backbone.width_per_group}d"
    name = f"R-{depth(backbone)}" if backbone.groups == 1 else f"X-{depth(backbone)}{groups}"
    return f"{name}-{backbone.features.upper()}"


def depth(backbone: BackboneConfig) -> int:
    """Layers with weights, the classifier of ImageNet among them: 50 of R-50."""
    return sum(backbone.blocks) * (3 if backbone.block == "bottleneck" else 2) + 2
