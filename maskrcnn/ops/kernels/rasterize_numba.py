"""`rasterize` on a CPU: each edge marks where it crosses each row; a running sum then gives the winding number.

Serial and `nogil`: these run in forked or spawned workers, in which a parallel Numba kernel may crash.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def rasterize_polygons_numba(points, offsets, frame, size):  # noqa: ANN001, ANN201
    mask = np.zeros((size, size), dtype=np.bool_)
    x1, y1 = frame[0], frame[1]
    if x1 == frame[2] or y1 == frame[3]:
        return mask
    step_x, step_y = (frame[2] - x1) / size, (frame[3] - y1) / size
    marks = np.zeros((size, size + 1), dtype=np.int32)
    for part in range(len(offsets) - 1):
        first, last = offsets[part], offsets[part + 1]
        marks[:] = 0
        for i in range(first, last):
            before = i - 1 if i > first else last - 1
            ax, ay, bx, by = points[before, 0], points[before, 1], points[i, 0], points[i, 1]
            if ay == by:
                continue
            low, high = min(ay, by), max(ay, by)
            turn = 1 if by > ay else -1
            row = _first_at_least(low if step_y > 0 else high, y1, step_y, size)
            while row < size:
                y = y1 + (row + 0.5) * step_y
                if (step_y > 0 and y >= high) or (step_y < 0 and y < low):
                    break
                if low <= y < high:
                    column = _first_at_least(ax + (y - ay) / (by - ay) * (bx - ax), x1, step_x, size)
                    marks[row, column] += turn
                row += 1
        _fill(marks, mask, step_x > 0)
    return mask


@njit(cache=True, nogil=True)
def rasterize_rle_numba(ends, height, width, frame, size):  # noqa: ANN001, ANN201
    mask = np.zeros((size, size), dtype=np.bool_)
    x1, y1 = frame[0], frame[1]
    if x1 == frame[2] or y1 == frame[3]:
        return mask
    step_x, step_y = (frame[2] - x1) / size, (frame[3] - y1) / size
    for j in range(size):
        x = np.floor(x1 + (j + 0.5) * step_x)
        if not 0 <= x < width:
            continue
        run = -1
        for i in range(size):
            y = np.floor(y1 + (i + 0.5) * step_y)
            if not 0 <= y < height:
                continue
            pixel = np.int64(x * height + y)
            if run < 0 or step_y < 0:
                run = np.searchsorted(ends, pixel, side="right")
            while run < len(ends) and ends[run] <= pixel:
                run += 1
            mask[i, j] = run % 2 == 1 and run < len(ends)
    return mask


@njit(cache=True, nogil=True)
def _first_at_least(value, start, step, size):  # noqa: ANN001, ANN202
    """The first cell whose centre is at or beyond `value` in the direction of `step`, or `size`.

    On a mirrored axis, whose coordinates decrease, it is the first centre below `value`. Division gives a guess, which
    may be off by one because of rounding; it is corrected with the same centres that the reference computes.
    """
    cell = int(min(max(np.floor((value - start) / step - 0.5), 0.0), float(size)))
    if step > 0:
        while cell > 0 and start + (cell - 0.5) * step >= value:
            cell -= 1
        while cell < size and start + (cell + 0.5) * step < value:
            cell += 1
    else:
        while cell > 0 and start + (cell - 0.5) * step < value:
            cell -= 1
        while cell < size and start + (cell + 0.5) * step >= value:
            cell += 1
    return cell


@njit(cache=True, nogil=True)
def _fill(marks, mask, forwards):  # noqa: ANN001, ANN202
    """A crossing counts for the centres at or right of it: from its mark on, or, on a mirrored axis, up to its mark."""
    size = len(mask)
    for row in range(size):
        winding = 0
        for step in range(size):
            column = step if forwards else size - 1 - step
            winding += marks[row, column if forwards else column + 1]
            if winding != 0:
                mask[row, column] = True
