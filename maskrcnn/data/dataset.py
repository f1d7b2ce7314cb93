"""A data set of any size as a handful of flat NumPy arrays, from which `record(i)` cuts one image with its objects.

No Python object exists per annotation, so COCO's 860,000 objects stay small, and processes can share the buffers
(`shared.py`). `DatasetBuilder` fills the tables; of files only images are read here, by `open`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..categories import Category, category_table, keypoint_slices
from ..errors import DataError
from ..images import ImageSource, Page, open_image
from ..thresholds import Thresholds
from .problems import Report
from .shared import hand_over, share, take_over

NO_MASK, POLYGONS, RLE = 0, 1, 2  # values of `ObjectTable.kinds`
Segmentation: TypeAlias = list[np.ndarray] | tuple[np.ndarray, tuple[int, int]] | None


class Shape(NamedTuple):
    """A connected part of an object, as its outlines, float64 [n 2], (x, y); their first point is not repeated."""

    outer: np.ndarray
    holes: list[np.ndarray]


class Record(NamedTuple):
    """One image and its n objects. Coordinates are continuous pixels of the image as annotated."""

    image_id: int | str  # as the source states it
    path: Path
    size: tuple[int, int]  # (height, width) as annotated
    boxes: np.ndarray  # float32 [n 4], xyxy; float64 for a `Writer`
    labels: np.ndarray  # int64 [n], 0..K-1
    ignore: np.ndarray  # bool [n], crowds
    # float32 [n J 3], x, y, v of the keypoints of all categories; v is 0 if not labelled, 1 hidden, 2 visible
    keypoints: np.ndarray | None
    annotation_ids: np.ndarray  # int64 [n]
    # polygons, each float64 [m 2]; or RLE, (uint32 counts, (height, width)); or None for a box alone
    segmentations: list[Segmentation]
    areas: np.ndarray  # float64 [n], pixels: as the file states them, else of the mask, else of the box
    name: str = ""  # the image's file name as the source states it
    scores: np.ndarray | None = None  # float64 [n], 0..1, of predictions
    # outlines that are finer than `segmentations`, of predictions; see `shapes.py`
    shapes: list[list[Shape]] | None = None
    image: np.ndarray | None = None  # [H W C], of an image that came from no file
    page: Page = None  # of a stack: the one that is seen
    thresholds: Thresholds = ()  # of predictions: the least score of each class

    def open(self) -> AbstractContextManager[ImageSource]:
        """The image, open while a `with` block runs. Raises `DataError` then, also for another size than annotated."""
        return open_image(self.path, page=self.page, annotated_size=self.size)

    def select(self, keep: np.ndarray) -> "Record":
        """The objects at these indices, int64, or for which `keep`, bool [n], is True."""
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        names = ("boxes", "labels", "ignore", "keypoints", "annotation_ids", "areas", "scores")
        columns = {name: column[rows] for name in names if (column := getattr(self, name)) is not None}
        lists = {name: given for name in ("segmentations", "shapes") if (given := getattr(self, name)) is not None}
        return self._replace(**columns, **{name: [given[i] for i in rows.tolist()] for name, given in lists.items()})

    def score(self, i: int) -> float | None:
        """The score of object i, if it has one."""
        return float(self.scores[i]) if self.scores is not None and np.isfinite(self.scores[i]) else None


class ImageTable(NamedTuple):
    """One row per image. `names` and `id_texts` hold texts, UTF-8, end to end."""

    ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N 2], (height, width)
    names: np.ndarray  # uint8 [bytes]
    name_offsets: np.ndarray  # int64 [N + 1]
    roots: tuple[Path, ...]
    root_of: np.ndarray  # uint8 [N], index into `roots`
    id_texts: np.ndarray | None = None  # uint8 [bytes], the ids that the source states as text; None if it states none
    id_offsets: np.ndarray | None = None  # int64 [N + 1]


class ObjectTable(NamedTuple):
    """One row per object, sorted by image: image row i has the objects offsets[i]:offsets[i + 1]."""

    offsets: np.ndarray  # int64 [N + 1]
    ids: np.ndarray  # int64 [n]
    labels: np.ndarray  # int32 [n]
    boxes: np.ndarray  # float64 [n 4], xyxy: float32 would move an IoU that lies on a threshold of AP
    ignore: np.ndarray  # bool [n]
    areas: np.ndarray  # float64 [n]
    keypoints: np.ndarray | None  # float32 [n J 3]
    kinds: np.ndarray  # uint8 [n]: NO_MASK, POLYGONS, RLE
    spans: np.ndarray  # int64 [n 2]: the object's range of polygons, or of counts
    part_offsets: np.ndarray  # int64 [parts + 1]: the range of points of a polygon
    points: np.ndarray  # float64 [points 2]
    counts: np.ndarray  # uint32 [counts], run lengths column by column, starting with background
    scores: np.ndarray | None = None  # float64 [n], 0..1, of predictions

    def select(self, keep: np.ndarray) -> "ObjectTable":
        """The rows for which `keep` (bool [n]) is True. The buffers of polygons and counts are shared."""
        names = ("ids", "labels", "boxes", "ignore", "areas", "keypoints", "kinds", "spans", "scores")
        columns = {name: column[keep] for name in names if (column := getattr(self, name)) is not None}
        return self._replace(offsets=np.concatenate([[0], np.cumsum(keep)])[self.offsets], **columns)


@dataclass(eq=False, repr=False)
class Dataset:
    """Images and their objects, in the order of the source, or a part of them (`subset`).

    It is cheap to pickle: a worker that is spawned with it maps the large buffers instead of copying them.
    """

    source: Path  # the file or folder that was read
    categories: tuple[Category, ...]  # labels count from 0 in their order
    images: ImageTable
    objects: ObjectTable
    fingerprint: str  # SHA-256 of the annotations' bytes
    report: Report  # what was dropped and repaired
    rows: np.ndarray  # int64 [N], the rows of `images` that belong to this data set
    page: Page = (
        None  # of images that are stacks: the one that is annotated, from 1, or "max", which is the user's word
    )

    def __post_init__(self) -> None:
        self.images, self.objects = share(self.images), share(self.objects)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"images": hand_over(self.images), "objects": hand_over(self.objects)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"images": take_over(state["images"]), "objects": take_over(state["objects"])}

    @property
    def image_ids(self) -> np.ndarray:
        """int64 [N]; numbers that stand for those ids that are text."""
        return self.images.ids[self.rows]

    def stated_id(self, i: int) -> int | str:
        """Image i's id as the source states it."""
        images, row = self.images, self.rows[i]
        if images.id_texts is not None and images.id_offsets is not None:
            if text := images.id_texts[images.id_offsets[row] : images.id_offsets[row + 1]].tobytes():
                return text.decode()
        return int(images.ids[row])

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N 2], (height, width) as annotated."""
        return self.images.sizes[self.rows]

    @property
    def annotation_counts(self) -> np.ndarray:
        """int64 [N]: objects of each image, crowds included."""
        return self.objects.offsets[self.rows + 1] - self.objects.offsets[self.rows]

    @property
    def num_keypoints(self) -> int:
        """Keypoints of all categories together; 0 if they were not read."""
        return 0 if self.objects.keypoints is None else self.objects.keypoints.shape[1]

    def object_rows(self) -> np.ndarray:
        """int64: the rows of `objects` that belong to this data set's images, image by image."""
        counts = self.annotation_counts
        first = np.repeat(self.objects.offsets[self.rows] - (np.cumsum(counts) - counts), counts)
        return first + np.arange(len(first))

    def name(self, i: int) -> str:
        """Image i's file name, in its folder among the roots."""
        images, row = self.images, self.rows[i]
        return images.names[images.name_offsets[row] : images.name_offsets[row + 1]].tobytes().decode()

    def path(self, i: int) -> Path:
        """The file of image i."""
        return self.images.roots[self.images.root_of[self.rows[i]]] / self.name(i)

    def open(self, i: int) -> AbstractContextManager[ImageSource]:
        """Image i, as `Record.open` does it."""
        height, width = self.sizes[i].tolist()
        return open_image(self.path(i), page=self.page, annotated_size=(height, width))

    def record(self, i: int, *, exact: bool = False) -> Record:
        """Image i with its objects, in the order of the source. `exact` leaves the boxes in float64."""
        objects, row = self.objects, self.rows[i]
        first, last = int(objects.offsets[row]), int(objects.offsets[row + 1])
        height, width = self.images.sizes[row].tolist()
        return Record(
            image_id=self.stated_id(i),
            path=self.path(i),
            size=(height, width),
            boxes=objects.boxes[first:last].astype(np.float64 if exact else np.float32),
            labels=objects.labels[first:last].astype(np.int64),
            ignore=objects.ignore[first:last],
            keypoints=None if objects.keypoints is None else objects.keypoints[first:last],
            annotation_ids=objects.ids[first:last],
            segmentations=[self._segmentation(j, (height, width)) for j in range(first, last)],
            areas=objects.areas[first:last],
            name=self.name(i),
            scores=None if objects.scores is None else objects.scores[first:last],
            page=self.page,
        )

    def _segmentation(self, j: int, size: tuple[int, int]) -> Segmentation:
        objects = self.objects
        first, last = objects.spans[j].tolist()
        if objects.kinds[j] == POLYGONS:
            return [objects.points[a:b] for a, b in pairwise(objects.part_offsets[first : last + 1].tolist())]
        return (objects.counts[first:last], size) if objects.kinds[j] == RLE else None

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Dataset":
        """The images at `indices`, in that order, over the same buffers."""
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)])


def map_categories(dataset: Dataset, categories: Iterable[Category]) -> tuple[Dataset, list[str]]:
    """`dataset` with the labels of `categories` (a checkpoint's, for example), matched by name, and the names of its
    own categories that have no match.

    Objects of unmatched categories are left out. Keypoints move to the places that their category's keypoints have in
    `categories`. Raises `DataError` if a category has other keypoints than its match.
    """
    categories = tuple(categories)
    label_of = {category.name: label for label, category in enumerate(categories)}
    new_label = np.array([label_of.get(category.name, -1) for category in dataset.categories], dtype=np.int32)
    labels = new_label[dataset.objects.labels]
    objects = dataset.objects._replace(labels=labels, keypoints=_map_keypoints(dataset, categories, new_label))
    if (new_label < 0).any():
        objects = objects.select(labels >= 0)
    unmatched = [category.name for category in dataset.categories if category.name not in label_of]
    return replace(dataset, categories=categories, objects=objects), unmatched


def match_categories(train: Dataset, val: Dataset) -> Dataset:
    """`val` with the categories of `train`, matched by name. `val` may lack some of them. The sigmas of keypoints stay
    those of `val`, which is what they measure.

    Raises `DataError` with both tables if `val` has a category that `train` does not have.
    """
    sigmas = {category.name: category.sigmas for category in val.categories if category.keypoints}
    wanted = (c._replace(sigmas=sigmas.get(c.name, c.sigmas)) for c in train.categories)
    mapped, unmatched = map_categories(val, wanted)
    if unmatched:
        plain = {_plain(category.name): category.name for category in train.categories}
        alike = [f"{name!r} is {plain[_plain(name)]!r} there" for name in unmatched if _plain(name) in plain]
        raise DataError(
            f"{val.source} has categories that {train.source} does not have: {', '.join(unmatched)}"
            f"{' (' + ', '.join(alike) + ')' if alike else ''}; name them alike\n"
            f"{train.source}:\n{category_table(train.categories)}\n{val.source}:\n{category_table(val.categories)}"
        )
    return mapped


def _plain(name: str) -> str:
    """A name without what people write now so, now otherwise."""
    return "".join(character for character in name.casefold() if character.isalnum())


def keypoint_order(dataset: Dataset, categories: Iterable[Category]) -> tuple[dict[int, list[int]], list[str]]:
    """For each of a model's `categories` whose keypoints are in another order in the data set: its id, and for every
    keypoint of the data set the index of the model's.

    Keypoints are matched by name. If the names differ, as those of a model that came without names do, the keypoints
    keep their order, and a note says so. Raises `DataError` if a category has different numbers of keypoints.
    """
    own = {category.name: category.keypoints for category in dataset.categories}
    order: dict[int, list[int]] = {}
    notes = []
    for category in categories:
        here, there = own.get(category.name, ()), category.keypoints
        if here == there or not here or not there:
            continue
        differ = f"the keypoints of {category.name!r} are {', '.join(here)}; the model's are {', '.join(there)}"
        if len(here) != len(there):
            raise DataError(f"{dataset.source}: {differ}")
        if set(here) == set(there):
            order[category.id] = [there.index(keypoint) for keypoint in here]
        else:
            notes.append(f"keypoint: {differ}; they are taken in this order")
    return order, notes


def _map_keypoints(dataset: Dataset, categories: tuple[Category, ...], new_label: np.ndarray) -> np.ndarray | None:
    keypoints = dataset.objects.keypoints
    if keypoints is None:
        return None
    targets, sources = keypoint_slices(categories), keypoint_slices(dataset.categories)
    mapped = np.zeros((len(keypoints), max((part.stop for part in targets), default=0), 3), dtype=keypoints.dtype)
    for old, new in enumerate(new_label.tolist()):
        if new < 0 or (categories[new].shared and not dataset.categories[old].keypoints):
            continue
        if dataset.categories[old].keypoints != categories[new].keypoints:
            has, expected = (", ".join(c.keypoints) or "none" for c in (dataset.categories[old], categories[new]))
            raise DataError(
                f"{dataset.source}: the keypoints of {categories[new].name!r} are {has}; expected {expected}"
            )
        mine = dataset.objects.labels == old
        mapped[mine, targets[new]] = keypoints[mine, sources[old]]
    return mapped
