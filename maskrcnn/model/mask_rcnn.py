"""The page: Mask R-CNN as the paper draws it, with every step bound to its numbers by `build.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..structures import AnchorTargets, Detections, GroundTruth, Images, Losses, Proposals, RoIs, Term
from .layers import on_valid, unrecorded
from .pooler import Pool
from .rpn import RPN, RPNOutput
from .targets import foreground_slots, with_masks

Pyramid = list[Tensor]  # maps [B C h w], finest first; the last may be the RPN's alone


class Steps(NamedTuple):
    """The functions of the page, their numbers bound."""

    propose_train: Callable[..., Proposals]
    propose_test: Callable[..., Proposals]
    label_anchors: Callable[..., AnchorTargets]
    sample_rois: Callable[..., RoIs]
    rpn_loss: Callable[..., tuple[Term, Term]]
    box_loss: Callable[..., tuple[Term, Term]]
    mine_rois: Callable[..., RoIs] | None  # keeps the hardest of the RoIs; None where sampling is random
    mask_targets: Callable[..., Tensor]
    mask_loss: Callable[..., Term]
    keypoint_targets: Callable[..., tuple[Tensor, Tensor]]
    keypoint_loss: Callable[..., Term]
    candidates: Callable[..., Detections]
    select: Callable[..., Detections]
    mirror: Callable[..., Tensor]  # boxes in a mirrored image, for test-time augmentation
    mask_probabilities: Callable[..., Tensor]
    keypoints: Callable[..., Tensor]


class MaskRCNN(nn.Module):
    """Mask R-CNN, arXiv 1703.06870. `loss` and `detect` are the paper."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN,
        rpn_features: nn.Module | None,
        box_pool: Pool,
        box_head: nn.Module,
        detail_pool: Pool | None,
        mask_head: nn.Module | None,
        keypoint_head: nn.Module | None,
        steps: Steps,
        foreground: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        reverse_channels: bool,
        skip_empty: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.rpn_features = rpn_features  # backbone and neck of the RPN's own; None where it shares the others'
        self.box_pool, self.box_head = box_pool, box_head
        self.detail_pool = detail_pool  # of masks and keypoints; None where they share the box branch's (C4)
        self.mask_head, self.keypoint_head = mask_head, keypoint_head
        self.steps, self.foreground = steps, foreground
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.reverse_channels, self.skip_empty = reverse_channels, skip_empty

    def loss(self, images: Images, gt: GroundTruth, proposals: Proposals | None = None) -> Losses:
        """The multi-task loss of a batch (section 3), terms as sums and counts.

        With `proposals` the RPN has no part in it: the second of the paper's two stages, see `rpn_loss`.
        """
        pyramid = self.pyramid(images)
        rpn_terms: tuple[Term | None, Term | None] = (None, None)
        if proposals is None:
            rpn = self.score_anchors(images, pyramid)
            rpn_terms = self._rpn_terms(rpn, images, gt)
            proposals = self.steps.propose_train(rpn, images.sizes)
        rois = self.steps.sample_rois(proposals, gt, images.seeds)
        if self.steps.mine_rois is not None:
            rois = self._mined(pyramid, rois)
        features = self.box_pool(pyramid, rois.boxes, rois.valid)  # [B R C S S]
        box_terms = self.steps.box_loss(*self._learned(self.box_head, rois.valid, features), rois)
        return Losses(*rpn_terms, *box_terms, *self._detail_losses(pyramid, features, rois, gt))

    def rpn_loss(self, images: Images, gt: GroundTruth) -> Losses:
        """The RPN's terms alone: the first of the two stages in which the paper trained (section 3.1)."""
        return Losses(*self._rpn_terms(self.score_anchors(images), images, gt))

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        """Boxes from the proposals, then masks and keypoints on the best boxes only (section 3.1, inference)."""
        pyramid = self.pyramid(images)
        detections = self.detect_boxes(pyramid, images, proposals)
        return self.describe(pyramid, images, detections)

    def detect_boxes(self, pyramid: Pyramid, images: Images, proposals: Proposals | None = None) -> Detections:
        """Detections without masks and keypoints."""
        return self.steps.select(self.candidates(pyramid, images, proposals), images.scales)

    def candidates(self, pyramid: Pyramid, images: Images, proposals: Proposals | None = None) -> Detections:
        """What the box branch says of each proposal, before suppression."""
        if proposals is None:
            proposals = self.steps.propose_test(self.score_anchors(images, pyramid), images.sizes)
        proposals = Proposals(*(field[:, : self._slots(proposals.valid)] for field in proposals))
        logits, deltas = self.box_head(self.box_pool(pyramid, proposals.boxes, proposals.valid))
        return self.steps.candidates(proposals, logits, deltas, images.sizes, images.scales)

    def describe(self, pyramid: Pyramid, images: Images, detections: Detections) -> Detections:
        """The same detections with the mask of each, for the class predicted, and its keypoints."""
        detections = self.filled(detections)
        return self.with_details(detections, images, *self.details(pyramid, detections))

    def details(self, pyramid: Pyramid, detections: Detections) -> tuple[Tensor | None, Tensor | None]:
        """Mask probabilities [B D M M] and heatmaps of keypoints, logits [B D J Q Q], of the branches that there
        are.
        """
        if self.mask_head is None and self.keypoint_head is None:
            return None, None
        pool = self.detail_pool if self.detail_pool is not None else self.box_pool
        features = pool(pyramid, detections.boxes, detections.valid)
        masks = heatmaps = None
        if self.mask_head is not None:
            masks = self.steps.mask_probabilities(self.mask_head(features, detections.labels))
        if self.keypoint_head is not None:
            heatmaps = self.keypoint_head(features)
        return masks, heatmaps

    def with_details(
        self, detections: Detections, images: Images, masks: Tensor | None, heatmaps: Tensor | None
    ) -> Detections:
        """Detections with what `details` says of them."""
        detections = detections._replace(masks=masks)
        if heatmaps is None:
            return detections
        bound = None if self.skip_empty else (images.pixels.shape[-2], images.pixels.shape[-1])
        return detections._replace(keypoints=self.steps.keypoints(heatmaps, detections, images.scales, bound=bound))

    def filled(self, detections: Detections) -> Detections:
        """Detections without the slots that no image of the batch fills, where looking is free (`skip_empty`)."""
        some = slice(self._slots(detections.valid))
        boxes, scores, labels = detections.boxes[:, some], detections.scores[:, some], detections.labels[:, some]
        return Detections(boxes, scores, labels, None, None, detections.valid[:, some])

    def pyramid(self, images: Images) -> Pyramid:
        """The features of backbone and FPN."""
        return self.neck(self.backbone(self._normalised(images)))

    def score_anchors(self, images: Images, pyramid: Pyramid | None = None) -> RPNOutput:
        """What the RPN says of every anchor: on the pyramid, or on features of its own."""
        if self.rpn_features is not None:
            pyramid = self.rpn_features(self._normalised(images))
        elif pyramid is None:
            pyramid = self.pyramid(images)
        return self.rpn(pyramid, images.pixels.shape[-2:])

    def _normalised(self, images: Images) -> Float[Tensor, "B I H W"]:
        """Pixels less their mean over their deviation, zero outside the images.

        Along whole lines of memory, a pixel's channels being too few for a fast loop.
        """
        pixels = images.pixels.permute(0, 2, 3, 1)
        pixels = (pixels.flip(3) if self.reverse_channels else pixels).contiguous()
        B, H, W, channels = pixels.shape
        scale = 1 / self.std.flatten()
        scale, shift = scale.repeat(W), (-self.mean.flatten() * scale).repeat(W)
        x = torch.addcmul(shift, pixels.view(B, H, W * channels).to(scale.dtype), scale)
        if self.skip_empty:
            for line, (height, width) in zip(x, images.sizes.tolist(), strict=True):
                line[height:] = 0
                line[:, width * channels :] = 0
        else:
            rows = torch.arange(H, device=x.device) < images.sizes[:, :1]  # [B H]
            columns = torch.arange(W * channels, device=x.device) < images.sizes[:, 1:] * channels  # [B W*I]
            x = torch.where(rows[:, :, None] & columns[:, None], x, 0.0)
        return x.view(B, H, W, channels).permute(0, 3, 1, 2)

    def _rpn_terms(self, rpn: RPNOutput, images: Images, gt: GroundTruth) -> tuple[Term, Term]:
        anchors = self.steps.label_anchors(rpn.anchors, gt, images.sizes, images.seeds)
        return self.steps.rpn_loss(rpn.logits, rpn.deltas, anchors)

    def _detail_losses(
        self, pyramid: Pyramid, box_features: Tensor, rois: RoIs, gt: GroundTruth
    ) -> tuple[Term | None, Term | None]:
        """The terms of masks and keypoints, over the foreground RoIs alone."""
        if self.mask_head is None and self.keypoint_head is None:
            return None, None
        fg = foreground_slots(rois, min(self.foreground, rois.valid.shape[1]))
        fg = RoIs(*(field[:, : self._slots(fg.valid)] for field in fg))
        features = box_features[:, : fg.valid.shape[1]]
        if self.detail_pool is not None:
            features = self.detail_pool(pyramid, fg.boxes, fg.valid)
        mask = keypoint = None
        if self.mask_head is not None:
            logits = self._learned(self.mask_head, fg.valid, features, fg.labels)
            targets = self.steps.mask_targets(fg, gt, side=logits.shape[-1])
            mask = self.steps.mask_loss(logits, targets, with_masks(fg, gt))
        if self.keypoint_head is not None:
            logits = self._learned(self.keypoint_head, fg.valid, features)
            keypoint = self.steps.keypoint_loss(logits, *self.steps.keypoint_targets(fg, gt, side=logits.shape[-1]))
        return mask, keypoint

    def _learned(self, head: Callable[..., Any], valid: Tensor, *inputs: Tensor) -> Any:
        """A head's answers in training, of the valid slots alone where looking is free (`skip_empty`)."""
        return on_valid(head, valid, *inputs) if self.skip_empty else head(*inputs)

    def _mined(self, pyramid: Pyramid, rois: RoIs) -> RoIs:
        """The RoIs that the box branch finds hardest (online hard example mining, arXiv 1604.03540)."""
        assert self.steps.mine_rois is not None
        with torch.no_grad():
            features = unrecorded(self.box_pool)(pyramid, rois.boxes, rois.valid)
            return self.steps.mine_rois(rois, *self._learned(unrecorded(self.box_head), rois.valid, features))

    def _slots(self, valid: Tensor) -> int:
        """How many slots to compute: all, or where looking is free (`skip_empty`) as many as some image fills."""
        return max(1, int(valid.sum(1).max())) if self.skip_empty else valid.shape[1]


class Flat(nn.Module):
    """The neck of the backbones without a pyramid: the last map alone."""

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [maps[-1]]
