"""Which boxes of two sets overlap, found with a grid: time in proportion to the boxes and to the pairs in its cells."""

import numpy as np


def overlapping(
    a: np.ndarray, b: np.ndarray, groups_a: np.ndarray | None = None, groups_b: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The indices (left, right), int64 [P] each, of all pairs of boxes [n 4], xyxy, that share more than a border.

    Only boxes of the same group (int [n], 0 or more) are paired, such as those of one image. Pairs are sorted.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.concatenate([a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]])
    if not len(a) or not len(b):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cell = max(float(np.sqrt((sides**2).sum(axis=1).mean())), 1.0)  # so a box lies in a few cells on average
    origin = np.minimum(a[:, :2].min(axis=0), b[:, :2].min(axis=0))
    own_a, at_a = _cells(a - np.tile(origin, 2), cell)
    own_b, at_b = _cells(b - np.tile(origin, 2), cell)
    width, height = np.maximum(at_a.max(axis=0, initial=0), at_b.max(axis=0, initial=0)) + 1
    key_a, key_b = at_a[:, 1] * width + at_a[:, 0], at_b[:, 1] * width + at_b[:, 0]
    if groups_a is not None and groups_b is not None:
        key_a, key_b = key_a + groups_a[own_a] * width * height, key_b + groups_b[own_b] * width * height
    order = np.argsort(key_b, kind="stable")
    key_b = key_b[order]
    first, last = np.searchsorted(key_b, key_a, side="left"), np.searchsorted(key_b, key_a, side="right")
    found = last - first
    entry = np.repeat(np.arange(len(key_a)), found)
    other = order[np.arange(len(entry)) + np.repeat(first - (np.cumsum(found) - found), found)]
    left, right = own_a[entry], own_b[other]
    low, high = np.maximum(a[left, :2], b[right, :2]), np.minimum(a[left, 2:], b[right, 2:])
    # A pair that shares several cells counts in the one that holds the corner of what it shares.
    once = (at_a[entry] == np.floor((low - origin) / cell)).all(axis=1)
    kept = (low < high).all(axis=1) & once
    left, right = left[kept], right[kept]
    order = np.lexsort((right, left))
    return left[order], right[order]


def _cells(boxes: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """The cells that boxes touch: the box of each, int64 [m], and the cell's (x, y), int64 [m 2]."""
    low, high = (np.floor(corner / cell).astype(np.int64) for corner in (boxes[:, :2], boxes[:, 2:]))
    spans = np.maximum(high - low + 1, 0)
    many = spans.prod(axis=1)
    box = np.repeat(np.arange(len(boxes)), many)
    place = np.arange(len(box)) - np.repeat(np.cumsum(many) - many, many)
    return box, low[box] + np.stack([place % spans[box, 0], place // spans[box, 0]], axis=1)
