"""Polygons rasterized as cocoapi does it, bit for bit. Detectron2's mask targets and COCO's bitmaps are made this way.

cocoapi (`rleFrPoly` in maskApi.c) rounds the corners to fifths of a pixel and walks along every edge in steps of a
fifth. Each time the walk enters the middle fifth of a pixel column, all pixels from there on, down the columns, are
flipped. The result differs slightly from "the centre lies inside", the rule of `ops.rasterize`.
"""

import numpy as np
import torch

from .dispatch import which

_FINE = 5.0  # steps per pixel


def coco_raster(
    points: np.ndarray,
    parts: np.ndarray,
    spans: np.ndarray,
    origins: np.ndarray,
    scales: np.ndarray,
    size: tuple[int, int],
    *,
    impl: str | None = None,
) -> np.ndarray:
    """The union of the polygons of each of N objects, bool [N H W], (H, W) = `size`. Each object has its own grid.

    points: float64 [V 2], (x, y), all polygons concatenated. parts: int64 [P + 1], polygon p has the points
    parts[p]:parts[p + 1]. spans: int64 [N 2], object n has the polygons spans[n, 0]:spans[n, 1]. origins, scales:
    float64 [N 2], (x, y): (point - origin) * scale is the point's position in the object's grid, in cells.
    """
    if which("coco_raster", torch.device("cpu"), impl) == "numba":
        from .kernels.coco_raster_numba import coco_raster_numba as run
    else:
        run = coco_raster_reference
    arrays = [np.ascontiguousarray(array, dtype=np.float64) for array in (points, origins, scales)]
    parts, spans = (np.ascontiguousarray(array, dtype=np.int64) for array in (parts, spans))
    return run(arrays[0], parts, spans, arrays[1], arrays[2], size[0], size[1])


def in_fifths(points: np.ndarray) -> np.ndarray:
    """`points`, float64 [n 2] in pixels, where cocoapi rounds them to. They may then be moved by whole pixels: a corner
    such as 3.3, which lies between two fifths, would be rounded otherwise after its move.
    """
    fifths = np.trunc(_FINE * points + 0.5)
    return np.where(fifths < 0, fifths - 1, fifths) / _FINE  # the next rounding, too, is towards zero


def coco_raster_reference(
    points: np.ndarray,
    parts: np.ndarray,
    spans: np.ndarray,
    origins: np.ndarray,
    scales: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    """Defines `coco_raster`: one polygon at a time, its whole walk at once."""
    masks = np.zeros((len(spans), height, width), dtype=bool)
    for n, (first, last) in enumerate(spans):
        for p in range(first, last):
            corners = (points[parts[p] : parts[p + 1]] - origins[n]) * scales[n]
            masks[n] |= _drawn(np.trunc(_FINE * corners + 0.5), height, width)
    return masks


def _drawn(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of one polygon; its corners [n 2] are in whole fifths."""
    edges = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    walk = np.concatenate([_walk(*start, *end) for start, end in edges] or [np.zeros((0, 2))])
    (x, y), (next_x, next_y) = walk[:-1].T, walk[1:].T
    columns = (np.minimum(x, next_x) + 0.5) / _FINE - 0.5
    rows = np.ceil(((np.minimum(y, next_y) + 0.5) / _FINE - 0.5).clip(0, height))
    crosses = (x != next_x) & (columns == np.floor(columns)) & (columns >= 0) & (columns <= width - 1)
    at = (columns * height + rows)[crosses].astype(np.int64)
    flips = np.bincount(at, minlength=height * width + 1)[: height * width]
    return (np.cumsum(flips) % 2 == 1).reshape(width, height).T


def _walk(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Every step along an edge, [n 2] in whole fifths; computed from the lower end, as in cocoapi."""
    dx, dy = abs(x2 - x1), abs(y2 - y1)
    steps = max(dx, dy)
    if steps == 0:  # a repeated corner; the neighbouring edges contain it
        return np.zeros((0, 2))
    back = x1 > x2 if dx >= dy else y1 > y2
    if back:
        x1, y1, x2, y2 = x2, y2, x1, y1
    t = np.arange(steps + 1)
    if dx >= dy:
        path = np.stack([x1 + t, np.trunc(y1 + (y2 - y1) / dx * t + 0.5)], axis=1)
    else:
        path = np.stack([np.trunc(x1 + (x2 - x1) / dy * t + 0.5), y1 + t], axis=1)
    return path[::-1] if back else path
