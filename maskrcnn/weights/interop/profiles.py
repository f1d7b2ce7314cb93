"""Profiles: the values that each framework gave to the switches in which they differ.

`ours` is Detectron2's column but for: RGB, the stride in the 3x3 convolution, 2 x 2 samples a bin, smooth L1 with beta
1/9 (RPN) and 1 (boxes), crowds as ignore regions, counts over all ranks. `paper` is that with the numbers that the
paper states. The others give the answers of the weights of Detectron (Caffe2), Detectron2 and torchvision; a reader of
those files sets afterwards what its file tells.
"""

from dataclasses import replace
from typing import Any

from ...config import ModelConfig
from ...errors import ConfigError

Values = dict[str, Any]  # of `ModelConfig`, nested as it is

_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}

_OURS: Values = {
    "crowds": "ignore",
    "loss_counts": "global",
    "input": {
        "channel_order": "rgb",
        **_IMAGENET,
        "resize": "pillow",
        "size_rounding": "half_up",
        "canvas": "multiple-of-32",
    },
    "backbone": {"stride_in": "3x3", "norm_eps": 1e-5},
    "anchors": {"rounding": "none", "order": "size-major", "stride": "constant"},
    "box_arithmetic": {"inclusive": False, "frame": "canvas", "nms_closed": False},
    "rpn": {
        "inside_only": False,
        "pre_nms_train": 2000,
        "pre_nms_test": 1000,
        "post_nms_train": 1000,
        "post_nms_test": 1000,
        "min_size": 0.0,
        "smooth_l1_beta": 1 / 9,
        "normalise": "samples",
        "score": "logit",
    },
    "pool": {"sampling": 2, "aligned": True, "level_epsilon": 1e-8, "level_epsilon_place": "inside"},
    "box_head": {"res5_stride": 2, "samples": 512, "smooth_l1_beta": 1.0, "nms_iou": 0.5, "min_size": 0.0},
    "mask_head": {"target": "hard", "paste": "grid"},
    "keypoint_head": {
        "upsample": "interpolate",
        "shift": 0.5,
        "score": "probability",
        "frame": "canvas",
        "points": "cells",
    },
}
_C4 = {"rpn": {"pre_nms_train": 12000, "pre_nms_test": 6000, "post_nms_train": 2000}}
_RIVAL = {"crowds": "drop", "loss_counts": "rank", "keypoint_head": {"points": "pixels"}}
_DETECTRON2 = {
    **_RIVAL,
    "input": {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)},
    "backbone": {"stride_in": "1x1"},
    "rpn": {"smooth_l1_beta": 0.0},
    "pool": {"sampling": 0},
    "box_head": {"smooth_l1_beta": 0.0},
    "mask_head": {"target": "polygon"},
}
_DETECTRON = {
    **_RIVAL,
    "input": {
        "channel_order": "bgr",
        "mean": (102.9801, 115.9465, 122.7717),
        "std": (1.0, 1.0, 1.0),
        "resize": "opencv",
        "size_rounding": "half_even",
    },
    "backbone": {"stride_in": "1x1"},
    "anchors": {"rounding": "detectron", "order": "ratio-major"},
    "box_arithmetic": {"inclusive": True, "frame": "image", "nms_closed": True},
    "rpn": {"inside_only": True, "post_nms_train": 2000, "score": "probability"},
    "pool": {"aligned": False, "level_epsilon": 1e-6},
    "mask_head": {"target": "polygon", "paste": "padded"},
    "keypoint_head": {"upsample": "deconv", "shift": 0.0, "score": "logit", "frame": "image", "points": "pixels"},
}
_TORCHVISION = {
    **_RIVAL,
    "input": {"resize": "float", "size_rounding": "floor"},
    "backbone": {"norm_eps": 0.0},
    "anchors": {"rounding": "torchvision", "order": "ratio-major", "stride": "padded-over-feature"},
    "rpn": {"post_nms_train": 2000, "min_size": 1e-3, "normalise": "counted", "score": "probability"},
    "pool": {"aligned": False, "level_epsilon": 1e-6, "level_epsilon_place": "outside"},
    "box_head": {"smooth_l1_beta": 1 / 9, "min_size": 0.01},
    "mask_head": {"target": "soft", "paste": "padded"},
    "keypoint_head": {"shift": 0.0, "score": "logit", "points": "pixels"},
}
PROFILE_NAMES = ("ours", "paper", "detectron", "detectron2", "torchvision", "torchvision_v2")


def with_profile(config: ModelConfig, name: str) -> ModelConfig:
    """`config` with every switch of profile `name` set, as it stands for its backbone, features and task.

    Only switches change. The network stays, with its norms, and so do its classes, its anchors' sizes and the
    thresholds. Ask for keypoints before, because the paper and Detectron2 train and suppress differently with them.
    Raises `ConfigError` for an unknown profile.
    """
    if name not in PROFILE_NAMES:
        raise ConfigError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILE_NAMES)}")
    chosen = _set(config, _OURS)
    if config.backbone.features != "fpn":
        chosen = _set(chosen, _C4)
    for values in _steps_to(config, name):
        chosen = _set(chosen, values)
    return replace(chosen, profile=name)


def _steps_to(config: ModelConfig, name: str) -> list[Values]:
    """What to set after `ours`, later values over earlier ones."""
    pyramid, keypoints = config.backbone.features == "fpn", config.keypoint_head.enabled
    match name:
        case "paper":
            steps: list[Values] = [{"box_head": {"nms_iou": 0.5 if keypoints else 0.3}}]
            if not pyramid:
                steps.append({"rpn": {"post_nms_test": 300}, "box_head": {"samples": 64}})
            if config.backbone.features == "c4":
                steps.append({"box_head": {"res5_stride": 1}})  # Figure 4: a 7 x 7 RoI
            return steps
        case "detectron2":
            steps = [_DETECTRON2, _of_backbone(config)]
            if config.backbone.groups == 32:  # X-101-32x8d was trained with a standard deviation on ImageNet
                steps.append({"input": {"std": (57.375, 57.12, 58.395)}})
            if not pyramid:
                steps.append({"input": {"canvas": "exact"}})
            if keypoints:
                steps.append({"rpn": {"post_nms_train": 1500}, "box_head": {"smooth_l1_beta": 0.5}})
            return steps
        case "detectron":
            c4 = {"input": {"canvas": "exact"}, "rpn": {"normalise": "counted"}, "pool": {"sampling": 0}}
            return [_DETECTRON, _of_backbone(config), *([] if pyramid else [c4])]
        case "torchvision":
            return [_TORCHVISION]
        case "torchvision_v2":
            return [_TORCHVISION, {"backbone": {"norm_eps": 1e-5}}]  # whose norms are live
    return []


def _of_backbone(config: ModelConfig) -> Values:
    """The frameworks whose ResNets stride in the 1x1 do not so in ResNeXt, nor with group norm."""
    in_3x3 = config.backbone.groups > 1 or config.backbone.norm == "gn"
    return {"backbone": {"stride_in": "3x3"}} if in_3x3 else {}


def _set(config: ModelConfig, values: Values) -> ModelConfig:
    changed = {
        key: replace(getattr(config, key), **value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return replace(config, **changed)
