"""Reading other people's files without running them: torch's with `weights_only`, pickles by an unpickler of data.

The unpickler builds builtin containers, numbers, text and NumPy arrays. Nothing of NumPy is called with what the file
says: arrays are described by the classes below, checked, and only then made from their bytes.
"""

import argparse
import collections
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError

_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    UnicodeError,
    RuntimeError,
    OSError,
    MemoryError,
    OverflowError,
    struct.error,
)


def read_pickle(path: str | Path) -> Any:
    """The object in a pickle of arrays and builtin containers. Raises `CheckpointError` for anything else.

    Pickles of Python 2 are read too; their text comes out as Latin-1. At no time are there more than the file's bytes
    and one array in memory, but for protocol 2 of Python 3, whose bytes stand in the file as text: both, until it ends.
    """
    try:
        with open(path, "rb") as file:
            described = _Unpickler(file, encoding="latin1").load()  # whose memory of what it read ends with it
        return _unwrapped(described, {})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is not a pickle of arrays, or is damaged: {_first_line(error)}") from error


def read_torch(path: str | Path) -> Any:
    """The object in a file of `torch.save`: tensors, containers, argparse's options. Else raises `CheckpointError`."""
    try:
        # Training scripts save their options as a Namespace, which is a bag of values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the age of formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors alone: {_refused(error)}. A file of other objects has to be "
            "rewritten where it comes from: torch.save(model.state_dict(), ...)"
        ) from error


def _refused(error: BaseException) -> str:
    """What torch says on pages, of which the first advises to run the file."""
    if not isinstance(error, pickle.UnpicklingError):
        return _first_line(error)
    if wanted := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it wants to run {wanted[1]}, which is not data; it was not run"
    reason = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))
    return reason[1] if reason else "it is damaged"


def as_tensors(values: Any) -> dict[str, Tensor]:
    """The entries of a dict that are arrays or tensors, as tensors. Raises `CheckpointError` for what is no dict."""
    if not isinstance(values, Mapping):
        raise CheckpointError(f"a dict of tensors was expected, it is a {type(values).__name__}")
    tensors = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            tensors[str(name)] = torch.from_numpy(value)
        elif isinstance(value, Tensor):
            tensors[str(name)] = value.detach()
    return tensors


class _Unpickler(pickle.Unpickler):
    """Finds the names below; every other one is refused before anything of it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy._core."):
            module = module.replace("numpy._core.", "numpy.core.", 1)
        if (module, name) not in _NAMES:
            raise CheckpointError(f"the file wants to run {module}.{name}, which is not data; it was not run")
        found = _NAMES[module, name]
        return None if found is None else _Call(found)

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError("the file refers to objects outside itself")


class _Call:
    """A function that the file may call, and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("the file wants to change what reads it")


class _Dtype:
    """A NumPy dtype as a pickle describes it: its code, then a state with the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biuf":
            raise CheckpointError(f"the file holds an array of {self.dtype}, which are not numbers")

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", b"<", b">"):
            self.dtype = self.dtype.newbyteorder("<" if state[1] in ("<", b"<") else ">")


class _Array:
    """A NumPy array as a pickle describes it, made from its bytes when all is read, so that they can go one by one."""

    def __init__(self) -> None:
        self._parts: tuple[Any, _Dtype, tuple[int, ...], bool] | None = None
        self._made: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, data = state
        self._parts = _checked(data, dtype, shape, by_column)

    def take(self) -> np.ndarray | None:
        if self._parts is not None:
            self._made, self._parts = _array_of(*self._parts), None
        return self._made


def _array(kind: Any = None, shape: Any = None, code: Any = None) -> _Array:
    return _Array()  # what it holds follows as its state


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _array_of(*_checked(data, dtype, (), False))[()]


def _checked(data: Any, dtype: Any, shape: Any, by_column: Any) -> tuple[Any, _Dtype, tuple[int, ...], bool]:
    """The parts of an array. Raises `CheckpointError` where they do not fit."""
    if not isinstance(data, bytes | bytearray | str) or not isinstance(dtype, _Dtype):
        raise CheckpointError("the file describes an array that is not numbers")
    shape = tuple(shape)
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise CheckpointError(f"the file describes an array of shape {shape!r:.80}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise CheckpointError(f"the file describes an array of {dtype.dtype} {list(shape)} in {len(data)} bytes")
    return data, dtype, shape, bool(by_column)


def _array_of(data: Any, dtype: _Dtype, shape: tuple[int, ...], by_column: bool) -> np.ndarray:
    """The array, native byte order, memory of its own."""
    if isinstance(data, str):
        data = data.encode("latin1")  # bytes of Python 2
    flat = np.frombuffer(data, dtype.dtype)
    native = flat.astype(dtype.dtype.newbyteorder("="))  # a writable copy
    return native.reshape(shape, order="F" if by_column else "C")


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"the file wants to encode text as {encoding!r:.40}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # which protocol 2 writes as a call without arguments


def _unwrapped(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """`value` with the arrays themselves; dicts and lists are changed in place, to let go of what was read.

    `done` has each container by its id, with what became of it: one that is in a file many times is walked once.
    """
    if isinstance(value, _Array):
        return value.take()
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in done:
        found = done[id(value)][1]
        if found is _UNFINISHED:
            raise CheckpointError("the file holds a container that contains itself")
        return found
    done[id(value)] = value, _UNFINISHED
    result = value
    if isinstance(value, tuple):
        result = tuple(_unwrapped(item, done) for item in value)
    else:
        for key in value if isinstance(value, dict) else range(len(value)):
            value[key] = _unwrapped(value[key], done)
    done[id(value)] = value, result
    return result


_UNFINISHED = object()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1,  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): None,  # named as an argument only
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
}
