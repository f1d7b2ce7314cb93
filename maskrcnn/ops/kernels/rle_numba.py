"""`rle.encode` on a CPU: down a column, the value is linear between two rows of the M x M mask.

So it crosses the threshold at most once between them, and rounding keeps it monotone: a bisection over the expression
that `paste` computes finds the pixel. A column takes M steps, however many pixels it has. Serial: 100 objects take
milliseconds, and any thread may call it.
"""

from typing import no_type_check

import numba
import numpy as np
from torch import Tensor


def encode_numba(padded: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, rule: str) -> list[bytes]:
    """Computes `ops.rle.encode_reference`, byte for byte."""
    masks, corners = padded.contiguous().numpy(), boxes.contiguous().numpy()
    limit, cut = np.float32(threshold), rule == "padded"
    return [
        _encode(mask, box, size[0], size[1], limit, cut).tobytes() for mask, box in zip(masks, corners, strict=True)
    ]


@numba.njit(cache=True, nogil=True)
@no_type_check  # Numba cannot compile a function wrapped by a type checker
def _encode(mask, box, height, width, threshold, cut):  # noqa: ANN001, ANN202
    last = len(mask) - 1
    if cut:
        rows, columns = _cut_positions(box[1], box[3], last, height), _cut_positions(box[0], box[2], last, width)
    else:
        rows, columns = _grid_positions(box[1], box[3], last, height), _grid_positions(box[0], box[2], last, width)
    first_row, end_row = _reached(rows, last)
    left, right = _reached(columns, last)
    starts = _row_starts(rows, first_row, end_row, last)
    column = np.empty(len(mask), np.float32)
    changes, count = np.empty(256, np.int64), 0
    state = False  # of the previous pixel
    for x in range(left, right):
        if count + len(mask) + 2 > len(changes):
            grown = np.empty(2 * len(changes) + len(mask) + 2, np.int64)
            grown[:count] = changes[:count]
            changes = grown
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
            here = _is_set(column, k, rows[first], threshold, cut)
            if here != state:
                changes[count] = origin + first
                count, state = count + 1, here
            if end - first > 1 and _is_set(column, k, rows[end - 1], threshold, cut) != here:
                before, after = first, end - 1  # the change lies between them
                while after - before > 1:
                    middle = (before + after) // 2
                    if _is_set(column, k, rows[middle], threshold, cut) == here:
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
@no_type_check
def _is_set(column, k, position, threshold, cut):  # noqa: ANN001, ANN202
    value = column[k] + (position - np.float32(k)) * (column[k + 1] - column[k])
    return value > threshold if cut else value >= threshold


@numba.njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _grid_positions(low, high, last, length):  # noqa: ANN001, ANN202
    """`ops.paste.sample_positions` for the rule `grid`, in the same single-precision operations."""
    out, one, half = np.zeros(length, np.float32), np.float32(1), np.float32(0.5)
    side, two, most = np.float32(last - 1), np.float32(2), np.float32(last)
    if high > low:
        for i in range(length):
            relative = (np.float32(i) + half - low) / (high - low) * two - one
            position = ((relative + one) * side - one) / two + one
            if position > 0:  # false for NaN
                out[i] = min(position, most)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _cut_positions(low, high, last, length):  # noqa: ANN001, ANN202
    """`ops.paste.sample_positions` for the rule `padded`."""
    out, one, half, most = np.zeros(length, np.float32), np.float32(1), np.float32(0.5), np.float32(last)
    reach = (high - low) * half * np.float32((last + 1) / (last - 1))
    middle = (high + low) * half
    first = np.trunc(middle - reach)
    extent = np.trunc(middle + reach) - first + one
    if extent < one:
        extent = one
    scale = np.float32(last + 1) / extent
    for i in range(length):
        position = scale * (np.float32(i) - first + half) - half
        if position > 0:
            out[i] = min(position, most)
    return out


@numba.njit(cache=True, nogil=True)
@no_type_check
def _reached(positions, last):  # noqa: ANN001, ANN202
    """The pixels first..end - 1 whose positions lie inside the border; positions never decrease along the axis."""
    first, end = 0, len(positions)
    while first < end and positions[first] <= 0:
        first += 1
    while end > first and positions[end - 1] >= last:
        end -= 1
    return first, end


@numba.njit(cache=True, nogil=True)
@no_type_check
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
@no_type_check
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
