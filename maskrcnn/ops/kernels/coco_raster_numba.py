"""`coco_raster` on a CPU: the walk is never stored. Serial and `nogil`, because it also runs in workers."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def coco_raster_numba(points, parts, spans, origins, scales, height, width):  # noqa: ANN001, ANN201
    masks = np.zeros((len(spans), height, width), dtype=np.bool_)
    flips = np.zeros(height * width + 1, dtype=np.bool_)
    for n in range(len(spans)):
        for part in range(spans[n, 0], spans[n, 1]):
            flips[:] = False
            _mark(points[parts[part] : parts[part + 1]], origins[n], scales[n], height, width, flips)
            inside, at = False, 0
            for column in range(width):
                for row in range(height):
                    inside ^= flips[at]
                    if inside:
                        masks[n, row, column] = True
                    at += 1
    return masks


@njit(cache=True, nogil=True, error_model="numpy")
def _mark(corners, origin, scale, height, width, flips):  # noqa: ANN001, ANN202
    """Walks along the outline in fifths of a cell and flips `flips` where it enters the middle fifth of a column."""
    begun, x, y = False, 0, 0
    for i in range(len(corners)):
        start, end = corners[i], corners[i + 1 if i + 1 < len(corners) else 0]
        x1, y1 = _fine(start[0], origin[0], scale[0]), _fine(start[1], origin[1], scale[1])
        x2, y2 = _fine(end[0], origin[0], scale[0]), _fine(end[1], origin[1], scale[1])
        dx, dy = abs(x2 - x1), abs(y2 - y1)
        steps = max(dx, dy)
        if steps == 0:
            continue
        back = x1 > x2 if dx >= dy else y1 > y2
        if back:
            x1, y1, x2, y2 = x2, y2, x1, y1
        slope = (y2 - y1) / dx if dx >= dy else (x2 - x1) / dy
        for step in range(steps + 1):
            t = steps - step if back else step
            if dx >= dy:
                next_x, next_y = x1 + t, np.int64(y1 + slope * t + 0.5)
            else:
                next_x, next_y = np.int64(x1 + slope * t + 0.5), y1 + t
            if begun and next_x != x:
                column, rest = divmod(min(x, next_x) - 2, 5)
                if rest == 0 and 0 <= column < width:
                    row = np.ceil(min(max((min(y, next_y) + 0.5) / 5.0 - 0.5, 0.0), float(height)))
                    at = column * height + np.int64(row)
                    flips[at] = not flips[at]
            begun, x, y = True, next_x, next_y


@njit(cache=True, nogil=True)
def _fine(value, origin, scale):  # noqa: ANN001, ANN202
    return np.int64(5.0 * ((value - origin) * scale) + 0.5)  # truncates towards zero, as C does
