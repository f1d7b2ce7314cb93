"""The annotations of a COCO json, parsed from its bytes into columns: no Python object is made per annotation.

Parsed here are records of the usual fields in the usual types (other fields may hold anything plain). Any other record
is odd: only its place is noted, and json reads it. Serial: it may run in any thread.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from .coco_scan import (
    BEGIN,
    CATEGORY_ID,
    CHARACTERS,
    COUNTS,
    END,
    FIRST,
    HEIGHT,
    ID,
    IGNORE,
    IMAGE_ID,
    KEYPOINTS,
    KEYPOINTS_FIRST,
    KEYPOINTS_LAST,
    KIND,
    LAST,
    ODD,
    PARTS,
    STRINGS,
    VALUES,
    WIDTH,
)
from .json_numba import (
    BACKSLASH,
    CLOSE_LIST,
    CLOSE_OBJECT,
    COMMA,
    INTEGER,
    NULL,
    OPEN_LIST,
    OPEN_OBJECT,
    QUOTE,
    after_colon,
    element_end,
    flag,
    integers,
    literal,
    number,
    number_or_null,
    numbers,
    plain_string,
    same,
    skip,
    space,
)

_POLYGONS, _RLE = 1, 2  # as in records.py
_BBOX, _AREA, _KEYPOINTS, _SEGMENTATION, _ISCROWD, _OTHER = range(20, 26)
_NEEDED = (1 << IMAGE_ID) | (1 << CATEGORY_ID) | (1 << ID) | (1 << _BBOX)
(
    _IMAGE_ID_NAME, _CATEGORY_ID_NAME, _ID_NAME, _IGNORE_NAME, _BBOX_NAME, _AREA_NAME, _KEYPOINTS_NAME,
    _SEGMENTATION_NAME, _ISCROWD_NAME, _COUNTS_NAME, _SIZE_NAME,
) = (
    np.frombuffer(name, np.uint8)
    for name in (
        b"image_id", b"category_id", b"id", b"ignore", b"bbox", b"area", b"keypoints",
        b"segmentation", b"iscrowd", b"counts", b"size",
    )
)  # fmt: skip


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def scan(text, i, whole, reals, values, parts, counts, characters, stops, keypoint_rows, used):  # noqa: ANN001, ANN201
    """The list that begins at `i`. Returns where it ends, -1 where it is no list of json, and the number of records.

    Row by row `whole` (int64 [most 13], columns as in coco_scan.py) and `reals` (float64 [most 5]: box and area, NaN
    for none); end to end `values` (float64, corners of polygons), `parts` (int64, how many values after each polygon),
    `counts` (int64, of run lengths), `characters` (uint8, of compressed ones) with `stops` (int64), `keypoints`
    (float64; empty: not wanted). FIRST and LAST are a range of `parts` or of `counts`, or -1 and the number of a
    string. All must be as long as `bounds` says; `used` (int64 [6]) starts with zeros.
    """
    n, rows = len(text), 0
    before = np.empty(len(used), np.int64)
    i = space(text, i + 1)
    if i < n and text[i] == CLOSE_LIST:
        return i + 1, 0
    while i < n and rows < len(whole):
        row, real = whole[rows], reals[rows]
        row[:] = 0
        real[:] = np.nan
        before[:] = used
        end = _record(text, i, row, real, values, parts, counts, characters, stops, keypoint_rows, used)
        if end < 0:
            used[:], row[:] = before, 0
            row[KIND] = ODD
            end = element_end(text, i)
        row[BEGIN], row[END] = i, end
        rows += 1
        i = space(text, end)
        if i < n and text[i] == CLOSE_LIST:
            return i + 1, rows
        if i >= n or text[i] != COMMA:
            return -1, rows
        i = space(text, i + 1)
    return -1, rows


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _record(text, i, row, real, values, parts, counts, characters, stops, keypoint_rows, used):  # noqa: ANN001, ANN202
    """Where the object at `i` ends, or -1: it is odd."""
    if text[i] != OPEN_OBJECT:
        return -1
    n, seen = len(text), 0
    i = space(text, i + 1)
    while True:
        if i >= n or text[i] != QUOTE:
            return -1
        end = plain_string(text, i)
        if end < 0:
            return -1
        field = _field(text, i + 1, end)
        i = after_colon(text, end + 1)
        if i < 0 or (field != _OTHER and (seen >> field) & 1):
            return -1
        seen |= 1 << field
        if field == _SEGMENTATION:
            i = _segmentation(text, i, row, values, parts, counts, characters, stops, used)
        elif field == _BBOX:
            i, length = numbers(text, i, real[:4], 0)
            if length != 4:
                return -1
        elif field == _AREA:
            i, real[4] = number_or_null(text, i)
        elif field == IMAGE_ID or field == CATEGORY_ID or field == ID:
            i, _, row[field], kind = number(text, i)
            if kind != INTEGER:
                return -1
        elif field == IGNORE or field == _ISCROWD:
            i, crowd = flag(text, i)
            row[IGNORE] |= crowd
        elif field == _KEYPOINTS and len(keypoint_rows):
            row[KEYPOINTS_FIRST] = used[KEYPOINTS]
            if text[i] == OPEN_LIST:
                i, used[KEYPOINTS] = numbers(text, i, keypoint_rows, used[KEYPOINTS])
            else:
                i = literal(text, i, NULL)
            row[KEYPOINTS_LAST] = used[KEYPOINTS]
        else:
            i = skip(text, i)
        if i < 0:
            return -1
        i = space(text, i)
        if i < n and text[i] == CLOSE_OBJECT:
            return i + 1 if seen & _NEEDED == _NEEDED else -1
        if i >= n or text[i] != COMMA:
            return -1
        i = space(text, i + 1)


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _field(text, first, last):  # noqa: ANN001, ANN202
    """Which field a name of record means."""
    if same(text, first, last, _SEGMENTATION_NAME):
        return _SEGMENTATION
    if same(text, first, last, _AREA_NAME):
        return _AREA
    if same(text, first, last, _ISCROWD_NAME):
        return _ISCROWD
    if same(text, first, last, _IMAGE_ID_NAME):
        return IMAGE_ID
    if same(text, first, last, _BBOX_NAME):
        return _BBOX
    if same(text, first, last, _CATEGORY_ID_NAME):
        return CATEGORY_ID
    if same(text, first, last, _ID_NAME):
        return ID
    if same(text, first, last, _KEYPOINTS_NAME):
        return _KEYPOINTS
    if same(text, first, last, _IGNORE_NAME):
        return IGNORE
    return _OTHER


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _segmentation(text, i, row, values, parts, counts, characters, stops, used):  # noqa: ANN001, ANN202
    """Polygons of at least three points each, run lengths, or nothing."""
    n = len(text)
    if text[i] == OPEN_OBJECT:
        return _run_lengths(text, i, row, counts, characters, stops, used)
    if text[i] != OPEN_LIST:
        return literal(text, i, NULL)
    i = space(text, i + 1)
    if i < n and text[i] == CLOSE_LIST:
        return i + 1
    row[KIND], row[FIRST] = _POLYGONS, used[PARTS]
    while i < n:
        before = used[VALUES]
        i, used[VALUES] = numbers(text, i, values, before)
        length = used[VALUES] - before
        if i < 0 or length < 6 or length % 2:
            return -1
        parts[used[PARTS]] = used[VALUES]
        used[PARTS] += 1
        i = space(text, i)
        if i < n and text[i] == CLOSE_LIST:
            row[LAST] = used[PARTS]
            return i + 1
        if i >= n or text[i] != COMMA:
            return -1
        i = space(text, i + 1)
    return -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _run_lengths(text, i, row, counts, characters, stops, used):  # noqa: ANN001, ANN202
    """An object of `size` and `counts`, each once."""
    n = len(text)
    sized = counted = False
    size = np.empty(2, np.int64)
    i = space(text, i + 1)
    while True:
        if i >= n or text[i] != QUOTE:
            return -1
        end = plain_string(text, i)
        if end < 0:
            return -1
        first, i = i + 1, after_colon(text, end + 1)
        if i < 0:
            return -1
        if not sized and same(text, first, end, _SIZE_NAME):
            sized = True
            i, length = integers(text, i, size, 0)
            if length != 2:
                return -1
        elif not counted and same(text, first, end, _COUNTS_NAME):
            counted = True
            if text[i] == QUOTE:
                row[FIRST], row[LAST] = -1, used[STRINGS]
                i = _characters(text, i, characters, stops, used)
            else:
                row[FIRST] = used[COUNTS]
                i, used[COUNTS] = integers(text, i, counts, used[COUNTS])
                row[LAST] = used[COUNTS]
        else:
            return -1
        if i < 0:
            return -1
        i = space(text, i)
        if i < n and text[i] == CLOSE_OBJECT:
            row[KIND], row[HEIGHT], row[WIDTH] = _RLE, size[0], size[1]
            return i + 1 if sized and counted else -1
        if i >= n or text[i] != COMMA:
            return -1
        i = space(text, i + 1)


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _characters(text, i, characters, stops, used):  # noqa: ANN001, ANN202
    """A string of compressed counts, not empty, whose only escape is that of the backslash."""
    n, count = len(text), used[CHARACTERS]
    i += 1
    while i < n and text[i] != QUOTE:
        if text[i] == BACKSLASH:
            i += 1
            if i >= n or text[i] != BACKSLASH:
                return -1
        elif text[i] < 32 or text[i] > 127:
            return -1
        characters[count] = text[i]
        count += 1
        i += 1
    if i >= n or count == used[CHARACTERS]:
        return -1
    used[CHARACTERS] = count
    stops[used[STRINGS]] = count
    used[STRINGS] += 1
    return i + 1
