"""Tables of objects: one row an object, with its place, its size and shape, and the image's intensities in it.

Lengths are in pixels, and in micrometres as well if an image states how large its pixels are. Columns that no image has
are left out, which is known at the end: until then the rows are in a file without a name.
"""

import csv
import math
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...categories import Category
from ...errors import ConfigError, DataError
from ..bitmaps import draw_window
from ..dataset import Record
from ..measure import Measures, measure
from .writing import FormatWriter

TEXTS, INTEGERS = ("image", "class", "split"), ("id",)
BOX = ("x", "y", "width", "height")
_MASK = ("area", "centroid_x", "centroid_y", "perimeter", "major_axis", "minor_axis", "solidity")
_LENGTHS = (*BOX, *(name for name in _MASK if name != "solidity"))
_UM = tuple(f"{name}_um2" if name == "area" else f"{name}_um" for name in _LENGTHS)
_COLUMNS = ("image", "split", "id", "class", "score", "score_threshold", *BOX, *_MASK, *_UM)  # then the intensities
_DIGITS = 6  # after the point
_DECODED = 2**29  # bytes of an image up to which it is decoded once, and not for each object

_Read: TypeAlias = Callable[[int, int, int, int], np.ndarray]  # (top, left, bottom, right)


class Table(FormatWriter):
    """Collects the rows of all images; `rows` gives them with their columns."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.out.mkdir(parents=True, exist_ok=True)
        self._kept = tempfile.TemporaryFile("w+", dir=self.out, encoding="utf-8", newline="")
        weakref.finalize(self, self._kept.close)  # of a table that is never closed
        self._writer = csv.writer(self._kept)
        self._used, self._channels, self._unread = set[str](), 0, ""

    def add(self, record: Record, split: str = "all") -> None:
        """Writes a row for each object but crowds. Without a mask only the box is known; without the image file, or if
        its size is not the annotated one, there are no intensities, which is counted.
        """
        objects = np.flatnonzero(~record.ignore).tolist()
        if crowds := len(record.ignore) - len(objects):
            self.lost["crowd"] += crowds
        if not objects:
            return
        with _opened(record) as (read, pixel_size, why):
            if why:
                self._unread = self._unread or f"mean intensities of an image (the first: {why})"
                self.lost[self._unread] += 1
            for i in objects:
                row = self._row(record, i, read, pixel_size)
                if split != "all":
                    row["split"] = split
                self._used |= row.keys()
                means = [row.pop(name) for name in list(row) if name.startswith("intensity_")]
                self._channels = max(self._channels, len(means))
                self._writer.writerow([*(row.get(name, "") for name in _COLUMNS), *means])

    @property
    def columns(self) -> list[str]:
        """Those that some image has."""
        always = {"image", "id", "class", *BOX}
        named = [name for name in _COLUMNS if name in always or name in self._used]
        return [*named, *(f"intensity_{channel}" for channel in range(self._channels))]

    def rows(self) -> Iterator[list[str]]:
        """The rows as texts, with a value or an empty text for each of `columns`."""
        shown = [place for place, name in enumerate(_COLUMNS) if name in set(self.columns)]
        self._kept.seek(0)
        for row in csv.reader(self._kept):
            means = row[len(_COLUMNS) :]
            yield [*(row[place] for place in shown), *means, *[""] * (self._channels - len(means))]

    def close(self) -> None:
        """Frees the rows. A table writes them before."""
        self._kept.close()

    def _row(
        self, record: Record, i: int, read: _Read | None, pixel_size: tuple[float, float] | None
    ) -> dict[str, Any]:
        x1, y1, x2, y2 = record.boxes[i].astype(np.float64).tolist()
        row: dict[str, Any] = {
            "image": record.name,
            "id": int(record.annotation_ids[i]),
            "class": self.names[int(record.labels[i])],
            **dict(zip(BOX, (x1, y1, x2 - x1, y2 - y1), strict=True)),
        }
        if (score := record.score(i)) is not None:
            row["score"] = score
        if record.thresholds:
            row["score_threshold"] = record.thresholds[int(record.labels[i])]
        bitmap, corner = draw_window(record.segmentations[i], record.size)
        if bitmap.size:
            (y, x), (height, width) = corner, bitmap.shape
            pixels = None if read is None else read(y, x, y + height, x + width)
            row |= _columns(measure(bitmap, corner, pixels))
        if pixel_size is not None:
            row |= _micrometres(row, pixel_size)
        return {name: round(value, _DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def to_df(record: Record, categories: Sequence[Category]) -> Any:
    """The rows of one image as a `pandas.DataFrame`. Raises `ConfigError` if pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ConfigError("to_df needs pandas: pip install 'maskrcnn[table]'") from error
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder), categories)
        table.add(record)
        frame = pandas.DataFrame(list(table.rows()), columns=table.columns)
        table.close()
    kinds = {name: "int64" if name in INTEGERS else "float64" for name in frame.columns if name not in TEXTS}
    return frame.replace("", "nan").astype(kinds)


def _columns(found: Measures) -> dict[str, Any]:
    values = (found.area, *found.centroid, found.perimeter, found.major_axis, found.minor_axis, found.solidity)
    means = {f"intensity_{channel}": mean for channel, mean in enumerate(found.intensities)}
    return dict(zip(_MASK, values, strict=True)) | means


def _micrometres(row: dict[str, Any], pixel_size: tuple[float, float]) -> dict[str, float]:
    """The lengths of a row. `pixel_size` is (height, width); lengths in no fixed direction need square pixels."""
    high, wide = pixel_size
    scales = {"x": wide, "width": wide, "centroid_x": wide, "y": high, "height": high, "centroid_y": high}
    scales["area"] = high * wide
    if abs(high - wide) <= 1e-3 * wide:
        scales |= {"perimeter": wide, "major_axis": wide, "minor_axis": wide}
    named = zip(_LENGTHS, _UM, strict=True)
    return {um: row[name] * scales[name] for name, um in named if name in row and name in scales}


@contextmanager
def _opened(record: Record) -> Iterator[tuple[_Read | None, tuple[float, float] | None, str]]:
    """What reads windows [h w C] of the image in its own values, and its pixels' (height, width) in micrometres, as far
    as they are known; and why its values are not. It is decoded once if it is not too large for that."""
    if record.image is not None:
        yield _cutting(record.image if record.image.ndim == 3 else record.image[..., None]), None, ""
        return
    with ExitStack() as stack:
        read = pixel_size = None
        why = ""
        try:
            image = stack.enter_context(record.open())
            pixel_size, read = image.pixel_size, image.window
            if math.prod(image.size) * image.channels * image.dtype.itemsize <= _DECODED:
                read = _cutting(image.window(0, 0, *image.size))
        except DataError as error:
            read, why = None, str(error)
        yield read, pixel_size, why


def _cutting(pixels: np.ndarray) -> _Read:
    return lambda top, left, bottom, right: pixels[top:bottom, left:right]
