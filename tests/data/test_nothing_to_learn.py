"""A data set of no use is refused before anything runs, with the reason and the way out."""

import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.usable import never_learned, reason_to_stop, require_common_class, require_usable, shared_images
from maskrcnn.errors import DataError
from tests.data.coco_files import GOOD, coco, write

BOX = {"id": 1, "image_id": 3, "category_id": 90, "bbox": [2, 3, 6, 4]}


def read(folder, annotations, *, images=True):
    path = write(folder, coco(annotations=annotations))
    for name in ("a.png", "b.png", "empty.png") if images else ():
        Image.new("L", (12, 10)).save(folder / name)
    return read_dataset(path)


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ([GOOD | {"iscrowd": 1}, GOOD | {"id": 8, "image_id": 7, "iscrowd": 1}], "all 2 objects are crowds"),
        ([], "there are no annotations"),
        ([BOX | {"bbox": [2, 3, -6, 4]}], "no object is left of 1; 1 were dropped: box with a negative"),
        ([BOX], r"no object has a mask \(there are boxes only\).*--no-masks"),
        ([GOOD | {"segmentation": [[1, 2]]}], r"1 masks were dropped.*--no-masks"),
    ],
)
def test_nothing_to_learn_from(annotations, words, tmp_path) -> None:
    data = read(tmp_path, annotations)
    with pytest.raises(DataError, match=words) as caught:
        require_usable(data, masks=True)
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    assert bool(notes) == bool(data.report.problems)


def test_boxes_alone_are_enough_without_masks(tmp_path) -> None:
    assert reason_to_stop(read(tmp_path, [BOX]), masks=False) is None
    assert reason_to_stop(read(tmp_path, [BOX, GOOD]), masks=True) is None


def test_no_readable_image(tmp_path) -> None:
    assert "none of its 3 images can be read" in str(reason_to_stop(read(tmp_path, [GOOD], images=False), masks=True))


def test_a_class_of_crowds_is_named(tmp_path) -> None:
    data = read(tmp_path, [GOOD, GOOD | {"id": 10, "category_id": 0, "iscrowd": 1}])
    assert never_learned(data, masks=True) == [
        "all 1 objects of apple are crowds (iscrowd 1), so this class is never learned"
    ]


def test_no_class_in_common(tmp_path) -> None:
    data = read(tmp_path, [GOOD])
    require_common_class(data, [Category(5, "pear")])
    with pytest.raises(DataError, match="capitals or spaces only"):
        require_common_class(data, [Category(5, "Pear ")])


def test_images_in_both_splits(tmp_path) -> None:
    one, two = read(tmp_path / "one", [GOOD]), read(tmp_path / "two", [GOOD])
    assert "3 of 3 validation images" in str(shared_images(one, two))  # copies
    Image.new("L", (12, 10), 9).save(tmp_path / "two" / "a.png")
    assert "2 of 3" in str(shared_images(one, two))


def test_keypoints_without_a_label(tmp_path) -> None:
    content = coco(annotations=[GOOD | {"keypoints": [0, 0, 0]}])
    for category in content["categories"]:
        category["keypoints"] = ["tip"]
    path = write(tmp_path, content)
    for name in ("a.png", "b.png", "empty.png"):
        Image.new("L", (12, 10)).save(tmp_path / name)
    data = read_dataset(path, keypoints=True)
    assert reason_to_stop(data, masks=True) is None
    assert "no keypoint is labelled" in str(reason_to_stop(data, masks=True, keypoints=True))


def test_classes_without_masks_and_names_that_hardly_differ_are_named(tmp_path) -> None:
    content = coco(annotations=[GOOD, BOX | {"category_id": 0}])
    content["categories"].append({"id": 5, "name": "Apple "})
    data = read_dataset(write(tmp_path, content))
    without, alike = never_learned(data, masks=True)
    assert without == "no object of apple has a mask, so masks of this class are never learned"
    assert "'apple' and 'Apple ' differ in capitals or spaces only" in alike
    assert never_learned(data, masks=False) == [alike]
