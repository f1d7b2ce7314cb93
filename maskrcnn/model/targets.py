"""What anchors, RoIs and masks should say: match, sample, and crop the ground truth (section 3.1)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from ..ops.boxes import encode, harmless
from ..ops.crop_masks import crop_masks
from ..ops.heatmap import encode_keypoints
from ..ops.match import match
from ..ops.nms import nms
from ..ops.sample import random_keys, sample
from ..structures import AnchorTargets, GroundTruth, Proposals, RoIs

ANCHOR_STREAM, ROI_STREAM = 1, 2  # keep the random choices of a step apart


def label_anchors(
    anchors: Float[Tensor, "A 4"],
    gt: GroundTruth,
    sizes: Num[Tensor, "B 2"],
    seeds: Int[Tensor, " B"],
    *,
    positive_iou: float,
    negative_iou: float,
    samples: int,
    positive_fraction: float,
    inside_only: bool = False,
    ignored_share: float = 0.5,
    inclusive: bool = False,
) -> AnchorTargets:
    """The anchors that carry RPN loss, 256 of an image: IoU >= 0.7 or some object's best is foreground, < 0.3 not.

    One that lies more than `ignored_share` in a crowd is no negative.
    """
    boxes = anchors.expand(len(seeds), -1, -1)
    candidates = _inside(boxes, sizes) if inside_only else None
    found = match(boxes, gt.boxes, gt.valid, gt.ignore, candidates=candidates, inclusive=inclusive)
    positive = (found.iou >= positive_iou) | found.best_of_gt
    negative = (found.iou < negative_iou) & (found.ignored <= ignored_share) & ~positive
    if candidates is not None:
        positive, negative = positive & candidates, negative & candidates
    keys = random_keys(seeds, anchors.shape[0], ANCHOR_STREAM)
    index, foreground, valid = sample(positive, negative, keys, size=samples, positive_fraction=positive_fraction)
    matched = _rows(gt.boxes, found.index.gather(1, index))
    unit = harmless(anchors)
    reference = torch.where(foreground[..., None], anchors[index], unit)
    deltas = encode(torch.where(foreground[..., None], matched, unit), reference, inclusive=inclusive)
    return AnchorTargets(index, deltas, foreground, valid)


def sample_rois(
    proposals: Proposals,
    gt: GroundTruth,
    seeds: Int[Tensor, " B"],
    *,
    classes: int,
    samples: int,
    positive_fraction: float,
    positive_iou: float,
    append_gt: bool = True,
    ignored_share: float = 0.5,
    inclusive: bool = False,
) -> RoIs:
    """512 (C4: 64) of the proposals and the true boxes, a quarter of them foreground: IoU >= 0.5 with an object.

    One that lies more than `ignored_share` in a crowd is no background.
    """
    boxes, valid = proposals.boxes, proposals.valid
    if append_gt:
        boxes = torch.cat((boxes, gt.boxes), dim=1)
        valid = torch.cat((valid, gt.valid & ~gt.ignore), dim=1)
    boxes = torch.where(valid[..., None], boxes, 0.0)
    found = match(boxes, gt.boxes, gt.valid, gt.ignore, inclusive=inclusive)
    positive = valid & (found.iou >= positive_iou)
    negative = valid & (found.iou < positive_iou) & (found.ignored <= ignored_share)
    keys = random_keys(seeds, boxes.shape[1], ROI_STREAM)
    index, foreground, kept = sample(positive, negative, keys, size=samples, positive_fraction=positive_fraction)
    gt_index = torch.where(foreground, found.index.gather(1, index), 0)
    labels = torch.where(foreground, gt.labels.gather(1, gt_index), classes)
    picked = torch.where(kept[..., None], _rows(boxes, index), 0.0)
    return RoIs(picked, labels, gt_index, _rows(gt.boxes, gt_index), foreground, kept)


def mine_rois(
    rois: RoIs,
    class_logits: Float[Tensor, "B R K1"],
    box_deltas: Float[Tensor, "B R Kd 4"],
    *,
    errors: Callable[..., tuple[Tensor, Tensor]],
    samples: int,
    overlap: float = 0.7,
) -> RoIs:
    """The `samples` RoIs with the largest loss, foreground first; of two that overlap more than `overlap`, one.

    Online hard example mining (arXiv 1604.03540, section 4). `errors` is `losses.roi_errors`, its numbers bound.
    """
    classes, boxes = errors(class_logits, box_deltas, rois)
    group = torch.zeros_like(rois.labels)
    index, kept = nms(rois.boxes, classes + boxes, group, rois.valid, iou=overlap, top=samples)
    foreground = rois.foreground.gather(1, index) & kept
    order = (foreground.long() * 2 + kept.long()).argsort(dim=1, descending=True, stable=True)
    index, kept = index.gather(1, order), kept.gather(1, order)
    first = foreground.gather(1, order)
    return RoIs(
        torch.where(kept[..., None], _rows(rois.boxes, index), 0.0),
        rois.labels.gather(1, index),
        rois.gt_index.gather(1, index),
        _rows(rois.gt_boxes, index),
        first,
        kept,
    )


def foreground_slots(rois: RoIs, slots: int) -> RoIs:
    """The first `slots` slots, valid where foreground: the RoIs that the mask and the keypoint branch learn from."""
    first = RoIs(*(field[:, :slots] for field in rois))
    labels = torch.where(first.foreground, first.labels, 0)
    return first._replace(labels=labels, valid=first.foreground)


def with_masks(fg: RoIs, gt: GroundTruth) -> RoIs:
    """`fg`, valid only where the object's mask is known: one without a bit or an outline is an object of box alone."""
    assert gt.masks is not None
    known = (gt.masks != 0).flatten(2).any(dim=2)  # [B G]
    if gt.outlines is not None:
        known = known | (gt.outlines.spans[..., 1] > gt.outlines.spans[..., 0])
    return fg._replace(valid=fg.valid & known.gather(1, fg.gt_index))


def mask_targets(rois: RoIs, gt: GroundTruth, *, side: int, samples: int = 4) -> Float[Tensor, "B F M M"]:
    """The mask of each RoI's object seen through the RoI, side x side; 0 or 1. Other rules are in `mask_rules`.

    Bilinear interpolation of the stored bits at `samples` points per cell and axis, averaged: RoIAlign of the crop.
    """
    assert gt.masks is not None
    assert gt.mask_boxes is not None
    covered = crop_masks(gt.masks, gt.mask_boxes, rois.gt_index, rois.boxes, rois.valid, side=side, samples=samples)
    return (covered >= 0.5).float()


def keypoint_targets(rois: RoIs, gt: GroundTruth, *, side: int) -> tuple[Int[Tensor, "B F J"], Bool[Tensor, "B F J"]]:
    """The heatmap cell of each keypoint of each RoI's object, and which keypoints carry loss."""
    assert gt.keypoints is not None
    B, F = rois.gt_index.shape
    index = rois.gt_index[..., None, None].expand(B, F, *gt.keypoints.shape[2:])
    boxes = torch.where(rois.valid[..., None], rois.boxes, harmless(rois.boxes))
    cells, seen = encode_keypoints(gt.keypoints.gather(1, index), boxes, side=side)
    return cells, seen & rois.valid[..., None]


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows [B N 4] of `table` [B G 4]."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))


def _inside(boxes: Tensor, sizes: Tensor) -> Tensor:
    limits = sizes.to(boxes.dtype).flip(-1)[:, None]
    return (boxes[..., :2] >= 0).all(-1) & (boxes[..., 2:] < limits).all(-1)
