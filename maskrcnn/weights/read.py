"""Any checkpoint as one of ours: a file, whoever wrote it, the folder of a run, or the name of a release.

Those of other frameworks are recognised by the names of their tensors, renamed by a table, and their structure is
inferred. They are safetensors, files of `torch.save`, or pickles of arrays. Nothing in a file is executed.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import MODEL_NAMES, BackboneConfig, ModelConfig, override, preset
from ..errors import CheckpointError, ConfigError
from ..files import open_regular
from .checkpoint import Checkpoint, differences, load_checkpoint, refuse
from .header import KEY
from .hub import find, is_name, locate
from .interop.classes import name_classes
from .interop.detectron import DETECTRON
from .interop.detectron2 import DETECTRON2
from .interop.infer import empty_model, infer, infer_backbone, shapes_of
from .interop.origin import Contents, Origin, rename_all
from .interop.pickles import read_pickle, read_torch
from .interop.torchvision import TORCHVISION

ORIGINS: tuple[Origin, ...] = (TORCHVISION, DETECTRON2, DETECTRON)

_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")  # keys under which training scripts keep the tensors
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of torch.save before 1.6
_COUNTS = ".num_batches_tracked"


def read_checkpoint(
    source: str | Path,
    *,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """The checkpoint in a file, with our names and a config that gives the results of the framework it comes from.

    Args:
        source: safetensors, a file of `torch.save`, a pickle of arrays, the folder of a run, or a release's name such
            as `torchvision:maskrcnn_resnet50_fpn`, which is downloaded once.
        settings: assignments such as `backbone.norm_eps=1e-5`, for what a foreign file does not say.
        classes: names of its classes in order, for a foreign file whose classes are not COCO's.
        offline: never download; None means as `MASKRCNN_OFFLINE` says.

    Raises `CheckpointError` naming the file if it is damaged, unsafe, of no known kind, or only a backbone.
    """
    return _read(source, settings, classes, offline, whole=True)


def read_start(source: str | Path, *, model: ModelConfig | None = None, offline: bool | None = None) -> Checkpoint:
    """Like `read_checkpoint`, but also accepts a backbone alone, to train a `model` around it.

    Such a checkpoint has no categories and only the tensors of the backbone. Its config is `model`'s with the pixels,
    strides and norms that the backbone was trained with. Raises `ConfigError` if `model` has another backbone.
    """
    return _read(source, (), None, offline, whole=False, model=model)


def _read(
    source: str | Path,
    settings: Sequence[str],
    classes: Sequence[str] | None,
    offline: bool | None,
    *,
    whole: bool,
    model: ModelConfig | None = None,
) -> Checkpoint:
    path = locate(source, offline=offline)
    settings = [text.removeprefix("model.") for text in settings]
    provenance: dict[str, Any] = {"file": path.name}
    if is_name(source):
        release = find(str(source))
        settings = [*release.settings, *settings]
        provenance = {"release": release.name, "address": release.address, "licence": release.licence}
    contents = open_foreign(path)
    if contents is None:
        found = load_checkpoint(path)
        if classes is not None:
            raise ConfigError(f"{path} has its own class names; they can be given for other frameworks' files only")
        return found._replace(config=override(found.config, settings))
    foreign = recognise(contents, path)
    if any(name.startswith("box_head.") for name in foreign.state):
        found = to_whole(foreign, settings, classes)
    else:
        refuse(foreign.strange, path, f"is of {foreign.origin.name}, but has tensors that are no part of a Mask R-CNN")
        if whole:
            raise CheckpointError(
                f"{source} holds only a backbone: train --weights can start from it, nothing else can"
            )
        found = _to_backbone(foreign, model)
    return found._replace(provenance=found.provenance | provenance)


# --- other frameworks ------------------------------------------------------------------------------------------------


class Foreign(NamedTuple):
    """A file of another framework, recognised: its tensors with our names and our order of rows."""

    path: str | Path
    origin: Origin
    contents: Contents
    state: dict[str, Tensor]
    strange: list[tuple[str, str]]  # names of tensors that have no place in ours, with words for the table


def open_foreign(path: Path) -> Contents | None:
    """The tensors of a file. None for a checkpoint of ours, and for a file of no known kind."""
    try:
        with open_regular(path) as file:
            start = file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith((b"PK\x03\x04", _OLD_TORCH)):
        return unwrap(read_torch(path), path)
    if re.match(rb"\x80[\x02-\x05]", start) or path.suffix in (".pkl", ".pickle"):
        return unwrap(read_pickle(path), path)
    if start[8:9] == b"{":
        # If it is damaged, the reader of our own checkpoints says how.
        with suppress(SafetensorError), safe_open(str(path), framework="pt") as file:
            rest = file.metadata() or {}
            if KEY not in rest:
                return unwrap({**rest, "model": {name: file.get_tensor(name) for name in file.keys()}}, path)
    return None


def unwrap(found: Any, path: str | Path) -> Contents:
    """The tensors, wherever a training script put them, without the prefix of a data-parallel wrapper."""
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: a dict of tensors was expected, it is a {type(found).__name__}")
    rest: Mapping[str, Any] = {}
    wrapper = next((wrapper for wrapper in _WRAPPERS if isinstance(found.get(wrapper), Mapping)), None)
    if wrapper is not None:
        rest, found = {name: value for name, value in found.items() if name != wrapper}, found[wrapper]
    arrays = {str(name): value for name, value in found.items() if isinstance(value, np.ndarray | Tensor)}
    prefix = next((prefix for prefix in ("module.", "model.") if all(name.startswith(prefix) for name in arrays)), "")
    tensors = {name.removeprefix(prefix): torch.as_tensor(array).detach() for name, array in arrays.items()}
    return Contents(tensors, rest)


def recognise(contents: Contents, path: str | Path) -> Foreign:
    """Whose file this is, with its tensors under our names. Raises `CheckpointError`."""
    names = contents.tensors.keys()
    origin = next((origin for origin in ORIGINS if any(map(origin.recognise.match, names))), None)
    if origin is None:
        some, known = ", ".join(list(names)[:4]) or "no tensors", ", ".join(origin.name for origin in ORIGINS)
        raise CheckpointError(f"{path} is not a checkpoint of a known kind (ours, {known}): it has {some}")
    prefix = "" if any(name.startswith("backbone.") for name in names) else origin.prefix
    wanted = {prefix + name: t for name, t in contents.tensors.items() if not origin.ignored.fullmatch(name)}
    try:
        state, unknown = rename_all(wanted, origin.table, to_ours=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    wrong = {n: t for n, t in state.items() if not (n.endswith(_COUNTS) or (t.dim() and t.is_floating_point()))}
    refuse([(n, f"is of {t.dtype}" if t.dim() else "is one number") for n, t in wrong.items()], path)
    strange = [(n.removeprefix(prefix), f"no part of a Mask R-CNN, {list(wanted[n].shape)}") for n in sorted(unknown)]
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return Foreign(path, origin, contents, origin.to_ours(wide), strange)


def to_whole(found: Foreign, settings: Sequence[str] = (), classes: Sequence[str] | None = None) -> Checkpoint:
    """The checkpoint of a whole model, its structure inferred. Arguments and errors are those of `read_checkpoint`."""
    try:
        structure = infer(shapes_of(found.state))
    except CheckpointError as error:
        what = f"does not hold a Mask R-CNN of a known kind: {error}"
        refuse(found.strange, found.path, f"{what}, and there is")
        raise CheckpointError(f"{found.path} {what}") from error
    config = override(found.origin.settle(structure, found.contents), settings)
    own = empty_model(config).state_dict()
    # Live batch norms count their batches, frozen ones do not, whatever the file has.
    state = {name: tensor for name, tensor in found.state.items() if name in own or not name.endswith(_COUNTS)}
    state |= {name: torch.tensor(0) for name in own.keys() - state.keys() if name.endswith(_COUNTS)}
    refuse(sorted([*differences(own, state), *found.strange]), found.path)
    return Checkpoint(config, name_classes(config, classes), state, {"origin": found.origin.name})


def _to_backbone(found: Foreign, base: ModelConfig | None) -> Checkpoint:
    """The checkpoint of a backbone, with the config of a model around it: `base`, or the FPN of this depth."""
    backbone = infer_backbone(shapes_of(found.state))
    network = _network(backbone)
    if base is None:
        fpns = (config for config in map(preset, MODEL_NAMES) if config.backbone.features == "fpn")
        base = next((config for config in fpns if _network(config.backbone) == network), None)
    if base is None:
        raise ConfigError(f"{found.path} is a backbone {network}, which no preset has")
    if (other := _network(base.backbone)) != network:
        raise ConfigError(f"{found.path} is a backbone {network}; that of {base.name} is one {other}")
    features = base.backbone.features
    structure = replace(base, backbone=replace(backbone, features=features))
    theirs = found.origin.settle(structure, found.contents)
    pixels = {name: getattr(theirs.input, name) for name in ("channel_order", "mean", "std")}
    norm = "frozen_bn" if theirs.backbone.norm == "bn" else theirs.backbone.norm
    eps = 1e-5 if found.origin is TORCHVISION else theirs.backbone.norm_eps  # only its detectors have epsilon 0
    backbone = replace(theirs.backbone, features=features, norm=norm, norm_eps=eps)
    config = replace(base, input=replace(base.input, **pixels), backbone=backbone)
    res5 = "box_pool.trunk." if features == "c4" else "backbone.res5."
    state = {n.replace("backbone.res5.", res5): t for n, t in found.state.items() if not n.endswith(_COUNTS)}
    return Checkpoint(config, (), state, {"origin": found.origin.name, "part": "backbone"})


def _network(backbone: BackboneConfig) -> str:
    """All that decides which tensors a backbone has, but for its norms."""
    groups = f"{backbone.groups}x{backbone.width_per_group}d"
    return f"of {backbone.blocks} {backbone.block} blocks, width {backbone.width}, {groups}"
