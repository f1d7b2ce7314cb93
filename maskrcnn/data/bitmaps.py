"""Masks in the form of other frameworks: bitmaps of whole pixels, resized to the canvas by the nearest pixel.

Only the window of a bitmap that holds the object is kept, with a border of one pixel unless the image ends there: so
RoIAlign of the window equals RoIAlign of the whole.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image

from ..ops.coco_raster import coco_raster, in_fifths
from .dataset import Segmentation


def draw_bitmap(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """An object in its image, bool [H W], (H, W) = `size`. Polygons follow cocoapi's rule; None draws nothing."""
    if segmentation is None:
        return np.zeros(size, dtype=bool)
    if isinstance(segmentation, tuple):
        runs, (height, width) = segmentation
        pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return pixels.reshape(width, height).T
    points, parts = pack_polygons([segmentation])[:2]
    one = np.array([[0, len(segmentation)]])
    return coco_raster(points, parts, one, np.zeros((1, 2)), np.ones((1, 2)), size)[0]


def draw_window(segmentation: Segmentation, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The smallest part of `draw_bitmap` that holds the object, bool [h w], and its (row, column) in the image.

    No array of the image's size is made. Nothing drawn gives [0 0] at (0, 0).
    """
    window = _runs_window(*segmentation) if isinstance(segmentation, tuple) else draw_rings(segmentation or [], size)
    return trimmed(*window)


def draw_rings(
    rings: Sequence[np.ndarray], size: tuple[int, int], *, even_odd: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels in outlines [m 2], each drawn by cocoapi's rule: their union, or those inside an odd number of them.

    As `draw_window`, but with a border around the object.
    """
    points, parts = pack_polygons([rings])[:2]
    if not len(points):
        return np.zeros((0, 0), dtype=bool), (0, 0)
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, size[::-1])
    width, height = (np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, low, size[::-1]) - low).tolist()
    points, origin, scale = in_fifths(points), low[None].astype(np.float64), np.ones((1, 2))  # rounded, then moved
    drawn = np.zeros((height, width), dtype=bool)
    for first, last in pairwise(range(len(rings) + 1)) if even_odd else [(0, len(rings))]:
        drawn ^= coco_raster(points, parts, np.array([[first, last]]), origin, scale, (height, width))[0]
    return drawn, (int(low[1]), int(low[0]))


def trimmed(bits: np.ndarray, corner: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a window at `corner`, (row, column), from its first to its last row and column with a pixel."""
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    if not len(rows):
        return bits[:0, :0], (0, 0)
    place = corner[0] + int(rows[0]), corner[1] + int(columns[0])
    return bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], place


def counts_of_window(bits: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The run lengths, uint32, of an image of `size` with `bits` at `corner`, (row, column), in it.

    No bitmap of the whole image is made.
    """
    steps = np.diff(np.pad(bits.T, ((0, 0), (1, 1))).astype(np.int8))  # down the columns
    (begin_column, begin), (end_column, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    begins, ends = ((corner[1] + x) * size[0] + corner[0] + y for x, y in ((begin_column, begin), (end_column, end)))
    apart = begins[1:] != ends[:-1]  # or a run goes on in the next column
    borders = np.stack([begins[np.append(True, apart)], ends[np.append(apart, True)]], axis=1) if len(begins) else ends
    return np.diff(np.concatenate([[0], borders.ravel(), [size[0] * size[1]]])).astype(np.uint32)


def _runs_window(counts: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    ends = np.cumsum(counts, dtype=np.int64)
    starts, stops = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return np.zeros((0, 0), dtype=bool), (0, 0)
    height = size[0]
    first, last = starts // height, (stops - 1) // height
    pieces = last - first + 1  # a run that reaches the bottom goes on in the next column
    run = np.repeat(np.arange(len(starts)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.where(column == first[run], starts[run] % height, 0)
    bottom = np.where(column == last[run], (stops[run] - 1) % height + 1, height)
    row, left = int(top.min()), int(column.min())
    edges = np.zeros((int(bottom.max()) - row + 1, int(column.max()) - left + 1), dtype=np.int8)
    np.add.at(edges, (top - row, column - left), 1)
    np.add.at(edges, (bottom - row, column - left), -1)
    return np.cumsum(edges[:-1], axis=0, dtype=np.int8) > 0, (row, left)


def pack_polygons(objects: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The polygons [m 2] of all objects end to end: float64 points [V 2], int64 offsets [P + 1] and spans [n 2]."""
    polygons = [polygon for polygons in objects for polygon in polygons]
    points = np.concatenate([np.zeros((0, 2)), *polygons])
    parts = np.cumsum([0, *(len(polygon) for polygon in polygons)], dtype=np.int64)
    ends = np.cumsum([len(polygons) for polygons in objects], dtype=np.int64)
    counts = np.array([len(polygons) for polygons in objects], dtype=np.int64)
    return points, parts, np.stack([ends - counts, ends], axis=1)


def nearest_pixels(before: int, after: int, *, centred: bool) -> np.ndarray:
    """Which of `before` pixels each of `after` pixels shows, int64 [after].

    It is the one under the new pixel's centre if `centred` (Pillow, with which Detectron2 resizes masks), else the one
    under its beginning (torch's "nearest", as torchvision). Both libraries are called, because each rounds differently.
    """
    if centred:
        row = Image.fromarray(np.arange(before, dtype=np.int32)[None])
        return np.asarray(row.resize((after, 1), Image.Resampling.NEAREST))[0].astype(np.int64)
    pixels = torch.arange(before, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(pixels, size=after, mode="nearest")[0, 0].numpy().astype(np.int64)


def windows(bitmaps: Sequence[np.ndarray], rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The windows of bitmaps [H W] on a canvas whose pixel (i, j) shows pixel (rows[i], columns[j]).

    Returns bool [n S S] and the windows' places on the canvas, float32 [n 4], xyxy. An object that is not visible has
    an empty window. S is the largest side, and at least 1.
    """
    spots = [_spot(np.asarray(bitmap.any(axis=1))[rows], np.asarray(bitmap.any(axis=0))[columns]) for bitmap in bitmaps]
    shown = [bitmap[np.ix_(rows[y], columns[x])] for bitmap, (y, x) in zip(bitmaps, spots, strict=True)]
    corners = np.array([(x.start, y.start) for y, x in spots], dtype=np.float32).reshape(-1, 2)
    side = max((max(part.shape) for part in shown), default=0)
    return grown(shown, side), np.concatenate([corners, corners + np.float32(max(side, 1))], axis=1)


def grown(bits: Sequence[np.ndarray] | np.ndarray, side: int) -> np.ndarray:
    """Masks [h w] as bool [n S S], S = max(`side`, 1). Last row and column repeat: empty, or where the image ends."""
    side = max(side, 1)
    square = np.zeros((len(bits), side, side), dtype=bool)
    for target, part in zip(square, bits, strict=True):
        if part.size:
            target[:] = np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1])), mode="edge")
    return square


def _spot(rows: np.ndarray, columns: np.ndarray) -> tuple[slice, slice]:
    """The used rows and columns, and one more on each side."""
    if not rows.any() or not columns.any():
        return slice(0, 0), slice(0, 0)
    y, x = np.flatnonzero(rows), np.flatnonzero(columns)
    return slice(max(int(y[0]) - 1, 0), int(y[-1]) + 2), slice(max(int(x[0]) - 1, 0), int(x[-1]) + 2)
