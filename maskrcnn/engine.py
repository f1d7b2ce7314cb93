"""The one way from images to results: an `Engine` runs a `Backend`. Only training builds and restores models itself.

Prediction, evaluation and proposals run an engine, which prepares the model. The prepared PyTorch model is itself a
backend; another one needs `detect` and the three properties of `Backend`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from .accelerate.prepare import prepare
from .canvas import boxes_to_image, prepare_views
from .categories import Category, flip_pairs
from .config import TTA, ModelConfig
from .device import DTYPES, Precision, arithmetic, choose_device, choose_precision, to_device
from .errors import ConfigError
from .model.build import build
from .model.mask_rcnn import MaskRCNN
from .model.parts import USUAL, Parts, without_losses
from .model.tta import Views
from .ops import ahead
from .results import Result, from_detections
from .structures import Detections, Images, Proposals
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


def open_model(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    parts: Parts = USUAL,
) -> tuple[MaskRCNN, tuple[Category, ...]]:
    """The model in a checkpoint of any origin (see `maskrcnn.load`), on its device, and its categories."""
    checkpoint = read_checkpoint(source, settings=settings, classes=classes)
    parts.require(checkpoint.provenance.get("parts", {}), source)
    target = choose_device(device)
    _compile_ahead(choose_precision("auto", target, checkpoint.config.profile), target)
    model = build(checkpoint.config, draw=False, parts=parts)
    restore(model, without_losses(checkpoint.state), source)
    return model.to(target).eval(), checkpoint.categories


@dataclass(frozen=True)
class Engine:
    """A backend, the config of its model, and the categories of its labels 0..K-1."""

    backend: Backend
    config: ModelConfig
    categories: tuple[Category, ...]

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
        model = self._model("test-time augmentation")
        return replace(self, backend=Views(model, TTA() if tta is True else tta, flip_pairs(self.categories)))

    def limited(self, score_threshold: float | None = None, max_detections: int | None = None) -> "Engine":
        """An engine with other limits of what it returns; None leaves one as it is. There are never fewer proposals
        than detections.

        Raises `ConfigError` for a threshold outside 0..1, for fewer than one detection, and for a backend other than
        PyTorch's.
        """
        box, rpn = self.config.box_head, self.config.rpn
        if score_threshold is not None:
            if not 0 <= score_threshold <= 1:
                raise ConfigError(f"score_threshold must be between 0 and 1; it is {score_threshold}")
            box = replace(box, score_threshold=score_threshold)
        if max_detections is not None:
            if max_detections < 1:
                raise ConfigError(f"max_detections must be at least 1; it is {max_detections}")
            box = replace(box, max_detections=max_detections)
            if max_detections > rpn.post_nms_test:
                most = max(rpn.pre_nms_test, max_detections)
                rpn = replace(rpn, post_nms_test=max_detections, pre_nms_test=most)
        if (box, rpn) == (self.config.box_head, self.config.rpn):
            return self
        model = copy.copy(self._model("another score_threshold or max_detections"))  # all but the config is shared
        model.config = replace(self.config, box_head=box, rpn=rpn)
        return replace(self, backend=model, config=model.config)

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
        return from_detections(
            found, images, self.config, self.categories, paths, originals=originals, image_ids=image_ids
        )

    def propose(self, images: Images, *, training: bool = False) -> Proposals:
        """The RPN's boxes, in pixels of the original images, as many as a training step or a detection takes.

        Raises `ConfigError` for a backend other than PyTorch's.
        """
        model = self._model("proposals")
        with torch.inference_mode(), arithmetic(model.precision, model.device):
            images = to_device(images, model.device)
            found = model.propose(images, training=training)
        return found._replace(boxes=boxes_to_image(found.boxes, images))  # scaled alone: they are scaled back to train

    def _model(self, wish: str) -> Any:
        if not isinstance(self.backend, MaskRCNN):
            raise ConfigError(
                f"only a plain PyTorch model can do this: {wish}; this one is {type(self.backend).__name__}"
            )
        return self.backend


def _compile_ahead(precision: Precision, device: torch.device) -> None:
    """While the weights are read and prepared, on a machine that never predicted before."""
    if device.type == "cpu" and precision != "fp16":
        ahead.start(DTYPES[precision])
