"""Objects as outlines with holes, which annotation tools draw, from and to the polygons and run lengths of a data set.

A ring is a closed outline, float64 [n 2], (x, y) in continuous pixels; its first point is not repeated. The rings of a
bitmap run along the edges of its pixels, so cocoapi's rule of drawing (`ops.coco_raster`) gives exactly the same pixels
again. Rings that overlap are filled by the even-odd rule: a ring inside another is a hole.
"""

from collections.abc import Sequence

import numpy as np

from ..ops.contour import Outline, signed_area
from .bitmaps import counts_of_window, draw_rings, draw_window, trimmed
from .dataset import Segmentation, Shape

_RIGHT, _DOWN, _LEFT, _UP = range(4)
_ENOUGH = 8  # points of a hole that tell in which ring it is
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


def shapes_of(segmentation: Segmentation, size: tuple[int, int]) -> list[Shape]:
    """The parts of an object: each polygon as it is; run lengths as the outlines of their pixels; none without a mask.

    `size` is the (height, width) of its image.
    """
    if segmentation is None:
        return []
    if isinstance(segmentation, list):
        return [Shape(polygon, []) for polygon in segmentation]
    bitmap, (row, column) = draw_window(segmentation, size)
    corner = np.array([column, row])
    return [Shape(shape.outer + corner, [h + corner for h in shape.holes]) for shape in shapes_of_bitmap(bitmap)]


def shapes_of_bitmap(bitmap: np.ndarray) -> list[Shape]:
    """The parts of a bitmap, bool [H W], that are connected over pixel sides; pixels that touch at a corner are two."""
    bits, (row, column) = trimmed(bitmap)
    if not bits.size:
        return []
    found = [ring + np.array([column, row]) for ring in _rings(bits)]
    outer = [ring for ring in found if signed_area(ring) > 0]
    return _grouped(outer, [(ring, _beside(ring)) for ring in found if signed_area(ring) < 0])


def shapes_of_outline(outline: Outline) -> list[Shape]:
    """The parts of a mask that `ops.contour.trace` outlined."""
    return _grouped(outline.outer, [(hole, hole[:: len(hole) // _ENOUGH + 1]) for hole in outline.holes])


def _grouped(outer: Sequence[np.ndarray], holes: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Shape]:
    """Each hole in the smallest outer ring around it. With each come points [k 2], of which most are in that ring:
    where an image ends, some may lie on it.
    """
    shapes = [Shape(ring, []) for ring in sorted(outer, key=signed_area)]
    low, high = (
        np.array([limit(shape.outer, axis=0) for shape in shapes]).reshape(-1, 2) for limit in (np.min, np.max)
    )
    for hole, points in holes:
        near = (low <= points.min(axis=0)).all(axis=1) & (high >= points.max(axis=0)).all(axis=1)
        around = (shapes[i] for i in np.flatnonzero(near) if enclosed(shapes[i].outer, points).mean() > 0.5)
        if (shape := next(around, None)) is not None:
            shape.holes.append(hole)
    return shapes


def _beside(hole: np.ndarray) -> np.ndarray:
    """The centre of a pixel of the object beside a hole in a bitmap, [1 2]."""
    heading = np.sign(hole[1] - hole[0])
    return (hole[0] + 0.5 * heading + 0.5 * np.array([-heading[1], heading[0]]))[None]


def segmentation_of_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels inside an odd number of rings, each drawn by cocoapi's rule, as run lengths of an image of `size`."""
    return counts_of_window(*draw_rings(rings, size, even_odd=True), size), size


def _rings(bitmap: np.ndarray) -> list[np.ndarray]:
    """The outlines of a bitmap, its pixels on their right: on the screen outer ones run clockwise."""
    padded = np.pad(bitmap, 1)
    above, left = padded[:-1, 1:-1], padded[1:-1, :-1]
    below, right = padded[1:, 1:-1], padded[1:-1, 1:]
    starts, headings = [], []
    for heading, where, shift in (
        (_RIGHT, ~above & below, (0, 0)),
        (_LEFT, above & ~below, (1, 0)),
        (_DOWN, left & ~right, (0, 0)),
        (_UP, ~left & right, (0, 1)),
    ):
        y, x = np.nonzero(where)
        starts.append(np.stack([x, y], axis=1) + shift)
        headings.append(np.full(len(x), heading))
    start, heading = np.concatenate(starts), np.concatenate(headings)
    key = (start[:, 1] * (padded.shape[1] + 1) + start[:, 0]) * 4 + heading
    order = np.argsort(key)
    start, heading, key = start[order], heading[order], key[order]
    end = start + _STEPS[heading]
    at = (end[:, 1] * (padded.shape[1] + 1) + end[:, 0]) * 4
    following = np.full(len(key), -1)
    for turn in (-1, 0, 1):  # a right turn is preferred: pixels that touch at a corner stay apart
        wanted = at + (heading + turn) % 4
        place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        following = np.where(key[place] == wanted, place, following)
    corner = np.zeros(len(key), dtype=bool)
    corner[following] = heading[following] != heading
    rings, points, successors, seen = [], start.tolist(), following.tolist(), bytearray(len(key))
    corners = corner.tolist()
    for first in range(len(key)):
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            if corners[edge]:
                ring.append(points[edge])
            edge = successors[edge]
        if ring:
            rings.append(np.array(ring, dtype=np.float64))
    return rings


def enclosed(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of the points [k 2], which lie on no edge, are inside the ring, bool [k]."""
    (x, y), (next_x, next_y) = ring.T[:, None], np.roll(ring, -1, axis=0).T[:, None]
    crosses = (y > points[:, 1:]) != (next_y > points[:, 1:])
    rise = np.where(next_y == y, 1.0, next_y - y)  # a level edge crosses nothing
    at = x + (points[:, 1:] - y) / rise * (next_x - x)
    return ((at > points[:, :1]) & crosses).sum(axis=1) % 2 == 1
