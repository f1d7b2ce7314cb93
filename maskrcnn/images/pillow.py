"""Image files that Pillow reads, and 16-bit colour PNGs, of which it alone keeps the upper 8 bits."""

import io
import os
import struct
import zlib
from io import BufferedIOBase
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..files import open_regular

# What decoders raise on broken files. The WebP decoder enforces Pillow's own limit on pixels as well.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError,
    RuntimeError, MemoryError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_ORIENTATION = 0x0112
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_GREY = ("1", "L", "F", "LA", "La")
_DTYPES = {"F": np.float32, "I": np.int32}
_HIGH_BYTES = {"RGB;16B": (3, 0), "RGBA;16B": (3, 1), "LA;16B": (1, 1)}  # of 16-bit PNGs: channels, and alpha


def factory_of(kind: str, name: str) -> Any:
    """Pillow's reader of a format. Raises `DataError` if it needs a plugin that is not installed."""
    if kind == "HEIF":
        try:
            from pillow_heif import HeifImageFile  # type: ignore[import-not-found]
        except ImportError as error:
            raise DataError(f"{name}: a HEIC image; to read such images: pip install pillow-heif") from error
        return HeifImageFile
    Image.init()
    factory = Image.OPEN.get(kind, (None, None))[0]
    if factory is None or (kind == "AVIF" and not _reads_avif()):
        hint = "a Pillow with AVIF is needed: pip install --upgrade pillow" if kind == "AVIF" else "Pillow lacks it"
        raise DataError(f"{name}: {kind} cannot be read here; {hint}")
    return factory


def _reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


class PillowFile:
    """An image that Pillow has opened; `load` decodes it."""

    windowed = guess = False
    pixel_size: tuple[float, float] | None = None

    def __init__(self, image: Image.Image, name: str, file: BufferedIOBase | None = None, factory: Any = None) -> None:
        """`file` and its `factory` if Pillow did not open the image itself; the file is closed with the image."""
        self.image, self.name, self._file, self._factory = image, name, file, factory
        self.size = (image.height, image.width)
        mode = image.mode
        self.alpha = int(mode in _ALPHA)
        self.channels = 1 if mode in _GREY or mode.startswith("I") else 3
        self.dtype = np.dtype(np.uint16 if mode.startswith("I;16") else _DTYPES.get(mode, np.uint8))
        self._cut = _raw_mode(image) if file is not None else ""
        if self._cut:
            self.channels, self.alpha = _HIGH_BYTES[self._cut]
            self.dtype = np.dtype(np.uint16)

    @property
    def pages(self) -> int:
        """Frames of an animation. Phones append previews to a JPEG (MPO), whose photo is the first image."""
        try:
            animated = self.image.format != "MPO" and getattr(self.image, "is_animated", False)
            return getattr(self.image, "n_frames", 1) if animated else 1
        except DECODER_ERRORS as error:
            raise DataError(f"{self.name}: cannot be decoded, truncated or damaged ({error})") from error

    @property
    def orientation(self) -> int:
        """EXIF's, 1 to 8."""
        try:
            turn = self.image.getexif().get(_ORIENTATION, 1)
        except DECODER_ERRORS:  # an unreadable EXIF block does not make the image unreadable
            return 1
        return turn if turn in range(1, 9) else 1

    def load(self, channels: int | None, page: int = 0) -> np.ndarray:
        """The pixels of a page as stored, [H W] or [H W C], in a mode that NumPy supports."""
        if page:
            self.image.seek(page)
        if self._cut:
            return self._load_16_bits(self._cut)
        return np.asarray(_plain(self.image, channels))

    def _load_16_bits(self, raw: str) -> np.ndarray:
        """Pillow's decoder undoes the filters of PNG for pixels of any length and then picks bytes: first the upper
        ones of every sample, then the lower ones. Grey with alpha is as long as 8-bit RGBA, which picks all four.
        """
        if raw == "LA;16B":
            grey = self._picked("RGBA", "RGBA").astype(np.uint16)
            return np.stack([grey[..., 0] << 8 | grey[..., 1], grey[..., 2] << 8 | grey[..., 3]], axis=2)
        mode = raw.partition(";")[0]
        high, low = self._picked(mode, raw), self._picked(mode, raw[:-1] + "L")
        return high.astype(np.uint16) << 8 | low

    def _picked(self, mode: str, raw: str) -> np.ndarray:
        assert self._file is not None
        self._file.seek(0)
        again = self._factory(self._file, "")
        again._mode, again.tile = mode, [again.tile[0]._replace(args=raw)]
        return np.asarray(again)

    def close(self) -> None:
        """Closes the file that was passed to the factory; Pillow leaves that to the caller. Images of a caller stay."""
        if self._file is not None:
            self.image.close()
            self._file.close()


def open_file(source: str | os.PathLike[str] | bytes, name: str) -> BufferedIOBase:
    """The file, or the bytes as one. Raises `DataError`."""
    try:
        return io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else open_regular(source)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def open_pillow(file: BufferedIOBase, kind: str, name: str) -> PillowFile:
    """Reads the header. `Image.open` is not used: its limit on pixels is a global setting. Raises `DataError`."""
    factory = factory_of(kind, name)
    file.seek(0)
    try:  # without a name for bytes: Pillow would map the file of that name
        return PillowFile(factory(file, "" if isinstance(file, io.BytesIO) else name), name, file, factory)
    except DECODER_ERRORS as error:
        raise DataError(f"{name}: cannot be decoded, truncated or damaged ({error})") from error


def _raw_mode(image: Image.Image) -> str:
    """How Pillow would cut the samples of a PNG, if it would."""
    tile = getattr(image, "tile", None)
    args = tile[0].args if image.format == "PNG" and tile else None
    return args if isinstance(args, str) and args in _HIGH_BYTES else ""


def _plain(image: Image.Image, channels: int | None) -> Image.Image:
    mode = image.mode
    if mode in ("L", "RGB", "F") or mode.startswith("I") or (channels == 4 and mode in ("RGBA", "CMYK")):
        image.load()
        return image
    if mode in ("1", "LA", "La"):
        return image.convert("L")
    if mode in ("P", "PA"):
        image = image.convert("RGBA")  # directly to RGB Pillow warns if the palette has transparency
    return image.convert("RGB")
