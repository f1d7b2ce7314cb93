"""Triton's kernels against the references on one device: the cases of the GPU's tests and of `benchmarks/gpu.py`.

Each check draws its inputs, runs both, and returns how far apart they are, in the unit of its tolerance.
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.config import PoolConfig
from maskrcnn.model.pooler import assign_levels
from maskrcnn.ops.match import match
from maskrcnn.ops.nms import nms
from maskrcnn.ops.paste import paste
from maskrcnn.ops.roi_align import roi_align

# Relative to the largest value. A GPU fuses multiplications with additions and divides by a constant through its
# inverse, so that a point moves by a unit in the last place of a coordinate up to 336, times the slope of noise.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-10}
STRIDES = (4, 8, 16, 32)


class Check(NamedTuple):
    """`run(device)` gives the error, which should be at most `tolerance`."""

    run: Callable[[str], float]
    tolerance: float


def pyramid_of(height: int, width: int, channels: int, dtype: torch.dtype, device: str, batch: int = 2) -> list[Tensor]:
    """Noise of the sizes of a canvas's maps, channels-last."""
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(batch, channels, height // s, width // s, generator=rng) for s in STRIDES]
    return [m.to(device, dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for m in maps]


def boxes_of(height: int, width: int, count: int, device: str, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of sides 8 to 800, some across the border; their levels; which slots are valid. Other slots hold NaN."""
    rng = torch.Generator().manual_seed(1)
    side = 8 * 100 ** torch.rand(batch, count, 2, generator=rng)
    centre = torch.rand(batch, count, 2, generator=rng) * torch.tensor([width, height])
    boxes = torch.cat((centre - side / 2, centre + side / 2), dim=2)
    valid = torch.rand(batch, count, generator=rng) < 0.9
    levels = torch.where(valid, assign_levels(boxes, PoolConfig(), levels=4), 1 << 40)
    return torch.where(valid[..., None], boxes, torch.nan).to(device), levels.to(device), valid.to(device)


@contextmanager
def determinism(wanted: bool):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def roi_align_error(
    device: str,
    *,
    dtype: torch.dtype,
    canvas: tuple[int, int] = (320, 448),
    channels: int = 64,
    count: int = 60,
    size: int = 7,
    sampling: int = 2,
    aligned: bool = True,
    deterministic: bool = False,
) -> float:
    """The largest difference of values and gradients, relative to the largest of the reference's."""
    boxes, levels, valid = boxes_of(*canvas, count, device)
    numbers = {"scales": [(1 / s, 1 / s) for s in STRIDES], "size": size, "sampling": sampling, "aligned": aligned}
    found = {}
    for impl in ("reference", "triton"):
        maps = pyramid_of(*canvas, channels, dtype, device)
        out = roi_align(maps, boxes, levels, valid, **numbers, impl=impl)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(device, dtype)
        with determinism(deterministic and impl == "triton"):
            found[impl] = [out.detach(), *torch.autograd.grad(out, maps, grad)]
    pairs = zip(found["triton"], found["reference"], strict=True)
    return max(((a.float() - b.float()).abs().max() / b.float().abs().max()).item() for a, b in pairs)


def many_maps_error(device: str) -> float:
    """The largest difference if each object has its own map, as stored masks do."""
    rng = torch.Generator().manual_seed(8)
    maps = [m.requires_grad_() for m in torch.rand(40, 2, 1, 56, 80, generator=rng).to(device)]
    corner = torch.rand(2, 128, 2, generator=rng) * 60 - 10
    boxes = torch.cat((corner, corner + torch.rand(2, 128, 2, generator=rng) * 40), dim=2).to(device)
    levels = torch.randint(0, 40, (2, 128), generator=rng).to(device)
    numbers = {"scales": [(1.0, 1.0)] * 40, "size": 28, "sampling": 0, "aligned": False}
    found = []
    for impl in ("triton", "reference"):
        out = roi_align(maps, boxes, levels, levels % 3 > 0, **numbers, impl=impl)
        found.append([out.detach(), *torch.autograd.grad(out, maps, torch.ones_like(out))])
    return max((a - b).abs().max().item() for a, b in zip(*found, strict=True))


def repeated_gradient_error(device: str) -> float:
    """How many values of the deterministic gradient differ between two runs."""
    boxes, levels, valid = boxes_of(320, 448, 400, device)
    maps = pyramid_of(320, 448, 64, torch.bfloat16, device)
    scales = [(1 / s, 1 / s) for s in STRIDES]
    out = roi_align(maps, boxes, levels, valid, scales=scales, size=7, sampling=2, aligned=True, impl="triton")
    with determinism(True):
        first, second = (torch.autograd.grad(out, maps, torch.ones_like(out), retain_graph=True) for _ in range(2))
    return float(sum((a != b).sum().item() for a, b in zip(first, second, strict=True)))


def rounding_error(device: str) -> float:
    """How many means of two bfloat16 numbers are not rounded to the nearest, ties to even."""
    bits = torch.arange(-(1 << 15), 1 << 15, 7).to(torch.int16).view(torch.bfloat16)
    left = bits[bits.isfinite()].to(device)
    right = left.roll(1)
    features = torch.stack([left, right]).t().reshape(1, -1, 1, 2)  # every channel is a pair of pixels
    box, level = (
        torch.tensor([[[0.0, -0.5, 1.0, 0.5]]], device=device),
        torch.zeros(1, 1, dtype=torch.int64, device=device),
    )
    numbers = {"scales": [(1.0, 1.0)], "size": 1, "sampling": 1, "aligned": False}
    got = roi_align([features], box, level, level == 0, **numbers, impl="triton").flatten()
    wanted = (left.float() * 0.5 + right.float() * 0.5).bfloat16()
    return float((got != wanted).sum())


def nms_error(device: str, *, count: int, groups: int, top: int, iou: float = 0.5, closed: bool = False) -> float:
    """How many slots differ. Boxes are whole pixels and scores are eighths, so that overlaps and scores tie."""
    rng = torch.Generator().manual_seed(3)
    corner = torch.randint(0, 300, (3, count, 2), generator=rng)
    boxes = torch.cat((corner, corner + torch.randint(0, 120, (3, count, 2), generator=rng)), dim=2).float()
    valid = torch.rand(3, count, generator=rng) < 0.9
    boxes = torch.where(valid[..., None], boxes, torch.nan)
    scores = torch.randint(-400, 400, (3, count), generator=rng) / 8
    group = torch.randint(-groups // 2, groups - groups // 2, (3, count), generator=rng)
    given = [tensor.to(device) for tensor in (boxes, scores, group, valid)]
    numbers = {"iou": iou, "top": top, "closed": closed}
    (a, kept_a), (b, kept_b) = (nms(*given, **numbers, impl=impl) for impl in ("triton", "reference"))
    return float(((a != b) | (kept_a != kept_b)).sum())


def match_error(device: str, *, count: int, slots: int) -> float:
    """The largest difference of overlaps, plus the number of overlapping boxes whose matches differ."""
    rng = torch.Generator().manual_seed(4)

    def draw(n: int) -> Tensor:
        corner = torch.randint(0, 300, (2, n, 2), generator=rng)
        return torch.cat((corner, corner + torch.randint(1, 150, (2, n, 2), generator=rng)), dim=2).float().to(device)

    boxes, gt = draw(count), draw(slots)
    valid, ignore = (torch.rand(2, slots, generator=rng).to(device) < share for share in (0.7, 0.3))
    candidates = torch.rand(2, count, generator=rng).to(device) < 0.8
    gt = torch.where(valid[..., None], gt, torch.nan)
    a, b = (match(boxes, gt, valid, ignore, candidates=candidates, impl=impl) for impl in ("triton", "reference"))
    wrong = ((a.index != b.index) & (b.iou > 0)).sum() + (a.best_of_gt != b.best_of_gt).sum()
    return ((a.iou - b.iou).abs().max() + (a.ignored - b.ignored).abs().max() + wrong).item()


def paste_error(device: str, *, rule: str, threshold: float | None, size: tuple[int, int] = (200, 333)) -> float:
    """How many pixels differ or, without a threshold, the sum of their differences."""
    rng = torch.Generator().manual_seed(5)
    masks = torch.rand(12, 28, 28, generator=rng)
    centre = torch.rand(12, 2, generator=rng) * torch.tensor(size[::-1])
    side = torch.rand(12, 2, generator=rng) * 300
    boxes = torch.cat((centre - side / 2, centre + side / 2), dim=1)
    boxes[0], masks[1] = torch.nan, torch.nan
    given = masks.to(device), boxes.to(device)
    a, b = (paste(*given, size, rule=rule, threshold=threshold, impl=impl) for impl in ("triton", "reference"))
    return (a.float() - b.float()).abs().sum().item()


def _roi_align(dtype: torch.dtype, **numbers: object) -> Check:
    return Check(partial(roi_align_error, dtype=dtype, **numbers), TOLERANCE[dtype])


FULL = {"canvas": (800, 1344), "channels": 256}
CHECKS: dict[str, Check] = {
    "roi_align float32": _roi_align(torch.float32),
    "roi_align bfloat16": _roi_align(torch.bfloat16),
    "roi_align float16": _roi_align(torch.float16),
    "roi_align legacy": _roi_align(torch.float32, aligned=False),
    "roi_align adaptive": _roi_align(torch.float32, sampling=0),
    "roi_align 14 x 14, odd channels": _roi_align(torch.float32, size=14, channels=67),
    "roi_align deterministic": _roi_align(torch.float32, deterministic=True),
    "roi_align deterministic, adaptive, legacy": _roi_align(
        torch.float32, deterministic=True, sampling=0, aligned=False, channels=67
    ),
    "roi_align 800 x 1344": _roi_align(torch.float32, count=512, **FULL),
    "roi_align 800 x 1344, bfloat16, deterministic": _roi_align(torch.bfloat16, count=512, deterministic=True, **FULL),
    "roi_align of a map for each object": Check(many_maps_error, 1e-4),
    "roi_align rounds": Check(rounding_error, 0.0),
    "roi_align twice the same gradient": Check(repeated_gradient_error, 0.0),
    "nms": Check(partial(nms_error, count=500, groups=5, top=100), 0.0),
    "nms of one group": Check(partial(nms_error, count=3000, groups=1, top=1000, iou=0.7), 0.0),
    "nms of many groups": Check(partial(nms_error, count=5000, groups=80, top=100), 0.0),
    "nms, closed": Check(partial(nms_error, count=700, groups=3, top=700, closed=True), 0.0),
    "match": Check(partial(match_error, count=2000, slots=37), 1e-6),
    "match of few objects": Check(partial(match_error, count=5000, slots=16), 1e-6),
    "match of all anchors": Check(partial(match_error, count=268_569, slots=64), 1e-6),
    "paste": Check(partial(paste_error, rule="grid", threshold=0.5), 0.0),
    "paste padded": Check(partial(paste_error, rule="padded", threshold=0.5), 0.0),
    "paste soft": Check(partial(paste_error, rule="grid", threshold=None), 0.0),
}
