"""`roi_align` on a GPU, all levels in one launch, for maps whose channels are adjacent in memory.

A program computes some bins of one box for a range of channels. By default the backward pass adds to the maps with
atomics, in no fixed order. With `torch.use_deterministic_algorithms` each program owns some pixels of a map and adds
the boxes' gradients to them in the order of the boxes.
"""

# ruff: noqa: ANN001, ANN202 (Triton infers the types of its kernels)
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Sequence
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .. import grids
from ..grids import Grid

LARGEST_GRID = tl.constexpr(grids.LARGEST_GRID)
_TILE = 2048  # sums per program, bins times channels
_MOST_MAPS = 8  # maps that a kernel takes as separate arguments


def roi_align_triton(pyramid: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, grid: Grid) -> Tensor:
    """Computes `ops.roi_align.roi_align_reference` with averages, for float32, bfloat16 and float16."""
    maps, scales, B = list(pyramid), grid.scales, len(boxes)
    levels = torch.where(valid, levels, -1).to(torch.int32)
    images = torch.arange(B, dtype=torch.int32, device=levels.device)[:, None].expand_as(levels)
    if len(maps) > _MOST_MAPS and len(set(scales)) == len({m.shape for m in maps}) == 1:
        # Stored masks are one map per object: too many arguments for a kernel, but all have the same shape.
        maps, scales, images, levels = [torch.cat(maps)], scales[:1], levels * B + images, levels.clamp(max=0)
    numbers = [number for pair in scales for number in pair]
    out = _roi_align(maps, boxes, levels, images, numbers, grid.size, grid.sampling, grid.aligned)
    return out[..., :: grid.every, :: grid.every]  # the others are computed as well


@torch.library.custom_op("maskrcnn::roi_align", mutates_args=())
def _roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    images: Tensor,
    scales: Sequence[float],
    size: int,
    sampling: int,
    aligned: bool,
) -> Tensor:
    (B, R), C = levels.shape, pyramid[0].shape[1]
    out = pyramid[0].new_empty(B, R, size, size, C)
    maps = tuple(features.permute(0, 2, 3, 1).contiguous() for features in pyramid)
    if out.numel():
        launch, blocks = _launch(B * R, size, C)
        with torch.cuda.device_of(out):
            _forward_kernel[launch](
                maps, _sides(pyramid), tuple(scales), boxes.contiguous(), levels.contiguous(), images.contiguous(), out,
                C, len(maps), size, sampling, aligned, *blocks, enable_fp_fusion=True,
            )  # fmt: skip
    return out.permute(0, 1, 4, 2, 3)


@_roi_align.register_fake
def _(pyramid, boxes, levels, images, scales, size, sampling, aligned):
    out = pyramid[0].new_empty(*levels.shape, size, size, pyramid[0].shape[1])
    return out.permute(0, 1, 4, 2, 3)


@torch.library.custom_op("maskrcnn::roi_align_backward", mutates_args=())
def _roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    levels: Tensor,
    images: Tensor,
    count: int,
    sides: Sequence[int],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradients of the maps of `count` images."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    bins = grad.permute(0, 1, 3, 4, 2).contiguous()
    dtype = grad.dtype if deterministic else torch.float32
    B, R, S, _, C = bins.shape
    maps = [grad.new_zeros(count, H, W, C, dtype=dtype) for H, W in zip(sides[::2], sides[1::2], strict=True)]
    given, numbers = (boxes.contiguous(), levels.contiguous(), images.contiguous()), (S, sampling, aligned)
    with torch.cuda.device_of(grad):
        if bins.numel() and deterministic:
            _add_in_order(maps, bins, *given, scales, numbers)
        elif bins.numel():
            launch, blocks = _launch(B * R, S, C)
            _atomic_backward_kernel[launch](
                tuple(maps), tuple(sides), tuple(scales), *given, bins, C, len(maps), *numbers, *blocks,
                enable_fp_fusion=True,
            )  # fmt: skip
    return [pixels.to(grad.dtype).permute(0, 3, 1, 2) for pixels in maps]


@_roi_align_backward.register_fake
def _(grad, boxes, levels, images, count, sides, scales, sampling, aligned):
    shapes = zip(sides[::2], sides[1::2], strict=True)
    return [grad.new_empty(count, H, W, grad.shape[2]).permute(0, 3, 1, 2) for H, W in shapes]


def _add_in_order(maps, bins, boxes, levels, images, scales, numbers):
    """The same as `_atomic_backward_kernel`, adding the boxes in order at every pixel."""
    B, R = levels.shape
    for level, pixels in enumerate(maps):
        count, H, W, C = pixels.shape
        if pixels.numel():
            columns, channels = min(16, triton.next_power_of_2(W)), min(256, triton.next_power_of_2(C))
            launch = (count * H, triton.cdiv(W, columns), triton.cdiv(C, channels))
            _owning_backward_kernel[launch](
                pixels, bins, boxes, levels, images, level, H, W, *scales[2 * level : 2 * level + 2], B, R, C,
                *numbers, columns, channels, enable_fp_fusion=True,
            )  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pyramid, boxes, levels, images, scales, _, sampling, aligned = inputs
    ctx.save_for_backward(boxes, levels, images)
    ctx.numbers = (len(pyramid[0]), list(_sides(pyramid)), list(scales), sampling, aligned)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grads: list[Tensor | None] = list(_roi_align_backward(grad, *ctx.saved_tensors, *ctx.numbers))
    needed = ctx.needs_input_grad[0]
    return [g if need else None for g, need in zip(grads, needed, strict=True)], *[None] * 7


_roi_align.register_autograd(_differentiate, setup_context=_save)


def _sides(pyramid: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(side for features in pyramid for side in features.shape[2:])


def _launch(boxes: int, size: int, channels: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The number of programs, and the bins and channels of each."""
    block = max(16, min(256, triton.next_power_of_2(channels)))
    bins = min(_TILE // block, triton.next_power_of_2(size * size))
    return (boxes, triton.cdiv(size * size, bins), triton.cdiv(channels, block)), (bins, block)


@triton.jit
def _axis(box_ptr, scale, SIZE: tl.constexpr, SAMPLING: tl.constexpr, ALIGNED: tl.constexpr):
    """Along the axis of a box whose ends are at 0 and 2: start and length of bins in feature pixels; points per bin."""
    start, end = tl.load(box_ptr) * scale, tl.load(box_ptr + 2) * scale
    if ALIGNED:
        start, end = start - 0.5, end - 0.5
    length = end - start
    if not ALIGNED:
        length = tl.maximum(length, 1.0)
    step = tl.math.div_rn(length, tl.full([], SIZE, tl.float32))
    if SAMPLING > 0:
        count = SAMPLING
    else:
        count = tl.where(step > 0, tl.ceil(tl.minimum(step, LARGEST_GRID)), 0.0).to(tl.int32)
    return start, step, count


@triton.jit
def _neighbours(start, step, bins, i, count, side):
    """The two pixels of the i-th point of each bin, and their weights; 0 for a point outside the map."""
    at = start + bins * step + (i + 0.5) * step / count
    real = (at >= -1) & (at <= side)
    at = tl.maximum(tl.where(real, at, 0.0), 0.0)
    low = tl.minimum(at.to(tl.int32), side - 1)
    share = tl.where(low < side - 1, at - low, 0.0)
    weight = tl.where(real, 1.0, 0.0)
    return low, tl.minimum(low + 1, side - 1), (1 - share) * weight, share * weight


@triton.jit
def _lines(map_ptr, y, length, c):
    """Pointers to channels c of line y of a map, in 64 bits: a large map exceeds 32."""
    return map_ptr + (y.to(tl.int64) * length)[:, None] + c[None, :]


@triton.jit
def _tile(C, SIZE: tl.constexpr, BINS: tl.constexpr, CHANNELS: tl.constexpr):
    """The box, the bins and the channels of a program, and which of them exist."""
    bins = tl.program_id(1) * BINS + tl.arange(0, BINS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(0).to(tl.int64), bins, c, (bins < SIZE * SIZE)[:, None] & (c < C)[None, :]


@triton.jit
def _of_level(level, maps, sides, scales, LEVELS: tl.constexpr):
    """The map pointer, height, width and scales (feature pixels per canvas pixel) of a level."""
    map_ptr, H, W, scale_y, scale_x = maps[0], sides[0], sides[1], scales[0], scales[1]
    for k in tl.static_range(1, LEVELS):
        here = level == k
        map_ptr = tl.where(here, maps[k], map_ptr)
        H, W = tl.where(here, sides[2 * k], H), tl.where(here, sides[2 * k + 1], W)
        scale_y, scale_x = tl.where(here, scales[2 * k], scale_y), tl.where(here, scales[2 * k + 1], scale_x)
    return map_ptr, H, W, scale_y, scale_x


@triton.jit
def _forward_kernel(
    maps, sides, scales,  # of each level: pointer to [B, H, W, C]; H, W; feature pixels per canvas pixel, y, x
    boxes_ptr, levels_ptr, images_ptr,  # of each slot, B * R: [4]; -1 if it is empty; the image of the box's map
    out_ptr, C,  # [B * R, SIZE * SIZE, C]
    LEVELS: tl.constexpr, SIZE: tl.constexpr, SAMPLING: tl.constexpr, ALIGNED: tl.constexpr,
    BINS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, bins, c, wanted = _tile(C, SIZE, BINS, CHANNELS)
    level = tl.load(levels_ptr + n)
    sums = tl.zeros((BINS, CHANNELS), tl.float32)
    if level >= 0:
        map_ptr, H, W, scale_y, scale_x = _of_level(level, maps, sides, scales, LEVELS)
        map_ptr += tl.load(images_ptr + n).to(tl.int64) * H * W * C
        start_y, step_y, count_y = _axis(boxes_ptr + n * 4 + 1, scale_y, SIZE, SAMPLING, ALIGNED)
        start_x, step_x, count_x = _axis(boxes_ptr + n * 4, scale_x, SIZE, SAMPLING, ALIGNED)
        for i in range(count_y):
            top, down, at_top, at_down = _neighbours(start_y, step_y, bins // SIZE, i, count_y, H)
            for j in range(count_x):
                left, right, at_left, at_right = _neighbours(start_x, step_x, bins % SIZE, j, count_x, W)
                first, second = _lines(map_ptr, top, W * C, c), _lines(map_ptr, down, W * C, c)
                a = tl.load(first + (left * C)[:, None], mask=wanted, other=0.0).to(tl.float32)
                b = tl.load(first + (right * C)[:, None], mask=wanted, other=0.0).to(tl.float32)
                point = (at_top * at_left)[:, None] * a + (at_top * at_right)[:, None] * b
                a = tl.load(second + (left * C)[:, None], mask=wanted, other=0.0).to(tl.float32)
                b = tl.load(second + (right * C)[:, None], mask=wanted, other=0.0).to(tl.float32)
                point += (at_down * at_left)[:, None] * a
                sums += point + (at_down * at_right)[:, None] * b
        sums = sums / tl.maximum(count_y * count_x, 1)
    out = out_ptr + n * SIZE * SIZE * C + bins[:, None] * C + c[None, :]
    tl.store(out, sums.to(out_ptr.dtype.element_ty), mask=wanted)


@triton.jit
def _atomic_backward_kernel(
    maps, sides, scales, boxes_ptr, levels_ptr, images_ptr, grad_ptr, C,
    LEVELS: tl.constexpr, SIZE: tl.constexpr, SAMPLING: tl.constexpr, ALIGNED: tl.constexpr,
    BINS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Arguments as in `_forward_kernel`; `maps` are the gradients, float32, initially zero."""
    n, bins, c, wanted = _tile(C, SIZE, BINS, CHANNELS)
    level = tl.load(levels_ptr + n)
    if level >= 0:
        map_ptr, H, W, scale_y, scale_x = _of_level(level, maps, sides, scales, LEVELS)
        map_ptr += tl.load(images_ptr + n).to(tl.int64) * H * W * C
        start_y, step_y, count_y = _axis(boxes_ptr + n * 4 + 1, scale_y, SIZE, SAMPLING, ALIGNED)
        start_x, step_x, count_x = _axis(boxes_ptr + n * 4, scale_x, SIZE, SAMPLING, ALIGNED)
        grad = tl.load(grad_ptr + n * SIZE * SIZE * C + bins[:, None] * C + c[None, :], mask=wanted, other=0.0)
        share = grad.to(tl.float32) / tl.maximum(count_y * count_x, 1)
        for i in range(count_y):
            top, down, at_top, at_down = _neighbours(start_y, step_y, bins // SIZE, i, count_y, H)
            for j in range(count_x):
                left, right, at_left, at_right = _neighbours(start_x, step_x, bins % SIZE, j, count_x, W)
                first, second = _lines(map_ptr, top, W * C, c), _lines(map_ptr, down, W * C, c)
                weight = (at_top * at_left)[:, None]
                tl.atomic_add(first + (left * C)[:, None], share * weight, mask=wanted & (weight > 0), sem="relaxed")
                weight = (at_top * at_right)[:, None]
                tl.atomic_add(first + (right * C)[:, None], share * weight, mask=wanted & (weight > 0), sem="relaxed")
                weight = (at_down * at_left)[:, None]
                tl.atomic_add(second + (left * C)[:, None], share * weight, mask=wanted & (weight > 0), sem="relaxed")
                weight = (at_down * at_right)[:, None]
                tl.atomic_add(second + (right * C)[:, None], share * weight, mask=wanted & (weight > 0), sem="relaxed")


@triton.jit
def _reaches(start, step, first, last, SIZE: tl.constexpr):
    """Whether points of the box may contribute to pixels first .. last; one outside the map contributes to its edge."""
    end = start + SIZE * step
    return (tl.minimum(start, end) - 1 <= last) & (tl.maximum(start, end) + 1 >= first)


@triton.jit
def _weight(start, step, bin, count, side, pixels):
    """The weight of one bin of a box at each of `pixels` along an axis."""
    weight = pixels * 0.0
    for i in range(count):
        low, high, at_low, at_high = _neighbours(start, step, bin, i, count, side)
        weight += tl.where(pixels == low, at_low, 0.0) + tl.where(pixels == high, at_high, 0.0)
    return weight


@triton.jit
def _owning_backward_kernel(
    out_ptr, grad_ptr,  # the gradient of one level [count, H, W, C], and that of the bins [B * R, SIZE, SIZE, C]
    boxes_ptr, levels_ptr, images_ptr,  # as in `_forward_kernel`; images b, B + b, 2 B + b, ... in the slots of image b
    level, H, W, scale_y, scale_x, B, R, C,
    SIZE: tl.constexpr, SAMPLING: tl.constexpr, ALIGNED: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    image, y = row // H, (row % H).to(tl.int32)
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    sums = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for r in range(R):
        n = (image % B) * R + r
        if (tl.load(levels_ptr + n) == level) & (tl.load(images_ptr + n) == image):
            start_y, step_y, count_y = _axis(boxes_ptr + n * 4 + 1, scale_y, SIZE, SAMPLING, ALIGNED)
            start_x, step_x, count_x = _axis(boxes_ptr + n * 4, scale_x, SIZE, SAMPLING, ALIGNED)
            left = tl.program_id(1) * COLUMNS
            if _reaches(start_y, step_y, y, y, SIZE) & _reaches(start_x, step_x, left, left + COLUMNS - 1, SIZE):
                for p in range(SIZE):
                    weight_y = _weight(start_y, step_y, p, count_y, H, y) / tl.maximum(count_y * count_x, 1)
                    if weight_y > 0:
                        for q in range(SIZE):
                            weight = weight_y * _weight(start_x, step_x, q, count_x, W, x)
                            bin_ptr = grad_ptr + ((n * SIZE + p) * SIZE + q) * C
                            grad = tl.load(bin_ptr + c, mask=c < C, other=0.0).to(tl.float32)
                            sums += weight[:, None] * grad[None, :]
    out = out_ptr + (row * W + x[:, None]) * C + c[None, :]
    tl.store(out, sums.to(out_ptr.dtype.element_ty), mask=(x < W)[:, None] & (c < C)[None, :])
