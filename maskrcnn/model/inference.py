"""From what the heads say to D detections (section 3.1, inference)."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..ops.boxes import clip, decode
from ..ops.heatmap import decode_keypoints
from ..ops.nms import nms
from ..structures import Detections, Proposals


def candidates(
    proposals: Proposals,
    class_logits: Float[Tensor, "B P K1"],
    box_deltas: Float[Tensor, "B P Kd 4"],
    sizes: Num[Tensor, "B 2"],
    scales: Float[Tensor, "B 2"],
    *,
    weights: tuple[float, float, float, float],
    score_threshold: float,
    min_size: float = 0.0,
    inclusive: bool = False,
    in_image: bool = False,
) -> Detections:
    """Softmax, each class's deltas, clipping: every class of every proposal that exceeds `score_threshold`.

    Not yet suppressed, in no order. `in_image` decodes and clips in pixels of the original image (Detectron); the
    boxes that come back are on the canvas.
    """
    scores = class_logits.float().softmax(dim=-1)[..., :-1]  # [B P K]
    K = scores.shape[2]
    # Fewer than 1 / threshold classes of a proposal can exceed the threshold, so no other class needs decoding.
    width = min(K, int(1 / score_threshold) + 1) if score_threshold > 0 else K
    top = scores.topk(width, dim=2)  # [B P w]
    rows = top.indices.clamp(max=box_deltas.shape[2] - 1)
    deltas = box_deltas.gather(2, rows[..., None].expand(-1, -1, -1, 4))
    factor = _canvas_per_unit(scales, in_image)[:, :, None]  # [B 1 1 4]
    limits = (sizes / scales).round() if in_image else sizes
    reference = (proposals.boxes[:, :, None] / factor).expand(-1, -1, width, -1)
    boxes = decode(deltas, reference, weights, inclusive=inclusive)
    finite = torch.isfinite(boxes).all(-1) & torch.isfinite(top.values)
    boxes = clip(torch.where(finite[..., None], boxes, 0.0), limits, inclusive=inclusive)
    sides = boxes[..., 2:] - boxes[..., :2] + (1.0 if inclusive else 0.0)
    valid = finite & (top.values > score_threshold) & (sides > min_size).all(-1) & proposals.valid[..., None]
    boxes = boxes * factor
    return Detections(boxes.flatten(1, 2), top.values.flatten(1), top.indices.flatten(1), None, None, valid.flatten(1))


def select(
    candidates: Detections,
    scales: Float[Tensor, "B 2"],
    *,
    nms_iou: float,
    max_detections: int,
    inclusive: bool = False,
    closed: bool = False,
    in_image: bool = False,
) -> Detections:
    """Non-maximum suppression within a class, the best `max_detections`, best first; `in_image` as above."""
    index, kept = nms(
        candidates.boxes / _canvas_per_unit(scales, in_image),
        candidates.scores,
        candidates.labels,
        candidates.valid,
        iou=nms_iou,
        top=max_detections,
        inclusive=inclusive,
        closed=closed,
    )
    boxes = candidates.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Detections(
        torch.where(kept[..., None], boxes, 0.0),
        torch.where(kept, candidates.scores.gather(1, index), 0.0),
        torch.where(kept, candidates.labels.gather(1, index), 0),
        None,
        None,
        kept,
    )


def _canvas_per_unit(scales: Float[Tensor, "B 2"], in_image: bool) -> Float[Tensor, "B 1 4"]:
    """Canvas pixels per unit of the frame in which boxes are decoded and suppressed."""
    return scales.float().flip(-1).repeat(1, 2)[:, None] if in_image else scales.new_ones(len(scales), 1, 4)


def competing_mask_probabilities(logs: Float[Tensor, "B D 2 M M"]) -> Float[Tensor, "B D M M"]:
    """The share of the predicted class where classes compete for a pixel (Table 2b), from its logarithm."""
    return logs[:, :, 1].exp()


def keypoints(
    logits: Float[Tensor, "B D J Q Q"],
    detections: Detections,
    scales: Float[Tensor, "B 2"],
    *,
    score: str,
    points: str = "cells",
    in_image: bool = False,
    bound: tuple[int, int] | None = None,
) -> Float[Tensor, "B D J 3"]:
    """x, y on the canvas and score of each detection's keypoints: the highest point of each map, laid over the box.

    `in_image` finds it among the pixels of the original image (Detectron), else of the canvas, whose size is the
    `bound` of every box there.
    """
    B, D = detections.valid.shape
    factor = scales.float().flip(-1)[:, None] if in_image else scales.new_ones(B, 1, 2)
    boxes = (detections.boxes / factor.repeat(1, 1, 2)).flatten(0, 1)
    found = decode_keypoints(logits.flatten(0, 1), boxes, score=score, points=points, bound=None if in_image else bound)
    found = found.unflatten(0, (B, D))
    found = torch.cat((found[..., :2] * factor[:, :, None], found[..., 2:]), dim=-1)
    return torch.where(detections.valid[..., None, None], found, 0.0)
