"""Sampling positions: the types that the references and their kernels share."""

from typing import NamedTuple

import numpy as np

LARGEST_GRID = 1024  # most points per bin and axis of an adaptive grid, however large the box
SMALLEST_FRAME = 1e-6  # least width and height of a frame


class Grid(NamedTuple):
    """How the points of a box are placed; the fields are arguments of `roi_align`."""

    scales: tuple[tuple[float, float], ...]
    size: int
    sampling: int
    aligned: bool
    every: int = 1

    @property
    def bins(self) -> range:
        """The bins along an axis that are computed."""
        return range(0, self.size, self.every)


class Axis(NamedTuple):
    """For each new pixel along an axis, the two old pixels around its centre in order and the weight of the second."""

    low: np.ndarray  # intp [n]
    high: np.ndarray  # intp [n]
    share: np.ndarray  # float32 [n], 0..1
