"""Annotation formats, one file each: `read(path, ...)` gives a `Dataset`, `write(dataset, path)` makes a file of one.

A format only parses: `DatasetBuilder` checks and reports what it finds. Here is what all formats share: which files a
name stands for, and which format reads them.
"""

from pathlib import Path, PurePosixPath

from ...errors import DataError
from . import coco

_TRAIN = ("train.json", "instances_train*.json", "annotations/instances_train*.json", "train/_annotations.coco.json")
_VAL = ("val.json", "instances_val*.json", "annotations/instances_val*.json", "valid/_annotations.coco.json")

read_dataset = coco.read  # with another format, the function that chooses between them


def find_splits(
    data: str | Path, val: str | Path | None = None, *, keypoints: bool = False
) -> tuple[Path, Path | None]:
    """The file to train on and the one to validate on, None if there is only one file.

    `data` is a json or a folder with `train.json` and `val.json`, with `instances_train*.json` and
    `instances_val*.json` (there or in `annotations/`), or with `train/` and `valid/` that hold
    `_annotations.coco.json`. With `keypoints`, `person_keypoints_*` come first. `val` overrides what the folder has.
    Raises `DataError` if nothing fits, or more than one file does.
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
    train = _find(data, _TRAIN, keypoints)
    if train is None:
        raise DataError(f"{data}: no annotations there; expected one of {', '.join(_TRAIN)}")
    return train, Path(val) if val is not None else _find(data, _VAL, keypoints)


def _find(folder: Path, patterns: tuple[str, ...], keypoints: bool) -> Path | None:
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
