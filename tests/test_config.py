"""Settings: every preset by its name, TOML there and back, and wrong ones refused in a sentence that helps."""

from pathlib import Path

import pytest

from maskrcnn.config import MODEL_NAMES, Config, from_dict, override, preset, read_toml, to_dict, write_toml
from maskrcnn.errors import ConfigError

PAPER = {  # network-depth-features: blocks, groups, width of a group, features
    "R-50-C4": ((3, 4, 6, 3), 1, 64, "c4"),
    "R-101-C4": ((3, 4, 23, 3), 1, 64, "c4"),
    "R-50-FPN": ((3, 4, 6, 3), 1, 64, "fpn"),
    "R-101-FPN": ((3, 4, 23, 3), 1, 64, "fpn"),
    "X-101-64x4d-FPN": ((3, 4, 23, 3), 64, 4, "fpn"),
    "X-101-32x8d-FPN": ((3, 4, 23, 3), 32, 8, "fpn"),
    "X-152-32x8d-FPN": ((3, 8, 36, 3), 32, 8, "fpn"),
    "R-50-C5": ((3, 4, 6, 3), 1, 64, "c5"),
    "R-50-DC5": ((3, 4, 6, 3), 1, 64, "dc5"),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_names_of_the_paper_and_of_its_released_weights(name: str) -> None:
    config = preset(name)
    backbone = config.backbone
    assert (backbone.blocks, backbone.groups, backbone.width_per_group, backbone.features) == PAPER[name]
    assert config.name == name
    shared = backbone.features == "c4"  # res5 is the head of both branches (Figure 4, left)
    assert (config.box_head.kind, config.mask_head.kind) == (("res5", "res5") if shared else ("2fc", "fcn"))
    one_map = [[32.0, 64.0, 128.0, 256.0, 512.0]]
    pyramid = [[side] for side in one_map[0]]
    assert [list(level) for level in config.anchors.sizes] == (pyramid if backbone.features == "fpn" else one_map)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_settings_go_through_a_file_unchanged(name: str, tmp_path: Path) -> None:
    config = Config(model=preset(name))
    write_toml(config, tmp_path / "config.toml")
    assert read_toml(tmp_path / "config.toml") == config == from_dict(Config, to_dict(config))


def test_a_setting_by_name() -> None:
    config = override(Config(), ["model.pool.operator=roi_warp", "train.lr = 1", "model.anchors.sizes=[[8, 16]]"])
    assert config.model.pool.operator == "roi_warp"
    assert config.train.lr == 1.0
    assert config.model.anchors.sizes == ((8.0, 16.0),)
    assert override(config, []) == config


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.lr", "wants name=value"),
        ("train.lrr=1", "no setting 'train.lrr'; did you mean 'lr'"),
        ("model.pol.operator=roi_pool", "no setting 'model.pol.operator'; did you mean 'pool'"),
        ("model.pool.operator=roi_alin", "one of 'roi_align', 'roi_pool', 'roi_warp'.*did you mean 'roi_align'"),
        ("train.batch=2.5", "train.batch takes a int"),
        ("model.backbone.blocks=[1,2]", "takes 4 values; it got 2"),
        ("model.box_head.ohem=1", "ohem takes a bool"),
        ("model.profile=paper", "sets none"),
    ],
)
def test_wrong_settings_are_refused_with_the_nearest_right_one(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        override(Config(), [assignment])


def test_wrong_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'R-50-FNP'; did you mean 'R-50-FPN'"):
        preset("R-50-FNP")
    (tmp_path / "a.toml").write_text("[train]\nbatches = 2\n")
    with pytest.raises(ConfigError, match=r"a\.toml: there is no setting 'train\.batches'"):
        read_toml(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("[train\n")
    for name in ("b.toml", "missing.toml"):
        with pytest.raises(ConfigError, match=name):
            read_toml(tmp_path / name)
