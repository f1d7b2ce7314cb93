"""The checks that every data set passes, whatever its format: names, numbers, boxes and masks, of all objects at once.

No mask is drawn: boxes and areas come from polygon corners and run lengths. A run-length mask must have the size of its
image, so no file can make us allocate more than its images need.
"""

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from ..ops.rle import decode_counts
from .contradictions import (
    AS_COCO,
    agreeing,
    fractions,
    judge_areas,
    judge_outside,
    judge_runs,
    judge_spread,
    meaning_by_areas,
    meaning_by_images,
    meaning_by_masks,
    recoded_rows,
)
from .dataset import NO_MASK, POLYGONS, RLE, ObjectTable
from .geometry import polygon_measures, rle_measures
from .holes import judge_polygons, settle_holes
from .problems import Kind, Report
from .shapes import segmentation_of_rings

FAR = 1e6  # pixels; a coordinate beyond this is a mistake, and float32 would lose its fractions
BOX_TOLERANCE = (3.0, 0.1)  # pixels, fraction of the side: COCO's own boxes differ this much from their polygons
STRAY_FRACTIONS = "coordinates from 0 to 1, as fractions of the image, where most are pixels"
_ODD = np.arange(3, 21, 2, dtype=np.int64) * 0x1E3779B97F4A7C15  # weights of a hash; they wrap around
_CHUNK = 1 << 16  # characters, counts or points processed together: the temporary arrays stay in the processor's cache
_LEAST, _MOST = -(2**63), 2**63 - 1  # of an int64
_NAN = float("nan")
_NUMBER = re.compile(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")
_LONGEST_NUMBER = 40  # characters
_FLAGS: dict[str, bool] = dict.fromkeys(("", "false", "f", "no", "n", "off", "none", "null"), False)
_FLAGS |= dict.fromkeys(("true", "t", "yes", "y", "on"), True)
_PLAIN_NAME = re.compile(r"[^/\\:\0]+")


def number(text: str) -> int | float | None:
    """The number that a text such as "12", " 1.0" or "-3e2" is, else None."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)


def integer(value: Any) -> int | None:
    """`value` as an int64 if it is a whole number (12, 12.0 or "12", but not True), else None."""
    if type(value) is int:
        return value if _LEAST <= value <= _MOST else None
    if type(value) is str:
        value = number(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and _LEAST <= value <= _MOST else None


def real(value: Any) -> float:
    """`value` as a float if it is a number, also as text, else NaN."""
    if isinstance(value, str):
        value = number(value)
    try:
        return float(value) if isinstance(value, int | float) else _NAN
    except OverflowError:
        return _NAN


def flag(value: Any) -> bool | None:
    """What a flag says: 0 and 1, true and false, also as text; nothing is False. None if it says neither."""
    if isinstance(value, str):
        word = value.strip().lower()
        value = _FLAGS[word] if word in _FLAGS else number(word)
        return None if value is None else bool(value)
    return bool(value) if value is None or isinstance(value, int | float) else None


def unpacked(text: str) -> Any:
    """The list or object that a text holds, as json or as numbers with commas or spaces between; else the text."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    words = text.replace(",", " ").split()
    return words if len(words) > 1 else text


def numbers(value: Any, length: int) -> array | None:
    """`value` as doubles if it is a list of `length` numbers, also as text, else None."""
    if isinstance(value, str):
        value = unpacked(value)
    if not isinstance(value, list) or len(value) != length:
        return None
    try:
        return array("d", value)
    except (TypeError, OverflowError):
        return doubles(value)


def doubles(values: list[Any]) -> array | None:
    """Numbers and texts that are numbers, as doubles; None if there is anything else."""
    read = [number(value) if isinstance(value, str) else value for value in values]
    try:
        return array("d", read)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return None


def show(value: Any) -> str:
    """A short form of any value, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_text(value: Any) -> bool:
    """Whether it is a text that can be printed and stored; json can also hold half a surrogate pair, which is none."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def wrong_name(name: Any) -> str | None:
    """Why the file name of an image is refused, or None. A name must stay inside the image folder on every system."""
    if not isinstance(name, str) or not name:
        return "image without a file name"
    if _PLAIN_NAME.fullmatch(name) and name not in (".", "..") and name.isprintable():
        return None
    if not is_text(name):
        return "file name that is not valid text"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not posix.name or not windows.name:
        return "file name that names no file"
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        return "file name that leaves the image folder"
    return None


class Stated(NamedTuple):
    """Objects as a file states them, one row each: their structure is right, their numbers are unchecked."""

    # int64 [n 8]: image row, id, whether there is an id, label, whether a crowd, kind of mask (NO_MASK, POLYGONS, RLE),
    # and the range of its polygons or counts; -1 and the index of a compressed string
    integers: np.ndarray
    reals: np.ndarray  # float64 [n 6]: x, y, width, height, area, score; NaN if not stated
    keypoints: np.ndarray | None  # float32 [n J 3]
    points: np.ndarray  # float64 [points 2], polygons end to end, in the order of their objects
    part_offsets: np.ndarray  # int64 [parts + 1]
    counts: np.ndarray  # int64, uncompressed run lengths end to end
    characters: np.ndarray  # uint8, compressed ones end to end
    string_offsets: np.ndarray  # int64 [strings + 1]

    def bounds(self) -> np.ndarray:
        """float64 [n 4], xyxy of each object's polygons, else of its box in COCO's order; NaN without finite
        numbers.
        """
        owner = np.flatnonzero(self.integers[:, 5] == POLYGONS)
        with np.errstate(invalid="ignore", over="ignore"):
            bounds = AS_COCO.corners(self.reals[:, :4])
            if len(owner):
                parts, first = self.part_offsets[:-1], self.integers[owner, 6]
                for columns, limit in ((slice(0, 2), np.minimum), (slice(2, 4), np.maximum)):
                    bounds[owner, columns] = limit.reduceat(limit.reduceat(self.points, parts), first)
            bounds[~(np.abs(bounds) < FAR).all(axis=1)] = np.nan
        return bounds


def good_boxes(given: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """bool [n]: boxes [x, y, width, height] that can stand alone, of images with these limits (float64 [n 4])."""
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)
        near = (np.abs(corners) < FAR).all(axis=1) & (given[:, 2:] > 0).all(axis=1)
        inside = np.clip(corners, 0, limits).astype(np.float32)
        return near & np.all(inside[:, 2:] > inside[:, :2], axis=1)


class ObjectCheck:
    """Finds the valid objects; every other one, and every repair, goes to the report.

    `image_ids` and `sizes` (int64 [N 2], height and width) are those of the images; `joined` (bool [N]) says which were
    listed more than once. `bounds` are those of `stated`, `rle_sizes` the sizes, by object, of run lengths that state
    another size than their image.
    """

    def __init__(
        self,
        stated: Stated,
        image_ids: Sequence[int | str],
        sizes: np.ndarray,
        report: Report,
        joined: np.ndarray,
        bounds: np.ndarray,
        rle_sizes: Mapping[int, tuple[int, int]],
    ) -> None:
        self.stated, self.report, self.image_ids, self.joined = stated, report, image_ids, joined
        self.bounds, self.rle_sizes = bounds, rle_sizes
        self.rows, self.ids, has_id, self.labels, crowd, kinds, *_ = stated.integers.T
        self.has_id, self.crowd, self.spans = has_id != 0, crowd != 0, stated.integers[:, 6:].copy()
        self.kinds = kinds.copy()
        self.sizes = sizes[self.rows]
        self.limits = np.tile(self.sizes[:, ::-1], 2).astype(np.float64)
        self.alive = np.ones(len(self.rows), bool)
        self.given = stated.reals[:, :4]
        self.turned = np.zeros(len(self.rows), bool)  # run lengths that state the width first

    def table(self) -> ObjectTable:
        """The valid objects, sorted by image."""
        n, scores = len(self.rows), self.stated.reals[:, 5]
        self._scale_boxes()
        mask_boxes, areas = np.full((n, 4), np.nan), np.full(n, np.nan)
        counts = self._measure_rle(mask_boxes, areas)
        points, part_offsets = self._measure_polygons(mask_boxes, areas)
        counts = self._mend_rows(counts, mask_boxes)
        counts = self._open_holes(counts, points, part_offsets, areas)
        boxes = self._settle_boxes(mask_boxes)
        areas = self._settle_areas(areas, boxes)
        self._drop_twins(boxes, areas)
        living = self.alive
        judge_spread(boxes[living], self.sizes[living], self.rows[living], self.report)
        ids = self._settle_ids()
        order = np.argsort(self.rows, kind="stable")
        order = order[self.alive[order]]
        per_image = np.bincount(self.rows[order], minlength=len(self.image_ids))
        return ObjectTable(
            offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
            ids=ids[order],
            labels=self.labels[order].astype(np.int32),
            boxes=boxes[order],
            ignore=self.crowd[order],
            areas=areas[order],
            keypoints=None if self.stated.keypoints is None else self.stated.keypoints[order],
            kinds=self.kinds[order].astype(np.uint8),
            spans=self.spans[order],
            part_offsets=part_offsets,
            points=points,
            counts=counts,
            scores=None if np.isnan(scores[order]).all() else scores[order],
        )

    def _drop(self, bad: np.ndarray, reason: str, details: Mapping[int, str] = {}) -> None:
        """Drops the objects for which `bad` is True."""
        for i in np.flatnonzero(bad & self.alive).tolist():
            self._report(i, "annotation", reason, details.get(i, ""))
        self.alive &= ~bad

    def _drop_mask(self, bad: np.ndarray, reason: str, details: Mapping[int, str] = {}) -> None:
        """Drops the masks for which `bad` is True, and objects that have no good box besides."""
        bad = bad & self.alive
        if not bad.any():
            return
        kept = np.zeros(len(bad), bool)
        kept[bad] = good_boxes(self.given[bad], self.limits[bad])
        for i in np.flatnonzero(bad & kept).tolist():
            self._report(i, "mask", reason, "; ".join(filter(None, (details.get(i), "its box is kept"))))
        self._drop(bad & ~kept, reason, details)
        self.kinds[kept], self.spans[kept] = NO_MASK, 0

    def _report(self, i: int, kind: Kind, reason: str, detail: str = "") -> None:
        own_id = int(self.ids[i]) if self.has_id[i] else None
        self.report.add(kind, reason, detail, self.image_ids[self.rows[i]], own_id)

    def _scale_boxes(self) -> None:
        corners = AS_COCO.corners(self.given)
        stated = np.all(np.isfinite(self.given), axis=1)
        small, stray = fractions(corners, self.sizes, stated)
        self._drop(stray & (self.kinds == NO_MASK), STRAY_FRACTIONS)
        self.given[stray] = np.nan
        if small.any():
            self.given[small] *= self.limits[small]
            self._forget_areas(small)
            self.report.contradict(
                f"{small.sum()} of {stated.sum()} boxes have coordinates from 0 to 1: they are read as fractions of "
                "the image's width and height, since in pixels they would lie in its first one"
            )

    def _forget_areas(self, scaled: np.ndarray) -> None:
        """Areas that are fractions like the coordinates; those of the masks, or of the boxes, take their place."""
        areas = self.stated.reals[:, 4]
        with np.errstate(invalid="ignore"):
            areas[scaled & (areas <= 1)] = np.nan

    def _measure_rle(self, boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Decodes the compressed counts, checks all counts, fills in boxes and areas; returns the counts, uint32."""
        stated, spans, is_rle = self.stated, self.spans, self.kinds == RLE
        first = stated.string_offsets
        decoded, lengths, readable = _in_chunks(
            first, lambda a, b: decode_counts(stated.characters[first[a] : first[b]], first[a : b + 1] - first[a])
        )
        self._judge_rle_sizes(is_rle)
        counts = np.concatenate([stated.counts, decoded])
        offsets = len(stated.counts) + np.concatenate([[0], np.cumsum(lengths)])
        compressed = is_rle & (spans[:, 0] < 0)
        which = spans[compressed, 1]
        unreadable = np.zeros(len(spans), bool)
        unreadable[compressed] = ~readable[which]
        spans[compressed] = np.stack([offsets[which], offsets[which + 1]], axis=1)
        self._drop_mask(unreadable, "RLE counts that cannot be decoded")
        rle = np.flatnonzero((self.kinds == RLE) & self.alive)
        own, sizes = spans[rle], self.sizes[rle]
        fits, boxes[rle], areas[rle] = _in_chunks(
            np.concatenate([[0], np.cumsum(np.diff(own).ravel())]),
            lambda a, b: rle_measures(counts, own[a:b], sizes[a:b]),
        )
        wrong, empty = np.zeros(len(spans), bool), is_rle & (areas == 0)
        wrong[rle] = ~fits
        boxes[wrong | empty], areas[wrong | empty] = np.nan, np.nan
        self._drop_mask(wrong, "RLE whose counts do not add up to its size")
        self._drop_mask(empty & ~wrong, "empty mask")
        # No span that is kept holds a count that does not fit; clipping only keeps the conversion defined.
        return np.clip(counts, 0, 2**32 - 1).astype(np.uint32)

    def _judge_rle_sizes(self, is_rle: np.ndarray) -> None:
        """Drops run lengths of another size than their image; those that state the width first are judged later, if
        most do.
        """
        odd, details = np.zeros(len(is_rle), bool), {}
        for i, size in self.rle_sizes.items():
            height, width = self.sizes[i].tolist()
            self.turned[i] = size == (width, height)
            odd[i] = size != (height, width)
            details[i] = f"{list(size)}, the image is {[height, width]}"
        if 2 * self.turned.sum() <= is_rle.sum() or self.turned.sum() < 2:
            self.turned[:] = False
        self._drop_mask(odd & ~self.turned, "RLE of another size than its image", details)

    def _measure_polygons(self, boxes: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Checks every polygon, fills in boxes and areas; returns points and offsets of the good ones, adapts spans."""
        points, offsets = self.stated.points, self.stated.part_offsets
        owner = np.flatnonzero(self.kinds == POLYGONS)
        owner_of = np.repeat(owner, np.diff(self.spans[owner]).ravel())  # no polygon is without an object

        def measured() -> Sequence[np.ndarray]:
            return _in_chunks(
                offsets,
                lambda a, b: polygon_measures(points[offsets[a] : offsets[b]], offsets[a : b + 1] - offsets[a], FAR),
            )

        finite, part_boxes, part_areas = measured()
        small, stray = fractions(part_boxes, self.sizes[owner_of], np.ones(len(owner_of), bool))
        if small.any():
            self.report.contradict(
                f"{small.sum()} of {len(small)} polygons have coordinates from 0 to 1: they are read as fractions of "
                "the image's width and height, since in pixels they would lie in its first one"
            )
            self._forget_areas(np.bincount(owner_of[small], minlength=len(self.alive)) > 0)
            scale = self.sizes[owner_of, ::-1][small].astype(np.float64)
            points = points.copy()
            lengths = np.diff(offsets)
            points[np.repeat(small, lengths)] *= np.repeat(scale, lengths[small], axis=0)
            finite, part_boxes, part_areas = measured()
        sizes = self.sizes[owner_of]
        inside = (part_boxes[:, 2:] > 0).all(1) & (part_boxes[:, :2] < sizes[:, ::-1]).all(1)
        good = finite & (part_areas > 0) & inside & ~stray
        has_good = np.bincount(owner_of[good], minlength=len(self.alive)) > 0
        first = np.flatnonzero(np.diff(owner_of[good], prepend=-1))  # an object's polygons are neighbours
        if len(first):
            whole = owner_of[good][first]
            boxes[whole, :2] = np.minimum.reduceat(part_boxes[good, :2], first)
            boxes[whole, 2:] = np.maximum.reduceat(part_boxes[good, 2:], first)
            areas[whole] = np.add.reduceat(part_areas[good], first)
        self.part_areas, self.part_boxes = part_areas[good], part_boxes[good]
        if not good.all():
            lengths = np.diff(offsets)
            self.spans[owner] = np.concatenate([[0], np.cumsum(good)])[self.spans[owner]]
            points, offsets = points[np.repeat(good, lengths)], np.concatenate([[0], np.cumsum(lengths[good])])
        for reason, bad in (
            ("polygon with invalid coordinates", ~finite),
            (STRAY_FRACTIONS, stray),
            ("polygon without an area", finite & (part_areas == 0) & ~stray),
            ("polygon outside its image", finite & (part_areas > 0) & ~inside & ~stray),
        ):
            for i in np.sort(owner_of[bad & has_good[owner_of]]).tolist():
                self._report(i, "part", reason)
            if bad.any():
                lost = (np.bincount(owner_of[bad], minlength=len(self.alive)) > 0) & ~has_good
                self._drop_mask(lost & (self.kinds == POLYGONS), reason)
        return points, offsets

    def _allowed(self, mask_boxes: np.ndarray) -> np.ndarray:
        """float64 [n 4]: by how much a box may differ from that of its mask."""
        sides = np.where(np.isfinite(mask_boxes[:, :2]), mask_boxes[:, 2:] - mask_boxes[:, :2], 0)
        return np.tile(np.maximum(BOX_TOLERANCE[0], BOX_TOLERANCE[1] * sides), 2)

    def _mend_rows(self, counts: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Masks whose runs go along the rows, as most of the stated boxes prove, are stored along the columns."""
        rle = (self.kinds == RLE) & self.alive
        counts = self._judge_runs(counts, boxes, np.flatnonzero(rle & ~self.turned))
        if not (rle & self.turned).any():
            return counts
        return self._judge_runs(counts, boxes, np.flatnonzero(rle & self.turned), said=int(rle.sum()))

    def _judge_runs(self, counts: np.ndarray, boxes: np.ndarray, rle: np.ndarray, said: int = 0) -> np.ndarray:
        """The same for some masks, int64; if `said`, so many there are in all, and these state the width first."""
        judged = rle[good_boxes(self.given[rle], self.limits[rle])]
        allowed = self._allowed(boxes)
        turned = rle_measures(counts, self.spans[rle], self.sizes[rle, ::-1])[1][:, [1, 0, 3, 2]]
        by_columns = agreeing(AS_COCO, self.given[judged], boxes[judged], allowed[judged])
        by_rows = agreeing(AS_COCO, self.given[judged], turned[np.isin(rle, judged)], allowed[judged])
        rows = judge_runs(by_columns, by_rows, said, len(rle), self.report)
        if rows is None:
            self._drop_mask(np.isin(np.arange(len(self.alive)), rle), "RLE of another size than its image")
        if not rows:
            return counts
        pieces, end = [counts], len(counts)
        for i in rle.tolist():
            size = int(self.sizes[i, 0]), int(self.sizes[i, 1])
            pieces.append(recoded_rows(counts[self.spans[i, 0] : self.spans[i, 1]], size).astype(np.uint32))
            self.spans[i] = end, end + len(pieces[-1])
            end += len(pieces[-1])
        boxes[rle] = turned
        return np.concatenate(pieces)

    def _open_holes(self, counts: np.ndarray, points: np.ndarray, offsets: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Objects of which a polygon is a hole in another become run lengths."""
        several = np.flatnonzero((self.kinds == POLYGONS) & self.alive & (np.diff(self.spans).ravel() > 1))
        if not len(several):
            return counts

        def rings(i: int) -> list[np.ndarray]:
            edges = offsets[self.spans[i, 0] : self.spans[i, 1] + 1].tolist()
            return [points[a:b] for a, b in pairwise(edges)]

        stated = self.stated.reals[several, 4]
        judged = judge_polygons(points, offsets, self.part_boxes, self.part_areas, self.spans[several], stated)
        nested = {int(several[i]): verdict for i, verdict in judged.items()}
        pieces, end = [counts], len(counts)
        for i, reason in settle_holes(nested, self.ids, self.report).items():
            runs = segmentation_of_rings(rings(i), (int(self.sizes[i, 0]), int(self.sizes[i, 1])))[0].astype(np.uint32)
            pieces.append(runs)
            self.kinds[i], self.spans[i] = RLE, (end, end + len(runs))
            areas[i] = runs[1::2].sum()
            end += len(runs)
            self._report(i, "repair", reason)
        return np.concatenate(pieces)

    def _settle_boxes(self, mask_boxes: np.ndarray) -> np.ndarray:
        """The stated box if it agrees with the mask, else the mask's; clipped if it leaves the image by over 1 px."""
        given, limits = self.given, self.limits
        masked = np.all(np.isfinite(mask_boxes), axis=1)
        allowed, masks = self._allowed(mask_boxes), np.clip(mask_boxes, 0, limits)
        with np.errstate(invalid="ignore", over="ignore"):
            usable = np.all(np.abs(AS_COCO.corners(given)) < FAR, axis=1) & np.all(given[:, 2:] > 0, axis=1)
            negative = np.all(np.isfinite(given), axis=1) & np.any(given[:, 2:] < 0, axis=1)
        meaning = meaning_by_masks(given, masks, allowed, masked & usable & self.alive, self.report)
        alone = ~masked & usable & self.alive
        if meaning is AS_COCO and not self.report.unusable:
            meaning = meaning_by_areas(given, self.stated.reals[:, 4], self.sizes, alone, self.report)
        if meaning is AS_COCO and not self.report.unusable:
            meaning = meaning_by_images(given, self.sizes, alone, self.report)
        if meaning is AS_COCO and not self.report.unusable:
            judge_outside(self.bounds, self.sizes, self.report)
        with np.errstate(invalid="ignore", over="ignore"):
            stated = meaning.corners(given)
            if meaning is not AS_COCO:
                usable = np.all(np.abs(stated) < FAR, axis=1) & np.all(stated[:, 2:] > stated[:, :2], axis=1)
            strays = np.any(np.abs(stated - masks) > allowed, axis=1)
        absent = np.all(np.isnan(given), axis=1)
        self._drop(~masked & negative, "box with a negative width or height")
        self._drop(~masked & ~usable, "invalid box")
        wrong = self.alive & masked & ~absent & (~usable | strays)
        few = 2 * int((wrong & usable).sum()) <= int((self.alive & masked & usable).sum()) or int(wrong.sum()) < 2
        for i in np.flatnonzero(wrong & (few | ~usable)).tolist():  # most of them are one contradiction
            reason = "box that does not fit its mask" if usable[i] else "invalid box"
            detail = f"[{', '.join(f'{x:g}' for x in given[i])}]"
            self._report(i, "repair", f"{reason}, recomputed from the mask", detail)
        boxes = np.where((masked & (~usable | strays))[:, None], mask_boxes, stated)
        clipped = np.clip(boxes, 0, limits)
        with np.errstate(invalid="ignore"):
            inside = clipped.astype(np.float32)  # as records give it: a sliver may round to nothing
            self._drop(np.any(inside[:, 2:] <= inside[:, :2], axis=1), "box outside its image")
            leaves = np.any(np.abs(clipped - boxes) > 1, axis=1)
        for i in np.flatnonzero(self.alive & leaves & usable & ~strays).tolist():
            self._report(i, "repair", "box that reaches beyond its image, clipped")
        return np.where(leaves[:, None], clipped, boxes)

    def _settle_areas(self, areas: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The stated areas, else those of the masks, else those of the boxes."""
        stated = self.stated.reals[:, 4]
        judge_areas(stated, np.where(self.alive, areas, np.nan), boxes, self.report)
        areas = np.where(np.isfinite(stated) & (stated > 0), stated, areas)
        return np.where(np.isfinite(areas), areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

    def _drop_twins(self, boxes: np.ndarray, areas: np.ndarray) -> None:
        """Objects that are there twice with the same id, or because an image is listed more than once, are left out;
        others that repeat one exactly are counted.
        """
        columns = np.concatenate([boxes, areas[:, None]], axis=1).view(np.int64)
        columns = np.column_stack([self.rows, self.labels, self.kinds, self.crowd, columns])
        hashes = (columns * _ODD).sum(axis=1)  # overflow wraps around
        _, place, often = np.unique(hashes, return_inverse=True, return_counts=True)
        first: dict[bytes, int] = {}
        others: list[int] = []
        for i in np.flatnonzero((often[place] > 1) & self.alive).tolist():
            twin = first.setdefault(columns[i].tobytes(), i)
            if twin == i:
                continue
            same_id = self.has_id[i] and self.has_id[twin] and self.ids[i] == self.ids[twin]
            if same_id or self.joined[self.rows[i]]:
                self._report(i, "repair", f"object repeated with its {'id' if same_id else 'image'}, left out")
                self.alive[i] = False
            else:
                others.append(i)
        if others:
            named = ", ".join(str(self.ids[i]) for i in others[:3]) + (", ..." if len(others) > 3 else "")
            self.report.contradict(
                f"{len(others)} of {int(self.alive.sum())} objects have the class, box and area of another in their "
                f"image to the last digit (annotation {named}); they are kept, but if they are copies, delete them: a "
                "detector can find each object once only"
            )

    def _settle_ids(self) -> np.ndarray:
        """Annotation ids, unique among the valid objects: a missing or repeated id is replaced by a new one."""
        ids, living = self.ids.copy(), np.flatnonzero(self.alive)
        repeated = self.alive.copy()
        repeated[living[np.unique(ids[living], return_index=True)[1]]] = False
        taken = ids[(ids > 0) & (ids < 2**62)]  # larger ids leave no room for a successor, and need none
        replaced = np.flatnonzero((repeated | ~self.has_id) & self.alive).tolist()
        for new, i in enumerate(replaced, start=int(taken.max(initial=0)) + 1):
            reason = "annotation id that is missing, repeated or no whole number, replaced by a new one"
            self._report(i, "repair", reason, str(new))
            ids[i] = new
        return ids


def _in_chunks(offsets: np.ndarray, measure: Callable[[int, int], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What `measure` gives for ranges of neighbours, each about `_CHUNK` long in terms of `offsets`, joined."""
    pieces, first = [measure(0, 0)], 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1)
        pieces.append(measure(first, last))
        first = last
    return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]
