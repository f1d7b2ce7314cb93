"""`load` a checkpoint, `predict` on images: paths, folders, globs, arrays and PIL images in, one `Result` each out.

Images are read ahead in threads while the network runs, and those that share a canvas run together; results come in
the order of the inputs. At most a few batches are in memory, however many inputs there are.
"""

import copy
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from .accelerate.prepare import limit, prepare
from .canvas import join, prepare_views
from .categories import Category, flip_pairs
from .config import ModelConfig
from .device import Precision, arithmetic, choose_device, choose_precision
from .errors import ConfigError, DataError
from .images import read_image
from .inputs import expand
from .model.build import build
from .model.mask_rcnn import MaskRCNN
from .model.tta import TTA, choose_views, detect_views
from .results import Result, from_detections
from .structures import Images
from .weights.checkpoint import restore
from .weights.read import read_checkpoint

_WINDOW = 3  # batches read ahead, among which images of one canvas are sought

OnError = Literal["raise", "skip"] | Callable[[DataError], None]


class LoadedImage(NamedTuple):
    """One input, read and resized."""

    path: Path | None
    original: np.ndarray | None  # uint8 [h w I], kept only where there is no file to read it from again
    views: tuple[Images, ...]  # batches of one; several for test-time augmentation

    @property
    def canvases(self) -> list[tuple[int, ...]]:
        return [tuple(view.pixels.shape[2:]) for view in self.views]


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> "Predictor":
    """The `Predictor` of a checkpoint, or of a run's folder, on `device` (default: a GPU where there is one).

    Those of torchvision, Detectron2 and Detectron will do, and names such as `torchvision:maskrcnn_resnet50_fpn`. What
    those cannot say is the origin's default unless given: `settings` such as "box_head.score_threshold=0.5", and the
    names of the `classes` in order. Raises `CheckpointError` naming the file for one that cannot be read or is of no
    kind known here.
    """
    checkpoint = read_checkpoint(path, settings=settings, classes=classes)
    target = choose_device(device)
    model = build(checkpoint.config, skip_empty=target.type == "cpu")
    restore(model, checkpoint.state, path)
    return Predictor(model, checkpoint.config, checkpoint.categories, device=target)


class Predictor:
    """A trained model and what it needs to know: its config and its categories. It remembers no image.

    What `predict` runs is a prepared copy of `model`, kept for the next call, and made anew where `model` has changed.
    """

    def __init__(
        self,
        model: MaskRCNN,
        config: ModelConfig,
        categories: tuple[Category, ...],
        *,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.config = config
        self.categories = categories
        self._copies: dict[Precision, tuple[_Fingerprint, MaskRCNN]] = {}

    def predict(
        self,
        inputs: Any,
        *,
        batch: int = 1,
        precision: str = "auto",  # auto, fp32, bf16 or fp16
        score_threshold: float | None = None,
        max_detections: int | None = None,
        tta: TTA | bool = False,
        on_error: OnError = "raise",
        threads: int = 2,
    ) -> Iterator[Result]:
        """One `Result` per image, in the order of `inputs`, made when asked for.

        Args:
            inputs: a path, a folder, a glob, an array [H W] or [H W C], a PIL image, or any iterable of these.
            batch: images that run together, at most; only those whose canvas is the same can.
            precision: `auto` is fp32 for weights of other origin, else bf16 where the device is fast at it.
            score_threshold: least score, 0..1; default the model's own.
            max_detections: most detections of an image; default the model's own.
            tta: test-time augmentation: each image is seen at several scales and mirrored. True takes the paper's 18
                views, which cost 18 times as much; `TTA` others.
            on_error: for an image that cannot be read, `raise` a `DataError`; `skip` it, with a warning; or call this
                with the error and go on.
            threads: that read and resize images ahead.

        Raises `ConfigError` for impossible arguments at once, `DataError` naming the file when its turn comes.
        """
        if batch < 1 or threads < 1:
            raise ConfigError(f"batch and threads must be 1 or more; they are {batch} and {threads}")
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ConfigError(f"on_error is 'raise', 'skip' or a function; it is {on_error!r}")
        network = self._prepared(precision, score_threshold, max_detections)._replace(tta=choose_views(tta))
        return self._stream(expand(inputs), network, batch, on_error, threads)

    def _prepared(self, precision: str, score_threshold: float | None, max_detections: int | None) -> "_Network":
        chosen = choose_precision(precision, self.device, self.config.profile)
        model = copy.copy(self._copy(chosen))  # whose steps are its own, and all else shared
        limit(model, score_threshold, max_detections)
        return _Network(model, self.config, self.categories, self.device, chosen)

    def _copy(self, precision: Precision) -> MaskRCNN:
        now = _fingerprint(self.model)
        kept = self._copies.get(precision)
        if kept is None or kept[0] != now:
            kept = self._copies[precision] = now, prepare(self.model, precision)
        return kept[1]

    def _stream(
        self, sources: Iterator[Any], network: "_Network", batch: int, on_error: OnError, threads: int
    ) -> Iterator[Result]:
        """Reads ahead a window of images, runs those that share the first one's canvas, gives results in order."""
        skipped = 0
        with ThreadPoolExecutor(threads, thread_name_prefix="maskrcnn-read") as pool:
            window: deque[_Slot] = deque()
            try:
                while True:
                    while len(window) < _WINDOW * batch + threads and (source := next(sources, None)) is not None:
                        window.append(_Slot(pool.submit(load_image, source, self.config, network.tta)))
                    if not window:
                        break
                    first = window[0]
                    if first.result is None:
                        try:
                            first.image()
                        except DataError as error:
                            skipped += 1
                            window.popleft()
                            _report(error, on_error)
                            continue
                        network.run(_together(window, batch))
                    result = window.popleft().result
                    assert result is not None
                    yield result
            finally:
                for slot in window:
                    slot.future.cancel()
        if skipped and on_error == "skip":
            warnings.warn(f"{skipped} of the images could not be read and were passed over", stacklevel=2)


_Fingerprint = tuple[tuple[int, int], ...]


def _fingerprint(model: MaskRCNN) -> _Fingerprint:
    """Another one after any tensor was replaced or written to (but through `.data`, which PyTorch does not count)."""
    tensors = (*model.parameters(), *model.buffers())
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


class _Slot:
    """A place in the window: an image on its way, then its result."""

    def __init__(self, future: Future[LoadedImage]) -> None:
        self.future = future
        self.result: Result | None = None

    def image(self) -> LoadedImage:
        """Waits for the image. Raises the reader's `DataError`."""
        return self.future.result()

    def readable(self) -> bool:
        """Waits, and says whether there is an image and no result yet."""
        return self.result is None and self.future.exception() is None


class _Network(NamedTuple):
    """A prepared model and all that turns images into results."""

    model: MaskRCNN
    config: ModelConfig
    categories: tuple[Category, ...]
    device: torch.device
    precision: Precision
    tta: TTA | None = None

    def run(self, slots: list[_Slot]) -> None:
        """Fills in the results of slots whose images share a canvas."""
        images = [slot.image() for slot in slots]
        views = [join(view) for view in zip(*(image.views for image in images), strict=True)]
        there = [Images(*(field.to(self.device) for field in view[:-1])) for view in views]  # type: ignore[arg-type]
        with torch.inference_mode(), arithmetic(self.precision, self.device):
            if self.tta is None:
                detections = self.model.detect(there[0])
            else:
                pairs = flip_pairs(self.categories)
                detections = detect_views(self.model, there, flip=self.tta.flip, flip_pairs=pairs)
        results = from_detections(
            detections,
            views[0],
            self.categories,
            [image.path for image in images],
            originals=[image.original for image in images],
            paste_rule=self.config.mask_head.paste,
            threshold=self.config.mask_head.threshold,
            keypoint_shift=self.config.keypoint_head.shift,
        )
        for slot, result in zip(slots, results, strict=True):
            slot.result = result


def load_image(source: Any, config: ModelConfig, tta: TTA | None = None) -> LoadedImage:
    """Reads one input and resizes it as `config` has it, to the views of `tta`. Raises `DataError` naming the file."""
    if isinstance(source, DataError):
        raise source
    array = read_image(source, channels=config.input.channels)
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    views = prepare_views(array, config.input, **(tta._asdict() if tta else {}))
    return LoadedImage(path, array if path is None else None, views)


def _together(window: Iterable[_Slot], batch: int) -> list[_Slot]:
    """The first slot of the window without a result, and up to `batch` - 1 others on the same canvases."""
    waiting = (slot for slot in window if slot.readable())
    first = next(waiting)
    canvases = first.image().canvases
    others = (slot for slot in waiting if slot.image().canvases == canvases)
    return [first, *islice(others, batch - 1)]


def _report(error: DataError, on_error: OnError) -> None:
    if on_error == "raise":
        raise error
    if on_error == "skip":
        warnings.warn(str(error), stacklevel=3)
    else:
        on_error(error)
