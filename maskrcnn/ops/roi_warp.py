"""RoIWarp (Multi-task Network Cascades, arXiv 1512.04412): bilinear samples of a box rounded to whole pixels."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .roi_points import Points, check_call, of_level, pool_points, round_half_away, sides_of


def roi_warp(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B R 4"],
    levels: Int[Tensor, "B R"],
    valid: Bool[Tensor, "B R"],
    *,
    scales: Sequence[tuple[float, float]],
    size: int,
    sampling: int = 0,
    aligned: bool = False,
    aggregate: str = "max",
    every: int = 1,
) -> Float[Tensor, "B R C S S"]:
    """Features of each box, `size` x `size` bins: the maximum or the mean of bilinear samples.

    Arguments as in `roi_align`; `sampling` and `aligned` are ignored. Corners are rounded, halves away from zero, and a
    side is at least one pixel (the authors' layer returns nothing for an empty box). A bin of length b has ceil(b) + 1
    samples along an axis, including both of its edges. The centre of pixel i of a map is at i. Samples more than half a
    pixel outside the map do not count; a bin without samples is 0.
    """
    check_call("roi_warp", pyramid, scales, size, aggregate, every)
    valid = valid & (levels >= 0) & (levels < len(pyramid))
    levels = torch.where(valid, levels, 0)
    boxes = torch.where(valid[..., None], boxes.detach(), 0.0)
    scale_y, scale_x = (of_level(levels, [float(pair[axis]) for pair in scales]) for axis in (0, 1))
    heights, widths = sides_of(pyramid, levels)
    y = _samples(boxes[..., 1] * scale_y, boxes[..., 3] * scale_y, heights, size)
    x = _samples(boxes[..., 0] * scale_x, boxes[..., 2] * scale_x, widths, size)
    return pool_points(pyramid, levels, valid, y, x, aggregate, every)


def _samples(start: Tensor, end: Tensor, sides: Tensor, size: int) -> Points:
    """The samples of each bin, from the boxes' ends in feature pixels [B R]."""
    start, end = round_half_away(start), round_half_away(end)
    length = (end - start).clamp(min=1)
    parts = -(-length).div(size, rounding_mode="floor")  # steps of a bin: ceil(length / size)
    most = int(parts.max()) + 1 if parts.numel() else 0  # reads a value, for which a GPU waits
    k = torch.arange(most, device=start.device)
    length, parts = length[..., None, None], parts[..., None, None]  # [B R 1 1]
    steps = torch.arange(size, device=start.device)[:, None] * parts + k  # [B R S n], in parts of a bin
    at = start[..., None, None] + (steps * length).double() / (parts * size)  # double: samples on edges must be exact
    last = sides[..., None, None] - 1
    real = (k <= parts) & (at >= -0.5) & (at <= last + 0.5)
    at = at.clamp(min=0).minimum(last)
    low = at.floor().long()
    return Points(low, torch.minimum(low + 1, last), (at - low).float(), real)
