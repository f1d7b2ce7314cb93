"""Two statements that contradict each other: what most objects of a file say decides."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.contradictions import recoded_rows
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.usable import reason_to_stop
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.test_coco import coco, write

HEIGHT, WIDTH = 40, 60
CORNERS = np.array([(4, 3, 10, 8), (31, 5, 52, 11), (35, 22, 58, 31), (8, 20, 21, 38), (40, 12, 49, 20)])


def polygon(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def read(tmp_path, boxes, masks, **more):
    """The data set of an image with these boxes and masks, of which each may be None."""
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    pairs = zip(boxes, masks, strict=True)
    annotations = [
        {"id": i, "image_id": 1, "category_id": 0, "bbox": box, "segmentation": mask, **more}
        for i, (box, mask) in enumerate(pairs, start=1)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    path = write(tmp_path, coco(images=images, annotations=annotations))
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    return read_dataset(path)


CENTRES = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]], axis=1).tolist()
SIDES = np.concatenate([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]], axis=1).tolist()
MASKS = [polygon(*corners) for corners in CORNERS.tolist()]
NOTHING = [None] * len(CORNERS)


@pytest.mark.parametrize("masks", [MASKS, NOTHING])
@pytest.mark.parametrize(("boxes", "words"), [(CORNERS.tolist(), "two corners"), (CENTRES, "centre")])
def test_boxes_that_mean_something_else_are_read_so(boxes, words, masks, tmp_path) -> None:
    data = read(tmp_path, boxes, masks)
    np.testing.assert_array_equal(data.record(0).boxes, CORNERS)
    (contradiction,) = data.report.contradictions
    assert words in contradiction.sentence
    assert not contradiction.unusable
    assert data.report.problems == []


def test_boxes_of_other_objects_make_the_data_unusable(tmp_path) -> None:
    data = read(tmp_path, SIDES[1:] + SIDES[:1], MASKS)
    assert "5 of 5 boxes do not fit their masks" in str(reason_to_stop(data, masks=True))
    assert data.report.count("repair") == 0


def test_exchanged_coordinates_are_named(tmp_path) -> None:
    data = read(tmp_path, [[y, x, h, w] for x, y, w, h in SIDES], MASKS)
    assert "x and y were exchanged" in str(reason_to_stop(data, masks=True))


def test_one_wrong_box_is_a_mistake_of_its_own(tmp_path) -> None:
    data = read(tmp_path, [[0, 0, 3, 3], *SIDES[1:]], MASKS)
    assert data.report.contradictions == []
    assert data.report.count("repair") == 1
    np.testing.assert_array_equal(data.record(0).boxes, CORNERS)


def test_fractions_of_the_image_are_scaled(tmp_path) -> None:
    scale = np.array([WIDTH, HEIGHT] * 2)
    masks = [polygon(*(np.array(corners) / scale).tolist()) for corners in CORNERS]
    data = read(tmp_path, (np.array(SIDES) / scale).tolist(), masks)
    np.testing.assert_allclose(data.record(0).boxes, CORNERS, atol=1e-4)
    drawn = data.record(0).segmentations[0]
    assert isinstance(drawn, list)
    np.testing.assert_allclose(drawn, [np.reshape(MASKS[0], (-1, 2))])
    assert len(data.report.contradictions) == 2


def test_single_pixels_at_the_corner_are_no_fractions(tmp_path) -> None:
    data = read(tmp_path, [[0, 0, 1, 1]] * 5, [polygon(0, 0, 1, 1)] * 5)
    assert data.report.contradictions == []
    assert data.record(0).boxes.tolist() == [[0, 0, 1, 1]] * 5


def test_runs_along_the_rows_are_turned(tmp_path) -> None:
    masks, bitmaps = [], []
    for x1, y1, x2, y2 in CORNERS.tolist():
        bitmap = np.zeros((HEIGHT, WIDTH), bool)
        bitmap[y1:y2, x1:x2] = True
        bitmaps.append(bitmap)
        masks.append({"size": [HEIGHT, WIDTH], "counts": counts_from_bitmap(bitmap.T).tolist()})
    data = read(tmp_path, SIDES, masks)
    np.testing.assert_array_equal([draw_bitmap(m, (HEIGHT, WIDTH)) for m in data.record(0).segmentations], bitmaps)
    assert "along the rows" in data.report.contradictions[0].sentence


def test_recoded_runs_draw_the_same_bitmap() -> None:
    bitmap = np.random.default_rng(0).random((7, 5)) > 0.5
    np.testing.assert_array_equal(recoded_rows(counts_from_bitmap(bitmap.T), (7, 5)), counts_from_bitmap(bitmap))


@pytest.mark.parametrize(("area", "filled"), [(18 * 18 - 6 * 6, False), (18 * 18, True), (None, True)])
def test_a_polygon_inside_another_is_a_hole_if_the_area_says_so(area, filled, tmp_path) -> None:
    rings = [*polygon(2, 2, 20, 20), *polygon(8, 8, 14, 14)]
    data = read(tmp_path, [[2, 2, 18, 18]], [rings], area=area)
    drawn = draw_bitmap(data.record(0).segmentations[0], (HEIGHT, WIDTH))
    assert drawn.sum() == 18 * 18 - (0 if filled else 36)


def test_areas_of_other_masks_are_reported_and_kept(tmp_path) -> None:
    data = read(tmp_path, SIDES, MASKS, area=3000)
    assert "areas do not fit their masks" in data.report.contradictions[0].sentence
    assert data.record(0).areas.tolist() == [3000] * 5


@pytest.mark.parametrize(
    ("size", "words"),
    [((60, 40), "exchanged"), ((20, 30), "resized by 0.5"), ((31, 77), "not the images that were annotated")],
)
def test_images_of_another_size_are_named_with_the_cause(size, words, tmp_path) -> None:
    data = read(tmp_path, SIDES, MASKS)
    assert reason_to_stop(data, masks=True) is None
    Image.new("L", size[::-1]).save(tmp_path / "a.png")
    assert words in str(reason_to_stop(data, masks=True))


def test_ids_of_categories_that_count_from_another_number(tmp_path) -> None:
    content = coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = i % 2
    assert "one too low" in str(read_dataset(write(tmp_path, content)).report.unusable)
