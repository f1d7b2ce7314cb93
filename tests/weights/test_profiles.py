"""Profiles: what they change, what they leave alone."""

from dataclasses import replace

import pytest

from maskrcnn.config import MODEL_NAMES, ModelConfig, preset
from maskrcnn.errors import ConfigError
from maskrcnn.weights.interop.infer import empty_model
from maskrcnn.weights.interop.profiles import PROFILE_NAMES, with_profile


def with_keypoints(config: ModelConfig) -> ModelConfig:
    return replace(config, keypoint_head=replace(config.keypoint_head, enabled=True))


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if name != "R-18-FPN-tiny"])
def test_presets_are_ours(name) -> None:
    assert with_profile(preset(name), "ours") == preset(name)


@pytest.mark.parametrize("model", ["R-50-FPN", "R-50-C4", "X-101-32x8d-FPN"])
@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_the_profile_before_does_not_matter(model, name) -> None:
    """A profile sets every switch: coming from another one gives the same."""
    direct = with_profile(preset(model), name)
    assert direct.profile == name
    for other in PROFILE_NAMES:
        assert with_profile(with_profile(preset(model), other), name) == direct


def test_the_papers_numbers() -> None:
    c4, fpn = with_profile(preset("R-50-C4"), "paper"), with_profile(preset("R-50-FPN"), "paper")
    assert (c4.box_head.samples, c4.rpn.post_nms_test, c4.box_head.res5_stride) == (64, 300, 1)
    assert (fpn.box_head.samples, fpn.rpn.post_nms_test, fpn.pool.sampling) == (512, 1000, 2)
    assert c4.box_head.nms_iou == fpn.box_head.nms_iou == 0.3
    assert with_profile(with_keypoints(preset("R-50-FPN")), "paper").box_head.nms_iou == 0.5


def test_detectron2s_numbers_depend_on_backbone_and_task() -> None:
    fpn, c4, x101 = (with_profile(preset(n), "detectron2") for n in ("R-50-FPN", "R-50-C4", "X-101-32x8d-FPN"))
    assert (fpn.backbone.stride_in, x101.backbone.stride_in) == ("1x1", "3x3")
    assert (fpn.input.std, x101.input.std) == ((1.0, 1.0, 1.0), (57.375, 57.12, 58.395))
    assert (fpn.input.canvas, c4.input.canvas) == ("multiple-of-32", "exact")
    assert (fpn.rpn.post_nms_train, c4.rpn.post_nms_train) == (1000, 2000)
    keypoints = with_profile(with_keypoints(preset("R-50-FPN")), "detectron2")
    assert (keypoints.rpn.post_nms_train, keypoints.box_head.smooth_l1_beta) == (1500, 0.5)


def test_other_settings_stay() -> None:
    config = replace(preset("R-50-FPN"), classes=5)
    config = replace(config, input=replace(config.input, min_size=500))
    for name in PROFILE_NAMES:
        changed = with_profile(config, name)
        assert (changed.classes, changed.input.min_size, changed.anchors.sizes) == (5, 500, config.anchors.sizes)


@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_the_network_stays(name) -> None:
    """Every tensor has the place and the shape that it had."""
    config = preset("R-50-FPN")
    config = replace(
        config,
        backbone=replace(config.backbone, norm="gn"),
        fpn=replace(config.fpn, norm="gn"),
        rpn=replace(config.rpn, convs=2),
        box_head=replace(config.box_head, kind="4conv1fc", norm="gn"),
    )
    before, after = empty_model(config).state_dict(), empty_model(with_profile(config, name)).state_dict()
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}


def test_anchors_are_ordered_as_each_framework_does() -> None:
    orders = {name: with_profile(preset("R-50-C4"), name).anchors.order for name in PROFILE_NAMES}
    by_ratio = {name for name, order in orders.items() if order == "ratio-major"}
    assert by_ratio == {"detectron", "torchvision", "torchvision_v2"}


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="mmdetection"):
        with_profile(preset("R-50-FPN"), "mmdetection")
