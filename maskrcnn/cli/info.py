"""`maskrcnn info WEIGHTS|NAME`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..config import ModelConfig


def info(
    model: Annotated[str, typer.Argument(metavar="WEIGHTS|NAME", help="A checkpoint, or a name such as R-50-FPN.")],
    settings: Annotated[bool, typer.Option("--settings", help="Every setting of the model, as TOML.")] = False,
) -> None:
    """Tell what a checkpoint holds, or what the model of a name is."""
    from ..config import MODEL_NAMES, preset

    if model in MODEL_NAMES and not Path(model).exists():
        config = preset(model)
        lines = _model(config)
    else:
        config, lines = _checkpoint(model)
    print(_toml(config) if settings else "\n".join(lines))


def _checkpoint(path: str) -> tuple["ModelConfig", list[str]]:
    from ..config import MODEL_NAMES
    from ..errors import CheckpointError
    from ..predict import checkpoint_file
    from ..weights.checkpoint import load_checkpoint

    if not Path(path).exists():
        raise CheckpointError(f"{path} is neither a file nor a model; the models are {', '.join(MODEL_NAMES)}")
    file = checkpoint_file(Path(path))
    checkpoint = load_checkpoint(file)
    lines = [f"{'file':<12} {file}, {file.stat().st_size / 2**20:.1f} MiB", *_model(checkpoint.config)]
    lines += [f"{'class':<12} {category.id:>4}  {category.name}" for category in checkpoint.categories]
    lines += [f"{name:<12} {_short(value)}" for name, value in _flat(checkpoint.provenance) if value not in (None, [])]
    return checkpoint.config, lines


def _model(config: "ModelConfig") -> list[str]:
    import torch

    from ..model.build import build

    with torch.device("meta"):  # shapes without memory
        parameters = sum(parameter.numel() for parameter in build(config).parameters())
    size = config.input
    sides = f"resized to {size.min_size} to {size.max_size} pixels a side" if size.min_size else "of their own size"
    finds = "boxes and masks" if config.mask_head.enabled else "boxes"
    return [
        f"{'model':<12} {config.name}, {parameters / 1e6:.1f} million parameters, norm {config.backbone.norm}",
        f"{'pictures':<12} {size.channels} channels, {sides}",
        f"{'finds':<12} {config.classes} classes, {finds}, at most {config.box_head.max_detections} objects a picture",
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
