"""Objects as rings, for formats that hold one outline an object."""

import numpy as np

from ...ops.contour import signed_area
from ..bitmaps import draw_rings, draw_window
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


def _are_inside(rings: list[np.ndarray], size: tuple[int, int]) -> bool:
    corners = np.concatenate(rings)
    return bool((corners >= 0).all() and (corners <= size[::-1]).all())


def _are_apart(polygons: list[np.ndarray], size: tuple[int, int]) -> bool:
    """Whether no pixel belongs to two of the polygons, so that their union is their even-odd sum."""
    return np.array_equal(draw_rings(polygons, size)[0], draw_rings(polygons, size, even_odd=True)[0])


def _turned(outer: np.ndarray, holes: list[np.ndarray]) -> list[np.ndarray]:
    return [outer if signed_area(outer) >= 0 else outer[::-1], *(h if signed_area(h) <= 0 else h[::-1] for h in holes)]
