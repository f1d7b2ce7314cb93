"""Boxes as numbers: area, clipping, overlap, and the coding of one box relative to another.

All in float32. `inclusive` boxes end on the index of their last pixel, so a width is x2 - x1 + 1 (Detectron);
otherwise it is x2 - x1. Coding: Faster R-CNN, Eq. 2 (arXiv 1506.01497); the clamp of the logarithms is Detectron's.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

LOG_SCALE_LIMIT = math.log(1000 / 16)  # a decoded side is at most 62.5 times the reference's: exp must not overflow


def area(boxes: Float[Tensor, "*N 4"], *, inclusive: bool = False) -> Float[Tensor, "*N"]:
    """Width times height; negative extents count as zero."""
    extra = 1.0 if inclusive else 0.0
    sides = (boxes[..., 2:] - boxes[..., :2] + extra).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def clip(
    boxes: Float[Tensor, "B *N 4"], sizes: Num[Tensor, "B 2"], *, inclusive: bool = False
) -> Float[Tensor, "B *N 4"]:
    """Boxes cut to images of (height, width) `sizes`; where inclusive, to [0, W - 1] x [0, H - 1]."""
    limits = sizes.to(boxes.dtype).flip(-1).repeat(1, 2) - (1.0 if inclusive else 0.0)  # x, y, x, y
    limits = limits.view(limits.shape[0], *[1] * (boxes.dim() - 2), 4)
    return boxes.clamp(min=0).minimum(limits)


def mirror(
    boxes: Float[Tensor, "B *N 4"], widths: Num[Tensor, " B"], *, inclusive: bool = False
) -> Float[Tensor, "B *N 4"]:
    """The same boxes in images of `widths` that are mirrored left to right."""
    right = widths.to(boxes.dtype).view(-1, *[1] * (boxes.dim() - 2)) - (1.0 if inclusive else 0.0)
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((right - x2, y1, right - x1, y2), dim=-1)


def intersection(
    a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B G 4"], *, inclusive: bool = False
) -> Float[Tensor, "*B N G"]:
    """Area shared by every pair."""
    extra = 1.0 if inclusive else 0.0
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (high - low + extra).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B G 4"], *, inclusive: bool = False) -> Float[Tensor, "*B N G"]:
    """Intersection over union of every pair, 0..1; 0 where both are empty."""
    shared = intersection(a, b, inclusive=inclusive)
    union = area(a, inclusive=inclusive)[..., :, None] + area(b, inclusive=inclusive)[..., None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def encode(
    boxes: Float[Tensor, "*N 4"],
    reference: Float[Tensor, "*N 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    *,
    inclusive: bool = False,
) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) that `decode` turns back into `boxes`. Sides are at least 1e-6: it stays finite."""
    center, side = _center_and_side(boxes, inclusive)
    reference_center, reference_side = _center_and_side(reference, inclusive)
    side, reference_side = side.clamp(min=1e-6), reference_side.clamp(min=1e-6)
    deltas = torch.cat(((center - reference_center) / reference_side, (side / reference_side).log()), dim=-1)
    return deltas * row(deltas, weights)


def decode(
    deltas: Float[Tensor, "*N 4"],
    reference: Float[Tensor, "*N 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    *,
    inclusive: bool = False,
) -> Float[Tensor, "*N 4"]:
    """Boxes that `deltas` describe relative to `reference`. The growth of a side is limited to 62.5 times."""
    deltas = deltas.float()
    deltas = deltas / row(deltas, weights)
    reference_center, reference_side = _center_and_side(reference, inclusive)
    center = reference_center + deltas[..., :2] * reference_side
    side = reference_side * deltas[..., 2:].clamp(max=LOG_SCALE_LIMIT).exp()
    return torch.cat((center - 0.5 * side, center + 0.5 * side - (1.0 if inclusive else 0.0)), dim=-1)


def harmless(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, " 4"]:
    """A box to compute with in slots that hold none."""
    return row(boxes, (0.0, 0.0, 1.0, 1.0))


def row(like: Num[Tensor, "..."], values: Sequence[float]) -> Num[Tensor, " n"]:
    """`values` with the dtype and on the device of `like`. They are made there: a copy from the host would wait."""
    return torch.cat([like.new_full((1,), value) for value in values])


def _center_and_side(boxes: Tensor, inclusive: bool) -> tuple[Tensor, Tensor]:
    side = boxes[..., 2:] - boxes[..., :2] + (1.0 if inclusive else 0.0)
    return boxes[..., :2] + 0.5 * side, side
