"""ResNet (arXiv 1512.03385) and ResNeXt (arXiv 1611.05431): stem and stages res2 ... res5, whose maps are C2 ... C5."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .layers import ConvNorm, init_msra

STAGES = ("res2", "res3", "res4", "res5")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ResNet-18 and -34."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dilation: int, norm: str, eps: float
    ) -> None:
        super().__init__()
        shared = {"norm": norm, "norm_eps": eps}
        self.shortcut = (
            ConvNorm(in_channels, out_channels, 1, stride=stride, **shared)
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride=stride, dilation=dilation, relu=True, **shared)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, dilation=dilation, relu=True, **shared)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x), shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt), 1x1 and a shortcut. The stride sits in the 3x3, or in the first 1x1 (MSRA)."""

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        stride_in: str,
        norm: str,
        eps: float,
    ) -> None:
        super().__init__()
        shared = {"norm": norm, "norm_eps": eps}
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.shortcut = (
            ConvNorm(in_channels, out_channels, 1, stride=stride, **shared)
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.conv1 = ConvNorm(in_channels, middle, 1, stride=first, relu=True, **shared)
        self.conv2 = ConvNorm(middle, middle, 3, stride=second, dilation=dilation, groups=groups, relu=True, **shared)
        self.conv3 = ConvNorm(middle, out_channels, 1, relu=True, **shared)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


def make_stage(
    index: int,
    in_channels: int,
    *,
    block: str,
    blocks: Sequence[int],
    width: int,
    groups: int,
    width_per_group: int,
    stride_in: str,
    norm: str,
    norm_eps: float,
    stride: int,
    dilation: int = 1,
) -> nn.Sequential:
    """Stage `index` (0 is res2): `blocks[index]` blocks, the first with `stride`, every 3x3 with `dilation`."""
    layers: list[nn.Module] = []
    for number in range(blocks[index]):
        step = stride if number == 0 else 1
        if block == "basic":
            out = width << index
            layers.append(BasicBlock(in_channels, out, stride=step, dilation=dilation, norm=norm, eps=norm_eps))
        else:
            out = (width * 4) << index
            middle = (groups * width_per_group * width // 64) << index
            layers.append(
                Bottleneck(
                    in_channels,
                    middle,
                    out,
                    stride=step,
                    dilation=dilation,
                    groups=groups,
                    stride_in=stride_in,
                    norm=norm,
                    eps=norm_eps,
                )
            )
        in_channels = out
    return nn.Sequential(*layers)


def stage_channels(index: int, *, block: str, width: int) -> int:
    """Channels that stage `index` (0 is res2) gives."""
    return (width if block == "basic" else width * 4) << index


class ResNet(nn.Module):
    """Image to the maps of its stages. `depth` stages are built (3 for C4); the last one dilated for DC5.

    Input [B I H W]; output one map per stage, strides 4, 8, 16, 32 (16 twice where dilated).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        depth: int,
        dilate_last: bool,
        freeze_at: int,
        block: str,
        blocks: Sequence[int],
        width: int,
        groups: int,
        width_per_group: int,
        stride_in: str,
        norm: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(in_channels, width, 7, stride=2, norm=norm, norm_eps=norm_eps, relu=True)
        self.channels: list[int] = []
        channels = width
        for index, name in enumerate(STAGES[:depth]):
            last = index == 3 and dilate_last
            stage = make_stage(
                index,
                channels,
                block=block,
                blocks=blocks,
                width=width,
                groups=groups,
                width_per_group=width_per_group,
                stride_in=stride_in,
                norm=norm,
                norm_eps=norm_eps,
                stride=1 if index == 0 or last else 2,
                dilation=2 if last else 1,
            )
            self.add_module(name, stage)
            channels = stage_channels(index, block=block, width=width)
            self.channels.append(channels)
        self.strides = [4, 8, 16, 16 if dilate_last else 32][:depth]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_msra(module)
        self._frozen = [getattr(self, name) for name in ("stem", *STAGES[:depth])[:freeze_at]]
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
