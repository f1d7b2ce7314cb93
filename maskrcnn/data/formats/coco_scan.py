"""A large COCO json without a Python object for each of its annotations.

A compiled scanner (`coco_scan_numba.py`) writes their numbers into columns; json reads all the rest of the file, and
those annotations that are odd or do not fit. What comes out, and what is told, is what `Flat` makes of the same file.
"""

import importlib.util
import json
from typing import Any, NamedTuple

import numpy as np

from ..records import RLE
from .coco_flat import Flat
from .coco_objects import FAR, Columns, join

SCAN_FROM = 1 << 24  # bytes; json reads less in the time that the scanner takes to load, or to compile once

# Columns of `whole`: where the record's text begins and ends, then what it says.
BEGIN, END, KIND, FIRST, LAST, HEIGHT, WIDTH, KEYPOINTS_FIRST, KEYPOINTS_LAST = range(9)
IMAGE_ID, CATEGORY_ID, ID, IGNORE = range(9, 13)
WHOLE_COLUMNS, REAL_COLUMNS = 13, 5
ODD = -1  # a value of KIND, beside those of `ObjectTable.kinds`
# Counters in `used`.
VALUES, PARTS, COUNTS, CHARACTERS, STRINGS, KEYPOINTS = range(6)
COUNTERS = 6


class OddJson(Exception):
    """The scanner cannot tell what is wrong with a file; json can."""


class Scan(NamedTuple):
    """The annotations of a file as the scanner left them; `coco_scan_numba.scan` says what the buffers hold."""

    content: bytes
    whole: np.ndarray
    reals: np.ndarray
    values: np.ndarray
    parts: np.ndarray
    counts: np.ndarray
    characters: np.ndarray
    stops: np.ndarray
    keypoint_rows: np.ndarray


def reader_of(size: int) -> str:
    """What reads a file of so many bytes: "numba" or "json"."""
    return "numba" if size >= SCAN_FROM and importlib.util.find_spec("numba") is not None else "json"


def scan_annotations(content: bytes, *, keypoints: bool) -> tuple[Scan, slice] | None:
    """The list `annotations` of the outermost object, and where in `content` it stands; None where json must judge."""
    from .coco_scan_numba import scan
    from .json_numba import bounds, find_list

    if json.detect_encoding(content) != "utf-8":
        return None
    text = np.frombuffer(content, np.uint8)
    first = find_list(text, np.frombuffer(b"annotations", np.uint8))
    if first < 0:
        return None
    # What is reserved here costs no memory until it is written to.
    most_records, most_lists, most_numbers = bounds(text, first)
    whole, reals = np.empty((most_records, WHOLE_COLUMNS), np.int64), np.empty((most_records, REAL_COLUMNS))
    values, parts = np.empty(most_numbers), np.empty(most_lists, np.int64)
    counts, keypoint_rows = np.empty(most_numbers, np.int64), np.empty(most_numbers if keypoints else 0)
    characters, stops = np.empty(len(text) - first, np.uint8), np.empty(most_records, np.int64)
    used = np.zeros(COUNTERS, np.int64)
    last, records = scan(text, first, whole, reals, values, parts, counts, characters, stops, keypoint_rows, used)
    if last < 0:
        return None
    found = Scan(
        content,
        whole[:records],
        reals[:records],
        values[: used[VALUES]],
        parts[: used[PARTS]],
        counts[: used[COUNTS]],
        characters[: used[CHARACTERS]],
        stops[: used[STRINGS]],
        keypoint_rows[: used[KEYPOINTS]],
    )
    return found, slice(first, last)


def scanned_columns(scan: Scan, flat: Flat) -> Columns:
    """The objects of all annotations, in the order of the file. `flat` judges those that the scanner left to json.

    Raises `OddJson` where one of those is no json.
    """
    whole = scan.whole
    rows, labels = _translated(whole[:, IMAGE_ID], flat.image_rows), _translated(whole[:, CATEGORY_ID], flat.labels)
    plain = whole[:, KIND] != ODD
    lost = plain & (rows == -1)
    flat.report.lost_with_image += int(lost.sum())
    good = plain & (rows >= 0) & (labels >= 0)
    runs = np.flatnonzero(good & (whole[:, KIND] == RLE))
    good[runs] = (whole[runs, HEIGHT : WIDTH + 1] == flat.sizes[rows[runs]]).all(axis=1)
    keypoint_rows = _read_keypoints(scan, flat, labels, good) if flat.keypoints else None
    for place in np.flatnonzero(~good & ~lost).tolist():
        flat.add(_loaded(scan.content[whole[place, BEGIN] : whole[place, END]]), place)
    places = np.flatnonzero(good)
    columns = Columns(
        places=places,
        rows=rows[places],
        ids=whole[places, ID],
        has_id=np.ones(len(places), bool),
        labels=labels[places],
        ignore=whole[places, IGNORE] != 0,
        kinds=whole[places, KIND].astype(np.uint8),
        spans=whole[places, FIRST : LAST + 1],
        boxes=scan.reals[places, :4],
        areas=scan.reals[places, 4],
        keypoints=None if keypoint_rows is None else keypoint_rows[places],
        points=scan.values.reshape(-1, 2),
        part_offsets=np.concatenate([[0], scan.parts // 2]),
        counts=scan.counts,
        characters=scan.characters,
        string_offsets=np.concatenate([[0], scan.stops]),
    )
    return join(columns, flat.columns())


def _loaded(record: bytes) -> Any:
    try:
        return json.loads(record.decode())
    except (ValueError, RecursionError) as error:
        raise OddJson from error


def _translated(ids: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """int64: what `table` says of each id; -2 for those that it does not have."""
    if not table:
        return np.full(len(ids), -2)
    keys, values = np.fromiter(table.keys(), np.int64, len(table)), np.fromiter(table.values(), np.int64, len(table))
    order = np.argsort(keys)
    at = order[np.minimum(np.searchsorted(keys, ids, sorter=order), len(keys) - 1)]
    return np.where(keys[at] == ids, values[at], -2)


def _read_keypoints(scan: Scan, flat: Flat, labels: np.ndarray, good: np.ndarray) -> np.ndarray:
    """float32 [n J 3]. Whatever is not as it should be is no longer `good`."""
    first = scan.whole[:, KEYPOINTS_FIRST]
    lengths = scan.whole[:, KEYPOINTS_LAST] - first
    keypoint_rows = np.zeros((len(labels), flat.num_keypoints, 3), np.float32)
    sound = lengths == 0
    for label, place in enumerate(flat.slices):
        width = 3 * (place.stop - place.start)
        mine = np.flatnonzero(good & (labels == label) & (lengths == width) & ~sound)
        own = scan.keypoint_rows[first[mine, None] + np.arange(width)].reshape(len(mine), width // 3, 3)
        right = (np.abs(own) < FAR).all(axis=(1, 2)) & np.isin(own[:, :, 2], (0, 1, 2)).all(axis=1)
        keypoint_rows[mine[right], place] = own[right]
        sound[mine[right]] = True
    good &= sound
    return keypoint_rows
