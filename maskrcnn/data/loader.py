"""Batches of images and objects: in a seeded order for training, in the data set's order for evaluation.

Every choice made for an image is a function of (run seed, epoch, image id), and the order of an epoch one of (run
seed, epoch): the same sample comes on any rank, in any batch and after any resume, and a run goes on at (epoch, batch)
without making what came before.

Workers come from a fork server, since a process that ever ran a parallel kernel must not be forked. As with every
spawned process, a script that asks for workers needs its `if __name__ == "__main__"`.
"""

import atexit
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import numpy as np
import torch
from torch.utils import data

from ..config import ONE_VIEW, TTA, AugmentConfig, InputConfig
from ..errors import DataError
from .augment import NO_AUGMENTATION
from .parcel import Batch, Job, Maker, Parcel, unfold
from .records import Dataset

_WINDOW = 32  # batches of an evaluation among which images of one canvas are gathered

Warn = Callable[[str], None]


class _Loader:
    """What both loaders share: the workers, and the account of images that could not be read."""

    def __init__(self, maker: Maker, *, workers: int, strict: bool, pin_memory: bool, warn: Warn | None) -> None:
        if not len(maker.dataset):
            raise DataError(f"{maker.dataset.json_path}: there is no image to load")
        self.dataset = maker.dataset
        self.problems: dict[int, str] = {}  # by image id: why it could not be read
        self.unread = 0  # how often such an image was asked for
        self._maker, self._workers, self._strict, self._pin_memory = maker, workers, strict, pin_memory
        self._warn = warn or logging.getLogger(__name__).warning
        self._jobs: list[Job] = []
        self._torch_loader: data.DataLoader | None = None

    def _stream(self, jobs: list[Job]) -> Iterator[Parcel]:
        parcels = self._from_workers(jobs) if self._workers else (self._maker[job] for job in jobs)
        for parcel in parcels:
            self._account(parcel)
            if parcel.images is not None:
                yield parcel

    def _account(self, parcel: Parcel) -> None:
        for image_id, reason in parcel.problems:
            told = f"{self.dataset.json_path}, image {image_id}: {reason}"
            if self._strict:
                raise DataError(told)
            self.unread += 1
            if image_id not in self.problems:
                self.problems[image_id] = reason
                self._warn(f"{told}; {'another image takes its place' if self._maker.replace else 'it is left out'}")
        if self._maker.replace and parcel.images is None:
            raise DataError(f"{self.dataset.json_path}: no image can be read; the last: {parcel.problems[-1][1]}")

    def _from_workers(self, jobs: list[Job]) -> Iterator[Parcel]:
        """The workers stay from epoch to epoch and meet each epoch's jobs through one list, their sampler."""
        self._jobs[:] = jobs
        if self._torch_loader is None:
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload(
                    [__name__, "maskrcnn.ops.kernels.rasterize_numba"]
                )  # imported once for all
            self._torch_loader = data.DataLoader(
                self._maker,
                batch_size=None,
                sampler=self._jobs,
                num_workers=self._workers,
                multiprocessing_context=context,
                persistent_workers=True,
                worker_init_fn=_start_worker,
                pin_memory=self._pin_memory,
                generator=torch.Generator(),  # else torch draws from the global one
            )
        with _deaf_to_sigterm():
            return iter(self._torch_loader)

    def close(self) -> None:
        """Ends the workers. The loader can still be used, and starts new ones then."""
        self._torch_loader = None


class TrainLoader(_Loader):
    """Augmented batches, epoch after epoch: `batches(epoch, start)`.

    Every rank has `len(loader)` batches in every epoch, all of them full. Ranks take turns in one list: N ranks with
    batches of B see in a step what one rank with batches of N x B sees, where all images share a canvas (a crop, or
    equal sizes); the last step is filled up with the epoch's first images. Otherwise a batch holds images of one
    canvas: those left over of a canvas are filled up with others of it, and a random choice of batches, another one in
    every epoch, is left out or comes twice to keep the number.

    A crop's canvas is the crop. Without a crop images go on `buckets`, unless the model's canvas is `exact`: few of a
    small data set would share a multiple of 32.

    Args:
        dataset: images without objects are kept and trained on.
        rule: the model's way from an image to the canvas.
        augmentation: see `augment`.
        batch: images of one rank and batch.
        seed: of the run.
        rank, world: this process, and how many there are.
        workers: processes that read ahead; 0 reads in this one.
        masks: whether the model wants masks. Keypoints come where the data set has them.
        mask_rule: what its masks are learnt from (`MaskHeadConfig.target`).
        keypoint_shift: added to annotated keypoints (`KeypointHeadConfig.shift`).
        inclusive: how a mirror counts unshifted keypoints (`BoxArithmetic.inclusive`), see `augment`.
        strict: an image that cannot be read is a `DataError`; else it is told to `warn` once, counted in `unread`, and
            replaced by the next image of the same canvas.
        pin_memory: page-locked pixels, for copies to a GPU.
        warn: called with one line; default the logger of this module.

    Raises `DataError` for a data set without images, or none of which can be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        rule: InputConfig,
        augmentation: AugmentConfig,
        *,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        masks: bool = True,
        mask_rule: str = "hard",
        keypoint_shift: float = 0.0,
        inclusive: bool = False,
        strict: bool = False,
        pin_memory: bool = False,
        warn: Warn | None = None,
    ) -> None:
        policy = "exact" if rule.canvas == "exact" else "buckets"
        kept = (dataset, rule, augmentation, seed, policy)
        maker = Maker(*kept, masks, keypoint_shift, replace=True, mask_rule=mask_rule, inclusive=inclusive)
        super().__init__(maker, workers=workers, strict=strict, pin_memory=pin_memory, warn=warn)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world

    def __len__(self) -> int:
        """Batches of an epoch on every rank."""
        return -(-len(self.dataset) // (self.batch * self.world))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from number `start` on. One iterator at a time."""
        return (unfold(parcel) for parcel in self._stream(self.plan(epoch)[start:]))

    def plan(self, epoch: int) -> list[Job]:
        """This rank's jobs of an epoch."""
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
        return [Job(epoch, tuple(order[positions].tolist()), canvas) for canvas, positions in mine]


class EvalLoader(_Loader):
    """Whole images as the model sees them at test, each once over all ranks. Nothing is random.

    They come in the data set's order, but for those gathered into a batch of one canvas (within 32 batches). Batches
    may hold fewer than `batch` images, and ranks may have different numbers of batches. An image that cannot be read
    is told, counted and left out. `gt` adds the objects, for a validation loss; `view_scales` and `view_flip` are for
    `views`, and with them a batch holds images of one size. The other arguments are as in `TrainLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        rule: InputConfig,
        *,
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        gt: bool = False,
        masks: bool = True,
        mask_rule: str = "hard",
        keypoint_shift: float = 0.0,
        views: TTA = ONE_VIEW,
        strict: bool = False,
        pin_memory: bool = False,
        warn: Warn | None = None,
    ) -> None:
        masks = masks and gt
        kept = (dataset, rule, NO_AUGMENTATION, 0, rule.canvas)
        maker = Maker(*kept, masks, keypoint_shift, False, mask_rule, views)
        super().__init__(maker, workers=workers, strict=strict, pin_memory=pin_memory, warn=warn)
        self.gt = gt
        self.plan = self._plan(batch, range(rank, len(dataset), world))

    def __len__(self) -> int:
        """Batches of this rank, those included of which nothing can be read."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches. One iterator at a time."""
        return (unfold(parcel, gt=self.gt) for parcel in self._stream(self.plan))

    def _plan(self, batch: int, mine: range) -> list[Job]:
        jobs = []
        for first in range(0, len(mine), batch * _WINDOW):
            groups: dict[tuple[int, ...], list[int]] = {}
            for index in mine[first : first + batch * _WINDOW]:
                size = self._maker.sizes[index].tolist() if self._maker.views != ONE_VIEW else ()
                groups.setdefault((*self._maker.canvas(index, 0), *size), []).append(index)
            for (height, width, *_), indices in groups.items():
                jobs += [Job(0, tuple(indices[i : i + batch]), (height, width)) for i in range(0, len(indices), batch)]
        return jobs


@contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    """Processes started in here do not hear SIGTERM, which schedulers send to all of a run's: the main process saves,
    for which it may need another batch. Python ends what still runs at exit by that signal; these are killed instead.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signal
        yield
        return
    resource_tracker.ensure_running()  # which would let the signal through again, were it started in here
    there = set(multiprocessing.active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for child in set(multiprocessing.active_children()) - there:
            atexit.register(child.kill)


def _start_worker(_: int) -> None:
    """One thread a worker, since the model has the processor; and Ctrl-C is the main process's to handle."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose main process was killed. torch's own watch looks at the fork server, which lives on as long
    as a worker does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
