"""Polygons that are holes in others. COCO has none: it fills all polygons of an object. Tools that trace masks write
them nevertheless; the stated area tells, or their direction, if all of a file run against those around them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from ..ops.contour import signed_area
from .problems import Report
from .shapes import enclosed

_FEWEST = 4  # objects whose polygons all run against those around them: by chance one file in sixteen
_MOST_PAIRS = 20_000  # of an object's polygons whose bounds lie in each other's
_POINTS = 16  # of a polygon that tell where it is
_BY_AREA = "polygon that is a hole in another, as the stated area says, cut out"
_BY_DIRECTION = "polygon that is a hole in another, as its direction says, cut out"
_BY_OTHERS = "polygon that is a hole in another, as the areas of other objects say, cut out"


class Nested(NamedTuple):
    """What an object says of its polygons that lie in others."""

    area: Literal["hole", "filled", "nothing"]  # what the stated area tells
    against: bool  # whether each runs against the one around it


def may_have_holes(boxes: np.ndarray, areas: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """bool [k], objects of which a polygon's bounds lie in those of the largest or of a neighbour. `boxes`, float64
    [parts 4], and `areas` are those of all polygons, `spans`, int64 [k 2], the ranges of the objects.
    """
    owner = np.full(len(areas), -1)
    lengths = spans[:, 1] - spans[:, 0]
    parts = np.repeat(spans[:, 0] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    owner[parts] = np.repeat(np.arange(len(spans)), lengths)
    order = parts[np.lexsort((areas[parts], owner[parts]))]
    largest = order[np.cumsum(lengths) - 1]
    found = np.zeros(len(spans), bool)
    for one, two in ((parts, largest[owner[parts]]), (parts[1:], parts[:-1]), (parts[:-1], parts[1:])):
        inside = (one != two) & (owner[one] == owner[two])
        inside &= (boxes[one, :2] >= boxes[two, :2]).all(axis=1) & (boxes[one, 2:] <= boxes[two, 2:]).all(axis=1)
        found[owner[one[inside]]] = True
    return found


def judge_rings(rings: list[np.ndarray], stated: float) -> Nested | None:
    """What an object's polygons, float64 [n 2] each, and its stated area say; None if none lies in another."""
    signed = np.array([signed_area(ring) for ring in rings])
    areas = np.abs(signed)
    low, high = (np.array([limit(ring, axis=0) for ring in rings]) for limit in (np.min, np.max))
    around: list[list[int]] = [[] for _ in rings]  # the polygons in which each lies
    pairs = 0
    for i, ring in enumerate(rings):
        near = (low[i] >= low).all(axis=1) & (high[i] <= high).all(axis=1) & (areas[i] < areas)
        pairs += int(near.sum())
        if pairs > _MOST_PAIRS:
            return Nested("nothing", False)
        around[i] = [j for j in np.flatnonzero(near).tolist() if _inside(ring, rings[j])]
    depth = np.array([len(others) for others in around])
    if not depth.any():
        return None
    outer = [min(others, key=areas.__getitem__) for others in around if others]
    against = bool((signed[depth > 0] * signed[outer] < 0).all())
    filled = float(areas[depth == 0].sum())
    open_ = float((areas * np.where(depth % 2, -1, 1)).sum())
    slack = max(0.02 * filled, 2.0) + 0.05 * float((high - low).sum())
    if not stated > 0:
        return Nested("nothing", against)
    if abs(stated - open_) < abs(stated - filled):
        return Nested("hole" if abs(stated - open_) <= max(slack, 0.25 * (filled - open_)) else "nothing", against)
    return Nested("filled" if abs(stated - filled) <= slack else "nothing", against)


def settle_holes(verdicts: Mapping[int, Nested | None], ids: np.ndarray, report: Report) -> dict[int, str]:
    """The objects whose polygons are holes, and how that is known. `verdicts` are by object, `ids` those of all.

    Where the area says nothing, the areas of the file's other objects decide, or the direction, if all objects agree.
    The rest is filled, as in COCO, and reported.
    """
    nested = {i: verdict for i, verdict in verdicts.items() if verdict is not None}
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


def _inside(ring: np.ndarray, other: np.ndarray) -> bool:
    """Whether most points of a ring lie in another, whose bounds hold it."""
    return bool(enclosed(other, ring[:: max(1, len(ring) // _POINTS)]).mean() > 0.5)
