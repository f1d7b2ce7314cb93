"""Images with what was right and what was wrong in them: the ground truth beside the detections, worst images first."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..data.dataset import Dataset
from ..errors import DataError
from ..evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    LOCALISATION,
    Judgement,
)
from ..evaluation.sparse import Objects
from ..ops.contour import Outline, trace
from ..ops.runs import bitmap
from ..visualize import Colour, draw
from .page import framed

SHOWN = 12
_LONGEST = 560  # pixels
_CROP = 1600  # pixels of a side above which only the part with most mistakes is shown
_GREY: Colour = (150, 150, 150)
_COLOURS: dict[int, Colour] = {
    CORRECT: (56, 176, 88),
    CLASSIFICATION: (168, 112, 240),
    LOCALISATION: (245, 150, 40),
    BOTH: (240, 110, 190),
    DUPLICATE: (70, 150, 245),
    BACKGROUND: (235, 66, 66),
    IGNORED: _GREY,
}
_MISSED: Colour = (250, 210, 40)
_WORDS = {
    CORRECT: "right",
    CLASSIFICATION: "wrong class",
    LOCALISATION: "wrong place",
    BOTH: "wrong class and place",
    DUPLICATE: "found twice",
    BACKGROUND: "nothing there",
}


def worst_images(judgement: Judgement, thresholds: np.ndarray, images: int, count: int = SHOWN) -> list[int]:
    """The images with most mistakes, detections that are wrong and objects that are missed, at these thresholds."""
    wrong, lost = _mistakes(judgement, thresholds)
    many = np.bincount(judgement.found.images[wrong], minlength=images)
    many += np.bincount(judgement.truth.images[lost], minlength=images)
    return np.argsort(-many, kind="stable")[:count].tolist()


def mistakes_section(dataset: Dataset, judgement: Judgement, thresholds: np.ndarray, count: int = SHOWN) -> str:
    """The worst images as HTML, with a legend."""
    cards = []
    for i in worst_images(judgement, thresholds, len(dataset), count):
        try:
            truth, found = draw_mistakes(dataset, judgement, thresholds, i)
        except DataError as error:
            cards.append(f"<div class=card><figcaption>{escape(str(error))}</figcaption></div>")
            continue
        name = dataset.name(i)
        shown = framed(truth, f"{name}: ground truth", _LONGEST) + framed(
            found, _counted(judgement, thresholds, i), _LONGEST
        )
        cards.append(f"<div class='card pair'>{shown}</div>")
    legend = [(_COLOURS[kind], words) for kind, words in _WORDS.items()] + [
        (_MISSED, "missed (left)"),
        (_GREY, "crowd"),
    ]
    keys = "".join(f"<li><i style='border-color:rgb{colour}'></i>{escape(words)}</li>" for colour, words in legend)
    under = (
        "Most mistakes first. Left: the ground truth. Right: the detections of at least the best threshold of their "
        "class. A wrong place overlaps an object with an IoU of 0.1 to 0.5, nothing there with less."
    )
    return (
        f"<h2>Images</h2><p class=under>{under}</p><ul class=legend>{keys}</ul>"
        f"<div class='images pairs'>{''.join(cards)}</div>"
    )


def draw_mistakes(
    dataset: Dataset, judgement: Judgement, thresholds: np.ndarray, i: int
) -> tuple[Image.Image, Image.Image]:
    """Image i with its objects, and with its detections. Raises `DataError` if it cannot be read."""
    truth, found = judgement.truth, judgement.found
    objects = np.flatnonzero(truth.images == i)
    detections = np.flatnonzero((found.images == i) & judgement.above(thresholds))
    wrong, lost = _mistakes(judgement, thresholds)
    height, width = dataset.sizes[i].tolist()
    boxes = [truth.boxes[objects][lost[objects]], found.boxes[detections][wrong[detections]]]
    x1, y1, x2, y2 = part = _part((height, width), boxes)
    with dataset.open(i) as source:
        image = source.display((y1, x1, y2, x2))
    is_crowd = ~judgement.real
    colours = [_GREY if is_crowd[n] else _MISSED if lost[n] else _COLOURS[CORRECT] for n in objects.tolist()]
    kinds = judgement.kinds[detections].tolist()
    return (
        _drawn(image, height, part, truth, objects, colours, dataset),
        _drawn(image, height, part, found, detections, [_COLOURS[kind] for kind in kinds], dataset),
    )


def _mistakes(judgement: Judgement, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrong detections, bool [D], and missed objects, bool [N]."""
    wrong = judgement.above(thresholds) & ~np.isin(judgement.kinds, (CORRECT, IGNORED))
    return wrong, judgement.real & ~judgement.found_at(thresholds)


def _counted(judgement: Judgement, thresholds: np.ndarray, i: int) -> str:
    chosen = (judgement.found.images == i) & judgement.above(thresholds)
    counts = Counter(_WORDS[kind] for kind in judgement.kinds[chosen].tolist() if kind != IGNORED)
    counts["missed"] = int(_mistakes(judgement, thresholds)[1][judgement.truth.images == i].sum())
    return ", ".join(f"{counts[words]} {words}" for words in (*_WORDS.values(), "missed") if counts[words]) or "nothing"


def _drawn(
    image: np.ndarray,
    height: int,
    part: tuple[int, int, int, int],
    side: Objects,
    rows: np.ndarray,
    colours: Sequence[Colour],
    dataset: Dataset,
) -> Image.Image:
    """The chosen objects on a part of their image, whose whole has this height."""
    x1, y1, x2, y2 = part
    outlines = [_outline(side, n, height, part) for n in rows.tolist()]
    boxes = side.boxes[rows].copy()
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes - [x1, y1, x1, y1], 0, [x2 - x1, y2 - y1] * 2)
    seen = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1)).tolist()
    labels = side.labels[rows]
    return draw(
        image,
        boxes[seen],
        None if side.scores is None else side.scores[rows][seen],
        np.array([dataset.categories[label].id for label in labels[seen].tolist()], dtype=np.int64),
        [dataset.categories[label].name for label in labels[seen].tolist()],
        outlines=[outlines[n] for n in seen] if side.runs is not None else None,
        categories=dataset.categories,
        colours=[colours[n] for n in seen],
        text=len(seen) <= 60,
    )


def _outline(side: Objects, n: int, height: int, part: tuple[int, int, int, int]) -> Outline:
    """The outline of an object in pixels of a part of its image."""
    if side.runs is None:
        return Outline([], [])
    bits, (top, left) = bitmap(side.runs, n, height)
    if not bits.size:
        return Outline([], [])
    x1, y1, x2, y2 = part
    bits = bits[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)]
    if not bits.any():
        return Outline([], [])
    left, top = max(left - x1, 0), max(top - y1, 0)
    box = np.array([left, top, left + bits.shape[1], top + bits.shape[0]])
    return trace(bits, box, (y2 - y1, x2 - x1))


def _part(size: tuple[int, int], boxes: list[np.ndarray]) -> tuple[int, int, int, int]:
    """The whole image, x1, y1, x2, y2; of a large one the part around most of the boxes, x, y, width, height."""
    height, width = size
    if max(size) <= _CROP:
        return 0, 0, width, height
    every = np.concatenate(boxes)
    middles = every[:, :2] + every[:, 2:] / 2 if len(every) else np.array([[width / 2, height / 2]])
    near = (np.abs(middles[:, None] - middles[None]) < _CROP / 2).all(axis=2).sum(axis=1) if len(middles) < 2000 else []
    x, y = middles[int(np.argmax(near)) if len(near) else 0]
    left, top = (int(np.clip(at - _CROP / 2, 0, max(side - _CROP, 0))) for at, side in ((x, width), (y, height)))
    return left, top, min(left + _CROP, width), min(top + _CROP, height)
