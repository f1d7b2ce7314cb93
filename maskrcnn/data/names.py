"""The files below folders; and images by the names that annotations state, also as another system or tool wrote them.

A name that is there as stated is found in the listing of its folder. All others are looked for among the files below
the image folders, however they are spelled: backslashes, absolute paths, URLs, composed accents, capitals, spaces, a
missing suffix. A file is taken if it fits best and alone. No name leads out of the folders: only files in them are
listed.
"""

import difflib
import os
import posixpath
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from ..images import IMAGE_SUFFIXES
from .validate import is_text, wrong_name

_MOST_FILES = 1_000_000  # listed below the image folders
_MOST_COMPARED = 5_000  # names among which the nearest is looked for
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
_ANNOTATIONS = (".json", ".xml", ".csv")  # some tools state the annotation file's own name as that of its image
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


def names_below(folder: Path, suffixes: tuple[str, ...] = ("",)) -> Iterator[str]:
    """The names "sub/a.png" of the files below a folder with one of these suffixes (lower case), folder by folder.

    They come one by one, so that a search can end early. Files may be links, folders not; hidden ones are passed over.
    """
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(folder / inside) as listed:
                entries = sorted((e for e in listed if not e.name.startswith((".", "__MACOSX"))), key=lambda e: e.name)
        except OSError:  # it cannot be listed, or is gone
            continue
        folders += [f"{inside}{entry.name}/" for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry.name.lower().endswith(suffixes) and entry.is_file():
                if is_text(name := inside + entry.name):
                    yield name
                else:
                    warnings.warn(f"{folder}: {name!a} is passed over: its name is no text; rename it", stacklevel=2)


class ImageFinder:
    """Finds images in some folders, the first of which wins."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)
        self._listing = cache(_list)
        self._files: list[_File] | None = None
        self._by_key: dict[str, list[_File]] = {}
        self._by_stem: dict[str, list[_File]] = {}
        self._uploaded: dict[str, list[_File]] = {}  # by the name without what Label Studio puts before it
        self._folders: set[tuple[str, ...]] = set()
        self._suggested = False

    def images(self) -> list[str]:
        """The images below all roots, sorted."""
        return sorted("/".join(file.parts) for file in self._index() if file.keys[-1].endswith(IMAGE_SUFFIXES))

    def find(self, name: Any, near: str = "") -> Found | Lost:
        """The file of an image, whose name may also be meant from `near`, the name of a folder in a root."""
        wrong, names = wrong_name(name), [name]
        if is_text(name) and name.lower().endswith(_ANNOTATIONS):
            return Lost("annotation file where the name of an image should be", f"{name!r:.200}")
        if near and is_text(name):
            names.insert(0, posixpath.normpath(posixpath.join(near, name.replace("\\", "/"))))
        for stated in names:
            if wrong_name(stated) is None and (root := self._root_with(stated)) is not None:
                return Found(root, stated, STATED)
        if not is_text(name) or not name or "\0" in name:
            return Lost(wrong or "image without a file name", f"{name!r:.200}")
        several = 0
        for stated in names:
            for parts in dict.fromkeys(_spellings(stated)):
                fits = self._fitting(parts, strict=stated is name)  # the folder `near` may well be one without images
                if len(fits) == 1:
                    return fits[0]
                several = max(several, len(fits))
        if several:
            return Lost("image file of which several have the name", f"{name!r:.200}: {several}")
        if wrong is None or "leaves" not in wrong:
            return Lost(wrong or "missing image file", f"{name:.200}{self._suggestion(name)}")
        return Lost(wrong, f"{name!r:.200}{self._suggestion(name)}")

    def with_stem(self, stem: str, near: str) -> str | None:
        """The one image that is called `stem`, whatever its suffix, in folder `near` of a root, else in the root."""
        self._index()
        names = ["/".join(file.parts) for file in self._by_stem.get(_key(stem), [])]
        for wanted in (posixpath.join(near, stem), stem):
            if len(found := [name for name in names if name.rpartition(".")[0] == wanted]) == 1:
                return found[0]
        return None

    def places(self) -> str:
        """The folders, for messages: those that exist, or all of them if none does."""
        there = [str(root) for root in self.roots if root.is_dir()]
        return " or ".join(there or map(str, self.roots))

    def nearest(self, name: str) -> str | None:
        """The image below the roots whose name is most like this one."""
        last = _key(re.split(r"[\\/]", name)[-1])
        listed = {
            file.keys[-1]: file for file in self._index()[:_MOST_COMPARED] if file.keys[-1].endswith(IMAGE_SUFFIXES)
        }
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

    def _fitting(self, parts: tuple[str, ...], *, strict: bool) -> list[Found]:
        """The files that fit best: the last parts; if `strict`, all of them if there is a folder of that name."""
        self._index()
        keys = tuple(map(_key, parts))
        last = keys[-1]
        others = (self._by_key.get(key) for key in (last, _UPLOAD.sub("", last), *_misread(parts[-1])))
        candidates = next(filter(None, others), None) or self._uploaded.get(last) or self._without_suffix(last)
        if not candidates:
            return []
        if strict and (inside := self._in_folder(keys, candidates)) is not None:
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
                if _UPLOAD.match(file.keys[-1]):
                    self._uploaded.setdefault(_UPLOAD.sub("", file.keys[-1]), []).append(file)
                if file.keys[-1].endswith(IMAGE_SUFFIXES):
                    self._by_stem.setdefault(os.path.splitext(file.keys[-1])[0], []).append(file)
            for folder in {file.keys[:-1] for file in self._files}:
                self._folders.update(folder[first:] for first in range(len(folder)))
        return self._files


def _spellings(name: str) -> Iterator[tuple[str, ...]]:
    """The parts of a name, if read as a path of any system, then as a URL."""
    local = name.rpartition("?d=")[2]  # Label Studio: /data/local-files/?d=images/a.png
    for text in (name, unquote(name), unquote(local), unquote(name.split("?")[0])):
        parts: list[str] = []
        for part in map(str.strip, re.split(r"[\\/]", text)):
            if part == "..":
                del parts[-1:]
            elif part not in ("", ".") and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:", part):
                parts.append(part)
        if parts:
            yield tuple(parts)


def _walk(roots: Sequence[Path]) -> Iterator[_File]:
    """The files below the roots, each once."""
    tops = [i for i, root in enumerate(roots) if root.is_dir()]
    real = {i: roots[i].resolve() for i in tops}
    outer = [i for i in tops if not any(real[i] != real[j] and real[i].is_relative_to(real[j]) for j in tops)]
    for folder, i in {real[i]: i for i in reversed(outer)}.items():
        inside = [(j, real[j].relative_to(folder).parts) for j in tops if real[j].is_relative_to(folder)]
        for name in islice(names_below(folder), _MOST_FILES):
            parts = tuple(name.split("/"))
            if name.isprintable():
                priority = min(j for j, above in inside if parts[: len(above)] == above)
                yield _File(i, parts, tuple(map(_key, parts)), priority)


@cache
def _key_of_folder(part: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


def _key(part: str) -> str:
    """A part of a path without what another system may change: capitals and the composition of accents."""
    return part.lower() if part.isascii() else _key_of_folder(part)


def _misread(part: str) -> Iterator[str]:
    """The keys of a name whose UTF-8 was read as a code page of Windows, as some programs unpack a zip."""
    if part.isascii():
        return
    for form in ("NFC", "NFD"):
        for page in ("cp437", "cp1252"):
            try:
                yield _key(unicodedata.normalize(form, part).encode().decode(page))
            except UnicodeError:
                continue


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


def _list(folder: Path) -> frozenset[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()
