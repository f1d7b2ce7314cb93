"""Mask R-CNN on one page: `loss` and `detect` are section 3 of the paper. `build.py` is the parts list."""

import torch
from torch import Tensor, nn

from ..config import ONE_VIEW, TTA, ModelConfig
from ..device import Precision
from ..ops.boxes import last_pixels
from ..structures import Detections, GroundTruth, Images, Losses, Proposals, RoIs, Term
from .inference import candidates, locate_keypoints, mask_probabilities, select
from .layers import Normalise, drop_empty_slots, on_valid
from .losses import box_loss, keypoint_loss, mask_loss, rpn_loss
from .pooler import Pool
from .rpn import RPN, RPNOutput, propose
from .targets import foreground, keypoint_targets, label_anchors, mask_targets, sample_rois, with_known_masks

Pyramid = list[Tensor]  # maps [B C h w], finest first; the last may be the RPN's alone


class MaskRCNN(nn.Module):
    """Mask R-CNN, arXiv 1703.06870: a backbone, a region proposal network, and three heads that read its regions.

    Prepared for inference (`accelerate.prepare`), it is the PyTorch backend of an `Engine`.
    """

    precision: Precision = "fp32"  # of a prepared copy
    views: TTA = ONE_VIEW
    thresholds: Tensor | None = None  # [K], the score from which a class's detections come first, set by an `Engine`

    def __init__(
        self,
        config: ModelConfig,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN,
        box_pool: Pool,
        box_head: nn.Module,
        detail_pool: Pool | None,
        mask_head: nn.Module | None,
        keypoint_head: nn.Module | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.input)
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.box_pool, self.box_head = box_pool, box_head
        self.detail_pool = detail_pool  # of masks and keypoints; None if they share the box branch's (C4)
        self.mask_head, self.keypoint_head = mask_head, keypoint_head
        self.box_loss, self.mask_loss, self.keypoint_loss = box_loss, mask_loss, keypoint_loss

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalise.mean.device

    def pyramid(self, images: Images) -> Pyramid:
        """The features of backbone and FPN."""
        return self.neck(self.backbone(self.normalise(images)))

    # --- training: the multi-task loss, L = L_cls + L_box + L_mask (section 3), and the RPN's two terms --------------

    def loss(self, images: Images, gt: GroundTruth) -> Losses:
        """The terms of a batch, each as a sum and a count."""
        pyramid = self.pyramid(images)
        scored = self.rpn(pyramid, images)
        proposals = propose(scored, images, self.config.rpn, self.config.box_arithmetic, training=True)
        return Losses(*self.rpn_terms(scored, gt, images), *self.head_terms(pyramid, proposals, gt, images))

    def rpn_terms(self, scored: RPNOutput, gt: GroundTruth, images: Images) -> tuple[Term, Term]:
        """How well the RPN separates objects from background, and how well its deltas move anchors onto them."""
        config = self.config
        targets = label_anchors(scored.anchors, gt, images, config.rpn, config.box_arithmetic, crowds=config.crowds)
        return rpn_loss(scored, targets, config.rpn)

    def head_terms(
        self, pyramid: Pyramid, proposals: Proposals, gt: GroundTruth, images: Images
    ) -> tuple[Term, Term, Term | None, Term | None]:
        """The class and box terms of sampled RoIs, the mask and keypoint terms of those on an object."""
        config = self.config
        rois = self.sample(pyramid, proposals, gt, images)
        features = self.box_pool(pyramid, rois.boxes, rois.valid)  # [B R C S S]
        class_logits, box_deltas = on_valid(self.box_head, rois.valid, features)
        box_terms = self.box_loss(class_logits, box_deltas, rois, config.box_head)
        if self.mask_head is None and self.keypoint_head is None:
            return *box_terms, None, None
        fg = drop_empty_slots(foreground(rois, config.box_head))  # [B F ...]
        features = features[:, : fg.valid.shape[1]]
        if self.detail_pool is not None:
            features = self.detail_pool(pyramid, fg.boxes, fg.valid)
        fg = fg._replace(boxes=last_pixels(fg.boxes, config.box_arithmetic.inclusive))  # what masks are laid over
        mask_term = keypoint_term = None
        if self.mask_head is not None:
            logits = on_valid(self.mask_head, fg.valid, features, fg.labels)
            targets = mask_targets(fg, gt, config.mask_head, side=logits.shape[-1])
            mask_term = self.mask_loss(logits, targets, with_known_masks(fg, gt))
        if self.keypoint_head is not None:
            heatmaps = on_valid(self.keypoint_head, fg.valid, features)
            keypoint_term = self.keypoint_loss(heatmaps, *keypoint_targets(fg, gt, side=heatmaps.shape[-1]))
        return *box_terms, mask_term, keypoint_term

    def sample(self, pyramid: Pyramid, proposals: Proposals, gt: GroundTruth, images: Images) -> RoIs:
        """The RoIs to learn from, drawn at random."""
        config = self.config
        return sample_rois(proposals, gt, images.seeds, config.box_head, classes=config.classes, crowds=config.crowds)

    # --- inference: propose, classify, select; then masks and keypoints of the best boxes only (section 3.1) ---------

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        """What the model finds, on the canvas. Given proposals take the place of the RPN's."""
        config, arithmetic = self.config, self.config.box_arithmetic
        pyramid = self.pyramid(images)
        if proposals is None:
            proposals = propose(self.rpn(pyramid, images), images, config.rpn, arithmetic)
        proposals = drop_empty_slots(proposals)
        class_logits, box_deltas = self.box_head(self.box_pool(pyramid, proposals.boxes, proposals.valid))
        classified = candidates(proposals, class_logits, box_deltas, images, config.box_head, arithmetic)
        found = drop_empty_slots(select(classified, images, config.box_head, arithmetic, self.thresholds))
        if self.mask_head is None and self.keypoint_head is None:
            return found
        pool = self.box_pool if self.detail_pool is None else self.detail_pool
        features = pool(pyramid, found.boxes, found.valid)
        if self.mask_head is not None:
            found = found._replace(masks=mask_probabilities(self.mask_head(features, found.labels)))
        if self.keypoint_head is not None:
            heatmaps = self.keypoint_head(features)
            keypoints = locate_keypoints(heatmaps, found, images, config.keypoint_head, arithmetic)
            found = found._replace(keypoints=keypoints)
        return found

    def propose(self, images: Images, *, training: bool = False) -> Proposals:
        """The RPN's boxes alone, as many as a training step or a detection takes."""
        pyramid = [] if self.rpn.features is not None else self.pyramid(images)
        scored = self.rpn(pyramid, images)
        return propose(scored, images, self.config.rpn, self.config.box_arithmetic, training=training)
