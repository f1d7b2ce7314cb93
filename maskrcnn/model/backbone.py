"""ResNet (arXiv 1512.03385) and ResNeXt (arXiv 1611.05431): stem and stages res2 ... res5, whose maps are C2 ... C5."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config import BackboneConfig
from .layers import ConvNorm, init_msra

STAGES = ("res2", "res3", "res4", "res5")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, config: BackboneConfig, stride: int, dilation: int) -> None:
        super().__init__()
        norm = {"norm": config.norm, "norm_eps": config.norm_eps}
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride=stride, dilation=dilation, relu=True, **norm)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, dilation=dilation, relu=True, **norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x), shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 and a shortcut. The stride sits in the 3x3, or in the first 1x1 (MSRA)."""

    def __init__(self, in_channels: int, out_channels: int, config: BackboneConfig, stride: int, dilation: int) -> None:
        super().__init__()
        norm = {"norm": config.norm, "norm_eps": config.norm_eps}
        middle = out_channels // 4 * config.groups * config.width_per_group // 64
        first, second = (stride, 1) if config.stride_in == "1x1" else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = ConvNorm(in_channels, middle, 1, stride=first, relu=True, **norm)
        self.conv2 = ConvNorm(
            middle, middle, 3, stride=second, dilation=dilation, groups=config.groups, relu=True, **norm
        )
        self.conv3 = ConvNorm(middle, out_channels, 1, relu=True, **norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: dict[str, Any]) -> ConvNorm | None:
    """A 1x1 convolution if the block changes the shape, else nothing."""
    same = stride == 1 and in_channels == out_channels
    return None if same else ConvNorm(in_channels, out_channels, 1, stride=stride, **norm)


def make_stage(
    index: int, in_channels: int, config: BackboneConfig, *, stride: int, dilation: int = 1
) -> nn.Sequential:
    """Stage `index` (0 is res2): its blocks, the first with `stride`, every 3x3 with `dilation`."""
    block = BasicBlock if config.block == "basic" else Bottleneck
    out = stage_channels(index, config)
    first = block(in_channels, out, config, stride, dilation)
    return nn.Sequential(first, *(block(out, out, config, 1, dilation) for _ in range(config.blocks[index] - 1)))


def stage_channels(index: int, config: BackboneConfig) -> int:
    """Channels that stage `index` (0 is res2) gives."""
    return (config.width if config.block == "basic" else config.width * 4) << index


class ResNet(nn.Module):
    """Image to the maps of its stages res2 to res5. C4 omits the last, DC5 dilates it.

    Input [B I H W]; output one map per stage, strides 4, 8, 16, 32 (16 twice if dilated).
    """

    def __init__(self, in_channels: int, config: BackboneConfig) -> None:
        super().__init__()
        norm = {"norm": config.norm, "norm_eps": config.norm_eps}
        self.stem = ConvNorm(in_channels, config.width, 7, stride=2, relu=True, **norm)
        names = STAGES[:3] if config.features == "c4" else STAGES
        self.channels = [stage_channels(index, config) for index in range(len(names))]
        dilate_last = config.features == "dc5"
        for index, name in enumerate(names):
            last = index == 3 and dilate_last
            stride, dilation = (1 if index == 0 or last else 2), (2 if last else 1)
            before = self.channels[index - 1] if index else config.width
            self.add_module(name, make_stage(index, before, config, stride=stride, dilation=dilation))
        self.strides = [4, 8, 16, 16 if dilate_last else 32][: len(names)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_msra(module)
        self._frozen = [getattr(self, name) for name in ("stem", *names)[: config.freeze_at]]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "ResNet":
        """Frozen stages keep their statistics, whatever their norm."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Float[Tensor, "B I H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        maps = []
        for name in STAGES[: len(self.channels)]:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps
