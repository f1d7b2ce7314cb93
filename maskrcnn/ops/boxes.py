"""Box arithmetic: area, clipping, overlap, and the encoding of one box relative to another.

All in float32; the width of a box is x2 - x1. The encoding is Eq. 2 of Faster R-CNN (arXiv 1506.01497); the clamp on
the logarithms is Detectron's. In Detectron x2 and y2 are the index of the last pixel, so its boxes are one pixel wider
than x2 - x1. They are converted once, by adding 1 to x2 and y2; `last_pixels` converts back for the layers that expect
Detectron's convention.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

LOG_SCALE_LIMIT = math.log(1000 / 16)  # a decoded side is at most 62.5 reference sides: exp cannot overflow


def area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Width times height; a negative side counts as zero."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def clip(boxes: Float[Tensor, "B *N 4"], sizes: Num[Tensor, "B 2"], *, keep: float = 0.0) -> Float[Tensor, "B *N 4"]:
    """Boxes clipped to images of `sizes` (height, width). At least `keep` pixels of each side stay inside."""
    high = sizes.to(boxes.dtype).flip(-1).repeat(1, 2) - row(boxes, (keep, keep, 0.0, 0.0))  # x, y, x, y
    high = high.view(high.shape[0], *[1] * (boxes.dim() - 2), 4)
    return boxes.maximum(row(boxes, (0.0, 0.0, keep, keep))).minimum(high)


def mirror(boxes: Float[Tensor, "B *N 4"], widths: Num[Tensor, " B"]) -> Float[Tensor, "B *N 4"]:
    """Boxes after their images, `widths` pixels wide, are mirrored left to right."""
    right = widths.to(boxes.dtype).view(-1, *[1] * (boxes.dim() - 2))
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((right - x2, y1, right - x1, y2), dim=-1)


def last_pixels(boxes: Float[Tensor, "*N 4"], inclusive: bool) -> Float[Tensor, "*N 4"]:
    """If `inclusive`, boxes whose x2 and y2 are the index of the last pixel, as in Detectron; else `boxes`."""
    return boxes - row(boxes, (0.0, 0.0, 1.0, 1.0)) if inclusive else boxes


def to_canvas(boxes: Float[Tensor, "B N 4"], scales: Num[Tensor, "B 2"], inclusive: bool) -> Float[Tensor, "B N 4"]:
    """Image boxes times `scales`, (y, x). If `inclusive`, the last pixel's index is scaled, not the edge."""
    return _first_beyond(last_pixels(boxes, inclusive) * _xyxy(scales, boxes), inclusive)


def to_image(boxes: Float[Tensor, "B N 4"], scales: Num[Tensor, "B 2"], inclusive: bool) -> Float[Tensor, "B N 4"]:
    """The inverse of `to_canvas`."""
    return _first_beyond(last_pixels(boxes, inclusive) / _xyxy(scales, boxes), inclusive)


def _first_beyond(boxes: Tensor, inclusive: bool) -> Tensor:
    """The inverse of `last_pixels`."""
    return boxes + row(boxes, (0.0, 0.0, 1.0, 1.0)) if inclusive else boxes


def _xyxy(scales: Tensor, like: Tensor) -> Tensor:
    return scales.to(like).flip(-1).repeat(1, 2)[:, None]  # [B 1 4]


def intersection(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B G 4"]) -> Float[Tensor, "*B N G"]:
    """The area that each pair of boxes shares."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B G 4"]) -> Float[Tensor, "*B N G"]:
    """Intersection over union of each pair, 0..1; 0 if both boxes are empty."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def encode(
    boxes: Float[Tensor, "*N 4"],
    reference: Float[Tensor, "*N 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) from `reference` to `boxes`, times `weights`; `decode` is the inverse.

    dx and dy are the distance of the centres in sides of the reference, dw and dh the logarithm of the sides' ratio.
    Sides count as at least 1e-6, so deltas are finite.
    """
    center, side = _center_and_side(boxes.float())
    reference_center, reference_side = _center_and_side(reference.float())
    side, reference_side = side.clamp(min=1e-6), reference_side.clamp(min=1e-6)
    deltas = torch.cat(((center - reference_center) / reference_side, (side / reference_side).log()), dim=-1)
    return deltas * row(deltas, weights)


def decode(
    deltas: Float[Tensor, "*N 4"],
    reference: Float[Tensor, "*N 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Tensor, "*N 4"]:
    """The boxes to which `deltas`, over `weights`, move `reference`. A side grows by at most 62.5 times."""
    deltas = deltas.float() / row(deltas.float(), weights)
    center, side = _center_and_side(reference)
    center = center + deltas[..., :2] * side
    side = side * deltas[..., 2:].clamp(max=LOG_SCALE_LIMIT).exp()
    return torch.cat((center - 0.5 * side, center + 0.5 * side), dim=-1)


def harmless(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, " 4"]:
    """The box 0, 0, 1, 1, to compute with in empty slots."""
    return row(boxes, (0.0, 0.0, 1.0, 1.0))


def row(like: Num[Tensor, "..."], values: Sequence[float]) -> Num[Tensor, " n"]:
    """`values` with the dtype and device of `like`, made on that device: a copy from the host would synchronise."""
    return torch.cat([like.new_full((1,), value) for value in values])


def _center_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side
