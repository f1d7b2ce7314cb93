"""A model of a few weights, data of a few numbers and a judge: all that the loop needs, in milliseconds a step."""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskrcnn.config import AugmentConfig, Config, TrainConfig
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.structures import GroundTruth, Images, Losses, Term
from maskrcnn.training.distributed import Ranks
from maskrcnn.training.run import Run
from maskrcnn.training.task import Inputs, Task
from maskrcnn.weights.checkpoint import write_tensors

IMAGES = 24
SETTINGS: dict[str, Any] = {
    "epochs": 2.0,
    "batch": 2,
    "lr": 0.4,
    "warmup_steps": 3,
    "log_every": 2,
    "checkpoint_every": 5,
    "workers": 0,
}
Judge = Callable[[nn.Module], dict[str, Any]]


class Tiny(nn.Module):
    """Five terms from one small convolutional net; those of boxes and masks are empty if an image has no object."""

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


def make_batch(ids: list[int], epoch: int, *, poison: int | None = None) -> tuple[Images, GroundTruth]:
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
    return images, gt


def judge_weights(model: nn.Module) -> dict[str, Any]:
    """A metric that follows from the weights alone, so that a repeated run repeats it."""
    assert not model.training
    value = sum(float(p.detach().double().abs().sum()) for p in model.parameters()) / 1000
    return {"box": {"AP": value, "AP50": value}}


class Rising:
    """A metric that improves with every one of the first `peak` evaluations."""

    def __init__(self, peak: int) -> None:
        self.calls, self.peak = 0, peak

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        self.calls += 1
        value = min(self.calls, self.peak) / 100
        return {"box": {"AP": value, "AP50": value}}


def no_images(count: int = IMAGES) -> Dataset:
    """A data set of so many images without objects. Their files are gone: nobody reads them."""
    rows = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(count)]
    content = {"images": rows, "annotations": [], "categories": [{"id": 1, "name": "none"}]}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            (Path(folder) / row["file_name"]).touch()
        path = Path(folder) / "train.json"
        path.write_text(json.dumps(content))
        return read_dataset(path)


class TinyTask(Task):
    """A task over 24 images. When micro-batch `kill_at` is asked for, the process ends without a chance to save."""

    def __init__(
        self, run: Run, *, norm: str = "gn", judge: Judge = judge_weights, poison: int | None = None, kill_at: int = -1
    ) -> None:
        nn.Module.__init__(self)
        self.run, self.model = run, cast(Any, Tiny(norm))
        self.measured = self.best = None
        self.judge, self.poison, self.kill_at, self.taken = judge, poison, kill_at, 0

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        ranks, config = self.run.ranks, self.run.config.train
        size = config.batch * ranks.world
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(config.seed + epoch)).tolist()
        for first in range(start * size, IMAGES, size):
            if self.taken == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.taken += 1
            mine = order[first + ranks.rank * config.batch : first + (ranks.rank + 1) * config.batch]
            yield make_batch(mine, epoch, poison=self.poison), torch.tensor(mine)

    def val_batches(self) -> Iterator[Inputs]:
        yield make_batch([self.run.ranks.rank * 3 + 1, self.run.ranks.rank * 3 + 2], 99)

    def evaluate(self) -> Mapping[str, Any]:
        return self.judge(self.model)

    def write(self, path: Path, provenance: Mapping[str, Any]) -> None:
        write_tensors(path, self.model.state_dict(), "tiny", 1, provenance)

    def unread(self) -> int:
        return 0


def make_run(
    out: Path, ranks: Ranks | None = None, *, val: bool = False, precision: str = "fp32", **settings: Any
) -> Run:
    """A run over 24 images, evaluated if `val`."""
    config = Config(train=TrainConfig(**{**SETTINGS, "augment": AugmentConfig(), **settings}))
    data = no_images()
    return Run(config, data, data if val else None, out, ranks or Ranks(), cast(Any, precision))


def make_task(out: Path, ranks: Ranks | None = None, *, judge: Judge | None = None, **options: Any) -> TinyTask:
    """A task with a run's settings and its own options together."""
    own = {name: options.pop(name) for name in ("norm", "poison", "kill_at") if name in options}
    run = make_run(out, ranks, val=judge is not None, **options)
    return TinyTask(run, judge=judge or judge_weights, **own)
