"""The parts list: `ModelConfig` to `MaskRCNN`. The only reader of the model's config."""

from functools import partial

from torch import nn

from ..config import ModelConfig
from ..errors import ConfigError
from . import inference, losses, rpn, targets
from .backbone import ResNet
from .box_head import BoxHead
from .fpn import FPN
from .mask_head import MaskHead
from .mask_rcnn import MaskRCNN, Steps
from .pooler import Pool


def build(config: ModelConfig, *, skip_empty: bool = True) -> MaskRCNN:
    """A `MaskRCNN` with fresh weights. Raises `ConfigError` for a combination that makes no sense.

    `skip_empty` leaves out work on slots that no picture of the batch fills; off on a GPU, under compile and in export.
    """
    backbone = _backbone(config)
    neck = FPN(backbone.channels, config.fpn.channels, norm=config.fpn.norm)
    channels = config.fpn.channels
    strides = [*backbone.strides, backbone.strides[-1] * 2]
    if len(config.anchors.sizes) != len(strides):
        raise ConfigError(
            f"model.anchors.sizes needs one entry per level, {len(strides)}; it has {config.anchors.sizes}"
        )
    head = rpn.RPN(
        channels,
        strides=strides,
        sizes=config.anchors.sizes,
        ratios=config.anchors.ratios,
        convs=config.rpn.convs,
        rounding=config.anchors.rounding,
        order=config.anchors.order,
        stride_rule=config.anchors.stride,
    )
    mask = config.mask_head
    return MaskRCNN(
        backbone=backbone,
        neck=neck,
        rpn=head,
        box_pool=_pool(config, backbone.strides, config.box_head.pool_size),
        box_head=_box_head(config, channels),
        mask_pool=_pool(config, backbone.strides, mask.pool_size) if mask.enabled else None,
        mask_head=_mask_head(config, channels) if mask.enabled else None,
        steps=_steps(config),
        foreground=round(config.box_head.samples * config.box_head.positive_fraction),
        mean=config.input.mean,
        std=config.input.std,
        reverse_channels=config.input.channel_order == "bgr",
        skip_empty=skip_empty,
    )


def _backbone(config: ModelConfig) -> ResNet:
    b = config.backbone
    return ResNet(
        in_channels=config.input.channels,
        depth=4,
        dilate_last=False,
        freeze_at=b.freeze_at,
        block=b.block,
        blocks=b.blocks,
        width=b.width,
        groups=b.groups,
        width_per_group=b.width_per_group,
        stride_in=b.stride_in,
        norm=b.norm,
        norm_eps=b.norm_eps,
    )


def _pool(config: ModelConfig, strides: list[int], size: int, trunk: nn.Module | None = None) -> Pool:
    return Pool(
        strides=strides,
        size=size,
        sampling=config.pool.sampling,
        aligned=config.pool.aligned,
        aggregate=config.pool.aggregate,
        level_epsilon=config.pool.level_epsilon,
        level_epsilon_place=config.pool.level_epsilon_place,
        inclusive=config.box_arithmetic.inclusive,
        trunk=trunk,
    )


def _box_head(config: ModelConfig, channels: int) -> BoxHead:
    box = config.box_head
    convs, layers = {"2fc": (0, 2), "4conv1fc": (4, 1)}[box.kind]
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


def _mask_head(config: ModelConfig, channels: int) -> MaskHead:
    mask = config.mask_head
    return MaskHead(
        channels,
        config.classes,
        convs=mask.convs,
        channels=mask.channels,
        norm=mask.norm,
        class_agnostic=mask.class_agnostic,
    )


def _steps(config: ModelConfig) -> Steps:
    r, b, arithmetic = config.rpn, config.box_head, config.box_arithmetic
    inclusive, closed = arithmetic.inclusive, arithmetic.nms_closed
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
            inclusive=inclusive,
        ),
        sample_rois=partial(
            targets.sample_rois,
            classes=config.classes,
            samples=b.samples,
            positive_fraction=b.positive_fraction,
            positive_iou=b.positive_iou,
            append_gt=b.append_gt,
            inclusive=inclusive,
        ),
        rpn_loss=partial(losses.rpn_loss, samples=r.samples, normalise=r.normalise, beta=r.smooth_l1_beta),
        box_loss=partial(losses.box_loss, weights=b.weights, beta=b.smooth_l1_beta, inclusive=inclusive),
        mask_targets=partial(targets.mask_targets, soft=config.mask_head.target == "soft"),
        mask_loss=losses.mask_loss,
        select=partial(
            inference.select,
            weights=b.weights,
            score_threshold=b.score_threshold,
            nms_iou=b.nms_iou,
            max_detections=b.max_detections,
            min_size=b.min_size,
            inclusive=inclusive,
            closed=closed,
            in_image=arithmetic.frame == "image",
        ),
    )
