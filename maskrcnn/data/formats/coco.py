"""COCO json: images, categories, and objects with polygons, run lengths, boxes and keypoints; and what tools write that
means the same.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ...categories import COCO_SIGMAS, OTHER_SIGMA, Category
from ...errors import DataError
from ..builder import DatasetBuilder
from ..dataset import Dataset
from ..validate import flag, integer, is_text, show
from . import ReadOptions, Source
from .coco_text import content_of, load, looks_like_coco, parse, split
from .coco_write import Writer, write
from .files import SPLITS

__all__ = ["Writer", "find", "read", "write"]

_PATTERNS = ("{}.json", "instances_{}*.json", "annotations/instances_{}*.json", "annotations/{}.json",
             "{}/_annotations.coco.json", "{}/annotations.json", "{}/{}.json")  # fmt: skip
_ONLY = ("annotations/instances_*.json", "_annotations.coco.json", "*.json", "annotations/*.json", "*/*.json")
_MOST_FILES = 50  # json files of a folder that are looked into
_BESIDE_IMAGES = ("annotations", "annotation", "labels", "label", "json")  # folders that lie beside that of the images
_SIDE = re.compile(r"left|right|(?<![a-z0-9])[lr](?![a-z0-9])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


class _Image(msgspec.Struct, gc=False):
    """The fields that are read, as `_Annotation`. Any value passes; `DatasetBuilder` checks it."""

    id: Any = None
    file_name: Any = None
    filename: Any = None  # what tools write in place of a file name; LVIS has `coco_url` alone
    path: Any = None
    coco_url: Any = None
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
    segments_info: Any = None


def find(place: Path, options: ReadOptions) -> dict[str, Source]:
    """A json; or a folder with `train.json` and `val.json`, with `instances_train*.json` and `instances_val*.json`
    (there or in `annotations/`), with `train/` and `valid/` that hold `_annotations.coco.json`, or with a single COCO
    json. If keypoints are wanted, `person_keypoints_*` come first. Raises `DataError` if more than one file fits.
    """
    if place.is_file():
        return {"all": Source("coco", place)} if looks_like_coco(place) else {}
    found: dict[str, Source] = {}
    for name, words in SPLITS.items():
        for word in words:
            if name not in found and (path := _find(place, word, options.keypoints)) is not None:
                found[name] = Source("coco", path, name)
    if found and not any(looks_like_coco(source.path) for source in found.values()):
        return {name: source._replace(doubtful=True) for name, source in found.items()}
    return found or _find_only(place)


def read(source: Source, options: ReadOptions) -> Dataset:
    """The data set in a COCO json, whatever wrote it. Invalid records are skipped, counted and listed in its report.

    Its images are beside it, in `images/` there, in a folder named as the split, or in COCO's own tree (`annotations/`
    beside `train2017/`). Raises `DataError`, naming the file, if it is missing, not json or not COCO, if it has no
    category or none of its images can be used, or if an id of a category occurs twice.
    """
    path, strict, keypoints = source.path, options.strict, options.keypoints
    content = content_of(path)
    fingerprint = hashlib.sha256(content).hexdigest()
    images, annotations, rows = split(content) or load(content, path)
    categories = _read_categories(rows, path, keypoints)
    builder = DatasetBuilder(path, categories, _roots(path, source.split, options.images), strict=strict)
    for category in categories:
        if category.text_id:
            builder.report.add("repair", "category id that is text, numbered", f"{category.text_id} is {category.id}")
    del content, rows  # a `Raw` holds all of the file's bytes; the other lists are emptied
    for row in _records(images, _Image, path):
        if isinstance(row, _Image):
            names = (name for name in (row.file_name, row.filename, row.path, row.coco_url) if name is not None)
            builder.add_image(row.id, next(names, None), row.height, row.width)
        else:
            builder.refuse("image", "image that is not an object", show(row))
    for row in _records(annotations, _Annotation, path):
        if isinstance(row, _Annotation):
            if row.category_id is None and row.segments_info is not None:
                raise DataError(
                    f"{path}: panoptic COCO, whose segments are in PNG files; expected a json of instances, such as "
                    "instances_val2017.json (panopticapi's panoptic2detection_coco_format writes one)"
                )
            crowd = row.iscrowd or row.ignore
            builder.add_object(
                row.image_id,
                row.category_id,
                id=row.id,
                box=row.bbox,
                segmentation=row.segmentation,
                area=row.area,
                crowd=_crowd(row) if type(crowd) is str else crowd,
                keypoints=row.keypoints,
                score=row.score,
            )
        else:
            builder.refuse("annotation", "annotation that is not an object", show(row))
    return builder.build(fingerprint)


def _find(folder: Path, word: str, keypoints: bool | None) -> Path | None:
    """The file of the split with this name."""
    patterns = [pattern.replace("{}", word) for pattern in _PATTERNS]
    if keypoints:
        patterns = [p.replace("instances", "person_keypoints") for p in patterns if "instances" in p] + patterns
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise _several(found, (folder / PurePosixPath(pattern)).parent)
        if found:
            return found[0]
    return None


def _find_only(folder: Path) -> dict[str, Source]:
    """The COCO files of a folder without the usual names: one, or one for each split that their names tell."""
    for pattern in _ONLY:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        found = [path for path in found[:_MOST_FILES] if path.is_file() and looks_like_coco(path)]
        if len(found) == 1:
            return {"all": Source("coco", found[0])}
        if found:
            splits: dict[str, Source] = {}
            for path in found:
                words = re.split(r"[^a-z]+", str(path.relative_to(folder).with_suffix("")).lower())
                names = {name for name, known in SPLITS.items() if set(words) & set(known)}
                if len(names) != 1 or names & splits.keys():
                    raise _several(found, folder)
                splits |= {name: Source("coco", path, name) for name in names}
            return splits
    return {}


def _several(found: list[Path], folder: Path) -> DataError:
    names = ", ".join(file.name for file in found[:10]) + (", ..." if len(found) > 10 else "")
    return DataError(f"{folder}: {names} all match; name one file instead of the folder, and another with --val")


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
                entry = parse(entry, path)
        if isinstance(entry, dict):
            entry = kind(**{name: entry[name] for name in kind.__struct_fields__ if name in entry})
        yield entry


def _crowd(row: _Annotation) -> Any:
    """Whether one of two flags is set, of which at least one is text; or the one that says neither."""
    flags = [(said, flag(said)) for said in (row.iscrowd, row.ignore)]
    return next((said for said, value in flags if value is None), any(value for _, value in flags))


def _roots(path: Path, name: str, given: Path | None) -> tuple[Path, ...]:
    """Folders that may hold the images, in the order in which they are searched."""
    words = dict.fromkeys((path.stem.rpartition("_")[2], *SPLITS.get(name, ())))
    if given is not None:
        return (given, *_there(given / word for word in words))
    folder = path.parent
    roots = [folder, folder / "images", *_there(folder / "images" / word for word in words)]
    roots += _there(folder / word for word in words)
    if folder.resolve().name.lower() in _BESIDE_IMAGES:
        parent = folder.parent if folder.name else folder.resolve().parent
        roots += [*_there(parent / word for word in words), *_there(parent / "images" / word for word in words)]
        roots += [parent / "images", parent]
    return tuple(roots)


def _there(folders: Iterable[Path]) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]


def _read_categories(entries: list[Any], path: Path, keypoints: bool | None) -> list[Category]:
    """The categories, with their keypoints if `keypoints` are wanted. Ids that are text are numbered from 1."""
    rows = [parse(entry, path) if isinstance(entry, msgspec.Raw) else entry for entry in entries]
    for row in rows:
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: category {row!r:.80} is not an object; list each class as one, such as "
                '{"id": 1, "name": "cell"}, with the id that category_id has'
            )
    stated = [integer(row.get("id")) for row in rows]
    taken, categories = {id for id in stated if id is not None}, []
    numbers: dict[str, int] = {}
    for id, row in zip(stated, rows, strict=True):
        name, text = row.get("name"), row.get("id")
        if type(name) in (int, float):
            name = str(name)
        if id is None and is_text(text) and text:
            if text not in numbers:
                numbers[text] = next(n for n in range(1, len(rows) + len(taken) + 1) if n not in taken)
                taken.add(numbers[text])
            id = numbers[text]
        else:
            text = ""
        if id is None or not is_text(name) or not name:
            lacks = "an id (a whole number or a text)" if id is None else "a name (a text)"
            raise DataError(f"{path}: category {row!r:.80} needs {lacks}")
        category = Category(id, name, text_id=text)
        categories.append(_with_keypoints(category, row, path, keypoints) if keypoints is not False else category)
    if categories and keypoints and not any(category.keypoints for category in categories):
        raise DataError(f"{path}: no category has keypoints; expected their names in categories[].keypoints")
    return categories


def _with_keypoints(category: Category, entry: dict[str, Any], path: Path, keypoints: bool | None) -> Category:
    """Flip pairs and sigmas may be stated (`flip_pairs`, `sigmas`); otherwise the names decide."""
    where = f"{path}: category {category.name!r}"
    names = entry.get("keypoints") or []
    if names == [] and keypoints is None:  # a skeleton alone, which only those who want keypoints must know of
        return category
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
