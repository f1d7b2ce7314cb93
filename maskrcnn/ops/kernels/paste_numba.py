"""`paste` on a CPU: one object per thread; only pixels that its box can reach are computed."""

import numba
import numpy as np
import torch
from torch import Tensor

from ..dispatch import torch_threads


@torch_threads()
def paste_numba(padded: Tensor, rows: Tensor, columns: Tensor, threshold: float | None, strict: bool) -> Tensor:
    """Computes `ops.paste.paste_reference`, rounding in the same order: the results are bit-equal."""
    (N, H), W = rows.shape, columns.shape[1]
    out = torch.zeros(N, H, W, dtype=torch.float32 if threshold is None else torch.bool)
    masks, downward, across = (t.detach().contiguous().numpy() for t in (padded, rows, columns))
    limit = None if threshold is None else np.float32(threshold)
    _paste(masks, downward, across, limit, strict, out.numpy())
    return out


@numba.njit(cache=True, nogil=True, parallel=True)
def _paste(masks, rows, columns, threshold, strict, out):  # noqa: ANN001, ANN202
    for n in numba.prange(len(masks)):
        top, bottom = reached(rows[n], masks.shape[1] - 1)
        left, right = reached(columns[n], masks.shape[1] - 1)
        across = _across(masks[n], columns[n, left:right])
        for y in range(top, bottom):
            low = min(int(rows[n, y]), masks.shape[1] - 2)
            share = rows[n, y] - np.float32(low)
            a, b, line = across[low], across[low + 1], out[n, y, left:right]
            if threshold is None:
                for x in range(len(line)):
                    line[x] = a[x] + share * (b[x] - a[x])
            elif strict:
                for x in range(len(line)):
                    line[x] = a[x] + share * (b[x] - a[x]) > threshold
            else:
                for x in range(len(line)):
                    line[x] = a[x] + share * (b[x] - a[x]) >= threshold


@numba.njit(cache=True, nogil=True)
def _across(mask, positions):  # noqa: ANN001, ANN202
    """Each row of the padded mask, interpolated at the columns' positions."""
    out = np.empty((len(mask), len(positions)), np.float32)
    for x in range(len(positions)):
        low = min(int(positions[x]), len(mask) - 2)
        share = positions[x] - np.float32(low)
        for k in range(len(mask)):
            out[k, x] = mask[k, low] + share * (mask[k, low + 1] - mask[k, low])
    return out


@numba.njit(cache=True, nogil=True)
def reached(positions, last):  # noqa: ANN001, ANN201
    """The pixels first..end - 1 whose positions lie inside the border; positions never decrease along the axis."""
    first, end = 0, len(positions)
    while first < end and positions[first] <= 0:
        first += 1
    while end > first and positions[end - 1] >= last:
        end -= 1
    return first, end
