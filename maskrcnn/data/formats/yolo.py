"""YOLO: a text file an image, one object a line: its class and a box or one polygon, relative to the image's size.

    class cx cy width height              a box
    class x1 y1 x2 y2 x3 y3 ...           a polygon
    either of them, and a confidence      a prediction

`yolo_layout.py` finds the files.

A mask of several parts, or with holes, is written as one outline: lines of no width, there and back, join its rings, as
Ultralytics joins parts. By the even-odd rule such an outline has exactly the same pixels.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...categories import Category
from ...errors import DataError
from ...files import replacing
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from . import ReadOptions, Source
from .files import add_image_file, read_lines
from .rings import one_ring, rings_of
from .writing import FormatWriter
from .yolo_layout import images_of, open_set

_FAR = 2.0  # image sides; a coordinate beyond this is not relative
_PIXELS = "coordinates that are not relative to the image (0 to 1)"
_POSE = "keypoint (pose) line; keypoints are read from COCO json only"


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A `data.yaml`, a folder that has one, or Darknet's `obj.data`, or a folder of images and label files."""
    found = open_set(place)
    if found is None:
        return {}
    return {split: Source("yolo", place, split, doubtful=found.names is None) for split in found.splits}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set; classes keep their numbers as ids. An image without a label file shows background, unless the
    user names the folder of the images: then it is left out.

    Raises `DataError`, naming the file, if it cannot be read, holds keypoints only, or names images that are not there.
    """
    found = open_set(source.path)
    if found is None or source.split not in found.splits:
        raise DataError(f"{source.path}: there is no YOLO data set with a split {source.split!r}")
    root, images, spare = images_of(found, source.split, options)
    labels = (image.label for image in images if image.label is not None)
    lines = {label: [line for line in read_lines(label) if line.strip()] for label in labels}
    names = found.names or _numbered(lines.values())
    categories = [Category(i, name) for i, name in enumerate(names)]
    builder = DatasetBuilder(found.file or source.path, categories, [root], strict=options.strict)
    if found.names is None:
        builder.report.add("repair", "classes without names, named by their numbers")
    # A folder of images that the user names may hold others, too.
    skipped = (options.unlabelled or ("skip" if options.images is not None else "background")) == "skip"
    digest, kinds, id = hashlib.sha256(repr(names).encode()), Counter[str](), 0
    for name, label in images:
        if label is None and skipped:
            builder.refuse("image", "image without a label file", name)
            continue
        id += 1
        size, own = add_image_file(builder, id, root / name, name), [] if label is None else lines[label]
        digest.update("\0".join([name, *own, ""]).encode())
        for number, line in enumerate(own, start=1):
            kinds[_add_line(builder, id, size, line, f"{label}, line {number}")] += 1
    if kinds["pose"] and not kinds["object"]:
        raise DataError(f"{builder.source}: its labels are keypoints (pose), which are read from COCO json only")
    for label in spare:
        builder.refuse("image", "label file without an image", str(label))
    return builder.build(digest.hexdigest())


class Writer(FormatWriter):
    """Writes `images/`, `labels/` and `data.yaml` as Ultralytics reads them; with splits, a folder for each in both.

    `images="refer"` writes the labels alone; `--images` names the images' folder when they are read again.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._splits: dict[str, str] = {}

    def add(self, record: Record, split: str = "all") -> None:
        folder = "" if split == "all" else split
        self._splits[split] = str(PurePosixPath("images", folder))
        name = self.own_name(record, split, avoid=("images", "labels"))
        self.place(record, self.out / "images" / folder, str(name))
        self.count_lost(record, scores=True)
        lines = [line for i in range(len(record.labels)) if (line := self._line(record, i))]
        path = self.out / "labels" / folder / name.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        import yaml

        splits = {("train" if split == "all" else split): path for split, path in sorted(self._splits.items())}
        content = yaml.safe_dump({**splits, "names": dict(enumerate(self.names))}, sort_keys=False, allow_unicode=True)
        with replacing(self.out / "data.yaml") as temporary:
            temporary.write_text(content, encoding="utf-8")

    def _line(self, record: Record, i: int) -> str | None:
        """An object; None if it is a crowd, which no line can be."""
        if record.ignore[i]:
            self.lost["crowd, left out"] += 1
            return None
        height, width = record.size
        (x1, y1, x2, y2), sides = record.boxes[i].astype(np.float64).tolist(), np.array([width, height])
        rings = rings_of(record, i)
        if not rings:
            values = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / np.tile(sides, 2)
        else:
            if len(rings) > 1:
                self.lost["mask of several outlines, joined to one by lines of no width"] += 1
            ring = one_ring(rings)
            if np.abs(np.concatenate([ring.min(axis=0), ring.max(axis=0)]) - [x1, y1, x2, y2]).max() > 0.01:
                self.lost["box that differs from its mask's"] += 1
            values = (ring / sides).ravel()
        return " ".join([str(int(record.labels[i])), *(f"{value:.12g}" for value in values.tolist())])


def _numbered(files: Iterable[list[str]]) -> list[str]:
    """The numbers of the classes as their names, up to the highest that an object has."""
    numbers = (number for lines in files for line in lines if (number := _class_number(line)) is not None)
    return [str(i) for i in range(max(numbers, default=0) + 1)]


def _class_number(line: str) -> int | None:
    """The class of an object; None if the line is none, which `_add_line` reports."""
    words = line.split()
    try:
        coordinates = [abs(float(word)) for word in words[1:5]]
    except ValueError:
        return None
    is_object = len(coordinates) == 4 and max(coordinates) <= _FAR and re.fullmatch(r"\d{1,5}(\.0*)?", words[0])
    return int(float(words[0])) if is_object else None


def _add_line(builder: DatasetBuilder, id: int, size: tuple[int, int] | None, line: str, where: str) -> str:
    """Adds an object, and returns its kind: "object", "pose" or "wrong"."""
    try:
        values = np.array([float(word) for word in line.split()])
    except ValueError:
        builder.refuse("annotation", "line that is not a list of numbers", f"{where}: {line!r:.60}", image_id=id)
        return "wrong"
    count, class_number = len(values), values[0]
    if count < 5:
        builder.refuse("annotation", "line with fewer than 5 values", f"{where}: {count}", image_id=id)
        return "wrong"
    if not (np.abs(values[1:5]) <= _FAR).all():
        builder.refuse("annotation", _PIXELS, where, image_id=id)
        return "wrong"
    if class_number not in range(len(builder.categories)):
        builder.refuse("annotation", "class number without a name", f"{where}: {class_number:g}", image_id=id)
        return "wrong"
    score = None
    if count % 2 == 0:
        if count > 6 and _is_pose(values):
            builder.refuse("annotation", _POSE, where, image_id=id)
            return "pose"
        score, values = float(values[-1]), values[:-1]
        if not 0 <= score <= 1:
            builder.refuse("annotation", "line with an odd number of coordinates", where, image_id=id)
            return "wrong"
    values = values[1:]
    if not (np.abs(values) <= _FAR).all():
        builder.refuse("annotation", _PIXELS, where, image_id=id)
        return "wrong"
    height, width = size or (1, 1)
    # Rounded, so that what was written with twelve digits is exactly what it was.
    values = np.round(values.reshape(-1, 2) * [width, height], 6)
    if len(values) == 2:
        (centre, sides), polygons = values, None
        box = [*np.round(centre - sides / 2, 6).tolist(), *sides.tolist()]
    else:
        box, polygons = None, [values.ravel().tolist()]
    own_id = builder.report.annotations_in_file + 1
    builder.add_object(id, int(class_number), id=own_id, box=box, segmentation=polygons, score=score)
    return "object"


def _is_pose(values: np.ndarray) -> bool:
    """Whether it is a box and triples of x, y and a visibility."""
    return (len(values) - 5) % 3 == 0 and bool(np.isin(values[7::3], (0, 1, 2)).all())
