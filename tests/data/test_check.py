"""What the check says of data sets whose faults are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from maskrcnn.config import AnchorConfig, preset
from maskrcnn.data.check import (
    advice,
    best_anchor_iou,
    check,
    renumbered,
    resize_scales,
    resized_sizes,
    unreadable_images,
)
from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import DataError

MODEL = preset("R-18-FPN")


@pytest.fixture
def make(tmp_path):
    """A data set with these boxes in one image of 100 x 200, an image without objects, and what else the test wants."""

    def build(boxes, *, images=(), annotations=(), categories=({"id": 1, "name": "ring"}, {"id": 4, "name": "rod"})):
        entries = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 200} for i in (1, 2)] + list(images)
        objects = [{"id": j + 1, "image_id": 1, "category_id": 1, "bbox": list(box)} for j, box in enumerate(boxes)]
        for i in (1, 2):
            Image.new("L", (200, 100)).save(tmp_path / f"{i}.png")
        path = tmp_path / "data.json"
        path.write_text(
            json.dumps({"images": entries, "annotations": objects + list(annotations), "categories": list(categories)})
        )
        return read_dataset(path)

    return build


def test_it_counts_what_was_read(make) -> None:
    crowd = {"id": 50, "image_id": 1, "category_id": 4, "bbox": [1, 1, 5, 5], "iscrowd": 1}
    text = check(make([(0, 0, 50, 50)] * 3, annotations=[crowd]), MODEL)
    assert "images       2 of 2 in the file, 1 without objects" in text
    assert "height x width  100 x 200 (2)" in text
    assert "objects      4 of 4 in the file, 1 of them crowds" in text
    assert "0 polygons, 0 run lengths, 4 boxes without a mask" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "3", "1", "ring"] in lines
    assert ["4", "1", "1", "rod"] in lines
    assert "dropped" not in text
    assert "repaired" not in text


def test_it_lists_the_first_ten_of_a_reason_and_counts_the_rest(make) -> None:
    bad = [{"id": 100 + i, "image_id": 1, "category_id": 9, "bbox": [1, 1, 5, 5]} for i in range(13)]
    odd = {"id": 200, "image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}
    wrong = {"id": 300, "image_id": 1, "category_id": 1, "bbox": [50, 50, 5, 5], "segmentation": [[1, 1, 9, 1, 9, 9]]}
    missing = {"id": 9, "file_name": "nowhere.png", "height": 5, "width": 5}
    text = check(make([(0, 0, 50, 50)], annotations=[*bad, odd, wrong], images=[missing]), MODEL)
    assert "images       2 of 3 in the file" in text
    assert "dropped      15" in text
    assert "    13  annotation of an unknown category" in text
    assert "data.json, image 1, annotation 109:" in text
    assert "annotation 110:" not in text
    assert "... and 3 more" in text
    assert "data.json, image 1, annotation 200: polygon with an odd number of values (7)" in text
    assert "data.json, image 9: missing image file (nowhere.png, looked for in" in text
    assert "repaired     1" in text
    assert "annotation 300: box that does not fit its mask, recomputed from the mask" in text


def test_what_is_lost_with_an_image_is_reported(make) -> None:
    """Every annotation of the file is either an object or listed as dropped."""
    missing = {"id": 9, "file_name": "nowhere.png", "height": 5, "width": 5}
    lost = [{"id": 100 + i, "image_id": 9, "category_id": 1, "bbox": [1, 1, 2, 2]} for i in range(3)]
    text = check(make([(0, 0, 50, 50)], annotations=lost, images=[missing]), MODEL)
    assert "objects      1 of 4 in the file" in text
    assert "dropped      1\n" in text
    assert "       3  annotations lost with their image\n" in text


def test_other_ids_of_validation_are_reported(make) -> None:
    train = make([(0, 0, 50, 50)])
    same, other = make([]), make([], categories=({"id": 1, "name": "rod"}, {"id": 7, "name": "ring"}))
    assert renumbered(train, same) == []
    (line,) = renumbered(train, other)
    assert line.endswith("matched by name: rod 1 as 4, ring 7 as 1")
    with pytest.raises(DataError, match="categories that"):
        renumbered(train, make([], categories=({"id": 1, "name": "bolt"},)))


def test_sizes_are_those_after_the_resize(make) -> None:
    data = make([(10, 20, 30, 40), (0, 0, 10, 10)])
    # 100 x 200 to a shorter side of 800 would be 1600 long: the bound of 1333 decides.
    np.testing.assert_allclose(resize_scales(data, MODEL), [1333 / 200] * 2)
    np.testing.assert_allclose(resized_sizes(data, MODEL)[0], [40 * 1333 / 200, 30 * 1333 / 200])
    own = replace(MODEL, input=replace(MODEL.input, min_size=0))
    np.testing.assert_allclose(resized_sizes(data, own), [[40, 30], [10, 10]])
    twice = replace(MODEL, input=replace(MODEL.input, min_size=0, zoom=2.0))
    np.testing.assert_allclose(resized_sizes(data, twice), [[80, 60], [20, 20]])


def test_the_best_anchor_by_hand() -> None:
    model = replace(MODEL, anchors=AnchorConfig(sizes=((10.0,), (20.0,)), ratios=(1.0, 4.0)))
    sides = np.array([[10.0, 10.0], [20.0, 5.0], [5.0, 20.0], [2.0, 2.0]])
    # 5 x 20 against 10 x 10: 50 of 150; 20 x 20: 100 of 400; 20 x 5: 25 of 175; 40 x 10: 50 of 450.
    np.testing.assert_allclose(best_anchor_iou(sides, model), [1, 1, 1 / 3, 0.04])


def advice_of(make, boxes, **changes):
    return advice(make(boxes), replace(MODEL, input=replace(MODEL.input, min_size=0), **changes))


def test_no_advice_where_all_is_well(make) -> None:
    assert advice_of(make, [(0, 0, 40, 30), (0, 0, 90, 80), (0, 0, 150, 99)]) == []


def test_small_objects_are_reported_with_a_remedy(make) -> None:
    (sentence,) = advice_of(make, [(0, 0, 8, 8)] * 3 + [(0, 0, 64, 64)] * 7)
    assert "30% of the objects are smaller than half the smallest anchor (32)" in sentence
    assert "model.anchors.sizes=[[8],[16],[32],[64],[128]]" in sentence


def test_large_objects_are_reported_with_a_remedy(make) -> None:
    anchors = AnchorConfig(sizes=((4.0,), (8.0,)))
    (sentence,) = advice_of(make, [(0, 0, 64, 64)] * 10, anchors=anchors)
    assert "100% of the objects are larger than twice the largest anchor (8)" in sentence
    assert "model.anchors.sizes=[[32],[64]]" in sentence


def test_long_objects_are_reported(make) -> None:
    (sentence,) = advice_of(make, [(0, 0, 180, 6)] * 5 + [(0, 0, 64, 64)] * 5)
    assert "50% of the objects have an IoU below 0.5 with every anchor" in sentence


def test_a_crowded_image_is_reported(make) -> None:
    (sentence,) = advice_of(make, [(0, 0, 40, 40)] * 101)
    assert "up to 101 objects, but the model returns at most 100" in sentence


def test_no_objects_at_all_is_reported(make) -> None:
    data = make([])
    assert advice(data, MODEL) == ["there are no objects to learn from"]
    assert "objects      0 of 0" in check(data, MODEL)


def test_verify_opens_every_image(make, tmp_path) -> None:
    data = make([(0, 0, 40, 40)])
    assert unreadable_images(data) == []
    assert "every image can be read" in check(data, MODEL, verify=True)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    Image.new("L", (7, 7)).save(tmp_path / "2.png")
    problems = unreadable_images(data)
    assert [problem.image_id for problem in problems] == [1, 2]
    assert "1.png" in str(problems[0])
    assert "7 x 7" in str(problems[1])
    assert "100 x 200" in str(problems[1])
    assert "images that cannot be read 2" in check(data, MODEL, verify=True)
