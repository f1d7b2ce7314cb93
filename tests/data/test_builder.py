"""What every format relies on: images and objects in, a checked data set and a report out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.categories import Category
from maskrcnn.data.builder import DatasetBuilder
from maskrcnn.errors import DataError

PEAR, APPLE = Category(90, "pear"), Category(5, "apple", keypoints=("stalk", "tip"))
SQUARE = [2, 3, 8, 3, 8, 7, 2, 7]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "deep" / "a.png").touch()
    Image.new("RGB", (12, 10)).save(tmp_path / "two" / "b.png")
    return tmp_path


def builder_of(folder: Path, *categories: Category, **options) -> DatasetBuilder:
    roots = [folder / "one", folder / "two"]
    return DatasetBuilder(folder / "labels", categories or (PEAR, APPLE), roots, **options)


def test_images_and_objects_may_come_in_turns(folder) -> None:
    builder = builder_of(folder)
    builder.add_image(7, "deep/a.png", 10, 12)
    builder.add_object(7, 90, id=3, segmentation=[SQUARE], score=0.25)
    builder.add_image(2, "b.png")
    builder.add_object(2, 5, box=[1, 2, 3, 4], keypoints=[1, 2, 2, 3, 4, 1])
    builder.add_object(7, 5, segmentation={"size": [10, 12], "counts": [0, 120]}, crowd=True, area=7)
    data = builder.build("f" * 64)
    assert data.source == folder / "labels"
    assert data.fingerprint == "f" * 64
    assert data.categories == (APPLE, PEAR)
    assert data.image_ids.tolist() == [7, 2]
    assert data.path(0) == folder / "one" / "deep" / "a.png"
    assert data.path(1) == folder / "two" / "b.png"
    first, second = data.record(0), data.record(1)
    assert second.size == (10, 12)  # the file's
    assert first.labels.tolist() == [1, 0]
    assert first.ignore.tolist() == [False, True]
    assert first.boxes.tolist() == [[2, 3, 8, 7], [0, 0, 12, 10]]
    assert first.areas.tolist() == [24, 7]
    assert first.annotation_ids[0] == 3
    assert second.boxes.tolist() == [[1, 2, 4, 6]]
    assert second.keypoints.tolist() == [[[1, 2, 2], [3, 4, 1]]]
    assert not first.keypoints.any()
    assert len({*first.annotation_ids.tolist(), *second.annotation_ids.tolist()}) == 3
    np.testing.assert_array_equal(data.objects.scores, [0.25, np.nan, np.nan])
    assert data.report.count("repair") == 3  # a size and two ids


def test_scores_are_there_if_something_has_one(folder) -> None:
    builder = builder_of(folder, PEAR)
    builder.add_image(2, "b.png", 10, 12)
    builder.add_object(2, 90, id=1, box=[1, 2, 3, 4])
    data = builder.build("")
    assert data.objects.scores is None
    assert data.objects.keypoints is None
    assert data.report.problems == []


def test_everything_is_counted(folder) -> None:
    builder = builder_of(folder)
    builder.add_image(2.5, "b.png", 10, 12)
    builder.add_image(2, "b.png", 10, 12)
    builder.add_image(3, "none.png", 10, 12)
    builder.add_object(3, 90, box=[1, 2, 3, 4])
    builder.add_object(4, 90, box=[1, 2, 3, 4])
    builder.refuse("annotation", "shape that is not supported", "spiral", image_id=2, annotation_id=8)
    builder.refuse("image", "page that is empty")
    report = builder.build("").report
    assert (report.images_in_file, report.annotations_in_file, report.lost_with_image) == (4, 3, 1)
    assert [str(problem) for problem in report.problems] == [
        "labels: image without an id (id 2.5, file 'b.png')",
        f"labels, image 3: missing image file (none.png, looked for in {folder / 'one'} or {folder / 'two'}; "
        "the nearest name there is b.png)",
        "labels, image 4: annotation of an unknown image (4)",
        "labels, image 2, annotation 8: shape that is not supported (spiral)",
        "labels: page that is empty",
    ]


def test_strict_raises_at_the_first_loss(folder) -> None:
    builder = builder_of(folder, strict=True)
    builder.add_image(2, "b.png")  # a size from the file is a repair
    with pytest.raises(DataError, match=r"labels, image 2, annotation 1: neither"):
        builder.add_object(2, 90, id=1)


def test_no_image_file_at_all_is_an_error_with_the_way_out(folder) -> None:
    builder = builder_of(folder)
    builder.add_image(2, "x.png", 10, 12)
    builder.add_image(3, "y.png", 10, 12)
    with pytest.raises(DataError, match=r"none of its 2 images .*x\.png, looked for in .*one or .*two; .*--images"):
        builder.build("")
    assert len(builder_of(folder).build("")) == 0  # nothing was asked for


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([], "no categories"),
        ([PEAR, PEAR._replace(name="plum")], r"id 90 occurs(.|\n)*90  plum"),
    ],
)
def test_categories_must_differ(categories, words, folder) -> None:
    with pytest.raises(DataError, match=words):
        DatasetBuilder(folder / "labels", categories, [folder])
