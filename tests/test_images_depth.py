"""Images deeper than 8 bits: percentiles, 16-bit PNGs in colour, ranges that a model stores."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskrcnn.errors import DataError
from maskrcnn.images import display_image, image_size, open_image, read_image
from maskrcnn.images.depth import measure_ranges


def png(samples: np.ndarray, *, interlaced: bool = False) -> bytes:
    """A 16-bit PNG of [H W C], whose rows use each of the five filters in turn."""
    height, width, channels = samples.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [samples]
    rows = b"".join(filtered(part.astype(">u2"), 2 * channels) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def filtered(samples: np.ndarray, step: int) -> bytes:
    """PNG's filters as its specification writes them: a byte less a guess from those left, above and in the corner."""
    before, out = bytes(samples[0].nbytes), b""
    for number, row in enumerate(samples):
        line = row.tobytes()
        left, corner = bytes(step) + line, bytes(step) + before
        guess = GUESSES[number % 5]
        values = ((x - guess(left[i], before[i], corner[i])) % 256 for i, x in enumerate(line))
        out, before = out + bytes([number % 5, *values]), line
    return out


def paeth(a: int, b: int, c: int) -> int:
    estimate = a + b - c
    return min((a, b, c), key=lambda one: abs(estimate - one))


GUESSES = (lambda a, b, c: 0, lambda a, b, c: a, lambda a, b, c: b, lambda a, b, c: (a + b) // 2, paeth)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_bit_of_a_16_bit_png_is_read(channels: int, interlaced: bool, tmp_path, rng) -> None:
    samples = rng.integers(0, 65536, (13, 11, channels), dtype=np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(png(samples, interlaced=interlaced))
    for source in (path, path.read_bytes()):
        with open_image(source) as image:
            assert (image.size, image.dtype) == ((13, 11), np.uint16)
            assert image.channels == (1 if channels < 3 else 3)  # without alpha
            np.testing.assert_array_equal(image.window(0, 0, 13, 11), samples[..., : image.channels])
    assert image_size(path) == (13, 11)
    if channels == 4:
        with open_image(path) as image:
            full = [(0, 65535)] * 4
            np.testing.assert_array_equal(image.read(channels=4, ranges=full), np.rint(samples / 257))


@pytest.mark.parametrize("unit", [1, 16, 257])
def test_8_12_and_16_bits_in_a_colour_png_look_the_same(unit: int, rng) -> None:
    samples = rng.integers(0, 256, (40, 50, 3))
    got = read_image(png((samples * unit).astype(np.uint16)))
    low = np.percentile(samples, 0.1, axis=(0, 1), method="higher")
    high = np.percentile(samples, 99.9, axis=(0, 1), method="lower")
    np.testing.assert_array_equal(got, np.rint((samples.clip(low, high) - low) / (high - low) * 255))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("side", [8, 40, 300])
def test_one_hot_pixel_does_not_make_a_dim_image_black(side: int, dtype, rng) -> None:
    dim = rng.integers(100, 130, (side, side)).astype(dtype)
    hot = dim.copy()
    hot[3, 5] = 65535
    got = read_image(hot, channels=1)[..., 0]
    assert got.std() > 60
    assert got[3, 5] == 255


def test_few_bright_pixels_in_the_dark_are_seen() -> None:
    dark = np.full((400, 400), 20, np.uint16)
    dark[10:13, 10:13] = 900  # far less than a thousandth
    assert read_image(dark)[11, 11].tolist() == [255] * 3
    assert read_image(dark)[0, 0].tolist() == [0] * 3


@settings(max_examples=200)
@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.int16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2),
    )
)
def test_the_order_of_values_is_kept_and_the_ends_are_reached(array) -> None:
    got = read_image(array, channels=1)[..., 0].ravel().astype(int)
    values = array.ravel()
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    assert (np.diff(got[finite][order]) >= 0).all()
    if len(np.unique(values[finite])) > 1 and np.ptp(values[finite].astype(np.longdouble)) > 1e-30:
        assert (got[finite].min(), got[finite].max()) == (0, 255)


def test_a_range_is_applied_to_deep_pixels_alone() -> None:
    deep = np.array([[100, 150, 200, 300]], np.uint16)
    got = read_image(deep, channels=1, ranges=[(100, 200)])[0, :, 0]
    assert got.tolist() == [0, 128, 255, 255]  # 127.5 to the even number
    shallow = np.array([[10, 20]], np.uint8)
    assert read_image(shallow, channels=1, ranges=[(100, 200)])[0, :, 0].tolist() == [10, 20]


def test_each_channel_has_its_range() -> None:
    deep = np.array([[[0, 100], [50, 200]]], np.float32)
    got = read_image(deep, channels=2, ranges=[(0, 100), (100, 200)])
    assert got.tolist() == [[[0, 0], [128, 255]]]
    grey = read_image(np.array([[50]], np.uint16), ranges=[(0, 50), (0, 100), (0, 255)])
    assert grey.tolist() == [[[255, 128, 50]]]
    with pytest.raises(DataError, match="2 ranges are given for 3 channels"):
        read_image(np.zeros((1, 1, 3), np.uint16), ranges=[(0, 1), (0, 2)])


def test_ranges_are_percentiles_of_what_is_finite() -> None:
    values = np.arange(2000, dtype=np.float32).reshape(-1, 1, 1)
    values[5], values[7] = np.nan, np.inf
    ((low, high),) = measure_ranges(values)
    assert (low, high) == (2.0, 1997.0)


def test_windows_of_a_deep_image_share_its_range(rng) -> None:
    deep = rng.integers(0, 5000, (60, 80), dtype=np.uint16)
    whole = read_image(deep)
    with open_image(deep) as image:
        np.testing.assert_array_equal(image.read(box=(10, 20, 30, 60)), whole[10:30, 20:60])
        np.testing.assert_array_equal(image.window(10, 20, 30, 60)[..., 0], deep[10:30, 20:60])
        assert not image.windowed
        with pytest.raises(DataError, match=r"window \[0, 0, 61, 80\] is not inside the image, 60 x 80"):
            image.window(0, 0, 61, 80)


def test_many_channels_are_looked_at_through_the_first_three(rng) -> None:
    five = rng.integers(0, 256, (6, 7, 5), dtype=np.uint8)
    np.testing.assert_array_equal(display_image(five), five[..., :3])
    two = five[..., :2].astype(np.uint16) * 9
    assert (np.ptp(display_image(two), axis=2) == 0).all()
    np.testing.assert_array_equal(read_image(five, channels=None), five)
