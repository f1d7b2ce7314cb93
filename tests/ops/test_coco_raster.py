"""Polygons drawn by cocoapi's rule: answers by hand, the reference, the kernel, and COCO's library to compare with."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.ops.coco_raster import coco_raster
from maskrcnn.ops.dispatch import implementations, recorded_paths

IMPLS = implementations("coco_raster")


def drawn(polygons, size, *, origin=(0, 0), scale=(1, 1), impl=None):
    """One object on its grid."""
    points = np.concatenate([np.zeros((0, 2)), *(np.asarray(p, dtype=np.float64) for p in polygons)])
    parts = np.cumsum([0, *(len(p) for p in polygons)])
    spans = np.array([[0, len(polygons)]])
    with recorded_paths() as paths:
        masks = coco_raster(points, parts, spans, np.array([origin]), np.array([scale]), size, impl=impl)
    assert impl is None or paths == [f"coco_raster:{impl}"]
    return masks[0]


def rectangle(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def filled(rows, columns):
    mask = np.zeros((8, 8), dtype=bool)
    mask[rows, columns] = True
    return mask


KNOWN = {
    "whole pixels": ([rectangle(2, 2, 5, 5)], filled(slice(2, 5), slice(2, 5))),
    "other way round": ([rectangle(2, 2, 5, 5)[::-1]], filled(slice(2, 5), slice(2, 5))),
    "corners given twice": ([np.repeat(rectangle(2, 2, 5, 5), 2, axis=0)], filled(slice(2, 5), slice(2, 5))),
    "half pixels": ([rectangle(2.5, 2.5, 5.5, 5.5)], filled(slice(3, 6), slice(3, 6))),
    "beyond the beginning": ([rectangle(-2, -2, 3, 3)], filled(slice(0, 3), slice(0, 3))),
    "beyond the end": ([rectangle(5, 5, 12, 12)], filled(slice(5, 8), slice(5, 8))),
    "around everything": ([rectangle(-9, -9, 99, 99)], np.ones((8, 8), dtype=bool)),
    "triangle": (
        [[(1, 1), (6, 1), (1, 6)]],
        filled([1, 1, 1, 1, 2, 2, 2, 3, 3, 4], [1, 2, 3, 4, 1, 2, 3, 1, 2, 1]),
    ),
    "between centres": ([rectangle(2.6, 2.6, 3.0, 3.0)], filled([], [])),
    "union": ([rectangle(2, 2, 5, 5), rectangle(4, 2, 7, 5)], filled(slice(2, 5), slice(2, 7))),
    "one point": ([[(3.5, 3.5)]], filled([], [])),
    "nothing": ([], filled([], [])),
}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name, impl) -> None:
    polygons, answer = KNOWN[name]
    np.testing.assert_array_equal(drawn(polygons, (8, 8), impl=impl), answer)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_triangle_seen_through_a_roi(impl) -> None:
    """The RoI is (8, 8, 28, 32) in 7 x 7 cells; the answer is Detectron2's."""
    mask = drawn([[(10, 10), (30, 10), (20, 30)]], (7, 7), origin=(8, 8), scale=(7 / 20, 7 / 24), impl=impl)
    columns = [[], range(1, 7), range(2, 7), range(3, 6), range(3, 5), [4], []]
    for row, wanted in zip(mask, columns, strict=True):
        assert np.flatnonzero(row).tolist() == list(wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_each_object_has_its_polygons_and_its_grid(impl) -> None:
    points = np.array([*rectangle(0, 0, 2, 2), *rectangle(10, 10, 14, 14), *rectangle(4, 4, 8, 8)], dtype=np.float64)
    spans, origins = np.array([[1, 2], [0, 0], [0, 3]]), np.array([[10.0, 10.0], [0.0, 0.0], [0.0, 0.0]])
    scales = np.array([[0.5, 1.0], [1.0, 1.0], [0.5, 0.5]])
    got = coco_raster(points, np.array([0, 4, 8, 12]), spans, origins, scales, (4, 5), impl=impl)
    wanted = np.zeros((3, 4, 5), dtype=bool)
    wanted[0, :4, :2] = True
    wanted[2, :1, :1] = True
    wanted[2, 2:4, 2:4] = True
    np.testing.assert_array_equal(got, wanted)


coordinate = st.one_of(st.integers(-20, 60).map(lambda i: i / 2), st.floats(-10, 30, allow_subnormal=False))
outline = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9)


@settings(max_examples=150)
@given(st.lists(outline, min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 20))
def test_polygons_are_drawn_bit_for_bit_as_coco_draws_them(polygons, height, width) -> None:
    flat = [np.array(polygon).ravel().tolist() for polygon in polygons]
    answer = coco.decode(coco.merge(coco.frPyObjects(flat, height, width))).astype(bool)  # type: ignore[arg-type]
    for impl in IMPLS:
        np.testing.assert_array_equal(drawn(polygons, (height, width), impl=impl), answer)
