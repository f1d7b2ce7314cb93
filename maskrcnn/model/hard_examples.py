"""Online hard example mining (arXiv 1604.03540, section 4): learn from the RoIs with the largest loss."""

from dataclasses import replace

import torch
from torch import Tensor

from ..ops.nms import nms
from ..structures import GroundTruth, Images, Proposals, RoIs
from .layers import on_valid, unrecorded
from .losses import roi_errors
from .mask_rcnn import MaskRCNN
from .targets import sample_rois

_OVERLAP = 0.7  # of two RoIs that overlap more, one is kept
_ALL = 1 << 30  # more RoIs than there are: a sampler takes what there is


class HardExampleMaskRCNN(MaskRCNN):
    """Mask R-CNN that judges all RoIs first and then learns from the hardest."""

    def sample(self, pyramid: list[Tensor], proposals: Proposals, gt: GroundTruth, images: Images) -> RoIs:
        config = self.config.box_head
        every = replace(config, samples=_ALL, positive_fraction=1.0)
        rois = sample_rois(proposals, gt, images.seeds, every, classes=self.config.classes, crowds=self.config.crowds)
        with torch.no_grad():
            features = unrecorded(self.box_pool)(pyramid, rois.boxes, rois.valid)
            logits, deltas = on_valid(unrecorded(self.box_head), rois.valid, features)
            class_errors, box_errors = roi_errors(logits, deltas, rois, config)
        return hardest(rois, class_errors + box_errors, config.samples)


def hardest(rois: RoIs, errors: Tensor, samples: int) -> RoIs:
    """The `samples` RoIs with the largest of the `errors` [B R], foreground first; of overlapping ones, one."""
    index, kept = nms(rois.boxes, errors, torch.zeros_like(rois.labels), rois.valid, iou=_OVERLAP, top=samples)
    foreground = rois.foreground.gather(1, index) & kept
    order = (foreground.long() * 2 + kept.long()).argsort(dim=1, descending=True, stable=True)
    index, kept = index.gather(1, order), kept.gather(1, order)
    boxes, gt_boxes = (table.gather(1, index[..., None].expand(-1, -1, 4)) for table in (rois.boxes, rois.gt_boxes))
    return RoIs(
        torch.where(kept[..., None], boxes, 0.0),
        rois.labels.gather(1, index),
        rois.gt_index.gather(1, index),
        gt_boxes,
        foreground.gather(1, order),
        kept,
    )
