"""Names of results: those of the images, without suffix, with the folders below the one that all images share."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath


def mirrored(paths: Sequence[Path]) -> list[str]:
    """A name for each image: `x` if all are in one folder, `a/x` and `b/x` if they are in two.

    Where two images differ in no more than suffix or capitals, the later one gets a number: `x`, `x-2`.
    """
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        root = os.path.commonpath(set(folders)) if folders else ""
    except ValueError:  # different drives
        root = ""
    inner = {folder: PurePath(folder).relative_to(root or PurePath(folder).anchor) for folder in set(folders)}
    given = Counter[str]()
    pairs = zip(folders, paths, strict=True)
    return [unique((inner[folder] / path.stem).as_posix(), given) for folder, path in pairs]


def unique(stem: str, given: Counter[str]) -> str:
    """`stem`, or with a number if it was given before, whatever its capitals: a, a-2, a-3."""
    name = stem
    while given[name.casefold()]:
        given[stem.casefold()] += 1
        name = f"{stem}-{given[stem.casefold()]}"
    given[name.casefold()] += 1
    return name
