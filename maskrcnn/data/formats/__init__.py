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
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...categories import Category
from ...errors import ConfigError, DataError
from ...images import IMAGE_SUFFIXES, Page
from ..archives import unpacked
from ..dataset import Dataset
from .strangers import describe_file, describe_folder
from .writing import FormatWriter

# In the order in which they are asked; of masks, only names tell.
READERS = ("cityscapes", "cvat", "voc", "yolo", "coco", "labelme", "via", "labelstudio", "masks")
_SUFFIXES = (".json", ".csv", ".xml")  # of files that can hold a whole data set
_OF_COCO = ("person_keypoints_", "captions_", "image_info_", "stuff_", "panoptic_")  # always beside COCO's instances
_MOST_NEIGHBOURS = 30  # files of a folder that are looked into
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
    doubtful: bool = False  # found by names alone: `find` prefers a format that knows the content
    beside: tuple[str, ...] = ()  # annotations in the same folder that are not read, as lines for the report


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
    place, doubtful = unpacked(place), dict[str, Source]()
    for name in sorted(READERS, key=lambda name: place.is_file() and name == "coco"):  # COCO takes any file
        for folder in _nested(place):
            splits = _module(name).find(folder, options)
            if splits and not any(source.doubtful for source in splits.values()):
                return splits if place.is_file() else _with_neighbours(splits, options)
            doubtful = doubtful or splits
    if doubtful:
        return {split: source._replace(doubtful=False) for split, source in doubtful.items()}
    if place.is_file():
        if what := describe_file(place):
            raise DataError(f"{place}: is {what}")
        return {"all": Source("coco", place)}  # whose reader says what is wrong
    others = describe_folder(place)
    raise DataError(
        f"{place}: no annotations there that can be read; the formats are {', '.join(READERS)}"
        + (f", and {others}" if others else ". If they have another name or place, name their file")
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
        raise DataError(
            f"{data}: there is no split to train on, only {', '.join(splits)}; to train on that, name its file: "
            f"{next(iter(splits.values())).path}"
        )
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
    dataset = _module(source.format).read(source, options)
    for line in source.beside:
        dataset.report.add("repair", "annotations beside those that are read; name their file to read them", line)
    return replace(dataset, page=page)


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


def _with_neighbours(splits: dict[str, Source], options: ReadOptions) -> dict[str, Source]:
    """The splits, with what lies beside their files and would be read if it were named: nobody must believe that it
    was read, too.
    """
    own = {source.path for source in splits.values()}
    first, *_ = splits
    format, found = splits[first].format, Counter[str]()
    named: dict[str, str] = {}
    for folder in sorted({path if path.is_dir() else path.parent for path in own}):
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        images = {path.stem for path in files if path.suffix.lower() in IMAGE_SUFFIXES}  # whose annotations are no set
        files = [p for p in files if p.suffix.lower() in _SUFFIXES and p.stem not in images and p not in own]
        for path in itertools.islice((p for p in files if not p.name.startswith(_OF_COCO)), _MOST_NEIGHBOURS):
            other = next((name for name in (format, *READERS) if _claims(name, path, options)), None)
            if other is not None and (other != format or splits[first].path.is_file()):
                named.setdefault(other, path.name)
                found[other] += 1
    lines = [f"{named[other]}, {other}" + (f", and {n - 1} more" if n > 1 else "") for other, n in found.items()]
    return splits | {first: splits[first]._replace(beside=tuple(lines))}


def _claims(format: str, path: Path, options: ReadOptions) -> bool:
    try:
        return bool(_module(format).find(path, options))
    except DataError:
        return False


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
