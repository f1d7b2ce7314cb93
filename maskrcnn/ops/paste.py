"""Pastes M x M masks into the image (section 3.1, "Mask Representation" and "Inference").

The paper resizes the M x M mask to its box and thresholds it at 0.5. It leaves the details open; there are two rules:

* `grid`, Detectron2's: the mask is interpolated bilinearly at the centre of each pixel, in the unrounded box; a pixel
  is set if its value is at least `threshold`.
* `padded`, Detectron's and torchvision's: the mask is padded with zeros, the box is enlarged accordingly and truncated
  to integers, and the mask is resized to this box; a pixel is set if its value is above `threshold`.

Both interpolate the padded mask at one position per row and one per column, so only these positions differ.
`ops.rle` computes the same masks as RLE, without an image-size mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .dispatch import which

RULES = ("grid", "padded")

_CHUNK = 1 << 24  # pixels per chunk in the reference: 64 MiB of float32


def paste(
    masks: Float[Tensor, "N M M"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    *,
    threshold: float | None = 0.5,
    rule: str = "grid",
    impl: str | None = None,
) -> Bool[Tensor, "N H W"] | Float[Tensor, "N H W"]:
    """Image-size masks from masks of probabilities, 0..1, and their boxes in image pixels; `size` is (height, width).

    Returns bool, or float32 probabilities if `threshold` is None: N x H x W values, so pass few objects at a time.
    Boxes may extend beyond the image; a box without area sets nothing. A NaN probability counts as 0.
    Raises ValueError for an unknown `rule` or a threshold outside (0, 1).
    """
    check_rule(rule, threshold)
    padded = pad_masks(masks)
    rows, columns = sample_positions(boxes, masks.shape[-1], size, rule)
    match which("paste", masks.device, impl):
        case "triton":
            from .kernels.paste_triton import paste_triton as run
        case "numba":
            from .kernels.paste_numba import paste_numba as run
        case _:
            run = paste_reference
    return run(padded, rows, columns, threshold, rule == "padded")


def paste_reference(padded: Tensor, rows: Tensor, columns: Tensor, threshold: float | None, strict: bool) -> Tensor:
    """Defines `paste`: interpolate along x, then along y, then compare; `strict` compares with > instead of >=."""
    (N, H), W = rows.shape, columns.shape[1]
    out = torch.empty(N, H, W, dtype=torch.float32 if threshold is None else torch.bool, device=padded.device)
    step = max(1, _CHUNK // max(1, H * W))
    for first in range(0, N, step):
        part = slice(first, first + step)
        across = _interpolate(padded[part].transpose(1, 2), columns[part]).transpose(1, 2)  # [n M+2 W]
        values = _interpolate(across, rows[part])
        if threshold is not None:
            values = values > threshold if strict else values >= threshold
        out[part] = values
    return out


def _interpolate(values: Tensor, positions: Tensor) -> Tensor:
    """Rows of `values` [n P Q], linearly interpolated at fractional row numbers `positions` [n T]: [n T Q]."""
    low = positions.floor().clamp(max=values.shape[1] - 2)
    share = (positions - low)[..., None]
    index = low.long()[..., None].expand(-1, -1, values.shape[2])
    start = values.gather(1, index)
    return start + share * (values.gather(1, index + 1) - start)


def pad_masks(masks: Float[Tensor, "N M M"]) -> Float[Tensor, "N P P"]:
    """The masks, clamped to 0..1, with a border of zeros: P = M + 2."""
    return torch.nn.functional.pad(masks.float().nan_to_num(nan=0.0).clamp(0, 1), (1, 1, 1, 1))


def sample_positions(
    boxes: Float[Tensor, "N 4"], side: int, size: tuple[int, int], rule: str
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N W"]]:
    """The positions, 0..side + 1, at which the rows and columns of the image read the padded masks."""
    boxes = boxes.float()
    along = _grid_positions if rule == "grid" else _padded_positions
    rows = along(boxes[:, 1, None], boxes[:, 3, None], side, size[0])
    columns = along(boxes[:, 0, None], boxes[:, 2, None], side, size[1])
    return rows, columns


def _grid_positions(low: Tensor, high: Tensor, side: int, length: int) -> Tensor:
    centres = torch.arange(length, dtype=torch.float32, device=low.device) + 0.5
    relative = (centres - low) / (high - low) * 2 - 1  # -1..1 over the box, rounded in the same order as in Detectron2
    positions = ((relative + 1) * side - 1) / 2 + 1
    return torch.where(high > low, positions, 0.0).nan_to_num(nan=0.0).clamp(0, side + 1)


def _padded_positions(low: Tensor, high: Tensor, side: int, length: int) -> Tensor:
    half = (high - low) * 0.5 * ((side + 2) / side)
    middle = (high + low) * 0.5
    first, last = (middle - half).trunc(), (middle + half).trunc()
    extent = (last - first + 1).clamp(min=1)
    pixels = torch.arange(length, dtype=torch.float32, device=low.device)
    scale = torch.full_like(extent, side + 2) / extent  # number / tensor rounds differently
    positions = scale * (pixels - first + 0.5) - 0.5
    return positions.nan_to_num(nan=0.0).clamp(0, side + 1)


def check_rule(rule: str, threshold: float | None) -> None:
    """Raises ValueError unless the rule exists and the threshold is None or within (0, 1)."""
    if rule not in RULES:
        raise ValueError(f"paste rule must be one of {', '.join(RULES)}, not {rule!r}")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"mask threshold must lie between 0 and 1, not {threshold}")
