"""Everything that changes during a run, saved and restored bit-exactly: weights, momentum, averages, and where it is.

One safetensors file, so that it is either the old state or the whole new one. The learning rate and every random choice
follow from the step, the seed and the image ids (optim.py, data/loader.py): there is no generator to save.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..weights.checkpoint import read_tensors, restore, write_tensors

KEY = "maskrcnn-run"
FORMAT = 1


@dataclass
class Progress:
    """Where a run is. `epoch` and `batch` are the position of the next micro-batch of this many ranks."""

    step: int = 0  # optimiser steps done
    epoch: int = 0
    batch: int = 0
    best: float | None = None  # score of the best evaluation
    best_step: int = 0
    stale: int = 0  # evaluations since the best one
    seconds: float = 0.0  # of training, without evaluations, over all starts


class Average:
    """An exponential moving average of the weights and of the running statistics, which is what gets evaluated."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights of step `step`. Early on it forgets faster, so that the first weights do not linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        tensors = model.state_dict()
        floats = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        means, news = [self.tensors[name] for name in floats], [tensors[name] for name in floats]
        torch._foreach_lerp_(means, news, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for name in tensors.keys() - floats:
            self.tensors[name].copy_(tensors[name])

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """`model` with the averaged weights; its own come back, bit by bit, at the end."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        _copy(self.tensors, model)
        try:
            yield
        finally:
            _copy(own, model)


@dataclass
class State:
    """A run in the middle of its work."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    progress: Progress

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The model as it is judged and handed out: with averaged weights where the run keeps them."""
        if self.average is None:
            yield self.model
            return
        with self.average.inside(self.model):
            yield self.model


def save_state(path: str | Path, state: State) -> None:
    """Writes `state` atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.tensors.items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer.{key}:{name}"] = value
    content = {"progress": asdict(state.progress), "scaler": state.scaler.state_dict()}
    write_tensors(path, tensors, KEY, FORMAT, content)


def load_state(path: str | Path, state: State) -> None:
    """Brings `state` to what was saved. Raises `CheckpointError` naming the file if it is damaged or of another run."""
    tensors, content = read_tensors(path, KEY, FORMAT)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    restore(state.model, parts["model"], path)
    if state.average is not None:
        if parts["average"].keys() != state.average.tensors.keys():
            raise CheckpointError(f"{path} holds no averaged weights of this model")
        for name, mean in state.average.tensors.items():
            mean.copy_(parts["average"][name])
    _restore_optimizer(state, parts["optimizer"])
    try:
        state.progress = Progress(**content["progress"])
        _restore_scaler(state.scaler, content["scaler"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its progress cannot be understood: {error}") from error


def _restore_optimizer(state: State, saved: dict[str, Tensor]) -> None:
    parameters = dict(state.model.named_parameters())
    fused = state.optimizer.defaults.get("fused")
    for name, value in saved.items():
        key, _, owner = name.partition(":")
        parameter = parameters[owner]
        if value.shape == parameter.shape:
            # Like the parameter, channels-last where it is: the same layout as in the run that was interrupted.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif fused:  # it counts its steps on the device
            value = value.to(parameter.device)
        state.optimizer.state[parameter][key] = value


def _restore_scaler(scaler: torch.amp.GradScaler, saved: dict[str, Any]) -> None:
    if scaler.is_enabled() and saved:
        scaler.load_state_dict(saved)


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        tensor.copy_(tensors[name])
