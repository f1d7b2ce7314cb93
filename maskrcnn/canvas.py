"""Resizes images and pads them to a canvas, and maps boxes and keypoints between the canvas and the image.

An image is resized (section 3.1: the shorter side to 800) and placed in the top left corner of a canvas; the rest is
zero. Both sizes depend only on the size of the image. Arrays are [height width channels], sizes (height, width), boxes
xyxy in continuous pixels: pixel i covers [i, i + 1), so positions are scaled without an offset. The numbers come from
`InputConfig`, whose fields have the same names here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .config import ONE_VIEW, TTA, InputConfig
from .errors import ConfigError
from .images import ImageSource, Page
from .ops.boxes import to_image
from .ops.grids import Axis
from .ops.interpolate import interpolate
from .structures import Images

STRIDE = 32  # of P5, the coarsest map that has to fit the canvas exactly

Window: TypeAlias = Callable[[int, int, int, int], np.ndarray]  # (top, left, bottom, right) of an image: uint8 [h w I]


class Fit(NamedTuple):
    """The size of a resized image, and its pixels per original pixel, (y, x)."""

    size: tuple[int, int]
    scales: tuple[float, float]


def fit(height: int, width: int, rule: InputConfig) -> Fit:
    """How an image is resized: the shorter side to `min_size`, or the longer side to `max_size` if that is smaller.

    `min_size` 0 keeps the size of the image, times `zoom`, up to `max_size`. `size_rounding` is `half_up` (Detectron2),
    `half_even` (Detectron, which has one scale for both axes) or `floor` (torchvision, whose product may be 799.99...).
    Each repeats the framework's own sequence of float64 operations, because the last bit can change the size.
    """
    min_size, max_size, zoom = rule.min_size, rule.max_size, rule.zoom
    shorter, longer = min(height, width), max(height, width)
    if min_size == 0 and zoom == 1 and longer <= max_size:
        return Fit((height, width), (1.0, 1.0))
    scale = min_size / shorter if min_size else zoom
    match rule.size_rounding:
        case "half_up":
            short, long = float(min_size or scale * shorter), scale * longer
            if long > max_size:
                scale = max_size / long
                short, long = short * scale, long * scale
            new_short, new_long = int(short + 0.5), int(long + 0.5)
            new_height, new_width = (new_short, new_long) if height < width else (new_long, new_short)
        case "floor":
            scale = min(scale, max_size / longer)
            new_height, new_width = math.floor(height * scale), math.floor(width * scale)
        case "half_even":
            if round(scale * longer) > max_size:
                scale = max_size / longer
            size = max(round(height * scale), 1), max(round(width * scale), 1)
            return Fit(size, (scale, scale))
        case _:
            raise ValueError(f"size_rounding must be half_up, floor or half_even, not {rule.size_rounding!r}")
    size = max(new_height, 1), max(new_width, 1)
    return Fit(size, (size[0] / height, size[1] / width))


def chosen_page(page: int | None, max_project: bool, rule: InputConfig) -> Page:
    """Which page of stacks is seen: what the user says, else what the model was trained on. Raises `ConfigError`."""
    if page is not None and (max_project or page < 1):
        raise ConfigError(f"page counts from 1 and excludes max_project; it is {page}")
    return "max" if max_project else page or rule.page or None


def window_of(image: np.ndarray | ImageSource, rule: InputConfig) -> Window:
    """The windows of an image: an array as the model reads it, or an open file."""
    if isinstance(image, np.ndarray):
        return lambda top, left, bottom, right: image[top:bottom, left:right]
    return lambda *box: image.read(channels=rule.channels, ranges=rule.range, box=box)


def resize(
    image: np.ndarray | Window,
    size: tuple[int, int],
    kernel: str,
    *,
    steps: tuple[float, float] | None = None,
    window: tuple[float, float, float, float] | None = None,
    whole: tuple[int, int] = (0, 0),
    out: np.ndarray | None = None,
) -> np.ndarray:
    """An image [H W C], or the part of it in `window`, as [h w C] of `size`.

    Args:
        image: an array, or what reads windows of it. No more is read than is needed.
        kernel: `pillow` takes and returns uint8, and averages if it shrinks; `float` and `opencv` interpolate between
            four neighbours, at half-pixel centres, and return float32.
        steps: original pixels per new pixel, (y, x); by default the quotient of the sizes. `opencv` in Detectron takes
            steps of exactly 1 / scale. `pillow` supports the default only.
        window: (y1, x1, y2, x2) in pixels of the image. Pixels beyond it still influence its border, so the result is
            the same as cutting the resized image, at the cost of the window only.
        whole: (H, W), if `image` is no array.
        out: where to write the result. Without it, `image` itself may be returned.
    """
    whole = (image.shape[0], image.shape[1]) if isinstance(image, np.ndarray) else whole
    y1, x1, y2, x2 = window or (0.0, 0.0, *map(float, whole))
    step_y, step_x = steps or ((y2 - y1) / size[0], (x2 - x1) / size[1])
    top, bottom = _reach(y1, y2, step_y, whole[0])
    left, right = _reach(x1, x2, step_x, whole[1])
    if not isinstance(image, np.ndarray):
        array = image(top, left, bottom, right)
    else:
        array = image if (bottom - top, right - left) == whole else image[top:bottom, left:right]
    if kernel == "pillow":
        # Pillow rounds to float32, which must happen before the corner is taken off: then nothing else is rounded.
        box = (float(np.float32(side)) - corner for side, corner in zip((x1, y1, x2, y2), (left, top) * 2, strict=True))
        found = _resize_pillow(array, size, tuple(box))
        if out is None:
            return found
        out[...] = found
        return out
    if kernel not in ("float", "opencv"):
        raise ValueError(f"the resize kernel must be pillow, float or opencv, not {kernel!r}")
    if kernel == "float":  # PyTorch's step is a float32, OpenCV's a float64
        step_y, step_x = float(np.float32(step_y)), float(np.float32(step_x))
    rows, columns = _axis(y1, step_y, size[0], whole[0], top), _axis(x1, step_x, size[1], whole[1], left)
    return interpolate(array, rows, columns, out=out)


def _reach(low: float, high: float, step: float, length: int) -> tuple[int, int]:
    """From which pixel to which one an axis is read. Kernels see as far as a step, at least a pixel; one more for
    rounding."""
    margin = math.ceil(max(step, 1.0)) + 1
    return max(math.floor(low) - margin, 0), min(math.ceil(high) + margin, length)


def _resize_pillow(array: np.ndarray, size: tuple[int, int], box: Any) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"the pillow kernel takes uint8 only; the array is {array.dtype}")
    whole = box == (0.0, 0.0, float(array.shape[1]), float(array.shape[0]))
    if whole and array.shape[:2] == tuple(size):
        return array
    shape = size[1], size[0]
    if array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(shape, Image.Resampling.BILINEAR, box=box))
    planes = [  # one by one: Pillow would treat four channels as colour and alpha, and premultiply them
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(shape, Image.Resampling.BILINEAR, box=box))
        for plane in np.moveaxis(array, 2, 0)
    ]
    return np.stack(planes, axis=2)


def _axis(start: float, step: float, size: int, available: int, first: int) -> Axis:
    """Where to read among pixels of which the first has number `first`. Centres are rounded to float32 once, as in
    PyTorch and OpenCV."""
    centres = (start + (np.arange(size) + 0.5) * step - 0.5).astype(np.float32).clip(0, available - 1)
    lower = np.floor(centres).astype(np.intp)
    upper = np.minimum(lower + 1, available - 1)
    return Axis(lower - first, upper - first, (centres - lower).astype(np.float32))


def canvas_size(size: tuple[int, int], policy: str, *, min_size: int = 0, max_size: int = 0) -> tuple[int, int]:
    """The canvas (height, width) of a resized image.

    `exact` is the size itself. `multiple-of-32` is the smallest canvas that the pyramid divides. `buckets` gives few
    sizes: a side is rounded up to the next sixth of `min_size` (800 x 1067 to 800 x 1088, 800 x 1333 to 800 x 1344) or,
    if images keep their own size, to the next quarter of a power of two; both up to the next multiple of 32.
    """
    if policy == "exact":
        return size
    if policy == "multiple-of-32":
        return _up(size[0]), _up(size[1])
    if policy == "buckets":
        return _bucket(size[0], min_size, max_size), _bucket(size[1], min_size, max_size)
    raise ValueError(f"the canvas must be multiple-of-32, buckets or exact, not {policy!r}")


def _up(side: float) -> int:
    return max(math.ceil(side / STRIDE), 1) * STRIDE


def _bucket(side: int, min_size: int, max_size: int) -> int:
    unit = min_size / 6 if min_size else 2 ** math.floor(math.log2(side)) / 4
    units = math.floor(side / unit)
    bucket = _up(units * unit) if side <= _up(units * unit) else _up((units + 1) * unit)
    return min(bucket, _up(max_size)) if side <= max_size else bucket


def to_images(
    images: Sequence[np.ndarray],
    original_sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    canvas: tuple[int, int],
    scales: Sequence[tuple[float, float]],
) -> Images:
    """A batch of resized images [h w I] on a canvas, stored channels last. ValueError if one does not fit."""
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    batch = np.zeros((len(images), *canvas, images[0].shape[2]), dtype=images[0].dtype)
    for b, image in enumerate(images):
        batch[b, : sizes[b][0], : sizes[b][1]] = image
    return _images(batch, sizes, original_sizes, seeds, scales)


def _images(
    batch: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    scales: Sequence[tuple[float, float]],
) -> Images:
    """`batch` [B H W I] holds the canvases with the images on them."""
    return Images(
        pixels=torch.from_numpy(batch).permute(0, 3, 1, 2),
        sizes=torch.tensor(sizes, dtype=torch.int64),
        original_sizes=torch.tensor(original_sizes, dtype=torch.int64),
        scales=torch.tensor(scales, dtype=torch.float64).float(),
        seeds=torch.tensor(seeds, dtype=torch.int64),
    )


def prepare_image(array: np.ndarray, rule: InputConfig) -> Images:
    """One image, uint8 [h w I], as a batch of one on its canvas. `join` makes larger batches."""
    height, width = array.shape[:2]
    size, scales = fit(height, width, rule)
    steps = (1 / scales[0], 1 / scales[1]) if rule.resize == "opencv" else None
    canvas = canvas_size(size, rule.canvas, min_size=rule.min_size, max_size=rule.max_size)
    batch = np.zeros((1, *canvas, array.shape[2]), np.uint8 if rule.resize == "pillow" else np.float32)
    resize(array, size, rule.resize, steps=steps, out=batch[0, : size[0], : size[1]])
    return _images(batch, [size], [(height, width)], [0], [scales])


def prepare_views(array: np.ndarray, rule: InputConfig, views: TTA = ONE_VIEW) -> Images:
    """One image, resized by `rule` at each of the views' scales; with `flip`, then also mirrored at each scale.

    The first view is the batch itself, the others are its `views`. The image is mirrored before it is resized: with
    `opencv` in Detectron the last pixel of a resized image may begin beyond the image, so mirroring afterwards would
    shift it.
    """
    arrays = (array, np.ascontiguousarray(array[:, ::-1])) if views.flip else (array,)
    rules = [
        replace(
            rule,
            min_size=max(round(rule.min_size * scale), 1) if rule.min_size else 0,
            max_size=max(round(rule.max_size * scale), 1),
            zoom=rule.zoom * scale,
        )
        for scale in views.scales
    ]
    first, *others = (prepare_image(image, resized) for image in arrays for resized in rules)
    return first._replace(views=tuple(others))


def join(batches: Sequence[Images]) -> Images:
    """Joins batches that have the same canvas into one, and their views likewise."""
    tensors = (torch.cat(fields) for fields in zip(*(batch[:-1] for batch in batches), strict=True))
    return Images(*tensors, views=tuple(join(views) for views in zip(*(batch.views for batch in batches), strict=True)))


def boxes_to_image(boxes: Float[Tensor, "B N 4"], images: Images, *, inclusive: bool = False) -> Float[Tensor, "B N 4"]:
    """Canvas boxes in pixels of the original images, clipped to them."""
    limits = images.original_sizes.flip(1).repeat(1, 2)[:, None].to(boxes)
    return to_image(boxes, images.scales, inclusive).clamp(min=0).minimum(limits)


def keypoints_to_image(keypoints: Float[Tensor, "B N J 3"], images: Images) -> Float[Tensor, "B N J 3"]:
    """Canvas keypoints (x, y, score) in pixels of the original images."""
    scales = images.scales.flip(1)[:, None, None].to(keypoints)
    return torch.cat((keypoints[..., :2] / scales, keypoints[..., 2:]), dim=-1)
