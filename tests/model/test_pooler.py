"""The level of a box by the three frameworks' formulas, and the pool around an operator."""

from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.config import PoolConfig
from maskrcnn.model import pooler
from maskrcnn.model.backbone import Bottleneck
from maskrcnn.model.build import build
from maskrcnn.model.pooler import Pool, assign_levels
from tests.model.small import small

DETECTRON = PoolConfig(level_epsilon=1e-6)
DETECTRON2 = PoolConfig(level_epsilon=1e-8)
TORCHVISION = PoolConfig(level_epsilon=1e-6, level_epsilon_place="outside")


def level(side: float, rule: PoolConfig) -> int:
    """Of a square box, as the pyramid's name counts: 2 is P2."""
    box = torch.tensor([[[0.0, 0, side, side]]])
    return int(assign_levels(box, rule, levels=4)) + 2


@pytest.mark.parametrize(
    ("side", "detectron", "detectron2", "torchvision"),
    [
        (10, 2, 2, 2),
        (110, 2, 2, 2),
        (111.9, 3, 2, 2),
        (112, 3, 3, 3),
        (223.9999, 4, 3, 4),
        (224, 4, 4, 4),
        (448, 5, 5, 5),
        (2000, 5, 5, 5),
    ],
)
def test_levels_by_hand(side, detectron, detectron2, torchvision) -> None:
    assert level(side + 1, DETECTRON) == detectron  # whose boxes end on their last pixel
    assert level(side, DETECTRON2) == detectron2
    assert level(side, TORCHVISION) == torchvision


def test_area_decides_not_the_longer_side() -> None:
    boxes = torch.tensor([[[0.0, 0, 448, 112], [0, 0, 0, 50], [7, 7, 3, 3]]])
    assert assign_levels(boxes, DETECTRON2, levels=4).tolist() == [[2, 0, 0]]  # 224 squared; without extent the finest
    assert assign_levels(boxes, DETECTRON2, levels=1).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("inclusive", [False, True])
def test_a_pool_hands_each_box_its_level_and_then_its_trunk_all_features(inclusive, monkeypatch) -> None:
    seen: dict[str, Any] = {}

    def operator(maps, boxes, levels, valid, *, scales, size, every, **rules):
        seen.update(maps=len(maps), boxes=boxes, levels=levels, scales=scales, rules=rules)
        assert every == 1
        return torch.ones(*levels.shape, 3, size, size)

    config = PoolConfig(sampling=3, aligned=False, aggregate="max")
    monkeypatch.setattr(pooler, "roi_align", operator)
    pool = Pool(config, strides=[4, 8], size=6, inclusive=inclusive, trunk=nn.Conv2d(3, 5, 2, 2))
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 300, 300], [float("nan")] * 4]])
    valid = torch.tensor([[True, True, False]])
    maps = [torch.zeros(1, 3, 4, 4)] * 3  # the third is the RPN's alone
    out = pool(maps, boxes, valid)
    assert out.shape == (1, 3, 5, 3, 3)
    assert seen["maps"] == 2
    assert seen["scales"] == [(0.25, 0.25), (0.125, 0.125)]
    assert seen["levels"][0, :2].tolist() == [0, 1]
    assert seen["rules"] == {"sampling": 3, "aligned": False, "aggregate": "max"}
    assert seen["boxes"].isfinite().all()
    assert seen["boxes"][0, 0].tolist() == ([0, 0, 9, 9] if inclusive else [0, 0, 10, 10])


def test_bins_that_a_strided_1x1_skips_are_not_pooled() -> None:
    """Detectron's res5 has its stride in 1x1 convolutions: the same answers without three of four bins."""
    sparing = build(small("R-50-C4", backbone={"stride_in": "1x1"})).eval().box_pool
    assert sparing.every == 2
    assert build(small("R-50-C4", backbone={"stride_in": "3x3"})).box_pool.every == 1
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 128, 5, 6, generator=rng)]
    boxes = torch.rand(2, 4, 4, generator=rng) * 40 + torch.tensor([0, 0, 30, 30])
    with torch.inference_mode():
        got = sparing(maps, boxes, torch.ones(2, 4, dtype=torch.bool))
        sparing.every = 1
        assert sparing.trunk is not None
        first = next(module for module in sparing.trunk.modules() if isinstance(module, Bottleneck))
        assert first.shortcut is not None
        first.conv1.conv.stride = first.shortcut.conv.stride = (2, 2)
        wanted = sparing(maps, boxes, torch.ones(2, 4, dtype=torch.bool))
    assert got.shape[-2:] == (7, 7)
    torch.testing.assert_close(got, wanted)
