"""M x M masks in boxes as masks of the image (section 3.1, "Mask Representation" and "Inference").

The paper resizes the M x M mask to the box and cuts it at 0.5. How, it leaves open, and there are two ways:

* `grid`, Detectron2's: each pixel's centre is looked up in the mask by bilinear interpolation, in the box as it is;
  a pixel is set at `threshold` or above.
* `padded`, Detectron's and torchvision's: the mask gets a border of zeros, the box grows with it and is cut to
  integers, the mask is resized to that many pixels; a pixel is set above `threshold`.

Both read the mask with its border of zeros at one position a row and one a column, so they differ in positions alone.
`ops.rle` says the same without the image-size mask.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .dispatch import which

RULES = ("grid", "padded")

_CHUNK = 1 << 24  # pixels at once in the reference: 64 MiB of float32


def paste(
    masks: Float[Tensor, "N M M"],
    boxes: Float[Tensor, "N 4"],
    size: tuple[int, int],
    *,
    threshold: float | None = 0.5,
    rule: str = "grid",
    impl: str | None = None,
) -> Bool[Tensor, "N H W"] | Float[Tensor, "N H W"]:
    """Masks of an image of `size` (height, width) from probabilities (0..1) in boxes in image pixels.

    Bool, or float32 probabilities where `threshold` is None. N x H x W of them: ask for few objects at a time.
    Boxes may reach beyond the image; one without area sets nothing. A probability that is not a number counts as 0.
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
    """The meaning of `paste`: interpolate along x, then along y, then compare; `strict` compares with >, not >=."""
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
    """Rows of `values` [n P Q] at fractional row numbers `positions` [n T], linearly: [n T Q]."""
    low = positions.floor().clamp(max=values.shape[1] - 2)
    share = (positions - low)[..., None]
    index = low.long()[..., None].expand(-1, -1, values.shape[2])
    start = values.gather(1, index)
    return start + share * (values.gather(1, index + 1) - start)


def pad_masks(masks: Float[Tensor, "N M M"]) -> Float[Tensor, "N P P"]:
    """The masks with a border of zeros, P = M + 2, every value a probability."""
    return torch.nn.functional.pad(masks.float().nan_to_num(nan=0.0).clamp(0, 1), (1, 1, 1, 1))


def sample_positions(
    boxes: Float[Tensor, "N 4"], side: int, size: tuple[int, int], rule: str
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N W"]]:
    """Where each pixel row and column of the image reads the padded masks, 0..side + 1; 0 and side + 1 are border."""
    boxes = boxes.float()
    along = _grid_positions if rule == "grid" else _padded_positions
    rows = along(boxes[:, 1, None], boxes[:, 3, None], side, size[0])
    columns = along(boxes[:, 0, None], boxes[:, 2, None], side, size[1])
    return rows, columns


def _grid_positions(low: Tensor, high: Tensor, side: int, length: int) -> Tensor:
    centres = torch.arange(length, dtype=torch.float32, device=low.device) + 0.5
    relative = (centres - low) / (high - low) * 2 - 1  # -1..1 over the box, in Detectron2's order of operations
    positions = ((relative + 1) * side - 1) / 2 + 1
    return torch.where(high > low, positions, 0.0).nan_to_num(nan=0.0).clamp(0, side + 1)


def _padded_positions(low: Tensor, high: Tensor, side: int, length: int) -> Tensor:
    half = (high - low) * 0.5 * ((side + 2) / side)
    middle = (high + low) * 0.5
    first, last = (middle - half).trunc(), (middle + half).trunc()
    extent = (last - first + 1).clamp(min=1)
    pixels = torch.arange(length, dtype=torch.float32, device=low.device)
    scale = torch.full_like(extent, side + 2) / extent  # number / tensor would round twice
    positions = scale * (pixels - first + 0.5) - 0.5
    return positions.nan_to_num(nan=0.0).clamp(0, side + 1)


def check_rule(rule: str, threshold: float | None) -> None:
    """ValueError unless the rule exists and the threshold is a probability that an empty pixel does not reach."""
    if rule not in RULES:
        raise ValueError(f"paste rule must be one of {', '.join(RULES)}, not {rule!r}")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"mask threshold must lie between 0 and 1, not {threshold}")
