"""Turns the inputs of `predict` (paths, folders, globs, arrays, PIL images, iterables of these) into single images."""

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
    """The images in `inputs`, in order. Files of a folder or a glob are sorted by name; subfolders are not searched.

    Iterables are consumed lazily. For a folder or glob without images, or an object that is not an image, a `DataError`
    is yielded in its place instead of raised, so that the caller can skip it. Files are not opened here.
    """
    if isinstance(inputs, str | os.PathLike):
        yield from _files(inputs)
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim not in (2, 3):
            yield DataError(f"an array must be one image, [H W] or [H W C]; this one has shape {list(inputs.shape)}")
        else:
            yield inputs
    elif isinstance(inputs, bytes | Image.Image):
        yield inputs
    elif isinstance(inputs, Iterable) and not hasattr(inputs, "numpy"):  # the order of a tensor's axes is ambiguous
        for item in inputs:
            yield from expand(item)
    else:
        kind = type(inputs).__name__
        yield DataError(f"{kind} is not an image; expected a path, a folder, a glob, an array [H W C] or a PIL image")


def _files(path: str | os.PathLike[str]) -> Iterator[Path | DataError]:
    place = Path(path)
    if place.is_dir():
        files = [file for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
        if not files:
            yield DataError(f"{place}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    elif not place.exists() and glob.has_magic(str(path)):
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not files:
            yield DataError(f"{path}: no file matches this pattern")
    else:
        files = [place]
    yield from sorted(files)
