"""Frames as they were drawn: their pixels, turn and times; and what is said of a video that is broken or silent."""

import socket
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from maskrcnn.errors import ConfigError, DataError
from maskrcnn.images import read_image
from maskrcnn.video import reading
from maskrcnn.video.reading import Frame, frames, hidden, is_live, is_video, read_ahead
from tests.scenes import COLOURS, GROUND, TWO_APART
from tests.video.clips import drawn, write_clip


def far(pixel: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.abs(pixel.astype(int) - colour).max())


@pytest.mark.parametrize(("pix_fmt", "matrix"), [("yuv420p", "ITU601"), ("yuv420p", "ITU709"), ("yuv444p", None)])
def test_frames_have_their_numbers_times_and_colours(tmp_path: Path, pix_fmt: str, matrix: str | None) -> None:
    clip = write_clip(tmp_path / "a.mp4", drawn([0, 16, 32]), pix_fmt=pix_fmt, matrix=matrix)
    found = list(frames(clip))
    assert [frame.number for frame in found] == [1, 2, 3]
    assert [frame.time for frame in found] == pytest.approx([0, 0.04, 0.08])
    for frame, place in zip(found, (0, 16, 32), strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert far(frame.pixels[16, place + 8], COLOURS["brick"]) <= 6
        assert far(frame.pixels[44, 8], COLOURS["leaf"]) <= 6
        assert far(frame.pixels[32, 8], GROUND) <= 6
    assert [frame.number for frame in frames(clip, every=2)] == [1, 3]


def test_a_large_video_without_a_tag_is_bt709(tmp_path: Path) -> None:
    large = [np.full((720, 32, 3), COLOURS["leaf"], np.uint8)]
    frame = av.VideoFrame.from_ndarray(large[0], "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 720, "yuv420p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (found,) = frames(path)
    assert far(found.pixels[360, 16], COLOURS["leaf"]) <= 6


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_phone_video_is_turned_upright(tmp_path: Path, turn: int) -> None:
    """The angle is counter-clockwise, as NumPy counts quarter turns."""
    (frame,) = frames(write_clip(tmp_path / "a.mp4", drawn([0]), rotation=turn if turn < 180 else turn - 360))
    upright = np.rot90(drawn([0])[0], turn // 90)
    assert frame.pixels.shape == upright.shape
    assert np.abs(frame.pixels.astype(int) - upright).mean() < 6


def test_a_variable_rate_keeps_its_times_which_begin_at_zero(tmp_path: Path) -> None:
    times = [0.5, 0.54, 0.9, 2.0]
    clip = write_clip(tmp_path / "a.mkv", drawn([0, 8, 16, 24]), times=times)
    assert [frame.time for frame in frames(clip)] == pytest.approx([0, 0.04, 0.4, 1.5], abs=1e-3)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mov", drawn([0]), codec="png", pix_fmt="rgba")
    (frame,) = frames(clip)
    np.testing.assert_array_equal(frame.pixels, drawn([0])[0])


def test_a_truncated_video_gives_what_is_there_then_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(40)]
    whole = write_clip(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"}).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    seen: list[Frame] = []
    with pytest.raises(DataError, match=r"cut\.mp4: ends after \d+ of 40 frames, at 0\.\d s: it is truncated"):
        seen.extend(frames(cut))
    assert 10 < len(seen) < 30


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"a\.mp4: cannot be opened as a video \(it is damaged, incomplete or no video"):
        next(frames(broken))
    with pytest.raises(DataError, match=r"b\.mp4: cannot be opened as a video \(no such file or directory\)"):
        next(frames(tmp_path / "b.mp4"))


def test_an_address_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtsp://me:secret@127.0.0.1:{silent.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(DataError, match=r"rtsp://me:\*\*\*@\S+: cannot be opened as a video \(no answer for"):
            next(frames(address))
        assert time.monotonic() - began < 5


def test_a_stream_that_stops_gives_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.5)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    content = write_clip(tmp_path / "a.ts", noise, codec="mpeg4").read_bytes()
    done = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + content[: 3 * len(content) // 4]
            )
            done.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        seen: list[Frame] = []
        try:
            with pytest.raises(DataError, match=r"no answer for \d s after \d+ frames"):
                seen.extend(frames(f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        finally:
            done.set()
            thread.join(20)
    assert len(seen) > 20


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg draws what the camera sees."""
    monkeypatch.setitem(reading._CAMERAS, sys.platform, "lavfi")
    found = list(islice(frames("camera:testsrc=size=64x48:rate=10"), 3))
    assert [frame.time for frame in found] == pytest.approx([0, 0.1, 0.2])


def test_what_is_a_video(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", drawn([0])).rename(tmp_path / "clip.bin")
    image = tmp_path / "image.mp4"
    Image.fromarray(TWO_APART.pixels).save(image, "PNG")
    assert is_video(clip)
    assert is_video(str(tmp_path / "missing.mp4"))
    assert is_video("rtsp://host/x")
    assert is_video("camera:0")
    assert not is_video(image)
    assert not is_video(tmp_path)
    assert not is_video(TWO_APART.pixels)
    assert is_live("camera:0")
    assert is_live("rtsp://host/x")
    assert not is_live("https://host/a.mp4")
    assert hidden("rtsp://me:secret@host/x") == "rtsp://me:***@host/x"
    with pytest.raises(DataError, match=r"clip\.bin: is a video; `predict` takes it by itself"):
        read_image(clip)


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"videos need PyAV: pip install 'maskrcnn\[video\]'"):
        next(frames("a.mp4"))


def test_reading_ahead_keeps_all_or_the_newest() -> None:
    with read_ahead(iter(range(50)), 2) as items:
        assert list(items) == list(range(50))
    all_made = threading.Event()

    def numbers():
        yield from range(50)
        all_made.set()

    with read_ahead(numbers(), 2, newest=True) as items:
        assert all_made.wait(10)
        assert list(items) == [48, 49]

    def failing():
        yield 1
        raise DataError("broken")

    with read_ahead(failing(), 2) as items:
        assert next(items) == 1
        with pytest.raises(DataError, match="broken"):
            next(items)


def test_reading_ahead_ends_with_its_block() -> None:
    made = []

    def endless():
        while True:
            made.append(1)
            yield 1

    with read_ahead(endless(), 3) as items:
        next(items)
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 6


@pytest.mark.parametrize("newest", [False, True])
def test_a_program_that_does_not_take_all_ends(newest: bool) -> None:
    """Without a `close`, at the end of the program."""
    program = f"""
import itertools, time
from maskrcnn.video.reading import read_ahead
frames = (time.sleep(0.01) for _ in itertools.count())
ahead = read_ahead(frames, 2, newest={newest})
next(ahead.__enter__())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
