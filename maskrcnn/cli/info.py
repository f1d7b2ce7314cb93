"""`maskrcnn info WEIGHTS|NAME`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..config import ModelConfig


def info(
    model: Annotated[str, typer.Argument(metavar="WEIGHTS|NAME", help="Checkpoint, folder of a run, or name.")],
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting of the model as TOML.")] = False,
) -> None:
    """Describe a checkpoint or a model. Nothing is downloaded."""
    config, rows = _described(model)
    if not settings:
        for name, value in rows:
            print(f"{name:<12} {f'{value:.4g}' if isinstance(value, float) else value}")
        return
    if config is None:
        raise CheckpointError(f"{model} is not downloaded, so its settings are unknown; maskrcnn convert downloads it")
    import tomli_w

    from ..config import to_dict

    print(tomli_w.dumps(to_dict(config)).rstrip())


def _described(source: str) -> tuple["ModelConfig | None", list[tuple[str, Any]]]:
    from ..config import MODEL_NAMES, preset
    from ..weights.hub import find, is_model, is_name, place_of

    if is_name(source):
        release = find(source)
        figures = {"box": release.box_ap, "mask": release.mask_ap, "keypoint": release.keypoint_ap}
        published = ", ".join(f"{kind} {ap}" for kind, ap in figures.items() if ap is not None)
        rows = [("AP", f"{published}, as published for COCO val2017")] if published else []
        if not place_of(release).is_file():
            known = {"address": release.address, "licence": release.licence, "file": "not downloaded"}
            return None, [*rows, *known.items()]
        config, more = _checkpoint(source)
        return config, [*rows, *more]
    if is_model(source) or (source not in MODEL_NAMES and Path(source).exists()):
        return _checkpoint(source)
    if source not in MODEL_NAMES:
        raise CheckpointError(
            f"{source} is neither a file nor the name of a model; the models are {', '.join(MODEL_NAMES)}"
        )
    return preset(source), _model(preset(source))


def _checkpoint(source: str) -> tuple["ModelConfig", list[tuple[str, Any]]]:
    from ..config import flat
    from ..weights.header import read_header
    from ..weights.hub import locate

    file = locate(source, offline=True)
    rows: list[tuple[str, Any]] = [("file", f"{file}, {file.stat().st_size / 2**20:.1f} MiB")]
    if header := read_header(file):
        found, parameters = header.described, header.parameters
    else:
        from ..weights.read import read_start  # which takes seconds, for PyTorch

        found, parameters = read_start(source, offline=True), 0
    provenance = dict(found.provenance)
    if not found.categories:
        rows.append(("backbone", f"only a backbone, to start a training from, such as that of {found.config.name}"))
    else:
        rows += _model(found.config, parameters)
        rows += _scores(provenance, found.thresholds)
        least = [f"  from score {value:.2f}" for value in found.thresholds] or [""] * len(found.categories)
        wide = max(len(category.name) for category in found.categories) if found.thresholds else 0
        rows += [
            ("class", f"{category.id:>4}  {category.name:<{wide}}{words}")
            for category, words in zip(found.categories, least, strict=True)
        ]
    rows += [row for row in flat(provenance).items() if row[1] not in (None, []) and row[0] != "file"]
    return found.config, rows


def _scores(provenance: dict[str, Any], thresholds: Sequence[float]) -> Iterator[tuple[str, str]]:
    """From which score objects count, and the best evaluation of the training, which is taken out of `provenance`."""
    from ..thresholds import UNMEASURED, in_words

    metrics, data = provenance.pop("metrics", {}), provenance.pop("evaluated_on", {})
    unknown = f"objects count from {UNMEASURED}, as no training of ours evaluated the model"
    yield "scores", f"objects count from {in_words(thresholds)}, of the best F1" if thresholds else unknown
    figures = [f"{task} AP {metrics[task]['AP']:.3f}" for task in ("box", "mask", "keypoint") if task in metrics]
    if (operating := metrics.get("operating", {})).get("F1", -1) >= 0:
        figures += [f"F1 {operating['F1']:.3f}", f"counts off by {operating['count_error']:.1%}"]
    if "proposals" in metrics:
        figures.append(f"proposals AR {metrics['proposals']['AR']:.3f}")
    if figures:
        counts = ", ".join(f"{data[name]} {name}" for name in ("images", "objects") if name in data)
        where = f" on {data['data']}" if data.get("data") else ""
        yield "evaluation", f"{', '.join(figures)}{where}{counts and f' ({counts})'}"


def _model(config: "ModelConfig", parameters: int = 0) -> list[tuple[str, Any]]:
    """Its structure; the parameters are counted if they are not known."""
    from ..config import seen

    if not parameters:
        from ..weights.interop.infer import empty_model

        parameters = sum(parameter.numel() for parameter in empty_model(config).parameters())
    image, keypoint = config.input, config.keypoint_head
    size = "not resized" if image.zoom == 1 else f"resized by a factor of {image.zoom:g}"
    size += f", to a longer side of at most {image.max_size} pixels"
    if image.min_size:
        size = f"resized to a shorter side of {image.min_size} and a longer side of at most {image.max_size} pixels"
    outputs = ["boxes", *(["masks"] * config.mask_head.enabled)]
    outputs += [f"{keypoint.num_keypoints} keypoints"] * keypoint.enabled
    most, (scale, side) = config.box_head.max_detections, seen(image)
    large = f"those that would be shrunk, in tiles of {side / scale:.0f} pixels" if scale else "only with --tile PIXELS"
    return [
        ("model", f"{config.name}, {parameters / 1e6:.1f} million parameters, norm {config.backbone.norm}"),
        ("images", f"{image.channels} channels, {size}"),
        ("tiles", large),
        ("finds", f"{config.classes} classes, {' and '.join(outputs)}, at most {most} objects per image"),
    ]
