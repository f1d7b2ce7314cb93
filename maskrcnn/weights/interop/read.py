"""Checkpoints of other frameworks as ours: recognised by their names, renamed by a table, their structure inferred.

The files are safetensors, those of `torch.save`, or pickles of arrays. Nothing in a file is executed.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...config import MODEL_NAMES, BackboneConfig, ModelConfig, override, preset
from ...errors import CheckpointError, ConfigError
from ..checkpoint import KEY, Checkpoint, differences, refuse
from .classes import name_classes
from .detectron import DETECTRON
from .detectron2 import DETECTRON2
from .infer import empty_model, infer, infer_backbone, shapes_of
from .origin import Origin, rename_all
from .pickles import as_tensors, read_pickle, read_torch
from .torchvision import TORCHVISION

ORIGINS: tuple[Origin, ...] = (TORCHVISION, DETECTRON2, DETECTRON)

_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")  # keys under which training scripts keep the tensors
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of torch.save before 1.6
_COUNTS = ".num_batches_tracked"


class Contents(NamedTuple):
    """A file of another framework: its tensors under their own names, and what else it holds."""

    tensors: dict[str, Tensor]
    rest: Mapping[str, Any]


class Foreign(NamedTuple):
    """Such a file, recognised: its tensors with our names and our order of rows."""

    path: str | Path
    origin: Origin
    contents: Contents
    state: dict[str, Tensor]
    strange: list[tuple[str, str]]  # names of tensors that have no place in ours, with words for the table

    def config(self, structure: ModelConfig) -> ModelConfig:
        """A config of this structure with the origin's settings."""
        return self.origin.settle(structure, self.contents.tensors, self.contents.rest)


def open_foreign(path: Path) -> Contents | None:
    """The tensors of a file. None for a checkpoint of ours, and for a file of no known kind."""
    try:
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith((b"PK\x03\x04", _OLD_TORCH)):
        return _unwrapped(read_torch(path), path)
    if re.match(rb"\x80[\x02-\x05]", start) or path.suffix in (".pkl", ".pickle"):
        return _unwrapped(read_pickle(path), path)
    if start[8:9] == b"{":
        # If it is damaged, the reader of our own checkpoints says how.
        with suppress(SafetensorError), safe_open(str(path), framework="pt") as file:
            rest = file.metadata() or {}
            if KEY not in rest:
                return _unwrapped({**rest, "model": {name: file.get_tensor(name) for name in file.keys()}}, path)
    return None


def _unwrapped(found: Any, path: Path) -> Contents:
    """The tensors, wherever a training script put them, without the prefix of a data-parallel wrapper."""
    rest: Mapping[str, Any] = {}
    if isinstance(found, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(found.get(wrapper), Mapping):
                rest, found = {name: value for name, value in found.items() if name != wrapper}, found[wrapper]
                break
    try:
        tensors = as_tensors(found)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    prefix = next((prefix for prefix in ("module.", "model.") if all(name.startswith(prefix) for name in tensors)), "")
    return Contents({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, rest)


def recognise(contents: Contents, path: str | Path) -> Foreign:
    """Whose file this is, with its tensors under our names. Raises `CheckpointError`."""
    names = contents.tensors.keys()
    origin = next((origin for origin in ORIGINS if any(map(origin.recognise.match, names))), None)
    if origin is None:
        some, known = ", ".join(list(names)[:4]) or "no tensors", ", ".join(origin.name for origin in ORIGINS)
        raise CheckpointError(f"{path} is not a checkpoint of a known kind (ours, {known}): it has {some}")
    prefix = "" if any(name.startswith("backbone.") for name in names) else origin.prefix
    wanted = {name: tensor for name, tensor in contents.tensors.items() if not origin.ignored.fullmatch(name)}
    try:
        state, unknown = rename_all({prefix + n: tensor for n, tensor in wanted.items()}, origin.table, to_ours=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    wrong = {n: t for n, t in state.items() if not (n.endswith(_COUNTS) or (t.dim() and t.is_floating_point()))}
    refuse([(n, f"is of {t.dtype}" if t.dim() else "is one number") for n, t in wrong.items()], path)
    theirs = sorted(name.removeprefix(prefix) for name in unknown)
    strange = [(name, f"no part of a Mask R-CNN, {list(wanted[name].shape)}") for name in theirs]
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return Foreign(path, origin, contents, origin.to_ours(wide), strange)


def to_checkpoint(
    contents: Contents, path: str | Path, *, settings: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Checkpoint:
    """The checkpoint of a whole model. Arguments and errors are those of `read_checkpoint`."""
    return to_whole(recognise(contents, path), settings, classes)


def to_whole(found: Foreign, settings: Sequence[str], classes: Sequence[str] | None) -> Checkpoint:
    """The checkpoint of a whole model, its structure inferred."""
    try:
        structure = infer(shapes_of(found.state))
    except CheckpointError as error:
        what = f"does not hold a Mask R-CNN of a known kind: {error}"
        refuse(found.strange, found.path, f"{what}, and there is")
        raise CheckpointError(f"{found.path} {what}") from error
    config = override(found.config(structure), settings)
    own = empty_model(config).state_dict()
    # Live batch norms count their batches, frozen ones do not, whatever the file has.
    state = {name: tensor for name, tensor in found.state.items() if name in own or not name.endswith(_COUNTS)}
    state |= {name: torch.tensor(0) for name in own.keys() - state.keys() if name.endswith(_COUNTS)}
    refuse(sorted([*differences(own, state), *found.strange]), found.path)
    return Checkpoint(config, name_classes(config, classes), state, {"origin": found.origin.name})


def to_backbone(found: Foreign, base: ModelConfig | None, settings: Sequence[str]) -> Checkpoint:
    """The checkpoint of a backbone, with the config of a model around it: `base`, or the FPN of this depth."""
    backbone = infer_backbone(shapes_of(found.state))
    if base is None:
        fpns = (config for config in map(preset, MODEL_NAMES) if config.backbone.features == "fpn")
        base = next((config for config in fpns if _network(config.backbone) == _network(backbone)), None)
    if base is None:
        raise ConfigError(f"{found.path} is a backbone {_network(backbone)}, which no preset has")
    if _network(base.backbone) != _network(backbone):
        other = _network(base.backbone)
        raise ConfigError(f"{found.path} is a backbone {_network(backbone)}; that of {base.name} is one {other}")
    features = base.backbone.features
    theirs = found.config(replace(base, backbone=replace(backbone, features=features)))
    pixels = {name: getattr(theirs.input, name) for name in ("channel_order", "mean", "std")}
    norm = "frozen_bn" if theirs.backbone.norm == "bn" else theirs.backbone.norm
    eps = 1e-5 if found.origin is TORCHVISION else theirs.backbone.norm_eps  # only its detectors have epsilon 0
    backbone = replace(theirs.backbone, features=features, norm=norm, norm_eps=eps)
    config = override(replace(base, input=replace(base.input, **pixels), backbone=backbone), settings)
    res5 = "box_pool.trunk." if config.backbone.features == "c4" else "backbone.res5."
    state = {n.replace("backbone.res5.", res5): t for n, t in found.state.items() if not n.endswith(_COUNTS)}
    return Checkpoint(config, (), state, {"origin": found.origin.name, "part": "backbone"})


def _network(backbone: BackboneConfig) -> str:
    """All that decides which tensors a backbone has, but for its norms."""
    groups = f"{backbone.groups}x{backbone.width_per_group}d"
    return f"of {backbone.blocks} {backbone.block} blocks, width {backbone.width}, {groups}"
