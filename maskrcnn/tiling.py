"""Large images in tiles of the size that training saw: each is predicted alone, and their objects are joined.

A tile is laid on the canvas at the scale of training, so an object looks as it did there. Neighbouring tiles overlap.
What tile A and tile B both see, their common zone, decides what belongs together; masks are compared there, on run
lengths, never boxes:

1. A detection is *cut* if its box reaches a border of its tile that is not one of the image. A cut detection is dropped
   if another tile sees its whole box with room to spare: that tile saw the object complete, or knows better that there
   is none. So an object smaller than the overlap is never joined, whatever its neighbours.
2. Two detections of one class from different tiles *match* if their parts in the common zone have an IoU of 0.5 or
   more. They also belong together if one lies within the other there (0.7 of its pixels), as one of two arms does that
   meet in the next tile; unless it has a match of its own in the other's tile, or lies within a second one in its own
   tile: then it is an object inside another one. If the model suppresses boxes of any class (`model.box_head.nms`),
   detections of two classes match, too; the best one's class counts.
3. Of two complete detections that belong together, the one with the better score stays. A complete one replaces a cut
   one if its tile sees all of that one's box. All others are parts of an object that is larger than the overlap: their
   masks and boxes are united, the best score counts, and of each keypoint the surest place.

Objects that touch share no pixel of the zone, so they stay two. Without overlap nothing can be compared, and an object
on a seam stays in parts. Everything takes time in proportion to the detections.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .canvas import Window, fit, join
from .config import InputConfig, seen
from .engine import Engine
from .errors import ConfigError
from .ops import runs as masks
from .ops.nearby import overlapping
from .ops.runs import Runs
from .results import Result
from .structures import Images

OVERLAP = 0.2  # of a tile's side
SHRUNK = 2 / 3  # of the scale of training: below it objects no longer look as they did there
_LEAST_SIDE = 32
_MATCH, _WITHIN = 0.5, 0.7  # see rule 2


@dataclass(frozen=True)
class Tiling:
    """How an image is cut: squares of `side` image pixels, of which neighbours share at least `overlap` pixels, laid on
    the canvas at `scale` canvas pixels per image pixel."""

    side: int
    overlap: int
    scale: float

    def starts(self, length: int) -> np.ndarray:
        """int64: where the tiles begin along an axis of `length` pixels, evenly spread."""
        if length <= self.side:
            return np.zeros(1, dtype=np.int64)
        many = math.ceil((length - self.overlap) / (self.side - self.overlap))
        return np.round(np.linspace(0, length - self.side, many)).astype(np.int64)

    def windows(self, size: tuple[int, int]) -> np.ndarray:
        """int64 [T 4], xyxy, the tiles of an image of `size`, row by row. All have the same size."""
        height, width = size
        y, x = (axis.ravel() for axis in np.meshgrid(self.starts(height), self.starts(width), indexing="ij"))
        return np.stack([x, y, x + min(self.side, width), y + min(self.side, height)], axis=1)


# --- whether and how --------------------------------------------------------------------------------------------------


def check_tile(tile: str | int, overlap: float) -> str | int:
    """`tile` as "auto", "off" or a number of pixels. Raises `ConfigError` for anything else, or a wrong overlap."""
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"overlap is a share of a tile's side, 0 to 0.9; it is {overlap}")
    if tile in ("auto", "off"):
        return tile
    try:
        side = int(tile)
    except ValueError:
        side = 0
    if side < _LEAST_SIDE:
        raise ConfigError(f"tile is auto, off or a side of at least {_LEAST_SIDE} image pixels; it is {tile!r}")
    return side


def plan(size: tuple[int, int], rule: InputConfig, tile: str | int = "auto", overlap: float = OVERLAP) -> Tiling | None:
    """The tiling of an image of `size`, (height, width); None if it is predicted whole.

    "auto" cuts an image that `rule` would shrink below two thirds of the scale of training, into tiles of the size that
    training saw. A number is the side of the tiles in image pixels. If the scale of training is unknown, "auto" cuts
    nothing, and given tiles are resized as an image of their size would be.
    """
    scale, canvas_side = seen(rule)
    if tile == "off" or (tile == "auto" and not shrinks(min(fit(*size, rule).scales), rule)):
        return None
    side = int(canvas_side / scale) if tile == "auto" else int(tile)
    if max(size) <= side:
        return None
    return Tiling(side, round(side * overlap), scale or fit(side, side, rule).scales[0])


def shrinks(scale: float, rule: InputConfig) -> bool:
    """Whether an image at this scale is shrunk so far that objects no longer look as they did in training."""
    return scale < SHRUNK * seen(rule)[0]


def remark(result: Result, rule: InputConfig) -> str:
    """What to tell of how an image was seen: in tiles, or shrunk; empty if it was neither."""
    if result.tiles > 1:
        return f"in {result.tiles} tiles"
    if shrinks(result.scale, rule):
        return f"shrunk to {result.scale / seen(rule)[0]:.0%} of the scale of training"
    return f"shrunk to {result.scale:.0%} of its size" if result.scale < 0.995 else ""


# --- from an image to its result --------------------------------------------------------------------------------------


def detect(
    engine: Engine,
    window: Window,
    size: tuple[int, int],
    tiling: Tiling,
    *,
    batch: int = 1,
    path: Path | None = None,
    original: np.ndarray | None = None,
    image_id: int | str | None = None,
) -> Result:
    """The objects of an image of `size`, (height, width), in its own pixels, with masks as run lengths.

    `window` reads a part of it, in a thread; one batch of tiles is read ahead. Raises `DataError` if it does.
    """
    windows = tiling.windows(size)
    rule = replace(
        engine.config.input,
        min_size=0,
        zoom=tiling.scale,
        max_size=max(engine.config.input.max_size, math.ceil(tiling.side * tiling.scale) + 1),
    )
    seeing = replace(
        engine, backend=engine.for_tiles or engine.backend, config=replace(engine.config, input=rule), thresholds=()
    )
    batches = _batches(seeing, window, windows, batch)
    found = [_encoded(result) for images in batches for result in seeing.results(images)]
    pieces = join_pieces(
        _pieces(found, windows, size[0]), tiling, size, agnostic=engine.config.box_head.nms == "agnostic"
    )
    codes = None
    if pieces.runs is not None:
        codes = np.empty(len(pieces.boxes), dtype=object)
        codes[:] = masks.encode(pieces.runs, size)
    whole = replace(
        found[0],
        size=size,
        boxes=pieces.boxes,
        scores=pieces.scores,
        labels=pieces.labels,
        small_masks=None,
        codes=codes,
        keypoints=pieces.keypoints,
        path=path,
        image=original,
        image_id=image_id,
        tiles=len(windows),
    )
    return engine.above(whole)


def _encoded(result: Result) -> Result:
    """The same with its masks as run lengths alone: small masks take thirty times as much, of every tile together."""
    if result.rle is None:
        return result
    codes = np.array([rle["counts"] for rle in result.rle] + [None], dtype=object)[:-1]  # an array also of none
    return replace(result, small_masks=None, codes=codes)


def _batches(engine: Engine, window: Window, windows: np.ndarray, batch: int) -> Iterator[Images]:
    def prepare(some: np.ndarray) -> Images:
        return join([engine.prepare(window(y1, x1, y2, x2)) for x1, y1, x2, y2 in some.tolist()])

    with ThreadPoolExecutor(1, thread_name_prefix="maskrcnn-tile") as pool:
        waiting: deque[Future[Images]] = deque()
        for first in range(0, len(windows), batch):
            waiting.append(pool.submit(prepare, windows[first : first + batch]))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        yield waiting.popleft().result()


# --- joining ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pieces:
    """The N detections of all tiles, in pixels of the image."""

    boxes: np.ndarray  # float32 [N 4], xyxy
    scores: np.ndarray  # float32 [N]
    labels: np.ndarray  # int64 [N]
    windows: np.ndarray  # int64 [N 4], xyxy, the tile that each was found in
    runs: Runs | None = None  # each run lies in one column; None without a mask branch
    keypoints: np.ndarray | None = None  # float32 [N J 3]

    def select(self, index: np.ndarray) -> "Pieces":
        """Those at `index`, int [n]."""
        return Pieces(
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            self.windows[index],
            None if self.runs is None else masks.select(self.runs, index),
            None if self.keypoints is None else self.keypoints[index],
        )


def _pieces(found: Sequence[Result], windows: np.ndarray, height: int) -> Pieces:
    """What was found in the tiles, moved to its place in an image of this height."""
    counts = [len(result) for result in found]
    corner = np.repeat(windows[:, :2], counts, axis=0).astype(np.float32)
    runs = keypoints = None
    if found[0].rle is not None:
        moved = []
        for result, (x, y, *_) in zip(found, windows.tolist(), strict=True):
            codes = [rle["counts"] for rle in result.rle or []]
            moved.append(masks.move(masks.decode(codes), result.size[0], height, (y, x)))
        runs = masks.concatenate(moved)
    if found[0].keypoints is not None:
        every: Any = [result.keypoints for result in found]
        keypoints = np.concatenate(every)
        keypoints[..., :2] += corner[:, None] * (keypoints[..., 2:] != 0)  # zeros for keypoints of other categories
    return Pieces(
        boxes=np.concatenate([result.boxes for result in found]) + np.tile(corner, 2),
        scores=np.concatenate([result.scores for result in found]),
        labels=np.concatenate([result.labels for result in found]),
        windows=np.repeat(windows, counts, axis=0),
        runs=runs,
        keypoints=keypoints,
    )


def join_pieces(pieces: Pieces, tiling: Tiling, size: tuple[int, int], *, agnostic: bool = False) -> Pieces:
    """The objects of the image, best first, by the rules in the docstring of this file."""
    margin = max(1.0, tiling.overlap / 16)  # boxes of cut objects do not end exactly on the border
    cut = _room(pieces.boxes, pieces.windows, size) <= margin
    kept = np.flatnonzero(~(cut & _seen_elsewhere(pieces.boxes, tiling, size, 2 * margin)))
    pieces, cut = pieces.select(kept), cut[kept]
    left, right = _related(pieces, size[0], agnostic)
    complete = ~cut[left] & ~cut[right]
    alive = _suppress(pieces.scores, left[complete], right[complete])
    parts = np.zeros(len(left), dtype=bool)
    replaced = np.zeros(len(cut), dtype=bool)
    for one, other in ((left, right), (right, left)):
        mixed = ~cut[one] & cut[other] & alive[one]
        known = _within(pieces.boxes[other], pieces.windows[one])
        replaced[other[mixed & known]] = True
        parts |= mixed & ~known
    alive &= ~replaced
    parts = (parts | (cut[left] & cut[right])) & alive[left] & alive[right]
    return _united(pieces, np.flatnonzero(alive), left[parts], right[parts])


def _room(boxes: np.ndarray, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[N]: from each box to the nearest border of its tile that is not a border of the image; infinite without one."""
    height, width = size
    inner = np.concatenate([windows[:, :2] > 0, windows[:, 2:] < [width, height]], axis=1)
    room = np.concatenate([boxes[:, :2] - windows[:, :2], windows[:, 2:] - boxes[:, 2:]], axis=1)
    return np.where(inner, room, np.inf).min(axis=1)


def _seen_elsewhere(boxes: np.ndarray, tiling: Tiling, size: tuple[int, int], room: float) -> np.ndarray:
    """bool [N]: whether some tile holds the box, with so much room to its inner borders."""
    held = np.ones(len(boxes), dtype=bool)
    for axis, length in ((0, size[1]), (1, size[0])):  # tiles form a grid, so each axis decides alone
        starts, low, high = tiling.starts(length), boxes[:, axis], boxes[:, axis + 2]
        last = np.maximum(np.searchsorted(starts, low - room, side="right") - 1, 0)  # of those, it reaches farthest
        end = starts[last] + min(tiling.side, length)
        held &= (end == length) | (high <= end - room)
    return held


def _within(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    return np.asarray(((boxes[:, :2] >= windows[:, :2]) & (boxes[:, 2:] <= windows[:, 2:])).all(axis=1))


def _related(pieces: Pieces, height: int, agnostic: bool) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that belong together by rule 2."""
    windows = pieces.windows
    groups = np.zeros_like(pieces.labels) if agnostic else pieces.labels
    left, right = overlapping(pieces.boxes, pieces.boxes, groups, groups)
    same = (windows[left] == windows[right]).all(axis=1)
    in_one_tile = left[same & (left != right)], right[same & (left != right)]
    left, right = left[~same & (left < right)], right[~same & (left < right)]
    low, high = np.maximum(windows[left, :2], windows[right, :2]), np.minimum(windows[left, 2:], windows[right, 2:])
    zones = np.concatenate([low, high], axis=1)
    common, own, other = _pixels(pieces, left, right, zones, height)
    kept = common > 0
    left, right, common, own, other = (array[kept] for array in (left, right, common, own, other))
    match = common >= _MATCH * (own + other - common)
    inner, outer = np.where(own <= other, (left, right), (right, left))
    within = (common >= _WITHIN * np.minimum(own, other)) & (pieces.labels[left] == pieces.labels[right])
    if within.any():
        tile = np.unique(windows, axis=0, return_inverse=True)[1].ravel()
        count = int(tile.max()) + 1
        known = np.concatenate([left[match] * count + tile[right[match]], right[match] * count + tile[left[match]]])
        within &= ~np.isin(inner * count + tile[outer], known)
        within &= ~_nested(pieces, inner[within & ~match], in_one_tile, height)[inner]
    related = match | within
    return left[related], right[related]


def _nested(pieces: Pieces, some: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], height: int) -> np.ndarray:
    """bool [N]: which of `some` detections lie within a larger one of their own tile; `pairs` are candidates."""
    nested = np.zeros(len(pieces.boxes), dtype=bool)
    asked = np.isin(pairs[0], some)
    inner, outer = pairs[0][asked], pairs[1][asked]
    common, own, other = _pixels(pieces, inner, outer, pieces.windows[inner], height)
    nested[inner[(common >= _WITHIN * own) & (own < other)]] = True
    return nested


def _pixels(
    pieces: Pieces, left: np.ndarray, right: np.ndarray, zones: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What two detections have in common, and what each has in the zone; of boxes if there are no masks."""
    if pieces.runs is not None:
        common = masks.shared(pieces.runs, pieces.runs, left, right)
        return common, masks.inside(pieces.runs, left, zones, height), masks.inside(pieces.runs, right, zones, height)
    boxes = pieces.boxes.astype(np.float64)
    in_left, in_right = boxes[left], boxes[right]
    return _common(in_left, in_right), _common(in_left, zones), _common(in_right, zones)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return sides.clip(min=0).prod(axis=1)


def _suppress(scores: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """bool [N]: what is left if, best first, each removes those it is paired with."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    better, worse = np.where(rank[left] < rank[right], (left, right), (right, left))
    order = np.lexsort((rank[worse], rank[better]))
    alive = np.ones(len(scores), dtype=bool)
    for one, other in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if alive[one]:
            alive[other] = False
    return alive


def _united(pieces: Pieces, alive: np.ndarray, left: np.ndarray, right: np.ndarray) -> Pieces:
    """The detections at `alive`, with those that are linked by a chain of pairs made one; best first."""
    chain = _chains(len(pieces.scores), left, right)[alive]
    pieces = pieces.select(alive)
    first, group = np.unique(chain, return_index=True, return_inverse=True)[1:]
    count = len(first)
    boxes = np.concatenate([np.full((count, 2), np.inf), np.full((count, 2), -np.inf)], axis=1).astype(np.float32)
    np.minimum.at(boxes[:, :2], group, pieces.boxes[:, :2])
    np.maximum.at(boxes[:, 2:], group, pieces.boxes[:, 2:])
    best = np.lexsort((-pieces.scores, group))[np.searchsorted(np.sort(group), np.arange(count))]
    scores = pieces.scores[best]
    keypoints = None
    if pieces.keypoints is not None:
        surest = np.lexsort((-pieces.keypoints[:, :, 2].T, np.broadcast_to(group, pieces.keypoints.shape[1::-1])))
        of_each = np.searchsorted(np.sort(group), np.arange(count))
        places = np.arange(pieces.keypoints.shape[1])
        keypoints = pieces.keypoints[surest[:, of_each].T, places]
    united = Pieces(
        boxes,
        scores,
        pieces.labels[best],
        pieces.windows[first],
        None if pieces.runs is None else masks.union(pieces.runs, group, count),
        keypoints,
    )
    return united.select(np.argsort(-scores, kind="stable"))


def _chains(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 [count]: a number for each, equal for those that a chain of pairs links."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        parent[root(other)] = root(one)
    for i in np.unique(np.concatenate([left, right])).tolist():
        parent[i] = root(i)
    return np.array(parent, dtype=np.int64)
