"""What was found in a video: the video with everything drawn on it, and tables with a row an object.

A thread draws and encodes while the network runs. Every file is complete however the block ends, also with Ctrl-C.
"""

import csv
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..ops import rle, runs
from ..results import Result
from .reading import import_av

FORMATS = {"overlay": ".mp4", "coco": ".json", "csv": ".csv", "mots": ".txt"}
CONTAINERS = (".mp4", ".mov", ".mkv", ".webm")  # of the drawn video
_TIME_BASE = Fraction(1, 90000)  # seconds; what MPEG counts in
_BEHIND = 4  # frames that may wait to be drawn
_ENCODERS = ("libx264", "h264", "mpeg4")  # a build of PyAV may lack the first ones


class VideoSaver:
    """Writes the results of one video. It is a context, and `add` takes the frames in order.

    Args:
        stem: of the files: `stem`.json, ...; the drawn video has the suffix of `stem` if that is a video's.
        names: of formats.
        inputs: files that must not be overwritten.

    Raises `ConfigError` for an unknown format, and for a file that is an input.
    """

    def __init__(self, stem: str | Path, names: Sequence[str], *, inputs: Sequence[Path] = ()) -> None:
        check_formats(names)
        place = Path(stem)
        film = place.suffix.lower() in CONTAINERS
        self.files = [place if name == "overlay" and film else _named(place, FORMATS[name], film) for name in names]
        for file in self.files:
            if any(file.exists() and one.exists() and file.samefile(one) for one in inputs):
                raise ConfigError(f"{file} would overwrite the video itself; choose another --out")
        place.parent.mkdir(parents=True, exist_ok=True)
        makers = {"overlay": _Film, "coco": _Rows, "csv": _Table, "mots": _Mots}
        self._writers = [makers[name](file) for name, file in zip(names, self.files, strict=True)]

    def add(self, result: Result) -> None:
        """Writes one frame. Raises `DataError` if the disk is full."""
        for writer in self._writers:
            writer.add(result)

    def __enter__(self) -> "VideoSaver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


def check_formats(names: Sequence[str]) -> None:
    """Raises `ConfigError` for a format that videos do not have."""
    if unknown := [name for name in names if name not in FORMATS]:
        raise ConfigError(f"results of a video are saved as {', '.join(FORMATS)}; not as {', '.join(unknown)}")


def _named(place: Path, suffix: str, film: bool) -> Path:
    return place.with_suffix(suffix) if film else place.with_name(place.name + suffix)


class _Film:
    """The drawn video, as H.264 (VP9 in .webm), in a thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._av = path, import_av()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="maskrcnn-encode")
        self._waiting: deque[Future[None]] = deque()
        # Until it is closed the file is in fragments, so that what a killed process leaves can be played, too.
        fragments = {"movflags": "+hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"}
        options = fragments if path.suffix.lower() in (".mp4", ".mov") else {}
        try:
            self._container = self._av.open(str(path), "w", options=options)
        except self._av.error.FFmpegError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error
        self._stream: Any = None
        self._last = -1

    def add(self, result: Result) -> None:
        self._waiting.append(self._pool.submit(self._draw, result))
        while len(self._waiting) > _BEHIND:
            self._waiting.popleft().result()

    def close(self) -> None:
        try:
            for one in self._waiting:
                one.result()
            self._pool.submit(self._finish).result()
        finally:
            self._pool.shutdown()

    def _draw(self, result: Result) -> None:
        drawn = np.asarray(result.overlay())
        height, width = drawn.shape[:2]
        if self._stream is None:
            self._stream = self._opened(width, height)
        # The colour of a pixel is kept for four: a side that is odd gets one more pixel.
        drawn = np.pad(drawn, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(drawn, "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        given = self._last + 3000 if result.time is None else round(result.time / _TIME_BASE)
        self._last = frame.pts = max(self._last + 1, given)
        frame.time_base = _TIME_BASE
        self._mux(frame)

    def _opened(self, width: int, height: int) -> Any:
        names = ("libvpx-vp9",) if self._path.suffix.lower() == ".webm" else _ENCODERS
        name = next((name for name in names if name in self._av.codecs_available), names[-1])
        # Without frames that look ahead, the first one stands at 0 s in every player.
        options = {"preset": "veryfast", "crf": "20", "bf": "0", "g": "60"} if name == "libx264" else {}
        stream = self._container.add_stream(name, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = _TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235
        return stream

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (self._av.error.FFmpegError, OSError) as error:
            raise DataError(f"{self._path}: cannot be written ({error.strerror or error})") from error

    def _finish(self) -> None:
        if self._stream is None:
            self._container.close()
            self._path.unlink(missing_ok=True)  # a video without a frame cannot be played
            return
        self._mux(None)
        self._container.close()


class _Text:
    """A text file that grows by each frame."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", buffering=1, encoding="utf-8", newline="")  # whole lines

    def add(self, result: Result) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._file.close()


class _Rows(_Text):
    """COCO's rows of results, of which `image_id` is the number of the frame."""

    _mark = "["

    def add(self, result: Result) -> None:
        for row in result.to_coco():
            self._file.write(f"{self._mark}\n{json.dumps(row)}")
            self._mark = ","

    def close(self) -> None:
        self._file.write("[]\n" if self._mark == "[" else "\n]\n")
        super().close()


class _Table(_Text):
    """One row an object."""

    _columns = ("frame", "time", "id", "class", "score", "x", "y", "width", "height", "area")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._writer = csv.writer(self._file)
        self._writer.writerow(self._columns)

    def add(self, result: Result) -> None:
        areas = None if result.rle is None else runs.decode([one["counts"] for one in result.rle]).areas.tolist()
        for i, (x1, y1, x2, y2) in enumerate(result.boxes.astype(np.float64).round(4).tolist()):
            known = "" if result.ids is None else int(result.ids[i])
            time = "" if result.time is None else round(result.time, 4)
            box = (x1, y1, round(x2 - x1, 4), round(y2 - y1, 4))
            score = round(float(result.scores[i]), 6)
            area = "" if areas is None else areas[i]
            self._writer.writerow([result.frame, time, known, result.names[i], score, *box, area])


class _Mots(_Text):
    """MOTS (Voigtlaender et al. 2019): frame, id, class, height, width and RLE of each object, which share no pixel."""

    def add(self, result: Result) -> None:
        if result.ids is None or result.rle is None:
            raise ConfigError("mots needs ids and masks: add --track, and take a model with masks")
        height, width = result.size
        front = np.zeros(height * width, dtype=np.int32)  # down the columns
        found = runs.decode([one["counts"] for one in result.rle])
        for i in np.argsort(result.scores, kind="stable").tolist():  # the best one is in front
            for first, last in zip(
                *(side[found.offsets[i] : found.offsets[i + 1]] for side in (found.starts, found.ends)), strict=True
            ):
                front[first:last] = i + 1
        for i in np.unique(front[front > 0]).tolist():
            code = rle.string_from_counts(rle.counts_from_bitmap((front == i).reshape(width, height).T)).decode()
            self._file.write(f"{result.frame} {result.ids[i - 1]} {result.labels[i - 1]} {height} {width} {code}\n")
