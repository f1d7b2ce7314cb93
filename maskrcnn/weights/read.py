"""Any checkpoint as one of ours: a file, whoever wrote it, the folder of a run, or the name of a release."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import ModelConfig, override, preset
from ..errors import CheckpointError, ConfigError
from .checkpoint import Checkpoint, load_checkpoint, refuse
from .hub import fetch, find, is_name
from .interop.read import Foreign, open_foreign, recognise, to_backbone, to_whole

_FINAL = "model.safetensors"  # of a run's folder


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

    def refuse_backbone(found: Foreign, settings: Sequence[str]) -> NoReturn:
        raise CheckpointError(f"{source} holds only a backbone: train --weights can start from it, nothing else can")

    return _read(source, settings, classes, offline, refuse_backbone)


def read_start(
    source: str | Path,
    *,
    model: str | ModelConfig | None = None,
    settings: Sequence[str] = (),
    offline: bool | None = None,
) -> Checkpoint:
    """Like `read_checkpoint`, but also accepts a backbone alone, to train a `model` (R-50-FPN, ...) around it.

    Such a checkpoint has no categories and only the tensors of the backbone. Its config is `model`'s with the pixels,
    strides and norms that the backbone was trained with. Raises `ConfigError` if `model` has another backbone.
    """
    base = preset(model) if isinstance(model, str) else model
    return _read(source, settings, None, offline, lambda found, settings: to_backbone(found, base, settings))


def locate(source: str | Path, *, offline: bool | None = None) -> Path:
    """The file that `source` means: itself, the model in a run's folder, or a release's download."""
    if is_name(source):
        return fetch(find(str(source)), offline=offline)
    path = Path(source)
    if not path.is_dir():
        return path
    if not (path / _FINAL).is_file():
        raise CheckpointError(f"{path} is a folder without a {_FINAL}")
    return path / _FINAL


def _read(
    source: str | Path,
    settings: Sequence[str],
    classes: Sequence[str] | None,
    offline: bool | None,
    of_backbone: Callable[[Foreign, Sequence[str]], Checkpoint],
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
        found = of_backbone(foreign, settings)
    return found._replace(provenance={**found.provenance, **provenance})
