"""What a user may hand to `predict`, image by image: paths, folders, globs, arrays, PIL images, or many of them."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import DataError
from .images import IMAGE_SUFFIXES


def expand(inputs: Any) -> Iterator[Any]:
    """The images that `inputs` names, in its order; those of a folder (not of its subfolders) or a glob by name.

    Iterables are read one item at a time, as they are needed. A folder or glob without images, or what is no image,
    comes as a `DataError` in its place, not raised, so that the reader can pass over it. A path is not opened here.
    """
    if isinstance(inputs, str | os.PathLike):
        yield from _files(inputs)
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim not in (2, 3):
            yield DataError(f"an array is one image, [H W] or [H W C]; this one has shape {list(inputs.shape)}")
        else:
            yield inputs
    elif isinstance(inputs, bytes | Image.Image):
        yield inputs
    elif isinstance(inputs, Iterable) and not hasattr(inputs, "numpy"):  # a tensor's axes could mean anything
        for item in inputs:
            yield from expand(item)
    else:
        kind = type(inputs).__name__
        yield DataError(f"{kind} is no image; expected a path, a folder, a glob, an array [H W C] or a PIL image")


def _files(path: str | os.PathLike[str]) -> Iterator[Path | DataError]:
    place = Path(path)
    if place.is_dir():
        files = [file for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
        if not files:
            yield DataError(f"{place}: no image lies in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    elif not place.exists() and glob.has_magic(str(path)):
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not files:
            yield DataError(f"{path}: no file matches this pattern")
    else:
        files = [place]
    yield from sorted(files)
