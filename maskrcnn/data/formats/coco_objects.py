"""The annotations of a COCO file, flattened into arrays and checked.

Two passes: `Flat.add` looks at one annotation's structure (types, lengths, who it belongs to) and appends its numbers
to flat buffers; `Flat.table` then checks the numbers of all annotations at once and cuts an `ObjectTable`. A mask is
never drawn: boxes and areas come from polygon corners and run lengths, and a run-length mask must have the size of its
image, so nothing can be made to allocate more.
"""

from array import array
from typing import Any

import numpy as np

from ..records import NO_MASK, POLYGONS, RLE, Category, ObjectTable, Report, joint_slices
from .coco_masks import counts_of_strings, polygon_measures, rle_measures

FAR = 1e6  # pixels; a coordinate beyond is a mistake, and float32 would lose its fractions
BOX_TOLERANCE = (3.0, 0.1)  # pixels, part of the side: COCO's own boxes stray this far from their polygons


def integer(value: Any) -> int | None:
    """`value` as int64 where it is a whole number (12 or 12.0, not True), else None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


class Flat:
    """Annotations on their way into columns. `image_rows` and `labels` translate the file's ids; skipped images are
    row -1.
    """

    def __init__(
        self,
        image_rows: dict[int, int],
        image_ids: np.ndarray,
        sizes: np.ndarray,
        categories: tuple[Category, ...],
        report: Report,
        *,
        keypoints: bool = False,
    ) -> None:
        self.image_rows, self.image_ids, self.sizes = image_rows, image_ids, sizes
        self.labels = {category.id: label for label, category in enumerate(categories)}
        self.report = report
        self.categories, self.keypoints = categories, keypoints
        self.slices = joint_slices(categories)
        self.num_joints = self.slices[-1].stop if keypoints else 0
        self.rows, self.ids, self.label_of, self.spans = array("q"), array("q"), array("q"), array("q")
        self.no_id = array("q")  # objects whose id is missing
        self.ignore, self.kinds = bytearray(), bytearray()
        self.boxes, self.areas, self.joints = array("d"), array("d"), array("d")
        self.values, self.part_stops = array("d"), array("q", [0])
        self.lists, self.strings, self.string_stops = array("q"), bytearray(), array("q", [0])

    def add(self, annotation: Any) -> None:
        """Appends one annotation, or tells the report why not."""
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
        joints = self._joints(annotation, label) if self.keypoints else None
        if isinstance(joints, str):
            return self._drop(annotation, joints)
        wrong = self._add_segmentation(annotation, segmentation)
        if wrong is not None:
            return self._drop(annotation, *wrong)
        if own_id is None:
            self.no_id.append(len(self.ids))
        self.rows.append(row)
        self.ids.append(own_id or 0)
        self.label_of.append(label)
        self.ignore.append(bool(annotation.get("iscrowd") or annotation.get("ignore")))
        self.boxes.extend(box or [np.nan] * 4)
        self.areas.extend(_numbers([annotation.get("area")], 1) or [np.nan])
        if joints is not None:
            self.joints.frombytes(joints.tobytes())
        return None

    def _drop(self, annotation: dict, reason: str, detail: str = "", kind: Any = "annotation") -> None:
        ids = integer(annotation.get("image_id")), integer(annotation.get("id"))
        self.report.add(kind, reason, image_id=ids[0], annotation_id=ids[1], detail=detail)

    def _joints(self, annotation: dict, label: int) -> np.ndarray | str:
        """float64 [J 3], or what is wrong."""
        joints = np.zeros((self.num_joints, 3))
        place, given = self.slices[label], annotation.get("keypoints")
        if not given:
            return joints
        wanted = 3 * (place.stop - place.start)
        numbers = _numbers(given, wanted)
        if numbers is None:
            return f"keypoints that are not {wanted} numbers"
        own = np.array(numbers).reshape(-1, 3)
        if not (np.abs(own) < FAR).all() or not np.isin(own[:, 2], (0, 1, 2)).all():
            return "keypoints that are no positions, or whose visibility is not 0, 1 or 2"
        joints[place] = own
        return joints

    def _add_segmentation(self, annotation: dict, given: Any) -> tuple[str, str] | None:
        """Appends the object's mask; what is wrong with it, where it cannot be."""
        if not given:
            self.kinds.append(NO_MASK)
            self.spans.extend((0, 0))
            return None
        if isinstance(given, list):
            return self._add_polygons(annotation, given)
        if isinstance(given, dict):
            return self._add_rle(annotation, given)
        return "segmentation that is neither polygons nor RLE", _show(given)

    def _add_polygons(self, annotation: dict, parts: list) -> tuple[str, str] | None:
        if not isinstance(parts[0], list):
            parts = [parts]  # one polygon without the list around it
        first, wrong = len(self.part_stops) - 1, []
        for part in parts:
            bad = self._add_polygon(part)
            if bad is not None:
                wrong.append(bad)
        if len(self.part_stops) - 1 == first:
            return wrong[0]
        for reason, detail in wrong:
            self._drop(annotation, reason, detail, "part")
        self.kinds.append(POLYGONS)
        self.spans.extend((first, len(self.part_stops) - 1))
        return None

    def _add_polygon(self, part: Any) -> tuple[str, str] | None:
        if not isinstance(part, list):
            return "polygon that is not a list of numbers", _show(part)
        if len(part) % 2:
            return "polygon with an odd number of values", str(len(part))
        if len(part) < 6:
            return "polygon with fewer than 3 points", str(len(part) // 2)
        before = len(self.values)
        try:
            self.values.extend(part)
        except (TypeError, OverflowError):
            del self.values[before:]
            return "polygon that is not a list of numbers", _show(part)
        self.part_stops.append(len(self.values) // 2)
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
            self.strings += counts.encode()
            self.string_stops.append(len(self.strings))
            self.spans.extend((-1, len(self.string_stops) - 2))
        else:
            before = len(self.lists)
            try:
                self.lists.extend(counts)  # type: ignore[arg-type]
            except (TypeError, OverflowError):
                del self.lists[before:]
                return "RLE counts that are not whole numbers", _show(counts)
            self.spans.extend((before, len(self.lists)))
        self.kinds.append(RLE)
        return None

    # --- all annotations at once ---------------------------------------------------------------------------------

    def table(self) -> ObjectTable:
        """The good objects, sorted by image. Everything else goes to the report."""
        n = len(self.ids)
        self.alive = np.ones(n, bool)
        self.row_of, self.id_of = np.array(self.rows, np.int64), np.array(self.ids, np.int64)
        kinds = np.frombuffer(bytes(self.kinds), np.uint8)
        spans = np.array(self.spans, np.int64).reshape(n, 2)
        mask_boxes, areas = np.full((n, 4), np.nan), np.full(n, np.nan)
        counts = self._measure_rle(kinds, spans, mask_boxes, areas)
        points, part_offsets = self._measure_polygons(kinds, spans, mask_boxes, areas)
        boxes = self._settle_boxes(mask_boxes)
        stated = np.array(self.areas, np.float64)
        areas = np.where(np.isfinite(stated) & (stated > 0), stated, areas)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = np.where(np.isfinite(areas), areas, sides[:, 0] * sides[:, 1])
        ids = self._settle_ids()
        order = np.argsort(self.row_of, kind="stable")
        order = order[self.alive[order]]
        per_image = np.bincount(self.row_of[order], minlength=len(self.image_ids))
        joints = np.array(self.joints, np.float32).reshape(n, self.num_joints, 3) if self.keypoints else None
        return ObjectTable(
            offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
            ids=ids[order],
            labels=np.array(self.label_of, np.int32)[order],
            boxes=boxes[order].astype(np.float32),
            ignore=np.frombuffer(bytes(self.ignore), np.uint8).astype(bool)[order],
            areas=areas[order],
            joints=None if joints is None else joints[order],
            kinds=kinds[order],
            spans=spans[order],
            part_offsets=part_offsets,
            points=points,
            counts=counts,
        )

    def _fail(self, bad: np.ndarray, reason: str) -> None:
        """Drops the objects where `bad`."""
        for i in np.flatnonzero(bad & self.alive).tolist():
            self._tell(i, "annotation", reason)
        self.alive &= ~bad

    def _tell(self, i: int, kind: Any, reason: str, detail: str = "") -> None:
        image_id = int(self.image_ids[self.row_of[i]])
        self.report.add(kind, reason, image_id=image_id, annotation_id=int(self.id_of[i]), detail=detail)

    def _measure_rle(self, kinds: np.ndarray, spans: np.ndarray, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Decodes the compressed counts, checks all, fills boxes and areas; returns the counts, uint32."""
        listed = np.array(self.lists, np.int64)
        decoded, offsets, readable = counts_of_strings(
            np.frombuffer(bytes(self.strings), np.uint8), np.array(self.string_stops, np.int64)
        )
        counts = np.concatenate([listed, decoded])
        compressed = (kinds == RLE) & (spans[:, 0] < 0)
        unreadable = np.zeros(len(kinds), bool)
        unreadable[compressed] = ~readable
        which = spans[compressed, 1]
        spans[compressed] = len(listed) + np.stack([offsets[which], offsets[which + 1]], axis=1)
        self._fail(unreadable, "RLE counts that cannot be decoded")
        rle = np.flatnonzero((kinds == RLE) & self.alive)
        fits, boxes[rle], areas[rle] = rle_measures(counts, spans[rle], self.sizes[self.row_of[rle]])
        wrong = np.zeros(len(kinds), bool)
        wrong[rle] = ~fits
        self._fail(wrong, "RLE whose counts do not add up to its size")
        self._fail((kinds == RLE) & (areas == 0), "empty mask")
        # What did not fit is out of every span that remains; clipping only keeps the conversion defined.
        return np.clip(counts, 0, 2**32 - 1).astype(np.uint32)

    def _measure_polygons(
        self, kinds: np.ndarray, spans: np.ndarray, boxes: np.ndarray, areas: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Checks every polygon, fills boxes and areas; returns points and offsets without the bad ones, and mends
        `spans`.
        """
        points = np.array(self.values, np.float64).reshape(-1, 2)
        offsets = np.array(self.part_stops, np.int64)
        sensible, part_boxes, part_areas = polygon_measures(points, offsets, FAR)
        owner = np.flatnonzero(kinds == POLYGONS)
        owner_of = np.repeat(owner, spans[owner, 1] - spans[owner, 0])
        sizes = self.sizes[self.row_of[owner_of]] if len(owner_of) else np.zeros((0, 2), np.int64)
        inside = (part_boxes[:, 2:] > 0).all(1) & (part_boxes[:, :2] < sizes[:, ::-1]).all(1)
        reasons = {
            "polygon with values that are no positions": ~sensible,
            "polygon without an area": sensible & (part_areas == 0),
            "polygon outside its image": sensible & (part_areas > 0) & ~inside,
        }
        good = sensible & (part_areas > 0) & inside
        has_good = np.zeros(len(kinds), bool)
        has_good[owner_of[good]] = True
        for reason, bad in reasons.items():
            for i in owner_of[bad & has_good[owner_of]].tolist():
                self._tell(i, "part", reason)
            lost = np.zeros(len(kinds), bool)
            lost[owner_of[bad]] = True
            self._fail(lost & ~has_good, reason)
        kept_before = np.concatenate([[0], np.cumsum(good)])
        spans[owner] = kept_before[spans[owner]]
        lengths = np.diff(offsets)
        _fold(boxes, areas, owner_of[good], part_boxes[good], part_areas[good])
        if not good.all():
            points = points[np.repeat(good, lengths)]
            offsets = np.concatenate([[0], np.cumsum(lengths[good])])
        return points, offsets

    def _settle_boxes(self, mask_boxes: np.ndarray) -> np.ndarray:
        """The stated box where it agrees with the mask, else the mask's; clipped to the image where it leaves it by
        more than a pixel.
        """
        given = np.array(self.boxes, np.float64).reshape(-1, 4)
        with np.errstate(invalid="ignore", over="ignore"):
            stated = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
            usable = np.all(np.abs(stated) < FAR, axis=1) & np.all(given[:, 2:] > 0, axis=1)
        masked = np.all(np.isfinite(mask_boxes), axis=1)
        sides = np.where(masked[:, None], mask_boxes[:, 2:] - mask_boxes[:, :2], 0)
        allowed = np.tile(np.maximum(BOX_TOLERANCE[0], BOX_TOLERANCE[1] * sides), 2)
        limits = np.tile(self.sizes[self.row_of][:, ::-1], 2).astype(np.float64)
        with np.errstate(invalid="ignore"):
            strays = np.any(np.abs(stated - np.clip(mask_boxes, 0, limits)) > allowed, axis=1)
        absent = np.isnan(given).all(1)
        negative = np.isfinite(given).all(1) & (given[:, 2:] < 0).any(1)
        self._fail(~masked & negative, "box with negative size")
        self._fail(~masked & ~usable, "box that is no box")
        for i in np.flatnonzero(self.alive & masked & ~absent & (~usable | strays)).tolist():
            reason = "box that is no box" if not usable[i] else "box that does not fit its mask"
            self._tell(i, "repair", f"{reason}, recomputed", f"[{', '.join(f'{x:g}' for x in given[i])}]")
        boxes = np.where((masked & (~usable | strays))[:, None], mask_boxes, stated)
        clipped = np.clip(boxes, 0, limits)
        with np.errstate(invalid="ignore"):
            inside = clipped.astype(np.float32)  # as it is kept: a sliver may round to nothing
            self._fail(np.any(inside[:, 2:] <= inside[:, :2], axis=1), "box outside its image")
            leaves = np.any(np.abs(clipped - boxes) > 1, axis=1)
        for i in np.flatnonzero(self.alive & leaves & usable & ~strays).tolist():
            self._tell(i, "repair", "box that leaves its image, clipped")
        return np.where(leaves[:, None], clipped, boxes)

    def _settle_ids(self) -> np.ndarray:
        """Annotation ids, each once among the good ones: a missing or repeated id is replaced by a new one."""
        ids, living = self.id_of.copy(), np.flatnonzero(self.alive)
        anew = self.alive.copy()
        anew[living[np.unique(ids[living], return_index=True)[1]]] = False
        anew[np.array(self.no_id, np.int64)] = True
        taken = ids[(ids > 0) & (ids < 2**62)]  # above that there is room for no successor, and none is needed
        for new, i in enumerate(np.flatnonzero(anew & self.alive).tolist(), start=int(taken.max(initial=0)) + 1):
            self._tell(i, "repair", "annotation without an id of its own, given a new one", str(new))
            ids[i] = new
        return ids


def _fold(
    boxes: np.ndarray, areas: np.ndarray, owner: np.ndarray, part_boxes: np.ndarray, part_areas: np.ndarray
) -> None:
    """The parts of an object (neighbours in `owner`) become its box and its area."""
    if not len(owner):
        return
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    objects = owner[first]
    boxes[objects, :2] = np.minimum.reduceat(part_boxes[:, :2], first)
    boxes[objects, 2:] = np.maximum.reduceat(part_boxes[:, 2:], first)
    areas[objects] = np.add.reduceat(part_areas, first)


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
