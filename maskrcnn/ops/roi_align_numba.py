"""`roi_align` on a CPU, forward and backward, over maps whose channels lie together in memory.

A bin's average of bilinear points is separable: the points of an axis add up to a few rows with one weight each. So a bin
is a short weighted sum of pixels, and the inner loop runs over their channels. The backward pass gives each thread rows of
the map that only it writes, in the order of the boxes: no races, and the same sum for any number of threads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import overload
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import follow_torch_threads

if TYPE_CHECKING:
    from .roi_align import Grid

_LARGEST_GRID = 1024  # as roi_align.LARGEST_GRID


def roi_align_numba(pyramid: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, grid: "Grid") -> Tensor:
    """The meaning of `ops.roi_align.roi_align_reference` with averages, for float32 and bfloat16."""
    return _RoIAlign.apply(boxes, levels, valid, grid, *pyramid)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, levels: Tensor, valid: Tensor, grid: "Grid", *pyramid: Tensor) -> Tensor:
        levels = torch.where(valid, levels, -1)
        B, R = levels.shape
        C, S = pyramid[0].shape[1], grid.size
        out = pyramid[0].new_empty(B, R, S, S, C)
        boxes = boxes.contiguous()
        follow_torch_threads()
        for level, features in enumerate(pyramid):
            pixels = _bits(features.detach().permute(0, 2, 3, 1).contiguous())
            _forward(pixels, boxes.numpy(), levels.numpy(), level, *_numbers(grid, level), _bits(out))
        ctx.save_for_backward(boxes, levels)
        ctx.grid, ctx.shapes = grid, [features.shape for features in pyramid]
        return out.permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, levels = ctx.saved_tensors
        grads: list[Tensor | None] = []
        grad_bins = grad.permute(0, 1, 3, 4, 2).contiguous()
        follow_torch_threads()
        for level, (B, C, H, W) in enumerate(ctx.shapes):
            if not ctx.needs_input_grad[4 + level]:
                grads.append(None)
                continue
            pixels = torch.empty(B, H, W, C)
            args = (boxes.numpy(), levels.numpy(), level, *_numbers(ctx.grid, level), pixels.numpy())
            _backward(_bits(grad_bins), *args, numba.get_num_threads())
            grads.append(pixels.to(grad.dtype).permute(0, 3, 1, 2))
        return None, None, None, None, *grads


def _bits(tensor: Tensor) -> np.ndarray:
    """Numba knows no bfloat16: its bits, as uint16."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _numbers(grid: "Grid", level: int) -> tuple[np.float32, np.float32, int, int, bool]:
    y, x = grid.scales[level]
    largest = min(grid.max_sampling or _LARGEST_GRID, _LARGEST_GRID)
    return np.float32(y), np.float32(x), grid.sampling or -largest, grid.size, grid.aligned


def _read(value: Any) -> Any:
    raise NotImplementedError


@overload(_read, inline="always")
def _overload_read(value):  # noqa: ANN001, ANN202
    if isinstance(value, types.Integer):  # bfloat16 is the upper half of a float32
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def _write(out: Any, sums: Any) -> None:
    raise NotImplementedError


@overload(_write)
def _overload_write(out, sums):  # noqa: ANN001, ANN202
    if isinstance(out.dtype, types.Integer):

        def write(out, sums):  # noqa: ANN001, ANN202
            bits = sums.view(np.uint32)
            for c in range(len(out)):  # to the nearest, ties to even; NaN stays NaN
                bit = bits[c]
                rounded = (bit + np.uint32(0x7FFF) + ((bit >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
                out[c] = np.uint16(rounded) if sums[c] == sums[c] else np.uint16(0x7FC0)

        return write

    def copy(out, sums):  # noqa: ANN001, ANN202
        for c in range(len(out)):
            out[c] = sums[c]

    return copy


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _axis(start, end, side, sampling, size, aligned, first, rows, weights):  # noqa: ANN001, ANN202
    """Rows and weights of each bin: those of bin p stand at first[p] .. first[p + 1]. False where the box has none."""
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    offset = half if aligned else zero
    start, end = start - offset, end - offset
    length = end - start
    if not aligned:
        length = max(length, one)
    step = length / np.float32(size)
    count = _count(step, sampling)
    n = 0
    for p in range(size):
        first[p] = n
        for i in range(count):
            at = start + np.float32(p) * step + (np.float32(i) + half) * step / np.float32(count)
            if not (at >= -one and at <= np.float32(side)):
                continue
            at = max(at, zero)
            low = min(np.int64(at), side - 1)
            share = at - np.float32(low) if low < side - 1 else zero
            for row, weight in ((low, one - share), (low + 1, share)):
                if weight == zero:
                    continue
                weight /= np.float32(count)
                if n > first[p] and rows[n - 1] == row:
                    weights[n - 1] += weight
                elif n > first[p] + 1 and rows[n - 2] == row:
                    weights[n - 2] += weight
                else:
                    rows[n], weights[n] = row, weight
                    n += 1
    first[size] = n


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _count(step, sampling):  # noqa: ANN001, ANN202
    """Points per bin: `sampling`, or where it is negative as many as the bin has pixels, at most -sampling."""
    if sampling > 0:
        return sampling
    if not step > np.float32(0):
        return 0
    return np.int64(np.ceil(min(step, np.float32(-sampling))))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _most(box, scale_y, scale_x, sampling, size, aligned):  # noqa: ANN001, ANN202
    """How much room `_axis` needs for either axis of a box."""
    longest = max((box[3] - box[1]) * scale_y, (box[2] - box[0]) * scale_x, np.float32(1))
    return 2 * size * (_count(longest / np.float32(size), sampling) + 2)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(pixels, boxes, levels, level, scale_y, scale_x, sampling, size, aligned, out):  # noqa: ANN001, ANN202
    _, H, W, C = pixels.shape
    R = boxes.shape[1]
    for n in numba.prange(boxes.shape[0] * R):
        b, r = n // R, n % R
        if levels[b, r] < 0 and level == 0:
            out[b, r] = 0
        if levels[b, r] != level:
            continue
        box = boxes[b, r]
        room = _most(box, scale_y, scale_x, sampling, size, aligned)
        first_y, rows, weights_y = np.empty(size + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
        first_x, cols, weights_x = np.empty(size + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
        _axis(box[1] * scale_y, box[3] * scale_y, H, sampling, size, aligned, first_y, rows, weights_y)
        _axis(box[0] * scale_x, box[2] * scale_x, W, sampling, size, aligned, first_x, cols, weights_x)
        sums = np.empty(C, np.float32)
        for p in range(size):
            for q in range(size):
                sums[:] = 0
                for i in range(first_y[p], first_y[p + 1]):
                    for j in range(first_x[q], first_x[q + 1]):
                        weight, pixel = weights_y[i] * weights_x[j], pixels[b, rows[i], cols[j]]
                        for c in range(C):
                            sums[c] += weight * _read(pixel[c])
                _write(out[b, r, p, q], sums)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _split(boxes, levels, level, scale_y, aligned, H, W, size, parts):  # noqa: ANN001, ANN202
    """Bounds of `parts` runs of the B x H rows of a map with about the same work, clearing included."""
    work = np.full(len(boxes) * H + 1, W / 4)
    for b in range(len(boxes)):
        for r in range(boxes.shape[1]):
            if levels[b, r] == level:
                top = min(max(boxes[b, r, 1] * scale_y, np.float32(0)), np.float32(H - 1))
                end = min(max(boxes[b, r, 3] * scale_y, top), np.float32(H - 1))
                if top == top and end == end:  # not NaN
                    for y in range(np.int64(top), np.int64(end) + 1):
                        work[b * H + y] += size * size * 9 / (end - top + 1)
    work = np.cumsum(work)
    bounds = np.zeros(parts + 1, np.int64)
    for part in range(1, parts):
        bounds[part] = np.searchsorted(work, work[-1] * part / parts)
    bounds[parts] = len(boxes) * H
    return bounds


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward(grad, boxes, levels, level, scale_y, scale_x, sampling, size, aligned, out, parts):  # noqa: ANN001, ANN202
    B, H, W, C = out.shape
    R = boxes.shape[1]
    bounds = _split(boxes, levels, level, scale_y, aligned, H, W, size, parts)
    for part in numba.prange(parts):
        for row in range(bounds[part], bounds[part + 1]):
            out[row // H, row % H] = 0
        for n in range(B * R):
            b, r = n // R, n % R
            low, high = max(bounds[part] - b * H, 0), min(bounds[part + 1] - b * H, H)  # own rows of this image
            if levels[b, r] != level or low >= high:
                continue
            box = boxes[b, r]
            room = _most(box, scale_y, scale_x, sampling, size, aligned)
            first_y, rows, weights_y = np.empty(size + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
            first_x, cols, weights_x = np.empty(size + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
            _axis(box[1] * scale_y, box[3] * scale_y, H, sampling, size, aligned, first_y, rows, weights_y)
            _axis(box[0] * scale_x, box[2] * scale_x, W, sampling, size, aligned, first_x, cols, weights_x)
            for p in range(size):
                for i in range(first_y[p], first_y[p + 1]):
                    if rows[i] < low or rows[i] >= high:
                        continue
                    for q in range(size):
                        source = grad[b, r, p, q]
                        for j in range(first_x[q], first_x[q + 1]):
                            weight, target = weights_y[i] * weights_x[j], out[b, rows[i], cols[j]]
                            for c in range(C):
                                target[c] += weight * _read(source[c])
