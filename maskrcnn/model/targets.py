"""What anchors, RoIs, masks and keypoints should say: match, sample, and crop the ground truth (section 3.1)."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import BoxArithmetic, BoxHeadConfig, MaskHeadConfig, RPNConfig
from ..ops.boxes import encode, harmless, last_pixels
from ..ops.coco_raster import coco_raster
from ..ops.crop_masks import crop_masks
from ..ops.heatmap import encode_keypoints
from ..ops.match import match
from ..ops.roi_align import roi_align
from ..ops.sample import random_keys, sample
from ..structures import AnchorTargets, GroundTruth, Images, Proposals, RoIs

ANCHOR_STREAM, ROI_STREAM = 1, 2  # keep the random choices of a step apart
# How much of a box may lie in a crowd before it is no negative; the other frameworks drop crowds from training.
IGNORED_SHARE = {"ignore": 0.5, "drop": math.inf}


def label_anchors(
    anchors: Float[Tensor, "A 4"],
    gt: GroundTruth,
    images: Images,
    config: RPNConfig,
    arithmetic: BoxArithmetic,
    *,
    crowds: str,
) -> AnchorTargets:
    """The anchors that carry RPN loss, 256 per image: foreground at IoU >= 0.7 or as some object's best, else < 0.3.

    With `crowds` "ignore", an anchor that lies more than half inside a crowd is no negative.
    """
    boxes = anchors.expand(len(images.seeds), -1, -1)
    inside = None
    if config.inside_only:
        limits = images.sizes.to(anchors.dtype).flip(-1)[:, None]
        ends = last_pixels(boxes, arithmetic.inclusive)[..., 2:]
        inside = (boxes[..., :2] >= 0).all(-1) & (ends < limits).all(-1)
    found = match(boxes, gt.boxes, gt.valid, gt.ignore, candidates=inside)
    positive = (found.iou >= config.positive_iou) | found.best_of_gt
    negative = (found.iou < config.negative_iou) & (found.ignored <= IGNORED_SHARE[crowds]) & ~positive
    if inside is not None:
        positive, negative = positive & inside, negative & inside
    keys = random_keys(images.seeds, anchors.shape[0], ANCHOR_STREAM)
    index, foreground, valid = sample(
        positive, negative, keys, size=config.samples, positive_fraction=config.positive_fraction
    )
    matched = _rows(gt.boxes, found.index.gather(1, index))
    unit = harmless(anchors)
    reference = torch.where(foreground[..., None], anchors[index], unit)
    deltas = encode(torch.where(foreground[..., None], matched, unit), reference)
    return AnchorTargets(index, deltas, foreground, valid)


def sample_rois(
    proposals: Proposals,
    gt: GroundTruth,
    seeds: Int[Tensor, " B"],
    config: BoxHeadConfig,
    *,
    classes: int,
    crowds: str,
) -> RoIs:
    """512 (C4: 64) of the proposals and the true boxes, a quarter of them foreground: IoU >= 0.5 with an object.

    With `crowds` "ignore", a box that lies more than half inside a crowd is no background.
    """
    boxes, valid = proposals.boxes, proposals.valid
    if config.append_gt:
        boxes = torch.cat((boxes, gt.boxes), dim=1)
        valid = torch.cat((valid, gt.valid & ~gt.ignore), dim=1)
    boxes = torch.where(valid[..., None], boxes, 0.0)
    found = match(boxes, gt.boxes, gt.valid, gt.ignore)
    positive = valid & (found.iou >= config.positive_iou)
    negative = valid & (found.iou < config.positive_iou) & (found.ignored <= IGNORED_SHARE[crowds])
    keys = random_keys(seeds, boxes.shape[1], ROI_STREAM)
    index, foreground, kept = sample(
        positive, negative, keys, size=config.samples, positive_fraction=config.positive_fraction
    )
    gt_index = torch.where(foreground, found.index.gather(1, index), 0)
    labels = torch.where(foreground, gt.labels.gather(1, gt_index), classes)
    picked = torch.where(kept[..., None], _rows(boxes, index), 0.0)
    return RoIs(picked, labels, gt_index, _rows(gt.boxes, gt_index), foreground, kept)


def foreground(rois: RoIs, config: BoxHeadConfig) -> RoIs:
    """The foreground RoIs, which the mask and the keypoint branch learn from, in the first F slots."""
    most = config.samples if config.ohem else round(config.samples * config.positive_fraction)
    first = RoIs(*(field[:, :most] for field in rois))
    return first._replace(labels=torch.where(first.foreground, first.labels, 0), valid=first.foreground)


# --- masks ------------------------------------------------------------------------------------------------------------


def with_known_masks(fg: RoIs, gt: GroundTruth) -> RoIs:
    """`fg`, valid only if the object's mask is known: one without a bit or an outline has a box alone."""
    assert gt.masks is not None
    known = (gt.masks != 0).flatten(2).any(dim=2)  # [B G]
    if gt.outlines is not None:
        known = known | (gt.outlines.spans[..., 1] > gt.outlines.spans[..., 0])
    return fg._replace(valid=fg.valid & known.gather(1, fg.gt_index))


def mask_targets(rois: RoIs, gt: GroundTruth, config: MaskHeadConfig, *, side: int) -> Float[Tensor, "B F M M"]:
    """The mask of each RoI's object seen through the RoI, side x side, 0..1, by the rule `config.target`.

    "hard" is ours, 0 or 1. "soft" is torchvision's and "polygon" Detectron2's, so that their weights go on learning
    what they have learned.
    """
    rule = {"hard": crop_targets, "soft": bitmap_targets, "polygon": polygon_targets}[config.target]
    return rule(rois, gt, side=side)


def crop_targets(rois: RoIs, gt: GroundTruth, *, side: int, samples: int = 4) -> Float[Tensor, "B F M M"]:
    """Bilinear interpolation of the stored bits at `samples` points per cell and axis, averaged and cut at 0.5."""
    assert gt.masks is not None
    assert gt.mask_boxes is not None
    covered = crop_masks(gt.masks, gt.mask_boxes, rois.gt_index, rois.boxes, rois.valid, side=side, samples=samples)
    return (covered >= 0.5).float()


def bitmap_targets(
    rois: RoIs, gt: GroundTruth, *, side: int, aligned: bool = False, soft: bool = True
) -> Float[Tensor, "B F M M"]:
    """RoIAlign of each RoI's bitmap with as many points as a cell has pixels: torchvision's rule.

    Gives the share of a cell that the object covers or, unless `soft`, whether that is half (with `aligned` that is
    Detectron2's rule for bitmaps). A stored mask is a window of the bitmap: each bit is a canvas pixel, and zeros
    surround the object unless the image ends there, so that RoIAlign of the window is that of the whole bitmap.
    """
    assert gt.masks is not None
    assert gt.mask_boxes is not None
    maps = gt.masks.float()[:, :, None].unbind(1)  # G maps [B 1 S S], the operator's levels: a RoI reads its object's
    corner = gt.mask_boxes.gather(1, rois.gt_index[..., None].expand(-1, -1, 4))[..., :2].repeat(1, 1, 2)
    covered = roi_align(
        maps,
        rois.boxes - corner,
        rois.gt_index,
        rois.valid,
        scales=[(1.0, 1.0)] * len(maps),
        size=side,
        sampling=0,
        aligned=aligned,
    )[:, :, 0]
    return covered if soft else (covered >= 0.5).float()


def polygon_targets(rois: RoIs, gt: GroundTruth, *, side: int) -> Float[Tensor, "B F M M"]:
    """Each RoI's polygons, drawn anew by cocoapi's rule on a side x side grid over the RoI: Detectron2's rule.

    An object that came as a bitmap is seen by `bitmap_targets`. The host draws, whatever the device.
    """
    assert gt.outlines is not None
    spans = gt.outlines.spans.gather(1, rois.gt_index[..., None].expand(-1, -1, 2))  # [B F 2]
    spans = torch.where(rois.valid[..., None], spans, 0)
    boxes = rois.boxes.detach().float().cpu().flatten(0, 1)
    sides = torch.where(rois.valid.cpu().reshape(-1, 1), boxes[:, 2:] - boxes[:, :2], 1.0)
    scales = side / sides.clamp(min=0.1)  # canvas pixels; in float32, as in Detectron2
    drawn = coco_raster(
        gt.outlines.points.cpu().numpy(),
        gt.outlines.parts.cpu().numpy(),
        spans.cpu().flatten(0, 1).numpy(),
        boxes[:, :2].numpy().astype(np.float64),
        scales.numpy().astype(np.float64),
        (side, side),
    )
    targets = torch.from_numpy(drawn).to(rois.boxes).unflatten(0, spans.shape[:2])
    if gt.masks is None or gt.masks.shape[-1] == 1:  # no object came as a bitmap
        return targets
    bitmaps = bitmap_targets(rois, gt, side=side, aligned=True, soft=False)
    return torch.where((spans[..., 1] > spans[..., 0])[..., None, None], targets, bitmaps)


# --- keypoints --------------------------------------------------------------------------------------------------------


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
