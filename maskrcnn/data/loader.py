"""Batches of images and objects: in a seeded order for training, in the data set's order for evaluation.

Every random choice for an image depends only on (run seed, epoch, image id), and the order of an epoch only on (run
seed, epoch). So a sample is the same on any rank, in any batch and after any resume, and a run resumes at (epoch,
batch) without repeating what came before.

Workers come from a fork server, because a process that ever ran a parallel kernel must not be forked. They do not
import the user's script, unless it holds the transform: then it needs its `if __name__ == "__main__"`.
"""

import atexit
import logging
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils import data

from ..config import ONE_VIEW, TTA, AugmentConfig, ModelConfig
from ..errors import ConfigError, DataError, WorkerLost
from .augment import NO_AUGMENTATION
from .batch import Batch, BatchMaker, BatchPlan, PackedBatch, unpack
from .dataset import Dataset
from .transform import Transform, check_picklable
from .workers import AsBytes, affordable, answer_of, main_module_hidden, needs_pipes, start_worker

_WINDOW = 32  # batches of an evaluation within which images of one canvas are gathered

Warn = Callable[[str], None]


class _Loader:
    """What both loaders share: the workers, and the account of images that could not be read."""

    def __init__(self, maker: BatchMaker, *, workers: int, strict: bool, pin_memory: bool, warn: Warn | None) -> None:
        if not len(maker.dataset):
            raise DataError(f"{maker.dataset.source}: there is no image to load")
        self.dataset = maker.dataset
        self.problems: dict[int, str] = {}  # by image id: why it could not be read
        self._maker, self._workers, self._strict, self._pin_memory = maker, workers, strict, pin_memory
        self._warn = warn or logging.getLogger(__name__).warning
        self._plans: list[BatchPlan] = []
        self._torch_loader: data.DataLoader | None = None

    def _stream(self, plans: list[BatchPlan]) -> Iterator[PackedBatch]:
        for packed in self._from_workers(plans) if self._workers else map(self._maker.__getitem__, plans):
            if packed.failure is not None:
                raise ConfigError(packed.failure)
            for image_id, reason in packed.problems:
                sentence = f"{self.dataset.source}, image {image_id}: {reason}"
                if self._strict:
                    raise DataError(sentence)
                if image_id not in self.problems:
                    self.problems[image_id] = reason
                    self._warn(f"{sentence}; {'another image takes its place' if self._maker.replace else 'left out'}")
            if packed.images is not None:
                yield packed
            elif self._maker.replace:
                raise DataError(f"{self.dataset.source}: no image can be read; the last: {packed.problems[-1][1]}")

    def _from_workers(self, plans: list[BatchPlan]) -> Iterator[PackedBatch]:
        """The workers stay from epoch to epoch; their sampler is one list, which gets each epoch's plans."""
        self._plans[:] = plans
        hint = self._hint()
        try:
            if self._torch_loader is None:
                self._torch_loader = self._new_loader(plans)
            loader = self._torch_loader
            if loader is not None:
                iterator = answer_of(lambda: self._start(loader), self._processes, hint)
        except OSError as error:  # not even a semaphore or a socket can be had
            self._warn(f"workers cannot be started ({error}): images are read in the main process")
            self.close()
            self._workers = 0
        if self._torch_loader is None:
            yield from map(self._maker.__getitem__, plans)
            return
        try:
            while (packed := answer_of(lambda: next(iterator, None), self._processes, hint)) is not None:
                yield pickle.loads(packed) if isinstance(packed, bytes) else packed
        except (WorkerLost, KeyboardInterrupt):  # they may never answer
            self._kill()
            raise

    def _new_loader(self, plans: list[BatchPlan]) -> "data.DataLoader | None":
        """The workers that this machine can afford; None if it can afford none."""
        self._workers, fewer = affordable(self._workers)
        area = max((height * width * len(indices) for _, indices, (height, width) in plans), default=0)
        pipes = needs_pipes(self._workers, 4 * area * self._maker.model.input.channels) if self._workers else ""
        for note in filter(None, (fewer, pipes)):
            self._warn(note)
        if not self._workers:
            return None
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":  # imported once for all workers
            context.set_forkserver_preload([__name__, "maskrcnn.ops.kernels.rasterize_numba"])
        return data.DataLoader(
            AsBytes(self._maker) if pipes else self._maker,  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._plans,
            num_workers=self._workers,
            multiprocessing_context=context,
            persistent_workers=True,
            worker_init_fn=start_worker,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # otherwise torch draws from the global one
        )

    def _start(self, loader: data.DataLoader) -> Iterator[Any]:
        with _sigterm_blocked(), main_module_hidden(getattr(self._maker.transform, "__module__", "") == "__main__"):
            return iter(loader)

    def _processes(self) -> list[Any]:
        return list(getattr(getattr(self._torch_loader, "_iterator", None), "_workers", ()))

    def _hint(self) -> str:
        if getattr(self._maker.transform, "__module__", "") != "__main__":
            return ""
        return 'a script that holds the transform needs `if __name__ == "__main__":` before its calls; or --workers 0'

    def _kill(self) -> None:
        for process in self._processes():
            process.kill()
        self.close()

    def close(self) -> None:
        """Ends the workers. The loader can still be used and then starts new ones."""
        self._torch_loader = None


class TrainLoader(_Loader):
    """Augmented batches, epoch after epoch: `batches(epoch, start)`.

    Every rank has `len(loader)` full batches in every epoch. Ranks take turns in one list. If all images share a canvas
    (a crop, or equal sizes), N ranks with batches of B see in a step what one rank with batches of N x B sees, and the
    epoch's first images fill up the last step. Otherwise a batch holds images of one canvas; a batch that is not full
    repeats images of its canvas, and to keep the number a random choice of batches, another one in every epoch, is left
    out or comes twice.

    The canvas of a crop is the crop. Without a crop images go on `buckets`, unless the model's canvas is `exact`: in a
    small data set few images would share a multiple of 32.

    Args:
        dataset: images without objects are kept and trained on.
        model: its way from an image to the canvas, and what it learns. Keypoints come if the data set has them.
        augmentation: see `augment`.
        batch, seed: images of one rank and batch; seed of the run.
        rank, world: this process, and how many there are.
        workers: processes that read ahead; 0 reads in this process.
        strict: an image that cannot be read raises `DataError`. Otherwise `warn` is called once for it, and the next
            image of the same canvas replaces it.
        pin_memory: page-locked pixels, for copies to a GPU.
        warn: called with one line; default the logger of this module.
        transform: the user's function on an image and its objects, see `transform.Transform`.

    Raises `DataError` if the data set has no images, or if none of them can be read, and `ConfigError` if the transform
    cannot be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: ModelConfig,
        augmentation: AugmentConfig,
        *,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        strict: bool = False,
        pin_memory: bool = False,
        warn: Warn | None = None,
        transform: Transform | None = None,
    ) -> None:
        check_picklable(transform, workers)
        policy = "exact" if model.input.canvas == "exact" else "buckets"
        masks = model.mask_head.enabled
        maker = BatchMaker(dataset, model, augmentation, seed, policy, masks, replace=True, transform=transform)
        super().__init__(maker, workers=workers, strict=strict, pin_memory=pin_memory, warn=warn)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world

    def __len__(self) -> int:
        """Batches of an epoch on every rank."""
        return -(-len(self.dataset) // (self.batch * self.world))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from number `start` on. One iterator at a time."""
        return (unpack(packed) for packed in self._stream(self._plan(epoch)[start:]))

    def _plan(self, epoch: int) -> list[BatchPlan]:
        """What this rank's batches of an epoch hold."""
        rng = np.random.default_rng((self.seed % 2**64, epoch))
        order = rng.permutation(len(self.dataset))
        groups: dict[tuple[int, int], list[int]] = {}
        for position, index in enumerate(order.tolist()):
            groups.setdefault(self._maker.canvas(index, epoch), []).append(position)
        needed = len(self) * self.world
        chunks: list[tuple[tuple[int, int], np.ndarray]] = []
        for canvas, positions in groups.items():
            count = needed if len(groups) == 1 else -(-len(positions) // self.batch)
            chunks += [(canvas, row) for row in np.resize(positions, (count, self.batch))]
        if len(groups) > 1:
            chunks.sort(key=lambda chunk: int(chunk[1].min()))
            chosen = np.sort(rng.permutation(len(chunks))[:needed])
            chunks = [chunks[i] for i in np.resize(chosen, needed)]
        mine = chunks[self.rank :: self.world]
        return [BatchPlan(epoch, tuple(order[positions].tolist()), canvas) for canvas, positions in mine]


class EvalLoader(_Loader):
    """Whole images as the model sees them at test time, each once over all ranks. Nothing is random.

    They come in the data set's order, except that images of one canvas are gathered into batches (within 32 batches).
    Batches may hold fewer than `batch` images, and ranks may have different numbers of batches. An image that cannot be
    read is reported with `warn` and left out.

    Args:
        gt: add the objects, for a validation loss.
        views: for test-time augmentation. The first is the batch's `images`, the others are `images.views`; a batch
            then holds images of one size.

    The other arguments are those of `TrainLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: ModelConfig,
        *,
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        gt: bool = False,
        views: TTA = ONE_VIEW,
        strict: bool = False,
        pin_memory: bool = False,
        warn: Warn | None = None,
    ) -> None:
        masks = gt and model.mask_head.enabled
        maker = BatchMaker(dataset, model, NO_AUGMENTATION, 0, model.input.canvas, masks, replace=False, views=views)
        super().__init__(maker, workers=workers, strict=strict, pin_memory=pin_memory, warn=warn)
        self.gt = gt
        self._whole = self._plan(batch, range(rank, len(dataset), world))

    def __len__(self) -> int:
        """Batches of this rank, including those of which nothing can be read."""
        return len(self._whole)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches. One iterator at a time."""
        return (unpack(packed, gt=self.gt) for packed in self._stream(self._whole))

    def _plan(self, batch: int, mine: range) -> list[BatchPlan]:
        plans = []
        for first in range(0, len(mine), batch * _WINDOW):
            groups: dict[tuple[int, ...], list[int]] = {}
            for index in mine[first : first + batch * _WINDOW]:
                size = self._maker.sizes[index].tolist() if self._maker.views != ONE_VIEW else ()
                groups.setdefault((*self._maker.canvas(index, 0), *size), []).append(index)
            for (height, width, *_), indices in groups.items():
                parts = (tuple(indices[i : i + batch]) for i in range(0, len(indices), batch))
                plans += [BatchPlan(0, part, (height, width)) for part in parts]
        return plans


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Processes started in here ignore SIGTERM, which schedulers send to every process of a run: the main process saves
    then, and may need another batch for it. At exit Python ends remaining workers by that signal, so these are killed.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signal
        yield
        return
    resource_tracker.ensure_running()  # if it started in here, it would unblock the signal
    there = set(multiprocessing.active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for child in set(multiprocessing.active_children()) - there:
            atexit.register(child.kill)
