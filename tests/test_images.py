"""The one reader: every kind of file and array, what a camera's orientation does, and what is refused."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskrcnn import images
from maskrcnn.errors import DataError
from maskrcnn.images import image_size, read_image


def stretched(array):
    """Each channel from its 0.1 to its 99.9 percentile, which are values of the image."""
    array = array.astype(np.float64).reshape(*array.shape[:2], -1)
    low = np.percentile(array, 0.1, axis=(0, 1), method="higher")
    high = np.percentile(array, 99.9, axis=(0, 1), method="lower")
    grey = np.rint((array.clip(low, high) - low) / (high - low) * 255)
    return grey.repeat(3, axis=2) if array.shape[2] == 1 else grey


RGB = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
THREE = np.repeat(GREY[:, :, None], 3, axis=2)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def with_alpha(image):
    return np.concatenate([image, np.full((*image.shape[:2], 1), 7, np.uint8)], axis=2)


def palette(**info):
    image = Image.new("P", (8, 5))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1] * 20)
    image.info.update(info)
    return image


PALETTE = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[np.array([0, 1] * 20).reshape(5, 8)]
KINDS = {
    "png": (encoded(RGB, "PNG"), RGB),
    "bmp": (encoded(RGB, "BMP"), RGB),
    "tiff": (encoded(RGB, "TIFF"), RGB),
    "tiff, packed": (encoded(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "ppm": (encoded(RGB, "PPM"), RGB),
    "webp": (encoded(RGB, "WEBP", lossless=True), RGB),
    "jpeg 2000": (encoded(RGB, "JPEG2000"), RGB),
    "grey": (encoded(GREY, "PNG"), THREE),
    "alpha is dropped, not blended": (encoded(with_alpha(RGB), "PNG"), RGB),
    "grey with alpha": (encoded(Image.fromarray(np.stack([GREY, GREY // 2], axis=2), "LA"), "PNG"), THREE),
    "palette": (encoded(palette(), "PNG"), PALETTE),
    "palette with transparency": (encoded(palette(), "PNG", transparency=b"\x00\x80"), PALETTE),
    "gif": (encoded(palette(), "GIF"), PALETTE),
    "bits": (encoded(Image.fromarray(GREY > 127), "PNG"), np.where(THREE > 127, 255, 0)),
    "cmyk": (encoded(Image.fromarray(255 - RGB).convert("CMYK"), "TIFF"), 255 - RGB),
    "16 bits": (encoded(GREY.astype(np.uint16) * 257, "PNG"), stretched(GREY)),
    "16 bits, tiff": (encoded(GREY.astype(np.uint16) * 257, "TIFF"), stretched(GREY)),
    "12 bits": (encoded(GREY.astype(np.uint16) * 16, "PNG"), stretched(GREY)),
    "8 bits in 16": (encoded(GREY.astype(np.uint16), "PNG"), stretched(GREY)),
    "float 0..1": (encoded((GREY / 256).astype(np.float32), "TIFF"), stretched(GREY)),
    "float 0..255": (encoded(GREY.astype(np.float32), "TIFF"), stretched(GREY)),
    "windows bitmap without its file's header": (encoded(RGB, "DIB"), RGB),
    "bits as text": (b"P1\n8 5\n" + b"0 1 " * 20, np.array([255, 0] * 20).reshape(5, 8, 1).repeat(3, axis=2)),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_rgb(kind, tmp_path) -> None:
    content, expected = KINDS[kind]
    path = tmp_path / "image.bin"  # the content decides, not the name
    path.write_bytes(content)
    for source in (path, str(path), content):
        got = read_image(source)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert got.flags.writeable
        np.testing.assert_array_equal(got, expected)
    assert image_size(path) == (5, 8)


def test_jpeg_cmyk_and_phones_images_are_read() -> None:
    smooth = np.tile(np.linspace(60, 200, 16, dtype=np.uint8)[:, None, None], (1, 16, 3))
    for content in (
        encoded(smooth, "JPEG", quality=98),
        encoded(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=98),
        encoded(smooth, "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))], quality=98),
    ):
        assert np.abs(read_image(content).astype(int) - smooth).max() <= 8


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB), (GREY, THREE), (GREY[:, :, None], THREE), (with_alpha(RGB), RGB), (GREY > 127, (THREE > 127) * 255),
        (GREY.astype(np.uint16) * 257, stretched(GREY)), (GREY.astype(np.int64) - 300, stretched(GREY)),
        (RGB / 256, stretched(RGB)), (RGB.astype(">u2"), stretched(RGB)), (RGB * 1e300, stretched(RGB)),
        (RGB.astype(np.float16), stretched(RGB)), (RGB.astype(np.int16) - 99, stretched(RGB)),
        (RGB[:, ::-1], RGB[:, ::-1]),
        (np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0]]), np.repeat([[[0], [255], [0], [0], [255]]], 3, axis=2)),
        (np.array([[7.0, 7.0]]), np.zeros((1, 2, 3))), (np.full((1, 2), np.nan), np.zeros((1, 2, 3))),
    ],
)  # fmt: skip
def test_arrays_follow_the_same_rules(array, expected) -> None:
    before = array.copy()
    got = read_image(array)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.uint8
    assert not np.shares_memory(got, array)
    np.testing.assert_array_equal(array, before)


def test_pil_images_are_read_and_left_alone() -> None:
    image = Image.fromarray(RGB)
    np.testing.assert_array_equal(read_image(image), RGB)
    image.getpixel((0, 0))  # still open


def test_npy_files_are_read_like_arrays(tmp_path) -> None:
    six = np.random.default_rng(1).integers(0, 256, (5, 8, 6), dtype=np.uint8)
    np.save(tmp_path / "six.npy", six)
    np.testing.assert_array_equal(read_image(tmp_path / "six.npy", channels=6), six)
    assert image_size(tmp_path / "six.npy") == (5, 8)
    with pytest.raises(DataError, match=r"six\.npy.*6 channels; expected 3"):
        read_image(tmp_path / "six.npy")
    np.save(tmp_path / "code.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    for name in ("code.npy", "text.npy", "none.npy"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


def test_channels_other_than_three() -> None:
    luma = np.array(Image.fromarray(RGB).convert("L"))[:, :, None]
    np.testing.assert_array_equal(read_image(RGB, channels=1), luma)
    np.testing.assert_array_equal(read_image(encoded(RGB, "PNG"), channels=1), luma)
    np.testing.assert_array_equal(read_image(encoded(GREY, "PNG"), channels=1), GREY[:, :, None])
    np.testing.assert_array_equal(read_image(encoded(with_alpha(RGB), "PNG"), channels=4), with_alpha(RGB))
    with pytest.raises(DataError, match="3 channels; expected 5"):
        read_image(RGB, channels=5)


# --- orientation ---------------------------------------------------------------------------------------------------


def oriented(turn, size=(5, 8)):
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(RGB[: size[0], : size[1]], "PNG", exif=exif)


UPRIGHT = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1),
           6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB)}  # fmt: skip


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_camera_s_orientation_is_applied(turn, tmp_path) -> None:
    np.testing.assert_array_equal(read_image(oriented(turn)), UPRIGHT[turn])
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(oriented(turn)))), UPRIGHT[turn])
    path = tmp_path / "turned.png"
    path.write_bytes(oriented(turn))
    assert image_size(path) == UPRIGHT[turn].shape[:2]


def test_the_annotated_size_decides_where_it_can() -> None:
    np.testing.assert_array_equal(read_image(oriented(6), annotated_size=(5, 8)), RGB)
    np.testing.assert_array_equal(read_image(oriented(6), annotated_size=(8, 5)), UPRIGHT[6])


def test_where_the_annotated_size_fits_both_the_camera_is_believed() -> None:
    square, half = RGB[:5, :5], UPRIGHT[3]
    np.testing.assert_array_equal(read_image(oriented(6, (5, 5)), annotated_size=(5, 5)), np.rot90(square, -1))
    np.testing.assert_array_equal(read_image(oriented(3), annotated_size=(5, 8)), half)


def test_another_size_than_the_annotations_say_is_an_error() -> None:
    with pytest.raises(DataError, match=r"image is 8 x 5.*annotations say 10 x 12"):
        read_image(oriented(6), annotated_size=(10, 12))
    with pytest.raises(DataError, match=r"image \(ndarray\): the image is 5 x 8"):
        read_image(RGB, annotated_size=(8, 5))


def test_an_orientation_that_is_none_is_none() -> None:
    np.testing.assert_array_equal(read_image(oriented(77)), RGB)


# --- refused -------------------------------------------------------------------------------------------------------


def png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = {
    "nothing": b"",
    "text": b"this is not an image\n" * 5,
    "html": b"<html><body>404</body></html>",
    "truncated png": KINDS["png"][0][:60],
    "truncated jpeg": encoded(np.tile(RGB, (20, 20, 1)), "JPEG")[:700],
    "truncated header": encoded(RGB, "JPEG")[:30],
    "bomb": png_claiming(100_000, 100_000),
    "animated gif": encoded(palette(), "GIF", save_all=True, append_images=[Image.new("P", (8, 5), 1)]),
    "animated webp": encoded(RGB, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 5))]),
    "animated png": encoded(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 5))]),
    "two pages": encoded(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 5))]),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_error_with_its_name(name, tmp_path) -> None:
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(BAD[name])
    with pytest.raises(DataError, match=rf"{name}\.jpg: "):
        read_image(path)
    with pytest.raises(DataError):
        read_image(BAD[name])


@pytest.mark.parametrize("path", ["nowhere.png", ".", "a\0b.png"])
def test_what_cannot_be_opened_is_one_error(path, tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        read_image(f"{tmp_path}/{path}")


def test_pixels_are_counted_before_anything_is_decoded(monkeypatch) -> None:
    content = encoded(Image.new("L", (3000, 2000)), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 5_999_999)
    with pytest.raises(DataError, match=r"2000 x 3000 pixels are more than the 5,999,999"):
        read_image(content[:200])  # the rest is not even there
    monkeypatch.setattr(images, "MAX_PIXELS", 6_000_000)
    assert read_image(content).shape == (2000, 3000, 3)


def test_an_array_must_not_have_more_than_2_to_the_28_pixels() -> None:
    with pytest.raises(DataError, match=r"MAX_PIXELS"):
        read_image(np.broadcast_to(np.uint8(0), (2**15, 2**15)))
    assert 2**28 == images.MAX_PIXELS


def test_pillow_s_own_limit_does_not_matter(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    np.testing.assert_array_equal(read_image(KINDS["png"][0]), RGB)
    assert Image.MAX_IMAGE_PIXELS == 3
    with pytest.raises(DataError, match="exceeds limit"):  # but for WebP, whose decoder asks for it
        read_image(KINDS["webp"][0])


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2, 3, 1), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 5), np.uint8), np.zeros((5, 5, 0), np.uint8),
     np.array([["a"]]), np.array([[1j]]), np.array([[None]])],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused(array) -> None:
    with pytest.raises(DataError):
        read_image(array)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")
@pytest.mark.parametrize("name", ["png", "truncated png", "animated gif", "text"])
def test_files_are_closed_again(name, tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(KINDS[name][0] if name in KINDS else BAD[name])
    for read in (read_image, image_size):
        try:
            read(path)
        except DataError:
            pass
    links = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert path.resolve() not in links


# --- fuzzing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_pixels(monkeypatch) -> None:
    """Damaged headers ask for many pixels."""
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)


whole = [content for content, _ in KINDS.values()] + list(BAD.values()) + [encoded(RGB, "JPEG"), oriented(6)]


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damage that it survives
@settings(max_examples=400, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_damaged_files(data) -> None:
    content = bytearray(data.draw(st.sampled_from(whole)))
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            content[data.draw(st.integers(0, min(len(content) - 1, 200)))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        got = read_image(bytes(content), channels=data.draw(st.sampled_from([1, 3, 4])))
    except DataError:
        return
    assert got.dtype == np.uint8
    assert got.ndim == 3


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_only_data_errors_come_out_of_noise(content) -> None:
    try:
        read_image(content)
    except DataError:
        pass


@settings(max_examples=150)
@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=4, max_side=6)), st.sampled_from([1, 3]))
def test_only_data_errors_come_out_of_strange_arrays(array, channels) -> None:
    try:
        got = read_image(array, channels=channels)
    except DataError:
        return
    assert got.shape == (*array.shape[:2], channels)
