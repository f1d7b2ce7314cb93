"""From an image to its canvas, and with boxes and keypoints there and back again.

An image is resized (section 3.1: the shorter side to 800) and laid on a canvas, top left, zeros right and below it.
Both sizes are functions of the image's size alone. Arrays are [height width channels], sizes (height, width), boxes
xyxy in continuous pixels: pixel i covers [i, i + 1), so positions scale without an offset. The numbers come from
`InputConfig`; its fields have the same names here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .config import InputConfig
from .ops.grids import Axis
from .ops.interpolate import interpolate
from .structures import Images

STRIDE = 32  # of the coarsest map that a canvas must divide into (P5)


class Fit(NamedTuple):
    """The size of a resized image, and its pixels per original pixel, (y, x)."""

    size: tuple[int, int]
    scales: tuple[float, float]


def fit(
    height: int, width: int, *, min_size: int, max_size: int, size_rounding: str = "half_up", zoom: float = 1.0
) -> Fit:
    """How an image is resized: the shorter side to `min_size`, or the longer to `max_size` where that is less.

    `min_size` 0 keeps the image's own size, times `zoom`, up to `max_size`. `size_rounding` is `half_up`
    (Detectron2), `half_even` (Detectron, which has one scale for both axes) or `floor` (torchvision, whose floor meets
    products of 799.99...). Each is the framework's own sequence of float64 operations, because the last bit decides.
    """
    shorter, longer = min(height, width), max(height, width)
    if min_size == 0 and zoom == 1 and longer <= max_size:
        return Fit((height, width), (1.0, 1.0))
    match size_rounding:
        case "half_up":
            scale = min_size / shorter if min_size else zoom
            short, long = float(min_size or scale * shorter), scale * longer
            if long > max_size:
                scale = max_size / long
                short, long = short * scale, long * scale
            new_short, new_long = int(short + 0.5), int(long + 0.5)
            new_height, new_width = (new_short, new_long) if height < width else (new_long, new_short)
        case "floor":
            scale = min(min_size / shorter if min_size else zoom, max_size / longer)
            new_height, new_width = math.floor(height * scale), math.floor(width * scale)
        case "half_even":
            scale = min_size / shorter if min_size else zoom
            if round(scale * longer) > max_size:
                scale = max_size / longer
            size = max(round(height * scale), 1), max(round(width * scale), 1)
            return Fit(size, (scale, scale))
        case _:
            raise ValueError(f"size_rounding is half_up, floor or half_even; it is {size_rounding!r}")
    size = max(new_height, 1), max(new_width, 1)
    return Fit(size, (size[0] / height, size[1] / width))


def resized_size(
    height: int, width: int, *, min_size: int, max_size: int, size_rounding: str = "half_up", zoom: float = 1.0
) -> tuple[int, int]:
    """The (height, width) that an image is resized to; see `fit`."""
    return fit(height, width, min_size=min_size, max_size=max_size, size_rounding=size_rounding, zoom=zoom).size


def resize(
    array: np.ndarray,
    size: tuple[int, int],
    kernel: str,
    *,
    steps: tuple[float, float] | None = None,
    window: tuple[float, float, float, float] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`array` [H W C], or the part of it in `window`, as [h w C] of `size`.

    Args:
        kernel: `pillow` takes uint8 to uint8 and averages what it shrinks; `float` and `opencv` interpolate four
            neighbours, at half-pixel centres, and give float32.
        steps: original pixels per new pixel, (y, x); default the quotient of the sizes. `opencv` in Detectron steps
            exactly 1 / scale. `pillow` knows no other than the default.
        window: (y1, x1, y2, x2) in pixels of `array`. What lies beyond it still counts for its rim, so a window gives
            what cutting the resized image would give, and costs the window only.
        out: where the answer goes; `array` itself may be the answer where there is none.
    """
    y1, x1, y2, x2 = window or (0.0, 0.0, float(array.shape[0]), float(array.shape[1]))
    if kernel == "pillow":
        found = _resize_pillow(array, size, (x1, y1, x2, y2))
        if out is None:
            return found
        out[...] = found
        return out
    if kernel not in ("float", "opencv"):
        raise ValueError(f"the resize kernel is pillow, float or opencv; it is {kernel!r}")
    step_y, step_x = steps or ((y2 - y1) / size[0], (x2 - x1) / size[1])
    if kernel == "float":  # PyTorch's step is a float32, OpenCV's a float64
        step_y, step_x = float(np.float32(step_y)), float(np.float32(step_x))
    rows, columns = _axis(y1, step_y, size[0], array.shape[0]), _axis(x1, step_x, size[1], array.shape[1])
    return interpolate(array, rows, columns, out=out)


def _resize_pillow(array: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"the pillow kernel rounds to uint8 and takes nothing else; the array is {array.dtype}")
    whole = box == (0.0, 0.0, float(array.shape[1]), float(array.shape[0]))
    if whole and array.shape[:2] == tuple(size):
        return array
    shape = size[1], size[0]
    if array.shape[2] == 3:
        return np.asarray(Image.fromarray(array).resize(shape, Image.Resampling.BILINEAR, box=box))
    planes = [  # one by one: Pillow would take four channels for colour and alpha, and multiply them
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(shape, Image.Resampling.BILINEAR, box=box))
        for plane in np.moveaxis(array, 2, 0)
    ]
    return np.stack(planes, axis=2)


def _axis(start: float, step: float, size: int, available: int) -> Axis:
    """As PyTorch and OpenCV round it: the centres to float32, once."""
    centres = (start + (np.arange(size) + 0.5) * step - 0.5).astype(np.float32).clip(0, available - 1)
    lower = np.floor(centres).astype(np.intp)
    return Axis(lower, np.minimum(lower + 1, available - 1), (centres - lower).astype(np.float32))


def canvas_size(size: tuple[int, int], policy: str, *, min_size: int = 0, max_size: int = 0) -> tuple[int, int]:
    """The canvas (height, width) of a resized image.

    `exact` is the size itself. `multiple-of-32` is the least one that the pyramid divides. `buckets` are few: a side
    goes up to the next sixth of `min_size` (800 x 1067 to 800 x 1088, 800 x 1333 to 800 x 1344); or, where images
    keep their own size, to the next quarter above a power of two.
    """
    match policy:
        case "exact":
            return size
        case "multiple-of-32":
            return _up(size[0]), _up(size[1])
        case "buckets":
            return _bucket(size[0], min_size, max_size), _bucket(size[1], min_size, max_size)
        case _:
            raise ValueError(f"the canvas is multiple-of-32, buckets or exact; it is {policy!r}")


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
    policy: str = "multiple-of-32",
    *,
    canvas: tuple[int, int] | None = None,
    scales: Sequence[tuple[float, float]] | None = None,
) -> Images:
    """Resized images [h w I] of one canvas as a batch, in memory channels last. Raises ValueError where canvases
    differ.

    `canvas` overrides the policy (a crop's canvas, a bucket). `scales` are the quotients of the sizes unless given.
    """
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    canvases = {canvas} if canvas else {canvas_size(size, policy) for size in sizes}
    if len(canvases) != 1:
        raise ValueError(f"a batch has one canvas; these images need {sorted(canvases)}")
    (chosen,) = canvases
    batch = np.zeros((len(images), *chosen, images[0].shape[2]), dtype=images[0].dtype)
    for b, image in enumerate(images):
        batch[b, : sizes[b][0], : sizes[b][1]] = image
    return _images(batch, sizes, original_sizes, seeds, scales)


def _images(
    batch: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    scales: Sequence[tuple[float, float]] | None,
) -> Images:
    """From the canvases [B H W I] with their images on them."""
    original = torch.tensor(original_sizes, dtype=torch.int64)
    quotients = torch.tensor(sizes, dtype=torch.float64) / original
    return Images(
        pixels=torch.from_numpy(batch).permute(0, 3, 1, 2),
        sizes=torch.tensor(sizes, dtype=torch.int64),
        original_sizes=original,
        scales=(torch.tensor(scales, dtype=torch.float64) if scales else quotients).float(),
        seeds=torch.tensor(seeds, dtype=torch.int64),
    )


def prepare_image(
    array: np.ndarray,
    *,
    min_size: int,
    max_size: int,
    resize: str = "pillow",
    size_rounding: str = "half_up",
    canvas: str = "multiple-of-32",
    zoom: float = 1.0,
    seed: int = 0,
) -> Images:
    """One image, uint8 [h w I], as a batch of one on its canvas. `join` makes larger ones.

    The other keywords are the fields of `InputConfig`; see `fit`, `resize` and `canvas_size`.
    """
    height, width = array.shape[:2]
    size, scales = fit(height, width, min_size=min_size, max_size=max_size, size_rounding=size_rounding, zoom=zoom)
    steps = (1 / scales[0], 1 / scales[1]) if resize == "opencv" else None
    on = canvas_size(size, canvas, min_size=min_size, max_size=max_size)
    batch = np.zeros((1, *on, array.shape[2]), np.uint8 if resize == "pillow" else np.float32)
    _resize(array, size, resize, steps=steps, out=batch[0, : size[0], : size[1]])
    return _images(batch, [size], [(height, width)], [seed], [scales])


def prepare_views(
    array: np.ndarray, rule: InputConfig, scales: Sequence[float] = (1.0,), *, flip: bool = False
) -> tuple[Images, ...]:
    """One image as `rule` has it, at each of `scales` times that size; with `flip` then all of these mirrored.

    Mirrored is what is resized: `opencv` in Detectron may begin a resized image's last pixel beyond the image, and
    a mirror laid afterwards would stand that much aside.
    """
    images = (array, np.ascontiguousarray(array[:, ::-1])) if flip else (array,)
    return tuple(
        prepare_image(
            image,
            min_size=max(round(rule.min_size * scale), 1) if rule.min_size else 0,
            max_size=max(round(rule.max_size * scale), 1),
            zoom=rule.zoom * scale,
            resize=rule.resize,
            size_rounding=rule.size_rounding,
            canvas=rule.canvas,
        )
        for image in images
        for scale in scales
    )


_resize = resize  # in `prepare_image` the name is the configuration's


def join(batches: Sequence[Images]) -> Images:
    """Several batches of one canvas as one, their views too."""
    *fields, views = zip(*batches, strict=True)
    return Images(*map(torch.cat, fields), views=tuple(join(view) for view in zip(*views, strict=True)))


def boxes_to_image(boxes: Float[Tensor, "B N 4"], images: Images) -> Float[Tensor, "B N 4"]:
    """Canvas boxes in pixels of the original images, cut to them."""
    limits = images.original_sizes.flip(1).repeat(1, 2)[:, None].to(boxes)
    return (boxes / _xyxy_scales(images, boxes)).clamp(min=0).minimum(limits)


def boxes_to_canvas(boxes: Float[Tensor, "B N 4"], images: Images) -> Float[Tensor, "B N 4"]:
    """Boxes of the original images on the canvas."""
    return boxes * _xyxy_scales(images, boxes)


def keypoints_to_image(keypoints: Float[Tensor, "B N J 3"], images: Images) -> Float[Tensor, "B N J 3"]:
    """Keypoints (x, y, score) of the canvas in pixels of the original images."""
    scales = images.scales.flip(1)[:, None, None].to(keypoints)
    return torch.cat((keypoints[..., :2] / scales, keypoints[..., 2:]), dim=-1)


def keypoints_to_canvas(keypoints: Float[Tensor, "B N J 3"], images: Images) -> Float[Tensor, "B N J 3"]:
    """Keypoints (x, y, v) of the original images on the canvas."""
    scales = images.scales.flip(1)[:, None, None].to(keypoints)
    return torch.cat((keypoints[..., :2] * scales, keypoints[..., 2:]), dim=-1)


def _xyxy_scales(images: Images, like: Tensor) -> Tensor:
    """[B 1 4]."""
    return images.scales.flip(1).repeat(1, 2)[:, None].to(like)
