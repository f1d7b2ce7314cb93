"""From pixels of any type to 0..255: what is deeper than 8 bits is scaled by its 0.1 and 99.9 percentiles.

Percentiles, not extremes: one hot pixel of a camera must not make an image black. Cameras store 12 bits in 16, programs
8 bits in 16 and any range in floats, so the type says nothing about the range, and the same rule serves them all.
Values of 8 bits are never changed.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ..errors import DataError

LOW, HIGH = 0.001, 0.999  # the shares of pixels that are black, and not white
_LEAST_SPAN = 1e-35  # between black and white

Ranges: TypeAlias = Sequence[tuple[float, float]]  # what becomes 0 and 255, for each channel


def is_deep(dtype: np.dtype) -> bool:
    """Whether pixels of this type are scaled."""
    return dtype not in (np.uint8, np.bool_)


def check_type(dtype: np.dtype, name: str) -> None:
    """Raises `DataError` for pixels that are not numbers."""
    if dtype.kind not in "iufb":
        raise DataError(f"{name}: pixels of type {dtype} are not supported; expected integers, floats or bits")


def measure_ranges(pixels: np.ndarray) -> list[tuple[float, float]]:
    """The (0.1, 99.9) percentiles of each channel of [... C], of what is finite; low < high."""
    return [_range(np.ravel(pixels[..., channel])) for channel in range(pixels.shape[-1])]


def _range(values: np.ndarray) -> tuple[float, float]:
    """Values, not means between two of them, and those of any two pixels differ: of few pixels one may be hot."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    last = values.size - 1
    first, final = int(np.ceil(LOW * last)), int(HIGH * last)
    if final <= first:
        first, final = 0, last
    low, high = _at(values, first, final)
    if low == high:  # nearly all pixels are equal: the others are what there is to see
        low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > _LEAST_SPAN else (low, low + max(1.0, abs(low)))


def _at(values: np.ndarray, first: int, final: int) -> tuple[float, float]:
    """The values at two places of their order."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        lowest = int(values.min())
        counts = np.cumsum(np.bincount(values.astype(np.int64) - lowest))
        low, high = np.searchsorted(counts, [first, final], side="right") + lowest
        return float(low), float(high)
    low, high = np.partition(values, [first, final])[[first, final]]
    return float(low), float(high)


def to_uint8(pixels: np.ndarray, ranges: Ranges) -> np.ndarray:
    """uint8 [H W C] of deep pixels [H W C]: each channel's low becomes 0, its high 255. What is no number becomes 0."""
    if len(set(ranges)) == 1:
        return _scaled(pixels, *ranges[0])
    scaled = np.empty(pixels.shape, np.uint8)
    for channel, (low, high) in enumerate(ranges):
        scaled[..., channel] = _scaled(pixels[..., channel], low, high)
    return scaled


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and values.size > 2**16:
        kind = np.iinfo(values.dtype)  # a table of every value, in the order of unsigned numbers
        every = np.arange(kind.max + 1), np.arange(kind.min, 0)
        table = _linear(np.concatenate(every).astype(np.float32), low, high)
        return table[values.view(f"u{values.dtype.itemsize}")]
    return _linear(values.astype(np.result_type(values.dtype, np.float32)), low, high)


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values`, which are overwritten, halved: the difference of two floats may overflow."""
    values = np.clip(np.nan_to_num(values, copy=False, nan=low), low, high)
    return np.rint((values / 2 - low / 2) * (255 / (high / 2 - low / 2))).astype(np.uint8)
