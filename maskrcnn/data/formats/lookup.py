"""The files below a folder: its annotation files, and its images by the names that annotation tools write."""

import hashlib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ...errors import DataError
from ...files import fingerprint
from ...images import IMAGE_SUFFIXES, image_size
from ..names import common_end
from ..validate import is_text, wrong_name
from . import Source
from .files import split_folders

_MOST_FILES = 1000  # of a folder that are looked at to find its annotation file


def files_in(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files below a folder with one of these suffixes (lower case), one by one, so that the search can end early.

    Files may be links, folders not. Hidden ones are left out.
    """
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not _hidden(name) and is_text(name):
                yield Path(folder, name)


def one_file_each(
    format: str, place: Path, suffixes: tuple[str, ...], rank: Callable[[Path], int], *, several: int = 0
) -> dict[str, Source]:
    """The one annotation file of each split, or of a folder that is not divided, for formats with one file a data set.

    `rank` says how likely a file is meant, 0 if it is of another format. If several are the likeliest, their folder is
    meant if they are of the rank `several`; else `DataError` is raised.
    """
    if place.is_file():
        return {"all": Source(format, place)} if rank(place) else {}
    found = {split: _likeliest(folder, suffixes, rank, several) for split, folder in split_folders(place).items()}
    if "train" in found and found["train"] is None:
        found = {"all": _likeliest(place, suffixes, rank, several)}
    return {split: Source(format, path, split) for split, path in found.items() if path is not None}


def _likeliest(folder: Path, suffixes: tuple[str, ...], rank: Callable[[Path], int], several: int) -> Path | None:
    ranks = [(rank(path), path) for path in itertools.islice(files_in(folder, suffixes), _MOST_FILES)]
    best = max((number for number, _ in ranks), default=0)
    likeliest = [path for number, path in ranks if number == best] if best else []
    if len(likeliest) > 1 and best == several:
        return folder
    if len(likeliest) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in likeliest[:5])
        raise DataError(f"{folder}: {names} are all annotation files of one format; name one instead of the folder")
    return likeliest[0] if likeliest else None


def fingerprint_of(files: Sequence[Path]) -> str:
    """SHA-256 of the names and contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {fingerprint(path)}\n".encode())
    return digest.hexdigest()


class ImageFolder:
    """The images below a folder by their names in it, "sub/a.png". As `files_in` finds them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = sorted(path.relative_to(root).as_posix() for path in files_in(root, IMAGE_SUFFIXES))
        self._known = set(self.names)
        self._by_last: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_stem[name.rpartition(".")[0]].append(name)
            self._by_last[_plain(PurePosixPath(name).name)].append(name)

    def find(self, stated: str, near: str = "") -> str | None:
        """The image that a file in folder `near` (relative to the root) calls `stated`, or None if none or several fit.

        First what it says, relative to that folder and to the root. Then, of all images with that name but for case and
        the form of accents, the one whose folders agree with what it says in more places, from the end, than any other.
        """
        for name in dict.fromkeys((stated, unquote(stated))):
            parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
            if not parts or "\0" in name:
                continue
            below = _joined(near, parts)
            for attempt in (below, _joined("", parts)):
                if attempt in self._known or (attempt and self._is_file(attempt)):
                    return attempt
            said = _plain(below or "/".join(parts)).split("/")
            agreeing = [(common_end(_plain(n).split("/"), said), n) for n in self._by_last.get(_plain(parts[-1]), [])]
            most = max((count for count, _ in agreeing), default=0)
            best = [n for count, n in agreeing if count == most]
            if len(best) == 1:
                return best[0]
        return None

    def _is_file(self, name: str) -> bool:
        """Whether there is such a file, whatever its suffix; a name that leaves the root is none."""
        return wrong_name(name) is None and (self.root / name).is_file()

    def find_stem(self, stem: str, near: str = "") -> str | None:
        """The one image that is called `stem`, whatever its suffix, in folder `near`, else in the root."""
        for folder in (near, ""):
            own = PurePosixPath(folder, stem).as_posix()
            if len(same := self._by_stem.get(own, [])) == 1:
                return same[0]
        return None


def image_folder(annotations: Path, images: Path | None) -> Path:
    """The folder below which the images of an annotation file are: as the user says, else that of the file, or the one
    above if the file is in a folder for annotations."""
    if images is not None:
        return images
    folder = annotations.absolute().parent
    return folder.parent if folder.name.lower() in ("annotations", "annotation", "labels", "json") else folder


def size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image, from its header; None if it cannot be read."""
    try:
        return image_size(path)
    except DataError:
        return None


def _joined(near: str, parts: list[str]) -> str | None:
    """The path from the root, with `..` resolved; None if it leaves the root."""
    path = near.split("/") if near not in ("", ".") else []
    for part in parts:
        if part != "..":
            path.append(part)
        elif path:
            path.pop()
        else:
            return None
    return "/".join(path)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
