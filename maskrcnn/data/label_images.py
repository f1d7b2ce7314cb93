"""Label images: each pixel has the number of its object, 0 is the background. Read and written exactly.

From a label image to run lengths and back in linear time, whatever the number of objects: no mask of the image's size
is made for any of them.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import DataError
from ..files import replacing
from ..images import MAX_PIXELS
from ..images.pillow import DECODER_ERRORS
from .bitmaps import draw_window
from .dataset import Record

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # none of them changes a value
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLE_FORMAT, _SIGNED = 339, 2
_SMALL = 4096  # pixels; an image below may be as busy as it likes
_MANY_VALUES = 16
_SPARSE = 0.1  # of an object's box


class Objects(NamedTuple):
    """The n objects of a label image, in the order of their values."""

    values: np.ndarray  # int64 [n]
    counts: list[np.ndarray]  # uint32, run lengths down the columns, background first


def read_label_image(path: Path, *, instances: bool = True) -> np.ndarray:
    """A label image as it is stored, unsigned integers [H W]: grey or palette indices; a colour is one number, black 0.

    Raises `DataError`, naming the file, if it cannot be read exactly: fractions, negative values, several pages; and if
    each value should be an instance, but the image seems to be a photograph, to have smoothed edges or classes.
    """
    with _decoding(path), path.open("rb") as file:
        stored = _with_pillow(file, path)
    if stored is None:
        stored = _with_tifffile(path)
    labels = _whole(_one_channel(stored, path), path)
    if instances:
        _check_content(labels, path)
    return labels


def stored_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image as it is stored, before a camera's orientation turns it; None if it is unknown."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            return image.height, image.width
    except (*DECODER_ERRORS, Image.DecompressionBombWarning):
        return None


def write_label_image(path: Path, labels: np.ndarray) -> Path:
    """Writes unsigned integers [H W], atomically: a PNG of 16 bits, or a TIFF of 32 if they are larger. Returns the
    path, with the suffix.
    """
    deep = int(labels.max(initial=0)) > 65535
    path = path.with_name(path.name + (".tif" if deep else ".png"))
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.int32 if deep else np.uint16))
    with replacing(path) as temporary:
        if deep:
            image.save(temporary, "TIFF", compression="tiff_adobe_deflate")
        else:
            image.save(temporary, "PNG", compress_level=3)
    return path


def objects_of(labels: np.ndarray, *, regions: bool = False) -> Objects:
    """The run lengths of every value but 0 in `labels`, integers [H W]; if `regions`, of every region of a value whose
    pixels are connected over sides or corners: its value occurs several times then.
    """
    starts, stops, values = _runs(labels)
    if not len(starts):
        return Objects(np.zeros(0, np.int64), [])
    owner = _regions(starts, stops, values, len(labels)) if regions else values
    # By value first, so that the order of the regions is that of the values; by start within an object.
    order = np.lexsort((starts, owner, values))
    starts, stops, values, owner = starts[order], stops[order], values[order], owner[order]
    new = np.concatenate([[True], (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])])
    joined = ~new & (starts == np.concatenate([[-1], stops[:-1]]))  # a run that goes on in the next column
    last = np.concatenate([~joined[1:], [True]])
    starts, stops, values, new = starts[~joined], stops[last], values[~joined], new[~joined]
    before = np.where(new, 0, np.concatenate([[0], stops[:-1]]))
    pairs = np.stack([starts - before, stops - starts], axis=1).ravel().astype(np.uint32)
    first = np.append(np.flatnonzero(new), len(starts))
    rest = labels.size - stops[first[1:] - 1]
    counts = [
        np.append(pairs[2 * a : 2 * b], np.uint32(end)) if end else pairs[2 * a : 2 * b]
        for a, b, end in zip(first[:-1].tolist(), first[1:].tolist(), rest.tolist(), strict=True)
    ]
    return Objects(values[first[:-1]], counts)


def paint_objects(record: Record, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """A record's objects as a label image, uint16 or uint32 [H W], that has the number of each object, from 1; and how
    many pixels of each are in it, int64 [n].

    A pixel has one object: the one with the higher score, without scores the smaller one. `lost` counts the rest, and
    boxes, which no label image has.
    """
    n = len(record.segmentations)
    labels = np.zeros(record.size, dtype=np.uint16 if n < 65536 else np.uint32)
    order = np.argsort(-record.areas if record.scores is None else np.nan_to_num(record.scores), kind="stable")
    left = np.zeros(n, dtype=np.int64)
    for i in order.tolist():
        if record.segmentations[i] is None:
            lost["box without a mask"] += 1
            continue
        pixels, (row, column) = draw_window(record.segmentations[i], record.size)
        window = labels[row : row + pixels.shape[0], column : column + pixels.shape[1]]
        others, counts = np.unique(window[pixels], return_counts=True)
        others, counts = others[others > 0].astype(np.int64) - 1, counts[others > 0]
        left[others] -= counts
        lost["pixel of two objects"] += int(counts.sum())
        lost["object wholly under others"] += int((left[others] == 0).sum())
        left[i] = np.count_nonzero(pixels)
        lost["mask without a pixel"] += int(left[i] == 0)
        window[pixels] = i + 1
    for reason in [reason for reason, count in lost.items() if not count]:
        del lost[reason]
    return labels, left


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 starts, stops and values of the runs down the columns, in pixels from the first; none leaves its column."""
    if not labels.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    pixels = np.ascontiguousarray(labels.T)
    changes = np.ones(pixels.shape, dtype=bool)
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=changes[:, 1:])
    starts, pixels = np.flatnonzero(changes), pixels.ravel()
    stops = np.append(starts[1:], labels.size)
    front = pixels[starts] != 0
    return starts[front], stops[front], pixels[starts[front]].astype(np.int64)


def _regions(starts: np.ndarray, stops: np.ndarray, values: np.ndarray, height: int) -> np.ndarray:
    """int64: the number of the region of each run: the index of its first run."""
    step = height + 1  # as if every column ended with an empty pixel, so that none touches the next one's beginning
    first, end = starts + starts // height, stops + (stops - 1) // height
    low = np.searchsorted(end, first + step - 1, side="right")
    high = np.searchsorted(first, end + step + 1, side="left")
    num = np.maximum(high - low, 0)
    left = np.repeat(np.arange(len(first)), num)
    right = np.repeat(low - (np.cumsum(num) - num), num) + np.arange(len(left))
    same = values[left] == values[right]
    left, right = left[same], right[same]
    parent = np.arange(len(first))
    while len(left):
        a, b = parent[left], parent[right]
        apart = a != b
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            above = parent[parent]
            if (above == parent).all():
                break
            parent = above
    return parent


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():  # what Pillow only warns of shows in the pixels, or does not matter
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except DECODER_ERRORS as error:
        raise DataError(f"{path}: cannot be decoded, truncated or damaged ({error})") from error


def _with_pillow(file: IO[bytes], path: Path) -> np.ndarray | None:
    """The pixels; None of a TIFF that Pillow does not read."""
    start = file.read(32)
    tiff = start[:4] in _TIFF_STARTS
    if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) > 25 and start[24] == 16 and start[25] & 2:
        raise DataError(
            f"{path}: a PNG of 16 bits a colour, of which only 8 can be read; save it as a grey label image"
        )
    if start[:3] == b"\xff\xd8\xff":
        raise DataError(f"{path}: JPEG changes the values of pixels; save masks as PNG or TIFF")
    try:
        image = _open(file, start)
        if image is None:
            if tiff:
                return None
            raise DataError(f"{path}: is not a label image; expected PNG, TIFF, BMP or GIF")
        _check_size((image.height, image.width), getattr(image, "n_frames", 1), path)
        pixels = np.asarray(image)
    except DataError:
        raise
    except DECODER_ERRORS:
        if tiff:
            return None
        raise
    if image.mode == "I" and tiff and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] != _SIGNED:  # type: ignore[attr-defined]
        pixels = pixels.view(np.uint32)
    return pixels


def _open(file: IO[bytes], start: bytes) -> Any:
    """A Pillow image; None if it has another format. `Image.open` has a limit on pixels that is a global setting."""
    Image.init()
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(start[:16]) is True:
            file.seek(0)
            with contextlib.suppress(SyntaxError):  # Pillow's sign that it does not know this kind
                return factory(file, "")
    return None


def _with_tifffile(path: Path) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise DataError(f"{path}: Pillow does not read this TIFF; pip install 'maskrcnn[tiff]' reads more") from error
    with _decoding(path), tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        size = (page.imagelength, page.imagewidth)
        if page.samplesperpixel > 4:
            raise DataError(f"{path}: has {page.samplesperpixel} channels; a label image has one")
        _check_size(size, len(file.pages), path)
        return page.asarray()


def _check_size(size: tuple[int, int], pages: int, path: Path) -> None:
    if pages > 1:
        raise DataError(f"{path}: has {pages} pages; a label image has one")
    if min(size) <= 0 or size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"{path}: {size[0]} x {size[1]} pixels; expected 1 to {MAX_PIXELS:,}")


def _one_channel(stored: np.ndarray, path: Path) -> np.ndarray:
    """[H W]. Transparent pixels are background; a grey image that was saved as colours is grey again."""
    if stored.ndim == 2:
        return stored
    if stored.ndim != 3 or stored.shape[2] not in (2, 3, 4) or stored.dtype != np.uint8:
        raise DataError(
            f"{path}: an array of shape {list(stored.shape)} and type {stored.dtype}; expected one channel, or colours "
            "of 8 bits"
        )
    red = stored[:, :, 0]
    labels = red
    if stored.shape[2] > 2:
        green, blue = stored[:, :, 1], stored[:, :, 2]
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            labels = (red.astype(np.uint32) << 16) | (green.astype(np.uint32) << 8) | blue
            if labels.all():
                raise DataError(f"{path}: no pixel is black, which is the background of colours")
    if stored.shape[2] in (2, 4):
        labels = np.where(stored[:, :, -1] == 0, 0, labels)
    return labels


def _whole(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The values as uint8, uint16 or uint32."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind not in "uif":
        raise DataError(f"{path}: pixels of type {pixels.dtype}; expected whole numbers")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high) and (pixels == np.rint(pixels)).all()):
        raise DataError(f"{path}: has values that are not whole numbers, so it is no label image")
    if low < 0 or high > 2**32 - 1:
        raise DataError(f"{path}: values from {low:g} to {high:g}; labels are 0 to {2**32 - 1}")
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 4:
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return pixels.astype(np.min_scalar_type(int(high)))


def _check_content(labels: np.ndarray, path: Path) -> None:
    """Raises `DataError` if the values are not those of objects, because neighbours differ nearly everywhere, or most
    values are strewn over the image.
    """
    if labels.size < _SMALL:
        return
    changes = int(np.count_nonzero(labels[1:] != labels[:-1]))
    if changes > labels.size / 4:
        raise DataError(f"{path}: neighbouring pixels differ nearly everywhere; a photograph, not a label image?")
    starts, stops, values = _runs(labels)
    values, owner = np.unique(values, return_inverse=True)
    if len(values) < _MANY_VALUES:
        return
    areas = np.bincount(owner, weights=stops - starts)
    sides = []
    for low, high in (
        (starts // len(labels), starts // len(labels)),
        (starts % len(labels), (stops - 1) % len(labels)),
    ):
        least, most = np.full(len(values), labels.size), np.zeros(len(values), np.int64)
        np.minimum.at(least, owner, low)
        np.maximum.at(most, owner, high)
        sides.append(most - least + 1)
    strewn = (areas > 1) & (areas < _SPARSE * sides[0] * sides[1])
    if strewn.sum() > (areas > 1).sum() / 2:
        raise DataError(
            f"{path}: {strewn.sum()} of its {len(values)} values are strewn over the image, as smoothed edges and "
            "classes are; in a label image each value is one object"
        )
