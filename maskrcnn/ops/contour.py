"""Outlines of an M x M mask in its box, with sub-pixel vertices, by marching squares.

The mask's values, with a border of zeros, are the corners of a grid. If two neighbours lie on either side of the
threshold, the outline passes between them, at the point found by linear interpolation. This is the edge of the region
that `ops.paste` sets, before it is rounded to pixels. In a saddle (only two opposite corners are set) these corners are
joined if the bilinear surface is set at its saddle point. It runs on the host, in NumPy: outlines are ragged and have a
few hundred vertices at most.
"""

from typing import NamedTuple

import numpy as np

from .paste import check_rule


class Outline(NamedTuple):
    """The closed outlines of an object, each float64 [n 2], (x, y) in image pixels; the first point is not repeated.

    On the screen (y points down) outer outlines run clockwise and holes counterclockwise, so signed areas add up.
    """

    outer: list[np.ndarray]
    holes: list[np.ndarray]


def trace(
    mask: np.ndarray, box: np.ndarray, size: tuple[int, int], *, threshold: float = 0.5, rule: str = "grid"
) -> Outline:
    """The outlines of a probability mask [M M], or [h w], in a box [4], xyxy, clipped to an image of `size`, (height,
    width).

    They enclose the pixels that `ops.paste.paste` sets. Arguments and errors are the same.
    """
    check_rule(rule, threshold)
    height, width = size
    x1, y1, x2, y2 = (float(side) for side in box)
    values = np.pad(np.clip(np.nan_to_num(np.asarray(mask, dtype=np.float64)), 0, 1), 1)
    inside = values > threshold if rule == "padded" else values >= threshold
    outer, holes = [], []
    for ring in _rings(values, inside, threshold):
        x = _to_image(ring[:, 0], x1, x2, mask.shape[1], rule).clip(0, width)
        y = _to_image(ring[:, 1], y1, y2, mask.shape[0], rule).clip(0, height)
        points = np.stack([x, y], axis=1)
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        area = signed_area(points)
        if area > 0:
            outer.append(points)
        elif area < 0:
            holes.append(points)
    return Outline(outer, holes)


def signed_area(points: np.ndarray) -> float:
    """The shoelace area of a closed outline [n 2]; positive if it runs clockwise on the screen (y points down)."""
    if len(points) < 3:
        return 0.0
    x, y = (points - points[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _rings(values: np.ndarray, inside: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Closed rings of (column, row) positions in the padded mask, with the inside on their right."""
    following = _links(values, inside, threshold)
    rings = []
    while following:
        start, edge = following.popitem()
        ring = [start]
        while edge != start:
            ring.append(edge)
            edge = following.pop(edge)
        rings.append(np.array([_crossing(values, edge, threshold) for edge in ring]))
    return rings


_Edge = tuple[int, int, int]  # row, column, and 0 for the edge to the right neighbour, 1 for the one below


def _links(values: np.ndarray, inside: np.ndarray, threshold: float) -> dict[_Edge, _Edge]:
    """For each crossed edge the one that follows it: in a cell, walked clockwise, the edge at which the walk leaves the
    inside leads to the edge at which it entered."""
    links: dict[_Edge, _Edge] = {}
    corners = inside[:-1, :-1].astype(int) + inside[:-1, 1:] + inside[1:, 1:] + inside[1:, :-1]
    for row, column in np.argwhere((corners > 0) & (corners < 4)).tolist():
        around = ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column))
        edges = ((row, column, 0), (row, column + 1, 1), (row + 1, column, 0), (row, column, 1))
        state = [bool(inside[corner]) for corner in around]
        entered = [edges[i] for i in range(4) if not state[i] and state[(i + 1) % 4]]
        left = [edges[i] for i in range(4) if state[i] and not state[(i + 1) % 4]]
        if len(entered) == 2:
            a, b, c, d = (float(values[corner]) for corner in around)
            joined = (a * c - b * d) / (a + c - b - d) >= threshold  # the surface at the saddle point
            own_first = edges.index(left[0]) == (edges.index(entered[0]) + 1) % 4  # entered[0] then left[0]
            if joined == own_first:
                entered.reverse()
        links.update(zip(left, entered, strict=True))
    return links


def _crossing(values: np.ndarray, edge: _Edge, threshold: float) -> tuple[float, float]:
    row, column, down = edge
    here, there = values[row, column], values[row + down, column + 1 - down]
    share = (threshold - here) / (there - here)
    return column + share * (1 - down), row + share * down


def _to_image(positions: np.ndarray, low: float, high: float, side: int, rule: str) -> np.ndarray:
    """The inverse of `ops.paste.sample_positions`, in continuous image pixels."""
    if rule == "grid":
        return low + (positions - 0.5) * (high - low) / side
    half = (np.float32(high) - np.float32(low)) * np.float32(0.5) * np.float32((side + 2) / side)
    middle = (np.float32(high) + np.float32(low)) * np.float32(0.5)
    first, last = float(np.trunc(middle - half)), float(np.trunc(middle + half))
    return first + (positions + 0.5) * max(last - first + 1, 1) / (side + 2)
