"""Simple copy-paste (arXiv 2012.07177): a random part of another image's objects is pasted into an image.

It happens in the pixels of the image as annotated, so every later step and every form of masks sees an ordinary image.
What is pasted was jittered, mirrored and turned on its own, as the settings say. Objects below it lose their hidden
pixels; those that are wholly hidden are removed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..canvas import Window, fit
from ..config import AugmentConfig, ModelConfig
from .augment import Geometry, jittered, move_keypoints, move_pixels, shown_pixels
from .bitmaps import counts_of_window, draw_window, trimmed
from .dataset import Record, Segmentation


def copy_paste(
    image: np.ndarray,
    record: Record,
    other_image: np.ndarray | Window,
    other: Record,
    rng: np.random.Generator,
    config: AugmentConfig,
    model: ModelConfig,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, Record]:
    """`image` with each object of `other` pasted by a chance of one half, at least one; and its record.

    Only objects with a mask, of which at least `config.min_visible` comes to lie in the image, are pasted. An object
    that is hidden to more than that becomes an ignore region, as at the border of a crop. Neither argument is changed.
    """
    geometry, (top, left) = _place(record.size, other.size, rng, config, model)
    chosen = rng.random(len(other.labels)) < 0.5
    candidates = [i for i in range(len(other.labels)) if other.segmentations[i] is not None and not other.ignore[i]]
    if candidates and not chosen[candidates].any():
        chosen[candidates[int(rng.integers(len(candidates)))]] = True
    parts = _moved_parts(other, [i for i in candidates if chosen[i]], geometry, config.min_visible)
    if not parts:
        return image, record
    height, width = geometry.size
    cover = np.zeros(record.size, dtype=bool)
    for part in parts:
        cover[part.within(top, left)] |= part.bits
    pasted, window = image.copy(), (slice(top, top + height), slice(left, left + width))
    pixels = move_pixels(other_image, other.size, geometry, model.input).astype(image.dtype)
    pasted[window][cover[window]] = pixels[cover[window]]
    below = _hide(record, cover, config.min_visible)
    return pasted, _joined(below, _record_of(other, parts, record.size, geometry, (top, left), flip_pairs, model))


class _Part(NamedTuple):
    """What is in view of object `index`: the window of its mask, and its place in the moved image."""

    index: int
    bits: np.ndarray  # bool [h w]
    row: int
    column: int

    def within(self, top: int, left: int) -> tuple[slice, slice]:
        """Its place in an image in which the moved image has its corner at (top, left)."""
        y, x = top + self.row, left + self.column
        return slice(y, y + self.bits.shape[0]), slice(x, x + self.bits.shape[1])


def _place(
    size: tuple[int, int],
    other: tuple[int, int],
    rng: np.random.Generator,
    config: AugmentConfig,
    model: ModelConfig,
) -> tuple[Geometry, tuple[int, int]]:
    """How the other image is moved, and where its upper left corner comes to lie. The number of draws is fixed."""
    factor, top, left, down, right, across, upside = rng.random(7)
    turns = int(rng.integers(4)) if config.rotate90 else 0
    scale = fit(*other, model.input).scales[0] / fit(*size, model.input).scales[0] * jittered(factor, config)
    resized = max(round(other[0] * scale), 1), max(round(other[1] * scale), 1)
    room = size[::-1] if turns % 2 else size
    height, width = min(resized[0], room[0]), min(resized[1], room[1])
    y, x = int(top * (resized[0] - height + 1)), int(left * (resized[1] - width + 1))
    geometry = Geometry(
        resized=resized,
        scales=(resized[0] / other[0], resized[1] / other[1]),
        window=(y, x, y + height, x + width),
        mirror_x=bool(across < config.horizontal_flip),
        mirror_y=bool(upside < config.vertical_flip),
        quarter_turns=turns,
    )
    height, width = geometry.size
    return geometry, (int(down * (size[0] - height + 1)), int(right * (size[1] - width + 1)))


def _moved_parts(other: Record, chosen: list[int], geometry: Geometry, min_visible: float) -> list[_Part]:
    """Those of the chosen objects of which enough is in view."""
    rows, columns = shown_pixels(other.size, geometry, centred=True)
    parts = []
    for i in chosen:
        bits, (row, column) = draw_window(other.segmentations[i], other.size)
        whole = np.count_nonzero(bits) * geometry.scales[0] * geometry.scales[1]
        if geometry.quarter_turns % 2:
            bits, row, column = bits.T, column, row
        ys = np.flatnonzero((rows >= row) & (rows < row + bits.shape[0]))
        xs = np.flatnonzero((columns >= column) & (columns < column + bits.shape[1]))
        moved = bits[np.ix_(rows[ys] - row, columns[xs] - column)]
        visible = np.count_nonzero(moved)
        if visible and visible >= min_visible * whole:
            parts.append(_Part(i, moved, int(ys[0]), int(xs[0])))
    return parts


def _hide(record: Record, cover: np.ndarray, min_visible: float) -> Record:
    """The record of what is not covered: masks as run lengths and tight boxes where something is."""
    boxes, ignore, areas = record.boxes.copy(), record.ignore.copy(), record.areas.copy()
    segmentations: list[Segmentation] = list(record.segmentations)
    keep = np.ones(len(boxes), dtype=bool)
    for i, segmentation in enumerate(record.segmentations):
        x1, y1, x2, y2 = boxes[i].astype(int).clip(0).tolist()
        covered = cover[y1 : y2 + 1, x1 : x2 + 1]
        if record.ignore[i] or not covered.any():
            continue
        if segmentation is None:  # what is left of it is not known
            ignore[i] = covered.mean() > 0.5
            continue
        bits, (row, column) = draw_window(segmentation, record.size)
        window = (slice(row, row + bits.shape[0]), slice(column, column + bits.shape[1]))
        left = bits & ~cover[window]
        before, after = np.count_nonzero(bits), np.count_nonzero(left)
        if after == before:
            continue
        keep[i] = after > 0
        if after:
            segmentations[i], boxes[i] = _on_image(left, window, record.size)
            areas[i] = after
            ignore[i] = after < min_visible * before
    keypoints = record.keypoints
    if keypoints is not None:
        keypoints = keypoints.copy()
        x, y = (keypoints[..., axis].astype(int).clip(0, cover.shape[1 - axis] - 1) for axis in (0, 1))
        hidden = cover[y, x] & (keypoints[..., 2] > 1)
        keypoints[..., 2] = np.where(hidden, 1, keypoints[..., 2])
    moved = {"boxes": boxes, "ignore": ignore, "keypoints": keypoints, "segmentations": segmentations, "areas": areas}
    return record._replace(**moved).select(keep)


def _record_of(
    other: Record,
    parts: list[_Part],
    size: tuple[int, int],
    geometry: Geometry,
    corner: tuple[int, int],
    flip_pairs: Sequence[tuple[int, int]],
    model: ModelConfig,
) -> Record:
    """The pasted objects, in an image of `size`."""
    index, (top, left) = [part.index for part in parts], corner
    placed = [_on_image(part.bits, part.within(top, left), size) for part in parts]
    keypoints = None
    if other.keypoints is not None:
        keypoints = move_keypoints(other.keypoints[index], geometry, flip_pairs, model)
        labelled = keypoints[..., 2] > 0  # as annotated, without the shift, which comes with the image's own move
        keypoints[..., :2] += np.array([left, top]) - model.keypoint_head.shift
        keypoints = np.where(labelled[..., None], keypoints, 0).astype(np.float32)
    return other.select(np.array(index))._replace(
        boxes=np.array([box for _, box in placed], dtype=np.float32),
        ignore=np.zeros(len(index), dtype=bool),
        keypoints=keypoints,
        segmentations=[segmentation for segmentation, _ in placed],
        areas=np.array([np.count_nonzero(part.bits) for part in parts], dtype=np.float64),
    )


def _joined(record: Record, pasted: Record) -> Record:
    """The objects of both, in the first one's image."""
    keypoints = None
    if record.keypoints is not None and pasted.keypoints is not None:
        keypoints = np.concatenate([record.keypoints, pasted.keypoints])
    names = ("boxes", "labels", "ignore", "annotation_ids", "areas")
    columns = {name: np.concatenate([getattr(record, name), getattr(pasted, name)]) for name in names}
    return record._replace(**columns, keypoints=keypoints, segmentations=[*record.segmentations, *pasted.segmentations])


def _on_image(bits: np.ndarray, window: tuple[slice, slice], size: tuple[int, int]) -> tuple[Segmentation, list[int]]:
    """A mask in a window of an image of `size` as run lengths, and its tight box, xyxy."""
    bits, (y, x) = trimmed(bits, (window[0].start, window[1].start))
    return (counts_of_window(bits, (y, x), size), size), [x, y, x + bits.shape[1], y + bits.shape[0]]
