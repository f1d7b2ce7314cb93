"""Decides and records which implementation of an operator runs; the operator imports it at the call.

The plain PyTorch reference of an operator defines its result. Kernels compute the same result faster: those in
`kernels/<op>_numba.py` on a CPU, those in `kernels/<op>_triton.py` on a GPU. A kernel is used whenever it can run.
`torch.compile` cannot trace Numba, so on a CPU it compiles the reference; it calls Triton kernels as they are, because
they are registered operators. An exported program must run without this package and gets the reference.
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
_READABLE = {"cpu"}  # kinds of devices
_KERNELS_OF = {"cpu": "numba", "cuda": "triton"}  # by device; others have none

_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_one_at_a_time = threading.RLock()
_recorders: ContextVar[tuple[list[str], ...]] = ContextVar("recorders", default=())


def which(op: str, device: torch.device, impl: str | None = None) -> str:
    """The name of the implementation of `op` to run on `device`: "reference", "numba" or "triton".

    `impl` selects one for this call and `use` for a block; otherwise the fastest that can run is chosen. Raises
    ValueError with the reason if the selected one cannot run: it is never replaced silently. Traced calls are not
    recorded.
    """
    if torch.compiler.is_compiling():  # neither context variables nor imports can be traced
        return impl or ("triton" if device.type == "cuda" and not torch.compiler.is_exporting() else "reference")
    wish = impl or _forced.get()
    if wish and (reason := _why_not(op, device, wish)):
        raise ValueError(f"{op}: implementation {wish!r} cannot run on {device.type}: {reason}")
    name = wish or _default(op, device)
    for recorder in _recorders.get():
        recorder.append(f"{op}:{name}")
    if name == "numba":
        _tell_of_compilation()
    return name


def may_look(tensor: torch.Tensor) -> bool:
    """Whether Python may read the tensor's values: only on a CPU, and only if nothing is being compiled or exported.

    On a GPU reading a value waits for the device, and in a trace it becomes a constant. Empty slots are then computed
    like all others instead of being left out.
    """
    return tensor.device.type in _READABLE and not torch.compiler.is_compiling()


@contextmanager
def use(impl: str | None) -> Iterator[None]:
    """Within the block, in this thread, operators run as `impl` unless a call selects another implementation."""
    if impl is not None and impl not in _NAMES:
        raise ValueError(f"no implementation is called {impl!r}; there are {', '.join(_NAMES)}")
    token = _forced.set(impl)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def recorded_paths() -> Iterator[list[str]]:
    """Collects what runs within the block, in this thread, in order: ["nms:numba", "roi_align:reference"]."""
    paths: list[str] = []
    token = _recorders.set((*_recorders.get(), paths))
    try:
        yield paths
    finally:
        _recorders.reset(token)


def implementations(op: str, device: str = "cpu") -> list[str]:
    """The names of the implementations of `op` that can run on `device`, the reference first."""
    return [name for name in _NAMES if _why_not(op, torch.device(device), name) is None]


@contextmanager
def torch_threads() -> Iterator[None]:
    """Within the block, in this thread, Numba's parallel kernels use as many threads as PyTorch does.

    Without OpenMP and TBB Numba uses its own threading layer, which aborts the process if two threads use it at once;
    then one block runs at a time.
    """
    import numba

    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, most)))
    if torch.get_num_threads() != threads:  # the first call may change PyTorch's number: both use OpenMP
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
    """Why implementation `name` of `op` cannot run on `device`; None if it can."""
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
    """Logs a line when this process first compiles a kernel; worker processes log nothing."""
    from numba.core import event

    class Once(event.Listener):
        def on_start(self, event: Any) -> None:
            unregister("numba:compile", self)
            _LOG.warning("compiling kernels for this processor, once, for a few seconds; they are cached on disk")

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
