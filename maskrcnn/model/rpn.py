"""The region proposal network (Faster R-CNN, section 3): head, and `propose`, which turns its answers into P slots."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from ..ops.boxes import clip, decode
from ..ops.nms import nms
from ..structures import Proposals
from .anchors import anchor_grid, cell_anchors
from .layers import ConvNorm, init_normal


class RPNOutput(NamedTuple):
    """Anchors of all levels, finest first, and what the head says of them."""

    anchors: Float[Tensor, "A 4"]
    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    counts: tuple[int, ...]  # anchors per level


class RPN(nn.Module):
    """The head, shared by all levels: 3x3 convolutions with ReLU, then objectness and deltas of a cell's anchors."""

    def __init__(
        self,
        channels: int,
        *,
        strides: Sequence[int],
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        convs: int,
        rounding: str,
        order: str,
        stride_rule: str,
    ) -> None:
        super().__init__()
        per_cell = len(sizes[0]) * len(ratios)
        self.convs = nn.Sequential(*(ConvNorm(channels, channels, 3, relu=True) for _ in range(convs)))
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * per_cell, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_normal(module, 0.01)
        self.strides, self.stride_rule = tuple(strides), stride_rule
        for level, (stride, level_sizes) in enumerate(zip(strides, sizes, strict=True)):
            cells = cell_anchors(level_sizes, ratios, stride, rounding=rounding, order=order)
            self.register_buffer(f"cells{level}", cells, persistent=False)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]], canvas: tuple[int, int]) -> RPNOutput:
        anchors, logits, deltas = [], [], []
        for level, feature in enumerate(pyramid):
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
    rpn: RPNOutput,
    sizes: Num[Tensor, "B 2"],
    *,
    pre_nms: int,
    post_nms: int,
    nms_iou: float,
    min_size: float,
    score: str = "logit",
    inclusive: bool = False,
    closed: bool = False,
) -> Proposals:
    """The `post_nms` best boxes of an image: top `pre_nms` of a level, decoded, clipped, suppressed within the level.

    No gradient flows through the boxes: this is approximate joint training (Faster R-CNN, section 3.2).
    """
    deltas, references, scores, levels = [], [], [], []
    start = 0
    for level, count in enumerate(rpn.counts):
        top = rpn.logits[:, start : start + count].detach().topk(min(pre_nms, count), dim=1)
        picked = (start + top.indices)[..., None].expand(-1, -1, 4)
        deltas.append(rpn.deltas.detach().gather(1, picked))
        references.append(rpn.anchors.expand(len(picked), -1, -1).gather(1, picked))
        # Probabilities near 1 tie where logits do not, and of ties the first goes on: so it is in torchvision.
        scores.append(top.values.sigmoid() if score == "probability" else top.values)
        levels.append(torch.full_like(top.indices, level))
        start += count
    value = torch.cat(scores, 1)
    box = decode(torch.cat(deltas, 1), torch.cat(references, 1), inclusive=inclusive)
    box, valid = _clipped(box, sizes, min_size, inclusive)
    valid = valid & torch.isfinite(value)
    index, kept = nms(
        box, value, torch.cat(levels, 1), valid, iou=nms_iou, top=post_nms, inclusive=inclusive, closed=closed
    )
    return _gathered(box, value, index, kept)


def _clipped(boxes: Tensor, sizes: Tensor, min_size: float, inclusive: bool) -> tuple[Tensor, Tensor]:
    """Boxes cut to the image, zero where not finite, and which of them are larger than `min_size`."""
    finite = torch.isfinite(boxes).all(dim=-1)
    boxes = clip(torch.where(finite[..., None], boxes, 0.0), sizes, inclusive=inclusive)
    sides = boxes[..., 2:] - boxes[..., :2] + (1.0 if inclusive else 0.0)
    large = (sides > min_size) if min_size == 0 else (sides >= min_size)
    return boxes, finite & large.all(dim=-1)


def _gathered(boxes: Tensor, scores: Tensor, index: Int[Tensor, "B P"], valid: Tensor) -> Proposals:
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    scores = scores.gather(1, index)
    return Proposals(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, scores, 0.0), valid)
