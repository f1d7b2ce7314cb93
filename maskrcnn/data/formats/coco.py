"""COCO json in: images, categories and objects of a file, whatever wrote it, as a `Dataset`; and the files that a name
stands for.

Bad records are skipped, counted and listed in the data set's report; a file that is not COCO, or categories that
contradict each other, are a `DataError`.
"""

import hashlib
import json
import os
import re
from array import array
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ...errors import DataError
from ...images import MAX_PIXELS, image_size
from ..records import Category, Dataset, ImageTable, Report, category_table
from .coco_objects import Flat, integer

# The evaluation constants of COCO's person joints (cocoeval.py); any other joint gets 0.05, their rough middle.
COCO_SIGMAS = {
    "nose": 0.026,
    **{f"{side}_{joint}": sigma for side in ("left", "right") for joint, sigma in (("eye", 0.025), ("ear", 0.035))},
    **{
        f"{side}_{joint}": sigma
        for side in ("left", "right")
        for joint, sigma in (("shoulder", 0.079), ("elbow", 0.072))
    },
    **{f"{side}_{joint}": sigma for side in ("left", "right") for joint, sigma in (("wrist", 0.062), ("hip", 0.107))},
    **{f"{side}_{joint}": sigma for side in ("left", "right") for joint, sigma in (("knee", 0.087), ("ankle", 0.089))},
}
OTHER_SIGMA = 0.05

_TRAIN_NAMES = (
    "train.json",
    "instances_train*.json",
    "annotations/instances_train*.json",
    "train/_annotations.coco.json",
)
_VAL_NAMES = ("val.json", "instances_val*.json", "annotations/instances_val*.json", "valid/_annotations.coco.json")
_PLAIN_NAME = re.compile(r"[^/\\:\0]+")


def read_coco(
    json_path: str | Path, images_dir: str | Path | None = None, *, strict: bool = False, keypoints: bool = False
) -> Dataset:
    """The data set in a COCO instances json.

    Args:
        json_path: the file. Images lie beside it, in `images/` there, or in COCO's own tree (`annotations/` beside
            `train2017/`).
        images_dir: where the images lie instead.
        strict: the first bad record is a `DataError` instead of an entry in the report.
        keypoints: read joints; at least one category must name some.

    Raises `DataError` naming the file where it is missing, not json, not COCO, has no category or none of its images,
    or where a category's id or name stands twice.
    """
    json_path = Path(json_path)
    content, fingerprint = _load(json_path)
    categories = _read_categories(content["categories"], json_path, keypoints)
    report = Report(json_path.name, strict=strict)
    roots = _roots(json_path) if images_dir is None else (Path(images_dir),)
    images, rows = _read_images(content["images"], roots, report, json_path)
    flat = Flat(rows, images.ids, images.sizes, categories, report, keypoints=keypoints)
    annotations = content.pop("annotations")
    report.annotations_in_file = len(annotations)
    annotations.reverse()
    while annotations:  # each is freed once it is flat, so that both forms of a large file never stand side by side
        flat.add(annotations.pop())
    return Dataset(json_path, categories, images, flat.table(), fingerprint, report)


def find_splits(
    data: str | Path, val: str | Path | None = None, *, keypoints: bool = False
) -> tuple[Path, Path | None]:
    """The json to train on and the one to validate on, or None where there is one file only.

    `data` is a json or a folder with `train.json` and `val.json`, `instances_train*.json` and `instances_val*.json`
    (there or in `annotations/`), or `train/` and `valid/` with `_annotations.coco.json`. With `keypoints`,
    `person_keypoints_*` come first. `val` overrides. Raises `DataError` where nothing fits, or more than one file
    does.
    """
    data = Path(data)
    if val is not None and not Path(val).is_file():
        raise DataError(f"{val}: there is no such file; --val takes a COCO json")
    if data.is_file():
        return data, None if val is None else Path(val)
    if not data.is_dir():
        raise DataError(
            f"{data}: there is no such file or folder; expected a COCO json or a folder with train.json and val.json"
        )
    train = _find(data, _TRAIN_NAMES, keypoints)
    if train is None:
        raise DataError(f"{data}: no annotations there; expected one of {', '.join(_TRAIN_NAMES)}")
    return train, Path(val) if val is not None else _find(data, _VAL_NAMES, keypoints)


def _find(folder: Path, patterns: tuple[str, ...], keypoints: bool) -> Path | None:
    if keypoints:
        joints = tuple(
            pattern.replace("instances", "person_keypoints") for pattern in patterns if "instances" in pattern
        )
        patterns = joints + patterns
    for pattern in patterns:
        parent, name = (folder / pattern).parent, PurePosixPath(pattern).name
        found = sorted(file for file in _listing(parent) if fnmatch(file, name))
        if len(found) > 1:
            raise DataError(f"{parent}: {', '.join(found)} could all be meant; name one file instead of the folder")
        if found:
            return parent / found[0]
    return None


def _listing(folder: Path) -> frozenset[str]:
    """Names in a folder; none where there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()


# --- the file ----------------------------------------------------------------------------------------------------


def _load(path: Path) -> tuple[dict[str, Any], str]:
    """The json's lists and the SHA-256 of its bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    fingerprint = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode(json.detect_encoding(content))
        del content
        loaded = json.loads(text.removeprefix("\ufeff"))
    except ValueError as error:  # wrong json and wrong UTF-8
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: not COCO; its json is nested too deeply") from error
    expected = ("images", "annotations", "categories")
    wrong = [key for key in expected if not isinstance(loaded, dict) or not isinstance(loaded.get(key), list)]
    if wrong:
        raise DataError(
            f"{path}: not COCO; expected an object with the lists {', '.join(expected)}, "
            f"but there is no list {', '.join(map(repr, wrong))}"
        )
    return loaded, fingerprint


# --- categories --------------------------------------------------------------------------------------------------


def _read_categories(entries: list[Any], path: Path, keypoints: bool) -> tuple[Category, ...]:
    categories = []
    for entry in entries:
        id, name = (integer(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if id is None or not isinstance(name, str) or not name:
            raise DataError(f"{path}: category {entry!r:.80} needs an id, a whole number, and a name")
        categories.append(_with_joints(Category(id, name), entry, path) if keypoints else Category(id, name))
    categories.sort(key=lambda category: category.id)
    if not categories:
        raise DataError(f"{path}: there are no categories")
    for what, values in (("id", [c.id for c in categories]), ("name", [c.name for c in categories])):
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise DataError(
                f"{path}: the category {what} {', '.join(twice)} stands more than once\n{category_table(categories)}"
            )
    if keypoints and not any(category.joints for category in categories):
        raise DataError(f"{path}: no category has keypoints; expected their names in categories[].keypoints")
    return tuple(categories)


def _with_joints(category: Category, entry: dict, path: Path) -> Category:
    """Joints as the json names them. Flip pairs and sigmas may stand there too (`flip_pairs`, `sigmas`), else names
    decide.
    """
    where = f"{path}: category {category.name!r}"
    names = entry.get("keypoints") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{where}: keypoints must be a list of different names; it is {names!r:.80}")
    pairs = _pairs(entry.get("skeleton"), len(names), f"{where}: skeleton", base=1)
    given_pairs, sigmas = entry.get("flip_pairs"), entry.get("sigmas")
    if given_pairs is None:
        flips = _flips_by_name(names)
    else:
        flips = _pairs(given_pairs, len(names), f"{where}: flip_pairs", base=0)
    if sigmas is None:
        sigmas = [COCO_SIGMAS.get(name, OTHER_SIGMA) for name in names]
    elif (
        not isinstance(sigmas, list)
        or len(sigmas) != len(names)
        or not all(isinstance(sigma, (int, float)) and 0 < sigma < 100 for sigma in sigmas)
    ):
        raise DataError(f"{where}: sigmas must be {len(names)} positive numbers; they are {sigmas!r:.80}")
    return category._replace(joints=tuple(names), skeleton=pairs, flip_pairs=flips, sigmas=tuple(map(float, sigmas)))


def _pairs(given: Any, count: int, what: str, *, base: int) -> tuple[tuple[int, int], ...]:
    if given is None:
        return ()
    wrong = DataError(f"{what} must be pairs of joints, counted from {base} to {count - 1 + base}; it is {given!r:.80}")
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
    """Joints whose names differ in left and right only: left_eye and right_eye, or eye.L and eye.R are no guess worth
    making.
    """
    places = {name.lower(): place for place, name in enumerate(names)}
    mirrored = ((places[name], places.get(name.replace("left", "right"))) for name in places if "left" in name)
    return tuple((left, right) for left, right in mirrored if right is not None)


# --- images ------------------------------------------------------------------------------------------------------


def _roots(json_path: Path) -> tuple[Path, ...]:
    """Folders that may hold the images, in the order in which they are tried."""
    folder = json_path.parent
    roots = [folder, folder / "images"]
    if folder.resolve().name == "annotations":
        parent = folder.parent if folder.name == "annotations" else folder.resolve().parent
        roots += [parent / json_path.stem.rpartition("_")[2], parent / "images", parent]
    return tuple(roots)


def _read_images(
    entries: list[Any], roots: tuple[Path, ...], report: Report, json_path: Path
) -> tuple[ImageTable, dict[int, int]]:
    """The images that exist, and the row of every image id of the file, -1 where the image is skipped."""
    report.images_in_file = len(entries)
    ids, sizes, root_of = array("q"), array("q"), bytearray()
    names, offsets = bytearray(), array("q", [0])
    rows: dict[int, int] = {}
    listings: dict[Path, frozenset[str]] = {}
    missing = 0
    for entry in entries:
        image_id = integer(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None:
            report.add("image", "image without an id", detail=f"{entry!r:.60}")
            continue
        if image_id in rows:
            report.add("image", "image id that stands twice", image_id=image_id)
            continue
        rows[image_id] = -1
        name = entry.get("file_name")
        wrong = wrong_name(name)
        if wrong is not None or not isinstance(name, str):
            report.add("image", wrong or "image without a file name", image_id=image_id, detail=f"{name!r:.200}")
            continue
        root = _root_with(name, roots, listings)
        if root is None:
            missing += 1
            report.add("image", "image file that is missing", image_id=image_id, detail=name)
            continue
        size = _stated_size(entry, roots[root] / name, report, image_id)
        if size is None:
            continue
        rows[image_id] = len(ids)
        ids.append(image_id)
        sizes.extend(size)
        root_of.append(root)
        names += name.encode()
        offsets.append(len(names))
    if missing and not ids:
        raise DataError(
            f"{json_path}: none of its {len(entries)} images lies in {' or '.join(map(str, roots))}; "
            "give --images FOLDER"
        )
    table = ImageTable(
        ids=np.array(ids, np.int64),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        names=np.frombuffer(bytes(names), np.uint8),
        name_offsets=np.array(offsets, np.int64),
        roots=roots,
        root_of=np.frombuffer(bytes(root_of), np.uint8),
    )
    return table, rows


def wrong_name(name: Any) -> str | None:
    """Why a file name of an annotation cannot be followed, or None: it must stay below the image folder, on any
    system.
    """
    if not isinstance(name, str) or not name:
        return "image without a file name"
    if _PLAIN_NAME.fullmatch(name) and name not in (".", "..") and name.isprintable():
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return "file name that is not text"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if "\0" in name or not posix.name or not windows.name:
        return "file name that names no file"
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        return "file name that leaves the image folder"
    return None


def _root_with(name: str, roots: tuple[Path, ...], listings: dict[Path, frozenset[str]]) -> int | None:
    """Which root holds the file. A folder is listed once, however many images it has."""
    parent, _, last = name.rpartition("/")
    for place, root in enumerate(roots):
        folder = root / parent if parent else root
        listing = listings.get(folder)
        if listing is None:
            listing = listings[folder] = _listing(folder)
        if last in listing:
            return place
    return None


def _stated_size(entry: dict, path: Path, report: Report, image_id: int) -> tuple[int, int] | None:
    """(height, width) of the json, or of the file where the json has none; None and an entry in the report where it
    makes no sense.
    """
    height, width = integer(entry.get("height")), integer(entry.get("width"))
    if entry.get("height") is None and entry.get("width") is None:
        try:
            height, width = image_size(path)
        except DataError as error:
            report.add("image", "image that cannot be read", image_id=image_id, detail=str(error))
            return None
        report.add("repair", "image without height and width, taken from the file", image_id=image_id)
    if height is None or width is None or height <= 0 or width <= 0:
        size = f"{entry.get('height')!r:.30} x {entry.get('width')!r:.30}"
        report.add("image", "image whose height and width are no sizes", image_id=image_id, detail=size)
        return None
    if height * width > MAX_PIXELS:
        report.add("image", "image that claims too many pixels", image_id=image_id, detail=f"{height} x {width}")
        return None
    return height, width
