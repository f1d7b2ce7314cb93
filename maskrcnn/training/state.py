"""Everything that changes during a run, saved and restored bit-exactly: weights, momentum, averages, and progress.

It is one safetensors file, written atomically. The learning rate and every random choice follow from the step, the seed
and the image ids (optim.py, data/loader.py), so there is no generator to save.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..weights.checkpoint import read_tensors, restore, write_tensors

KEY = "maskrcnn-run"
FORMAT = 2


@dataclass
class Progress:
    """How far a run is. `epoch` and `batch` are the place of the next micro-batch."""

    step: int = 0  # optimiser steps done
    epoch: int = 0
    batch: int = 0
    best: float | None = None  # score of the best evaluation
    stale: int = 0  # evaluations since the best one, of those that found anything
    seconds: float = 0.0  # of training, without evaluations, over all starts


class Average:
    """An exponential moving average of weights and running statistics. It is evaluated and saved in their place."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Updates the average with the weights of a step. The decay grows from 0.1, to forget the first ones soon."""
        decay = min(self.decay, (1 + step) / (10 + step))
        tensors = model.state_dict()
        floats = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
        means, news = [self.tensors[name] for name in floats], [tensors[name] for name in floats]
        torch._foreach_lerp_(means, news, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for name in tensors.keys() - floats:
            self.tensors[name].copy_(tensors[name])


@dataclass
class State:
    """What changes during a run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    progress: Progress

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, if the run keeps any; its own come back, bit by bit, at the end."""
        if self.average is None:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            self.model.load_state_dict(own)


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
    """Restores `state` from a file. Raises `CheckpointError` naming the file if it is damaged or of another model."""
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
        if state.scaler.is_enabled() and content["scaler"]:
            state.scaler.load_state_dict(content["scaler"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its progress is invalid: {error}") from error


def _restore_optimizer(state: State, saved: dict[str, Tensor]) -> None:
    parameters = dict(state.model.named_parameters())
    for name, value in saved.items():
        key, _, owner = name.partition(":")
        parameter = parameters[owner]
        if value.shape == parameter.shape:
            # Channels-last if the parameter is: the same layout as in the run that was interrupted.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif state.optimizer.defaults.get("fused"):  # it counts its steps on the device
            value = value.to(parameter.device)
        state.optimizer.state[parameter][key] = value
