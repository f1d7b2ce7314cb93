"""`interpolate` on a CPU: row by row, so that the interpolated row stays in the cache."""

import numba
import numpy as np

from ..grids import Axis


def interpolate_numba(array: np.ndarray, rows: Axis, columns: Axis, out: np.ndarray) -> None:
    """Computes `ops.interpolate.interpolate_reference`, rounding in the same order."""
    _interpolate(array, *rows, *columns, out)


@numba.njit(cache=True, nogil=True)
def _interpolate(array, top, bottom, down, left, right, across, out):  # noqa: ANN001, ANN202
    C = array.shape[2]
    line = np.empty((array.shape[1], C), np.float32)
    first, last = (left[0], right[-1] + 1) if len(left) else (0, 0)
    for y in range(len(top)):
        upper, lower, share = array[top[y]], array[bottom[y]], down[y]
        for x in range(first, last):
            for c in range(C):
                start = np.float32(upper[x, c])
                line[x, c] = start + (np.float32(lower[x, c]) - start) * share
        for x in range(len(left)):
            share = across[x]
            for c in range(C):
                start = line[left[x], c]
                out[y, x, c] = start + (line[right[x], c] - start) * share
