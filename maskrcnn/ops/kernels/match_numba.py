"""`match` on a CPU: two passes over the boxes that keep only the answers."""

import numba
import numpy as np
import torch
from torch import Tensor

from ..dispatch import torch_threads


@torch_threads()
def match_numba(
    boxes: Tensor, gt_boxes: Tensor, real: Tensor, crowd: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes `ops.match.match_reference`."""
    B, N, _ = boxes.shape
    iou, ignored = torch.empty(B, N), torch.empty(B, N)
    index, best_of_gt = torch.empty(B, N, dtype=torch.int64), torch.zeros(B, N, dtype=torch.bool)
    own, others = (t.float().contiguous().numpy() for t in (boxes, gt_boxes))
    for b in range(B):
        objects, regions = (torch.nonzero(chosen[b]).flatten().numpy() for chosen in (real, crowd))
        answer = [t[b].numpy() for t in (iou, index, best_of_gt, ignored)]
        _match_image(own[b], others[b], objects, regions, allowed[b].numpy(), torch.get_num_threads(), *answer)
    return iou, index, best_of_gt, ignored


@numba.njit(inline="always")
def _shared(box, other):  # noqa: ANN001, ANN202
    w = min(box[2], other[2]) - max(box[0], other[0])
    h = min(box[3], other[3]) - max(box[1], other[1])
    return max(w, np.float32(0)) * max(h, np.float32(0))


@numba.njit(inline="always")
def _area(box):  # noqa: ANN001, ANN202
    return max(box[2] - box[0], np.float32(0)) * max(box[3] - box[1], np.float32(0))


@numba.njit(cache=True, nogil=True, parallel=True)
def _match_image(boxes, gt_boxes, real, crowd, allowed, threads, iou, index, best_of_gt, ignored):  # noqa: ANN001, ANN202
    n = len(boxes)
    tiny = np.float32(1.1754944e-38)
    highest = np.zeros((threads, len(gt_boxes)), np.float32)
    for t in numba.prange(threads):
        for i in range(n * t // threads, n * (t + 1) // threads):
            own = _area(boxes[i])
            best, best_index = np.float32(-1), 0
            for g in real:
                shared = _shared(boxes[i], gt_boxes[g])
                value = shared / max(own + _area(gt_boxes[g]) - shared, tiny)
                if value > best:
                    best, best_index = value, g
                if allowed[i] and value > highest[t, g]:
                    highest[t, g] = value
            share = np.float32(0)
            for g in crowd:
                share = max(share, _shared(boxes[i], gt_boxes[g]) / max(own, tiny))
            iou[i], index[i], ignored[i] = max(best, np.float32(0)), best_index, share
    for t in range(1, threads):
        highest[0] = np.maximum(highest[0], highest[t])
    for i in numba.prange(n):
        if allowed[i] and iou[i] > 0:
            own = _area(boxes[i])
            for g in real:
                shared = _shared(boxes[i], gt_boxes[g])
                value = shared / max(own + _area(gt_boxes[g]) - shared, tiny)
                if value > 0 and value == highest[0, g]:
                    best_of_gt[i] = True
