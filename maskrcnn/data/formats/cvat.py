"""CVAT XML 1.1 "for images": one file, an element an image, in it an element a shape.

Polygons, boxes, masks and ellipses are objects, and so are rotated boxes, as polygons. Shapes of one group and one
label are the parts of one object, as in CVAT's own export to COCO. Polylines, points, skeletons and cuboids are
reported. An image that the file lists without shapes shows background; an image that it does not list is left out.

CVAT's run lengths go along the rows of the mask's box, background first, and its last pixel included.
"""

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from ...categories import Category
from ...errors import DataError
from ...files import fingerprint, replacing
from ...images import IMAGE_SUFFIXES, MAX_PIXELS
from ...ops.rle import counts_from_bitmap
from ..bitmaps import counts_of_window, draw_rings, trimmed
from ..dataset import Dataset, Record, Segmentation
from ..names import names_below
from ..validate import FAR, integer
from . import ReadOptions, Source
from .files import MOST_BYTES, size_of
from .labelled import Labelled, Thing, Unusable, builder_of
from .outlines import ellipse, stated_points, turned, united
from .rings import rings_of
from .writing import FormatWriter
from .xmls import elements, has_root, number, printable, side

_SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_SUBSETS = {"train": "Train", "val": "Validation", "test": "Test"}
_OBJECTS = frozenset(("box", "polygon", "mask", "ellipse"))
_NO_CLASSES = frozenset(("polyline", "points", "skeleton", "cuboid", "tag"))  # kinds of labels that no object has
_CROWD = (
    "<attribute><name>is_crowd</name><mutable>False</mutable><input_type>checkbox</input_type>"
    "<default_value>false</default_value><values>false</values></attribute>"
)


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
        for subset in [image.get("subset", "") for image in elements(path, ("image",), MOST_BYTES)] or [""]:
            splits.setdefault(_split_of(subset), Source("cvat", path, _split_of(subset)))
    return {"all": Source("cvat", files[0])} if list(splits) == ["default"] else splits


def read(source: Source, options: ReadOptions) -> Dataset:
    """The images of a split, in the order of their names, with their objects. Classes are in the file's order.

    Raises `DataError`, naming the file, if it cannot be read or holds the tracks of "CVAT for video".
    """
    path, labels, used, tracks = source.path, dict[str, None](), set[str](), 0
    images: dict[str, list[Labelled]] = {}  # by subset
    for element in elements(path, ("meta", "image", "track"), MOST_BYTES):
        if element.tag == "meta":
            labels |= dict.fromkeys(_declared(element))
        elif element.tag == "image":
            used |= {child.get("label", "") for child in element if child.tag in _OBJECTS}
            images.setdefault(element.get("subset", ""), []).append(_labelled(element))
        tracks += element.tag == "track"
    if tracks and not images:
        raise DataError(
            f"{path}: has {tracks} tracks of 'CVAT for video 1.1'; export the task as 'CVAT for images 1.1'"
        )
    if not labels and not used:
        raise DataError(
            f"{path}: none of its {sum(map(len, images.values()))} images has an object; boxes, polygons, masks and "
            "ellipses are objects, tags (of whole images), points and polylines are none"
        )
    # A file that is a split by its own name has no subset of that name.
    subsets = [subset for subset in images if _split_of(subset) == source.split] or list(images)
    folders = _folders(path, subsets, options)
    found, left_out = _joined([image for subset in subsets for image in images[subset]]), []
    if options.unlabelled == "skip":
        left_out = [("image without shapes", name) for name, image in found.items() if not image.things]
    if len(subsets) == len(images) or folders[0].name in subsets:  # else the folder has others' images, too
        others = _unlisted(folders[0], found.keys(), beside=path.parent)
        if options.unlabelled == "background":
            found |= {name: Labelled(name, size_of(folders[0] / name)) for name in others}
        else:
            left_out += [("image without annotations", name) for name in others]
    names = [*labels, *sorted(used.difference(labels, ("",)))]  # in the file's order, then what else objects have
    categories = [Category(id, name) for id, name in enumerate(names, start=1)]
    skipped = {name for _, name in left_out}
    kept = [image for name, image in found.items() if name not in skipped]
    builder = builder_of(source, kept, categories, folders, options)
    for reason, name in left_out:
        builder.refuse("image", reason, name)
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


def _declared(meta: Element) -> Iterator[str]:
    """The labels of objects that a file declares."""
    for label in meta.iter("label"):
        name, kind = label.findtext("name"), label.findtext("type")
        if name and kind not in _NO_CLASSES and label.find("parent") is None:
            yield name


def _folders(path: Path, subsets: list[str], options: ReadOptions) -> list[Path]:
    """Where the images may be. CVAT exports a project with a folder for each subset."""
    bases = [path.parent / "images", path.parent] if options.images is None else [options.images]
    places = [*(bases[0] / subset for subset in subsets if _is_plain(subset)), *bases]
    return list(dict.fromkeys(place for place in places if place.is_dir())) or bases


def _is_plain(subset: str) -> bool:
    return subset not in ("", ".", "..") and not any(character in subset for character in "/\\:\0")


def _joined(images: list[Labelled]) -> dict[str, Labelled]:
    """The images by their names, each with all that is drawn in it."""
    found: dict[str, Labelled] = {}
    for image in images:
        if before := found.get(image.name):
            repairs = *before.repairs, ("image that is listed twice, its shapes joined", image.name), *image.repairs
            things, faults = (*before.things, *image.things), (*before.faults, *image.faults)
            image = before._replace(things=things, faults=faults, repairs=repairs)
        found[image.name] = image
    return found


def _unlisted(folder: Path, listed: Iterable[str], beside: Path) -> list[str]:
    """The images in a folder that the file does not list."""
    names = names_below(folder, IMAGE_SUFFIXES)
    if folder == beside:  # beside the XML only what is beside it: anything may be below
        names = takewhile(lambda name: "/" not in name, names)
    return sorted(set(names).difference(name.replace("\\", "/") for name in listed))


def _labelled(element: Element) -> Labelled:
    """An image with its shapes as objects."""
    height, width = side(element.get("height")), side(element.get("width"))
    size = (height, width) if height and width else None
    alone, groups = [], dict[tuple[str, str], list[tuple[Element, Segmentation]]]()
    faults, repairs = [], []
    for child in element:
        label = child.get("label", "")
        if child.tag == "tag":
            repairs.append(("tag of a whole image, ignored", label))
            continue
        try:
            mask = _segmentation(child, size or (0, 0))
        except Unusable as error:
            faults.append((error.args[0], label))
            continue
        if mask is not None and (group := child.get("group_id", "0")) != "0":
            groups.setdefault((group, label), []).append((child, mask))
        else:
            alone.append([(child, mask)])
    for members in groups.values():
        if len(members) > 1:
            what = f"{len(members)} {members[0][0].tag}s"
            repairs.append(("shapes of one group and label, joined to one object", what))
    things = []
    for members in (*alone, *groups.values()):
        things.append(_thing(members[0][0], united([mask for _, mask in members], size or (0, 0))))
    return Labelled(element.get("name", ""), size, things, faults, repairs)


def _thing(child: Element, mask: Segmentation) -> Thing:
    box = None
    crowd = next((a.text for a in child.iter("attribute") if a.get("name") in ("is_crowd", "iscrowd")), None)
    if mask is None:
        x1, y1, x2, y2 = (number(child.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
        box = None if None in (x1, y1, x2, y2) else [x1, y1, x2 - x1, y2 - y1]  # type: ignore[operator]
    return Thing(child.get("label", ""), mask, box, (crowd or "").strip().lower() in ("true", "1"))


def _segmentation(child: Element, size: tuple[int, int]) -> Segmentation:
    """The mask of a shape; None for an upright box. Raises `Unusable`."""
    if child.tag not in _OBJECTS:
        raise Unusable(f"{child.tag}, which encloses no area", "")
    turn = number(child.get("rotation", "0"))
    if child.tag == "box" and turn == 0:
        return None
    wrong = Unusable(f"{child.tag} that cannot be read", "")
    if child.tag == "polygon":
        polygon = stated_points([pair.split(",") for pair in child.get("points", "").split(";")])
        if polygon is None or len(polygon) < 3:
            raise wrong
        return [polygon]
    if child.tag == "mask":
        place = (child.get(name) for name in ("left", "top", "width", "height"))
        stated = [integer(text) for text in (*place, *child.get("rle", "").split(","))]
        known = [value for value in stated if value is not None]
        if len(known) < len(stated):
            raise wrong
        left, top, width, height, *runs = known
        inside = 0 < width <= size[1] - left and 0 < height <= size[0] - top and left >= 0 and top >= 0
        if not inside or min(runs) < 0 or sum(runs) != height * width or sum(runs) > MAX_PIXELS:
            raise wrong
        pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        return counts_of_window(pixels, (top, left), size), size
    sides = ("cx", "cy", "rx", "ry") if child.tag == "ellipse" else ("xtl", "ytl", "xbr", "ybr")
    stated = [turn, *(number(child.get(name)) for name in sides)]
    known = [value for value in stated if value is not None and abs(value) < FAR]
    if len(known) < len(stated):
        raise wrong
    angle, (a, b, c, d) = math.radians(known[0]), known[1:]
    if child.tag == "ellipse":
        return [ellipse(a, b, c, d, angle).round(6)]
    offsets = np.array([[a - c, b - d], [c - a, b - d], [c - a, d - b], [a - c, d - b]]) / 2
    return [turned(offsets, angle, (a + c) / 2, (b + d) / 2).round(6)]
