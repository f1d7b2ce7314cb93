"""Reads pickles without running them: torch's with `weights_only`, others with an unpickler that knows data only.

The unpickler builds builtin containers, numbers, text and NumPy arrays. It never calls NumPy with what the file says:
the classes below describe the arrays, check them, and only then make them from their bytes.
"""

import argparse
import collections
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ...errors import CheckpointError
from ...files import open_regular

# What pickle and torch raise for damaged files.
_DAMAGE = (pickle.UnpicklingError, EOFError, OSError, MemoryError, RuntimeError, AssertionError, struct.error)
_DAMAGE += (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_DAMAGE += (SafetensorError,)  # torch reads a file of this suffix so


def read_pickle(path: str | Path) -> Any:
    """The object in a pickle of arrays and builtin containers. Raises `CheckpointError` for anything else.

    Pickles of Python 2 are read too; their strings become Latin-1 text. Memory never holds more than the file's bytes
    and one array, except that protocol 2 of Python 3 stores bytes as text: then it holds both until the end.
    """
    try:
        with open_regular(path) as file:
            described = _Unpickler(file, encoding="latin1").load()  # the unpickler's own memory is freed here
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
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors alone: {_refused(error)}. A file of other objects has to be saved again "
            "by the program that wrote it: torch.save(model.state_dict(), ...)"
        ) from error


def _refused(error: BaseException) -> str:
    """torch's reason, without its long advice, which starts with running the file."""
    if not isinstance(error, pickle.UnpicklingError):
        return _first_line(error)
    if wanted := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it wants to run {wanted[1]}, which is not data; it was not run"
    reason = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))
    return reason[1] if reason else "it is damaged"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Unpickler(pickle.Unpickler):
    """Finds the names in `_NAMES`; it refuses every other one before anything of it runs."""

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\._core\.", "numpy.core.", module)
        if (module, name) not in _NAMES:
            raise CheckpointError(f"the file wants to run {module}.{name}, which is not data; it was not run")
        found = _NAMES[module, name]
        return None if found is None else _Call(found)

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError("the file refers to objects outside itself")


class _Call:
    """A function that the file may call but not change."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("the file tries to modify the unpickler")


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
    """A NumPy array as a pickle describes it: nothing at first, then a state.

    It is checked at once, but made from its bytes only when the whole file is read, so that the bytes can be freed one
    array at a time.
    """

    def __init__(self, *_: Any) -> None:
        self._parts: tuple[Any, np.dtype, tuple[int, ...], bool] | None = None
        self._made: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, data = state
        if not isinstance(data, bytes | bytearray | str) or not isinstance(dtype, _Dtype):
            raise CheckpointError("the file describes an array that is not numbers")
        shape = tuple(shape)
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise CheckpointError(f"the file describes an array of shape {shape!r:.80}")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise CheckpointError(f"the file describes an array of {dtype.dtype} {list(shape)} in {len(data)} bytes")
        self._parts = data, dtype.dtype, shape, bool(by_column)

    def take(self) -> np.ndarray | None:
        """The array in native byte order, with its own memory."""
        if self._parts is not None:
            data, dtype, shape, by_column = self._parts
            flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)
            native = flat.astype(dtype.newbyteorder("="))  # a writable copy
            self._made, self._parts = native.reshape(shape, order="F" if by_column else "C"), None
        return self._made


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    array = _array_from_buffer(data, dtype, (), "C").take()
    assert array is not None
    return array[()]


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"the file wants to encode text as {encoding!r:.40}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1,  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): lambda: b"",  # protocol 2 writes empty bytes as a call without arguments
    ("numpy", "ndarray"): None,  # is only ever an argument
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
}


def _unwrapped(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """`value` with arrays instead of their descriptions. Dicts and lists are changed in place, to free what was read.

    `done` maps the id of each container to itself and its result (None until it is known), so that one that occurs many
    times is walked once.
    """
    if isinstance(value, _Array):
        return value.take()
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in done:
        if done[id(value)][1] is None:
            raise CheckpointError("the file holds a container that contains itself")
        return done[id(value)][1]
    done[id(value)] = value, None
    if isinstance(value, tuple):
        result = tuple(_unwrapped(item, done) for item in value)
    else:
        result = value
        for key in value if isinstance(value, dict) else range(len(value)):
            value[key] = _unwrapped(value[key], done)
    done[id(value)] = value, result
    return result
