"""A trained model made ready for inference: norms folded into convolutions, channels last, the precision asked for, and
on a CPU convolutions fused with what follows them.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..device import DTYPES, Precision
from ..model.backbone import ResNet
from ..model.box_head import BoxHead
from ..model.layers import ConvNorm, FrozenBatchNorm, Normalise
from ..model.mask_rcnn import MaskRCNN
from .fused import FusedConv, WinogradConv, can_fuse, suits_winograd

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def prepare(model: MaskRCNN, precision: Precision = "fp32", *, fuse: bool = True) -> MaskRCNN:
    """A copy of `model` for inference; `model` stays as it is, and the two share no memory that either may change.

    Batch norms, frozen or live, become part of the convolution before them (group norms cannot). Weights of
    convolutions and fully connected layers take the precision's type; run the copy inside `arithmetic` of the same
    precision. Boxes, scores and suppression stay float32. `fuse` allows kernels that only a CPU has: such a copy
    can be neither moved nor compiled, nor prepared again: that is a ValueError.
    """
    if any(isinstance(module, FusedConv | WinogradConv) for module in model.modules()):
        raise ValueError("this model is prepared already; prepare the one that it is a copy of")
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    prepared.precision = precision
    _read_channels_as_they_come(prepared)
    for module in prepared.modules():
        if isinstance(module, ConvNorm):
            _fold(module)
        if isinstance(module, BoxHead):
            module.count_channels_last()
    if fuse:
        _replace(
            prepared, partial(suits_winograd, dtype=DTYPES[precision]), partial(WinogradConv, dtype=DTYPES[precision])
        )
    for module in prepared.modules():
        if isinstance(module, _LAYERS):
            module.to(DTYPES[precision])
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    if fuse:
        _replace(prepared, can_fuse, FusedConv)
    return prepared


def _fold(block: ConvNorm) -> None:
    """conv then y = x * s + t becomes one convolution with weight w * s and bias t."""
    found = _affine(block.norm)
    if found is None:
        return
    scale, shift = found
    conv = block.conv
    bias = shift if conv.bias is None else shift + conv.bias * scale
    conv.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    block.norm = None


def _read_channels_as_they_come(model: MaskRCNN) -> None:
    """Puts the first convolutions' weights in the order of the image's channels, instead of the image in theirs."""
    if not model.normalise.reverse_channels:
        return
    for module in model.modules():  # also those of an RPN with features of its own
        if isinstance(module, ResNet):
            stem = module.stem.conv
            stem.weight = nn.Parameter(stem.weight.flip(1), requires_grad=False)
        if isinstance(module, Normalise):
            module.mean, module.std, module.reverse_channels = module.mean.flip(1), module.std.flip(1), False


def _replace(model: nn.Module, suits: Callable[[ConvNorm], bool], make: Callable[[ConvNorm], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ConvNorm) and suits(child):
                setattr(parent, name, make(child))


def _affine(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a norm that is one per channel at inference; None for every other."""
    if isinstance(norm, FrozenBatchNorm):
        return norm.affine()
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale, norm.bias - norm.running_mean * scale
    return None
