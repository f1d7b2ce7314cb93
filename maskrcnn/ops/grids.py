"""Where operators sample, in words that a reference and its kernels share."""

from typing import NamedTuple

import numpy as np

LARGEST_GRID = 1024  # points per bin and axis that an adaptive grid has at most, whatever the box
SMALLEST_FRAME = 1e-6  # extent of a frame


class Grid(NamedTuple):
    """Where the points of a box lie, in words of `roi_align`."""

    scales: tuple[tuple[float, float], ...]
    size: int
    sampling: int
    aligned: bool
    max_sampling: int | None
    every: int = 1

    @property
    def bins(self) -> range:
        """Those that are computed, of an axis."""
        return range(0, self.size, self.every)


class Axis(NamedTuple):
    """For each new pixel of an axis the two old ones around its centre, ascending, and the weight of the second."""

    low: np.ndarray  # intp [n]
    high: np.ndarray  # intp [n]
    share: np.ndarray  # float32 [n], 0..1
