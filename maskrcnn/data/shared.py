"""Large arrays in memory that spawned processes map instead of receiving a copy: a data set takes the same memory with
any number of workers.
"""

import ctypes
import mmap
import os
from multiprocessing import RawArray, reduction
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple, TypeVar

import numpy as np

FEWEST_BYTES = 1 << 20  # smaller arrays are copied: each shared one costs a file descriptor in every process

Table = TypeVar("Table", bound=tuple)


class _Anonymous(mmap.mmap):
    """Memory without a file (Linux's memfd). It is not limited by /dev/shm, which is small in containers."""

    fd: int

    def __new__(cls, size: int, sent: Any = None) -> "_Anonymous":
        fd = os.memfd_create("maskrcnn") if sent is None else sent.detach()
        if sent is None:
            os.ftruncate(fd, size)
        memory = super().__new__(cls, fd, size)
        memory.fd = fd
        return memory

    def __reduce__(self) -> tuple[Any, ...]:
        return _Anonymous, (len(self), reduction.DupFd(self.fd))

    def __del__(self) -> None:
        os.close(self.fd)


class _Handle(NamedTuple):
    """An array on its way to a new process."""

    memory: Any
    dtype: np.dtype
    shape: tuple[int, ...]


def share(table: Table) -> Table:
    """A NamedTuple with its large arrays moved to memory that `hand_over` does not have to copy."""
    return type(table)(*(_moved(value) if isinstance(value, np.ndarray) else value for value in table))


def hand_over(table: tuple[Any, ...]) -> tuple[Any, ...]:
    """What to pickle instead of `table`: handles if a process is being spawned, else the table itself."""
    if get_spawning_popen() is None:
        return table
    handles = ((_memory(value), value) for value in table)
    return type(table)(
        *(value if memory is None else _Handle(memory, value.dtype, value.shape) for memory, value in handles)
    )


def take_over(table: Table) -> Table:
    """The inverse of `hand_over`, in the other process."""
    return type(table)(*(_array(value) if isinstance(value, _Handle) else value for value in table))


def _moved(array: np.ndarray) -> np.ndarray:
    if array.nbytes < FEWEST_BYTES or _memory(array) is not None:
        return array
    memory = _Anonymous(array.nbytes) if hasattr(os, "memfd_create") else RawArray(ctypes.c_byte, array.nbytes)
    moved = _array(_Handle(memory, array.dtype, array.shape))
    np.copyto(moved, array)
    return moved


def _array(handle: _Handle) -> np.ndarray:
    return np.frombuffer(handle.memory, handle.dtype).reshape(handle.shape)


def _memory(value: Any) -> Any:
    """The shared memory that an array fills; None for any other value."""
    owner = value
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    whole = isinstance(owner, _Anonymous | ctypes.Array) and memoryview(owner).nbytes == value.nbytes
    return owner if whole else None
