"""Every number of the system: frozen dataclasses, one per room, with the paper's defaults; presets; TOML in and out.

Only `model/build.py` reads a `ModelConfig`. An unknown key or a value of the wrong type is a `ConfigError` with the
nearest name. Sources: section 3.1 and Table 2 of the paper, FPN (arXiv 1612.03144); a profile is a set of values for
the switches in which the frameworks differ.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError

T = typing.TypeVar("T")


@dataclass(frozen=True)
class InputConfig:
    """From an image to the canvas (section 3.1: the shorter side is 800)."""

    channels: int = 3
    channel_order: Literal["rgb", "bgr"] = "rgb"  # what the first convolution was trained on; pixels are always RGB
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # in `channel_order`, of 0..255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    min_size: int = 800  # shorter side at test; 0 keeps the image's own size, times `zoom`
    zoom: float = 1.0  # canvas pixels per image pixel where `min_size` is 0: above 1 for objects of few pixels
    max_size: int = 1333  # bound of the longer side
    resize: Literal["pillow", "float", "opencv"] = "pillow"  # uint8 antialiased, or float bilinear without antialias
    size_rounding: Literal["half_up", "floor", "half_even"] = "half_up"
    canvas: Literal["multiple-of-32", "buckets", "exact"] = "multiple-of-32"


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet or ResNeXt, and which of its maps the RPN and the RoI operators see."""

    block: Literal["basic", "bottleneck"] = "bottleneck"
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64  # of the stem; a stage's output is width * expansion * 2^stage
    groups: int = 1
    width_per_group: int = 64
    stride_in: Literal["3x3", "1x1"] = "3x3"
    norm: Literal["frozen_bn", "bn", "gn"] = "frozen_bn"
    norm_eps: float = 1e-5
    features: Literal["fpn", "c4", "c5", "dc5"] = "fpn"
    freeze_at: int = 2  # stages without gradient: 0 none, 1 stem, 2 stem and res2, ...


@dataclass(frozen=True)
class FPNConfig:
    channels: int = 256
    norm: Literal["none", "bn", "gn"] = "none"


@dataclass(frozen=True)
class AnchorConfig:
    """One tuple of sizes per level of the pyramid, in canvas pixels; ratios are height / width."""

    sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounding: Literal["none", "torchvision", "detectron"] = "none"
    order: Literal["size-major", "ratio-major"] = "size-major"
    stride: Literal["constant", "padded-over-feature"] = "constant"


@dataclass(frozen=True)
class BoxArithmetic:
    """How boxes are read. Detectron's weights see boxes that end on their last pixel: a width is x2 - x1 + 1."""

    inclusive: bool = False  # inside the model 1 is added to x2 and y2; pool, clip and heatmaps take it off again
    frame: Literal["canvas", "image"] = "canvas"  # where final boxes are decoded, clipped and suppressed
    nms_closed: bool = False  # suppress at IoU >= threshold instead of >


@dataclass(frozen=True)
class RPNConfig:
    features: Literal["shared", "own"] = "shared"  # own: of a backbone and a neck apart, for training in stages
    convs: int = 1
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    inside_only: bool = False  # train on anchors that lie inside the image only
    samples: int = 256
    positive_fraction: float = 0.5
    pre_nms_train: int = 2000  # per level
    pre_nms_test: int = 1000
    post_nms_train: int = 1000  # per image
    post_nms_test: int = 1000
    nms_iou: float = 0.7
    min_size: float = 0.0  # boxes must be larger after clipping
    smooth_l1_beta: float = 1 / 9
    normalise: Literal["samples", "counted"] = "samples"  # by samples * images, or by the anchors really sampled
    score: Literal["logit", "probability"] = "logit"  # what proposals are sorted by (ties differ)


@dataclass(frozen=True)
class PoolConfig:
    """The RoI operator of Table 2c, and the level of a box (FPN, Eq. 1)."""

    operator: Literal["roi_align", "roi_pool", "roi_warp"] = "roi_align"
    aggregate: Literal["average", "max"] = "average"
    sampling: int = 2  # samples per bin and axis; 0 adapts to the RoI
    aligned: bool = True  # half-pixel correct
    level_epsilon: float = 1e-8
    level_epsilon_place: Literal["inside", "outside"] = "inside"  # of the logarithm


@dataclass(frozen=True)
class BoxHeadConfig:
    kind: Literal["2fc", "4conv1fc", "res5"] = "2fc"
    pool_size: int = 7  # side of what the head reads; the C4 head pools at res5_stride times that
    channels: int = 1024  # of the fully connected layers
    norm: Literal["none", "bn", "gn"] = "none"  # of the convolutions of 4conv1fc
    res5_stride: int = 2  # of the C4 head: 14x14 with stride 2 (all zoos), or 7x7 with stride 1 (the paper's Figure 4)
    class_agnostic: bool = False
    samples: int = 512  # RoIs per image, 64 for C4 in the paper
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    append_gt: bool = True
    ohem: bool = False
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: float = 1.0
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    min_size: float = 0.0
    max_detections: int = 100


@dataclass(frozen=True)
class MaskHeadConfig:
    enabled: bool = True
    kind: Literal["fcn", "mlp2", "mlp3", "res5"] = "fcn"  # Table 2e; res5 shares the C4 box head's features
    pool_size: int = 14
    convs: int = 4
    channels: int = 256
    norm: Literal["none", "bn", "gn"] = "none"
    loss: Literal["sigmoid", "softmax"] = "sigmoid"  # Table 2b
    class_agnostic: bool = False
    target: Literal["hard", "soft", "polygon"] = (
        "hard"  # RoIAlign of the mask at 0.5; torchvision's, of the bitmap and soft; Detectron2's, polygons drawn anew
    )
    paste: Literal["grid", "padded"] = "grid"  # exact box, >= 0.5 | padded by a pixel, integer box, > 0.5
    threshold: float = 0.5


@dataclass(frozen=True)
class KeypointHeadConfig:
    enabled: bool = False
    num_keypoints: int = 17
    pool_size: int = 14
    convs: int = 8
    channels: int = 512
    norm: Literal["none", "bn", "gn"] = "none"
    upsample: Literal["interpolate", "deconv"] = "interpolate"  # edges replicated, or zero (Detectron)
    shift: float = 0.5  # added to annotated coordinates, which are indices of pixels, and taken off COCO rows
    score: Literal["probability", "logit"] = "probability"
    frame: Literal["canvas", "image"] = "canvas"
    points: Literal["cells", "pixels"] = "cells"  # where a map's highest point is sought, see `decode_keypoints`


@dataclass(frozen=True)
class ModelConfig:
    """A whole Mask R-CNN. `profile` is provenance only: code reads the switches."""

    name: str = "R-50-FPN"
    profile: str = "ours"
    classes: int = 80  # K, without background
    crowds: Literal["ignore", "drop"] = "ignore"
    loss_counts: Literal["global", "rank"] = "global"
    background: Literal["last"] = "last"
    input: InputConfig = field(default_factory=InputConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    box_arithmetic: BoxArithmetic = field(default_factory=BoxArithmetic)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    keypoint_head: KeypointHeadConfig = field(default_factory=KeypointHeadConfig)


@dataclass(frozen=True)
class TTA:
    """The views of test-time augmentation. The default is the paper's: shorter sides of 400, 500 .. 1200 for 800.

    Raises `ConfigError` if a scale is not within 0.1 to 10. The scale nearest 1 comes first: its canvas is the
    answer's.
    """

    scales: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5)  # of the model's own size
    flip: bool = True  # each view also mirrored left to right

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ConfigError(f"tta takes scales between 0.1 and 10, such as 0.5,1,1.5; it got {list(self.scales)}")
        nearest_first = sorted(self.scales, key=lambda scale: (abs(math.log(scale)), -scale))
        object.__setattr__(self, "scales", tuple(nearest_first))


ONE_VIEW = TTA(scales=(1.0,), flip=False)  # the image as it is


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image, in this order: resize (jittered), crop, flips, colour."""

    min_sizes: tuple[int, ...] = ()  # shorter sides to choose from; empty: the model's `min_size`
    scale: tuple[float, float] = (1.0, 1.0)  # random factor on top, log-uniform
    crop: int = 0  # random square crop of this side; 0 none
    horizontal_flip: float = 0.5  # probability
    vertical_flip: float = 0.0
    rotate90: bool = False
    brightness: float = 0.0  # strength, 0..1
    contrast: float = 0.0
    saturation: float = 0.0
    min_visible: float = (
        0.1  # an object with less than this share of its area left by the crop becomes an ignore region
    )


@dataclass(frozen=True)
class TrainConfig:
    epochs: float = 12.0
    batch: int = 2  # images per rank and micro-batch
    accumulate: int = 1  # micro-batches per optimiser step
    optimizer: Literal["sgd", "adamw"] = "sgd"  # adamw learns from scratch in far fewer steps; its lr is near 0.004
    lr: float = 0.02  # for 16 images per optimiser step; scaled linearly to the real number
    momentum: float = 0.9
    weight_decay: float = 1e-4  # not on norms and biases; 0.05 is usual for adamw
    warmup_steps: int = 1000  # at most a tenth of the run
    warmup_factor: float = 0.001
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = (
        2 / 3,
        8 / 9,
    )  # fractions of the run at which the rate drops (1x: 60k and 80k of 90k)
    gamma: float = 0.1
    clip_norm: float = 10.0  # of the whole gradient; 0 off
    ema: float = 0.0  # decay of the averaged weights that are evaluated and saved as best; 0 off
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    workers: int = 2
    evaluate_every: float = 1.0  # epochs
    checkpoint_every: int = 500  # optimiser steps
    log_every: int = 20
    patience: int = 0  # evaluations without improvement before the run stops; 0 never
    validation_loss: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class Config:
    """What a run's folder holds as config.toml."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_RESNETS = {
    "R-18": BackboneConfig(block="basic", blocks=(2, 2, 2, 2)),
    "R-34": BackboneConfig(block="basic", blocks=(3, 4, 6, 3)),
    "R-50": BackboneConfig(),
    "R-101": BackboneConfig(blocks=(3, 4, 23, 3)),
    "X-101-32x8d": BackboneConfig(blocks=(3, 4, 23, 3), groups=32, width_per_group=8),
    "X-101-64x4d": BackboneConfig(blocks=(3, 4, 23, 3), groups=64, width_per_group=4),
    "X-152-32x8d": BackboneConfig(blocks=(3, 8, 36, 3), groups=32, width_per_group=8),
}

_WITHOUT_PYRAMID = ("R-18-C4", "R-34-C4", "R-50-C4", "R-101-C4", "R-18-C5", "R-50-C5", "R-50-DC5")
MODEL_NAMES = ("R-18-FPN-tiny", *(f"{network}-FPN" for network in _RESNETS), *_WITHOUT_PYRAMID)


def preset(name: str) -> ModelConfig:
    """The `ModelConfig` of a name, network-depth-features. Raises `ConfigError` for an unknown one."""
    if name not in MODEL_NAMES:
        raise ConfigError(
            f"there is no model {name!r}{_nearest(name, MODEL_NAMES)}; the models are {', '.join(MODEL_NAMES)}"
        )
    if name == "R-18-FPN-tiny":
        return _tiny(name)
    network, _, features = name.rpartition("-")
    if features == "FPN":
        return ModelConfig(name=name, backbone=_RESNETS[network])
    return _one_level(name, network, features.lower())


def _one_level(name: str, network: str, features: str) -> ModelConfig:
    """Without a pyramid: all anchors, and all proposals, on one map."""
    c4 = features == "c4"
    return ModelConfig(
        name=name,
        backbone=replace(_RESNETS[network], features=features),  # type: ignore[arg-type]
        anchors=AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),)),
        rpn=RPNConfig(pre_nms_train=12000, pre_nms_test=6000, post_nms_train=2000),
        box_head=BoxHeadConfig(kind="res5" if c4 else "2fc"),
        mask_head=MaskHeadConfig(kind="res5" if c4 else "fcn"),
    )


def _tiny(name: str) -> ModelConfig:
    """For the demo: half the width of R-18-FPN and small anchors, on images of 128 to 256 pixels."""
    return ModelConfig(
        name=name,
        input=InputConfig(min_size=0, max_size=512),
        backbone=replace(_RESNETS["R-18"], width=32),
        fpn=FPNConfig(channels=64),
        anchors=AnchorConfig(sizes=((12.0,), (24.0,), (48.0,), (96.0,), (192.0,))),
        rpn=RPNConfig(pre_nms_train=500, pre_nms_test=300, post_nms_train=300, post_nms_test=200),
        box_head=BoxHeadConfig(channels=256, samples=64),
        mask_head=MaskHeadConfig(channels=64, convs=2),
    )


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict of a config dataclass; tuples become lists, so that it goes into TOML and JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """The inverse of `to_dict`. Missing keys keep their default; unknown keys and wrong types raise `ConfigError`."""
    types_of = typing.get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    built = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key not in known:
            raise ConfigError(f"there is no setting {path!r}{_nearest(key, known)}")
        built[key] = _coerce(types_of[key], value, path)
    return cls(**built)


def read_toml(path: str | Path) -> Config:
    """The `Config` in a TOML file. Raises `ConfigError` naming the file."""
    try:
        with open(path, "rb") as file:
            return from_dict(Config, tomllib.load(file))
    except (OSError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def write_toml(config: Config, path: str | Path) -> None:
    """Writes every setting, defaults too, so that the file says what was run."""
    import tomli_w

    Path(path).write_text(tomli_w.dumps(to_dict(config)))


def override(config: Config, assignments: list[str]) -> Config:
    """`config` with assignments such as `train.lr=0.01` applied, as of `--set`."""
    values = to_dict(config)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set wants name=value, such as train.lr=0.01; it got {assignment!r}")
        if path.strip() == "model.profile":
            raise ConfigError("model.profile tells where the switches come from and sets none: set the switches")
        *parents, leaf = path.strip().split(".")
        node = values
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                raise ConfigError(f"there is no setting {path!r}{_nearest(parent, node)}")
            node = node[parent]
        if leaf not in node:
            raise ConfigError(f"there is no setting {path!r}{_nearest(leaf, node)}")
        node[leaf] = _parse(text.strip())
    return from_dict(Config, values)


def _parse(text: str) -> Any:
    """A value as TOML writes it; what is not TOML is a word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _coerce(expected: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
        return from_dict(typing.cast(type, expected), value, path)
    if origin is Literal:
        if value in arguments:
            return value
        near = _nearest(str(value), map(str, arguments))
        raise ConfigError(f"{path} is one of {', '.join(map(repr, arguments))}; it got {value!r}{near}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, path)
    if origin is tuple and isinstance(value, (list, tuple)):
        each = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(each) != len(value):
            raise ConfigError(f"{path} takes {len(each)} values; it got {len(value)}: {value!r}")
        return tuple(
            _coerce(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(each, value, strict=True))
        )
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(expected, type) and isinstance(value, expected) and not (expected is int and isinstance(value, bool)):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise ConfigError(f"{path} takes a {name}; it got {value!r}")


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
