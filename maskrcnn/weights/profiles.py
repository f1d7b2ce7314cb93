"""The switches in which the frameworks differ, as values of `ModelConfig`."""

from collections.abc import Mapping
from typing import Any

from ..config import ModelConfig, from_dict, to_dict

Switches = Mapping[str, Mapping[str, Any]]

_RIVALS: Switches = {"": {"crowds": "drop", "loss_counts": "rank"}}

_PROFILES: Mapping[str, Switches] = {
    "torchvision": {
        "input": {
            "channel_order": "rgb",
            "mean": (123.675, 116.28, 103.53),
            "std": (58.395, 57.12, 57.375),
            "resize": "float",
            "size_rounding": "floor",
            "canvas": "multiple-of-32",
        },
        "backbone": {"stride_in": "3x3"},
        "anchors": {"rounding": "torchvision", "stride": "padded-over-feature"},
        "rpn": {
            "post_nms_train": 2000,
            "min_size": 1e-3,
            "smooth_l1_beta": 1 / 9,
            "normalise": "counted",
            "score": "probability",
        },
        "pool": {"sampling": 2, "aligned": False, "level_epsilon": 1e-6, "level_epsilon_place": "outside"},
        "box_head": {"smooth_l1_beta": 1 / 9, "min_size": 0.01},
        "mask_head": {"target": "soft", "paste": "padded"},
        "keypoint_head": {"shift": 0.0, "score": "logit"},
    },
    "detectron2": {
        "input": {"channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)},
        "rpn": {"smooth_l1_beta": 0.0},
        "pool": {"sampling": 0},
        "box_head": {"smooth_l1_beta": 0.0},
        "mask_head": {"target": "polygon"},
    },
    "detectron": {
        "input": {
            "channel_order": "bgr",
            "mean": (102.9801, 115.9465, 122.7717),
            "std": (1.0, 1.0, 1.0),
            "resize": "opencv",
            "size_rounding": "half_even",
        },
        "anchors": {"rounding": "detectron"},
        "box_arithmetic": {"inclusive": True, "frame": "image", "nms_closed": True},
        "rpn": {"inside_only": True, "post_nms_train": 2000, "score": "probability"},
        "pool": {"aligned": False, "level_epsilon": 1e-6},
        "mask_head": {"target": "polygon", "paste": "padded"},
        "keypoint_head": {"upsample": "deconv", "shift": 0.0, "frame": "image", "score": "logit"},
    },
}
_PROFILES = {**_PROFILES, "torchvision_v2": _PROFILES["torchvision"]}
_ONE_MAP: Switches = {
    "input": {"canvas": "exact"},
    "rpn": {"pre_nms_train": 12000, "pre_nms_test": 6000, "post_nms_train": 2000},
}
_C4: Mapping[str, Switches] = {"detectron": {"pool": {"sampling": 0}}}
_KEYPOINTS: Mapping[str, Switches] = {
    "detectron2": {"rpn": {"post_nms_train": 1500}, "box_head": {"smooth_l1_beta": 0.5}},
}


def with_profile(config: ModelConfig, profile: str) -> ModelConfig:
    """`config`, whose structure stays, with the switches of a profile: torchvision, torchvision_v2, detectron2, ..."""
    values = to_dict(config)
    values["profile"] = profile
    layers = [_defaults(), _RIVALS, _PROFILES[profile]]
    if config.backbone.features != "fpn":
        layers.append(_ONE_MAP)
    if config.backbone.features == "c4":
        layers.append(_C4.get(profile, {}))
    if config.keypoint_head.enabled:
        layers.append(_KEYPOINTS.get(profile, {}))
    for layer in layers:
        for room, switches in layer.items():
            (values[room] if room else values).update(switches)
    return from_dict(ModelConfig, values)


def _defaults() -> Switches:
    """The default of every switch that some profile sets: no profile keeps what another has set."""
    values = to_dict(ModelConfig())
    rooms: dict[str, dict[str, Any]] = {}
    for profile in _PROFILES.values():
        for room, switches in profile.items():
            rooms.setdefault(room, {}).update({name: values[room][name] for name in switches})
    return rooms
