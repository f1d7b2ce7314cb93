"""RoIAlign (section 3 of the paper): bilinear samples of a pyramid inside boxes that are never rounded."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .dispatch import which
from .grids import LARGEST_GRID, Grid


def roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B R 4"],
    levels: Int[Tensor, "B R"],
    valid: Bool[Tensor, "B R"],
    *,
    scales: Sequence[tuple[float, float]],
    size: int,
    sampling: int,
    aligned: bool,
    aggregate: str = "average",
    every: int = 1,
    impl: str | None = None,
) -> Float[Tensor, "B R C S S"]:
    """Features of each box, `size` x `size` bins, from the map of the pyramid that `levels` selects.

    Args:
        boxes: xyxy, canvas pixels; they receive no gradient.
        levels: 0..L-1.
        valid: slots that are not valid, or whose level does not exist, give zeros and no gradient.
        scales: feature pixels per canvas pixel of each level, (y, x).
        sampling: points per bin and axis; 0 means one per feature pixel of the bin, rounded up.
        aligned: the centre of pixel i of a map is at i + 0.5; otherwise at i, and boxes are at least one feature pixel
            wide, as in the first implementations.
        aggregate: "average" or "max" of a bin's points; points more than a pixel outside the map count as zeros.
        every: compute only every second (third, ...) row and column of bins, starting with the first:
            S = ceil(size / every).

    The result is stored as [B R S S C]: the channels of a bin are adjacent in memory. Raises ValueError if the maps,
    scales and numbers do not fit together.
    """
    grid = Grid(tuple((float(y), float(x)) for y, x in scales), size, sampling, aligned, every)
    check_call("roi_align", pyramid, grid, aggregate)
    boxes, valid = boxes.detach().float(), valid & (levels >= 0) & (levels < len(pyramid))
    match _choose(pyramid[0], aggregate, impl):
        case "triton":
            from .kernels.roi_align_triton import roi_align_triton as run
        case "numba":
            from .kernels.roi_align_numba import roi_align_numba as run
        case _:
            return roi_align_reference(pyramid, boxes, levels, valid, grid, aggregate)
    return run(pyramid, boxes, levels, valid, grid)


def check_call(name: str, pyramid: Sequence[Tensor], grid: Grid, aggregate: str) -> None:
    """Raises ValueError, which names the operator, if the arguments of an RoI operator do not fit together."""
    if aggregate not in ("average", "max"):
        raise ValueError(f"{name}: aggregate must be 'average' or 'max', not {aggregate!r}")
    if len(pyramid) != len(grid.scales) or not pyramid:
        raise ValueError(f"{name}: {len(pyramid)} maps, but {len(grid.scales)} scales")
    size, sampling, every = grid.size, grid.sampling, grid.every
    if min(size, every) < 1 or sampling < 0:
        raise ValueError(f"{name}: impossible {size=}, {sampling=}, {every=}")
    if len({(features.dtype, features.shape[1]) for features in pyramid}) > 1:
        raise ValueError(f"{name}: the maps of a pyramid must have one dtype and one number of channels")


_KERNEL_DTYPES = {"numba": (torch.float32, torch.bfloat16), "triton": (torch.float32, torch.bfloat16, torch.float16)}

_Points = Callable[[int], list[tuple[Tensor, Tensor]]]


def roi_align_reference(
    pyramid: Sequence[Tensor], boxes: Tensor, levels: Tensor, valid: Tensor, grid: Grid, aggregate: str
) -> Tensor:
    """Defines `roi_align`: the pixels of all levels in one row, four of them gathered for each point."""
    (B, R), C, S = levels.shape, pyramid[0].shape[1], len(grid.bins)
    levels = torch.where(valid, levels, 0)
    boxes = torch.where(valid[..., None], boxes, 0.0)
    pixels, first, heights, row = gather_maps(pyramid, levels)
    dtype = pixels.dtype
    scale_y, scale_x = (of_level(levels, [pair[axis] for pair in grid.scales]) for axis in (0, 1))
    y, bound_y, count_y = _axis(boxes[..., 1] * scale_y, boxes[..., 3] * scale_y, heights, grid)
    x, bound_x, count_x = _axis(boxes[..., 0] * scale_x, boxes[..., 2] * scale_x, row, grid)
    out = torch.zeros(B, R, S, S, C, dtype=dtype, device=boxes.device)
    for i in range(bound_y):
        for j in range(bound_x):
            point = torch.zeros_like(out)
            for at_y, weight_y in y(i):
                for at_x, weight_x in x(j):
                    at = first[..., None, None] + at_y[..., :, None] * row[..., None, None] + at_x[..., None, :]
                    taken = pixels.index_select(0, at.flatten()).view(B, R, S, S, C)
                    point = point + taken * (weight_y[..., :, None] * weight_x[..., None, :])[..., None].to(dtype)
            if aggregate == "average":
                out = out + point
            elif i == j == 0:
                out = point
            else:  # among equal points the first wins, and receives the gradient
                real = ((i < count_y) & (j < count_x))[..., None, None, None]
                out = torch.where(real & (point > out), point, out)
    if aggregate == "average":
        out = out / (count_y * count_x).clamp(min=1)[..., None, None, None].to(dtype)
    out = torch.where(valid[..., None, None, None], out, 0.0)
    return out.to(pyramid[0].dtype).permute(0, 1, 4, 2, 3)


def gather_maps(pyramid: Sequence[Tensor], levels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels of all maps, [pixels C] and at least float32; the first, the height and the width of each box's map.

    The last three are int64 [B R].
    """
    dtype = torch.promote_types(pyramid[0].dtype, torch.float32)  # of the sums, also of the gradient
    pixels = torch.cat([features.permute(0, 2, 3, 1).flatten(1, 2) for features in pyramid], dim=1).to(dtype)
    heights, widths = zip(*(features.shape[2:] for features in pyramid), strict=True)
    starts = [0, *accumulate(height * width for height, width in zip(heights, widths, strict=True))]
    first = of_level(levels, starts[:-1]) + torch.arange(len(levels), device=levels.device)[:, None] * starts[-1]
    return pixels.flatten(0, 1), first, of_level(levels, heights), of_level(levels, widths)


def of_level(levels: Tensor, values: Sequence[float]) -> Tensor:
    """The value of each of `levels` [B R], int64 or float32. No table is indexed: it would be copied from the host."""
    found = torch.full_like(levels, values[0], dtype=torch.float32 if isinstance(values[0], float) else torch.int64)
    for level, value in enumerate(values[1:], 1):
        found = torch.where(levels == level, value, found)
    return found


def _choose(features: Tensor, aggregate: str, impl: str | None) -> str:
    """The kernels compute averages of some dtypes; otherwise the reference runs, and naming a kernel is an error."""
    kernel = impl or ("numba" if features.device.type == "cpu" else "triton")
    known = aggregate == "average" and features.dtype in _KERNEL_DTYPES.get(kernel, ())
    if impl in _KERNEL_DTYPES and not known:
        raise ValueError(f"roi_align: the {impl} kernel has no {aggregate} of {features.dtype}")
    return which("roi_align", features.device, impl if known else impl or "reference")


def _axis(start: Tensor, end: Tensor, sides: Tensor, grid: Grid) -> tuple[_Points, int, Tensor]:
    """Points along one axis, from the boxes' ends in feature pixels [B R] and the sides of their maps [B R].

    Returns `points(i)`, the two pixels [B R S] and weights [B R S] of the i-th point of each bin; the number of i; and
    the number of points of each box [B R]. Points outside the map, and points that a box does not have, get weight 0.
    """
    offset = 0.5 if grid.aligned else 0.0
    start, end = start - offset, end - offset
    length = end - start if grid.aligned else (end - start).clamp(min=1.0)
    step = length / grid.size
    if grid.sampling > 0:
        bound, count = grid.sampling, torch.full_like(step, grid.sampling)
    else:
        count = step.nan_to_num(0.0).clamp(0, LARGEST_GRID).ceil()
        bound = int(count.max()) if count.numel() else 0
    bins = torch.arange(0, grid.size, grid.every, device=start.device, dtype=start.dtype)

    def points(i: int) -> list[tuple[Tensor, Tensor]]:
        at = start[..., None] + bins * step[..., None] + (i + 0.5) * step[..., None] / count[..., None]  # [B R S]
        last = sides[..., None] - 1
        real = (at >= -1) & (at <= sides[..., None]) & (i < count[..., None])
        at = torch.where(real, at, 0.0).clamp(min=0)
        low = at.floor().long().clamp(max=last)
        share = torch.where(low == last, 0.0, at - low)
        weight = real.to(at.dtype)
        return [(low, (1 - share) * weight), (torch.minimum(low + 1, last), share * weight)]

    return points, bound, count
