"""VGG Image Annotator: the project and the annotations of VIA 2 (json, csv), the project of VIA 3, and VIA 1's json.

Polygons, circles, ellipses and polylines that end where they began are objects with a mask; a rectangle is a box
without one. Nothing in VIA says which attribute of a region is the class, so `via_classes.py` finds out. Regions with
one `group_id` are one object, see `outlines.py`; that attribute, `score`, and `crowd` for a region to ignore, are ours.
"""

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np

from ...errors import DataError
from ...files import fingerprint
from ..dataset import Dataset, Record, Segmentation
from ..names import ImageFinder
from ..validate import FAR, is_text, show
from . import ReadOptions, Source
from .files import categories_by_name, image_folder, one_file_each, size_of
from .labelled import Labelled, Thing, Unusable, builder_of, find_image, with_things
from .outlines import ellipse, segmentation, shapes_of_object
from .via_classes import OWN, ClassOf, choose_class
from .via_file import Entry, Region, kind_of, load
from .writing import FormatWriter, relative

# A project is what the others were exported from, and the csv is exported beside the json.
_RANKS = {"project": 3, "json": 2, "csv": 1, None: 0}
_VERSION = "2.0.10"  # of VIA's data format that is written
_CLOSED = 0.05  # of a polyline's extent: the largest gap between its ends


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A file of VIA; a folder that holds one; or one with `train/` and `val/` that hold one each.

    Raises `DataError` if a folder holds several projects, or no project and several exported files.
    """
    return one_file_each("via", place, (".json", ".csv"), lambda path: _RANKS[kind_of(path)])


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set in a file of VIA. Image ids count from 1 in the order of the names.

    An image that the file does not name is left out and counted; one that it names without regions has no objects.
    Raises `DataError` if there is no object, or if it is not clear which attribute is the class.
    """
    path = source.path
    project = load(path)
    class_of = choose_class(path, project)
    root = image_folder(path, options.images)
    images = ImageFinder([root])
    found: dict[str, tuple[Labelled, Entry]] = {}
    merged: Counter[str] = Counter()
    for entry in project.entries:
        name = entry.name if is_text(entry.name) and entry.name else show(entry.name)
        image = find_image(images, [name], entry.embedded, PureWindowsPath(name).stem or "image", path)
        if before := found.get(image.name):
            merged[image.name] += 1
            regions = before[1].regions
            entry = entry._replace(regions=regions + [region for region in entry.regions if region not in regions])
        found[image.name] = image, entry
    left_out = [name for name in images.images() if name not in found]
    if options.unlabelled == "background":
        found |= {name: (Labelled(name, size_of(root / name)), Entry(name, [], {})) for name in left_out}
        left_out = []
    elif options.unlabelled == "skip":
        left_out += [name for name, (_, entry) in found.items() if not entry.regions]
        found = {name: (image, entry) for name, (image, entry) in found.items() if entry.regions}
    regions = ((region, entry) for _, entry in found.values() for region in entry.regions)
    classes = {class_of(region, entry) for region, entry in regions if region.shape.get("name") != "point"} - {None}
    if not classes:
        raise DataError(f"{path}: none of its {len(found)} images has a region with a class")
    labelled = (
        with_things(image, _groups(entry.regions), partial(_thing, entry=entry, class_of=class_of, size=image.size))
        for image, entry in found.values()
    )
    builder = builder_of(source, labelled, categories_by_name(filter(None, classes)), [root], options)
    if class_of.note:
        builder.report.add("repair", class_of.note)
    for name, count in merged.items():
        builder.report.add(
            "repair", "image that is listed several times, its regions joined", f"{name}, {count + 1} times"
        )
    for reason, detail in project.faults:
        builder.refuse("image", reason, detail)
    for name in left_out:
        builder.refuse("image", "image without annotations, left out", name)
    return builder.build(fingerprint(path))


def _thing(members: list[Region], entry: Entry, class_of: ClassOf, size: tuple[int, int] | None) -> Thing:
    """The object of regions; of an image whose size is not known without its place. Raises `Unusable`."""
    box, mask = _box_or_mask(members, size)
    own, label = members[0].attributes, class_of(members[0], entry)
    if label is None:
        raise Unusable("region without a class", show(own))
    return Thing(label, mask, box, str(own.get("crowd")).lower() in ("1", "true", "yes"), _number(own.get("score")))


def _groups(regions: list[Region]) -> list[list[Region]]:
    """The regions of each object, in the order of their first ones."""
    groups: dict[Any, list[Region]] = {}
    for place, region in enumerate(regions):
        group = region.attributes.get("group_id")
        groups.setdefault(place if group in (None, "") else show(group), []).append(region)
    return list(groups.values())


def _box_or_mask(regions: list[Region], size: tuple[int, int] | None) -> tuple[list[float] | None, Segmentation]:
    """The box of rectangles, else the mask; without a size only whether there is an area. Raises `Unusable`."""
    rings = [_ring(region.shape) for region in regions]
    if all(str(region.shape.get("name")).endswith("rect") for region in regions):
        low, high = np.concatenate(rings).min(axis=0), np.concatenate(rings).max(axis=0)
        return [*low.tolist(), *(high - low).tolist()], None
    return None, None if size is None else segmentation(rings, size)


def _ring(shape: dict[str, Any]) -> np.ndarray:
    """The outline of a shape as VIA 2 writes it, float64 [n 2]. Raises `Unusable`."""
    kind = shape.get("name")
    if kind in ("polygon", "polyline", "extreme_rect"):
        points = _points(shape)
        if kind == "polygon":
            return points
        low, high = points.min(axis=0), points.max(axis=0)
        if kind == "extreme_rect":
            return np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
        gap = float(np.abs(points[-1] - points[0]).max())
        if len(points) > 3 and gap <= max(3.0, _CLOSED * float((high - low).max())):
            return points
        raise Unusable("polyline that is not closed, and so no area", f"its ends are {gap:g} pixels apart")
    if kind == "rect":
        x, y, width, height = _numbers(shape, "x", "y", "width", "height")
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if kind == "circle":
        x, y, radius = _numbers(shape, "cx", "cy", "r")
        return ellipse(x, y, radius, radius)
    if kind == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
        return ellipse(x, y, radius_x, radius_y, _number(shape.get("theta", 0)) or 0.0)
    raise Unusable("region that is no area", show(kind))


def _points(shape: dict[str, Any]) -> np.ndarray:
    x, y = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y) or not x:
        raise Unusable("region whose all_points_x and all_points_y are not lists of one length", show(x))
    values = [_number(value) for value in (*x, *y)]
    if any(value is None for value in values):
        raise Unusable("region with coordinates that are not numbers", show(x))
    return np.array(values, dtype=np.float64).reshape(2, -1).T


def _numbers(shape: dict[str, Any], *names: str) -> list[float]:
    found = [value for value in (_number(shape.get(name)) for name in names) if value is not None]
    if len(found) < len(names):
        raise Unusable("region with coordinates that are not numbers", show(shape))
    return found


def _number(value: Any) -> float | None:
    """A number, also one that is written as text; None if it is none, or far outside every image."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < FAR else None


class Writer(FormatWriter):
    """Writes a project of VIA 2, `via_project.json`, of each split.

    The class is the attribute "class" of a region. VIA finds the images below the project's `default_filepath`, or as
    files that the user adds.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._files: dict[str, _File] = {}

    def add(self, record: Record, split: str = "all") -> None:
        """Writes an image with its objects."""
        stream, new = self.stream(self.folder(split) / "via_project.json")
        if new:
            self._files[split] = _File(stream)
        file = self._files[split]
        name = self.place(record, self.folder(split))
        if self.images != "refer":
            file.images = self.folder(split)
        else:
            file.images = file.images or _root_of(record)
            name = relative(record.path, file.images)
        self.count_lost(record)
        size = record.path.stat().st_size if record.path.is_file() else -1
        regions = [region for i in range(len(record.labels)) for region in self._regions(record, i)]
        entry = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        file.write(f"{name}{size}", entry)

    def close(self) -> None:
        """Writes the list of classes."""
        choices = dict.fromkeys(self.names, "")
        attribute = {"type": "dropdown", "description": "", "options": choices, "default_options": {}}
        attributes = {"class": attribute} | {
            name: {"type": "text", "description": "", "default_value": ""} for name in OWN
        }
        for file in self._files.values():
            file.end({"region": attributes, "file": {}})
        super().close()

    def _regions(self, record: Record, i: int) -> list[dict[str, Any]]:
        """The regions of object i."""
        attributes = {"class": self.names[record.labels[i]]}
        if (score := record.score(i)) is not None:
            attributes["score"] = repr(score)
        if record.ignore[i]:
            attributes["crowd"] = "1"
        rings = [ring for part in shapes_of_object(record, i) for ring in (part.outer, *part.holes)]
        if not rings:
            x1, y1, x2, y2 = record.boxes[i].tolist()
            shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            return [{"shape_attributes": shape, "region_attributes": attributes}]
        if len(rings) > 1:
            attributes["group_id"] = str(i + 1)
        return [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": ring[:, 0].tolist(),
                    "all_points_y": ring[:, 1].tolist(),
                },
                "region_attributes": attributes,
            }
            for ring in rings
        ]


def _root_of(record: Record) -> Path:
    """The folder below which the image has its name."""
    above = len(PurePosixPath(record.name).parts)
    own = record.name and record.path.as_posix().endswith(f"/{record.name}")
    return record.path.parents[above - 1] if own else record.path.parent


class _File:
    """A project that is written image by image."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.ids: list[str] = []
        self.images: Path | None = None  # the folder of the images
        self.stream.write('{"_via_img_metadata":{')

    def write(self, id: str, entry: dict[str, Any]) -> None:
        self.stream.write((",\n" if self.ids else "\n") + f"{json.dumps(id)}:{json.dumps(entry)}")
        self.ids.append(id)

    def end(self, attributes: dict[str, Any]) -> None:
        folder = f"{self.images.absolute().as_posix().rstrip('/')}/" if self.images else ""
        rest = {
            "_via_settings": {"core": {"default_filepath": folder}, "project": {"name": "via_project"}},
            "_via_attributes": attributes,
            "_via_data_format_version": _VERSION,
            "_via_image_id_list": self.ids,
        }
        self.stream.write("},\n" + json.dumps(rest)[1:] + "\n")
        self.stream.flush()
