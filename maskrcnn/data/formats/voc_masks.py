"""VOC's masks: PNGs in whose palette every number has a fixed colour, one for the objects, one for their classes.

CVAT and Datumaro write the colours instead, and name those of the classes in `labelmap.txt`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import PngImagePlugin

from ...images.pillow import DECODER_ERRORS
from ..bitmaps import draw_window
from ..label_images import objects_of
from .files import read_lines

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255
NO_CLASSES = ("background", "ignored")

_LABEL = re.compile(r"(.*?):\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(:[^:]*){0,2}")  # a name may have colons

Colour = tuple[int, int, int]


class Mask(NamedTuple):
    """The pixels of one object in `SegmentationObject`."""

    number: int
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 around them
    counts: np.ndarray  # uint32, run lengths of the image
    name: str | None  # of the class that most of the pixels have


def _colours() -> list[Colour]:
    """VOC's palette: the bits of a number, from the lowest, go in turns to red, green and blue, from the highest."""
    places = [[sum((i >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3)] for i in range(256)]
    return [(red, green, blue) for red, green, blue in places]


PALETTE = _colours()


def class_names(path: Path) -> list[tuple[Colour, str]]:
    """The colours and names of the classes in `labelmap.txt`, in order, background included; none without the file."""
    found: list[tuple[Colour, str]] = []
    for line in read_lines(path) if path.is_file() else []:
        if (match := _LABEL.fullmatch(line)) and not line.startswith("#"):
            found.append(((int(match[2]), int(match[3]), int(match[4])), match[1]))
    return found


def read_masks(
    path: Path,
    class_path: Path | None,
    size: tuple[int, int],
    names: list[tuple[Colour, str]],
    report: Callable[[str, str], None],
) -> list[Mask]:
    """The masks of an image of `size`, (height, width), by their numbers. `names` are those of `class_names`.

    What cannot be used is reported: why, and where.
    """
    numbers = _pixels(path, size, {colour: i for i, colour in enumerate(PALETTE)}, report)
    if numbers is None:
        return []
    names = names or list(zip(PALETTE, ("background", *CLASSES), strict=False))
    classes = None
    if class_path is not None and class_path.is_file():
        classes = _pixels(class_path, size, {colour: i for i, (colour, _) in enumerate(names)}, report)
    found = []
    for number, counts in zip(*objects_of(np.where(numbers == VOID, 0, numbers)), strict=True):
        bits, (top, left) = draw_window((counts, size), size)
        box = left, top, left + bits.shape[1], top + bits.shape[0]
        name = None
        if classes is not None:
            own = classes[top : box[3], left : box[2]][bits]
            best = int(np.bincount(own).argmax())
            name = names[best][1] if best < len(names) and names[best][1] not in NO_CLASSES else None
        found.append(Mask(int(number), box, counts, name))
    return found


def _pixels(
    path: Path, size: tuple[int, int], colours: dict[Colour, int], report: Callable[[str, str], None]
) -> np.ndarray | None:
    """The number of each pixel, integers [H W]: what is stored, or that of its colour; None if it cannot be used."""
    try:
        with path.open("rb") as file, PngImagePlugin.PngImageFile(file) as image:
            if (image.height, image.width) != size:
                stated = f"{path.name}: {image.height} x {image.width}, the image is {size[0]} x {size[1]}"
                report("masks of another size than their image", stated)
                return None
            stored = np.asarray(image if image.mode in ("P", "L", "1", "I;16", "I") else image.convert("RGB"))
    except DECODER_ERRORS as error:
        report("masks that cannot be read", f"{path.name}: {error}")
        return None
    if stored.ndim == 2:
        return stored if stored.dtype == np.uint8 else stored.astype(np.int32)
    codes, places = np.unique(stored.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), return_inverse=True)
    used = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    known = {PALETTE[VOID]: VOID} | colours
    numbers = [known.get(colour, VOID + 1 + i) for i, colour in enumerate(used)]
    return np.array(numbers)[places.reshape(stored.shape[:2])]
