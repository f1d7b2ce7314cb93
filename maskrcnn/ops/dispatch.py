"""Which implementation of an operator runs: decided here, recorded here, imported in sight at the call.

Every operator has a plain PyTorch reference, which is its meaning. A kernel stands beside it, in `<op>_numba.py` for
a CPU or `<op>_triton.py` for a GPU, and is taken wherever it can run. Under `torch.compile` and `torch.export` the
reference is taken, because no tracer can look into a kernel.
"""

import functools
import importlib.util
import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_NAMES = ("reference", "numba", "triton")

_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_recorders: ContextVar[tuple[list[str], ...]] = ContextVar("recorders", default=())


def which(op: str, device: torch.device, impl: str | None = None) -> str:
    """Name of the implementation of `op` to run on `device`: "reference", "numba" or "triton".

    `impl` is the caller's wish, `use` the wish of a whole block, and without either the fastest that can run is taken.
    ValueError where a wish cannot be met, with the reason: nothing is replaced silently.
    """
    wish = impl or _forced.get()
    if wish is None:
        name = _default(op, device)
    else:
        name = wish
        reason = _why_not(op, device, wish)
        if reason:
            raise ValueError(f"{op}: implementation {wish!r} cannot run on {device.type}: {reason}")
    for recorder in _recorders.get():
        recorder.append(f"{op}:{name}")
    if name == "numba":
        _tell_of_compilation()
    return name


@contextmanager
def use(impl: str | None) -> Iterator[None]:
    """Within the block, in this thread, every operator runs as `impl` unless its caller says otherwise."""
    if impl is not None and impl not in _NAMES:
        raise ValueError(f"no implementation is called {impl!r}; there are {', '.join(_NAMES)}")
    token = _forced.set(impl)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def recorded_paths() -> Iterator[list[str]]:
    """Within the block, in this thread, collect what ran, in order: ["nms:numba", "roi_align:reference"]."""
    paths: list[str] = []
    token = _recorders.set((*_recorders.get(), paths))
    try:
        yield paths
    finally:
        _recorders.reset(token)


def implementations(op: str) -> list[str]:
    """Names of the implementations of `op` that can run on this machine, on some device. The reference comes first."""
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    return [name for name in _NAMES if any(_why_not(op, device, name) is None for device in devices)]


def follow_torch_threads() -> None:
    """Let Numba's parallel kernels, in this thread, use as many threads as PyTorch does."""
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, most)))
    if torch.get_num_threads() != threads:  # the first call starts all of OpenMP's threads, and PyTorch shares OpenMP
        torch.set_num_threads(threads)


def _default(op: str, device: torch.device) -> str:
    if torch.compiler.is_compiling():
        return "reference"
    name = "numba" if device.type == "cpu" else "triton"
    if _why_not(op, device, name) is None:
        return name
    if name == "numba" and _has_kernel(op, name):
        _warn_slow()
    return "reference"


def _why_not(op: str, device: torch.device, name: str) -> str | None:
    """Why implementation `name` of `op` cannot run on `device`; None where it can."""
    if name not in _NAMES:
        return f"it must be one of {', '.join(_NAMES)}"
    if name == "reference":
        return None
    if not _has_kernel(op, name):
        return "this operator has no such kernel"
    if not _importable(name):
        return f"{name} cannot be imported"
    if name == "numba" and device.type != "cpu":
        return "Numba's kernels are for CPU tensors"
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton's kernels are for GPU tensors (TRITON_INTERPRET=1 interprets them)"
    return None


@functools.cache
def _tell_of_compilation() -> None:
    """Logs a line when this process, unless it is a worker, first has to compile a kernel."""
    from numba.core import event

    class Once(event.Listener):
        def on_start(self, event: Any) -> None:
            unregister("numba:compile", self)
            _LOG.warning("compiling kernels for this processor, once: up to 20 seconds; they are kept on the disk")

        def on_end(self, event: Any) -> None:
            pass

    unregister = event.unregister
    if multiprocessing.parent_process() is None:
        event.register("numba:compile", Once())


@functools.cache
def _has_kernel(op: str, name: str) -> bool:
    return importlib.util.find_spec(f"{__package__}.{op}_{name}") is not None


@functools.cache
def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@functools.cache
def _warn_slow() -> None:
    warnings.warn(
        "numba cannot be imported: NMS, RoIAlign and masks run as their slow PyTorch references; `pip install numba`",
        RuntimeWarning,
        stacklevel=4,
    )
