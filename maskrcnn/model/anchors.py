"""The anchor grid of a canvas (section 3.1: 5 scales, 3 ratios; FPN: one scale per level)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..config import AnchorConfig


def cell_anchors(sizes: Sequence[float], stride: int, config: AnchorConfig) -> Float[Tensor, "N 4"]:
    """The anchors of one cell of a level, around the cell's origin: area size^2, height / width = ratio.

    `config.rounding` "torchvision" rounds half extents; "detectron" rounds the sides of a stride-sized box, scales it
    and centres it on (stride - 1) / 2, and the box ends on its last pixel.
    """
    pairs = [(size, ratio) for size in sizes for ratio in config.ratios]
    if config.order == "ratio-major":
        pairs = [(size, ratio) for ratio in config.ratios for size in sizes]
    boxes = []
    for size, ratio in pairs:
        if config.rounding == "detectron":
            width = round(math.sqrt(stride * stride / ratio))
            height = round(width * ratio)
            half_width, half_height = (width * size / stride - 1) / 2, (height * size / stride - 1) / 2
            center = (stride - 1) / 2
            boxes.append((center - half_width, center - half_height, center + half_width, center + half_height))
            continue
        width = math.sqrt(size * size / ratio)
        half_width, half_height = width / 2, ratio * width / 2
        if config.rounding == "torchvision":
            half_width, half_height = round(half_width), round(half_height)  # half to even, as torch rounds
        boxes.append((-half_width, -half_height, half_width, half_height))
    return torch.tensor(boxes, dtype=torch.float32)


def anchor_grid(
    cells: Float[Tensor, "N 4"], shape: tuple[int, int], stride: tuple[float, float]
) -> Float[Tensor, "hwN 4"]:
    """`cells` at every position of a (height, width) map, row by row, the N of a position together."""
    height, width = shape
    y = torch.arange(height, device=cells.device, dtype=torch.float32) * stride[0]
    x = torch.arange(width, device=cells.device, dtype=torch.float32) * stride[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1)[:, :, None]  # [h w 1 4]
    return (shifts + cells).reshape(-1, 4)
