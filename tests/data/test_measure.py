"""Measures of masks, against scikit-image and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskrcnn.data.bitmaps import draw_bitmap, draw_window
from maskrcnn.data.measure import hull_area, measure, perimeter
from tests.data.records import runs

BITMAPS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), fill=st.just(False))


def tight(bitmap):
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    corner = int(rows[0]), int(columns[0])
    return bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], corner


def disk(radius, size):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return x * x + y * y <= radius * radius


def test_a_rectangle() -> None:
    pixels = np.arange(2 * 20 * 30).reshape(20, 30, 2)
    found = measure(np.ones((3, 5), bool), (4, 6), pixels[4:7, 6:11])
    assert found.area == 15
    assert found.centroid == (8, 5)
    assert found.perimeter == 12  # 4 + 4 + 2 + 2: from centre to centre
    assert found.major_axis == pytest.approx(4 * np.sqrt((25 - 1) / 12))
    assert found.minor_axis == pytest.approx(4 * np.sqrt((9 - 1) / 12))
    assert found.solidity == 1
    inside = pixels[4:7, 6:11].reshape(-1, 2)
    assert found.intensities == pytest.approx(tuple(inside.mean(axis=0)))


def test_one_pixel_and_a_line() -> None:
    one = measure(np.ones((1, 1), bool), (7, 9))
    assert (one.area, one.centroid, one.perimeter, one.major_axis, one.solidity) == (1, (9, 7), 0, 0, 1)
    assert one.intensities == ()
    line = measure(np.ones((1, 4), bool), (0, 0))
    assert (line.solidity, line.minor_axis) == (1, 0)


def test_the_hull_of_an_l() -> None:
    bitmap = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], bool)
    assert hull_area(bitmap) == 6  # the object and the pixel in the middle


@settings(max_examples=300)
@given(BITMAPS)
def test_all_measures_are_those_of_scikit_image(bitmap) -> None:
    reference = pytest.importorskip("skimage.measure")
    if not bitmap.any():
        return
    pixels = np.random.default_rng(0).normal(size=(*bitmap.shape, 2))
    (expected,) = reference.regionprops(bitmap.astype(int), pixels)
    part, (row, column) = tight(bitmap)
    inside = pixels[row : row + part.shape[0], column : column + part.shape[1]]
    found = measure(part, (row, column), inside)
    assert found.area == expected.area
    assert found.centroid == pytest.approx(expected.centroid[::-1])
    assert found.perimeter == pytest.approx(expected.perimeter)
    assert found.major_axis == pytest.approx(expected.axis_major_length, abs=1e-6)
    assert found.minor_axis == pytest.approx(expected.axis_minor_length, abs=1e-6)
    assert found.intensities == pytest.approx(expected.intensity_mean)
    assert found.solidity == pytest.approx(expected.solidity)


@pytest.mark.parametrize("radius", [3, 10.5, 40])
def test_disks_are_those_of_scikit_image(radius) -> None:
    reference = pytest.importorskip("skimage.measure")
    bitmap, _ = tight(disk(radius, 101))
    (expected,) = reference.regionprops(bitmap.astype(int))
    found = measure(bitmap, (0, 0))
    assert found.perimeter == pytest.approx(expected.perimeter)
    assert found.solidity == pytest.approx(expected.solidity)
    assert found.perimeter == pytest.approx(2 * np.pi * radius, rel=0.1)


@settings(max_examples=300)
@given(BITMAPS)
def test_the_hull_holds_the_object_and_is_no_larger_than_its_window(bitmap) -> None:
    if bitmap.any():
        window, _ = tight(bitmap)
        assert window.sum() <= hull_area(window) <= window.size
        assert hull_area(window.T) == hull_area(window[::-1]) == hull_area(window)
        assert perimeter(window.T) == pytest.approx(perimeter(window))


@settings(max_examples=300)
@given(BITMAPS)
def test_the_window_of_run_lengths_is_the_part_of_the_bitmap(bitmap) -> None:
    window, (row, column) = draw_window(runs(bitmap), bitmap.shape)
    again = np.zeros_like(bitmap)
    again[row : row + len(window), column : column + window.shape[1]] = window
    np.testing.assert_array_equal(again, bitmap)
    if bitmap.any():
        assert window.shape == tight(bitmap)[0].shape


@settings(max_examples=100)
@given(st.lists(arrays(np.float64, (4, 2), elements=st.floats(-5, 20)), max_size=3))
def test_the_window_of_polygons_is_the_part_of_the_bitmap(polygons) -> None:
    size = (12, 15)
    bitmap = draw_bitmap(polygons, size)
    window, (row, column) = draw_window(polygons, size)
    again = np.zeros_like(bitmap)
    again[row : row + len(window), column : column + window.shape[1]] = window
    np.testing.assert_array_equal(again, bitmap)


def test_nothing_has_an_empty_window() -> None:
    assert draw_window(None, (4, 4))[0].size == 0
    assert draw_window([], (4, 4))[0].size == 0
