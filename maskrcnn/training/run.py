"""What a run is, decided before its first step and said in full: data, every setting, start weights, and its folder."""

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..canvas import STRIDE
from ..config import MODEL_NAMES, Config, ModelConfig, flat, preset, read_toml, read_tree, to_dict, write_toml
from ..data.dataset import Dataset, match_categories
from ..data.formats import find_splits, read_dataset
from ..data.split import HELD_OUT as SHARES
from ..data.split import Division, divide, parse_fractions
from ..data.statistics import measure
from ..data.transform import Transform, name_of
from ..data.usable import never_learned, require_readable, require_usable, shared_images
from ..device import Precision, choose_precision
from ..errors import ConfigError
from ..files import fingerprint, held, remove_parts, replacing, write_json
from ..model.parts import USUAL, Parts
from ..weights.checkpoint import Checkpoint
from ..weights.hub import locate
from ..weights.read import read_start
from .distributed import Ranks
from .optim import scaled_rate
from .pixels import free_new_stem, settle_pixels
from .recipes import Asked, Machine, choose, cores, name_model, name_recipe, weights_of

# What a run's folder holds, beside config.toml and log.jsonl.
IDENTITY, HELD_OUT, METRICS = "run.json", "held_out.json", "metrics.json"
STATE, LAST, BEST, FINAL = "state.safetensors", "last.safetensors", "best.safetensors", "model.safetensors"
LOCK = ".lock"  # while a training runs in the folder

WRITTEN = (
    "config.toml", "log.jsonl", "log.csv", "matches.npz", "report.html", "not_finite.json", "proposals.safetensors",
    IDENTITY, HELD_OUT, METRICS, STATE, LAST, BEST, FINAL,
)  # fmt: skip
MAY_CHANGE = ("train.epochs", "train.patience", "train.workers")  # settings, between two starts of one run
MEASURED = ("model.input.seen_scale", "model.input.seen_side")  # on the data, which older releases did not
LISTED = 3  # problems of a data set that are printed for each reason; `maskrcnn check` prints more


@dataclass(frozen=True)
class Run:
    """One training run. Everything that the loop does follows from it."""

    config: Config
    train_data: Dataset
    val_data: Dataset | None
    out: Path
    ranks: Ranks
    precision: Precision
    strict: bool = False  # an image that cannot be read ends the run
    weights: str | Path | None = None  # where `start` was read
    start: Checkpoint | None = None  # weights to start from
    stage: str | None = None  # the part of a training in two stages that this run is
    proposals: str | None = None  # SHA-256 of the file of proposals that the stage learns from
    parts: Parts = USUAL  # of the model, of the user's own
    transform: Transform | None = None  # the user's function on training images
    asked: tuple[str, ...] = ()  # names of the settings that the user chose
    recipe: str | None = None  # that chose the others; of a run that goes on, the one asked for
    choices: tuple[str, ...] = ()  # lines on what was chosen for the user, and why
    division: Division | None = None  # of one data set into those that are trained and evaluated on

    @property
    def images_per_step(self) -> int:
        """Images of one optimiser step, over all ranks."""
        return self.config.train.batch * self.config.train.accumulate * self.ranks.world

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, math.ceil(self.config.train.epochs * len(self.train_data) / self.images_per_step))

    def epochs_after(self, steps: int) -> float:
        """Passes over the training images that so many optimiser steps make."""
        return steps * self.images_per_step / len(self.train_data)


def prepare_run(
    data: str | Path,
    settings: Sequence[str],
    *,
    model: str | None,
    weights: str | Path | None,
    config: str | Path | None,
    schedule: str | None,
    val: str | Path | None,
    images: str | Path | None,
    out: str | Path | None,
    strict: bool,
    ranks: Ranks,
    recipe: str | None = None,
    staged: bool = False,
    parts: Parts = USUAL,
    pick_batch: "Callable[[Run], tuple[int, str]] | None" = None,
    transform: Transform | None = None,
    split: str | None = None,
    group_by: str | None = None,
    unlabelled: str | None = None,
) -> Run:
    """Reads the data and decides every setting. Arguments are those of `train`.

    `settings` such as "train.lr=0.01" win over what `schedule` sets, that over the file `config`, and that over the
    recipe. `pick_batch` measures how many images a batch should have, and says why. A folder that holds a run already
    has all settings: then nothing is chosen again. Raises `DataError`, `ConfigError` and `CheckpointError`.
    """
    if staged and parts.names:
        raise ConfigError("training in stages, or on proposals, takes no own parts: leave out stages and proposals")
    if staged and pick_batch is not None:
        raise ConfigError("batch auto measures steps of the whole model; training in stages needs a number")
    if staged and transform is not None:
        raise ConfigError("training in stages takes no transform: the proposals of an image would not move with it")
    place = Path(data)
    folder = Path("runs") / (place.stem if place.is_file() else place.resolve().name) if out is None else Path(out)
    asked = Asked({} if config is None else read_tree(config), schedule, settings)
    machine = Machine(ranks.device.type == "cuda", cores())
    frozen: Config | None = ranks.from_first(_frozen(folder, model) if ranks.first else None)
    base, start, lines = _base(frozen, model, weights, asked, machine)
    begun = asked.over(base)
    shares = None if split is None else parse_fractions(split)
    train_data, val_data, division = divided(
        *_read(data, val, images, begun.model, strict=strict, unlabelled=unlabelled),
        begun, shares=shares, group_by=group_by,
    )  # fmt: skip
    if frozen is None:
        kind = weights_of(None if start is None else start.state)
        name, why = name_recipe(recipe, kind, staged=staged)
        base, pixels = settle_pixels(base, begun, asked.names, train_data)
        begun = asked.over(base)
        seen = measure(train_data, begun.model.input.channels, look=name != "paper")
        settled, more = choose(name, seen, base, asked, machine, kind)
        if pick_batch is not None:
            known = replace(settled, model=_with_classes(settled.model, train_data))
            precision = resolve_precision(known.train.precision, ranks.device)
            size, why = pick_batch(
                Run(known, train_data, None, folder, ranks, precision, parts=parts, transform=transform)
            )
            with_batch = asked._replace(settings=[*asked.settings, f"train.batch={size}"])
            settled, more = choose(name, seen, base, with_batch, machine, kind)
            more.append(f"  batch: train.batch={size} ({why})")
        settled = free_new_stem(settled, start, asked.names)
        lines = [f"recipe: {name}, {why}", *lines, *more, *([pixels] if pixels else [])]
    else:
        settled, name = begun, None if recipe == "auto" else recipe
        lines = [f"settings: those with which the run in {folder} began, see config.toml"]
    settled = replace(settled, model=_with_classes(settled.model, train_data))
    if frozen is None or not frozen.model.input.seen_scale:
        settled = replace(settled, model=with_seen(settled, train_data))
    settled, lines = ranks.from_first((settled, lines))  # machines may differ
    require_all_readable(train_data, val_data, division, settled.model)
    if settled.model.backbone.norm == "bn" and not settled.model.backbone.norm_eps:
        raise ConfigError(
            "live batch norms need an epsilon, and these weights have 0: --set model.backbone.norm_eps=1e-5"
        )
    precision = resolve_precision(settled.train.precision, ranks.device)
    return Run(
        settled, train_data, val_data, folder, ranks, precision, strict, weights, start, parts=parts,
        transform=transform, asked=tuple(sorted(asked.names)), recipe=name, choices=tuple(lines), division=division,
    )  # fmt: skip


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """`auto` as bf16 if the processor is fast at it, else fp32. Raises `ConfigError` for fp16 without a GPU."""
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError("precision fp16 needs a GPU; take bf16, fp32 or auto")
    return choose_precision(wanted, device)


# --- data and defaults -----------------------------------------------------------------------------------------------


def _base(
    frozen: Config | None, model: str | None, weights: str | Path | None, asked: Asked, machine: Machine
) -> tuple[Config, Checkpoint | None, list[str]]:
    """The settings to begin with, the checkpoint to start from, and a line on a model that nobody asked for.

    The model is that of a run that goes on, else `model`, else that of `weights`, else the recipe's.
    """
    known = model or asked.file.get("model", {}).get("name")
    named = Config(model=preset(known)) if known in MODEL_NAMES or model is not None else None
    if named is None and "model" in asked.file:
        named = Config()
    if weights is None:
        if frozen is not None or named is not None:
            return frozen or named or Config(), None, []
        name, why = name_model(machine)
        return Config(model=preset(name)), None, [f"  model: --model {name} ({why})"]
    wanted = frozen or named
    start = read_start(weights, model=None if wanted is None else asked.over(wanted).model)
    if not asked.file and model is not None and model != start.config.name:
        raise ConfigError(f"{weights} is a {start.config.name}, not a {model}")
    return frozen or Config(model=start.config), start, []


def _frozen(folder: Path, model: str | None) -> Config | None:
    """All settings of the run that a folder holds; None if it holds none."""
    if not holds_run(folder):
        return None
    config = read_toml(folder / "config.toml")
    if model is not None and preset(model).name != config.model.name:
        raise ConfigError(f"{folder} holds a run of {config.model.name}, not of {model}; take another --out")
    return config


def _read(
    data: str | Path,
    val: str | Path | None,
    images: str | Path | None,
    model: ModelConfig,
    *,
    strict: bool,
    unlabelled: str | None,
) -> tuple[Dataset, Dataset | None]:
    """The images to train on and those to evaluate on, with the same labels; None if the data is not divided. Raises
    `DataError` if there is nothing to learn from or nothing to measure.
    """
    keypoints, masks, page = model.keypoint_head.enabled, model.mask_head.enabled, model.input.page or None
    needed = {"masks": masks, "keypoints": keypoints}
    train_source, val_source = find_splits(data, val, images=images, keypoints=keypoints)
    train = read_dataset(train_source, images, strict=strict, keypoints=keypoints, unlabelled=unlabelled, page=page)
    require_usable(train, **needed)
    if val_source is None:
        return train, None
    held = read_dataset(val_source, images, strict=strict, keypoints=keypoints, unlabelled=unlabelled, page=page)
    require_usable(held, **needed)
    return train, match_categories(train, held)


def divided(
    train: Dataset,
    val: Dataset | None,
    config: Config,
    *,
    shares: tuple[float, ...] | None = None,
    group_by: str | None = None,
) -> tuple[Dataset, Dataset | None, Division | None]:
    """The same, divided if nobody did: by `shares`, else a tenth is held out. One image alone cannot be divided. Raises
    `DataError` if all objects are in images that were held out.
    """
    if val is not None:
        if shares is not None or group_by is not None:
            raise ConfigError(f"{val.source} is what to evaluate on; --split and --group-by divide data without such")
        return train, val, None
    if len(train) < 2 and shares is None:
        return train, None, None
    division = divide(train, shares or SHARES, seed=config.train.seed, group_by=group_by)
    own = train.subset(division.parts["train"])
    require_usable(own, masks=config.model.mask_head.enabled, keypoints=config.model.keypoint_head.enabled)
    return own, train.subset(division.parts["val"]), division


def require_all_readable(train: Dataset, val: Dataset | None, division: Division | None, model: ModelConfig) -> None:
    """Raises `DataError` if no image of a part can be read as the model needs it."""
    for name, part in (("train", train), ("val", val)):
        if part is not None:
            require_readable(part, model.input.channels, name if division is not None else "")


def _with_classes(model: ModelConfig, train: Dataset) -> ModelConfig:
    """As many classes as the data has, and keypoints if the model has that branch."""
    keypoint = model.keypoint_head
    if keypoint.enabled:
        keypoint = replace(keypoint, num_keypoints=train.num_keypoints)
    return replace(model, classes=len(train.categories), keypoint_head=keypoint)


def with_seen(config: Config, train: Dataset) -> ModelConfig:
    """At which scale and size the model sees the training images: prediction cuts larger ones into tiles like these.

    The scale is one that nineteen images of twenty reach, so that none of them needs tiles in evaluation.
    """
    rule, crop, sizes = config.model.input, config.train.augment.crop, train.sizes.astype(np.float64)
    scales = np.full(len(sizes), rule.zoom)
    if rule.min_size or not crop:  # see `draw_geometry`
        own = rule.min_size / sizes.min(axis=1) if rule.min_size else scales
        scales = np.minimum(own, rule.max_size / sizes.max(axis=1))
    side = max(round((crop or np.median(np.sqrt(sizes.prod(axis=1)) * scales)) / STRIDE), 1) * STRIDE
    seen = replace(rule, seen_scale=float(np.quantile(scales, 0.05, method="nearest")), seen_side=side)
    return replace(config.model, input=seen)


# --- what is printed -------------------------------------------------------------------------------------------------


def describe(run: Run) -> list[str]:
    """What was decided, as the lines to print before the first step."""
    model, train = run.config.model, run.config.train
    lines = [f"train: {_contents(run.train_data)}", *_problems(run.train_data, model)]
    if run.val_data is None:
        lines.append("val: none; nothing is evaluated")
    elif run.division is not None:
        lines += [f"val: {_contents(run.val_data)}", f"  {run.division.describe()}, see {run.out / HELD_OUT}"]
    else:
        lines += [f"val: {_contents(run.val_data)}", *_problems(run.val_data, model)]
        if same := shared_images(run.train_data, run.val_data):
            lines.append(f"  note: {same}")
    lines += [
        f"keypoints of {c.name}: {len(c.keypoints)}, a mirror swaps {len(c.flip_pairs)} pairs, "
        f"sigma {min(c.sigmas):g} to {max(c.sigmas):g}"
        for c in run.train_data.categories
        if c.keypoints
    ]
    lines += run.choices
    drops = " and ".join(str(math.ceil(fraction * run.steps)) for fraction in train.milestones if fraction < 1)
    drop = f"; the rate drops after {drops}" if train.schedule == "step" and drops else ""
    lines += [
        f"slots: at most {int(run.train_data.annotation_counts.max())} objects in a training image, so "
        f"{model.box_head.max_detections} detections, {model.rpn.post_nms_train} proposals in training and "
        f"{model.rpn.post_nms_test} in prediction",
        f"model: {model.name}, norm {model.backbone.norm}, {run.precision} on {run.ranks.device}, "
        f"{run.images_per_step} images a step ({train.batch} x {train.accumulate} x {run.ranks.world}), "
        f"lr {train.lr:g} per 16 images: {scaled_rate(train, run.images_per_step):.4g}",
        f"schedule: {train.schedule}, {train.epochs:g} epochs, {run.steps} steps{drop}",
    ]
    if model.backbone.norm == "bn" and run.ranks.world > 1 and run.ranks.device.type == "cpu":
        lines.append("batch norms use the images of one rank each: torch cannot synchronise them on CPUs")
    return lines


def _contents(data: Dataset) -> str:
    names = ", ".join(category.name for category in data.categories[:8])
    more = ", ..." if len(data.categories) > 8 else ""
    empty, crowds = int((data.annotation_counts == 0).sum()), int(data.objects.ignore[data.object_rows()].sum())
    objects = f"{int(data.annotation_counts.sum()) - crowds} objects" + (f" and {crowds} crowds" if crowds else "")
    return f"{len(data)} images ({empty} without objects), {objects}, {names}{more}"


def _problems(data: Dataset, model: ModelConfig) -> list[str]:
    notes = [f"note: {sentence}" for sentence in never_learned(data, masks=model.mask_head.enabled)]
    return [f"  {line}" for line in (*data.report.lines(LISTED), *notes)]


# --- the folder ------------------------------------------------------------------------------------------------------


def holds_run(out: Path) -> bool:
    """Whether the folder belongs to a run already."""
    return (out / IDENTITY).exists()


@contextmanager
def alone_in_folder(run: Run) -> Iterator[None]:
    """Keeps the run's folder to this training. Raises `ConfigError`, on every rank, if another one has it."""
    with ExitStack() as stack:
        refused: ConfigError | None = None
        if run.ranks.first:
            try:
                stack.enter_context(held(run.out / LOCK, ConfigError))
            except ConfigError as error:
                refused = error
        if refused := run.ranks.from_first(refused):
            raise refused
        yield


def claim_folder(run: Run) -> bool:
    """Writes config.toml and run.json into the run's folder; returns whether the folder held this run before.

    Raises `ConfigError` with the differences if it holds another run.
    """
    return run.ranks.from_first(_claim(run) if run.ranks.first else None)


def _claim(run: Run) -> bool:
    path, identity = run.out / IDENTITY, _identity(run)
    known = holds_run(run.out)
    was = _read_json(path) if known else {}
    if known and (differences := _differences(was.get("identity", {}), identity) + _no_longer_asked(was, run)):
        raise ConfigError(
            f"{run.out} holds a run with other settings; only epochs, patience and workers may change. "
            "Take another --out, or the same settings:\n" + "\n".join(differences)
        )
    run.out.mkdir(parents=True, exist_ok=True)
    remove_parts(run.out, WRITTEN)
    write_toml(run.config, run.out / "config.toml")
    if known:
        return True
    if run.division is not None:
        write_json(run.out / HELD_OUT, run.division.listing())
    versions = {
        "maskrcnn": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    chosen = {"seed": run.config.train.seed, "recipe": run.recipe, "asked": run.asked}
    write_json(path, {"identity": identity, "versions": versions, **chosen})
    return False


def _identity(run: Run) -> dict[str, Any]:
    """What two starts of the same run have in common."""
    val = run.val_data
    return {
        "settings": to_dict(run.config),
        "data": {
            "train": run.train_data.fingerprint,
            "val": None if val is None else val.fingerprint,
            "images": [len(run.train_data), 0 if val is None else len(val)],
            "group_by": None if run.division is None else run.division.group_by,
        },
        "weights": None if run.weights is None else fingerprint(locate(run.weights)),
        "processes": run.ranks.world,
        "precision": run.precision,
        "device": run.ranks.device.type,
        "stage": run.stage,
        "proposals": run.proposals,
        "transform": name_of(run.transform),
        "parts": run.parts.names,
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each entry that differs. A setting that the old release did not have counts as its default."""
    defaults = {f"settings.{name}": value for name, value in flat(to_dict(Config())).items()}
    was, now = defaults | flat(old), flat(new)
    allowed = {f"settings.{name}" for name in MAY_CHANGE + MEASURED}
    return [
        f"  {name.removeprefix('settings.')}: {was.get(name)!r} there, {now.get(name)!r} here"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name) and name not in allowed
    ]


def _no_longer_asked(was: Mapping[str, Any], run: Run) -> list[str]:
    """One line for each setting that was chosen at the first start and is not mentioned now."""
    settings = flat(was.get("identity", {}).get("settings", {}))
    missing = sorted(set(was.get("asked", ())) - set(run.asked) - set(MAY_CHANGE))
    lines = [f"  {name}: set to {settings.get(name)!r} there, not set here" for name in missing]
    if run.recipe not in (None, was.get("recipe", run.recipe)):
        lines.append(f"  recipe: {was['recipe']} there, {run.recipe} here")
    return lines


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} should describe the run in {path.parent}, but cannot be read: {error}") from error


def copy_file(source: Path, target: Path) -> None:
    """Copies a file atomically."""
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())
