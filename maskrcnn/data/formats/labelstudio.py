"""Label Studio: its exports JSON and JSON-MIN are read, tasks for its import are written.

Polygons, ellipses, brush masks and turned rectangles are objects with a mask; an upright rectangle is a box without
one. Predictions are no annotations: they are written as predictions, and read once somebody has accepted them.
The text "crowd" among a region's notes marks a region to ignore; that is ours.
"""

import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ...errors import DataError
from ...files import replacing
from ...ops.rle import counts_from_bitmap
from ..dataset import Dataset, Record, Segmentation
from ..names import ImageFinder, names_below
from ..validate import FAR, show
from . import ReadOptions, Source
from .brush import decode_brush, encode_brush
from .files import categories_by_name, fingerprint_of, image_folder, one_file_each
from .labelled import Labelled, Thing, Unusable, builder_of, find_image, with_things
from .labelstudio_file import ONE_TASK, Region, Task, load, names_of, rank
from .outlines import bitmap_of_shapes, ellipse, rectangle, shapes_of_object, stated_points
from .writing import FormatWriter

_FILE, _CONFIG = "label_studio.json", "label_config.xml"
_LOCAL = "/data/local-files/?d="  # Label Studio's address of a file below its document root
_TAGS = {
    "polygonlabels": "polygon",
    "rectanglelabels": "rectangle",
    "brushlabels": "brush",
}  # the names of control tags


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
    found: dict[str, tuple[Labelled, Task]] = {}
    left_out, lost = [], 0
    for task in tasks:
        names = [name.lstrip("/") for name in names_of(task.image)] or [show(task.image)]
        embedded = task.image if task.image.startswith("data:image/") else ""
        image = find_image(images, names, embedded, hashlib.sha256(task.image.encode()).hexdigest()[:16], path)
        if not (task.regions or (task.regions is not None and options.unlabelled != "skip")):
            if options.unlabelled != "background":
                left_out.append((task.why, image.name))
                continue
            task = task._replace(regions=[])
        if image.name in found:
            left_out.append(("image of a second task, left out", image.name))
        else:
            found[image.name] = image, task
    regions = [region for _, task in found.values() for region in task.regions or ()]
    classes = {region.labels[0] for region in regions if region.labels and not region.keypoint}
    if not classes:
        raise DataError(
            f"{path}: none of its tasks has a labelled region in a submitted annotation; predictions and drafts are no "
            "annotations: accept and submit them in Label Studio, and export again"
        )
    labelled = []
    for image, task in found.values():
        try:
            labelled.append(_labelled(image, task))
        except Unusable as error:
            left_out.append(error.args)
            lost += len(task.regions or ())
    builder = builder_of(source, labelled, categories_by_name(classes), [root], options)
    builder.report.lost_with_image += lost
    for reason, detail in (*faults, *left_out):
        builder.refuse("image", reason, detail)
    return builder.build(fingerprint_of(files))


def _labelled(image: Labelled, task: Task) -> Labelled:
    """The image with its objects. Its size is what the regions refer to: their percentages fit an image that was
    resized since. Raises `Unusable` for an image of other proportions.
    """
    size, stated, repairs = image.size, task.size, []
    if size is not None and stated is not None and stated != size:
        detail = f"{image.name}: {stated[0]} x {stated[1]} while it was labelled, now {size[0]} x {size[1]}"
        if stated == size[::-1]:  # a photo that Label Studio did not turn
            size = stated
        elif abs(stated[0] * size[1] - stated[1] * size[0]) > 0.01 * stated[1] * size[0] + sum(stated):
            raise Unusable("image of other proportions than the one that was labelled", detail)
        else:
            repairs.append(("image that was resized after it was labelled, its regions scaled", detail))
    for region in task.regions or ():
        if len(region.labels) > 1:
            detail = f"{image.name}: {', '.join(region.labels)}"
            repairs.append(("region with several labels, the first is used", detail))
    image = with_things(image._replace(size=size), task.regions or (), partial(_thing, size=size))
    others = [("further annotations of a task, left out", f"{image.name}: {task.others}")] if task.others else []
    return image._replace(faults=[*others, *image.faults], repairs=repairs)


def _thing(region: Region, size: tuple[int, int] | None) -> Thing:
    """The object of a region; of an image whose size is not known without its place. Raises `Unusable`."""
    if not region.labels:
        raise Unusable("region without a label", show(region.value))
    if region.keypoint:  # whose label is no class, even if the image is missing
        raise Unusable("keypoint, which only COCO files bring", show(region.labels[0]))
    box, mask = _box_or_mask(region, size) if size else (None, None)
    return Thing(region.labels[0], mask, box, region.crowd)


def _box_or_mask(region: Region, size: tuple[int, int]) -> tuple[list[float] | None, Segmentation]:
    """The box of an upright rectangle, else the mask. Raises `Unusable`."""
    value = region.value
    if region.rotation:
        raise Unusable("region of an image that was turned in Label Studio", f"by {show(region.rotation)} degrees")
    if "rle" in value:
        return None, (counts_from_bitmap(decode_brush(value["rle"], size)), size)
    scale = np.array([size[1], size[0]]) / 100
    if "points" in value:
        points = stated_points(value["points"])
        if points is None:
            raise Unusable("polygon whose points are not numbers", show(value["points"]))
        if value.get("closed") is False:
            raise Unusable("polygon that is not closed", f"{len(points)} points")
        return None, [(points * scale).round(9)]
    if "radiusX" in value:
        x, y, radius_x, radius_y = _numbers(value, "x", "y", "radiusX", "radiusY")
        turn = math.radians(_numbers(value, "rotation")[0]) if value.get("rotation") else 0.0
        ring = ellipse(x * scale[0], y * scale[1], radius_x * scale[0], radius_y * scale[1], turn)
        return None, [ring]
    if "width" in value and "height" in value:
        x, y, width, height = _numbers(value, "x", "y", "width", "height")
        turn = math.radians(_numbers(value, "rotation")[0]) if value.get("rotation") else 0.0
        ring = rectangle(x * scale[0], y * scale[1], width * scale[0], height * scale[1], turn)
        if turn:
            return None, [ring.round(9)]
        low, high = ring.min(axis=0), ring.max(axis=0)
        return [*low.round(9).tolist(), *(high - low).round(9).tolist()], None
    raise Unusable("region of a kind that is not read", ", ".join(map(str, value))[:100])


def _numbers(value: dict[str, Any], *names: str) -> list[float]:
    found = [value.get(name) for name in names]
    if not all(isinstance(number, int | float) and abs(number) < FAR for number in found):
        raise Unusable("region with coordinates that are not numbers", show(value))
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
