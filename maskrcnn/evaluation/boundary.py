"""Boundary AP (Cheng et al. 2021, "Boundary IoU", arXiv 2103.16562): COCO's AP with an IoU that sees outlines.

The boundary of a mask is its pixels that lie within d of its edge, d being 2 % of the image's diagonal; the image's
border is an edge, too. The boundary IoU of a pair is that of their boundaries, and the smaller of it and the mask IoU
decides, as in the authors' API. A crowd is compared by its mask, as in faster-coco-eval.
"""

from collections.abc import Iterator

import numpy as np

from ..ops.runs import Runs, bounds, concatenate, from_bitmaps, move, select, shared
from .sparse import IOUS, Objects, Pairs, close_pairs

DILATION = 0.02  # of the image's diagonal


def boundary_pairs(truth: Objects, found: Objects, sizes: np.ndarray) -> Pairs:
    """Pairs of one class whose mask IoU and boundary IoU are at least 0.5, and the smaller of both.

    Args:
        truth, found: with masks.
        sizes: int [I 2], height and width of the images.
    """
    left, right, ious = close_pairs(truth, found)
    crowds = np.zeros(len(truth.images), dtype=bool) if truth.ignore is None else truth.ignore
    real = np.flatnonzero(~crowds[right])
    edges, places = [], []
    for side, numbers in ((found, left[real]), (truth, right[real])):
        needed, place = np.unique(numbers, return_inverse=True)  # no other mask needs its boundary
        assert side.runs is not None
        edges.append(boundaries(select(side.runs, needed), sizes[side.images[needed]]))
        places.append(place)
    common = shared(edges[0], edges[1], places[0], places[1])
    union = edges[0].areas[places[0]] + edges[1].areas[places[1]] - common
    ious = ious.copy()
    ious[real] = np.minimum(ious[real], np.divide(common, union, out=np.zeros(len(real)), where=union > 0))
    kept = ious >= IOUS[0]
    return left[kept], right[kept], ious[kept]


def boundaries(runs: Runs, sizes: np.ndarray) -> Runs:
    """The boundaries of masks in images of these sizes, int [N 2], height and width."""
    widths = np.maximum(np.round(DILATION * np.sqrt((sizes.astype(np.float64) ** 2).sum(axis=1))), 1).astype(np.int64)
    boxes = bounds(runs, sizes[:, 0])
    thick = ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 2 * widths).nonzero()[0]  # others are all boundary
    drawn = [
        mask & ~erode(mask, width)
        for mask, width in zip(_bitmaps(runs, thick, boxes, sizes), widths[thick].tolist(), strict=True)
    ]
    heights = boxes[thick, 3] - boxes[thick, 1]
    replaced = move(from_bitmaps(drawn), heights, sizes[thick, 0], boxes[thick, 1::-1])
    place = np.arange(len(runs))
    place[thick] = len(runs) + np.arange(len(thick))
    return select(concatenate([runs, replaced]), place)


def _bitmaps(runs: Runs, index: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """The pixels of the objects at `index`, each bool [h w], in their tight boxes, [N 4], one after another."""
    heights = sizes[index, 0]
    columns = move(select(runs, index), heights, heights, (0, 0))  # a run lies in one column
    left, top, right, bottom = boxes[index].T
    x, y = np.divmod(columns.starts, heights[columns.owners])
    first = (x - left[columns.owners]) * (bottom - top)[columns.owners] + y - top[columns.owners]
    last = first + columns.ends - columns.starts
    shapes = np.stack([right - left, bottom - top], axis=1).tolist()
    for (width, height), begin, end in zip(
        shapes, columns.offsets[:-1].tolist(), columns.offsets[1:].tolist(), strict=True
    ):
        flips = np.zeros(width * height + 1, dtype=np.int8)
        flips[first[begin:end]] = 1
        flips[last[begin:end]] -= 1  # behind a run another one may begin
        yield np.cumsum(flips[:-1], dtype=np.int8).view(bool).reshape(width, height).T


def erode(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask, bool [h w], around which the square of 2 * width + 1 pixels is full; outside is empty."""
    side = 2 * width + 1
    for _ in range(2):  # down, then across: a square is full if its columns are, and they side by side
        sums = np.zeros((mask.shape[0] + 1, mask.shape[1]), dtype=np.int32)
        np.cumsum(mask, axis=0, out=sums[1:])
        eroded = np.zeros_like(mask)
        if mask.shape[0] >= side:
            eroded[width : mask.shape[0] - width] = sums[side:] - sums[:-side] == side
        mask = eroded.T
    return mask
