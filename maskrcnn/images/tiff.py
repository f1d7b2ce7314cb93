"""TIFF and OME-TIFF through tifffile: any depth, any number of channels, stacks, windows of large images.

Pillow reads plain files of 8 bits or of one channel, without another library. A file's axes other than height, width,
channels and samples are its pages. Reduced copies (previews, the levels of a pyramid) are left aside.
"""

import importlib.util
import logging
import math
import struct
from contextlib import suppress
from io import BufferedIOBase
from itertools import product
from typing import Any

import numpy as np

from ..errors import DataError
from .pillow import DECODER_ERRORS, PillowFile, open_pillow
from .pixel_size import pixel_size

MOST_CHANNELS = 1024
_MOST_IN_A_SEGMENT = 2**28  # pixels of one strip or tile
_LARGE = 2**22  # pixels from which a window is worth more than Pillow's speed
# Codes that are decoded into room of a known size: nothing, LZW, deflate, PackBits, LZMA, zstd.
_PLAIN_CODES = {1, 5, 8, 32773, 32946, 34925, 34926, 50000}
_JPEG, _JPEG2000 = {7}, {33003, 33004, 33005, 34712}  # state their own size, which is read first
_MIN_IS_WHITE, _PALETTE = 0, 3
_PHOTOMETRICS = {0, 1, 2, 3, 6}  # grey, RGB, palette, YCbCr, which the JPEG decoder turns into RGB
_AXES = {"T": "times", "Z": "slices"}
_LAST_AS_SAMPLES = 16  # an axis called X that is no longer than this holds channels


class TiffFile:
    """An open TIFF: its first series, as pages of height, width and samples."""

    windowed = True
    orientation = 1

    def __init__(self, file: BufferedIOBase, name: str) -> None:
        try:
            from tifffile import TiffFile as Reader
        except ImportError as error:
            raise DataError(f"{name}: this TIFF needs tifffile: pip install 'maskrcnn[tiff]'") from error
        logging.getLogger("tifffile").addHandler(logging.NullHandler())  # or Python prints what it notes
        self.name, self._file = name, file
        try:
            _check_chain(file, name)
            file.seek(0)
            stream: Any = file
            self._tiff = Reader(stream, _multifile=False)  # no other file, whatever a file's metadata names
            first = self._tiff.pages.first
            if "<!" in (first.description or "").replace("<!--", ""):  # XML that declares entities
                self._tiff.is_ome = False
            series = self._image_series()
            self._series, self._key = series, series.keyframe
            turn = self._key.tags.valueof(274, default=1)
            self.orientation = turn if turn in range(1, 9) else 1
            self.pixel_size = self._pixel_size(first)
            self._arrange(series.get_axes(False), series.get_shape(False))
        except DECODER_ERRORS as error:
            raise _damaged(name, error) from error

    def _arrange(self, axes: str, shape: tuple[int, ...]) -> None:
        """Says of every axis of the series whether it is height, width, a channel or a page."""
        if "Y" not in axes or "X" not in axes or len(axes) != len(shape):
            raise DataError(f"{self.name}: its axes are {axes}; expected height and width (YX)")
        if self._series.kind == "shaped" and axes == "QYX" and shape[2] <= _LAST_AS_SAMPLES < min(shape[:2]):
            axes = "YXS"  # an array [H W C] that was written without a word about its axes
        key = self._key
        self._white_is_zero = key.photometric == _MIN_IS_WHITE and 262 in key.tags
        self._axes, self._shape = axes, shape
        self.size = (shape[axes.index("Y")], shape[axes.index("X")])
        samples = math.prod(n for axis, n in zip(axes, shape, strict=True) if axis in "CS")
        self._pages = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXCS"]
        self.pages = math.prod(n for _, n in self._pages)
        extra = tuple(int(kind) for kind in key.extrasamples)
        self.alpha = self.guess = 0
        if samples == key.samplesperpixel:
            rgb_and_one = samples == 4 and key.photometric == 2
            self.alpha = int(extra[-1] in (1, 2) if extra else rgb_and_one)
            self.guess = int(rgb_and_one and not self.alpha)  # infrared, or an alpha that nobody marked
        self.channels = samples - self.alpha
        self.dtype = np.dtype(np.bool_) if key.bitspersample == 1 else np.dtype(self._series.dtype).newbyteorder("=")
        if key.photometric == _PALETTE and key.colormap is not None:
            self.channels, self.alpha, self.dtype = 3, 0, np.dtype(np.uint8)
        if samples > MOST_CHANNELS:
            raise DataError(f"{self.name}: {samples} channels are more than {MOST_CHANNELS}")
        if key.photometric not in _PHOTOMETRICS:
            colours = getattr(key.photometric, "name", key.photometric)
            raise DataError(f"{self.name}: its colours ({colours}) are not supported; save it as RGB")

    def _image_series(self) -> Any:
        """The series that is the image; the others must be smaller, or marked as reduced."""
        found = [series for series in self._tiff.series if not series.keyframe.is_reduced] or self._tiff.series
        image, area = found[0], math.prod(found[0].keyframe.shape[:2])
        if any(math.prod(other.keyframe.shape[:2]) >= area and not other.keyframe.is_subifd for other in found[1:]):
            raise DataError(
                f"{self.name}: holds {len(found)} images of different kinds; save the one you need as a file"
            )
        return image

    @property
    def axes(self) -> str:
        """What the pages are, if the file says so: " (3 times, 5 slices)"."""
        known = [f"{n} {_AXES[axis]}" for axis, n in self._pages if n > 1 and axis in _AXES]
        return f" ({', '.join(known)})" if known else ""

    def window(self, box: tuple[int, int, int, int], page: int = 0) -> np.ndarray:
        """[h w samples] of (top, left, bottom, right) in a page, counted from 0. Raises `DataError`."""
        try:
            found = self._window(box, page)
        except DECODER_ERRORS as error:
            raise _damaged(self.name, error) from error
        key = self._key
        if key.photometric == _PALETTE and key.colormap is not None:
            return (key.colormap >> 8).astype(np.uint8).T[found[..., 0]]
        if key.bitspersample == 1:
            found = found.astype(bool)
        elif key.bitspersample < 8:
            found = found * np.uint8(255 // (2**key.bitspersample - 1))
        if self._white_is_zero and found.dtype.kind in "ub":
            found = ~found
        return found

    def _window(self, box: tuple[int, int, int, int], page: int) -> np.ndarray:
        place = dict(zip((axis for axis, _ in self._pages), _unravel(page, [n for _, n in self._pages]), strict=True))
        array = self._mapped()
        if array is None:
            array, place = self._decoded(box, place), dict.fromkeys(place, 0)
            box = (0, 0, box[2] - box[0], box[3] - box[1])
        cut = {"Y": slice(box[0], box[2]), "X": slice(box[1], box[3])}
        found = array[tuple(place.get(axis, cut.get(axis, slice(None))) for axis in self._axes)]
        kept = [axis for axis in self._axes if axis not in place]
        order = [kept.index("Y"), kept.index("X"), *(i for i, axis in enumerate(kept) if axis in "CS")]
        found = found.transpose(order).reshape(box[2] - box[0], box[3] - box[1], -1)
        return found.astype(found.dtype.newbyteorder("="), copy=False)

    def _mapped(self) -> np.ndarray | None:
        """The whole series, if its bytes are in the file one after another, without reading them."""
        offset, key = self._series.dataoffset, self._key
        if offset is None or key.compression != 1 or key.dtype is None or key.bitspersample < 8:
            return None
        dtype = np.dtype(self._series.dtype).newbyteorder(self._tiff.byteorder)
        count = math.prod(self._shape)
        if hasattr(self._file, "getbuffer"):
            return np.frombuffer(self._file.getbuffer(), dtype, count, offset).reshape(self._shape)  # type: ignore[attr-defined]
        return np.memmap(self._file, dtype, "r", offset, self._shape)

    def _decoded(self, box: tuple[int, int, int, int], place: dict[str, int]) -> np.ndarray:
        """A window with all axes of the series. Those of the pages have length 1: the page at `place`."""
        dims = list(zip(self._axes, self._shape, strict=True))
        own = self._first_own_axis()
        if any(axis in "YX" for axis, _ in dims[:own]) or self._key.shaped[1] > 1:
            return self._decoded_whole(box, place)
        sides = {"Y": box[2] - box[0], "X": box[3] - box[1], **dict.fromkeys(place, 1)}
        array = np.zeros([sides.get(axis, n) for axis, n in dims], self._series.dtype)
        counts = [n for _, n in dims[:own]]
        for where in product(*([place[axis]] if axis in place else range(n) for axis, n in dims[:own])):
            page = self._series[int(np.ravel_multi_index(where, counts)) if counts else 0]
            if page is None:
                continue  # a hole in an OME series stays black
            planes = _read_page(page, box, self.name)  # [planes h w samples]
            target = array[tuple(0 if dims[i][0] in place else at for i, at in enumerate(where))]
            target[...] = (planes[0] if len(planes) == 1 else planes[..., 0]).reshape(target.shape)
        return array

    def _decoded_whole(self, box: tuple[int, int, int, int], place: dict[str, int]) -> np.ndarray:
        """The same for rare layouts, whose pages are volumes or rows: everything is decoded."""
        if math.prod(self._shape) > MOST_CHANNELS * _LARGE or self._key.compression not in _PLAIN_CODES:
            raise DataError(f"{self.name}: this layout of pages is not supported; save each page as a file")
        cut: dict[str, slice] = {"Y": slice(box[0], box[2]), "X": slice(box[1], box[3])}
        cut |= {axis: slice(at, at + 1) for axis, at in place.items()}
        array = self._series.asarray(squeeze=False).reshape(self._shape)
        return array[tuple(cut.get(axis, slice(None)) for axis in self._axes)]

    def _first_own_axis(self) -> int:
        """Where the axes of a single page begin among those of the series."""
        size = math.prod(self._key.shape)
        return next(i for i in reversed(range(len(self._shape))) if math.prod(self._shape[i:]) == size)

    def _pixel_size(self, first: Any) -> tuple[float, float] | None:
        values = (first.tags.valueof(code) for code in (283, 282, 296))
        return pixel_size(first.description or "", *values)

    def close(self) -> None:
        """Closes the file; bytes in memory stay until nobody holds pixels that are views of them."""
        self._tiff.close()
        with suppress(BufferError):
            self._file.close()


def open_tiff(file: BufferedIOBase, name: str, *, stack: bool) -> PillowFile | TiffFile:
    """Opens a TIFF: by Pillow if that reads it without loss and at once, else by tifffile.

    `stack` says that a page was chosen. Raises `DataError`, also if tifffile is needed but not installed.
    """
    plain: PillowFile | None = None
    reason = "Pillow does not read its pixels"
    try:
        plain = open_pillow(file, "TIFF", name)
        reason = _needs_tifffile(plain)
        tags = getattr(plain.image, "tag_v2", {})
        plain.pixel_size = pixel_size(str(tags.get(270, "")), *(tags.get(code) for code in (283, 282, 296)))
    except DataError:
        pass
    if plain is not None and not reason and not stack and (math.prod(plain.size) < _LARGE or not _installed()):
        return plain
    if not _installed():
        raise DataError(f"{name}: {reason or 'a page of a TIFF'}; to read such TIFFs: pip install 'maskrcnn[tiff]'")
    return TiffFile(file, name)


def _needs_tifffile(plain: PillowFile) -> str:
    """Why Pillow would lose something of a TIFF; nothing if it does not."""
    tags = getattr(plain.image, "tag_v2", {})
    try:
        bits, photometric, samples = max(tags.get(258, (1,))), tags.get(262, 1), tags.get(277, 1)
        if getattr(plain.image, "is_animated", False):
            return "it has several pages"
    except DECODER_ERRORS:
        return "its header is unusual"
    if samples != len(plain.image.getbands()):
        return f"it has {samples} channels"
    if bits > 8 and (samples > 1 or photometric == _MIN_IS_WHITE):
        return f"its pixels have {bits} bits"
    return ""


def _check_chain(file: BufferedIOBase, name: str) -> None:
    """Raises `DataError` if the pages of a file follow each other in a circle, which tifffile would walk for ever."""
    file.seek(0)
    header = file.read(16)
    order, big = "<" if header[:2] == b"II" else ">", header[2:4] in (b"+\0", b"\0+")
    count_format, offset_format, tag_size = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}H", f"{order}I", 12)
    seen: set[int] = set()
    stored = header[8:16] if big else header[4:8]
    while len(stored) == struct.calcsize(offset_format) and (place := struct.unpack(offset_format, stored)[0]):
        if place in seen:
            raise DataError(f"{name}: damaged: page {len(seen)} is followed by an earlier one")
        seen.add(place)
        file.seek(place)
        stored = file.read(struct.calcsize(count_format))
        if len(stored) == struct.calcsize(count_format):
            file.seek(place + len(stored) + tag_size * struct.unpack(count_format, stored)[0])
            stored = file.read(struct.calcsize(offset_format))


def _installed() -> bool:
    return importlib.util.find_spec("tifffile") is not None


def _unravel(page: int, counts: list[int]) -> list[int]:
    place = []
    for count in reversed(counts):
        page, at = divmod(page, count)
        place.append(at)
    return place[::-1]


def _read_page(page: Any, box: tuple[int, int, int, int], name: str) -> np.ndarray:
    """A window [planes h w samples] of one page. Only the strips or tiles that it touches are decoded."""
    key = page.keyframe
    top, left, bottom, right = box
    planes, _, length, width, samples = key.shaped
    tile_length, tile_width = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, width)
    tile_length = min(tile_length, length) if not key.is_tiled else tile_length
    if tile_length * tile_width * samples > 4 * _MOST_IN_A_SEGMENT:
        raise DataError(f"{name}: it is stored in pieces of {tile_length} x {tile_width} pixels; save it in tiles")
    window = np.zeros((planes, bottom - top, right - left, samples), key.dtype)
    if key.nodata:
        window += key.nodata
    down, across = -(-length // tile_length), -(-width // tile_width)
    rows, columns = (
        range(top // tile_length, -(-bottom // tile_length)),
        range(left // tile_width, -(-right // tile_width)),
    )
    for plane, row, column in product(range(planes), rows, columns):
        index = (plane * down + row) * across + column
        content = _segment(page, index, name)
        if content is None:
            continue
        segment = _decode(page, content, index, (tile_length, tile_width), name)
        y, x = row * tile_length, column * tile_width
        y1, x1 = max(y, top), max(x, left)
        y2, x2 = min(y + segment.shape[0], bottom, length), min(x + segment.shape[1], right, width)
        window[plane, y1 - top : y2 - top, x1 - left : x2 - left] = segment[y1 - y : y2 - y, x1 - x : x2 - x]
    return window


def _segment(page: Any, index: int, name: str) -> bytes | None:
    """The bytes of a strip or tile; None if the file leaves it out."""
    if index >= len(page.dataoffsets) or index >= len(page.databytecounts):
        raise DataError(f"{name}: cannot be decoded, truncated or damaged (part {index} of its pixels is missing)")
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if not count or not offset:
        return None
    file = page.parent.filehandle
    if offset + count > file.size:
        raise DataError(f"{name}: cannot be decoded, truncated or damaged (it ends before its pixels do)")
    with file.lock:
        file.seek(offset)
        return file.read(count)


def _decode(page: Any, content: bytes, index: int, size: tuple[int, int], name: str) -> np.ndarray:
    """[h w samples] of a strip or tile."""
    key = page.keyframe
    options: dict[str, Any] = {}
    if key.compression in _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        claimed = _jpeg_size(content)
    elif key.compression in _JPEG2000:
        claimed = _jpeg2000_size(content)
    elif key.compression in _PLAIN_CODES:
        claimed = size
    else:
        code = getattr(key.compression, "name", key.compression)
        raise DataError(f"{name}: its compression ({code}) is not supported; save it with another")
    if claimed is None or claimed[0] > size[0] or claimed[1] > size[1]:
        raise DataError(f"{name}: cannot be decoded, truncated or damaged (a part of its pixels has the wrong size)")
    try:
        segment, _, shape = key.decode(content, index, **options)
    except DECODER_ERRORS as error:
        raise _damaged(name, error) from error
    return segment.reshape(shape)[0]


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG states."""
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", content[at + 5 : at + 9])
        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    return None


def _jpeg2000_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG 2000 codestream states."""
    start = content.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(content) < start + 24:
        return None
    width, height, left, top = struct.unpack(">4I", content[start + 8 : start + 24])
    return height - top, width - left


def _damaged(name: str, error: Exception) -> DataError:
    if "imagecodecs" in str(error):
        return DataError(f"{name}: its compression needs imagecodecs: pip install 'maskrcnn[tiff]'")
    return DataError(f"{name}: cannot be decoded, truncated or damaged ({error})")
