"""Two statements that contradict each other: what most objects of a file say decides."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.contradictions import recoded_rows
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.usable import reason_to_stop
from maskrcnn.ops.rle import counts_from_bitmap
from tests.data.coco_files import GOOD, coco, write

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
    assert "from 0 to 1" not in str(data.report.contradictions)
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


def test_ids_of_images_that_count_from_another_number_or_in_steps(tmp_path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 12} for i in range(1, 5)]

    def read_ids(ids):
        annotations = [GOOD | {"id": id, "image_id": id} for id in ids]
        return read_dataset(write(tmp_path, coco(images=images, annotations=annotations))).report

    assert "one too low" in str(read_ids(range(4)).unusable)
    assert "one too high" in str(read_ids(range(2, 6)).unusable)
    assert "steps of 5" in str(read_ids(range(1, 20, 5)).unusable)
    left = read_ids(range(1, 12))  # a list of images that was cut
    assert left.unusable is None
    assert "7 of 11 objects have an image_id that is not listed (5, 6, 7" in left.contradictions[0].sentence
    assert read_ids([1, 2, 3, 4, 9]).contradictions == []


def test_objects_outside_on_one_side_were_drawn_on_another_image(tmp_path) -> None:
    larger = [[2 * v for v in box] for box in SIDES], [polygon(*box) for box in (2 * CORNERS).tolist()]
    assert "drawn on larger images, of at least 76 x 116" in str(read(tmp_path, *larger).report.unusable)
    masks = [polygon(y1, x1, y2, x2) for x1, y1, x2, y2 in CORNERS.tolist()]
    assert "none would if x and y were exchanged" in str(read(tmp_path, NOTHING, masks).report.unusable)
    crops = [polygon(*box) for box in (CORNERS - 30).tolist()]  # also outside on the left: unclipped crops
    crops += [polygon(100, 3, 110, 9)] * 3
    assert read(tmp_path, [None] * len(crops), crops).report.unusable is None


def test_objects_in_the_upper_left_are_reported(tmp_path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in range(5)]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "category_id": 0, "bbox": [4 * k, 9 * i, 10, 10 + k]}
        for i in range(5)
        for k in range(4)
    ]
    report = read_dataset(write(tmp_path, coco(images=images, annotations=annotations))).report
    assert "all 20 objects lie in the upper left 22% x 49%" in report.contradictions[0].sentence
    annotations[0]["bbox"] = [70, 70, 20, 20]
    assert read_dataset(write(tmp_path, coco(images=images, annotations=annotations))).report.contradictions == []


def test_areas_tell_corners_from_sides(tmp_path) -> None:
    corners = [[2, 3, 10, 9], [1, 1, 9, 11], [5, 4, 17, 10], [3, 8, 14, 15]]  # inside the image in both meanings
    folder = tmp_path
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "a.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 0, "bbox": box, "area": (box[2] - box[0]) * (box[3] - box[1])}
        for i, box in enumerate(corners)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    data = read_dataset(write(folder, coco(images=images, annotations=annotations)))
    assert data.record(0).boxes.tolist() == corners
    assert "two corners" in data.report.contradictions[0].sentence


def test_a_few_boxes_that_leave_the_image_are_reported_if_corners_would_not(tmp_path) -> None:
    boxes = [[1 + i, 1, 5 + i, 9] for i in range(11)] + [[40, 30, 55, 39], [33, 20, 40, 38]]
    data = read(tmp_path, boxes, [None] * len(boxes))
    assert "2 of 13 boxes reach beyond" in data.report.contradictions[0].sentence
    assert data.record(0).boxes[0].tolist() == [1, 1, 6, 10]


def test_fractions_reach_a_little_beyond_and_lose_their_areas(tmp_path) -> None:
    scale = np.array([WIDTH, HEIGHT] * 2)
    corners = (CORNERS / scale).tolist()
    corners[0][0], corners[2][2] = -0.01, 1.02
    data = read(tmp_path, NOTHING, [polygon(*box) for box in corners], area=0.04)
    np.testing.assert_allclose(data.record(0).boxes[[0, 2]], [[-0.6, 3, 10, 8], [35, 22, 60, 31]], atol=1e-4)
    assert data.record(0).areas[1] == pytest.approx(21 * 6)


def test_a_few_fractions_among_pixels_are_dropped(tmp_path) -> None:
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    good = [{"id": i, "image_id": 1, "category_id": 0, "segmentation": MASKS[i], "bbox": SIDES[i]} for i in range(5)]
    bad = [{"id": 8, "image_id": 1, "category_id": 0, "bbox": [0.1, 0.2, 0.3, 0.3]},
           {"id": 9, "image_id": 1, "category_id": 0, "segmentation": polygon(0.2, 0.1, 0.7, 0.5)}]  # fmt: skip
    data = read_dataset(write(tmp_path, coco(images=images, annotations=good + bad)))
    assert data.record(0).annotation_ids.tolist() == [0, 1, 2, 3, 4]
    assert [problem.annotation_id for problem in data.report.problems] == [8, 9]
    assert all("coordinates from 0 to 1" in problem.reason for problem in data.report.problems)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("boxes", [SIDES, NOTHING])
def test_run_lengths_that_state_the_width_first(rows, boxes, tmp_path) -> None:
    masks, bitmaps = [], []
    for x1, y1, x2, y2 in CORNERS.tolist():
        bitmap = np.zeros((HEIGHT, WIDTH), bool)
        bitmap[y1:y2, x1:x2] = True
        bitmaps.append(bitmap)
        counts = counts_from_bitmap(bitmap.T if rows else bitmap).tolist()
        masks.append({"size": [WIDTH, HEIGHT], "counts": counts})
    data = read(tmp_path, boxes, masks)
    sentence, unusable = data.report.contradictions[0]
    assert "5 of 5 run-length masks state their size as [width, height]" in sentence
    assert unusable == (boxes is NOTHING)
    if not unusable:
        drawn = [draw_bitmap(mask, (HEIGHT, WIDTH)) for mask in data.record(0).segmentations]
        np.testing.assert_array_equal(drawn, bitmaps)
