"""Objects as rings, for formats that hold one outline an object, and windows of bitmaps as run lengths."""

from typing import Any

import numpy as np

from ...ops.coco_raster import coco_raster, in_fifths
from ...ops.contour import signed_area
from ..bitmaps import draw_window
from ..dataset import Record
from ..shapes import shapes_of_bitmap


def rings_of(record: Record, i: int) -> list[np.ndarray]:
    """The outlines of object i, float64 [n 2], which filled by the even-odd rule are its mask; none without a mask.

    Outer ones run clockwise on the screen, holes counterclockwise. A polygon that lies in the image stays as it is, and
    so do the sub-pixel outlines of predictions. Polygons that overlap or leave the image become outlines of pixels.
    """
    segmentation, size = record.segmentations[i], record.size
    if record.shapes is not None and record.shapes[i]:
        rings = [ring for shape in record.shapes[i] for ring in (shape.outer, *shape.holes)]
        if _are_inside(rings, size):
            return [ring for shape in record.shapes[i] for ring in _turned(shape.outer, shape.holes)]
    if segmentation is None:
        return []
    if isinstance(segmentation, list) and _are_inside(segmentation, size):
        if len(segmentation) == 1 or _are_apart(segmentation, size):
            return [ring for polygon in segmentation for ring in _turned(polygon, [])]
    bits, (top, left) = draw_window(segmentation, size)
    corner = np.array([left, top])
    return [ring + corner for shape in shapes_of_bitmap(bits) for ring in (shape.outer, *shape.holes)]


def window_of(rings: list[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The smallest part of an image that holds the pixels inside an odd number of rings, bool [h w], and its (row,
    column). Nothing drawn gives [0 0] at (0, 0). No bitmap of the whole image is made.
    """
    corners = np.concatenate(rings)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, size[::-1])
    width, height = (np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low, size[::-1]) - low).tolist()
    bits, origin, scale = np.zeros((height, width), dtype=bool), low[None].astype(np.float64), np.ones((1, 2))
    for ring in rings:
        bits ^= coco_raster(in_fifths(ring), np.array([0, len(ring)]), np.array([[0, 1]]), origin, scale, bits.shape)[0]
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    if not len(rows):
        return np.zeros((0, 0), dtype=bool), (0, 0)
    tight = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return tight, (int(low[1] + rows[0]), int(low[0] + columns[0]))


def one_ring(rings: list[np.ndarray]) -> np.ndarray:
    """One ring that is the same by the even-odd rule: each ring is joined to those before by a line between their
    nearest corners, there and back.
    """
    joined, *rest = rings
    for ring in rest:
        best, place = np.inf, (0, 0)
        for j, corner in enumerate(ring):
            distances = ((joined - corner) ** 2).sum(axis=1)
            i = int(distances.argmin())
            if distances[i] < best:
                best, place = distances[i], (i, j)
        i, j = place
        joined = np.concatenate([joined[: i + 1], ring[j:], ring[: j + 1], joined[i:]])
    return joined


def rle_of_window(bits: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """A bitmap, bool [h w], at a place in an image of `size`, as the run lengths that a `DatasetBuilder` takes.

    No bitmap of the whole image is made.
    """
    steps = np.diff(np.pad(bits.T, ((0, 0), (1, 1))).astype(np.int8))  # down the columns
    (begin_column, begin), (end_column, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    begins, ends = (begin_column + left) * size[0] + begin + top, (end_column + left) * size[0] + end + top
    apart = begins[1:] != ends[:-1]  # or a run goes on in the next column
    borders = np.stack([begins[np.append(True, apart)], ends[np.append(apart, True)]], axis=1) if len(begins) else ends
    counts = np.diff(np.concatenate([[0], borders.ravel(), [size[0] * size[1]]]))
    return {"size": list(size), "counts": counts.tolist()}


def _are_inside(rings: list[np.ndarray], size: tuple[int, int]) -> bool:
    corners = np.concatenate(rings)
    return bool((corners >= 0).all() and (corners <= size[::-1]).all())


def _are_apart(polygons: list[np.ndarray], size: tuple[int, int]) -> bool:
    """Whether no pixel belongs to two of the polygons, so that their union is their even-odd sum."""
    even_odd, united = window_of(polygons, size), draw_window(polygons, size)
    return even_odd[1] == united[1] and np.array_equal(even_odd[0], united[0])


def _turned(outer: np.ndarray, holes: list[np.ndarray]) -> list[np.ndarray]:
    return [outer if signed_area(outer) >= 0 else outer[::-1], *(h if signed_area(h) <= 0 else h[::-1] for h in holes)]
