"""Keypoints as cells of a Q x Q heatmap over a box, and back (section 5 of the paper, "human pose estimation")."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CUBIC = -0.75  # the coefficient `a` of the bicubic kernel, as in OpenCV and PyTorch


def encode_keypoints(
    keypoints: Float[Tensor, "*N J 3"], boxes: Float[Tensor, "*N 4"], *, side: int
) -> tuple[Int[Tensor, "*N J"], Bool[Tensor, "*N J"]]:
    """The cell, row * side + column, that holds each keypoint, and which keypoints are labelled and inside the box.

    keypoints: x and y, in the same pixels as the boxes, and v, 0 if not labelled. A keypoint on the right or lower edge
    belongs to the last cell. Keypoints that are unlabelled or outside get cell 0.
    """
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    point = keypoints[..., :2]
    cell = ((point - low) * (side / (high - low).clamp(min=1e-6))).floor()
    cell = torch.where(point == high, float(side - 1), cell)
    seen = (keypoints[..., 2] > 0) & (cell >= 0).all(-1) & (cell < side).all(-1)
    cell = torch.where(seen[..., None], cell, 0.0).long()
    return cell[..., 1] * side + cell[..., 0], seen


def decode_keypoints(
    logits: Float[Tensor, "N J Q Q"],
    boxes: Float[Tensor, "N 4"],
    *,
    score: str = "probability",
    points: str = "cells",
    bound: tuple[int, int] | None = None,
) -> Float[Tensor, "N J 3"]:
    """x, y and score of the highest point of each heatmap, which is resized to its box by bicubic interpolation.

    points: which points are compared. "pixels": the centres of the box's pixels, ceil(side) along a side, at least one,
    as in torchvision and Detectron2. "cells": the centres of the map's cells, and as many points around each as are
    needed to be at most a pixel apart. With "cells" the answer to a single peak is the centre of its cell, at most half
    a cell from the keypoint, whatever the position and size of the box.
    score: "logit" is the value at that point; "probability" its share of the softmax over the Q x Q positions.
    bound: (height, width) that no box exceeds. With it no value of the boxes is read, which would make a GPU wait;
    without it each map is made as large as its box. The maps of one box at a time are in memory.
    """
    if score not in ("probability", "logit"):
        raise ValueError(f"decode_keypoints: score is 'probability' or 'logit', not {score!r}")
    if points not in ("cells", "pixels"):
        raise ValueError(f"decode_keypoints: points is 'cells' or 'pixels', not {points!r}")
    N, J, Q, _ = logits.shape
    logits = logits.float()
    least = 1.0 if points == "pixels" else 0.0
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=least).flip(-1)  # height, width
    cells = _points(sides, Q, points)
    most = [[_points(side, Q, points) for side in bound]] * N if bound else cells.tolist()
    shapes = [(int(height), int(width)) for height, width in most]
    down, across = (max((shape[axis] for shape in shapes), default=0) for axis in (0, 1))
    ys = _bicubic(Q, down, cells[:, 0], mirrored=points == "cells")  # [N h Q]
    xs = _bicubic(Q, across, cells[:, 1], mirrored=points == "cells")
    value, row, column = (logits.new_zeros(N, J) for _ in range(3))
    for n, (height, width) in enumerate(shapes):
        with torch.autocast(logits.device.type, enabled=False):
            widened = (logits[n] @ xs[n, :width].T).transpose(0, 1)  # [Q J w]
            resized = (ys[n, :height] @ widened.flatten(1)).view(height, J, width)
        if bound:
            real = (torch.arange(height, device=boxes.device) < cells[n, 0])[:, None]
            real = real & (torch.arange(width, device=boxes.device) < cells[n, 1])
            resized = torch.where(real[:, None], resized, -torch.inf)
        in_row = resized.max(dim=2)
        peak = in_row.values.max(dim=0)  # among equal points, the first in row-major order
        value[n], row[n] = peak.values, peak.indices.float()
        column[n] = in_row.indices.gather(0, peak.indices[None])[0].float()
    at = torch.stack((column, row), dim=-1) + 0.5  # in cells
    point = boxes[:, None, :2] + at * (sides / cells).flip(-1)[:, None]
    if score == "probability":
        value = (value - logits.flatten(2).logsumexp(dim=2)).exp()
    return torch.cat((point, value[..., None]), dim=-1)


def _points(side: Any, Q: int, points: str) -> Any:
    """How many points lie along a side; `side` is a number or a tensor."""
    if points == "pixels":
        return -(-side // 1)
    each = -((0.01 - side) // Q)  # 0.01: a whole number, rounded up by accident, gets no extra point
    return Q * (each + (each % 2 == 0))  # an odd number of points has one in the middle of the cell


def _bicubic(
    size: int, slots: int, lengths: Float[Tensor, " N"], *, mirrored: bool
) -> Float[Tensor, "N {slots} {size}"]:
    """Weights that resize `size` values to each of `lengths`; the first `length` of `slots` rows are used.

    Beyond the edges the outermost values are repeated, or mirrored if `mirrored`: then a single peak at the edge stays
    the highest point and does not move.
    """
    at = (torch.arange(slots, device=lengths.device, dtype=torch.float32) + 0.5) * (size / lengths[:, None]) - 0.5
    first = at.floor()
    share = at - first
    weights = torch.zeros(len(lengths), slots, size, device=lengths.device)
    for tap in range(-1, 3):
        index = (first + tap).long()
        if mirrored:
            index = torch.where(index < 0, -index, torch.where(index >= size, 2 * (size - 1) - index, index))
        index = index.clamp(0, size - 1)
        weights.scatter_add_(2, index[..., None], _kernel((share - tap).abs())[..., None])
    return weights


def _kernel(x: Tensor) -> Tensor:
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return torch.where(x <= 1, near, far)
