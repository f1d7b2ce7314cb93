"""Turns the inputs of `predict` (paths, folders, globs, arrays, tensors, PIL images, bytes, open files, and iterables
of these) into single images.

Of a folder or glob, a file's first bytes say whether it is an image, not its name. A file that only its name calls an
image is passed on, so that reading it says what it is.
"""

import glob
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .errors import ConfigError, DataError
from .files import open_regular
from .images import IMAGE_SUFFIXES
from .images.kinds import PREFIX, kind_of

LISTED = 5  # files that are named in the line about those passed over
MOST_LOOKED_AT = 10_000  # files in subfolders of a folder, to say how many images are there


def expand(inputs: Any, *, recursive: bool = False) -> Iterator[Any]:
    """The images in `inputs`, in order. Files of a folder or a glob are sorted by name; subfolders are searched if
    `recursive`, else a line of the log counts the images there.

    Iterables are consumed lazily. For a folder or glob without images, or an object that is not an image, a `DataError`
    is yielded in its place instead of raised, so that the caller can skip it. Of files of a folder or glob the first
    bytes are read here, when their turn comes; one line of the log counts those that are no images.
    """
    if isinstance(inputs, str | os.PathLike):
        yield from _files(inputs, recursive)
    elif isinstance(inputs, np.ndarray):
        if inputs.ndim not in (2, 3):
            yield DataError(f"an array must be one image, [H W] or [H W C]; this one has shape {list(inputs.shape)}")
        else:
            yield inputs
    elif isinstance(inputs, bytes | Image.Image | DataError):
        yield inputs
    elif isinstance(inputs, torch.Tensor):
        yield from _of_tensor(inputs)
    elif hasattr(inputs, "read"):
        content = inputs.read()
        name = getattr(inputs, "name", "an open file")
        yield content if isinstance(content, bytes) else DataError(f"{name} is open as text; open it with mode 'rb'")
    elif isinstance(inputs, Iterable):
        for item in inputs:
            yield from expand(item, recursive=recursive)
    else:
        kind = type(inputs).__name__
        yield DataError(f"{kind} is not an image; expected a path, a folder, a glob, an array [H W C] or a PIL image")


def is_one(inputs: Any) -> bool:
    """Whether these inputs are a single image, and not a folder, a glob, a batch or an iterable."""
    if isinstance(inputs, str | os.PathLike):
        return not Path(inputs).is_dir() and (Path(inputs).exists() or not glob.has_magic(str(inputs)))
    if isinstance(inputs, torch.Tensor):
        return inputs.ndim == 3
    return isinstance(inputs, np.ndarray | bytes | Image.Image) or hasattr(inputs, "read")


def _of_tensor(images: torch.Tensor) -> Iterator[np.ndarray | DataError]:
    """Each image [H W C], uint8, of a tensor [C H W] or [B C H W], uint8 or float from 0 to 1."""
    if images.ndim not in (3, 4):
        yield DataError(f"a tensor must be [C H W] or [B C H W]; this one has shape {list(images.shape)}")
        return
    for image in images if images.ndim == 4 else images[None]:
        pixels = image.detach().cpu()
        if pixels.is_floating_point():
            pixels = pixels.float()
            if not bool(((pixels >= 0) & (pixels <= 1)).all()):
                yield DataError("a float tensor must hold values from 0 to 1; this one holds others")
                continue
            pixels = (pixels * 255).round().to(torch.uint8)
        yield pixels.permute(1, 2, 0).contiguous().numpy()


def read_list(name: str) -> list[Path]:
    """The paths in a text file, one a line; "-" reads standard input. Raises `DataError` if it cannot be read."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: the list of images cannot be read ({error.strerror or error})") from error
    lines = (os.fsdecode(line.rstrip(b"\r")) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [Path(line) for line in lines if line.strip()]


def shard_of(text: str) -> tuple[int, int]:
    """Which of how many parts "2/8" means, from 1. Raises `ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= parts:
        raise ConfigError(
            f"--shard is the number of this part, from 1, and how many there are, such as 2/8; not {text}"
        )
    return part, parts


def _files(path: str | os.PathLike[str], recursive: bool) -> Iterator[Path | DataError]:
    place = Path(path)
    if place.is_dir() and recursive:
        walked = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
        yield from _images_among(sorted(file for file in walked if file.is_file()), f"{place}")
    elif place.is_dir():
        found = sorted(place.iterdir())
        deeper = _told_of_subfolders([folder for folder in found if folder.is_dir() and not folder.is_symlink()])
        yield from _images_among([file for file in found if file.is_file()], f"{place}", deeper)
    elif not place.exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        yield from _images_among(files, f"{path}") if files else [DataError(f"{path}: no file matches this pattern")]
    else:
        yield place


def _told_of_subfolders(folders: list[Path]) -> str:
    """What is in them by the names of the files; empty if they have no images. Looks at 10,000 files at most."""
    files = (name for folder in folders for _, _, names in os.walk(folder) for name in names)
    seen = list(itertools.islice(files, MOST_LOOKED_AT))
    if not (count := sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in seen)):
        return ""
    least = "at least " if len(seen) == MOST_LOOKED_AT else ""
    images = "1 image" if count == 1 else f"{count} images"
    return f"{least}{images} in its subfolders not taken; --recursive, in Python recursive=True, takes them"


def _images_among(files: list[Path], source: str, deeper: str = "") -> Iterator[Path | DataError]:
    """The images among the files; a line about the others and what is `deeper`, or an error if there are no images."""
    others: list[Path] = []
    for file in files:
        if _looks_like_image(file):
            yield file
        else:
            others.append(file)
    names = ", ".join(file.name for file in others[:LISTED]) + (", ..." if len(others) > LISTED else "")
    if len(others) == len(files):
        holds = f"; it holds {_counted(others)} ({names})" if others else ""
        yield DataError(f"{source}: there is no image{holds}; {deeper or 'subfolders are not searched'}")
        return
    if deeper:
        logging.getLogger(__name__).warning("%s: %s", source, deeper)
    if others:
        are = "is no image and is" if len(others) == 1 else "are no images and are"
        logging.getLogger(__name__).warning("%s: %s %s passed over (%s)", source, _counted(others), are, names)


def _looks_like_image(file: Path) -> bool:
    """By its first bytes, or by its name, but for what macOS and others hide beside images."""
    try:
        with open_regular(file) as opened:
            prefix = opened.read(PREFIX)
    except OSError:
        return file.suffix.lower() in IMAGE_SUFFIXES
    return kind_of(prefix) is not None or (file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))


def _counted(files: list[Path]) -> str:
    return "1 file" if len(files) == 1 else f"{len(files)} files"
