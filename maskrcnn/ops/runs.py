"""Masks as runs of pixels, all objects in three flat arrays: for images in which their bitmaps would not fit.

Pixels are numbered down the columns, as in COCO's run-length encoding: in an image of height H, pixel (y, x) has the
number x * H + y. A run is a stretch of numbers; its length never depends on the size of the image. Everything here
takes time in proportion to the runs, and a logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rle import decode_counts, strings_from_counts

_AT_ONCE = 4096  # codes: arrays that stay in the processor's cache are several times faster


@dataclass(frozen=True, eq=False)
class Runs:
    """The masks of N objects. The runs of an object are in order and share no pixel; adjacent ones are allowed."""

    offsets: np.ndarray  # int64 [N + 1]: object n has the runs offsets[n]:offsets[n + 1]
    starts: np.ndarray  # int64 [R], number of the first pixel
    ends: np.ndarray  # int64 [R], number behind the last pixel

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def owners(self) -> np.ndarray:
        """int64 [R], the object of each run."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def areas(self) -> np.ndarray:
        """int64 [N], pixels."""
        return np.diff(np.concatenate([[0], np.cumsum(self.ends - self.starts)])[self.offsets])


def decode(codes: Sequence[bytes]) -> Runs:
    """The masks in COCO's compressed RLE. Raises ValueError if one cannot be read."""
    if len(codes) > _AT_ONCE:
        return concatenate([decode(codes[n : n + _AT_ONCE]) for n in range(0, len(codes), _AT_ONCE)])
    sizes = np.array([len(code) for code in codes], dtype=np.int64)
    if (sizes == 0).any():
        raise ValueError("an RLE without characters")
    characters = np.frombuffer(b"".join(codes), np.uint8)
    counts, lengths, readable = decode_counts(characters, _offsets(sizes))
    if not readable.all() or (counts < 0).any():
        raise ValueError("an RLE that is not one")
    return from_counts(counts, lengths)


def from_bitmaps(bitmaps: Sequence[np.ndarray]) -> Runs:
    """The masks in bitmaps, each bool [h w], of any sizes."""
    changes = [np.flatnonzero(np.diff(bitmap.T.ravel(), prepend=False, append=False)) for bitmap in bitmaps]
    every = np.concatenate([np.zeros(0, np.int64), *changes]).astype(np.int64)
    return Runs(_offsets(np.array([len(one) // 2 for one in changes], np.int64)), every[::2], every[1::2])


def from_counts(counts: np.ndarray, lengths: np.ndarray) -> Runs:
    """The masks with these run lengths, background first: int64 of all objects end to end, and how many each has."""
    offsets = _offsets(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(counts)
    ends -= np.concatenate([[0], ends])[offsets[:-1]][owner]
    front = ((np.arange(len(counts)) - offsets[owner]) % 2 == 1) & (counts > 0)
    return Runs(_offsets(np.bincount(owner[front], minlength=len(lengths))), (ends - counts)[front], ends[front])


def encode(runs: Runs, size: tuple[int, int]) -> list[bytes]:
    """COCO's compressed RLE of each object in an image of `size`, (height, width)."""
    owners = runs.owners
    apart = np.ones(len(owners), dtype=bool)  # from the run before
    apart[1:] = (owners[1:] != owners[:-1]) | (runs.starts[1:] != runs.ends[:-1])
    last = np.append(apart[1:], True) if len(owners) else apart
    owners, starts, ends = owners[apart], runs.starts[apart], runs.ends[last]
    many = np.bincount(owners, minlength=len(runs))
    own = _offsets(many)
    reached = np.zeros(len(runs), dtype=np.int64)  # behind the last pixel of each object
    reached[many > 0] = ends[own[1:][many > 0] - 1]
    rest = size[0] * size[1] - reached
    offsets = _offsets(2 * many + (rest > 0))
    counts = np.empty(offsets[-1], dtype=np.int64)
    place = offsets[owners] + 2 * (np.arange(len(owners)) - own[owners])
    before = np.concatenate([[0], ends[:-1]])[: len(ends)]
    before[own[:-1][many > 0]] = 0
    counts[place], counts[place + 1] = starts - before, ends - starts
    counts[offsets[1:][rest > 0] - 1] = rest[rest > 0]
    return strings_from_counts(counts, offsets)


def select(runs: Runs, index: np.ndarray) -> Runs:
    """The objects at `index`, int [n]."""
    index = np.asarray(index, dtype=np.int64)
    _, run = _expand(runs, index)
    return Runs(_offsets(np.diff(runs.offsets)[index]), runs.starts[run], runs.ends[run])


def concatenate(parts: Sequence[Runs]) -> Runs:
    """The objects of all parts, in order."""
    none = np.zeros(0, np.int64)
    lengths = np.concatenate([none, *(np.diff(part.offsets) for part in parts)])
    starts, ends = [none, *(part.starts for part in parts)], [none, *(part.ends for part in parts)]
    return Runs(_offsets(lengths), np.concatenate(starts), np.concatenate(ends))


def move(runs: Runs, before: int | np.ndarray, after: int | np.ndarray, corner: tuple[int, int] | np.ndarray) -> Runs:
    """From a window of height `before`, whose first pixel is at `corner` (y, x), to its image of height `after`.

    Each may be an array with one for each object, [N] or [N 2]. Each run of the result lies in one column.
    """
    N = len(runs)
    before, after = (np.broadcast_to(height, N)[runs.owners] for height in (before, after))
    top, left = np.broadcast_to(corner, (N, 2))[runs.owners].T
    first = runs.starts // before
    pieces = (runs.ends - 1) // before - first + 1
    run = np.repeat(np.arange(len(first)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    origin = (column + left[run]) * after[run] + top[run]
    starts = np.maximum(runs.starts[run] - column * before[run], 0) + origin
    ends = np.minimum(runs.ends[run] - column * before[run], before[run]) + origin
    return Runs(_offsets(pieces)[runs.offsets], starts, ends)


def bounds(runs: Runs, heights: np.ndarray) -> np.ndarray:
    """int64 [N 4], the tight box of each object, xyxy, given the height of each one's image; zeros without pixels."""
    boxes = np.zeros((len(runs), 4), dtype=np.int64)
    full = np.flatnonzero(np.diff(runs.offsets))
    if not len(full):
        return boxes
    height = heights[runs.owners]
    (left, top), (right, bottom) = (np.divmod(number, height) for number in (runs.starts, runs.ends - 1))
    spread = right > left  # such a run reaches the bottom of one column and the top of the next
    sides = left, np.where(spread, 0, top), -right - 1, -np.where(spread, height, bottom + 1)
    low = np.stack([np.minimum.reduceat(side, runs.offsets[full]) for side in sides], axis=1)
    boxes[full] = low * [1, 1, -1, -1]
    return boxes


def bitmap(runs: Runs, i: int, height: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of object i in its tight box, bool [h w], and the box's corner (y, x), in an image of this height."""
    one = select(runs, np.array([i]))
    left, top, right, bottom = bounds(one, np.array([height]))[0].tolist()
    moved = move(one, height, height, (0, 0))
    column, row = np.divmod(moved.starts, height)
    first = (column - left) * (bottom - top) + row - top
    flips = np.zeros((right - left) * (bottom - top) + 1, dtype=np.int8)
    np.add.at(flips, first, 1)
    np.add.at(flips, first + moved.ends - moved.starts, -1)
    return np.cumsum(flips[:-1], dtype=np.int8).astype(bool).reshape(right - left, bottom - top).T, (top, left)


def shared(a: Runs, b: Runs, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 [P]: pixels that object left[p] of `a` and object right[p] of `b` have in common; both of one image."""
    if not len(left) or not len(a.starts) or not len(b.starts):
        return np.zeros(len(left), dtype=np.int64)
    pair, run = _expand(a, left)
    apart = max(int(a.ends.max()), int(b.ends.max())) + 1  # objects of b lie so far apart on one line
    own = b.owners * apart
    starts, ends = b.starts + own, b.ends + own
    low, high = a.starts[run] + right[pair] * apart, a.ends[run] + right[pair] * apart
    first, last = np.searchsorted(ends, low, side="right"), np.searchsorted(starts, high, side="left")
    hit = last > first
    pair, low, high, first, last = pair[hit], low[hit], high[hit], first[hit], last[hit]
    covered = np.concatenate([[0], np.cumsum(b.ends - b.starts)])
    pixels = covered[last] - covered[first]
    pixels -= np.maximum(low - starts[first], 0) + np.maximum(ends[last - 1] - high, 0)
    return _sums(pair, pixels, len(left))


def inside(runs: Runs, objects: np.ndarray, windows: np.ndarray, height: int) -> np.ndarray:
    """int64 [P]: pixels of object objects[p] in window p, int [P 4], xyxy. Each run must lie in one column."""
    pair, run = _expand(runs, objects)
    column, top = np.divmod(runs.starts[run], height)
    x1, y1, x2, y2 = windows[pair].T
    pixels = np.minimum(top + runs.ends[run] - runs.starts[run], y2) - np.maximum(top, y1)
    return _sums(pair, np.where((column >= x1) & (column < x2), np.maximum(pixels, 0), 0), len(objects))


def union(runs: Runs, groups: np.ndarray, count: int) -> Runs:
    """The union of the objects of each group: object n belongs to groups[n], 0..count - 1."""
    if not len(runs.starts):
        return Runs(np.zeros(count + 1, np.int64), runs.starts, runs.ends)
    apart = int(runs.ends.max()) + 1
    own = groups[runs.owners] * apart
    order = np.argsort(runs.starts + own, kind="stable")
    starts, reached = (runs.starts + own)[order], np.maximum.accumulate((runs.ends + own)[order])
    begins = np.append(True, starts[1:] >= reached[:-1])
    starts, reached, own = starts[begins], reached[np.append(begins[1:], True)], own[order][begins]
    return Runs(_offsets(np.bincount(own // apart, minlength=count)), starts - own, reached - own)


def _expand(runs: Runs, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every run of every object in `objects`: the place of the object there, and the index of the run."""
    lengths = np.diff(runs.offsets)[objects]
    place = np.repeat(np.arange(len(objects)), lengths)
    run = np.arange(len(place)) + np.repeat(runs.offsets[objects] - (np.cumsum(lengths) - lengths), lengths)
    return place, run


def _sums(group: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(group, weights=values, minlength=count).astype(np.int64)  # exact below 2^53


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
