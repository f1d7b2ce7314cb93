"""Images with drawn objects, written by a format and read again: what comes back is compared with what was drawn."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Dataset, Record, Segmentation
from maskrcnn.data.formats import find_splits, read_dataset, writer
from maskrcnn.data.shapes import shapes_of_bitmap
from maskrcnn.ops.rle import counts_from_bitmap

NAMES = ("ant", "big bee", "Käfer")  # in the order of their names, as formats without an order of their own have them
CATEGORIES = [Category(number, name) for number, name in enumerate(NAMES, start=1)]


class Drawn(NamedTuple):
    """An object: its mask, or a box alone."""

    label: int
    mask: Segmentation = None
    box: tuple[float, float, float, float] | None = None  # xyxy
    crowd: bool = False


def mask_of(bitmap: Any) -> Segmentation:
    bitmap = np.array(bitmap, dtype=bool)
    return counts_from_bitmap(bitmap), (bitmap.shape[0], bitmap.shape[1])


def record_of(folder: Path, name: str, size: tuple[int, int], things: Sequence[Drawn], **more: Any) -> Record:
    """A record of these objects, with a grey image file in `folder`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size[1], size[0]), 90).save(path)
    boxes = [thing.box or _box(draw_bitmap(thing.mask, size)) for thing in things]
    return Record(
        image_id=more.pop("image_id", 1),
        path=path,
        size=size,
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array([thing.label for thing in things], dtype=np.int64),
        ignore=np.array([thing.crowd for thing in things], dtype=bool),
        keypoints=None,
        annotation_ids=np.arange(len(things)),
        segmentations=[thing.mask for thing in things],
        areas=np.ones(len(things)),
        name=name,
    )._replace(**more)


def _box(bitmap: np.ndarray) -> tuple[float, float, float, float]:
    y, x = np.nonzero(bitmap)
    return (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 1, 1)


def write_all(format: str, out: Path, records: Sequence[Record], images: Any = "copy", splits: Any = None) -> Any:
    """Writes the records; gives the writer."""
    to = writer(format, out, CATEGORIES, images)
    for place, record in enumerate(records):
        to.add(record, splits[place] if splits else "all")
    to.close()
    return to


def objects_of(data: Dataset) -> list[tuple[str, tuple[int, int], list[tuple[Any, ...]]]]:
    """Every image with its objects in a form that can be compared: masks as pixels, boxes of objects without a mask."""
    images = []
    for i in range(len(data)):
        record = data.record(i, exact=True)
        images.append((record.name, record.size, _comparable(record, [c.name for c in data.categories])))
    return sorted(images)


def _comparable(record: Record, names: Sequence[str]) -> list[tuple[Any, ...]]:
    things = []
    for i, mask in enumerate(record.segmentations):
        shown = (
            draw_bitmap(mask, record.size).tobytes() if mask is not None else tuple(record.boxes[i].round(6).tolist())
        )
        things.append((names[record.labels[i]], bool(record.ignore[i]), shown))
    return things


def comes_back(format: str, records: Sequence[Record]) -> None:
    """Asserts that what is written is read as it was drawn, twice in a row, and that the format is found."""
    drawn = sorted((record.name, record.size, _comparable(record, NAMES)) for record in records)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        write_all(format, first, records)
        data = read_dataset(first)
        assert find_splits(first)[0].format == format
        assert data.report.problems == []
        assert objects_of(data) == drawn
        names = {category.name: label for label, category in enumerate(CATEGORIES)}
        labels = np.array([names[category.name] for category in data.categories])
        again = [data.record(i, exact=True) for i in range(len(data))]
        write_all(format, second, [record._replace(labels=labels[record.labels]) for record in again])
        assert objects_of(read_dataset(second)) == drawn


def bitmaps(size: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    """Masks with holes, parts, one pixel; at the borders, too."""
    return arrays(bool, size).filter(lambda bitmap: bool(bitmap.any()))


def polygons(size: tuple[int, int]) -> st.SearchStrategy[list[np.ndarray]]:
    """One to three polygons in quarters of pixels, which may cross each other and lie inside each other."""
    x, y = (st.integers(0, 4 * side).map(lambda value: value / 4) for side in size[::-1])
    one = st.lists(st.tuples(x, y), min_size=3, max_size=5).map(lambda points: np.array(points, dtype=np.float64))
    return st.lists(one.filter(_has_area), min_size=1, max_size=3)


def _has_area(points: np.ndarray) -> bool:
    x, y = (points - points[0]).T
    return bool(np.abs(x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0.01) and bool(
        (np.ptp(points, axis=0) > 0).all()
    )


def boxes(size: tuple[int, int]) -> st.SearchStrategy[tuple[float, float, float, float]]:
    x, y = (st.lists(st.integers(0, 4 * side), min_size=2, max_size=2, unique=True).map(sorted) for side in size[::-1])
    return st.tuples(x, y).map(lambda ends: (ends[0][0] / 4, ends[1][0] / 4, ends[0][1] / 4, ends[1][1] / 4))


@st.composite
def scenes(draw: Any) -> list[tuple[tuple[int, int], list[Drawn]]]:
    """One or two images with up to three objects each, at least one in all."""
    images = []
    for _ in range(draw(st.integers(1, 2))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        mask = st.one_of(bitmaps(size).map(mask_of), polygons(size))
        masked = st.builds(Drawn, st.integers(0, 2), mask, st.none(), st.booleans())
        boxed = st.builds(Drawn, st.integers(0, 2), st.none(), boxes(size), st.booleans())
        images.append((size, draw(st.lists(st.one_of(masked, boxed), max_size=3))))
    if not any(things for _, things in images):
        size = images[0][0]
        images[0][1].append(Drawn(0, mask_of(np.ones(size, bool))))
    return images


def records_of(scene: list[tuple[tuple[int, int], list[Drawn]]], folder: Path) -> list[Record]:
    """The records of a scene."""
    return [
        record_of(folder, f"{place}.png", size, things, image_id=place + 1)
        for place, (size, things) in enumerate(scene)
    ]


HOLE = np.pad(np.zeros((2, 3), bool), 2, constant_values=True)  # a ring of two pixels around a hole
ISLAND = np.pad(np.pad(np.pad(np.ones((1, 1), bool), 1), 1, constant_values=True), ((0, 0), (0, 2)))
PARTS = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1]], bool)


def predictions_of(folder: Path, size: tuple[int, int] = (8, 8)) -> Record:
    """A record of predictions with outlines between pixels: one plain, one with a hole, one without a mask."""
    plain = [np.array([[0.5, 0.75], [3.25, 0.75], [3.25, 3.5], [0.5, 3.5]])]
    holed = np.zeros(size, bool)
    holed[3:8, 3:8] = True
    holed[5, 5] = False
    things = [Drawn(0, plain), Drawn(1, mask_of(holed)), Drawn(2, None, (1.5, 2.5, 4.0, 6.0))]
    record = record_of(folder, "p.png", size, things, scores=np.array([0.5, 0.75, 0.25]))
    return record._replace(
        shapes=[[shapes_of_bitmap(draw_bitmap(plain, size))[0]._replace(outer=plain[0])], shapes_of_bitmap(holed), []]
    )
