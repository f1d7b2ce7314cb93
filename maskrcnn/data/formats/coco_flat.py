"""The annotations of a COCO file, flattened one at a time.

`Flat.add` looks at one annotation's structure (types, lengths, who it belongs to) and appends its numbers to flat
buffers; `coco_objects.py` then checks the numbers of all annotations at once.
"""

from array import array
from typing import Any

import numpy as np

from ...categories import Category, keypoint_slices
from ..problems import Report
from ..records import NO_MASK, POLYGONS, RLE
from .coco_objects import FAR, Columns


def integer(value: Any) -> int | None:
    """`value` as int64 where it is a whole number (12 or 12.0, not True), else None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


class Flat:
    """Annotations on their way into columns. `image_rows` translates the file's ids to rows of `sizes` (int64 [N 2]);
    skipped images are row -1.
    """

    def __init__(
        self,
        image_rows: dict[int, int],
        sizes: np.ndarray,
        categories: tuple[Category, ...],
        report: Report,
        *,
        keypoints: bool = False,
    ) -> None:
        self.image_rows, self.sizes = image_rows, sizes
        self.labels = {category.id: label for label, category in enumerate(categories)}
        self.report, self.keypoints = report, keypoints
        self.slices = keypoint_slices(categories)
        self.num_keypoints = self.slices[-1].stop if keypoints else 0
        self._places, self._rows, self._ids, self._label_of = array("q"), array("q"), array("q"), array("q")
        self._has_id, self._ignore, self._kinds, self._spans = bytearray(), bytearray(), bytearray(), array("q")
        self._boxes, self._areas, self._keypoints = array("d"), array("d"), array("f")
        self._values, self._part_stops = array("d"), array("q", [0])
        self._counts, self._characters, self._string_stops = array("q"), bytearray(), array("q", [0])

    def columns(self) -> Columns:
        """What has been added. Nothing can be added any more."""
        keypoints = _column(self._keypoints, np.float32).reshape(len(self._ids), self.num_keypoints, 3)
        return Columns(
            places=_column(self._places, np.int64),
            rows=_column(self._rows, np.int64),
            ids=_column(self._ids, np.int64),
            has_id=_column(self._has_id, np.bool_),
            labels=_column(self._label_of, np.int64),
            ignore=_column(self._ignore, np.bool_),
            kinds=_column(self._kinds, np.uint8),
            spans=_column(self._spans, np.int64).reshape(-1, 2),
            boxes=_column(self._boxes, np.float64).reshape(-1, 4),
            areas=_column(self._areas, np.float64),
            keypoints=keypoints if self.keypoints else None,
            points=_column(self._values, np.float64).reshape(-1, 2),
            part_offsets=_column(self._part_stops, np.int64),
            counts=_column(self._counts, np.int64),
            characters=_column(self._characters, np.uint8),
            string_offsets=_column(self._string_stops, np.int64),
        )

    def add(self, annotation: Any, place: int) -> None:
        """Appends one annotation, the file's number `place`, or tells the report why not."""
        if not isinstance(annotation, dict):
            return self.report.add("annotation", "annotation that is not an object", detail=_show(annotation))
        image_id, own_id = integer(annotation.get("image_id")), integer(annotation.get("id"))
        row = None if image_id is None else self.image_rows.get(image_id)
        if row is None:
            return self._drop(annotation, "annotation of an unknown image", _show(annotation.get("image_id")))
        if row < 0:
            self.report.lost_with_image += 1
            return None
        category_id = integer(annotation.get("category_id"))
        label = None if category_id is None else self.labels.get(category_id)
        if label is None:
            return self._drop(annotation, "annotation of an unknown category", _show(annotation.get("category_id")))
        box = _numbers(annotation.get("bbox"), 4)
        segmentation = annotation.get("segmentation")
        if not segmentation and box is None:
            return self._drop(annotation, "neither a segmentation nor a box", _show(annotation.get("bbox")))
        keypoints = self._read_keypoints(annotation, label) if self.keypoints else None
        if isinstance(keypoints, str):
            return self._drop(annotation, keypoints)
        wrong = self._add_segmentation(annotation, segmentation)
        if wrong is not None:
            return self._drop(annotation, *wrong)
        self._places.append(place)
        self._rows.append(row)
        self._ids.append(own_id or 0)
        self._has_id.append(own_id is not None)
        self._label_of.append(label)
        self._ignore.append(bool(annotation.get("iscrowd") or annotation.get("ignore")))
        self._boxes.extend(box or [np.nan] * 4)
        self._areas.extend(_numbers([annotation.get("area")], 1) or [np.nan])
        if keypoints is not None:
            self._keypoints.frombytes(keypoints.tobytes())
        return None

    def _drop(self, annotation: dict, reason: str, detail: str = "", kind: Any = "annotation") -> None:
        ids = integer(annotation.get("image_id")), integer(annotation.get("id"))
        self.report.add(kind, reason, image_id=ids[0], annotation_id=ids[1], detail=detail)

    def _read_keypoints(self, annotation: dict, label: int) -> np.ndarray | str:
        """float32 [J 3], or what is wrong."""
        keypoints = np.zeros((self.num_keypoints, 3), np.float32)
        place, given = self.slices[label], annotation.get("keypoints")
        if not given:
            return keypoints
        wanted = 3 * (place.stop - place.start)
        if not wanted:
            self._drop(annotation, "keypoints of a category that names none, ignored", kind="repair")
            return keypoints
        numbers = _numbers(given, wanted)
        if numbers is None:
            return f"keypoints that are not {wanted} numbers"
        own = np.array(numbers).reshape(-1, 3)
        if not (np.abs(own) < FAR).all() or not np.isin(own[:, 2], (0, 1, 2)).all():
            return "keypoints that are no positions, or whose visibility is not 0, 1 or 2"
        keypoints[place] = own
        return keypoints

    def _add_segmentation(self, annotation: dict, given: Any) -> tuple[str, str] | None:
        """Appends the object's mask; what is wrong with it, where it cannot be."""
        if not given:
            self._kinds.append(NO_MASK)
            self._spans.extend((0, 0))
            return None
        if isinstance(given, list):
            return self._add_polygons(annotation, given)
        if isinstance(given, dict):
            return self._add_rle(annotation, given)
        return "segmentation that is neither polygons nor RLE", _show(given)

    def _add_polygons(self, annotation: dict, parts: list) -> tuple[str, str] | None:
        if not isinstance(parts[0], list):
            parts = [parts]  # one polygon without the list around it
        first, wrong = len(self._part_stops) - 1, []
        for part in parts:
            bad = self._add_polygon(part)
            if bad is not None:
                wrong.append(bad)
        if len(self._part_stops) - 1 == first:
            return wrong[0]
        for reason, detail in wrong:
            self._drop(annotation, reason, detail, "part")
        self._kinds.append(POLYGONS)
        self._spans.extend((first, len(self._part_stops) - 1))
        return None

    def _add_polygon(self, part: Any) -> tuple[str, str] | None:
        if not isinstance(part, list):
            return "polygon that is not a list of numbers", _show(part)
        if len(part) % 2:
            return "polygon with an odd number of values", str(len(part))
        if len(part) < 6:
            return "polygon with fewer than 3 points", str(len(part) // 2)
        before = len(self._values)
        try:
            self._values.extend(part)
        except (TypeError, OverflowError):
            del self._values[before:]
            return "polygon that is not a list of numbers", _show(part)
        self._part_stops.append(len(self._values) // 2)
        return None

    def _add_rle(self, annotation: dict, given: dict) -> tuple[str, str] | None:
        size, counts = given.get("size"), given.get("counts")
        row = self.image_rows[int(annotation["image_id"])]
        height, width = self.sizes[row].tolist()
        if not isinstance(size, list) or [integer(side) for side in size] != [height, width]:
            return "RLE whose size is not that of its image", f"{_show(size)}, the image is [{height}, {width}]"
        if isinstance(counts, str):
            if not counts.isascii() or not counts:
                return "RLE counts that cannot be decoded", _show(counts)
            # Until all strings are decoded at once, the span is -1 and the string's number.
            self._characters += counts.encode()
            self._string_stops.append(len(self._characters))
            self._spans.extend((-1, len(self._string_stops) - 2))
        else:
            before = len(self._counts)
            try:
                self._counts.extend(counts)  # type: ignore[arg-type]
            except (TypeError, OverflowError):
                del self._counts[before:]
                return "RLE counts that are not whole numbers", _show(counts)
            self._spans.extend((before, len(self._counts)))
        self._kinds.append(RLE)
        return None


def _numbers(value: Any, length: int) -> list[float] | None:
    """`value` where it is a list of so many numbers, else None."""
    if not isinstance(value, list) or len(value) != length:
        return None
    try:
        return list(array("d", value))
    except (TypeError, OverflowError):
        return None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _column(buffer: Any, dtype: Any) -> np.ndarray:
    """The buffer's numbers, not copied; an empty one has nothing to share."""
    return np.frombuffer(buffer, dtype) if len(buffer) else np.zeros(0, dtype)
