"""Greedy non-maximum suppression over a batch of fixed slots (Faster R-CNN, section 3.3)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .dispatch import which


def nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    iou: float,
    top: int,
    closed: bool = False,
    impl: str | None = None,
) -> tuple[Int[Tensor, "B top"], Bool[Tensor, "B top"]]:
    """Indices of the `top` best surviving boxes of each image, best first, and which of these slots are filled.

    A box is suppressed by a better box of the same group (a level, a class) if their IoU is above `iou`, or, if
    `closed`, also if it is equal. With equal scores the lower index wins. Slots that are not `valid`, have a NaN score
    or a box that is not finite never survive. Unfilled slots of the answer hold index 0.

    boxes: xyxy, in any unit.
    scores: in any range, larger is better. The float32 overlap is compared with the exact value of `iou`.

    Raises ValueError if `top` is negative or `iou` is NaN.
    """
    if top < 0 or math.isnan(iou):
        raise ValueError(f"nms: top must be 0 or more and iou a number, not top={top}, iou={iou}")
    boxes = boxes.detach().float()
    candidates = valid & ~scores.isnan() & boxes.isfinite().all(dim=2)
    scores = torch.where(candidates, scores.detach(), -torch.inf)
    limit = _limit(iou, closed)
    match which("nms", boxes.device, impl):
        case "triton":
            from .kernels.nms_triton import nms_triton as run
        case "numba":
            from .kernels.nms_numba import nms_numba as run
        case _:
            run = nms_reference
    return run(boxes, scores, groups, candidates, limit, top)


def nms_reference(
    boxes: Tensor, scores: Tensor, groups: Tensor, candidates: Tensor, limit: float, top: int
) -> tuple[Tensor, Tensor]:
    """Defines `nms`: take the best remaining box and remove those that it suppresses, `top` times.

    `candidates` have scores without NaN; all other scores are -inf. An overlap above `limit` suppresses.
    """
    B, N = scores.shape
    steps = min(top, N)
    order = scores.argsort(dim=1, descending=True, stable=True)
    alive = candidates.gather(1, order)
    groups = groups.gather(1, order)
    x1, y1, x2, y2 = corners = boxes.gather(1, order[..., None].expand(B, N, 4)).unbind(2)  # each [B N]
    areas = _area(x1, y1, x2, y2)
    slots = torch.arange(N, device=boxes.device)
    picks, found = [], []
    for _ in range(steps):
        pick = alive.to(torch.uint8).argmax(dim=1, keepdim=True)  # [B 1], the best remaining
        picks.append(pick)
        found.append(alive.gather(1, pick))
        left, upper, right, lower = (corner.gather(1, pick) for corner in corners)  # each [B 1]
        shared = _area(
            torch.maximum(left, x1), torch.maximum(upper, y1), torch.minimum(right, x2), torch.minimum(lower, y2)
        )
        overlap = shared / (areas.gather(1, pick) + areas - shared)  # NaN if both are empty, which suppresses nothing
        struck = (overlap > limit) & (groups == groups.gather(1, pick))
        alive = alive & ~struck & (slots != pick)
    missing = top - steps
    none = [torch.zeros(B, missing, dtype=torch.bool, device=boxes.device)]
    kept = torch.cat([*found, *none], dim=1)
    index = torch.cat([*(order.gather(1, pick) for pick in picks), none[0].long()], dim=1)
    return torch.where(kept, index, 0), kept


def _area(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def _limit(iou: float, closed: bool) -> float:
    """The float32 limit for which "overlap > limit" means "overlap > iou" exactly, or "overlap >= iou" if `closed`.

    It is the largest float32 not above `iou`, or below `iou` if `closed`. Computed in Python, so that a tracer sees a
    constant.
    """
    if closed:
        iou = math.nextafter(iou, -math.inf)
    if math.isinf(iou):
        return iou
    unit = 2.0 ** (max(math.frexp(iou)[1], -125) - 24)  # the last bit of a float32 of this size
    return math.floor(iou / unit) * unit
