"""Names of classes, and rows that go with them."""

from dataclasses import replace

import pytest
import torch

from maskrcnn.categories import Category
from maskrcnn.config import KeypointHeadConfig, preset
from maskrcnn.errors import ConfigError
from maskrcnn.weights.interop.classes import carry_rows, is_unused, name_classes

CONFIG = preset("R-50-FPN")
NEVER_USED = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_ninety_classes_are_cocos_ids() -> None:
    found = name_classes(replace(CONFIG, classes=90))
    assert [category.id for category in found] == list(range(1, 91))
    assert [category.id for category in found if is_unused(category)] == NEVER_USED
    assert found[11].name == "unused-12"
    assert (found[0].name, found[17].name, found[89].name) == ("person", "dog", "toothbrush")


def test_eighty_classes_are_those_that_occur() -> None:
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


def test_what_is_not_known_is_numbered_or_given() -> None:
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


def test_rows_are_kept_by_name() -> None:
    before = [Category(1, "cat"), Category(2, "dog"), Category(3, "cow")]
    after = [Category(1, "dog"), Category(2, "ox")]
    start = {
        "box_head.class_logits.weight": torch.tensor([[1.0], [2], [3], [9]]),
        "box_head.box_deltas.bias": torch.arange(12.0),
        "mask_head.predictor.bias": torch.tensor([1.0, 2, 3]),
        "box_head.fc.0.bias": torch.tensor([7.0]),
    }
    fresh = {
        "box_head.class_logits.weight": torch.full((3, 1), -1.0),
        "box_head.box_deltas.bias": torch.full((8,), -1.0),
        "mask_head.predictor.bias": torch.full((2,), -1.0),
        "box_head.fc.0.bias": torch.tensor([-1.0]),
    }
    got, kept = carry_rows(start, fresh, before, after)
    assert kept == ["dog"]
    assert got["box_head.class_logits.weight"].flatten().tolist() == [2, -1, 9]
    assert got["box_head.box_deltas.bias"].tolist() == [4, 5, 6, 7, -1, -1, -1, -1]
    assert got["mask_head.predictor.bias"].tolist() == [2, -1]
    assert got["box_head.fc.0.bias"].tolist() == [7]
    assert fresh["mask_head.predictor.bias"].tolist() == [-1, -1]


def test_predictors_of_no_class_stay() -> None:
    before, after = [Category(1, "cat"), Category(2, "dog")], [Category(1, "dog"), Category(2, "ox")]
    start = {"box_head.box_deltas.bias": torch.arange(4.0), "mask_head.predictor.bias": torch.tensor([3.0])}
    fresh = {"box_head.box_deltas.bias": torch.zeros(4), "mask_head.predictor.bias": torch.zeros(1)}
    got, _ = carry_rows(start, fresh, before, after)
    assert got["box_head.box_deltas.bias"].tolist() == [0, 1, 2, 3]
    assert got["mask_head.predictor.bias"].tolist() == [3]
