"""L = L_cls + L_box + L_mask + L_keypoint (section 3) and the RPN's two, each a sum and the count that divides it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import BoxHeadConfig, RPNConfig
from ..ops.boxes import encode, harmless
from ..structures import AnchorTargets, Losses, RoIs, Term
from .rpn import RPNOutput


def smooth_l1(error: Float[Tensor, "*N"], beta: float) -> Float[Tensor, "*N"]:
    """0.5 x^2 / beta below beta, |x| - beta / 2 above; |x| where beta is 0 (Fast R-CNN, Eq. 3)."""
    size = error.abs()
    if beta == 0:
        return size
    return torch.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def rpn_loss(scored: RPNOutput, targets: AnchorTargets, config: RPNConfig) -> tuple[Term, Term]:
    """Binary cross-entropy over the sampled anchors, smooth L1 over the foreground ones, with the count for both.

    That is the number of samples per image times images or, if `config.normalise` is "counted", the anchors sampled.
    """
    picked = torch.where(targets.valid, scored.logits.gather(1, targets.index), 0.0)  # [B N]
    class_loss = F.binary_cross_entropy_with_logits(picked, targets.foreground.float(), reduction="none")
    error = scored.deltas.gather(1, targets.index[..., None].expand(-1, -1, 4)) - targets.deltas
    error = torch.where(targets.foreground[..., None], error, 0.0)
    count = targets.valid.sum().float()
    if config.normalise == "samples":
        count = torch.full_like(count, float(config.samples * len(picked)))
    return Term((class_loss * targets.valid).sum(), count), Term(smooth_l1(error, config.smooth_l1_beta).sum(), count)


def roi_errors(
    class_logits: Float[Tensor, "B R K1"], box_deltas: Float[Tensor, "B R Kd 4"], rois: RoIs, config: BoxHeadConfig
) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """Softmax cross-entropy of each RoI, and smooth L1 of the true class's deltas, 0 for background and empty slots."""
    per_roi = F.cross_entropy(class_logits.flatten(0, 1), rois.labels.flatten(), reduction="none").view_as(rois.labels)
    rows = torch.where(rois.foreground, rois.labels, 0).clamp(max=box_deltas.shape[2] - 1)
    predicted = box_deltas.gather(2, rows[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    boxes, matched = (
        torch.where(rois.foreground[..., None], box, harmless(box)) for box in (rois.boxes, rois.gt_boxes)
    )
    error = torch.where(rois.foreground[..., None], predicted - encode(matched, boxes, config.weights), 0.0)
    return per_roi * rois.valid, smooth_l1(error, config.smooth_l1_beta).sum(-1)


def box_loss(
    class_logits: Float[Tensor, "B R K1"], box_deltas: Float[Tensor, "B R Kd 4"], rois: RoIs, config: BoxHeadConfig
) -> tuple[Term, Term]:
    """Softmax cross-entropy over the sampled RoIs; smooth L1 of the true class's deltas. Both divided by the RoIs."""
    classes, boxes = roi_errors(class_logits, box_deltas, rois, config)
    count = rois.valid.sum().float()
    return Term(classes.sum(), count), Term(boxes.sum(), count)


def mask_loss(
    logits: Float[Tensor, "B F M M"] | Float[Tensor, "B F 2 M M"], targets: Float[Tensor, "B F M M"], fg: RoIs
) -> Term:
    """Average binary cross-entropy of the true class's mask, over foreground RoIs and pixels.

    If classes compete (Table 2b), `logits` are log-probabilities of background and the true class, and the loss is the
    multinomial cross-entropy: the true class inside the object, background elsewhere.
    """
    valid = fg.valid[..., None, None]
    if logits.dim() == 5:
        logs = torch.where(valid[:, :, None], logits, 0.0)
        loss = -torch.where(targets >= 0.5, logs[:, :, 1], logs[:, :, 0])
    else:
        loss = F.binary_cross_entropy_with_logits(torch.where(valid, logits, 0.0), targets, reduction="none")
    return Term((loss * valid).sum(), fg.valid.sum().float() * targets.shape[-1] ** 2)


def keypoint_loss(logits: Float[Tensor, "B F J Q Q"], cells: Int[Tensor, "B F J"], seen: Bool[Tensor, "B F J"]) -> Term:
    """Cross-entropy of a softmax over the Q x Q positions, of the keypoints that are labelled and in their RoI."""
    logits = torch.where(seen[..., None, None], logits, 0.0)
    loss = F.cross_entropy(logits.flatten(3).flatten(0, 2), cells.flatten(), reduction="none").view_as(cells)
    return Term((loss * seen).sum(), seen.sum().float())


def total(losses: Losses) -> Float[Tensor, ""]:
    """The sum of all terms, each divided by its own count, all weights 1."""
    return torch.stack([term.sum / term.count.clamp(min=1) for term in losses if term is not None]).sum()
