"""Draws what was found in an image: translucent masks with outlines, boxes, names with scores, keypoints and skeletons.

Needs Pillow only. Lines and letters grow with the image, and small images are enlarged first. A class has the same
colour in every image; objects of one class differ in shade.
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .categories import Category, keypoint_slices
from .ops.contour import Outline

_LEAST_SIDE = 640  # pixels; images whose longer side is shorter are enlarged by a whole factor
_CROWDED = 30  # with more objects, letters shrink and names that find no free place are left out
_FINE = 1200  # pixels; the diagonal of an image above which a crowd of small objects keeps lines and letters small

Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the drawing


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    outlines: Sequence[Outline] | None = None,
    keypoints: np.ndarray | None = None,
    categories: Sequence[Category] = (),
    text: bool = True,
    colours: Sequence[Colour] | None = None,
    ids: np.ndarray | None = None,
) -> Image.Image:
    """D objects on their image, RGB. The fields of a `results.Result`, which documents them.

    Args:
        image: uint8 [H W] or [H W C]. The first three channels are shown; of one or two channels the first, in grey.
        boxes: [D 4], xyxy, in pixels of the image.
        scores: [D], 0..1; None for annotations, which have none.
        labels: int [D], category ids, which choose the colours.
        names: the D names that are written, beside the scores.
        outlines: the D masks; None without masks.
        keypoints: [D J 3], x, y, score, of all `categories`. Those with score 0 are left out.
        text: whether to write names and scores.
        colours: of the objects, instead of those of their classes.
        ids: int [D], of objects in a video. Then these choose the colours, and are written in place of the scores.
    """
    drawing = _as_rgb(image)
    factor = max(1, round(_LEAST_SIDE / max(drawing.size)))
    if factor > 1:
        drawing = drawing.resize((drawing.width * factor, drawing.height * factor), Image.Resampling.BICUBIC)
    colours = list(colours or object_colours(labels, ids))
    boxes = boxes * factor
    measure = _measure(drawing.size, boxes)
    line = max(2, round(measure / 550))
    masks = outlines or [Outline([], [])] * len(boxes)
    rings = [([ring * factor for ring in mask.outer], [ring * factor for ring in mask.holes]) for mask in masks]
    largest_first = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist()
    for i in largest_first:
        outer, holes = rings[i]
        _fill(drawing, outer, holes, colours[i])
    pen = ImageDraw.Draw(drawing)
    for i in largest_first:
        outer, holes = rings[i]
        pen.rectangle(boxes[i].tolist(), outline=colours[i], width=max(1, line // 2) if outer else line)
        for ring in (*outer, *holes):
            pen.line([*map(tuple, ring), *map(tuple, ring[:2])], fill=colours[i], width=line, joint="curve")
    if keypoints is not None:
        own = dict(zip((category.id for category in categories), keypoint_slices(categories), strict=True))
        skeletons = {category.id: category.skeleton for category in categories}
        for i in largest_first:
            if (label := int(labels[i])) in own:
                mine = keypoints[i, own[label]] * [factor, factor, 1]
                _draw_keypoints(pen, mine, skeletons[label], line, colours[i])
    if text:
        order = np.arange(len(boxes)) if scores is None else np.argsort(-scores if ids is None else ids, kind="stable")
        figures = None if scores is None else [f"{score:.2f}" for score in scores] if ids is None else ids.tolist()
        words = _words(names, figures, one_class=len(categories) == 1)
        _write_names(pen, drawing.size, measure, boxes, order.tolist(), words, colours)
    return drawing


def _measure(size: tuple[int, int], boxes: np.ndarray) -> float:
    """What lines and letters grow with: the diagonal, but for a large image with a crowd of small objects."""
    diagonal = float(np.hypot(*size))
    if len(boxes) <= _CROWDED:
        return diagonal
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1))
    return min(diagonal, max(_FINE, 40 * float(np.median(sides))))


def class_hue(label: int) -> float:
    """The hue (0..1) of a category id: the same in every image and far from the hues of neighbouring ids."""
    return (0.44 + label * 0.6180339887) % 1.0  # steps of the golden ratio keep any number of ids apart


def object_colours(labels: np.ndarray, ids: np.ndarray | None = None) -> list[Colour]:
    """A colour for each object: the hue of its class, in a shade that depends on its place among objects of the class.

    labels: int [D], category ids.
    ids: int [D], of objects in a video, which then have a colour each in all frames.
    """
    if ids is not None:
        return [_visible(np.array(colorsys.hls_to_rgb(class_hue(one), 0.55, 0.95)) * 255) for one in ids.tolist()]
    seen: dict[int, int] = {}
    colours = []
    for label in labels.tolist():
        n = seen[label] = seen.get(label, -1) + 1
        hue = (class_hue(label) + (0.0, 0.035, -0.035, 0.07, -0.07)[n % 5]) % 1.0
        light = (0.55, 0.68, 0.45, 0.62)[n % 4]
        colours.append(_visible(np.array(colorsys.hls_to_rgb(hue, light, 0.95)) * 255))
    return colours


def _visible(colour: np.ndarray) -> Colour:
    """The colour, mixed with white if it is too dark for a dark image, as pure blue is."""
    short = max(0.0, 100 - _brightness(colour))
    red, green, blue = (colour + (255 - colour) * short / (255 - _brightness(colour))).round().astype(int).tolist()
    return red, green, blue


def _brightness(colour: np.ndarray | Colour) -> float:
    """0..255, with the weights that the eye gives to red, green and blue."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def _as_rgb(image: np.ndarray) -> Image.Image:
    pixels = image[..., None] if image.ndim == 2 else image
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _fill(drawing: Image.Image, outer: list[np.ndarray], holes: list[np.ndarray], colour: Colour) -> None:
    """Lays the colour over the inside of an object. Only the pixels around the object are touched."""
    if not outer:
        return
    points = np.concatenate(outer)
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
    cover = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
    pen = ImageDraw.Draw(cover)
    for rings, opacity in ((outer, 105), (holes, 0)):  # 0..255
        for ring in rings:
            pen.polygon([tuple(point) for point in ring - low], fill=opacity)
    drawing.paste(colour, (int(low[0]), int(low[1])), cover)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw, keypoints: np.ndarray, skeleton: Sequence[tuple[int, int]], line: int, colour: Colour
) -> None:
    """The keypoints [n 3] of one object that have a positive score, and the limbs between them."""
    points, seen = [(x, y) for x, y, _ in keypoints.tolist()], keypoints[:, 2] > 0
    for a, b in skeleton:
        if seen[a] and seen[b]:
            pen.line([points[a], points[b]], fill=(20, 20, 20), width=line + 2)
            pen.line([points[a], points[b]], fill=colour, width=line)
    radius = line * 1.3 + 1
    for x, y in keypoints[seen, :2].tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=(20, 20, 20))


def _words(names: Sequence[str], figures: Sequence[Any] | None, *, one_class: bool) -> list[str]:
    """What is written at each object. If there is `one_class`, many objects show their scores or ids only."""
    alone = len(names) > _CROWDED // 3 and one_class
    if figures is None:
        return [] if alone else list(names)
    return [f"{figure}" if alone else f"{name} {figure}" for name, figure in zip(names, figures, strict=True)]


def _write_names(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    measure: float,
    boxes: np.ndarray,
    order: Sequence[int],
    words: Sequence[str],
    colours: list[Colour],
) -> None:
    """Its words on a plate at each box. The first in `order` choose first, and avoid other plates and small objects.

    In a crowd, a name that finds no free place or is much wider than its object is left out.
    """
    if not words:
        return
    crowded = len(boxes) > _CROWDED
    height = max(11.0, measure / 58)
    letters = round(max(10.0, height * 0.7) if crowded else height)
    font = ImageFont.load_default(letters)
    pad = max(2, letters // 5)
    small = boxes[(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) < (8 * letters) ** 2]
    taken = np.zeros((0, 4))
    for i in order:
        left, _, right, _ = font.getbbox(words[i])
        width, height = round(right - left) + 2 * pad, round(letters * 1.15) + pad
        if crowded and width > 1.6 * (boxes[i, 2] - boxes[i, 0]):
            continue
        places = [_moved_inside(place, size) for place in _places(boxes[i], width, height)]
        on_plates = [_shared(place, taken) for place in places]
        best = int(np.argmin([4 * on + _shared(place, small) for on, place in zip(on_plates, places, strict=True)]))
        if on_plates[best] > (0 if crowded else 0.4 * width * height):
            continue
        place = places[best]
        taken = np.concatenate([taken, [place]])
        pen.rounded_rectangle(place, radius=pad, fill=colours[i])
        at = (place[0] + pad - left, (place[1] + place[3]) / 2)
        ink = (0, 0, 0) if _brightness(colours[i]) > 125 else (255, 255, 255)
        pen.text(at, words[i], fill=ink, font=font, anchor="lm")


def _places(box: np.ndarray, width: int, height: int) -> list[Area]:
    """Where a plate can stand, best first: above the box, in its corners, below it, in its middle."""
    left, top, x2, below = (round(float(side)) for side in box)
    right, above, bottom = x2 - width, top - height, below - height
    places = (left, above), (left, top), (right, above), (left, below), (right, below)
    places += (left, bottom), (right, bottom), (right, top), ((left + right) // 2, (top + bottom) // 2)
    return [(x, y, x + width, y + height) for x, y in places]


def _moved_inside(place: Area, size: tuple[int, int]) -> Area:
    x1, y1, x2, y2 = place
    right = max(0, min(x1, size[0] - (x2 - x1)))
    down = max(0, min(y1, size[1] - (y2 - y1)))
    return right, down, right + x2 - x1, down + y2 - y1


def _shared(place: Area, others: np.ndarray) -> float:
    """The area that a place has in common with boxes [n 4], summed over the boxes."""
    low, high = np.maximum(others[:, :2], place[:2]), np.minimum(others[:, 2:], place[2:])
    return float((high - low).clip(min=0).prod(axis=1).sum())
