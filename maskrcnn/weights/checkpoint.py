"""Our checkpoints: one safetensors file with the weights, and in its header one JSON with everything else.

The JSON holds the format's version, every setting of the model, the categories and where the weights come from, so that
a later release with other defaults gives the same results. Nothing in a file is executed. A digest of the JSON and
every tensor is checked on reading: a damaged file is an error, never another model.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..categories import Category
from ..config import ModelConfig, to_dict
from ..errors import CheckpointError
from ..files import replacing
from ..thresholds import Thresholds
from .header import FORMAT, KEY, check_format, describe

_STEM = "backbone.stem.conv.weight"
_BACKBONE = ("backbone.", "box_pool.trunk.")
_COUNT = ".num_batches_tracked"  # of live norms only; it may start again


class Checkpoint(NamedTuple):
    """What a file holds."""

    config: ModelConfig
    categories: tuple[Category, ...]
    state: dict[str, Tensor]
    provenance: dict[str, Any]
    thresholds: Thresholds = ()  # of the best F1 in the evaluation of these weights; empty if there was none


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint atomically: `path` holds the old file or the whole new one, also after a crash."""
    rows = [category._asdict() for category in checkpoint.categories]
    content = {"model": to_dict(checkpoint.config), "categories": rows, "provenance": checkpoint.provenance}
    if checkpoint.thresholds:
        content["thresholds"] = checkpoint.thresholds
    write_tensors(path, checkpoint.state, KEY, FORMAT, content)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote. Raises `CheckpointError` with file and reason for anything else."""
    state, content = read_tensors(path, KEY, FORMAT)
    config, categories, provenance, thresholds = describe(content, path)
    return Checkpoint(config, categories, state, provenance, thresholds)


def restore(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copies `state` into `model`, all or nothing. Raises `CheckpointError` with a table of what does not fit."""
    refuse(differences(model.state_dict(), state), path)
    model.load_state_dict(state)


def adopt(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Copies the tensors of `state` that fit by name and shape; returns the names of the model's other tensors.

    For training on other classes or with other heads. Raises `CheckpointError` with a table if the backbones differ;
    only the number of channels that the stem reads may.
    """
    own = model.state_dict()
    rows = [(name, words) for name, words in differences(own, state) if name.startswith(_BACKBONE)]
    refuse([row for row in rows if not row[0].endswith(_COUNT) and (row[0] != _STEM or _STEM not in state)], path)
    with torch.no_grad():
        fitting = [name for name, tensor in own.items() if name in state and state[name].shape == tensor.shape]
        for name in fitting:
            own[name].copy_(state[name])
    return sorted(name for name in own.keys() - fitting if not name.endswith(_COUNT))


def widen_stem(
    model: nn.Module, state: Mapping[str, Tensor], *, reverse: bool = False
) -> tuple[dict[str, Tensor], str]:
    """`state` with first convolutions that read as many channels as those of `model`; a sentence about it, or none.

    The new channels repeat the weights of the old ones in turn, or one channel gets their sum, and all are scaled so
    that the response keeps its size. `reverse`: the model reads channels backwards (BGR), and the first stays first.
    """
    own, widened, words = model.state_dict(), dict(state), ""
    for name in own.keys() & state.keys():
        old, wanted = state[name], own[name].shape
        if not name.endswith(_STEM) or old.ndim != 4 or old.shape[1] == wanted[1] or old.shape[2:] != wanted[2:]:
            continue
        has, needs = old.shape[1], wanted[1]
        weights = old.flip(1) if reverse else old
        weights = weights.mean(1, keepdim=True) if needs == 1 else weights[:, [i % has for i in range(needs)]]
        weights = weights * (has / needs)
        widened[name] = weights.flip(1) if reverse else weights
        words = f"the first convolution reads {needs} channels with what it learned on {has}, repeated and scaled"
    return widened, words


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Where `found` differs from a model's `own` tensors in names and shapes: name and words, sorted by name."""
    rows = [(name, f"missing, {list(own[name].shape)} expected") for name in own.keys() - found.keys()]
    rows += [(name, f"not part of the model, {list(found[name].shape)}") for name in found.keys() - own.keys()]
    rows += [
        (name, f"has shape {list(found[name].shape)}, {list(own[name].shape)} expected")
        for name in own.keys() & found.keys()
        if found[name].shape != own[name].shape
    ]
    return sorted(rows)


def refuse(rows: Sequence[tuple[str, str]], path: str | Path, what: str = "does not fit this model") -> None:
    """Raises `CheckpointError` with the rows, if any, as a table of at most 20."""
    if rows:
        table = "\n".join(f"  {name:<60} {words}" for name, words in rows[:20])
        more = f"\n  and {len(rows) - 20} more" if len(rows) > 20 else ""
        raise CheckpointError(f"{path} {what}:\n{table}{more}")


# --- files of tensors ------------------------------------------------------------------------------------------------


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], kind: str, version: int, content: Any) -> None:
    """Writes tensors and JSON `content` as one safetensors file, atomically. Raises OSError as the system does."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content, sort_keys=True)
    # One key only: safetensors writes several in no fixed order, and equal checkpoints should be equal files.
    header = json.dumps({"format": version, "digest": _digest(text, plain), "content": text})
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    # safetensors refuses tensors that share memory.
    alone = {n: t.clone() if owners[t.untyped_storage().data_ptr()] > 1 else t for n, t in plain.items()}
    with replacing(path) as temporary:
        try:
            save_file(alone, temporary, metadata={kind: header})
        except SafetensorError as error:  # of its own kind, also for what the system refuses
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def read_tensors(path: str | Path, kind: str, version: int) -> tuple[dict[str, Tensor], Any]:
    """The inverse of `write_tensors`. Raises `CheckpointError` naming the file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if kind not in metadata:
                raise CheckpointError(f"{path} is a safetensors file, but not one of ours ({kind})")
            header = json.loads(metadata[kind])
            found, digest, text = header["format"], header["digest"], header["content"]
            check_format(found, version, path)
            content = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        size = Path(path).stat().st_size
        raise CheckpointError(f"{path} ({size} bytes) is not a safetensors file, or is damaged: {error}") from error
    if digest != _digest(text, tensors):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    return tensors, content


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
