"""LabelMe: one json an image, beside it or in a folder of its own. X-AnyLabeling and AnyLabeling write the same.

Polygons, circles, masks and turned rectangles are objects with a mask; an upright rectangle is a box without one.
Shapes of one label and one `group_id` are one object, see `outlines.py`. `_background_` cuts a hole into what was drawn
before it, `__ignore__` is left out, as by LabelMe's own converters. X-AnyLabeling's `score` is kept; the flag "crowd"
of a region to ignore is ours.
"""

import base64
import binascii
import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DataError
from ...files import write_json
from ...images import MAX_PIXELS, read_image
from ...ops.rle import counts_from_bitmap
from ..bitmaps import counts_of_window, draw_bitmap, trimmed
from ..dataset import Dataset, Record, Shape
from ..names import Found, ImageFinder, names_below
from ..validate import integer, is_text, show
from . import ReadOptions, Source
from .embedded import unpack
from .files import categories_by_name, fingerprint_of, load_json, peek, size_of, split_folders
from .labelled import Labelled, Thing, Unusable, builder_of
from .outlines import (
    bitmap_of_shapes,
    ellipse,
    segmentation,
    shapes_of_object,
    stated_points,
    united,
)
from .writing import FormatWriter, relative

_VERSION = "5.4.1"  # of LabelMe, whose layout is written
_POINTS = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "rotation": 4, "polygon": 3}
_PNG = b"\x89PNG\r\n\x1a\n"


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A LabelMe json; a folder with such files, in subfolders, too; or one with `train/` and `val/` that hold them."""
    if place.is_file():
        return {"all": Source("labelme", place)} if _is_labelme(place) else {}
    found = {
        split: Source("labelme", folder, split)
        for split, folder in split_folders(place).items()
        if any(_is_labelme(folder / name) for name in names_below(folder, (".json",)))
    }
    return found if not found or "train" in found or "all" in found else {"all": Source("labelme", place)}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set in a LabelMe json, or in all that are in a folder. Image ids count from 1 in the order of the names.

    An image that no json names is left out and counted. Raises `DataError` if there is no object or no image at all.
    """
    whole = source.path.is_dir()
    folder = source.path if whole else source.path.parent
    files = list(filter(_is_labelme, map(folder.joinpath, names_below(folder, (".json",))))) if whole else [source.path]
    images = ImageFinder([options.images or folder])
    found: dict[str, Labelled] = {}
    refused: dict[str, tuple[str, str]] = {}  # by the image's name, else the json's
    for path in files:
        try:
            image = _read_file(path, images, options)
        except DataError as error:
            if not whole or options.strict:
                raise
            name = images.with_stem(path.stem, path.parent.relative_to(folder).as_posix()) or path.name
            refused[name] = "annotation file that cannot be read", str(error)
            continue
        if image.name in found:
            refused[path.name] = "image that has an annotation file already", f"{image.name}, again by {path.name}"
        elif image.things or options.unlabelled != "skip":
            found[image.name] = image
        else:
            refused[image.name] = "image without annotations, left out", image.name
    if not found and refused:
        reason, detail = next(iter(refused.values()))
        raise DataError(
            f"{source.path}: none of its {len(files)} annotation files can be used; the first: {reason} ({detail})"
        )
    for name in images.images() if whole else []:
        if name not in found and name not in refused:
            size = size_of(images.roots[0] / name) if options.unlabelled == "background" else None
            if size is not None:
                found[name] = Labelled(name, size)
            else:
                refused[name] = "image without an annotation file, left out", name
    classes = {thing.label for image in found.values() for thing in image.things}
    if not classes:
        faults = [fault for image in found.values() for fault in image.faults]
        first = f"; the first of {len(faults)} other shapes: {faults[0][0]} ({faults[0][1]})" if faults else ""
        raise DataError(f"{source.path}: none of its {len(found)} images has an object with a box or a mask{first}")
    builder = builder_of(source, found.values(), categories_by_name(classes), images.roots, options)
    for reason, detail in refused.values():
        builder.refuse("image", reason, detail)
    return builder.build(fingerprint_of(files))


def _is_labelme(path: Path) -> bool:
    """Whether a file's beginning and end look like LabelMe's; images that it embeds stand between them."""
    text, keys = peek(path, end=True), (b'"shapes"', b'"imagePath"', b'"imageData"', b'"imageHeight"')
    return text.startswith(b"{") and sum(key in text for key in keys) >= 2


def _read_file(path: Path, images: ImageFinder, options: ReadOptions) -> Labelled:
    """The image that a json annotates, with its objects. Raises `DataError` if that cannot be known."""
    content = load_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{path}: not LabelMe's; expected an object with a list 'shapes'")
    root, name = _find_image(path, content, images)
    stated = _stated_size(content)
    size = size_of(root / name)
    if size is None and stated is not None and math.prod(stated) <= MAX_PIXELS:
        size = stated
    if size is None:
        raise DataError(f"{root / name}: cannot be read as an image, and {path.name} states no size")
    if stated is not None and stated not in (size, size[::-1]):  # reversed: LabelMe did not always turn photos
        raise DataError(
            f"{path}: imageHeight x imageWidth is {stated[0]} x {stated[1]}, but {name} is {size[0]} x {size[1]}; "
            "it is another image, or it was resized after it was labelled"
        )
    objects, faults = _objects(shapes, stated or size, path.name)
    return Labelled(name, stated or size, objects, faults, root=root)


def _find_image(path: Path, content: dict[str, Any], images: ImageFinder) -> tuple[Path, str]:
    """The root of the image and its name there: as `imagePath` says, else named as the json, else out of the json."""
    stated, (root,) = content.get("imagePath"), images.roots
    near = path.parent.relative_to(root).as_posix() if path.is_relative_to(root) else ""
    if isinstance(found := images.find(stated, near), Found):
        return root, found.name
    if name := images.with_stem(path.stem, near):
        return root, name
    if isinstance(data := content.get("imageData"), str) and data:
        return unpack(data, f"{near}/{path.stem}", root, path)
    raise DataError(
        f"{path}: its image {show(stated)} is not below {root}, and the file does not embed it; "
        "name the folder of the images with --images FOLDER"
    )


def _stated_size(content: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width); LabelMe before version 4 states none."""
    height, width = integer(content.get("imageHeight")) or 0, integer(content.get("imageWidth")) or 0
    return (height, width) if min(height, width) > 0 else None


def _objects(shapes: list[Any], size: tuple[int, int], file: str) -> tuple[list[Thing], list[tuple[str, str]]]:
    """The objects of an image, in the order of their first shapes, and what is wrong with the other shapes."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    faults: list[tuple[str, str]] = []
    for place, shape in enumerate(shapes):
        if not isinstance(shape, dict) or not is_text(shape.get("label")) or not shape["label"]:
            faults.append(("shape without a label", f"{file}, shape {place + 1}: {show(shape)}"))
            continue
        group = shape.get("group_id")
        alone = group is None or not isinstance(group, int | str) or shape["label"] == "_background_"
        groups.setdefault(place if alone else (shape["label"], group), []).append(shape | {"place": place + 1})
    objects: list[Thing] = []
    for members in groups.values():
        try:
            if members[0]["label"] == "_background_":
                objects = [_without(thing, members[0], size) for thing in objects]
            else:
                objects.append(_object(members, size))
        except Unusable as error:
            reason, detail = error.args
            faults.append((reason, f"{file}, shape {members[0]['place']} {members[0]['label']!r:.60}{detail}"))
        except DataError as error:
            faults.append((str(error), f"{file}, shape {members[0]['place']}"))
    return objects, faults


def _object(members: list[dict[str, Any]], size: tuple[int, int]) -> Thing:
    """One object of all shapes of a group."""
    label = members[0]["label"]
    if label == "__ignore__":
        raise Unusable("shape labelled __ignore__, left out", "")
    flags = [shape.get("flags") for shape in members]
    crowd = any(isinstance(own, dict) and own.get("crowd") is True for own in flags)
    scores = [shape["score"] for shape in members if isinstance(shape.get("score"), int | float)]
    score = max(scores) if scores else None
    if all(shape.get("shape_type") == "rectangle" for shape in members):
        points = np.concatenate([_ring(shape) for shape in members])
        low, high = points.min(axis=0), points.max(axis=0)
        return Thing(label, None, [*low.tolist(), *(high - low).tolist()], crowd, score)
    windows = [_window(shape, size) for shape in members if shape.get("shape_type") == "mask"]
    rings = [_ring(shape) for shape in members if shape.get("shape_type") != "mask"]
    masks = [segmentation(rings, size)] if rings else []
    mask = united([*masks, *((counts_of_window(*window, size), size) for window in windows)], size)
    return Thing(label, mask, None, crowd, score)


def _without(thing: Thing, background: dict[str, Any], size: tuple[int, int]) -> Thing:
    """An object without the pixels of a shape that was drawn over it."""
    if thing.segmentation is None:
        return thing
    before = draw_bitmap(thing.segmentation, size)
    if background.get("shape_type") == "mask":
        pixels, (top, left) = _window(background, size)
        after = before.copy()
        after[top : top + pixels.shape[0], left : left + pixels.shape[1]] &= ~pixels
    else:
        after = before & ~draw_bitmap([_ring(background)], size)
    return thing if (after == before).all() else thing._replace(segmentation=(counts_from_bitmap(after), size))


def _ring(shape: dict[str, Any]) -> np.ndarray:
    """The outline of a shape, float64 [n 2]. Raises `Unusable`."""
    kind, points = shape.get("shape_type") or "polygon", stated_points(shape.get("points"))
    if not isinstance(kind, str) or kind not in _POINTS:
        raise Unusable("shape that is no area", f": {show(kind)}")
    if points is None:
        raise Unusable("shape whose points are not numbers", f": {show(shape.get('points'))}")
    if len(points) < _POINTS[kind] or (kind in ("circle", "mask") and len(points) > 2):
        raise Unusable("shape with a wrong number of points", f": {kind} of {len(points)}")
    if kind == "circle":
        return ellipse(*points[0], *[math.dist(*points)] * 2)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return points


def _window(shape: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a shape that is a bitmap in a box, bool [h w], and their (row, column) in the image. What is
    outside it is cut off. Raises `Unusable`.
    """
    ((x, y), *_), data = _ring(shape).round().astype(int).tolist(), shape.get("mask")
    try:
        png = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError):
        png = b""
    if not png.startswith(_PNG) or len(png) < 24:
        raise Unusable("mask that is not a PNG in base64", "")
    width, height = struct.unpack(">II", png[16:24])
    if width > size[1] + 2 or height > size[0] + 2:
        raise Unusable("mask that is larger than its image", f": {height} x {width}")
    try:
        pixels = read_image(png, channels=1)[:, :, 0] > 0
    except DataError as error:
        raise Unusable("mask that cannot be decoded", f": {error}") from error
    left, top = min(max(x, 0), size[1]), min(max(y, 0), size[0])
    return pixels[top - y :, left - x :][: size[0] - top, : size[1] - left], (top, left)


class Writer(FormatWriter):
    """Writes a json beside each image, or below `out` with the way to the image.

    Objects in parts are polygons of one `group_id`; those with holes are masks. A mask has whole pixels.
    """

    def add(self, record: Record, split: str = "all") -> None:
        """Writes an image with its objects."""
        placed = self.folder(split) / self.place(record, self.folder(split))
        image = record.path if self.images == "refer" else placed
        path = self.folder(split) / self.own_name(record, split).with_suffix(".json")
        self.count_lost(record)
        shapes = [shape for i in range(len(record.labels)) for shape in self._shapes(record, i)]
        write_json(
            path,
            {
                "version": _VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": relative(image, path.parent),
                "imageData": None,
                "imageHeight": record.size[0],
                "imageWidth": record.size[1],
            },
        )

    def _shapes(self, record: Record, i: int) -> list[dict[str, Any]]:
        """The shapes of object i."""
        parts = shapes_of_object(record, i)
        common: dict[str, Any] = {"label": self.names[record.labels[i]]}
        if (score := record.score(i)) is not None:
            common["score"] = score
        flags = {"crowd": True} if record.ignore[i] else {}
        if not parts:
            x1, y1, x2, y2 = record.boxes[i].tolist()
            shape = {"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]], "mask": None}
            return [common | shape | {"group_id": None, "description": "", "flags": flags}]
        if any(part.holes for part in parts):
            if record.shapes and record.shapes[i]:
                self.lost["outline between pixels, of an object with a hole"] += 1
            return [common | _mask_shape(record, parts) | {"group_id": None, "description": "", "flags": flags}]
        group = i + 1 if len(parts) > 1 else None
        return [
            common
            | {"shape_type": "polygon", "points": part.outer.tolist(), "mask": None}
            | {"group_id": group, "description": "", "flags": flags}
            for part in parts
        ]


def _mask_shape(record: Record, parts: Sequence[Shape]) -> dict[str, Any]:
    """A bitmap in its box, whose last pixel LabelMe counts in."""
    bits, (top, left) = trimmed(bitmap_of_shapes(parts, record.size))
    bits = bits if bits.size else np.zeros((1, 1), dtype=bool)
    file = io.BytesIO()
    Image.fromarray(bits.astype(np.uint8) * 255).save(file, "PNG")
    return {
        "shape_type": "mask",
        "points": [[float(left), float(top)], [left + bits.shape[1] - 1.0, top + bits.shape[0] - 1.0]],
        "mask": base64.b64encode(file.getvalue()).decode(),
    }
