"""Finds image files by the names that annotations state, also by names that another system or tool wrote.

A name that is there as stated is found in the listing of its folder. All others are looked for among the files below
the image folders, however they are spelled: backslashes, absolute paths, URLs, composed accents, capitals, a missing
suffix. A file is taken if it fits best and alone. No name leads out of the folders: only files in them are listed.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from ..images import IMAGE_SUFFIXES
from .validate import is_text, wrong_name

_MOST_FILES = 1_000_000  # listed below the image folders
_MOST_COMPARED = 5_000  # names among which the nearest is looked for
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # that Label Studio puts before a name


class Found(NamedTuple):
    """A file, as the index of its folder among the roots and its path in there."""

    root: int
    name: str
    fit: int  # how many parts of the stated name its path has at the end; the name as stated fits best, `STATED`


class Lost(NamedTuple):
    """Why there is no file: a reason to count by, and a detail."""

    reason: str
    detail: str


STATED = 1 << 30


class _File(NamedTuple):
    root: int
    parts: tuple[str, ...]
    keys: tuple[str, ...]  # the parts without differences that another system makes
    priority: int  # the first of the roots that it is in


class ImageFinder:
    """Finds images in some folders, the first of which wins."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)
        self._listing = cache(_list)
        self._files: list[_File] | None = None
        self._by_key: dict[str, list[_File]] = {}
        self._by_stem: dict[str, list[_File]] = {}
        self._folders: set[tuple[str, ...]] = set()
        self._suggested = False

    def find(self, name: Any) -> Found | Lost:
        """The file of an image."""
        wrong = wrong_name(name)
        if wrong is None and (root := self._root_with(name)) is not None:
            return Found(root, name, STATED)
        if not is_text(name) or not name or "\0" in name:
            return Lost(wrong or "image without a file name", f"{name!r:.200}")
        several = 0
        for parts in _spellings(name):
            fits = self._fitting(parts)
            if len(fits) == 1:
                return fits[0]
            several = max(several, len(fits))
        if several:
            return Lost("image file of which several have the name", f"{name!r:.200}: {several}")
        if wrong is None or "leaves" not in wrong:
            return Lost(wrong or "missing image file", f"{name:.200}{self._suggestion(name)}")
        return Lost(wrong, f"{name!r:.200}{self._suggestion(name)}")

    def places(self) -> str:
        """The folders, for messages: those that exist, or all of them if none does."""
        there = [str(root) for root in self.roots if root.is_dir()]
        return " or ".join(there or map(str, self.roots))

    def nearest(self, name: str) -> str | None:
        """The image below the roots whose name is most like this one."""
        last = _key(re.split(r"[\\/]", name)[-1])
        listed = {file.keys[-1]: file for file in self._index()[:_MOST_COMPARED] if _is_image(file.keys[-1])}
        near = difflib.get_close_matches(last, listed, n=1, cutoff=0.6)
        return "/".join(listed[near[0]].parts) if near else None

    def _root_with(self, name: str) -> int | None:
        """The index of the root that holds the file. A folder is listed once, however many images it has."""
        parent, _, last = name.rpartition("/")
        for place, root in enumerate(self.roots):
            if last in self._listing(root / parent if parent else root):
                return place
        return None

    def _suggestion(self, name: str) -> str:
        """Said once: it compares the name with all others."""
        if self._suggested:
            return ""
        self._suggested = True
        near = self.nearest(name)
        return f", looked for in {self.places()}" + (f"; the nearest name there is {near}" if near else "")

    def _fitting(self, parts: tuple[str, ...]) -> list[Found]:
        """The files that fit best: all parts from the end, or the last ones if no folder of the name is there."""
        self._index()
        keys = tuple(map(_key, parts))
        last = keys[-1]
        candidates = self._by_key.get(last) or self._by_key.get(_UPLOAD.sub("", last)) or self._without_suffix(last)
        if not candidates:
            return []
        if len(keys) > 1 and (inside := self._in_folder(keys, candidates)) is not None:
            candidates = inside
        scored = [(common_end(file.keys[:-1], keys[:-1]) + 1, file) for file in candidates]
        best = max((fit for fit, _ in scored), default=0)
        ranked = [((_exactness(file, parts), -file.priority), file) for fit, file in scored if fit == best]
        top = max((rank for rank, _ in ranked), default=(0, 0))
        return [Found(file.root, "/".join(file.parts), best) for rank, file in ranked if rank == top]

    def _in_folder(self, keys: tuple[str, ...], candidates: list[_File]) -> list[_File] | None:
        """The candidates in the folder that the name states; None if no such folder is there."""
        for first in range(len(keys) - 1):
            if keys[first:-1] in self._folders:
                return [file for file in candidates if file.keys[:-1][-(len(keys) - 1 - first) :] == keys[first:-1]]
        return None

    def _without_suffix(self, last: str) -> list[_File]:
        """Files that have one suffix more than the name, or another spelling of its suffix."""
        stem, suffix = os.path.splitext(last)
        same = [f for f in self._by_stem.get(stem, []) if _suffix(f.keys[-1]) == _SAME_SUFFIX.get(suffix, suffix)]
        return same or ([] if suffix in IMAGE_SUFFIXES else self._by_stem.get(last, []))

    def _index(self) -> list[_File]:
        """All files below the roots. They are listed when the first name is missed."""
        if self._files is None:
            self._files = list(_walk(self.roots))
            for file in self._files:
                self._by_key.setdefault(file.keys[-1], []).append(file)
                if _is_image(file.keys[-1]):
                    self._by_stem.setdefault(os.path.splitext(file.keys[-1])[0], []).append(file)
            for folder in {file.keys[:-1] for file in self._files}:
                self._folders.update(folder[first:] for first in range(len(folder)))
        return self._files


def _spellings(name: str) -> Iterator[tuple[str, ...]]:
    """The parts of a name, if read as a path of any system, then as a URL."""
    seen = set()
    local = name.rpartition("?d=")[2]  # Label Studio: /data/local-files/?d=images/a.png
    for text in (name, unquote(name), unquote(local), unquote(name.split("?")[0])):
        parts: list[str] = []
        for part in re.split(r"[\\/]", text):
            if part == "..":
                del parts[-1:]
            elif part not in ("", ".") and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:", part):
                parts.append(part)
        if parts and (found := tuple(parts)) not in seen:
            seen.add(found)
            yield found


def _walk(roots: Sequence[Path]) -> Iterator[_File]:
    """The files below the roots, each once. Hidden ones and links to folders are passed over."""
    tops = [i for i, root in enumerate(roots) if root.is_dir()]
    real = {i: roots[i].resolve() for i in tops}
    outer = [i for i in tops if not any(real[i] != real[j] and real[i].is_relative_to(real[j]) for j in tops)]
    firsts = {real[i]: i for i in reversed(outer)}
    count = 0
    for folder, i in firsts.items():
        inside = [(j, real[j].relative_to(folder).parts) for j in tops if real[j].is_relative_to(folder)]
        for where, folders, files in os.walk(folder):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            above = Path(where).relative_to(folder).parts
            priority = min(j for j, parts in inside if above[: len(parts)] == parts)
            for file in files:
                if not file.startswith(".") and is_text(file) and file.isprintable():
                    parts = (*above, file)
                    yield _File(i, parts, tuple(map(_key, parts)), priority)
                    count += 1
            if count > _MOST_FILES:
                return


@cache
def _key_of_folder(part: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


def _key(part: str) -> str:
    """A part of a path without what another system may change: capitals and the composition of accents."""
    return part.lower() if part.isascii() else _key_of_folder(part)


def _exactness(file: _File, parts: tuple[str, ...]) -> int:
    """How many parts of a name a file spells in the same way, from the end."""
    return common_end(*([unicodedata.normalize("NFC", part) for part in spelled] for spelled in (file.parts, parts)))


def common_end(one: Sequence[str], two: Sequence[str]) -> int:
    """How many parts are equal from the end."""
    count = 0
    for a, b in zip(reversed(one), reversed(two), strict=False):
        if a != b:
            break
        count += 1
    return count


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1]
    return _SAME_SUFFIX.get(suffix, suffix)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1] in (*IMAGE_SUFFIXES, *_SAME_SUFFIX)


def _list(folder: Path) -> frozenset[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()
