"""The one way from images to results: an `Engine` runs a `Backend`. Only training builds and restores models itself.

Prediction, evaluation and proposals run an engine, which prepares the model. The prepared PyTorch model is itself a
backend; another one needs `detect` and the three properties of `Backend`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from .accelerate.prepare import prepare
from .canvas import boxes_to_image, prepare_views
from .categories import Category, flip_pairs
from .config import TTA, BoxHeadConfig, ModelConfig, RPNConfig
from .device import DTYPES, Precision, arithmetic, choose_device, choose_precision, to_device
from .errors import ConfigError
from .model.build import build
from .model.mask_rcnn import MaskRCNN
from .model.parts import USUAL, Parts, without_losses
from .model.tta import Views
from .ops import ahead
from .results import Result, from_detections
from .structures import Detections, Images, Proposals
from .thresholds import Thresholds
from .weights.checkpoint import restore
from .weights.read import read_checkpoint


@runtime_checkable
class Backend(Protocol):
    """What turns a batch of images into detections."""

    @property
    def device(self) -> torch.device:
        """The device on which it expects images."""
        ...

    @property
    def precision(self) -> Precision:
        """The precision in which it computes."""
        ...

    @property
    def views(self) -> TTA:
        """The sizes at which it expects each image; `Images.views` holds all but the first."""
        ...

    def detect(self, images: Images, proposals: Proposals | None = None) -> Detections:
        """What it finds, on the canvas. Given proposals take the place of its own; a backend may refuse them."""
        ...


class Opened(NamedTuple):
    """A checkpoint as it is used."""

    model: MaskRCNN
    categories: tuple[Category, ...]
    thresholds: Thresholds


def open_model(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    parts: Parts = USUAL,
) -> Opened:
    """The model in a checkpoint of any origin (see `maskrcnn.load`), on its device, its categories and thresholds."""
    checkpoint = read_checkpoint(source, settings=settings, classes=classes)
    parts.require(checkpoint.provenance.get("parts", {}), source)
    target = choose_device(device)
    _compile_ahead(choose_precision("auto", target, checkpoint.config.profile), target)
    model = build(checkpoint.config, draw=False, parts=parts)
    restore(model, without_losses(checkpoint.state), source)
    return Opened(model.to(target).eval(), checkpoint.categories, checkpoint.thresholds)


@dataclass(frozen=True)
class Engine:
    """A backend, the config of its model, and the categories of its labels 0..K-1."""

    backend: Backend
    config: ModelConfig
    categories: tuple[Category, ...]
    thresholds: Thresholds = ()  # the least score of each class in a result; empty: all that the backend finds
    # What tiles are seen with, if not `backend`: it also finds what lies below the thresholds, because a part of an
    # object may score less than the whole.
    for_tiles: Backend | None = None

    @classmethod
    def of(
        cls, model: MaskRCNN, categories: Sequence[Category], precision: str = "auto", *, tta: TTA | bool = False
    ) -> "Engine":
        """An engine over a prepared copy of `model`, which stays as it is. `tta`: True for the paper's views."""
        chosen = choose_precision(precision, model.device, model.config.profile)
        _compile_ahead(chosen, model.device)
        prepared = prepare(model, chosen)
        ahead.wait()
        return cls(prepared, model.config, tuple(categories)).seeing(tta)

    def seeing(self, tta: TTA | bool) -> "Engine":
        """An engine that sees each image in these views. Raises `ConfigError` for a backend other than PyTorch's."""
        if tta is False:
            return self
        views, pairs = TTA() if tta is True else tta, flip_pairs(self.categories)
        for_tiles = None if self.for_tiles is None else Views(self._model("", self.for_tiles), views, pairs)
        return replace(self, backend=Views(self._model("test-time augmentation"), views, pairs), for_tiles=for_tiles)

    def limited(
        self, score_threshold: float | Sequence[float] | None = None, max_detections: int | None = None
    ) -> "Engine":
        """An engine with other limits of what it returns; None leaves one as it is. There are never fewer proposals
        than detections.

        A threshold is the least score of all classes, or there is one for each. `max_detections` count after it: what
        is below takes no place.

        Raises `ConfigError` for a threshold outside 0..1, for fewer than one detection, and for a backend other than
        PyTorch's.
        """
        box, rpn = self.config.box_head, self.config.rpn
        if max_detections is not None:
            if max_detections < 1:
                raise ConfigError(f"max_detections must be at least 1; it is {max_detections}")
            box = replace(box, max_detections=max_detections)
            if max_detections > rpn.post_nms_test:
                most = max(rpn.pre_nms_test, max_detections)
                rpn = replace(rpn, post_nms_test=max_detections, pre_nms_test=most)
        if score_threshold is None:
            return self if (box, rpn) == (self.config.box_head, self.config.rpn) else self._with(box, rpn)
        given = np.asarray(score_threshold, dtype=np.float64)
        if not ((given >= 0) & (given <= 1)).all():
            raise ConfigError(f"score_threshold must be between 0 and 1; it is {score_threshold}")
        thresholds = tuple(np.broadcast_to(given, len(self.categories)).tolist())
        lowest = min(thresholds) * (1 - 1e-6)  # the model wants more than its setting, not as much
        limited = replace(self, thresholds=thresholds)._with(replace(box, score_threshold=lowest), rpn)
        below = replace(box, score_threshold=min(lowest, box.score_threshold))
        if below.score_threshold == lowest:
            return limited
        return replace(limited, for_tiles=limited._with(below, rpn).backend)

    def above(self, result: Result) -> Result:
        """The objects of a result that reach the threshold of their class."""
        if not self.thresholds:
            return result
        ids = (category.id for category in self.categories)
        least = dict(zip(ids, self.thresholds, strict=True))
        wanted = np.array([least[label] for label in result.labels.tolist()], dtype=np.float64)
        return replace(result.select(result.scores >= wanted), thresholds=self.thresholds)

    def prepare(self, array: np.ndarray) -> Images:
        """An image, uint8 [h w I], as a batch of one on its canvas. `canvas.join` makes larger ones."""
        return prepare_views(array, self.config.input, self.backend.views)

    def results(
        self,
        images: Images,
        paths: Sequence[Path | None] | None = None,
        *,
        originals: Sequence[np.ndarray | None] | None = None,
        image_ids: Sequence[int | str] | None = None,
    ) -> list[Result]:
        """One `Result` for each image of a batch; the other arguments are as in `from_detections`."""
        backend = self.backend
        with torch.inference_mode(), arithmetic(backend.precision, backend.device):
            found = backend.detect(to_device(images, backend.device))
        results = from_detections(
            found, images, self.config, self.categories, paths, originals=originals, image_ids=image_ids
        )
        return [self.above(result) for result in results]

    def propose(self, images: Images, *, training: bool = False) -> Proposals:
        """The RPN's boxes, in pixels of the original images, as many as a training step or a detection takes.

        Raises `ConfigError` for a backend other than PyTorch's.
        """
        model = self._model("proposals")
        with torch.inference_mode(), arithmetic(model.precision, model.device):
            images = to_device(images, model.device)
            found = model.propose(images, training=training)
        return found._replace(boxes=boxes_to_image(found.boxes, images))  # scaled alone: they are scaled back to train

    def _with(self, box: BoxHeadConfig, rpn: RPNConfig) -> "Engine":
        """This engine with other settings of the box head and the RPN, and its thresholds."""
        model = copy.copy(self._model("another score_threshold or max_detections"))  # all but these is shared
        model.config = replace(self.config, box_head=box, rpn=rpn)
        if len(set(self.thresholds)) > 1:
            model.thresholds = torch.tensor(self.thresholds, device=model.device)
        return replace(self, backend=model, config=model.config)

    def _model(self, wish: str, backend: Backend | None = None) -> Any:
        backend = backend or self.backend
        if not isinstance(backend, MaskRCNN):
            raise ConfigError(f"only a plain PyTorch model can do this: {wish}; this one is {type(backend).__name__}")
        return backend


def _compile_ahead(precision: Precision, device: torch.device) -> None:
    """While the weights are read and prepared, on a machine that never predicted before."""
    if device.type == "cpu" and precision != "fp16":
        ahead.start(DTYPES[precision])
