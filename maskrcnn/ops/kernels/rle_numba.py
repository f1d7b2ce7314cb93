"""`rle.encode` on a CPU: down a column, the value is linear between two rows of the M x M mask.

So it crosses the threshold at most once between them, and rounding keeps it monotone: a bisection over the expression
that `paste` computes finds the pixel. A column takes M steps, however many pixels it has. Serial: 100 objects take
milliseconds, and any thread may call it.
"""

import numba
import numpy as np
from torch import Tensor

from .paste_numba import reached


def encode_numba(padded: Tensor, rows: Tensor, columns: Tensor, threshold: float, strict: bool) -> list[bytes]:
    """Computes `ops.rle.encode_reference`, byte for byte."""
    arrays = (tensor.contiguous().numpy() for tensor in (padded, rows, columns))
    limit = np.float32(threshold)
    return [_encode(mask, down, across, limit, strict).tobytes() for mask, down, across in zip(*arrays, strict=True)]


@numba.njit(cache=True, nogil=True)
def _encode(mask, rows, columns, threshold, strict):  # noqa: ANN001, ANN202
    last, height, width = len(mask) - 1, len(rows), len(columns)
    first_row, end_row = reached(rows, last)
    left, right = reached(columns, last)
    starts = _row_starts(rows, first_row, end_row, last)
    column = np.empty(len(mask), np.float32)
    changes, count = np.empty((right - left) * (last + 2) + 1, np.int64), 0
    state = False  # of the previous pixel
    for x in range(left, right):
        low = min(int(columns[x]), last - 1)
        share = columns[x] - np.float32(low)
        for k in range(len(mask)):
            column[k] = mask[k, low] + share * (mask[k, low + 1] - mask[k, low])
        origin = x * height
        if state and first_row > 0:
            changes[count] = origin
            count, state = count + 1, False
        for k in range(last):
            first, end = starts[k], starts[k + 1]
            if first == end:
                continue
            here = _is_set(column, k, rows[first], threshold, strict)
            if here != state:
                changes[count] = origin + first
                count, state = count + 1, here
            if end - first > 1 and _is_set(column, k, rows[end - 1], threshold, strict) != here:
                before, after = first, end - 1  # the change lies between them
                while after - before > 1:
                    middle = (before + after) // 2
                    if _is_set(column, k, rows[middle], threshold, strict) == here:
                        before = middle
                    else:
                        after = middle
                changes[count] = origin + after
                count, state = count + 1, not here
        if state and end_row < height:
            changes[count] = origin + end_row
            count, state = count + 1, False
    if state and right < width:
        changes[count] = right * height
        count += 1
    return _string(changes[:count], height * width)


@numba.njit(cache=True, nogil=True)
def _is_set(column, k, position, threshold, strict):  # noqa: ANN001, ANN202
    value = column[k] + (position - np.float32(k)) * (column[k + 1] - column[k])
    return value > threshold if strict else value >= threshold


@numba.njit(cache=True, nogil=True)
def _row_starts(rows, first, end, last):  # noqa: ANN001, ANN202
    """The first pixel row that lies between mask rows k and k + 1, for k = 0..last."""
    starts = np.empty(last + 1, np.int64)
    y = first
    for k in range(last):
        while y < end and rows[y] < k:
            y += 1
        starts[k] = y
    starts[last] = end
    return starts


@numba.njit(cache=True, nogil=True)
def _string(changes, pixels):  # noqa: ANN001, ANN202
    """The compressed RLE, given the pixels at which the value changes; the first change is to set."""
    out, length = np.empty(7 * (len(changes) + 1), np.uint8), 0
    counts = np.empty(len(changes) + 1, np.int64)
    before = 0
    for i in range(len(changes)):
        counts[i] = changes[i] - before
        before = changes[i]
    counts[-1] = pixels - before
    for i in range(len(counts)):
        number = counts[i] - (counts[i - 2] if i > 2 else 0)
        while True:
            group = number & 31
            number >>= 5
            more = number != -1 if group & 16 else number != 0
            out[length] = group + (32 if more else 0) + 48
            length += 1
            if not more:
                break
    return out[:length]
