"""COCO json, written image by image: what is written is read again, and images are copied, linked or left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn.categories import Category
from maskrcnn.data.bitmaps import draw_bitmap
from maskrcnn.data.dataset import Record, Shape
from maskrcnn.data.formats import find, read_dataset, writer
from maskrcnn.data.formats.coco import write as write_coco
from tests.data.coco_files import COMPRESSED, coco, same_objects, with_keypoints, write

PEAR = (Category(3, "pear"),)
RING = np.array([[0.0, 0], [8, 0], [8, 6], [0, 6]])
HOLE = np.array([[2.0, 2], [6, 2], [6, 4], [2, 4]])


def record_of(path: Path, image_id: Any = 1, **changes) -> Record:
    values: dict[str, Any] = {
        "image_id": image_id,
        "path": path,
        "size": (10, 12),
        "boxes": np.array([[0.0, 0, 8, 6]]),
        "labels": np.array([0]),
        "ignore": np.array([False]),
        "keypoints": None,
        "annotation_ids": np.array([1]),
        "segmentations": [[RING]],
        "areas": np.array([48.0]),
        "name": path.name,
    }
    return Record(**(values | changes))


@pytest.fixture
def image(tmp_path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "a.png"
    Image.new("RGB", (12, 10), (1, 2, 3)).save(path)
    return path


@pytest.mark.parametrize(("content", "keypoints"), [(coco(), False), (with_keypoints(), True)])
def test_what_is_written_is_read_again(content, keypoints, tmp_path) -> None:
    content["annotations"][1]["score"] = 0.25
    data = read_dataset(write(tmp_path / "in", content), keypoints=keypoints)
    out = writer("coco", tmp_path / "out", data.categories)
    for i in range(len(data)):
        out.add(data.record(i, exact=True))
    out.close()
    assert not out.lost
    same_objects(
        data, read_dataset(tmp_path / "out" / "annotations.json", tmp_path / "in", strict=True, keypoints=keypoints)
    )


def test_splits_are_files_beside_their_images(image, tmp_path) -> None:
    out = writer("coco", tmp_path / "out", PEAR, "copy")
    out.add(record_of(image, 5), "train")
    out.add(record_of(image, "left"), "val")
    out.close()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "train.json", "val.json"]
    splits = find(tmp_path / "out")
    assert {split: source.path.name for split, source in splits.items()} == {"train": "train.json", "val": "val.json"}
    data = read_dataset(splits["train"], strict=True)
    assert data.path(0) == tmp_path / "out" / "images" / "train" / "a.png"
    assert data.path(0).read_bytes() == image.read_bytes()


def test_a_link_leads_to_the_image_and_is_made_anew(image, tmp_path) -> None:
    for how in ("link", "link", "copy", "link"):
        out = writer("coco", tmp_path / "out", PEAR, how)
        out.add(record_of(image))
        out.close()
        there = tmp_path / "out" / "images" / "a.png"
        assert there.is_symlink() == (how == "link")
        assert there.read_bytes() == image.read_bytes()
    assert not image.is_symlink()


def test_two_images_of_one_name_stay_two(image, tmp_path) -> None:
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    Image.new("RGB", (12, 10), (9, 9, 9)).save(other)
    out = writer("coco", tmp_path / "out", PEAR, "copy")
    for path in (image, other, image):
        out.add(record_of(path, None))
    out.close()
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [row["file_name"] for row in written["images"]] == ["a.png", "a-2.png", "a.png"]
    assert [row["id"] for row in written["images"]] == [1, 2, 3]
    assert [row["id"] for row in written["annotations"]] == [1, 2, 3]
    assert (tmp_path / "out" / "images" / "a-2.png").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png"])
def test_no_name_leads_out_of_the_folder(name, image, tmp_path) -> None:
    out = writer("coco", tmp_path / "out", PEAR, "copy")
    out.add(record_of(image, name=name))
    out.close()
    assert (tmp_path / "out" / "images" / "a.png").is_file()


def test_outlines_with_holes_become_run_lengths(image, tmp_path) -> None:
    shapes = [[Shape(RING, [HOLE])]]
    out = writer("coco", tmp_path / "out", PEAR, "copy")
    out.add(record_of(image, segmentations=[None], shapes=shapes))
    out.add(record_of(image, 2, segmentations=[None], shapes=[[Shape(RING, [])]]))
    out.close()
    data = read_dataset(tmp_path / "out" / "annotations.json")
    expected = np.zeros((10, 12), bool)
    expected[:6, :8] = True
    np.testing.assert_array_equal(data.record(0).segmentations[1], [RING])  # one file, so one image
    expected[2:4, 2:6] = False
    np.testing.assert_array_equal(draw_bitmap(data.record(0).segmentations[0], (10, 12)), expected)


def test_a_writer_that_is_not_closed_leaves_the_old_file(image, tmp_path) -> None:
    for closed in (True, False):
        out = writer("coco", tmp_path / "out", PEAR)
        out.add(record_of(image, 7 if closed else 8))
        if closed:
            out.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["annotations.json"]
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["images"][0]["id"] == 7


def test_a_whole_data_set_is_written_and_read_again(tmp_path) -> None:
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
