"""The feature pyramid (arXiv 1612.03144, section 3): laterals, top-down path, outputs P2 ... P5, and P6 for the RPN."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .layers import ConvNorm, init_xavier


class FPN(nn.Module):
    """C2 ... C5 to P2 ... P6, all of `channels`. No ReLU anywhere; P6 is every second pixel of P5."""

    def __init__(self, in_channels: Sequence[int], channels: int, *, norm: str = "none") -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNorm(c, channels, 1, norm=norm) for c in in_channels)
        self.outputs = nn.ModuleList(ConvNorm(channels, channels, 3, norm=norm) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_xavier(module)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        inner = self.laterals[-1](maps[-1])
        pyramid = [self.outputs[-1](inner)]
        for index in range(len(maps) - 2, -1, -1):
            coarser = F.interpolate(inner, size=maps[index].shape[-2:], mode="nearest")
            inner = self.laterals[index](maps[index], coarser)
            pyramid.insert(0, self.outputs[index](inner))
        pyramid.append(F.max_pool2d(pyramid[-1], 1, 2))
        return pyramid
