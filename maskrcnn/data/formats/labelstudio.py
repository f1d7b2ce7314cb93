"""Label Studio: its exports JSON and JSON-MIN are read, tasks for its import are written.

Polygons, ellipses, brush masks and turned rectangles are objects with a mask; an upright rectangle is a box without
one. Predictions are no annotations: they are written as predictions, and read once somebody has accepted them.
The text "crowd" among a region's notes marks a region to ignore; that is ours.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ...errors import DataError
from ...files import replacing
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from ..names import Found, ImageFinder, names_below
from ..validate import FAR, show
from . import ReadOptions, Source
from .brush import decode_brush, encode_brush
from .embedded import unpack
from .files import categories_by_name, fingerprint_of, image_folder, one_file_each, size_of
from .labelstudio_file import ONE_TASK, Region, Task, load, names_of, rank
from .outlines import Stated, bitmap_of_shapes, ellipse, rectangle, shapes_of_object, stated_points
from .rings import rle_of_window
from .writing import FormatWriter

_FILE, _CONFIG = "label_studio.json", "label_config.xml"
_LOCAL = "/data/local-files/?d="  # Label Studio's address of a file below its document root
_TAGS = {
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
    "brushlabels": "brush",
}  # the names of control tags


class _Found(NamedTuple):
    """An image, where it is, and its task."""

    name: str
    root: Path
    size: tuple[int, int] | None  # (height, width); None if there is no such file, or it cannot be read
    task: Task


class _Unusable(Exception):
    """A region or image that cannot be used; its arguments are the reason and a detail."""


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """An export in json; a folder that holds one, or a json for each task; or one with `train/` and `val/` of these.

    Raises `DataError` if a folder holds several exports.
    """
    return one_file_each("labelstudio", place, (".json",), rank, several=ONE_TASK)


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set in an export. Image ids count from 1 in the order of the names.

    An image without a finished annotation is left out and counted; one that was submitted without regions has no
    objects. Raises `DataError` if there is no object or no image at all.
    """
    path = source.path
    files, root = [path], options.images or path
    if path.is_dir():
        files = [file for name in names_below(path, (".json",)) if rank(file := path / name) == ONE_TASK]
    else:
        root = image_folder(path, options.images)
    tasks, faults = load(path, files)
    images = ImageFinder([root])
    found: dict[str, _Found] = {}
    left_out: list[tuple[str, str]] = []
    for task in tasks:
        image = _find_image(path, task, images)
        if not (task.regions or (task.regions is not None and options.unlabelled != "skip")):
            if options.unlabelled != "background":
                left_out.append((task.why, image.name))
                continue
            image = image._replace(task=task._replace(regions=[]))
        if image.name in found:
            left_out.append(("image of a second task, left out", image.name))
        else:
            found[image.name] = image
    builder = _builder(source, found, root, options)
    for reason, detail in (*faults, *left_out):
        builder.refuse("image", reason, detail)
    return builder.build(fingerprint_of(files))


def _find_image(path: Path, task: Task, images: ImageFinder) -> _Found:
    """The image of a task: a file, else what the task embeds, else the name that the builder will not find."""
    (root,) = images.roots
    for stated in names_of(task.image):
        if isinstance(found := images.find(stated), Found):
            return _Found(found.name, root, size_of(root / found.name), task)
    if task.image.startswith("data:image/"):
        number = hashlib.sha256(task.image.encode()).hexdigest()[:16]
        root, name = unpack(task.image, number, root, path)
        return _Found(name, root, size_of(root / name), task)
    return _Found((names_of(task.image) or [show(task.image)])[0].lstrip("/"), root, None, task)


def _builder(source: Source, found: dict[str, _Found], root: Path, options: ReadOptions) -> DatasetBuilder:
    """A builder with all images and objects."""
    regions = [region for image in found.values() for region in image.task.regions or ()]
    names = {region.labels[0] for region in regions if region.labels and not region.keypoint}
    if not names:
        raise DataError(
            f"{source.path}: none of its tasks has a labelled region in a submitted annotation; predictions and drafts "
            "are no annotations: accept and submit them in Label Studio, and export again"
        )
    categories = categories_by_name(names)
    ids, count = {category.name: category.id for category in categories}, 0
    roots = list(dict.fromkeys([root, *(image.root for image in found.values())]))
    builder = DatasetBuilder(source.path, categories, roots, strict=options.strict)
    for number, name in enumerate(sorted(found), start=1):
        image = found[name]
        try:
            size = _labelled_size(image, builder, number)
        except _Unusable as error:
            builder.refuse("image", *error.args, image_id=number)
            builder.report.lost_with_image += len(image.task.regions or ())
            continue
        builder.add_image(number, name, *(size or (None, None)))
        if image.task.others:
            builder.refuse("annotation", "further annotations of a task, left out", f"{name}: {image.task.others}")
        for region in image.task.regions or ():
            try:
                if not region.labels:
                    raise _Unusable("region without a label", show(region.value))
                box, mask = _box_or_mask(region, size) if size else (None, None)
            except _Unusable as error:
                builder.refuse("annotation", error.args[0], f"{name}: {error.args[1]}", image_id=number)
                continue
            except DataError as error:
                builder.refuse("annotation", str(error), name, image_id=number)
                continue
            if len(region.labels) > 1:
                detail = f"{name}: {', '.join(region.labels)}"
                builder.report.add("repair", "region with several labels, the first is used", detail, number)
            count += 1
            category = ids[region.labels[0]]
            builder.add_object(number, category, id=count, box=box, segmentation=mask, crowd=region.crowd)
    return builder


def _labelled_size(image: _Found, builder: DatasetBuilder, number: int) -> tuple[int, int] | None:
    """The size that the regions refer to: percentages fit an image that was resized since. Raises `_Unusable`."""
    size, stated = image.size, image.task.size
    if size is None or stated is None or stated == size:
        return size
    if stated == size[::-1]:  # a photo that Label Studio did not turn
        return stated
    detail = f"{image.name}: {stated[0]} x {stated[1]} while it was labelled, now {size[0]} x {size[1]}"
    if abs(stated[0] * size[1] - stated[1] * size[0]) > 0.01 * stated[1] * size[0] + sum(stated):
        raise _Unusable("image of other proportions than the one that was labelled", detail)
    builder.report.add("repair", "image that was resized after it was labelled, its regions scaled", detail, number)
    return size


def _box_or_mask(region: Region, size: tuple[int, int]) -> tuple[list[float] | None, Stated]:
    """The box of an upright rectangle, else the mask. Raises `_Unusable`."""
    value = region.value
    if region.rotation:
        raise _Unusable("region of an image that was turned in Label Studio", f"by {show(region.rotation)} degrees")
    if region.keypoint:
        raise _Unusable("keypoint, which only COCO files bring", show(region.labels[0]))
    if "rle" in value:
        return None, rle_of_window(decode_brush(value["rle"], size), 0, 0, size)
    scale = np.array([size[1], size[0]]) / 100
    if "points" in value:
        points = stated_points(value["points"])
        if points is None or not (np.abs(points) < FAR).all():
            raise _Unusable("polygon whose points are not numbers", show(value["points"]))
        if value.get("closed") is False:
            raise _Unusable("polygon that is not closed", f"{len(points)} points")
        return None, [(points * scale).round(9).ravel().tolist()]
    if "radiusX" in value:
        x, y, radius_x, radius_y = _numbers(value, "x", "y", "radiusX", "radiusY")
        turn = math.radians(_numbers(value, "rotation")[0]) if value.get("rotation") else 0.0
        ring = ellipse(x * scale[0], y * scale[1], radius_x * scale[0], radius_y * scale[1], turn)
        return None, [ring.ravel().tolist()]
    if "width" in value and "height" in value:
        x, y, width, height = _numbers(value, "x", "y", "width", "height")
        turn = math.radians(_numbers(value, "rotation")[0]) if value.get("rotation") else 0.0
        ring = rectangle(x * scale[0], y * scale[1], width * scale[0], height * scale[1], turn)
        if turn:
            return None, [ring.round(9).ravel().tolist()]
        low, high = ring.min(axis=0), ring.max(axis=0)
        return [*low.round(9).tolist(), *(high - low).round(9).tolist()], None
    raise _Unusable("region of a kind that is not read", ", ".join(map(str, value))[:100])


def _numbers(value: dict[str, Any], *names: str) -> list[float]:
    found = [value.get(name) for name in names]
    if not all(isinstance(number, int | float) and abs(number) < FAR for number in found):
        raise _Unusable("region with coordinates that are not numbers", show(value))
    return [float(number) for number in found if number is not None]


class Writer(FormatWriter):
    """Writes tasks for Label Studio's import and the labelling interface that they need.

    Objects of one outline are polygons; those in parts or with holes are brush masks, which have whole pixels. What has
    a score is a prediction. Label Studio serves an image if its document root is "/", or `out` if images are not where
    they were.
    """

    def add(self, record: Record, split: str = "all") -> None:
        """Writes an image with its objects."""
        file, new = self.stream(self.folder(split) / _FILE)
        image, root = self.folder(split) / self.place(record, self.folder(split)), self.out
        if self.images == "refer":
            image, root = record.path.absolute(), Path(record.path.absolute().anchor)
        served = image.relative_to(root).as_posix()
        self.count_lost(record)
        results = [self._result(record, i) for i in range(len(record.labels))]
        task: dict[str, Any] = {"data": {"image": _LOCAL + quote(served)}}
        if record.scores is None:
            task["annotations"] = [{"result": results, "was_cancelled": False, "ground_truth": False}]
        else:
            mean = float(np.mean(record.scores)) if len(record.scores) else 0.0
            task["predictions"] = [{"model_version": "maskrcnn", "score": mean, "result": results}]
        file.write(("[\n" if new else ",\n") + json.dumps(task))

    def close(self) -> None:
        """Writes the labelling interface."""
        for file in self.streams.values():
            file.write("\n]\n")
        super().close()
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in self.names)
        controls = "".join(
            f'  <{tag} name="{name}" toName="image">\n{labels}  </{tag}>\n'
            for tag, name in zip(("PolygonLabels", "RectangleLabels", "BrushLabels"), _TAGS.values(), strict=True)
        )
        with replacing(self.out / _CONFIG) as temporary:
            text = f'<View>\n  <Image name="image" value="$image"/>\n{controls}</View>\n'
            temporary.write_text(text, encoding="utf-8")

    def _result(self, record: Record, i: int) -> dict[str, Any]:
        """The result of object i."""
        parts, (height, width) = shapes_of_object(record, i), record.size
        scale = 100 / np.array([width, height])
        if not parts:
            kind = "rectanglelabels"
            (x, y), (right, bottom) = record.boxes[i, :2] * scale, record.boxes[i, 2:] * scale
            value = {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0}
            value = {key: float(number) for key, number in value.items()}
        elif (len(parts) == 1 and not parts[0].holes) or not (bitmap := bitmap_of_shapes(parts, record.size)).any():
            kind, value = "polygonlabels", {"closed": True, "points": (parts[0].outer * scale).tolist()}
        else:
            kind, value = "brushlabels", {"format": "rle", "rle": encode_brush(bitmap)}
            if isinstance(record.segmentations[i], list) or (record.shapes and record.shapes[i]):
                self.lost["outline between pixels, of an object in parts or with a hole"] += 1
        result: dict[str, Any] = {
            "id": f"{record.image_id}-{i + 1}",
            "type": kind,
            "value": value | {kind: [self.names[record.labels[i]]]},
            "from_name": _TAGS[kind],
            "to_name": "image",
            "image_rotation": 0,
            "original_width": width,
            "original_height": height,
        }
        if (score := record.score(i)) is not None:
            result["score"] = score
        if record.ignore[i]:
            result["meta"] = {"text": ["crowd"]}
        return result
