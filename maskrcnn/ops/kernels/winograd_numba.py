"""`winograd` on a CPU: transforms and multiplies a few hundred tiles at a time, so that they stay in the caches."""

# ruff: noqa: ANN001, ANN202 (Numba infers the types of its kernels)

import numba
import numpy as np
import torch
from torch import Tensor

from ..dispatch import torch_threads
from .bfloat16_numba import as_bits, empty, read, write

_TILES = 512  # at a time: 4 MB for 256 channels in bfloat16


@torch_threads()
def winograd_numba(x: Tensor, weights: Tensor, bias: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """Computes `ops.winograd.winograd_reference`."""
    (B, C, H, W), D = x.shape, weights.shape[2]
    pixels = as_bits(x.permute(0, 2, 3, 1).contiguous())
    others = as_bits((x[:0] if add is None else add.to(x.dtype)).permute(0, 2, 3, 1).contiguous())
    y = empty((B, H, W, D), x.dtype)
    offset = bias.float().numpy()
    total = B * ((H + 1) // 2) * ((W + 1) // 2)
    seen, products = (empty((16, min(_TILES, total), channels), x.dtype) for channels in (C, D))
    for first in range(0, total, _TILES):
        if first + _TILES > total > _TILES:
            seen, products = (empty((16, total - first, channels), x.dtype) for channels in (C, D))
        _to_tiles(pixels, first, as_bits(seen))
        torch.bmm(seen, weights, out=products)
        _from_tiles(as_bits(products), first, offset, others, relu, as_bits(y))
    return y.permute(0, 3, 1, 2)


@numba.njit(inline="always")
def _place(tile, H, W):
    """The image, row and column of the first pixel of a tile."""
    across = (W + 1) // 2
    row = tile // across
    down = (H + 1) // 2
    return row // down, row % down * 2, tile % across * 2


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _to_tiles(pixels, first, seen):
    for n in numba.prange(seen.shape[1]):
        _to_tile(pixels, first, seen, np.int64(n))


@numba.njit(nogil=True, error_model="numpy")
def _to_tile(pixels, first, seen, n):
    _, H, W, C = pixels.shape
    b, top, left = _place(first + n, H, W)
    nothing = np.zeros(C, pixels.dtype)
    half = np.zeros((4, 4, C), np.float32)  # transformed along x
    whole = np.empty(C, np.float32)
    for i in range(max(1 - top, 0), min(H + 1 - top, 4)):
        row = pixels[b, top + i - 1]
        d0, d1 = row[left - 1] if left > 0 else nothing, row[left]
        d2, d3 = row[left + 1] if left + 1 < W else nothing, row[left + 2] if left + 2 < W else nothing
        h0, h1, h2, h3 = half[i, 0], half[i, 1], half[i, 2], half[i, 3]
        for c in range(C):
            h0[c] = read(d0[c]) - read(d2[c])
            h1[c] = read(d1[c]) + read(d2[c])
            h2[c] = read(d2[c]) - read(d1[c])
            h3[c] = read(d1[c]) - read(d3[c])
    for i in range(4):
        sign = np.float32(1 if i == 1 else -1)
        for j in range(4):
            first_row, second_row = half[(0, 1, 2, 1)[i], j], half[(2, 2, 1, 3)[i], j]
            for c in range(C):
                whole[c] = first_row[c] + sign * second_row[c]
            write(seen[4 * i + j, n], whole)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _from_tiles(products, first, bias, others, relu, y):
    for n in numba.prange(products.shape[1]):
        _from_tile(products, first, bias, others, relu, y, np.int64(n))


@numba.njit(nogil=True, error_model="numpy")
def _from_tile(products, first, bias, others, relu, y, n):
    _, H, W, D = y.shape
    b, top, left = _place(first + n, H, W)
    half = np.empty((2, 4, D), np.float32)  # transformed along y
    whole = np.empty(D, np.float32)
    for j in range(4):
        m0, m1, m2, m3 = products[j, n], products[4 + j, n], products[8 + j, n], products[12 + j, n]
        h0, h1 = half[0, j], half[1, j]
        for c in range(D):
            h0[c] = read(m0[c]) + read(m1[c]) + read(m2[c])
            h1[c] = read(m1[c]) - read(m2[c]) - read(m3[c])
    for i in range(min(2, H - top)):
        for j in range(min(2, W - left)):
            h0, h1, h2 = half[i, j], half[i, j + 1], half[i, j + 2]
            sign = np.float32(1 - 2 * j)
            for c in range(D):
                whole[c] = h0[c] + sign * h1[c] + sign * h2[c] + bias[c]
            if len(others) > 0:
                other = others[b, top + i, left + j]
                for c in range(D):
                    whole[c] += read(other[c])
            if relu:
                for c in range(D):
                    whole[c] = whole[c] if whole[c] > 0 or np.isnan(whole[c]) else np.float32(0)
            write(y[b, top + i, left + j], whole)
