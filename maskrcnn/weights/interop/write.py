"""Our checkpoints as those of torchvision and Detectron2, for users who keep other tools."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import ModelConfig, flat, to_dict
from ...errors import ConfigError
from ...files import replacing
from ..checkpoint import Checkpoint
from . import detectron2, torchvision
from .origin import Target, rename_all
from .profiles import with_profile

TARGETS: Mapping[str, Target] = {"torchvision": torchvision.TARGET, "detectron2": detectron2.TARGET}


def write_foreign(path: str | Path, checkpoint: Checkpoint, to: str, *, force: bool = False) -> dict[str, Any]:
    """Writes a checkpoint that `to` ("torchvision" or "detectron2") loads; returns what has to be set there by hand.

    Raises `ConfigError` with a table if `to` cannot express a setting of the model, unless `force`; and in any case if
    it has no place for a tensor.
    """
    path = Path(path)
    if to not in TARGETS:
        raise ConfigError(f"checkpoints can be written for {' and '.join(TARGETS)}, not for {to!r}")
    if path.suffix not in TARGETS[to].suffixes:
        raise ConfigError(f"{path}: a checkpoint for {to} is called *{' or *'.join(TARGETS[to].suffixes)}")
    foreign = to_foreign(checkpoint, to, force=force)
    with replacing(path) as temporary:
        if path.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in foreign.items()}
            with open(temporary, "wb") as file:
                pickle.dump({"model": arrays, "__author__": "maskrcnn"}, file, protocol=4)
        else:
            torch.save({"model": foreign} if to == "detectron2" else foreign, temporary)
    return TARGETS[to].settings(checkpoint.config)


def to_foreign(checkpoint: Checkpoint, to: str, *, force: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint under `to`'s names, in `to`'s order of rows. Raises as `write_foreign` does."""
    target, config = TARGETS[to], checkpoint.config
    if own := checkpoint.provenance.get("parts"):
        raise ConfigError(f"{to} has no place for parts of the model's author's own: {', '.join(own)}")
    if (rows := inexpressible(config, to)) and not force:
        table = "\n".join(f"  {name:<30} {value!s:<24} {there}" for name, value, there in rows)
        raise ConfigError(
            f"{to} cannot express these settings, so its results would differ; --force writes the file anyway\n"
            f"  {'setting':<30} {'here':<24} {to}\n{table}"
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    foreign, unknown = rename_all(target.to_theirs(state), target.table(config), to_ours=False)
    if unknown:
        raise ConfigError(f"{to} has no place for {len(unknown)} tensors, such as {', '.join(sorted(unknown)[:4])}")
    return {name: tensor.contiguous() for name, tensor in foreign.items()}


def inexpressible(config: ModelConfig, to: str) -> list[tuple[str, Any, str]]:
    """The settings of `config` that `to` cannot express: name, value, and the values that are possible there."""
    target = TARGETS[to]
    here, there = flat(to_dict(config)), flat(to_dict(with_profile(config, to)))
    choices: dict[str, tuple[Any, ...]] = {
        **{name: (there[name],) for name in target.fixed},
        "input.min_size": (config.input.min_size or "more than 0",),  # both always resize
        "input.zoom": (1.0,),
        "input.range": ([],),
        "box_head.nms": ("class",),
        "pool.operator": ("roi_align",),
        "pool.aggregate": ("average",),
        "mask_head.loss": ("sigmoid",),
        **target.choices(config),
    }
    if all(len(sizes) == 1 for sizes in config.anchors.sizes):  # there is nothing to put in order
        del choices["anchors.order"]
    return [
        (name, value, " or ".join(map(str, possible)))
        for name, possible in choices.items()
        if (value := here[name]) not in possible and here.get(f"{name.partition('.')[0]}.enabled", True)
    ]
