"""What a run is, decided before its first step: data, categories, defaults and slots. Everything decided is printed."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from .. import __version__
from ..config import Config, ModelConfig, TrainConfig, override, preset, read_toml
from ..data.dataset import Dataset, hold_out, match_categories
from ..data.formats import find_splits, read_dataset
from ..data.loader import EvalLoader, TrainLoader
from ..device import choose_precision
from ..errors import ConfigError, DataError
from ..evaluation.run import detect_rows, measure
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..weights.checkpoint import Checkpoint, save_checkpoint
from ..weights.read import read_start
from .distributed import Ranks, from_first, gather
from .job import Job
from .optim import scaled_rate, schedule_settings
from .proposals import rpn_tensors
from .ranges import check_ranges
from .start import start_from

LISTED = 3  # problems of a data set that are written out for each reason; `maskrcnn check` has more
SMALL_BATCH = 4  # images a rank below which batch statistics are too noisy and group norm takes over


class Plan(NamedTuple):
    """A run, ready to be started or resumed."""

    config: Config
    train: Dataset
    val: Dataset | None
    start: Checkpoint | None  # weights to start from
    out: Path
    precision: str
    strict: bool  # an image that cannot be read ends the run
    weights: str = ""  # where `start` was read
    stage: str | None = None  # the part of a training in stages that this is
    proposals: str | None = None  # SHA-256 of the file of proposals that a stage learns from


def plan(
    data: str | Path,
    *,
    model: str | None,
    weights: str | Path | None,
    out: str | Path | None,
    named: Mapping[str, Any],
    overrides: Sequence[str],
    config: str | Path | None,
    schedule: str | None = None,
    reading: Mapping[str, Any],
    among: Ranks,
    say: Callable[[str], None],
) -> Plan:
    """Reads the data, settles every setting and prints what a user should know.

    Raises `DataError`, `ConfigError` and `CheckpointError`. `named` are settings that have an argument of their own,
    as {"train.epochs": 12}, None where not given, and win over those that `schedule` names; `reading` is how data is
    read: val, images, strict, keypoints.
    """
    assignments = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    assignments += list(overrides)
    base, start = _base(model, config, weights, assignments)
    first_look = override(base, assignments)
    check_ranges(first_look)
    if schedule is not None:
        assignments = schedule_settings(schedule, first_look.model) + assignments
    keypoints = reading["keypoints"] or first_look.model.keypoint_head.enabled
    train, held = _read(data, seed=first_look.train.seed, **{**reading, "keypoints": keypoints})
    if not len(train):
        raise DataError(f"{train.source}: there is no image to train on")
    if config is None:
        base = replace(base, model=_slots(_norms(base.model, first_look, start), int(train.annotation_counts.max())))
    settled = override(base, assignments)
    settled = replace(settled, model=_of_data(settled.model, train))
    if settled.model.backbone.norm == "bn" and not settled.model.backbone.norm_eps:
        raise ConfigError("live norms need an epsilon, which is 0 in these weights: --set model.backbone.norm_eps=1e-5")
    folder = Path(out) if out is not None else Path("runs") / _name(Path(data))
    precision = resolve_precision(settled.train.precision, among.device)
    result = Plan(settled, train, held, start, folder, precision, reading["strict"], str(weights or ""))
    for line in _introduction(result, among):
        say(line)
    return result


def resolve_precision(wanted: str, device: torch.device) -> str:
    """`auto` as bf16 where the processor is fast at it, else fp32. Raises `ConfigError` for fp16 without a GPU."""
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError("precision fp16 needs a GPU; take bf16, fp32 or auto")
    return choose_precision(wanted, device)


def build_model(plan: Plan, among: Ranks, say: Callable[[str], None]) -> nn.Module:
    """The model with its first weights, drawn from the run's seed or taken from the checkpoint, on its device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.config.train.seed)
        model = build(plan.config.model, skip_empty=among.device.type == "cpu")
    if plan.start is not None:
        own = rpn_tensors(plan.start.state) if plan.config.model.rpn.features == "own" else {}
        start = plan.start._replace(state={**plan.start.state, **own})
        say(start_from(model, start, plan.train.categories, plan.weights))
    return model.to(among.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_job(plan: Plan, among: Ranks) -> Job:
    """The run as the loop sees it: loaders, judge and writer bound to the plan."""
    model, train = plan.config.model, plan.config.train
    shared: dict[str, Any] = {
        "batch": train.batch,
        "rank": among.rank,
        "world": among.world,
        "workers": train.workers,
        "masks": model.mask_head.enabled,
        "mask_rule": model.mask_head.target,
        "keypoint_shift": model.keypoint_head.shift,
        "strict": plan.strict,
        "pin_memory": among.device.type == "cuda",
    }
    inclusive = model.box_arithmetic.inclusive
    loader = TrainLoader(plan.train, model.input, train.augment, seed=train.seed, inclusive=inclusive, **shared)
    judged = None if plan.val is None else EvalLoader(plan.val, model.input, gt=train.validation_loss, **shared)

    def judge(network: nn.Module) -> Mapping[str, Any]:
        assert judged is not None
        rows = detect_rows(
            cast(MaskRCNN, network), judged, model, plan.train.categories, precision=cast(Any, plan.precision)
        )
        gathered = gather(rows, among)
        found = None if gathered is None else [row for share in gathered for row in share]
        metrics = None if found is None else measure(found, judged, model, plan.train.categories)
        return from_first(metrics, among)

    def write(path: Path, network: nn.Module, provenance: Mapping[str, Any]) -> None:
        origin = {"data": plan.train.fingerprint, "seed": train.seed, "release": __version__, **provenance}
        if plan.start is not None:  # whose licence may bind what is made of it
            origin["start"] = {"weights": Path(plan.weights).name, **plan.start.provenance}
        save_checkpoint(path, network.state_dict(), model, plan.train.categories, origin)

    return Job(
        config=train,
        out=plan.out,
        images=len(plan.train),
        epoch=cast(Any, loader.batches),
        evaluate=None if judged is None else judge,
        validation=None if judged is None or not train.validation_loss else cast(Any, lambda: judged),
        write=write,
        precision=plan.precision,
        counts=model.loss_counts,
        unread=lambda: {reason for each in (loader, judged) if each is not None for reason in each.problems.values()},
    )


# --- defaults --------------------------------------------------------------------------------------------------------


def _base(
    model: str | None, config: str | Path | None, weights: str | Path | None, assignments: list[str]
) -> tuple[Config, Checkpoint | None]:
    """The settings before data and arguments have their say, and what to start from.

    They are a file's, else those that `weights` were trained with, else a preset's.
    """
    given = read_toml(config) if config is not None else None
    if weights is None:
        return given or Config(model=preset(model or "R-50-FPN")), None
    wanted = given or (Config(model=preset(model)) if model is not None else None)
    start = read_start(weights, model=None if wanted is None else override(wanted, assignments).model)
    if given is None and model is not None and model != start.config.name:
        raise ConfigError(f"{weights} is a {start.config.name}, not a {model}")
    return given or Config(model=start.config), start


def _norms(model: ModelConfig, given: Config, start: Checkpoint | None) -> ModelConfig:
    """From scratch the norms are live and nothing is frozen; given weights keep norms, stem and res2 as they are."""
    backbone = model.backbone
    if start is None:
        norm = "bn" if given.train.batch >= SMALL_BATCH else "gn"
        return replace(model, backbone=replace(backbone, norm=norm, freeze_at=0))
    norm = "frozen_bn" if backbone.norm == "bn" else backbone.norm
    return replace(model, backbone=replace(backbone, norm=norm, freeze_at=2))


def _of_data(model: ModelConfig, train: Dataset) -> ModelConfig:
    """As many classes as the data has, and keypoints where they are wanted."""
    keypoint = model.keypoint_head
    if keypoint.enabled:
        keypoint = replace(keypoint, num_keypoints=train.num_keypoints)
    return replace(model, classes=len(train.categories), keypoint_head=keypoint)


def _slots(model: ModelConfig, most: int) -> ModelConfig:
    """Room for 1.5 times the most objects of a training image, rounded up to hundreds, and three proposals for each."""
    detections = max(100, math.ceil(1.5 * most / 100) * 100)
    rpn = model.rpn
    train, test = max(rpn.post_nms_train, 3 * detections), max(rpn.post_nms_test, 3 * detections)
    rpn = replace(
        rpn,
        post_nms_train=train,
        post_nms_test=test,
        pre_nms_train=max(rpn.pre_nms_train, train),
        pre_nms_test=max(rpn.pre_nms_test, test),
    )
    return replace(model, rpn=rpn, box_head=replace(model.box_head, max_detections=detections))


def _read(
    data: str | Path, *, val: str | Path | None, images: str | Path | None, strict: bool, keypoints: bool, seed: int
) -> tuple[Dataset, Dataset | None]:
    """The images to train on and those to evaluate on, with one set of labels."""
    train_json, val_json = find_splits(data, val, keypoints=keypoints)
    train = read_dataset(train_json, images, strict=strict, keypoints=keypoints)
    if val_json is not None:
        return train, match_categories(train, read_dataset(val_json, images, strict=strict, keypoints=keypoints))
    if len(train) < 2:
        return train, None
    kept, held = hold_out(train, 0.1, seed)
    return train.subset(kept), train.subset(held)


# --- words -----------------------------------------------------------------------------------------------------------


def _introduction(plan: Plan, among: Ranks) -> list[str]:
    model, train = plan.config.model, plan.config.train
    step = train.batch * train.accumulate * among.world
    lines = [f"train: {_contents(plan.train)}", *_problems(plan.train)]
    if plan.val is None:
        lines.append("val: none; nothing is evaluated")
    elif plan.val.source == plan.train.source:
        lines.append(f"val: {_contents(plan.val)}, held out of it, listed in {plan.out / 'held_out.json'}")
    else:
        lines += [f"val: {_contents(plan.val)}", *_problems(plan.val)]
    lines += [
        f"keypoints of {c.name}: {len(c.keypoints)}, {len(c.flip_pairs)} pairs of them exchanged by a mirror, "
        f"sigma {min(c.sigmas):g} to {max(c.sigmas):g}"
        for c in plan.train.categories
        if c.keypoints
    ]
    most = int(plan.train.annotation_counts.max())
    lines.append(
        f"slots: at most {most} objects in a training image, so {model.box_head.max_detections} detections, "
        f"{model.rpn.post_nms_train} proposals in training and {model.rpn.post_nms_test} after"
    )
    lines.append(
        f"model: {model.name}, norm {model.backbone.norm}, {plan.precision} on {among.device}, {step} images a step "
        f"({train.batch} x {train.accumulate} x {among.world}), lr {train.lr:g} per 16 images: "
        f"{scaled_rate(train, step):.4g}"
    )
    lines.append(_length(train, max(1, math.ceil(train.epochs * len(plan.train) / step))))
    if plan.start is None:
        lines.append("from scratch; --weights with a trained checkpoint needs fewer images and less time")
    if model.backbone.norm == "bn" and among.world > 1 and among.device.type == "cpu":
        lines.append("batch norms see one rank's images each: torch cannot synchronise them on CPUs")
    return lines


def _length(train: TrainConfig, steps: int) -> str:
    drops = " and ".join(str(math.ceil(fraction * steps)) for fraction in train.milestones if fraction < 1)
    falls = f"; the rate drops after {drops}" if train.schedule == "step" and drops else ""
    return f"schedule: {train.schedule}, {train.epochs:g} epochs, {steps} steps{falls}"


def _contents(data: Dataset) -> str:
    names = ", ".join(category.name for category in data.categories[:8])
    more = ", ..." if len(data.categories) > 8 else ""
    counts = data.annotation_counts
    return (
        f"{len(data)} images ({int((counts == 0).sum())} without objects), {int(counts.sum())} objects, {names}{more}"
    )


def _problems(data: Dataset) -> list[str]:
    return [f"  {line}" for line in data.report.lines(LISTED)]


def _name(data: Path) -> str:
    return data.stem if data.is_file() else data.resolve().name
