"""Mask targets as the other frameworks make them, so that their weights go on learning what they were taught.

`targets.mask_targets` is our own rule. Here every bit of a stored mask is a canvas pixel, as in an image-size bitmap
of which only the object's window is kept, or the polygons themselves are at hand.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.coco_raster import coco_raster
from ..ops.roi_align import roi_align
from ..structures import GroundTruth, RoIs

_SMALLEST = 0.1  # canvas pixels; a RoI counts as at least that wide and high where it is cut into cells


def bitmap_targets(
    rois: RoIs, gt: GroundTruth, *, side: int, aligned: bool = False, soft: bool = True
) -> Float[Tensor, "B F M M"]:
    """RoIAlign of each RoI's bitmap with as many points as a cell has pixels: torchvision's rule.

    The share of a cell that the object covers, or where not `soft` whether that is half (with `aligned` that is
    Detectron2's rule for bitmaps). Slots that hold no RoI are 0. `gt.mask_boxes` are whole canvas pixels, S of them.
    """
    assert gt.masks is not None
    assert gt.mask_boxes is not None
    maps = gt.masks.float()[:, :, None].unbind(1)  # G maps [B 1 S S]: what the operator calls levels are the objects
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
    """Each RoI's polygons drawn anew, by cocoapi's rule, on a side x side grid laid over the RoI: Detectron2's rule.

    An object that came as a bitmap is seen by `bitmap_targets`. The drawing is the host's work, whatever the device.
    """
    assert gt.outlines is not None
    spans = gt.outlines.spans.gather(1, rois.gt_index[..., None].expand(-1, -1, 2))  # [B F 2]
    spans = torch.where(rois.valid[..., None], spans, 0)
    boxes = rois.boxes.detach().float().cpu().flatten(0, 1)
    sides = torch.where(rois.valid.cpu().reshape(-1, 1), boxes[:, 2:] - boxes[:, :2], 1.0)
    scales = side / sides.clamp(min=_SMALLEST)  # in float32, as there
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
