"""Profiles: the values that each framework gives to the settings in which they differ.

`ours` are the defaults of `ModelConfig`. They are Detectron2's but for: RGB, the stride in the 3x3 convolution, 2 x 2
samples a bin, smooth L1 with beta 1/9 (RPN) and 1 (boxes), crowds as ignore regions, counts over all ranks. `paper`
changes them to the numbers that the paper states. The others reproduce Detectron (Caffe2), Detectron2 and torchvision;
what a checkpoint says about itself is set afterwards.
"""

from dataclasses import replace
from typing import Any

from ...config import ModelConfig
from ...errors import ConfigError

Values = dict[str, Any]  # of `ModelConfig`, nested as it is

_SWITCHES = {  # what a profile sets
    "input": "channel_order mean std resize size_rounding canvas",
    "backbone": "stride_in norm_eps",
    "anchors": "rounding order stride",
    "box_arithmetic": "inclusive frame nms_closed",
    "rpn": "inside_only pre_nms_train pre_nms_test post_nms_train post_nms_test "
    "min_size smooth_l1_beta normalise score",
    "pool": "sampling aligned level_epsilon level_epsilon_place",
    "box_head": "res5_stride samples smooth_l1_beta nms_iou min_size",
    "mask_head": "target paste",
    "keypoint_head": "upsample shift score frame points",
}
_OTHERS = {"crowds": "drop", "loss_counts": "rank", "keypoint_head": {"points": "pixels"}}
_DETECTRON2 = {
    **_OTHERS,
    "input": {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)},
    "backbone": {"stride_in": "1x1"},
    "rpn": {"smooth_l1_beta": 0.0},
    "pool": {"sampling": 0},
    "box_head": {"smooth_l1_beta": 0.0},
    "mask_head": {"target": "polygon"},
}
_DETECTRON = {
    **_OTHERS,
    "input": {
        **{"channel_order": "bgr", "mean": (102.9801, 115.9465, 122.7717), "std": (1.0, 1.0, 1.0)},
        **{"resize": "opencv", "size_rounding": "half_even"},
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
    **_OTHERS,
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
    """`config` with the settings of profile `name` for its backbone, features and task.

    The network stays, with its norms, and so do its classes, the sizes of its anchors and the thresholds. Enable
    keypoints before, because the paper and Detectron2 use other numbers with them. Raises `ConfigError` for an unknown
    profile.
    """
    if name not in PROFILE_NAMES:
        raise ConfigError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILE_NAMES)}")
    c4 = {"rpn": {"pre_nms_train": 12000, "pre_nms_test": 6000, "post_nms_train": 2000}}
    for values in (_defaults(), c4 if config.backbone.features != "fpn" else {}, *_steps(config)[name]):
        changed = {k: replace(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in values.items()}
        config = replace(config, **changed)
    return replace(config, profile=name)


def _defaults() -> Values:
    config = ModelConfig()
    rooms = {
        room: {name: getattr(getattr(config, room), name) for name in names.split()}
        for room, names in _SWITCHES.items()
    }
    return {"crowds": config.crowds, "loss_counts": config.loss_counts, **rooms}


def _steps(config: ModelConfig) -> dict[str, tuple[Values, ...]]:
    """For each profile, what to change after the defaults; later values win."""
    net, keypoints, one_map = config.backbone, config.keypoint_head.enabled, config.backbone.features != "fpn"
    # Frameworks with the stride of a ResNet in the 1x1 convolution have it in the 3x3 for ResNeXt and group norm.
    stride = {"backbone": {"stride_in": "3x3"}} if net.groups > 1 or net.norm == "gn" else {}
    return {
        "ours": (),
        "paper": (
            {"box_head": {"nms_iou": 0.5 if keypoints else 0.3}},
            {"rpn": {"post_nms_test": 300}, "box_head": {"samples": 64}} if one_map else {},
            {"box_head": {"res5_stride": 1}} if net.features == "c4" else {},  # Figure 4: a 7 x 7 RoI
        ),
        "detectron": (
            _DETECTRON,
            stride,
            {"input": {"canvas": "exact"}, "rpn": {"normalise": "counted"}, "pool": {"sampling": 0}} if one_map else {},
        ),
        "detectron2": (
            _DETECTRON2,
            stride,
            # X-101-32x8d was trained with a standard deviation on ImageNet.
            {"input": {"std": (57.375, 57.12, 58.395)}} if net.groups == 32 else {},
            {"input": {"canvas": "exact"}} if one_map else {},
            {"rpn": {"post_nms_train": 1500}, "box_head": {"smooth_l1_beta": 0.5}} if keypoints else {},
        ),
        "torchvision": (_TORCHVISION,),
        "torchvision_v2": (_TORCHVISION, {"backbone": {"norm_eps": 1e-5}}),  # its norms are live
    }
