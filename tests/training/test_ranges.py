"""Numbers that make no sense are refused by name; every preset passes."""

import pytest

from maskrcnn.config import MODEL_NAMES, Config, override, preset
from maskrcnn.errors import ConfigError
from maskrcnn.training.ranges import _RULES, check_ranges


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_presets_are_sound(name: str) -> None:
    check_ranges(Config(model=preset(name)))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.batch=0", "train.batch is 1 or more; it got 0"),
        ("train.lr=-0.1", "train.lr is 0 or more; it got -0.1"),
        ("train.lr=nan", "train.lr is 0 or more; it got nan"),
        ("train.workers=-1", "train.workers is 0 or more; it got -1"),
        ("train.epochs=0", "train.epochs is more than 0; it got 0.0"),
        ("train.ema=1.0", "train.ema is 0 or more and less than 1; it got 1.0"),
        ("model.box_head.score_threshold=1.5", "model.box_head.score_threshold is between 0 and 1; it got 1.5"),
        ("model.anchors.sizes=[[32],[-64]]", r"model.anchors.sizes is more than 0; it got \(\(32.0,\), \(-64.0,\)\)"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}$"):
        check_ranges(override(Config(), [assignment]))


def test_the_bounds_themselves_are_allowed() -> None:
    bounds = ["train.lr=0", "train.ema=0", "train.patience=0", "model.box_head.nms_iou=1", "train.batch=1"]
    check_ranges(override(Config(), bounds))


def test_no_setting_stands_twice() -> None:
    names = [name for names, _, _ in _RULES for name in names]
    assert len(names) == len(set(names))
