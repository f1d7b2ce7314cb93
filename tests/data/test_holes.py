"""Polygons in others: holes by their area, by their direction, or filled and reported."""

import numpy as np
import pytest

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.geometry import polygon_measures
from maskrcnn.data.holes import judge_polygons
from maskrcnn.data.shapes import enclosed
from maskrcnn.ops.contour import signed_area
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


def judged(objects):
    """The verdict on each object, its polygons and its stated area; None if no polygon lies in another."""
    rings = [np.reshape(ring, (-1, 2)) * 1.0 for polygons, _ in objects for ring in polygons]
    points, offsets = np.concatenate(rings), np.cumsum([0, *map(len, rings)])
    _, boxes, areas = polygon_measures(points, offsets, 1e6)
    ends = np.cumsum([len(polygons) for polygons, _ in objects])
    spans = np.stack([ends - [len(polygons) for polygons, _ in objects], ends], axis=1)
    found = judge_polygons(points, offsets, boxes, areas, spans, np.array([area for _, area in objects], float))
    return [found.get(i) for i in range(len(objects))]


def test_an_island_in_a_hole_and_shapes_whose_bounds_overlap() -> None:
    island, hook = [10, 10, 12, 10, 12, 12, 10, 12], [0, 0, 30, 0, 30, 30, 28, 30, 28, 2, 0, 2]
    assert judged([([OUTER, AGAINST, island], HOLE + 4), ([hook, OUTER], 0)]) == [
        ("hole", True),
        None,  # in the bounds of the hook, not in it
    ]


def test_all_objects_at_once_and_each_by_itself_are_judged_alike(rng) -> None:
    """Beside a plain loop over the pairs of each object; those of more than 16 polygons have a way of their own."""
    objects = []
    for parts in rng.integers(2, 25, 150).tolist():
        sizes = rng.uniform(0, 12, parts)
        rings = [rng.uniform(0, 9, 2) + size * rng.random((rng.integers(3, 50), 2)) for size in sizes]
        objects.append(([ring.ravel().tolist() for ring in rings], rng.choice([0.0, 40.0, 80.0])))
    answers = judged(objects)
    for (polygons, _), answer in zip(objects, answers, strict=True):
        rings = [np.reshape(ring, (-1, 2)) for ring in polygons]
        signed = [signed_area(ring) for ring in rings]
        around = [
            [j for j, other in enumerate(rings) if abs(signed[i]) < abs(signed[j]) and lies_in(ring, other)]
            for i, ring in enumerate(rings)
        ]
        assert (answer is None) == (not any(around))
        if answer is not None:
            nearest = [min(others, key=lambda j: abs(signed[j])) if others else None for others in around]
            assert answer.against == all(signed[i] * signed[j] < 0 for i, j in enumerate(nearest) if j is not None)
    assert judged(objects[:1]) == answers[:1]


def lies_in(ring, other):
    if (ring.min(axis=0) < other.min(axis=0)).any() or (ring.max(axis=0) > other.max(axis=0)).any():
        return False
    return enclosed(other, ring[:: max(1, len(ring) // 16)]).mean() > 0.5


def test_an_object_with_more_pairs_than_can_be_looked_at_is_left_as_it_is() -> None:
    rings = [[-r, -r, r, -r, r, r, -r, r] for r in range(1, 260)]
    assert judged([(rings, 100.0)]) == [("nothing", False)]
