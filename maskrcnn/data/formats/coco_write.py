"""COCO json, written: a whole data set, or annotated images one by one."""

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from ...categories import Category, keypoint_slices
from ...files import replacing
from ...ops.rle import string_from_counts
from ..dataset import Dataset, Record
from ..shapes import segmentation_of_rings
from .writing import FormatWriter

_PIECE = 1 << 20  # bytes


class Writer(FormatWriter):
    """Writes `<split>.json` for every split, `annotations.json` for a set that is not divided.

    Images that are copied or linked go to `images/`, or `images/<split>/`. A json replaces an older one when it is
    complete; nothing is left of a writer that is never closed.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._splits: dict[str, _Split] = {}
        self._info: dict[str, Any] = {}
        self.out.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record, split: str = "all") -> None:
        if (parts := self._splits.get(split)) is None:
            parts = self._splits[split] = _Split(self.out)
        folder = self.out / "images" / ("" if split == "all" else split)
        if record.thresholds:
            self._info["score_thresholds"] = dict(zip(self.names, record.thresholds, strict=True))
        image_id = parts.image_ids.free(record.image_id)
        parts.images.add(_image(image_id, self.place(record, folder), record.size))
        for row in _rows(record, self.categories):
            parts.objects.add(row | {"id": parts.ids.free(row["id"]), "image_id": image_id})

    def close(self) -> None:
        for split, parts in self._splits.items():
            name = "annotations.json" if split == "all" else f"{split}.json"
            _write(self.out / name, parts.images.pieces(), parts.objects.pieces(), self.categories, self._info)
        self._splits = {}


def write(dataset: Dataset, path: str | Path) -> None:
    """Writes a data set as a COCO json, atomically. Polygons stay polygons, run lengths are compressed; objects with a
    score have it, so predictions can be written, too.
    """
    sizes, every = dataset.sizes.tolist(), range(len(dataset))
    images = (_image(dataset.stated_id(i), dataset.name(i), sizes[i]) for i in every)
    objects = (row for i in every for row in _rows(dataset.record(i, exact=True), dataset.categories))
    _write(Path(path), _joined(images), _joined(objects), dataset.categories)


class _Split:
    def __init__(self, folder: Path) -> None:
        self.images, self.objects = _Rows(folder), _Rows(folder)
        self.image_ids, self.ids = _Ids(), _Ids()


class _Rows:
    """Rows of json on their way to a file, in one that has no name and goes with the process."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._file.close)
        self._empty = True

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(b"\n" if self._empty else b",\n")
        self._file.write(msgspec.json.encode(row))
        self._empty = False

    def pieces(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        self._file.close()


class _Ids:
    """Ids of which each is given once."""

    def __init__(self) -> None:
        self._taken: set[int | str] = set()
        self._largest = 0

    def free(self, wanted: Any) -> Any:
        """`wanted`, or a new number if it is taken or none."""
        if wanted is None or wanted in self._taken:
            wanted = self._largest + 1
        self._taken.add(wanted)
        if isinstance(wanted, int):
            self._largest = max(self._largest, wanted)
        return wanted


def _write(
    path: Path,
    images: Iterable[bytes],
    objects: Iterable[bytes],
    categories: Sequence[Category],
    info: dict[str, Any] | None = None,
) -> None:
    lists = {"images": images, "annotations": objects, "categories": _joined(map(_category, categories))}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b"{")
        if info:
            file.write(b'"info":%b,' % msgspec.json.encode(info))
        for mark, (name, pieces) in zip((b"", b",", b","), lists.items(), strict=True):
            file.write(b'%b"%b":[' % (mark, name.encode()))
            file.writelines(pieces)
            file.write(b"]")
        file.write(b"}\n")


def _joined(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for place, row in enumerate(rows):
        yield b",\n" if place else b"\n"
        yield msgspec.json.encode(row)


def _image(image_id: int | str, name: str, size: Sequence[int]) -> dict[str, Any]:
    return {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}


def _category(category: Category) -> dict[str, Any]:
    row: dict[str, Any] = {"id": category.id, "name": category.name}
    if category.keypoints:
        skeleton = [[a + 1, b + 1] for a, b in category.skeleton]
        row |= {"keypoints": category.keypoints, "skeleton": skeleton}
        row |= {"flip_pairs": category.flip_pairs, "sigmas": category.sigmas}
    return row


def _rows(record: Record, categories: Sequence[Category]) -> Iterator[dict[str, Any]]:
    slices = keypoint_slices(categories)
    labels, boxes = record.labels.tolist(), record.boxes.astype(np.float64).tolist()
    for j, (label, (x1, y1, x2, y2)) in enumerate(zip(labels, boxes, strict=True)):
        row = {
            "id": int(record.annotation_ids[j]),
            "image_id": record.image_id,
            "category_id": categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(record.areas[j]),
            "iscrowd": int(record.ignore[j]),
        }
        if (mask := _segmentation(record, j)) is not None:
            row["segmentation"] = mask
        if record.keypoints is not None and categories[label].keypoints:
            own = record.keypoints[j, slices[label]].astype(np.float64)
            row |= {"keypoints": own.ravel().tolist(), "num_keypoints": int((own[:, 2] > 0).sum())}
        if (score := record.score(j)) is not None:
            row["score"] = score
        yield row


def _segmentation(record: Record, j: int) -> Any:
    mask = record.segmentations[j]
    if mask is None and record.shapes is not None and record.shapes[j]:
        rings = [ring for shape in record.shapes[j] for ring in (shape.outer, *shape.holes)]
        holes = any(shape.holes for shape in record.shapes[j])
        mask = segmentation_of_rings(rings, record.size) if holes else rings
    if mask is None:
        return None
    if isinstance(mask, list):
        return [polygon.ravel().tolist() for polygon in mask]
    return {"size": record.size, "counts": string_from_counts(mask[0]).decode()}
