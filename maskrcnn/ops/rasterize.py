"""Polygons and RLEs of annotations as small masks inside a frame.

A frame (x1, y1, x2, y2), in image pixels, is divided into S x S cells; a cell is set if its centre lies in the object.
A mirrored frame (x1 > x2 or y1 > y2) gives the mirrored mask, a frame without area an empty one.
The inputs are ragged and on the host, so the reference uses NumPy. The kernels run in the loader's workers, so they are
serial and release the interpreter's lock.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from .dispatch import which

Frame = Sequence[float] | np.ndarray  # x1, y1, x2, y2

_FARTHEST = 1e12  # pixels; beyond any image, and small enough that nothing overflows


def rasterize_polygons(
    polygons: Sequence[np.ndarray], frame: Frame, size: int, *, impl: str | None = None
) -> np.ndarray:
    """The union of closed polygons, bool [S S] with S = `size`.

    Each polygon is float64 [n 2], (x, y) in image pixels. It need not repeat its first point and may cross itself: a
    centre with a winding number other than 0 is inside. A centre on a left or upper edge is inside, on a right or lower
    edge outside, so neighbours that share an edge share no cell. Raises ValueError for coordinates that are not finite
    or beyond 1e12.
    """
    frame = _checked_frame(frame)
    points = np.concatenate([_checked_outline(outline) for outline in polygons] or [np.zeros((0, 2))])
    offsets = np.cumsum([0] + [len(outline) for outline in polygons])
    if which("rasterize", torch.device("cpu"), impl) == "numba":
        from .kernels.rasterize_numba import rasterize_polygons_numba as run
    else:
        run = rasterize_polygons_reference
    return run(points, offsets, frame, size)


def rasterize_polygons_reference(points: np.ndarray, offsets: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """Defines `rasterize_polygons`: the winding number of every centre, one edge at a time."""
    mask = np.zeros((size, size), dtype=bool)
    x1, y1, x2, y2 = frame
    if x1 == x2 or y1 == y2:
        return mask
    centres_x = x1 + (np.arange(size) + 0.5) * ((x2 - x1) / size)
    centres_y = y1 + (np.arange(size) + 0.5) * ((y2 - y1) / size)
    for first, last in pairwise(offsets):
        winding = np.zeros((size, size), dtype=np.int64)
        for i in range(first, last):
            (ax, ay), (bx, by) = points[i - 1 if i > first else last - 1], points[i]
            if ay == by:
                continue
            rows = (centres_y >= min(ay, by)) & (centres_y < max(ay, by))
            crossing = ax + (centres_y[rows] - ay) / (by - ay) * (bx - ax)
            winding[rows] += np.where(centres_x[None] >= crossing[:, None], 1 if by > ay else -1, 0)
        mask |= winding != 0
    return mask


def rasterize_rle(
    counts: np.ndarray, image_size: tuple[int, int], frame: Frame, size: int, *, impl: str | None = None
) -> np.ndarray:
    """The value of a COCO RLE at the centre of each cell, bool [S S] with S = `size`; False outside the image.

    `counts` are run lengths, background first, down the columns of an image of `image_size` (height, width). The bitmap
    itself is never made. The caller has checked `counts`; pixels after the last run are background.
    """
    frame = _checked_frame(frame)
    ends = np.cumsum(counts, dtype=np.int64)
    if which("rasterize", torch.device("cpu"), impl) == "numba":
        from .kernels.rasterize_numba import rasterize_rle_numba as run
    else:
        run = rasterize_rle_reference
    return run(ends, image_size[0], image_size[1], frame, size)


def rasterize_rle_reference(ends: np.ndarray, height: int, width: int, frame: np.ndarray, size: int) -> np.ndarray:
    """Defines `rasterize_rle`; `ends` are the ends of the runs."""
    x1, y1, x2, y2 = frame
    if x1 == x2 or y1 == y2:
        return np.zeros((size, size), dtype=bool)
    x = np.floor(x1 + (np.arange(size) + 0.5) * ((x2 - x1) / size))[None, :]
    y = np.floor(y1 + (np.arange(size) + 0.5) * ((y2 - y1) / size))[:, None]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = np.where(inside, x * height + y, 0).astype(np.int64)
    runs = np.searchsorted(ends, pixels, side="right")
    return inside & (runs % 2 == 1) & (runs < len(ends))


def polygon_box(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """The tight box around polygons, float64 [4], xyxy; zeros if there are no points."""
    outlines = [outline for outline in polygons if len(outline)]
    if not outlines:
        return np.zeros(4)
    points = np.concatenate(outlines, dtype=np.float64)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def rle_box(counts: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The tight box around the set pixels of an RLE, float64 [4], xyxy; zeros if no pixel is set."""
    height = image_size[0]
    ends = np.cumsum(counts, dtype=np.int64)
    starts = ends - np.asarray(counts, dtype=np.int64)
    real = (np.arange(len(ends)) % 2 == 1) & (ends > starts)
    if not real.any():
        return np.zeros(4)
    (first_x, first_y), (last_x, last_y) = np.divmod(starts[real], height), np.divmod(ends[real] - 1, height)
    whole = bool((first_x != last_x).any())  # a run that continues in the next column touches both edges
    top, bottom = (0, height) if whole else (int(first_y.min()), int(last_y.max()) + 1)
    return np.array([first_x.min(), top, last_x.max() + 1, bottom], dtype=np.float64)


def _checked_frame(frame: Frame) -> np.ndarray:
    frame = np.asarray(frame, dtype=np.float64)
    if frame.shape != (4,) or not (np.abs(frame) <= _FARTHEST).all():
        raise ValueError(f"a frame must be four finite numbers x1, y1, x2, y2, not {frame.tolist()}")
    return frame


def _checked_outline(outline: np.ndarray) -> np.ndarray:
    outline = np.asarray(outline, dtype=np.float64)
    if outline.ndim != 2 or outline.shape[1] != 2:
        raise ValueError(f"an outline must be points (x, y), an array [n 2], not one of shape {list(outline.shape)}")
    if not (np.abs(outline) <= _FARTHEST).all():
        raise ValueError(f"an outline has a coordinate that is not finite or beyond {_FARTHEST:g} pixels")
    return outline
