"""Reads an image: a path, bytes, an array or a PIL image becomes uint8 [H W channels].

Training, evaluation and prediction all use this reader. Its rules do not depend on global settings of Pillow:

- Palette, CMYK, YCbCr and 1-bit images are converted to RGB; grey is repeated; an alpha channel is dropped, not
  blended.
- 16-bit values are scaled by their range: if the largest value is below 256 they are used as they are, below 4096 as
  12-bit (most microscope cameras), else as 16-bit. Floats within 0..1 are multiplied by 255, within 0..255 used as they
  are, else stretched from their minimum to their maximum. Bits become 0 and 255.
- EXIF orientation is applied. If the size in the annotations is known and fits only the rotated or
  only the unrotated image, that one is used, so annotations made on the unrotated image stay right.
- The number of pixels is checked in the header, before anything is decoded.
- Animations and multi-page files are refused, because it is unknown which page is meant.
"""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from .errors import DataError

MAX_PIXELS = 2**28  # 16384 x 16384, 768 MiB as RGB
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2", ".npy")

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000")  # no PostScript or PDF
_ORIENTATION = 0x0112
# What Pillow's decoders raise on broken files. The WebP decoder enforces Pillow's own limit on pixels as well.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError,
    RuntimeError, MemoryError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def read_image(source: ImageLike, *, channels: int = 3, annotated_size: tuple[int, int] | None = None) -> np.ndarray:
    """The image as a contiguous array, uint8 [H W channels], that the caller may change; three channels are RGB.

    Args:
        source: a path (also `.npy`), the bytes of an image file, an array [H W] or [H W C], or a PIL image.
        channels: number of channels of the result. 1 is luminance; other numbers than 1 and 3 must match the source.
        annotated_size: the (height, width) stated in the annotations of this image.

    Raises `DataError`, naming the file, if the image cannot be read, does not fit or has more than `MAX_PIXELS`.
    """
    name = str(source) if isinstance(source, (str, os.PathLike)) else f"image ({type(source).__name__})"
    if isinstance(source, np.ndarray):
        array, turn = source, 1
    elif isinstance(source, (str, os.PathLike)) and str(source).lower().endswith(".npy"):
        array, turn = _open_npy(Path(source), name), 1
    else:
        array, turn = _decode(source, name, channels)
    _check_shape(array, name)
    if _applies(turn, array.shape[:2], annotated_size):
        array = _turned(array, turn)
    if annotated_size is not None and array.shape[:2] != tuple(annotated_size):
        raise DataError(
            f"{name}: the image is {array.shape[0]} x {array.shape[1]}, but its annotations say "
            f"{annotated_size[0]} x {annotated_size[1]} (height x width)"
        )
    array = _with_channels(_to_uint8(array, name), channels, name)
    return np.array(array, order="C")  # a copy: a PIL image's view is read-only, and the source must not change


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image, from its header, as `read_image` would return it. Raises `DataError`."""
    if str(path).lower().endswith(".npy"):
        return _open_npy(Path(path), str(path)).shape[:2]
    with _closing(_open(path, str(path))) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


# --- files -------------------------------------------------------------------------------------------------------


def _decode(source: str | os.PathLike[str] | bytes | Image.Image, name: str, channels: int) -> tuple[np.ndarray, int]:
    """The pixels as stored, in a mode that NumPy supports, and the EXIF orientation (1..8)."""
    opened = contextlib.nullcontext(source) if isinstance(source, Image.Image) else _closing(_open(source, name))
    with opened as image:
        _check_pixels((image.height, image.width), name)
        try:
            # Phones append previews to a JPEG (MPO); the photo is its first image.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise DataError(f"{name}: has several frames or pages ({getattr(image, 'n_frames', 0)}); expected one")
            turn = _orientation(image)
            return np.asarray(_plain(image, channels)), turn
        except _DECODER_ERRORS as error:
            raise DataError(f"{name}: cannot be decoded, truncated or damaged ({error})") from error


def _open(source: str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    """A Pillow image with its header read. `Image.open` is not used: its limit on pixels is a global setting."""
    file = None
    try:
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else open(source, "rb")  # type: ignore[arg-type]
        prefix = file.read(16)
    except (OSError, ValueError, TypeError) as error:
        if file is not None:
            file.close()
        raise DataError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    Image.init()
    failed: Exception | None = None
    for form in _FORMATS:
        factory, accept = Image.OPEN.get(form, (None, None))
        if factory is None or accept is None or not _accepts(accept, prefix):
            continue
        file.seek(0)
        try:
            return factory(file, "" if isinstance(source, (bytes, bytearray)) else os.fspath(source))  # type: ignore[arg-type]
        except _DECODER_ERRORS as error:
            failed = error
    file.close()
    if failed is not None:
        raise DataError(f"{name}: cannot be decoded, truncated or damaged ({failed})") from failed
    raise DataError(f"{name}: is not an image; expected one of {', '.join(_FORMATS)} or .npy")


def _accepts(accept: Callable[[bytes], bool | str], prefix: bytes) -> bool:
    try:
        return accept(prefix) is True
    except _DECODER_ERRORS:
        return False


@contextlib.contextmanager
def _closing(image: Image.Image) -> Iterator[Image.Image]:
    """Closes the file that was passed to the factory; Pillow leaves that to the caller."""
    file = getattr(image, "fp", None)
    try:
        yield image
    finally:
        image.close()
        if file is not None:
            file.close()


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:  # an unreadable EXIF block does not make the image unreadable
        return 1
    return turn if turn in range(1, 9) else 1


def _plain(image: Image.Image, channels: int) -> Image.Image:
    mode = image.mode
    if mode in ("L", "RGB", "F") or mode.startswith("I") or (channels == 4 and mode in ("RGBA", "CMYK")):
        image.load()
        return image
    if mode in ("1", "LA", "La"):
        return image.convert("L")
    if mode in ("P", "PA"):
        image = image.convert("RGBA")  # directly to RGB Pillow warns if the palette has transparency
    return image.convert("RGB")


def _open_npy(path: Path, name: str) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped, so that its shape is known before anything is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DECODER_ERRORS as error:
        raise DataError(f"{name}: cannot be read as .npy ({error})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{name}: is an archive; expected one array")
    _check_shape(array, name)
    return array


# --- arrays ------------------------------------------------------------------------------------------------------


def _check_pixels(size: tuple[int, int], name: str) -> None:
    height, width = size
    if height <= 0 or width <= 0:
        raise DataError(f"{name}: the image is empty, {height} x {width}")
    if height * width > MAX_PIXELS:
        raise DataError(f"{name}: {height} x {width} pixels are more than the {MAX_PIXELS:,} of images.MAX_PIXELS")


def _check_shape(array: np.ndarray, name: str) -> None:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] == 0):
        raise DataError(f"{name}: the array has shape {list(array.shape)}; expected [H W] or [H W C]")
    _check_pixels(array.shape[:2], name)


def _applies(turn: int, size: tuple[int, int], annotated_size: tuple[int, int] | None) -> bool:
    """Whether to apply the orientation: yes, unless the annotations fit only the image as it is stored."""
    turned = size[::-1] if turn >= 5 else size
    return turn != 1 and (turned == size or annotated_size is None or tuple(annotated_size) != size)


def _turned(array: np.ndarray, turn: int) -> np.ndarray:
    """The stored image made upright; `turn` is its EXIF orientation, 2 to 8."""
    if turn >= 5:
        array = array.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Converts to 0..255 by the rules in the docstring of this file."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype.kind == "f":
        return _float_to_uint8(np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0))
    if array.dtype.kind not in "iu":
        raise DataError(f"{name}: pixels of type {array.dtype} are not supported; expected integers, floats or bits")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise DataError(f"{name}: pixel values range from {low} to {high}; expected 0 to 65535")
    if high <= 255:
        return array.astype(np.uint8)
    full = 4095 if high <= 4095 else 65535
    return ((array.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)


def _float_to_uint8(array: np.ndarray) -> np.ndarray:
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        reach = max(abs(low), abs(high))  # first into -1..1: the difference of two floats may overflow
        array, low, high = array / reach, low / reach, high / reach
        array = (array - low) * (255 / (high - low)) if high > low else np.zeros_like(array)
    elif high <= 1:
        array = array * 255
    return np.rint(array).astype(np.uint8)


def _with_channels(array: np.ndarray, channels: int, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    has = array.shape[2]
    if has == channels:
        return array
    if channels == 3 and has in (1, 2):
        return np.repeat(array[:, :, :1], 3, axis=2)
    if (channels, has) in ((3, 4), (1, 2)):
        return array[:, :, :channels]
    if channels == 1 and has in (3, 4):  # ITU-R 601 luma, as Pillow's L
        red, green, blue = (array[:, :, i].astype(np.uint32) for i in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    raise DataError(f"{name}: the image has {has} channels; expected {channels}")
