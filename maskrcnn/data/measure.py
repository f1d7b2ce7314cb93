"""What is measured of an object's mask, in pixels, defined as scikit-image's `regionprops` defines it.

Everything is computed in the smallest window that holds the object.
"""

from typing import NamedTuple

import numpy as np

_ROOT = 2**0.5
# The length that a pixel of the border adds to the perimeter, by how many of the 4 pixels beside it and of the 4 at its
# corners are in the border, too (Benkrid and Crookes 2000).
_STEP = np.zeros((5, 5))
_STEP[[2, 3, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2]] = 1
_STEP[[0, 1], [2, 3]] = _ROOT
_STEP[[1, 1], [1, 2]] = (1 + _ROOT) / 2


class Measures(NamedTuple):
    """Positions count pixels from 0: the centre of the first pixel, which is 0.5 for boxes and outlines."""

    area: int  # pixels
    centroid: tuple[float, float]  # (x, y)
    perimeter: float  # of the line through the centres of the border's pixels, the border being 4-connected
    major_axis: float  # of the ellipse with the same second moments
    minor_axis: float
    solidity: float  # share of the convex hull that the object fills, 0..1
    intensities: tuple[float, ...] = ()  # mean of each channel


def measure(bitmap: np.ndarray, corner: tuple[int, int], pixels: np.ndarray | None = None) -> Measures:
    """The measures of an object.

    Args:
        bitmap: bool [h w], the object's window: its first and last row and column are not empty.
        corner: (row, column) of the window in the image.
        pixels: [h w C], the image in this window, for the intensities.
    """
    rows, columns = np.nonzero(bitmap)
    y, x = rows.mean(), columns.mean()
    intensities: tuple[float, ...] = ()
    if pixels is not None:
        intensities = tuple(pixels[bitmap].mean(axis=0, dtype=np.float64).tolist())
    return Measures(
        area=len(rows),
        centroid=(float(x) + corner[1], float(y) + corner[0]),
        perimeter=perimeter(bitmap),
        **dict(zip(("major_axis", "minor_axis"), _axes(rows - y, columns - x), strict=True)),
        solidity=len(rows) / hull_area(bitmap),
        intensities=intensities,
    )


def perimeter(bitmap: np.ndarray) -> float:
    """The length of the border of a bitmap, bool [h w]."""
    padded = np.pad(bitmap, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = np.pad(bitmap & ~inner, 1).astype(np.int8)
    beside = border[:-2, 1:-1] + border[2:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    at_corners = border[:-2, :-2] + border[:-2, 2:] + border[2:, :-2] + border[2:, 2:]
    on = border[1:-1, 1:-1] > 0
    return float(_STEP[beside[on], at_corners[on]].sum())


def hull_area(bitmap: np.ndarray) -> int:
    """How many pixel centres lie in the convex hull, or on it, of the middles of the sides of an object's pixels.

    bitmap: bool [h w] with an object in its first and last row. The arithmetic is exact: coordinates are doubled.
    """
    height, width = bitmap.shape
    filled = bitmap.any(axis=1)
    left = np.where(filled, 2 * bitmap.argmax(axis=1), 2 * width)
    right = np.where(filled, 2 * (width - 1 - bitmap[:, ::-1].argmax(axis=1)), -2)
    lows = np.full(2 * height + 1, 2 * width)  # at each height, from half a pixel above to half a pixel below
    highs = np.full(2 * height + 1, -2)
    lows[1::2], highs[1::2] = left - 1, right + 1
    for part in (slice(0, -2, 2), slice(2, None, 2)):
        lows[part], highs[part] = np.minimum(lows[part], left), np.maximum(highs[part], right)
    heights = np.arange(1, 2 * height, 2)
    first, last = _chain(lows, heights), -_chain(-highs, heights)
    return int((last - first + 1).clip(min=0).sum())


def _chain(lows: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The first whole pixel at each of `heights` that is not left of the convex hull of (lows[i], i), doubled."""
    hull: list[tuple[int, int]] = []
    for point in zip(lows.tolist(), range(len(lows)), strict=True):
        while len(hull) > 1 and _turns_in(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    x, y = np.array(hull).T
    part = np.searchsorted(y, heights, side="right") - 1
    run, rise = x[part + 1] - x[part], y[part + 1] - y[part]
    return -((x[part] * rise + run * (heights - y[part])) // (-2 * rise))  # rounded up


def _turns_in(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether b is not left of the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) >= (c[0] - a[0]) * (b[1] - a[1])


def _axes(y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """The longer and the shorter axis of the ellipse with the second moments of these points about their mean."""
    xx, yy, xy = (float(np.mean(product)) for product in (x * x, y * y, x * y))
    middle, spread = (xx + yy) / 2, (((xx - yy) / 2) ** 2 + xy**2) ** 0.5
    return 4 * (middle + spread) ** 0.5, 4 * max(middle - spread, 0.0) ** 0.5
