"""RoI pooling: the level of each box (FPN, Eq. 1), the RoI operator of Table 2c, and for C4 the stage after it."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..config import PoolConfig
from ..ops.boxes import area, last_pixels
from ..ops.roi_align import roi_align
from ..ops.roi_points import roi_points
from .layers import on_valid

_CANONICAL_SIZE, _CANONICAL_LEVEL = 224.0, 2  # a box of 224 x 224 pixels comes from P4, which is index 2


def assign_levels(boxes: Float[Tensor, "B R 4"], config: PoolConfig, *, levels: int) -> Int[Tensor, "B R"]:
    """k = floor(k0 + log2(sqrt(w h) / 224)), clamped to the pyramid; index 0 is P2, so k0 = 4 is index 2."""
    side = area(boxes).sqrt() / _CANONICAL_SIZE
    if config.level_epsilon_place == "inside":
        level = (_CANONICAL_LEVEL + (side + config.level_epsilon).log2()).floor()
    else:
        level = (_CANONICAL_LEVEL + side.log2() + config.level_epsilon).floor()
    return level.nan_to_num(0.0, 0.0, 0.0).clamp(0, levels - 1).long()


class Pool(nn.Module):
    """Boxes to features of one size: the level of each box, the RoI operator, and the `trunk` of layers, if any.

    `every`: the trunk reads every second of the `size` bins of an axis, so that the others are not computed. Two
    branches that share a pool share what it computes (C4's res5). `inclusive`: see `ops.boxes.last_pixels`.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        strides: Sequence[int],
        size: int,
        inclusive: bool,
        trunk: nn.Module | None = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.inclusive = config, inclusive
        self.scales = [(1.0 / s, 1.0 / s) for s in strides]
        self.size, self.every, self.trunk = size, every, trunk
        self.operator: Callable[..., Tensor]
        if config.operator == "roi_align":
            self.operator = partial(roi_align, sampling=config.sampling, aligned=config.aligned)
        else:
            self.operator = partial(roi_points, rule=config.operator)

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], boxes: Float[Tensor, "B R 4"], valid: Bool[Tensor, "B R"]
    ) -> Float[Tensor, "B R D S S"]:
        maps = pyramid[: len(self.scales)]
        boxes = torch.where(valid[..., None], boxes, 0.0)
        pooled = self.operator(
            maps,
            last_pixels(boxes, self.inclusive),
            assign_levels(boxes, self.config, levels=len(maps)),
            valid,
            scales=self.scales,
            size=self.size,
            every=self.every,
            aggregate=self.config.aggregate,
        )
        if self.trunk is None:
            return pooled
        return on_valid(self._deepened, valid, pooled) if self.training else self._deepened(pooled)

    def _deepened(self, pooled: Float[Tensor, "B R C _ _"]) -> Float[Tensor, "B R D S S"]:
        assert self.trunk is not None
        return self.trunk(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2])
