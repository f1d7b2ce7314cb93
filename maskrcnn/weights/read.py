"""Any checkpoint as one of ours: told apart by its content, renamed by its origin's table, its model inferred.

Ours, torchvision's, Detectron2's and Detectron's, as safetensors, a file of `torch.save` or a pickle. Nothing in a file
is executed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import MODEL_NAMES, Config, ModelConfig, override, preset
from ..errors import CheckpointError, ConfigError
from ..model.build import build
from .checkpoint import KEY, Checkpoint, load_checkpoint, restore
from .classes import name_classes
from .from_detectron import DETECTRON
from .from_detectron2 import DETECTRON2
from .from_torchvision import TORCHVISION
from .hub import fetch, find, is_name
from .infer import infer, infer_backbone, shapes_of
from .names import rename_all
from .origin import Origin
from .pickles import as_tensors, read_pickle, read_torch

ORIGINS: tuple[Origin, ...] = (TORCHVISION, DETECTRON2, DETECTRON)

_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")  # under which training scripts keep the tensors
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6
_TABLE_ROWS = 20


class Contents(NamedTuple):
    """A foreign file: its tensors under its own names, and what else it says."""

    tensors: dict[str, Tensor]
    rest: Mapping[str, Any]


def read_checkpoint(
    source: str | Path,
    *,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """The checkpoint in a file, whoever wrote it, with our names and a config that answers as its origin does.

    Args:
        source: safetensors, a file of `torch.save`, a pickle of arrays, or a release's name such as
            `torchvision:maskrcnn_resnet50_fpn`, which is downloaded once.
        settings: assignments such as `backbone.norm_eps=1e-5`, for what a foreign file cannot say.
        classes: names of its classes in order, for a foreign file whose classes are not COCO's.
        offline: never download; by default as `MASKRCNN_OFFLINE` says.

    Raises `CheckpointError` naming the file for one that is damaged, unsafe, of no known kind, or a backbone alone.
    """
    path, given, provenance = _resolved(source, offline)
    settings = (*given, *settings)
    contents = open_foreign(path)
    if contents is None:
        checkpoint = load_checkpoint(path)
        return checkpoint._replace(config=_set(checkpoint.config, settings))
    found = to_checkpoint(contents, path, settings=settings, classes=classes)
    return found._replace(provenance={**found.provenance, **provenance})


def to_checkpoint(
    contents: Contents, path: str | Path, *, settings: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Checkpoint:
    """What a foreign file holds, as a checkpoint. Arguments and errors are those of `read_checkpoint`."""
    origin, state = _renamed(contents, path)
    if not any(name.startswith("box_head.") for name in state):
        raise CheckpointError(f"{path} holds a backbone alone: a training can start from it (--weights), nothing else")
    try:
        config = _set(origin.settle(infer(shapes_of(state)), contents.tensors, contents.rest), settings)
    except CheckpointError as error:
        raise CheckpointError(f"{path} holds no Mask R-CNN that is known here: {error}") from error
    state = _counted(state, config)
    check_fit(config, state, path)
    return Checkpoint(config, name_classes(config, classes), state, {"origin": origin.name})


def read_start(source: str | Path, *, model: str | None = None, settings: Sequence[str] = ()) -> Checkpoint:
    """Like `read_checkpoint`, but a backbone alone will do: it becomes that of `model` (R-50-FPN, ...), to train.

    Such a checkpoint has no categories, and no tensors but the backbone's. Its config is `model`'s with the pixels,
    strides and norms that the backbone was trained with.
    """
    path, given, provenance = _resolved(source)
    settings = (*given, *settings)
    contents = open_foreign(path)
    origin, state = (None, {}) if contents is None else _renamed(contents, path)
    if contents is None or origin is None or any(name.startswith("box_head.") for name in state):
        return read_checkpoint(source, settings=settings)
    config = _set(_around(origin, contents, state, model, path), settings)
    if config.backbone.features == "c4":
        state = {name.replace("backbone.res5.", "box_pool.trunk."): tensor for name, tensor in state.items()}
    state = _counted(state, config)
    return Checkpoint(config, (), state, {"origin": origin.name, **provenance, "part": "backbone"})


def _resolved(source: str | Path, offline: bool | None = None) -> tuple[Path, tuple[str, ...], dict[str, Any]]:
    """The file, what is to be set for it, and what is to be remembered of it."""
    if not is_name(source):
        return Path(source), (), {"file": Path(source).name}
    release = find(str(source))
    path = fetch(release, offline=offline)
    return path, release.settings, {"release": release.name, "address": release.address, "licence": release.licence}


def check_fit(config: ModelConfig, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises `CheckpointError` with a table where `state` is not what the model of `config` has. Takes no memory."""
    with torch.device("meta"):
        model = build(config)
    restore(model, {name: tensor.to("meta") for name, tensor in state.items()}, path)


def open_foreign(path: Path) -> Contents | None:
    """The tensors of a file that is not ours; None for ours, and for what no other reader here knows."""
    start = _first_bytes(path)
    if start.startswith(b"PK\x03\x04") or start.startswith(_LEGACY_TORCH):
        found = read_torch(path)
    elif re.match(rb"\x80[\x02-\x05]", start) or path.suffix in (".pkl", ".pickle"):
        found = read_pickle(path)
    elif start[8:9] == b"{":
        return _foreign_safetensors(path)
    else:
        return None
    try:
        return _unwrapped(found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _foreign_safetensors(path: Path) -> Contents | None:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY in metadata:
                return None
            return Contents(_plain({name: file.get_tensor(name) for name in file.keys()}), metadata)
    except SafetensorError:
        return None  # our own reader says what is wrong


def _unwrapped(found: Any) -> Contents:
    """The tensors, wherever a training script has put them."""
    if isinstance(found, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(found.get(wrapper), Mapping):
                rest = {name: value for name, value in found.items() if name != wrapper}
                return Contents(_plain(as_tensors(found[wrapper])), rest)
    return Contents(_plain(as_tensors(found)), {})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that data-parallel wrappers put before every name."""
    for prefix in ("module.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _renamed(contents: Contents, path: str | Path) -> tuple[Origin, dict[str, Tensor]]:
    """The origin, and its tensors under our names with our rows."""
    names = contents.tensors.keys()
    origin = next((origin for origin in ORIGINS if origin.recognise(names)), None)
    if origin is None:
        some = ", ".join(list(names)[:4]) or "no tensors"
        raise CheckpointError(f"{path} is of no kind known here ({', '.join(o.name for o in ORIGINS)}): it has {some}")
    wanted = {name: tensor for name, tensor in contents.tensors.items() if not origin.ignored.fullmatch(name)}
    prefix = origin.backbone_prefix(wanted.keys())
    try:
        state, unknown = rename_all({prefix + n: tensor for n, tensor in wanted.items()}, origin.table, to_ours=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if unknown:
        rows = [f"  {name:<60} {list(contents.tensors[name.removeprefix(prefix)].shape)}" for name in sorted(unknown)]
        more = [f"  and {len(rows) - _TABLE_ROWS} more"] if len(rows) > _TABLE_ROWS else []
        table = "\n".join(rows[:_TABLE_ROWS] + more)
        raise CheckpointError(f"{path} is of {origin.name}, but has tensors that are no part of a Mask R-CNN:\n{table}")
    return origin, origin.to_ours({name: _wide(tensor) for name, tensor in state.items()})


def _wide(tensor: Tensor) -> Tensor:
    """Float32, whatever precision the numbers were saved in."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _around(
    origin: Origin, contents: Contents, state: Mapping[str, Tensor], model: str | None, path: Path
) -> ModelConfig:
    """The config of `model` about a backbone."""
    found = infer_backbone(shapes_of(state))
    if model is None:
        model = next((n for n in MODEL_NAMES if n.endswith("-FPN") and _same_network(preset(n), found)), "R-50-FPN")
    base = preset(model)
    if not _same_network(base, found):
        raise ConfigError(f"{path} is a backbone of {found.blocks} blocks, {found.groups} groups; {model} has another")
    beside = replace(base, backbone=replace(found, features=base.backbone.features))
    settled = origin.settle(beside, contents.tensors, contents.rest)
    eps = 1e-5 if origin is TORCHVISION else settled.backbone.norm_eps  # epsilon 0 is its detectors' alone
    pixels = {name: getattr(settled.input, name) for name in ("channel_order", "mean", "std")}
    norm = "frozen_bn" if settled.backbone.norm == "bn" else settled.backbone.norm
    return replace(
        base,
        input=replace(base.input, **pixels),
        backbone=replace(settled.backbone, features=base.backbone.features, norm=norm, norm_eps=eps),
    )


def _same_network(config: ModelConfig, backbone: Any) -> bool:
    wanted = ("block", "blocks", "width", "groups", "width_per_group")
    return all(getattr(config.backbone, name) == getattr(backbone, name) for name in wanted)


def _set(config: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """`config` with assignments, whose names may leave out the leading `model.`."""
    full = [text if text.startswith("model.") else f"model.{text}" for text in settings]
    return override(Config(model=config), full).model if full else config


def _counted(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Live batch norms count batches; frozen ones do not."""
    result = {}
    for name, tensor in state.items():
        in_backbone = name.startswith(("backbone.", "box_pool.trunk."))
        live = not in_backbone or config.backbone.norm == "bn"
        if live or not name.endswith(".num_batches_tracked"):
            result[name] = tensor
        if live and name.endswith(".running_var"):
            count = name.replace(".running_var", ".num_batches_tracked")
            result[count] = state.get(count, torch.zeros((), dtype=torch.int64))
    return result
