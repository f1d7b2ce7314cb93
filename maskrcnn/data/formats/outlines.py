"""What annotation tools draw (ellipses, rotated boxes, several outlines that are one object) as masks, and back.

Annotation tools know outlines, not holes. Where several outlines are one object, as by LabelMe's groups, one that lies
inside another is a hole in it, one inside the hole is an island, and all others are united.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...ops.rle import counts_from_bitmap
from ..bitmaps import counts_of_window, draw_bitmap, draw_rings
from ..dataset import Record, Segmentation, Shape
from ..shapes import shapes_of, shapes_of_bitmap
from ..validate import FAR

_SAG = 0.05  # pixels between a circle and the polygon that stands for it
_MOST_PAIRS = 20_000  # of outlines that may lie inside each other: each is drawn


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> np.ndarray:
    """The outline of an ellipse around (x, y), turned clockwise on the screen by `angle` in radians, float64 [n 2]."""
    radius = min(max(abs(radius_x), abs(radius_y), _SAG), FAR)
    steps = 4 * math.ceil(min(max(math.pi / math.acos(1 - min(_SAG / radius, 1)), 12), 2000) / 4)
    turn = np.arange(steps) * (2 * math.pi / steps)
    same_area = math.sqrt(turn[1] / math.sin(turn[1]))  # as the ellipse; its corners are a little outside
    radius_x, radius_y = radius_x * same_area, radius_y * same_area
    return turned(np.stack([radius_x * np.cos(turn), radius_y * np.sin(turn)], axis=1), angle, x, y)


def rectangle(x: float, y: float, width: float, height: float, angle: float = 0.0) -> np.ndarray:
    """The outline of a rectangle, turned clockwise on the screen around its corner (x, y), float64 [4 2]."""
    return turned(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), angle, x, y)


def turned(points: np.ndarray, angle: float, x: float, y: float) -> np.ndarray:
    """The points turned around the origin, which then moves to (x, y)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]]) + np.array([x, y])


def stated_points(value: Any) -> np.ndarray | None:
    """A list of [x, y] as float64 [n 2]; None if it is none, or if a point is no number or far outside every image."""
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if not isinstance(value, list) or points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < FAR).all():
        return None
    return points


def segmentation(rings: Sequence[np.ndarray], size: tuple[int, int]) -> Segmentation:
    """The mask of an object that is drawn as these outlines, in an image of `size`, (height, width): polygons if none
    lies inside another, else run lengths. Raises `DataError` if there are too many.
    """
    if len(rings) > 1 and all(len(ring) > 2 and (np.abs(ring) < FAR).all() for ring in rings):
        depths = _depths(rings, size)
        if depths.any():
            return _composed(rings, depths, size)
    return list(rings)


def united(masks: Sequence[Segmentation], size: tuple[int, int]) -> Segmentation:
    """The mask of an object whose shapes have these masks, each with a pixel or more, in an image of `size`."""
    if len(masks) == 1:
        return masks[0]
    if all(isinstance(mask, list) for mask in masks):
        return [ring for mask in masks if isinstance(mask, list) for ring in mask]
    whole = np.zeros(size, dtype=bool)
    for mask in masks:
        whole |= draw_bitmap(mask, size)
    return counts_from_bitmap(whole), size


def shapes_of_object(record: Record, i: int) -> list[Shape]:
    """The parts of object i as a tool can hold them: none lies inside another. No part if there is no mask."""
    if record.shapes is not None and record.shapes[i]:
        return record.shapes[i]
    found = shapes_of(record.segmentations[i], record.size)
    rings = [shape.outer for shape in found]
    if isinstance(record.segmentations[i], list) and len(rings) > 1 and _depths(rings, record.size).any():
        return shapes_of_bitmap(draw_bitmap(record.segmentations[i], record.size))  # polygons are united, not cut out
    return found


def bitmap_of_shapes(shapes: Sequence[Shape], size: tuple[int, int]) -> np.ndarray:
    """The pixels of an object's parts, bool [H W], (H, W) = `size`."""
    drawn = np.zeros(size, dtype=bool)
    for shape in shapes:
        bits, (top, left) = draw_rings([shape.outer, *shape.holes], size, even_odd=True)
        drawn[top : top + bits.shape[0], left : left + bits.shape[1]] |= bits
    return drawn


def _depths(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """int64 [n]: inside how many of the others each outline lies with all of its pixels."""
    low, high = np.array([ring.min(axis=0) for ring in rings]), np.array([ring.max(axis=0) for ring in rings])
    inside = [
        np.flatnonzero((low >= low[i]).all(axis=1) & (high <= high[i]).all(axis=1) & (np.arange(len(rings)) != i))
        for i in range(len(rings))
    ]
    if sum(map(len, inside)) > _MOST_PAIRS:
        raise DataError(f"an object of {len(rings)} outlines that lie inside each other")
    depths = np.zeros(len(rings), dtype=np.int64)
    for outer, candidates in enumerate(inside):
        if len(candidates):
            around, (top, left) = draw_rings([rings[outer]], size)
        for inner in candidates.tolist():
            pixels, (y, x) = draw_rings([rings[inner]], size)
            behind = around[y - top : y - top + len(pixels), x - left : x - left + pixels.shape[1]]
            depths[inner] += bool(behind[pixels].all() and 0 < pixels.sum() < around.sum())
    return depths


def _composed(rings: Sequence[np.ndarray], depths: np.ndarray, size: tuple[int, int]) -> Segmentation:
    """Outlines of even depth are filled, those of odd depth are cut out, from the outermost to the innermost."""
    whole, (top, left) = draw_rings([np.concatenate(rings)], size)
    whole[:] = False
    for i in np.argsort(depths, kind="stable").tolist():
        pixels, (y, x) = draw_rings([rings[i]], size)
        window = whole[y - top : y - top + len(pixels), x - left : x - left + pixels.shape[1]]
        window[pixels] = depths[i] % 2 == 0
    return counts_of_window(whole, (top, left), size), size
