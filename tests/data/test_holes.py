"""Polygons in others: holes by their area, by their direction, or filled and reported."""

import numpy as np
import pytest

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.holes import judge_rings, may_have_holes
from tests.data.coco_files import coco, write

SIZE = 40
OUTER = [2, 2, 20, 2, 20, 20, 2, 20]
WITH, AGAINST = [8, 8, 14, 8, 14, 14, 8, 14], [8, 8, 8, 14, 14, 14, 14, 8]
BESIDE = [25, 25, 35, 25, 35, 35, 25, 35]
FILLED, HOLE, APART = 18 * 18, 18 * 18 - 6 * 6, 10 * 10


def read(tmp_path, objects):
    """The pixels of objects, each its polygons and its area, and the data set; an image each."""
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(len(objects))]
    annotations = [
        {"id": i + 1, "image_id": i, "category_id": 0, "segmentation": rings, "area": area}
        for i, (rings, area) in enumerate(objects)
    ]
    data = read_dataset(write(tmp_path, coco(images=images, annotations=annotations)))
    drawn = [draw_bitmap(data.record(i).segmentations[0], (SIZE, SIZE)).sum() for i in range(len(objects))]
    return drawn, data.report


def test_many_polygons_that_run_against_those_around_them_are_holes(tmp_path) -> None:
    drawn, report = read(tmp_path, [([BESIDE, OUTER, AGAINST], None)] * 4 + [([OUTER, BESIDE], None)])
    assert drawn == [HOLE + APART] * 4 + [FILLED + APART]
    assert report.contradictions == []
    assert [problem.reason for problem in report.problems] == [
        "polygon that is a hole in another, as its direction says, cut out"
    ] * 4


@pytest.mark.parametrize(
    "objects",
    [
        [([OUTER, AGAINST], None)] * 3,  # too few
        [([OUTER, AGAINST], 0)] * 4 + [([OUTER, WITH], 0)],  # not all
        [([OUTER, AGAINST], 18 * 18 + 6 * 6 + 99)] * 3,  # an area that is neither
    ],
)
def test_what_nothing_proves_is_filled_and_reported(objects, tmp_path) -> None:
    drawn, report = read(tmp_path, objects)
    assert drawn == [FILLED] * len(objects)
    assert f"{len(objects)} objects have a polygon inside another" in report.contradictions[0].sentence


def test_areas_of_other_objects_decide(tmp_path) -> None:
    holes = [([OUTER, WITH], HOLE)] * 2
    assert read(tmp_path, [*holes, ([OUTER, WITH], None)])[0] == [HOLE] * 3
    drawn, report = read(tmp_path, [*holes, ([OUTER, AGAINST], FILLED), ([OUTER, AGAINST], None)])
    assert drawn == [HOLE, HOLE, FILLED, FILLED]
    assert "1 objects have a polygon" in report.contradictions[0].sentence


def test_an_island_in_a_hole_and_shapes_whose_bounds_overlap() -> None:
    rings = [np.reshape(ring, (-1, 2)) * 1.0 for ring in (OUTER, AGAINST, [10, 10, 12, 10, 12, 12, 10, 12])]
    assert judge_rings(rings, HOLE + 4) == ("hole", True)
    hook = np.array([[0, 0], [30, 0], [30, 30], [28, 30], [28, 2], [0, 2]], float)
    assert judge_rings([hook, rings[0]], 0) is None  # in the bounds of the hook, not in it


def test_bounds_choose_the_objects_to_look_at() -> None:
    boxes = np.array(
        [[0, 0, 9, 9], [2, 2, 3, 3], [0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 9, 9], [20, 0, 24, 4], [21, 1, 22, 2]]
    )
    areas = np.array([81, 1, 16, 16, 81, 16, 1])
    assert may_have_holes(boxes, areas, np.array([[0, 2], [2, 4], [4, 7]])).tolist() == [True, False, True]
