"""`nms` on a GPU: one program per group, without a matrix of overlaps; the host reads no counts.

Boxes are sorted by score and then, stably, by group, so each group is contiguous. A program goes through its group tile
by tile: it removes the boxes that earlier survivors suppress, then those that boxes of the same tile suppress.
"""

# ruff: noqa: ANN001, ANN202 (Triton infers the types of its kernels)
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .match_triton import corners

_TILE = 64


@torch.library.custom_op("maskrcnn::nms", mutates_args=())
def nms_triton(
    boxes: Tensor, scores: Tensor, groups: Tensor, candidates: Tensor, limit: float, top: int
) -> tuple[Tensor, Tensor]:
    """Computes `ops.nms.nms_reference`."""
    B, N = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    groups, rank = groups.gather(1, order).sort(dim=1, stable=True)
    place = order.gather(1, rank)
    boxes = boxes.gather(1, place[..., None].expand(B, N, 4)).contiguous()
    kept = candidates.new_zeros(B, N)  # by rank
    if B * N * top:
        # The comparison with the limit is exact, so fused multiply-add is off.
        with torch.cuda.device_of(boxes):
            _nms_kernel[(triton.cdiv(N, _TILE), B)](
                boxes, groups, candidates.gather(1, place), rank, kept, torch.empty_like(boxes), N, top, limit,
                _TILE, enable_fp_fusion=False,
            )  # fmt: skip
    slot = kept.cumsum(1) - 1
    slot = torch.where(kept & (slot < top), slot, top)  # the extra slot takes the rest
    index = order.new_zeros(B, top + 1).scatter_(1, slot, order)[:, :top].contiguous()
    return index, torch.arange(top, device=boxes.device) < kept.sum(1, keepdim=True)


@nms_triton.register_fake
def _(boxes, scores, groups, candidates, limit, top):
    index = scores.new_empty(scores.shape[0], top, dtype=torch.int64)
    return index, index.to(torch.bool)


@triton.jit
def _strikes(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, limit):
    """Whether box a (rows), the better one, overlaps box b (columns) enough to suppress it."""
    area = tl.maximum(ax2 - ax1, 0.0) * tl.maximum(ay2 - ay1, 0.0)
    other = tl.maximum(bx2 - bx1, 0.0) * tl.maximum(by2 - by1, 0.0)
    w = tl.minimum(ax2[:, None], bx2[None, :]) - tl.maximum(ax1[:, None], bx1[None, :])
    h = tl.minimum(ay2[:, None], by2[None, :]) - tl.maximum(ay1[:, None], by1[None, :])
    shared = tl.maximum(w, 0.0) * tl.maximum(h, 0.0)
    union = area[:, None] + other[None, :] - shared
    overlap = tl.math.div_rn(shared, tl.where(union > 0, union, 1.0))
    return (union > 0) & (overlap > limit)


@triton.jit
def _suppress(
    boxes_ptr, groups_ptr, alive_ptr, rank_ptr, kept_ptr, survivors_ptr, start, N, top, limit, TILE: tl.constexpr
):
    """Greedy suppression in the group that begins at place `start`, until it ends or has `top` survivors."""
    group = tl.load(groups_ptr + start)
    slots = tl.arange(0, TILE)
    survivors_ptr += start * 4
    count, first, more = 0, start, True
    while more:
        place = first + slots
        inside = place < N
        inside = inside & (tl.load(groups_ptr + place, mask=inside, other=0) == group)
        alive = tl.load(alive_ptr + place, mask=inside, other=0) != 0
        x1, y1, x2, y2 = corners(boxes_ptr, place, alive)
        for seen in range(0, count, TILE):
            real = seen + slots < count
            sx1, sy1, sx2, sy2 = corners(survivors_ptr, seen + slots, real)
            struck = _strikes(sx1, sy1, sx2, sy2, x1, y1, x2, y2, limit) & real[:, None]
            alive = alive & (tl.max(struck.to(tl.int32), axis=0) == 0)
        # A box depends only on better boxes, so this iteration converges, and to the greedy answer.
        struck = _strikes(x1, y1, x2, y2, x1, y1, x2, y2, limit) & (slots[:, None] < slots[None, :])
        kept, changed = alive, 1
        while changed > 0:
            left = alive & (tl.max((struck & kept[:, None]).to(tl.int32), axis=0) == 0)
            changed = tl.sum((left != kept).to(tl.int32), axis=0)
            kept = left
        slot = count + tl.cumsum(kept.to(tl.int32), axis=0) - 1
        kept = kept & (slot < top)
        tl.store(kept_ptr + tl.load(rank_ptr + place, mask=kept, other=0), kept, mask=kept)
        tl.store(survivors_ptr + slot * 4, x1, mask=kept)
        tl.store(survivors_ptr + slot * 4 + 1, y1, mask=kept)
        tl.store(survivors_ptr + slot * 4 + 2, x2, mask=kept)
        tl.store(survivors_ptr + slot * 4 + 3, y2, mask=kept)
        tl.debug_barrier()  # the next tile reads what other threads of this program wrote
        count += tl.sum(kept.to(tl.int32), axis=0)
        first += TILE
        more = (tl.sum(inside.to(tl.int32), axis=0) == TILE) & (count < top)


@triton.jit
def _nms_kernel(
    boxes_ptr, groups_ptr, alive_ptr,  # [B, N, 4], [B, N], candidates [B, N]; sorted by group, then best first
    rank_ptr, kept_ptr,  # [B, N], rank by score among all boxes of the image; [B, N] by rank, initially False
    survivors_ptr,  # [B, N, 4], workspace for each group's survivors
    N, top, limit, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64) * N
    boxes_ptr, survivors_ptr = boxes_ptr + row * 4, survivors_ptr + row * 4
    groups_ptr, alive_ptr = groups_ptr + row, alive_ptr + row
    rank_ptr, kept_ptr = rank_ptr + row, kept_ptr + row
    begin = tl.program_id(0) * TILE
    for place in range(begin, tl.minimum(begin + TILE, N)):
        before = tl.load(groups_ptr + tl.maximum(place - 1, 0))
        if (place == 0) | (before != tl.load(groups_ptr + place)):
            _suppress(boxes_ptr, groups_ptr, alive_ptr, rank_ptr, kept_ptr, survivors_ptr, place, N, top, limit, TILE)
