"""Ground-truth masks cropped to RoIs: the targets of the mask branch (section 3, "Mask Representation").

A mask is S x S bits over its object's frame. Each of a RoI's M x M cells is the mean of bilinear samples of these bits,
so this is RoIAlign of the mask. It is separable: weights for the rows times weights for the columns.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .boxes import harmless
from .dispatch import which
from .grids import SMALLEST_FRAME


def crop_masks(
    bits: Shaped[Tensor, "B G S S"],
    frames: Float[Tensor, "B G 4"],
    index: Int[Tensor, "B F"],
    boxes: Float[Tensor, "B F 4"],
    valid: Bool[Tensor, "B F"],
    *,
    side: int,
    samples: int = 4,
    impl: str | None = None,
) -> Float[Tensor, "B F M M"]:
    """How much of each cell of a RoI its object's mask covers, 0..1, M = `side`; 0 in empty slots.

    Args:
        bits: the masks of G objects, bool or uint8. Outside its frame a mask is 0.
        frames: boxes that the bits fill, xyxy; x2 < x1 if the mask is mirrored.
        index: the number of each RoI's object, 0..G-1.
        boxes: RoIs, xyxy, in the pixels of the frames.
        valid: which slots hold a RoI.
        samples: points per cell and axis.
    """
    if which("crop_masks", bits.device, impl) == "numba":
        from .kernels.crop_masks_numba import crop_masks_numba as run
    else:
        run = crop_masks_reference
    return run(bits, frames.float(), index, boxes.float(), valid, side, samples)


def crop_masks_reference(
    bits: Tensor, frames: Tensor, index: Tensor, boxes: Tensor, valid: Tensor, side: int, samples: int
) -> Tensor:
    """Defines `crop_masks`: two small matrix products."""
    B, F = index.shape
    S = bits.shape[-1]
    frames = frames.gather(1, index[..., None].expand(-1, -1, 4))
    frames, boxes = (torch.where(valid[..., None], box, harmless(box)).flatten(0, 1) for box in (frames, boxes))
    picked = bits.gather(1, index[..., None, None].expand(B, F, S, S)).flatten(0, 1).float()
    x = _weights(boxes[:, 0], boxes[:, 2], frames[:, 0], frames[:, 2], S, side, samples)
    y = _weights(boxes[:, 1], boxes[:, 3], frames[:, 1], frames[:, 3], S, side, samples)
    with torch.autocast(boxes.device.type, enabled=False):  # float32: cells are later compared with 0.5
        covered = (y @ picked @ x.transpose(1, 2)).unflatten(0, (B, F))
    return torch.where(valid[..., None, None], covered, 0.0)


def _weights(
    low: Tensor, high: Tensor, frame_low: Tensor, frame_high: Tensor, size: int, side: int, samples: int
) -> Float[Tensor, "N side size"]:
    """Weights that turn `size` stored values of an axis into `side` means over the RoI; zero outside the frame."""
    steps = (torch.arange(side * samples, device=low.device, dtype=torch.float32) + 0.5) / (side * samples)
    points = low[:, None] + (high - low)[:, None] * steps
    extent = frame_high - frame_low
    extent = torch.where(extent.abs() < SMALLEST_FRAME, SMALLEST_FRAME, extent)
    at = (points - frame_low[:, None]) / extent[:, None] * size - 0.5  # [N side*samples], in stored cells
    cells = torch.arange(size, device=low.device, dtype=torch.float32)
    weights = (1 - (at[..., None] - cells).abs()).clamp(min=0)
    return weights.unflatten(1, (side, samples)).mean(dim=2)
