"""What the writers of all formats share: folders, names, image files, and the count of what a format cannot hold."""

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Literal

import numpy as np

from ...categories import Category
from ...files import replacing
from ..dataset import Record
from ..validate import wrong_name


class FormatWriter:
    """Writes a data set with all its splits, or a run of predictions, into folder `out`.

    `images` says what happens to the image files: "refer" leaves them where they are and writes their place, as far as
    the format can; "copy" puts a copy where the format expects it; "link" a symbolic link.
    """

    def __init__(
        self, out: Path, categories: Sequence[Category], images: Literal["refer", "copy", "link"] = "refer"
    ) -> None:
        self.out, self.categories, self.images = out, tuple(categories), images
        self.names = [category.name for category in categories]  # by label
        self.lost: Counter[str] = Counter()  # what the format could not hold, such as "hole of a mask", and how often
        self._given: set[tuple[str, str]] = set()
        self._sources: dict[Path, Path] = {}  # the image of each file that was made
        self.streams: dict[Path, IO[str]] = {}  # that were opened by `stream`
        self._open = ExitStack()

    def add(self, record: Record, split: str = "all") -> None:
        """Writes an image with its objects."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes what is written once, such as the list of classes."""
        self._open.close()

    def folder(self, split: str) -> Path:
        """The folder of a split; `out` itself for a set that is not divided."""
        return self.out if split == "all" else self.out / split

    def stream(self, path: Path) -> tuple[IO[str], bool]:
        """A text file that appears when the writer is closed, and whether it is new."""
        if not (there := path in self.streams):
            temporary = self._open.enter_context(replacing(path))
            self.streams[path] = self._open.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        return self.streams[path], not there

    def free(self, place: str, names: Iterable[str]) -> str:
        """The first of the names that was not given in this place, whatever its capitals; else the last."""
        name = ""
        for name in names:
            if (place, name.casefold()) not in self._given:
                break
        self._given.add((place, name.casefold()))
        return name

    def own_name(self, record: Record, split: str = "all", *, avoid: Collection[str] = ()) -> PurePosixPath:
        """A name for an image, which differs from all others of its split in more than suffix and capitals.

        It is the one that the image's source states, else that of its file, without folders that are called as one of
        `avoid`; with a number if another image has it.
        """
        path = PurePosixPath(_name_of(record).replace("\\", "/"))
        path = PurePosixPath(*(part for part in path.parent.parts if part not in avoid), path.name)
        return PurePosixPath(self.free(split, _numbered(path.with_suffix("").as_posix())) + path.suffix)

    def place(self, record: Record, folder: Path, name: str = "") -> str:
        """The image's name in `folder`, where it is then unless images are left where they are.

        It is `name`, else the one that its source states if that does not lead out of the folder, with a number if
        another image has it. An older file of that name is replaced.
        """
        name = name or _name_of(record)
        if self.images == "refer":
            return name
        path, source = PurePosixPath(name), record.path.resolve()
        names = (path.with_stem(stem).as_posix() for stem in _numbered(path.stem))
        name = next(name for name in names if self._sources.setdefault(folder / name, source) == source)
        target = folder / name
        if target.resolve() == source and not target.is_symlink():  # it is the image itself
            return name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        if self.images == "link":
            part.symlink_to(source)
        else:
            shutil.copyfile(source, part)
        os.replace(part, target)
        return name

    def count_lost(self, record: Record, *, scores: bool = False) -> None:
        """Counts the keypoints, and perhaps the scores, of an image's objects, for formats that do not hold them."""
        if record.keypoints is not None:
            self.lost += Counter({"keypoints of an object": int((record.keypoints[:, :, 2] > 0).any(axis=1).sum())})
        if scores and record.scores is not None:
            self.lost += Counter({"score": int(np.isfinite(record.scores).sum())})


def relative(path: Path, folder: Path) -> str:
    """The path from a folder, with slashes; absolute if the two are on different drives."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _name_of(record: Record) -> str:
    return record.name if record.name and wrong_name(record.name) is None else record.path.name


def _numbered(stem: str) -> Iterator[str]:
    """stem, stem-2, stem-3, ..."""
    return itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
