"""The frames of a video file, a stream or a camera, decoded in a thread while the network runs.

Frames are upright (phones store them turned), all of the first one's size, and RGB. Every wait has a limit: what does
not answer for `PATIENCE` seconds has ended.
"""

import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import ConfigError, DataError
from ..files import open_regular
from ..images.kinds import PREFIX, is_film, kind_of

T = TypeVar("T")

PATIENCE = 10.0  # seconds
SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".mjpeg", ".mjpg", ".h264", ".264", ".hevc", ".265", ".mxf", ".vob",
)  # fmt: skip
_URL = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|rtp|srt)://", re.IGNORECASE)
_CAMERA = re.compile(r"camera:(.+)|(/dev/video\d+)")
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # FFmpeg's names
_SHORT = 0.05  # share of a video that may be missing at its end


class Frame(NamedTuple):
    """One image of a video."""

    number: int  # from 1; those that were left out count
    time: float  # seconds since the first one
    pixels: np.ndarray  # uint8 [H W 3], RGB


def is_video(source: Any) -> bool:
    """Whether this is an address, a camera (`camera:0`, `/dev/video0`) or a file that is a video and no image."""
    if not isinstance(source, str | os.PathLike):
        return False
    if _URL.match(str(source)) or _CAMERA.fullmatch(str(source)):
        return True
    try:
        with open_regular(source) as file:
            prefix = file.read(PREFIX)
    except OSError:  # such as a folder; what is not there is called a video by its name
        return Path(source).suffix.lower() in SUFFIXES and not Path(source).is_dir()
    return kind_of(prefix) is None and (is_film(prefix) or Path(source).suffix.lower() in SUFFIXES)


def is_live(source: Any) -> bool:
    """Whether frames come when they want: then those that nobody had time for are left out."""
    address = str(source)
    return bool(_CAMERA.fullmatch(address) or (_URL.match(address) and not address.lower().startswith("http")))


def import_av() -> Any:
    """PyAV. Raises `ConfigError` if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos need PyAV: pip install 'maskrcnn[video]'") from error
    return av


def frames(source: str | os.PathLike[str], *, every: int = 1) -> Iterator[Frame]:
    """The frames of a video, and of `every` one the first only.

    Raises `DataError` naming it: at the first frame if it cannot be opened, and at the end if frames were damaged or
    missing; those that could be read came before.
    """
    av = import_av()
    name, live = hidden(source), is_live(source)
    number, packets, damaged, time = 0, 0, 0, 0.0
    with _opened(av, source, name) as (container, stream):
        shown = _Upright(stream)
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    damaged += 1
                    continue
                for frame in decoded:
                    number += 1
                    time = shown.time(frame)
                    if (number - 1) % every == 0:
                        yield Frame(number, time, shown.pixels(frame))
        except av.error.FFmpegError as error:
            raise DataError(f"{name}: {_why(av, error)} after {number} frames ({time:.1f} s)") from error
        promised, length = stream.frames, _length(av, container)
    if number == 0:
        raise DataError(f"{name}: no frame of it can be decoded")
    log = logging.getLogger(__name__)
    if live and damaged:
        log.warning("%s: %d frames could not be decoded", name, damaged)
    elif packets < promised:
        raise DataError(f"{name}: ends after {number} of {promised} frames, at {time:.1f} s: it is truncated")
    elif damaged:
        raise DataError(f"{name}: {damaged} of its frames are damaged and could not be decoded; {number} could")
    elif not promised and length - time > max(1.0, _SHORT * length):
        log.warning("%s: ends at %.1f s of %.1f s; it may be truncated", name, time, length)


def hidden(source: str | os.PathLike[str]) -> str:
    """The source as messages name it: without the password of an address."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", str(source))


@contextmanager
def _opened(av: Any, source: str | os.PathLike[str], name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream. Raises `DataError`."""
    address, options = str(source), {}
    form = None
    if camera := _CAMERA.fullmatch(address):
        form = _CAMERAS.get(sys.platform)
        if form is None:
            raise DataError(f"{name}: cameras of {sys.platform} are not known")
        address = camera[1] or camera[2]
        if form == "v4l2":
            address = f"/dev/video{address}" if address.isdigit() else address
        elif form == "dshow":
            address = f"video={address}"
    elif address.lower().startswith("rtsp"):
        options["rtsp_flags"] = "prefer_tcp"  # UDP loses packets, which leaves grey areas
    began = monotonic()
    try:
        container = av.open(address, format=form, options=options, timeout=PATIENCE, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        silent = monotonic() - began > 0.9 * PATIENCE  # which RTSP calls invalid data
        why = f"no answer for {PATIENCE:.0f} s" if silent else _why(av, error)
        raise DataError(f"{name}: cannot be opened as a video ({why})") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name}: there is no video in it, only sound")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _why(av: Any, error: Exception) -> str:
    """The reason, without numbers that only FFmpeg knows."""
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return f"no answer for {PATIENCE:.0f} s"
    if isinstance(error, av.error.InvalidDataError):
        return "it is damaged, incomplete or no video"
    return str(getattr(error, "strerror", None) or error).lower()


def _length(av: Any, container: Any) -> float:
    """Seconds from the first frame to the end of the last one, as the file says; 0 if it does not."""
    if container.duration is None or len(container.streams) > 1:  # which may be that of the sound
        return 0.0
    return (container.duration - (container.start_time or 0)) / av.time_base


class _Upright:
    """Makes the frames of a stream upright RGB of one size, and their times count from 0."""

    def __init__(self, stream: Any) -> None:
        self._step = 1 / float(stream.average_rate or 25)
        self._first: float | None = None
        self._last = -self._step
        self._size: tuple[int, int] | None = None
        self._warned = False

    def time(self, frame: Any) -> float:
        """Seconds. A frame without a time, or that is set back in it, follows the last one at the average rate."""
        given = frame.time
        if self._first is None:
            self._first = given or 0.0
        time = self._last + self._step if given is None else given - self._first
        self._last = time if time > self._last else self._last + self._step
        return self._last

    def pixels(self, frame: Any) -> np.ndarray:
        """uint8 [H W 3]."""
        self._size = self._size or (frame.width, frame.height)
        if frame.color_trc in (16, 18) and not self._warned:  # PQ and HLG
            self._warned = True
            logging.getLogger(__name__).warning("an HDR video: its colours look pale, because no tone is mapped")
        width, height = self._size
        # Untagged videos are BT.601 up to the size of a DVD, BT.709 above, as players take them.
        matrix = ("ITU709" if height > 576 else "ITU601") if frame.colorspace == 2 else None
        rgb = frame.reformat(width, height, "rgb24", src_colorspace=matrix).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


@contextmanager
def read_ahead(items: Iterator[T], depth: int, *, newest: bool = False) -> Iterator[Iterator[T]]:
    """The items, made in a thread, up to `depth` ahead; with `newest` those that nobody took in time are dropped.

    When the block ends, so does the thread, after the item that it is making.
    """
    waiting: deque[T] = deque()
    changed = threading.Condition()
    failed: list[BaseException] = []
    closed = False

    def make() -> None:
        try:
            for item in items:
                with changed:
                    while len(waiting) >= depth and not newest and not closed:
                        changed.wait(1.0)
                    if closed:
                        return
                    if len(waiting) >= depth:
                        waiting.popleft()
                    waiting.append(item)
                    changed.notify_all()
        except BaseException as error:  # raised again where the items are taken
            failed.append(error)
            if not isinstance(error, Exception):
                raise

    def take() -> Iterator[T]:
        while True:
            with changed:
                while not waiting and thread.is_alive():
                    changed.wait(0.05)  # the end of the thread does not notify
                if not waiting:
                    break
                item = waiting.popleft()
                changed.notify_all()
            yield item
        if failed:
            raise failed[0]

    # A daemon: a program that ends without closing the block does not wait for it.
    thread = threading.Thread(target=make, name="maskrcnn-video", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        with changed:
            closed = True
            changed.notify_all()
        thread.join(2 * PATIENCE)
