"""What several formats need to find and read their files."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...categories import Category
from ...errors import DataError

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MOST_BYTES = 1 << 28  # of an annotation file that is parsed as a whole


def split_folders(place: Path) -> dict[str, Path]:
    """The folders of the splits in a folder, by their usual names; the folder itself as "all" if there is no train."""
    found = {split: place / name for split, names in _SPLITS.items() for name in names if (place / name).is_dir()}
    return found if "train" in found else {"all": place}


def files_below(folder: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """The files below a folder with one of these suffixes (lower case), sorted. Hidden ones and links are left out."""
    wanted = frozenset(suffixes)
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in wanted and not hidden and path.is_file() and not path.is_symlink():
            yield path


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
