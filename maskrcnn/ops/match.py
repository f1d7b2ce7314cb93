"""For every box the ground truth that it overlaps most (section 3.1 of Faster R-CNN and of Mask R-CNN).

The N x G matrix of overlaps is never kept: the reference computes it in chunks of boxes, the kernels pair by pair.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .boxes import area, intersection
from .dispatch import which

_CHUNK = 1 << 22  # pairs per chunk in the reference: 16 MiB of float32


class Match(NamedTuple):
    """What `match` found. Without ground truth: IoU 0, index 0, False, share 0."""

    iou: Float[Tensor, "B N"]  # with the best ground truth, 0..1
    index: Int[Tensor, "B N"]  # of that ground truth; the first if several tie
    best_of_gt: Bool[Tensor, "B N"]  # reaches some ground truth's highest IoU (above 0) with any box
    ignored: Float[Tensor, "B N"]  # largest share of the box inside one ignore region, 0..1


def match(
    boxes: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    gt_ignore: Bool[Tensor, "B G"],
    *,
    candidates: Bool[Tensor, "B N"] | None = None,
    impl: str | None = None,
) -> Match:
    """Matches boxes with ground truth. Ignore regions never match; only `candidates` can be `best_of_gt`."""
    real = gt_valid & ~gt_ignore
    crowd = gt_valid & gt_ignore
    gt_boxes = torch.where(gt_valid[..., None], gt_boxes, 0.0)
    match which("match", boxes.device, impl):
        case "triton":
            from .kernels.match_triton import match_triton as run
        case "numba":
            from .kernels.match_numba import match_numba as run
        case _:
            run = match_reference
    allowed = boxes.new_ones(boxes.shape[:2], dtype=torch.bool) if candidates is None else candidates
    return Match(*run(boxes, gt_boxes, real, crowd, allowed))


def match_reference(
    boxes: Tensor, gt_boxes: Tensor, real: Tensor, crowd: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Defines `match`: the overlaps of a chunk of boxes with all ground truth, computed twice."""
    B, N, _ = boxes.shape
    G = gt_boxes.shape[1]
    if not N or not G:
        none = boxes.new_zeros(B, N)
        return none, none.long(), none.bool(), none.clone()
    step = max(1, _CHUNK // max(1, B * G))
    gt_area = area(gt_boxes)[:, None]  # [B 1 G]

    def overlaps(chunk: Tensor) -> tuple[Tensor, Tensor]:
        shared = intersection(chunk, gt_boxes)  # [B n G]
        own = area(chunk)[..., None]
        union = (own + gt_area - shared).clamp(min=torch.finfo(torch.float32).tiny)
        return torch.where(real[:, None], shared / union, -1.0), shared / own.clamp(min=torch.finfo(torch.float32).tiny)

    iou, index, ignored = [], [], []
    highest = boxes.new_zeros(B, G)
    for start in range(0, N, step):
        pairs, share = overlaps(boxes[:, start : start + step])
        best = pairs.max(dim=2)
        iou.append(best.values.clamp(min=0))
        index.append(torch.where(best.values >= 0, best.indices, 0))
        ignored.append(torch.where(crowd[:, None], share, 0.0).amax(dim=2))
        masked = torch.where(allowed[:, start : start + step, None], pairs, -1.0)
        highest = torch.maximum(highest, masked.amax(dim=1))
    best_of_gt = []
    for start in range(0, N, step):
        pairs, _ = overlaps(boxes[:, start : start + step])
        best_of_gt.append(((pairs == highest[:, None]) & (pairs > 0)).any(dim=2) & allowed[:, start : start + step])
    return torch.cat(iou, 1), torch.cat(index, 1), torch.cat(best_of_gt, 1), torch.cat(ignored, 1)
