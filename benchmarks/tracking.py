"""Tracking on drawn scenes beside ByteTrack of `trackers`, and what a video costs beside its network.

    python -m benchmarks.tracking [--quick]

Objects cross before and behind each other and behind two pillars, for 300 frames, slowly and fast. A drawn detector
makes errors: boxes jitter, scores fall with what is hidden, objects are missed, and some are found that are none. Both
trackers get the same detections, ByteTrack their boxes and ours their masks. IDF1 and HOTA are those of `trackers`
(2.6.1, adapted from TrackEval), with the IoU of masks. ByteTrack has its defaults and five other settings, of which the
best counts.

The network is R-18-FPN with random weights, which finds 20 objects in every frame, on a canvas smaller than usual.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskrcnn.categories import Category
from maskrcnn.config import preset
from maskrcnn.data.drawn import CLASSES, Shape, shape_of
from maskrcnn.model.build import build
from maskrcnn.ops import runs as masks
from maskrcnn.predict import Predictor
from maskrcnn.results import Result
from maskrcnn.tracking import Tracker
from maskrcnn.video.reading import frames
from maskrcnn.video.writing import VideoSaver

from .harness import Left, Middle, Options, Row, run

SIZE = (480, 640)
OBJECTS, FRAMES = 30, 300
CATEGORIES = (Category(1, "thing"),)
_SMALL = 28


class Scene(NamedTuple):
    """What one frame shows, and what the drawn detector finds in it."""

    ids: np.ndarray  # int64 [n], of the objects that can be seen
    truth: masks.Runs  # their visible pixels
    found: Result


def compare(options: Options) -> list[Row | Left]:
    rows: list[Row | Left] = []
    for name, speed in (("slow", 3.0), ("fast", 6.0)):
        every = [list(scenes(seed, speed=speed)) for seed in range(1 if options.quick else 4)]
        rows += _beside_bytetrack(name, every)
    with_100 = [scene.found for scene in scenes(0, objects=100, frames=40)]
    rows.append(_association(with_100))
    with tempfile.TemporaryDirectory() as folder:
        rows += _video(Path(folder), 20 if options.quick else 60, 300 if options.quick else 1000)
    return rows


def _one(what: str, value: float, unit: str = "", **more: Any) -> Row:
    return Row(what, Middle(value, value, value), unit, **more)


# --- trackers ---------------------------------------------------------------------------------------------------------

Tracked = list[tuple[np.ndarray, np.ndarray]]  # of each frame: which detections, and their ids


def _beside_bytetrack(name: str, every: list[list[Scene]]) -> list[Row | Left]:
    mine = np.mean([_scores(some, _ours(some)) for some in every], axis=0)
    try:
        theirs = [np.mean([_scores(some, _bytetrack(some, *given)) for some in every], axis=0) for given in _SETTINGS]
    except ImportError:
        return [Left(f"tracking, {name}", "trackers is not installed")]
    print(name, "IDF1, HOTA:", mine, *theirs)
    rows: list[Row | Left] = []
    for i, figure in enumerate(("IDF1", "HOTA")):
        best = max(one[i] for one in theirs)
        both, ratio = Middle(best, best, best), Middle(*[mine[i] / best] * 3)
        what = f"{figure}, {OBJECTS} objects that move {name}ly"
        rows.append(Row(what, Middle(*[mine[i]] * 3), "", "ByteTrack", both, ratio, bar=1.0, at_least=True))
    return rows


def _ours(some: list[Scene]) -> Tracked:
    tracker, out = Tracker(), []
    for scene in some:
        marked = replace(scene.found, keypoints=np.arange(len(scene.found), dtype=np.float32).reshape(-1, 1, 1))
        result = tracker.update(marked)
        assert result.keypoints is not None
        assert result.ids is not None
        out.append((result.keypoints[:, 0, 0].astype(int), result.ids))
    return out


# Score to begin an object, score of the first pass, least IoU, frames in a row; the first are the defaults.
_SETTINGS = ((0.7, 0.6, 0.1, 2), (0.5, 0.5, 0.1, 1), (0.5, 0.5, 0.1, 2), (0.6, 0.4, 0.1, 1), (0.6, 0.4, 0.05, 1),
             (0.6, 0.5, 0.2, 1))  # fmt: skip


def _bytetrack(some: list[Scene], begin: float, high: float, iou: float, in_a_row: int) -> Tracked:
    import supervision
    from trackers import ByteTrackTracker

    tracker = ByteTrackTracker(
        track_activation_threshold=begin,
        high_conf_det_threshold=high,
        minimum_iou_threshold=iou,
        minimum_consecutive_frames=in_a_row,
    )
    out = []
    for scene in some:
        given = scene.found
        marks: Any = {"place": np.arange(len(given))}
        found = supervision.Detections(
            xyxy=given.boxes.copy(), confidence=given.scores.copy(), class_id=given.labels.copy(), data=marks
        )
        found = tracker.update(found)
        sure = found.tracker_id >= 0
        out.append((found.data["place"][sure], found.tracker_id[sure]) if len(found) else (np.zeros(0, int),) * 2)
    return out


def _scores(some: list[Scene], out: Tracked) -> tuple[float, float]:
    """IDF1 and HOTA."""
    from trackers.eval import compute_hota_metrics, compute_identity_metrics

    truth, ids, alike = [], [], []
    for scene, (places, known) in zip(some, out, strict=True):
        rle = scene.found.rle
        assert rle is not None
        found = masks.decode([rle[i]["counts"] for i in places])
        left, right = np.divmod(np.arange(len(scene.ids) * len(known)), max(len(known), 1))
        common = masks.shared(scene.truth, found, left, right)
        union = scene.truth.areas[left] + found.areas[right] - common
        truth.append(scene.ids)
        ids.append(known)
        alike.append((common / np.maximum(union, 1)).reshape(len(scene.ids), len(known)))
    hota, identity = compute_hota_metrics(truth, ids, alike), compute_identity_metrics(truth, ids, alike)
    return identity["IDF1"], hota["HOTA"]


def _association(found: list[Result]) -> Row:
    tracker, times = Tracker(), []
    for result in found:
        assert result.rle is not None  # what a saved result needs anyway
        began = time.perf_counter()
        tracker.update(result)
        times.append(1000 * (time.perf_counter() - began))
    low, median, high = np.quantile(times[5:], (0.25, 0.5, 0.75)).tolist()
    objects = round(float(np.mean([len(result) for result in found])))
    return Row(f"association of a frame with {objects} detections", Middle(median, low, high), "ms", bar=5.0)


# --- a video ----------------------------------------------------------------------------------------------------------


def _video(folder: Path, few: int, many: int) -> list[Row]:
    clip = folder / "clip.mkv"
    _write(clip, many)
    slow = _predictor("R-18-FPN", 320)
    engine = slow.engine()
    shown = [engine.prepare(frame.pixels) for frame, _ in zip(frames(clip), range(few), strict=False)]
    engine.results(shown[0])

    def alone() -> None:
        for images in shown:
            engine.results(images)

    def saved(names: list[str]) -> None:
        results = slow.track(clip, score_threshold=0.0)
        with VideoSaver(folder / "out", names) as saver:
            for result, _ in zip(results, range(few), strict=False):
                saver.add(result)
            results.close()  # type: ignore[attr-defined]

    saved(["overlay", "coco"])
    seconds: dict[str, list[float]] = {"alone": [], "json": [], "film": []}
    for _ in range(3):
        for name, work in (
            ("alone", alone),
            ("json", lambda: saved(["coco"])),
            ("film", lambda: saved(["overlay", "coco"])),
        ):
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    each = min(seconds["alone"]) / few
    rows = [
        _one(f"wall time with --track and json / network alone ({each * 1000:.0f} ms a frame)",
             min(seconds["json"]) / min(seconds["alone"]), bar=1.1),
        _one("wall time with --track, json and out.mp4 / network alone", min(seconds["film"]) / min(seconds["alone"]),
             bar=1.25),
    ]  # fmt: skip
    quick, sizes = _predictor("R-18-FPN-tiny", 96), {}
    with VideoSaver(folder / "all", ["overlay", "coco", "csv", "mots"]) as saver:
        for result in quick.track(clip, score_threshold=0.0):
            saver.add(result)
            if result.frame in (100, many):
                sizes[result.frame] = _resident()
    rows.append(
        _one(f"memory after {many} frames / after 100 ({sizes[100]:.0f} MB)", sizes[many] / sizes[100], bar=1.05)
    )
    return rows


def _write(path: Path, count: int) -> None:
    import av

    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8 + 200, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(count):
            shift = i % 1600
            pixels = np.ascontiguousarray(texture[:, shift : shift + SIZE[1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


def _predictor(name: str, side: int) -> Predictor:
    config = preset(name)
    config = replace(
        config,
        classes=3,
        input=replace(config.input, min_size=side, max_size=2 * side),
        box_head=replace(config.box_head, score_threshold=0.0, max_detections=20),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build(config)
        torch.nn.init.normal_(model.box_head.class_logits.weight, 0, 0.1)
    return Predictor(model, tuple(Category(id, f"class {id}") for id in (1, 2, 3)))


def _resident() -> float:
    """MB of memory of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- drawn scenes -----------------------------------------------------------------------------------------------------


@dataclass
class _Mover:
    """An object that crosses the image, turning slowly."""

    shape: Shape
    at: np.ndarray
    velocity: np.ndarray
    turn: float

    def step(self, rng: np.random.Generator) -> None:
        angle = self.turn + rng.normal(0, 0.01)
        c, s = np.cos(angle), np.sin(angle)
        self.velocity = np.array([[c, -s], [s, c]]) @ self.velocity
        self.at = self.at + self.velocity
        for axis, side in ((0, SIZE[1]), (1, SIZE[0])):  # at the border it turns back, so that the scene stays full
            if not 0 <= self.at[axis] <= side:
                self.velocity[axis] = abs(self.velocity[axis]) * (1 if self.at[axis] < 0 else -1)
                self.turn = -self.turn


def scenes(seed: int, *, objects: int = OBJECTS, frames: int = FRAMES, speed: float = 4.0) -> Iterator[Scene]:
    """A scene of `objects` that cross before and behind each other, and behind two pillars that nothing detects."""
    rng = np.random.default_rng(seed)
    movers = []
    for _ in range(objects):
        label, size = int(rng.integers(len(CLASSES))), float(rng.uniform(36, 80))
        angle = rng.uniform(0, 2 * np.pi)
        velocity = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.3, 1.0) * speed
        at = rng.uniform((0, 0), (SIZE[1], SIZE[0]))
        movers.append(_Mover(shape_of(label, (0.0, 0.0), size, rng), at, velocity, rng.normal(0, 0.02)))
    pillars = [(int(x), int(x) + 44) for x in (SIZE[1] * 0.3, SIZE[1] * 0.68)]
    for _ in range(frames):
        front = np.full(SIZE, -1, dtype=np.int32)
        areas, windows = np.zeros(objects), []
        for i, mover in enumerate(movers):
            part, (rows, columns) = _drawn(mover)
            areas[i] = part.sum()
            windows.append((rows, columns))
            front[rows, columns][part] = i
        for first, last in pillars:
            front[:, first:last] = -1
        ids = np.unique(front[front >= 0])
        visible = np.bincount(front[front >= 0], minlength=objects)
        ids = ids[visible[ids] >= 12]
        bitmaps = [front[windows[i]] == i for i in ids]
        corners = np.array([[part.start for part in windows[i]] for i in ids]).reshape(-1, 2)
        heights = np.array([len(bitmap) for bitmap in bitmaps], dtype=np.int64)
        truth = masks.move(masks.from_bitmaps(bitmaps), heights, SIZE[0], corners)
        yield Scene(ids, truth, _detected(front, ids, [windows[i] for i in ids], visible[ids] / areas[ids], rng))
        for mover in movers:
            mover.step(rng)


def _drawn(mover: _Mover) -> tuple[np.ndarray, tuple[slice, slice]]:
    x1, y1, x2, y2 = mover.shape.box()
    left, top = (int(np.floor(v)) for v in (mover.at[0] + x1, mover.at[1] + y1))
    right, bottom = (int(np.ceil(v)) + 1 for v in (mover.at[0] + x2, mover.at[1] + y2))
    left, top, right, bottom = max(left, 0), max(top, 0), max(min(right, SIZE[1]), 0), max(min(bottom, SIZE[0]), 0)
    x, y = np.arange(left, right) + 0.5 - mover.at[0], np.arange(top, bottom) + 0.5 - mover.at[1]
    if not len(x) or not len(y):
        return np.zeros((0, 0), bool), (slice(0, 0), slice(0, 0))
    return mover.shape.inside(x, y), (slice(top, bottom), slice(left, right))


def _detected(
    front: np.ndarray,
    ids: np.ndarray,
    windows: list[tuple[slice, slice]],
    shown: np.ndarray,
    rng: np.random.Generator,
) -> Result:
    """What a detector might find: boxes that jitter, masks of 28 x 28, scores that fall with what is hidden, some
    objects missed, and a few that are none."""
    rows = []
    for i, window, share in zip(ids, windows, shown, strict=True):
        y, x = np.nonzero(front[window] == i)
        y, x = y + window[0].start, x + window[1].start
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=np.float64)
        sides = np.tile(box[2:] - box[:2], 2)
        jitter, luck = rng.normal(0, 0.03, 4), rng.random()
        score = float(np.clip(rng.beta(12, 2) * (0.25 + 0.8 * share), 0.02, 0.99))
        if luck < 0.04 + 0.5 * max(0.0, 0.35 - share):
            continue
        box = (box + jitter * sides).clip(0, [SIZE[1], SIZE[0]] * 2)
        low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        part = torch.from_numpy((front[low[1] : high[1], low[0] : high[0]] == i).astype(np.float32))[None, None]
        small = torch.nn.functional.interpolate(part, (_SMALL, _SMALL), mode="area")[0, 0].numpy()
        rows.append((box, score, small))
    for _ in range(rng.poisson(0.7)):
        corner, sides = rng.uniform(0, [SIZE[1] - 60, SIZE[0] - 60]), rng.uniform(15, 60, 2)
        rows.append((np.concatenate([corner, corner + sides]), float(rng.beta(2, 4)), np.ones((_SMALL, _SMALL))))
    rows.sort(key=lambda row: -row[1])
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Result(
        size=SIZE,
        boxes=boxes,
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.ones(len(rows), np.int64),
        small_masks=np.array([row[2] for row in rows], np.float32).reshape(-1, _SMALL, _SMALL),
        categories=CATEGORIES,
    )


if __name__ == "__main__":
    run(compare, __doc__)
