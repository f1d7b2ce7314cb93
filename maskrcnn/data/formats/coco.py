"""COCO json: images, categories, and objects with polygons, run lengths, boxes and keypoints.

msgspec finds where each record begins and ends and decodes one at a time, so that no more than one exists as Python
objects. json reads what msgspec's stricter grammar refuses: NaN and infinity, halves of surrogate pairs, and encodings
other than UTF-8.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ...categories import COCO_SIGMAS, OTHER_SIGMA, Category
from ...errors import DataError
from ..builder import DatasetBuilder
from ..dataset import Dataset
from ..validate import integer, is_text, show
from . import ReadOptions, Source
from .coco_write import Writer, write

__all__ = ["Writer", "find", "read", "write"]

_TRAIN = ("train.json", "instances_train*.json", "annotations/instances_train*.json", "train/_annotations.coco.json")
_VAL = ("val.json", "instances_val*.json", "annotations/instances_val*.json", "valid/_annotations.coco.json")
_LISTS = ("images", "annotations", "categories")
_BLOCK = 1 << 24  # bytes whose encoding is checked at a time
_SIDE = re.compile(r"left|right|(?<![a-z0-9])[lr](?![a-z0-9])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class _Image(msgspec.Struct, gc=False):
    """The fields that are read, as `_Annotation`. Any value passes; `DatasetBuilder` checks it."""

    id: Any = None
    file_name: Any = None
    height: Any = None
    width: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Any = None
    category_id: Any = None
    id: Any = None
    bbox: Any = None
    segmentation: Any = None
    area: Any = None
    iscrowd: Any = None
    ignore: Any = None
    keypoints: Any = None
    score: Any = None


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A json; or a folder with `train.json` and `val.json`, with `instances_train*.json` and `instances_val*.json`
    (there or in `annotations/`), or with `train/` and `valid/` that hold `_annotations.coco.json`. If keypoints are
    wanted, `person_keypoints_*` come first. Raises `DataError` if more than one file fits.
    """
    if place.is_file():
        return {"all": Source("coco", place)}
    found = {"train": _find(place, _TRAIN, options.keypoints), "val": _find(place, _VAL, options.keypoints)}
    return {split: Source("coco", path, split) for split, path in found.items() if path is not None}


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set in a COCO json, whatever wrote it. Invalid records are skipped, counted and listed in its report.

    Its images are beside it, in `images/` there, or in COCO's own tree (`annotations/` beside `train2017/`).
    Raises `DataError`, naming the file, if it is missing, not json or not COCO, if it has no category or none of its
    images exists, or if the id or the name of a category occurs twice.
    """
    path, strict, keypoints = source.path, options.strict, options.keypoints
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    fingerprint = hashlib.sha256(content).hexdigest()
    images, annotations, categories = _split(content) or _load(content, path)
    roots = _roots(path) if options.images is None else (options.images,)
    builder = DatasetBuilder(path, _read_categories(categories, path, keypoints), roots, strict=strict)
    del content, categories  # a `Raw` holds all of the file's bytes; the other lists are emptied
    for row in _records(images, _Image, path):
        if isinstance(row, _Image):
            builder.add_image(row.id, row.file_name, row.height, row.width)
        else:
            builder.refuse("image", "image that is not an object", show(row))
    for row in _records(annotations, _Annotation, path):
        if isinstance(row, _Annotation):
            builder.add_object(
                row.image_id,
                row.category_id,
                id=row.id,
                box=row.bbox,
                segmentation=row.segmentation,
                area=row.area,
                crowd=row.iscrowd or row.ignore,
                keypoints=row.keypoints,
                score=row.score,
            )
        else:
            builder.refuse("annotation", "annotation that is not an object", show(row))
    return builder.build(fingerprint)


def _find(folder: Path, patterns: tuple[str, ...], keypoints: bool | None) -> Path | None:
    if keypoints:
        patterns = (*(p.replace("instances", "person_keypoints") for p in patterns if "instances" in p), *patterns)
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            parent = (folder / PurePosixPath(pattern)).parent
            raise DataError(f"{parent}: {names} all match; name one file instead of the folder")
        if found:
            return found[0]
    return None


def _split(content: bytes) -> tuple[list[Any], list[Any], list[Any]] | None:
    """The lists of images, annotations and categories, each record still `Raw`; None if msgspec refuses the file."""
    try:
        _check_utf8(content)  # msgspec does not check the strings that it skips
        file = msgspec.json.decode(content, type=_File)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return file.images, file.annotations, file.categories


def _load(content: bytes, path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """The same lists, all of them parsed by json. Raises `DataError` if the file is not COCO."""
    loaded = _parse(content, path, json.detect_encoding(content))
    wrong = [key for key in _LISTS if not isinstance(loaded, dict) or not isinstance(loaded.get(key), list)]
    if wrong:
        raise DataError(
            f"{path}: not COCO; expected an object with the lists {', '.join(_LISTS)}, "
            f"but there is no list {', '.join(map(repr, wrong))}"
        )
    return loaded["images"], loaded["annotations"], loaded["categories"]


def _parse(content: Any, path: Path, encoding: str = "utf-8") -> Any:
    try:
        return json.loads(str(content, encoding).removeprefix("\ufeff"))
    except ValueError as error:  # of the encoding, too
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: not COCO; its json is nested too deeply") from error


def _check_utf8(content: bytes) -> None:
    """Raises `UnicodeDecodeError`. Piece by piece, because the whole text could take four times the file's memory."""
    if not content.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for first in range(0, len(content), _BLOCK):
            decoder.decode(content[first : first + _BLOCK], final=first + _BLOCK >= len(content))


def _records(entries: list[Any], kind: type[msgspec.Struct], path: Path) -> Iterator[Any]:
    """Every entry as a struct of this `kind`, or as it is if it is not an object. Empties the list, to free memory."""
    decode = msgspec.json.Decoder(kind).decode
    entries.reverse()
    while entries:
        entry = entries.pop()
        if isinstance(entry, msgspec.Raw):
            try:
                yield decode(entry)
                continue
            except (msgspec.DecodeError, RecursionError):
                entry = _parse(entry, path)
        if isinstance(entry, dict):
            entry = kind(**{name: entry[name] for name in kind.__struct_fields__ if name in entry})
        yield entry


def _roots(path: Path) -> tuple[Path, ...]:
    """Folders that may hold the images, in the order in which they are searched."""
    folder = path.parent
    word = path.stem.rpartition("_")[2]
    roots = [folder, folder / "images", folder / "images" / word]
    if folder.resolve().name == "annotations":
        parent = folder.parent if folder.name == "annotations" else folder.resolve().parent
        roots += [parent / word, parent / "images" / word, parent / "images", parent]
    return tuple(roots)


def _read_categories(entries: list[Any], path: Path, keypoints: bool | None) -> list[Category]:
    """The categories, with their keypoints if `keypoints` are wanted."""
    categories = []
    for entry in (_parse(e, path) if isinstance(e, msgspec.Raw) else e for e in entries):
        id, name = (integer(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if id is None or not is_text(name) or not name:
            raise DataError(f"{path}: category {entry!r:.80} needs an id (a whole number) and a name (valid text)")
        categories.append(
            _with_keypoints(Category(id, name), entry, path) if keypoints is not False else Category(id, name)
        )
    if categories and keypoints and not any(category.keypoints for category in categories):
        raise DataError(f"{path}: no category has keypoints; expected their names in categories[].keypoints")
    return categories


def _with_keypoints(category: Category, entry: dict[str, Any], path: Path) -> Category:
    """Flip pairs and sigmas may be stated (`flip_pairs`, `sigmas`); otherwise the names decide."""
    where = f"{path}: category {category.name!r}"
    names = entry.get("keypoints") or []
    if not isinstance(names, list) or not all(map(is_text, names)) or len(set(names)) < len(names):
        raise DataError(f"{where}: keypoints must be a list of different names; it is {names!r:.80}")
    skeleton = _pairs(entry.get("skeleton"), len(names), f"{where}: skeleton", base=1)
    given_flips, sigmas = entry.get("flip_pairs"), entry.get("sigmas")
    flips = _pairs(given_flips, len(names), f"{where}: flip_pairs", base=0)
    if given_flips is None:
        flips = _flips_by_name(names)
    elif len({end for pair in flips for end in pair}) < 2 * len(flips):
        raise DataError(f"{where}: flip_pairs must name each keypoint at most once; they are {given_flips!r:.80}")
    if sigmas is None:
        sigmas = [COCO_SIGMAS.get(name, OTHER_SIGMA) for name in names]
    elif (
        not isinstance(sigmas, list)
        or len(sigmas) != len(names)
        or not all(isinstance(sigma, int | float) and 0 < sigma < 100 for sigma in sigmas)
    ):
        raise DataError(f"{where}: sigmas must be {len(names)} positive numbers; they are {sigmas!r:.80}")
    return category._replace(
        keypoints=tuple(names), skeleton=skeleton, flip_pairs=flips, sigmas=tuple(map(float, sigmas))
    )


def _pairs(given: Any, count: int, what: str, *, base: int) -> tuple[tuple[int, int], ...]:
    """Pairs of keypoints, counted from `base` in the file and from 0 here."""
    if given is None:
        return ()
    wanted = f"must be pairs of keypoints, counted from {base} to {count - 1 + base}"
    if not count:
        wanted = "needs keypoints, and the category names none in keypoints"
    wrong = DataError(f"{what} {wanted}; it is {given!r:.80}")
    if not isinstance(given, list):
        raise wrong
    pairs = []
    for pair in given:
        ends = [integer(end) for end in pair] if isinstance(pair, list) else []
        if len(ends) != 2 or any(end is None or not base <= end < count + base for end in ends):
            raise wrong
        pairs.append((ends[0] - base, ends[1] - base))  # type: ignore[operator]
    return tuple(pairs)


def _flips_by_name(names: list[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of keypoints whose names differ in their side only: left_eye, right_eye; L_Eye, R_Eye; eye.l, eye.r."""
    places = {name.lower(): place for place, name in enumerate(names)}
    mirrored = {place: places.get(_SIDE.sub(lambda side: _OTHER[side[0]], name)) for name, place in places.items()}
    return tuple((place, other) for place, other in mirrored.items() if other is not None and place < other)
