"""Reads an image: a path, bytes, an array or a PIL image becomes uint8 [H W channels].

Training, evaluation and prediction all use this reader. Its rules do not depend on global settings of Pillow:

- Palette, CMYK, YCbCr and 1-bit images are converted to RGB; grey is repeated; an alpha channel is dropped, not
  blended. Bits become 0 and 255.
- 8-bit values stay as they are. All others are scaled, see `depth.py`: by the range that a model stores, else by the
  image's own percentiles.
- EXIF orientation is applied. If the size in the annotations is known and fits only the rotated or only the unrotated
  image, that one is used, so annotations made on the unrotated image stay right.
- The number of pixels is checked in the header, before anything is decoded: of the whole image, or of a window where
  the format has windows (TIFF).
- Of an animation or a stack of pages one must be chosen; without a choice it is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import DataError
from .arrays import ArrayFile, open_npy, turned, with_channels
from .depth import Ranges, check_type, is_deep, measure_ranges, to_uint8
from .kinds import IMAGE_SUFFIXES, PREFIX, kind_of, what_else
from .pillow import DECODER_ERRORS, PillowFile, open_file, open_pillow
from .tiff import TiffFile, open_tiff

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageLike", "ImageSource", "Page", "display_image", "image_size",
           "open_image", "pixel_size", "read_image"]  # fmt: skip

MAX_PIXELS = 2**28  # 16384 x 16384, 768 MiB as RGB

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
Page: TypeAlias = int | str | None  # counted from 1; "max" is the maximum over all pages
Box: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right

_SAMPLE = 2**22  # most pixels of an image from which its range is measured
_PATCH = 256  # side of the windows from which the range of a large image is measured


def read_image(
    source: ImageLike,
    *,
    channels: int | None = 3,
    annotated_size: tuple[int, int] | None = None,
    ranges: Ranges = (),
    page: Page = None,
) -> np.ndarray:
    """The image as a contiguous array, uint8 [H W channels], that the caller may change; three channels are RGB.

    Args:
        source: a path (also `.npy`), the bytes of an image file, an array [H W] or [H W C], or a PIL image.
        channels: number of channels of the result; None: as the image has. 1 is luminance; other numbers than 1 and 3
            must match the source.
        annotated_size: the (height, width) stated in the annotations of this image.
        ranges: what becomes 0 and 255 in each channel of a deep image; by default the image's own percentiles.
        page: of a stack or animation, from 1; "max": the maximum over all pages of a TIFF. An image with one page is
            read whatever page of stacks is chosen.

    Raises `DataError`, naming the file, if the image cannot be read, does not fit or has more than `MAX_PIXELS`.
    """
    with open_image(source, page=page, annotated_size=annotated_size) as image:
        return image.read(channels=channels, ranges=ranges)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image, from its header, as `read_image` would return it. Raises `DataError`."""
    with open_image(path, page=1) as image:
        return image.size


def pixel_size(path: str | os.PathLike[str]) -> tuple[float, float] | None:
    """(height, width) of a pixel in µm, from the metadata of a TIFF; None if it is not known. Raises `DataError`."""
    with open_image(path, page=1) as image:
        return image.pixel_size


def display_image(source: ImageLike, *, page: Page = None) -> np.ndarray:
    """uint8 [H W 3] to look at: the first three channels, or one or two in grey; deep ones by their percentiles."""
    with open_image(source, page=page) as image:
        return image.display()


class ImageSource:
    """An open image: its header is known, its pixels are read when asked for. `open_image` makes it.

    `windowed` says that a window is read without decoding the whole image. Other images are decoded once and kept.
    """

    def __init__(
        self,
        file: "PillowFile | TiffFile | ArrayFile",
        page: Page,
        annotated_size: tuple[int, int] | None = None,
    ) -> None:
        self._file, self.name = file, file.name
        if not file.windowed:
            _check_pixels(file.size, self.name, way="save it as a TIFF in tiles, of which parts are read")
        self.pages: int = file.pages
        self._page = self._checked(page)
        turn, (height, width) = file.orientation, file.size
        self._turn = turn if _applies(turn, (height, width), annotated_size) else 1
        self.size = (width, height) if self._turn >= 5 else (height, width)  # (height, width) of the upright image
        self.channels: int = file.channels  # without alpha
        self.dtype: np.dtype = file.dtype
        self.deep = is_deep(file.dtype)  # whether its values are scaled
        self.pixel_size: tuple[float, float] | None = getattr(file, "pixel_size", None)  # (height, width), µm
        self.windowed = file.windowed and self._turn == 1
        self._whole: dict[bool, np.ndarray] = {}
        self._ranges: dict[int, Ranges] = {}

    def window(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """[h w C] of pixels as they are stored, without alpha. Raises `DataError` for one that is too large."""
        return self._window((top, left, bottom, right), None)[..., : self.channels]

    def read(self, *, channels: int | None = 3, ranges: Ranges = (), box: Box | None = None) -> np.ndarray:
        """A window (top, left, bottom, right), or all, as `read_image` gives it. A deep image has one range of its own
        for all windows.
        """
        wanted = self.channels if channels is None else channels
        grey = wanted == 3 and self.channels == 1 and len(set(ranges)) <= 1  # repeated when all else is done
        pixels = self._read(box or (0, 0, *self.size), 1 if grey else wanted)
        if self.deep:
            pixels = to_uint8(pixels, self._known(ranges, pixels, box))
        if grey:
            return np.repeat(pixels, 3, axis=2)
        return np.array(pixels, order="C")  # a copy: a PIL image's view is read-only, and the source must not change

    def display(self, box: Box | None = None) -> np.ndarray:
        """A window, or all, as `display_image` gives it."""
        pixels = self.read(channels=None, box=box)
        return pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)

    def bands(self) -> Iterator[Box]:
        """Windows that are the whole image together, from top to bottom; one if it is decoded whole."""
        height, width = self.size
        rows = max(_SAMPLE // width, 1) if self.windowed else height
        return ((top, 0, min(top + rows, height), width) for top in range(0, height, rows))

    def sample(self, channels: int | None = None) -> np.ndarray:
        """[n 1 C] of at most some 2^22 pixels as they are stored: all of them, or an even choice."""
        wanted = self.channels if channels is None else channels
        height, width = self.size
        if self.windowed and height * width > _SAMPLE:
            return np.concatenate([self._read(patch, wanted).reshape(-1, 1, wanted) for patch in self._patches()])
        step = int(np.ceil(np.sqrt(height * width / _SAMPLE)))
        return self._read((0, 0, height, width), wanted)[::step, ::step].reshape(-1, 1, wanted)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _checked(self, page: Page) -> int | None:
        """The page to read, from 0; None: the maximum over all. An image with one page is no stack to choose from."""
        pages, file = self.pages, self._file
        if pages == 1 and (page in (None, "max") or (isinstance(page, int) and page > 0)):
            return 0
        if page is None:
            if isinstance(file, TiffFile):
                raise DataError(
                    f"{self.name}: a stack of {pages} pages{file.axes}; predict and evaluate see one of them with "
                    "--page, their maximum with --max-project, train and check with --set model.input.page=1 or "
                    "--set model.input.page=max; if they are channels, mark them so (OME-TIFF with axes CYX)"
                )
            raise DataError(
                f"{self.name}: an animation of {pages} frames; predict and evaluate see one of them with --page, train "
                "with --set model.input.page=1; to use more, save them as files, for example with ffmpeg"
            )
        if page == "max":
            if isinstance(file, TiffFile):
                return None
            raise DataError(f"{self.name}: an animation of {pages} frames; --max-project is for stacks in TIFF")
        if not isinstance(page, int) or not 1 <= page <= pages:
            raise DataError(f"{self.name}: there is no page {page}; it has {pages}; --page chooses another")
        return page - 1

    def _read(self, box: Box, channels: int) -> np.ndarray:
        """[h w channels], as stored."""
        pixels = self._window(box, channels)
        if pixels.dtype == bool:
            pixels = pixels * np.uint8(255)
        if pixels.shape[2] != channels:
            pixels = pixels[..., : self.channels]
        return with_channels(pixels, channels, self.name, guess=bool(self._file.guess))

    def _window(self, box: Box, channels: int | None) -> np.ndarray:
        """[h w samples] of the upright image, perhaps with alpha."""
        top, left, bottom, right = box
        if not (0 <= top < bottom <= self.size[0] and 0 <= left < right <= self.size[1]):
            raise DataError(f"{self.name}: window {list(box)} is not inside the image, {self.size[0]} x {self.size[1]}")
        if self.windowed:
            return self._read_tiff(box)
        four = channels == 4  # with alpha or black
        if four not in self._whole:
            pixels = turned(self._decoded(channels), self._turn)
            if pixels.shape[:2] != self.size:
                raise DataError(
                    f"{self.name}: cannot be decoded, truncated or damaged (its header states another size)"
                )
            self._whole[four] = pixels
        return self._whole[four][top:bottom, left:right]

    def _decoded(self, channels: int | None) -> np.ndarray:
        file = self._file
        if isinstance(file, TiffFile):
            return self._read_tiff((0, 0, *file.size))
        assert self._page is not None
        try:
            pixels = file.load(channels, self._page)
        except DECODER_ERRORS as error:
            raise DataError(f"{self.name}: cannot be decoded, truncated or damaged ({error})") from error
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def _read_tiff(self, box: Box) -> np.ndarray:
        file = self._file
        assert isinstance(file, TiffFile)
        depth = (file.channels + file.alpha) * file.dtype.itemsize
        way = "of a TIFF only parts are read with --tile PIXELS, and in training on crops"
        _check_pixels((box[2] - box[0], box[3] - box[1]), self.name, depth, way)
        if self._page is not None:
            return file.window(box, self._page)
        highest = file.window(box, 0).copy()
        for page in range(1, file.pages):
            np.maximum(highest, file.window(box, page), out=highest)
        return highest

    def _patches(self) -> list[Box]:
        """Windows on a grid over a large image, with some `_SAMPLE` pixels in all."""
        number = int(np.sqrt(_SAMPLE)) // _PATCH
        tops, lefts = (np.linspace(0, max(n - _PATCH, 0), number).astype(int).tolist() for n in self.size)
        height, width = self.size
        return [
            (y, x, min(y + _PATCH, height), min(x + _PATCH, width)) for y in sorted({*tops}) for x in sorted({*lefts})
        ]

    def _known(self, ranges: Ranges, pixels: np.ndarray, box: Box | None) -> Ranges:
        """The given ranges, else the image's own for these channels."""
        channels = pixels.shape[2]
        if ranges and len(ranges) != channels and len(set(ranges)) > 1:
            raise DataError(f"{self.name}: {len(ranges)} ranges are given for {channels} channels")
        if ranges:
            return [ranges[0]] * channels if len(set(ranges)) == 1 else ranges
        if channels not in self._ranges:
            small = box is None and pixels.shape[0] * pixels.shape[1] <= _SAMPLE
            self._ranges[channels] = measure_ranges(pixels if small else self.sample(channels))
        return self._ranges[channels]


@contextmanager
def open_image(
    source: ImageLike, *, page: Page = None, annotated_size: tuple[int, int] | None = None
) -> Iterator[ImageSource]:
    """The image, open while the block runs; the arguments are those of `read_image`. Raises `DataError`."""
    name = str(source) if isinstance(source, (str, os.PathLike)) else f"image ({type(source).__name__})"
    file = _open(source, name, stack=page not in (None, 1))
    try:
        image = ImageSource(file, page, annotated_size)
        if annotated_size is not None and image.size != tuple(annotated_size):
            raise DataError(
                f"{image.name}: the image is {image.size[0]} x {image.size[1]}, but its annotations say "
                f"{annotated_size[0]} x {annotated_size[1]} (height x width)"
            )
        yield image
    finally:
        file.close()


def _open(source: ImageLike, name: str, *, stack: bool) -> PillowFile | TiffFile | ArrayFile:
    if isinstance(source, np.ndarray):
        check_type(source.dtype, name)
        return ArrayFile(source, name)
    if isinstance(source, Image.Image):
        return PillowFile(source, name)
    if isinstance(source, (str, os.PathLike)) and str(source).lower().endswith(".npy"):
        return _npy(source, name)
    file = open_file(source, name)
    try:
        prefix = file.read(PREFIX)
        kind = kind_of(prefix)
        if kind == "TIFF":
            return open_tiff(file, name, stack=stack)
        if kind == "NPY" and not isinstance(source, (bytes, bytearray)):
            file.close()
            return _npy(source, name)
        if kind is None or kind == "NPY":
            raise DataError(f"{name}: is {what_else(prefix)}")
        return open_pillow(file, kind, name)
    except OSError as error:  # such as a folder, on some systems
        file.close()
        raise DataError(f"{name}: cannot be opened ({error.strerror or error})") from error
    except DataError:
        file.close()
        raise


def _npy(source: Any, name: str) -> ArrayFile:
    array = open_npy(Path(source), name)
    check_type(array.dtype, name)
    return ArrayFile(array, name)


def _check_pixels(size: tuple[int, int], name: str, depth: int = 1, way: str = "") -> None:
    """`depth` is the bytes of a pixel; more than 8 count as several pixels. `way` is what the user can do."""
    height, width = size
    if height <= 0 or width <= 0:
        raise DataError(f"{name}: the image is empty, {height} x {width}")
    if height * width * -(-depth // 8) > MAX_PIXELS:
        large = f" of {depth} bytes" if depth > 8 else ""
        raise DataError(
            f"{name}: {height} x {width} pixels{large} are more than the {MAX_PIXELS:,} of images.MAX_PIXELS; {way}"
        )


def _applies(turn: int, size: tuple[int, int], annotated_size: tuple[int, int] | None) -> bool:
    """Whether to apply the orientation: yes, unless the annotations fit only the image as it is stored."""
    upright = size[::-1] if turn >= 5 else size
    return turn != 1 and (upright == size or annotated_size is None or tuple(annotated_size) != size)
