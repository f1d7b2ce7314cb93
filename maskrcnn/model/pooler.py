"""RoI pooling: the level of each box (FPN, Eq. 1), the RoI operator, and for C4 the stage that follows it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..ops.boxes import area
from .layers import on_valid


def assign_levels(
    boxes: Float[Tensor, "B R 4"],
    *,
    levels: int,
    canonical_size: float = 224.0,
    canonical_level: int = 2,
    epsilon: float = 1e-8,
    epsilon_place: str = "inside",
    inclusive: bool = False,
) -> Int[Tensor, "B R"]:
    """k = floor(k0 + log2(sqrt(w h) / 224)), clamped to the pyramid; index 0 is P2, so k0 = 4 is index 2."""
    side = area(boxes, inclusive=inclusive).sqrt() / canonical_size
    if epsilon_place == "inside":
        level = (canonical_level + (side + epsilon).log2()).floor()
    else:
        level = (canonical_level + side.log2() + epsilon).floor()
    return level.nan_to_num(0.0, 0.0, 0.0).clamp(0, levels - 1).long()


class Pool(nn.Module):
    """Boxes to features of one size: the level of each box, the RoI operator, and a trunk of layers where there is one.

    operator: `ops.roi_align.roi_align` or another of its signature, its own numbers bound. every: the trunk reads every
    second of the `size` bins of an axis, so that the others are not computed. Where two branches share a pool they
    share what it computes (C4's res5).
    """

    def __init__(
        self,
        operator: Callable[..., Tensor],
        *,
        strides: Sequence[int],
        size: int,
        level_epsilon: float,
        level_epsilon_place: str,
        inclusive: bool,
        trunk: nn.Module | None = None,
        every: int = 1,
        skip_empty: bool = True,
    ) -> None:
        super().__init__()
        self.scales = [(1.0 / s, 1.0 / s) for s in strides]
        self.operator, self.size, self.every = operator, size, every
        self.level_rule = {"epsilon": level_epsilon, "epsilon_place": level_epsilon_place, "inclusive": inclusive}
        self.trunk, self.skip_empty = trunk, skip_empty

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], boxes: Float[Tensor, "B R 4"], valid: Bool[Tensor, "B R"]
    ) -> Float[Tensor, "B R D S S"]:
        maps = pyramid[: len(self.scales)]
        boxes = torch.where(valid[..., None], boxes, 0.0)
        levels = assign_levels(boxes, levels=len(maps), **self.level_rule)
        numbers = {"scales": self.scales, "size": self.size, "every": self.every}
        pooled = self.operator(maps, boxes, levels, valid, **numbers)
        if self.trunk is None:
            return pooled
        if self.training and self.skip_empty:
            return on_valid(self._deepened, valid, pooled)
        return self._deepened(pooled)

    def _deepened(self, pooled: Float[Tensor, "B R C _ _"]) -> Float[Tensor, "B R D S S"]:
        assert self.trunk is not None
        return self.trunk(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])
