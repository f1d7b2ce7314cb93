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

_FEWEST = 2  # objects from which a file can be judged
_FEWEST_ALONE = 4  # boxes without masks, which only their image can prove wrong
_FEWEST_SPREAD = 10  # objects, and half as many images, from which their places can be judged
_PROVED = 0.9  # of the objects must agree with another meaning of the file
_ALL = 0.99  # of the boxes, where nothing but their images tells
_SMALL = 3  # pixels: objects within the first one of an image of this side may be no fractions
_LARGE = 32  # pixels: those of an image of this side are fractions, even if all others are none

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


def fractions(boxes: Boxes, sizes: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two bool [n]: the objects `of` which (bool [n]) the coordinates are fractions of their image, if most are; and
    those that are, although most are not.

    `boxes` hold each object's smallest and largest coordinates, `sizes` (int64 [n 2]) their images' heights and widths.
    """
    none = np.zeros(len(boxes), bool)
    with np.errstate(invalid="ignore"):
        near = of & (boxes >= -0.5).all(1) & (boxes <= 1.5).all(1) & (sizes.min(axis=1, initial=2**31) > _SMALL)
        within = near & (boxes >= 0).all(1) & (boxes <= 1).all(1)
        broken = within & (boxes % 1 != 0).any(1)  # the corners of whole pixels may well be 0 and 1
    if 2 * within.sum() > of.sum() and broken.sum() > _FEWEST and 2 * broken.sum() > of.sum():
        return near, none  # a few may reach beyond their image a little
    few = 2 * within.sum() < of.sum()  # and no image of such a size shows an object within a pixel
    return none, broken & few & (sizes.min(axis=1, initial=2**31) >= _LARGE)


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
    if wrong < _FEWEST or count < _FEWEST_ALONE:
        return AS_COCO
    said = f"{wrong} of {count} boxes reach beyond their image as [{AS_COCO.words}]"
    fitting = (m for m in _OTHERS if _within(m.corners(given[judged]), limits).mean() >= _ALL)
    if (meaning := next(fitting, None)) is not None:
        if 5 * wrong > count:
            report.contradict(
                f"{said}, none as {meaning.words}, and all boxes are read so; COCO wants [{AS_COCO.words}]"
            )
            return meaning
        report.contradict(f"{said}, none as {meaning.words}; they are read as COCO's, so convert them if they are not")
    elif 2 * wrong > count:
        report.contradict(
            f"{said}: they are stated otherwise, or height and width of the images are wrong; export them again",
            unusable=True,
        )
    return AS_COCO


def meaning_by_areas(
    given: Boxes, areas: np.ndarray, sizes: np.ndarray, judged: np.ndarray, report: Report
) -> BoxMeaning:
    """What boxes without masks mean (`judged`, bool [n]) by their stated areas, float64 [n]: COCO's order, unless most
    areas do not fit in it, but do as those of two corners.
    """
    judged = judged & (areas > 0)
    boxes, areas, limits = given[judged], areas[judged], sizes[judged, ::-1].astype(np.float64)
    count = len(boxes)
    if count < _FEWEST_ALONE:
        return AS_COCO

    def fits(meaning: BoxMeaning) -> np.ndarray:
        corners = meaning.corners(boxes)
        sides = corners[:, 2:] - corners[:, :2]
        return np.abs(sides.prod(axis=1) - areas) <= 0.02 * areas + 0.5 * np.abs(sides).sum(axis=1)

    wrong = int((~fits(AS_COCO)).sum())
    if 2 * wrong <= count:
        return AS_COCO
    for meaning in _OTHERS:
        if fits(meaning).mean() >= _PROVED and _within(meaning.corners(boxes), limits).mean() >= _ALL:
            report.contradict(
                f"{wrong} of {count} boxes do not have their stated areas as [{AS_COCO.words}], but they do as "
                f"{meaning.words}, and all boxes are read so; COCO wants [{AS_COCO.words}]"
            )
            return meaning
    return AS_COCO


def judge_outside(bounds: Boxes, sizes: np.ndarray, report: Report) -> None:
    """Objects that lie outside their image, all at its right or bottom side, were drawn on another one, or x and y are
    exchanged: so do and are many of those inside. `bounds` (NaN if unknown) are as stated; `sizes`, int64 [n 2], are
    (height, width) of the images.
    """
    known = np.isfinite(bounds).all(axis=1)
    bounds, limits = bounds[known], sizes[known, ::-1].astype(np.float64)
    over = int((bounds[:, :2] >= limits).any(axis=1).sum())
    leaving = int((bounds[:, 2:] > limits + 1).any(axis=1).sum())
    count = len(bounds)
    if leaving < _FEWEST or (bounds[:, 2:] <= 0).any():
        return
    if 5 * leaving > count and _within(bounds[:, [1, 0, 3, 2]], limits).mean() >= _ALL:
        report.contradict(
            f"{leaving} of {count} objects reach beyond the right or bottom side of their image, and none would if x "
            "and y were exchanged: exchange them in segmentation and bbox",
            unusable=True,
        )
    elif over >= _FEWEST and 10 * over >= count:
        width, height = bounds[:, 2:].max(axis=0)
        report.contradict(
            f"{over} of {count} objects lie outside their image, all beyond its right or bottom side; they seem to be "
            f"drawn on larger images, of at least {height:.0f} x {width:.0f} (height x width): take those images, or "
            "scale the coordinates",
            unusable=True,
        )


def judge_spread(boxes: Boxes, sizes: np.ndarray, images: np.ndarray, report: Report) -> None:
    """Reports objects that all lie in the upper left part of their images (`images`, int64 [n], says which): they may
    be stated for smaller ones.
    """
    if len(boxes) < _FEWEST_SPREAD or len(np.unique(images)) < _FEWEST_SPREAD / 2:
        return
    shares = boxes / np.tile(sizes[:, ::-1], 2)
    low, high = shares[:, :2].min(axis=0), shares[:, 2:].max(axis=0)
    if (high <= 0.75).all() and (low + high <= 0.8).all():
        report.contradict(
            f"all {len(boxes)} objects lie in the upper left {high[0]:.0%} x {high[1]:.0%} of their images (width x "
            "height); if they were drawn on smaller images, or are stated in percent, scale the coordinates"
        )


def judge_runs(by_columns: np.ndarray, by_rows: np.ndarray, said: int, count: int, report: Report) -> bool | None:
    """Whether the runs of `count` masks go along the rows, as the boxes of some prove that fit (bool [k]) by columns or
    by rows; None if they state the width first, and nothing is proved.

    `said` is 0, or of how many masks these are the ones that state the width first.
    """
    wrong, judged = int((~by_columns).sum()), len(by_columns)
    if not said:
        if wrong < _FEWEST or 2 * wrong <= judged or by_rows.mean() < _PROVED:
            return False
        report.contradict(
            f"{wrong} of {judged} run-length masks do not fit their boxes, but they do if their runs go along the "
            "rows, and all are read so; COCO's go along the columns"
        )
        return True
    said_so = f"{count} of {said} run-length masks state their size as [width, height]"
    if judged < _FEWEST or max(by_columns.mean(), by_rows.mean()) < _PROVED:
        report.contradict(
            f"{said_so}; COCO wants [height, width], with runs along the columns: encode the masks again", unusable=True
        )
        return None
    rows = bool(by_rows.mean() > by_columns.mean())
    report.contradict(
        f"{said_so}; they fit their boxes with runs along the {'rows' if rows else 'columns'}, and are read so; COCO "
        "wants [height, width], with runs along the columns"
    )
    return rows


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
