"""Builds a `Dataset` image by image and object by object. Formats only parse and call it: everything is checked,
repaired, counted and reported here and in `validate.py`.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..categories import Category, category_table, keypoint_slices
from ..errors import DataError
from ..images import MAX_PIXELS, image_size
from .dataset import NO_MASK, POLYGONS, RLE, Dataset, ImageTable
from .problems import Kind, Report
from .validate import FAR, Stated, check_objects, integer, numbers, show, wrong_name

_NAN = float("nan")
_NO_BOX = array("d", [_NAN] * 4)
_Ids = tuple[int | None, int | None]  # of the image and of the object


class DatasetBuilder:
    """Collects images and objects, then builds their data set.

    Values may be anything that a file can hold. What is wrong is skipped and listed in `report`, or raises `DataError`
    if `strict`. An image must be added before its objects.

        builder = DatasetBuilder(path, [Category(1, "cell")], roots=[path.parent])
        builder.add_image(7, "a.png", height=480, width=640)
        builder.add_object(7, 1, segmentation=[[10, 20, 40, 20, 40, 60]])
        dataset = builder.build(fingerprint(path))

    Args:
        source: the file or folder that is read, for messages.
        categories: in any order. Objects have keypoints if at least one category names some.
        roots: folders in which the images are looked for, in this order.
        strict: raise `DataError` at the first thing that would be dropped.

    Raises `DataError` if there is no category, or if an id or a name occurs twice.
    """

    def __init__(
        self, source: Path, categories: Iterable[Category], roots: Sequence[Path], *, strict: bool = False
    ) -> None:
        self.source, self.roots = source, tuple(roots)
        self.categories = _checked(categories, source)
        self.report = Report(source, strict)
        self._labels: dict[int | None, int] = {category.id: label for label, category in enumerate(self.categories)}
        self._slices = keypoint_slices(self.categories)
        self._num_keypoints = max(part.stop for part in self._slices)
        # Images: the row of each id, -1 if the image was skipped, and the table's columns.
        self._rows: dict[int | None, int] = {}
        self._image_ids, self._sizes, self._root_of = array("q"), array("q"), bytearray()
        self._names, self._name_stops = bytearray(), array("q", [0])
        self._listing = cache(_list)
        self._missing = 0
        # Objects, as `Stated` describes them.
        self._integers, self._reals, self._keypoints = array("q"), array("d"), array("f")
        self._values, self._part_stops = array("d"), array("q", [0])
        self._counts, self._characters, self._string_stops = array("q"), bytearray(), array("q", [0])

    def refuse(self, kind: Literal["image", "annotation"], reason: str, detail: str = "", **ids: int | None) -> None:
        """Counts and reports an image or an annotation that cannot be added at all; `ids` as in `Report.add`."""
        total = f"{kind}s_in_file"
        setattr(self.report, total, getattr(self.report, total) + 1)
        self.report.add(kind, reason, detail, **ids)

    def add_image(self, image_id: Any, name: Any, height: Any = None, width: Any = None) -> None:
        """Adds an image, or reports why not.

        Args:
            image_id: a whole number.
            name: file name, relative to one of the roots; it must not leave it.
            height, width: in pixels; read from the file if both are None.
        """
        self.report.images_in_file += 1
        if (number := integer(image_id)) is None:
            return self.report.add("image", "image without an id", f"id {show(image_id)}, file {show(name)}")
        if number in self._rows:
            return self.report.add("image", "repeated image id", "", number)
        self._rows[number] = -1
        if wrong := wrong_name(name):
            return self.report.add("image", wrong, f"{name!r:.200}", number)
        if (root := self._root_with(name)) is None:
            self._missing += 1
            return self.report.add("image", "missing image file", name, number)
        if height is None and width is None:
            try:
                height, width = image_size(self.roots[root] / name)
            except DataError as error:
                return self.report.add("image", "unreadable image", str(error), number)
            self.report.add("repair", "height and width not stated, taken from the file", image_id=number)
        size = integer(height) or 0, integer(width) or 0
        if min(size) <= 0:
            return self.report.add("image", "invalid height or width", f"{height!r:.30} x {width!r:.30}", number)
        if size[0] * size[1] > MAX_PIXELS:
            return self.report.add("image", "too many pixels", f"{size[0]} x {size[1]}", number)
        self._rows[number] = len(self._image_ids)
        self._image_ids.append(number)
        self._sizes.extend(size)
        self._root_of.append(root)
        self._names += name.encode()
        self._name_stops.append(len(self._names))

    def add_object(
        self,
        image_id: Any,
        category_id: Any,
        *,
        id: Any = None,
        box: Any = None,
        segmentation: Any = None,
        area: Any = None,
        crowd: Any = False,
        keypoints: Any = None,
        score: Any = None,
    ) -> None:
        """Adds an object, or reports why not. It needs a box or a segmentation; coordinates are continuous pixels.

        Args:
            image_id, category_id: of an image that was added, and of a category.
            id: the object's own; None gives it a new one.
            box: [x, y, width, height]. None or an impossible one is replaced by that of the mask.
            segmentation: a list of polygons, each [x1, y1, x2, y2, ...], or one such polygon; or RLE, a dict with
                "size", [height, width], and "counts", a list or COCO's compressed string.
            area: in pixels; None takes that of the mask, else of the box.
            crowd: a region to ignore.
            keypoints: [x, y, v, ...] for the keypoints of the category; v is 0 if not labelled, 1 hidden, 2 visible.
            score: 0..1, of a prediction.
        """
        self.report.annotations_in_file += 1
        ids = integer(image_id), integer(id)
        if (row := self._rows.get(ids[0])) is None:
            return self._drop(ids, "annotation of an unknown image", show(image_id))
        if row < 0:
            self.report.lost_with_image += 1
            return None
        if (label := self._labels.get(integer(category_id))) is None:
            return self._drop(ids, "annotation of an unknown category", show(category_id))
        if not isinstance(crowd, int | float | None):  # a text would be true, also "0"
            return self._drop(ids, "iscrowd that is not 0 or 1", show(crowd))
        stated = numbers(box, 4)
        if not segmentation and stated is None:
            return self._drop(ids, "neither a segmentation nor a box", show(box))
        own = self._read_keypoints(ids, label, keypoints) if self._num_keypoints else b""
        if isinstance(own, str):
            return self._drop(ids, own)
        if (mask := self._add_segmentation(ids, row, segmentation)) is None:
            return None
        self._integers.fromlist([row, ids[1] or 0, ids[1] is not None, label, bool(crowd), *mask])
        self._reals.extend(stated or _NO_BOX)
        self._reals.append(area if type(area) is float else _number(area))
        self._reals.append(_number(score))
        if own:
            self._keypoints.frombytes(own)

    def build(self, fingerprint: str) -> Dataset:
        """The data set of all that was added, which must be the last call. `fingerprint` is the SHA-256 of its source.

        Raises `DataError` if none of the image files exists.
        """
        if self._missing and not self._image_ids:
            raise DataError(
                f"{self.source}: none of its {self.report.images_in_file} images is in "
                f"{' or '.join(map(str, self.roots))}; name their folder with --images FOLDER"
            )
        images = ImageTable(
            ids=_column(self._image_ids, np.int64),
            sizes=_column(self._sizes, np.int64).reshape(-1, 2),
            names=_column(self._names, np.uint8),
            name_offsets=_column(self._name_stops, np.int64),
            roots=self.roots,
            root_of=_column(self._root_of, np.uint8),
        )
        integers = _column(self._integers, np.int64).reshape(-1, 8)
        keypoints = _column(self._keypoints, np.float32).reshape(len(integers), self._num_keypoints, 3)
        stated = Stated(
            integers=integers,
            reals=_column(self._reals, np.float64).reshape(-1, 6),
            keypoints=keypoints if self._num_keypoints else None,
            points=_column(self._values, np.float64).reshape(-1, 2),
            part_offsets=_column(self._part_stops, np.int64),
            counts=_column(self._counts, np.int64),
            characters=_column(self._characters, np.uint8),
            string_offsets=_column(self._string_stops, np.int64),
        )
        objects = check_objects(stated, images.ids, images.sizes, self.report)
        rows = np.arange(len(images.ids))
        return Dataset(self.source, self.categories, images, objects, fingerprint, self.report, rows)

    def _root_with(self, name: str) -> int | None:
        """The index of the root that holds the file. A folder is listed once, however many images it has."""
        parent, _, last = name.rpartition("/")
        for place, root in enumerate(self.roots):
            if last in self._listing(root / parent if parent else root):
                return place
        return None

    def _drop(self, ids: _Ids, reason: str, detail: str = "", kind: Kind = "annotation") -> None:
        self.report.add(kind, reason, detail, *ids)

    def _read_keypoints(self, ids: _Ids, label: int, given: Any) -> bytes | str:
        """float32 [J 3] as bytes, or what is wrong."""
        keypoints, place = np.zeros((self._num_keypoints, 3), np.float32), self._slices[label]
        wanted = 3 * (place.stop - place.start)
        if given and not wanted:
            self._drop(ids, "keypoints of a category without keypoint names, ignored", kind="repair")
        elif given:
            values = numbers(given, wanted)
            if values is None:
                return f"keypoints that are not {wanted} numbers"
            own = np.array(values).reshape(-1, 3)
            if not (np.abs(own) < FAR).all() or not np.isin(own[:, 2], (0, 1, 2)).all():
                return "keypoints with invalid coordinates, or with a visibility other than 0, 1 and 2"
            keypoints[place] = own
        return keypoints.tobytes()

    def _add_segmentation(self, ids: _Ids, row: int, given: Any) -> tuple[int, int, int] | None:
        """Appends the mask: its kind and its span; None if it was dropped."""
        if not given:
            return NO_MASK, 0, 0
        if isinstance(given, dict):
            return self._add_rle(ids, row, given)
        if not isinstance(given, list):
            return self._drop(ids, "segmentation that is neither polygons nor RLE", show(given))
        first, faults = len(self._part_stops) - 1, []
        for part in given if isinstance(given[0], list) else [given]:  # or one polygon without the list around it
            if fault := self._add_polygon(part):
                faults.append(fault)
        last = len(self._part_stops) - 1
        if last == first:
            return self._drop(ids, *faults[0])
        for reason, detail in faults:
            self._drop(ids, reason, detail, "part")
        return POLYGONS, first, last

    def _add_polygon(self, part: Any) -> tuple[str, str] | None:
        """Appends a polygon; what is wrong with it and a detail, if it cannot be."""
        if isinstance(part, list):
            if len(part) % 2:
                return "polygon with an odd number of values", str(len(part))
            if len(part) < 6:
                return "polygon with fewer than 3 points", str(len(part) // 2)
            try:
                self._values.fromlist(part)  # all of it or nothing
                self._part_stops.append(len(self._values) // 2)
                return None
            except (TypeError, OverflowError):
                pass
        return "polygon that is not a list of numbers", show(part)

    def _add_rle(self, ids: _Ids, row: int, given: dict[str, Any]) -> tuple[int, int, int] | None:
        size, counts = given.get("size"), given.get("counts")
        height, width = self._sizes[2 * row : 2 * row + 2]
        if not isinstance(size, list) or [integer(side) for side in size] != [height, width]:
            detail = f"{show(size)}, the image is [{height}, {width}]"
            return self._drop(ids, "RLE of another size than its image", detail)
        if isinstance(counts, str):
            if not counts.isascii() or not counts:
                return self._drop(ids, "RLE counts that cannot be decoded", show(counts))
            self._characters += counts.encode()  # all strings are decoded together, in `check_objects`
            self._string_stops.append(len(self._characters))
            return RLE, -1, len(self._string_stops) - 2
        first = len(self._counts)
        try:
            self._counts.fromlist(counts)  # type: ignore[arg-type]
        except (TypeError, OverflowError):
            return self._drop(ids, "RLE counts that are not whole numbers", show(counts))
        return RLE, first, len(self._counts)


def _checked(categories: Iterable[Category], source: Path) -> tuple[Category, ...]:
    """The categories, sorted by id."""
    categories = tuple(sorted(categories, key=lambda category: category.id))
    if not categories:
        raise DataError(f"{source}: there are no categories")
    for what in ("id", "name"):
        counts = Counter(str(getattr(category, what)) for category in categories)
        if repeated := ", ".join(sorted(value for value, count in counts.items() if count > 1)):
            table = category_table(categories)
            raise DataError(f"{source}: the category {what} {repeated} occurs more than once\n{table}")
    return categories


def _number(value: Any) -> float:
    """`value` as a float if it is a number, else NaN."""
    try:
        return float(value) if isinstance(value, (int, float)) else _NAN
    except OverflowError:
        return _NAN


def _list(folder: Path) -> frozenset[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()


def _column(buffer: array | bytearray, dtype: Any) -> np.ndarray:
    """The buffer's numbers, not copied; an empty buffer has nothing to share."""
    return np.frombuffer(buffer, dtype) if len(buffer) else np.zeros(0, dtype)
