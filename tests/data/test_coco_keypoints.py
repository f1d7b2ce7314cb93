"""Keypoints of COCO json: their places for all categories, names that mirror each other, and what makes no sense."""

import numpy as np
import pytest

from maskrcnn.data.formats import read_dataset
from maskrcnn.errors import DataError
from tests.data.coco_files import GOOD, coco, with_keypoints, write


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
