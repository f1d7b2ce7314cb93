"""The parts list: `ModelConfig` to `MaskRCNN`. The only reader of the model's config."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import ConfigError
from ..ops.boxes import mirror
from ..ops.roi_align import roi_align
from ..ops.roi_pool import roi_pool
from ..ops.roi_warp import roi_warp
from . import inference, losses, mask_rules, rpn, targets
from .backbone import ResNet, make_stage, stage_channels
from .box_head import BoxHead
from .fpn import FPN
from .keypoint_head import KeypointHead
from .layers import init_msra
from .mask_head import MaskHead
from .mask_mlp_head import MaskMLPHead
from .mask_rcnn import Flat, MaskRCNN, Steps
from .pooler import Pool


def build(config: ModelConfig, *, skip_empty: bool = True) -> MaskRCNN:
    """A `MaskRCNN` with fresh weights. Raises `ConfigError` for a combination that makes no sense.

    `skip_empty` leaves out work on slots that no image of the batch fills; off on a GPU, under compile and in export.
    """
    _check(config)
    box, mask, keypoint = config.box_head, config.mask_head, config.keypoint_head
    backbone, neck = _features(config)
    if config.backbone.features == "fpn":
        channels, strides = config.fpn.channels, backbone.strides
        rpn_strides = [*strides, strides[-1] * 2]
    else:
        channels, strides = backbone.channels[-1], backbone.strides[-1:]
        rpn_strides = strides
    if len(config.anchors.sizes) != len(rpn_strides):
        raise ConfigError(
            f"model.anchors.sizes needs one entry per level, {len(rpn_strides)}; it has {config.anchors.sizes}"
        )
    trunk = _res5(config, channels) if box.kind == "res5" else None
    pooled = box.pool_size * (box.res5_stride if trunk else 1)
    features = stage_channels(3, block=config.backbone.block, width=config.backbone.width) if trunk else channels
    shared = mask.kind == "res5"  # masks and keypoints read what the box branch reads
    side = mask.pool_size if mask.enabled else keypoint.pool_size
    details = (mask.enabled or keypoint.enabled) and not shared
    return MaskRCNN(
        backbone=backbone,
        neck=neck,
        rpn=_rpn(config, channels, rpn_strides),
        rpn_features=_rpn_features(config),
        box_pool=_pool(config, strides, pooled, trunk, skip_empty),
        box_head=_box_head(config, features),
        detail_pool=_pool(config, strides, side) if details else None,
        mask_head=_mask_head(config, features if shared else channels) if mask.enabled else None,
        keypoint_head=_keypoint_head(config, features if shared else channels) if keypoint.enabled else None,
        steps=_steps(config),
        foreground=box.samples if box.ohem else round(box.samples * box.positive_fraction),
        mean=config.input.mean,
        std=config.input.std,
        reverse_channels=config.input.channel_order == "bgr",
        skip_empty=skip_empty,
    )


def _check(config: ModelConfig) -> None:
    """Raises `ConfigError` where two settings contradict each other."""
    box, mask, keypoint = config.box_head, config.mask_head, config.keypoint_head
    if (box.kind == "res5") != (config.backbone.features == "c4"):
        raise ConfigError(
            f"model.box_head.kind {box.kind!r} and model.backbone.features {config.backbone.features!r} do not fit: "
            "res5 is the head of c4, and of nothing else"
        )
    if mask.kind == "res5" and box.kind != "res5":
        raise ConfigError(
            "model.mask_head.kind 'res5' shares the box head's res5, so model.box_head.kind must be 'res5'"
        )
    if config.backbone.block == "basic" and config.backbone.groups > 1:
        raise ConfigError(
            "model.backbone.groups are of the 3x3 between two 1x1: model.backbone.block must be 'bottleneck'"
        )
    sides = {head.pool_size for head in (mask, keypoint) if head.enabled}
    if len(sides) > 1 and mask.kind != "res5":
        raise ConfigError(
            f"masks and keypoints share a pool, so their pool_size must be one number; it is {sorted(sides)}"
        )


def _stages(config: ModelConfig) -> dict[str, Any]:
    b = config.backbone
    return {
        "block": b.block,
        "blocks": b.blocks,
        "width": b.width,
        "groups": b.groups,
        "width_per_group": b.width_per_group,
        "stride_in": b.stride_in,
        "norm": b.norm,
        "norm_eps": b.norm_eps,
    }


def _backbone(config: ModelConfig) -> ResNet:
    b = config.backbone
    return ResNet(
        in_channels=config.input.channels,
        depth=3 if b.features == "c4" else 4,
        dilate_last=b.features == "dc5",
        freeze_at=b.freeze_at,
        **_stages(config),
    )


def _features(config: ModelConfig) -> tuple[ResNet, nn.Module]:
    """Backbone and neck: FPN, or nothing but the last map."""
    backbone = _backbone(config)
    if config.backbone.features == "fpn":
        return backbone, FPN(backbone.channels, config.fpn.channels, norm=config.fpn.norm)
    return backbone, Flat()


def _rpn_features(config: ModelConfig) -> nn.Module | None:
    if config.rpn.features == "shared":
        return None
    return nn.Sequential(OrderedDict(zip(("backbone", "neck"), _features(config), strict=True)))


def _spared_bins(config: ModelConfig) -> int:
    """res5 reads only every second of the bins that it would get, where its stride sits in 1x1 convolutions."""
    strided = config.backbone.block == "bottleneck" and config.backbone.stride_in == "1x1"
    return config.box_head.res5_stride if strided else 1


def _res5(config: ModelConfig, channels: int) -> nn.Module:
    """The last stage as a head (Figure 4, left). Where bins are spared, its stride is in the pooling."""
    trunk = make_stage(3, channels, stride=config.box_head.res5_stride // _spared_bins(config), **_stages(config))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            init_msra(module)
    return trunk


def _rpn(config: ModelConfig, channels: int, strides: list[int]) -> rpn.RPN:
    return rpn.RPN(
        channels,
        strides=strides,
        sizes=config.anchors.sizes,
        ratios=config.anchors.ratios,
        convs=config.rpn.convs,
        rounding=config.anchors.rounding,
        order=config.anchors.order,
        stride_rule=config.anchors.stride,
    )


def _pool(
    config: ModelConfig, strides: list[int], size: int, trunk: nn.Module | None = None, skip_empty: bool = True
) -> Pool:
    pool = config.pool
    operators: dict[str, Callable[..., Tensor]] = {"roi_align": roi_align, "roi_pool": roi_pool, "roi_warp": roi_warp}
    return Pool(
        partial(operators[pool.operator], sampling=pool.sampling, aligned=pool.aligned, aggregate=pool.aggregate),
        strides=strides,
        size=size,
        level_epsilon=pool.level_epsilon,
        level_epsilon_place=pool.level_epsilon_place,
        inclusive=config.box_arithmetic.inclusive,
        trunk=trunk,
        every=_spared_bins(config) if trunk else 1,
        skip_empty=skip_empty,
    )


def _box_head(config: ModelConfig, channels: int) -> BoxHead:
    box = config.box_head
    convs, layers = {"2fc": (0, 2), "4conv1fc": (4, 1), "res5": (0, 0)}[box.kind]
    return BoxHead(
        channels,
        box.pool_size,
        config.classes,
        convs=convs,
        layers=layers,
        channels=box.channels,
        norm=box.norm,
        class_agnostic=box.class_agnostic,
    )


def _mask_head(config: ModelConfig, channels: int) -> nn.Module:
    mask = config.mask_head
    maps = {"class_agnostic": mask.class_agnostic, "compete": mask.loss == "softmax"}
    layers = {"mlp2": 2, "mlp3": 3}.get(mask.kind)
    if layers is not None:
        width = config.box_head.channels  # 1024, as the box branch's
        return MaskMLPHead(channels, mask.pool_size, config.classes, layers=layers, channels=width, **maps)
    convs = 0 if mask.kind == "res5" else mask.convs
    return MaskHead(channels, config.classes, convs=convs, channels=mask.channels, norm=mask.norm, **maps)


def _keypoint_head(config: ModelConfig, channels: int) -> KeypointHead:
    keypoint = config.keypoint_head
    return KeypointHead(
        channels,
        keypoint.num_keypoints,
        convs=keypoint.convs,
        channels=keypoint.channels,
        norm=keypoint.norm,
        edges=keypoint.upsample,
    )


def _steps(config: ModelConfig) -> Steps:
    r, b, mask, keypoint = config.rpn, config.box_head, config.mask_head, config.keypoint_head
    arithmetic = config.box_arithmetic
    inclusive, closed, in_image = arithmetic.inclusive, arithmetic.nms_closed, arithmetic.frame == "image"
    softmax = mask.loss == "softmax"
    propose = partial(
        rpn.propose, nms_iou=r.nms_iou, min_size=r.min_size, score=r.score, inclusive=inclusive, closed=closed
    )
    return Steps(
        propose_train=partial(propose, pre_nms=r.pre_nms_train, post_nms=r.post_nms_train),
        propose_test=partial(propose, pre_nms=r.pre_nms_test, post_nms=r.post_nms_test),
        label_anchors=partial(
            targets.label_anchors,
            positive_iou=r.positive_iou,
            negative_iou=r.negative_iou,
            samples=r.samples,
            positive_fraction=r.positive_fraction,
            inside_only=r.inside_only,
            ignored_share=_ignored_share(config),
            inclusive=inclusive,
        ),
        rpn_loss=partial(losses.rpn_loss, samples=r.samples, normalise=r.normalise, beta=r.smooth_l1_beta),
        box_loss=partial(losses.box_loss, **_box_coding(config)),
        **_sampling(config),
        mask_targets=_MASK_TARGETS[mask.target],
        mask_loss=losses.competing_mask_loss if softmax else losses.mask_loss,
        keypoint_targets=targets.keypoint_targets,
        keypoint_loss=losses.keypoint_loss,
        candidates=partial(
            inference.candidates,
            weights=b.weights,
            score_threshold=b.score_threshold,
            min_size=b.min_size,
            inclusive=inclusive,
            in_image=in_image,
        ),
        select=partial(
            inference.select,
            nms_iou=b.nms_iou,
            max_detections=b.max_detections,
            inclusive=inclusive,
            closed=closed,
            in_image=in_image,
        ),
        mirror=partial(mirror, inclusive=inclusive),
        mask_probabilities=inference.competing_mask_probabilities if softmax else torch.sigmoid,
        keypoints=partial(
            inference.keypoints, score=keypoint.score, points=keypoint.points, in_image=keypoint.frame == "image"
        ),
    )


def _box_coding(config: ModelConfig) -> dict[str, Any]:
    box = config.box_head
    return {"weights": box.weights, "beta": box.smooth_l1_beta, "inclusive": config.box_arithmetic.inclusive}


def _sampling(config: ModelConfig) -> dict[str, Any]:
    """How RoIs are chosen for training: by chance, or all of them first and then the hardest."""
    box = config.box_head
    sample = partial(
        targets.sample_rois,
        classes=config.classes,
        samples=_ALL if box.ohem else box.samples,
        positive_fraction=1.0 if box.ohem else box.positive_fraction,
        positive_iou=box.positive_iou,
        append_gt=box.append_gt,
        ignored_share=_ignored_share(config),
        inclusive=config.box_arithmetic.inclusive,
    )
    errors = partial(losses.roi_errors, **_box_coding(config))
    mine = partial(targets.mine_rois, errors=errors, samples=box.samples) if box.ohem else None
    return {"sample_rois": sample, "mine_rois": mine}


def _ignored_share(config: ModelConfig) -> float:
    """How much of a box may lie in a crowd before it is no negative; the other frameworks drop crowds from training."""
    return {"ignore": 0.5, "drop": math.inf}[config.crowds]


_MASK_TARGETS: dict[str, Callable[..., Tensor]] = {
    "hard": targets.mask_targets,
    "soft": mask_rules.bitmap_targets,
    "polygon": mask_rules.polygon_targets,
}
_ALL = 1 << 30  # more RoIs than there are: a sampler takes what there is
