"""Which implementation of an operator runs: decided here, recorded here, imported in sight at the call.

Every operator has a plain PyTorch reference, which is its meaning. A kernel stands beside it, in `<op>_numba.py` for
a CPU or `<op>_triton.py` for a GPU, and is taken wherever it can run. No tracer can look into Numba, so that on a CPU
`torch.compile` takes the reference; Triton's kernels are registered operators, which it takes as they are. An exported
program has to run where we are not, and gets the reference.
"""

import functools
import importlib.util
import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
_NAMES = ("reference", "numba", "triton")
_KERNELS_OF = {"cpu": "numba", "cuda": "triton"}  # by device; others have none

_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_one_at_a_time = threading.RLock()
_recorders: ContextVar[tuple[list[str], ...]] = ContextVar("recorders", default=())


def which(op: str, device: torch.device, impl: str | None = None) -> str:
    """Name of the implementation of `op` to run on `device`: "reference", "numba" or "triton".

    `impl` is the caller's wish, `use` the wish of a whole block, and without either the fastest that can run is taken.
    ValueError where a wish cannot be met, with the reason: nothing is replaced silently. What is being traced is not
    recorded.
    """
    if torch.compiler.is_compiling():  # tracers know neither context variables nor imports
        return impl or ("triton" if device.type == "cuda" and not torch.compiler.is_exporting() else "reference")
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


def implementations(op: str, device: str = "cpu") -> list[str]:
    """Names of the implementations of `op` that can run on `device` of this machine. The reference comes first."""
    return [name for name in _NAMES if _why_not(op, torch.device(device), name) is None]


@contextmanager
def torch_threads() -> Iterator[None]:
    """Within the block, in this thread, Numba's parallel kernels use as many threads as PyTorch does.

    Where Numba found neither OpenMP nor TBB, one block runs at a time: its own layer aborts the process otherwise.
    """
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, most)))
    if torch.get_num_threads() != threads:  # the first call starts all of OpenMP's threads, and PyTorch shares OpenMP
        torch.set_num_threads(threads)
    layer: str = numba.threading_layer()  # pyright: ignore
    with _one_at_a_time if layer == "workqueue" else nullcontext():
        yield


def _default(op: str, device: torch.device) -> str:
    name = _KERNELS_OF.get(device.type)
    if name is None or not _has_kernel(op, name):
        return "reference"
    if _importable(name):
        return name
    _warn_slow(name)
    return "reference"


def _why_not(op: str, device: torch.device, name: str) -> str | None:
    """Why implementation `name` of `op` cannot run on `device`; None where it can."""
    if name not in _NAMES:
        return f"it must be one of {', '.join(_NAMES)}"
    if name == "reference":
        return None
    if not _has_kernel(op, name):
        return "this operator has no such kernel"
    if name == "numba" and device.type != "cpu":
        return "Numba's kernels are for CPU tensors"
    if name == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton's kernels are for GPU tensors (TRITON_INTERPRET=1 interprets them)"
    if not _importable(name):
        return f"{name} cannot be imported"
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
    return importlib.util.find_spec(f"{__package__}.kernels.{op}_{name}") is not None


@functools.cache
def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@functools.cache
def _warn_slow(name: str) -> None:
    warnings.warn(
        f"{name} cannot be imported: NMS, RoIAlign and more run as slow PyTorch references; `pip install {name}`",
        RuntimeWarning,
        stacklevel=4,
    )
