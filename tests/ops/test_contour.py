"""Outlines: known shapes, the pixels that `paste` sets, and areas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from maskrcnn.ops.contour import signed_area, trace
from maskrcnn.ops.paste import RULES, paste
from maskrcnn.ops.rasterize import rasterize_polygons


def test_a_full_mask_is_its_box_with_corners_cut() -> None:
    """The outline passes half a cell outside the centres of the outer ones, which is at the box."""
    outline = trace(np.ones((4, 4)), np.array([10.0, 20.0, 18.0, 24.0]), (100, 100))
    assert not outline.holes
    (ring,) = outline.outer
    np.testing.assert_allclose([ring.min(axis=0), ring.max(axis=0)], [[10, 20], [18, 24]])
    assert signed_area(ring) == pytest.approx(32 - 4 * 0.5 * 1.0 * 0.5)  # each corner loses half a cell's triangle


def test_a_hole_is_traced_in_the_other_direction() -> None:
    mask = np.ones((9, 9))
    mask[4, 4] = 0
    outline = trace(mask, np.array([0.0, 0.0, 9.0, 9.0]), (9, 9))
    assert [len(outline.outer), len(outline.holes)] == [1, 1]
    assert signed_area(outline.outer[0]) > 0
    assert signed_area(outline.holes[0]) == pytest.approx(-0.5)  # a diamond of half diagonals 0.5
    np.testing.assert_allclose(outline.holes[0].mean(axis=0), [4.5, 4.5])


@pytest.mark.parametrize(("low", "pieces"), [(0.3, 1), (0.1, 2)])
def test_a_saddle_is_joined_where_the_surface_is_set(low, pieces) -> None:
    """In the middle of diagonals of 0.8 and of `low` the surface has their mean, 0.55 or 0.45."""
    for mask in (np.array([[0.8, low], [low, 0.8]]), np.array([[low, 0.8], [0.8, low]])):
        assert len(trace(mask, np.array([0.0, 0.0, 8.0, 8.0]), (8, 8)).outer) == pieces


def test_an_empty_mask_and_a_box_without_area_have_no_outline() -> None:
    assert trace(np.zeros((4, 4)), np.array([0.0, 0.0, 8.0, 8.0]), (8, 8)) == ([], [])
    assert trace(np.full((4, 4), np.nan), np.array([0.0, 0.0, 8.0, 8.0]), (8, 8)) == ([], [])
    assert trace(np.ones((4, 4)), np.array([3.0, 3.0, 3.0, 8.0]), (8, 8)) == ([], [])
    assert trace(np.ones((4, 4)), np.array([20.0, 20.0, 30.0, 30.0]), (8, 8)) == ([], [])


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 28), st.sampled_from(RULES), st.sampled_from([0.5, 0.35]))
def test_the_pixels_of_paste_lie_inside(seed, side, rule, threshold) -> None:
    """Within a cell the true edge is a hyperbola and the outline its chord. Along a chord the surface strays from the
    threshold by at most a quarter of the cell's mixed difference, and between chord and edge, being harmonic, no more.
    """
    rng = torch.Generator().manual_seed(seed)
    mask = F.interpolate(torch.rand(1, 1, 5, 5, generator=rng), (side, side), mode="bilinear")[0]
    box = torch.tensor([[3.3, 5.1, 55.8, 47.2]])
    soft = paste(mask, box, (60, 60), threshold=None, rule=rule)[0].numpy()
    outline = trace(mask[0].numpy(), box[0].numpy(), (60, 60), threshold=threshold, rule=rule)
    whole = (0.0, 0.0, 60.0, 60.0)
    drawn = rasterize_polygons(outline.outer, whole, 60) & ~rasterize_polygons(outline.holes, whole, 60)
    wrong = drawn != (soft >= threshold)
    mixed = np.diff(np.diff(np.pad(mask[0].numpy(), 1), axis=0), axis=1)
    assert np.abs(soft - threshold)[wrong].max(initial=0) < np.abs(mixed).max() / 4 + 1e-4


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 28), st.sampled_from([0.5, 0.35]))
def test_vertices_lie_where_the_pasted_value_is_the_threshold(seed, side, threshold) -> None:
    """Each vertex becomes the centre of a one-pixel image, for which `paste` gives the value."""
    mask = torch.rand(1, side, side, generator=torch.Generator().manual_seed(seed))
    box = torch.tensor([[33.25, 35.5, 85.75, 77.125]])  # far from the borders of the image
    outline = trace(mask[0].numpy(), box[0].numpy(), (120, 120), threshold=threshold)
    vertices = torch.tensor(np.concatenate([np.zeros((0, 2)), *outline.outer, *outline.holes]), dtype=torch.float32)
    boxes = box - (vertices - 0.5).repeat(1, 2)
    values = paste(mask.expand(len(boxes), -1, -1), boxes, (1, 1), threshold=None)
    torch.testing.assert_close(values, torch.full_like(values, threshold), atol=1e-4, rtol=0)  # float32 positions


def test_rings_do_not_repeat_points() -> None:
    mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(0)).numpy()
    outline = trace(mask, np.array([-4.0, -4.0, 30.0, 30.0]), (20, 20))  # cut off by the image
    assert len(outline.outer) > 5
    for ring in outline.outer + outline.holes:
        assert (ring != np.roll(ring, 1, axis=0)).any(axis=1).all()
        assert ring.min() >= 0
        assert ring.max() <= 20
