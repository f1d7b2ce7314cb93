"""Prepares a trained model for inference: folds norms into convolutions, stores channels last, converts the weights to
the chosen precision, and on a CPU fuses convolutions with the sum and ReLU that follow.
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
    """A copy of `model` for inference; `model` is not changed, and later changes to it do not affect the copy.

    Batch norms, frozen or live, are folded into the preceding convolution (group norms cannot be). Weights of
    convolutions and fully connected layers get the type of the precision; run the copy inside `arithmetic` of the same
    precision. Boxes, scores and NMS stay float32. `fuse` allows kernels that exist for CPUs only; such a copy can be
    neither moved nor compiled. Raises ValueError if `model` is such a copy itself.
    """
    if any(isinstance(module, FusedConv | WinogradConv) for module in model.modules()):
        raise ValueError("this model is already prepared; prepare the model of which it is a copy")
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
    """A convolution followed by y = x * s + t becomes one convolution with weight w * s and bias t."""
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
    """Reorders the weights of the first convolutions to the image's channel order, instead of reordering each image."""
    if not model.normalise.reverse_channels or not isinstance(model.backbone, ResNet):
        return  # nobody knows the first convolution of an own backbone
    for module in model.modules():  # also of an RPN with its own backbone
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
    """Scale and shift per channel of a norm that is constant at inference; None for other norms."""
    if isinstance(norm, FrozenBatchNorm):
        return norm.affine()
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_var is not None:
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale, norm.bias - norm.running_mean * scale
    return None
