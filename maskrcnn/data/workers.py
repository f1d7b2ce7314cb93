"""Worker processes that are never waited for without a reason: how batches come from them, and what is said if none do.

Batches come through shared memory, which costs descriptors and room in /dev/shm; where either is short, as bytes
through pipes. A worker that cannot hand over a batch ends, so that it is missed; one that does nothing for a while is
given up. No wait is longer than `PATIENCE` without a worker that computes.
"""

import errno
import io
import multiprocessing
import os
import pickle
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, queues
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import WorkerLost

PATIENCE = 45.0  # seconds without a batch in which no worker computes
MOST = 600.0  # the same where the system does not say what a process computes
ENDED = 10.0  # seconds without a batch after a worker has ended
_LOOK = 1.0  # seconds between looks at the workers
_SHARED = Path("/dev/shm")
_PER_WORKER, _OWN, _IN_FLIGHT = 18, 32, 40  # open files: of a worker, of everything else, of a worker's batches
_REMEDY = "--workers 0 reads images in the main process"

Answer = TypeVar("Answer")


def affordable(workers: int) -> tuple[int, str]:
    """As many of the `workers` as the limit of open files allows, and why they are fewer. Raises the limit if it may be
    raised.
    """
    free = _free_descriptors()
    most = max(0, (free - _OWN) // _PER_WORKER)
    if workers <= most:
        return workers, ""
    return (
        most,
        f"{free} more files may be open: {most} of {workers} workers read images; `ulimit -n 4096` allows more",
    )


def needs_pipes(workers: int, batch_bytes: int) -> str:
    """Why batches of so many bytes must go through pipes; empty if shared memory will do."""
    if not sys.platform.startswith("linux"):
        return ""
    need = 2 * (2 * workers + 1) * batch_bytes
    with suppress(OSError):
        free = shutil.disk_usage(_SHARED).free
        if free < need:
            return (
                f"{_SHARED} has {free / 2**20:.0f} MB free and {need / 2**20:.0f} may be needed: batches come through "
                "pipes, more slowly; a container gets more with --shm-size"
            )
    if (free := _free_descriptors()) < _OWN + (_PER_WORKER + _IN_FLIGHT) * workers:
        return f"{free} more files may be open: batches come through pipes, more slowly; `ulimit -n` sets it"
    return ""


def _free_descriptors() -> int:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    return soft - len(list(folder.iterdir()))


# --- batches as bytes ------------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Tensors as arrays, which take neither shared memory nor descriptors."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last):
            return _channels_last, (value.permute(0, 2, 3, 1).contiguous().numpy(),)
        return torch.from_numpy, (value.contiguous().numpy(),)


def _channels_last(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


class AsBytes:
    """A maker of batches that gives each as bytes; `pickle.loads` makes the batch of them."""

    def __init__(self, maker: Any) -> None:
        self._maker = maker

    def __getitem__(self, plan: Any) -> bytes:
        file = io.BytesIO()
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(self._maker[plan])
        return file.getvalue()


# --- in a worker -----------------------------------------------------------------------------------------------------


def start_worker(_: int) -> None:
    """One thread per worker, because the model needs the processor. The main process handles Ctrl-C."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    queues.Queue._on_queue_feeder_error = staticmethod(_end_at)  # type: ignore[attr-defined, method-assign]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_at(error: BaseException, _: Any) -> None:
    """A batch that cannot be handed over would be waited for without end. The exit code says why."""
    words = str(error).lower()
    code = getattr(error, "errno", None) or errno.EPIPE
    code = errno.ENOSPC if "no space" in words or "shared memory" in words else code
    code = errno.EMFILE if "too many open files" in words or "ancdata" in words else code
    os._exit(code if 0 < code < 128 else 1)


def _end_with_parent() -> None:
    """Ends a worker whose main process was killed: torch watches the fork server, which lives as long as a worker."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# --- beside the main process -----------------------------------------------------------------------------------------


@contextmanager
def main_module_hidden(needed: bool) -> Iterator[None]:
    """Processes started in here do not import the user's script, so that one without a main guard works, too. A script
    that holds something `needed` is imported."""
    main = sys.modules["__main__"]
    if needed:
        yield
        return
    missing = object()
    before = {name: getattr(main, name, missing) for name in ("__spec__", "__file__")}
    main.__spec__ = main.__file__ = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is missing:
                delattr(main, name)
            else:
                setattr(main, name, value)


def answer_of(work: Callable[[], Answer], processes: Callable[[], Sequence[Any]], hint: str = "") -> Answer:
    """What `work`, which waits for worker `processes`, returns or raises; it runs in a thread that can be given up.

    A signal's handler may raise meanwhile. Raises `WorkerLost` with the cause and the remedy.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def act() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=act, daemon=True).start()
    moved, computed = time.monotonic(), -1.0
    while True:
        try:
            value, error = answers.get(timeout=_LOOK)
        except queue.Empty:
            now, workers = time.monotonic(), processes()
            seconds = _computed(workers)
            if seconds is None or seconds > computed:
                moved, computed = (now, seconds) if seconds is not None else (moved, computed)
            patience = MOST if seconds is None else PATIENCE
            if any(worker.exitcode is not None for worker in workers):
                patience = ENDED
            if now - moved > patience:
                raise WorkerLost(_reason(workers, f"no batch came for {now - moved:.0f} s", hint)) from None
            continue
        if error is None:
            return value
        if isinstance(error, RuntimeError) and str(error).startswith(
            ("DataLoader", "Too many open files", "received 0")
        ):
            raise WorkerLost(_reason(processes(), str(error).partition("\n")[0], hint)) from error
        raise error


def _reason(workers: Sequence[Any], otherwise: str, hint: str) -> str:
    """One sentence: what happened, and what helps."""
    codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
    code = next((code for code in codes if code), None)
    if code == errno.ENOSPC:
        return f"a data worker ended because {_SHARED} is full: give the container more with --shm-size, or {_REMEDY}"
    if code == errno.EMFILE:
        return f"a data worker ended because too many files are open: `ulimit -n 4096` allows more, or {_REMEDY}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return (
            f"a data worker was ended by {name}, as a system that is short of memory does: fewer workers, or {_REMEDY}"
        )
    if code is not None:
        return f"a data worker ended with exit code {code}: {hint or _REMEDY}"
    return f"{otherwise}: the data workers do nothing, so the disk may not answer; {_REMEDY}"


def _computed(workers: Sequence[Any]) -> float | None:
    """Clock ticks that the workers, and the process that they are forked from, have computed; None if unknown."""
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    ticks, known = 0, False
    for number in [server, *(worker.pid for worker in workers)]:
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks, known = ticks + int(fields[11]) + int(fields[12]), True
    return ticks if known or Path("/proc/self/stat").exists() else None
