"""A model of a few weights, data of a few numbers and a judge: all that the loop needs, in milliseconds a step.

Run as a program it trains in the folder given, so that tests can kill it: `stand_in.py OUT [name=value ...]`.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from maskrcnn.config import AugmentConfig, TrainConfig
from maskrcnn.structures import GroundTruth, Images, Losses, Term
from maskrcnn.training.distributed import Ranks, ranks
from maskrcnn.training.job import Job
from maskrcnn.training.loop import fit
from maskrcnn.weights.checkpoint import write_tensors

IMAGES = 24
SETTINGS = {
    "epochs": 2.0,
    "batch": 2,
    "lr": 0.4,
    "warmup_steps": 3,
    "log_every": 2,
    "checkpoint_every": 5,
    "workers": 0,
}


class Tiny(nn.Module):
    """Five terms from one small convolutional net; those of boxes and masks are empty where an image has no object."""

    def __init__(self, norm: str = "gn") -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8) if norm == "bn" else nn.GroupNorm(2, 8)
            self.out = nn.Conv2d(8, 5, 1)

    def loss(self, images: Images, gt: GroundTruth) -> Losses:
        x = images.pixels.float() / 255
        maps = self.out(torch.relu(self.norm(self.conv(x)))).float()  # [B 5 H W]
        error = (maps.mean((2, 3)) - gt.boxes[:, :, 0].mean(1, keepdim=True)) ** 2  # [B 5]
        everyone = torch.full((len(x),), 256.0)
        objects = gt.valid.sum(1).float()
        counts = [everyone, everyone, objects, objects, objects]
        terms = [Term((error[:, i] * count).sum(), count.sum()) for i, count in enumerate(counts)]
        return Losses(*terms)


def make_batch(ids: list[int], epoch: int, *, poison: int | None = None) -> tuple[Images, GroundTruth, list[int]]:
    """What images `ids` look like in an epoch: a function of the two. Image 0, 6, 12, ... have no object."""
    pixels, boxes, valid = [], [], []
    for i in ids:
        rng = torch.Generator().manual_seed(1000 * epoch + i)
        pixels.append(torch.randint(0, 255, (3, 8, 8), generator=rng, dtype=torch.uint8))
        boxes.append(torch.rand(4, 4, generator=rng) * (float("nan") if i == poison else 1.0))
        valid.append(torch.arange(4) < i % 6)
    n = len(ids)
    sizes = torch.full((n, 2), 8)
    images = Images(torch.stack(pixels), sizes, sizes, torch.ones(n, 2), torch.tensor(ids))
    flags = torch.stack(valid)
    gt = GroundTruth(torch.stack(boxes), torch.zeros(n, 4, dtype=torch.long), None, None, None, ~flags & False, flags)
    return images, gt, ids


def judge_weights(model: nn.Module) -> dict[str, dict[str, float]]:
    """A metric that follows from the weights alone, so that a repeated run repeats it."""
    assert not model.training
    value = sum(float(p.detach().double().abs().sum()) for p in model.parameters()) / 1000
    return {"box": {"AP": value, "AP50": value}}


class Rising:
    """A metric that improves with every one of the first `peak` evaluations."""

    def __init__(self, peak: int) -> None:
        self.calls, self.peak = 0, peak

    def __call__(self, model: nn.Module) -> dict[str, dict[str, float]]:
        self.calls += 1
        value = min(self.calls, self.peak) / 100
        return {"box": {"AP": value, "AP50": value}}


def make_job(
    out: Path,
    among: Ranks,
    *,
    poison: int | None = None,
    judge: Callable[[nn.Module], dict] | None = None,
    kill_at: int = -1,
    **settings: object,
) -> Job:
    """A job over 24 images. `kill_at` ends the process, without a chance to save, when it asks for that micro-batch."""
    config = TrainConfig(**{**SETTINGS, "augment": AugmentConfig(), **settings})  # type: ignore[arg-type]
    size = config.batch * among.world
    taken = 0

    def epoch(number: int, first: int) -> Iterator[tuple[Images, GroundTruth, list[int]]]:
        nonlocal taken
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(config.seed + number)).tolist()
        for start in range(first * size, IMAGES, size):
            if taken == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            taken += 1
            mine = order[start + among.rank * config.batch : start + (among.rank + 1) * config.batch]
            yield make_batch(mine, number, poison=poison)

    def write(path: Path, model: nn.Module, provenance: object) -> None:
        write_tensors(path, model.state_dict(), "tiny", 1, provenance)

    def validation() -> Iterator[tuple[Images, GroundTruth, list[int]]]:
        yield make_batch([among.rank * 3 + 1, among.rank * 3 + 2], 99)

    return Job(config, out, IMAGES, epoch, judge, validation if judge else None, write)


def main(out: Path, assignments: list[str]) -> None:
    settings: dict[str, object] = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        settings[name] = value if name == "norm" else float(value) if "." in value else int(value)
    norm = str(settings.pop("norm", "gn"))
    with ranks("cpu") as among:
        listeners = []
        if among.first:
            from maskrcnn.training.log import Console, JsonLines

            listeners = [JsonLines(out / "log.jsonl"), Console(0)]
        fit(Tiny(norm), make_job(out, among, judge=judge_weights, **settings), among, listeners)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
