"""What the loop works on and does not change: settings, batches, the judge, the writer of checkpoints."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import TrainConfig
from ..structures import Losses

STATE, LAST, BEST, FINAL = "state.safetensors", "last.safetensors", "best.safetensors", "model.safetensors"
METRICS = "metrics.json"  # of the best evaluation
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Batch = tuple[Any, ...]  # what the loss is of: Images, GroundTruth, perhaps Proposals; and last the image ids


def whole_loss(model: Any, *inputs: Any) -> Losses:
    """Of all branches together: approximate joint training."""
    return model.loss(*inputs)


class Job(NamedTuple):
    """One run, as the loop sees it."""

    config: TrainConfig
    out: Path
    images: int  # in the training data
    epoch: Callable[[int, int], Iterable[Batch]]  # (epoch, first batch) -> this rank's micro-batches from there on
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None  # metrics, the same on every rank
    validation: Callable[[], Iterable[Batch]] | None  # this rank's batches for the validation loss
    write: Callable[[Path, nn.Module, Mapping[str, Any]], None]  # a checkpoint with this provenance
    precision: str = "fp32"
    counts: str = "global"  # losses are divided by counts over all ranks, or per "rank"
    loss: Callable[..., Losses] = whole_loss  # (model, what a batch holds but for the ids) -> its terms
    unread: Callable[[], Collection[str]] = tuple  # why images could not be read, of those met by now

    def images_per_step(self, world: int) -> int:
        """Images of an optimiser step, over all ranks."""
        return self.config.batch * self.config.accumulate * world

    def total(self, world: int) -> int:
        """Optimiser steps of the whole run."""
        return max(1, math.ceil(self.config.epochs * self.images / self.images_per_step(world)))

    def epochs_after(self, steps: int, world: int) -> float:
        """Passes over the data that so many optimiser steps make."""
        return steps * self.images_per_step(world) / self.images

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass in this run's precision."""
        return torch.autocast(device.type, dtype=DTYPES[self.precision], enabled=self.precision != "fp32")


def to_device(bundle: Any, device: torch.device) -> Any:
    """A bundle of tensors and bundles, some of them perhaps None, on `device`."""
    if isinstance(bundle, tuple):
        return type(bundle)(*(to_device(field, device) for field in bundle))
    return bundle if bundle is None else bundle.to(device, non_blocking=True)
