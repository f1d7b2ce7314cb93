"""`maskrcnn info WEIGHTS|NAME`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..config import ModelConfig


def info(
    model: Annotated[
        str, typer.Argument(metavar="WEIGHTS|NAME", help="Checkpoint file, folder of a run, or name of a model.")
    ],
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting of the model, as TOML.")] = False,
) -> None:
    """Describe a checkpoint or a named model, without downloading it."""
    from ..errors import CheckpointError

    config, lines = _described(model)
    if not settings:
        print("\n".join(lines))
    elif config is None:
        raise CheckpointError(f"{model} is not downloaded, so its settings are unknown; maskrcnn convert downloads it")
    else:
        print(_toml(config))


def _described(source: str) -> tuple["ModelConfig | None", list[str]]:
    from ..config import MODEL_NAMES, preset
    from ..errors import CheckpointError
    from ..weights.hub import find, is_name, place_of

    if is_name(source):
        release = find(source)
        figures = {"box": release.box_ap, "mask": release.mask_ap, "keypoint": release.keypoint_ap}
        published = ", ".join(f"{kind} {ap}" for kind, ap in figures.items() if ap is not None)
        lines = [f"{'AP':<12} {published}, as published for COCO val2017"] if published else []
        if not place_of(release).is_file():
            known = {"address": release.address, "licence": release.licence, "file": "not downloaded"}
            return None, lines + [f"{name:<12} {value}" for name, value in known.items()]
        config, more = _checkpoint(source)
        return config, lines + more
    if Path(source).exists():
        return _checkpoint(source)
    if source not in MODEL_NAMES:
        raise CheckpointError(
            f"{source} is neither a file nor the name of a model; the models are {', '.join(MODEL_NAMES)}"
        )
    return preset(source), _model(preset(source))


def _checkpoint(source: str) -> tuple["ModelConfig", list[str]]:
    from ..weights.read import locate, read_start

    file, found = locate(source, offline=True), read_start(source, offline=True)
    lines = [f"{'file':<12} {file}, {file.stat().st_size / 2**20:.1f} MiB"]
    if found.categories:
        lines += _model(found.config)
        lines += [f"{'class':<12} {category.id:>4}  {category.name}" for category in found.categories]
    else:
        lines.append(
            f"{'backbone':<12} without heads; train --weights starts from it, by default as {found.config.name}"
        )
    lines += [
        f"{name:<12} {_short(value)}"
        for name, value in _flat(found.provenance)
        if value not in (None, []) and name != "file"
    ]
    return found.config, lines


def _model(config: "ModelConfig") -> list[str]:
    import torch

    from ..model.build import build

    with torch.device("meta"):  # shapes only, no memory
        parameters = sum(parameter.numel() for parameter in build(config).parameters())
    size = config.input
    sides = f"resized to sides of {size.min_size} to {size.max_size} pixels" if size.min_size else "not resized"
    keypoints = f"{config.keypoint_head.num_keypoints} keypoints" if config.keypoint_head.enabled else ""
    finds = " and ".join(filter(None, ("boxes", "masks" if config.mask_head.enabled else "", keypoints)))
    return [
        f"{'model':<12} {config.name}, {parameters / 1e6:.1f} million parameters, norm {config.backbone.norm}",
        f"{'images':<12} {size.channels} channels, {sides}",
        f"{'finds':<12} {config.classes} classes, {finds}, at most {config.box_head.max_detections} objects per image",
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _toml(config: "ModelConfig") -> str:
    import tomli_w

    from ..config import to_dict

    return tomli_w.dumps(to_dict(config)).rstrip()
