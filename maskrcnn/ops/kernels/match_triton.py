"""`match` on a GPU: two passes over tiles of boxes and of ground truth; the overlaps are computed twice, not stored."""

# ruff: noqa: ANN001, ANN201, ANN202 (Triton infers the types of its kernels)
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_BOXES, _GT = 256, 16  # boxes and ground truth per tile


@torch.library.custom_op("maskrcnn::match", mutates_args=())
def match_triton(
    boxes: Tensor, gt_boxes: Tensor, real: Tensor, crowd: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes `ops.match.match_reference`."""
    B, N, _ = boxes.shape
    G = gt_boxes.shape[1]
    boxes, gt_boxes = boxes.float().contiguous(), gt_boxes.float().contiguous()
    real, crowd, allowed = real.contiguous(), crowd.contiguous(), allowed.contiguous()
    iou, ignored, highest = boxes.new_empty(B, N), boxes.new_empty(B, N), boxes.new_zeros(B, G)
    index, best_of_gt = boxes.new_empty(B, N, dtype=torch.int64), boxes.new_empty(B, N, dtype=torch.bool)
    if B * N:
        # Both passes must compute bit-equal overlaps, so fused multiply-add is off.
        launch, block = (triton.cdiv(N, _BOXES), B), {"BOXES": _BOXES, "GT": _GT, "enable_fp_fusion": False}
        with torch.cuda.device_of(boxes):
            _best_kernel[launch](
                boxes, gt_boxes, real, crowd, allowed, N, G, iou, index, ignored, highest, **block
            )  # fmt: skip
            _best_of_gt_kernel[launch](boxes, gt_boxes, real, allowed, highest, N, G, best_of_gt, **block)
    return iou, index, best_of_gt, ignored


@match_triton.register_fake
def _(boxes, gt_boxes, real, crowd, allowed):
    iou = boxes.new_empty(boxes.shape[:2], dtype=torch.float32)
    return iou, iou.to(torch.int64), iou.to(torch.bool), iou.clone()


@triton.jit
def corners(ptr, at, mask):
    """x1, y1, x2, y2 of the boxes numbered `at`."""
    return (
        tl.load(ptr + at * 4, mask=mask, other=0.0),
        tl.load(ptr + at * 4 + 1, mask=mask, other=0.0),
        tl.load(ptr + at * 4 + 2, mask=mask, other=0.0),
        tl.load(ptr + at * 4 + 3, mask=mask, other=0.0),
    )


@triton.jit
def _overlap(x1, y1, x2, y2, gx1, gy1, gx2, gy2):
    """IoU [BOXES, GT], and the share of each box that lies in each ground truth."""
    tiny = 1.1754943508222875e-38
    own = (tl.maximum(x2 - x1, 0.0) * tl.maximum(y2 - y1, 0.0))[:, None]
    other = (tl.maximum(gx2 - gx1, 0.0) * tl.maximum(gy2 - gy1, 0.0))[None, :]
    w = tl.minimum(x2[:, None], gx2[None, :]) - tl.maximum(x1[:, None], gx1[None, :])
    h = tl.minimum(y2[:, None], gy2[None, :]) - tl.maximum(y1[:, None], gy1[None, :])
    shared = tl.maximum(w, 0.0) * tl.maximum(h, 0.0)
    iou = tl.math.div_rn(shared, tl.maximum(own + other - shared, tiny))
    return iou, tl.math.div_rn(shared, tl.maximum(own, tiny) + tl.zeros_like(shared))


@triton.jit
def _best_kernel(
    boxes_ptr, gt_ptr, real_ptr, crowd_ptr, allowed_ptr, N, G,  # [B, N, 4], [B, G, 4], [B, G], [B, G], [B, N]
    iou_ptr, index_ptr, ignored_ptr, highest_ptr,  # [B, N], [B, N], [B, N], [B, G]; `highest` initially zero
    BOXES: tl.constexpr, GT: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BOXES + tl.arange(0, BOXES)
    image = tl.program_id(1).to(tl.int64)
    own = image * N + n
    x1, y1, x2, y2 = corners(boxes_ptr, own, n < N)
    allowed = tl.load(allowed_ptr + own, mask=n < N, other=0) != 0
    best, index = tl.full((BOXES,), -1.0, tl.float32), tl.zeros((BOXES,), tl.int32)
    ignored = tl.zeros((BOXES,), tl.float32)
    for first in range(0, G, GT):
        g = first + tl.arange(0, GT)
        other = image * G + g
        gx1, gy1, gx2, gy2 = corners(gt_ptr, other, g < G)
        real = tl.load(real_ptr + other, mask=g < G, other=0) != 0
        crowd = tl.load(crowd_ptr + other, mask=g < G, other=0) != 0
        iou, share = _overlap(x1, y1, x2, y2, gx1, gy1, gx2, gy2)
        iou = tl.where(real[None, :], iou, -1.0)
        most, at = tl.max(iou, axis=1, return_indices=True)
        index = tl.where(most > best, first + at, index)
        best = tl.maximum(best, most)
        ignored = tl.maximum(ignored, tl.max(tl.where(crowd[None, :], share, 0.0), axis=1))
        highest = tl.max(tl.where(allowed[:, None], iou, -1.0), axis=0)
        tl.atomic_max(highest_ptr + other, highest, mask=(g < G) & (highest > 0))
    tl.store(iou_ptr + own, tl.maximum(best, 0.0), mask=n < N)
    tl.store(index_ptr + own, index.to(tl.int64), mask=n < N)
    tl.store(ignored_ptr + own, ignored, mask=n < N)


@triton.jit
def _best_of_gt_kernel(
    boxes_ptr, gt_ptr, real_ptr, allowed_ptr, highest_ptr, N, G, out_ptr,  # as in `_best_kernel`; out [B, N]
    BOXES: tl.constexpr, GT: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BOXES + tl.arange(0, BOXES)
    image = tl.program_id(1).to(tl.int64)
    own = image * N + n
    x1, y1, x2, y2 = corners(boxes_ptr, own, n < N)
    found = tl.zeros((BOXES,), tl.int32)
    for first in range(0, G, GT):
        g = first + tl.arange(0, GT)
        other = image * G + g
        gx1, gy1, gx2, gy2 = corners(gt_ptr, other, g < G)
        real = tl.load(real_ptr + other, mask=g < G, other=0) != 0
        highest = tl.load(highest_ptr + other, mask=g < G, other=0.0)
        iou, _ = _overlap(x1, y1, x2, y2, gx1, gy1, gx2, gy2)
        hit = (iou == highest[None, :]) & (iou > 0) & real[None, :]
        found = tl.maximum(found, tl.max(hit.to(tl.int32), axis=1))
    allowed = tl.load(allowed_ptr + own, mask=n < N, other=0) != 0
    tl.store(out_ptr + own, (found > 0) & allowed, mask=n < N)
