"""Images that are arrays, and what is done to the arrays of all images: turned upright, given other channels."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import open_regular
from .pillow import DECODER_ERRORS


class ArrayFile:
    """An array [H W] or [H W C], as an image."""

    windowed, orientation, pages, alpha, guess = False, 1, 1, 0, True  # whether the last of 2 or 4 may be alpha

    def __init__(self, array: np.ndarray, name: str) -> None:
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] == 0):
            raise DataError(f"{name}: the array has shape {list(array.shape)}; expected [H W] or [H W C]")
        self.name, self.size, self.dtype = name, (array.shape[0], array.shape[1]), array.dtype
        self.channels = array.shape[2] if array.ndim == 3 else 1
        self._array = array

    def load(self, channels: int | None, page: int) -> np.ndarray:
        """The array itself."""
        return self._array

    def close(self) -> None:
        """There is nothing to close."""


def open_npy(path: Path, name: str) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped, so that its shape is known before anything is read."""
    try:
        open_regular(path).close()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DECODER_ERRORS as error:
        raise DataError(f"{name}: cannot be read as .npy ({error})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{name}: is an archive; expected one array")
    return array


def turned(array: np.ndarray, turn: int) -> np.ndarray:
    """The stored image made upright; `turn` is its EXIF orientation, 1 to 8."""
    if turn >= 5:
        array = array.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def with_channels(array: np.ndarray, channels: int, name: str, *, guess: bool = False) -> np.ndarray:
    """[H W C] with another number of channels; `guess` takes the last of 2 or 4 for alpha. Raises `DataError` if there
    is no usual way.
    """
    has = array.shape[2]
    if has == channels:
        return array
    if guess and has in (2, 4) and channels in (1, 3):
        array, has = array[:, :, : has - 1], has - 1
    if has == channels:
        return array
    if channels == 3 and has == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 1 and has == 3:
        return _luma(array)
    raise DataError(f"{name}: the image has {has} channels; expected {channels}, as the model was trained")


def _luma(array: np.ndarray) -> np.ndarray:
    """ITU-R 601, as Pillow's L; of deep values as floats."""
    if array.dtype == np.uint8:
        red, green, blue = (array[:, :, i].astype(np.uint32) for i in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    return (array @ np.array([0.299, 0.587, 0.114]))[:, :, None]
