"""Masks as the other frameworks hold them: bitmaps of whole pixels, resized to the canvas by the nearest pixel.

Of a bitmap only the object's window is kept. Next to it lies a pixel that is not the object's, unless the image ends
there: so RoIAlign of the window is RoIAlign of the whole.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..ops.coco_raster import coco_raster
from .dataset import Segmentation


def draw_bitmap(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """The object in its image, bool [H W], (H, W) = `size`; polygons by cocoapi's rule, none as nothing."""
    if segmentation is None:
        return np.zeros(size, dtype=bool)
    if isinstance(segmentation, tuple):
        runs, (height, width) = segmentation
        pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return pixels.reshape(width, height).T
    points, parts = pack_polygons([segmentation])[:2]
    one = np.array([[0, len(segmentation)]])
    return coco_raster(points, parts, one, np.zeros((1, 2)), np.ones((1, 2)), size)[0]


def pack_polygons(objects: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each object's polygons [m 2] end to end: float64 points [V 2], int64 offsets [P + 1] and spans [n 2]."""
    polygons = [polygon for polygons in objects for polygon in polygons]
    points = np.concatenate([np.zeros((0, 2)), *polygons])
    parts = np.cumsum([0, *(len(polygon) for polygon in polygons)], dtype=np.int64)
    ends = np.cumsum([len(polygons) for polygons in objects], dtype=np.int64)
    counts = np.array([len(polygons) for polygons in objects], dtype=np.int64)
    return points, parts, np.stack([ends - counts, ends], axis=1)


def nearest_pixels(before: int, after: int, *, centred: bool) -> np.ndarray:
    """Which of `before` pixels each of `after` shows, int64 [after].

    That under the pixel's centre (Pillow, which Detectron2 resizes masks with) or, where not `centred`, under its
    beginning (torch's "nearest", which torchvision does). Each is asked itself, because they round in their own ways.
    """
    if centred:
        row = Image.fromarray(np.arange(before, dtype=np.int32)[None])
        return np.asarray(row.resize((after, 1), Image.Resampling.NEAREST))[0].astype(np.int64)
    pixels = torch.arange(before, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(pixels, size=after, mode="nearest")[0, 0].numpy().astype(np.int64)


def windows(bitmaps: Sequence[np.ndarray], rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What bitmaps [H W] show where canvas pixel (i, j) shows pixel (rows[i], columns[j]): their windows, all S x S.

    Gives bool [n S S] and the windows' places on the canvas, float32 [n 4], xyxy. An object that is not seen at all has
    an empty window. S is the largest, and at least 1.
    """
    spots = [_spot(np.asarray(bitmap.any(axis=1))[rows], np.asarray(bitmap.any(axis=0))[columns]) for bitmap in bitmaps]
    shown = [bitmap[np.ix_(rows[y], columns[x])] for bitmap, (y, x) in zip(bitmaps, spots, strict=True)]
    corners = np.array([(x.start, y.start) for y, x in spots], dtype=np.float32).reshape(-1, 2)
    side = max((max(part.shape) for part in shown), default=0)
    return grown(shown, side), np.concatenate([corners, corners + np.float32(max(side, 1))], axis=1)


def grown(bits: Sequence[np.ndarray] | np.ndarray, side: int) -> np.ndarray:
    """Masks [h w] as bool [n S S], S = `side` or 1, by repeating the last row and column: nothing, or what is beyond
    the image.
    """
    side = max(side, 1)
    square = np.zeros((len(bits), side, side), dtype=bool)
    for target, part in zip(square, bits, strict=True):
        if part.size:
            target[:] = np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1])), mode="edge")
    return square


def _spot(rows: np.ndarray, columns: np.ndarray) -> tuple[slice, slice]:
    """Where there is something, and a pixel around it."""
    if not rows.any() or not columns.any():
        return slice(0, 0), slice(0, 0)
    found = []
    for used in (rows, columns):
        at = np.flatnonzero(used)
        found.append(slice(max(int(at[0]) - 1, 0), min(int(at[-1]) + 2, len(used))))
    return found[0], found[1]
