"""Annotation formats, one file each. A format is found by the content of what it is given, not by its name.

A format's module has

    find(place, options)      {split: Source} of a file or folder in this format: "train", "val", "test", or "all" for a
                              set that is not divided; empty if it is of another format
    read(source, options)     the `Dataset`
    Writer(out, categories, images)
                              a `FormatWriter`: writes annotated images one by one, so that predictions need not be kept

and may lack the last or the first two. It only parses: `DatasetBuilder` checks and reports what it finds.
"""

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...categories import Category
from ...errors import ConfigError, DataError
from ...images import Page
from ..archives import unpacked
from ..dataset import Dataset
from .writing import FormatWriter

# In the order in which they are asked; of masks, only names tell.
READERS = ("cityscapes", "cvat", "voc", "yolo", "coco", "labelme", "via", "labelstudio", "masks")
WRITERS = (
    "cityscapes",
    "coco",
    "csv",
    "cvat",
    "geojson",
    "labelme",
    "labelstudio",
    "masks",
    "parquet",
    "via",
    "voc",
    "yolo",
)


class Source(NamedTuple):
    """One data set that can be read: a split of a file or folder in some format."""

    format: str
    path: Path
    split: str = "all"


@dataclass(frozen=True)
class ReadOptions:
    """What the user may say about annotations, whatever their format."""

    images: Path | None = None  # the folder of the images, if it is not where the format expects it
    strict: bool = False  # a bad record raises `DataError` instead of being left out and reported
    keypoints: bool | None = False  # read keypoints, too; None: if the categories name some
    # An image without annotations; None: as the format means it.
    unlabelled: Literal["background", "skip"] | None = None


def find(place: str | Path, options: ReadOptions = ReadOptions()) -> dict[str, Source]:
    """The splits of a data set, by their names. Raises `DataError` if there is none, or of no known format."""
    place = Path(place)
    if not place.exists():
        raise DataError(f"{place}: there is no such file or folder; expected annotations: a file, a folder or a zip")
    place = unpacked(place)
    for name in sorted(READERS, key=lambda name: place.is_file() and name == "coco"):  # COCO takes any file
        for folder in _nested(place):
            if splits := _module(name).find(folder, options):
                return splits
    if place.is_file():  # its reader says what it is instead
        return {"all": Source("coco", place)}
    raise DataError(
        f"{place}: no annotations there that can be read; the formats are {', '.join(READERS)}. If they have another "
        "name or place, name their file"
    )


def find_splits(
    data: str | Path, val: str | Path | None = None, images: str | Path | None = None, *, keypoints: bool = False
) -> tuple[Source, Source | None]:
    """What to train on and what to validate on, None if the data is not divided. `val` overrides what `data` has;
    `images` is the folder of the images, if they are not where the format expects them.

    Raises `DataError` if there are no annotations, or if it is not clear which ones are meant.
    """
    options = ReadOptions(None if images is None else Path(images), keypoints=keypoints)
    if val is not None and not Path(val).exists():
        raise DataError(f"{val}: there is no such file; --val takes validation data, such as a COCO json")
    splits = find(data, options)
    train = splits.get("train") or splits.get("all")
    if train is None:
        raise DataError(f"{data}: there is no split to train on, only {', '.join(splits)}")
    if val is None:
        return train, splits.get("val")
    found = find(val, options)
    return train, found.get("val") or found.get("all") or next(iter(found.values()))


def read_dataset(
    source: str | Path | Source,
    images_dir: str | Path | None = None,
    *,
    strict: bool = False,
    keypoints: bool | None = False,
    unlabelled: str | None = None,
    page: Page = None,
) -> Dataset:
    """Reads a `Source`, or a file or folder that is not divided; the other arguments are those of `ReadOptions`, and
    `page` says which page is annotated of images that are stacks.

    Raises `DataError`, naming the file, if it cannot be read.
    """
    if not isinstance(source, Source):
        source = find_splits(source, images=images_dir, keypoints=bool(keypoints))[0]
    if unlabelled not in (None, "background", "skip"):
        raise ConfigError(f"--unlabelled is background or skip, not {unlabelled!r}")
    options = ReadOptions(None if images_dir is None else Path(images_dir), strict, keypoints, unlabelled)
    return replace(_module(source.format).read(source, options), page=page)


def writer(
    name: str, out: str | Path, categories: Sequence[Category], images: Literal["refer", "copy", "link"] = "refer"
) -> FormatWriter:
    """The writer of a format. Raises `ConfigError` for an unknown one."""
    check_format(name, WRITERS)
    return _module(name).Writer(Path(out), categories, images)


def check_format(name: str, known: Sequence[str]) -> None:
    """Raises `ConfigError` with the list, and the nearest name, if a format is not `known`."""
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        meant = f"did you mean {near[0]}? There are" if near else "there are"
        raise ConfigError(f"there is no format {name!r} to write; {meant} {', '.join(known)}")


def losses(name: str, lost: Mapping[str, int]) -> str:
    """One sentence on what a format could not hold; empty if nothing was lost."""
    parts = [f"{what} ({count:,})" for what, count in sorted(lost.items(), key=lambda row: -row[1]) if count]
    return f"{name} cannot hold everything; left out or simplified: {', '.join(parts)}" if parts else ""


def _nested(place: Path) -> Iterator[Path]:
    """A path, and the folders in it as long as each is all that there is: archives often hold one with all the rest."""
    yield place
    for _ in range(3):
        inner = [path for path in place.iterdir() if not path.name.startswith((".", "__"))] if place.is_dir() else []
        if len(inner) != 1 or not inner[0].is_dir() or inner[0].is_symlink():
            break
        place = inner[0]
        yield place


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
