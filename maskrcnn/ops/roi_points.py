"""The maximum or mean of the points of each bin, for RoIPool and RoIWarp, which differ only in where the points are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import which


class Points(NamedTuple):
    """The points of each bin along one axis, at most n: two neighbouring pixels and the weight of the second.

    Tensors are [B R S n]. Without `share` a point is the pixel `low` itself.
    """

    low: Tensor
    high: Tensor | None
    share: Tensor | None  # 0..1
    real: Tensor  # bool: whether the bin has this point


def check_call(
    name: str, pyramid: Sequence[Tensor], scales: Sequence[Any], size: int, aggregate: str, every: int
) -> None:
    """Raises ValueError if the arguments common to all RoI operators do not fit together."""
    if aggregate not in ("average", "max"):
        raise ValueError(f"{name}: aggregate must be 'average' or 'max', not {aggregate!r}")
    if len(pyramid) != len(scales) or not pyramid:
        raise ValueError(f"{name}: {len(pyramid)} maps, but {len(scales)} scales")
    if min(size, every) < 1:
        raise ValueError(f"{name}: impossible {size=}, {every=}")


def sides_of(pyramid: Sequence[Tensor], levels: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width, int64 [B R], of the map that each box reads."""
    heights, widths = zip(*(features.shape[2:] for features in pyramid), strict=True)
    return of_level(levels, heights), of_level(levels, widths)


def of_level(levels: Tensor, values: Sequence[float]) -> Tensor:
    """The value of each of `levels` [B R], int64 or float32. No table is indexed: it would be copied from the host."""
    found = torch.full_like(levels, values[0], dtype=torch.float32 if isinstance(values[0], float) else torch.int64)
    for level, value in enumerate(values[1:], 1):
        found = torch.where(levels == level, value, found)
    return found


def round_half_away(x: Tensor) -> Tensor:
    """C's `round`, as int64: halves are rounded away from zero."""
    return (x.sign() * (x.abs() + 0.5).floor()).nan_to_num(0.0).clamp(-1e9, 1e9).long()


def pool_points(
    pyramid: Sequence[Tensor], levels: Tensor, valid: Tensor, y: Points, x: Points, aggregate: str, every: int
) -> Tensor:
    """[B R C S S]: the maximum (the first, if several are equal) or mean of the real points of each bin; 0 without any.

    Sums, also of gradients, are at least float32: hundreds of boxes add to one pixel, and in bfloat16 256 + 1 is 256.
    """
    B, C = pyramid[0].shape[:2]
    dtype = torch.promote_types(pyramid[0].dtype, torch.float32)
    y, x = (_every(every, axis) for axis in (y, x))
    R, S = y.low.shape[1:3]
    pixels = torch.cat([features.permute(0, 2, 3, 1).reshape(B, -1, C) for features in pyramid], dim=1).to(dtype)
    counts = [features.shape[2] * features.shape[3] for features in pyramid]
    first = of_level(levels, [sum(counts[:level]) for level in range(len(counts))])
    first = first + torch.arange(B, device=levels.device)[:, None] * sum(counts)
    row = of_level(levels, [features.shape[3] for features in pyramid])
    y = y._replace(real=y.real & valid[..., None, None])
    flat = [None if t is None else t.flatten(0, 1) for t in (*y, *x)]
    out = _kernel(pixels).apply(pixels.reshape(-1, C), first.flatten(), row.flatten(), aggregate, *flat)
    return out.to(pyramid[0].dtype).view(B, R, S, S, C).permute(0, 1, 4, 2, 3)


def _every(step: int, points: Points) -> Points:
    low, high, share, real = (t if t is None else t[:, :, ::step] for t in points)
    assert low is not None
    assert real is not None
    return Points(low, high, share, real)


def _kernel(pixels: Tensor) -> type[torch.autograd.Function]:
    """The Numba kernel computes float32; the reference runs for other types."""
    if which("roi_points", pixels.device, None if pixels.dtype == torch.float32 else "reference") == "numba":
        from .kernels.roi_points_numba import PoolPointsNumba

        return PoolPointsNumba
    return PoolPoints


class PoolPoints(torch.autograd.Function):
    """Saves the index of the winning point, not the points, so memory does not grow with their number."""

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
