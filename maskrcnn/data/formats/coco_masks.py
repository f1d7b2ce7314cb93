"""Run lengths and polygons of many objects at once: decoding, boxes and areas without drawing a mask.

The compressed counts are COCO's (maskApi.c, `rleFrString`): base 48 characters of five bits, low bits first, bit 5
says that more follow, the last bit 4 is the sign, and from the fourth count on each is stored as its difference to the
one two before.
"""

from collections.abc import Iterator

import numpy as np

_CHUNK = 1 << 20  # characters, counts or points looked at together, which bounds the temporary arrays
_LONGEST = 8  # characters a count: 40 bits, more than any image needs


def counts_of_strings(
    characters: np.ndarray,  # uint8 [characters], all strings end to end
    offsets: np.ndarray,  # int64 [strings + 1]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 counts of all strings end to end, int64 [strings + 1] offsets into them, and bool [strings]: could be read.

    A string that could not be read has no counts.
    """
    counts, lengths, readable = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for first, last in _chunks(offsets):
        part = _decode(characters[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first])
        for whole, piece in zip((counts, lengths, readable), part, strict=True):
            whole.append(piece)
    return np.concatenate(counts), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), np.concatenate(readable)


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of neighbours that are about `_CHUNK` long together, at least one each."""
    first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1)
        yield first, last
        first = last


def _decode(characters: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    string_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    bits = characters.astype(np.int64) - 48
    ends = (bits & 32) == 0  # the last character of a count
    wrong = (bits < 0) | (bits > 63)
    wrong[offsets[1:] - 1] |= ~ends[offsets[1:] - 1]
    starts = np.concatenate([[True], ends[:-1]])
    starts[offsets[:-1]] = True  # a string that ends within a count must not run into the next
    count_of = np.cumsum(starts) - 1
    place = np.arange(len(bits)) - np.flatnonzero(starts)[count_of]
    wrong |= place >= _LONGEST
    readable = np.bincount(string_of[wrong], minlength=len(offsets) - 1) == 0
    keep = readable[string_of]
    bits, place, ends, starts, string_of = bits[keep], place[keep], ends[keep], starts[keep], string_of[keep]
    if not len(bits):
        return np.zeros(0, np.int64), np.zeros(len(readable), np.int64), readable
    values = np.add.reduceat((bits & 31) << (5 * place), np.flatnonzero(starts))
    negative = (bits[ends] & 16) != 0
    values -= negative * (np.int64(1) << (5 * (place[ends] + 1)))
    owner = string_of[ends]
    lengths = np.bincount(owner, minlength=len(readable))
    return _undo_differences(values, owner, lengths), lengths, readable


def _undo_differences(values: np.ndarray, owner: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Adds to each count from the fourth on the one two places before it: running sums over the odd and over the even
    places.
    """
    begins = (np.cumsum(lengths) - lengths)[owner]
    place = np.arange(len(values)) - begins
    chained = np.where(place == 0, 0, values)  # the first count is stored as it is and starts no chain
    odd, even = np.cumsum(np.where(place % 2, chained, 0)), np.cumsum(np.where(place % 2, 0, chained))
    totals = np.where(place % 2, odd - odd[begins], even - even[begins])
    return np.where(place == 0, values, totals)


def rle_measures(
    counts: np.ndarray,  # int64, of all objects
    spans: np.ndarray,  # int64 [n 2], the range of each
    sizes: np.ndarray,  # int64 [n 2], (height, width)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [n]: the counts are not negative and add up to height * width; float64 [n 4] tight xyxy boxes; float64 [n]
    areas.
    """
    fits, boxes, areas = np.zeros(len(spans), bool), np.zeros((len(spans), 4)), np.zeros(len(spans))
    for first, last in _chunks(np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])):
        part = slice(first, last)
        fits[part], boxes[part], areas[part] = _rle_measures(counts, spans[part], sizes[part])
    return fits, boxes, areas


def _rle_measures(
    counts: np.ndarray, spans: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(spans)
    lengths = spans[:, 1] - spans[:, 0]
    owner = np.repeat(np.arange(n), lengths)
    begins = np.cumsum(lengths) - lengths
    place = np.arange(len(owner)) - begins[owner]
    runs = counts[spans[owner, 0] + place]
    pixels = sizes[:, 0] * sizes[:, 1]
    fits = lengths > 0
    fits[owner[(runs < 0) | (runs > pixels[owner])]] = False  # from here on no sum can overflow
    runs = np.where(fits[owner], runs, 0)
    ends = np.cumsum(runs)
    ends -= (ends - runs)[begins[owner]]  # from the first pixel of the own mask
    sums = np.bincount(owner, weights=runs, minlength=n)
    fits &= sums == pixels
    front = (place % 2 == 1) & (runs > 0) & fits[owner]
    owner, first, last = owner[front], (ends - runs)[front], ends[front] - 1
    height = np.maximum(sizes[owner, 0], 1)
    left, right = first // height, last // height
    spread = right > left  # the run reaches the bottom of one column and the top of the next
    top, bottom = np.where(spread, 0, first % height), np.where(spread, height - 1, last % height)
    boxes, areas = np.full((n, 4), np.nan), np.zeros(n)
    if len(owner):
        begin = np.flatnonzero(np.diff(owner, prepend=-1))
        objects = owner[begin]
        boxes[objects, 0], boxes[objects, 1] = np.minimum.reduceat(left, begin), np.minimum.reduceat(top, begin)
        boxes[objects, 2] = np.maximum.reduceat(right, begin) + 1
        boxes[objects, 3] = np.maximum.reduceat(bottom, begin) + 1
        areas[objects] = np.add.reduceat(last - first + 1, begin)
    return fits, boxes, areas


def polygon_measures(
    points: np.ndarray,  # float64 [points 2]
    offsets: np.ndarray,  # int64 [parts + 1]
    far: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool [parts]: all values finite and within +-far; float64 [parts 4] xyxy boxes; float64 [parts] areas.

    The area is that of the shoelace formula, and 0 only where all points lie on one line (a bow tie's halves do not
    cancel to 0).
    """
    n = len(offsets) - 1
    sensible, boxes, areas = np.zeros(n, bool), np.zeros((n, 4)), np.zeros(n)
    for first, last in _chunks(offsets):
        part = slice(first, last)
        sensible[part], boxes[part], areas[part] = _polygon_measures(
            points[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first], far
        )
    return sensible, boxes, areas


def _polygon_measures(points: np.ndarray, offsets: np.ndarray, far: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, lengths = offsets[:-1], np.diff(offsets)
    sensible = np.logical_and.reduceat((np.abs(points) < far).all(1), first)
    points = np.where(np.repeat(sensible, lengths)[:, None], points, 0)
    boxes = np.concatenate([np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)], axis=1)
    around = points - np.repeat(points[first], lengths, axis=0)  # small numbers: no cancellation far from the origin
    x, y = around.T
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = first
    cross = x * y[following] - x[following] * y
    shoelace = np.abs(np.add.reduceat(cross, first)) / 2
    unsigned = np.add.reduceat(np.abs(cross), first) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    flat = (unsigned <= 1e-9) | (sides <= 0).any(1)
    return sensible, boxes, np.where(flat, 0, np.maximum(shoelace, 1e-9))
