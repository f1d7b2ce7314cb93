"""Profiles: the values that each framework gives to the settings in which they differ.

`ours` are the defaults of `ModelConfig`. They are Detectron2's but for: RGB, the stride in the 3x3 convolution, 2 x 2
samples a bin, smooth L1 with beta 1/9 (RPN) and 1 (boxes), crowds as ignore regions, counts over all ranks. `paper`
changes them to the numbers that the paper states. The others reproduce Detectron (Caffe2), Detectron2 and torchvision;
what a checkpoint says about itself is set afterwards.
"""

from dataclasses import asdict, replace
from typing import Any

from ...config import ModelConfig
from ...errors import ConfigError

Values = dict[str, Any]  # of `ModelConfig`, nested as it is

_ONE_MAP = {"rpn": {"pre_nms_train": 12000, "pre_nms_test": 6000, "post_nms_train": 2000}}  # of every profile
_OTHERS = {"crowds": "drop", "loss_counts": "rank", "keypoint_head": {"points": "pixels"}}
# Frameworks with the stride of a ResNet in the 1x1 convolution have it in the 3x3 for ResNeXt and group norm.
_STRIDE = {"backbone": {"stride_in": "3x3"}}
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
# For each profile: what it changes, and under which condition, see `with_profile`. Later values win.
_PROFILES: dict[str, dict[str, Values]] = {
    "ours": {},
    "paper": {
        "always": {"box_head": {"nms_iou": 0.3}},
        "keypoints": {"box_head": {"nms_iou": 0.5}},
        "one map": {"rpn": {"post_nms_test": 300}, "box_head": {"samples": 64}},
        "C4": {"box_head": {"res5_stride": 1}},  # Figure 4: a 7 x 7 RoI
    },
    "detectron": {
        "always": _DETECTRON,
        "3x3": _STRIDE,
        "one map": {"input": {"canvas": "exact"}, "rpn": {"normalise": "counted"}, "pool": {"sampling": 0}},
    },
    "detectron2": {
        "always": _DETECTRON2,
        "3x3": _STRIDE,
        "32 groups": {"input": {"std": (57.375, 57.12, 58.395)}},  # X-101-32x8d was trained with that of ImageNet
        "one map": {"input": {"canvas": "exact"}},
        "keypoints": {"rpn": {"post_nms_train": 1500}, "box_head": {"smooth_l1_beta": 0.5}},
    },
    "torchvision": {"always": _TORCHVISION},
    "torchvision_v2": {"always": {**_TORCHVISION, "backbone": {"norm_eps": 1e-5}}},  # its norms are live
}
PROFILE_NAMES = tuple(_PROFILES)


def with_profile(config: ModelConfig, name: str) -> ModelConfig:
    """`config` with the settings of profile `name` for its backbone, features and task.

    The network stays, with its norms, and so do its classes, the sizes of its anchors and the thresholds. Enable
    keypoints before, because the paper and Detectron2 use other numbers with them. Raises `ConfigError` for an unknown
    profile.
    """
    if name not in _PROFILES:
        raise ConfigError(f"there is no profile {name!r}; the profiles are {', '.join(PROFILE_NAMES)}")
    net = config.backbone
    holds = {
        **{"always": True, "keypoints": config.keypoint_head.enabled},
        **{"one map": net.features != "fpn", "C4": net.features == "c4"},
        **{"3x3": net.groups > 1 or net.norm == "gn", "32 groups": net.groups == 32},
    }
    every = [_ONE_MAP, *(values for steps in _PROFILES.values() for values in steps.values())]
    steps = [values for condition, values in (("one map", _ONE_MAP), *_PROFILES[name].items()) if holds[condition]]
    for values in (*map(_defaults, every), *steps):
        changed = {k: replace(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in values.items()}
        config = replace(config, **changed)
    return replace(config, profile=name)


def _defaults(values: Values) -> Values:
    """The defaults of the settings in `values`, which leave no trace of the profile before."""
    ours = asdict(ModelConfig())
    return {k: {name: ours[k][name] for name in v} if isinstance(v, dict) else ours[k] for k, v in values.items()}
