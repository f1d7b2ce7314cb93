"""Settings: every preset by name, TOML there and back, and a clear sentence for each wrong value."""

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest

from maskrcnn.config import (
    MODEL_NAMES,
    Config,
    ModelConfig,
    TrainConfig,
    from_dict,
    override,
    preset,
    read_toml,
    to_dict,
    write_toml,
)
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
    assert isinstance(config.train.lr, float)
    assert config.model.anchors.sizes == ((8.0, 16.0),)
    assert override(config, []) == config
    assert override(preset("R-50-FPN"), ["pool.sampling=0"]).pool.sampling == 0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lr", "expects name=value"),
        ("train.lrr=1", "no setting 'train.lrr'; did you mean 'train.lr'"),
        ("train.zzz=1", "no setting 'train.zzz'$"),
        ("train.lr.x=1", "no setting 'train.lr.x': lr has no parts"),
        ("model.pol.operator=roi_pool", "no setting 'model.pol'; did you mean 'model.pool'"),
        ("model.pool.operator=roi_alin", "one of 'roi_align', 'roi_pool', 'roi_warp'.*did you mean 'roi_align'"),
        ("model.input.page=first", "must be an integer or one of 'max'; it is 'first'"),
        ("model.input.page=-1", "model.input.page must be at least 0; it is -1"),
        ("model.input.page=1.5", "must be an integer or one of 'max'; it is 1.5"),
        ("model.pool.operator=3", "one of 'roi_align', 'roi_pool', 'roi_warp'; it is 3"),
        ("model.name=3", "model.name must be a string; it is 3"),
        ("train.batch=2.5", "train.batch must be an integer; it is 2.5"),
        ("train.batch=true", "train.batch must be an integer; it is True"),
        ("train.lr=true", "train.lr must be a number; it is True"),
        ("train=3", "train must be a table; it is 3"),
        ("model.backbone.blocks=[1,2]", r"blocks must be a list of 4 values; it is \[1, 2\]"),
        ("model.box_head.ohem=1", "ohem must be true or false"),
        ("model.profile=paper", "only records which"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_the_nearest_right_one(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Config(), [assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch=0", "train.batch must be at least 1; it is 0"),
        ("train.lr=-0.1", "train.lr must be at least 0; it is -0.1"),
        ("train.lr=nan", "train.lr must be at least 0; it is nan"),
        ("train.workers=-1", "train.workers must be at least 0; it is -1"),
        ("train.epochs=0", "train.epochs must be more than 0; it is 0"),
        ("train.epochs=inf", r"train.epochs must be at most 1e\+09; it is inf"),
        ("train.seed=99999999999999999999", r"train.seed must be at most 9.22337e\+18; it is 9+"),
        ("model.anchors.sizes=[]", r"model.anchors.sizes must be a list with a value; it is \[\]"),
        ("model.anchors.sizes=[[8],[]]", r"model.anchors.sizes\[1\] must be a list with a value; it is \[\]"),
        ("model.anchors.ratios=[]", r"model.anchors.ratios must be a list with a value; it is \[\]"),
        ("train.ema=1.0", "train.ema must be less than 1; it is 1.0"),
        ("model.box_head.score_threshold=1.5", "model.box_head.score_threshold must be at most 1; it is 1.5"),
        ("model.anchors.sizes=[[32],[-64]]", r"model.anchors.sizes\[1\]\[0\] must be more than 0; it is -64"),
        ("model.backbone.blocks=[3,4,0,3]", r"model.backbone.blocks\[2\] must be at least 1; it is 0"),
    ],
)
def test_a_number_out_of_range_is_an_error_that_names_the_bound(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        override(Config(), [assignment])


def test_ranges_are_checked_in_files_and_in_settings_made_in_code(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[model.rpn]\nnms_iou = 1.5\n")
    with pytest.raises(ConfigError, match=r"a\.toml: model\.rpn\.nms_iou must be at most 1; it is 1\.5"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"rpn\.nms_iou must be at most 1"):
        from_dict(ModelConfig, {"rpn": {"nms_iou": 1.5}})
    with pytest.raises(ConfigError, match=r"train\.batch must be at least 1"):
        override(Config(train=TrainConfig(batch=0)), [])


def test_a_file_may_begin_with_a_mark_and_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[train]\nbatch = 3\n", encoding="utf-8-sig")
    assert read_toml(tmp_path / "a.toml").train.batch == 3
    (tmp_path / "a.toml").write_text("[train]\nbatch = 3\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"a\.toml.*utf-8"):
        read_toml(tmp_path / "a.toml")


def test_the_bounds_themselves_are_allowed() -> None:
    override(Config(), ["train.lr=0", "train.ema=0", "train.patience=0", "model.box_head.nms_iou=1", "train.batch=1"])


NAMES = {
    "count": "train.accumulate model.classes model.input.channels model.input.max_size model.backbone.width"
    " model.backbone.groups model.backbone.width_per_group model.fpn.channels model.rpn.convs model.rpn.samples"
    " model.rpn.pre_nms_train model.rpn.pre_nms_test model.rpn.post_nms_train model.rpn.post_nms_test"
    " model.box_head.pool_size model.box_head.channels model.box_head.samples model.box_head.max_detections"
    " model.mask_head.pool_size model.mask_head.channels model.keypoint_head.pool_size model.keypoint_head.channels",
    "not negative": "train.weight_decay train.warmup_steps train.clip_norm train.gamma train.evaluate_every"
    " train.checkpoint_every train.log_every train.patience train.augment.crop model.input.min_size"
    " model.backbone.freeze_at model.pool.sampling model.mask_head.convs model.rpn.min_size model.box_head.min_size"
    " model.keypoint_head.convs",
    "positive": "train.milestones train.augment.scale train.augment.min_sizes model.input.std model.input.zoom"
    " model.anchors.ratios",
    "fraction": "train.warmup_factor train.augment.horizontal_flip train.augment.vertical_flip"
    " train.augment.brightness train.augment.contrast train.augment.saturation train.augment.min_visible"
    " model.rpn.positive_iou model.rpn.negative_iou model.rpn.positive_fraction model.rpn.nms_iou"
    " model.box_head.positive_iou model.box_head.positive_fraction model.box_head.nms_iou"
    " model.box_head.score_threshold model.mask_head.threshold",
    "decay": "train.momentum train.ema",
}
OUTSIDE = {"count": [0], "not negative": [-1], "positive": [0], "fraction": [-1, 2], "decay": [-1, 1]}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names.split()])
def test_every_setting_has_its_range(kind: str, name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    node = Config()
    for part in parent.split("."):
        node = getattr(node, part)
    many = isinstance(getattr(node, leaf), tuple)
    for value in OUTSIDE[kind]:
        with pytest.raises(ConfigError, match=rf"^{name}(\[0\])? must be"):
            override(Config(), [f"{name}={[value] * 2 if many else value}"])


def test_no_number_may_be_nan() -> None:
    """A plain `float` accepts it, so every float has a range."""

    def plain(kind: Any) -> bool:
        if typing.get_origin(kind) is Annotated:
            return False
        return kind is float or any(map(plain, typing.get_args(kind)))

    def visit(cls: Any) -> None:
        for name, kind in typing.get_type_hints(cls, include_extras=True).items():
            assert not plain(kind), f"{cls.__name__}.{name}"
            if dataclasses.is_dataclass(kind):
                visit(kind)

    visit(Config)


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
