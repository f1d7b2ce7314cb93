"""The objects of a COCO file as columns, checked all at once and cut into an `ObjectTable`.

A mask is never drawn: boxes and areas come from polygon corners and run lengths, and a run-length mask must have the
size of its image, so nothing can be made to allocate more.
"""

from typing import Any, NamedTuple

import numpy as np

from ..problems import Report
from ..records import NO_MASK, POLYGONS, RLE, ObjectTable
from .coco_masks import counts_of_strings, polygon_measures, rle_measures

FAR = 1e6  # pixels; a coordinate beyond is a mistake, and float32 would lose its fractions
BOX_TOLERANCE = (3.0, 0.1)  # pixels, part of the side: COCO's own boxes stray this far from their polygons


class Columns(NamedTuple):
    """Objects as a file states them, of sound structure but with unchecked numbers. One row an object.

    The polygons, counts and strings that no object's span names are passed over.
    """

    places: np.ndarray  # int64 [n], number in the file, ascending
    rows: np.ndarray  # int64 [n], of the image
    ids: np.ndarray  # int64 [n], 0 where there is none
    has_id: np.ndarray  # bool [n]
    labels: np.ndarray  # int64 [n]
    ignore: np.ndarray  # bool [n]
    kinds: np.ndarray  # uint8 [n]: NO_MASK, POLYGONS, RLE
    spans: np.ndarray  # int64 [n 2]: the range of polygons or of counts; -1 and the number of a compressed string
    boxes: np.ndarray  # float64 [n 4], x, y, width, height; NaN where there is none
    areas: np.ndarray  # float64 [n], NaN where there is none
    keypoints: np.ndarray | None  # float32 [n J 3]
    points: np.ndarray  # float64 [points 2], polygons end to end
    part_offsets: np.ndarray  # int64 [parts + 1]
    counts: np.ndarray  # int64, uncompressed run lengths end to end
    characters: np.ndarray  # uint8, compressed ones end to end
    string_offsets: np.ndarray  # int64 [strings + 1]


def join(a: Columns, b: Columns) -> Columns:
    """The objects of both, by place."""
    if not len(a.places) or not len(b.places):
        return a if len(a.places) else b
    order = np.argsort(np.concatenate([a.places, b.places]))
    compressed = (b.kinds == RLE) & (b.spans[:, 0] < 0)
    shifts = np.where(b.kinds == RLE, len(a.counts), np.where(b.kinds == NO_MASK, 0, len(a.part_offsets) - 1))
    spans = b.spans + shifts[:, None]
    spans[compressed] = b.spans[compressed] + [0, len(a.string_offsets) - 1]
    by_object = {
        name: np.concatenate([getattr(a, name), spans if name == "spans" else getattr(b, name)])[order]
        for name in Columns._fields[:10]
    }
    return Columns(
        **by_object,
        keypoints=None
        if a.keypoints is None or b.keypoints is None
        else np.concatenate([a.keypoints, b.keypoints])[order],
        points=np.concatenate([a.points, b.points]),
        part_offsets=np.concatenate([a.part_offsets, len(a.points) + b.part_offsets[1:]]),
        counts=np.concatenate([a.counts, b.counts]),
        characters=np.concatenate([a.characters, b.characters]),
        string_offsets=np.concatenate([a.string_offsets, len(a.characters) + b.string_offsets[1:]]),
    )


def object_table(columns: Columns, image_ids: np.ndarray, sizes: np.ndarray, report: Report) -> ObjectTable:
    """The good objects, sorted by image, of images with these ids (int64 [N]) and sizes (int64 [N 2], height and
    width). Everything else goes to the report.
    """
    return _Check(columns, image_ids, sizes, report).table()


class _Check:
    def __init__(self, columns: Columns, image_ids: np.ndarray, sizes: np.ndarray, report: Report) -> None:
        self.columns, self.image_ids, self.sizes, self.report = columns, image_ids, sizes, report
        self.alive = np.ones(len(columns.rows), bool)

    def table(self) -> ObjectTable:
        columns, n = self.columns, len(self.columns.rows)
        kinds, spans = columns.kinds, columns.spans.copy()
        mask_boxes, areas = np.full((n, 4), np.nan), np.full(n, np.nan)
        counts = self._measure_rle(kinds, spans, mask_boxes, areas)
        points, part_offsets = self._measure_polygons(kinds, spans, mask_boxes, areas)
        boxes = self._settle_boxes(mask_boxes)
        areas = np.where(np.isfinite(columns.areas) & (columns.areas > 0), columns.areas, areas)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = np.where(np.isfinite(areas), areas, sides[:, 0] * sides[:, 1])
        ids = self._settle_ids()
        order = np.argsort(columns.rows, kind="stable")
        order = order[self.alive[order]]
        per_image = np.bincount(columns.rows[order], minlength=len(self.image_ids))
        return ObjectTable(
            offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
            ids=ids[order],
            labels=columns.labels[order].astype(np.int32),
            boxes=boxes[order],
            ignore=columns.ignore[order],
            areas=areas[order],
            keypoints=None if columns.keypoints is None else columns.keypoints[order],
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
        image_id = int(self.image_ids[self.columns.rows[i]])
        own_id = int(self.columns.ids[i]) if self.columns.has_id[i] else None
        self.report.add(kind, reason, image_id=image_id, annotation_id=own_id, detail=detail)

    def _measure_rle(self, kinds: np.ndarray, spans: np.ndarray, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Decodes the compressed counts, checks all, fills boxes and areas; returns the counts, uint32."""
        listed = self.columns.counts
        decoded, offsets, readable = counts_of_strings(self.columns.characters, self.columns.string_offsets)
        counts = np.concatenate([listed, decoded])
        compressed = (kinds == RLE) & (spans[:, 0] < 0)
        which = spans[compressed, 1]
        unreadable = np.zeros(len(kinds), bool)
        unreadable[compressed] = ~readable[which]
        spans[compressed] = len(listed) + np.stack([offsets[which], offsets[which + 1]], axis=1)
        self._fail(unreadable, "RLE counts that cannot be decoded")
        rle = np.flatnonzero((kinds == RLE) & self.alive)
        fits, boxes[rle], areas[rle] = rle_measures(counts, spans[rle], self.sizes[self.columns.rows[rle]])
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
        points, offsets = self.columns.points, self.columns.part_offsets
        sensible, part_boxes, part_areas = polygon_measures(points, offsets, FAR)
        owner = np.flatnonzero(kinds == POLYGONS)
        lengths = spans[owner, 1] - spans[owner, 0]
        parts = np.repeat(spans[owner, 0] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        owner_of = np.full(len(offsets) - 1, -1)
        owner_of[parts] = np.repeat(owner, lengths)
        owned = owner_of >= 0
        sizes = self.sizes[self.columns.rows[owner_of]] if len(owner) else np.zeros((len(owned), 2), np.int64)
        inside = (part_boxes[:, 2:] > 0).all(1) & (part_boxes[:, :2] < sizes[:, ::-1]).all(1)
        reasons = {
            "polygon with values that are no positions": owned & ~sensible,
            "polygon without an area": owned & sensible & (part_areas == 0),
            "polygon outside its image": owned & sensible & (part_areas > 0) & ~inside,
        }
        good = owned & sensible & (part_areas > 0) & inside
        has_good = np.zeros(len(kinds), bool)
        has_good[owner_of[good]] = True
        for reason, bad in reasons.items():
            for i in np.sort(owner_of[bad & has_good[owner_of]]).tolist():
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
        given = self.columns.boxes
        with np.errstate(invalid="ignore", over="ignore"):
            stated = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
            usable = np.all(np.abs(stated) < FAR, axis=1) & np.all(given[:, 2:] > 0, axis=1)
        masked = np.all(np.isfinite(mask_boxes), axis=1)
        sides = np.where(masked[:, None], mask_boxes[:, 2:] - mask_boxes[:, :2], 0)
        allowed = np.tile(np.maximum(BOX_TOLERANCE[0], BOX_TOLERANCE[1] * sides), 2)
        limits = np.tile(self.sizes[self.columns.rows][:, ::-1], 2).astype(np.float64)
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
            inside = clipped.astype(np.float32)  # as records give it: a sliver may round to nothing
            self._fail(np.any(inside[:, 2:] <= inside[:, :2], axis=1), "box outside its image")
            leaves = np.any(np.abs(clipped - boxes) > 1, axis=1)
        for i in np.flatnonzero(self.alive & leaves & usable & ~strays).tolist():
            self._tell(i, "repair", "box that leaves its image, clipped")
        return np.where(leaves[:, None], clipped, boxes)

    def _settle_ids(self) -> np.ndarray:
        """Annotation ids, each once among the good ones: a missing or repeated id is replaced by a new one."""
        ids, living = self.columns.ids.copy(), np.flatnonzero(self.alive)
        anew = self.alive.copy()
        anew[living[np.unique(ids[living], return_index=True)[1]]] = False
        anew |= ~self.columns.has_id
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
