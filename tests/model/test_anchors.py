"""Anchors: the tables of the three frameworks, and the grid."""

import pytest
import torch

from maskrcnn.config import AnchorConfig
from maskrcnn.model.anchors import anchor_grid, cell_anchors

LEVELS = ((4, 32), (8, 64), (16, 128), (32, 256), (64, 512))

DETECTRON = {
    32: ((-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)),
    64: ((-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)),
    128: ((-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)),
    256: ((-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)),
    512: ((-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391)),
}
TORCHVISION = {
    32: ((23, 11), (16, 16), (11, 23)),
    64: ((45, 23), (32, 32), (23, 45)),
    128: ((91, 45), (64, 64), (45, 91)),
    256: ((181, 91), (128, 128), (91, 181)),
    512: ((362, 181), (256, 256), (181, 362)),
}
DETECTRON_C4 = (
    ((-15, -4, 30, 19), (-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199)),
    ((-8, -8, 23, 23), (-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263)),
    ((-3, -14, 18, 29), (-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)),
)


@pytest.mark.parametrize(("stride", "size"), LEVELS)
def test_cells_of_detectron(stride, size) -> None:
    got = cell_anchors((size,), stride, AnchorConfig(rounding="detectron"))
    assert got.tolist() == [list(map(float, box)) for box in DETECTRON[size]]


@pytest.mark.parametrize(("stride", "size"), LEVELS)
def test_cells_of_torchvision_and_of_detectron2(stride, size) -> None:
    rounded = cell_anchors((size,), stride, AnchorConfig(rounding="torchvision"))
    assert rounded.tolist() == [[-w, -h, w, h] for w, h in TORCHVISION[size]]
    exact = cell_anchors((size,), stride, AnchorConfig())
    half = torch.tensor([[22.6274, 11.3137], [16, 16], [11.3137, 22.6274]]) * (size / 32)
    torch.testing.assert_close(exact, torch.cat((-half, half), 1), rtol=1e-5, atol=0)


def test_the_fifteen_cells_of_c4_and_their_two_orders() -> None:
    sizes = (32, 64, 128, 256, 512)
    by_ratio = cell_anchors(sizes, 16, AnchorConfig(rounding="detectron", order="ratio-major"))
    assert by_ratio.tolist() == [list(map(float, box)) for row in DETECTRON_C4 for box in row]
    by_size = cell_anchors(sizes, 16, AnchorConfig(rounding="detectron", order="size-major"))
    assert torch.equal(by_size.view(5, 3, 4), by_ratio.view(3, 5, 4).transpose(0, 1))


def test_the_grid_runs_along_rows_with_the_cells_innermost() -> None:
    cells = torch.tensor([[-1.0, -2, 1, 2], [-3, -3, 3, 3]])
    grid = anchor_grid(cells, (2, 3), (10.0, 20.0))  # rows 10 apart, columns 20
    assert grid.shape == (12, 4)
    assert grid[:2].tolist() == cells.tolist()
    assert grid[2].tolist() == [19, -2, 21, 2]
    assert grid[6].tolist() == [-1, 8, 1, 12]
    assert grid[11].tolist() == [37, 7, 43, 13]
