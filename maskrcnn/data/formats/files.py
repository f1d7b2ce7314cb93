"""What several formats need to find and read their files."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...categories import Category
from ...errors import DataError
from ...files import fingerprint, open_regular
from ...images import image_size
from ..builder import DatasetBuilder
from ..names import names_below
from . import Source

# The usual names of splits, in the order in which they are tried.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MOST_BYTES = 1 << 28  # of an annotation file that is parsed as a whole
_MOST_LINES = 1 << 26  # bytes of a list
_PEEK = 1 << 16  # bytes of a file that show what it is
_MOST_FILES = 1000  # of a folder that are looked at to find its annotation file


def split_folders(place: Path) -> dict[str, Path]:
    """The folders of the splits in a folder, by their usual names; the folder itself as "all" if there is no train."""
    found = {split: place / name for split, names in SPLITS.items() for name in names if (place / name).is_dir()}
    return found if "train" in found else {"all": place}


def images_of_split(images: Path, split: str) -> Path:
    """The folder of a split in the folder of all images, by its usual names; the folder itself if it has none."""
    folders = [images / name for name in SPLITS.get(split, (split,))]
    return next((folder for folder in folders if folder.is_dir()), images)


def one_file_each(
    format: str, place: Path, suffixes: tuple[str, ...], rank: Callable[[Path], int], *, several: int = 0
) -> dict[str, Source]:
    """The one annotation file of each split, or of a folder that is not divided, for formats with one file a data set.

    `rank` says how likely a file is meant, 0 if it is of another format. If several are the likeliest, their folder is
    meant if they are of the rank `several`; else `DataError` is raised.
    """
    if place.is_file():
        return {"all": Source(format, place)} if rank(place) else {}
    found = {split: _likeliest(folder, suffixes, rank, several) for split, folder in split_folders(place).items()}
    if "train" in found and found["train"] is None:
        found = {"all": _likeliest(place, suffixes, rank, several)}
    return {split: Source(format, path, split) for split, path in found.items() if path is not None}


def _likeliest(folder: Path, suffixes: tuple[str, ...], rank: Callable[[Path], int], several: int) -> Path | None:
    names = itertools.islice(names_below(folder, suffixes), _MOST_FILES)
    ranks = {name: rank(folder / name) for name in names}
    best = max(ranks.values(), default=0)
    likeliest = [name for name, number in ranks.items() if number == best] if best else []
    if len(likeliest) > 1 and best == several:
        return folder
    if len(likeliest) > 1:
        listed = ", ".join(likeliest[:5])
        raise DataError(f"{folder}: {listed} are all annotation files of one format; name one instead of the folder")
    return folder / likeliest[0] if likeliest else None


def image_folder(annotations: Path, images: Path | None) -> Path:
    """The folder below which the images of an annotation file are: as the user says, else that of the file, or the one
    above if the file is in a folder for annotations."""
    if images is not None:
        return images
    folder = annotations.absolute().parent
    return folder.parent if folder.name.lower() in ("annotations", "annotation", "labels", "json") else folder


def size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image, from its header; None if it cannot be read."""
    try:
        return image_size(path)
    except DataError:
        return None


def add_image_file(builder: DatasetBuilder, id: int, path: Path, name: str) -> tuple[int, int] | None:
    """Adds an image whose annotations do not state its size, and returns its (height, width); None if it is unusable,
    which the builder reports.
    """
    size = size_of(path)
    builder.add_image(id, name, *(size or (None, None)))
    return size


def fingerprint_of(files: Sequence[Path]) -> str:
    """SHA-256 of the names and contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {fingerprint(path)}\n".encode())
    return digest.hexdigest()


def peek(path: Path, *, end: bool = False) -> bytes:
    """What shows the format of a text file: its beginning, and its `end` if that may tell more. Empty if unreadable.

    Marks of an encoding, spaces before the text, and the zeros of UTF-16 are taken away.
    """
    try:
        with open_regular(path) as file:
            text = file.read(_PEEK)
            if end:
                file.seek(max(len(text), path.stat().st_size - _PEEK))
                text += file.read(_PEEK)
    except OSError:
        return b""
    return text.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")


def read_bytes(path: Path, most: int | None = MOST_BYTES) -> bytes:
    """A whole file. Raises `DataError`, naming it, if it cannot be read or has more than `most` bytes."""
    try:
        if most is not None and (size := path.stat().st_size) > most:
            raise DataError(f"{path}: {size:,} bytes; at most {most:,} are read")
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a list of names or of labels; bytes that are not UTF-8 are replaced. Raises as `read_bytes`."""
    return read_bytes(path, _MOST_LINES).decode("utf-8-sig", "replace").splitlines()


def load_json(path: Path) -> Any:
    """A whole json file. Raises `DataError`, naming it, if it is too large, cannot be read or is not json."""
    content = read_bytes(path)
    try:
        return json.loads(str(content, json.detect_encoding(content)).removeprefix("\ufeff"))
    except RecursionError as error:
        raise DataError(f"{path}: its json is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error


def categories_by_name(names: Iterable[str]) -> list[Category]:
    """Categories with ids from 1 in the order of their names, for formats that do not order or number them."""
    return [Category(id, name) for id, name in enumerate(sorted(set(names)), start=1)]
