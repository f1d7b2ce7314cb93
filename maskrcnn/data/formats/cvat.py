"""CVAT XML 1.1 "for images": one file, an element an image, in it an element a shape.

Polygons, boxes, masks and ellipses are objects, and so are rotated boxes, as polygons. Shapes of one group and one
label are the parts of one object, as in CVAT's own export to COCO. Polylines, points, skeletons and cuboids are
reported. An image that the file lists without shapes shows background; an image that it does not list is left out.

CVAT's run lengths go along the rows of the mask's box, background first, and its last pixel included.
"""

import math
import shutil
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ...categories import Category
from ...errors import DataError
from ...files import fingerprint, replacing
from ...images import IMAGE_SUFFIXES, MAX_PIXELS
from ...ops.rle import counts_from_bitmap
from ..bitmaps import counts_of_window, draw_bitmap, draw_rings, trimmed
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from ..names import names_below
from ..validate import FAR
from . import ReadOptions, Source
from .files import MOST_BYTES, add_image_file, categories_by_name
from .outlines import ellipse, stated_points, turned
from .rings import rings_of
from .writing import FormatWriter
from .xmls import elements, has_root, number, printable

_SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_SUBSETS = {"train": "Train", "val": "Validation", "test": "Test"}
_OBJECTS = frozenset(("box", "polygon", "mask", "ellipse"))
_NO_CLASSES = frozenset(("polyline", "points", "skeleton", "cuboid", "tag"))  # kinds of labels that no object has
_CROWD = (
    "<attribute><name>is_crowd</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values>false</values></attribute>"
)


class _Image(NamedTuple):
    name: str
    height: int | None
    width: int | None
    shapes: int


class _Contents(NamedTuple):
    """What must be known of a file before its objects are read."""

    labels: list[str]  # of objects, as the file declares them
    used: set[str]  # by objects
    images: dict[str, list[_Image]]  # by subset
    tracks: int


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """An XML of CVAT, or a folder that has one; its subsets are the splits. Several files are splits by their names."""
    if place.is_dir():
        files = [path for path in sorted(place.glob("*.xml")) if _is_cvat(path)]
    else:
        files = [place] if _is_cvat(place) else []
    if len(files) > 1:
        named = {_split_of(path.stem): Source("cvat", path, _split_of(path.stem)) for path in files}
        if not named.keys() <= _SUBSETS.keys() or len(named) < len(files):
            raise DataError(f"{place}: {', '.join(path.name for path in files)} are all of CVAT; name one of them")
        return named
    splits: dict[str, Source] = {}
    for path in files:
        for subset in _contents(path).images or [""]:
            splits.setdefault(_split_of(subset), Source("cvat", path, _split_of(subset)))
    return {"all": Source("cvat", files[0])} if list(splits) == ["default"] else splits


def read(source: Source, options: ReadOptions) -> Dataset:
    """The images of a split, in the order of their names, with their objects. Classes are in the file's order.

    Raises `DataError`, naming the file, if it cannot be read or holds the tracks of "CVAT for video".
    """
    path, contents = source.path, _contents(source.path)
    if contents.tracks and not contents.images:
        raise DataError(
            f"{path}: has {contents.tracks} tracks of 'CVAT for video 1.1'; export the task as 'CVAT for images 1.1'"
        )
    if not contents.labels and not contents.used:
        raise DataError(
            f"{path}: none of its {sum(map(len, contents.images.values()))} images has an object; boxes, polygons, "
            "masks and ellipses are objects, tags (of whole images), points and polylines are none"
        )
    # A file that is a split by its own name has no subset of that name.
    subsets = [subset for subset in contents.images if _split_of(subset) == source.split] or list(contents.images)
    folders = _folders(path, subsets, options)
    builder = DatasetBuilder(path, _categories(contents), folders, strict=options.strict)
    listed = [image for subset in subsets for image in contents.images[subset]]
    ids = _add_images(builder, listed, options)
    if len(subsets) == len(contents.images) or folders[0].name in subsets:  # else the folder has others' images, too
        _add_unlisted(builder, folders[0], {image.name for image in listed}, len(ids), options)
    labels = {category.name: category.id for category in builder.categories}
    for element in elements(path, ("image",), MOST_BYTES):
        id = ids.get(element.get("name", "")) if element.get("subset", "") in subsets else None
        if id is not None:
            _Shapes(builder, id, element, labels).add()
    return builder.build(fingerprint(path))


class Writer(FormatWriter):
    """Writes `annotations.xml` and, unless `images="refer"`, `images/`, as CVAT exports a project.

    An object of one outline is a polygon, of several a mask, without a mask a box. A crowd has the attribute is_crowd.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._count = 0
        self._body = tempfile.TemporaryFile("w+", encoding="utf-8")

    def add(self, record: Record, split: str = "all") -> None:
        subset = _SUBSETS.get(split, split if split != "all" else "")
        name = self.own_name(record, split)
        self.place(record, self.out / "images" / subset, str(name))
        height, width = record.size
        attributes = {"id": self._count, "name": name, "subset": subset, "width": width, "height": height}
        if not subset:
            del attributes["subset"]
        self._count += 1
        self.count_lost(record, scores=True)
        shapes = [self._shape(record, i) for i in range(len(record.labels))]
        self._body.write(f"  <image{_attributes(attributes)}>\n{''.join(shapes)}  </image>\n")

    def close(self) -> None:
        names = (escape(printable(name)) for name in self.names)
        kind = f"<type>any</type><attributes>{_CROWD}</attributes>"
        labels = "".join(f"        <label><name>{name}</name>{kind}</label>\n" for name in names)
        with replacing(self.out / "annotations.xml") as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n')
            file.write(f"    <project>\n      <labels>\n{labels}      </labels>\n    </project>\n  </meta>\n")
            self._body.seek(0)
            shutil.copyfileobj(self._body, file)
            file.write("</annotations>\n")
        self._body.close()

    def _shape(self, record: Record, i: int) -> str:
        attributes = {"label": self.names[record.labels[i]], "source": "manual", "occluded": 0}
        box = record.boxes[i].astype(np.float64).tolist()
        rings = rings_of(record, i)
        if not rings:
            kind, own = "box", dict(zip(("xtl", "ytl", "xbr", "ybr"), map(_text, box), strict=True))
        else:
            corners = np.concatenate(rings)
            if np.abs(np.concatenate([corners.min(axis=0), corners.max(axis=0)]) - box).max() > 0.01:
                self.lost["box that differs from its mask's"] += 1
            if len(rings) == 1:
                kind, own = "polygon", {"points": ";".join(f"{_text(x)},{_text(y)}" for x, y in rings[0].tolist())}
            else:
                kind, own = "mask", _mask(rings, record.size)
        crowd = '<attribute name="is_crowd">true</attribute>' if record.ignore[i] else ""
        return f'    <{kind}{_attributes(attributes | own)} z_order="0">{crowd}</{kind}>\n'


def _text(value: float) -> str:
    return f"{value:.12g}"


def _attributes(values: dict[str, Any]) -> str:
    return "".join(f" {key}={quoteattr(printable(str(value)))}" for key, value in values.items())


def _mask(rings: list[np.ndarray], size: tuple[int, int]) -> dict[str, Any]:
    """A mask element's attributes."""
    part, (top, left) = trimmed(*draw_rings(rings, size, even_odd=True))
    runs = counts_from_bitmap(part.T).tolist()  # which go down the columns
    place = {"left": left, "top": top, "width": part.shape[1], "height": part.shape[0]}
    return {"rle": ", ".join(map(str, runs)), **place}


def _is_cvat(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and has_root(path, "annotations", "image|track|version|meta")


def _split_of(subset: str) -> str:
    """The split of a subset; what cannot be the name of a folder is in "default"."""
    return _SPLITS.get(subset.lower(), subset if _is_plain(subset) else "default")


def _contents(path: Path) -> _Contents:
    contents = _Contents([], set(), {}, 0)
    tracks = 0
    for element in elements(path, ("meta", "image", "track"), MOST_BYTES):
        if element.tag == "meta":
            for label in element.iter("label"):
                name, kind = label.findtext("name"), label.findtext("type")
                if name and kind not in _NO_CLASSES and label.find("parent") is None:
                    contents.labels.append(name)
        elif element.tag == "track":
            tracks += 1
        else:
            contents.used.update(child.get("label", "") for child in element if child.tag in _OBJECTS)
            sides = [_whole(element.get(side)) for side in ("height", "width")]
            image = _Image(element.get("name", ""), sides[0], sides[1], sum(child.tag != "tag" for child in element))
            contents.images.setdefault(element.get("subset", ""), []).append(image)
    return contents._replace(tracks=tracks)


def _whole(text: str | None) -> int | None:
    value = number(text)
    return int(value) if value is not None and 0 < value < 1e9 else None


def _categories(contents: _Contents) -> list[Category]:
    """The labels in the file's order; what objects have beyond them follows, by name."""
    labels = list(dict.fromkeys(contents.labels))
    others = [c.name for c in categories_by_name(contents.used.difference(labels, ("",)))]
    return [Category(id, name) for id, name in enumerate([*labels, *others], start=1)]


def _folders(path: Path, subsets: list[str], options: ReadOptions) -> list[Path]:
    """Where the images may be. CVAT exports a project with a folder for each subset."""
    bases = [path.parent / "images", path.parent] if options.images is None else [options.images]
    places = [*(bases[0] / subset for subset in subsets if _is_plain(subset)), *bases]
    return list(dict.fromkeys(place for place in places if place.is_dir())) or bases


def _is_plain(subset: str) -> bool:
    return subset not in ("", ".", "..") and not any(character in subset for character in "/\\:\0")


def _add_images(builder: DatasetBuilder, images: list[_Image], options: ReadOptions) -> dict[str, int]:
    """Adds the images in the order of their names, numbered from 1; the id of each name."""
    ids: dict[str, int] = {}
    for image in sorted(images, key=lambda image: image.name):
        if image.name in ids:
            builder.report.add("repair", "image that is listed twice, its shapes joined", image.name)
        elif not image.shapes and options.unlabelled == "skip":
            builder.refuse("image", "image without shapes", image.name)
        else:
            ids[image.name] = len(ids) + 1
            builder.add_image(ids[image.name], image.name, image.height, image.width)
    return ids


def _add_unlisted(builder: DatasetBuilder, folder: Path, listed: set[str], last: int, options: ReadOptions) -> None:
    """Images that the file does not list are unlabelled: left out and counted, unless they are background."""
    names = names_below(folder, IMAGE_SUFFIXES)
    if folder == builder.source.parent:  # beside the XML only what is beside it: anything may be below
        names = takewhile(lambda name: "/" not in name, names)
    known = {name.replace("\\", "/") for name in listed}
    for name in sorted(name for name in names if name not in known):
        if options.unlabelled == "background":
            last += 1
            add_image_file(builder, last, folder / name, name)
        else:
            builder.refuse("image", "image without annotations", name)


class _Shapes:
    """The shapes of an image as objects."""

    def __init__(self, builder: DatasetBuilder, id: int, element: Element, labels: dict[str, int]) -> None:
        self.builder, self.id, self.element, self.labels = builder, id, element, labels
        self.size = _whole(element.get("height")) or 0, _whole(element.get("width")) or 0

    def add(self) -> None:
        groups: dict[tuple[str, str], list[tuple[Element, Any]]] = {}
        for child in self.element:
            if child.tag == "tag":
                self.builder.report.add("repair", "tag of a whole image, ignored", child.get("label", ""), self.id)
            elif child.tag not in _OBJECTS:
                self._refuse(f"{child.tag}, which encloses no area", child)
            elif (shape := self._segmentation(child)) is None:
                self._refuse(f"{child.tag} that cannot be read", child)
            elif shape and (group := child.get("group_id", "0")) != "0":
                groups.setdefault((group, child.get("label", "")), []).append((child, shape))
            else:
                self._add(child, shape)
        for members in groups.values():
            if len(members) > 1:
                reason = "shapes of one group and label, joined to one object"
                self.builder.report.add("repair", reason, f"{len(members)} {members[0][0].tag}s", self.id)
            self._add(members[0][0], self._joined([shape for _, shape in members]))

    def _refuse(self, reason: str, child: Element) -> None:
        self.builder.refuse("annotation", reason, child.get("label", ""), image_id=self.id)

    def _add(self, child: Element, shape: Any) -> None:
        label, box = child.get("label", ""), None
        crowd = next((a.text for a in child.iter("attribute") if a.get("name") in ("is_crowd", "iscrowd")), None)
        if not shape:
            x1, y1, x2, y2 = (number(child.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
            box = None if None in (x1, y1, x2, y2) else [x1, y1, x2 - x1, y2 - y1]  # type: ignore[operator]
        self.builder.add_object(
            self.id,
            self.labels.get(label, label),
            id=self.builder.report.annotations_in_file + 1,
            box=box,
            segmentation=shape,
            crowd=(crowd or "").strip().lower() in ("true", "1"),
        )

    def _segmentation(self, child: Element) -> Any:
        """Polygons or run lengths; empty for an upright box; None if it cannot be read."""
        if child.tag == "polygon":
            polygon = stated_points([pair.split(",") for pair in child.get("points", "").split(";")])
            return None if polygon is None or len(polygon) < 3 else [polygon]
        if child.tag == "mask":
            return self._mask(child)
        turn = number(child.get("rotation", "0"))
        if child.tag == "ellipse":
            values = [number(child.get(key)) for key in ("cx", "cy", "rx", "ry")]
        elif turn == 0:
            return []
        else:
            values = [number(child.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
        if turn is None or not all(value is not None and abs(value) < FAR for value in [*values, turn]):
            return None
        a, b, c, d = np.array(values, dtype=np.float64)
        angle = math.radians(turn)
        if child.tag == "ellipse":
            corners = ellipse(a, b, c, d, angle)
        else:
            offsets = np.array([[a - c, b - d], [c - a, b - d], [c - a, d - b], [a - c, d - b]]) / 2
            corners = turned(offsets, angle, (a + c) / 2, (b + d) / 2)
        return [np.round(corners, 6)]

    def _mask(self, child: Element) -> Any:
        height, width = self.size
        place = [_integer(child.get(key)) for key in ("left", "top", "width", "height")]
        if None in place or not height:
            return None
        left, top, own_width, own_height = place
        if not (0 < own_width <= width - left and 0 < own_height <= height - top and left >= 0 and top >= 0):
            return None
        runs = [_integer(run) for run in child.get("rle", "").split(",")]
        if None in runs or min(runs) < 0 or sum(runs) != own_width * own_height or sum(runs) > MAX_PIXELS:
            return None
        pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(own_height, own_width)
        return counts_of_window(pixels, (top, left), self.size), self.size

    def _joined(self, shapes: list[Any]) -> Any:
        """One segmentation of several."""
        if all(isinstance(shape, list) for shape in shapes):
            return [polygon for shape in shapes for polygon in shape]
        whole = np.zeros(self.size, dtype=bool)
        for shape in shapes:
            whole |= draw_bitmap(shape, self.size)
        return counts_from_bitmap(whole), self.size


def _integer(text: str | None) -> Any:
    """The whole number in a text, or None."""
    value = number(text)
    return int(value) if value is not None and value.is_integer() and abs(value) < 2**31 else None
