"""Our checkpoints for other tools: under their names, there and back bit-equal, and what they cannot say is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from maskrcnn.config import FPNConfig, KeypointHeadConfig, MaskHeadConfig, ModelConfig, preset
from maskrcnn.errors import ConfigError
from maskrcnn.weights.checkpoint import Checkpoint
from maskrcnn.weights.interop.classes import name_classes
from maskrcnn.weights.interop.infer import empty_model
from maskrcnn.weights.interop.pickles import read_pickle
from maskrcnn.weights.interop.profiles import with_profile
from maskrcnn.weights.interop.write import TARGETS, inexpressible, to_foreign, write_foreign
from maskrcnn.weights.read import open_foreign, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
FULL = preset("R-50-FPN")
V2 = replace(
    FULL,
    backbone=replace(FULL.backbone, norm="bn"),
    fpn=FPNConfig(norm="bn"),
    rpn=replace(FULL.rpn, convs=2),
    box_head=replace(FULL.box_head, kind="4conv1fc", norm="bn"),
    mask_head=MaskHeadConfig(norm="bn"),
)
KEYPOINTS = replace(
    FULL, classes=1, mask_head=MaskHeadConfig(enabled=False), keypoint_head=KeypointHeadConfig(enabled=True)
)
BOXES = replace(FULL, mask_head=MaskHeadConfig(enabled=False))


def live(config: ModelConfig) -> ModelConfig:
    return replace(config, backbone=replace(config.backbone, norm="bn"))


def dc5(config: ModelConfig) -> ModelConfig:
    return replace(config, backbone=replace(config.backbone, features="dc5"))


GOLDENS: dict[str, ModelConfig] = {
    "torchvision-maskrcnn_resnet50_fpn": live(replace(FULL, classes=90)),
    "torchvision-maskrcnn_resnet50_fpn_v2": replace(V2, classes=90),
    "torchvision-fasterrcnn_resnet50_fpn": live(replace(BOXES, classes=90)),
    "torchvision-keypointrcnn_resnet50_fpn": live(KEYPOINTS),
    "detectron2-mask_rcnn_R_50_FPN": FULL,
    "detectron2-faster_rcnn_R_50_FPN": BOXES,
    "detectron2-keypoint_rcnn_R_50_FPN": KEYPOINTS,
    "detectron2-mask_rcnn_R_50_C4": preset("R-50-C4"),
    "detectron2-mask_rcnn_R_50_DC5": dc5(preset("R-50-C5")),
    "detectron2-mask_rcnn_X_101_32x8d_FPN": preset("X-101-32x8d-FPN"),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_names_and_shapes_are_theirs(name: str) -> None:
    to = name.partition("-")[0]
    config = with_profile(GOLDENS[name], to)
    state = empty_model(config).state_dict()
    foreign = to_foreign(Checkpoint(config, (), empty(state), {}), to)
    expected = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in foreign.items()} == expected


def empty(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Real tensors of these shapes; what they hold does not matter and is never touched."""
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}


# --- there and back --------------------------------------------------------------------------------------------------


def small(config: ModelConfig, to: str = "detectron2") -> ModelConfig:
    """Narrow, or with few blocks if the framework allows one width only."""
    fewer = {"blocks": (2, 1, 1, 1)} if to == "torchvision" else {"width": 8}
    return replace(
        config,
        classes=min(config.classes, 3),
        backbone=replace(config.backbone, **fewer),  # type: ignore[arg-type]
        fpn=replace(config.fpn, channels=16),
        box_head=replace(config.box_head, channels=32),
        mask_head=replace(config.mask_head, channels=16),
        keypoint_head=replace(config.keypoint_head, channels=16, convs=2),
    )


GN = replace(
    FULL,
    backbone=replace(FULL.backbone, norm="gn"),
    fpn=FPNConfig(norm="gn"),
    box_head=replace(FULL.box_head, kind="4conv1fc", norm="gn"),
    mask_head=MaskHeadConfig(norm="gn"),
)
AGNOSTIC = replace(
    FULL, box_head=replace(FULL.box_head, class_agnostic=True), mask_head=MaskHeadConfig(class_agnostic=True)
)
ROUND = {
    "torchvision masks": ("torchvision", FULL, ".pth"),
    "torchvision live": ("torchvision", live(FULL), ".pth"),
    "torchvision second": ("torchvision", V2, ".pt"),
    "torchvision keypoints": ("torchvision", KEYPOINTS, ".pth"),
    "torchvision boxes, R-18": ("torchvision", replace(preset("R-18-FPN"), mask_head=BOXES.mask_head), ".pth"),
    "detectron2 masks": ("detectron2", FULL, ".pth"),
    "detectron2 pickle": ("detectron2", FULL, ".pkl"),
    "detectron2 C4": ("detectron2", preset("R-50-C4"), ".pkl"),
    "detectron2 DC5": ("detectron2", dc5(preset("R-50-C5")), ".pth"),
    "detectron2 keypoints": ("detectron2", KEYPOINTS, ".pkl"),
    "detectron2 group norms": ("detectron2", GN, ".pkl"),
    "detectron2 two RPN convolutions": ("detectron2", replace(FULL, rpn=replace(FULL.rpn, convs=2)), ".pth"),
    "detectron2 no classes": ("detectron2", AGNOSTIC, ".pth"),
    "detectron2 ResNeXt": ("detectron2", preset("X-101-32x8d-FPN"), ".pth"),
}


def drawn(config: ModelConfig) -> Checkpoint:
    """A checkpoint with different values in every tensor."""
    state = empty_model(config).state_dict()
    rng = torch.Generator().manual_seed(3)
    filled = {
        name: torch.randn(tensor.shape, generator=rng) if tensor.is_floating_point() else torch.tensor(5)
        for name, tensor in state.items()
    }
    return Checkpoint(config, name_classes(config), filled, {})


@pytest.mark.parametrize("case", ROUND)
def test_there_and_back_is_bit_equal(case: str, tmp_path: Path) -> None:
    to, config, suffix = ROUND[case]
    ours = drawn(with_profile(small(config, to), to))
    write_foreign(tmp_path / f"a{suffix}", ours, to)
    got = read_checkpoint(tmp_path / f"a{suffix}")
    assert got.provenance["origin"] == to
    assert got.state.keys() == ours.state.keys()
    assert all(torch.equal(got.state[name], ours.state[name]) for name in ours.state)
    again = to_foreign(got, to, force=True)
    first = to_foreign(ours, to)
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize("case", ROUND)
def test_theirs_to_ours_and_back_is_bit_equal_except_for_rows_that_nothing_reads(case: str, tmp_path: Path) -> None:
    """torchvision's background has rows of deltas and masks, which no result depends on; they come back as zeros."""
    to, config, suffix = ROUND[case]
    theirs = to_foreign(drawn(with_profile(small(config, to), to)), to)
    silent = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}
    expected = {name: tensor.clone() for name, tensor in theirs.items()}
    for name in expected if to == "torchvision" else ():
        if rows := silent.get(name.rpartition(".")[0]):
            theirs[name][:rows] = 7.0
            expected[name][:rows] = 0.0
    torch.save(theirs, tmp_path / "theirs.pth")
    write_foreign(tmp_path / f"again{suffix}", read_checkpoint(tmp_path / "theirs.pth"), to)
    contents = open_foreign(tmp_path / f"again{suffix}")
    assert contents is not None
    assert contents.tensors.keys() == expected.keys()
    assert all(torch.equal(contents.tensors[name], expected[name]) for name in expected)


def test_the_background_carries_no_information() -> None:
    foreign = to_foreign(drawn(with_profile(small(FULL, "torchvision"), "torchvision")), "torchvision")
    assert foreign["roi_heads.box_predictor.bbox_pred.weight"][:4].abs().max() == 0
    assert foreign["roi_heads.mask_predictor.mask_fcn_logits.bias"][0] == 0


def test_a_pickle_is_as_detectron2_wants_it(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a.pkl", drawn(with_profile(small(FULL), "detectron2")), "detectron2")
    content = read_pickle(tmp_path / "a.pkl")
    assert sorted(content) == ["__author__", "model"]
    assert content["model"]["roi_heads.box_predictor.cls_score.weight"].shape == (4, 32)


# --- what cannot be expressed ----------------------------------------------------------------------------------------


def test_our_own_models_fit_detectron2_and_the_settings_are_returned(tmp_path: Path) -> None:
    settings = write_foreign(tmp_path / "a.pth", drawn(small(FULL)), "detectron2")
    assert settings["INPUT.FORMAT"] == "RGB"
    assert settings["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert settings["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"] == 2
    assert settings["MODEL.ROI_HEADS.NUM_CLASSES"] == 3


def test_the_settings_are_those_that_differ_from_the_base_file(tmp_path: Path) -> None:
    """By hand, from its reference of settings; masks and keypoints have their own pools there."""
    gn = write_foreign(tmp_path / "a.pkl", drawn(small(GN)), "detectron2")
    assert gn["_BASE_"] == "Base-RCNN-FPN.yaml"
    assert (gn["MODEL.RESNETS.DEPTH"], gn["MODEL.RESNETS.NORM"], gn["MODEL.FPN.NORM"]) == (50, "GN", "GN")
    assert [gn[f"MODEL.ROI_BOX_HEAD.{name}"] for name in ("NUM_CONV", "NUM_FC", "NORM")] == [4, 1, "GN"]
    assert gn["MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO"] == 2
    keypoints = write_foreign(tmp_path / "b.pkl", drawn(with_profile(small(KEYPOINTS), "detectron2")), "detectron2")
    assert (keypoints["MODEL.MASK_ON"], keypoints["MODEL.KEYPOINT_ON"]) == (False, True)
    assert keypoints["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"] == [16, 16]
    assert not any("ROI_MASK_HEAD" in name for name in keypoints)
    c4 = write_foreign(tmp_path / "c.pkl", drawn(with_profile(small(preset("R-50-C4")), "detectron2")), "detectron2")
    assert c4["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] == 14
    assert c4["MODEL.ROI_MASK_HEAD.NUM_CONV"] == 0
    assert not any("FPN" in name for name in c4)


def test_settings_that_torchvision_cannot_express_are_a_table_unless_forced(tmp_path: Path) -> None:
    ours = drawn(small(FULL))
    with pytest.raises(ConfigError, match=r"torchvision cannot express") as error:
        write_foreign(tmp_path / "a.pth", ours, "torchvision")
    lines = [line.split() for line in str(error.value).splitlines()]
    assert ["pool.aligned", "True", "False"] in lines
    assert ["mask_head.paste", "grid", "padded"] in lines
    assert not (tmp_path / "a.pth").exists()
    settings = write_foreign(tmp_path / "a.pth", ours, "torchvision", force=True)
    assert settings["num_classes"] == 4
    assert not [name for name in settings if "output_size" in name]
    larger = drawn(replace(ours.config, mask_head=replace(ours.config.mask_head, pool_size=12)))
    settings = write_foreign(tmp_path / "b.pth", larger, "torchvision", force=True)
    assert settings["output_size of its mask_roi_pool"] == 12
    got = read_checkpoint(tmp_path / "a.pth").state
    assert all(torch.equal(got[name], ours.state[name]) for name in ours.state)


@pytest.mark.parametrize(
    ("to", "change", "switch"),
    [
        ("torchvision", lambda c: preset("R-50-C4"), "backbone.features"),
        ("torchvision", lambda c: GN, "backbone.norm"),
        ("torchvision", lambda c: AGNOSTIC, "box_head.class_agnostic"),
        ("torchvision", lambda c: replace(c, backbone=replace(c.backbone, stride_in="1x1")), "backbone.stride_in"),
        ("torchvision", lambda c: preset("R-18-FPN-tiny"), "backbone.width"),
        ("torchvision", lambda c: preset("R-18-FPN-tiny"), "input.min_size"),
        ("torchvision", lambda c: replace(c, input=replace(c.input, zoom=2.0)), "input.zoom"),
        ("torchvision", lambda c: replace(c, input=replace(c.input, channels=4)), "input.channels"),
        ("torchvision", lambda c: c, "rpn.min_size"),
        ("torchvision", lambda c: KEYPOINTS, "keypoint_head.score"),
        ("detectron2", lambda c: with_profile(KEYPOINTS, "detectron"), "keypoint_head.frame"),
        ("detectron2", lambda c: replace(c, input=replace(c.input, canvas="buckets")), "input.canvas"),
        ("detectron2", lambda c: preset("R-18-C4"), "backbone.block"),
        ("detectron2", lambda c: with_profile(preset("R-50-C4"), "paper"), "box_head.res5_stride"),
        ("detectron2", lambda c: replace(c, mask_head=replace(c.mask_head, threshold=0.4)), "mask_head.threshold"),
        ("detectron2", lambda c: preset("R-50-C5"), "backbone.features"),
        ("detectron2", lambda c: replace(c, backbone=replace(c.backbone, norm_eps=0.0)), "backbone.norm_eps"),
        ("detectron2", lambda c: with_profile(c, "detectron"), "box_arithmetic.inclusive"),
        ("detectron2", lambda c: replace(c, mask_head=replace(c.mask_head, loss="softmax")), "mask_head.loss"),
        ("torchvision", lambda c: replace(c, pool=replace(c.pool, operator="roi_pool")), "pool.operator"),
        ("detectron2", lambda c: replace(c, box_head=replace(c.box_head, nms="agnostic")), "box_head.nms"),
        ("torchvision", lambda c: replace(c, pool=replace(c.pool, aggregate="max")), "pool.aggregate"),
        ("detectron2", lambda c: with_profile(c, "torchvision"), "anchors.rounding"),
    ],
)
def test_each_limit_is_known(to: str, change: Callable[[ModelConfig], ModelConfig], switch: str) -> None:
    assert switch in [name for name, _, _ in inexpressible(change(FULL), to)]


@pytest.mark.parametrize("to", TARGETS)
def test_every_fixed_setting_is_in_the_profile(to: str) -> None:
    """Otherwise its value would be compared with itself, and another one would not be noticed."""
    base = with_profile(replace(FULL, keypoint_head=replace(FULL.keypoint_head, enabled=True)), to)
    for name in set(TARGETS[to].fixed) - {"anchors.order"}:
        room, leaf = name.split(".")
        part = getattr(base, room)
        before, words = getattr(part, leaf), get_args(get_type_hints(type(part))[leaf])
        number: Any = not before if isinstance(before, bool) else before if words else before + 1
        after = next((word for word in words if word != before), number)
        changed = replace(base, **{room: replace(part, **{leaf: after})})
        assert name in [row[0] for row in inexpressible(changed, to)]


def test_the_order_of_anchors_matters_only_if_a_map_has_several() -> None:
    other = {"torchvision": "size-major", "detectron2": "ratio-major"}
    for to, order in other.items():
        fpn, c4 = with_profile(FULL, to), with_profile(preset("R-50-C4"), to)
        turned = [replace(c, anchors=replace(c.anchors, order=order)) for c in (fpn, c4)]  # type: ignore[arg-type]
        names = [[name for name, _, _ in inexpressible(config, to)] for config in turned]
        assert "anchors.order" not in names[0]
        assert "anchors.order" in names[1]


@pytest.mark.parametrize("name", GOLDENS)
def test_their_own_models_fit(name: str) -> None:
    to = name.partition("-")[0]
    assert inexpressible(with_profile(GOLDENS[name], to), to) == []


def test_a_tensor_without_a_place_is_an_error_even_if_forced() -> None:
    with pytest.raises(ConfigError, match=r"no place for 50 tensors"):
        to_foreign(drawn(small(preset("R-50-C4"))), "torchvision", force=True)


def test_wrong_arguments_are_one_sentence(tmp_path: Path) -> None:
    ours = drawn(small(FULL))
    with pytest.raises(ConfigError, match="torchvision and detectron2, not for 'keras'"):
        write_foreign(tmp_path / "a.pth", ours, "keras")
    with pytest.raises(ConfigError, match=r"\*\.pth or \*\.pt"):
        write_foreign(tmp_path / "a.pkl", ours, "torchvision")
