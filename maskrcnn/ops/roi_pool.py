"""RoIPool (Fast R-CNN, section 2.1): the box and its bins are rounded to whole pixels of the map."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .roi_points import Points, check_call, of_level, pool_points, round_half_away, sides_of


def roi_pool(
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
    """Features of each box, `size` x `size` bins: the maximum or the mean of a bin's pixels.

    Arguments as in `roi_align`; `sampling` and `aligned` are ignored. Corners are rounded, halves away from zero, and
    belong to the box, so it is at least one pixel wide. Bin p of a box of h rows has the rows floor(p h / S) to
    ceil((p + 1) h / S) - 1 that lie on the map, so neighbouring bins may share pixels. A bin without pixels is 0.
    """
    check_call("roi_pool", pyramid, scales, size, aggregate, every)
    valid = valid & (levels >= 0) & (levels < len(pyramid))
    levels = torch.where(valid, levels, 0)
    boxes = torch.where(valid[..., None], boxes.detach(), 0.0)
    scale_y, scale_x = (of_level(levels, [float(pair[axis]) for pair in scales]) for axis in (0, 1))
    heights, widths = sides_of(pyramid, levels)
    y = _pixels(boxes[..., 1] * scale_y, boxes[..., 3] * scale_y, heights, size)
    x = _pixels(boxes[..., 0] * scale_x, boxes[..., 2] * scale_x, widths, size)
    return pool_points(pyramid, levels, valid, y, x, aggregate, every)


def _pixels(start: Tensor, end: Tensor, sides: Tensor, size: int) -> Points:
    """The pixels of each bin, from the boxes' ends in feature pixels [B R]."""
    start, end = round_half_away(start), round_half_away(end)
    length = (end - start + 1).clamp(min=1)[..., None]  # [B R 1]
    bins = torch.arange(size, device=start.device)
    low = (bins * length).div(size, rounding_mode="floor") + start[..., None]
    high = -(-(bins + 1) * length).div(size, rounding_mode="floor") + start[..., None]  # one past the last
    low, high = (end.clamp(min=0).minimum(sides[..., None]) for end in (low, high))
    most = int((high - low).max()) if low.numel() else 0  # reads a value, for which a GPU waits
    at = low[..., None] + torch.arange(most, device=start.device)
    return Points(at.minimum(sides[..., None, None] - 1), None, None, at < high[..., None])
