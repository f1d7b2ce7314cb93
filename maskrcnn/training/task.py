"""What a run trains and how it is judged: the model with its first weights, batches, the loss, metrics, checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import __version__
from ..categories import Category
from ..data.dataset import Dataset
from ..data.loader import EvalLoader, TrainLoader
from ..engine import Engine
from ..evaluation.operating import chosen_thresholds
from ..evaluation.run import Measured, detect_in_tiles, detect_rows, measure, plan_tilings
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..structures import GroundTruth, Images, Losses
from ..thresholds import Thresholds
from ..weights.checkpoint import Checkpoint, adopt, save_checkpoint, widen_stem
from ..weights.interop.rows import carry_rows
from .run import Run

Inputs: TypeAlias = tuple[Any, ...]  # what a task's `forward` takes: bundles of tensors


class Task(nn.Module):
    """All branches of a model, trained together (approximate joint training). `forward` is the loss.

    The stages of `two_stage.py` train parts of a model: they replace the loss, the batches or the metric.
    """

    def __init__(self, run: Run, model: MaskRCNN) -> None:
        super().__init__()
        self.run, self.model = run, model
        config = run.config
        augment, seed = config.train.augment, config.train.seed
        reading = {**_reading(run), "transform": run.transform}
        self.loader = TrainLoader(run.train_data, config.model, augment, seed=seed, **reading)
        val, gt = run.val_data, config.train.validation_loss
        self.tilings = {} if val is None else plan_tilings(val, config.model.input)  # of large validation images
        whole = [] if val is None else [i for i in range(len(val)) if i not in self.tilings]
        self.val_loader = eval_loader(run, val.subset(whole), gt=gt) if val is not None and whole else None
        self.measured: Measured | None = None  # by the last evaluation, on the first rank
        self.best: Measured | None = None  # the best of them since the run was started or resumed
        self.thresholds: Thresholds = ()  # of the weights as they are now, if they were evaluated; on the first rank
        self.unread_tiled: dict[int, str] = {}  # by image id: why an image in tiles could not be read

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """This rank's micro-batches of an epoch from number `start` on: what `forward` takes, and the image ids."""
        for batch in self.loader.batches(epoch, start):
            yield (batch.images, batch.gt), batch.image_ids

    def forward(self, images: Images, gt: GroundTruth) -> Losses:
        """The terms of the loss."""
        return self.model.loss(images, gt)

    def val_batches(self) -> Iterator[Inputs]:
        """This rank's batches of validation images, as `forward` takes them; not of those in tiles."""
        for batch in self.val_loader or ():
            yield batch.images, batch.gt

    def evaluate(self) -> Mapping[str, Any]:
        """The metrics of the model as it is now on all validation images, the same on every rank."""
        run, ranks = self.run, self.run.ranks
        assert run.val_data is not None
        engine = Engine.of(self.model, run.train_data.categories, run.precision)
        rows = [] if self.val_loader is None else detect_rows(engine, self.val_loader)
        mine = {i: self.tilings[i] for i in list(self.tilings)[ranks.rank :: ranks.world]}
        rows += detect_in_tiles(engine, run.val_data, mine, self.unread_tiled, batch=run.config.train.batch)
        shares = ranks.gather(rows)  # None on the other ranks
        every = shares and chain.from_iterable(shares)
        if every is not None:
            self.measured = measure(engine, run.val_data, every, raised=bool(self.tilings))
            self.thresholds = chosen_thresholds(
                self.measured.judgement, run.val_data.categories, run.train_data.categories
            )
        return ranks.from_first(every and self.measured and self.measured.metrics)

    def write(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """Writes the model as it is now as a checkpoint."""
        run = self.run
        origin = {"data": run.train_data.fingerprint, "seed": run.config.train.seed, "release": __version__}
        if run.start is not None:  # its licence may bind the new weights
            origin["start"] = {"weights": Path(str(run.weights)).name, **run.start.provenance}
        if run.parts.names:
            origin["parts"] = run.parts.names
        origin, categories = {**origin, **provenance}, run.train_data.categories
        save_checkpoint(path, Checkpoint(run.config.model, categories, dict(self.tensors()), origin, self.thresholds))

    def tensors(self) -> Mapping[str, Tensor]:
        """What a checkpoint holds of the model."""
        return self.model.state_dict()

    def unread(self) -> int:
        """How many of the images used so far could not be read."""
        loaders = [loader for loader in (self.loader, self.val_loader) if loader is not None]
        problems = [*(loader.problems for loader in loaders), self.unread_tiled]
        return len({reason for each in problems for reason in each.values()})


def eval_loader(run: Run, data: Dataset, *, gt: bool = False) -> EvalLoader:
    """This rank's share of a data set's images, as the model sees them in prediction."""
    return EvalLoader(data, run.config.model, gt=gt, **_reading(run))


def _reading(run: Run) -> dict[str, Any]:
    """What both loaders need to know."""
    ranks = run.ranks
    return {
        "batch": run.config.train.batch,
        "rank": ranks.rank,
        "world": ranks.world,
        "workers": run.config.train.workers,
        "strict": run.strict,
        "pin_memory": ranks.device.type == "cuda",
    }


# --- the first weights -----------------------------------------------------------------------------------------------


def build_model(run: Run) -> MaskRCNN:
    """The model on its device, with weights drawn from the run's seed and those of the start checkpoint that fit.

    Raises `CheckpointError` with a table if the checkpoint has another backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.train.seed)
        model = build(run.config.model, parts=run.parts)
    if run.start is not None:
        known = run.start.provenance.get("parts", {})
        run.parts.require({part: name for part, name in known.items() if part == "backbone"}, run.weights)
        own = rpn_tensors(run.start.state) if run.config.model.rpn.features == "own" else {}
        start = run.start._replace(state={**run.start.state, **own})
        run.ranks.say(start_from(model, start, run.train_data.categories, str(run.weights)))
    return model.to(run.ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def start_from(model: nn.Module, start: Checkpoint, categories: Sequence[Category], source: str) -> str:
    """Copies from a checkpoint the rows of classes with the same name, and every other tensor that fits.

    `categories` are the model's. Returns one sentence that says what was kept and what is new.
    """
    reverse = start.config.input.channel_order == "bgr"
    state, widened = widen_stem(model, start.state, reverse=reverse)
    state, kept = carry_rows(state, model.state_dict(), start.categories, categories)
    fresh = adopt(model, state, source)
    total = len(model.state_dict())
    classes = f"; {_classes(kept, [category.name for category in categories])}" if start.categories else ""
    new = f"; new: {_listed(fresh)}" if fresh else ""
    first = f"; {widened}" if widened else ""
    return f"start: {source}, {total - len(fresh)} of {total} tensors{classes}{new}{first}"


def rpn_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an RPN with features of its own, out of any model's: shared features are taken as its own."""
    own = {name: tensor for name, tensor in state.items() if name.startswith("rpn.")}
    if any(name.startswith("rpn.features.") for name in own):
        return own
    shared = ((name, tensor) for name, tensor in state.items() if name.startswith(("backbone.", "neck.")))
    return own | {f"rpn.features.{name}": tensor for name, tensor in shared}


def _classes(kept: Sequence[str], names: Sequence[str]) -> str:
    if len(kept) == len(names):
        return f"all {len(names)} classes keep their rows"
    new = _listed([name for name in names if name not in set(kept)])
    if not kept:
        return f"no class has a name that the checkpoint knows, so the rows of all classes are new ({new})"
    return f"{len(kept)} of {len(names)} classes keep their rows ({_listed(kept)}), those of {new} are new"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
