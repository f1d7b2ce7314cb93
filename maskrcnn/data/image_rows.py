"""The images of a data set that is being built: ids, files and sizes, whatever a file states of them.

An image keeps the id that the file states, number or text. Nothing is given to the wrong image: if an id stands for two
files, or two names could mean one file, these images are dropped.
"""

import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..images import MAX_PIXELS, image_size, open_image
from ..ops.rle import MAX_PIXELS as MOST_COUNTED
from .dataset import ImageTable
from .names import STATED, Found, ImageFinder, Lost
from .problems import Report
from .validate import integer, is_text, show

_NOTED = 3  # problems of a reason that an error lists
_TWO_FILES = "image id that another file has, too"
_TWO_NAMES = "file name that could mean the file of another image"
_TWO_SIZES = "file name that an image of another size has, too"


class Built(NamedTuple):
    """The images, and what their objects need."""

    table: ImageTable
    ids: Sequence[int | str]  # as stated
    rows: np.ndarray  # int64: the images that are left
    joined: np.ndarray  # bool [N]: listed more than once


class ImageRows:
    """Collects images. `report` gets whatever is wrong with them."""

    def __init__(self, source: Path, roots: Sequence[Path], report: Report) -> None:
        self.source, self.report = source, report
        self._finder = ImageFinder(roots)
        # The row of each id, -1 if the image was skipped, and of each stated name.
        self.rows: dict[int | str | None, int] = {}
        self._row_of_name: dict[str, int] = {}
        self._row_of_number: dict[int, int] = {}  # of ids that are numbers as text; -1 if two are the same number
        self._row_of_part: dict[str, int] = {}  # of names without folder or suffix; -1 if two images have it
        self._num_named = 0  # names from which it was made
        self._claims: dict[tuple[int, str], tuple[int, int]] = {}  # searched files: the row, and how well its name fits
        self._texts: dict[int, str] = {}  # ids that are text, by row
        self._ids, self._sizes, self._root_of = array("q"), array("q"), bytearray()
        self._names, self._name_stops = bytearray(), array("q", [0])
        self._joined: set[int] = set()  # rows of images that are listed more than once
        self._disputed: dict[int, str] = {}  # rows that are dropped because of another image, and why
        self._lost = ""  # why the first image without a file has none

    def add(self, image_id: Any, name: Any, height: Any, width: Any) -> None:
        """Adds an image, or reports why not."""
        self.report.images_in_file += 1
        key = image_key(image_id)
        if key is None:
            return self._skip(None, "image without an id", f"id {show(image_id)}, file {show(name)}")
        if type(name) is int:
            name = str(name)
        row = self._row_of_name.get(name) if isinstance(name, str) else None
        if key in self.rows:
            return self._repeat(key, row, name, (height, width))
        self.rows[key] = -1
        if row is not None:
            return self._join(key, row, (height, width))
        found = self._finder.find(name)
        if isinstance(found, Lost):
            self._lost = self._lost or f"{found.reason} ({found.detail})"
            return self._skip(key, *found)
        if (found.fit != STATED or self._claims) and not self._claim(found):
            return self._skip(key, _TWO_NAMES, f"{name:.200} would be {found.name:.200}")
        if (size := self._settle_size(key, found, height, width)) is None:
            return None
        if found.fit != STATED:
            said = name if name.isprintable() else repr(name)
            self.report.add("repair", "file name written otherwise, found", f"{said:.200} is {found.name}", key)
        row = self.rows[key] = self._row_of_name[name] = len(self._ids)
        if isinstance(key, str):
            if not isinstance(image_id, str):
                self.report.add("repair", "image id of more than 64 bits, kept as text", image_id=key)
            self._texts[row] = key
            if (number := integer(key)) is not None:
                self._row_of_number[number] = -1 if number in self._row_of_number else row
        self._ids.append(key if isinstance(key, int) else 0)
        self._sizes.extend(size)
        self._root_of.append(found.root)
        self._names += found.name.encode()
        self._name_stops.append(len(self._names))
        return None

    def row(self, image_id: Any) -> int | None:
        """The row of an image, -1 if it was skipped, None if there is none with this id."""
        if (row := self.rows.get(image_key(image_id))) is None and (number := integer(image_id)) is not None:
            row = self.rows.get(number, self._row_of_number.get(number))
        return row

    def row_named(self, name: Any) -> int | None:
        """The row of the one image whose file has this name, also without its folder or suffix; None if there is
        none.
        """
        if not isinstance(name, str):
            return None
        if self._num_named < len(self._row_of_name):
            self._num_named = len(self._row_of_name)
            self._row_of_part = {}
            for stated, row in self._row_of_name.items():
                last = re.split(r"[\\/]", stated)[-1]
                for part in {stated, last, last.rpartition(".")[0]}:
                    self._row_of_part[part] = row if self._row_of_part.get(part, row) == row else -1
        row = self._row_of_part.get(name, -1)
        return None if row < 0 else row

    def size(self, row: int) -> tuple[int, int]:
        """(height, width)."""
        return self._sizes[2 * row], self._sizes[2 * row + 1]

    def sizes(self) -> np.ndarray:
        """int64 [N 2], (height, width) of every row."""
        return np.array(self._sizes, np.int64).reshape(-1, 2)

    def size_in_file(self, row: int) -> tuple[int, int] | None:
        """(height, width) in the header of the file, unrotated if only that fits the size that is stated; None if it
        cannot be read or is too large.
        """
        path = self._finder.roots[self._root_of[row]] / self._name(row)
        try:
            with open_image(path, page=1, annotated_size=self.size(row)) as image:
                return image.size
        except DataError:  # also of another size
            pass
        try:
            height, width = image_size(path)
        except DataError:
            return None
        return (height, width) if height * width <= MOST_COUNTED else None

    def resize(self, row: int, size: tuple[int, int]) -> None:
        """Gives an image another (height, width) than it stated."""
        self._sizes[2 * row], self._sizes[2 * row + 1] = size

    def build(self) -> Built:
        """All images, which must be the last call. Raises `DataError` if none is left and files were not found."""
        for row, reason in sorted(self._disputed.items()):
            self._skip(self._texts.get(row, self._ids[row]), reason, self._name(row))
        rows = np.setdiff1d(np.arange(len(self._ids)), list(self._disputed))
        if self._lost and not len(rows):
            error = DataError(
                f"{self.source}: none of its {self.report.images_in_file} images can be used; the first: {self._lost}; "
                "name the folder of the images with --images FOLDER"
            )
            error.add_note("\n".join(self.report.lines(_NOTED)))
            raise error
        ids = self._number()
        table = ImageTable(
            ids=column(self._ids, np.int64),
            sizes=column(self._sizes, np.int64).reshape(-1, 2),
            names=column(self._names, np.uint8),
            name_offsets=column(self._name_stops, np.int64),
            roots=self._finder.roots,
            root_of=column(self._root_of, np.uint8),
            **(_packed(ids) if self._texts else {}),
        )
        joined = np.zeros(len(self._ids), bool)
        joined[list(self._joined)] = True
        return Built(table, ids, rows, joined)

    def _skip(self, key: int | str | None, reason: str, detail: str = "") -> None:
        self.report.add("image", reason, detail, key)

    def _repeat(self, key: int | str, row: int | None, name: Any, size: tuple[Any, Any]) -> None:
        """An id again: of the same file, or of another, and then nobody knows whose the objects are."""
        first = self.rows[key]
        if first >= 0 and row == first:
            return self._join(key, first, size)
        if first >= 0:
            self._disputed[first] = _TWO_FILES
            self.rows[key] = -1
        return self._skip(key, _TWO_FILES, show(name))

    def _join(self, key: int | str, row: int, size: tuple[Any, Any]) -> None:
        """A file again: the same image, unless another size is stated, as of files whose folders a tool left out."""
        height, width = (integer(side) or 0 for side in size)
        if min(height, width) > 0 and (height, width) != self.size(row):
            self._disputed[row] = _TWO_SIZES
            self.rows[key] = -1
            stated = self.size(row)
            return self._skip(key, _TWO_SIZES, f"{self._name(row)}: {height} x {width}, {stated[0]} x {stated[1]}")
        self.rows[key] = row
        self._joined.add(row)
        self.report.add("repair", "image listed more than once, its objects joined", self._name(row), key)

    def _claim(self, found: Found) -> bool:
        """Whether the next image may have a file; it is taken from another image whose name fits less."""
        place, row = (found.root, found.name), len(self._ids)
        other = self._claims.get(place)
        if other is None and found.fit != STATED and (plain := self._row_of_name.get(found.name)) is not None:
            other = (plain, STATED) if self._root_of[plain] == found.root else None
        if other is not None and other[1] >= found.fit:
            if other[1] == found.fit:
                self._disputed[other[0]] = _TWO_NAMES
            return False
        if other is not None:
            self._disputed[other[0]] = _TWO_NAMES
        self._claims[place] = row, found.fit
        return True

    def _settle_size(self, key: int | str, found: Found, height: Any, width: Any) -> tuple[int, int] | None:
        """(height, width) as stated, or the file's if none is stated or it is none; None if there is none."""
        size = integer(height) or 0, integer(width) or 0
        if min(size) <= 0:
            absent = height is None and width is None
            try:
                size = image_size(self._finder.roots[found.root] / found.name)
            except DataError as error:
                said = str(error) if absent else f"{height!r:.30} x {width!r:.30}; {error}"
                return self._skip(key, "unreadable image" if absent else "invalid height or width", said)
            what = "not stated" if absent else "invalid"
            self.report.add("repair", f"height and width {what}, taken from the file", image_id=key)
        if size[0] * size[1] > MAX_PIXELS and (why := self._too_large(found, size)):
            return self._skip(key, "too many pixels", why)
        return size

    def _too_large(self, found: Found, size: tuple[int, int]) -> str:
        """Why an image of so many pixels cannot be used; empty if it can be read in windows, and has this size."""
        if size[0] * size[1] > MOST_COUNTED:
            return f"{size[0]} x {size[1]}; masks of more than {MOST_COUNTED:,} pixels cannot be counted"
        try:
            if (real := image_size(self._finder.roots[found.root] / found.name)) not in (size, size[::-1]):
                return f"{size[0]} x {size[1]}; the file has {real[0]} x {real[1]}"
        except DataError as error:
            return str(error)
        return ""

    def _name(self, row: int) -> str:
        return self._names[self._name_stops[row] : self._name_stops[row + 1]].decode()

    def _number(self) -> Sequence[int | str]:
        """The ids as stated. Those that are text get a number: their own if they are one and it is free, else one after
        the largest, in the order of their texts, so that numbers do not depend on the order of the file.
        """
        if not self._texts:
            return self._ids
        taken = {number for row, number in enumerate(self._ids) if row not in self._texts}
        others = []
        for row, text in sorted(self._texts.items(), key=lambda item: item[1]):
            number = integer(text)
            if number is None or number in taken:
                others.append(row)
            else:
                taken.add(number)
                self._ids[row] = number
        first = max((number for number in taken if number < 2**62), default=0) + 1
        for number, row in enumerate(others, start=max(first, 1)):
            self._ids[row] = number
        return [self._texts.get(row, id) for row, id in enumerate(self._ids)]


def image_key(value: Any) -> int | str | None:
    """An image's id: a whole number, of more than 64 bits as text, or a text; None if it is neither."""
    if isinstance(value, str):
        return value if value and is_text(value) else None
    if (number := integer(value)) is None and type(value) is int:
        return str(value)  # such as the number of a UUID
    return number


def column(buffer: array | bytearray, dtype: Any) -> np.ndarray:
    """The buffer's numbers, not copied; an empty buffer has nothing to share."""
    return np.frombuffer(buffer, dtype) if len(buffer) else np.zeros(0, dtype)


def _packed(ids: Sequence[int | str]) -> dict[str, np.ndarray]:
    """The ids that are text, end to end, as columns of an `ImageTable`."""
    encoded = [id.encode() if isinstance(id, str) else b"" for id in ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {"id_texts": np.frombuffer(b"".join(encoded), np.uint8), "id_offsets": offsets}
