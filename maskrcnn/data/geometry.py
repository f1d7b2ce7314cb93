"""Boxes and areas of run lengths and polygons, of all objects at once. No mask is drawn."""

import numpy as np


def rle_measures(
    counts: np.ndarray,  # int64, of all objects
    spans: np.ndarray,  # int64 [n 2], the range of each
    sizes: np.ndarray,  # int64 [n 2], (height, width)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [n], whether no count is negative and they add up to height * width; float64 [n 4], tight xyxy boxes;
    float64 [n], areas.
    """
    n = len(spans)
    lengths = spans[:, 1] - spans[:, 0]
    owner = np.repeat(np.arange(n), lengths)
    begins = np.cumsum(lengths) - lengths
    place = np.arange(len(owner)) - begins[owner]
    runs = counts[spans[owner, 0] + place]
    pixels = sizes[:, 0] * sizes[:, 1]
    fits = lengths > 0
    fits[owner[(runs < 0) | (runs > pixels[owner])]] = False  # from here on no sum can overflow
    runs = np.where(fits[owner], runs, 0)
    ends = np.cumsum(runs)
    ends -= (ends - runs)[begins[owner]]  # from the first pixel of the object's own mask
    fits &= np.bincount(owner, weights=runs, minlength=n) == pixels
    front = (place % 2 == 1) & (runs > 0) & fits[owner]
    owner, first, last = owner[front], (ends - runs)[front], ends[front] - 1
    height = np.maximum(sizes[owner, 0], 1)
    left, right = first // height, last // height
    spread = right > left  # the run reaches the bottom of one column and the top of the next
    top, bottom = np.where(spread, 0, first % height), np.where(spread, height - 1, last % height)
    boxes, areas = np.full((n, 4), np.nan), np.zeros(n)
    if len(owner):
        begin = np.flatnonzero(np.diff(owner, prepend=-1))
        objects = owner[begin]
        boxes[objects, :2] = np.stack([np.minimum.reduceat(v, begin) for v in (left, top)], axis=1)
        boxes[objects, 2:] = np.stack([np.maximum.reduceat(v, begin) + 1 for v in (right, bottom)], axis=1)
        areas[objects] = np.add.reduceat(last - first + 1, begin)
    return fits, boxes, areas


def polygon_measures(
    points: np.ndarray,  # float64 [points 2]
    offsets: np.ndarray,  # int64 [parts + 1]
    far: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [parts], whether all values are finite and within +-far; float64 [parts 4], xyxy boxes; float64 [parts],
    areas.

    The area is the shoelace formula's. It is 0 only if all points lie on one line: the halves of a bow tie do not
    cancel.
    """
    first, lengths = offsets[:-1], np.diff(offsets)
    if not len(first):
        return np.zeros(0, bool), np.zeros((0, 4)), np.zeros(0)
    near = np.abs(points) < far
    finite = np.logical_and.reduceat(near[:, 0] & near[:, 1], first)
    x, y = points.T if finite.all() else np.where(np.repeat(finite, lengths), points.T, 0)
    low, high = [np.minimum.reduceat(v, first) for v in (x, y)], [np.maximum.reduceat(v, first) for v in (x, y)]
    # From the first point of each polygon: small numbers, so nothing cancels far from the origin.
    x, y = x - np.repeat(x[first], lengths), y - np.repeat(y[first], lengths)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    next_x[offsets[1:] - 1], next_y[offsets[1:] - 1] = x[first], y[first]
    cross = x * next_y - next_x * y
    shoelace = np.abs(np.add.reduceat(cross, first)) / 2
    unsigned = np.add.reduceat(np.abs(cross), first) / 2
    flat = (unsigned <= 1e-9) | (high[0] <= low[0]) | (high[1] <= low[1])
    return finite, np.stack([*low, *high], axis=1), np.where(flat, 0, np.maximum(shoelace, 1e-9))
