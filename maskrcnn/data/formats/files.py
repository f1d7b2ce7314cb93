"""What several formats need to find, read and write their files."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ...categories import Category
from ...errors import DataError
from ...images import image_size
from ..builder import DatasetBuilder
from ..dataset import Record
from ..validate import wrong_name

# The usual names of splits, in the order in which they are tried.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MOST_BYTES = 1 << 28  # of an annotation file that is parsed as a whole


def split_folders(place: Path) -> dict[str, Path]:
    """The folders of the splits in a folder, by their usual names; the folder itself as "all" if there is no train."""
    found = {split: place / name for split, names in SPLITS.items() for name in names if (place / name).is_dir()}
    return found if "train" in found else {"all": place}


def images_of_split(images: Path, split: str) -> Path:
    """The folder of a split in the folder of all images, by its usual names; the folder itself if it has none."""
    folders = [images / name for name in SPLITS.get(split, (split,))]
    return next((folder for folder in folders if folder.is_dir()), images)


def files_below(folder: Path, suffixes: Iterable[str], *, links: bool = False) -> Iterator[Path]:
    """The files below a folder with one of these suffixes (lower case), sorted. Hidden ones are left out, and links
    unless `links`: images are often linked.
    """
    wanted = frozenset(suffixes)
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in wanted and not hidden and path.is_file() and (links or not path.is_symlink()):
            yield path


def add_image_file(builder: DatasetBuilder, id: int, path: Path, name: str) -> tuple[int, int] | None:
    """Adds an image whose annotations do not state its size, and returns its (height, width); None if it is unusable,
    which the builder reports.
    """
    try:
        size = image_size(path)
    except DataError:
        size = None
    builder.add_image(id, name, *(size or (None, None)))
    return size


def load_json(path: Path) -> Any:
    """A whole json file. Raises `DataError`, naming it, if it is too large, cannot be read or is not json."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; a file of this format has at most {MOST_BYTES:,}")
        content = path.read_bytes()
        return json.loads(str(content, json.detect_encoding(content)).removeprefix("\ufeff"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: its json is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid json, perhaps truncated ({error})") from error


def categories_by_name(names: Iterable[str]) -> list[Category]:
    """Categories with ids from 1 in the order of their names, for formats that do not order or number them."""
    return [Category(id, name) for id, name in enumerate(sorted(set(names)), start=1)]


class ImagePlacer:
    """Copies, links or leaves the images that a writer refers to."""

    def __init__(self, how: Literal["refer", "copy", "link"]) -> None:
        self._how = how
        self._sources: dict[Path, Path] = {}  # the image of each file that was made

    def place(self, record: Record, folder: Path) -> str:
        """The image's name in `folder`, where it is then unless images are left where they are.

        It is the one that its source states if that does not lead out of the folder, with a number if another image has
        it. An older file of that name is replaced.
        """
        name = record.name if record.name and wrong_name(record.name) is None else record.path.name
        if self._how == "refer":
            return name
        wanted, source, number = PurePosixPath(name), record.path.resolve(), 1
        while self._sources.setdefault(folder / name, source) != source:
            number += 1
            name = str(wanted.with_stem(f"{wanted.stem}-{number}"))
        target = folder / name
        if target.resolve() == source and not target.is_symlink():  # it is the image itself
            return name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        if self._how == "link":
            part.symlink_to(source)
        else:
            shutil.copyfile(source, part)
        os.replace(part, target)
        return name


def count_keypoints(record: Record, lost: Counter[str]) -> None:
    """Counts the objects whose keypoints a format cannot hold."""
    if record.keypoints is not None and (count := int((record.keypoints[:, :, 2] > 0).any(axis=1).sum())):
        lost["keypoints of an object"] += count


def relative(path: Path, folder: Path) -> str:
    """The path from a folder, with slashes; absolute if the two are on different drives."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return path.absolute().as_posix()
