"""What two statements of a file about the same objects say against each other, decided by what most objects say.

A single object that contradicts itself is a mistake, which `validate.py` repairs or drops. If most of them do, the file
means something else than its format: boxes as two corners, coordinates as fractions, run lengths row by row. If one
such meaning makes everything agree, the objects are read so and the report says it. If none does, the data is not
usable.

No pixel is drawn to decide anything; only masks that turn out to be stored otherwise are drawn, to store them as usual.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..ops.rle import counts_from_bitmap
from .problems import Report
from .shapes import segmentation_of_rings

_FEWEST = 2  # objects from which a file can be judged
_FEWEST_ALONE = 4  # boxes without masks, which only their image can prove wrong
_PROVED = 0.9  # of the objects must agree with another meaning of the file
_SMALL = 3  # pixels: fractions of an image are no such objects

Boxes = np.ndarray  # float64 [n 4]


class BoxMeaning(NamedTuple):
    """What the four numbers of a box mean."""

    words: str
    corners: Callable[[Boxes], Boxes]  # x1, y1, x2, y2 of the numbers


AS_COCO = BoxMeaning("x, y, width, height", lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1))
_OTHERS = (
    BoxMeaning("two corners (x1, y1, x2, y2)", lambda b: b.copy()),
    BoxMeaning("centre, width and height", lambda b: AS_COCO.corners(b - np.pad(b[:, 2:] / 2, ((0, 0), (0, 2))))),
    BoxMeaning("y, x, height, width", lambda b: AS_COCO.corners(b[:, [1, 0, 3, 2]])),
    BoxMeaning("two corners (y1, x1, y2, x2)", lambda b: b[:, [1, 0, 3, 2]]),
)  # fmt: skip


def fractions(boxes: Boxes, sizes: np.ndarray, of: np.ndarray) -> np.ndarray:
    """bool [n]: the objects `of` which (bool [n]) the coordinates are fractions of their image; none unless most are.

    `boxes` hold each object's smallest and largest coordinates, `sizes` (int64 [n 2]) their images' heights and widths.
    """
    none = np.zeros(len(boxes), bool)
    with np.errstate(invalid="ignore"):
        within = of & (boxes[:, 2] <= 1) & (boxes[:, 3] <= 1)
        if 2 * within.sum() <= of.sum():
            return none
        within &= (boxes[:, :2] >= 0).all(1) & (sizes.min(axis=1) > _SMALL)
        broken = within & (boxes % 1 != 0).any(1)  # the corners of whole pixels may well be 0 and 1
    return within if broken.sum() > _FEWEST and 2 * broken.sum() > of.sum() else none


def meaning_by_masks(given: Boxes, masks: Boxes, allowed: Boxes, judged: np.ndarray, report: Report) -> BoxMeaning:
    """What boxes mean where both a box and a mask are stated (`judged`, bool [n]): what agrees with most masks.

    `given` are the numbers as stated, `masks` the boxes of the masks, `allowed` the difference that counts as none.
    """
    fitting = agreeing(AS_COCO, given, masks, allowed)[judged]
    count, wrong = len(fitting), int((~fitting).sum())
    if wrong < _FEWEST or 2 * wrong <= count:
        return AS_COCO
    rates = [agreeing(meaning, given, masks, allowed)[judged].mean() for meaning in _OTHERS]
    best = _OTHERS[int(np.argmax(rates))]
    differ = f"{wrong} of {count} boxes do not fit their masks"
    if max(rates) < _PROVED:
        if (_surrounding(AS_COCO.corners(given[judged]), masks[judged], allowed[judged]) | fitting).mean() >= _PROVED:
            report.contradict(f"{differ} but surround them; the boxes of the masks are taken")
        else:
            report.contradict(
                f"{differ}, and no other order of a box's numbers does: boxes or masks belong to other images, or to "
                "images of another size; export them again, or delete bbox, which is then computed from the mask",
                unusable=True,
            )
        return AS_COCO
    if best in _OTHERS[2:]:  # the same as masks whose points are (y, x)
        report.contradict(
            f"{differ}; they would if x and y were exchanged in bbox or segmentation: exchange them in the wrong one",
            unusable=True,
        )
        return AS_COCO
    report.contradict(
        f"{differ} as [{AS_COCO.words}], but they do as {best.words}, and all boxes are read so; COCO wants "
        f"[{AS_COCO.words}]"
    )
    return best


def meaning_by_images(given: Boxes, sizes: np.ndarray, judged: np.ndarray, report: Report) -> BoxMeaning:
    """What boxes without masks mean (`judged`, bool [n]): COCO's order, unless many boxes leave their image in it and
    none does in another.
    """
    count = int(judged.sum())
    limits = sizes[judged, ::-1].astype(np.float64)
    leaving = ~_within(AS_COCO.corners(given[judged]), limits)
    wrong = int(leaving.sum())
    if wrong < _FEWEST or 5 * wrong <= count:
        return AS_COCO
    said = f"{wrong} of {count} boxes reach beyond their image as [{AS_COCO.words}]"
    for meaning in _OTHERS:
        if count >= _FEWEST_ALONE and _within(meaning.corners(given[judged]), limits).mean() >= 0.99:
            report.contradict(
                f"{said}, none as {meaning.words}, and all boxes are read so; COCO wants [{AS_COCO.words}]"
            )
            return meaning
    if 2 * wrong > count:
        report.contradict(
            f"{said}: they are stated otherwise, or height and width of the images are wrong; export them again",
            unusable=True,
        )
    return AS_COCO


def agreeing(meaning: BoxMeaning, given: Boxes, masks: Boxes, allowed: Boxes) -> np.ndarray:
    """bool [n]: the boxes that fit their masks in this meaning."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.all(np.abs(meaning.corners(given) - masks) <= allowed, axis=1)


def _surrounding(corners: Boxes, masks: Boxes, allowed: Boxes) -> np.ndarray:
    """bool [n]: boxes around their masks, with up to twice their sides."""
    sides, inner = corners[:, 2:] - corners[:, :2], masks[:, 2:] - masks[:, :2]
    around = (corners[:, :2] <= masks[:, :2] + allowed[:, :2]) & (corners[:, 2:] >= masks[:, 2:] - allowed[:, 2:])
    return np.all(around & (sides <= 2 * inner + allowed[:, :2]), axis=1)


def _within(corners: Boxes, limits: np.ndarray) -> np.ndarray:
    """bool [n]: boxes with an area that leave their image by a pixel at most."""
    with np.errstate(invalid="ignore", over="ignore"):
        inside = (corners[:, :2] >= -1) & (corners[:, 2:] <= limits + 1) & (corners[:, 2:] > corners[:, :2])
        return np.all(inside, axis=1)


def judge_areas(stated: np.ndarray, masks: np.ndarray, boxes: Boxes, report: Report) -> None:
    """Reports stated areas that cannot be those of their masks (`masks`, float64 [n], NaN without one). They are kept:
    AP by size uses them, in COCO's own evaluation, too.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(invalid="ignore", over="ignore"):
        judged = np.isfinite(masks) & (stated > 0)
        far = judged & (np.abs(stated - masks) > np.maximum(0.2 * masks, 2 * sides.sum(axis=1)))
        of_box = judged & (np.abs(stated - sides.prod(axis=1)) <= 0.05 * sides.prod(axis=1) + sides.sum(axis=1))
        gross = far & ((stated / 3 > masks) | (masks / 3 > stated)) & ~of_box
    count, wrong = int(judged.sum()), int(far.sum())
    most = wrong >= _FEWEST and 2 * wrong > count
    if not most and not gross.any():
        return
    if (of_box | ~far)[judged].mean() >= _PROVED and most:
        said = f"{wrong} of {count} areas are those of the boxes, not of the masks"
    else:
        said = f"{wrong if most else int(gross.sum())} of {count} areas do not fit their masks"
    report.contradict(f"{said}; they are kept as stated, and only AP by size uses them")


# --- masks that are stored otherwise -------------------------------------------------------------------------------


def recoded_rows(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run lengths that run along the rows, as those along the columns."""
    height, width = size
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return counts_from_bitmap(pixels.reshape(height, width))


def with_holes(rings: list[np.ndarray], stated: float, size: tuple[int, int]) -> np.ndarray | None:
    """The run lengths of polygons of which some are holes in others, as the stated area proves; None if it does not."""
    areas = [_area(ring) for ring in rings]
    depth = [sum(_inside(ring, other) for other in rings if other is not ring) for ring in rings]
    if not any(depth):
        return None
    filled = sum(area for area, level in zip(areas, depth, strict=True) if not level)
    open_ = sum(area * (-1) ** level for area, level in zip(areas, depth, strict=True))
    slack = max(0.02 * filled, 2.0) + 0.5 * sum(float(np.ptp(ring, axis=0).sum()) for ring in rings) * 0.1
    if abs(stated - open_) < abs(stated - filled) and abs(stated - open_) <= max(slack, 0.25 * (filled - open_)):
        return segmentation_of_rings(rings, size)[0]
    return None


def _area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2)


def _inside(ring: np.ndarray, other: np.ndarray) -> bool:
    """Whether a ring lies inside another: its bounds do, and so do most of its points."""
    if (ring.min(0) < other.min(0)).any() or (ring.max(0) > other.max(0)).any() or _area(ring) >= _area(other):
        return False
    (x, y), (next_x, next_y) = other.T, np.roll(other, -1, axis=0).T
    points = ring[:: max(1, len(ring) // 16)]
    crosses = (y > points[:, 1:]) != (next_y > points[:, 1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (points[:, 1:] - y) / (next_y - y) * (next_x - x)
    odd = (crosses & (at > points[:, :1])).sum(axis=1) % 2
    return bool(odd.mean() > 0.5)
