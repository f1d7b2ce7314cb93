"""Outlines of the drawn data set's classes, and which points of a grid lie in them."""

from typing import NamedTuple

import numpy as np

CLASSES = ("disc", "box", "triangle", "star", "ring", "figure")
FIGURE = CLASSES.index("figure")

KEYPOINTS = (
    "head",
    *(
        f"{side}_{keypoint}"
        for keypoint in ("shoulder", "elbow", "hand", "hip", "knee", "foot")
        for side in ("left", "right")
    ),
)
SKELETON = (
    *(("head", f"{side}_shoulder") for side in ("left", "right")),
    *(
        (f"{side}_{start}", f"{side}_{end}")
        for side in ("left", "right")
        for start, end in (
            ("shoulder", "elbow"),
            ("elbow", "hand"),
            ("shoulder", "hip"),
            ("hip", "knee"),
            ("knee", "foot"),
        )
    ),
)
FLIP_PAIRS = tuple((i, i + 1) for i in range(1, len(KEYPOINTS), 2))


class Shape(NamedTuple):
    """The union of `parts` without the union of `holes`: polygons, float64 [n 2], x and y in continuous pixels."""

    parts: list[np.ndarray]
    holes: list[np.ndarray]
    keypoints: np.ndarray | None  # float64 [13 2]

    def box(self) -> tuple[float, float, float, float]:
        """Tight box of the parts, xyxy."""
        points = np.concatenate(self.parts)
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool [len(y) len(x)]: which points of a grid, both axes ascending, lie in the shape."""
        mask = np.zeros((len(y), len(x)), dtype=bool)
        for part in self.parts:
            rows, columns, inside = _inside_polygon(part, x, y)
            mask[rows, columns] |= inside
        for hole in self.holes:
            rows, columns, inside = _inside_polygon(hole, x, y)
            mask[rows, columns] &= ~inside
        return mask


def shape_of(label: int, centre: tuple[float, float], size: float, rng: np.random.Generator) -> Shape:
    """A shape of the class in a random pose: `size` is the longer side of its box, `centre` the middle of it."""
    turn = rng.uniform(0, 2 * np.pi)
    parts: list[np.ndarray]
    holes: list[np.ndarray] = []
    keypoints = None
    match CLASSES[label]:
        case "disc":
            parts = [_ellipse(1.0, rng.uniform(0.75, 1.0))]
        case "box":
            aspect = rng.uniform(0.55, 1.0)
            parts = [np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])]
        case "triangle":
            angles = np.array([0.0, 1.0, 2.0]) * 2 * np.pi / 3 + rng.uniform(-0.25, 0.25, 3)
            parts = [np.stack([np.cos(angles), np.sin(angles)], axis=1)]
        case "star":
            angles = np.arange(10) * np.pi / 5
            radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.5, 0.6))
            parts = [np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]]
        case "ring":
            aspect, hole = rng.uniform(0.8, 1.0), rng.uniform(0.4, 0.5)
            parts, holes = [_ellipse(1.0, aspect)], [_ellipse(hole, hole * aspect)]
        case _:
            parts, keypoints = _figure(rng)
            turn = rng.normal(0, 0.25)  # upright: left and right must be told apart
    return _placed(Shape(parts, holes, keypoints), turn, centre, size)


def _placed(shape: Shape, turn: float, centre: tuple[float, float], size: float) -> Shape:
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    parts = [part @ rotation for part in shape.parts]
    low = np.concatenate(parts).min(axis=0)
    extent = np.concatenate(parts).max(axis=0) - low
    scale, shift = size / extent.max(), low + extent / 2

    def place(points: np.ndarray) -> np.ndarray:
        # Hundredths of a pixel: what is annotated is what is drawn, and the json stays short.
        return np.round((points - shift) * scale + np.array(centre), 2)

    holes = [place(hole @ rotation) for hole in shape.holes]
    keypoints = None if shape.keypoints is None else place(shape.keypoints @ rotation)
    return Shape([place(part) for part in parts], holes, keypoints)


def _ellipse(a: float, b: float, sides: int = 32) -> np.ndarray:
    angles = np.arange(sides) * 2 * np.pi / sides
    return np.stack([a * np.cos(angles), b * np.sin(angles)], axis=1)


def _figure(rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Somebody who faces the viewer: the left hand is on the right. y points down, the height is about 2."""
    at = {"head": np.array([rng.normal(0, 0.03), -0.78])}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        at[f"{side}_shoulder"] = np.array([sign * 0.27, -0.42])
        at[f"{side}_hip"] = np.array([sign * 0.19, 0.15])
        upper = rng.uniform(-0.5, 1.3)  # from hanging down, 0 radians, outwards
        lower = upper + rng.uniform(-0.2, 1.4)
        thigh = rng.uniform(-0.05, 0.55)
        shin = thigh + rng.uniform(-0.5, 0.2)
        for start, end, angle, length in (
            ("shoulder", "elbow", upper, 0.36),
            ("elbow", "hand", lower, 0.34),
            ("hip", "knee", thigh, 0.42),
            ("knee", "foot", shin, 0.42),
        ):
            at[f"{side}_{end}"] = at[f"{side}_{start}"] + length * np.array([sign * np.sin(angle), np.cos(angle)])
    torso = [at["left_shoulder"], at["right_shoulder"], at["right_hip"], at["left_hip"]]
    middle = np.mean(torso, axis=0)
    parts = [middle + (np.array(torso) - middle) * 1.25, at["head"] + _ellipse(0.26, 0.28, 20)]
    for side in ("left", "right"):
        for start, end, width in (
            ("shoulder", "elbow", 0.15),
            ("elbow", "hand", 0.14),
            ("hip", "knee", 0.18),
            ("knee", "foot", 0.16),
        ):
            parts.append(_capsule(at[f"{side}_{start}"], at[f"{side}_{end}"], width))
    return parts, np.array([at[name] for name in KEYPOINTS])


def _capsule(start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """A thick line with round ends."""
    direction = np.arctan2(*(end - start)[::-1])
    half = np.linspace(-np.pi / 2, np.pi / 2, 6)
    angles = np.concatenate([direction + half, direction + np.pi + half])
    return np.repeat([end, start], 6, axis=0) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _inside_polygon(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[slice, slice, np.ndarray]:
    """Rows and columns that the polygon's box spans, and which of their points are inside.

    Even-odd rule: a point is inside where an odd number of edges cross its row to the right of it.
    """
    ends = np.roll(polygon, -1, axis=0)
    left, top = polygon.min(axis=0)
    right, bottom = polygon.max(axis=0)
    columns, rows = (
        slice(*np.searchsorted(x, [left, right]).tolist()),
        slice(*np.searchsorted(y, [top, bottom]).tolist()),
    )
    x, y = x[columns], y[rows]
    mask = np.zeros((len(y), len(x)), dtype=bool)
    firsts = np.searchsorted(y, np.minimum(polygon[:, 1], ends[:, 1])).tolist()
    lasts = np.searchsorted(y, np.maximum(polygon[:, 1], ends[:, 1])).tolist()
    for (x1, y1), (x2, y2), first, last in zip(polygon.tolist(), ends.tolist(), firsts, lasts, strict=True):
        if first < last:
            crossing = x1 + (y[first:last] - y1) * ((x2 - x1) / (y2 - y1))
            mask[first:last] ^= x < crossing[:, None]
    return rows, columns, mask
