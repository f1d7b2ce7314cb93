"""Bilinear resizing of an image, given the rows and columns to interpolate between, without antialiasing."""

import numpy as np
import torch

from .dispatch import which
from .grids import Axis


def interpolate(
    array: np.ndarray, rows: Axis, columns: Axis, *, out: np.ndarray | None = None, impl: str | None = None
) -> np.ndarray:
    """float32 [h w C] from `array` [H W C], interpolated between rows first; written to `out` if given.

    All implementations round in the same order, so their results are bit-equal. They use one thread, because several
    threads read images. Raises ValueError if `out` has another shape or type.
    """
    shape = len(rows.low), len(columns.low), array.shape[2]
    if out is None:
        out = np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"interpolate: out is {out.dtype} {list(out.shape)}; it must be float32 {list(shape)}")
    if which("interpolate", torch.device("cpu"), impl) == "numba":
        from .kernels.interpolate_numba import interpolate_numba as run
    else:
        run = interpolate_reference
    run(array, rows, columns, out)
    return out


def interpolate_reference(array: np.ndarray, rows: Axis, columns: Axis, out: np.ndarray) -> None:
    """Defines `interpolate`. Rows are picked before they become float32: a photo may have many more than are needed."""
    first, second = (array.take(index, axis=0).astype(np.float32) for index in (rows.low, rows.high))
    between = _between(first, second, rows.share[:, None, None])
    out[...] = _between(between.take(columns.low, axis=1), between.take(columns.high, axis=1), columns.share[:, None])


def _between(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 - weight) * first + weight * second, computed in place."""
    second -= first
    second *= weight
    first += second
    return first
