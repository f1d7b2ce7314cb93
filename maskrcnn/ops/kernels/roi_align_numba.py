"""`roi_align` on a CPU, forward and backward, for maps whose channels are adjacent in memory.

The average of a bin's bilinear points is separable: along each axis the points reduce to a few pixels with one weight
each. So a bin is a short weighted sum of pixels, and the inner loop runs over channels. In the backward pass each
thread owns some rows of the map and adds to them in the order of the boxes: there are no races, and the sum is the same
for any number of threads.
"""

# ruff: noqa: ANN001, ANN202 (Numba infers the types of its kernels)

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import torch_threads
from ..grids import LARGEST_GRID, Grid
from .bfloat16_numba import as_bits, empty, read, write


def roi_align_numba(pyramid: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, grid: Grid) -> Tensor:
    """Computes `ops.roi_align.roi_align_reference` with averages, for float32 and bfloat16."""
    return _RoIAlign.apply(boxes, levels, valid, grid, *pyramid)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    @torch_threads()
    def forward(ctx: Any, boxes: Tensor, levels: Tensor, valid: Tensor, grid: Grid, *pyramid: Tensor) -> Tensor:
        B, R = levels.shape
        C, S = pyramid[0].shape[1], len(grid.bins)
        out = empty((B * R, S, S, C), pyramid[0].dtype)
        boxes = boxes.reshape(B * R, 4).contiguous()
        unused, *slots = _slots_of_levels(boxes, torch.where(valid, levels, -1), len(pyramid))
        out.index_fill_(0, unused, 0)
        for level, features in enumerate(pyramid):
            pixels = as_bits(features.detach().permute(0, 2, 3, 1).contiguous())
            _forward(pixels, boxes.numpy(), slots[level].numpy(), R, *_numbers(grid, level), as_bits(out))
        ctx.save_for_backward(boxes, *slots)
        ctx.grid, ctx.shapes = grid, [features.shape for features in pyramid]
        return out.view(B, R, S, S, C).permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    @torch_threads()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, *slots = ctx.saved_tensors
        R = grad.shape[1]
        grads: list[Tensor | None] = []
        grad_bins = grad.permute(0, 1, 3, 4, 2).contiguous().flatten(0, 1)
        for level, (B, C, H, W) in enumerate(ctx.shapes):
            if not ctx.needs_input_grad[4 + level]:
                grads.append(None)
                continue
            pixels = empty((B, H, W, C), torch.float32)
            args = (boxes.numpy(), slots[level].numpy(), R, *_numbers(ctx.grid, level), pixels.numpy())
            _backward(as_bits(grad_bins), *args, numba.get_num_threads())
            grads.append(pixels.to(grad.dtype).permute(0, 3, 1, 2))
        return None, None, None, None, *grads


def _slots_of_levels(boxes: Tensor, levels: Tensor, num_levels: int) -> list[Tensor]:
    """The empty slots (b * R + r), then those of each level, sorted by image and from top to bottom.

    So neighbours in the image follow each other, and their pixels are still in the cache.
    """
    B = len(levels)
    image = torch.arange(B)[:, None]
    key = ((levels + 1) * B + image).flatten()
    order = boxes[:, 1].argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    counts = torch.bincount(levels.flatten() + 1, minlength=num_levels + 1)
    return list(order.split(counts.tolist()))


def _numbers(grid: Grid, level: int) -> tuple[np.float32, np.float32, int, int, int, bool]:
    y, x = grid.scales[level]
    return np.float32(y), np.float32(x), grid.sampling or -LARGEST_GRID, grid.size, grid.every, grid.aligned


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _axis(start, end, side, sampling, size, every, aligned):
    """The pixels and weights of each bin along one axis: those of bin p are first[p]:first[p + 1].

    `sampling` as in `roi_align`; if negative, one point per pixel of the bin, at most -sampling.
    """
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    offset = half if aligned else zero
    start, end = start - offset, end - offset
    length = end - start
    if not aligned:
        length = max(length, one)
    step = length / np.float32(size)
    count = sampling
    if sampling < 0:
        count = np.int64(np.ceil(min(step, np.float32(-sampling)))) if step > zero else 0  # 0 also for NaN
    bins = (size + every - 1) // every
    first = np.empty(bins + 1, np.int64)
    pixels, weights = np.empty(2 * bins * count, np.int64), np.empty(2 * bins * count, np.float32)
    n = 0
    for p in range(bins):
        first[p] = n
        for i in range(count):
            at = start + np.float32(p * every) * step + (np.float32(i) + half) * step / np.float32(count)
            if not (at >= -one and at <= np.float32(side)):
                continue
            at = max(at, zero)
            low = min(np.int64(at), side - 1)
            share = at - np.float32(low) if low < side - 1 else zero
            for pixel, weight in ((low, one - share), (low + 1, share)):
                if weight == zero:
                    continue
                weight /= np.float32(count)
                if n > first[p] and pixels[n - 1] == pixel:
                    weights[n - 1] += weight
                elif n > first[p] + 1 and pixels[n - 2] == pixel:
                    weights[n - 2] += weight
                else:
                    pixels[n], weights[n] = pixel, weight
                    n += 1
    first[bins] = n
    return first, pixels, weights


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _forward(pixels, boxes, slots, R, scale_y, scale_x, sampling, size, every, aligned, out):
    _, H, W, C = pixels.shape
    for k in numba.prange(len(slots)):
        b, box = slots[k] // R, boxes[slots[k]]
        first_y, rows, weights_y = _axis(box[1] * scale_y, box[3] * scale_y, H, sampling, size, every, aligned)
        first_x, cols, weights_x = _axis(box[0] * scale_x, box[2] * scale_x, W, sampling, size, every, aligned)
        sums = np.empty(C, np.float32)
        for p in range(out.shape[1]):
            for q in range(out.shape[2]):
                sums[:] = 0
                for i in range(first_y[p], first_y[p + 1]):
                    # Two at a time: the sums are loaded half as often.
                    for j in range(first_x[q], first_x[q + 1] - 1, 2):
                        weight, other_weight = weights_y[i] * weights_x[j], weights_y[i] * weights_x[j + 1]
                        pixel, other = pixels[b, rows[i], cols[j]], pixels[b, rows[i], cols[j + 1]]
                        for c in range(C):
                            sums[c] += weight * read(pixel[c]) + other_weight * read(other[c])
                    if (first_x[q + 1] - first_x[q]) % 2:
                        j = first_x[q + 1] - 1
                        weight, pixel = weights_y[i] * weights_x[j], pixels[b, rows[i], cols[j]]
                        for c in range(C):
                            sums[c] += weight * read(pixel[c])
                write(out[slots[k], p, q], sums)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _split(boxes, slots, R, scale_y, shape, bins, parts):
    """Divides the B x H rows of a map into `parts` ranges of about equal work, including zeroing them."""
    B, H, W, _ = shape
    work = np.full(B * H + 1, W / 4)  # zeroing a pixel costs about a quarter of adding to it
    work[0] = 0
    for n in slots:
        top = min(max(boxes[n, 1] * scale_y, np.float32(0)), np.float32(H - 1))
        end = min(max(boxes[n, 3] * scale_y, top), np.float32(H - 1))
        if top <= end:  # false for NaN
            first, last = np.int64(top), np.int64(end)
            for y in range(first, last + 1):
                work[n // R * H + y + 1] += bins * bins * 9 / (last - first + 1)
    work = np.cumsum(work)
    bounds = np.zeros(parts + 1, np.int64)
    for part in range(1, parts):
        bounds[part] = np.searchsorted(work, work[-1] * part / parts)
    bounds[parts] = B * H
    return bounds


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _backward(grad, boxes, slots, R, scale_y, scale_x, sampling, size, every, aligned, out, parts):
    _, H, W, C = out.shape
    bounds = _split(boxes, slots, R, scale_y, out.shape, grad.shape[1], parts)
    for part in numba.prange(parts):
        for row in range(bounds[part], bounds[part + 1]):
            out[row // H, row % H] = 0
        for n in slots:
            b, box = n // R, boxes[n]
            low, high = max(bounds[part] - b * H, 0), min(bounds[part + 1] - b * H, H)
            if low >= high:  # none of this thread's rows belong to the image
                continue
            first_y, rows, weights_y = _axis(box[1] * scale_y, box[3] * scale_y, H, sampling, size, every, aligned)
            first_x, cols, weights_x = _axis(box[0] * scale_x, box[2] * scale_x, W, sampling, size, every, aligned)
            for p in range(grad.shape[1]):
                for i in range(first_y[p], first_y[p + 1]):
                    if rows[i] < low or rows[i] >= high:
                        continue
                    for q in range(grad.shape[2]):
                        source = grad[n, p, q]
                        for j in range(first_x[q], first_x[q + 1]):
                            weight, target = weights_y[i] * weights_x[j], out[b, rows[i], cols[j]]
                            for c in range(C):
                                target[c] += weight * read(source[c])
