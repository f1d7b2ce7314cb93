"""Label images: exact whatever their depth; run lengths against each value's bitmap; refused what is none."""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from maskrcnn.data.label_images import objects_of, paint_objects, read_label_image, write_label_image
from maskrcnn.errors import DataError
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.formats.drawn import layered, record_of

LABELS = np.array([[0, 1, 1], [700, 0, 1], [700, 700, 40000]], dtype=np.uint16)
small = arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 9]))


def flooded(labels) -> list[tuple[int, tuple[int, ...]]]:
    """The regions of each value, by filling one pixel after another."""
    found, seen = [], np.zeros(labels.shape, bool)
    for first in np.argwhere(labels > 0).tolist():
        if seen[*first]:
            continue
        region, waiting = np.zeros(labels.shape, bool), [first]
        while waiting:
            y, x = waiting.pop()
            if not region[y, x]:
                region[y, x] = True
                corner = np.maximum([y - 1, x - 1], 0)
                near = labels[corner[0] : y + 2, corner[1] : x + 2] == labels[y, x]
                waiting += (np.argwhere(near) + corner).tolist()
        seen |= region
        found.append((int(labels[*first]), tuple(counts_from_bitmap(region).tolist())))
    return sorted(found)


@given(small)
def test_each_value_has_the_runs_of_its_bitmap(labels) -> None:
    values, counts = objects_of(labels)
    assert values.tolist() == np.unique(labels[labels > 0]).tolist()
    expected = [counts_from_bitmap(bitmap).tolist() for bitmap in layered(labels)]
    assert [runs.tolist() for runs in counts] == expected


@given(small)
def test_regions_are_connected_over_sides_and_corners(labels) -> None:
    values, counts = objects_of(labels, regions=True)
    assert sorted((v, tuple(runs.tolist())) for v, runs in zip(values.tolist(), counts, strict=True)) == flooded(labels)


def test_a_spiral_is_one_region() -> None:
    spiral = np.zeros((61, 61), np.uint8)
    for start in range(0, 30, 2):
        spiral[start, start : 61 - start] = spiral[start : 61 - start, 60 - start] = 1
        spiral[60 - start, start : 61 - start] = spiral[start + 2 : 61 - start, start] = 1
        spiral[start + 2, start + 1] = 1
    assert len(flooded(spiral)) == len(objects_of(spiral, regions=True).values) == 1


@given(small)
def test_what_is_painted_has_the_same_objects(labels) -> None:
    lost = Counter()
    painted, left = paint_objects(record_of(Path("a.png"), layered(labels), [0] * 9, labels.shape), lost)
    numbers = np.unique(labels)
    numbers = np.concatenate([[0], numbers[numbers > 0]])
    np.testing.assert_array_equal(numbers[painted], labels)
    assert left.tolist() == [(labels == number).sum() for number in numbers[1:]]
    assert not lost


def test_a_pixel_has_one_object_and_the_others_are_counted() -> None:
    large, small, hidden = np.ones((3, 4), bool), np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    small[1, 1:3] = hidden[1, 1] = True
    lost = Counter()
    painted, left = paint_objects(record_of(Path("a.png"), [small, large, None], [0] * 3, (3, 4)), lost)
    assert painted.tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [2, 2, 2, 2]]
    assert left.tolist() == [2, 10, 0]
    assert lost == {"pixel of two objects": 2, "box without a mask": 1}
    lost.clear()
    scores = [0.9, 0.8, 0.1]
    painted, left = paint_objects(
        record_of(Path("a.png"), [large, small, hidden], [0] * 3, (3, 4), scores=scores), lost
    )
    assert (painted == 1).all()
    assert left.tolist() == [12, 0, 0]
    assert lost == {"pixel of two objects": 3, "object wholly under others": 2}


def saved(path: Path, array, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_values_are_read_as_they_are(tmp_path, dtype, suffix) -> None:
    if suffix == ".png" and dtype in (np.int32, np.float32):
        pytest.skip("PNG has no such values")
    labels = LABELS.astype(dtype)
    np.testing.assert_array_equal(read_label_image(saved(tmp_path / f"a{suffix}", labels)), labels)


@pytest.mark.parametrize("largest", [3, 65535, 65536, 2**31 - 1])
def test_written_labels_are_read_again(tmp_path, largest) -> None:
    labels = np.array([[0, 1], [largest, 2]], np.uint32)
    path = write_label_image(tmp_path / "deep.name", labels)
    assert path.name == ("deep.name.png" if largest < 65536 else "deep.name.tif")
    np.testing.assert_array_equal(read_label_image(path), labels)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int64, np.float64, ">u4", ">u2"])
def test_tifffile_reads_what_pillow_does_not(tmp_path, dtype) -> None:
    labels = np.array([[0, 7], [65536 if np.dtype(dtype).itemsize > 2 else 999, 2]]).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", labels, bigtiff=dtype == np.uint64)
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.tif"), labels)


def test_without_tifffile_the_extra_is_named(tmp_path, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 2), np.int64), bigtiff=True)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"a\.tif.*maskrcnn\[tiff\]"):
        read_label_image(tmp_path / "a.tif")


def test_large_values_of_32_bits_are_not_negative(tmp_path) -> None:
    labels = np.array([[0, 2**32 - 1]], np.uint32)
    tifffile.imwrite(tmp_path / "a.tif", labels)
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.tif"), labels)


def test_palette_bits_and_colours(tmp_path) -> None:
    palette = Image.fromarray(np.array([[0, 3], [3, 200]], np.uint8), "P")
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 9)])
    palette.save(tmp_path / "p.png")
    assert read_label_image(tmp_path / "p.png").tolist() == [[0, 3], [3, 200]]
    assert read_label_image(saved(tmp_path / "b.png", np.array([[True, False]]))).tolist() == [[1, 0]]
    colours = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 0, 7], [0, 1, 0]]], np.uint8)
    assert read_label_image(saved(tmp_path / "c.png", colours)).tolist() == [[0, 0xFF0000], [7, 256]]
    grey = np.repeat(np.array([[0, 5], [6, 0]], np.uint8)[..., None], 3, axis=2)
    assert read_label_image(saved(tmp_path / "g.png", grey)).tolist() == [[0, 5], [6, 0]]
    clear = np.concatenate([grey, np.array([[[255], [0]], [[255], [255]]], np.uint8)], axis=2)
    assert read_label_image(saved(tmp_path / "t.png", clear)).tolist() == [[0, 0], [6, 0]]


def many_greys(size: int = 200):
    distance = np.hypot(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j])
    return np.clip((0.8 - distance) * 1500, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8), {}, "photograph"),
        (many_greys(), {}, "strewn"),
        (np.full((4, 4, 3), (255, 255, 9), np.uint8), {}, "no pixel is black"),
        (np.zeros((4, 4), np.uint8), {"format": "JPEG"}, "JPEG"),
        (np.full((4, 4), 0.5, np.float32), {"format": "TIFF"}, "not whole numbers"),
        (np.full((4, 4), np.nan, np.float32), {"format": "TIFF"}, "not whole numbers"),
        (np.full((4, 4), -1, np.int32), {"format": "TIFF"}, "values from -1"),
    ],
)
def test_what_is_no_label_image_is_named(tmp_path, array, options, message) -> None:
    path = saved(tmp_path / "mask.png", array, **options)
    with pytest.raises(DataError, match=f"mask.png: .*{message}"):
        read_label_image(path)


def test_broken_files_are_named(tmp_path) -> None:
    whole = saved(tmp_path / "whole.png", LABELS).read_bytes()
    tiff = saved(tmp_path / "whole.tif", LABELS).read_bytes()
    for name, content in {
        "cut.png": whole[:-40],
        "cut.tif": tiff[: len(tiff) // 2],
        "none.png": b"",
        "text.png": b"version https://git-lfs.github.com/spec/v1",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_label_image(tmp_path / name)


def test_several_pages_and_deep_colours_are_refused(tmp_path) -> None:
    pages = [Image.fromarray(LABELS)] * 2
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"stack\.tif: has 2 pages"):
        read_label_image(tmp_path / "stack.tif")
    header = bytearray(saved(tmp_path / "deep.png", np.zeros((1, 1, 3), np.uint8)).read_bytes())
    header[24] = 16
    (tmp_path / "deep.png").write_bytes(header)
    with pytest.raises(DataError, match=r"deep\.png: a PNG of 16 bits a colour"):
        read_label_image(tmp_path / "deep.png")


def test_a_large_image_of_many_objects_takes_linear_time() -> None:
    def seconds(side: int) -> float:
        labels = np.zeros((side, side), np.uint16)
        tiles = np.arange(1, (side // 20) ** 2 + 1, dtype=np.uint16).reshape(side // 20, -1)
        labels[:] = np.kron(tiles, np.ones((20, 20), np.uint16))
        labels[::20] = labels[:, ::20] = 0
        started = time.perf_counter()
        assert len(objects_of(labels).counts) == tiles.size
        return time.perf_counter() - started

    small, large = min(seconds(500), seconds(500)), seconds(2000)  # 16 times the pixels and the objects
    assert large < 60 * small + 0.2
