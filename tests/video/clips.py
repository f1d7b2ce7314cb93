"""Small drawn clips in files."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.scenes import COLOURS, GROUND

SIZE = (48, 64)  # (height, width)


def drawn(places: Sequence[int], size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames, uint8 [H W 3], with a brick whose left side is at each of the places, over a leaf at the bottom."""
    frames = []
    for place in places:
        frame = np.empty((*size, 3), np.uint8)
        frame[:] = GROUND
        frame[-8:] = COLOURS["leaf"]
        frame[8:24, place : place + 16] = COLOURS["brick"]
        frames.append(frame)
    return frames


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    matrix: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """25 frames a second, or at the given times in seconds; turned by `rotation` degrees when it is shown."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if matrix == "ITU709":
            stream.codec_context.colorspace = 1
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if matrix:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range="MPEG")
            frame.pts, frame.time_base = round(1000 * (i / 25 if times is None else times[i])), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
