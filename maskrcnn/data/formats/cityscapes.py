"""Cityscapes (appendix A of the paper): leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/, there
polygons that are drawn in order, later ones over earlier ones (*_gtFine_polygons.json), and what they give,
*_gtFine_instanceIds.png: the id of the class, or a thousand times it plus the number of the instance.

Eight classes have instances. What the polygons call "cargroup" is a crowd. Where both files are there, instanceIds is
read, because the official evaluation reads it; polygons are drawn as its own tool draws them, with Pillow.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ...categories import Category
from ...errors import DataError
from ...files import fingerprint, replacing, write_json
from ...images import IMAGE_SUFFIXES, MAX_PIXELS, image_size
from ...ops.contour import signed_area
from ..bitmaps import draw_window
from ..builder import DatasetBuilder
from ..dataset import Dataset, Record
from ..label_images import objects_of, paint_objects, read_label_image, write_label_image
from ..names import names_below
from ..shapes import shapes_of_bitmap
from ..validate import integer, show
from . import ReadOptions, Source
from .files import images_of_split, load_json
from .outlines import stated_points
from .writing import FormatWriter

LABELS = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
_IDS = {name: id for id, name in enumerate(LABELS)} | {"license plate": -1}
_CLASS_IDS = frozenset(_IDS[name] for name in CLASSES)
_FIRST_INSTANCE = _IDS["person"]  # classes from this id on have separate instances, caravans and trailers, too
_VOID = {1, 2, 3}  # all that the files of images without annotations mark
_MOST = 1000  # instances of a class
_DIFFERENT = 0.01  # of the pixels of the eight classes
_CLASS_OF = np.zeros(len(LABELS) * _MOST + 1, np.uint8)  # of the eight, by a value of instanceIds; 0 of all others
for _id in _CLASS_IDS:
    _CLASS_OF[_id] = _CLASS_OF[_id * _MOST : (_id + 1) * _MOST] = _id
_FILE = re.compile(r"(?P<base>.+)_gtFine_(?P<kind>polygons\.json|instanceIds\.png)")
_OF_IMAGE = "_leftImg8bit"
_FRAME = re.compile(r"(?P<city>.+)_\d+_\d+")


class _Files(NamedTuple):
    polygons: Path | None = None
    ids: Path | None = None


class _Drawing(NamedTuple):
    """The polygons of an image, drawn."""

    ids: np.ndarray  # int32 [H W], as in instanceIds
    faults: list[tuple[str, str]]  # what could not be drawn, and a detail


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A folder with gtFine/, gtFine itself, or one of the folders in it. Its splits are train, val and test."""
    if not place.is_dir():
        return {}
    base = place / "gtFine" if (place / "gtFine").is_dir() else place
    splits = {split: base / split for split in ("train", "val", "test") if _holds(base / split)}
    if not splits and _holds(base):
        splits = {"all": base}
    return {split: Source("cityscapes", folder, split) for split, folder in splits.items()}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set with the eight classes, under Cityscapes' own ids. Images are numbered from 1 in the order of cities
    and names.

    An image without annotations, as those of the test set, is left out unless `options.unlabelled` is "background".
    """
    folder = source.path
    root = _image_root(folder, source.split, options.images)
    files = _annotations(folder)
    images = _images(root, files.keys())
    builder = DatasetBuilder(folder, _categories(), (root,), strict=options.strict)
    digest, next_id = hashlib.sha256(), 1
    for image_id, key in enumerate(sorted(images.keys() | files.keys()), start=1):
        name = images.get(key, f"{key}{_OF_IMAGE}.png")
        labels = None
        if key in files:
            for path in filter(None, files[key]):
                digest.update(f"{path.name} {fingerprint(path)}\n".encode())
            try:
                labels = _labels(files[key], builder, image_id)
                if key in images:
                    _check_size(root / name, labels)
            except DataError as error:
                builder.refuse(
                    "image", "annotation that cannot be read, or does not fit", str(error), image_id=image_id
                )
                continue
        objects = objects_of(np.zeros((0, 0), np.uint8) if labels is None else labels)
        values = objects.values.tolist()
        if labels is None or (values and set(values) <= _VOID):
            if options.unlabelled != "background":
                builder.refuse("image", "image without annotations", name, image_id=image_id)
            else:
                builder.add_image(image_id, name)
            continue
        builder.add_image(image_id, name, *labels.shape)
        for value, counts in zip(values, objects.counts, strict=True):
            crowd = value < _MOST
            class_id = value if crowd else value // _MOST
            if class_id in _CLASS_IDS:
                mask = counts, labels.shape
                builder.add_object(image_id, class_id, id=next_id, segmentation=mask, crowd=crowd)
                next_id += 1
    return builder.build(digest.hexdigest())


class Writer(FormatWriter):
    """Writes both files of each image, and copies or links it, in Cityscapes' folders. A set that is not divided has no
    folder for the split. Predictions are in `results/` as well, with scores, as the evaluation server takes them.

    A city is the folder in the image's name, else what stands before its two numbers, else "images". A pixel has one
    object: the one with the higher score, without scores the smaller one.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._class_ids = [_IDS[name] if name in CLASSES else None for name in self.names]

    def add(self, record: Record, split: str = "all") -> None:
        record, class_ids = self._of_classes(record)
        folder = "" if split == "all" else split
        name, suffix = self._name(record, folder)
        self.place(record, self.out / _OF_IMAGE[1:] / folder, f"{name}{_OF_IMAGE}{suffix}")
        self.count_lost(record)
        labels, left = paint_objects(record, self.lost)
        values = self._values(class_ids, record.ignore, left)
        target = self.out / "gtFine" / folder / name
        write_label_image(target.with_name(f"{target.name}_gtFine_instanceIds"), values[labels])
        height, width = record.size
        objects = _polygons(record, labels, left, class_ids)
        write_json(
            target.with_name(f"{target.name}_gtFine_polygons.json"),
            {"imgHeight": height, "imgWidth": width, "objects": objects},
        )
        if record.scores is not None:
            self.lost["score, which only results/ has"] += len(record.scores)
            self._write_results(record, class_ids, PurePosixPath(name).name.replace(" ", "_"))

    def _of_classes(self, record: Record) -> tuple[Record, list[int]]:
        """The objects of the eight classes, and their ids."""
        ids = [self._class_ids[label] for label in record.labels.tolist()]
        keep = np.array([id is not None for id in ids], dtype=bool)
        self.lost["object of a class that Cityscapes does not have"] += int((~keep).sum())
        return record.select(keep)._replace(shapes=None), [id for id in ids if id is not None]

    def _name(self, record: Record, folder: str) -> tuple[str, str]:
        """`city/base` of an image, as no other has it, and its suffix."""
        path = PurePosixPath(record.name or record.path.name)
        base = path.stem.removesuffix(_OF_IMAGE)
        frame = _FRAME.fullmatch(base)
        city = "-".join(part for part in path.parts[:-1] if part not in ("..", ".", "/"))
        name = f"{city or (frame['city'] if frame else 'images')}/{base}"
        return self.free(folder, (name, f"{name}-{path.suffix[1:]}-{record.image_id}")), path.suffix

    def _values(self, class_ids: list[int], ignore: np.ndarray, left: np.ndarray) -> np.ndarray:
        """uint16 [n + 1]: the value of each object in instanceIds, after that of the background."""
        values, seen = np.zeros(len(class_ids) + 1, np.uint16), Counter[tuple[int, bool]]()
        for i in np.flatnonzero(left).tolist():
            id, crowd = class_ids[i], bool(ignore[i])
            number = seen[id, crowd]
            seen[id, crowd] += 1
            if crowd:
                values[i + 1] = id
                self.lost["crowd as a region of its own"] += number > 0
            elif number < _MOST:
                values[i + 1] = id * _MOST + number
            else:
                self.lost["object beyond 1000 of its class"] += 1
        return values

    def _write_results(self, record: Record, class_ids: list[int], base: str) -> None:
        folder, lines = self.out / "results", []
        assert record.scores is not None
        for i, (id, score) in enumerate(zip(class_ids, record.scores.tolist(), strict=True)):
            pixels, (row, column) = draw_window(record.segmentations[i], record.size)
            if not pixels.size:
                continue
            mask = np.zeros(record.size, np.uint8)
            mask[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels * np.uint8(255)
            name = f"masks/{base}_{i}.png"
            with replacing(folder / name) as temporary:
                Image.fromarray(mask).save(temporary, "PNG")
            lines.append(f"{name} {id} {score:.6f}\n")
        with replacing(folder / f"{base}.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def _holds(folder: Path) -> bool:
    """Whether it has annotations, itself or in the folders of its cities."""
    found = (path for pattern in ("*_gtFine_*", "*/*_gtFine_*") for path in folder.glob(pattern))
    return any(_FILE.fullmatch(path.name) for path in found)


def _categories() -> list[Category]:
    return [Category(_IDS[name], name) for name in CLASSES]


def _image_root(folder: Path, split: str, given: Path | None) -> Path:
    if given is not None:
        return images_of_split(given, split)
    for parent in (folder, *folder.parents):
        if parent.name == "gtFine":
            return parent.parent / _OF_IMAGE[1:] / folder.relative_to(parent)
    return folder


def _annotations(folder: Path) -> dict[str, _Files]:
    """The files of each image by `city/base`."""
    found: dict[str, _Files] = {}
    for name in names_below(folder):
        if match := _FILE.fullmatch(name):
            kind = "ids" if match["kind"].endswith(".png") else "polygons"
            found[match["base"]] = found.get(match["base"], _Files())._replace(**{kind: folder / name})
    return found


def _images(root: Path, annotated: Set[str]) -> dict[str, str]:
    """The images by `city/base`. Raises `DataError` if two have the same.

    If images of another place are named, they need not be in folders of cities.
    """
    found: dict[str, str] = {}
    for name in sorted(names_below(root, IMAGE_SUFFIXES)):
        if "_gtFine_" not in name:
            key = name.rpartition(".")[0].removesuffix(_OF_IMAGE)
            if key in found:
                raise DataError(f"{root}: {found[key]} and {name} may both be the image of {key}; remove one")
            found[key] = name
    elsewhere = {PurePosixPath(key).name: key for key in sorted(found.keys() - annotated)}
    for key in annotated - found.keys():
        if (other := elsewhere.pop(PurePosixPath(key).name, None)) is not None:
            found[key] = found.pop(other)
    return found


def _labels(files: _Files, builder: DatasetBuilder, image_id: int) -> np.ndarray:
    """The image as in instanceIds, [H W]. Raises `DataError` if it cannot be read."""
    drawing = wrong = None
    if files.polygons is not None:
        try:
            drawing = _draw(files.polygons)
        except DataError as error:
            wrong = error
    if files.ids is None:
        if drawing is None:
            assert wrong is not None
            raise wrong
        for reason, detail in drawing.faults:
            builder.refuse("annotation", reason, detail, image_id=image_id)
        return drawing.ids
    try:
        labels = read_label_image(files.ids, instances=False)
    except DataError as error:
        if drawing is None:
            raise
        builder.report.add("repair", "instanceIds that cannot be read, polygons are used", str(error), image_id)
        return drawing.ids
    if wrong is not None:
        builder.report.add("repair", "polygons that cannot be read, instanceIds are used", str(wrong), image_id)
    elif drawing is not None and (differ := _difference(drawing.ids, labels)):
        detail = f"{files.ids.name}: {differ}; remove it if the polygons were corrected"
        builder.report.add("repair", "polygons and instanceIds that disagree, instanceIds are used", detail, image_id)
    return labels


def _draw(path: Path) -> _Drawing:
    """The polygons of a json, drawn as Cityscapes' json2instanceImg does. Polygons of a label that state the same
    "instance", which is ours, are parts of one object.
    """
    content = load_json(path)
    stated = content if isinstance(content, dict) else {}
    height, width, objects = integer(stated.get("imgHeight")), integer(stated.get("imgWidth")), stated.get("objects")
    if not height or not width or height < 0 or width < 0 or not isinstance(objects, list):
        raise DataError(f"{path}: not Cityscapes; expected imgHeight, imgWidth and a list of objects")
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {height} x {width} pixels are more than {MAX_PIXELS:,}")
    image, faults = Image.new("I", (width, height), 0), []
    drawer, numbers, shared = ImageDraw.Draw(image), Counter[str](), {}
    for place, entry in enumerate(objects):
        where = f"{path.name}, object {place}"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            faults.append(("object without a label", f"{where}: {show(entry)}"))
            continue
        if entry.get("deleted"):
            continue
        label = entry["label"]
        crowd = label not in _IDS and label.endswith("group")
        label = label.removesuffix("group") if crowd else label
        polygon = stated_points(entry.get("polygon"))
        if polygon is None or len(polygon) < 3:
            faults.append(("polygon that is not 3 points or more", f"{where}: {show(entry.get('polygon'))}"))
            continue
        if label not in _IDS:
            faults.append(("label that Cityscapes does not have", f"{where}: {show(entry['label'])}"))
        id = _IDS.get(label, 0)  # an unknown thing hides what is behind it
        if id >= _FIRST_INSTANCE and not crowd:
            key = (label, integer(entry.get("instance")))
            if key[1] is None or key not in shared:
                shared[key] = id * _MOST + min(numbers[label], _MOST - 1)
                numbers[label] += 1
            id = shared[key]
        if id >= 0:
            drawer.polygon(polygon.ravel().tolist(), fill=id)
    return _Drawing(np.asarray(image), faults)


def _difference(drawn: np.ndarray, labels: np.ndarray) -> str:
    """What differs between the polygons and instanceIds, by size, number of objects and pixels of a class."""
    if drawn.shape != labels.shape:
        return f"{drawn.shape[0]} x {drawn.shape[1]} against {labels.shape[0]} x {labels.shape[1]} pixels"
    if np.array_equal(drawn, labels):
        return ""
    kinds, numbers = [], []
    for ids in (drawn, labels):
        known = np.minimum(ids, len(_CLASS_OF) - 1)
        kinds.append(_CLASS_OF[known])
        seen = np.zeros(len(_CLASS_OF), dtype=bool)
        seen[known] = True
        numbers.append(np.count_nonzero(seen & (_CLASS_OF > 0)))
    if numbers[0] != numbers[1]:
        return f"{numbers[0]} against {numbers[1]} objects"
    differ, either = np.count_nonzero(kinds[0] != kinds[1]), np.count_nonzero(kinds[0] | kinds[1])
    return f"{differ} pixels" if differ > _DIFFERENT * either else ""


def _check_size(path: Path, labels: np.ndarray) -> None:
    if (size := image_size(path)) != labels.shape:
        raise DataError(f"{path}: {size[0]} x {size[1]}, its annotation is {labels.shape[0]} x {labels.shape[1]}")


def _polygons(record: Record, labels: np.ndarray, left: np.ndarray, class_ids: list[int]) -> list[dict[str, Any]]:
    """The objects for a json, which give the same pixels again: connected parts from the largest to the smallest, so
    that what is in a hole is drawn over it; the background in a hole, too.
    """
    parts: list[tuple[float, dict[str, Any]]] = []
    holes = False
    for i in np.flatnonzero(left).tolist():
        pixels, corner = draw_window(record.segmentations[i], record.size)
        (row, column), (high, wide) = corner, pixels.shape
        shapes = shapes_of_bitmap(labels[row : row + high, column : column + wide] == i + 1)
        label = LABELS[class_ids[i]] + ("group" if record.ignore[i] else "")
        for shape in shapes:
            entry: dict[str, Any] = {"label": label, "polygon": _through_centres(np.add(shape.outer, (column, row)))}
            parts.append((signed_area(shape.outer), entry | ({"instance": i} if len(shapes) > 1 else {})))
            holes |= bool(shape.holes)
    for shape in shapes_of_bitmap(labels == 0) if holes else ():
        if (shape.outer > 0).all() and (shape.outer < labels.shape[::-1]).all():
            parts.append((signed_area(shape.outer), {"label": LABELS[0], "polygon": _through_centres(shape.outer)}))
    return [entry for _, entry in sorted(parts, key=lambda part: -part[0])]


def _through_centres(ring: np.ndarray) -> list[list[int]]:
    """The ring around pixels as one through the outermost of them: Pillow draws the points of a polygon, too."""
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    inward = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    return (ring + 0.5 * (inward + np.roll(inward, 1, axis=0)) - 0.5).astype(np.int64).tolist()
