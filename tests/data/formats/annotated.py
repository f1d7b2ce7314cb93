"""Annotated images for tests of formats: drawn by hypothesis, written to a folder, and compared after a round trip."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Dataset, Record
from maskrcnn.data.formats import FormatWriter, ReadOptions, find, read_dataset, writer
from maskrcnn.ops.rle import counts_from_bitmap

CATEGORIES = (Category(3, "cell"), Category(7, "a class: <with> &marks"))


def record(
    folder: Path, name: str, size: tuple[int, int], objects: list[tuple], *, crowds: Collection[int] = ()
) -> Record:
    """An image file and its objects, each (label, mask) or (label, box): polygons, a bitmap, or [x1, y1, x2, y2]."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0]), 9).save(path)
    segmentations, boxes, areas = [], [], []
    for _, shape in objects:
        if isinstance(shape, np.ndarray) and shape.dtype == bool:
            y, x = np.nonzero(shape)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            segmentations.append((counts_from_bitmap(shape), size))
            areas.append(shape.sum())
        elif isinstance(shape[0], np.ndarray):
            points = np.concatenate(shape)
            boxes.append([*points.min(axis=0), *points.max(axis=0)])
            segmentations.append(shape)
            areas.append(draw_bitmap(list(shape), size).sum())
        else:
            boxes.append(shape)
            segmentations.append(None)
            areas.append((shape[2] - shape[0]) * (shape[3] - shape[1]))
    n = len(objects)
    return Record(
        image_id=1,
        path=path,
        size=size,
        boxes=np.array(boxes, dtype=np.float64).reshape(n, 4),
        labels=np.array([label for label, _ in objects], dtype=np.int64),
        ignore=np.array([i in crowds for i in range(n)], dtype=bool),
        keypoints=None,
        annotation_ids=np.arange(1, n + 1),
        segmentations=segmentations,
        areas=np.array(areas, dtype=np.float64),
        name=name,
    )


@st.composite
def objects(draw, size: tuple[int, int], *, boxes: bool = True) -> tuple:
    """A label and a bitmap of any shape, or a box in quarters of a pixel."""
    label = draw(st.integers(0, len(CATEGORIES) - 1))
    if boxes and draw(st.integers(0, 3)) == 0:
        x = sorted(draw(st.lists(st.integers(0, 4 * size[1]), min_size=2, max_size=2, unique=True)))
        y = sorted(draw(st.lists(st.integers(0, 4 * size[0]), min_size=2, max_size=2, unique=True)))
        return label, [x[0] / 4, y[0] / 4, x[1] / 4, y[1] / 4]
    return label, draw(arrays(bool, size).filter(np.any))


@st.composite
def scenes(draw, *, boxes: bool = True) -> list[tuple[tuple[int, int], list[tuple], set[int]]]:
    """Some images: size, objects and which of them are crowds."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        own = draw(st.lists(objects(size, boxes=boxes), max_size=4))
        found.append((size, own, draw(st.sets(st.integers(0, 3)))))
    return found


@st.composite
def apart(draw) -> list[tuple[tuple[int, int], list[tuple], set[int]]]:
    """The same without overlaps: every pixel belongs to one object at most."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        numbers = draw(arrays(np.int8, size, elements=st.integers(0, 3)))
        masks = [(draw(st.integers(0, 1)), numbers == i) for i in (1, 2, 3) if (numbers == i).any()]
        boxes = [(1, [0.0, 0.0, size[1] / 2, float(size[0])])] * draw(st.integers(0, 2))
        found.append((size, draw(st.permutations([*masks, *boxes])), draw(st.sets(st.integers(0, 4)))))
    return found


def written(format: str, folder: Path, records: list[Record], split: str = "all", images: Any = "copy") -> FormatWriter:
    """Writes the records and returns the writer."""
    out = writer(format, folder, CATEGORIES, images)
    for one in records:
        out.add(one, split)
    out.close()
    return out


def read_back(place: Path, split: str | None = None, **options) -> Dataset:
    found = find(place, ReadOptions())
    return read_dataset(found[split or next(iter(found))], **options)


def contents(data: Dataset) -> dict[str, tuple[list[str], list[list[bool]], list[np.ndarray], list[list[float]]]]:
    """What a data set holds, by the name of the image: class names, crowds, bitmaps and boxes."""
    found = {}
    for i in range(len(data)):
        own = data.record(i, exact=True)
        names = [data.categories[label].name for label in own.labels]
        masks = [None if s is None else draw_bitmap(s, own.size) for s in own.segmentations]
        found[own.name] = names, own.ignore.tolist(), masks, own.boxes.tolist()
    return found


def assert_same(data: Dataset, records: list[Record], *, boxes: bool = True) -> None:
    """The data set has exactly these objects, pixel for pixel."""
    found = contents(data)
    assert sorted(found) == sorted(one.name for one in records)
    for one in records:
        names, crowds, masks, own_boxes = found[one.name]
        assert names == [CATEGORIES[label].name for label in one.labels]
        assert crowds == one.ignore.tolist()
        for mask, expected in zip(masks, one.segmentations, strict=True):
            if expected is None:
                assert mask is None
            else:
                np.testing.assert_array_equal(mask, draw_bitmap(expected, one.size))
        if boxes:
            np.testing.assert_allclose(np.reshape(own_boxes, (-1, 4)), one.boxes, atol=1e-6)
