"""One batch: made by a worker from a plan, packed on its way between processes, unpacked into slots for the model.

`BatchMaker` reads, augments and rasterises the images of a `BatchPlan`. Its `PackedBatch` holds all objects end to end
and their masks as packed bits, so that little passes between processes; `unpack` gives every image its slots. An
image's canvas follows from the data set alone, before anything is read.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils import data

from ..canvas import Window, canvas_size, join, prepare_views, to_images, window_of
from ..categories import flip_pairs
from ..config import ONE_VIEW, TTA, AugmentConfig, ModelConfig
from ..errors import ConfigError, DataError
from ..structures import GroundTruth, Images, Outlines
from .augment import MASK_SIDE, Sample, augment, draw_geometry
from .bitmaps import grown, pack_polygons
from .copy_paste import copy_paste
from .dataset import Dataset, Record
from .transform import Transform, apply

_64_BITS = 2**64 - 1


class Batch(NamedTuple):
    """What a training step or an evaluation sees. Pixels are channels last in memory."""

    images: Images
    gt: GroundTruth | None  # None if an evaluation did not ask for it
    image_ids: Int[Tensor, " B"]


class BatchPlan(NamedTuple):
    """A batch to be made: which images of the data set, on which canvas (height, width)."""

    epoch: int
    indices: tuple[int, ...]
    canvas: tuple[int, int]


class PackedBatch(NamedTuple):
    """A batch on its way between processes: N objects of B images end to end."""

    images: Images | None  # None if no image could be read
    counts: Tensor  # int64 [B], objects of each image
    objects: dict[str, Tensor]  # fields of `GroundTruth`, [N ...]
    bits: Tensor | None  # uint8 [N ceil(S*S/8)], the masks
    mask_side: int  # S
    outlines: Outlines | None  # spans [N 2]
    image_ids: Tensor  # int64 [B]
    problems: tuple[tuple[int, str], ...]  # id and reason of each image that could not be read
    failure: str | None = None  # why nothing could be made: the user's transform


@dataclass
class BatchMaker(data.Dataset):
    """Makes the batch of a `BatchPlan`. It holds only the data set's buffers and settings, so it is cheap to pickle."""

    dataset: Dataset
    model: ModelConfig
    augmentation: AugmentConfig
    seed: int
    policy: str  # the canvas of images that are not cropped
    masks: bool  # whether to make masks
    # An image that cannot be read is replaced by the next one of the data set that has the same canvas, or by another
    # one of its batch if there is none; otherwise it is left out.
    replace: bool
    views: TTA = ONE_VIEW  # of each image, for test-time augmentation
    transform: Transform | None = None  # the user's

    def __post_init__(self) -> None:
        self.rule = self.model.input
        self.flip_pairs = flip_pairs(self.dataset.categories)
        self.image_ids, self.sizes = self.dataset.image_ids, self.dataset.sizes

    def sample_seed(self, index: int, epoch: int) -> int:
        """The seed of one image in one epoch."""
        return sample_seed(self.seed, epoch, int(self.image_ids[index]))

    def canvas(self, index: int, epoch: int) -> tuple[int, int]:
        """The canvas of one image in one epoch."""
        if self.augmentation.crop:
            side = self.augmentation.crop
            return canvas_size((side, side), "exact" if self.policy == "exact" else "multiple-of-32")
        rng = np.random.default_rng(self.sample_seed(index, epoch))
        height, width = self.sizes[index].tolist()
        size = draw_geometry(rng, (height, width), self.augmentation, self.rule).size
        largest = max(self.augmentation.min_sizes, default=self.rule.min_size)
        return canvas_size(size, self.policy, min_size=largest, max_size=self.rule.max_size)

    def __getitem__(self, plan: BatchPlan) -> PackedBatch:
        problems: list[tuple[int, str]] = []
        try:
            return self._made(plan, problems)
        except ConfigError as error:  # from one process to another it would come with a traceback
            return self._pack([], plan, tuple(problems))._replace(failure=str(error))

    def _made(self, plan: BatchPlan, problems: list[tuple[int, str]]) -> PackedBatch:
        tried = [self._first_readable(index, plan.epoch, plan.canvas, problems) for index in plan.indices]
        made = [found for found in tried if found]
        if self.replace and not made:  # no image of this canvas can be read: take one of any canvas
            if found := self._first_readable(plan.indices[0], plan.epoch, None, problems):
                made, plan = [found], plan._replace(canvas=self.canvas(found[0], plan.epoch))
        if self.replace and made:
            made = [made[i % len(made)] for i in range(len(plan.indices))]
        return self._pack(made, plan, tuple(problems))

    def _first_readable(
        self, index: int, epoch: int, canvas: tuple[int, int] | None, problems: list[tuple[int, str]]
    ) -> tuple[int, Sample] | None:
        """The image at `index`, or the next that can be read and has this canvas (None: any)."""
        for step in range(len(self.dataset) if self.replace else 1):
            candidate = (index + step) % len(self.dataset)
            if canvas not in (None, self.canvas(candidate, epoch)):
                continue
            try:
                return candidate, self.sample(candidate, epoch)
            except DataError as error:
                problems.append((int(self.image_ids[candidate]), str(error)))
        return None

    def sample(self, index: int, epoch: int) -> Sample:
        """One image in one epoch, augmented. What the crop does not show is not read, if the image's format allows it.

        Raises `DataError` if the image cannot be read, and `ConfigError` if what the user's transform returns is wrong.
        """
        record, seed = self.dataset.record(index), self.sample_seed(index, epoch)
        with record.open() as source:
            image, record = self._changed(window_of(source, self.rule), record, seed)
            return augment(
                image, record, np.random.default_rng(seed), self.augmentation, self.model,
                masks=self.masks, flip_pairs=self.flip_pairs,
            )  # fmt: skip

    def _changed(self, image: Window, record: Record, seed: int) -> tuple[np.ndarray | Window, Record]:
        """The image and its objects with what is pasted and after the user's transform, which need the whole image."""
        changed: np.ndarray | Window = image
        rng = np.random.default_rng((seed, 1))  # its own, so that the geometry is the same without
        if self.augmentation.copy_paste and rng.random() < self.augmentation.copy_paste:
            below = changed = image(0, 0, *record.size)
            other = self.dataset.record(int(rng.integers(len(self.dataset))))
            with suppress(DataError), other.open() as source:  # it is reported when its own turn comes
                above = window_of(source, self.rule)
                changed, record = copy_paste(
                    below, record, above, other, rng, self.augmentation, self.model, self.flip_pairs
                )
        if self.transform is not None:
            whole = changed if isinstance(changed, np.ndarray) else changed(0, 0, *record.size)
            changed, record = apply(self.transform, whole, record, seed, resizes=bool(self.augmentation.crop))
        return changed, record

    def _images(self, indices: list[int], samples: list[Sample], plan: BatchPlan) -> Images:
        if self.views != ONE_VIEW:
            return join([self._views(index) for index in indices])
        return to_images(
            [sample.image for sample in samples],
            [(int(h), int(w)) for h, w in self.sizes[indices]],
            [self.sample_seed(index, plan.epoch) for index in indices],
            canvas=plan.canvas,
            scales=[sample.scales for sample in samples],
        )

    def _views(self, index: int) -> Images:
        with self.dataset.open(index) as source:
            array = source.read(channels=self.rule.channels, ranges=self.rule.range)
        return prepare_views(array, self.rule, self.views)

    def _pack(
        self, made: list[tuple[int, Sample]], plan: BatchPlan, problems: tuple[tuple[int, str], ...]
    ) -> PackedBatch:
        indices, samples = [index for index, _ in made], [sample for _, sample in made]
        fields = ["boxes", "labels", "ignore", *(["keypoints"] if self.dataset.num_keypoints else [])]
        objects = {
            field: torch.from_numpy(np.concatenate([getattr(sample, field) for sample in samples]))
            for field in (fields if made else ())
        }
        bits, side, outlines = None, MASK_SIDE, None
        if self.masks:
            bits, objects["mask_boxes"], side = _pack_masks(samples)
        if self.masks and self.model.mask_head.target == "polygon":
            packed = pack_polygons([polygons for sample in samples for polygons in sample.outlines or []])
            outlines = Outlines(*map(torch.from_numpy, packed))
        return PackedBatch(
            images=self._images(indices, samples, plan) if made else None,
            counts=torch.tensor([len(sample.labels) for sample in samples], dtype=torch.int64),
            objects=objects,
            bits=bits,
            mask_side=side,
            outlines=outlines,
            image_ids=torch.from_numpy(self.image_ids[indices].astype(np.int64)),
            problems=problems,
        )


def _pack_masks(samples: list[Sample]) -> tuple[Tensor, Tensor, int]:
    """The bits of all objects, enlarged to one side; their frames; that side."""
    shown = [(s.masks, s.frames) for s in samples if s.masks is not None and s.frames is not None]
    side = max((masks.shape[-1] for masks, _ in shown), default=MASK_SIDE)
    bits, places = [np.zeros((0, side**2), bool)], [np.zeros((0, 4), np.float32)]
    for masks, frames in shown:
        more = side - masks.shape[-1]
        bits.append((grown(masks, side) if more else masks).reshape(-1, side**2))
        places.append(frames + np.array([0, 0, more, more], np.float32))
    packed = np.packbits(np.concatenate(bits), axis=1)
    return torch.from_numpy(packed), torch.from_numpy(np.concatenate(places)), side


def sample_seed(run_seed: int, epoch: int, image_id: int) -> int:
    """The source of all randomness in a sample, 0..2^63 - 1: the three numbers hashed (splitmix64)."""
    state = 0
    for word in (run_seed, epoch, image_id):
        state = (state + word + 0x9E3779B97F4A7C15) & _64_BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _64_BITS
        state ^= state >> 31
    return state >> 1


def slots(most: int) -> int:
    """G: the first of 16, 32, 64, ... that holds `most` objects."""
    return max(16, 1 << (most - 1).bit_length())


def unpack(packed: PackedBatch, *, gt: bool = True) -> Batch:
    """The batch, whose images could be read; `gt` asks for the objects."""
    assert packed.images is not None
    images = packed.images._replace(views=tuple(packed.images.views))  # torch's loader makes lists of plain tuples
    if not gt:
        return Batch(images, None, packed.image_ids)
    counts = packed.counts.tolist()
    B, G = len(counts), slots(max(counts))
    ends = np.cumsum(counts)

    def laid_out(values: Tensor) -> Tensor:
        source = values.numpy()
        table = np.zeros((B, G, *source.shape[1:]), dtype=source.dtype)  # memory that is never touched costs nothing
        for b, (count, end) in enumerate(zip(counts, ends, strict=True)):
            table[b, :count] = source[end - count : end]
        return torch.from_numpy(table)

    objects, outlines, side = dict(packed.objects), packed.outlines, packed.mask_side
    if packed.bits is not None:
        bits = np.unpackbits(packed.bits.numpy(), axis=1, count=side * side).view(np.bool_)
        objects["masks"] = torch.from_numpy(bits.reshape(-1, side, side))
    if outlines is not None:
        outlines = outlines._replace(spans=laid_out(outlines.spans))
    fields: dict[str, Any] = dict.fromkeys(("masks", "mask_boxes", "keypoints"))
    fields |= {name: laid_out(values) for name, values in objects.items()}
    truth = GroundTruth(**fields, valid=torch.arange(G) < packed.counts[:, None], outlines=outlines)
    return Batch(images, truth, packed.image_ids)
