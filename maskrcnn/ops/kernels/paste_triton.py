"""`paste` on a GPU: one program per tile of pixels of one object."""

# ruff: noqa: ANN001, ANN202 (Triton infers the types of its kernels)
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_ROWS, _COLUMNS = 16, 64  # pixels per tile


def paste_triton(padded: Tensor, rows: Tensor, columns: Tensor, threshold: float | None, strict: bool) -> Tensor:
    """Computes `ops.paste.paste_reference`, rounding in the same order: the results are bit-equal."""
    (N, H), W = rows.shape, columns.shape[1]
    out = torch.empty(N, H, W, dtype=torch.float32 if threshold is None else torch.bool, device=padded.device)
    if out.numel():
        tiles = triton.cdiv(H, _ROWS) * triton.cdiv(W, _COLUMNS)
        with torch.cuda.device_of(padded):
            _paste_kernel[(tiles, N)](
                padded.contiguous(), rows.contiguous(), columns.contiguous(), out, padded.shape[1], H, W,
                0.0 if threshold is None else threshold, threshold is None, strict, _ROWS, _COLUMNS,
                enable_fp_fusion=False,
            )  # fmt: skip
    return out


@triton.jit
def _paste_kernel(
    masks_ptr, rows_ptr, columns_ptr,  # [N, SIDE, SIDE]; fractional rows and columns of the masks, [N, H] and [N, W]
    out_ptr, SIDE, H, W, threshold,  # [N, H, W]
    SOFT: tl.constexpr, STRICT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(W, COLUMNS)
    y = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    x = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.load(rows_ptr + n * H + y, mask=y < H, other=0.0)
    column = tl.load(columns_ptr + n * W + x, mask=x < W, other=0.0)
    top = tl.minimum(row.to(tl.int32), SIDE - 2)
    left = tl.minimum(column.to(tl.int32), SIDE - 2)
    down, right = (row - top)[:, None], (column - left)[None, :]
    at = masks_ptr + n * SIDE * SIDE + top[:, None] * SIDE + left[None, :]
    upper = tl.load(at)
    upper += right * (tl.load(at + 1) - upper)
    lower = tl.load(at + SIDE)
    lower += right * (tl.load(at + SIDE + 1) - lower)
    value = upper + down * (lower - upper)
    out = out_ptr + n * H * W + y[:, None] * W + x[None, :]
    inside = (y < H)[:, None] & (x < W)[None, :]
    if SOFT:
        tl.store(out, value, mask=inside)
    elif STRICT:
        tl.store(out, value > threshold, mask=inside)
    else:
        tl.store(out, value >= threshold, mask=inside)
