"""Builds a `Dataset` image by image and object by object. Formats only parse and call it: everything is checked,
repaired, counted and reported here and in `validate.py`.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..categories import Category, category_table, keypoint_slices
from ..errors import DataError
from .dataset import NO_MASK, POLYGONS, RLE, Dataset
from .image_rows import ImageRows, column, image_key
from .problems import Id, Kind, Report
from .stated_sizes import settle_sizes
from .validate import (
    FAR,
    ObjectCheck,
    Stated,
    doubles,
    flag,
    good_boxes,
    integer,
    number,
    numbers,
    real,
    show,
    unpacked,
)

_NAN = float("nan")
_NO_BOX = array("d", [_NAN] * 4)
_Ids = tuple[Id, int | None]  # of the image and of the object


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

    Raises `DataError` if there is no category, or if an id occurs twice.
    """

    def __init__(
        self, source: Path, categories: Iterable[Category], roots: Sequence[Path], *, strict: bool = False
    ) -> None:
        self.source, self.roots = source, tuple(roots)
        self.categories = _checked(categories, source)
        self.report = Report(source, strict)
        self._labels: dict[Any, int] = {category.id: label for label, category in enumerate(self.categories)}
        self._labels |= {category.text_id: label for label, category in enumerate(self.categories) if category.text_id}
        names = Counter(category.name for category in self.categories)
        self._label_of_name = {c.name: label for label, c in enumerate(self.categories) if names[c.name] == 1}
        self._unknown: Counter[int | str] = Counter()  # ids of categories that are not listed
        self._unknown_images: Counter[Id] = Counter()
        self._slices = keypoint_slices(self.categories)
        self._num_keypoints = max(part.stop for part in self._slices)
        self._images = ImageRows(source, self.roots, self.report)
        # Objects, as `Stated` describes them.
        self._integers, self._reals, self._keypoints = array("q"), array("d"), array("f")
        self._values, self._part_stops = array("d"), array("q", [0])
        self._counts, self._characters, self._string_stops = array("q"), bytearray(), array("q", [0])
        self._rle_sizes: dict[int, tuple[int, int]] = {}  # by object, if it is not that of the image

    def refuse(self, kind: Literal["image", "annotation"], reason: str, detail: str = "", **ids: Any) -> None:
        """Counts and reports an image or an annotation that cannot be added at all; `ids` as in `Report.add`."""
        total = f"{kind}s_in_file"
        setattr(self.report, total, getattr(self.report, total) + 1)
        self.report.add(kind, reason, detail, **ids)

    def add_image(self, image_id: Any, name: Any, height: Any = None, width: Any = None) -> None:
        """Adds an image, or reports why not.

        Args:
            image_id: a whole number or a text.
            name: file name, relative to one of the roots. One that another system wrote is searched below the roots.
            height, width: in pixels; read from the file unless both are stated.
        """
        self._images.add(image_id, name, height, width)

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
            segmentation: as a `Record` has it; or a list of polygons, each [x1, y1, x2, y2, ...], or one such polygon;
                or RLE, a dict with "size", [height, width], and "counts", a list or COCO's compressed string.
            area: in pixels; None takes that of the mask, else of the box.
            crowd: a region to ignore.
            keypoints: [x, y, v, ...] for the keypoints of the category; v is 0 if not labelled, 1 hidden, 2 visible.
            score: 0..1, of a prediction.
        """
        self.report.annotations_in_file += 1
        row = self._images.rows.get(image_id) if type(image_id) is int else None
        if row is None:
            row = self._images.row(image_id)
        ids = image_id if type(image_id) is int else image_key(image_id), integer(id)
        if row is None and (row := self._images.row_named(image_id)) is not None:
            self._drop(ids, "image_id that is the name of a file, taken as such", kind="repair")
        if row is None:
            self._unknown_images[ids[0]] += 1
            return self._drop(ids, "annotation of an unknown image", show(image_id))
        if row < 0:
            self.report.lost_with_image += 1
            return None
        label = self._labels.get(integer(category_id))
        if label is None and isinstance(category_id, str):
            label = self._labels.get(category_id)
            if label is None and (label := self._label_of_name.get(category_id)) is not None:
                self._drop(ids, "category_id that is the name of a category, taken as such", kind="repair")
        if label is None:
            stated_id = integer(category_id)
            self._unknown[show(category_id) if stated_id is None else stated_id] += 1
            return self._drop(ids, "annotation of an unknown category", show(category_id))
        ignore = bool(crowd) if crowd is None or type(crowd) is int else flag(crowd)
        if ignore is None:
            return self._drop(ids, "iscrowd that is not 0 or 1", show(crowd))
        stated = numbers(box, 4)
        if stated is None and box:
            if not segmentation:
                return self._drop(ids, "box that is not four numbers: x, y, width, height", show(box))
            self._drop(ids, "box that is not four numbers, taken from the mask", show(box), "repair")
        elif stated is None and not segmentation:
            return self._drop(ids, "neither a segmentation nor a box")
        own = self._read_keypoints(ids, label, keypoints) if self._num_keypoints else b""
        if isinstance(own, str):
            return self._drop(ids, own)
        mask = self._add_segmentation(ids, row, segmentation)
        if isinstance(mask, _Fault):
            height, width = self._images.size(row)
            if stated is None or not good_boxes(np.array([stated]), np.array([[width, height] * 2]))[0]:
                return self._drop(ids, *mask)
            self._drop(ids, mask.reason, "; ".join(filter(None, (mask.detail, "its box is kept"))), "mask")
            mask = NO_MASK, 0, 0
        self._integers.fromlist([row, ids[1] or 0, ids[1] is not None, label, ignore, *mask])
        self._reals.extend(stated or _NO_BOX)
        self._reals.append(area if type(area) is float else real(area))
        self._reals.append(_NAN if score is None else real(score))
        if own:
            self._keypoints.frombytes(own)
        return None

    def build(self, fingerprint: str) -> Dataset:
        """The data set of all that was added, which must be the last call. `fingerprint` is the SHA-256 of its source.

        Raises `DataError` if no image is left and files were not found, or if a category name stands for two categories
        with objects.
        """
        integers = column(self._integers, np.int64).reshape(-1, 8)
        keypoints = column(self._keypoints, np.float32).reshape(len(integers), self._num_keypoints, 3)
        stated = Stated(
            integers=integers,
            reals=column(self._reals, np.float64).reshape(-1, 6),
            keypoints=keypoints if self._num_keypoints else None,
            points=column(self._values, np.float64).reshape(-1, 2),
            part_offsets=column(self._part_stops, np.int64),
            counts=column(self._counts, np.int64),
            characters=column(self._characters, np.uint8),
            string_offsets=column(self._string_stops, np.int64),
        )
        self._judge_categories(integers[:, 3])
        self._judge_image_ids(integers[:, 0])
        stated = self._unite_categories(stated)
        bounds = stated.bounds()
        settle_sizes(self._images, integers[:, 0], bounds, self._rle_sizes, integers[:, 5] == RLE, self.report)
        images = self._images.build()
        sizes, joined = images.table.sizes, images.joined
        objects = ObjectCheck(stated, images.ids, sizes, self.report, joined, bounds, self._rle_sizes).table()
        self.report.lost_with_image += int((~np.isin(integers[:, 0], images.rows)).sum())
        return Dataset(self.source, self.categories, images.table, objects, fingerprint, self.report, images.rows)

    # --- categories -----------------------------------------------------------------------------------------------

    def _unite_categories(self, stated: Stated) -> Stated:
        """Leaves out categories that have no objects and repeat the name of another, as the root of Roboflow's does."""
        labels = stated.integers[:, 3]
        counts = np.bincount(labels, minlength=len(self.categories))
        chosen: dict[str, int] = {}
        for label, (category, count) in enumerate(zip(self.categories, counts.tolist(), strict=True)):
            other = chosen.get(category.name)
            if other is not None and count and counts[other]:
                raise DataError(
                    f"{self.source}: the category name {category.name} occurs more than once, each with objects; give "
                    f"each its own name, or all of these objects one category_id\n{category_table(self.categories)}"
                )
            if other is None or not counts[other]:
                chosen[category.name] = label
        kept = sorted(chosen.values())
        if len(kept) == len(self.categories):
            return stated
        for label in sorted(set(range(len(self.categories))) - set(kept)):
            reason = "category without objects that repeats the name of another, left out"
            self.report.add("repair", reason, f"{self.categories[label].id} {self.categories[label].name}")
        labels[:] = np.searchsorted(kept, labels)
        self.categories = tuple(self.categories[label] for label in kept)
        if stated.keypoints is None:
            return stated
        columns = np.concatenate([np.arange(self._num_keypoints)[self._slices[label]] for label in kept])
        return stated._replace(keypoints=stated.keypoints[:, columns])

    def _judge_categories(self, labels: np.ndarray) -> None:
        """Objects of unknown categories are a contradiction if they are many, or if all ids are one too low or high."""
        unknown, total = self._unknown.total(), self._unknown.total() + len(labels)
        if not unknown:
            return
        listed = {category.id for category in self.categories}
        named = {self.categories[label].id for label in np.unique(labels).tolist()} | set(self._unknown)
        moved = {d: {id + d for id in named if isinstance(id, int)} for d in (1, -1)}
        shift = next((d for d in moved if len(listed) > 1 and moved[d] == listed), 0)
        if not shift and (2 * unknown < total or unknown < 2 <= total):
            return
        ids, known = _some(self._unknown), _some(category.id for category in self.categories)
        cause = f"; all of them seem to be one too {'low' if shift > 0 else 'high'}" if shift else ""
        self.report.contradict(
            f"{unknown} of {total} objects have a category_id that is not listed ({ids}; the categories have {known})"
            f"{cause}; mend category_id, or list all categories",
            unusable=True,
        )

    def _judge_image_ids(self, rows: np.ndarray) -> None:
        """Objects of unknown images are a contradiction if they are many; if their ids seem to be counted otherwise
        than those of the images, the other objects are in wrong images.
        """
        unknown, total = self._unknown_images.total(), self._unknown_images.total() + len(rows)
        if not unknown:
            return
        used = set(np.unique(rows).tolist())
        listed = {id for id in self._images.rows if isinstance(id, int)}
        named = {id for id, row in self._images.rows.items() if row in used} | set(self._unknown_images)
        numbers = sorted(id for id in named if isinstance(id, int))
        cause = ""
        if len(numbers) == len(named) > 1 and 2 * len(named) > len(listed):
            shift = next((d for d in (1, -1) if listed.issuperset(id + d for id in numbers)), 0)
            cause = f"; all of them seem to be one too {'low' if shift > 0 else 'high'}" if shift else ""
        step, own = (gcd(*(b - a for a, b in pairwise(ids))) for ids in (numbers, sorted(listed)))
        if step > 1 == own and len(numbers) > 2 and 2 * unknown > total:
            cause = f"; they count in steps of {step}, the ids of the images do not, as when frames were left out"
        if not cause and (2 * unknown < total or unknown < 2 <= total):
            return
        self.report.contradict(
            f"{unknown} of {total} objects have an image_id that is not listed ({_some(self._unknown_images)}; the "
            f"images have {_some(self._images.rows)}){cause}; mend image_id, or list all images",
            unusable=bool(cause),
        )

    # --- objects --------------------------------------------------------------------------------------------------

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

    def _add_segmentation(self, ids: _Ids, row: int, given: Any) -> "tuple[int, int, int] | _Fault":
        """Appends the mask: its kind and its span; or what is wrong with it."""
        if not given:
            return NO_MASK, 0, 0
        if type(given) is tuple:  # as a record has it
            given = {"size": list(given[1]), "counts": given[0].tolist()}
        elif type(given) is list and type(given[0]) is np.ndarray:
            given = [ring.ravel().tolist() for ring in given]
        if type(given) is str:
            given = unpacked(given)
            if type(given) is list and given and type(given[0]) is str and number(given[0]) is None:
                return _Fault("segmentation that is neither polygons nor RLE", show(" ".join(given)))
        if type(given) is list and given and type(given[0]) is dict:
            given = given[0] if len(given) == 1 else _flat(given)
        while _depth(given) > 3:  # polygons with their holes, as in GeoJSON
            given = [ring for part in given if isinstance(part, list) for ring in part]
        if type(given) is dict:
            return self._add_rle(row, given)
        if type(given) is not list:
            return _Fault("segmentation that is neither polygons nor RLE", show(given))
        parts = given if given and type(given[0]) is list else [given]  # or one polygon without the list around it
        if len(parts) > 2 and all(isinstance(part, list) and len(part) == 2 for part in parts):
            parts = [_flat(parts)]  # [[x, y], [x, y], ...]
        first, faults = len(self._part_stops) - 1, []
        for part in parts:
            if fault := self._add_polygon(part):
                faults.append(fault)
        last = len(self._part_stops) - 1
        if last == first:
            return faults[0] if any(parts) else (NO_MASK, 0, 0)
        for reason, detail in faults:
            self._drop(ids, reason, detail, "part")
        return POLYGONS, first, last

    def _add_polygon(self, part: Any) -> "_Fault | None":
        """Appends a polygon; what is wrong with it and a detail, if it cannot be."""
        try:
            if len(part) > 5 and not len(part) % 2:
                self._values.fromlist(part)  # all of it or nothing
                self._part_stops.append(len(self._values) // 2)
                return None
        except (TypeError, OverflowError):
            pass
        return self._add_odd_polygon(part)

    def _add_odd_polygon(self, part: Any) -> "_Fault | None":
        """The same for one that is no list of numbers: texts, points, or nothing of use."""
        if type(part) is str:
            part = unpacked(part)
        if type(part) is not list:
            return _Fault("polygon that is not a list of numbers", show(part))
        if part and type(part[0]) in (list, dict) and (part := _flat(part)) and type(part[0]) in (list, dict):
            return _Fault("polygon whose points are not pairs of x and y", show(part))
        if len(part) % 2:
            return _Fault("polygon with an odd number of values", str(len(part)))
        if len(part) < 6:
            return _Fault("polygon with fewer than 3 points", str(len(part) // 2))
        if (read := doubles(part)) is None:
            return _Fault("polygon that is not a list of numbers", show(part))
        self._values.extend(read)
        self._part_stops.append(len(self._values) // 2)
        return None

    def _add_rle(self, row: int, given: dict[str, Any]) -> "tuple[int, int, int] | _Fault":
        size, counts, (height, width) = given.get("size"), given.get("counts"), self._images.size(row)
        if counts is None:
            return _Fault("segmentation that is neither polygons nor RLE", show(given))
        stated = [integer(side) or 0 for side in size] if isinstance(size, list) else []
        if size is not None and (len(stated) != 2 or min(stated) < 1):
            return _Fault("RLE without a size", f"{show(size)}, the image is [{height}, {width}]")
        if size is not None and stated != [height, width]:
            self._rle_sizes[len(self._integers) // 8] = stated[0], stated[1]
        if isinstance(counts, str):
            counts = _plain_counts(counts)
        if isinstance(counts, str):
            if not counts.isascii() or not counts:
                return self._no_rle("RLE counts that cannot be decoded", show(counts))
            self._characters += counts.encode()  # all strings are decoded together, in `ObjectCheck`
            self._string_stops.append(len(self._characters))
            return RLE, -1, len(self._string_stops) - 2
        first = len(self._counts)
        try:
            self._counts.fromlist(counts)  # type: ignore[arg-type]
        except (TypeError, OverflowError):
            read = [integer(count) for count in counts] if isinstance(counts, list) else [None]
            if None in read:
                return self._no_rle("RLE counts that are not whole numbers", show(counts))
            self._counts.fromlist(read)  # type: ignore[arg-type]
        return RLE, first, len(self._counts)

    def _no_rle(self, reason: str, detail: str) -> "_Fault":
        self._rle_sizes.pop(len(self._integers) // 8, None)
        return _Fault(reason, detail)


class _Fault(NamedTuple):
    """What is wrong with a mask."""

    reason: str
    detail: str


def _depth(given: Any) -> int:
    """How many lists are around the first entry that is none."""
    depth = 0
    while type(given) is list and given:
        given, depth = given[0], depth + 1
    return depth


def _plain_counts(counts: str) -> Any:
    """Compressed counts without what Python puts around bytes (b'...'); or the list of numbers that a text holds."""
    if counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:
        return counts[2:-1].replace("\\\\", "\\")
    return unpacked(counts) if " " in counts or "," in counts else counts


def _some(ids: Iterable[Any]) -> str:
    """The first of some ids, for messages."""
    listed = sorted({"none" if id is None else str(id) for id in ids}, key=lambda id: (len(id), id))
    return ", ".join(listed[:10] or ["no id"]) + (", ..." if len(listed) > 10 else "")


def _flat(points: list[Any]) -> list[Any]:
    """The coordinates of points that are lists of x and y or objects with them, as one list; else `points`."""
    flat = []
    for point in points:
        if isinstance(point, dict) and "x" in point and "y" in point:
            flat += [point["x"], point["y"]]
        elif isinstance(point, list) and len(point) == 2 and not isinstance(point[0], list | dict):
            flat += point
        else:
            return points
    return flat


def _checked(categories: Iterable[Category], source: Path) -> tuple[Category, ...]:
    """The categories, sorted by id; equal ones are one."""
    categories = tuple(sorted(dict.fromkeys(categories), key=lambda category: category.id))
    if not categories:
        raise DataError(f"{source}: there are no categories, so the objects have no class; list them in categories")
    counts = Counter(category.id for category in categories)
    if repeated := ", ".join(str(id) for id, count in counts.items() if count > 1):
        table = category_table(categories)
        raise DataError(f"{source}: the category id {repeated} occurs more than once\n{table}")
    return categories
