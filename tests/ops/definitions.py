"""RoIAlign, RoIPool and RoIWarp written from their definitions: plain loops, Python's floats, one box at a time.

Each operator is a rule that lists the samples of each bin. A sample is a list of (row, column, weight); it is empty,
and counts as zero, if the sample lies outside the map. `pool` computes values and gradients from a rule.
`counts_from_string` reads compressed RLE likewise, one character at a time.
"""

import math

import numpy as np


def round_half_away(x: float) -> int:
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def bilinear(y: float, x: float, height: int, width: int) -> list[tuple[int, int, float]]:
    """The four neighbours of a point on the map. Centres are integers; beyond the last one the last pixel is read."""
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    return [
        (top, left, (1 - v) * (1 - u)),
        (top, right, (1 - v) * u),
        (down, left, v * (1 - u)),
        (down, right, v * u),
    ]


def roi_align_samples(box, height, width, size, *, sampling, aligned):
    x1, y1, x2, y2 = (c - (0.5 if aligned else 0.0) for c in box)
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    across, down = sampling or max(math.ceil(w / size), 0), sampling or max(math.ceil(h / size), 0)

    def samples(p, q):
        for i in range(down):
            for j in range(across):
                y = y1 + (p + (i + 0.5) / down) * h / size
                x = x1 + (q + (j + 0.5) / across) * w / size
                outside = y < -1 or y > height or x < -1 or x > width
                yield [] if outside else bilinear(y, x, height, width)

    return samples


def roi_pool_samples(box, height, width, size, **_):
    x1, y1, x2, y2 = (round_half_away(c) for c in box)
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)

    def samples(p, q):
        rows = range(y1 + math.floor(p * h / size), y1 + math.ceil((p + 1) * h / size))
        columns = range(x1 + math.floor(q * w / size), x1 + math.ceil((q + 1) * w / size))
        for row in rows:
            for column in columns:
                if 0 <= row < height and 0 <= column < width:
                    yield [(row, column, 1.0)]

    return samples


def roi_warp_samples(box, height, width, size, **_):
    x1, y1, x2, y2 = (round_half_away(c) for c in box)
    w, h = max(x2 - x1, 1), max(y2 - y1, 1)
    across, down = math.ceil(w / size), math.ceil(h / size)

    def samples(p, q):
        for i in range(down + 1):
            for j in range(across + 1):
                y, x = y1 + (p + i / down) * h / size, x1 + (q + j / across) * w / size
                if -0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5:
                    yield bilinear(y, x, height, width)

    return samples


RULES = {"roi_align": roi_align_samples, "roi_pool": roi_pool_samples, "roi_warp": roi_warp_samples}


def pool(rule, features, boxes, levels, valid, *, scales, size, aggregate, grad, sampling=2, aligned=True):
    """Values [B R C S S], and the gradient to each map of (values * grad).sum(), in float64."""
    features = [np.asarray(f, np.float64) for f in features]
    grads = [np.zeros_like(f) for f in features]
    (B, R), C = levels.shape, features[0].shape[1]
    out = np.zeros((B, R, C, size, size))
    for b, r in np.ndindex(B, R):
        level = int(levels[b, r])
        if not valid[b, r] or not 0 <= level < len(features):
            continue
        image, back = features[level][b], grads[level][b]
        scale_y, scale_x = scales[level]
        x1, y1, x2, y2 = (float(c) for c in boxes[b, r])
        box = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
        samples = RULES[rule](box, *image.shape[1:], size, sampling=sampling, aligned=aligned)
        for p, q in np.ndindex(size, size):
            taps = list(samples(p, q))
            if not taps:
                continue
            values = np.array([sum((w * image[:, y, x] for y, x, w in tap), np.zeros(C)) for tap in taps])
            share = np.full(values.shape, 1 / len(taps))
            if aggregate == "max":
                share = np.zeros_like(values)
                share[values.argmax(0), np.arange(C)] = 1
            out[b, r, :, p, q] = (values * share).sum(0)
            for tap, part in zip(taps, share, strict=True):
                for y, x, w in tap:
                    back[:, y, x] += w * part * grad[b, r, :, p, q]
    return out, grads


def counts_from_string(string: bytes) -> list[int]:
    """The run lengths of a compressed RLE, as `rleFrString` in maskApi.c reads them."""
    counts, number, shift = [], 0, 0
    for character in string:
        group = character - 48
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number, shift = 0, 0
    return counts
