"""The region proposal network (Faster R-CNN, section 3): the head, and `propose`, which turns its scores into boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..config import AnchorConfig, BoxArithmetic, RPNConfig
from ..ops.boxes import clip, decode
from ..ops.nms import nms
from ..structures import Images, Proposals
from .anchors import anchor_grid, cell_anchors
from .layers import ConvNorm, init_normal


class RPNOutput(NamedTuple):
    """The anchors of all levels, finest first, and what the head says of each."""

    anchors: Float[Tensor, "A 4"]
    logits: Float[Tensor, "B A"]  # of an object against background
    deltas: Float[Tensor, "B A 4"]
    counts: tuple[int, ...]  # anchors per level


class RPN(nn.Module):
    """The head, shared by all levels: 3x3 convolutions with ReLU, then logits and deltas of a cell's anchors.

    `features`, if given, computes maps for the RPN alone; it then ignores the pyramid (training in two stages).
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorConfig,
        arithmetic: BoxArithmetic,
        *,
        strides: Sequence[int],
        convs: int,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        per_cell = len(anchors.sizes[0]) * len(anchors.ratios)
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, relu=True) for _ in range(convs)))
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * per_cell, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_normal(module, 0.01)
        self.features = features
        self.strides, self.stride_rule = tuple(strides), anchors.stride
        for level, (stride, sizes) in enumerate(zip(strides, anchors.sizes, strict=True)):
            cells = cell_anchors(sizes, stride, anchors)
            if arithmetic.inclusive:
                cells[:, 2:] += 1
            self.register_buffer(f"cells{level}", cells, persistent=False)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]], images: Images) -> RPNOutput:
        maps = pyramid if self.features is None else self.features(images)
        canvas = images.pixels.shape[-2:]
        anchors, logits, deltas = [], [], []
        for level, feature in enumerate(maps):
            height, width = feature.shape[-2:]
            hidden = self.convs(feature)
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))  # [B h*w*N]
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
            stride = (float(self.strides[level]), float(self.strides[level]))
            if self.stride_rule == "padded-over-feature":  # torchvision: 800 // 13 = 61 at P6
                stride = (float(canvas[0] // height), float(canvas[1] // width))
            anchors.append(anchor_grid(getattr(self, f"cells{level}"), (height, width), stride))
        counts = tuple(len(a) for a in anchors)
        return RPNOutput(torch.cat(anchors), torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), counts)


def propose(
    scored: RPNOutput, images: Images, config: RPNConfig, arithmetic: BoxArithmetic, *, training: bool = False
) -> Proposals:
    """The best boxes of each image: the top anchors of a level, decoded, clipped, suppressed within the level.

    No gradient flows through the boxes: this is approximate joint training (Faster R-CNN, section 3.2).
    """
    pre_nms, post_nms = config.pre_nms_test, config.post_nms_test
    if training:
        pre_nms, post_nms = config.pre_nms_train, config.post_nms_train
    # The best anchors of each level, N of an image
    scores, places, levels = [], [], []
    start = 0
    for level, count in enumerate(scored.counts):
        top = scored.logits[:, start : start + count].detach().topk(min(pre_nms, count), dim=1)
        # Probabilities near 1 tie where logits do not, and torchvision keeps the first of ties.
        scores.append(top.values.sigmoid() if config.score == "probability" else top.values)
        places.append(start + top.indices)
        levels.append(torch.full_like(top.indices, level))
        start += count
    score, place, level = torch.cat(scores, 1), torch.cat(places, 1), torch.cat(levels, 1)  # [B N]
    # Their boxes, cut to the image
    boxes = decode(scored.deltas.detach().gather(1, place[..., None].expand(-1, -1, 4)), scored.anchors[place])
    finite = torch.isfinite(boxes).all(-1) & torch.isfinite(score)
    boxes = clip(torch.where(finite[..., None], boxes, 0.0), images.sizes, keep=float(arithmetic.inclusive))
    sides = boxes[..., 2:] - boxes[..., :2]
    large = sides >= config.min_size if config.min_size else sides > 0
    # Suppressed within each level
    index, valid = nms(
        boxes, score, level, finite & large.all(-1), iou=config.nms_iou, top=post_nms, closed=arithmetic.nms_closed
    )
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return Proposals(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, score.gather(1, index), 0.0), valid)
