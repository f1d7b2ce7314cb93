"""Detectron at test, written down once more: NumPy in float64 and plain loops, blobs under Caffe2's names.

It knows nothing of the package. Boxes are inclusive, (x1, y1, x2, y2) with widths x2 - x1 + 1; class 0 is background.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Blobs = Mapping[str, Array]

MEANS = np.array([102.9801, 115.9465, 122.7717])  # BGR
SIZES, RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
LIMIT = math.log(1000 / 16)


class Rules(NamedTuple):
    """The numbers that a small test changes."""

    short_side: int
    pre_nms: int
    post_nms: int
    detections: int
    score: float = 0.05
    nms: float = 0.5


class Found(NamedTuple):
    boxes: Array  # [D 4], inclusive, in pixels of the image
    scores: Array
    labels: Array  # 1 .. K
    masks: Array  # bool [D H W]


# --- layers ----------------------------------------------------------------------------------------------------------


def conv(x: Array, weight: Array, *, stride: int = 1, bias: Array | None = None) -> Array:
    """[C H W] to [D h w], same padding."""
    _, _, kernel, _ = weight.shape
    pad = kernel // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height, width = (x.shape[1] - kernel) // stride + 1, (x.shape[2] - kernel) // stride + 1
    out = np.zeros((len(weight), height, width))
    for i in range(kernel):
        for j in range(kernel):
            part = x[:, i : i + stride * height : stride, j : j + stride * width : stride][:, :height, :width]
            out += np.tensordot(weight[:, :, i, j], part, 1)
    return out if bias is None else out + bias[:, None, None]


def affine(x: Array, blobs: Blobs, name: str) -> Array:
    return x * blobs[f"{name}_bn_s"][:, None, None] + blobs[f"{name}_bn_b"][:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def max_pool(x: Array) -> Array:
    """3 x 3, stride 2, padding 1."""
    height, width = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    parts = [
        x[:, i : i + 2 * height : 2, j : j + 2 * width : 2][:, :height, :width] for i in range(3) for j in range(3)
    ]
    return np.max(parts, axis=0)


def stage(x: Array, blobs: Blobs, number: int, stride: int) -> Array:
    """Bottlenecks, with the stride in the first 1x1 convolution."""
    block = 0
    while f"res{number}_{block}_branch2a_w" in blobs:
        name, step = f"res{number}_{block}_branch", stride if block == 0 else 1
        y = relu(affine(conv(x, blobs[f"{name}2a_w"], stride=step), blobs, f"{name}2a"))
        y = relu(affine(conv(y, blobs[f"{name}2b_w"]), blobs, f"{name}2b"))
        y = affine(conv(y, blobs[f"{name}2c_w"]), blobs, f"{name}2c")
        if f"{name}1_w" in blobs:
            x = affine(conv(x, blobs[f"{name}1_w"], stride=step), blobs, f"{name}1")
        x, block = relu(x + y), block + 1
    return x


def layer(x: Array, blobs: Blobs, name: str) -> Array:
    return conv(x, blobs[f"{name}_w"], bias=blobs[f"{name}_b"])


def deconv(x: Array, blobs: Blobs, name: str) -> Array:
    """2 x 2, stride 2: nothing overlaps."""
    weight = blobs[f"{name}_w"]  # in, out, 2, 2
    out = np.zeros((weight.shape[1], 2 * x.shape[1], 2 * x.shape[2]))
    for a in range(2):
        for b in range(2):
            out[:, a::2, b::2] = np.tensordot(weight[:, :, a, b].T, x, 1)
    return out + blobs[f"{name}_b"][:, None, None]


# --- image ---------------------------------------------------------------------------------------------------------


def blob_of(image: Array, short_side: int) -> tuple[Array, float]:
    """RGB uint8 [h w 3] to BGR [3 H W] without means, resized with OpenCV's linear rule; and the scale."""
    scale = short_side / min(image.shape[:2])
    pixels = image[:, :, ::-1].astype(np.float64) - MEANS
    for axis in (0, 1):
        count = image.shape[axis]
        at = ((np.arange(round(count * scale)) + 0.5) / scale - 0.5).clip(0, count - 1)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, count - 1), at - low
        share = share.reshape(-1, *[1] * (2 - axis))
        pixels = np.take(pixels, low, axis) * (1 - share) + np.take(pixels, high, axis) * share
    return pixels.transpose(2, 0, 1), scale


# --- boxes -----------------------------------------------------------------------------------------------------------


def cell_anchors(stride: int, sizes: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    """All sizes of a ratio together."""
    center = (stride - 1) / 2
    anchors = []
    for ratio in RATIOS:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for size in sizes:
            w, h = width * size / stride, height * size / stride
            anchors.append((center - (w - 1) / 2, center - (h - 1) / 2, center + (w - 1) / 2, center + (h - 1) / 2))
    return anchors


def decode(box: Array, delta: Array, weights: tuple[float, float, float, float]) -> Array:
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = box[0] + 0.5 * width, box[1] + 0.5 * height
    dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
    x, y = x + dx * width, y + dy * height
    width, height = width * math.exp(min(dw, LIMIT)), height * math.exp(min(dh, LIMIT))
    return np.array([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width - 1, y + 0.5 * height - 1])


def clip(box: Array, height: float, width: float) -> Array:
    return np.array([min(max(value, 0), side - 1) for value, side in zip(box, (width, height) * 2, strict=True)])


def iou(a: Array, b: Array) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (sum(areas) - shared)


def suppress(boxes: list[Array], scores: list[float], threshold: float) -> list[int]:
    """The boxes kept, best first: another is dropped where their overlap reaches the threshold."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) < threshold for j in kept):
            kept.append(i)
    return kept


# --- regions ---------------------------------------------------------------------------------------------------------


def level_of(box: Array) -> int:
    """2 .. 5, by the side of the box in pixels of the canvas."""
    side = math.sqrt((box[2] - box[0] + 1) * (box[3] - box[1] + 1))
    return min(max(math.floor(4 + math.log2(side / 224 + 1e-6)), 2), 5)


def sample(feature: Array, y: float, x: float) -> Array:
    _, height, width = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(feature))
    y, x = max(y, 0), max(x, 0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = (0.0 if top == height - 1 else y - top), (0.0 if left == width - 1 else x - left)
    above = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
    below = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
    return above * (1 - dy) + below * dy


def roi_align(feature: Array, box: Array, stride: int, side: int, sampling: int) -> Array:
    """[C side side]; no half pixel is subtracted, and no region is smaller than a cell."""
    x1, y1, x2, y2 = box / stride
    bin_w, bin_h = max(x2 - x1, 1) / side, max(y2 - y1, 1) / side
    nx, ny = (sampling, sampling) if sampling else (math.ceil(bin_w), math.ceil(bin_h))
    out = np.zeros((len(feature), side, side))
    for i in range(side):
        for j in range(side):
            points = [
                sample(feature, y1 + (i + (a + 0.5) / ny) * bin_h, x1 + (j + (b + 0.5) / nx) * bin_w)
                for a in range(ny)
                for b in range(nx)
            ]
            out[:, i, j] = np.mean(points, axis=0)
    return out


# --- the whole -------------------------------------------------------------------------------------------------------


def detect(blobs: Blobs, image: Array, rules: Rules) -> Found:
    """Everything on one image, whose canvas needs no padding."""
    blobs = {name: array.astype(np.float64) for name, array in blobs.items()}
    data, scale = blob_of(image, rules.short_side)
    x = max_pool(relu(affine(conv(data, blobs["conv1_w"], stride=2), blobs, "res_conv1")))
    c2 = stage(x, blobs, 2, 1)
    c3 = stage(c2, blobs, 3, 2)
    c4 = stage(c3, blobs, 4, 2)
    if "conv_rpn_w" in blobs:
        maps = {16: c4}
        proposals = propose(blobs, maps, "", data.shape[1:], rules)
    else:
        maps = pyramid(blobs, [c2, c3, c4, stage(c4, blobs, 5, 2)])
        proposals = propose(blobs, {**maps, 64: maps[32][:, ::2, ::2]}, "_fpn2", data.shape[1:], rules)
    boxes, scores, labels = classify(blobs, maps, proposals, scale, image.shape[:2], rules)
    masks = [
        paste(small_mask(blobs, maps, box * scale, label), box, image.shape[:2])
        for box, label in zip(boxes, labels, strict=True)
    ]
    return Found(np.array(boxes), np.array(scores), np.array(labels), np.array(masks))


def pyramid(blobs: Blobs, maps: list[Array]) -> dict[int, Array]:
    """Features by stride."""
    names = {name.rsplit("_", 1)[0] for name in blobs if name.startswith(("fpn_inner_res", "fpn_res"))}

    def named(start: str) -> str:
        return next(name for name in names if name.startswith(start))

    inner, out = layer(maps[3], blobs, named("fpn_inner_res5")), {}
    for number in (5, 4, 3, 2):
        if number < 5:
            inner = layer(maps[number - 2], blobs, named(f"fpn_inner_res{number}")) + inner.repeat(2, 1).repeat(2, 2)
        out[2**number] = layer(inner, blobs, named(f"fpn_res{number}"))
    return out


def propose(blobs: Blobs, maps: dict[int, Array], suffix: str, size: tuple[int, ...], rules: Rules) -> list[Array]:
    """Of all levels, best first."""
    found: list[tuple[float, Array]] = []
    for stride, feature in maps.items():
        hidden = relu(layer(feature, blobs, f"conv_rpn{suffix}"))
        scores, deltas = layer(hidden, blobs, f"rpn_cls_logits{suffix}"), layer(hidden, blobs, f"rpn_bbox_pred{suffix}")
        cells = cell_anchors(stride, SIZES if suffix == "" else (stride * 8,))
        level: list[tuple[float, Array]] = []
        for a, cell in enumerate(cells):
            for i in range(feature.shape[1]):
                for j in range(feature.shape[2]):
                    anchor = np.array(cell) + np.array([j, i, j, i]) * stride
                    box = decode(anchor, deltas[4 * a : 4 * a + 4, i, j], (1, 1, 1, 1))
                    level.append((float(sigmoid(scores[a, i, j])), clip(box, size[0], size[1])))
        level = sorted(level, key=lambda pair: -pair[0])[: rules.pre_nms]
        kept = suppress([box for _, box in level], [score for score, _ in level], 0.7)
        found += [level[k] for k in kept[: rules.post_nms]]
    return [box for _, box in sorted(found, key=lambda pair: -pair[0])[: rules.post_nms]]


def pooled(blobs: Blobs, maps: dict[int, Array], box: Array, side: int) -> Array:
    """What a head reads of a box: for C4, through res5."""
    if len(maps) == 1:
        return stage(roi_align(maps[16], box, 16, 14, 0), blobs, 5, 2)
    stride = 2 ** level_of(box)
    return roi_align(maps[stride], box, stride, side, 2)


def classify(
    blobs: Blobs, maps: dict[int, Array], proposals: list[Array], scale: float, size: tuple[int, ...], rules: Rules
) -> tuple[list[Array], list[float], list[int]]:
    """Boxes in the image, scores, classes from 1."""
    candidates: dict[int, list[tuple[float, Array]]] = {}
    for proposal in proposals:
        x = pooled(blobs, maps, proposal, 7)
        if "fc6_w" in blobs:
            x = relu(blobs["fc6_w"] @ x.reshape(-1) + blobs["fc6_b"])
            x = relu(blobs["fc7_w"] @ x + blobs["fc7_b"])
        else:
            x = x.mean((1, 2))
        logits = blobs["cls_score_w"] @ x + blobs["cls_score_b"]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        deltas = (blobs["bbox_pred_w"] @ x + blobs["bbox_pred_b"]).reshape(-1, 4)
        for label in range(1, len(scores)):
            if scores[label] > rules.score:
                box = clip(decode(proposal / scale, deltas[label], (10, 10, 5, 5)), size[0], size[1])
                candidates.setdefault(label, []).append((float(scores[label]), box))
    found = []
    for label, pairs in candidates.items():
        kept = suppress([box for _, box in pairs], [score for score, _ in pairs], rules.nms)
        found += [(*pairs[k], label) for k in kept]
    found = sorted(found, key=lambda one: -one[0])[: rules.detections]
    return [box for _, box, _ in found], [score for score, _, _ in found], [label for _, _, label in found]


def small_mask(blobs: Blobs, maps: dict[int, Array], box: Array, label: int) -> Array:
    """M x M probabilities of the class."""
    x, i = pooled(blobs, maps, box, 14), 1
    while f"_[mask]_fcn{i}_w" in blobs:
        x, i = relu(layer(x, blobs, f"_[mask]_fcn{i}")), i + 1
    return sigmoid(layer(relu(deconv(x, blobs, "conv5_mask")), blobs, "mask_fcn_logits")[label])


def paste(mask: Array, box: Array, size: tuple[int, ...]) -> Array:
    """Padded by a pixel, laid over the box grown alike and cut to whole pixels, more than a half."""
    side = len(mask)
    grow = (side + 2) / side
    padded = np.pad(mask, 1)
    center_x, center_y = (box[2] + box[0]) / 2, (box[3] + box[1]) / 2
    half_w, half_h = (box[2] - box[0]) / 2 * grow, (box[3] - box[1]) / 2 * grow
    x1, y1, x2, y2 = (
        int(value) for value in (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
    )
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    out = np.zeros(size[:2], bool)
    for y in range(max(y1, 0), min(y2 + 1, size[0])):
        for x in range(max(x1, 0), min(x2 + 1, size[1])):
            v, u = (y - y1 + 0.5) * (side + 2) / height - 0.5, (x - x1 + 0.5) * (side + 2) / width - 0.5
            v, u = min(max(v, 0), side + 1), min(max(u, 0), side + 1)
            top, left = min(int(v), side), min(int(u), side)
            dv, du = v - top, u - left
            above = padded[top, left] * (1 - du) + padded[top, left + 1] * du
            below = padded[top + 1, left] * (1 - du) + padded[top + 1, left + 1] * du
            out[y, x] = above * (1 - dv) + below * dv > 0.5
    return out
