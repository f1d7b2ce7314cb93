"""`load` a checkpoint, `predict` on images: paths, folders, globs, arrays and PIL images in, one `Result` each out.

Images are read ahead in threads while the network runs, and those that share a canvas run together; results come in
the order of the inputs. At most a few batches are in memory, however many inputs there are. Large images are predicted
in tiles, one image at a time.
"""

import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from .canvas import chosen_page, join, window_of
from .categories import Category
from .config import TTA, InputConfig, ModelConfig
from .device import Precision, choose_precision
from .engine import Engine, open_model
from .errors import ConfigError, DataError
from .images import ImageSource, Page, open_image
from .inputs import expand, is_one
from .model.mask_rcnn import MaskRCNN
from .model.parts import USUAL, Parts
from .results import Result
from .structures import Images
from .thresholds import UNMEASURED
from .tiling import OVERLAP, Tiling, check_tile, detect, plan
from .tracking import MEMORY, STRONG, WEAK, Tracker
from .video.reading import Frame, frames, hidden, is_live, is_video, read_ahead

_NAMED = 6  # classes in the repr of a predictor
_WINDOW = 3  # batches read ahead, among which images of one canvas are sought

OnError = Literal["raise", "skip"] | Callable[[DataError], None]


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    parts: Parts = USUAL,
) -> "Predictor":
    """The `Predictor` of a checkpoint.

    Args:
        path: a file of ours, torchvision's, Detectron2's or Detectron's; the folder of a run; or the name of a release,
            such as `torchvision:maskrcnn_resnet50_fpn`, which is downloaded once.
        device: such as "cpu" or "cuda:1"; by default a GPU if there is one.
        settings: what a file of another framework cannot say, such as "box_head.nms_iou=0.6"; by default the origin's
            values.
        classes: the names of such a file's classes, in order; by default COCO's.
        parts: the own parts that a checkpoint was trained with, see docs/train.md.

    Raises `CheckpointError` naming the file if it cannot be read or is of no known kind.
    """
    return Predictor(*open_model(path, device=device, settings=settings, classes=classes, parts=parts))


class Predictor:
    """A trained model and its categories. It remembers no image.

    What `predict` runs is an engine over a prepared copy of `model`. It is kept for the next call, and made anew if
    `model` has changed.
    """

    def __init__(self, model: MaskRCNN, categories: Sequence[Category], thresholds: Sequence[float] = ()) -> None:
        self.model = model.eval()
        self.categories = tuple(categories)
        self.thresholds = tuple(thresholds)  # score of the best F1 of each class; empty if no training measured it
        self._told = False
        self._engines: dict[Precision, tuple[_Fingerprint, Engine]] = {}

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories."""
        return tuple(category.name for category in self.categories)

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:_NAMED]) + (", ..." if len(self.classes) > _NAMED else "")
        return f"Predictor({self.config.name} on {self.device}: {len(self.classes)} classes, {names})"

    def __call__(self, inputs: Any, **options: Any) -> Result | list[Result]:
        """The `Result` of one image, or a list of them for a folder, a glob, a batch, a video or an iterable.

        Arguments and errors are those of `predict`; without an image left to see, as `on_error` wants, IndexError.
        """
        results = list(self.predict(inputs, **options))
        return results[0] if is_one(inputs) and not is_video(inputs) else results

    def predict(
        self,
        inputs: Any,
        *,
        batch: int = 1,
        precision: str = "auto",
        score_threshold: float | str = "best",
        max_detections: int | None = None,
        tta: TTA | bool = False,
        tile: str | int = "auto",
        overlap: float = OVERLAP,
        page: int | None = None,
        max_project: bool = False,
        recursive: bool = False,
        on_error: OnError = "raise",
        threads: int = 2,
        every: int = 1,
    ) -> Iterator[Result]:
        """One `Result` per image, in the order of `inputs`, made when asked for.

        Args:
            inputs: a path, a folder, a glob, an array [H W] or [H W C], a PIL image, the bytes of a file, an open file,
                a tensor [C H W] or [B C H W] (uint8, or float from 0 to 1), or any iterable of these. Or one video: a
                file, an address (`rtsp://...`) or a camera (`camera:0`), of which each frame is an image.
            batch: images that run together, at most; only images with the same canvas can.
            precision: "fp32", "bf16", "fp16", or "auto": fp32 for weights of another framework, else bf16 if the device
                is fast at it.
            score_threshold: the least score, 0..1. "best" is that of the best F1 in the evaluation of the training, for
                each class; 0.5 for a model without such an evaluation, with a warning.
            max_detections: most detections of an image or tile; by default the model's own.
            tta: test-time augmentation: each image is seen at several scales and mirrored. True takes the paper's 18
                views, which cost 18 times as much; `TTA` others.
            tile: "auto" predicts an image in tiles if it would be shrunk below two thirds of the scale of training; a
                number is the side of the tiles in image pixels; "off" shrinks images of any size. `Result.tiles` and
                `Result.scale` say what was done.
            overlap: of neighbouring tiles, as a share of their side; objects up to about this size stay in one piece.
            page: which page of a stack or frame of an animation to see, from 1; images with one page are seen as they
                are. By default what the model was trained on (`input.page`), if that were stacks.
            max_project: see the maximum over all pages of a stack.
            recursive: take the images in the subfolders of a folder, too.
            on_error: for an image that cannot be read, "raise" a `DataError`, "skip" it with a warning, or call this
                function with the error and go on.
            threads: that read and resize images ahead.
            every: of a video, see every so many frames only.

        Raises `ConfigError` for impossible arguments at once, `DataError` naming the file when its turn comes.
        """
        if min(batch, threads, every) < 1:
            raise ConfigError(f"batch, threads and every must be 1 or more; they are {batch}, {threads} and {every}")
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ConfigError(f"on_error is 'raise', 'skip' or a function; it is {on_error!r}")
        seen = chosen_page(page, max_project, self.config.input)
        tile = check_tile(tile, overlap)
        engine = self.engine(precision).limited(self._least(score_threshold), max_detections).seeing(tta)
        cut = partial(plan, rule=engine.config.input, tile=tile, overlap=overlap)
        load = partial(load_image, engine=engine, cut=cut, page=seen)
        if is_video(inputs):
            return _watch(inputs, frames(inputs, every=every), load, engine, batch, on_error)
        return _stream(expand(inputs, recursive=recursive), load, engine, batch, on_error, threads)

    def track(
        self, video: Any, *, score_threshold: float | str = STRONG, memory: int = MEMORY, **options: Any
    ) -> Iterator[Result]:
        """The objects of each frame of a video, with `ids` that stay the same, made when asked for.

        Args:
            video: a file, an address or a camera as for `predict`; or images in order, such as a folder of frames.
            score_threshold: score from which an object gets an id, 0..1; weaker detections only continue objects.
            memory: frames that an object may be hidden and keep its id.
            options: of `predict`.

        Raises as `predict`.
        """
        strong = _number(score_threshold)
        tracker = Tracker(strong=strong, weak=min(WEAK, strong), memory=memory)
        results = self.predict(video, score_threshold=tracker.weak, **options)
        return (tracker.update(result) for result in results)

    def engine(self, precision: str = "auto") -> Engine:
        """The engine over a prepared copy of the model, in a precision as for `predict`."""
        chosen = choose_precision(precision, self.device, self.config.profile)
        now = _fingerprint(self.model)
        kept = self._engines.get(chosen)
        if kept is None or kept[0] != now:
            kept = self._engines[chosen] = now, Engine.of(self.model, self.categories, chosen)
        return kept[1]

    def _least(self, wanted: float | str) -> float | Sequence[float]:
        """The threshold, or that of each class. Raises `ConfigError` for other words than "best"."""
        if wanted != "best":
            return _number(wanted)
        if not (self.thresholds or self._told):
            self._told = True
            logging.getLogger(__name__).warning(
                "no training of ours evaluated this model, so objects count from a score of %s; "
                "score_threshold chooses another",
                UNMEASURED,
            )
        return self.thresholds or UNMEASURED


def _number(wanted: float | str) -> float:
    try:
        return float(wanted)
    except ValueError:
        raise ConfigError(f"score_threshold is best or a number from 0 to 1; it is {wanted!r}") from None


_Fingerprint = tuple[tuple[int, int], ...]


def _fingerprint(model: MaskRCNN) -> _Fingerprint:
    """Changes if a tensor is replaced or modified, except through `.data`, which PyTorch does not track."""
    tensors = (*model.parameters(), *model.buffers())
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


class LoadedImage(NamedTuple):
    """One input, read and resized."""

    path: Path | None
    original: np.ndarray | None  # uint8 [h w I], kept only if there is no file to read it from again
    images: Images  # a batch of one
    page: Page = None
    type: str = ""  # of its pixels, if they were scaled by the image's own range

    @property
    def canvases(self) -> list[tuple[int, ...]]:
        """Of all views."""
        return [tuple(view.pixels.shape[2:]) for view in (self.images, *self.images.views)]


class LargeImage(NamedTuple):
    """One input that is predicted in tiles, and read when its turn comes."""

    path: Path | None
    original: np.ndarray | None  # uint8 [h w I], if there is no file
    tiling: Tiling
    page: Page = None
    type: str = ""  # as of a `LoadedImage`

    def predict(self, engine: Engine, batch: int) -> Result:
        """Its result. Raises `DataError` naming the file."""
        original, rule = self.original, engine.config.input
        if original is not None:
            size = original.shape[0], original.shape[1]
            return detect(engine, window_of(original, rule), size, self.tiling, batch=batch, original=original)
        assert self.path is not None
        with open_image(self.path, page=self.page) as image:
            return detect(engine, window_of(image, rule), image.size, self.tiling, batch=batch, path=self.path)


Plan = Callable[[tuple[int, int]], Tiling | None]  # from an image's size


def load_image(source: Any, engine: Engine, cut: Plan = lambda _: None, page: Page = None) -> LoadedImage | LargeImage:
    """Reads one input and lays it on its canvas, unless `cut` wants it in tiles. Raises `DataError` naming the file."""
    if isinstance(source, DataError):
        raise source
    path, rule = Path(source) if isinstance(source, str | os.PathLike) else None, engine.config.input
    with open_image(source, page=page) as image:
        tiling, kind = cut(image.size), _own_range(image, rule)
        page = page if image.pages > 1 else None
        if tiling and path is not None:
            return LargeImage(path, None, tiling, page, kind)
        array = image.read(channels=rule.channels, ranges=rule.range)
    if tiling:
        return LargeImage(None, array, tiling, None, kind)
    return LoadedImage(path, array if path is None else None, engine.prepare(array), page, kind)


def _own_range(image: ImageSource, rule: InputConfig) -> str:
    """The type of its pixels, if they are scaled by the image's own range."""
    return str(image.dtype) if image.deep and not rule.range else ""


@dataclass
class _Slot:
    """A place in the window: an image on its way, then its result."""

    future: Future[LoadedImage | LargeImage]  # or the reader's `DataError`
    result: Result | None = None


def _stream(
    sources: Iterator[Any],
    load: Callable[[Any], LoadedImage | LargeImage],
    engine: Engine,
    batch: int,
    on_error: OnError,
    threads: int,
) -> Iterator[Result]:
    """Reads ahead a window of images, runs those that share the first one's canvas, gives results in order."""
    skipped, noted = 0, False
    with ThreadPoolExecutor(threads, thread_name_prefix="maskrcnn-read") as pool:
        window: deque[_Slot] = deque()
        try:
            while True:
                while len(window) < _WINDOW * batch + threads and (source := next(sources, None)) is not None:
                    window.append(_Slot(pool.submit(load, source)))
                if not window:
                    break
                if window[0].result is None:
                    try:
                        first = window[0].future.result()
                        noted = noted or _note_scaling(first.type)
                        if isinstance(first, LargeImage):
                            window[0].result = first.predict(engine, batch)
                    except DataError as error:
                        skipped += 1
                        window.popleft()
                        _report(error, on_error)
                        continue
                    if isinstance(first, LoadedImage):
                        slots, loaded = _together(window, first, batch)
                        results = engine.results(
                            join([each.images for each in loaded]),
                            [each.path for each in loaded],
                            originals=[each.original for each in loaded],
                        )
                        for slot, result in zip(slots, results, strict=True):
                            slot.result = result
                slot = window.popleft()
                assert slot.result is not None
                page = slot.future.result().page
                yield slot.result if page is None else replace(slot.result, page=page)
        finally:
            for slot in window:
                slot.future.cancel()
    if skipped and on_error == "skip":
        warnings.warn(f"{skipped} images could not be read and were skipped", stacklevel=2)


def _watch(
    video: str | os.PathLike[str],
    seen: Iterator[Frame],
    load: Callable[[Any], LoadedImage | LargeImage],
    engine: Engine,
    batch: int,
    on_error: OnError,
) -> Iterator[Result]:
    """One result for each frame. Frames are decoded and resized in a thread, a few ahead of the network."""
    path = Path(hidden(video))

    def run(some: list[tuple[Frame, LoadedImage | LargeImage]]) -> Iterator[Result]:
        loaded = [image for _, image in some if isinstance(image, LoadedImage)]
        if loaded:
            results = engine.results(
                join([each.images for each in loaded]), originals=[each.original for each in loaded]
            )
        else:
            results = [image.predict(engine, batch) for _, image in some if isinstance(image, LargeImage)]
        for (frame, _), result in zip(some, results, strict=True):
            yield replace(result, path=path, frame=frame.number, time=frame.time, image_id=frame.number)

    waiting: list[tuple[Frame, LoadedImage | LargeImage]] = []
    ready = ((frame, load(frame.pixels)) for frame in seen)
    with read_ahead(ready, 2 * batch, newest=is_live(video)) as ahead:
        try:
            for one in ahead:
                waiting.append(one)
                if len(waiting) == batch:
                    yield from run(waiting)
                    waiting = []
        except DataError as error:
            yield from run(waiting)
            _report(error, on_error)
        else:
            yield from run(waiting)


def _note_scaling(kind: str) -> bool:
    if kind:
        logging.getLogger(__name__).warning(
            "images with %s pixels: each is scaled by its own 0.1 and 99.9 percentiles, because the model was trained "
            "without a range for such images",
            kind,
        )
    return bool(kind)


def _together(window: deque[_Slot], first: LoadedImage, batch: int) -> tuple[list[_Slot], list[LoadedImage]]:
    """The first slot and up to `batch` - 1 others without a result on the same canvases, and what they hold."""
    slots, loaded = [window[0]], [first]
    for slot in islice(window, 1, None):
        if len(slots) == batch:
            break
        if slot.result is None and slot.future.exception() is None:
            image = slot.future.result()
            if isinstance(image, LoadedImage) and image.canvases == first.canvases:
                slots.append(slot)
                loaded.append(image)
    return slots, loaded


def _report(error: DataError, on_error: OnError) -> None:
    if on_error == "raise":
        raise error
    if on_error == "skip":
        warnings.warn(str(error), stacklevel=3)
    else:
        on_error(error)
