"""The flat tables: what is cut from them, subsets, held-out images, and categories matched by name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.categories import Category, flip_pairs, keypoint_slices
from maskrcnn.data.dataset import (
    NO_MASK,
    POLYGONS,
    RLE,
    Dataset,
    ImageTable,
    ObjectTable,
    Report,
    map_categories,
    match_categories,
)
from maskrcnn.errors import DataError

PEAR = Category(5, "pear", keypoints=("stalk", "tip"))
APPLE = Category(2, "apple")
STONE = Category(9, "stone", keypoints=("top",))


def table_of(names):
    encoded = [name.encode() for name in names]
    return {
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_offsets": np.cumsum([0, *map(len, encoded)]),
        "roots": (Path("here"), Path("there")),
    }


def dataset(categories=(APPLE, PEAR, STONE), name="data.json", images=4):
    """Image 0 has an apple (polygons), a pear (RLE) and a stone (box); image 2 a pear, a crowd; the others nothing."""
    n = images
    keypoints = np.arange(4 * 3 * 3, dtype=np.float32).reshape(4, 3, 3)
    return Dataset(
        Path(name),
        tuple(categories),
        ImageTable(
            ids=np.array([40, 10, 30, 20, *range(100, 96 + n)], np.int64),
            sizes=np.tile(np.array([10, 12], np.int64), (n, 1)),
            root_of=np.array([0, 1] * (n // 2), np.uint8),
            **table_of([f"bild-{i}-ä.png" for i in range(n)]),
        ),
        ObjectTable(
            offsets=np.array([0, 3, 3] + [4] * (n - 2), np.int64),
            ids=np.array([11, 12, 13, 14], np.int64),
            labels=np.array([0, 1, 2, 1], np.int32),
            boxes=np.arange(16, dtype=np.float32).reshape(4, 4),
            ignore=np.array([False, False, False, True]),
            areas=np.array([1.0, 2.0, 3.0, 4.0]),
            keypoints=keypoints,
            kinds=np.array([POLYGONS, RLE, NO_MASK, POLYGONS], np.uint8),
            spans=np.array([[0, 2], [0, 3], [0, 0], [2, 3]], np.int64),
            part_offsets=np.array([0, 3, 7, 10], np.int64),
            points=np.arange(20, dtype=np.float64).reshape(10, 2),
            counts=np.array([100, 10, 10], np.uint32),
        ),
        "0" * 64,
        Report("data.json"),
        np.arange(n),
    )


def test_a_record_is_cut_from_the_tables() -> None:
    data = dataset()
    assert len(data) == 4
    record = data.record(0)
    assert record.image_id == 40
    assert record.path == Path("here/bild-0-ä.png")
    assert data.path(1) == Path("there/bild-1-ä.png")
    assert data.name(1) == data.subset([2, 1]).name(1) == "bild-1-ä.png"
    assert record.size == (10, 12)
    assert record.labels.tolist() == [0, 1, 2]
    assert record.boxes.shape == (3, 4)
    assert record.keypoints.shape == (3, 3, 3)
    segmentations: list[Any] = list(record.segmentations)
    two, (counts, size), none = segmentations
    assert [part[:, 0].tolist() for part in two] == [[0, 2, 4], [6, 8, 10, 12]]
    assert counts.tolist() == [100, 10, 10]
    assert size == (10, 12)
    assert none is None
    assert len(data.record(1).segmentations) == 0
    assert data.record(2).ignore.tolist() == [True]
    assert data.record(2).segmentations[0][0][:, 1].tolist() == [15, 17, 19]
    assert data.annotation_counts.tolist() == [3, 0, 1, 0]


def test_a_record_copies_no_masks() -> None:
    data = dataset()
    assert np.shares_memory(data.record(0).segmentations[0][0], data.objects.points)


def test_a_subset_is_the_chosen_images_in_that_order() -> None:
    data = dataset().subset([2, 0])
    assert data.image_ids.tolist() == [30, 40]
    assert data.object_rows().tolist() == [3, 0, 1, 2]
    assert data.record(0).annotation_ids.tolist() == [14]
    again = data.subset(np.array([1]))
    assert again.record(0).annotation_ids.tolist() == [11, 12, 13]
    none = data.subset([])
    assert len(none) == 0
    assert none.object_rows().tolist() == []


def test_pickling_keeps_the_records() -> None:
    data = pickle.loads(pickle.dumps(dataset()))
    assert data.record(0).annotation_ids.tolist() == [11, 12, 13]
    assert data.path(1) == Path("there/bild-1-ä.png")


def test_categories_are_matched_by_name() -> None:
    plum = Category(1, "plum", keypoints=("x",))
    mapped, unmatched = map_categories(dataset(), (plum, PEAR, APPLE))
    assert unmatched == ["stone"]
    assert mapped.categories == (plum, PEAR, APPLE)
    record = mapped.record(0)
    assert record.annotation_ids.tolist() == [11, 12]  # the stone is gone
    assert record.labels.tolist() == [2, 1]
    assert [kind is None for kind in record.segmentations] == [False, False]
    assert mapped.record(2).labels.tolist() == [1]
    old = dataset().record(0).keypoints
    np.testing.assert_array_equal(record.keypoints[1], np.concatenate([np.zeros((1, 3)), old[1, :2]]))
    np.testing.assert_array_equal(record.keypoints[0], np.zeros((3, 3)))  # an apple has none, whatever stood there


def test_keypoints_that_differ_under_one_name_are_an_error() -> None:
    with pytest.raises(DataError, match=r"pear.*stalk, tip.*other"):
        map_categories(dataset(), (APPLE, PEAR._replace(keypoints=("other",)), STONE))


def test_val_may_lack_categories_and_have_other_ids() -> None:
    train = dataset((APPLE, PEAR, STONE))
    val = dataset((Category(0, "apple"), PEAR._replace(id=1), STONE._replace(id=2)), "val.json")
    assert match_categories(train, val).categories == train.categories
    measured = dataset((APPLE, PEAR._replace(sigmas=(0.2, 0.3)), STONE))
    assert [c.sigmas for c in match_categories(train, measured).categories if c.name == "pear"] == [(0.2, 0.3)]
    fewer, _ = map_categories(val, (Category(0, "apple"),))
    assert match_categories(train, fewer).record(0).labels.tolist() == [0]


def test_a_category_of_val_that_train_does_not_know_is_an_error_with_both_tables() -> None:
    train = dataset((APPLE, PEAR, STONE), "train.json")
    val = dataset((APPLE, PEAR, Category(77, "plum", keypoints=("top",))), "val.json")
    with pytest.raises(DataError, match=r"(?s)val\.json has.*plum.*train\.json:.*9  stone.*val\.json:.*77  plum"):
        match_categories(train, val)


def test_keypoints_of_all_categories_stand_side_by_side() -> None:
    assert keypoint_slices((APPLE, PEAR, STONE)) == [slice(0, 0), slice(0, 2), slice(2, 3)]


def test_keypoints_of_other_frameworks_are_those_of_every_class() -> None:
    both = PEAR._replace(flip_pairs=((0, 1),), shared=True)
    categories = (both._replace(id=1, name="apple"), both)
    assert keypoint_slices(categories) == [slice(0, 2), slice(0, 2)]
    assert flip_pairs(categories) == [(0, 1)]
    mapped, unmatched = map_categories(dataset(), categories)  # whose apples have no keypoints
    assert (unmatched, mapped.num_keypoints) == (["stone"], 2)
    pear, apple = mapped.record(0).labels.tolist().index(1), mapped.record(0).labels.tolist().index(0)
    old = dataset().record(0).keypoints
    np.testing.assert_array_equal(mapped.record(0).keypoints[pear], old[1, :2])
    np.testing.assert_array_equal(mapped.record(0).keypoints[apple], np.zeros((2, 3)))


def test_a_report_counts_and_tells() -> None:
    report = Report("data.json")
    assert report.summary() == ""
    report.add("image", "image file that is missing", image_id=4, detail="x.png")
    report.add("annotation", "empty mask", image_id=3, annotation_id=8)
    report.add("annotation", "empty mask", image_id=3, annotation_id=9)
    report.add("repair", "box recomputed")
    report.lost_with_image = 2
    assert str(report.problems[0]) == "data.json, image 4: image file that is missing (x.png)"
    assert str(report.problems[1]) == "data.json, image 3, annotation 8: empty mask"
    assert list(report.lines(1)) == [
        "dropped      3",
        "       2  empty mask",
        "            data.json, image 3, annotation 8: empty mask",
        "            ... and 1 more",
        "       1  image file that is missing",
        "            data.json, image 4: image file that is missing (x.png)",
        "       2  annotations lost with their image",
        "repaired     1",
        "       1  box recomputed",
        "            data.json: box recomputed",
    ]
    assert (
        report.summary()
        == "data.json: 1 image and 2 annotations dropped, 2 annotations lost with their image; 1 repaired"
    )


def test_a_strict_report_raises_what_is_lost_but_not_what_is_repaired() -> None:
    report = Report("data.json", strict=True)
    report.add("repair", "box recomputed")
    named = Report(Path("folder/data.json"), strict=True)
    with pytest.raises(DataError, match=r"^folder/data\.json, image 4"):
        named.add("image", "image file that is missing", image_id=4)
    for kind in ("image", "annotation", "part"):
        with pytest.raises(DataError, match=r"data\.json, image 4"):
            report.add(kind, "bad", image_id=4)
