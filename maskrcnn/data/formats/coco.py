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
from ..problems import Report
from ..records import Dataset, ImageTable
from .coco_categories import read_categories
from .coco_flat import Flat, integer
from .coco_objects import object_table
from .coco_scan import OddJson, Scan, reader_of, scan_annotations, scanned_columns

_TRAIN_NAMES = (
    "train.json",
    "instances_train*.json",
    "annotations/instances_train*.json",
    "train/_annotations.coco.json",
)
_VAL_NAMES = ("val.json", "instances_val*.json", "annotations/instances_val*.json", "valid/_annotations.coco.json")
_PLAIN_NAME = re.compile(r"[^/\\:\0]+")


def read_coco(
    json_path: str | Path,
    images_dir: str | Path | None = None,
    *,
    strict: bool = False,
    keypoints: bool = False,
    impl: str | None = None,
) -> Dataset:
    """The data set in a COCO instances json.

    Args:
        json_path: the file. Images lie beside it, in `images/` there, or in COCO's own tree (`annotations/` beside
            `train2017/`).
        images_dir: where the images lie instead.
        strict: the first bad record is a `DataError` instead of an entry in the report.
        keypoints: read keypoints; at least one category must name some.
        impl: "json", or "numba" for the scanner of large files; None decides by the size. The answer is the same.

    Raises `DataError` naming the file where it is missing, not json, not COCO, has no category or none of its images,
    or where a category's id or name stands twice.
    """
    json_path = Path(json_path)
    loaded, scan, fingerprint = _load(json_path, impl, keypoints)
    categories = read_categories(loaded["categories"], json_path, keypoints)
    report = Report(json_path.name, strict=strict, path=json_path)
    roots = _roots(json_path) if images_dir is None else (Path(images_dir),)
    images, rows = _read_images(loaded.pop("images"), roots, report, json_path)
    flat = Flat(rows, images.sizes, categories, report, keypoints=keypoints)
    annotations = loaded.pop("annotations")
    report.annotations_in_file = len(annotations if scan is None else scan.whole)
    if scan is None:
        annotations.reverse()
        for place in range(len(annotations)):
            flat.add(annotations.pop(), place)  # freed once it is flat: a large file never stands twice in memory
        columns = flat.columns()
    else:
        try:
            columns = scanned_columns(scan, flat)
        except OddJson:
            return read_coco(json_path, images_dir, strict=strict, keypoints=keypoints, impl="json")
        del scan
    objects = object_table(columns, images.ids, images.sizes, report)
    del columns
    return Dataset(json_path, categories, images, objects, fingerprint, report)


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
        keypoint_patterns = tuple(
            pattern.replace("instances", "person_keypoints") for pattern in patterns if "instances" in pattern
        )
        patterns = keypoint_patterns + patterns
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


def _load(path: Path, impl: str | None, keypoints: bool) -> tuple[dict[str, Any], Scan | None, str]:
    """The json's lists, its annotations apart where they are scanned, and the SHA-256 of its bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    fingerprint = hashlib.sha256(content).hexdigest()
    if (impl or reader_of(len(content))) == "numba":
        scanned = _load_scanned(content, fingerprint, keypoints)
        if scanned is not None:
            return _checked(scanned[0], path), scanned[1], fingerprint
    try:
        text = _decoded(content)
        del content
        return _checked(json.loads(text), path), None, fingerprint
    except ValueError as error:  # wrong json and wrong UTF-8
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: not COCO; its json is nested too deeply") from error


def _load_scanned(content: bytes, fingerprint: str, keypoints: bool) -> tuple[dict[str, Any], Scan] | None:
    """The same by the scanner; None where it cannot."""
    scan, place = scan_annotations(content, keypoints=keypoints) or (None, slice(0))
    if scan is None:
        return None
    try:
        loaded = json.loads(
            _decoded(b'%b"%b"%b' % (content[: place.start], fingerprint.encode(), content[place.stop :]))
        )
    except (ValueError, RecursionError):
        return None
    # A file cannot hold its own fingerprint: where it stands, no other `annotations` has taken its place.
    if not isinstance(loaded, dict) or loaded.get("annotations") != fingerprint:
        return None
    return loaded | {"annotations": []}, scan


def _decoded(content: bytes) -> str:
    return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")


def _checked(loaded: Any, path: Path) -> dict[str, Any]:
    """`loaded` where it is COCO at first sight."""
    expected = ("images", "annotations", "categories")
    wrong = [key for key in expected if not isinstance(loaded, dict) or not isinstance(loaded.get(key), list)]
    if wrong:
        raise DataError(
            f"{path}: not COCO; expected an object with the lists {', '.join(expected)}, "
            f"but there is no list {', '.join(map(repr, wrong))}"
        )
    return loaded


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
    listings: dict[tuple[int, str], frozenset[str]] = {}
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
        size = _size(entry, roots[root], name, report, image_id)
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


def _root_with(name: str, roots: tuple[Path, ...], listings: dict[tuple[int, str], frozenset[str]]) -> int | None:
    """Which root holds the file. A folder is listed once, however many images it has."""
    parent, _, last = name.rpartition("/")
    for place, root in enumerate(roots):
        listing = listings.get((place, parent))
        if listing is None:
            listing = listings[place, parent] = _listing(root / parent)
        if last in listing:
            return place
    return None


def _size(entry: dict, root: Path, name: str, report: Report, image_id: int) -> tuple[int, int] | None:
    """(height, width) of the json, or of the file where the json has none; None and an entry in the report where it
    makes no sense.
    """
    height, width = integer(entry.get("height")), integer(entry.get("width"))
    if entry.get("height") is None and entry.get("width") is None:
        try:
            height, width = image_size(root / name)
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
