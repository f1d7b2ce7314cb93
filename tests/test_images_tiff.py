"""TIFF and OME-TIFF: depth, channels, stacks, previews and pyramids, windows, pixel sizes, damage."""

import builtins
import io
import re
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn import images
from maskrcnn.errors import DataError
from maskrcnn.images import image_size, open_image, pixel_size, read_image
from maskrcnn.images import tiff as reader

tifffile = pytest.importorskip("tifffile")


def written(array, path, **options):
    tifffile.imwrite(path, array, **options)
    return path


def pixels(path, **options):
    with open_image(path, **options) as image:
        return image.window(0, 0, *image.size)


RNG = np.random.default_rng(0)
HWC = RNG.integers(0, 60000, (40, 50, 5), dtype=np.uint16)
CHW = np.ascontiguousarray(np.moveaxis(HWC, 2, 0))
KINDS = {
    "RGB": (HWC[..., :3], {"photometric": "rgb"}, HWC[..., :3]),
    "alpha is dropped": (HWC[..., :4], {"photometric": "rgb"}, HWC[..., :3]),
    "grey of floats": (HWC[..., 0] / np.float64(9), {}, HWC[..., :1] / 9),
    "float RGB": (HWC[..., :3].astype(np.float32), {"photometric": "rgb"}, HWC[..., :3]),
    "five channels, chunky": (HWC, {"photometric": "minisblack", "planarconfig": "contig"}, HWC),
    "five channels, planar": (CHW, {"photometric": "minisblack", "planarconfig": "separate"}, HWC),
    "five channels of bytes": (HWC.astype(np.uint8), {"planarconfig": "contig", "photometric": "minisblack"},
                               HWC.astype(np.uint8)),
    "OME": (CHW, {"ome": True, "metadata": {"axes": "CYX"}}, HWC),
    "ImageJ": (CHW, {"imagej": True, "metadata": {"axes": "CYX"}}, HWC),
    "OME, RGB": (HWC[..., :3], {"ome": True, "photometric": "rgb"}, HWC[..., :3]),
    "an array without a word about its axes": (HWC, {"photometric": "minisblack"}, HWC),
    "big-endian": (HWC[..., :3], {"photometric": "rgb", "byteorder": ">"}, HWC[..., :3]),
    "BigTIFF": (HWC[..., :3], {"photometric": "rgb", "bigtiff": True}, HWC[..., :3]),
    "signed": (HWC[..., :3].astype(np.int16), {"photometric": "rgb"}, HWC[..., :3].astype(np.int16)),
    "white is zero": (HWC[..., 0], {"photometric": "miniswhite"}, 65535 - HWC[..., :1]),
    "tiles": (HWC[..., :3], {"photometric": "rgb", "tile": (16, 32)}, HWC[..., :3]),
    "deflate": (HWC[..., :3], {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 7}, HWC[..., :3]),
    "deflate, differences": (HWC[..., :3], {"photometric": "rgb", "compression": "zlib", "predictor": True,
                                            "tile": (16, 16)}, HWC[..., :3]),
    "deflate, planar tiles": (CHW, {"photometric": "minisblack", "planarconfig": "separate", "compression": "zlib",
                                    "tile": (16, 16)}, HWC),
    "deflate, OME": (CHW, {"ome": True, "metadata": {"axes": "CYX"}, "compression": "zlib"}, HWC),
    "LZW": (HWC[..., :3], {"photometric": "rgb", "compression": "lzw"}, HWC[..., :3]),
    "zstd": (HWC, {"photometric": "minisblack", "planarconfig": "contig", "compression": "zstd"}, HWC),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_whole_and_in_windows(kind, tmp_path) -> None:
    array, options, expected = KINDS[kind]
    if options.get("compression") in ("lzw", "zstd"):
        pytest.importorskip("imagecodecs")
    path = written(array, tmp_path / "a.tif", **options)
    for source in (path, path.read_bytes()):
        with open_image(source) as image:
            assert (image.size, image.channels) == ((40, 50), expected.shape[2])
            np.testing.assert_allclose(image.window(0, 0, 40, 50), expected)
            for top, left, bottom, right in ((3, 5, 37, 44), (15, 16, 17, 33), (39, 49, 40, 50), (0, 0, 1, 50)):
                np.testing.assert_allclose(image.window(top, left, bottom, right), expected[top:bottom, left:right])
            assert image.windowed or kind == "grey of floats"
    assert image_size(path) == (40, 50)


def test_a_fourth_channel_that_is_no_alpha_counts(tmp_path) -> None:
    path = written(HWC[..., :4], tmp_path / "a.tif", photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(pixels(path), HWC[..., :4])
    np.testing.assert_array_equal(read_image(path), read_image(HWC[..., :3]))  # RGB, by the file's own word
    five = written(HWC, tmp_path / "b.tif", photometric="rgb")
    with pytest.raises(DataError, match=r"b\.tif: the image has 5 channels; expected 3"):
        read_image(five)


@pytest.mark.parametrize("kind", ["deflate", "tiles", "five channels, chunky"])
def test_only_a_window_is_decoded(kind, tmp_path, monkeypatch) -> None:
    array, options, _ = KINDS[kind]
    path = written(array, tmp_path / "a.tif", **{"compression": "zlib", "rowsperstrip": 4} | options)
    decoded = []
    decode = reader._decode
    monkeypatch.setattr(reader, "_decode", lambda *args: decoded.append(args[2]) or decode(*args))
    with open_image(path) as image:
        image.window(0, 0, 4, 16)
    assert len(decoded) <= 2


def test_the_limit_is_of_a_window(tmp_path, monkeypatch) -> None:
    path = written(HWC[..., :3], tmp_path / "a.tif", photometric="rgb", tile=(16, 16))
    monkeypatch.setattr(images, "MAX_PIXELS", 300)
    with open_image(path) as image:
        assert image.window(0, 0, 10, 30).shape == (10, 30, 3)
        with pytest.raises(DataError, match="20 x 16 pixels are more than the 300"):
            image.window(0, 0, 20, 16)
    many = written(CHW, tmp_path / "b.tif", photometric="minisblack", planarconfig="separate")
    with open_image(many) as image, pytest.raises(DataError, match="10 x 16 pixels of 10 bytes are more"):
        image.window(0, 0, 10, 16)


def test_a_large_image_is_scaled_by_a_sample(tmp_path, rng, monkeypatch) -> None:
    grey = rng.integers(1000, 2000, (600, 700), dtype=np.uint16)
    path = written(grey, tmp_path / "a.tif", tile=(64, 64), compression="zlib")
    monkeypatch.setattr(images, "_SAMPLE", 2**17)
    monkeypatch.setattr(reader, "_LARGE", 1)
    with open_image(path) as image:
        assert image.windowed
        got = image.read(channels=1, box=(0, 0, 100, 100))[..., 0]
    assert np.abs(got - (grey[:100, :100] - 1000.0) / 1000 * 255).max() < 2


@pytest.mark.parametrize(("compression", "most"), [("jpeg", 12), ("jpeg2000", 0)])
def test_slides_are_read_in_windows(compression: str, most: int, tmp_path) -> None:
    pytest.importorskip("imagecodecs")
    smooth = np.linspace(0, 250, 64 * 80 * 3).reshape(64, 80, 3).astype(np.uint8)
    path = written(smooth, tmp_path / "a.tif", compression=compression, photometric="rgb", tile=(32, 32))
    with closing(reader.TiffFile(path.open("rb"), "a.tif")) as file:
        for box in ((0, 0, 64, 80), (30, 20, 50, 70)):
            expected = smooth[box[0] : box[2], box[1] : box[3]].astype(int)
            assert np.abs(file.window(box) - expected).max() <= most


def test_pixels_may_outlive_their_file() -> None:
    content = io.BytesIO()
    tifffile.imwrite(content, HWC)
    file = reader.open_tiff(io.BytesIO(content.getvalue()), "bytes", stack=False)
    assert isinstance(file, reader.TiffFile)
    held = file.window((0, 0, 40, 50))
    file.close()
    assert np.array_equal(held, HWC)


@pytest.mark.parametrize("big", [True, False])
def test_pages_in_a_circle_are_refused(big, tmp_path) -> None:
    path = written(np.zeros((3, 8, 9), np.uint16), tmp_path / "a.tif", photometric="minisblack", bigtiff=big)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2].offset
        tags = len(file.pages[2].tags)
    content = bytearray(path.read_bytes())
    at = last + (8 + 20 * tags if big else 2 + 12 * tags)
    size = 8 if big else 4
    assert not any(content[at : at + size])  # the last page has no next one
    content[at : at + size] = first.to_bytes(size, "little")
    with pytest.raises(DataError, match="page 3 is followed by an earlier one"):
        read_image(bytes(content))


def test_a_segment_may_not_claim_to_be_larger_than_its_tile(tmp_path) -> None:
    pytest.importorskip("imagecodecs")
    path = written(HWC[..., 0].astype(np.uint8), tmp_path / "a.tif", compression="jpeg", tile=(16, 16))
    content = path.read_bytes()
    header = content.index(b"\xff\xc0")  # start of frame: length, bits, height, width
    claimed = content[: header + 5] + b"\xff\xff\xff\xff" + content[header + 9 :]
    with pytest.raises(DataError, match="a part of its pixels has the wrong size"):
        reader.TiffFile(io.BytesIO(claimed), "a.tif").window((0, 0, 40, 50))


def test_palettes_and_few_bits_are_read_from_stacks(tmp_path) -> None:
    path = tmp_path / "a.tif"
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    frames = [Image.fromarray(plane) for plane in (grey, 255 - grey)]
    coloured = [frame.convert("P") for frame in frames]
    for frame in coloured:
        frame.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    coloured[0].save(path, save_all=True, append_images=coloured[1:])
    expected = np.stack([255 - grey, grey, np.full_like(grey, 7)], axis=2)
    np.testing.assert_array_equal(read_image(path, page=2), expected)
    bits = [Image.fromarray(plane > 100) for plane in (grey, 255 - grey)]
    bits[0].save(path, save_all=True, append_images=bits[1:])
    np.testing.assert_array_equal(read_image(path, channels=1, page=2)[..., 0], (255 - grey > 100) * 255)


# --- stacks ----------------------------------------------------------------------------------------------------------

STACK = RNG.integers(0, 256, (4, 20, 30), dtype=np.uint8)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"ome": True, "metadata": {"axes": "ZYX"}},
                                     {"imagej": True, "metadata": {"axes": "TYX"}}])  # fmt: skip
def test_of_a_stack_a_page_is_chosen_or_all_are_projected(options, tmp_path) -> None:
    path = written(STACK, tmp_path / "stack.tif", photometric="minisblack", **options)
    with pytest.raises(DataError, match=r"stack\.tif: a stack of 4 pages.*; .*--page, .*--max-project"):
        read_image(path)
    for page in range(4):
        np.testing.assert_array_equal(read_image(path, channels=1, page=page + 1)[..., 0], STACK[page])
    np.testing.assert_array_equal(read_image(path, channels=1, page="max")[..., 0], STACK.max(axis=0))
    assert image_size(path) == (20, 30)
    with pytest.raises(DataError, match="no page 5; it has 4"):
        read_image(path, page=5)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("axes", ["TZCYX", "ZCYX", "CZYX"])
def test_channels_are_no_pages(axes, compression, tmp_path) -> None:
    shape = {"T": 2, "Z": 3, "C": 5, "Y": 20, "X": 30}
    array = RNG.integers(0, 60000, [shape[axis] for axis in axes], dtype=np.uint16)
    path = written(array, tmp_path / "a.tif", ome=True, metadata={"axes": axes}, compression=compression,
                   photometric="minisblack")  # fmt: skip
    if "T" not in axes:
        array, axes = array[None], "T" + axes
    pages = array.transpose([axes.index(axis) for axis in "TZYXC"]).reshape(-1, 20, 30, 5)
    with open_image(path, page=2) as image:
        assert (image.pages, image.channels) == (len(pages), 5)
    for number, expected in enumerate(pages, start=1):
        np.testing.assert_array_equal(pixels(path, page=number), expected)
    np.testing.assert_array_equal(pixels(path, page="max"), pages.max(axis=0))
    words = "6 pages (2 times, 3 slices)" if axes == "TZCYX" and len(pages) == 6 else "3 pages (3 slices)"
    with pytest.raises(DataError, match=re.escape(words)):
        read_image(path)


def test_a_frame_of_an_animation_is_chosen() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((6, 8), grey, np.uint8)) for grey in (10, 200)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="an animation of 2 frames; predict and evaluate see one of them with --page"):
        read_image(buffer.getvalue())
    assert [int(read_image(buffer.getvalue(), page=page)[0, 0, 0]) for page in (1, 2)] == [10, 200]
    with pytest.raises(DataError, match="--max-project is for stacks"):
        read_image(buffer.getvalue(), page="max")
    assert read_image(np.zeros((2, 2), np.uint8), page=1).shape == (2, 2, 3)
    assert read_image(np.zeros((2, 2), np.uint8), page="max").shape == (2, 2, 3)


# --- smaller copies --------------------------------------------------------------------------------------------------


def test_a_preview_is_no_page(tmp_path) -> None:
    path = tmp_path / "a.tif"
    rgb, small = HWC[..., :3].astype(np.uint8), HWC[::4, ::4, :3].astype(np.uint8)
    Image.fromarray(rgb).save(path, save_all=True, append_images=[Image.fromarray(small)])
    np.testing.assert_array_equal(read_image(path), rgb)


def test_a_reduced_page_of_the_same_kind_is_no_page(tmp_path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(HWC[::2, ::2, :3], photometric="rgb", subfiletype=1, metadata=None)
        file.write(HWC[..., :3], photometric="rgb", metadata=None)
    np.testing.assert_array_equal(pixels(path), HWC[..., :3])


@pytest.mark.parametrize("inside", [True, False])
def test_a_pyramid_gives_its_finest_level(inside, tmp_path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=inside) as file:
        options = {"photometric": "rgb", "tile": (16, 16)}
        file.write(HWC[..., :3], subifds=2 if inside else 0, **options)
        for step in (2, 4):
            file.write(HWC[::step, ::step, :3], subfiletype=1, **options)
    np.testing.assert_array_equal(pixels(path), HWC[..., :3])


def test_images_of_different_kinds_are_refused(tmp_path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(HWC[..., 0], metadata=None)
        file.write(HWC[..., :3], photometric="rgb", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: holds 2 images of different kinds"):
        read_image(path)


# --- pixel sizes -----------------------------------------------------------------------------------------------------

SIZES = {
    "OME": ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 500.0,
                                       "PhysicalSizeYUnit": "nm"}}, (0.5, 0.25)),
    "ImageJ": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "micron"}}, (0.5, 0.25)),
    "ImageJ, µ": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "\\u00B5m"}}, (0.5, 0.25)),
    "ImageJ, no unit": ({"imagej": True, "resolution": (4, 2)}, None),
    "centimetres": ({"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}, (0.5, 0.25)),
    "inches": ({"resolution": (25400, 25400), "resolutionunit": "INCH"}, (1.0, 1.0)),
    "for a screen": ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
    "for a screen, in centimetres": ({"resolution": (118.11, 118.11), "resolutionunit": "CENTIMETER"}, None),
    "none": ({}, None),
    "Aperio": ({"description": "Aperio Image|AppMag = 40|MPP = 0.2520", "metadata": None}, (0.252, 0.252)),
}  # fmt: skip


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", SIZES)
def test_the_size_of_a_pixel_is_read(kind, deep, tmp_path) -> None:
    options, expected = SIZES[kind]
    array = HWC[..., 0] if deep else HWC[..., 0].astype(np.uint8)
    got = pixel_size(written(array, tmp_path / "a.tif", photometric="minisblack", **options))
    assert got == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_other_formats_have_no_size(tmp_path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png", dpi=(300, 300))
    assert pixel_size(tmp_path / "a.png") is None


# --- bad files -------------------------------------------------------------------------------------------------------


def test_without_tifffile_one_sentence_says_what_to_install(tmp_path, monkeypatch) -> None:
    deep = written(HWC[..., :3], tmp_path / "deep.tif", photometric="rgb")
    stack = written(STACK, tmp_path / "stack.tif", photometric="minisblack")
    plain = written(STACK[0], tmp_path / "plain.tif")
    monkeypatch.setattr(reader, "_installed", lambda: False)
    for path, reason in ((deep, "its pixels have 16 bits"), (stack, "it has several pages")):
        with pytest.raises(DataError, match=rf"{path.name}: {reason}.*pip install 'maskrcnn\[tiff\]'"):
            read_image(path)
    np.testing.assert_array_equal(read_image(plain, channels=1)[..., 0], STACK[0])


def test_without_imagecodecs_one_sentence_says_what_to_install(tmp_path, monkeypatch) -> None:
    path = written(HWC[..., :3], tmp_path / "a.tif", photometric="rgb", compression="zlib")

    def refuse(*args):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda page: refuse))
    with pytest.raises(DataError, match=r"needs imagecodecs: pip install 'maskrcnn\[tiff\]'"):
        read_image(path)


def test_no_other_file_is_opened(tmp_path, monkeypatch) -> None:
    ome = tifffile.OmeXml()
    ome.addimage(np.uint16, (2, 40, 50), (2, 1, 1, 40, 50, 1), axes="CYX")
    text = ome.tostring().replace(
        '<TiffData IFD="0" PlaneCount="2"/>',
        '<TiffData IFD="0" FirstC="1"><UUID FileName="../other.tif">urn:uuid:1</UUID></TiffData>',
    )
    assert "../other.tif" in text
    path = written(CHW[0], tmp_path / "a.ome.tif", description=text.encode("ascii", "xmlcharrefreplace"), metadata=None)
    opened = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda name, *args, **named: opened.append(str(name)) or real(name, *args, **named)
    )
    read_image(path)
    assert set(opened) == {str(path)}


def test_entities_are_not_expanded(tmp_path) -> None:
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "cc">]><OME xmlns="&b;"><Image><Pixels/></Image></OME>'
    path = written(HWC[..., :3], tmp_path / "a.tif", photometric="rgb", description=text, metadata=None)
    np.testing.assert_array_equal(pixels(path), HWC[..., :3])


WHOLE = {}
for _kind, (_array, _options, _) in KINDS.items():
    if _options.get("compression") not in ("lzw", "zstd"):
        _buffer = io.BytesIO()
        tifffile.imwrite(_buffer, _array, **_options)
        WHOLE[_kind] = _buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_damaged_files(data, monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    places = [*range(300), *range(max(len(content) - 600, 0), len(content))]
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.sampled_from(places)) % len(content)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        got = read_image(bytes(content), channels=None, page=data.draw(st.sampled_from([None, 1, "max"])))
    except DataError:
        return
    assert (got.dtype, got.ndim) == (np.uint8, 3)
