"""Names of classes that a checkpoint does not hold."""

from dataclasses import replace

import pytest

from maskrcnn.config import KeypointHeadConfig, preset
from maskrcnn.errors import ConfigError
from maskrcnn.weights.interop.classes import name_classes

CONFIG = preset("R-50-FPN")
NEVER_USED = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_ninety_classes_are_cocos_ids() -> None:
    found = name_classes(replace(CONFIG, classes=90))
    assert [category.id for category in found] == list(range(1, 91))
    assert [category.id for category in found if category.name == f"unused-{category.id}"] == NEVER_USED
    assert found[11].name == "unused-12"
    assert (found[0].name, found[17].name, found[89].name) == ("person", "dog", "toothbrush")


def test_eighty_classes_are_those_that_coco_annotates() -> None:
    found = name_classes(CONFIG)
    assert [category.id for category in found] == [number for number in range(1, 91) if number not in NEVER_USED]
    assert len({category.name for category in found}) == 80
    assert (found[16].id, found[16].name) == (18, "dog")


def test_keypoints_of_a_person() -> None:
    (person,) = name_classes(replace(CONFIG, classes=1, keypoint_head=KeypointHeadConfig(enabled=True)))
    assert (person.id, person.name, len(person.keypoints), person.keypoints[5]) == (1, "person", 17, "left_shoulder")
    assert {(person.keypoints[a], person.keypoints[b]) for a, b in person.flip_pairs} == {
        (f"left_{part}", f"right_{part}")
        for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    }
    assert len(person.sigmas) == 17
    assert len(person.skeleton) == 19
    assert {("left_shoulder", "left_elbow"), ("nose", "right_eye")} <= {
        (person.keypoints[a], person.keypoints[b]) for a, b in person.skeleton
    }


def test_unknown_classes_are_numbered_or_named_by_the_user() -> None:
    config = replace(CONFIG, classes=2, keypoint_head=KeypointHeadConfig(enabled=True, num_keypoints=3))
    assert [category.name for category in name_classes(config)] == ["class-1", "class-2"]
    assert name_classes(config)[0].keypoints == ("keypoint-1", "keypoint-2", "keypoint-3")
    assert [(category.keypoints, category.shared) for category in name_classes(config)[1:]] == [
        (("keypoint-1", "keypoint-2", "keypoint-3"), True)
    ]
    assert [category.name for category in name_classes(config, ["a", "b"])] == ["a", "b"]
    with pytest.raises(ConfigError, match="2 classes; 1 names"):
        name_classes(config, ["a"])
    with pytest.raises(ConfigError, match="names were given"):
        name_classes(config, ["a", "a"])
