"""Stored masks seen through RoIs: what the mask branch learns from (section 3, "Mask Representation").

A mask is S x S bits over its object's frame. A RoI's M x M cells each read them, bilinearly interpolated, at a grid of
points and take the mean: RoIAlign of the mask. It is separable: weights for the rows, weights for the columns.
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
    """The share, 0..1, of each of the side x side cells of a RoI that its object's mask covers; 0 for empty slots.

    Args:
        bits: of G objects, bool or uint8. A cell outside the frame is 0.
        frames: boxes that the bits fill, xyxy; x2 < x1 where the mask is mirrored.
        index: the object of each RoI.
        boxes: RoIs, xyxy, in the pixels of the frames.
        valid: which slots hold a RoI.
        samples: points per cell and axis.
    """
    match which("crop_masks", bits.device, impl):
        case "numba":
            from .kernels.crop_masks_numba import crop_masks_numba as run
        case _:
            run = crop_masks_reference
    return run(bits, frames.float(), index, boxes.float(), valid, side, samples)


def crop_masks_reference(
    bits: Tensor, frames: Tensor, index: Tensor, boxes: Tensor, valid: Tensor, side: int, samples: int
) -> Tensor:
    """The meaning of `crop_masks`: two small matrix products."""
    B, F = index.shape
    S = bits.shape[-1]
    frames = frames.gather(1, index[..., None].expand(-1, -1, 4))
    frames, boxes = (torch.where(valid[..., None], box, harmless(box)).flatten(0, 1) for box in (frames, boxes))
    picked = bits.gather(1, index[..., None, None].expand(B, F, S, S)).flatten(0, 1).float()
    x = _weights(boxes[:, 0], boxes[:, 2], frames[:, 0], frames[:, 2], S, side, samples)
    y = _weights(boxes[:, 1], boxes[:, 3], frames[:, 1], frames[:, 3], S, side, samples)
    with torch.autocast(boxes.device.type, enabled=False):  # a cell is compared with a half
        covered = (y @ picked @ x.transpose(1, 2)).unflatten(0, (B, F))
    return torch.where(valid[..., None, None], covered, 0.0)


def _weights(
    low: Tensor, high: Tensor, frame_low: Tensor, frame_high: Tensor, size: int, side: int, samples: int
) -> Float[Tensor, "N side size"]:
    """What turns `size` stored values of an axis into `side` means over the RoI; zero outside the frame."""
    steps = (torch.arange(side * samples, device=low.device, dtype=torch.float32) + 0.5) / (side * samples)
    points = low[:, None] + (high - low)[:, None] * steps
    extent = frame_high - frame_low
    extent = torch.where(extent.abs() < SMALLEST_FRAME, SMALLEST_FRAME, extent)
    at = (points - frame_low[:, None]) / extent[:, None] * size - 0.5  # [N side*samples], in stored cells
    cells = torch.arange(size, device=low.device, dtype=torch.float32)
    weights = (1 - (at[..., None] - cells).abs()).clamp(min=0)
    return weights.unflatten(1, (side, samples)).mean(dim=2)
