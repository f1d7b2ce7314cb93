"""`nms` on a CPU: one image per thread, without a matrix of overlaps; it stops when `top` boxes have survived."""

# ruff: noqa: ANN001, ANN202 (Numba infers the types of its kernels)

import numba
import numpy as np
import torch
from torch import Tensor

from ..dispatch import torch_threads


@torch_threads()
def nms_numba(
    boxes: Tensor, scores: Tensor, groups: Tensor, candidates: Tensor, limit: float, top: int
) -> tuple[Tensor, Tensor]:
    """Computes `ops.nms.nms_reference`."""
    B, _ = scores.shape
    index = torch.zeros(B, top, dtype=torch.int64)
    kept = torch.zeros(B, top, dtype=torch.bool)
    order = scores.argsort(dim=1, descending=True, stable=True)
    corners, kinds, alive = (t.contiguous().numpy() for t in (boxes, groups.long(), candidates))
    _nms_images(corners, kinds, alive, order.numpy(), np.float32(limit), index.numpy(), kept.numpy())
    return index, kept


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def _nms_images(boxes, groups, candidates, order, limit, index, kept):
    for b in numba.prange(len(boxes)):
        _nms_image(boxes[b], groups[b], candidates[b], order[b], limit, index[b], kept[b])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _nms_image(boxes, groups, candidates, order, limit, index, kept):
    zero, top = np.float32(0), len(index)
    x1, y1, x2, y2, areas = np.empty((5, top), np.float32)  # the survivors, contiguous for the inner loop
    group = np.empty(top, np.int64)
    count = 0
    for i in order:
        if count == top:
            break
        if not candidates[i]:
            continue
        left, upper, right, lower = boxes[i]
        area = max(right - left, zero) * max(lower - upper, zero)
        struck = False
        for k in range(count):
            if group[k] != groups[i]:
                continue
            w = min(right, x2[k]) - max(left, x1[k])
            h = min(lower, y2[k]) - max(upper, y1[k])
            if (w > zero and h > zero) or limit < zero:  # most pairs do not overlap: they need no division
                shared = max(w, zero) * max(h, zero)
                if shared / (area + areas[k] - shared) > limit:
                    struck = True
                    break
        if not struck:
            x1[count], y1[count], x2[count], y2[count], areas[count] = left, upper, right, lower, area
            group[count] = groups[i]
            index[count], kept[count] = i, True
            count += 1
