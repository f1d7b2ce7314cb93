"""From what the heads say to D detections (section 3.1, inference)."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import BoxArithmetic, BoxHeadConfig, KeypointHeadConfig
from ..ops.boxes import clip, decode, last_pixels, to_canvas, to_image
from ..ops.dispatch import may_look
from ..ops.heatmap import decode_keypoints
from ..ops.nms import nms
from ..structures import Detections, Images, Proposals


def candidates(
    proposals: Proposals,
    class_logits: Float[Tensor, "B P K1"],
    box_deltas: Float[Tensor, "B P Kd 4"],
    images: Images,
    config: BoxHeadConfig,
    arithmetic: BoxArithmetic,
) -> Detections:
    """Softmax, each class's deltas, clipping: every class of every proposal whose score exceeds the threshold.

    Nothing is suppressed yet, and the order means nothing. Boxes are decoded and clipped in canvas pixels or, as in
    Detectron, in pixels of the original image; those that come back are on the canvas.
    """
    scores = class_logits.float().softmax(dim=-1)[..., :-1]  # [B P K]
    K = scores.shape[2]
    # Fewer than 1 / threshold classes of a proposal can exceed the threshold, so no other class needs decoding.
    width = min(K, int(1 / config.score_threshold) + 1) if config.score_threshold > 0 else K
    top = scores.topk(width, dim=2)  # [B P w]
    rows = top.indices.clamp(max=box_deltas.shape[2] - 1)
    deltas = box_deltas.gather(2, rows[..., None].expand(-1, -1, -1, 4))
    in_image, inclusive = arithmetic.frame == "image", arithmetic.inclusive
    reference, limits = proposals.boxes, images.sizes
    if in_image:
        reference, limits = to_image(reference, images.scales, inclusive), (images.sizes / images.scales).round()
    boxes = decode(deltas, reference[:, :, None].expand(-1, -1, width, -1), config.weights)
    finite = torch.isfinite(boxes).all(-1) & torch.isfinite(top.values)
    boxes = clip(torch.where(finite[..., None], boxes, 0.0), limits, keep=float(inclusive))
    large = (boxes[..., 2:] - boxes[..., :2] > config.min_size).all(-1)
    valid = finite & large & (top.values > config.score_threshold) & proposals.valid[..., None]
    boxes = boxes.flatten(1, 2)
    if in_image:
        boxes = to_canvas(boxes, images.scales, inclusive)
    return Detections(boxes, top.values.flatten(1), top.indices.flatten(1), None, None, valid.flatten(1))


def select(
    candidates: Detections,
    images: Images,
    config: BoxHeadConfig,
    arithmetic: BoxArithmetic,
    thresholds: Float[Tensor, " K"] | None = None,
) -> Detections:
    """Non-maximum suppression, then the best `config.max_detections`, best first.

    Boxes suppress others of their class or, if `config.nms` is "agnostic", of any: one object, one class. With
    `thresholds`, all that reach that of their class come before those that do not.
    """
    boxes, labels, rank = candidates.boxes, candidates.labels, candidates.scores
    if thresholds is not None:  # within a class the order, and so what is suppressed, stays the same
        rank = torch.where(rank >= thresholds[labels], rank, rank - 1)
    if arithmetic.frame == "image":
        boxes = to_image(boxes, images.scales, arithmetic.inclusive)
    index, kept = nms(
        boxes,
        rank,
        labels if config.nms == "class" else torch.zeros_like(labels),
        candidates.valid,
        iou=config.nms_iou,
        top=config.max_detections,
        closed=arithmetic.nms_closed,
    )
    boxes = candidates.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Detections(
        torch.where(kept[..., None], boxes, 0.0),
        torch.where(kept, candidates.scores.gather(1, index), 0.0),
        torch.where(kept, labels.gather(1, index), 0),
        None,
        None,
        kept,
    )


def mask_probabilities(logits: Float[Tensor, "B D M M"] | Float[Tensor, "B D 2 M M"]) -> Float[Tensor, "B D M M"]:
    """The probability that a pixel belongs to the object: sigmoid or, if classes compete (Table 2b), softmax."""
    return logits[:, :, 1].exp() if logits.dim() == 5 else logits.sigmoid()


def locate_keypoints(
    heatmaps: Float[Tensor, "B D J Q Q"],
    detections: Detections,
    images: Images,
    config: KeypointHeadConfig,
    arithmetic: BoxArithmetic,
) -> Float[Tensor, "B D J 3"]:
    """x, y on the canvas and score of each detection's keypoints: the highest point of each map, laid over the box.

    It is found among the pixels of the canvas or, as in Detectron, of the original image.
    """
    B, D = detections.valid.shape
    boxes, factor = last_pixels(detections.boxes, arithmetic.inclusive), None
    bound = None if may_look(boxes) else (images.pixels.shape[-2], images.pixels.shape[-1])
    if config.frame == "image":
        factor, bound = images.scales.float().flip(-1)[:, None], None  # [B 1 2]
        boxes = boxes / factor.repeat(1, 1, 2)
    found = decode_keypoints(
        heatmaps.flatten(0, 1), boxes.flatten(0, 1), score=config.score, points=config.points, bound=bound
    ).unflatten(0, (B, D))
    if factor is not None:
        found = torch.cat((found[..., :2] * factor[:, :, None], found[..., 2:]), dim=-1)
    return torch.where(detections.valid[..., None, None], found, 0.0)
