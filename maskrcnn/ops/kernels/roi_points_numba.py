"""`roi_points` on a CPU, the maximum or mean of the points of each bin, forward and backward.

In the backward pass each thread owns some channels and takes the boxes in order: there are no races, and the sum is the
same for any number of threads.
"""

# ruff: noqa: ANN001, ANN202 (Numba infers the types of its kernels)

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import torch_threads


class PoolPointsNumba(torch.autograd.Function):
    """Computes `ops.roi_points.PoolPoints`, for float32."""

    @staticmethod
    @torch_threads()
    def forward(ctx: Any, pixels: Tensor, first: Tensor, row: Tensor, aggregate: str, *points: Tensor | None) -> Tensor:
        axes = (*_filled(*points[:4]), *_filled(*points[4:]))  # type: ignore[arg-type]
        N, S = axes[0].shape[:2]
        out = pixels.new_zeros(N, S, S, pixels.shape[1])
        won = torch.empty(out.shape if aggregate == "max" else (0, 0, 0, 0), dtype=torch.int32)
        bins = _Bins(*(t.numpy() for t in (first, row, *axes)))
        _forward(pixels.detach().contiguous().numpy(), bins, out.numpy(), won.numpy())
        ctx.save_for_backward(first, row, *axes, won)
        ctx.shape = pixels.shape
        return out

    @staticmethod
    @once_differentiable
    @torch_threads()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *bins, won = (t.numpy() for t in ctx.saved_tensors)
        pixels = grad.new_zeros(ctx.shape)
        _backward(grad.contiguous().numpy(), _Bins(*bins), won, pixels.numpy(), numba.get_num_threads())
        return pixels, *[None] * 11


class _Bins(NamedTuple):
    """The first pixel and row length of each box's map [N], and the points of each bin along both axes [N S n]."""

    first: np.ndarray
    row: np.ndarray
    low_y: np.ndarray
    high_y: np.ndarray
    share_y: np.ndarray
    real_y: np.ndarray
    low_x: np.ndarray
    high_x: np.ndarray
    share_x: np.ndarray
    real_x: np.ndarray


def _filled(low: Tensor, high: Tensor | None, share: Tensor | None, real: Tensor) -> tuple[Tensor, ...]:
    """Without `share`, a second pixel with weight 0."""
    share = torch.zeros(low.shape) if share is None else share
    return tuple(t.contiguous() for t in (low, low if high is None else high, share, real))


@numba.njit(inline="always")
def _corner(bins, n, p, q, i, j, corner):
    """One of the four pixels around point i, j of bin p, q, and its weight."""
    share_y, share_x = bins.share_y[n, p, i], bins.share_x[n, q, j]
    y, weight_y = (bins.high_y[n, p, i], share_y) if corner >= 2 else (bins.low_y[n, p, i], np.float32(1) - share_y)
    x, weight_x = (bins.high_x[n, q, j], share_x) if corner % 2 else (bins.low_x[n, q, j], np.float32(1) - share_x)
    return bins.first[n] + y * bins.row[n] + x, weight_y * weight_x


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(pixels, bins, out, won):
    N, S, _, C = out.shape
    is_max, across = won.size > 0, bins.real_x.shape[2]
    for n in numba.prange(N):
        value = np.empty(C, np.float32)
        for p in range(S):
            for q in range(S):
                best, count = out[n, p, q], 0
                for point in range(bins.real_y.shape[2] * across):
                    i, j = point // across, point % across
                    if not (bins.real_y[n, p, i] and bins.real_x[n, q, j]):
                        continue
                    value[:] = 0
                    for corner in range(4):
                        at, weight = _corner(bins, n, p, q, i, j, corner)
                        if weight != 0:
                            for c in range(C):
                                value[c] += weight * pixels[at, c]
                    if is_max:
                        winner = won[n, p, q]
                        for c in range(C):
                            better = count == 0 or value[c] > best[c]
                            best[c] = value[c] if better else best[c]
                            winner[c] = np.int32(point) if better else winner[c]
                    else:
                        best += value
                    count += 1
                if is_max and count == 0:
                    won[n, p, q] = -1
                elif not is_max and count > 1:
                    best /= np.float32(count)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward(grad, bins, won, out, parts):
    N, S, _, C = grad.shape
    for part in numba.prange(parts):
        start, end = C * part // parts, C * (part + 1) // parts
        for n in range(N):
            for p in range(S):
                for q in range(S):
                    if won.size > 0:
                        _to_winners(grad, bins, won, out, (n, p, q), start, end)
                    else:
                        _to_all(grad, bins, out, (n, p, q), start, end)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _to_winners(grad, bins, won, out, bin, start, end):
    """Adds each channel's gradient to the point that won in this channel."""
    n, p, q = bin
    across = bins.real_x.shape[2]
    for c in range(start, end):
        point = won[n, p, q, c]
        if point < 0:
            continue
        for corner in range(4):
            at, weight = _corner(bins, n, p, q, point // across, point % across, corner)
            if weight != 0:
                out[at, c] += weight * grad[n, p, q, c]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _to_all(grad, bins, out, bin, start, end):
    n, p, q = bin
    count = np.float32(bins.real_y[n, p].sum() * bins.real_x[n, q].sum())
    for i in range(bins.real_y.shape[2]):
        for j in range(bins.real_x.shape[2]):
            if bins.real_y[n, p, i] and bins.real_x[n, q, j]:
                for corner in range(4):
                    at, weight = _corner(bins, n, p, q, i, j, corner)
                    weight /= count
                    if weight != 0:
                        for c in range(start, end):
                            out[at, c] += weight * grad[n, p, q, c]
