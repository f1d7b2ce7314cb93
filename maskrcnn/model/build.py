"""The parts list: `ModelConfig` to `MaskRCNN`, every part with its room's numbers."""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ModelConfig
from ..errors import ConfigError
from .backbone import ResNet, make_stage, stage_channels
from .box_head import BoxHead
from .fpn import FPN
from .hard_examples import HardExampleMaskRCNN
from .keypoint_head import KeypointHead
from .layers import Normalise, init_msra
from .mask_head import MaskHead, MaskMLPHead
from .mask_rcnn import MaskRCNN
from .parts import USUAL, Parts
from .pooler import Pool
from .rpn import RPN


def build(config: ModelConfig, *, draw: bool = True, parts: Parts = USUAL) -> MaskRCNN:
    """A `MaskRCNN` with fresh weights or, unless `draw`, with undefined ones that will be replaced, which is faster.

    `parts` of the user's own take the place of the usual ones. Raises `ConfigError` for a combination that makes no
    sense.
    """
    _check(config)
    with nullcontext() if draw else _WithoutDraws():
        model = _assemble(config, parts)
    for name in ("box_loss", "mask_loss", "keypoint_loss"):
        if (loss := getattr(parts, name)) is not None:
            setattr(model, name, loss)
    return model


class _WithoutDraws(TorchFunctionMode):
    """Skips initialisation. On the meta device, drawing would import torch's compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.normal_ or getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _assemble(config: ModelConfig, parts: Parts) -> MaskRCNN:
    box, mask, keypoint, image = config.box_head, config.mask_head, config.keypoint_head, config.input
    if not len(image.mean) == len(image.std) == image.channels:
        raise ConfigError(
            f"model.input.mean and std must have a value for each of model.input.channels, {image.channels}; "
            f"they have {len(image.mean)} and {len(image.std)}"
        )
    backbone, neck = _features(config, parts)
    strides, channels = backbone.strides[-1:], backbone.channels[-1]
    rpn_strides = strides
    if config.backbone.features == "fpn":
        strides, channels = backbone.strides, config.fpn.channels
        rpn_strides = [*strides, strides[-1] * 2]
    if len(config.anchors.sizes) != len(rpn_strides):
        raise ConfigError(
            f"model.anchors.sizes needs one entry per level, {len(rpn_strides)}; it has {config.anchors.sizes}"
        )
    res5 = box.kind == "res5"
    box_channels = stage_channels(3, config.backbone) if res5 else channels
    shared = mask.kind == "res5"  # masks and keypoints read what the box branch reads
    detail_channels = box_channels if shared else channels
    detail_pool = None
    if (mask.enabled or keypoint.enabled) and not shared:
        detail_pool = _pool(config, strides, mask.pool_size if mask.enabled else keypoint.pool_size)
    kind = HardExampleMaskRCNN if box.ohem else MaskRCNN
    return kind(
        config,
        backbone=backbone,
        neck=neck,
        rpn=_rpn(config, channels, rpn_strides, parts),
        box_pool=_res5_pool(config, strides, channels) if res5 else _pool(config, strides, box.pool_size),
        box_head=(parts.box_head or _box_head)(box_channels, config),
        detail_pool=detail_pool,
        mask_head=(parts.mask_head or _mask_head)(detail_channels, config) if mask.enabled else None,
        keypoint_head=(parts.keypoint_head or _keypoint_head)(detail_channels, config) if keypoint.enabled else None,
    )


def _check(config: ModelConfig) -> None:
    """Raises `ConfigError` if two settings contradict each other."""
    box, mask, keypoint, image = config.box_head, config.mask_head, config.keypoint_head, config.input
    if not len(image.mean) == len(image.std) == image.channels:
        raise ConfigError(
            f"model.input.mean and std must have a value for each of model.input.channels, {image.channels}; "
            f"they have {len(image.mean)} and {len(image.std)}"
        )
    if len(image.range) not in (0, image.channels) or any(low >= high for low, high in image.range):
        raise ConfigError(
            f"model.input.range must be empty or have a pair [low, high] for each of {image.channels} channels; "
            f"it is {[list(pair) for pair in image.range]}"
        )
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
            "model.backbone.groups above 1 needs bottleneck blocks: model.backbone.block must be 'bottleneck'"
        )
    sides = {head.pool_size for head in (mask, keypoint) if head.enabled}
    if len(sides) > 1 and mask.kind != "res5":
        raise ConfigError(
            f"masks and keypoints share a pool, so their pool_size must be one number; it is {sorted(sides)}"
        )


def _features(config: ModelConfig, parts: Parts) -> tuple[Any, nn.Module]:
    """Backbone and neck: FPN, or the last map alone."""
    own = parts.backbone is not None
    backbone: Any = _own_backbone(config, parts) if own else ResNet(config.input.channels, config.backbone)
    if config.backbone.features == "fpn":
        return backbone, FPN(backbone.channels, config.fpn.channels, norm=config.fpn.norm)
    return backbone, LastMap()


def _own_backbone(config: ModelConfig, parts: Parts) -> nn.Module:
    assert parts.backbone is not None
    backbone: Any
    backbone, name = parts.backbone(config), parts.names["backbone"]
    channels, strides = getattr(backbone, "channels", ()), getattr(backbone, "strides", ())
    if not channels or len(channels) != len(strides):
        raise ConfigError(
            f"the backbone that {name} makes needs the attributes channels and strides, a list with a number for each "
            f"of its maps; they are {channels} and {strides}"
        )
    if config.backbone.features == "c4":
        raise ConfigError("a C4 model splits its ResNet, so it takes no other backbone: take an FPN, C5 or DC5 model")
    backbone.channels, backbone.strides = [*channels], [*strides]
    return backbone


class LastMap(nn.Module):
    """The neck of the backbones without a pyramid."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [maps[-1]]


def _rpn(config: ModelConfig, channels: int, strides: list[int], parts: Parts) -> RPN:
    features = None
    if config.rpn.features == "own":
        backbone, neck = _features(config, parts)
        own = (("normalise", Normalise(config.input)), ("backbone", backbone), ("neck", neck))
        features = nn.Sequential(OrderedDict(own))
    return RPN(
        channels,
        config.anchors,
        config.box_arithmetic,
        strides=strides,
        convs=config.rpn.convs,
        features=features,
    )


def _pool(config: ModelConfig, strides: list[int], size: int) -> Pool:
    return Pool(config.pool, strides=strides, size=size, inclusive=config.box_arithmetic.inclusive)


def _res5_pool(config: ModelConfig, strides: list[int], channels: int) -> Pool:
    """RoIs of twice the size and the last stage of the ResNet on them (Figure 4, left)."""
    # If res5's stride sits in 1x1 convolutions, it reads only every second bin: these alone are pooled.
    stride = config.box_head.res5_stride
    every = stride if config.backbone.block == "bottleneck" and config.backbone.stride_in == "1x1" else 1
    trunk = make_stage(3, channels, config.backbone, stride=stride // every)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            init_msra(module)
    return Pool(
        config.pool,
        strides=strides,
        size=config.box_head.pool_size * stride,
        inclusive=config.box_arithmetic.inclusive,
        trunk=trunk,
        every=every,
    )


def _box_head(channels: int, config: ModelConfig) -> nn.Module:
    return BoxHead(channels, config.classes, config.box_head)


def _keypoint_head(channels: int, config: ModelConfig) -> nn.Module:
    return KeypointHead(channels, config.keypoint_head)


def _mask_head(channels: int, config: ModelConfig) -> nn.Module:
    if config.mask_head.kind in ("mlp2", "mlp3"):
        return MaskMLPHead(channels, config.classes, config.mask_head, channels=config.box_head.channels)
    return MaskHead(channels, config.classes, config.mask_head)
