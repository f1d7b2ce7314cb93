"""Our checkpoints: one safetensors file with the weights, and one JSON in its header with everything else.

The JSON holds the format's version, every switch of the model spelled out, the categories and where the weights come
from, so that a later release changes no answer of an old file. Nothing in it is executed. A digest over the JSON and
every tensor is checked on reading: a damaged file is an error, never another model.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..categories import Category
from ..config import ModelConfig, from_dict, to_dict
from ..errors import CheckpointError, ConfigError
from ..files import replacing

FORMAT = 1
KEY = "maskrcnn"
_MAX_HEADER = 16 * 2**20  # bytes; a header lists names and shapes, and ours stay far below a megabyte


class Checkpoint(NamedTuple):
    """What a file holds."""

    config: ModelConfig
    categories: tuple[Category, ...]
    state: dict[str, Tensor]
    provenance: dict[str, Any]


def save_checkpoint(
    path: str | Path,
    model_state: Mapping[str, Tensor],
    config: ModelConfig,
    categories: tuple[Category, ...],
    provenance: Mapping[str, Any],
) -> None:
    """Writes a checkpoint atomically: `path` holds the old file or the whole new one, also after a crash."""
    content = {
        "model": to_dict(config),
        "categories": [category._asdict() for category in categories],
        "provenance": dict(provenance),
    }
    write_tensors(path, model_state, KEY, FORMAT, content)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint. Raises `CheckpointError`, with file and reason, for what `save_checkpoint` did not write."""
    state, content = read_tensors(path, KEY, FORMAT)
    try:
        config = from_dict(ModelConfig, content["model"])
        categories = tuple(_category(row) for row in content["categories"])
        provenance = dict(content["provenance"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its description cannot be understood: {error}") from error
    return Checkpoint(config, categories, state, provenance)


def restore(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copies `state` into `model`, all or nothing. Raises `CheckpointError` with a table of names and shapes."""
    own = model.state_dict()
    refuse(differences(own, state), path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def adopt(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> list[str]:
    """Copies the tensors of `state` that fit by name and shape; returns the names of the model's other tensors.

    For training on other classes, and with other heads. Raises `CheckpointError` with a table where the backbones are
    not the same; only the stem may read another number of channels.
    """
    own = model.state_dict()
    rows = differences(_backbone(own), _backbone(state))
    refuse([row for row in rows if row[0] != _STEM or row[0] not in state], path)
    with torch.no_grad():
        fitting = [name for name, tensor in own.items() if name in state and state[name].shape == tensor.shape]
        for name in fitting:
            own[name].copy_(state[name])
    return sorted(name for name in own.keys() - fitting if not name.endswith(_COUNT))


_STEM = "backbone.stem.conv.weight"
_COUNT = ".num_batches_tracked"  # which live norms have, and which may start anew


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inside = ("backbone.", "box_pool.trunk.")
    return {name: tensor for name, tensor in state.items() if name.startswith(inside) and not name.endswith(_COUNT)}


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names and words for what `found` lacks, has too much, or has in another shape than a model's `own` tensors."""
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
    """Tensors and JSON `content` as one safetensors file of ours, atomically."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content, sort_keys=True)
    # One key only: safetensors writes several in no fixed order, and equal checkpoints should be equal files.
    header = json.dumps({"format": version, "digest": _digest(text, plain), "content": text})
    with replacing(path) as temporary:
        save_file(_apart(plain), temporary, metadata={kind: header})


def read_tensors(path: str | Path, kind: str, version: int) -> tuple[dict[str, Tensor], Any]:
    """The inverse of `write_tensors`. Raises `CheckpointError` naming the file."""
    metadata = _read_metadata(Path(path))
    if kind not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one of ours ({kind})")
    try:
        header = json.loads(metadata[kind])
        found, digest, text = header["format"], header["digest"], header["content"]
        if found != version:
            raise CheckpointError(f"{path} has format {found!r}; this release reads {version}")
        content = json.loads(text)
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if digest != _digest(text, tensors):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    return tensors, content


def _read_metadata(path: Path) -> dict[str, str]:
    """The header's free text, with every size checked before anything is read or allocated."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                raise CheckpointError(f"{path} is not a checkpoint: it has {size} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > min(size - 8, _MAX_HEADER):
                raise CheckpointError(f"{path} is truncated, or no safetensors file: {size} bytes, header of {length}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} is damaged: its header is not as safetensors writes it")
    return metadata


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory become copies, which safetensors asks for."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor.clone() if shared else tensor
    return result


def _category(row: Mapping[str, Any]) -> Category:
    pairs = {name: tuple((int(a), int(b)) for a, b in row[name]) for name in ("skeleton", "flip_pairs")}
    return Category(
        id=int(row["id"]),
        name=str(row["name"]),
        keypoints=tuple(row["keypoints"]),
        sigmas=tuple(row["sigmas"]),
        shared=bool(row.get("shared", False)),
        **pairs,
    )
