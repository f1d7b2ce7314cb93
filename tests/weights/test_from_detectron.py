"""Detectron's files: the same answers as Detectron written down in NumPy, on random blobs; names, norms, settings."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.predict import Predictor, load
from maskrcnn.weights.checkpoint import save_checkpoint
from maskrcnn.weights.read import read_checkpoint, read_start
from tests.golden.compare import match
from tests.weights.detectron_reference import Rules, detect

RULES = Rules(short_side=64, pre_nms=60, post_nms=30, detections=25)
SETTINGS = (
    "input.min_size=64",
    "rpn.pre_nms_test=60",
    "rpn.post_nms_test=30",
    "box_head.max_detections=25",
)
WIDTH, BLOCKS, CLASSES = 8, (1, 2, 1, 1), 3  # without background


def make_blobs(kind: str, seed: int) -> dict[str, np.ndarray]:
    """Random blobs of a small Mask R-CNN, `fpn` or `c4`, under Detectron's names."""
    rng = np.random.default_rng(seed)
    blobs: dict[str, np.ndarray] = {}

    def layer(name: str, *shape: int, gain: float = 1.0, bias: bool = True) -> None:
        fan_in = int(np.prod(shape[1:]))
        blobs[f"{name}_w"] = (rng.standard_normal(shape) * gain * np.sqrt(2 / fan_in)).astype(np.float32)
        if bias:
            blobs[f"{name}_b"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        blobs[f"{name}_bn_s"] = (1 + 0.1 * rng.standard_normal(channels)).astype(np.float32)
        blobs[f"{name}_bn_b"] = (0.1 * rng.standard_normal(channels)).astype(np.float32)

    layer("conv1", WIDTH, 3, 7, 7, gain=0.02)  # its bias is all zero, and there
    blobs["conv1_b"][:] = 0
    norm("res_conv1", WIDTH)
    channels = WIDTH
    for index, blocks in enumerate(BLOCKS):
        middle, out = WIDTH << index, 4 * WIDTH << index
        for block in range(blocks):
            name = f"res{index + 2}_{block}_branch"
            for branch, shape, gain in (
                ("2a", (middle, channels, 1, 1), 1.0),
                ("2b", (middle, middle, 3, 3), 1.0),
                ("2c", (out, middle, 1, 1), 0.4),
                *((("1", (out, channels, 1, 1), 0.8),) if block == 0 else ()),
            ):
                layer(name + branch, *shape, gain=gain, bias=False)
                norm(name + branch, shape[0])
            channels = out
    rows = CLASSES + 1
    if kind == "c4":
        layer("conv_rpn", 16 * WIDTH, 16 * WIDTH, 3, 3)
        layer("rpn_cls_logits", 15, 16 * WIDTH, 1, 1)
        layer("rpn_bbox_pred", 60, 16 * WIDTH, 1, 1, gain=0.2)
        features = channels
    else:
        for index, blocks in enumerate(BLOCKS):
            name = f"res{index + 2}_{blocks - 1}_sum"
            layer(f"fpn_inner_{name}" + ("" if index == 3 else "_lateral"), 16, 4 * WIDTH << index, 1, 1, gain=0.6)
            layer(f"fpn_{name}", 16, 16, 3, 3)
        layer("conv_rpn_fpn2", 16, 16, 3, 3)
        layer("rpn_cls_logits_fpn2", 3, 16, 1, 1)
        layer("rpn_bbox_pred_fpn2", 12, 16, 1, 1, gain=0.2)
        layer("fc6", 24, 16 * 7 * 7)
        layer("fc7", 24, 24)
        for number in range(1, 5):
            layer(f"_[mask]_fcn{number}", 16, 16, 3, 3)
        features = 24
    layer("cls_score", rows, features, gain=1.5)
    layer("bbox_pred", 4 * rows, features, gain=0.5)
    layer("conv5_mask", channels if kind == "c4" else 16, 16, 2, 2)
    blobs["conv5_mask_b"] = np.zeros(16, np.float32)
    layer("mask_fcn_logits", rows, 16, 1, 1, gain=2.0)
    return blobs


def write(path: Path, blobs: dict[str, np.ndarray], cfg: str = "") -> Path:
    momentum = {f"{name}_momentum": array for name, array in list(blobs.items())[:5]}
    path.write_bytes(pickle.dumps({"blobs": {**blobs, **momentum, "lr": np.float32(0.1)}, "cfg": cfg}, 2))
    return path


CFG = """MODEL:
  BBOX_REG_WEIGHTS: !!python/tuple [10.0, 10.0, 5.0, 5.0]
  CLS_AGNOSTIC_BBOX_REG: false
RESNETS:
  NUM_GROUPS: 1
  STRIDE_1X1: true
"""


@pytest.mark.parametrize("kind", ["fpn", "c4"])
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_are_those_of_detectron(kind: str, seed: int, tmp_path: Path) -> None:
    blobs = make_blobs(kind, seed)
    image = np.random.default_rng(seed).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    expected = detect(blobs, image, RULES)
    wanted_boxes = expected.boxes + np.array([0, 0, 1, 1])  # the reference's boxes end on their last pixel
    assert len(expected.boxes) >= 5
    found = read_checkpoint(write(tmp_path / "model_final.pkl", blobs, CFG), settings=SETTINGS)
    assert found.config.profile == "detectron"
    save_checkpoint(tmp_path / "m.safetensors", found)
    least = found.config.box_head.score_threshold
    (result,) = load(tmp_path / "m.safetensors").predict([image], score_threshold=least)
    order = match(wanted_boxes, expected.labels, result.boxes, result.labels)
    assert len(result.boxes) == len(expected.boxes)
    assert (order >= 0).all()
    assert np.abs(result.boxes[order] - wanted_boxes).max() < 1e-3
    assert np.abs(result.scores[order] - expected.scores).max() < 1e-4
    masks = result.masks
    assert masks is not None
    wrong = (masks[order] != expected.masks).mean(axis=(1, 2))
    assert wrong.max() < 0.01
    assert expected.masks.any()


def test_norms_are_unfolded_and_other_blobs_are_ignored(tmp_path: Path) -> None:
    blobs = make_blobs("fpn", 0)
    got = read_checkpoint(write(tmp_path / "a.pkl", blobs))
    assert got.config.backbone.norm == "frozen_bn"
    assert got.config.backbone.norm_eps == 0
    norm = "backbone.res3.1.conv2.norm"
    assert torch.equal(got.state[f"{norm}.weight"], torch.from_numpy(blobs["res3_1_branch2b_bn_s"]))
    assert got.state[f"{norm}.running_mean"].abs().max() == 0
    assert (got.state[f"{norm}.running_var"] == 1).all()
    assert got.categories[0].name == "class-1"
    assert torch.equal(
        got.state["neck.laterals.2.conv.bias"], torch.from_numpy(blobs["fpn_inner_res4_0_sum_lateral_b"])
    )
    assert torch.equal(got.state["neck.laterals.3.conv.bias"], torch.from_numpy(blobs["fpn_inner_res5_0_sum_b"]))


@pytest.mark.parametrize(
    ("cfg", "stride", "weights"),
    [
        ("", "1x1", (10, 10, 5, 5)),
        (CFG, "1x1", (10, 10, 5, 5)),
        ("RESNETS: {STRIDE_1X1: false, NUM_GROUPS: 1}\n", "3x3", (1, 1, 1, 1)),  # too old to have the weights
        ("MODEL:\n  BBOX_REG_WEIGHTS:\n  - 10.0\n  - 10.0\n  - 5.0\n  - 2.5\n  X: 1\n", "1x1", (10, 10, 5, 2.5)),
        ("MODEL: {BBOX_REG_WEIGHTS: [1.0, 2.0, 3.0, 4.0], X: 5}", "1x1", (1, 2, 3, 4)),
    ],
)
def test_the_settings_in_the_file_are_used(
    cfg: str, stride: str, weights: tuple[float, float, float, float], tmp_path: Path
) -> None:
    config = read_checkpoint(write(tmp_path / "a.pkl", make_blobs("fpn", 0), cfg)).config
    assert (config.backbone.stride_in, config.box_head.weights) == (stride, weights)


def test_what_follows_from_the_structure(tmp_path: Path) -> None:
    """Rows of anchors were put in our order, so the anchors are in it, too; C4 differs in its sampling and its loss."""
    c4, fpn = (read_checkpoint(write(tmp_path / "a.pkl", make_blobs(kind, 0))).config for kind in ("c4", "fpn"))
    assert c4.anchors.order == fpn.anchors.order == "size-major"
    assert (c4.pool.sampling, c4.rpn.normalise, c4.input.canvas) == (0, "counted", "exact")
    assert (fpn.pool.sampling, fpn.rpn.normalise, fpn.input.canvas) == (2, "samples", "multiple-of-32")


def test_group_norms_have_other_names(tmp_path: Path) -> None:
    blobs = make_blobs("fpn", 0)
    grouped = {}
    for name, array in blobs.items():
        if (name.startswith("fpn_") and name.endswith("_b")) or (name.startswith("_[mask]") and name.endswith("_b")):
            stem = name.removesuffix("_b").replace("_[mask]", "_mask")
            grouped |= {f"{stem}_gn_s": np.ones_like(array), f"{stem}_gn_b": array}
        else:
            grouped[name.replace("res_conv1", "conv1").replace("_bn_", "_gn_").replace("_[mask]", "_mask")] = array
    for number in range(1, 5):
        grouped[f"head_conv{number}_w"] = np.zeros((256, 16 if number == 1 else 256, 3, 3), np.float32)
        grouped |= {
            f"head_conv{number}_gn_s": np.ones(256, np.float32),
            f"head_conv{number}_gn_b": np.zeros(256, np.float32),
        }
    grouped["fc6_w"] = np.zeros((24, 256 * 49), np.float32)
    del grouped["fc7_w"], grouped["fc7_b"], grouped["conv1_b"]
    config = read_checkpoint(write(tmp_path / "a.pkl", grouped)).config
    assert (config.backbone.norm, config.fpn.norm, config.box_head.norm, config.mask_head.norm) == ("gn",) * 4
    assert (config.box_head.kind, config.backbone.stride_in, config.backbone.norm_eps) == ("4conv1fc", "3x3", 1e-5)


def test_a_backbone_of_blobs_starts_a_training(tmp_path: Path) -> None:
    body = {name: array for name, array in make_blobs("c4", 0).items() if name.startswith(("conv1", "res"))}
    body |= {"fc1000_w": np.zeros((10, 4), np.float32), "fc1000_b": np.zeros(10, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(body, 2))
    with pytest.raises(CheckpointError, match="only a backbone"):
        read_checkpoint(tmp_path / "R-50.pkl")
    with pytest.raises(ConfigError, match="width 8, 1x64d, which no preset has"):
        read_start(tmp_path / "R-50.pkl")


def test_a_loaded_file_is_a_predictor(tmp_path: Path) -> None:
    assert isinstance(load(write(tmp_path / "a.pkl", make_blobs("fpn", 0), CFG)), Predictor)
