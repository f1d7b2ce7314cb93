"""Objects drawn for tests of formats: records for a writer, and what a reader gave, ready to compare."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Dataset, Record, Segmentation
from maskrcnn.data.formats import ReadOptions, find, read_dataset
from maskrcnn.ops.rle import counts_from_bitmap


def anything() -> st.SearchStrategy[Any]:
    """Any value that a json can hold."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Some bytes changed, and perhaps the end cut off."""
    changed = bytearray(content)
    for _ in range(draw.draw(st.integers(0, 4))):
        changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    return bytes(changed[: draw.draw(st.integers(0, len(changed)) | st.just(len(changed)))])


def save_image(path: Path, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (90, 120, 60)).save(path)
    return path


def record_of(
    path: Path,
    segmentations: Sequence[Segmentation | np.ndarray],
    labels: Sequence[int],
    size: tuple[int, int],
    *,
    name: str = "",
    crowds: Sequence[bool] | None = None,
    scores: Sequence[float] | None = None,
    keypoints: np.ndarray | None = None,
    image_id: int = 1,
) -> Record:
    """An image at `path` with objects; bitmaps, bool [H W], become run lengths."""
    n = len(segmentations)
    masks: list[Segmentation] = [
        (counts_from_bitmap(mask), size) if isinstance(mask, np.ndarray) else mask for mask in segmentations
    ]
    bitmaps = [draw_bitmap(mask, size) for mask in masks]
    return Record(
        image_id=image_id,
        path=path,
        size=size,
        boxes=np.array([_box(bitmap) for bitmap in bitmaps], np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64).reshape(-1),
        ignore=np.array(crowds if crowds is not None else [False] * n, bool),
        keypoints=keypoints,
        annotation_ids=np.arange(n, dtype=np.int64) + 1,
        segmentations=masks,
        areas=np.array([bitmap.sum() for bitmap in bitmaps], np.float64).reshape(-1),
        name=name or path.name,
        scores=None if scores is None else np.array(scores, np.float64),
    )


def objects_in(dataset: Dataset) -> dict[str, list[tuple]]:
    """For each image, by the stem of its name, its objects: class, whether a crowd, and run lengths; sorted."""
    return {Path(dataset.name(i)).stem: objects_of_record(dataset.record(i), dataset) for i in range(len(dataset))}


def objects_of_record(record: Record, dataset: Dataset) -> list[tuple]:
    return sorted(
        (dataset.categories[label].name, crowd, *_runs(segmentation, record.size))
        for label, crowd, segmentation in zip(
            record.labels.tolist(), record.ignore.tolist(), record.segmentations, strict=True
        )
    )


def read_all(place: Path, images: Path | None = None, **options) -> dict[str, Dataset]:
    """Every split that is found there."""
    found = find(place, ReadOptions(images=images))
    return {split: read_dataset(source, images, **options) for split, source in found.items()}


def reasons(dataset: Dataset) -> list[str]:
    """What the report says was dropped or repaired."""
    return [problem.reason for problem in dataset.report.problems]


def layered(labels: np.ndarray, values: Iterable[int] | None = None) -> list[np.ndarray]:
    """A bitmap for each value but 0."""
    return [labels == value for value in (np.unique(labels[labels > 0]) if values is None else values)]


def _runs(segmentation: Segmentation, size: tuple[int, int]) -> list[int]:
    return [] if segmentation is None else counts_from_bitmap(draw_bitmap(segmentation, size)).tolist()


def _box(bitmap: np.ndarray) -> list[float]:
    y, x = np.nonzero(bitmap)
    return [0, 0, 1, 1] if not len(y) else [x.min(), y.min(), x.max() + 1, y.max() + 1]
