"""Test-time augmentation (Table 1's rivals; Table 8, last row): one image seen at several scales, also mirrored.

As Detectron does it: the candidates of all views are brought into one frame and suppressed together; the boxes that
are left go back to every view, whose masks (probabilities) and heatmaps of keypoints (logits) are averaged.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..structures import Detections, Images
from .mask_rcnn import MaskRCNN


class TTA(NamedTuple):
    """The views of an image. The default is the paper's: shorter sides of 400, 500 .. 1200 for a model of 800."""

    scales: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5)  # of the model's own size
    flip: bool = True  # each view also mirrored left to right


def choose_views(tta: TTA | bool) -> TTA | None:
    """`tta`, where True is the paper's views and False none. Raises `ConfigError` for impossible scales.

    The scale nearest 1 comes first: its canvas is the answer's, on which some models seek keypoints pixel by pixel.
    """
    if tta is False:
        return None
    tta = TTA() if tta is True else tta
    if not tta.scales or not all(0.1 <= scale <= 10 for scale in tta.scales):
        raise ConfigError(f"tta takes scales between 0.1 and 10, such as 0.5,1,1.5; it got {list(tta.scales)}")
    return tta._replace(scales=tuple(sorted(tta.scales, key=lambda scale: (abs(math.log(scale)), -scale))))


def detect_views(
    model: MaskRCNN, views: Sequence[Images], *, flip: bool, flip_pairs: Sequence[tuple[int, int]]
) -> Detections:
    """What the model finds in a batch of images, on the canvas of their first view.

    The maps of every view are in memory until the end.

    Args:
        views: the same images at several sizes, one canvas a view. The first is best the one of the model's own size.
        flip: whether the second half of the views are those of the first half mirrored.
        flip_pairs: left and right keypoints, exchanged by a mirror; indices into the J keypoints of all categories.
    """
    first, straight = views[0], len(views) // (2 if flip else 1)
    seen = [(view, place >= straight) for place, view in enumerate(views)]
    pyramids = [model.pyramid(images) for images, _ in seen]
    found = []
    for (images, flipped), pyramid in zip(seen, pyramids, strict=True):
        candidates = model.candidates(pyramid, images)
        found.append(candidates._replace(boxes=_moved(model, candidates.boxes, images, first, flipped)))
    boxes, scores, labels = (torch.cat([getattr(f, name) for f in found], 1) for name in ("boxes", "scores", "labels"))
    merged = Detections(boxes, scores, labels, None, None, torch.cat([f.valid for f in found], 1))
    detections = model.filled(model.steps.select(merged, first.scales))
    masks = heatmaps = None
    for (images, flipped), pyramid in zip(seen, pyramids, strict=True):
        there = detections._replace(boxes=_moved(model, detections.boxes, first, images, flipped))
        mask, heatmap = model.details(pyramid, there)
        if flipped:
            mask = None if mask is None else mask.flip(-1)
            heatmap = None if heatmap is None else _exchanged(heatmap.flip(-1), flip_pairs)
        masks, heatmaps = _added(masks, mask, len(seen)), _added(heatmaps, heatmap, len(seen))
    return model.with_details(detections, first, masks, heatmaps)


def _moved(
    model: MaskRCNN, boxes: Float[Tensor, "B N 4"], source: Images, target: Images, flipped: bool
) -> Float[Tensor, "B N 4"]:
    """Boxes of one view on the canvas of another, through the original image; `flipped` where one is mirrored."""
    scale, onto = (images.scales.flip(1).repeat(1, 2)[:, None] for images in (source, target))
    boxes = boxes / scale
    if flipped:
        boxes = model.steps.mirror(boxes, source.original_sizes[:, 1])
    return boxes * onto


def _exchanged(heatmaps: Float[Tensor, "B D J Q Q"], pairs: Sequence[tuple[int, int]]) -> Float[Tensor, "B D J Q Q"]:
    """Left keypoints in the places of right ones."""
    order = list(range(heatmaps.shape[2]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return torch.stack(
        [heatmaps[:, :, keypoint] for keypoint in order], dim=2
    )  # a list as index is copied from the host


def _added(mean: Tensor | None, part: Tensor | None, count: int) -> Tensor | None:
    """The mean of `count` parts so far."""
    if part is None:
        return None
    return part / count if mean is None else mean + part / count
