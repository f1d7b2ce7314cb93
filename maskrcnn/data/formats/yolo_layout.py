"""Where the images and labels of a YOLO data set are: Ultralytics', Roboflow's, Darknet's and CVAT's layouts.

The labels of `images/train/a.jpg` are in `labels/train/a.txt`, else beside the image. A `data.yaml` names the classes,
and the folders or lists of images of each split. If the user names the file itself, its paths may lead anywhere; found
in a folder, they stay in that folder.
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice, takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import repr as short  # aliases of YAML can make a list exponentially long
from typing import Any, NamedTuple

from ...errors import DataError
from ...images import IMAGE_SUFFIXES
from ..names import names_below
from . import ReadOptions
from .files import read_lines, split_folders

_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")  # preferred if a folder has several
_NAMES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
_NO_LABELS = frozenset(("classes.txt", "labels.txt", "train.txt", "val.txt", "valid.txt", "test.txt"))
_MOST_YAML = 1 << 21  # bytes
_PROBED = 50  # files of a folder that are looked at to find out whether they are labels
_LABEL = re.compile(r"\s*\d+(\.0*)?([ \t]+[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?){4,}\s*")


class LabelSet(NamedTuple):
    """A data set that was found, with nothing resolved yet."""

    base: Path  # the folder that all paths are in
    file: Path | None  # that describes it
    names: list[str] | None  # of the classes
    splits: dict[str, list[str]]  # folders of images, or text files that list images
    root: str = ""  # the folder of these as the file states it
    free: bool = False  # the user named the file, so its paths may lead out of the folder


class Labelled(NamedTuple):
    name: str  # relative to the root
    label: Path | None


def open_set(place: Path) -> LabelSet | None:
    if place.is_file():
        given = _load_yaml(place) if place.suffix.lower() in (".yaml", ".yml") else None
        return None if given is None else _described(place, given, free=True)
    if not place.is_dir():
        return None
    yamls = {path: given for path in sorted(place.glob("*.y*ml")) if (given := _load_yaml(path)) is not None}
    preferred = [place / name for name in _YAMLS if place / name in yamls] or list(yamls)
    if len(preferred) > 1 and preferred[0].name not in _YAMLS:
        raise DataError(f"{place}: {', '.join(path.name for path in preferred)} all describe data; name one of them")
    if preferred:
        return _described(preferred[0], yamls[preferred[0]], free=False)
    if (place / "obj.data").is_file():
        return _darknet(place)
    return _undescribed(place)


def _load_yaml(path: Path) -> dict[str, Any] | None:
    """What describes a data set; None if the file is something else."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if path.stat().st_size > _MOST_YAML:
            return None
        given = yaml.load(path.read_bytes(), loader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        if path.name in _YAMLS:
            raise DataError(f"{path}: not valid YAML ({' '.join(str(error).split()):.200})") from error
        return None
    if not isinstance(given, dict) or not ("names" in given or "nc" in given):
        return None
    return given if any(given.get(key) for key in _SPLITS) else None


def _described(path: Path, given: dict[str, Any], *, free: bool) -> LabelSet:
    if given.get("kpt_shape"):
        raise DataError(
            f"{path}: kpt_shape says that these are keypoints (pose), which are read from COCO json only; "
            "export them as COCO keypoints"
        )
    splits: dict[str, list[str]] = {}
    for key, split in _SPLITS.items():
        value = given.get(key)
        entries = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) and entry for entry in entries):
            raise DataError(f"{path}: {key} must be a folder, a text file or a list of them; it is {short(value)}")
        if entries:
            splits.setdefault(split, [str(entry) for entry in entries])
    root = given.get("path")
    return LabelSet(path.parent, path, _class_names(path, given), splits, root if isinstance(root, str) else "", free)


def _class_names(path: Path, given: dict[str, Any]) -> list[str]:
    names, nc = given.get("names"), given.get("nc")
    if isinstance(names, dict):
        numbers = [int(key) if str(key).isdecimal() and len(str(key)) < 9 else -1 for key in names]
        if sorted(numbers) != list(range(len(names))):
            raise DataError(f"{path}: names must be numbered from 0 without a gap; they are {short(list(names))}")
        names = [name for _, name in sorted(zip(numbers, names.values(), strict=True), key=lambda pair: pair[0])]
    if names is None and isinstance(nc, int) and 0 < nc < 1_000_000:
        names = [f"class_{i}" for i in range(nc)]
    if not isinstance(names, list) or not names or not all(isinstance(n, str | int | float) for n in names):
        raise DataError(f"{path}: names must be a list of the classes; it is {short(names)}")
    return [str(name) for name in names]


def _darknet(place: Path) -> LabelSet:
    """CVAT's "YOLO 1.1": `obj.data` names a list of images for each split, and the classes."""
    lines = (line.partition("=") for line in read_lines(place / "obj.data"))
    given = {key.strip(): value.strip() for key, _, value in lines}
    splits = {_SPLITS[key]: [value] for key, value in given.items() if key in _SPLITS and value}
    names = _inside(place, _parts(given.get("names", ""))) or place / "obj.names"
    return LabelSet(place, place / "obj.data", _listed_names(names), splits)


def _undescribed(place: Path) -> LabelSet | None:
    """Label files without a description: `labels/train`, `train/labels`, `labels`, or beside the images."""
    splits: dict[str, list[str]] = {}
    if (place / "labels").is_dir():
        for split, folder in split_folders(place / "labels").items():
            if _has_labels(folder, below=True):
                splits[split] = [str(PurePosixPath("images", folder.relative_to(place / "labels").as_posix()))]
    else:
        for split, folder in split_folders(place).items():
            inner = "images" if (folder / "labels").is_dir() else ""
            if _has_labels(folder / "labels" if inner else folder, below=bool(inner)):
                splits[split] = [str(PurePosixPath(folder.relative_to(place).as_posix(), inner))]
    if not splits:
        return None
    folders = (place, place / "labels", *(place / entry for entries in splits.values() for entry in entries))
    lists = [folder / name for folder in folders for name in _NAMES if (folder / name).is_file()]
    return LabelSet(place, None, _listed_names(lists[0]) if lists else None, splits)


def _labels_below(folder: Path) -> Iterator[Path]:
    """The text files below a folder that may be labels."""
    names = names_below(folder, (".txt",))
    return (folder / name for name in names if PurePosixPath(name).name.lower() not in _NO_LABELS)


def _has_labels(folder: Path, *, below: bool) -> bool:
    """Whether one of the first files in a folder, or also `below` it, is a label file."""
    labels = takewhile(lambda label: below or label.parent == folder, _labels_below(folder))
    return any(map(_is_label, islice(labels, _PROBED)))


def _is_label(path: Path) -> bool:
    """Whether the file's first line is an object."""
    try:
        with path.open("rb") as file:
            return _LABEL.match(file.readline(1 << 16).decode("ascii", "replace")) is not None
    except OSError:
        return False


def _listed_names(path: Path) -> list[str]:
    names = [line.strip() for line in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path}: there is no name of a class in it")
    return names


def images_of(found: LabelSet, split: str, options: ReadOptions) -> tuple[Path, list[Labelled], list[Path]]:
    """The folder of a split's images, the images in order of their names, and label files that have no image."""
    if options.images is not None:
        return _elsewhere(found, split, options.images)
    files: list[Path] = []
    missing: list[str] = []
    folders: list[Path] = []
    for entry in found.splits[split]:
        place = _resolved(found, entry)
        if place is None:
            raise DataError(
                f"{found.file or found.base}: {split} is {entry}, which is not in {found.base}; "
                "correct it, or name the folder of the images with --images FOLDER"
            )
        if place.is_dir():
            files += [place / name for name in names_below(place, IMAGE_SUFFIXES)]
            folders.append(place)
        else:
            listed, unknown = _listed(found, place)
            files, missing = files + listed, missing + unknown
    files = sorted(set(files))
    root = folders[0] if len(folders) == 1 == len(found.splits[split]) else _common(found.base, files)
    images = [Labelled(path.relative_to(root).as_posix(), _label_of(path, found.base)) for path in files]
    used = {image.label for image in images}
    labels = (label for folder in folders for label in _labels_below(_label_folder(folder, found.base) or folder))
    spare = [label for label in labels if label not in used and _is_label(label)]
    return root, images + [Labelled(name, None) for name in missing], spare


def _common(base: Path, files: Sequence[Path]) -> Path:
    """The folder that holds all images."""
    if all(path.is_relative_to(base) for path in files):
        return base
    return Path(os.path.commonpath([path.parent for path in files]))


def _elsewhere(found: LabelSet, split: str, root: Path) -> tuple[Path, list[Labelled], list[Path]]:
    """The same if the user names the folder of the images: each label file has the image with its name.

    Images without a label file belong to no split unless there is only one.
    """
    place = found.base.joinpath(*_parts(found.splits[split][0]))
    guesses = [
        _label_folder(place, found.base),
        *(found.base / p for p in (f"labels/{split}", f"{split}/labels", "labels")),
    ]
    folder = next((guess for guess in guesses if guess is not None and guess.is_dir()), found.base)
    files: dict[str, list[str]] = {}
    for name in sorted(names_below(root, IMAGE_SUFFIXES)):
        files.setdefault(name.rpartition(".")[0], []).append(name)
    # Names that say less: without the folders `images` and `labels`, which layouts add and writers leave out; alone.
    shorter: dict[str, list[str]] = {}
    for stem in files:
        parts = stem.split("/")
        for less in {"/".join(part for part in parts if part not in ("images", "labels")), parts[-1]}:
            shorter.setdefault(less, []).append(stem)
    labels, spare = dict[str, Path](), list[Path]()
    for label in _labels_below(folder):
        stem = label.relative_to(folder).with_suffix("").as_posix()
        fitting = [shorter[name] for name in (stem, label.stem) if len(shorter.get(name, ())) == 1]
        match = next((s for s in (stem, f"{split}/{stem}", *chain(*fitting)) if s in files), None)
        if match is None:
            spare.append(label)
        else:
            labels[match] = label
    chosen = sorted(files if len(found.splits) == 1 else labels)
    return root, [Labelled(name, labels.get(stem)) for stem in chosen for name in files[stem]], spare


def _parts(text: str) -> list[str]:
    """The folders and the file of a path, written on any system, without what leads up or to a drive: Roboflow's
    `../train/images` is meant from a folder below, and absolute paths are those of another machine.
    """
    return [part for part in PureWindowsPath(text).parts if part != ".." and not part.endswith(("\\", "/", ":"))]


def _resolved(found: LabelSet, entry: str) -> Path | None:
    """The folder or file that an entry of the description means, or None."""
    if found.free:
        for start in (found.base, Path(), Path("datasets")):
            place = Path(os.path.normpath(start / found.root / entry))
            if place.exists():
                return place
    own = _parts(entry)
    return _inside(found.base, [*_parts(found.root), *own], keep=min(2, len(own)))


def _inside(folder: Path, parts: list[str], keep: int = 1) -> Path | None:
    """The longest end of a path that is there below `folder`. A folder must have its last `keep` parts."""
    for first in range(len(parts) + (keep == 0)):
        place = folder.joinpath(*parts[first:])
        if place.exists() and (len(parts) - first >= keep or place.is_file()):
            return place if place.resolve().is_relative_to(folder.resolve()) else None
    return folder if not parts else None


def _listed(found: LabelSet, path: Path) -> tuple[list[Path], list[str]]:
    """The images that a text file lists, and lines that name none."""
    files, missing = list[Path](), list[str]()
    for line in filter(None, map(str.strip, read_lines(path))):
        places = [path.parent / line] if found.free else []
        places += [place for base in (path.parent, found.base) if (place := _inside(base, _parts(line))) is not None]
        place = next((place for place in places if place.is_file()), None)
        missing += [line] if place is None else []
        files += [] if place is None else [place]
    return files, missing


def _label_of(image: Path, base: Path) -> Path | None:
    """The label file of an image: `labels` for the last `images` of its path, else beside it."""
    folder, beside = _label_folder(image.parent, base), image.with_suffix(".txt")
    places = [beside] if folder is None else [folder / beside.name, beside]
    return next((place for place in places if place.is_file()), None)


def _label_folder(folder: Path, base: Path) -> Path | None:
    """None if no part of the path below `base` is "images"."""
    parts, first = list(folder.parts), len(base.parts) if folder.is_relative_to(base) else 0
    for at in range(len(parts) - 1, first - 1, -1):
        if parts[at].lower() == "images":
            return Path(*parts[:at], "labels" if parts[at] == "images" else "Labels", *parts[at + 1 :])
    return None
