"""Convolution, sum and ReLU in one pass, for a prepared model on a CPU: oneDNN's fused kernels, and our Winograd.

A sum and a ReLU after a convolution read and write the whole map once more each. The calls that spare that are
oneDNN's, which PyTorch keeps under `torch.ops.mkldnn` for what its compiler writes; they need no compiler.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..model.layers import ConvNorm
from ..ops.dispatch import implementations
from ..ops.winograd import transform_weights, winograd

_DTYPES = (torch.float32, torch.bfloat16)


_FEWEST_CHANNELS = 128  # below, the transforms cost what the products spare


class FusedConv(nn.Module):
    """A `ConvNorm` whose norm has been folded, with the same answers: ReLU(convolution + bias + add).

    For inference: it has no gradient, and `add`'s memory becomes the answer's where it can. A sum is rounded once, not
    twice, in bfloat16.
    """

    def __init__(self, block: ConvNorm) -> None:
        super().__init__()
        conv = block.conv
        self.weight, self.bias, self.relu = conv.weight, conv.bias, block.relu
        self.shape = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Float[Tensor, "B C H W"], add: Float[Tensor, "B D h w"] | None = None) -> Tensor:
        x = x.to(self.weight.dtype)
        if add is None:
            attr = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.shape, attr, [], "")
        if self.shape[-1] > 1:  # PyTorch does not fuse a sum to grouped convolutions
            x = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.shape, "none", [], "") + add
            return F.relu(x, inplace=True) if self.relu else x
        unary = "relu" if self.relu else None
        add = add.to(x.dtype).contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise_(
            add, x, self.weight, self.bias, *self.shape, "add", 1.0, unary, [], ""
        )


def can_fuse(block: ConvNorm) -> bool:
    """Whether this machine has the kernels for the block's convolution, as it now stands."""
    conv = block.conv
    if block.norm is not None or conv.weight.device.type != "cpu" or conv.weight.dtype not in _DTYPES:
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    return conv.weight.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class WinogradConv(nn.Module):
    """A 3 x 3 `ConvNorm` whose norm has been folded, computed as `ops.winograd` does, in `dtype`. For inference."""

    weights: Tensor
    bias: Tensor

    def __init__(self, block: ConvNorm, dtype: torch.dtype) -> None:
        super().__init__()
        bias = block.conv.bias
        assert bias is not None
        self.register_buffer("weights", transform_weights(block.conv.weight, dtype))
        self.register_buffer("bias", bias.float())
        self.relu = block.relu

    def forward(self, x: Float[Tensor, "B C H W"], add: Float[Tensor, "B D h w"] | None = None) -> Tensor:
        return winograd(x.to(self.weights.dtype), self.weights, self.bias, add, relu=self.relu)


def suits_winograd(block: ConvNorm, dtype: torch.dtype) -> bool:
    """Whether `WinogradConv` gives the block's answers, and sooner.

    Where AMX multiplies bfloat16, the transforms would cost more than the products that they spare.
    """
    conv = block.conv
    if block.norm is not None or conv.weight.device.type != "cpu" or dtype not in _DTYPES:
        return False
    if dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
        return False
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    wide = conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
    return plain and wide and "numba" in implementations("winograd")
