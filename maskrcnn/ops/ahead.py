"""Compiling a prediction's kernels before they are needed: once on a machine, in processes beside this one.

Numba compiles in one thread of a process, some 10 seconds in all. While the weights load, two processes compile half
of the kernels each, and what they leave in Numba's cache is read here. If anything goes wrong with them, a kernel is
compiled as it always is: when it is first called.
"""

import contextlib
import functools
import hashlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from .boxes import row
from .dispatch import implementations

_LOG = logging.getLogger(__name__)
_PARTS = ("winograd", "others")  # about the same work
_PATIENCE = 120.0  # seconds
_running: dict[Path, list[subprocess.Popen[bytes]]] = {}  # by the mark to leave


def start(dtype: torch.dtype) -> None:
    """Starts compiling for predictions in `dtype`, float32 or bfloat16, unless that was done on this machine before."""
    if (os.cpu_count() or 1) < 2 or "numba" not in implementations("winograd"):
        return
    mark = _mark(dtype)
    if mark is None or mark in _running or mark.exists() or getattr(sys, "frozen", False) or not sys.executable:
        return
    _LOG.warning("compiling kernels for this processor, once, for about 8 seconds; they are cached on disk")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command, quiet = [sys.executable, "-m", __name__], subprocess.DEVNULL
    _running[mark] = [
        subprocess.Popen(
            [*command, part, str(dtype).removeprefix("torch.")],
            env=environment,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
        )
        for part in _PARTS
    ]


def wait() -> None:
    """Waits for what `start` started, at most two minutes."""
    end = time.monotonic() + _PATIENCE
    while _running:
        mark, processes = _running.popitem()
        ended = [_ended_well(process, end) for process in processes]
        if all(ended):
            with contextlib.suppress(OSError):  # on a disk that is full or read-only Numba keeps nothing either
                mark.touch()


def _ended_well(process: subprocess.Popen[bytes], end: float) -> bool:
    try:
        return process.wait(max(end - time.monotonic(), 0.0)) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        _LOG.warning("compiling ahead took more than %.0f s; kernels are compiled as they are needed", _PATIENCE)
        return False


def compile_part(part: str, dtype: torch.dtype) -> None:
    """Calls the kernels of a part on the smallest inputs, which compiles them."""
    from .nms import nms
    from .rle import encode
    from .roi_align import roi_align
    from .winograd import transform_weights, winograd

    maps = torch.zeros(1, 4, 4, 4).to(dtype).contiguous(memory_format=torch.channels_last)
    if part == "winograd":
        weights = transform_weights(torch.zeros(4, 4, 3, 3), dtype)
        winograd(maps, weights, torch.zeros(4), relu=True)
    else:
        boxes, valid = row(torch.zeros(1), (0.0, 0.0, 4.0, 4.0)).view(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)
        group = torch.zeros(1, 1, dtype=torch.int64)
        nms(boxes, torch.zeros(1, 1), group, valid, iou=0.5, top=1)
        roi_align([maps], boxes, group, valid, scales=[(1.0, 1.0)], size=2, sampling=2, aligned=True)
        encode(torch.zeros(1, 2, 2), boxes[0], (4, 4))


def kept_in() -> Path | None:
    """The folder in which Numba keeps what it compiled; None if it can keep nothing."""
    from .kernels import nms_numba

    folder = getattr(getattr(nms_numba._nms_images, "_cache", None), "cache_path", None)
    return None if folder is None else Path(folder)


@functools.cache
def _mark(dtype: torch.dtype) -> Path | None:
    """A file in Numba's cache that says that this was done, for these very kernels; None if there is no cache."""
    folder = kept_in()
    if folder is None:
        return None
    sources = sorted(Path(__file__).parent.glob("kernels/*_numba.py"))
    stamp = repr((
        torch.backends.cpu.get_cpu_capability(),
        [(source.name, source.stat().st_mtime_ns, source.stat().st_size) for source in sources],
    ))  # fmt: skip
    return folder / f"ahead-{dtype}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"


if __name__ == "__main__":
    compile_part(sys.argv[1], getattr(torch, sys.argv[2]))
