"""Recipes: the settings of a training that its user did not choose, each with its reason.

A rule is a pure function of what the data set is like (`data/statistics.py`), the machine, the start weights and the
settings decided so far. The user's own settings are laid over them after every rule, so a rule also follows from these.
The numbers are those of `benchmarks/real_images.py`, found by training from scratch on two cores, on nuclei and on
photographs of people; what holds for GPUs and for weights is the field's common practice.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ..config import Config, ModelConfig, flat, merged, override, preset, to_dict
from ..data.dataset import Dataset
from ..data.statistics import Statistics, measure
from ..errors import ConfigError
from .optim import schedule_settings
from .pixels import settle_pixels

RECIPES = ("auto", "scratch", "finetune", "paper")
SMALL_BATCH = 4  # images per rank below which batch statistics are too noisy, so that group norm is the default

_FINE = 16.0  # canvas pixels that nine objects of ten should have: four cells of the finest map
_MIN_SIZES = (256, 320, 384, 448, 512, 576, 640, 704, 768, 800)
_ANCHORS = sorted(base * 2.0**octave for base in (8, 10, 12) for octave in range(-1, 8))
_EVALUATIONS = 6  # of a run


@dataclass(frozen=True)
class Machine:
    """What trains."""

    gpu: bool
    cores: int  # that this process may use

    @property
    def crop(self) -> int:
        """Side of the crops that it trains on, canvas pixels, unless objects need more."""
        return 640 if self.gpu else 320


Weights = Literal["none", "backbone", "model"]  # what the training starts from


class Asked(NamedTuple):
    """What the user chose: they win over every recipe, and `settings` over the `schedule`, and that over the `file`."""

    file: Mapping[str, Any] = {}  # the tree of `--config`
    schedule: str | None = None
    settings: Sequence[str] = ()

    def over(self, config: Config) -> Config:
        """`config` with what the user chose laid over it. Raises `ConfigError` as `override` does."""
        config = merged(config, self.file)
        shape = [] if self.schedule is None else schedule_settings(self.schedule, override(config, self.settings).model)
        return override(config, [*shape, *self.settings])

    @property
    def names(self) -> set[str]:
        """The dotted names of what the user chose one by one."""
        shape = [] if self.schedule is None else schedule_settings(self.schedule, ModelConfig())
        return {*flat(self.file), *(setting.partition("=")[0].strip() for setting in (*shape, *self.settings))}


class Choice(NamedTuple):
    """What a rule sets, by dotted names, and the reason in a few words."""

    about: str
    settings: dict[str, Any]
    reason: str


class Situation(NamedTuple):
    """What a rule may look at."""

    seen: Statistics
    config: Config
    machine: Machine
    weights: Weights

    @property
    def scale(self) -> float:
        """Canvas pixels per pixel of an image of median size."""
        rule = self.config.model.input
        return rule.min_size / self.seen.short_side if rule.min_size else rule.zoom

    def on_canvas(self, quantile: str) -> float:
        """A quantile of the objects' sizes, canvas pixels."""
        rule = self.config.model.input
        if rule.min_size:
            return rule.min_size * getattr(self.seen.shares, quantile)
        return rule.zoom * getattr(self.seen.sizes, quantile)


Rule = Callable[[Situation], Choice | None]


def name_recipe(wanted: str | None, weights: Weights, *, staged: bool = False) -> tuple[str, str]:
    """The recipe and the reason for it. Raises `ConfigError` for an unknown one."""
    if wanted not in (None, *RECIPES):
        raise ConfigError(f"there is no recipe {wanted!r}; there are {', '.join(RECIPES)}")
    if wanted not in (None, "auto"):
        return str(wanted), "as asked"
    if staged:
        return "paper", "because training in stages repeats the paper's experiments"
    if weights == "none":
        return "scratch", "because no --weights are given; with trained weights fewer images and less time are enough"
    return "finetune", "because --weights are given"


def name_model(machine: Machine) -> tuple[str, str]:
    """The model if neither `--model` nor weights say it, and the reason."""
    if machine.gpu:
        return "R-50-FPN", "the paper's model, as there is a GPU"
    return "R-18-FPN", "a small one, as there is no GPU"


def choose(
    recipe: str, seen: Statistics, base: Config, asked: Asked, machine: Machine, weights: Weights
) -> tuple[Config, list[str]]:
    """All settings, and a line for each choice: the settings that it changed, as `--set` takes them, and the reason.

    What the user asked for is in no line.
    """
    config, lines = asked.over(base), []
    for rule in RULES[recipe]:
        choice = rule(Situation(seen, config, machine, weights))
        if choice is None:
            continue
        before = config
        config = asked.over(override(before, _assignments(choice.settings)))
        was = flat(to_dict(before))
        left = {k: v for k, v in choice.settings.items() if k not in asked.names and v != was[k]}
        if left:
            lines.append(f"  {choice.about}: {' '.join(_assignments(left))} ({choice.reason})")
    return config, lines


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in settings.items())
    return [f"{name}={text.replace(' ', '')}" for name, text in texts]


# --- what every recipe decides -----------------------------------------------------------------------------------


def norms(now: Situation) -> Choice:
    """From scratch norms are live and nothing is frozen; with weights the norms, the stem and res2 are frozen."""
    model = now.config.model
    if now.weights == "none":
        norm = "bn" if now.config.train.batch >= SMALL_BATCH else "gn"
        few = f"{SMALL_BATCH} or more" if norm == "bn" else f"fewer than {SMALL_BATCH}"
        reason = f"nothing is trained yet; a batch has {few} images"
        return Choice("norms", {"model.backbone.norm": norm, "model.backbone.freeze_at": 0}, reason)
    norm = "frozen_bn" if model.backbone.norm == "bn" else model.backbone.norm
    reason = "the weights have learned them"
    return Choice("norms", {"model.backbone.norm": norm, "model.backbone.freeze_at": 2}, reason)


def slots(now: Situation) -> Choice:
    """Room for 1.5 times the most objects of a training image, rounded up to hundreds, and three proposals for each."""
    rpn, most = now.config.model.rpn, now.seen.most
    detections = max(100, math.ceil(1.5 * most / 100) * 100)
    settings: dict[str, Any] = {"model.box_head.max_detections": detections}
    few = now.config.train.augment.crop and not now.machine.gpu  # then `fewer_rois` decides on training
    for when in ("test",) if few else ("train", "test"):
        after = max(getattr(rpn, f"post_nms_{when}"), 3 * detections)
        settings[f"model.rpn.post_nms_{when}"] = after
        settings[f"model.rpn.pre_nms_{when}"] = max(getattr(rpn, f"pre_nms_{when}"), after)
    return Choice("slots", settings, f"at most {most} objects in a training image")


def workers(now: Situation) -> Choice:
    machine = now.machine
    if machine.gpu:
        return Choice("workers", {"train.workers": min(8, max(1, machine.cores - 1))}, "they read for the GPU")
    if machine.cores <= 4:
        return Choice("workers", {"train.workers": 0}, f"training needs all of {machine.cores} cores")
    return Choice("workers", {"train.workers": 2}, f"{machine.cores} cores")


# --- from scratch ------------------------------------------------------------------------------------------------


def adamw(now: Situation) -> Choice:
    settings = {"train.optimizer": "adamw", "train.lr": 0.006, "train.weight_decay": 0.05}
    settings |= {"train.schedule": "cosine", "train.ema": 0.995}
    return Choice("optimiser", settings, "SGD needs many more steps from random weights")


def batch(now: Situation) -> Choice:
    if now.machine.gpu:
        return Choice("batch", {"train.batch": 8}, "a GPU has room for it")
    return Choice("batch", {"train.batch": SMALL_BATCH}, "the fewest images that batch norm can do with")


def more_norms(now: Situation) -> Choice:
    model = now.config.model
    norm = model.backbone.norm
    parts = {"fpn": model.backbone.features == "fpn", "mask_head": model.mask_head.enabled}
    parts |= {"keypoint_head": model.keypoint_head.enabled}
    settings = {f"model.{part}.norm": norm for part, there in parts.items() if there and norm in ("bn", "gn")}
    return Choice("more norms", settings, "random weights learn faster with norms in the neck and the heads, too")


def box_loss(now: Situation) -> Choice:
    return Choice("box loss", {"model.box_head.smooth_l1_beta": 0.1}, "close to L1, for tighter boxes early")


def anchors(now: Situation) -> Choice | None:
    """Sizes an octave apart. The largest meets the 99 % quantile of the objects with a fifth to spare for jitter; if
    the smallest objects are then far below the smallest anchor, the anchors are centred on the objects instead.
    """
    if not now.seen.objects:
        return None
    levels = now.config.model.anchors.sizes
    steps = sum(len(level) for level in levels) - 1
    small, large = now.on_canvas("q5"), now.on_canvas("q99")
    base = next((size for size in _ANCHORS if size * 2**steps >= 1.2 * large), _ANCHORS[-1])
    if base > 1.5 * small:
        base = min(_ANCHORS, key=lambda size: abs(math.log(size / (math.sqrt(small * large) / 2 ** (steps / 2)))))
    flat_sizes = iter(base * 2**step for step in range(steps + 1))
    sizes = [[_short(next(flat_sizes)) for _ in level] for level in levels]
    reason = f"nine objects of ten have {small:.0f} to {now.on_canvas('q95'):.0f} pixels on the canvas"
    return Choice("anchors", {"model.anchors.sizes": sizes}, reason)


def ratios(now: Situation) -> Choice | None:
    """The usual ones suit objects that are about as wide as tall, or turned any way."""
    low, median, high = now.seen.ratios.q25, now.seen.ratios.q50, now.seen.ratios.q75
    if not (now.seen.objects and now.seen.up_matters) or abs(math.log2(median)) < 0.8:
        return None
    most = min(round(2 * (high if median > 1 else 1 / low)) / 2, 4.0)
    found = [1.0, (1 + most) / 2, most]
    if median < 1:
        found = [round(1 / ratio, 3) for ratio in reversed(found)]
    reason = f"half of the objects have a height / width of {low:.1f} to {high:.1f}"
    return Choice("ratios", {"model.anchors.ratios": [_short(ratio) for ratio in found]}, reason)


def image_size(now: Situation) -> Choice | None:
    """Photographs get one shorter side, since objects are as large as they are near. Images in which up means nothing
    come from microscopes or from above: their scale is fixed, so all are resized by one factor.

    So are objects that would need a shorter side of more than 800 pixels: training sees crops, and prediction tiles.
    Either is as small as nine objects of ten allow. With a trained RPN that is its smallest anchor over sqrt(2).
    """
    seen, machine, model = now.seen, now.machine, now.config.model
    trained = now.weights == "model"
    if not seen.objects or (trained and not model.input.min_size and seen.up_matters):
        return None
    fine = max(_FINE, min(map(min, model.anchors.sizes)) / math.sqrt(2)) if trained else _FINE
    if not seen.up_matters or fine / seen.shares.q10 > _MIN_SIZES[-1]:
        zoom = min(fine / seen.sizes.q10, machine.crop / 2 / seen.sizes.q95)
        zoom = round(min(max(2.0 ** (round(2 * math.log2(zoom)) / 2), 0.125), 4.0), 2)
        why = "they are small in large images" if seen.up_matters else "up is not special"
        reason = f"one scale, as {why}; nine objects of ten have {seen.sizes.q10:.0f} pixels or more"
        settings = {"model.input.min_size": 0, "model.input.zoom": _short(zoom), "model.input.max_size": 4096}
        return Choice("image size", settings, f"{reason}, {seen.sizes.q10 * zoom:.0f} on the canvas")
    least = _least_side(now)
    side = next((size for size in _MIN_SIZES if size >= max(least, fine / seen.shares.q10)), max(least, _MIN_SIZES[-1]))
    settings = {
        "model.input.min_size": side,
        "model.input.max_size": min(side * max(2, math.ceil(seen.elongation)), 4096),
    }
    return Choice(
        "image size", settings, f"nine objects of ten have {seen.shares.q10 * side:.0f} pixels or more on the canvas"
    )


def _least_side(now: Situation) -> int:
    """The shorter side of photographs whose objects need no more."""
    if now.weights == "none":
        return 512 if now.machine.gpu else 256
    usual, own = 800 if now.machine.gpu else 448, now.config.model.input.min_size
    return min(usual, own) if now.weights == "model" and own else usual


def crop(now: Situation) -> Choice | None:
    """Crops bound the time of a step and give all images one canvas. They are no larger than the images."""
    seen, machine = now.seen, now.machine
    if not seen.objects or (now.weights != "none" and now.config.model.input.min_size):
        return None
    need = max(machine.crop, 32 * math.ceil(2 * now.on_canvas("q95") / 32))
    side = min(max(64, 32 * round(seen.side * now.scale / 32)), need)
    settings = {"train.augment.crop": side, "train.augment.scale": [0.8, 1.3] if seen.up_matters else [0.7, 1.4]}
    return Choice("crop", settings, f"an image has about {seen.side * now.scale:.0f} pixels a side on the canvas")


def turns(now: Situation) -> Choice | None:
    """Mirrors and quarter turns, if they change nothing that matters."""
    seen = now.seen
    if seen.up_matters:
        return None
    share, boxes = seen.upright_by_pixels or 0.0, seen.upright_by_boxes or 0.0
    settings = {"train.augment.vertical_flip": 0.5, "train.augment.rotate90": True}
    reason = f"up is not special: the other images tell it in {share:.0%} of {seen.judged[0]} images, chance is 25%"
    return Choice("turns", settings, f"{reason}; box shapes in {boxes:.0%}, chance is 50%")


def colours(now: Situation) -> Choice:
    seen = now.seen
    strength = 0.3 if seen.up_matters else 0.2
    settings = {"train.augment.brightness": strength, "train.augment.contrast": strength}
    if seen.up_matters:
        settings["train.augment.saturation"] = strength
        return Choice("colours", settings, "as of photographs in other light")
    return Choice("colours", settings, "the colour itself is kept: it may be a stain")


def fewer_rois(now: Situation) -> Choice | None:
    """Only as many proposals and samples as a crop can use: they cost a CPU most of a step."""
    if now.machine.gpu or not now.config.train.augment.crop:
        return None
    side = now.config.train.augment.crop
    part = min(1.0, side**2 / (now.seen.mean_area * now.scale**2))
    objects = now.seen.objects / now.seen.images * part
    samples = min(max(64, 32 * round((64 + 4 * objects) / 32)), 256)
    proposals = max(round(5 * samples, -2), 300)
    settings = {"model.rpn.pre_nms_train": max(1000, proposals), "model.rpn.post_nms_train": proposals}
    settings["model.box_head.samples"] = samples
    return Choice("samples", settings, f"a crop shows {objects:.0f} objects in the mean")


def scratch_epochs(now: Situation) -> Choice:
    """The passes grow more slowly than the images shrink: 400 images took 1600 steps of 4, 120 images 960. A GPU makes
    three times as many.
    """
    times, least = (3, 36) if now.machine.gpu else (1, 6)
    return _epochs(now, times * 16 * (400 / now.seen.images) ** 0.575, least)


def _epochs(now: Situation, epochs: float, least: int) -> Choice:
    found = min(max(round(epochs), least), 500)
    return Choice("epochs", {"train.epochs": found}, f"for {now.seen.images} training images")


def evaluations(now: Situation) -> Choice:
    """Half of a run without a better evaluation ends it."""
    every = _short(round(max(now.config.train.epochs / _EVALUATIONS, 1.0), 2))
    reason = f"{_EVALUATIONS} evaluations at most; three in a row without improvement end the run"
    return Choice("evaluation", {"train.evaluate_every": every, "train.patience": 3}, reason)


def _short(value: float) -> float | int:
    """Whole numbers without a point."""
    return int(value) if value == int(value) else value


# --- with weights ------------------------------------------------------------------------------------------------


def gentle(now: Situation) -> Choice:
    return Choice("optimiser", {"train.schedule": "cosine"}, "SGD, as the weights were trained")


def fine_batch(now: Situation) -> Choice:
    return Choice("batch", {"train.batch": 4 if now.machine.gpu else 2}, "norms are frozen, so few images are enough")


def fine_epochs(now: Situation) -> Choice:
    """Half as many on a CPU; twice as many if only the backbone is trained."""
    times, least = (2, 12) if now.machine.gpu else (1, 4)
    times *= 2 if now.weights == "backbone" else 1
    return _epochs(
        now, times * 6 * (1000 / now.seen.images) ** 0.5, least * (times if now.weights == "backbone" else 1)
    )


def new_anchors(now: Situation) -> Choice | None:
    return anchors(now) if now.weights == "backbone" else None


def new_ratios(now: Situation) -> Choice | None:
    return ratios(now) if now.weights == "backbone" else None


def fine_scale(now: Situation) -> Choice | None:
    if now.config.train.augment.crop:
        return None  # `crop` has chosen it
    return Choice("scale", {"train.augment.scale": [0.8, 1.25]}, "objects nearer and farther than in the images")


# --- the paper ---------------------------------------------------------------------------------------------------


def papers_schedule(now: Situation) -> Choice:
    pairs = (setting.partition("=")[::2] for setting in schedule_settings("paper", now.config.model))
    settings = {name: value if name.endswith("schedule") else json.loads(value) for name, value in pairs}
    return Choice("schedule", settings, "section 3.1")


RULES: dict[str, tuple[Rule, ...]] = {
    "scratch": (
        adamw, batch, norms, more_norms, image_size, anchors, ratios, box_loss, turns, crop, colours, slots, fewer_rois,
        scratch_epochs, evaluations, workers,
    ),
    "finetune": (
        gentle, fine_batch, norms, image_size, new_anchors, new_ratios, turns, crop, fine_scale, slots, fine_epochs,
        evaluations, workers,
    ),
    "paper": (norms, slots, papers_schedule),
}  # fmt: skip


def weights_of(state: Mapping[str, Any] | None) -> Weights:
    """What the tensors of a start checkpoint are; None for no checkpoint."""
    if state is None:
        return "none"
    return "model" if any(name.startswith("rpn.") for name in state) else "backbone"


def preview(dataset: Dataset, settings: Sequence[str], *, model: str | None, gpu: bool) -> tuple[Config, list[str]]:
    """What `train` would choose for a data set from scratch, and the lines that it would print."""
    machine, asked = Machine(gpu, cores()), Asked(settings=settings)
    name, why = (model, "as asked") if model is not None else name_model(machine)
    base = Config(model=preset(name))
    if not len(dataset):
        return asked.over(base), []
    dataset = replace(dataset, page=asked.over(base).model.input.page or None)
    base, pixels = settle_pixels(base, asked.over(base), asked.names, dataset)
    seen = measure(dataset, asked.over(base).model.input.channels)
    config, lines = choose("scratch", seen, base, asked, machine, "none")
    return config, [f"model: {name} ({why})", *lines, *([pixels] if pixels else [])]
