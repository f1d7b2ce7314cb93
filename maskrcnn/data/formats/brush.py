"""Label Studio's brush masks: run lengths in a stream of bits, made by the library rle-pack of its browser part.

The stream starts with the number of values (32 bits), their width in bits less 1 (5 bits) and four widths of run
lengths, each less 1 (4 bits each). Then follow packets: a bit that says whether one value is repeated, two bits that
choose a width of run lengths, the run length less 1, and the value once or as often as the run is long. The values are
the bytes of an image as RGBA, row by row; a pixel is set if its alpha is not 0.
"""

import struct
from typing import Any

import numpy as np

from ...errors import DataError
from ...images import MAX_PIXELS

_LENGTHS = (3, 4, 8, 16)  # widths of run lengths that are written, as Label Studio's own
_HEAD = 32 + 5 + 4 * 4  # bits before the first packet


def decode_brush(code: Any, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a brush mask, bool [H W], (H, W) = `size`. `code` is the list of bytes.

    Nothing larger than the image is made, whatever the code says. Raises `DataError` if it is of another size, ends too
    early or is no list of bytes.
    """
    if isinstance(code, dict):  # a browser's typed array that was written as it is
        code = list(code.values())
    try:
        stream = bytes(code) if isinstance(code, list) else b""
    except (ValueError, TypeError) as error:
        raise DataError("brush mask that is not a list of bytes") from error
    if 8 * len(stream) < _HEAD or size[0] * size[1] > MAX_PIXELS:
        raise DataError("brush mask that is not a list of bytes")
    head = int.from_bytes(stream[:7]) >> 3
    total, width = head >> 21, (head >> 16 & 31) + 1
    lengths = [(head >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    if total != 4 * size[0] * size[1]:
        raise DataError(f"brush mask of {total / 4:g} pixels in an image of {size[0]} x {size[1]}")
    alpha, place, at, end = np.zeros(size[0] * size[1], dtype=bool), 0, _HEAD, 8 * len(stream)
    padded = stream + bytes(8)
    while place < total:
        (word,) = struct.unpack_from(">Q", padded, at >> 3)
        word = word << (at & 7) & 0xFFFFFFFFFFFFFFFF
        bits = lengths[word >> 61 & 3]
        run = (word << 3 & 0xFFFFFFFFFFFFFFFF) >> (64 - bits)
        after, repeated = min(place + run + 1, total), word >> 63
        at += 3 + bits
        needed = width * (1 if repeated else after - place)
        if at + needed > end:
            raise DataError("brush mask whose code ends too early")
        if repeated:
            alpha[place // 4 : after // 4] = bool(_bits(padded, at, width))  # the alphas of these pixels lie in the run
        else:
            values = _literal(stream, at, after - place, width)
            alpha[place // 4 : after // 4] = values[3 - place % 4 :: 4]
        at, place = at + needed, after
    return alpha.reshape(size)


def encode_brush(bitmap: np.ndarray) -> list[int]:
    """The code of a bitmap, bool [H W], whose set pixels are white and opaque."""
    pixels = bitmap.ravel()
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, len(pixels))
    bits = [f"{4 * len(pixels):032b}{7:05b}", *(f"{length - 1:04b}" for length in _LENGTHS)]
    for first, last in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        value, rest = f"{255 if pixels[first] else 0:08b}", 4 * (last - first)
        while rest:
            run = min(rest, 1 << _LENGTHS[-1])
            choice = next(i for i, length in enumerate(_LENGTHS) if run <= 1 << length)
            bits.append(f"1{choice:02b}{run - 1:0{_LENGTHS[choice]}b}{value}")
            rest -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def _bits(stream: bytes, at: int, width: int) -> int:
    word = int.from_bytes(stream[at >> 3 : (at >> 3) + 8])
    return (word << (at & 7) & 0xFFFFFFFFFFFFFFFF) >> (64 - width)


def _literal(stream: bytes, at: int, count: int, width: int) -> np.ndarray:
    """Whether each of `count` values of `width` bits is set, bool [count]."""
    first, last = at >> 3, (at + count * width + 7) >> 3
    bits = np.unpackbits(np.frombuffer(stream[first:last], np.uint8))[at & 7 :][: count * width]
    return np.logical_or.reduce(bits.reshape(count, width), axis=1)
