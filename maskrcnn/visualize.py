"""A result drawn on its image: translucent masks with outlines, boxes, names with scores, keypoints and skeletons.

Pillow alone. Line widths and letters grow with the image, small images are enlarged first. A class keeps its colour
in every image; objects of one class differ in shade.
"""

import colorsys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .categories import keypoint_slices
from .images import read_image

if TYPE_CHECKING:
    from .results import Result

_LEAST_SIDE = 640  # images whose longer side is below are enlarged by a whole factor
_CROWDED = 30  # objects, above which letters shrink and a name without room is left out

Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the drawing


class _Measures(NamedTuple):
    """What scales with the drawing, in its pixels."""

    line: int
    letters: int


def draw(result: "Result", image: np.ndarray | None = None, *, text: bool = True) -> Image.Image:
    """`result` on its image, RGB.

    The image is `image` (uint8 [H W C]), else the result's own, else read from its path. Raises DataError where that
    cannot be read, ValueError where there is none or its size is another.
    """
    drawing = _drawing(result, image)
    factor = max(1, round(_LEAST_SIDE / max(drawing.size)))
    if factor > 1:
        drawing = drawing.resize((drawing.width * factor, drawing.height * factor), Image.Resampling.BICUBIC)
    measures = _measures(drawing.size, len(result))
    colours = object_colours(result.labels)
    boxes = result.boxes * factor
    outlines = _outlines(result, boxes, factor)
    by_area = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist()
    for i in by_area:  # small objects over large ones
        _fill(drawing, outlines[i], colours[i])
    pen = ImageDraw.Draw(drawing)
    for i in by_area:
        line = max(1, measures.line // 2) if any(outlines[i]) else measures.line
        pen.rectangle([float(side) for side in boxes[i]], outline=colours[i], width=line)
        for ring in (ring for kind in outlines[i] for ring in kind):
            pen.line([*map(tuple, ring), *map(tuple, ring[:2])], fill=colours[i], width=measures.line, joint="curve")
    if result.keypoints is not None:
        for i in by_area:
            _draw_keypoints(pen, result, i, factor, measures, colours[i])
    if text:
        _write_names(pen, drawing.size, result, boxes, colours, measures)
    return drawing


def class_hue(label: int) -> float:
    """The hue (0..1) of a category id: the same in every image, far from those of neighbouring ids."""
    return (0.44 + label * 0.6180339887) % 1.0  # the golden ratio spreads any number of ids


def object_colours(labels: np.ndarray) -> list[Colour]:
    """A colour for each object: the hue of its class, in a shade by how many of the class came before."""
    seen: dict[int, int] = {}
    colours = []
    for label in labels.tolist():
        n = seen[label] = seen.get(label, -1) + 1
        hue = (class_hue(label) + (0.0, 0.035, -0.035, 0.07, -0.07)[n % 5]) % 1.0
        light = (0.55, 0.68, 0.45, 0.62)[n % 4]
        colours.append(_visible(np.array(colorsys.hls_to_rgb(hue, light, 0.95)) * 255))
    return colours


def _visible(colour: np.ndarray) -> Colour:
    """The colour, mixed with white where it would be lost on a dark image: blue is the darkest of all hues."""
    short = max(0.0, 100 - _brightness(colour))
    red, green, blue = (colour + (255 - colour) * short / (255 - _brightness(colour))).round().astype(int).tolist()
    return red, green, blue


def _brightness(colour: np.ndarray | Colour) -> float:
    """0..255, as the eye weighs red, green and blue."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def _drawing(result: "Result", image: np.ndarray | None) -> Image.Image:
    pixels = image if image is not None else result.image
    if pixels is None:
        if result.path is None:
            raise ValueError("a result without a file needs its image: draw(result, image)")
        pixels = read_image(result.path)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    if pixels.shape[:2] != tuple(result.size):
        raise ValueError(f"the image is {pixels.shape[:2]}, the result was made for {tuple(result.size)}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _measures(size: tuple[int, int], objects: int) -> _Measures:
    diagonal = float(np.hypot(*size))
    letters = max(11.0, diagonal / 58)
    if objects > _CROWDED:
        letters = max(10.0, letters * 0.7)
    return _Measures(line=max(2, round(diagonal / 550)), letters=round(letters))


def _outlines(result: "Result", boxes: np.ndarray, factor: int) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Outer outlines and holes of each object, in pixels of the drawing."""
    if result.outlines is None:
        return [([], []) for _ in boxes]
    return [([ring * factor for ring in o.outer], [ring * factor for ring in o.holes]) for o in result.outlines]


def _fill(drawing: Image.Image, outlines: tuple[list[np.ndarray], list[np.ndarray]], colour: Colour) -> None:
    """Lays the colour over the inside, working only where the object is."""
    outer, holes = outlines
    if not outer:
        return
    low = np.floor(np.min([ring.min(axis=0) for ring in outer], axis=0)).astype(int)
    high = np.ceil(np.max([ring.max(axis=0) for ring in outer], axis=0)).astype(int) + 1
    cover = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
    pen = ImageDraw.Draw(cover)
    for rings, value in ((outer, 105), (holes, 0)):  # 0..255: how much of the colour
        for ring in rings:
            pen.polygon([tuple(point) for point in ring - low], fill=value)
    drawing.paste(colour, (int(low[0]), int(low[1])), cover)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw, result: "Result", i: int, factor: int, measures: _Measures, colour: Colour
) -> None:
    """The keypoints of the object's own category that have a positive score, and the limbs between them."""
    label = int(result.labels[i])
    known = {category.id: k for k, category in enumerate(result.categories)}
    if label not in known or result.keypoints is None:
        return
    category = result.categories[known[label]]
    keypoints = result.keypoints[i, keypoint_slices(result.categories)[known[label]]]
    seen = keypoints[:, 2] > 0
    points = [(float(x) * factor, float(y) * factor) for x, y in keypoints[:, :2]]
    for a, b in category.skeleton:
        if seen[a] and seen[b]:
            pen.line([points[a], points[b]], fill=(20, 20, 20), width=measures.line + 2)
            pen.line([points[a], points[b]], fill=colour, width=measures.line)
    radius = measures.line * 1.3 + 1
    for (x, y), real in zip(points, seen, strict=True):
        if real:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=(20, 20, 20))


def _write_names(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    result: "Result",
    boxes: np.ndarray,
    colours: list[Colour],
    measures: _Measures,
) -> None:
    """Name and score on a plate at each box, best objects first, where no plate is yet and few small objects are.

    In a crowd a name that finds no free place, or is much wider than its object, is left out. The score stands alone
    where many objects are all of the only category.
    """
    font = ImageFont.load_default(measures.letters)
    pad = max(2, measures.letters // 5)
    crowded = len(result) > _CROWDED
    nameless = len(result) > _CROWDED // 3 and len(result.categories) == 1
    small = boxes[(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) < (8 * measures.letters) ** 2]
    taken = np.zeros((0, 4))
    for i in np.argsort(-result.scores, kind="stable").tolist():
        words = f"{result.scores[i]:.2f}" if nameless else f"{result.names[i]} {result.scores[i]:.2f}"
        left, _, right, _ = font.getbbox(words)
        width, height = round(right - left) + 2 * pad, round(measures.letters * 1.15) + pad
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
        pen.text(at, words, fill=ink, font=font, anchor="lm")


def _places(box: np.ndarray, width: int, height: int) -> Iterator[Area]:
    """Where a plate may stand, best first: above the box, in its corners, below it."""
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    middle = (x1 + x2 - width) // 2
    for x, y in (
        (x1, y1 - height),
        (x1, y1),
        (x2 - width, y1 - height),
        (x1, y2),
        (x2 - width, y2),
        (x1, y2 - height),
        (x2 - width, y2 - height),
        (x2 - width, y1),
        (middle, (y1 + y2 - height) // 2),
    ):
        yield x, y, x + width, y + height


def _moved_inside(place: Area, size: tuple[int, int]) -> Area:
    x1, y1, x2, y2 = place
    right = max(0, min(x1, size[0] - (x2 - x1)))
    down = max(0, min(y1, size[1] - (y2 - y1)))
    return right, down, right + x2 - x1, down + y2 - y1


def _shared(place: Area, others: np.ndarray) -> float:
    """The area that a place has in common with boxes [n 4], summed."""
    low, high = np.maximum(others[:, :2], place[:2]), np.minimum(others[:, 2:], place[2:])
    return float((high - low).clip(min=0).prod(axis=1).sum())
