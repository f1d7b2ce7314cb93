"""Outlines with holes: known by hand, and against the bitmap that they were made of."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.shapes import segmentation_of_rings, shapes_of, shapes_of_bitmap
from maskrcnn.ops.contour import signed_area
from maskrcnn.ops.rle import counts_from_bitmap

RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)
DIAGONAL = np.array([[1, 0], [0, 1]], dtype=bool)


def pixels(bitmap) -> tuple:
    return counts_from_bitmap(bitmap), bitmap.shape


def test_a_hole_belongs_to_the_part_around_it() -> None:
    (shape,) = shapes_of_bitmap(RING)
    assert sorted(shape.outer.tolist()) == [[0, 0], [0, 3], [3, 0], [3, 3]]
    assert [sorted(hole.tolist()) for hole in shape.holes] == [[[1, 1], [1, 2], [2, 1], [2, 2]]]
    assert signed_area(shape.outer) == 9
    assert signed_area(shape.holes[0]) == -1


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    assert sorted(shape.outer.min(axis=0).tolist() for shape in shapes_of_bitmap(DIAGONAL)) == [[0, 0], [1, 1]]
    assert len(shapes_of_bitmap(~DIAGONAL)) == 2


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    island = np.pad(np.pad(np.ones((1, 1), bool), 1), 1, constant_values=True)
    shapes = shapes_of_bitmap(island)
    assert sorted((signed_area(shape.outer), len(shape.holes)) for shape in shapes) == [(1, 0), (25, 1)]


def test_polygons_stay_as_they_are() -> None:
    polygon = np.array([[0.5, 0.25], [3, 0], [2, 2.125]])
    assert shapes_of([polygon], (4, 4))[0].outer is polygon
    assert shapes_of(None, (4, 4)) == []


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_outlines_give_the_same_pixels_again(bitmap) -> None:
    shapes = shapes_of(pixels(bitmap), bitmap.shape)
    rings = [ring for shape in shapes for ring in (shape.outer, *shape.holes)]
    again = segmentation_of_rings(rings, bitmap.shape)
    np.testing.assert_array_equal(draw_bitmap(again, bitmap.shape), bitmap)
    assert sum(map(signed_area, rings)) == bitmap.sum()
    for shape in shapes:  # outlines without holes that COCO can hold as polygons
        drawn = draw_bitmap([shape.outer], bitmap.shape)
        assert drawn.sum() == pytest.approx(signed_area(shape.outer))
        assert all(not (draw_bitmap([hole], bitmap.shape) & ~drawn).any() for hole in shape.holes)


def test_rings_are_filled_by_the_even_odd_rule_and_clipped() -> None:
    outer, inner = (np.array([[a, a], [b, a], [b, b], [a, b]], float) for a, b in ((-2, 4), (1, 2)))
    drawn = draw_bitmap(segmentation_of_rings([outer, inner], (6, 6)), (6, 6))
    expected = np.zeros((6, 6), bool)
    expected[:4, :4] = True
    expected[1, 1] = False
    np.testing.assert_array_equal(drawn, expected)
    assert not draw_bitmap(segmentation_of_rings([], (6, 6)), (6, 6)).any()


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(3, 6), st.just(2)),
        elements=st.integers(-50, 250).map(lambda tenth: tenth / 10),
    )
)
def test_a_ring_between_pixels_is_drawn_as_in_the_whole_image(ring) -> None:
    """Tenths of a pixel lie between the fifths that cocoapi rounds to."""
    drawn = draw_bitmap(segmentation_of_rings([ring], (21, 19)), (21, 19))
    np.testing.assert_array_equal(drawn, draw_bitmap([ring], (21, 19)))


def test_a_mask_of_noise_with_hundreds_of_parts_and_holes_is_grouped_at_once(rng) -> None:
    bitmap = rng.random((120, 120)) > 0.4
    began = time.perf_counter()
    shapes = shapes_of_bitmap(bitmap)
    assert time.perf_counter() - began < 2
    assert len(shapes) > 100
    assert sum(len(shape.holes) for shape in shapes) > 100
    for shape in shapes:  # no hole reaches beyond the outline around it
        for hole in shape.holes:
            assert (hole >= shape.outer.min(axis=0)).all()
            assert (hole <= shape.outer.max(axis=0)).all()
    rings = [ring for shape in shapes for ring in (shape.outer, *shape.holes)]
    assert sum(map(signed_area, rings)) == bitmap.sum()
