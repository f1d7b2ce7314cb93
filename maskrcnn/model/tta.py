"""Test-time augmentation (Table 8, last row): one image seen at several scales, also mirrored.

As Detectron does it: the candidates of all views are brought into one frame and suppressed together. The boxes that
are left go back to every view, and the masks (probabilities) and heatmaps (logits) that the views give are averaged.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import TTA
from ..device import Precision
from ..ops.boxes import mirror, to_canvas, to_image
from ..structures import Detections, Images, Proposals
from .inference import candidates, locate_keypoints, mask_probabilities, select
from .layers import drop_empty_slots
from .mask_rcnn import MaskRCNN
from .rpn import propose


class Views:
    """A model that looks at each image several times: a backend that wraps the prepared model.

    The maps of every view are in memory until the end.

    Args:
        model: prepared for inference.
        views: the scales, and whether each view is also mirrored.
        flip_pairs: left and right keypoints, exchanged by a mirror; indices into the J keypoints of all categories.
    """

    def __init__(self, model: MaskRCNN, views: TTA, flip_pairs: Sequence[tuple[int, int]]) -> None:
        self.model, self.views, self.flip_pairs = model, views, flip_pairs

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def precision(self) -> Precision:
        """The model's."""
        return self.model.precision

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        """What is found on the canvas of `images`, which is the first view; `images.views` are the others.

        With `views.flip` the second half of all views are those of the first half, mirrored. ValueError for given
        proposals.
        """
        if proposals is not None:
            raise ValueError("test-time augmentation makes its own proposals and takes none")
        model, config = self.model, self.model.config
        seen = [images._replace(views=()), *images.views]
        straight = len(seen) // 2 if self.views.flip else len(seen)
        first, flips = seen[0], [place >= straight for place in range(len(seen))]
        pyramids = [model.pyramid(view) for view in seen]
        found = []
        for view, pyramid, flip in zip(seen, pyramids, flips, strict=True):
            proposals = drop_empty_slots(propose(model.rpn(pyramid, view), view, config.rpn, config.box_arithmetic))
            class_logits, box_deltas = model.box_head(model.box_pool(pyramid, proposals.boxes, proposals.valid))
            here = candidates(proposals, class_logits, box_deltas, view, config.box_head, config.box_arithmetic)
            found.append(here._replace(boxes=self._moved(here.boxes, view, first, flip)))
        together = (torch.cat(fields, 1) for fields in zip(*(_seen(each) for each in found), strict=True))
        boxes, scores, labels, valid = together
        merged = Detections(boxes, scores, labels, None, None, valid)
        merged = select(merged, first, config.box_head, config.box_arithmetic, model.thresholds)
        merged = drop_empty_slots(merged)
        masks = heatmaps = None
        for view, pyramid, flip in zip(seen, pyramids, flips, strict=True):
            there = merged._replace(boxes=self._moved(merged.boxes, first, view, flip))
            mask, heatmap = self._details(pyramid, there)
            if flip:
                mask = None if mask is None else mask.flip(-1)
                heatmap = None if heatmap is None else self._exchanged(heatmap.flip(-1))
            masks, heatmaps = _added(masks, mask, len(seen)), _added(heatmaps, heatmap, len(seen))
        merged = merged._replace(masks=masks)
        if heatmaps is None:
            return merged
        keypoints = locate_keypoints(heatmaps, merged, first, config.keypoint_head, config.box_arithmetic)
        return merged._replace(keypoints=keypoints)

    def _details(self, pyramid: list[Tensor], detections: Detections) -> tuple[Tensor | None, Tensor | None]:
        """Mask probabilities [B D M M] and heatmaps [B D J Q Q] of one view, of the branches that there are."""
        model = self.model
        if model.mask_head is None and model.keypoint_head is None:
            return None, None
        pool = model.box_pool if model.detail_pool is None else model.detail_pool
        features = pool(pyramid, detections.boxes, detections.valid)
        masks = None if model.mask_head is None else mask_probabilities(model.mask_head(features, detections.labels))
        return masks, None if model.keypoint_head is None else model.keypoint_head(features)

    def _moved(
        self, boxes: Float[Tensor, "B N 4"], source: Images, target: Images, flip: bool
    ) -> Float[Tensor, "B N 4"]:
        """Boxes of one view on the canvas of another, through the original image; `flip` if one of them is mirrored."""
        inclusive = self.model.config.box_arithmetic.inclusive
        boxes = to_image(boxes, source.scales, inclusive)
        if flip:
            boxes = mirror(boxes, source.original_sizes[:, 1])
        return to_canvas(boxes, target.scales, inclusive)

    def _exchanged(self, heatmaps: Float[Tensor, "B D J Q Q"]) -> Float[Tensor, "B D J Q Q"]:
        """Left keypoints in the places of right ones."""
        order = list(range(heatmaps.shape[2]))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return torch.stack([heatmaps[:, :, keypoint] for keypoint in order], dim=2)  # a list as index would be copied


def _seen(found: Detections) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return found.boxes, found.scores, found.labels, found.valid


def _added(mean: Tensor | None, part: Tensor | None, count: int) -> Tensor | None:
    """The mean of `count` parts so far."""
    if part is None:
        return None
    return part / count if mean is None else mean + part / count
