"""Reading COCO: answers by hand, pycocotools as the outside oracle, and a corpus of broken records."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn.data.formats import Source, find_splits, read_dataset
from maskrcnn.errors import DataError
from tests.data.coco_files import BROKEN, COUNTS, GOOD, IMAGES, NOT_COCO, SQUARE, coco, write


def test_a_good_file_is_read_unchanged(tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco()))
    assert [(c.id, c.name) for c in data.categories] == [(0, "apple"), (90, "pear")]
    assert data.image_ids.tolist() == [7, 3, 5]
    assert data.annotation_counts.tolist() == [1, 3, 0]
    assert data.report.problems == []
    assert len(data.fingerprint) == 64
    crowd, mixed, empty = (data.record(i) for i in range(3))
    assert crowd.ignore.tolist() == [True]
    rle: Any = crowd.segmentations[0]
    counts, size = rle
    assert (counts.dtype, counts.tolist(), size) == (np.uint32, COUNTS, (10, 12))
    assert mixed.path == tmp_path / "b.png"
    assert mixed.size == (10, 12)
    assert mixed.annotation_ids.tolist() == [1, 3, 4]
    assert mixed.labels.tolist() == [1, 0, 0]
    assert mixed.labels.dtype == np.int64
    np.testing.assert_array_equal(mixed.boxes, np.array([[2, 3, 8, 7], [2, 3, 8, 7], [1.5, 2, 5.5, 6.5]], np.float32))
    assert mixed.areas.tolist() == [24, 24, 18]
    segmentations: list[Any] = list(mixed.segmentations)
    polygons, (counts, _), nothing = segmentations
    np.testing.assert_array_equal(polygons, [np.reshape(SQUARE, (-1, 2))])
    assert counts.tolist() == COUNTS
    assert nothing is None
    assert empty.boxes.shape == (0, 4)
    assert empty.segmentations == []


def test_boxes_keep_the_decimals_that_the_file_has(tmp_path) -> None:
    """0.1 in float32 is 0.10000000149: enough to put an IoU that is a threshold of AP on its other side."""
    content = coco()
    content["annotations"] = [{"id": 1, "image_id": 7, "category_id": 0, "bbox": [0.1, 0.2, 5.5, 4.25], "iscrowd": 0}]
    data = read_dataset(write(tmp_path, content))
    assert data.objects.boxes.tolist() == [[0.1, 0.2, 0.1 + 5.5, 0.2 + 4.25]]
    assert data.record(0).boxes.dtype == np.float32


def test_boxes_come_from_masks_if_they_are_missing_or_wrong(tmp_path) -> None:
    content = coco()
    del content["annotations"][0]["bbox"]
    content["annotations"][1]["bbox"] = [1, 0, 8, 8]  # 3 pixels off at y: within the tolerance
    content["annotations"][2]["bbox"] = [9, 3, 2, 4]
    data = read_dataset(write(tmp_path, content))
    np.testing.assert_array_equal(data.record(0).boxes, [[1, 0, 9, 8]])
    np.testing.assert_array_equal(data.record(1).boxes[:2], [[2, 3, 8, 7]] * 2)
    repairs = [(p.kind, p.annotation_id) for p in data.report.problems]
    assert repairs == [("repair", 3)]  # a box that was never there is not a problem


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_annotation_is_skipped_and_listed(name, tmp_path) -> None:
    change, words = BROKEN[name]
    content = coco()
    content["annotations"].insert(1, GOOD | {"bbox": None} | change)
    path = write(tmp_path, content)
    data = read_dataset(path)
    assert data.objects.ids.tolist() == [2, 1, 3, 4]  # nothing good is lost
    np.testing.assert_array_equal(data.record(1).boxes[:2], [[2, 3, 8, 7]] * 2)
    (problem,) = data.report.problems
    assert problem.kind == "annotation"
    assert problem.annotation_id == 9
    assert words in str(problem)
    assert "data.json" in str(problem)
    with pytest.raises(DataError, match=r"data\.json.*annotation 9"):
        read_dataset(path, strict=True)


@pytest.mark.parametrize("entry", [None, 5, "x", []])
def test_an_annotation_that_is_no_object_is_listed(entry, tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco(annotations=[entry, GOOD])))
    assert data.objects.ids.tolist() == [9]
    assert [problem[:4] for problem in data.report.problems] == [("annotation", "data.json", None, None)]
    assert data.report.problems[0].reason == "annotation that is not an object"


def test_a_negative_box_is_recomputed_if_there_is_a_mask(tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco(annotations=[GOOD | {"bbox": [8, 7, -6, -4]}])), strict=True)
    np.testing.assert_array_equal(data.record(1).boxes, [[2, 3, 8, 7]])
    assert [p.kind for p in data.report.problems] == ["repair"]


@pytest.mark.parametrize("bad", [[1, 1, 5], [1, 1, 5, 5], [1, 1, 3, 3, 5, 5], [1, 1, float("nan"), 1, 5, 5]])
def test_a_bad_part_does_not_take_the_good_ones_with_it(bad, tmp_path) -> None:
    parts = [[0, 0, 1, 0, 1, 1], bad, SQUARE]
    annotations = [GOOD | {"id": 1}, GOOD | {"segmentation": parts, "bbox": None}, GOOD | {"id": 10}]
    path = write(tmp_path, coco(annotations=annotations))
    data = read_dataset(path)
    record = data.record(1)
    segmentations: list[Any] = list(record.segmentations)
    assert [len(polygons) for polygons in segmentations] == [1, 2, 1]
    np.testing.assert_array_equal(segmentations[1][1], np.reshape(SQUARE, (-1, 2)))
    np.testing.assert_array_equal(record.boxes[1], [0, 0, 8, 7])
    assert [(p.kind, p.annotation_id) for p in data.report.problems] == [("part", 9)]
    with pytest.raises(DataError, match="annotation 9"):
        read_dataset(path, strict=True)


def test_a_flat_polygon_is_one_part(tmp_path) -> None:
    data = read_dataset(write(tmp_path, coco(annotations=[GOOD | {"segmentation": SQUARE}])), strict=True)
    np.testing.assert_array_equal(data.record(1).segmentations[0], [np.reshape(SQUARE, (-1, 2))])


def test_a_box_far_beyond_the_image_is_clipped_and_reported(tmp_path) -> None:
    annotations = [{"id": 1, "image_id": 3, "category_id": 0, "bbox": [8, 4, 40, 4]},
                   {"id": 2, "image_id": 3, "category_id": 0, "bbox": [8, 4, 4.5, 4]}]  # fmt: skip
    data = read_dataset(write(tmp_path, coco(annotations=annotations)))
    np.testing.assert_array_equal(data.record(1).boxes, np.array([[8, 4, 12, 8], [8, 4, 12.5, 8]], np.float32))
    assert [(p.kind, p.annotation_id) for p in data.report.problems] == [("repair", 1)]


def test_ids_that_are_missing_or_repeated_are_replaced(tmp_path) -> None:
    ids, image_ids = (9, 9, "x", None), (3, 7, 3, 5)
    annotations = [GOOD | {"id": id, "image_id": image_id} for id, image_id in zip(ids, image_ids, strict=True)]
    data = read_dataset(write(tmp_path, coco(annotations=annotations)))
    assert sorted(data.objects.ids.tolist()) == [9, 10, 11, 12]
    assert data.report.count("repair") == 3


@pytest.mark.parametrize("name", IMAGES)
def test_a_broken_image_is_skipped_with_its_annotations(name, tmp_path) -> None:
    change, words = IMAGES[name]
    content = coco()
    bad = {"id": 77, "file_name": "c.png", "height": 10, "width": 12} | change
    content["images"].insert(2, bad)
    content["annotations"].append(GOOD | {"image_id": 77})
    path = write(tmp_path, content)
    (tmp_path / "nowhere.png").unlink(missing_ok=True)
    data = read_dataset(path)
    assert data.image_ids.tolist() == [7, 3, 5]
    assert data.objects.ids.tolist() == [2, 1, 3, 4]
    first = data.report.problems[0]
    assert first.kind == "image"
    assert words in str(first)
    assert data.report.lost_with_image + data.report.count("annotation") == 1
    with pytest.raises(DataError, match=r"data\.json"):
        read_dataset(path, strict=True)


def test_a_size_that_is_not_stated_is_the_file_s(tmp_path) -> None:
    content = coco(images=[{"id": 3, "file_name": "real.png"}], annotations=[GOOD])
    path = write(tmp_path, content)
    Image.new("RGB", (12, 10)).save(tmp_path / "real.png")
    assert read_dataset(path).record(0).size == (10, 12)


def test_images_are_found_beside_in_images_and_in_coco_s_tree(tmp_path) -> None:
    content = coco()
    beside = write(tmp_path / "one", content)
    below = tmp_path / "two"
    tree = tmp_path / "coco"
    for folder, json_path in (
        (below / "images", below / "data.json"),
        (tree / "train2017", tree / "annotations" / "instances_train2017.json"),
    ):
        folder.mkdir(parents=True)
        json_path.parent.mkdir(exist_ok=True)
        json_path.write_text(json.dumps(content))
        for image in content["images"]:
            (folder / image["file_name"]).touch()
        data = read_dataset(json_path)
        assert data.path(1).resolve() == (folder / "b.png").resolve()
        assert len(data) == 3
    other = below / "moved.json"
    other.write_text(json.dumps(content))
    assert read_dataset(other, tmp_path / "one").path(0) == tmp_path / "one" / "a.png"
    assert read_dataset(beside).path(0) == tmp_path / "one" / "a.png"
    with pytest.raises(DataError, match=r"none of its 3 images .*a\.png.*looked for in .*nowhere.*--images"):
        read_dataset(beside, tmp_path / "nowhere")


def test_images_in_folders_keep_their_names(tmp_path) -> None:
    content = coco(images=[{"id": 3, "file_name": "day/ä 1.png", "height": 10, "width": 12}])
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "ä 1.png").touch()
    assert read_dataset(write(tmp_path, content)).path(0) == tmp_path / "day" / "ä 1.png"


@pytest.mark.parametrize("name", NOT_COCO)
def test_what_is_not_coco_is_one_error_with_the_file(name, tmp_path) -> None:
    content, words = NOT_COCO[name]
    write(tmp_path, coco())  # so that the images are there
    with pytest.raises(DataError, match=rf"data\.json.*({words})"):
        read_dataset(write(tmp_path, content))


def test_other_bytes_and_no_file_are_errors(tmp_path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00\x80\x90")
    for path in (tmp_path / "x.json", tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_dataset(path)


@pytest.mark.parametrize(
    ("files", "keypoints", "expected"),
    [
        (["train.json", "val.json"], False, ("train.json", "val.json")),
        (["instances_train2017.json", "instances_val2017.json"], False,
         ("instances_train2017.json", "instances_val2017.json")),
        (["annotations/instances_train.json"], False, ("annotations/instances_train.json", None)),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], False,
         ("train/_annotations.coco.json", "valid/_annotations.coco.json")),
        (["instances_train.json", "person_keypoints_train.json", "person_keypoints_val.json"], True,
         ("person_keypoints_train.json", "person_keypoints_val.json")),
        (["train.json", "val.json"], True, ("train.json", "val.json")),
    ],
)  # fmt: skip
def test_a_folder_stands_for_its_files(files, keypoints, expected, tmp_path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    train, val = find_splits(tmp_path, keypoints=keypoints)
    assert train.path == tmp_path / expected[0]
    assert (val and val.path) == (expected[1] and tmp_path / expected[1])


def test_one_file_stands_for_itself_and_val_overrides(tmp_path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.touch()
    two.touch()
    assert find_splits(one) == (Source("coco", one), None)
    assert find_splits(one, two) == (Source("coco", one), Source("coco", two))
    (tmp_path / "train.json").touch()
    assert find_splits(tmp_path, two) == (Source("coco", tmp_path / "train.json", "train"), Source("coco", two))


def test_a_folder_that_is_not_clear_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match="no annotations"):
        find_splits(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        find_splits(tmp_path / "x")
    with pytest.raises(DataError, match="--val"):
        find_splits(tmp_path, tmp_path / "x")
    for year in (2014, 2017):
        (tmp_path / f"instances_train{year}.json").touch()
    with pytest.raises(DataError, match=r"2014.*2017"):
        find_splits(tmp_path)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
@pytest.mark.parametrize("name", ["nuclei", "pennfudan", "coco-mini"])
def test_real_files_are_read_as_pycocotools_reads_them(name, test_data, capsys) -> None:
    for path in (source.path for source in find_splits(test_data / name) if source):
        assert path is not None
        data, oracle = read_dataset(path, strict=True), COCO(str(path))
        assert data.report.problems == []
        assert sorted(data.image_ids.tolist()) == sorted(oracle.getImgIds())
        assert len(data.objects.ids) == len(oracle.anns)
        for i in range(0, len(data), max(7, len(data) // 12)):
            record = data.record(i)
            for j, annotation_id in enumerate(record.annotation_ids.tolist()):
                truth = oracle.anns[annotation_id]
                x, y, w, h = truth["bbox"]
                np.testing.assert_allclose(record.boxes[j], [x, y, x + w, y + h], rtol=1e-6)
                assert data.categories[record.labels[j]].id == truth["category_id"]
                assert record.areas[j] == truth["area"]
                assert record.ignore[j] == truth["iscrowd"]
                segmentation = record.segmentations[j]
                if isinstance(segmentation, tuple):
                    counts, size = segmentation
                    flat = np.repeat(np.arange(len(counts)) % 2, counts).reshape(size[::-1]).T
                    np.testing.assert_array_equal(flat, oracle.annToMask(truth))
                else:
                    assert [polygon.ravel().tolist() for polygon in segmentation] == truth["segmentation"]
