"""Reading and writing float32 or bfloat16 in CPU kernels; Numba has no bfloat16."""

# ruff: noqa: ANN001, ANN202 (Numba infers the types of its kernels)

from typing import Any

import numpy as np
import torch
from numba.core import types
from numba.extending import overload
from torch import Tensor


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory from NumPy, which uses huge pages if there are any: the first write to 50 MB takes 4 ms instead of 19."""
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.empty(shape, np.uint16)).view(dtype)
    return torch.from_numpy(np.empty(shape, np.float32))


def as_bits(tensor: Tensor) -> np.ndarray:
    """The array of a tensor; bfloat16 becomes its bits, uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def read(value: Any) -> Any:
    raise NotImplementedError


@overload(read, inline="always")
def _overload_read(value):
    if isinstance(value, types.Integer):  # bfloat16 is the upper half of a float32
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def write(out: Any, sums: Any) -> None:
    raise NotImplementedError


@overload(write)
def _overload_write(out, sums):
    if isinstance(out.dtype, types.Integer):

        def write(out, sums) -> None:
            bits = sums.view(np.uint32)
            for c in range(len(out)):  # to nearest, ties to even; a NaN read from bfloat16 stays NaN
                odd = (bits[c] >> np.uint32(16)) & np.uint32(1)
                out[c] = np.uint16(np.uint32(bits[c] + np.uint32(0x7FFF) + odd) >> np.uint32(16))

        return write

    def copy(out, sums) -> None:
        for c in range(len(out)):
            out[c] = sums[c]

    return copy
