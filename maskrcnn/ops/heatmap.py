"""Keypoints as cells of a Q x Q heatmap over a box, and back (section 5 of the paper, "human pose estimation")."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CUBIC = -0.75  # the bicubic kernel's slope at its first zero, as in OpenCV and PyTorch


def encode_keypoints(
    keypoints: Float[Tensor, "*N J 3"], boxes: Float[Tensor, "*N 4"], *, side: int
) -> tuple[Int[Tensor, "*N J"], Bool[Tensor, "*N J"]]:
    """The cell, row * side + column, that holds each keypoint, and which keypoints are labelled and inside the box.

    keypoints: x, y in the boxes' pixels, and v, 0 where not labelled. A keypoint on the right or lower edge belongs to
    the last cell. The cell is 0 where the second answer is False.
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
    """x, y and score of the highest point of each map, laid over its box by bicubic interpolation.

    points: sought are the centres of the box's "pixels", the next whole number of them along a side, which counts as
    one at least, as the rivals do it; or of each of the map's "cells" and as many points around it as it takes to be a
    pixel apart or less: then a lone cell's answer is its centre, at most half a cell from the keypoint, wherever and
    however large the box.
    score: "logit" is the value there; "probability" is its share of the softmax over the Q x Q positions.
    bound: (height, width) that no box exceeds, so that nobody needs to look at the boxes (on a GPU looking waits);
    without it each map is made as large as its box. One box's maps at a time are in memory.
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
        peak = in_row.values.max(dim=0)  # of equal points the first row's first
        value[n], row[n] = peak.values, peak.indices.float()
        column[n] = in_row.indices.gather(0, peak.indices[None])[0].float()
    at = torch.stack((column, row), dim=-1) + 0.5  # in cells
    point = boxes[:, None, :2] + at * (sides / cells).flip(-1)[:, None]
    if score == "probability":
        value = (value - logits.flatten(2).logsumexp(dim=2)).exp()
    return torch.cat((point, value[..., None]), dim=-1)


def _points(side: Any, Q: int, points: str) -> Any:
    """How many points lie along a side, a number or a tensor of them."""
    if points == "pixels":
        return -(-side // 1)
    each = -((0.01 - side) // Q)  # sides are often whole numbers, give or take a rounding that must not matter
    return Q * (each + (each % 2 == 0))  # an odd number has one in the middle


def _bicubic(
    size: int, slots: int, lengths: Float[Tensor, " N"], *, mirrored: bool
) -> Float[Tensor, "N {slots} {size}"]:
    """Weights that resize `size` values to each of `lengths`, in as many of `slots` rows.

    Beyond the edges lie their values again, or where `mirrored` those before them: then a lone peak on the edge stays
    the highest point, and where it is.
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
