"""Every number of the system: one frozen dataclass per room, with the paper's defaults; presets; TOML in and out.

The types state the ranges. msgspec checks both wherever settings are read: TOML, `--set`, checkpoints. The constructors
check nothing, but for that of `TTA`. Sources: section 3.1 and Table 2 of the paper, and FPN (arXiv 1612.03144).
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, ValidationError, convert

from .errors import ConfigError

T = typing.TypeVar("T")

Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]  # no infinity
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Finite = Annotated[float, Meta(ge=-1e38, le=1e38)]
Sizes = Annotated[tuple[Positive, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class InputConfig:
    """From an image to the canvas (section 3.1: the shorter side is 800)."""

    channels: Count = 3
    channel_order: Literal["rgb", "bgr"] = "rgb"  # as the network was trained; images are always given as RGB
    mean: tuple[NotNegative, ...] = (123.675, 116.28, 103.53)  # in `channel_order`, of 0..255
    std: tuple[Positive, ...] = (58.395, 57.12, 57.375)
    # What becomes 0 and 255 in each channel of images deeper than 8 bits, in their own values and order; empty: the 0.1
    # and 99.9 percentiles of each image.
    range: tuple[tuple[Finite, Finite], ...] = ()
    page: CountOrZero | Literal["max"] = 0  # of stacks: the one that is seen, from 1, or the maximum; 0: none
    min_size: CountOrZero = 800  # shorter side at test; 0 keeps the image's own size, times `zoom`
    zoom: Positive = 1.0  # canvas pixels per image pixel if `min_size` is 0: above 1 for tiny objects
    max_size: Count = 1333  # upper bound of the longer side
    resize: Literal["pillow", "float", "opencv"] = "pillow"  # uint8 antialiased, or float bilinear without antialias
    size_rounding: Literal["half_up", "floor", "half_even"] = "half_up"
    canvas: Literal["multiple-of-32", "buckets", "exact"] = "multiple-of-32"
    seen_scale: NotNegative = 0.0  # in training, canvas pixels per image pixel; 0 unknown; see `seen`
    seen_side: CountOrZero = 0  # side of the images or crops of training, canvas pixels; 0 unknown


@dataclass(frozen=True)
class BackboneConfig:
    """ResNet or ResNeXt, and which of its maps the RPN and the RoI operators see."""

    block: Literal["basic", "bottleneck"] = "bottleneck"
    blocks: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)
    width: Count = 64  # of the stem; a stage's output is width * expansion * 2^stage
    groups: Count = 1
    width_per_group: Count = 64
    stride_in: Literal["3x3", "1x1"] = "3x3"
    norm: Literal["frozen_bn", "bn", "gn"] = "frozen_bn"
    norm_eps: NotNegative = 1e-5
    features: Literal["fpn", "c4", "c5", "dc5"] = "fpn"
    freeze_at: CountOrZero = 2  # stages without gradient: 0 none, 1 stem, 2 stem and res2, ...


@dataclass(frozen=True)
class FPNConfig:
    channels: Count = 256
    norm: Literal["none", "bn", "gn"] = "none"


@dataclass(frozen=True)
class AnchorConfig:
    """One tuple of sizes per level of the pyramid, in canvas pixels; ratios are height / width."""

    sizes: Annotated[tuple[Sizes, ...], Meta(min_length=1)] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    ratios: Sizes = (0.5, 1.0, 2.0)
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
    features: Literal["shared", "own"] = "shared"  # own: a backbone and neck for the RPN alone, in staged training
    convs: Count = 1
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    inside_only: bool = False  # train on anchors that lie inside the image only
    samples: Count = 256
    positive_fraction: Fraction = 0.5
    pre_nms_train: Count = 2000  # per level
    pre_nms_test: Count = 1000
    post_nms_train: Count = 1000  # per image
    post_nms_test: Count = 1000
    nms_iou: Fraction = 0.7
    min_size: NotNegative = 0.0  # boxes must be larger after clipping
    smooth_l1_beta: NotNegative = 1 / 9
    normalise: Literal["samples", "counted"] = "samples"  # by samples * images, or by the anchors actually sampled
    score: Literal["logit", "probability"] = "logit"  # what proposals are sorted by (ties differ)


@dataclass(frozen=True)
class PoolConfig:
    """The RoI operator of Table 2c, and the level of a box (FPN, Eq. 1)."""

    operator: Literal["roi_align", "roi_pool", "roi_warp"] = "roi_align"
    aggregate: Literal["average", "max"] = "average"
    sampling: CountOrZero = 2  # samples per bin and axis; 0 adapts to the RoI
    aligned: bool = True  # half-pixel correct
    level_epsilon: NotNegative = 1e-8
    level_epsilon_place: Literal["inside", "outside"] = "inside"  # of the logarithm


@dataclass(frozen=True)
class BoxHeadConfig:
    kind: Literal["2fc", "4conv1fc", "res5"] = "2fc"
    pool_size: Count = 7  # side of what the head reads; the C4 head pools at res5_stride times that
    channels: Count = 1024  # of the fully connected layers
    norm: Literal["none", "bn", "gn"] = "none"  # of the convolutions of 4conv1fc
    res5_stride: Count = 2  # of the C4 head: 14x14 at stride 2 (all zoos), or 7x7 at stride 1 (the paper's Figure 4)
    class_agnostic: bool = False
    samples: Count = 512  # RoIs per image, 64 for C4 in the paper
    positive_fraction: Fraction = 0.25
    positive_iou: Fraction = 0.5
    append_gt: bool = True
    ohem: bool = False
    weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: NotNegative = 1.0
    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.5
    nms: Literal["class", "agnostic"] = "class"  # whether a box is suppressed by those of its class, or by any
    min_size: NotNegative = 0.0
    max_detections: Count = 100


@dataclass(frozen=True)
class MaskHeadConfig:
    enabled: bool = True
    kind: Literal["fcn", "mlp2", "mlp3", "res5"] = "fcn"  # Table 2e; res5 shares the C4 box head's features
    pool_size: Count = 14
    convs: CountOrZero = 4
    channels: Count = 256
    norm: Literal["none", "bn", "gn"] = "none"
    loss: Literal["sigmoid", "softmax"] = "sigmoid"  # Table 2b
    class_agnostic: bool = False
    # hard: RoIAlign of the mask, >= 0.5; soft: RoIAlign of the bitmap (torchvision); polygon: drawn anew (Detectron2).
    target: Literal["hard", "soft", "polygon"] = "hard"
    paste: Literal["grid", "padded"] = "grid"  # exact box, >= 0.5 | padded by a pixel, integer box, > 0.5
    threshold: Fraction = 0.5


@dataclass(frozen=True)
class KeypointHeadConfig:
    enabled: bool = False
    num_keypoints: Count = 17
    pool_size: Count = 14
    convs: CountOrZero = 8
    channels: Count = 512
    norm: Literal["none", "bn", "gn"] = "none"
    upsample: Literal["interpolate", "deconv"] = "interpolate"  # edges replicated, or zero (Detectron)
    shift: Fraction = 0.5  # added to annotated coordinates, which are pixel indices; subtracted in COCO results
    score: Literal["probability", "logit"] = "probability"
    frame: Literal["canvas", "image"] = "canvas"
    points: Literal["cells", "pixels"] = "cells"  # where the maximum of a heatmap is searched, see `decode_keypoints`


@dataclass(frozen=True)
class ModelConfig:
    """A whole Mask R-CNN. `profile` records which framework the settings are of; only `choose_precision` reads it."""

    name: str = "R-50-FPN"
    profile: str = "ours"
    classes: Count = 80  # K, without background
    crowds: Literal["ignore", "drop"] = "ignore"
    loss_counts: Literal["global", "rank"] = "global"
    input: InputConfig = InputConfig()
    backbone: BackboneConfig = BackboneConfig()
    fpn: FPNConfig = FPNConfig()
    anchors: AnchorConfig = AnchorConfig()
    box_arithmetic: BoxArithmetic = BoxArithmetic()
    rpn: RPNConfig = RPNConfig()
    pool: PoolConfig = PoolConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    keypoint_head: KeypointHeadConfig = KeypointHeadConfig()


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
        object.__setattr__(self, "scales", tuple(sorted(self.scales, key=lambda scale: (abs(math.log(scale)), -scale))))


ONE_VIEW = TTA(scales=(1.0,), flip=False)  # the image as it is


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image, in this order: copy-paste, resize (jittered), crop, flips, colour."""

    copy_paste: Fraction = 0.0  # probability that objects of another image are pasted (arXiv 2012.07177)
    min_sizes: tuple[Count, ...] = ()  # shorter sides to choose from; empty: the model's `min_size`
    scale: tuple[Positive, Positive] = (1.0, 1.0)  # random factor on top
    scale_law: Literal["log-uniform", "uniform"] = "log-uniform"  # (0.1, 2.0), uniform, is large-scale jitter
    crop: CountOrZero = 0  # random square crop of this side; 0 none
    horizontal_flip: Fraction = 0.5  # probability
    vertical_flip: Fraction = 0.0
    rotate90: bool = False
    brightness: Fraction = 0.0  # strength, 0..1
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Meta(ge=0, le=0.5)] = 0.0  # turns of the colour circle
    min_visible: Fraction = 0.1  # an object of which the crop leaves a smaller share becomes an ignore region


@dataclass(frozen=True)
class TrainConfig:
    epochs: Positive = 12.0
    batch: Count = 2  # images per rank and micro-batch
    accumulate: Count = 1  # micro-batches per optimiser step
    optimizer: Literal["sgd", "adamw"] = "sgd"  # adamw learns from scratch in far fewer steps; its lr is near 0.008
    lr: NotNegative = 0.02  # for 16 images per optimiser step; scaled linearly to the real number
    momentum: Decay = 0.9
    weight_decay: NotNegative = 1e-4  # not on norms and biases; 0.05 is usual for adamw
    warmup_steps: CountOrZero = 1000  # at most a tenth of the run
    warmup_factor: Fraction = 0.001
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Positive, ...] = (2 / 3, 8 / 9)  # of the run; there the rate drops (1x: 60k and 80k of 90k steps)
    gamma: NotNegative = 0.1
    clip_norm: NotNegative = 10.0  # of the whole gradient; 0 off
    ema: Decay = 0.0  # decay of the averaged weights that are evaluated and saved as best; 0 off
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Integer = 0
    deterministic: bool = False  # slower algorithms on a GPU that repeat a run bit by bit; a CPU always does
    workers: CountOrZero = 2
    evaluate_every: NotNegative = 1.0  # epochs
    checkpoint_every: CountOrZero = 500  # optimiser steps
    log_every: CountOrZero = 20
    patience: CountOrZero = 0  # evaluations without improvement after which the run stops; 0 never stops early
    validation_loss: bool = True
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class Config:
    """What a run's folder holds as config.toml."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()


_RESNETS = {
    "R-18": BackboneConfig(block="basic", blocks=(2, 2, 2, 2)),
    "R-34": BackboneConfig(block="basic", blocks=(3, 4, 6, 3)),
    "R-50": BackboneConfig(),
    "R-101": BackboneConfig(blocks=(3, 4, 23, 3)),
    "X-101-32x8d": BackboneConfig(blocks=(3, 4, 23, 3), groups=32, width_per_group=8),
    "X-101-64x4d": BackboneConfig(blocks=(3, 4, 23, 3), groups=64, width_per_group=4),
    "X-152-32x8d": BackboneConfig(blocks=(3, 8, 36, 3), groups=32, width_per_group=8),
}

# For the demo: half the width of R-18-FPN and small anchors, on images of 128 to 256 pixels.
_TINY = ModelConfig(
    name="R-18-FPN-tiny",
    input=InputConfig(min_size=0, max_size=512),
    backbone=replace(_RESNETS["R-18"], width=32),
    fpn=FPNConfig(channels=64),
    anchors=AnchorConfig(sizes=((12.0,), (24.0,), (48.0,), (96.0,), (192.0,))),
    rpn=RPNConfig(pre_nms_train=500, pre_nms_test=300, post_nms_train=300, post_nms_test=200),
    box_head=BoxHeadConfig(channels=256, samples=64),
    mask_head=MaskHeadConfig(channels=64, convs=2),
)
_WITHOUT_PYRAMID = ("R-18-C4", "R-34-C4", "R-50-C4", "R-101-C4", "R-18-C5", "R-50-C5", "R-50-DC5")
MODEL_NAMES = (_TINY.name, *(f"{network}-FPN" for network in _RESNETS), *_WITHOUT_PYRAMID)


def preset(name: str) -> ModelConfig:
    """The `ModelConfig` of a name, network-depth-features. Raises `ConfigError` for an unknown one."""
    if name not in MODEL_NAMES:
        near = _nearest(name, MODEL_NAMES)
        raise ConfigError(f"there is no model {name!r}{near}; the models are {', '.join(MODEL_NAMES)}")
    if name == _TINY.name:
        return _TINY
    network, _, features = name.rpartition("-")
    config = ModelConfig(name=name, backbone=replace(_RESNETS[network], features=features.lower()))  # type: ignore[arg-type]
    if features == "FPN":
        return config
    return replace(  # all anchors, and all proposals, are on one map
        config,
        anchors=AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),)),
        rpn=RPNConfig(pre_nms_train=12000, pre_nms_test=6000, post_nms_train=2000),
        box_head=BoxHeadConfig(kind="res5" if features == "C4" else "2fc"),
        mask_head=MaskHeadConfig(kind="res5" if features == "C4" else "fcn"),
    )


def seen(rule: InputConfig) -> tuple[float, int]:
    """The scale of training, canvas pixels per image pixel, and the side of what it saw, canvas pixels; 0 if unknown.

    Checkpoints of other frameworks and of older releases do not record them. A model that keeps the images' own size
    has one scale all the same.
    """
    if rule.seen_scale and rule.seen_side:
        return rule.seen_scale, rule.seen_side
    return (rule.zoom, rule.max_size) if rule.min_size == 0 else (0.0, 0)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dicts for TOML and JSON: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`. Missing keys keep their default.

    Raises `ConfigError` with the setting's dotted name for an unknown key, a wrong type or a number out of range.
    """
    _refuse_unknown(cls, values, "")
    try:
        return convert(values, cls)
    except ValidationError as error:
        raise ConfigError(_sentence(str(error), cls, values)) from error


def read_toml(path: str | Path) -> Config:
    """The `Config` in a TOML file. Raises `ConfigError` naming the file."""
    return from_dict(Config, read_tree(path))


def read_tree(path: str | Path) -> dict[str, Any]:
    """What a TOML file states of a `Config`, as nested dicts. Raises `ConfigError` naming the file."""
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        from_dict(Config, tree)
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return tree


def merged(config: T, tree: Mapping[str, Any]) -> T:
    """`config` with the settings that `tree`, nested dicts, states."""

    def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        parts = {name: lay_over(below[name], part) for name, part in above.items() if isinstance(part, Mapping)}
        return {**below, **above, **parts}

    return from_dict(type(config), lay_over(to_dict(config), tree))


def write_toml(config: Config, path: str | Path) -> None:
    """Writes every setting, also defaults: the file records exactly what was run."""
    import tomli_w

    Path(path).write_text(tomli_w.dumps(to_dict(config)), encoding="utf-8")


def override(config: T, assignments: Iterable[str]) -> T:
    """`config` with assignments such as `train.lr=0.01` applied, as `--set` does. Every setting is checked again.

    Raises `ConfigError` as `from_dict` does.
    """
    values = to_dict(config)
    for assignment in assignments:
        path, equals, text = map(str.strip, assignment.partition("="))
        if not equals:
            raise ConfigError(f"--set expects name=value, such as train.lr=0.01; it got {assignment!r}")
        if path.removeprefix("model.") == "profile":
            raise ConfigError(f"{path} only records which framework the settings are of: change those settings instead")
        *parents, leaf = path.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"there is no setting {path!r}: {parent} has no parts")
        node[leaf] = text  # unless it is a value of TOML
        with suppress(tomllib.TOMLDecodeError):
            node[leaf] = tomllib.loads(f"value = {text}")["value"]
    return from_dict(type(config), values)


def _refuse_unknown(cls: type, values: dict[str, Any], prefix: str) -> None:
    """msgspec skips the keys that a dataclass does not have; for settings they are mistakes."""
    kinds = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in kinds:
            raise ConfigError(f"there is no setting {prefix + name!r}{_nearest(name, kinds, prefix)}")
        if dataclasses.is_dataclass(kinds[name]) and isinstance(value, dict):
            _refuse_unknown(kinds[name], value, f"{prefix}{name}.")


_WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "array": "a list"}
_WORDS |= {"object": "a table", ">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


def _sentence(error: str, kind: Any, value: Any) -> str:
    """msgspec's ``Expected `int` >= 1 - at `$.train.batch` `` in plain words, with the value that it found."""
    words, _, path = error.partition(" - at `$.")
    path = path.rstrip("`")
    for step in re.findall(r"\w+", path):
        kind = typing.get_type_hints(kind)[step] if dataclasses.is_dataclass(kind) else None
        value = value[int(step)] if isinstance(value, list | tuple) else value[step]
    near, bound = "", re.search(r"([<>]=?) (\S+)", words)
    literal = next((part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is Literal), None)
    if literal is not None and bound is None:
        choices = typing.get_args(literal)
        must, near = f"one of {', '.join(map(repr, choices))}", _nearest(str(value), choices)
        must = must if literal is kind else f"an integer or {must}"
    elif length := re.search(r"of length (>= )?(\d+)", words):
        must = "a list with a value" if length[1] else f"a list of {length[2]} values"
    elif bound:
        must = f"{_WORDS[bound[1]]} {float(bound[2]):g}"
    else:
        must = _WORDS[words.split("`")[1]]
    return f"{path} must be {must}; it is {value!r}{near}"


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
