"""python benchmarks/ops/bench_roi_align.py [--threads 2] [--repeats 20]

RoIAlign of 1000 boxes from a pyramid of an 800 x 1088 canvas, 256 channels, forward and backward: our kernel beside our
reference (not with sampling 0: minutes) and, where it can be imported, torchvision. About a minute on a quiet machine.
Ratios count; milliseconds belong to the machine.
"""

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.model.pooler import assign_levels
from maskrcnn.ops.dispatch import implementations
from maskrcnn.ops.roi_align import roi_align

HEIGHT, WIDTH, CHANNELS = 800, 1088, 256
STRIDES = (4, 8, 16, 32)


class Scene(NamedTuple):
    pyramid: list[Tensor]
    boxes: Tensor  # [1 R 4]
    levels: Tensor
    size: int
    sampling: int

    def ours(self, impl: str) -> Tensor:
        valid = torch.ones_like(self.levels, dtype=torch.bool)
        scales = [(1 / stride, 1 / stride) for stride in STRIDES]
        numbers = {"size": self.size, "sampling": self.sampling, "aligned": True, "impl": impl}
        return roi_align(self.pyramid, self.boxes, self.levels, valid, scales=scales, **numbers)

    def torchvision(self) -> Tensor:
        from torchvision.ops import roi_align as theirs  # pyright: ignore

        out = self.pyramid[0].new_empty(self.boxes.shape[1], CHANNELS, self.size, self.size)
        for level, (features, stride) in enumerate(zip(self.pyramid, STRIDES, strict=True)):
            slots = torch.nonzero(self.levels[0] == level).flatten()
            pooled = theirs(features, [self.boxes[0, slots]], (self.size,) * 2, 1 / stride, self.sampling, True)
            out = out.index_copy(0, slots, pooled)
        return out


def setup(dtype: torch.dtype, size: int, num_boxes: int, sampling: int) -> Scene:
    """Boxes with sides from 16 to 400 pixels, evenly on a logarithmic scale, anywhere on the canvas."""
    rng = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(1, CHANNELS, HEIGHT // s, WIDTH // s, generator=rng).to(dtype) for s in STRIDES]
    pyramid = [features.contiguous(memory_format=torch.channels_last).requires_grad_() for features in pyramid]
    side = 16 * 25 ** torch.rand(1, num_boxes, 2, generator=rng)
    centre = torch.rand(1, num_boxes, 2, generator=rng) * torch.tensor([WIDTH, HEIGHT])
    edge = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    boxes = torch.cat([centre - side / 2, centre + side / 2], dim=2).clamp(min=0).minimum(edge)
    return Scene(pyramid, boxes, assign_levels(boxes, levels=len(STRIDES)), size, sampling)


def milliseconds(run: Callable[[], object], repeats: int) -> list[float]:
    """The 20th, 50th and 80th percentile after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return [cuts[1], cuts[4], cuts[7]]


def measure(scene: Scene, forward: Callable[[], Tensor], repeats: int) -> tuple[list[float], list[float]]:
    """Forward without, and backward with, a graph."""
    with torch.no_grad():
        times = milliseconds(forward, repeats)
    out = forward()
    grad = torch.ones_like(out)  # in the layout of the result
    return times, milliseconds(lambda: torch.autograd.grad(out, scene.pyramid, grad, retain_graph=True), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}")
    print(f"{'':36}{'forward p20 p50 p80':>24}  of ours {'backward p20 p50 p80':>24}  of ours")
    for dtype in (torch.float32, torch.bfloat16):
        for size, num_boxes, sampling in ((7, 1000, 2), (7, 1000, 0), (14, 100, 2)):
            scene = setup(dtype, size, num_boxes, sampling)
            names = [name for name in reversed(implementations("roi_align")) if sampling or name != "reference"]
            rivals: dict[str, Callable[[], Tensor]] = {name: partial(scene.ours, name) for name in names}
            if importlib.util.find_spec("torchvision") and dtype == torch.float32:
                rivals["torchvision"] = scene.torchvision
            own = None
            for name, forward in rivals.items():
                repeats = max(2, args.repeats // 10) if name == "reference" else args.repeats
                times = measure(scene, forward, repeats)
                own = own or times
                label = f"{str(dtype)[6:]} {num_boxes} of {size}x{size}, sampling {sampling}: {name}"
                columns = [
                    f"{' '.join(f'{t:7.1f}' for t in t3):>24} {t3[1] / o3[1]:7.1f}x"
                    for t3, o3 in zip(times, own, strict=True)
                ]
                print(f"{label:<44}{''.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
