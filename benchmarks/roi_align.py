"""RoIAlign 7 x 7 of 1000 boxes from four maps of 256 channels on a canvas of 800 x 1088, forward and backward.

    python -m benchmarks.roi_align [--quick]

Ours (the Numba kernel, channels last) beside torchvision's MultiScaleRoIAlign (in its own layout), with 2 x 2 samples
in a bin. Each side chooses the levels of the boxes itself. Without a bar: the same in bf16, and the 100 boxes of
14 x 14 that the mask branch pools.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from maskrcnn.config import PoolConfig
from maskrcnn.model.pooler import assign_levels
from maskrcnn.ops.roi_align import roi_align

from .harness import Left, Options, Row, Work, against, interleaved, require, run

HEIGHT, WIDTH, CHANNELS = 800, 1088, 256
STRIDES = (4, 8, 16, 32)
SAMPLING = 2
TORCHVISION = PoolConfig(sampling=SAMPLING, aligned=False, level_epsilon=1e-6, level_epsilon_place="outside")


class Scene(NamedTuple):
    pyramid: list[Tensor]
    boxes: Tensor  # [1 R 4]
    size: int

    def ours(self) -> Tensor:
        levels = assign_levels(self.boxes, TORCHVISION, levels=len(STRIDES))
        valid = torch.ones_like(levels, dtype=torch.bool)
        scales = [(1 / stride, 1 / stride) for stride in STRIDES]
        return roi_align(
            self.pyramid,
            self.boxes,
            levels,
            valid,
            scales=scales,
            size=self.size,
            sampling=TORCHVISION.sampling,
            aligned=TORCHVISION.aligned,
        )

    def torchvision(self) -> Tensor:
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], self.size, SAMPLING)
        maps = {str(level): features for level, features in enumerate(self.pyramid)}
        return pool(maps, [self.boxes[0]], [(HEIGHT, WIDTH)])[None]

    def laid_out(self, dtype: torch.dtype, memory_format: torch.memory_format) -> "Scene":
        """The same scene with maps of another type and layout."""
        maps = [p.detach().to(dtype).contiguous(memory_format=memory_format).requires_grad_() for p in self.pyramid]
        return self._replace(pyramid=maps)


def setup(size: int, num_boxes: int) -> Scene:
    """Boxes anywhere on the canvas. The logarithms of their sides, 16 to 400 pixels, are spread evenly."""
    rng = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(1, CHANNELS, HEIGHT // s, WIDTH // s, generator=rng) for s in STRIDES]
    side = 16 * 25 ** torch.rand(1, num_boxes, 2, generator=rng)
    centre = torch.rand(1, num_boxes, 2, generator=rng) * torch.tensor([WIDTH, HEIGHT])
    edge = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return Scene(pyramid, torch.cat([centre - side / 2, centre + side / 2], dim=2).clamp(min=0).minimum(edge), size)


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    return [
        *beside_torchvision(setup(7, 1000), torch.float32, (0.12, 0.2), options),
        *beside_torchvision(setup(7, 1000), torch.bfloat16, (None, None), options),
        *beside_torchvision(setup(14, 100), torch.float32, (None, None), options),
    ]


def beside_torchvision(
    scene: Scene, dtype: torch.dtype, bars: tuple[float | None, float | None], options: Options
) -> list[Row | Left]:
    """Forward without a graph, and backward through one. torchvision stays in float32: it has no bf16 here."""
    ours = scene.laid_out(dtype, torch.channels_last)
    theirs = scene.laid_out(torch.float32, torch.contiguous_format)
    contestants: dict[str, Callable[[], Tensor]] = {"ours": ours.ours, "torchvision float32": theirs.torchvision}
    out = {name: pool() for name, pool in contestants.items()}
    backward: dict[str, Work] = {
        name: partial(gradients, out[name], scene.pyramid)
        for name, scene in (("ours", ours), ("torchvision float32", theirs))
    }
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    answers = require(close(out["ours"], out["torchvision float32"], tolerance), 0.999, "of the values")
    for mine, other in zip(
        gradients(out["ours"], ours.pyramid), gradients(out["torchvision float32"], theirs.pyramid), strict=True
    ):
        require(close(mine, other, 10 * tolerance), 0.999, "of the gradient")
    what = f"RoIAlign {scene.size} x {scene.size}, {scene.boxes.shape[1]} boxes, 4 levels, {str(dtype)[6:]}"
    rounds = options.rounds(21, 5)
    with torch.no_grad():
        forward = interleaved(contestants, rounds=rounds, pause=0.0)
    times = {"forward": forward, "backward": interleaved(backward, rounds=rounds, pause=0.0)}
    return [
        against(f"{what}, {way}", seconds, "ours", "torchvision float32", bar=bar, answers=answers)
        for (way, seconds), bar in zip(times.items(), bars, strict=True)
    ]


def gradients(out: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, pyramid, torch.ones_like(out), retain_graph=True)


def close(mine: Tensor, other: Tensor, tolerance: float) -> float:
    """The share of values that differ by less than `tolerance` of the largest."""
    away = (mine.float() - other.float()).abs()
    return float((away <= tolerance * other.abs().max()).float().mean())


if __name__ == "__main__":
    run(compare, __doc__)
