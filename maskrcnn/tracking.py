"""Gives the objects of a video ids that stay the same from frame to frame.

As in ByteTrack (Zhang et al. 2022, arXiv 2110.06864), detections with high scores are matched with the known objects
first, and weak ones, which are mostly objects half hidden, only with those that are left. What is compared are masks,
as run lengths, not boxes: two objects that cross have boxes that overlap and masks that do not.

An object moves on with its velocity while nobody sees it. One that others cover in part has a box that shrinks from one
side, so its movement is the median of those of both edges and the one that was expected; and it is compared twice, as
it was seen last and as it was last seen whole.
"""

import numpy as np

from .errors import ConfigError
from .ops import runs as masks
from .ops.nearby import overlapping
from .ops.runs import Runs
from .results import Result

STRONG = 0.5  # score from which a detection begins an object
WEAK = 0.1  # score from which it continues one
MEMORY = 30  # frames that an object may be hidden and keep its id
_LEAST_IOU = 0.1  # of a detection and the object that it continues
_LEAST_HITS = 2  # frames in which an object must be seen to have an id, but in the first frame
_PACE = 0.2  # weight of a new velocity
_FORGET = 0.98  # each time it is seen, the area at which an object is whole shrinks by this

_TRACK = np.dtype([
    ("id", np.int64),  # 0 until it is sure
    ("label", np.int64),
    ("box", np.float64, 4),  # xyxy, as it was seen last
    ("velocity", np.float64, 2),  # (x, y), pixels a frame
    ("seen", np.int64),  # the last frame
    ("hits", np.int64),  # frames in which it was seen
    ("area", np.float64),  # at which it is whole
    ("drift", np.float64, 2),  # its movement since it was seen whole
])  # fmt: skip
_NOTHING = masks.from_bitmaps([])


class Tracker:
    """Follows the objects of one video; `update` takes its frames in order.

    Args:
        strong: score from which a detection begins an object, 0..1.
        weak: score from which it continues one.
        memory: frames that an object may be hidden and keep its id.
    """

    def __init__(self, *, strong: float = STRONG, weak: float = WEAK, memory: int = MEMORY) -> None:
        if not 0 <= weak <= strong <= 1 or memory < 0:
            raise ConfigError(
                f"0 <= weak <= strong <= 1 and memory >= 0 must hold; they are {weak}, {strong}, {memory}"
            )
        self.strong, self.weak, self.memory = strong, weak, memory
        self._frame, self._count, self._size = 0, 0, (0, 0)
        self._tracks, self._last, self._whole = np.zeros(0, _TRACK), _NOTHING, _NOTHING

    def update(self, result: Result) -> Result:
        """The objects of the next frame that are known, with their `ids`. Another size of image begins a new scene."""
        first = self._frame == 0
        self._frame = max(self._frame + 1, result.frame or 0)
        if result.size != self._size:
            self._size = result.size
            self._tracks, self._last, self._whole = np.zeros(0, _TRACK), _NOTHING, _NOTHING
        found = _spread(result)
        boxes = masks.bounds(found, np.full(len(found), 3 * self._size[0])).astype(np.float64)
        track = self._matched(result, found, boxes)
        new = np.flatnonzero((track < 0) & (result.scores >= self.strong))
        track[new] = len(self._tracks) + np.arange(len(new))
        shown = np.flatnonzero(track >= 0)
        self._see(track[shown], boxes[shown], found.areas[shown], result.labels[shown], masks.select(found, shown))
        self._name(everyone=first)
        ids = self._tracks["id"][track[shown]]
        self._drop()
        return result.select(shown[ids > 0]).with_ids(ids[ids > 0])

    def _matched(self, result: Result, found: Runs, boxes: np.ndarray) -> np.ndarray:
        """int64 [D]: the track that each detection continues, or -1."""
        left, right = self._pairs(found, boxes, result.labels)
        track = np.full(len(result), -1)
        taken = np.zeros(len(self._tracks), dtype=bool)
        strong = result.scores >= self.strong
        for some in (strong, ~strong & (result.scores >= self.weak)):
            mine = some[right]
            for one, other in zip(left[mine].tolist(), right[mine].tolist(), strict=True):  # best first
                if not taken[one] and track[other] < 0:
                    track[other], taken[one] = one, True
        return track

    def _pairs(self, found: Runs, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tracks and detections of one class that may be the same object, [P] each, by their IoU, best first."""
        tracks, (height, width) = self._tracks, self._size
        hidden = np.flatnonzero(tracks["drift"].any(axis=1))  # since they were seen whole
        owner = np.concatenate([np.arange(len(tracks)), hidden])
        views = masks.concatenate([self._last, masks.select(self._whole, hidden)])
        way = (tracks["velocity"] * (self._frame - tracks["seen"])[:, None])[owner]
        way[len(tracks) :] += tracks["drift"][hidden]
        x, y = np.clip(np.round(way), (-width, -height), (width, height)).astype(np.int64).T
        step = (x * 3 * height + y)[views.owners]
        moved = Runs(views.offsets, views.starts + step, views.ends + step)
        there = masks.bounds(moved, np.full(len(moved), 3 * height))
        left, right = overlapping(there, boxes, tracks["label"][owner], labels)
        common = masks.shared(moved, found, left, right)
        ious = common / (moved.areas[left] + found.areas[right] - common)
        order = np.argsort(-ious, kind="stable")[: np.count_nonzero(ious >= _LEAST_IOU)]
        return owner[left[order]], right[order]

    def _see(self, rows: np.ndarray, boxes: np.ndarray, areas: np.ndarray, labels: np.ndarray, views: Runs) -> None:
        """Tracks `rows`, of which those behind the last are new, were seen so in this frame."""
        old, begun = len(self._tracks), np.zeros((rows >= len(self._tracks)).sum(), _TRACK)
        begun["label"], begun["box"], begun["seen"] = labels[rows >= old], boxes[rows >= old], self._frame - 1
        self._tracks = np.concatenate([self._tracks, begun])
        now = self._tracks[rows]
        lapse = (self._frame - now["seen"])[:, None]
        edges = (boxes - now["box"]) / lapse
        middle = np.median([edges[:, :2], edges[:, 2:], now["velocity"]], axis=0)
        middle = np.where(now["hits"][:, None] < 2, (edges[:, :2] + edges[:, 2:]) / 2, middle)
        now["velocity"] += (middle - now["velocity"]) * np.maximum(_PACE, 1 / np.maximum(now["hits"], 1))[:, None]
        whole = areas >= now["area"]
        now["area"] = np.where(whole, areas, _FORGET * now["area"])
        now["drift"] = np.where(whole[:, None], 0, now["drift"] + middle * lapse)
        now["box"], now["seen"], now["hits"] = boxes, self._frame, now["hits"] + 1
        self._tracks[rows] = now
        self._last = _put(self._last, rows, views)
        self._whole = _put(self._whole, rows[whole], masks.select(views, np.flatnonzero(whole)))

    def _name(self, *, everyone: bool) -> None:
        """Gives the next ids to the tracks that are sure now."""
        sure = np.flatnonzero((self._tracks["id"] == 0) & (everyone | (self._tracks["hits"] >= _LEAST_HITS)))
        self._tracks["id"][sure] = self._count + 1 + np.arange(len(sure))
        self._count += len(sure)

    def _drop(self) -> None:
        """Forgets what was hidden for too long, and what was seen once and not again."""
        patience = np.where(self._tracks["id"] > 0, self.memory, 0)
        kept = np.flatnonzero(self._frame - self._tracks["seen"] <= patience)
        self._tracks = self._tracks[kept]
        self._last, self._whole = masks.select(self._last, kept), masks.select(self._whole, kept)


def _spread(result: Result) -> Runs:
    """The masks in an area of three times the height and width, the image in its middle, so that they can be moved out
    of the image. Where there is none, the box takes its place."""
    height, width = result.size
    own = boxes = _NOTHING
    if result.rle is not None:
        own = masks.decode([rle["counts"] for rle in result.rle])
        own = masks.move(own, height, 3 * height, (height, width))
    bare = np.flatnonzero(own.areas == 0) if len(own) else np.arange(len(result))
    if len(bare):
        low = np.floor(result.boxes[bare, :2]).clip(0, [width - 1, height - 1]).astype(np.int64)
        sides = np.maximum(np.ceil(result.boxes[bare, 2:]).clip(0, [width, height]).astype(np.int64) - low, 1)
        boxes = Runs(np.arange(len(bare) + 1), np.zeros(len(bare), np.int64), sides.prod(axis=1))
        boxes = masks.move(boxes, sides[:, 1], 3 * height, low[:, ::-1] + [height, width])
    place = np.arange(len(result))
    place[bare] = len(own) + np.arange(len(bare))
    return masks.select(masks.concatenate([own, boxes]), place)


def _put(views: Runs, rows: np.ndarray, new: Runs) -> Runs:
    """The views with those at `rows` replaced; rows behind the last are added."""
    place = np.arange(max(len(views), rows.max(initial=-1) + 1))
    place[rows] = len(views) + np.arange(len(new))
    return masks.select(masks.concatenate([views, new]), place)
