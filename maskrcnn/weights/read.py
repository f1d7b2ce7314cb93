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

from ..config import MODEL_NAMES, BackboneConfig, Config, ModelConfig, override, preset
from ..errors import CheckpointError, ConfigError
from ..model.build import build
from .checkpoint import KEY, Checkpoint, differences, load_checkpoint, refuse
from .hub import fetch, find, is_name
from .interop.classes import name_classes
from .interop.detectron import DETECTRON
from .interop.detectron2 import DETECTRON2
from .interop.infer import infer, infer_backbone, shapes_of
from .interop.names import rename_all
from .interop.origin import Origin
from .interop.pickles import as_tensors, read_pickle, read_torch
from .interop.torchvision import TORCHVISION

ORIGINS: tuple[Origin, ...] = (TORCHVISION, DETECTRON2, DETECTRON)

_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")  # under which training scripts keep the tensors
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6
_COUNTS = ".num_batches_tracked"
_FINAL = "model.safetensors"  # of a run's folder


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
        source: safetensors, a file of `torch.save`, a pickle of arrays, the folder of a run, or a release's name such
            as `torchvision:maskrcnn_resnet50_fpn`, which is downloaded once.
        settings: assignments such as `backbone.norm_eps=1e-5`, for what a foreign file cannot say.
        classes: names of its classes in order, for a foreign file whose classes are not COCO's.
        offline: never download; by default as `MASKRCNN_OFFLINE` says.

    Raises `CheckpointError` naming the file for one that is damaged, unsafe, of no known kind, or a backbone alone.
    """
    found = _read(source, settings, classes, offline)
    if isinstance(found, Checkpoint):
        return found
    raise CheckpointError(f"{source} holds a backbone alone: train --weights can start from it, nothing else")


def read_start(
    source: str | Path,
    *,
    model: str | ModelConfig | None = None,
    settings: Sequence[str] = (),
    offline: bool | None = None,
) -> Checkpoint:
    """Like `read_checkpoint`, but a backbone alone will do: it becomes that of `model` (R-50-FPN, ...), to train.

    Such a checkpoint has no categories, and no tensors but the backbone's. Its config is `model`'s with the pixels,
    strides and norms that the backbone was trained with. Raises `ConfigError` where `model` has another backbone.
    """
    found = _read(source, settings, None, offline)
    if isinstance(found, Checkpoint):
        return found
    config = _set(_around(found, preset(model) if isinstance(model, str) else model), settings)
    state = found.state
    if config.backbone.features == "c4":
        state = {name.replace("backbone.res5.", "box_pool.trunk."): tensor for name, tensor in state.items()}
    return Checkpoint(config, (), _counted(state, config), {**found.provenance, "part": "backbone"})


def locate(source: str | Path, *, offline: bool | None = None) -> Path:
    """The file that `source` means: itself, the model of a run's folder, or a release's download."""
    if is_name(source):
        return fetch(find(str(source)), offline=offline)
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / _FINAL).is_file():
        raise CheckpointError(f"{path} is a folder without a {_FINAL}")
    return path / _FINAL


class _Foreign(NamedTuple):
    """A foreign file under our names."""

    path: str | Path
    origin: Origin
    contents: Contents
    state: dict[str, Tensor]
    strange: list[tuple[str, str]]  # its tensors that have no place here, with words for the table
    provenance: dict[str, Any]


def _read(
    source: str | Path, settings: Sequence[str], classes: Sequence[str] | None, offline: bool | None
) -> Checkpoint | _Foreign:
    """The checkpoint, or the backbone that it is alone."""
    path = locate(source, offline=offline)
    provenance: dict[str, Any] = {"file": path.name}
    if is_name(source):
        release = find(str(source))
        settings = (*release.settings, *settings)
        provenance = {"release": release.name, "address": release.address, "licence": release.licence}
    contents = open_foreign(path)
    if contents is None:
        checkpoint = load_checkpoint(path)
        if classes is not None:
            raise ConfigError(f"{path} has its own names of classes; others can be given to foreign files only")
        return checkpoint._replace(config=_set(checkpoint.config, settings))
    found = _renamed(contents, path)
    found = found._replace(provenance={**found.provenance, **provenance})
    if any(name.startswith("box_head.") for name in found.state):
        return _whole(found, settings, classes)
    refuse(found.strange, path, f"is of {found.origin.name}, but has tensors that are no part of a Mask R-CNN")
    return found


def to_checkpoint(
    contents: Contents, path: str | Path, *, settings: Sequence[str] = (), classes: Sequence[str] | None = None
) -> Checkpoint:
    """What a foreign file of a whole model holds. Arguments and errors are those of `read_checkpoint`."""
    return _whole(_renamed(contents, path), settings, classes)


def _whole(found: _Foreign, settings: Sequence[str], classes: Sequence[str] | None) -> Checkpoint:
    try:
        inferred = infer(shapes_of(found.state))
    except CheckpointError as error:
        what = f"holds no Mask R-CNN that is known here: {error}"
        refuse(found.strange, found.path, f"{what}, and there is")
        raise CheckpointError(f"{found.path} {what}") from error
    config = _set(found.origin.settle(inferred, found.contents.tensors, found.contents.rest), settings)
    state = _counted(found.state, config)
    with torch.device("meta"):  # shapes without memory
        own = build(config).state_dict()
    refuse(sorted([*differences(own, state), *found.strange]), found.path)
    return Checkpoint(config, name_classes(config, classes), state, found.provenance)


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


def _renamed(contents: Contents, path: str | Path) -> _Foreign:
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
    theirs = sorted(name.removeprefix(prefix) for name in unknown)
    strange = [(name, f"no part of a Mask R-CNN, {list(wanted[name].shape)}") for name in theirs]
    refuse([(name, words) for name, tensor in state.items() if (words := _no_weights(name, tensor))], path)
    ours = origin.to_ours({name: _wide(tensor) for name, tensor in state.items()})
    return _Foreign(path, origin, contents, ours, strange, {"origin": origin.name})


def _no_weights(name: str, tensor: Tensor) -> str:
    """Why a tensor can be nobody's weights; empty where it can."""
    if name.endswith(_COUNTS):
        return ""
    return "is one number" if not tensor.dim() else "" if tensor.is_floating_point() else f"is of {tensor.dtype}"


def _wide(tensor: Tensor) -> Tensor:
    """Float32, whatever precision the numbers were saved in."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _around(found: _Foreign, base: ModelConfig | None) -> ModelConfig:
    """The config of a model, by default the FPN of this depth, about a backbone."""
    backbone = infer_backbone(shapes_of(found.state))
    if base is None:
        presets = (config for config in map(preset, MODEL_NAMES) if config.backbone.features == "fpn")
        base = next((config for config in presets if _same_network(config, backbone)), None)
    if base is None:
        raise ConfigError(f"{found.path} is a backbone {_network(backbone)}, which no model known here has")
    if not _same_network(base, backbone):
        other = _network(base.backbone)
        raise ConfigError(f"{found.path} is a backbone {_network(backbone)}; that of {base.name} is one {other}")
    beside = replace(base, backbone=replace(backbone, features=base.backbone.features))
    settled = found.origin.settle(beside, found.contents.tensors, found.contents.rest)
    eps = 1e-5 if found.origin is TORCHVISION else settled.backbone.norm_eps  # epsilon 0 is its detectors' alone
    pixels = {name: getattr(settled.input, name) for name in ("channel_order", "mean", "std")}
    norm = "frozen_bn" if settled.backbone.norm == "bn" else settled.backbone.norm
    return replace(
        base,
        input=replace(base.input, **pixels),
        backbone=replace(settled.backbone, features=base.backbone.features, norm=norm, norm_eps=eps),
    )


def _network(backbone: BackboneConfig) -> str:
    return f"of {backbone.blocks} {backbone.block} blocks, width {backbone.width}, {backbone.groups} groups"


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
        if live or not name.endswith(_COUNTS):
            result[name] = tensor
        if live and name.endswith(".running_var"):
            count = name.replace(".running_var", _COUNTS)
            result[count] = state.get(count, torch.zeros((), dtype=torch.int64))
    return result
