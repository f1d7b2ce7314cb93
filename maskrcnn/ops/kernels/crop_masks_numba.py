"""`crop_masks` on a CPU: it reads only the two cells beside a point along each axis, and skips empty slots."""

import numba
import numpy as np
import torch
from torch import Tensor

from ..dispatch import torch_threads
from ..grids import SMALLEST_FRAME


@torch_threads()
def crop_masks_numba(
    bits: Tensor, frames: Tensor, index: Tensor, boxes: Tensor, valid: Tensor, side: int, samples: int
) -> Tensor:
    """Computes `ops.crop_masks.crop_masks_reference`."""
    out = torch.zeros(*index.shape, side, side)
    inputs = (bits.view(torch.uint8), frames, index, boxes, torch.nonzero(valid))
    cells, windows, objects, rois, slots = (t.contiguous().numpy() for t in inputs)
    _crop(cells, windows, objects, rois, slots, np.int64(samples), out.numpy())
    return out


@numba.njit(inline="always")
def _position(low, high, frame_low, frame_high, size, step):  # noqa: ANN001, ANN202
    """The position of the point at `step`, 0..1, of the RoI in the stored cells, whose centres are 0, 1, 2, ..."""
    extent = frame_high - frame_low
    if abs(extent) < np.float32(SMALLEST_FRAME):
        extent = np.float32(SMALLEST_FRAME)
    return (low + (high - low) * step - frame_low) / extent * np.float32(size) - np.float32(0.5)


@numba.njit(cache=True, nogil=True, parallel=True, fastmath={"contract", "nsz"})
def _crop(bits, frames, index, boxes, slots, samples, out):  # noqa: ANN001, ANN202
    size, side = bits.shape[2], out.shape[2]
    share = np.float32(1.0 / samples)
    for n in numba.prange(len(slots)):
        b, f = slots[n, 0], slots[n, 1]
        mask, frame, box = bits[b, index[b, f]], frames[b, index[b, f]], boxes[b, f]
        row = np.empty(size, np.float32)
        for r in range(side):
            row[:] = np.float32(0)
            for s in range(samples):
                step = np.float32((r * samples + s + 0.5) / (side * samples))
                at = _position(box[1], box[3], frame[1], frame[3], size, step)
                if at <= np.float32(-1) or at >= np.float32(size):
                    continue
                first = int(np.floor(at))
                part = at - np.float32(first)
                if first >= 0:
                    weight = (np.float32(1) - part) * share
                    for i in range(size):
                        row[i] += weight * np.float32(mask[first, i])
                if first + 1 < size:
                    weight = part * share
                    for i in range(size):
                        row[i] += weight * np.float32(mask[first + 1, i])
            for c in range(side):
                total = np.float32(0)
                for s in range(samples):
                    step = np.float32((c * samples + s + 0.5) / (side * samples))
                    at = _position(box[0], box[2], frame[0], frame[2], size, step)
                    if at <= np.float32(-1) or at >= np.float32(size):
                        continue
                    first = int(np.floor(at))
                    part = at - np.float32(first)
                    if first >= 0:
                        total += (np.float32(1) - part) * row[first]
                    if first + 1 < size:
                        total += part * row[first + 1]
                out[b, f, r, c] = total * share
