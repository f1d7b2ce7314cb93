"""Reading COCO: answers by hand, pycocotools as the outside oracle, a corpus of broken records, and fuzzing."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from maskrcnn.data.formats import Source, find_splits, read_dataset
from maskrcnn.data.formats.coco import write as write_coco
from maskrcnn.data.geometry import polygon_measures, rle_measures
from maskrcnn.data.validate import decode_counts, wrong_name
from maskrcnn.errors import DataError

SQUARE = [2, 3, 8, 3, 8, 7, 2, 7]  # x 2..8, y 3..7 of an image 12 wide, 10 high
BITMAP = np.zeros((10, 12), np.uint8)
BITMAP[3:7, 2:8] = 1
COMPRESSED = bytes(mask_api.encode(np.asfortranarray(BITMAP))["counts"]).decode()  # type: ignore[arg-type]
# Column by column: two empty columns and three pixels, four set, six not, ... ; the last run closes the 120.
COUNTS = [23, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 43]


def coco(**changes):
    """A good file of two images, three kinds of masks and a box; `changes` replace its lists."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 10, "width": 12},
            {"id": 3, "file_name": "b.png", "height": 10, "width": 12},
            {"id": 5, "file_name": "empty.png", "height": 10, "width": 12},
        ],
        "categories": [{"id": 90, "name": "pear"}, {"id": 0, "name": "apple"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [2, 3, 6, 4], "segmentation": [SQUARE], "area": 24},
            {"id": 2, "image_id": 7, "category_id": 0, "bbox": [2, 3, 6, 4], "iscrowd": 1,
             "segmentation": {"size": [10, 12], "counts": COUNTS}},
            {"id": 3, "image_id": 3, "category_id": 0, "bbox": [2, 3, 6, 4],
             "segmentation": {"size": [10, 12], "counts": COMPRESSED}},
            {"id": 4, "image_id": 3, "category_id": 0, "bbox": [1.5, 2, 4, 4.5]},
        ],
    } | changes  # fmt: skip


def write(folder: Path, content, name="data.json"):
    """`content` as json in `folder`, beside an (empty) file for every image it names."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if isinstance(content, dict):
        for image in content.get("images", []):
            name = image.get("file_name") if isinstance(image, dict) else None
            if isinstance(name, str) and wrong_name(name) is None and "/" not in name:
                (folder / name).touch()
    return path


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


GOOD = {"id": 9, "image_id": 3, "category_id": 90, "bbox": [2, 3, 6, 4], "segmentation": [SQUARE]}
BROKEN = {  # what is changed of a good annotation -> words of the reason
    "unknown image": ({"image_id": 99}, "unknown image"),
    "image id is another text": ({"image_id": "3a"}, "unknown image"),
    "image id is a list": ({"image_id": [3]}, "unknown image"),
    "image id is true": ({"image_id": True}, "unknown image"),
    "unknown category": ({"category_id": 1}, "unknown category"),
    "no category": ({"category_id": None}, "unknown category"),
    "odd polygon": ({"segmentation": [[1, 1, 5, 1, 5, 5, 1]]}, "odd number"),
    "two points": ({"segmentation": [[1, 1, 5, 5]]}, "fewer than 3"),
    "no points": ({"segmentation": [[2, 3]]}, "fewer than 3"),
    "words": ({"segmentation": [["a"] * 6]}, "not a list of numbers"),
    "nested too deeply": ({"segmentation": [[[[[["a"] * 6]]]]]}, "not pairs of x and y"),
    "NaN": ({"segmentation": [[1, 1, float("nan"), 1, 5, 5]]}, "invalid coordinates"),
    "infinite": ({"segmentation": [[1, 1, float("inf"), 1, 5, 5]]}, "invalid coordinates"),
    "huge": ({"segmentation": [[1, 1, 1e300, 1, 5, 5]]}, "invalid coordinates"),
    "huge integer": ({"segmentation": [[1, 1, 10**400, 1, 5, 5]]}, "not a list of numbers"),
    "a line": ({"segmentation": [[1, 1, 3, 3, 5, 5]]}, "without an area"),
    "a point": ({"segmentation": [[4, 4, 4, 4, 4, 4]]}, "without an area"),
    "outside": ({"segmentation": [[20, 1, 25, 1, 25, 5]]}, "outside its image"),
    "a sliver inside": ({"segmentation": [[-2, 1, 1e-130, 1, 1e-130, 5]], "bbox": None}, "outside its image"),
    "segmentation is text": ({"segmentation": "abc"}, "neither polygons nor RLE"),
    "segmentation is a number": ({"segmentation": 5}, "neither polygons nor RLE"),
    "counts do not add up": ({"segmentation": {"size": [10, 12], "counts": [60, 59]}}, "do not add up"),
    "counts too many": ({"segmentation": {"size": [10, 12], "counts": [60, 61]}}, "do not add up"),
    "negative count": ({"segmentation": {"size": [10, 12], "counts": [130, -10]}}, "do not add up"),
    "no counts": ({"segmentation": {"size": [10, 12], "counts": []}}, "do not add up"),
    "counts overflow": ({"segmentation": {"size": [10, 12], "counts": [2**62] * 4 + [120]}}, "do not add up"),
    "counts beyond int64": ({"segmentation": {"size": [10, 12], "counts": [2**64]}}, "not whole numbers"),
    "fractions": ({"segmentation": {"size": [10, 12], "counts": [60.5, 59.5]}}, "not whole numbers"),
    "no counts at all": ({"segmentation": {"size": [10, 12]}}, "neither polygons nor RLE"),
    "empty mask": ({"segmentation": {"size": [10, 12], "counts": [120]}}, "empty mask"),
    "string is cut": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED[:-2]}}, "do not add up"),
    "string is cut in a count": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED[:-1]}}, "cannot be decoded"),
    "string ends in a count": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED + "o"}}, "cannot be decoded"),
    "string of other letters": ({"segmentation": {"size": [10, 12], "counts": "7%!"}}, "cannot be decoded"),
    "string is not ASCII": ({"segmentation": {"size": [10, 12], "counts": "é"}}, "cannot be decoded"),
    "count without end": ({"segmentation": {"size": [10, 12], "counts": "o" * 99 + "0"}}, "cannot be decoded"),
    "bomb": ({"segmentation": {"size": [100000, 100000], "counts": [0, 10**10]}}, "another size than its image"),
    "size transposed": ({"segmentation": {"size": [12, 10], "counts": COUNTS}}, "another size than its image"),
    "no size": ({"segmentation": {"counts": COUNTS, "size": [10]}}, "RLE without a size"),
    "no size that fits": ({"segmentation": {"counts": COUNTS[1:]}}, "do not add up"),
    "neither box nor mask": ({"segmentation": [], "bbox": None}, "neither"),
    "box of three": ({"segmentation": None, "bbox": [1, 2, 3]}, "not four numbers"),
    "box with negative size": ({"segmentation": None, "bbox": [8, 7, -6, -4]}, "negative width"),
    "box without size": ({"segmentation": None, "bbox": [2, 3, 0, 4]}, "invalid box"),
    "box of NaN": ({"segmentation": None, "bbox": [2, 3, float("nan"), 4]}, "invalid box"),
    "box outside": ({"segmentation": None, "bbox": [20, 3, 5, 4]}, "box outside"),
    "crowd is another text": ({"iscrowd": "perhaps"}, "iscrowd that is not 0 or 1"),
}  # fmt: skip


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


IMAGES = {
    "climbs": ({"file_name": "../x.png"}, "leaves"),
    "climbs inside": ({"file_name": "sub/../../x.png"}, "leaves"),
    "absolute": ({"file_name": "/etc/passwd"}, "leaves"),
    "drive": ({"file_name": "C:\\x.png"}, "leaves"),
    "climbs on Windows": ({"file_name": "..\\x.png"}, "leaves"),
    "share": ({"file_name": "\\\\host\\share\\x.png"}, "leaves"),
    "folder": ({"file_name": ".."}, "leaves"),
    "here": ({"file_name": "."}, "names no file"),
    "NUL": ({"file_name": "a\0.png"}, "names no file"),
    "half a surrogate": ({"file_name": "\ud800.png"}, "not valid text"),
    "empty": ({"file_name": ""}, "without a file name"),
    "number": ({"file_name": 5.5}, "without a file name"),
    "missing": ({"file_name": "nowhere.png"}, "missing"),
    "no id": ({"id": None}, "without an id"),
    "no height": ({"height": None}, "invalid height or width"),
    "negative": ({"width": -5}, "invalid height or width"),
    "text": ({"width": "12 px"}, "invalid height or width"),
    "enormous": ({"width": 100000, "height": 100000}, "too many pixels"),
}


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


NOT_COCO = {
    "list": ("[]", "not COCO"),
    "number": ("5", "not COCO"),
    "no lists": ("{}", "'images', 'annotations', 'categories'"),
    "lists are not lists": ('{"images": 5, "annotations": [], "categories": []}', "'images'"),
    "truncated": (json.dumps(coco())[:200], "truncated"),
    "empty": ("", "is empty"),
    "text": ("hello", "json"),
    "deep": ("[" * 100_000, "nested|truncated"),
    "no categories": (json.dumps(coco(categories=[])), "no categories"),
    "id twice": (json.dumps(coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])), r"id 1 [^$]*1  a"),
    "name twice": (json.dumps(coco(categories=[{"id": 0, "name": "a"}, {"id": 90, "name": "a"}])),
                   r"name a [^$]*90  a"),
    "no name": (json.dumps(coco(categories=[{"id": 1}])), "name"),
    "name is half a surrogate": (json.dumps(coco(categories=[{"id": 1, "name": "\ud800"}])), "a name"),
    "id is a fraction": (json.dumps(coco(categories=[{"id": 1.5, "name": "a"}])), "whole number"),
    "category is text": (json.dumps(coco(categories=["a"])), "is not an object"),
}  # fmt: skip


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


# --- keypoints --------------------------------------------------------------------------------------------------------


def with_keypoints(**changes):
    category = {"id": 2, "name": "fish", "keypoints": ["nose", "Left_fin", "right_fin"], "skeleton": [[1, 2], [1, 3]]}
    plain = {"id": 1, "name": "stone"}
    snail = {"id": 3, "name": "snail", "keypoints": ["head"], "sigmas": [0.2], "flip_pairs": []}
    points = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    return coco(
        categories=[category | changes, plain, snail],
        annotations=[GOOD | {"category_id": 2, "keypoints": points},
                     GOOD | {"id": 10, "category_id": 3, "keypoints": [5, 6, 2]},
                     GOOD | {"id": 11, "category_id": 1}],
    )  # fmt: skip


def test_keypoints_stand_side_by_side_for_all_categories(tmp_path) -> None:
    data = read_dataset(write(tmp_path, with_keypoints()), keypoints=True)
    stone, fish, snail = data.categories
    assert stone.keypoints == ()
    assert fish.skeleton == ((0, 1), (0, 2))
    assert fish.flip_pairs == ((1, 2),)
    assert fish.sigmas == (0.026, 0.05, 0.05)
    assert snail.sigmas == (0.2,)
    expected = np.zeros((3, 4, 3), np.float32)
    expected[0, :3] = [[1, 2, 2], [3, 4, 1], [0, 0, 0]]
    expected[1, 3] = [5, 6, 2]
    np.testing.assert_array_equal(data.record(1).keypoints, expected)
    assert read_dataset(write(tmp_path, with_keypoints())).record(1).keypoints is None


@pytest.mark.parametrize(
    "change",
    [{"keypoints": "nose"}, {"keypoints": ["a", "a", "b"]}, {"skeleton": [[1, 4]]}, {"skeleton": [[0, 1]]},
     {"skeleton": 5}, {"sigmas": [1]}, {"sigmas": [0, 1, 1]}, {"flip_pairs": [[1]]},
     {"flip_pairs": [[0, 1], [1, 2]]}, {"flip_pairs": [[1, 1]]}],
)  # fmt: skip
def test_a_skeleton_that_makes_no_sense_is_an_error(change, tmp_path) -> None:
    with pytest.raises(DataError, match="fish"):
        read_dataset(write(tmp_path, with_keypoints(**change)), keypoints=True)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["nose", "left_eye", "right_eye"], ((1, 2),)),
        (["Right Eye", "Left Eye"], ((0, 1),)),
        (["r_ankle", "r_knee", "l_knee", "l_ankle"], ((0, 3), (1, 2))),
        (["Nose", "L_Eye", "R_Eye", "wing.L", "wing.R"], ((1, 2), (3, 4))),
        (["left_horn", "cleft", "tail", "rump", "l1", "r1"], ()),  # no counterpart, or no side
    ],
)
def test_left_and_right_are_found_by_name(names, pairs, tmp_path) -> None:
    points = [1, 1, 2] * len(names)
    category = {"id": 2, "name": "fish", "keypoints": names}
    annotations = [GOOD | {"category_id": 2, "keypoints": points}]
    content = coco(categories=[category], annotations=annotations)
    assert read_dataset(write(tmp_path, content), keypoints=True).categories[0].flip_pairs == pairs


@pytest.mark.parametrize("points", [[1, 2, 2], "abc", [1, 2, 3] * 3, [float("nan"), 0, 0] * 3, [None] * 9])
def test_keypoints_that_make_no_sense_drop_the_annotation(points, tmp_path) -> None:
    content = with_keypoints()
    content["annotations"][0]["keypoints"] = points
    data = read_dataset(write(tmp_path, content), keypoints=True)
    assert data.objects.ids.tolist() == [10, 11]
    assert data.report.problems[0].annotation_id == 9


def test_keypoints_of_a_category_that_names_none_are_ignored(tmp_path) -> None:
    content = with_keypoints()
    content["annotations"][2]["keypoints"] = [1, 2, 2]  # of the stone
    data = read_dataset(write(tmp_path, content), keypoints=True, strict=True)
    assert data.objects.ids.tolist() == [9, 10, 11]
    assert not data.record(1).keypoints[2].any()
    (reported,) = data.report.problems
    assert (reported.kind, reported.annotation_id) == ("repair", 11)
    assert reported.reason == "keypoints of a category without keypoint names, ignored"


def test_a_skeleton_without_keypoints_is_reported(tmp_path) -> None:
    content = with_keypoints()
    content["categories"][1]["skeleton"] = [[1, 2]]
    assert len(read_dataset(write(tmp_path, content), keypoints=None).categories) == 3  # nobody asked for keypoints
    with pytest.raises(DataError, match="'stone': skeleton needs keypoints, and the category names none"):
        read_dataset(write(tmp_path, content), keypoints=True)


def test_keypoints_are_asked_for_but_missing(tmp_path) -> None:
    with pytest.raises(DataError, match="keypoints"):
        read_dataset(write(tmp_path, coco()), keypoints=True)


# --- writing -------------------------------------------------------------------------------------------------------


def same_objects(one, two) -> None:
    """Everything but the polygons' and counts' places in their buffers."""
    assert one.categories == two.categories
    assert one.image_ids.tolist() == two.image_ids.tolist()
    assert one.sizes.tolist() == two.sizes.tolist()
    for name in ("offsets", "ids", "labels", "ignore", "areas", "keypoints", "kinds", "scores"):
        np.testing.assert_array_equal(getattr(one.objects, name), getattr(two.objects, name), err_msg=name)
    np.testing.assert_allclose(one.objects.boxes, two.objects.boxes, rtol=1e-14)
    for i in range(len(one)):
        assert one.name(i) == two.name(i)
        for a, b in zip(one.record(i).segmentations, two.record(i).segmentations, strict=True):
            if isinstance(a, list):
                assert [part.tolist() for part in a] == [part.tolist() for part in b]
            else:
                assert (a and (a[0].tolist(), a[1])) == (b and (b[0].tolist(), b[1]))


def test_what_is_written_is_read_again(tmp_path) -> None:
    path = write(tmp_path, coco())
    data, copied = read_dataset(path), tmp_path / "copy.json"
    write_coco(data, copied)
    again = read_dataset(copied, strict=True)
    assert again.report.problems == []
    same_objects(data, again)
    written = json.loads(copied.read_text())
    assert [annotation["id"] for annotation in written["annotations"]] == [2, 1, 3, 4]
    assert written["annotations"][1] == coco()["annotations"][0] | {"iscrowd": 0}
    assert written["annotations"][2]["segmentation"] == {"size": [10, 12], "counts": COMPRESSED}
    assert COCO(str(copied)).getAnnIds(imgIds=[3]) == [1, 3, 4]


def test_keypoints_and_scores_are_written(tmp_path) -> None:
    content = with_keypoints()
    content["annotations"][1]["score"] = 0.1
    data, copied = read_dataset(write(tmp_path, content), keypoints=True), tmp_path / "copy.json"
    assert data.objects.scores.tolist()[1] == 0.1
    write_coco(data, copied)
    same_objects(data, read_dataset(copied, keypoints=True, strict=True))
    fish = json.loads(copied.read_text())["categories"][1]
    assert fish["skeleton"] == [[1, 2], [1, 3]]
    assert fish["keypoints"] == ["nose", "Left_fin", "right_fin"]


def test_a_part_or_nothing_is_written_too(tmp_path) -> None:
    data, copied = read_dataset(write(tmp_path, coco())), tmp_path / "copy.json"
    write_coco(data.subset([1]), copied)
    assert read_dataset(copied).objects.ids.tolist() == [1, 3, 4]
    write_coco(data.subset([]), copied)
    assert json.loads(copied.read_text())["images"] == []


@settings(max_examples=100, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_writing_loses_nothing(data, fuzz_folder) -> None:
    points = st.floats(0, 10) | st.integers(0, 10)
    polygons = st.lists(
        st.lists(points, min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), min_size=1, max_size=3
    )
    runs = st.lists(st.integers(0, 20), max_size=6).map(lambda counts: [*counts, 120 - sum(counts)])
    masks = polygons | runs.map(lambda counts: {"size": [10, 12], "counts": counts}) | st.none()
    boxes = st.lists(st.floats(0.1, 12), min_size=4, max_size=4) | st.none()
    content = with_keypoints()
    for annotation in content["annotations"]:
        annotation |= {"segmentation": data.draw(masks), "bbox": data.draw(boxes), "iscrowd": data.draw(st.booleans())}
        annotation |= data.draw(
            st.fixed_dictionaries({}, optional={"score": st.floats(0, 1), "area": st.floats(0, 99)})
        )
    path = fuzz_folder / "data.json"
    path.write_text(json.dumps(content))
    keypoints = data.draw(st.booleans())
    first = read_dataset(path, keypoints=keypoints)
    write_coco(first, path)
    again = read_dataset(path, keypoints=keypoints)
    assert again.report.problems == []
    same_objects(first, again)


# --- splits --------------------------------------------------------------------------------------------------------


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


# --- masks without drawing them, against pycocotools ---------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_compressed_counts_are_decoded_as_pycocotools_does(data) -> None:
    bitmaps = []
    for _ in range(data.draw(st.integers(1, 4))):
        height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 300))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        bitmaps.append(rng.random((height, width)) < data.draw(st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0])))
    encoded = [mask_api.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    strings: Any = [code["counts"] for code in encoded]
    offsets = np.cumsum([0, *map(len, strings)])
    counts, lengths, readable = decode_counts(np.frombuffer(b"".join(strings), np.uint8), offsets)
    assert readable.all()
    bounds = np.cumsum([0, *lengths])
    spans = np.stack([bounds[:-1], bounds[1:]], axis=1)
    sizes = np.array([bitmap.shape for bitmap in bitmaps])
    fits, boxes, areas = rle_measures(counts, spans, sizes)
    assert fits.all()
    for bitmap, code, (first, last), box, area in zip(bitmaps, encoded, spans, boxes, areas, strict=True):
        flat = np.repeat(np.arange(last - first) % 2 == 1, counts[first:last])
        np.testing.assert_array_equal(flat.reshape(bitmap.shape[::-1]).T, bitmap)
        assert area == bitmap.sum()
        if area:
            ys, xs = np.nonzero(bitmap)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert code["size"] == list(bitmap.shape)


def test_a_string_that_cannot_be_read_leaves_the_others_alone() -> None:
    good = COMPRESSED.encode()
    strings = [good, good + b"o", b"o" * 99 + b"0", good, b"7%!", good, good[:-1]]
    counts, lengths, readable = decode_counts(
        np.frombuffer(b"".join(strings), np.uint8), np.cumsum([0, *map(len, strings)])
    )
    assert readable.tolist() == [True, False, False, True, False, True, False]
    parts = np.split(counts, np.cumsum(lengths)[:-1])
    assert [parts[i].tolist() for i in (0, 3, 5)] == [COUNTS] * 3


@pytest.mark.parametrize("chunk", [1, 10, 40])
def test_masks_are_measured_in_pieces(chunk, monkeypatch, tmp_path) -> None:
    masks = [[SQUARE], {"size": [10, 12], "counts": COMPRESSED}, {"size": [10, 12], "counts": COUNTS}, [SQUARE, SQUARE]]
    masks.insert(2, {"size": [10, 12], "counts": COMPRESSED + "o"})
    annotations = [{"image_id": 3, "category_id": 0, "id": i, "segmentation": masks[i % 5]} for i in range(1, 31)]
    monkeypatch.setattr("maskrcnn.data.validate._CHUNK", chunk)
    data = read_dataset(write(tmp_path, coco(annotations=annotations)))
    assert len(data.objects.ids) == 24
    np.testing.assert_array_equal(data.objects.boxes, [[2, 3, 8, 7]] * 24)
    assert data.objects.areas.tolist() == [24, 24, 48, 24] * 6
    assert [p.annotation_id for p in data.report.problems] == [2, 7, 12, 17, 22, 27]


def test_polygon_measures_by_hand() -> None:
    points = np.array([[0, 0], [4, 0], [4, 3], [0, 0], [2, 2], [2, 0], [0, 2], [1, 1], [2, 2], [9, 9]], np.float64)
    sensible, boxes, areas = polygon_measures(points, np.array([0, 3, 7, 10]), 1e6)
    assert sensible.all()
    assert boxes[0].tolist() == [0, 0, 4, 3]
    assert areas[0] == 6
    assert areas[1] > 0  # a bow tie, whose halves would cancel
    assert areas[2] == 0  # a line


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


# --- fuzzing -------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
segmentations = st.one_of(
    anything,
    st.lists(st.lists(scalars, max_size=9), max_size=3),
    st.lists(st.lists(st.floats(-20, 30), min_size=5, max_size=9), min_size=1, max_size=3),
    st.fixed_dictionaries({"size": st.just([10, 12]) | anything, "counts": anything | st.text("04OPQo`", max_size=9)}),
    st.fixed_dictionaries({"size": st.just([10, 12]), "counts": st.lists(st.integers(-1, 130), max_size=6)}),
)  # fmt: skip
KEYS = ["id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area", "keypoints"]
QUADS = st.lists(scalars, min_size=4, max_size=4)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, with_keypoints())
    return folder


def check_sound(data) -> None:
    """What all readers of a data set rely on."""
    objects = data.objects
    assert len(np.unique(objects.ids)) == len(objects.ids)
    assert np.isfinite(objects.boxes).all()
    assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all()
    assert np.isfinite(objects.areas).all()
    for i in range(len(data)):
        record = data.record(i)
        height, width = record.size
        assert (record.boxes >= -1).all()
        assert (record.boxes <= np.array([width, height, width, height], np.float32) + 1).all()
        for segmentation in record.segmentations:
            if isinstance(segmentation, tuple):
                assert segmentation[0].sum(dtype=np.int64) == height * width
            elif segmentation is not None:
                assert segmentation
                assert all(len(polygon) >= 3 and np.isfinite(polygon).all() for polygon in segmentation)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_strange_annotations(data, fuzz_folder) -> None:
    content = with_keypoints()
    for annotation in content["annotations"]:
        for key in data.draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
            annotation[key] = data.draw(
                segmentations if key == "segmentation" else anything | st.lists(scalars, min_size=4, max_size=4)
            )
    path = fuzz_folder / "data.json"
    path.write_text(json.dumps(content))
    keypoints = data.draw(st.booleans())
    result = read_dataset(path, keypoints=keypoints)  # bad annotations alone never make an error
    assert result.report.annotations_in_file == len(result.objects.ids) + result.report.count("annotation")
    check_sound(result)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))  # type: ignore[arg-type]
@given(data=st.data())
def test_only_data_errors_come_out_of_strange_files(data, fuzz_folder) -> None:
    content = copy.deepcopy(with_keypoints())
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(["images", "categories", "annotations"]))
        if not isinstance(content.get(target), list) or not content[target] or data.draw(st.integers(0, 9)) == 0:
            content[target] = data.draw(anything)
            continue
        entry = data.draw(st.sampled_from(content[target]))
        if isinstance(entry, dict) and entry:
            entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(anything)
    text = json.dumps(content)
    if data.draw(st.integers(0, 5)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    path = fuzz_folder / "data.json"
    path.write_text(text)
    strict, keypoints = data.draw(st.booleans()), data.draw(st.booleans())
    try:
        check_sound(read_dataset(path, strict=strict, keypoints=keypoints))
    except DataError as error:
        message = str(error)
    else:
        message = "data.json"
    assert "data.json" in message
