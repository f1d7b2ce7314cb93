"""Every configuration of the paper's tables: it trains, it predicts, and a batch is the sum of its images."""

from typing import Any

import pytest
import torch

from maskrcnn.config import ModelConfig, preset
from maskrcnn.errors import ConfigError
from maskrcnn.model.build import build
from maskrcnn.model.losses import total
from maskrcnn.ops.boxes import last_pixels
from tests.model.small import assert_same_detections, decided, drawn_images, objects, one, small, terms

KEYPOINTS: dict[str, Any] = {"keypoint_head": {"enabled": True}}
NO_MASKS: dict[str, Any] = {"mask_head": {"enabled": False}}
R_101 = {"blocks": (3, 4, 23, 3)}
CONFIGS: dict[str, ModelConfig] = {
    "R-50-FPN": small("R-50-FPN"),
    "R-18-FPN": small(),
    "R-101-FPN": small("R-101-FPN", backbone=R_101),
    "X-101-64x4d-FPN": small("X-101-64x4d-FPN", backbone={"width": 16}),
    "X-101-32x8d-FPN": small("X-101-32x8d-FPN", backbone={"width": 16}),
    "R-50-C4": small("R-50-C4"),
    "R-101-C4": small("R-101-C4", backbone=R_101),
    "C4, 7 x 7 and stride 1": small("R-18-C4", box_head={"res5_stride": 1}),
    "C4 with an FCN of its own": small("R-18-C4", mask_head={"kind": "fcn"}),
    "R-50-C5, RoIAlign": small("R-50-C5"),
    "R-50-C5, RoIPool": small("R-50-C5", pool={"operator": "roi_pool", "aggregate": "max"}),
    "R-50-DC5": small("R-50-DC5"),
    "group norm": small(
        backbone={"norm": "gn"},
        fpn={"norm": "gn"},
        box_head={"kind": "4conv1fc", "norm": "gn"},
        mask_head={"norm": "gn"},
    ),
    "stride in the 1x1": small("R-50-FPN", backbone={"stride_in": "1x1"}),
    "softmax masks": small("R-18-C4", mask_head={"loss": "softmax"}),
    "class-agnostic masks": small("R-18-C4", mask_head={"class_agnostic": True}),
    "class-agnostic": small(mask_head={"class_agnostic": True}, box_head={"class_agnostic": True}),
    "class-agnostic softmax masks": small(mask_head={"class_agnostic": True, "loss": "softmax"}),
    "MLP of two": small(mask_head={"kind": "mlp2"}),
    "MLP of three": small(mask_head={"kind": "mlp3"}),
    "MLP of three, softmax": small(mask_head={"kind": "mlp3", "loss": "softmax"}),
    "Faster R-CNN": small(**NO_MASKS),
    "masks and keypoints": small(**KEYPOINTS),
    "keypoints alone, Detectron's way": small(
        **NO_MASKS,
        keypoint_head={"enabled": True, "upsample": "deconv", "score": "logit", "frame": "image", "points": "pixels"},
        box_arithmetic={"inclusive": True, "frame": "image", "nms_closed": True},
    ),
    "C4 with keypoints": small("R-18-C4", **KEYPOINTS),
    "keypoints with norms": small(keypoint_head={"enabled": True, "norm": "gn"}),
    "keypoints, RoIPool": small(**NO_MASKS, **KEYPOINTS, pool={"operator": "roi_pool", "aggregate": "max"}),
    "hard examples": small(box_head={"ohem": True}),
    "RPN with features of its own": small("R-18-C4", rpn={"features": "own"}, **KEYPOINTS),
    "soft mask targets": small(mask_head={"target": "soft"}, rpn={"normalise": "counted"}),
} | {
    f"{operator}, {aggregate}": small("R-18-C4", pool={"operator": operator, "aggregate": aggregate})
    for operator in ("roi_align", "roi_pool", "roi_warp")
    for aggregate in ("average", "max")
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_and_every_parameter_has_a_gradient(name) -> None:
    model = decided(CONFIGS[name]).train()
    losses = model.loss(drawn_images(), objects())
    expected = {"rpn_class", "rpn_box", "box_class", "box_box"}
    expected |= {"mask"} if CONFIGS[name].mask_head.enabled else set()
    expected |= {"keypoint"} if CONFIGS[name].keypoint_head.enabled else set()
    assert set(terms(losses)) == expected
    assert all(term.sum > 0 and term.count > 0 for term in terms(losses).values())
    total(losses).backward()
    for parameter, tensor in model.named_parameters():
        assert tensor.grad is not None, parameter
        assert tensor.grad.isfinite().all(), parameter
        assert tensor.grad.any(), parameter


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_of_a_batch_are_the_sum_of_its_images(name) -> None:
    model = decided(CONFIGS[name]).train()
    with torch.no_grad():
        both = terms(model.loss(drawn_images(), objects()))
        alone = [terms(model.loss(one(drawn_images(), b), one(objects(), b))) for b in range(2)]
    for term, value in both.items():
        torch.testing.assert_close(sum(part[term].count for part in alone), value.count)
        torch.testing.assert_close(sum(part[term].sum for part in alone), value.sum, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_detections_of_a_batch_are_those_of_its_images(name) -> None:
    model = decided(CONFIGS[name]).eval()
    images = drawn_images()
    with torch.inference_mode():
        both = model.detect(images)
        for b in range(2):
            assert both.valid[b].any()
            assert_same_detections(model.detect(one(images, b)), one(both, b))
    limits = images.sizes.flip(-1).repeat(1, 2)[:, None]
    boxes = last_pixels(both.boxes, CONFIGS[name].box_arithmetic.inclusive)
    assert ((boxes >= 0) & (boxes <= limits)).all()
    assert (both.masks is None) != CONFIGS[name].mask_head.enabled
    assert (both.keypoints is None) != CONFIGS[name].keypoint_head.enabled
    if both.masks is not None:
        assert ((both.masks >= 0) & (both.masks <= 1)).all()


@pytest.mark.parametrize("name", ["R-50-C4", "masks and keypoints"])
def test_a_saved_model_holds_every_weight_once(name) -> None:
    state = build(CONFIGS[name]).state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize(("name", "per_group"), [("X-101-32x8d-FPN", 8), ("X-101-64x4d-FPN", 4)])
def test_resnexts_groups_are_the_papers(name, per_group) -> None:
    """256 channels inside res2's blocks, 2048 inside res5's; the stride is in the grouped 3x3."""
    with torch.device("meta"):
        backbone: Any = build(preset(name)).backbone
    assert backbone.res2[0].conv2.conv.weight.shape == (256, per_group, 3, 3)
    assert backbone.res5[0].conv2.conv.weight.shape == (2048, per_group * 8, 3, 3)
    assert backbone.res5[0].conv2.conv.stride == (2, 2)
    assert backbone.channels == [256, 512, 1024, 2048]


PARAMETERS = {  # of Detectron2's models, whose frozen norms are no parameters either
    "R-50-FPN": 44_343_216,
    "R-101-FPN": 63_283_120,
    "X-101-32x8d-FPN": 107_427_760,
    "R-50-C4": 35_909_612,
    "R-101-C4": 54_849_516,
    "R-50-DC5": 172_353_516,
}


def parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_detectron2s(name) -> None:
    assert parameters(preset(name)) == PARAMETERS[name]


def test_parameters_of_variants_are_as_many_as_detectron2s() -> None:
    from dataclasses import replace

    config = preset("R-50-FPN")
    agnostic = replace(
        config,
        box_head=replace(config.box_head, class_agnostic=True),
        mask_head=replace(config.mask_head, class_agnostic=True),
    )
    assert parameters(agnostic) == 43_999_013
    keypoints = replace(
        config,
        classes=1,
        mask_head=replace(config.mask_head, enabled=False),
        keypoint_head=replace(config.keypoint_head, enabled=True),
    )
    assert parameters(keypoints) == 59_133_158
    norms = replace(
        config,
        backbone=replace(config.backbone, norm="gn"),
        fpn=replace(config.fpn, norm="gn"),
        box_head=replace(config.box_head, kind="4conv1fc", norm="gn"),
        mask_head=replace(config.mask_head, norm="gn"),
    )
    assert parameters(norms) == 45_711_152


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (small(box_head={"kind": "res5"}), "res5"),
        (small("R-18-C4", box_head={"kind": "2fc"}), "c4"),
        (small(mask_head={"kind": "res5"}), "shares"),
        (small(keypoint_head={"enabled": True, "pool_size": 7}), "pool_size"),
        (small(anchors={"sizes": ((8.0,),)}), "one entry per level, 5"),
        (small(backbone={"groups": 2}), "bottleneck"),
        (small(input={"channels": 1}), "mean and std must have a value for each"),
    ],
)
def test_contradictions_are_refused(config, said) -> None:
    with pytest.raises(ConfigError, match=said):
        build(config)
