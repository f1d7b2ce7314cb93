"""Augmentation of an image and its objects: jittered resize, square crop, flips, quarter turns, colour. What comes
before, on the image as annotated, is in `copy_paste.py` and `transform.py`.

`draw_geometry` makes every geometric choice from the image's size alone, before a pixel is read: so the loader knows
the image's canvas, and `augment` reads and resizes only the part of the image that the crop keeps. Section 3.1 of the
paper has the resize and the horizontal flip; the rest helps training from scratch on little data.

A mask is rasterised once, in the original image, as S x S bits over its object's tight box. Everything after that moves
the frame of the bits, not the bits; only a quarter turn also transposes them. A model that learns masks by another
framework's rule gets what that framework would use: bitmaps of canvas pixels, or the polygons.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..canvas import Window, fit, resize
from ..config import AugmentConfig, InputConfig, ModelConfig
from ..ops.rasterize import polygon_box, rasterize_polygons, rasterize_rle, rle_box
from .bitmaps import draw_bitmap, nearest_pixels, windows
from .dataset import Record

MASK_SIDE = 112  # S, of a stored mask
NO_AUGMENTATION = AugmentConfig(horizontal_flip=0.0)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_YIQ = np.array([_LUMINANCE.tolist(), [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # rows of YIQ, from RGB
_SMALLEST = 1.0  # canvas pixels; if a crop leaves less of an object's side, nothing can be learned from it


class Geometry(NamedTuple):
    """How an image is moved: resized, cropped, mirrored, then turned."""

    resized: tuple[int, int]
    scales: tuple[float, float]  # new pixels per original pixel, (y, x)
    window: tuple[int, int, int, int]  # y1, x1, y2, x2 of the crop, in resized pixels
    mirror_x: bool  # left becomes right
    mirror_y: bool
    quarter_turns: int  # counterclockwise

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        y1, x1, y2, x2 = self.window
        return (x2 - x1, y2 - y1) if self.quarter_turns % 2 else (y2 - y1, x2 - x1)

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off."""
        return self.window == (0, 0, *self.resized)

    @property
    def limits(self) -> np.ndarray:
        """(width, height) of the crop before it is turned."""
        y1, x1, y2, x2 = self.window
        return np.array([x2 - x1, y2 - y1], dtype=np.float64)

    def crop(self, points: np.ndarray) -> np.ndarray:
        """Points (x, y), [... 2], of the original image in the pixels of the crop."""
        return points * self.scales[::-1] - [self.window[1], self.window[0]]


class Sample(NamedTuple):
    """An augmented image and its n objects, in its pixels. The frame of a mirrored mask is mirrored."""

    image: np.ndarray  # [h w I], uint8 or float32 as the resize kernel gives it, 0..255
    scales: tuple[float, float]
    boxes: np.ndarray  # float32 [n 4], xyxy
    labels: np.ndarray  # int64 [n]
    ignore: np.ndarray  # bool [n]
    masks: np.ndarray | None  # bool [n S S]; all False if the mask is not known (box only, crowd)
    frames: np.ndarray | None  # float32 [n 4]
    keypoints: np.ndarray | None  # float32 [n J 3]
    outlines: list[list[np.ndarray]] | None = None  # of each object, float64 [m 2]; one that has some has no bits


def draw_geometry(
    rng: np.random.Generator, size: tuple[int, int], config: AugmentConfig, rule: InputConfig
) -> Geometry:
    """The geometric choices for an image of `size`. No setting changes the number of random draws."""
    choice, factor, top, left, across, down = rng.random(6)
    turns = int(rng.integers(4))
    min_size = config.min_sizes[int(choice * len(config.min_sizes))] if config.min_sizes else rule.min_size
    # A crop bounds the canvas by itself: images of a fixed scale keep it, however large they are.
    most = rule.max_size if min_size or not config.crop else max(rule.max_size, math.ceil(rule.zoom * max(size)) + 1)
    resized, scales = fit(*size, replace(rule, min_size=min_size, max_size=most))
    if config.scale != (1.0, 1.0):
        scale = jittered(factor, config)
        if not config.crop:  # nothing else bounds the canvas
            scale = min(scale, max(rule.max_size / max(resized), 1.0))
        resized = max(round(resized[0] * scale), 1), max(round(resized[1] * scale), 1)
        scales = resized[0] / size[0], resized[1] / size[1]
    height, width = resized
    if config.crop:
        height, width = min(height, config.crop), min(width, config.crop)
    y, x = int(top * (resized[0] - height + 1)), int(left * (resized[1] - width + 1))
    return Geometry(
        resized=resized,
        scales=scales,
        window=(y, x, y + height, x + width),
        mirror_x=bool(across < config.horizontal_flip),
        mirror_y=bool(down < config.vertical_flip),
        quarter_turns=turns if config.rotate90 else 0,
    )


def jittered(draw: float, config: AugmentConfig) -> float:
    """The factor of `config.scale` for a random number 0..1."""
    low, high = config.scale
    if config.scale_law == "uniform":
        return low + (high - low) * draw
    return math.exp(math.log(low) + (math.log(high) - math.log(low)) * draw)


def augment(
    image: np.ndarray | Window,
    record: Record,
    rng: np.random.Generator,
    config: AugmentConfig,
    model: ModelConfig,
    *,
    masks: bool = True,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Sample:
    """The image, uint8 [H W I] of the record's size, or what reads windows of it, and its objects, augmented by the
    choices of `rng`. Neither argument is changed.

    An object that the crop cuts gets the tight box of what is left of its mask. If that is less than
    `config.min_visible` of its area, it becomes an ignore region: the network may find it but need not. Boxes that are
    not cut stay exact.

    An object without a mask (box only) keeps its box and gets an all-False mask, which means "not known" and must have
    no mask loss. So does a crowd, which has no mask loss anyway, and an object so thin that it covers no cell's centre.

    Args:
        model: its way from an image to the canvas, the form of the masks that it learns (`MaskHeadConfig.target`), and
            how it counts keypoints (`KeypointHeadConfig.shift`, `BoxArithmetic.inclusive`).
        masks: whether to make masks; otherwise `masks` and `frames` are None.
        flip_pairs: left and right keypoints, exchanged by a mirror; indices into the J keypoints of all categories.
    """
    geometry = draw_geometry(rng, record.size, config, model.input)
    pixels = _jitter(move_pixels(image, record.size, geometry, model.input), rng, config)
    index, boxes, frames, bits, ignore = _see(record, geometry, config.min_visible, masks)
    if config.scale != (1.0, 1.0):  # what the jitter shrinks to less than a pixel cannot be learned
        ignore = ignore | (boxes[:, 2:] - boxes[:, :2] < _SMALLEST).any(axis=1)
    frames, outlines, keypoints = _turn(frames, geometry), None, None
    if bits is not None and model.mask_head.target != "hard":
        bits, frames, outlines = _as_annotated(record, index, geometry, model.mask_head.target)
    elif bits is not None and geometry.quarter_turns % 2:
        bits = bits.swapaxes(1, 2)
    if record.keypoints is not None:
        keypoints = move_keypoints(record.keypoints[index], geometry, flip_pairs, model)
    return Sample(
        image=pixels,
        scales=geometry.scales,
        boxes=_upright(_turn(boxes, geometry)),
        labels=record.labels[index],
        ignore=ignore,
        masks=bits,
        frames=frames if masks else None,
        keypoints=keypoints,
        outlines=outlines,
    )


def move_boxes(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Boxes [n 4] of the original image as `augment` moves them: those in view, cut to it, float32 [m 4], in order."""
    moved = geometry.crop(boxes.reshape(-1, 2, 2)).clip(0, geometry.limits)
    moved = moved[(moved[:, 1] > moved[:, 0]).all(axis=1)].reshape(-1, 4)
    return _upright(_turn(moved, geometry)).astype(np.float32)


def move_pixels(
    image: np.ndarray | Window, whole: tuple[int, int], geometry: Geometry, rule: InputConfig
) -> np.ndarray:
    """Resizes only the part of an image of size `whole` that the crop shows, then mirrors and turns it."""
    y1, x1, y2, x2 = geometry.window
    step_y, step_x = 1 / geometry.scales[0], 1 / geometry.scales[1]
    window = None
    if not geometry.whole:  # rounding must not reach beyond the image
        right, bottom = min(x2 * step_x, whole[1]), min(y2 * step_y, whole[0])
        window = (y1 * step_y, x1 * step_x, bottom, right)
    steps = (step_y, step_x) if rule.resize == "opencv" else None
    pixels = resize(image, (y2 - y1, x2 - x1), rule.resize, steps=steps, window=window, whole=whole)
    pixels = pixels[:, ::-1] if geometry.mirror_x else pixels
    pixels = pixels[::-1] if geometry.mirror_y else pixels
    return np.rot90(pixels, geometry.quarter_turns)


def _jitter(pixels: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Brightness multiplies; contrast scales about the mean grey; saturation scales about each pixel's own grey; hue
    turns colours about the grey axis and keeps their luminance.
    """
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    brightness, contrast, saturation = 1 + strengths * rng.uniform(-1, 1, size=3)
    hue = config.hue * rng.uniform(-1, 1)
    if not strengths.any() and not config.hue:
        return pixels
    values = pixels.astype(np.float32) * np.float32(brightness)
    if config.contrast:
        values = values.mean() + (values - values.mean()) * np.float32(contrast)
    if config.saturation and values.shape[2] == 3:
        grey = values @ _LUMINANCE
        values = grey[..., None] + (values - grey[..., None]) * np.float32(saturation)
    if config.hue and values.shape[2] == 3:
        values = values @ turned_hue(hue).T
    values = values.clip(0, 255)
    return np.rint(values).astype(np.uint8) if pixels.dtype == np.uint8 else values.astype(np.float32)


def turned_hue(turns: float) -> np.ndarray:
    """float32 [3 3], the turn of RGB in the plane of YIQ's two colour axes."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return (np.linalg.inv(_YIQ) @ turn @ _YIQ).astype(np.float32)


def _see(
    record: Record, geometry: Geometry, min_visible: float, masks: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """The objects that the crop shows at least in part: their index in the record, boxes and frames (float32 [n 4], in
    pixels of the crop before mirrors and turns), bits, and whether to ignore them. Those on the border of the crop are
    cut to what their bits show inside.
    """
    limits = geometry.limits
    boxes = geometry.crop(record.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    index = np.flatnonzero(((boxes[:, :2] < limits) & (boxes[:, 2:] > 0)).all(axis=1) | geometry.whole)
    boxes, ignore = boxes[index], record.ignore[index]
    frames, bits = boxes, None
    if masks:
        original, bits = _masks(record, index)
        frames = geometry.crop(original.reshape(-1, 2, 2)).reshape(-1, 4)
    if not geometry.whole:
        low, high = np.minimum(boxes, frames)[:, :2], np.maximum(boxes, frames)[:, 2:]
        cut = np.asarray(((low < 0) | (high > limits)).any(axis=1))
        boxes, share = _cut(boxes, frames, bits, cut, limits)
        ignore = ignore | (share < min_visible)
        left = ~cut | ((share > 0) & (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST).all(axis=1))
        index, boxes, frames, ignore = index[left], boxes[left], frames[left], ignore[left]
        bits = None if bits is None else bits[left]
    return index, boxes.astype(np.float32), frames.astype(np.float32), bits, ignore


def _cut(
    boxes: np.ndarray, frames: np.ndarray, bits: np.ndarray | None, cut: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For objects on the border (`cut`), the box of what is inside 0..limits and its share of the whole; other objects
    are unchanged, with share 1. It is measured on the bits (to a cell, 1/S of the frame), or on the box if there are
    none.
    """
    inner = np.concatenate((boxes[:, :2].clip(0, limits), boxes[:, 2:].clip(0, limits)), axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    share = (inner[:, 2:] - inner[:, :2]).prod(axis=1) / np.maximum(area, 1e-9)
    boxes, share = np.where(cut[:, None], inner, boxes), np.where(cut, share, 1.0)
    if bits is None:
        return boxes, share
    for i in np.flatnonzero(cut & bits.any(axis=(1, 2))):
        edges_x, edges_y = np.linspace(frames[i, :2], frames[i, 2:], MASK_SIDE + 1, axis=1)
        columns, rows = _centres_inside(edges_x, limits[0]), _centres_inside(edges_y, limits[1])
        part = bits[i, rows, columns]
        share[i] = np.count_nonzero(part) / np.count_nonzero(bits[i])
        if share[i]:
            x1, x2 = _extent(np.asarray(part.any(axis=0)), columns, edges_x, limits[0])
            y1, y2 = _extent(np.asarray(part.any(axis=1)), rows, edges_y, limits[1])
            boxes[i] = [x1, y1, x2, y2]
    return boxes, share


def _extent(used: np.ndarray, cells: slice, edges: np.ndarray, limit: float) -> tuple[float, float]:
    """Where the used cells of an axis begin and end: on the border, not on a cell's edge, if the object goes on."""
    indices = np.flatnonzero(used)
    first, last = cells.start + int(indices[0]), cells.start + int(indices[-1]) + 1
    low = 0.0 if first == cells.start > 0 else max(float(edges[first]), 0.0)
    high = limit if last == cells.stop < MASK_SIDE else min(float(edges[last]), limit)
    return low, high


def _centres_inside(edges: np.ndarray, limit: float) -> slice:
    """The cells of an axis whose centres are in 0..limit."""
    centres = (edges[:-1] + edges[1:]) / 2
    return slice(int(np.searchsorted(centres, 0, side="left")), int(np.searchsorted(centres, limit, side="left")))


def _masks(record: Record, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the objects at `index`, the tight boxes of the masks, float64 [n 4] in original pixels, and the bits in them,
    bool [n S S]. An object without a mask, or a crowd, has its own box and no bits.
    """
    frames = record.boxes[index].astype(np.float64)
    bits = np.zeros((len(index), MASK_SIDE, MASK_SIDE), dtype=bool)
    for slot, i in enumerate(index.tolist()):
        segmentation = record.segmentations[i]
        if segmentation is None or record.ignore[i]:
            continue
        if isinstance(segmentation, tuple):
            counts, size = segmentation
            frames[slot] = rle_box(counts, size)
            bits[slot] = rasterize_rle(counts, size, frames[slot], MASK_SIDE)
        else:
            frames[slot] = polygon_box(segmentation)
            bits[slot] = rasterize_polygons(segmentation, frames[slot], MASK_SIDE)
    return frames, bits


def _as_annotated(
    record: Record, index: np.ndarray, geometry: Geometry, rule: str
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]] | None]:
    """Bits and frames as `bitmaps.windows` gives them; with the rule "polygon" also outlines, instead of their bits."""
    found = [None if record.ignore[i] else record.segmentations[i] for i in index.tolist()]
    outlines = None
    if rule == "polygon":
        polygons = [segmentation if isinstance(segmentation, list) else [] for segmentation in found]
        outlines = [[_turn_points(geometry.crop(part), geometry) for part in parts] for parts in polygons]
        found = [None if isinstance(segmentation, list) else segmentation for segmentation in found]
    rows, columns = shown_pixels(record.size, geometry, centred=rule == "polygon")
    bitmaps = [draw_bitmap(segmentation, record.size) for segmentation in found]
    if geometry.quarter_turns % 2:
        bitmaps = [bitmap.T for bitmap in bitmaps]
    bits, frames = windows(bitmaps, rows, columns)
    return bits, frames, outlines


def shown_pixels(size: tuple[int, int], geometry: Geometry, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of an image of `size` that each row and column of the result shows, see `nearest_pixels`;
    those of the transposed image after an odd number of quarter turns.
    """
    y1, x1, y2, x2 = geometry.window
    rows, columns = (
        nearest_pixels(before, after, centred=centred) for before, after in zip(size, geometry.resized, strict=True)
    )
    rows, columns = rows[y1:y2], columns[x1:x2]
    rows = rows[::-1] if geometry.mirror_y else rows
    columns = columns[::-1] if geometry.mirror_x else columns
    for _ in range(geometry.quarter_turns):
        rows, columns = columns[::-1], rows
    return rows, columns


def _turn(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Mirrors and turns [n 4] corner by corner. The first corner stays the first, so frames come out mirrored."""
    return _turn_points(boxes.reshape(-1, 2, 2), geometry).reshape(-1, 4)


def _upright(boxes: np.ndarray) -> np.ndarray:
    """Boxes [n 4] with the first corner at the upper left."""
    return np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), axis=1)


def _turn_points(points: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Mirrors and turns (x, y), [... 2]."""
    (width, height), x, y = geometry.limits.tolist(), points[..., 0], points[..., 1]
    x = width - x if geometry.mirror_x else x
    y = height - y if geometry.mirror_y else y
    for _ in range(geometry.quarter_turns):
        x, y, width, height = y, width - x, height, width
    return np.stack((x, y), axis=-1)


def move_keypoints(
    keypoints: np.ndarray, geometry: Geometry, flip_pairs: Sequence[tuple[int, int]], model: ModelConfig
) -> np.ndarray:
    """Keypoints outside the crop become unlabelled (0, 0, 0). One mirror exchanges left and right, two do not.

    Annotated keypoints are pixel indices; a shift of 0.5 makes them positions. Inclusive ones are mirrored and turned
    as indices even without a shift: x to W - x - 1 (Detectron; torchvision W - x).
    """
    shift = model.keypoint_head.shift
    points = geometry.crop(keypoints[..., :2] + shift)
    labelled = (keypoints[..., 2] > 0) & (points >= 0).all(-1) & (points <= geometry.limits).all(-1)
    aside = np.array(geometry.scales[::-1]) * ((0.5 - shift) if model.box_arithmetic.inclusive else 0.0)
    turned = _turn_points(points + aside, geometry) - (aside[::-1] if geometry.quarter_turns % 2 else aside)
    moved = np.concatenate((turned, keypoints[..., 2:]), axis=-1)
    moved = np.where(labelled[..., None], moved, 0).astype(np.float32)
    if geometry.mirror_x != geometry.mirror_y and len(flip_pairs):
        left, right = np.array(flip_pairs).T
        moved[:, np.r_[left, right]] = moved[:, np.r_[right, left]]
    return moved
