"""Instance masks as PNG or TIFF: label images, whose pixels have the number of their object, or a file for each object.

Classes are folders (`masks/<class>/<image>.png`), or in the table `masks.csv` beside the folder of masks: mask, id,
class, crowd, score. Without either, all objects are of one class. `masks.json` there says what masks cannot:

    {"class": "nucleus"}                the one class; without it "object"
    {"classes": ["cell", "nucleus"]}    the order of the classes
    {"classes": {"1": "cell"}}          a value is a class, each connected region of it an object; a colour is "#ff0000"
    {"regions": "separate"}             each connected region of a value is an object; "together": a value is one object
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ...categories import Category
from ...errors import DataError
from ...files import fingerprint, write_json
from ...images import image_size
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from ..label_images import objects_of, paint_objects, read_label_image, stored_size, write_label_image
from ..validate import is_text, show
from . import ReadOptions, Source
from .files import images_of_split, load_json, read_bytes, split_folders
from .pairing import Mask, Pairs, find_pairs, why_none
from .writing import FormatWriter

SETTINGS, TABLE = "masks.json", "masks.csv"
_COLUMNS = ("mask", "id", "class", "crowd", "score")
_ENOUGH = 10  # objects; fewer do not show what the values mean
_KITTI, _CITYSCAPES = 256, 1000  # what a class is multiplied by to have room for the numbers of its objects
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_KEYS = {"class", "classes", "regions"}


class _Row(NamedTuple):
    """What the table says about an object."""

    kind: str
    crowd: bool
    score: float | None


class _Object(NamedTuple):
    counts: np.ndarray  # uint32, run lengths
    kind: str | None  # its class; None if nothing names it
    row: _Row | None
    origin: str  # mask and value, for messages


class _Doubt(NamedTuple):
    """A label image whose values nothing explains."""

    mask: Path
    values: int
    regions: int
    scattered: int  # values in several regions
    largest: int  # value
    factor: int  # of the class in values that seem to be class and number in one; 0 for others


class _Image(NamedTuple):
    name: str
    size: tuple[int, int] = (0, 0)
    objects: Sequence[_Object] = ()
    fault: tuple[str, str] | None = None  # why it is left out, and a detail
    doubts: Sequence[_Doubt] = ()


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """Folders such as images/ and masks/, with the same names; images and masks in one folder; or a folder for each
    image, with images/ and masks/ in it. Splits are folders around these, or in images/ and masks/.

    Raises `DataError` if two masks fit an image, or two images a mask, or if there are masks, but no image fits any.
    """
    if not place.is_dir():
        return {}
    splits = split_folders(place)
    found = {split: find_pairs(folder, _images_of(split, options)) for split, folder in splits.items()}
    if not any(pairs is not None for pairs in found.values()):
        for split, folder in splits.items():
            if wrong := why_none(folder, _images_of(split, options)):
                raise DataError(wrong)
    if (pairs := found.get("all")) is None:
        return {split: Source("masks", splits[split], split) for split, pairs in found.items() if pairs is not None}
    inner = {split: _part(pairs, split) for split in split_folders(pairs.root)}
    return {split: Source("masks", place, split) for split, part in inner.items() if any(part.masks.values())}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set. Images are numbered from 1 in the order of their names, those with masks first.

    An image without a mask file is left out, unless `options.unlabelled` is "background". Raises `DataError` if masks
    hold one value each, in regions that may be one object or one each, and nothing says which.
    """
    folder = source.path
    pairs = find_pairs(folder, _images_of(source.split, options))
    if pairs is None:
        raise DataError(f"{folder}: there are no masks whose names fit an image")
    pairs = _part(pairs, source.split)
    labelled = sorted(name for name, masks in pairs.masks.items() if masks)
    reader = _Reader(folder, divided=source.split != "all")
    images = reader.settled([reader.image(pairs.root / name, name, pairs.masks[name]) for name in labelled])
    builder = DatasetBuilder(folder, reader.categories(), (pairs.root,), strict=options.strict)
    for path in pairs.alone:
        builder.refuse("image", "mask without an image", str(path))
    for image_id, image in enumerate(images, start=1):
        if image.fault is not None:
            builder.refuse("image", *image.fault, image_id=image_id)
            continue
        builder.add_image(image_id, image.name, *image.size)
        for found in image.objects:
            reader.add(builder, image_id, image.size, found)
    unlabelled = sorted(pairs.masks.keys() - set(labelled))
    for image_id, name in enumerate(unlabelled, start=len(images) + 1):
        if options.unlabelled == "background":
            builder.add_image(image_id, name)
        else:
            builder.refuse("image", "image without a mask", name, image_id=image_id)
    return builder.build(reader.digest.hexdigest())


class Writer(FormatWriter):
    """Writes `masks/<image>.png`, a label image of 16 bits (a TIFF of 32 if it has more than 65,535 objects), and
    `masks.csv` with class and score of each object: in `<split>/`, or in the folder itself if the set is not divided.
    Images that are copied or linked go to `images/` there; `masks.json` has the order of the classes.

    A pixel has one object: the one with the higher score, without scores the smaller one.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        write_json(self.out / SETTINGS, {"classes": self.names, "regions": "together"})

    def add(self, record: Record, split: str = "all") -> None:
        folder = self.folder(split)
        name = self.place(record, folder / "images")
        stem = self.free(split, (PurePosixPath(name).with_suffix("").as_posix(), name))
        self.count_lost(record)
        labels, left = paint_objects(record, self.lost)
        mask = write_label_image(folder / "masks" / stem, labels).relative_to(folder / "masks").as_posix()
        file, new = self.stream(folder / TABLE)
        table = csv.writer(file)
        if new:
            table.writerow(_COLUMNS)
        for i in np.flatnonzero(left).tolist():
            table.writerow([mask, i + 1, self.names[record.labels[i]], int(record.ignore[i]), record.score(i)])


class _Reader:
    """Reads masks, with what the settings and the table beside them say."""

    def __init__(self, folder: Path, *, divided: bool) -> None:
        """`divided` if the folder is one of the splits of a set, around which there may be settings for all."""
        self.digest = hashlib.sha256()
        self._ids: dict[str, int] = {}
        self._next_id = 1
        self._path = folder / SETTINGS
        if divided and not self._path.is_file():
            self._path = folder.parent / SETTINGS
        settings = load_json(self._path) if self._path.is_file() else {}
        self._kind, self._order, self._of_value, self._separate = _settings(settings, self._path)
        self._rows = dict(_rows(folder / TABLE))
        self._tabled = {mask for mask, _ in self._rows}
        self._kinds = {row.kind for row in self._rows.values()} | set(self._of_value.values())
        for path in (self._path, folder / TABLE):
            if path.is_file():
                self.digest.update(fingerprint(path).encode())

    def image(self, path: Path, name: str, masks: Sequence[Mask]) -> _Image:
        """An image with its objects, or what is wrong with it."""
        objects: list[_Object] = []
        doubts: list[_Doubt] = []
        try:
            size = image_size(path)
        except DataError as error:
            return _Image(name, fault=("unreadable image", str(error)))
        for mask in masks:
            try:
                labels = read_label_image(mask.path)
            except DataError as error:
                return _Image(name, fault=("mask that cannot be read", str(error)))
            self.digest.update(f"{mask.name} {fingerprint(mask.path)}\n".encode())
            if labels.shape != size:
                # Masks may be drawn on the image as it is stored, not as the camera turned it.
                if labels.shape != size[::-1] or labels.shape != stored_size(path):
                    detail = f"{mask.path}: {_times(labels.shape)}, {path}: {_times(size)}"
                    return _Image(name, fault=("mask of another size than its image", detail))
                size = (labels.shape[0], labels.shape[1])
            if mask.whole and (len(masks) > 1 or not (labels > 1).any() or int(labels.max()) == 255):
                objects += self._of_file(mask, labels)
            else:
                objects += self._of_labels(mask, labels, doubts)
        return _Image(name, size, objects, doubts=doubts)

    def settled(self, images: list[_Image]) -> list[_Image]:
        """The images, if it is clear what their masks mean. Raises `DataError` if it is not."""
        doubts = [doubt for image in images for doubt in image.doubts]
        values, regions = sum(doubt.values for doubt in doubts), sum(doubt.regions for doubt in doubts)
        scattered = sum(doubt.scattered for doubt in doubts)
        coded = [doubt for doubt in doubts if doubt.factor]
        if 2 * len(coded) > len(doubts):
            first = coded[0]
            raise DataError(
                f"{first.mask.parent}: values such as {first.largest} seem to be {first.factor} x class + number, as "
                f"{'KITTI' if first.factor == _KITTI else 'Cityscapes'} codes them, with surfaces that are no objects: "
                f"write masks with a number for each object and 0 elsewhere, and {TABLE} with the classes"
                f"{'' if first.factor == _KITTI else ', or lay the files out as Cityscapes (gtFine)'}; or write "
                f'{{"regions": "together"}} into {self._path} if each value is one object'
            )
        if all(doubt.values < 2 for doubt in doubts):
            if scattered:
                raise DataError(
                    f"{doubts[0].mask.parent}: masks have one value each ({doubts[0].largest}), in {regions} separate "
                    f'regions: write {{"regions": "separate"}} into {self._path} if each region is an object, '
                    '{"regions": "together"} if all of a mask is one'
                )
            return images
        if values >= _ENOUGH and scattered > values / 2:
            raise DataError(
                f"{doubts[0].mask.parent}: {scattered} of {values} values lie in several separate regions, as classes "
                f'do: write {{"classes": {{"1": "name", ...}}}} into {self._path} if they are classes, {{"regions": '
                '"together"} if each is one object'
            )
        return [self._without_binary(image) for image in images]

    def categories(self) -> list[Category]:
        """All classes, in the order of the settings, then of their names."""
        names = [*self._order, *sorted(self._kinds - set(self._order))] or [self._kind]
        self._ids = {name: id for id, name in enumerate(names, start=1)}
        return [Category(id, name) for name, id in self._ids.items()]

    def add(self, builder: DatasetBuilder, image_id: int, size: tuple[int, int], found: _Object) -> None:
        """Adds an object, or reports why not."""
        if found.kind is None:
            reason = f"object without a class in {self._path.name if self._of_value else TABLE}"
            return builder.refuse("annotation", reason, found.origin, image_id=image_id)
        builder.add_object(
            image_id,
            self._ids[found.kind],
            id=self._next_id,
            segmentation=(found.counts, size),
            crowd=found.row is not None and found.row.crowd,
            score=None if found.row is None else found.row.score,
        )
        self._next_id += 1

    def _of_file(self, mask: Mask, labels: np.ndarray) -> Iterator[_Object]:
        """The one object of a file; of none if it is empty."""
        for counts in objects_of(labels > 0).counts:
            yield _Object(counts, self._named(mask, None), None, mask.name)

    def _of_labels(self, mask: Mask, labels: np.ndarray, doubts: list[_Doubt]) -> Iterator[_Object]:
        separate = bool(self._of_value) if self._separate is None else self._separate
        values, counts = objects_of(labels, regions=separate)
        if self._separate is None and not separate and mask.name not in self._tabled and len(values):
            each = np.unique(objects_of(labels, regions=True).values, return_counts=True)[1]
            scattered = int((each > 1).sum())
            largest, factor = int(values[-1]), _factor_in(values)
            doubts.append(_Doubt(mask.path, len(values), int(each.sum()), scattered, largest, factor))
        for value, runs in zip(values.tolist(), counts, strict=True):
            row = self._rows.get((mask.name, value))
            yield _Object(runs, row.kind if row else self._named(mask, value), row, f"{mask.name}, value {value}")

    def _named(self, mask: Mask, value: int | None) -> str | None:
        """The class of an object that the table does not have."""
        if mask.name in self._tabled:
            return None
        kind = mask.kind
        if kind is None and self._of_value and value is not None:
            return self._of_value.get(value)
        if kind is None:
            kind = self._kind
        self._kinds.add(kind)
        return kind

    def _without_binary(self, image: _Image) -> _Image:
        for doubt in image.doubts:
            if doubt.values == 1 and doubt.scattered and doubt.largest in (255, 65535):
                detail = f"{doubt.mask}: {doubt.regions} separate regions of the value {doubt.largest}"
                return _Image(image.name, fault=("mask of one value among label images", detail))
        return image


def _factor_in(values: np.ndarray) -> int:
    """The factor of the class if the values of a mask (ascending, without 0) seem to be class and number in one; or 0.

    KITTI's surfaces have the number 0, and its classes begin at 1; Cityscapes' have their class alone. Both have few
    classes, so their values are few and far between, unlike those that count objects.
    """
    classes, sparse = np.unique(values // _KITTI), 10 * len(values) < values[-1]
    if sparse and len(classes) > 1 and classes[0] > 0 and classes[-1] < 64 and (values % _KITTI == 0).any():
        return _KITTI
    instances = (values >= 24 * _CITYSCAPES) & (values < 34 * _CITYSCAPES)
    return _CITYSCAPES if instances.any() and not instances.all() and (instances | (values < 34)).all() else 0


def _part(pairs: Pairs, split: str) -> Pairs:
    """The images of a split that is a folder in the folder of images; all, if there are no such folders."""
    if (folder := split_folders(pairs.root).get(split)) is None or split == "all":
        return pairs
    start = f"{folder.name}/"
    masks = {name: masks for name, masks in pairs.masks.items() if name.startswith(start)}
    return pairs._replace(masks=masks)


def _images_of(split: str, options: ReadOptions) -> Path | None:
    return None if options.images is None else images_of_split(options.images, split)


def _settings(given: Any, path: Path) -> tuple[str, list[str], dict[int, str], bool | None]:
    """The one class, the order of the classes, the class of each value, and whether regions are separate objects.
    Raises `DataError` for anything else.
    """
    if not isinstance(given, dict) or given.keys() - _KEYS:
        raise DataError(f"{path}: expected an object with class, classes or regions; it is {show(given)}")
    kind, classes, regions = given.get("class", "object"), given.get("classes", []), given.get("regions")
    names = [kind, *(classes.values() if isinstance(classes, dict) else classes if isinstance(classes, list) else [0])]
    if not all(is_text(name) and name for name in names):
        raise DataError(f"{path}: class and classes must be names; they are {show(kind)} and {show(classes)}")
    if regions not in (None, "separate", "together"):
        raise DataError(f'{path}: regions must be "separate" or "together"; it is {show(regions)}')
    separate = None if regions is None else regions == "separate"
    if isinstance(classes, list):
        return kind, list(dict.fromkeys(classes)), {}, separate
    of_value = {}
    for key, name in classes.items():
        if not (key.isascii() and key.isdigit()) and not _COLOUR.fullmatch(key):
            raise DataError(f'{path}: classes must have values such as "1" or "#ff0000"; one is {show(key)}')
        of_value[int(key[1:], 16) if key[0] == "#" else int(key)] = name
    return kind, list(dict.fromkeys(of_value.values())), of_value, separate


def _rows(path: Path) -> Iterator[tuple[tuple[str, int], _Row]]:
    """The rows of a table by mask and value. Raises `DataError` if one cannot be read."""
    if not path.is_file():
        return
    content = read_bytes(path)
    try:
        reader = csv.DictReader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=""))
        if missing := {"mask", "id", "class"} - set(reader.fieldnames or ()):
            raise DataError(f"{path}: there is no column {', '.join(sorted(missing))}")
        for row in reader:
            yield (row["mask"], int(row["id"])), _row(row)
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}, line {reader.line_num}: cannot be read ({error})") from error


def _row(row: dict[str, str]) -> _Row:
    crowd, score = row.get("crowd") or "0", row.get("score") or None
    if not row["class"] or crowd not in ("0", "1"):
        raise ValueError(f"class {row['class']!r:.40}, crowd {crowd!r:.40}; expected a name, and 0 or 1")
    return _Row(row["class"], crowd == "1", None if score is None else float(score))


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
