"""Polygons that are holes in others. COCO has none: it fills all polygons of an object. Tools that trace masks write
them nevertheless; the stated area tells, or their direction, if all of a file run against those around them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from .problems import Report

_FEWEST = 4  # objects whose polygons all run against those around them: by chance one file in sixteen
_MOST_PAIRS = 20_000  # of an object's polygons whose bounds lie in each other's
_POINTS = 16  # of a polygon that tell where it is
_FEW_PARTS = 16  # of an object, whose pairs are all looked at together
_CHUNK = 4096  # pairs looked at together
_BY_AREA = "polygon that is a hole in another, as the stated area says, cut out"
_BY_DIRECTION = "polygon that is a hole in another, as its direction says, cut out"
_BY_OTHERS = "polygon that is a hole in another, as the areas of other objects say, cut out"


class Nested(NamedTuple):
    """What an object says of its polygons that lie in others."""

    area: Literal["hole", "filled", "nothing"]  # what the stated area tells
    against: bool  # whether each runs against the one around it


def judge_polygons(
    points: np.ndarray,  # float64 [points 2], of all polygons
    offsets: np.ndarray,  # int64 [all + 1]
    boxes: np.ndarray,  # float64 [all 4], xyxy
    areas: np.ndarray,  # float64 [all]
    spans: np.ndarray,  # int64 [k 2], the ranges of the objects' polygons
    stated: np.ndarray,  # float64 [k], the objects' areas
) -> dict[int, Nested]:
    """What the polygons and stated areas of k objects say; those of which no polygon lies in another are left out."""
    lengths = spans[:, 1] - spans[:, 0]
    owner = np.repeat(np.arange(len(spans)), lengths)
    parts = np.repeat(spans[:, 0] - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(owner))
    inner, outer, crowded = _pairs(points, offsets, boxes, areas, spans)
    depth = np.bincount(inner, minlength=len(areas))[parts]
    smallest = np.lexsort((areas[outer], inner))
    inner, first = np.unique(inner[smallest], return_index=True)
    outer = outer[smallest[first]]
    owner_of = np.zeros(len(areas), np.int64)
    owner_of[parts] = owner
    signed = _signed_areas(points, offsets, np.stack([inner, outer]).ravel()).reshape(2, -1)
    with_it = np.bincount(owner_of[inner[signed.prod(axis=0) >= 0]], minlength=len(spans)) > 0

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, len(spans))

    filled = total(np.where(depth, 0, areas[parts]))
    open_ = total(areas[parts] * np.where(depth % 2, -1, 1))
    slack = np.maximum(0.02 * filled, 2.0) + 0.05 * total((boxes[parts, 2:] - boxes[parts, :2]).sum(axis=1))
    to_open, to_filled = np.abs(stated - open_), np.abs(stated - filled)
    hole = (to_open < to_filled) & (to_open <= np.maximum(slack, 0.25 * (filled - open_)))
    full = (to_open >= to_filled) & (to_filled <= slack)
    words = np.where(~(stated > 0), "nothing", np.where(hole, "hole", np.where(full, "filled", "nothing"))).tolist()
    found = {i: Nested(words[i], not with_it[i]) for i in np.unique(owner_of[inner]).tolist()}
    return found | dict.fromkeys(crowded, Nested("nothing", False))


def settle_holes(nested: Mapping[int, Nested], ids: np.ndarray, report: Report) -> dict[int, str]:
    """The objects whose polygons are holes, and how that is known. `nested` is by object, `ids` are those of all.

    Where the area says nothing, the areas of the file's other objects decide, or the direction, if all objects agree.
    The rest is filled, as in COCO, and reported.
    """
    kinds = Counter(verdict.area for verdict in nested.values())
    silent = {i: verdict for i, verdict in nested.items() if verdict.area == "nothing"}
    reason = None
    if kinds["hole"] > 1 and not kinds["filled"]:
        reason = _BY_OTHERS
    elif len(silent) >= _FEWEST and not kinds["filled"] and all(verdict.against for verdict in silent.values()):
        reason = _BY_DIRECTION
    if silent and reason is None:
        named = ", ".join(str(ids[i]) for i in list(silent)[:3])
        report.contradict(
            f"{len(silent)} objects have a polygon inside another, and no area that says whether it is a hole "
            f"(annotation {named}{', ...' if len(silent) > 3 else ''}); it is filled, as COCO does; if it is one, "
            "state the area, or store the mask as run lengths"
        )
    found = {i: _BY_AREA for i, verdict in nested.items() if verdict.area == "hole"}
    return found | (dict.fromkeys(silent, reason) if reason else {})


# --- which polygons lie in which --------------------------------------------------------------------------------------


def _pairs(
    points: np.ndarray, offsets: np.ndarray, boxes: np.ndarray, areas: np.ndarray, spans: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Polygons that lie in others of their object, and those others, int64 [P] each; then the objects with too many
    polygons in the bounds of others to look at.
    """
    lengths = spans[:, 1] - spans[:, 0]
    few = np.flatnonzero(lengths <= _FEW_PARTS)
    counts = lengths[few] ** 2
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first, side = (np.repeat(values[few], counts) for values in (spans[:, 0], lengths))
    one, two = (first + part for part in np.divmod(place, np.maximum(side, 1)))
    near = _in_bounds(one, two, boxes, areas)
    found, crowded = [(one[near], two[near])], []
    for i in np.flatnonzero(lengths > _FEW_PARTS).tolist():  # whose pairs may not fit in memory
        own, pairs, most = np.arange(*spans[i]), [], _MOST_PAIRS
        for part in own.tolist():
            around = own[_in_bounds(np.array([part]), own, boxes, areas)]
            pairs.append((np.full(len(around), part), around))
            most -= len(around)
            if most < 0:
                crowded.append(i)
                break
        else:
            found += pairs
    inner, outer = (np.concatenate(side) for side in zip(*found, strict=True))
    chunks = (slice(at, at + _CHUNK) for at in range(0, len(inner), _CHUNK))
    inside = [_inside(points, offsets, inner[chunk], outer[chunk]) for chunk in chunks]
    kept = np.concatenate([np.zeros(0, bool), *inside])
    return inner[kept], outer[kept], crowded


def _in_bounds(one: np.ndarray, two: np.ndarray, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Whether a polygon's bounds lie in those of a larger one."""
    low = (boxes[one, :2] >= boxes[two, :2]).all(axis=1)
    return low & (boxes[one, 2:] <= boxes[two, 2:]).all(axis=1) & (areas[one] < areas[two])


def _inside(points: np.ndarray, offsets: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """bool [P], whether most points of one polygon lie in another, whose bounds hold it."""
    sizes = np.diff(offsets)
    steps = np.maximum(1, sizes[one] // _POINTS)
    tests = -(-sizes[one] // steps)  # points of the first polygon that are looked at
    edges = sizes[two]
    starts = np.cumsum(edges) - edges
    nth, first = np.arange(edges.sum()) - np.repeat(starts, edges), np.repeat(offsets[two], edges)
    x1, y1 = points[first + nth].T
    x2, y2 = points[first + np.where(nth + 1 == np.repeat(edges, edges), 0, nth + 1)].T
    slope = (x2 - x1) / np.where(y2 == y1, 1.0, y2 - y1)  # a level edge crosses nothing
    inside = np.zeros(len(one), np.int64)
    for test in range(int(tests.max(initial=0))):
        at = offsets[one] + np.minimum(test, tests - 1) * steps
        x, y = (np.repeat(values, edges) for values in points[at].T)
        crossed = ((y1 > y) != (y2 > y)) & (x1 + (y - y1) * slope > x)
        inside += (np.add.reduceat(crossed, starts, dtype=np.int64) % 2) * (test < tests)
    return 2 * inside > tests


def _signed_areas(points: np.ndarray, offsets: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """float64 [n], the areas of some polygons, with the sign of their direction."""
    sizes = np.diff(offsets)[parts]
    ends = np.cumsum(sizes)
    nth = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    first = np.repeat(offsets[:-1][parts], sizes)
    x, y = (points[first + nth] - points[first]).T
    following = np.arange(len(x)) + 1
    following[ends - 1] = ends - sizes
    cross = x * y[following] - y * x[following]
    return np.add.reduceat(cross, ends - sizes) / 2 if len(parts) else np.zeros(0)
