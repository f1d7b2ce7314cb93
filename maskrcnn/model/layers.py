"""Convolution + norm + ReLU, the norms, and the initial weights."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from ..config import InputConfig
from ..ops.dispatch import may_look
from ..structures import Detections, Images, Proposals, RoIs

Slots = TypeVar("Slots", Proposals, RoIs, Detections)


class Normalise(nn.Module):
    """Pixels 0..255 less `mean`, over `std`, zero outside the images. `channel_order` "bgr" reverses the channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)
        self.reverse_channels = config.channel_order == "bgr"

    def forward(self, images: Images) -> Float[Tensor, "B I H W"]:
        # Along whole lines of memory: a pixel has too few channels for a fast loop.
        pixels = images.pixels.permute(0, 2, 3, 1)
        pixels = (pixels.flip(3) if self.reverse_channels else pixels).contiguous()
        B, H, W, channels = pixels.shape
        scale = 1 / self.std.flatten()
        scale, shift = scale.repeat(W), (-self.mean.flatten() * scale).repeat(W)
        x = torch.addcmul(shift, pixels.view(B, H, W * channels).to(scale.dtype), scale)
        if may_look(images.sizes):
            for line, (height, width) in zip(x, images.sizes.tolist(), strict=True):
                line[height:] = 0
                line[:, width * channels :] = 0
        else:
            rows = torch.arange(H, device=x.device) < images.sizes[:, :1]  # [B H]
            columns = torch.arange(W * channels, device=x.device) < images.sizes[:, 1:] * channels  # [B W*I]
            x = torch.where(rows[:, :, None] & columns[:, None], x, 0.0)
        return x.view(B, H, W, channels).permute(0, 3, 1, 2)


class FrozenBatchNorm(nn.Module):
    """Batch norm that never changes: y = x * s + t, with s = w / sqrt(var + eps) and t = b - mean * s."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def affine(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Scale and shift, float32."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        scale, shift = (v.to(x.dtype).view(1, -1, 1, 1) for v in self.affine())
        return torch.addcmul(shift, x, scale)  # keeps nothing of x for the gradient


def make_norm(kind: str, channels: int, eps: float = 1e-5) -> nn.Module | None:
    """`frozen_bn`, `bn`, `gn` (32 groups, as in Group Normalization, arXiv 1803.08494) or `none`."""
    match kind:
        case "frozen_bn":
            return FrozenBatchNorm(channels, eps)
        case "bn":
            return nn.BatchNorm2d(channels, eps)
        case "gn":
            return nn.GroupNorm(math.gcd(32, channels), channels, eps)
        case "none":
            return None
    raise ValueError(f"there is no norm {kind!r}")


class ConvNorm(nn.Module):
    """Convolution, then the norm if any, then a sum, then ReLU if wanted. It has a bias only without a norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: str = "none",
        norm_eps: float = 1e-5,
        relu: bool = False,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=norm == "none")
        self.norm = make_norm(norm, out_channels, norm_eps)
        self.relu = relu

    def forward(
        self, x: Float[Tensor, "B C H W"], add: Float[Tensor, "B D h w"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """`add` joins before the ReLU: a block's shortcut, which nobody needs afterwards."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if add is not None:
            x = x + add
        return F.relu(x, inplace=True) if self.relu else x


def conv_stack(in_channels: int, channels: int, count: int, norm: str) -> tuple[nn.Sequential, int]:
    """`count` 3x3 convolutions with norm and ReLU, and the number of channels that they give."""
    widths = [in_channels, *[channels] * count]
    blocks = (ConvNorm(before, channels, 3, norm=norm, relu=True) for before in widths[:-1])
    return nn.Sequential(*blocks), widths[-1]


def drop_empty_slots(bundle: Slots) -> Slots:
    """The bundle without the last slots if they are empty in every image; all slots if values cannot be read (GPU,
    tracing).
    """
    if not may_look(bundle.valid):
        return bundle
    slots = max(1, int(bundle.valid.sum(1).max()))
    fields: Any = (None if field is None else field[:, :slots] for field in bundle)
    return type(bundle)(*fields)


def on_valid(branch: Callable[..., Any], valid: Bool[Tensor, "B R"], *inputs: Num[Tensor, "B R ..."]) -> Any:
    """What `branch` gives for the valid slots, [1 N ...] of all images in a row; zeros in the others.

    So live batch norms count no empty slot. If `valid` cannot be read (GPU, tracing), the branch computes every slot.
    `branch` returns a tensor or a tuple of tensors.
    """
    if not may_look(valid) or bool(valid.all()):
        return branch(*inputs)
    rows = valid.flatten().nonzero()[:, 0]
    if not len(rows):
        rows = rows.new_zeros(1)  # so that every parameter has a gradient, of zero

    def spread(found: Tensor) -> Tensor:
        empty = found.new_zeros(valid.numel(), *found.shape[2:])
        return empty.index_copy(0, rows, found[0]).unflatten(0, valid.shape)

    found = branch(*(each.flatten(0, 1)[rows][None] for each in inputs))
    return tuple(map(spread, found)) if isinstance(found, tuple) else spread(found)


def unrecorded(module: nn.Module) -> Callable[..., Any]:
    """`module` for a trial pass: live norms use the statistics of the batch and do not update their own."""
    spare = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return lambda *inputs: torch.func.functional_call(module, spare, inputs)


def init_msra(layer: nn.Module) -> None:
    """N(0, sqrt(2 / fan_out)), bias 0."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def init_xavier(layer: nn.Module) -> None:
    """U(-sqrt(3 / fan_in), sqrt(3 / fan_in)), bias 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def init_normal(layer: nn.Module, std: float) -> None:
    """N(0, std), bias 0."""
    nn.init.normal_(layer.weight, std=std)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
