"""Records and data sets that tests of writers draw."""

from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.categories import Category
from maskrcnn.data.dataset import Dataset, ImageTable, ObjectTable, Record, Segmentation
from maskrcnn.data.problems import Report
from maskrcnn.ops.rle import counts_from_bitmap

CATEGORIES = (Category(3, "cell"), Category(7, "nucleus"))


def dataset_of_names(names: list[str]) -> Dataset:
    """Images of these names, with ids from 1 and without objects."""
    encoded, count = [name.encode() for name in names], len(names)
    zero: Any = np.zeros(0, np.int64)
    return Dataset(
        Path("data"),
        (Category(1, "cell"),),
        ImageTable(
            ids=np.arange(1, count + 1),
            sizes=np.full((count, 2), 8, np.int64),
            names=np.frombuffer(b"".join(encoded), np.uint8),
            name_offsets=np.cumsum([0, *map(len, encoded)]),
            roots=(Path("images"),),
            root_of=np.zeros(count, np.uint8),
        ),
        ObjectTable(
            np.zeros(count + 1, np.int64), zero, zero.astype(np.int32), np.zeros((0, 4)), zero.astype(bool),
            np.zeros(0), None, zero.astype(np.uint8), np.zeros((0, 2), np.int64), np.zeros(1, np.int64),
            np.zeros((0, 2)), zero.astype(np.uint32),
        ),
        "0" * 64,
        Report("data"),
        np.arange(count),
    )  # fmt: skip


def runs(bitmap: np.ndarray) -> Segmentation:
    """A bitmap, bool [H W], as a record holds it."""
    return counts_from_bitmap(bitmap), (bitmap.shape[0], bitmap.shape[1])


def record(
    segmentations: list[Segmentation],
    *,
    size: tuple[int, int] = (20, 30),
    boxes: list[list[float]] | None = None,
    name: str = "a.png",
    path: Path | None = None,
    **more: Any,
) -> Record:
    """An image with these objects, all of the first class."""
    count = len(segmentations)
    return Record(
        image_id=1,
        path=path or Path("images") / name,
        size=size,
        boxes=np.array(boxes if boxes is not None else [[0, 0, 4, 5]] * count, np.float64).reshape(-1, 4),
        labels=more.pop("labels", np.zeros(count, np.int64)),
        ignore=more.pop("ignore", np.zeros(count, bool)),
        keypoints=more.pop("keypoints", None),
        annotation_ids=np.arange(1, count + 1),
        segmentations=segmentations,
        areas=np.ones(count),
        name=name,
        **more,
    )
