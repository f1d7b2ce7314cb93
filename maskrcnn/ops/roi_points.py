"""RoIPool (Fast R-CNN, section 2.1) and RoIWarp (Multi-task Network Cascades, arXiv 1512.04412).

Both round the box to whole pixels of the map and take the maximum or mean of points in each bin. The points of RoIPool
are whole pixels, those of RoIWarp bilinear samples.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import which
from .grids import Grid
from .roi_align import check_call, gather_maps, of_level


class Points(NamedTuple):
    """The points of each bin along one axis, at most n: two neighbouring pixels and the weight of the second.

    Tensors are [B R S n]. Without `share` a point is the pixel `low` itself.
    """

    low: Tensor
    high: Tensor | None
    share: Tensor | None  # 0..1
    real: Tensor  # bool: whether the bin has this point


def roi_points(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B R 4"],
    levels: Int[Tensor, "B R"],
    valid: Bool[Tensor, "B R"],
    *,
    rule: Literal["roi_pool", "roi_warp"],
    scales: Sequence[tuple[float, float]],
    size: int,
    aggregate: str = "max",
    every: int = 1,
) -> Float[Tensor, "B R C S S"]:
    """Features of each box, `size` x `size` bins: the maximum or the mean of a bin's points.

    Corners are rounded, halves away from zero. Of equal points the first is the maximum; a bin without points is 0. The
    other arguments and errors are those of `roi_align`.

    Args:
        rule: "roi_pool" takes pixels. Corners belong to the box, so it is at least one pixel wide. Bin p of a box of h
            rows has the rows floor(p h / S) to ceil((p + 1) h / S) - 1 that lie on the map, so neighbouring bins may
            share pixels.
            "roi_warp" takes bilinear samples. A side is at least one pixel (the authors' layer returns nothing for an
            empty box). A bin of length b has ceil(b) + 1 samples along an axis, including both of its edges. The centre
            of pixel i of a map is at i. Samples more than half a pixel outside the map do not count.
    """
    check_call(rule, pyramid, Grid(tuple(scales), size, sampling=0, aligned=False, every=every), aggregate)
    points = _pixels if rule == "roi_pool" else _samples
    valid = valid & (levels >= 0) & (levels < len(pyramid))
    levels = torch.where(valid, levels, 0)
    boxes = torch.where(valid[..., None], boxes.detach(), 0.0)
    pixels, first, heights, widths = gather_maps(pyramid, levels)
    scale_y, scale_x = (of_level(levels, [float(pair[axis]) for pair in scales]) for axis in (0, 1))
    y = points(boxes[..., 1] * scale_y, boxes[..., 3] * scale_y, heights, size)
    x = points(boxes[..., 0] * scale_x, boxes[..., 2] * scale_x, widths, size)
    y = y._replace(real=y.real & valid[..., None, None])
    flat = [None if t is None else t[:, :, ::every].flatten(0, 1) for t in (*y, *x)]
    out = _kernel(pixels).apply(pixels, first.flatten(), widths.flatten(), aggregate, *flat)
    return out.unflatten(0, levels.shape).to(pyramid[0].dtype).permute(0, 1, 4, 2, 3)


def _pixels(start: Tensor, end: Tensor, sides: Tensor, size: int) -> Points:
    """The pixels of each bin, from the boxes' ends in feature pixels [B R]."""
    start, end = _round_half_away(start), _round_half_away(end)
    length = (end - start + 1).clamp(min=1)[..., None]  # [B R 1]
    bins = torch.arange(size, device=start.device)
    low = (bins * length).div(size, rounding_mode="floor") + start[..., None]
    high = -(-(bins + 1) * length).div(size, rounding_mode="floor") + start[..., None]  # one past the last
    low, high = (end.clamp(min=0).minimum(sides[..., None]) for end in (low, high))
    most = int((high - low).max()) if low.numel() else 0  # reads a value, for which a GPU waits
    at = low[..., None] + torch.arange(most, device=start.device)
    return Points(at.minimum(sides[..., None, None] - 1), None, None, at < high[..., None])


def _samples(start: Tensor, end: Tensor, sides: Tensor, size: int) -> Points:
    """The samples of each bin, from the boxes' ends in feature pixels [B R]."""
    start, end = _round_half_away(start), _round_half_away(end)
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


def _round_half_away(x: Tensor) -> Tensor:
    """C's `round`, as int64: halves are rounded away from zero."""
    return (x.sign() * (x.abs() + 0.5).floor()).nan_to_num(0.0).clamp(-1e9, 1e9).long()


def _kernel(pixels: Tensor) -> type[torch.autograd.Function]:
    """The Numba kernel computes float32; the reference runs for other types."""
    if which("roi_points", pixels.device, None if pixels.dtype == torch.float32 else "reference") == "numba":
        from .kernels.roi_points_numba import PoolPointsNumba

        return PoolPointsNumba
    return PoolPoints


class PoolPoints(torch.autograd.Function):
    """Saves the index of the winning point, not the points, so memory does not grow with their number.

    Sums, also of gradients, are at least float32: hundreds of boxes add to one pixel, and in bfloat16 256 + 1 is 256.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, first: Tensor, row: Tensor, aggregate: str, *points: Tensor | None) -> Tensor:
        y, x = Points(*points[:4]), Points(*points[4:])  # type: ignore[arg-type]
        N, S = y.low.shape[:2]
        best = pixels.new_full((N, S, S, pixels.shape[1]), 0.0 if aggregate == "average" else -torch.inf)
        won = None if aggregate == "average" else torch.full(best.shape, -1, dtype=torch.int32, device=best.device)
        count = torch.zeros(N, S, S, 1, dtype=pixels.dtype, device=pixels.device)
        for k, (real, taps) in enumerate(_taps(first, row, y, x)):
            value = torch.zeros_like(best)
            for at, weight in taps:
                taken = pixels.index_select(0, at.flatten()).view_as(best)
                value += taken if weight is None else taken * weight.to(taken.dtype)[..., None]
            real = real[..., None]
            count += real
            if won is None:
                best += torch.where(real, value, 0.0)
            else:
                better = real & ((value > best) | (won < 0))
                best, won = torch.where(better, value, best), torch.where(better, k, won)
        ctx.save_for_backward(first, row, won, count, *points)
        ctx.shape = pixels.shape
        if won is None:
            return best / count.clamp(min=1)
        return torch.where(count > 0, best, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, row, won, count, *points = ctx.saved_tensors
        y, x = Points(*points[:4]), Points(*points[4:])
        pixels = grad.new_zeros(ctx.shape)
        if won is None:
            grad = grad / count.clamp(min=1)
        for k, (real, taps) in enumerate(_taps(first, row, y, x)):
            share = torch.where(real[..., None] if won is None else won == k, grad, 0.0)
            for at, weight in taps:
                part = share if weight is None else share * weight.to(share.dtype)[..., None]
                pixels.index_add_(0, at.flatten(), part.flatten(0, 2))
        return pixels, *[None] * (3 + len(points))


def _taps(first: Tensor, row: Tensor, y: Points, x: Points) -> Any:
    """For each point: which bins have it [N S S], and its pixels and their weights, each [N S S]."""
    for i in range(y.low.shape[2]):
        for j in range(x.low.shape[2]):
            real = y.real[..., i][:, :, None] & x.real[..., j][:, None, :]
            taps = []
            for at_y, weight_y in _ends(y, i):
                for at_x, weight_x in _ends(x, j):
                    at = first[:, None, None] + at_y[:, :, None] * row[:, None, None] + at_x[:, None, :]
                    weight = None if weight_y is None or weight_x is None else weight_y[:, :, None] * weight_x[:, None]
                    taps.append((at, weight))
            yield real, taps


def _ends(points: Points, i: int) -> list[tuple[Tensor, Tensor | None]]:
    if points.share is None or points.high is None:
        return [(points.low[..., i], None)]
    share = points.share[..., i]
    return [(points.low[..., i], 1 - share), (points.high[..., i], share)]
