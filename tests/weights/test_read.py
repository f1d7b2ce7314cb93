"""Checkpoints of other origins: told apart by content, every tensor and row in its place, no way silently wrong."""

import json
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskrcnn.config import preset
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.weights.read import read_checkpoint, read_start, unwrap
from tests.tiny import CATEGORIES, tiny_config, write_tiny_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


def keys(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / f"{name}.keys.json").read_text())


def stand_in(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of full size and hardly any memory: row r of tensor number n holds 1000 n + r throughout."""
    result = {}
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith("num_batches_tracked"):
            result[name] = torch.tensor(number)
            continue
        rows = torch.arange(shape[0], dtype=torch.float32) + 1000 * number
        result[name] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return result


def first_of_rows(tensor: Tensor) -> list[float]:
    return tensor.flatten(1)[:, 0].tolist() if tensor.ndim > 1 else tensor.tolist()


def by_torchvision(name: str) -> str:
    """Another way to say the table."""
    name = name.replace("backbone.body.", "backbone.").replace("roi_heads.", "")
    name = re.sub(r"layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
    name = name.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"(res\d\.\d+)\.conv(\d)", r"\1.conv\2.conv", name)
    name = re.sub(r"(res\d\.\d+)\.bn(\d)", r"\1.conv\2.norm", name)
    name = name.replace("backbone.conv1", "backbone.stem.conv").replace("backbone.bn1", "backbone.stem.norm")
    name = name.replace("backbone.fpn.inner_blocks", "neck.laterals").replace(
        "backbone.fpn.layer_blocks", "neck.outputs"
    )
    name = re.sub(r"^(neck\.\w+\.\d|(?:box|mask)_head\.\d)\.0\.", r"\1.conv.", name)
    name = re.sub(r"^(neck\.\w+\.\d|(?:box|mask)_head\.\d)\.1\.", r"\1.norm.", name)
    name = re.sub(r"^(box|mask)_head\.(\d)\.(conv|norm)", r"\1_head.convs.\2.\3", name)
    name = re.sub(r"rpn\.head\.conv\.(\d)\.0", r"rpn.convs.\1.conv", name)
    name = name.replace("rpn.head.cls_logits", "rpn.objectness").replace("rpn.head.bbox_pred", "rpn.deltas")
    name = name.replace("box_head.fc6", "box_head.fc.0").replace("box_head.fc7", "box_head.fc.1")
    name = name.replace("box_head.5", "box_head.fc.0")
    name = name.replace("box_predictor.cls_score", "box_head.class_logits")
    name = name.replace("box_predictor.bbox_pred", "box_head.box_deltas")
    name = name.replace("mask_predictor.conv5_mask", "mask_head.deconv")
    name = name.replace("mask_predictor.mask_fcn_logits", "mask_head.predictor")
    name = re.sub(r"keypoint_head\.(\d+)\.", lambda m: f"keypoint_head.convs.{int(m[1]) // 2}.conv.", name)
    return name.replace("keypoint_predictor.kps_score_lowres", "keypoint_head.deconv")


def by_detectron2(name: str) -> str:
    name = name.replace("backbone.bottom_up.", "backbone.").replace("roi_heads.res5", "box_pool.trunk")
    name = re.sub(r"backbone\.fpn_(\w+)(\d)\.", lambda m: f"neck.{m[1]}s.{int(m[2]) - 2}.conv.", name)
    if name.startswith(("backbone.", "box_pool.")):
        name = name.replace("stem.conv1", "stem")
        name = name if ".norm." in name else name.replace(".weight", ".conv.weight")
    name = name.replace("proposal_generator.rpn_head.conv.", "rpn.convs.0.conv.")
    name = name.replace("proposal_generator.rpn_head.objectness_logits", "rpn.objectness")
    name = name.replace("proposal_generator.rpn_head.anchor_deltas", "rpn.deltas")
    name = re.sub(r"roi_heads\.box_head\.fc(\d)", lambda m: f"box_head.fc.{int(m[1]) - 1}", name)
    name = name.replace("roi_heads.box_predictor.cls_score", "box_head.class_logits")
    name = name.replace("roi_heads.box_predictor.bbox_pred", "box_head.box_deltas")
    name = re.sub(r"roi_heads\.(\w+_head)\.\w+_fcn(\d)", lambda m: f"{m[1]}.convs.{int(m[2]) - 1}.conv", name)
    return name.replace("roi_heads.", "").replace("score_lowres", "deconv")


def last_first(rows: list[float]) -> list[float]:
    return [*rows[1:], rows[0]]


ROWS_OF_TORCHVISION: dict[str, Callable[[list[float]], list[float]]] = {
    "box_head.class_logits": last_first,
    "box_head.box_deltas": lambda rows: rows[4:],
    "mask_head.predictor": lambda rows: rows[1:],
}

FILES = {
    "torchvision-maskrcnn_resnet50_fpn": ("R-50-FPN", 90, "bn"),
    "torchvision-maskrcnn_resnet50_fpn_v2": ("R-50-FPN", 90, "bn"),
    "torchvision-fasterrcnn_resnet50_fpn": ("R-50-FPN", 90, "bn"),
    "torchvision-keypointrcnn_resnet50_fpn": ("R-50-FPN", 1, "bn"),
    "detectron2-mask_rcnn_R_50_FPN": ("R-50-FPN", 80, "frozen_bn"),
    "detectron2-faster_rcnn_R_50_FPN": ("R-50-FPN", 80, "frozen_bn"),
    "detectron2-keypoint_rcnn_R_50_FPN": ("R-50-FPN", 1, "frozen_bn"),
    "detectron2-mask_rcnn_R_50_C4": ("R-50-C4", 80, "frozen_bn"),
    "detectron2-mask_rcnn_R_50_DC5": ("R-50-DC5", 80, "frozen_bn"),
    "detectron2-mask_rcnn_X_101_32x8d_FPN": ("X-101-32x8d-FPN", 80, "frozen_bn"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_and_row_finds_its_place(name: str, tmp_path: Path) -> None:
    theirs = stand_in(keys(name))
    torch.save(theirs, tmp_path / "a.pth")
    got = read_checkpoint(tmp_path / "a.pth")
    origin = name.partition("-")[0]
    assert (got.config.name, got.config.classes, got.config.backbone.norm) == FILES[name]
    assert got.provenance == {"origin": origin, "file": "a.pth"}
    say = by_torchvision if origin == "torchvision" else by_detectron2
    assert sorted(got.state) == sorted(map(say, theirs))
    for key, tensor in theirs.items():
        ours = say(key)
        rows: Any = first_of_rows(tensor) if tensor.ndim else tensor.item()
        if origin == "torchvision":
            rows = ROWS_OF_TORCHVISION.get(ours.rpartition(".")[0], lambda rows: rows)(rows)
        mine = got.state[ours]
        assert (first_of_rows(mine) if mine.ndim else mine.item()) == rows, ours


def test_each_origin_has_the_settings_of_its_source(tmp_path: Path) -> None:
    """A few settings of each, by hand from their sources."""

    def read(name: str) -> Any:
        torch.save(stand_in(keys(name)), tmp_path / "a.pth")
        return read_checkpoint(tmp_path / "a.pth").config

    v1, v2 = read("torchvision-maskrcnn_resnet50_fpn"), read("torchvision-maskrcnn_resnet50_fpn_v2")
    assert (v1.profile, v2.profile) == ("torchvision", "torchvision_v2")
    assert (v1.input.channel_order, v1.pool.aligned, v1.anchors.stride) == ("rgb", False, "padded-over-feature")
    assert (v1.backbone.stride_in, v1.mask_head.paste, v1.mask_head.target) == ("3x3", "padded", "soft")
    assert (v2.rpn.convs, v2.box_head.kind, v2.fpn.norm) == (2, "4conv1fc", "bn")
    fpn, c4 = read("detectron2-mask_rcnn_R_50_FPN"), read("detectron2-mask_rcnn_R_50_C4")
    assert (fpn.profile, fpn.input.channel_order, fpn.input.std) == ("detectron2", "bgr", (1, 1, 1))
    assert (fpn.backbone.stride_in, fpn.pool.aligned, fpn.pool.sampling) == ("1x1", True, 0)
    assert (fpn.input.canvas, c4.input.canvas) == ("multiple-of-32", "exact")
    assert (c4.rpn.pre_nms_train, c4.rpn.pre_nms_test, c4.rpn.post_nms_train) == (12000, 6000, 2000)
    keypoints = read("detectron2-keypoint_rcnn_R_50_FPN")
    assert (keypoints.rpn.post_nms_train, keypoints.box_head.smooth_l1_beta) == (1500, 0.5)
    x101 = read("detectron2-mask_rcnn_X_101_32x8d_FPN")
    assert (x101.backbone.stride_in, x101.input.std) == ("3x3", (57.375, 57.12, 58.395))


def test_frozen_norms_of_torchvisions_released_network_have_epsilon_zero_unless_set_otherwise(
    tmp_path: Path,
) -> None:
    theirs = stand_in(keys("torchvision-maskrcnn_resnet50_fpn"))
    torch.save(theirs, tmp_path / "live.pth")
    frozen = {name: tensor for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")}
    torch.save(frozen, tmp_path / "frozen.pth")
    assert read_checkpoint(tmp_path / "frozen.pth").config.backbone.norm_eps == 0
    assert read_checkpoint(tmp_path / "live.pth").config.backbone.norm_eps == 1e-5
    deeper = {name.replace("layer3.5", "layer3.6"): tensor for name, tensor in frozen.items() if "layer3.5" in name}
    torch.save(frozen | deeper, tmp_path / "deeper.pth")
    assert read_checkpoint(tmp_path / "deeper.pth").config.backbone.norm_eps == 1e-5  # as it is built there
    changed = read_checkpoint(
        tmp_path / "live.pth", settings=["backbone.norm=frozen_bn", "model.backbone.norm_eps=0.5"]
    )
    assert (changed.config.backbone.norm, changed.config.backbone.norm_eps) == ("frozen_bn", 0.5)
    assert not any(name.endswith("num_batches_tracked") for name in changed.state)


def test_the_released_names_of_torchvision_are_read_too(tmp_path: Path) -> None:
    theirs = stand_in(keys("torchvision-maskrcnn_resnet50_fpn"))

    def older(name: str) -> str:
        name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)

    torch.save(theirs, tmp_path / "new.pth")
    torch.save({older(name): tensor for name, tensor in theirs.items()}, tmp_path / "old.pth")
    new, old = read_checkpoint(tmp_path / "new.pth"), read_checkpoint(tmp_path / "old.pth")
    assert new.state.keys() == old.state.keys()
    assert all(torch.equal(new.state[name].flatten()[:4], old.state[name].flatten()[:4]) for name in new.state)


def test_pixels_in_older_files_of_detectron2_are_used(tmp_path: Path) -> None:
    theirs = stand_in(keys("detectron2-faster_rcnn_R_50_FPN"))
    theirs["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    theirs["pixel_std"] = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    theirs["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save({"model": theirs, "iteration": 3, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    config = read_checkpoint(tmp_path / "a.pth").config
    assert (config.input.mean, config.input.std) == ((1, 2, 3), (4, 5, 6))


# --- wrappers and formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": Namespace(lr=0.1)},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_found_inside_the_wrappers_of_training_scripts(
    tmp_path: Path, wrap: Callable, zipped: bool
) -> None:
    theirs = stand_in(keys("torchvision-fasterrcnn_resnet50_fpn"))
    torch.save(wrap(theirs), tmp_path / "any.name", _use_new_zipfile_serialization=zipped)
    assert len(read_checkpoint(tmp_path / "any.name").state) == len(theirs)


def test_our_own_files_are_read_as_they_are(tmp_path: Path) -> None:
    got = read_checkpoint(write_tiny_checkpoint(tmp_path / "x.pth"), settings=["box_head.score_threshold=0.5"])
    assert got.config.box_head.score_threshold == 0.5
    assert got.config.backbone == tiny_config().backbone
    assert got.categories == CATEGORIES
    with pytest.raises(ConfigError, match="its own class names"):
        read_checkpoint(tmp_path / "x.pth", classes=["a", "b", "c"])


def test_the_folder_of_a_run_is_its_model(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "run" / "model.safetensors")
    assert read_checkpoint(tmp_path / "run").categories == CATEGORIES
    with pytest.raises(CheckpointError, match=r"without a model\.safetensors"):
        read_checkpoint(tmp_path)


# --- what cannot be read ---------------------------------------------------------------------------------------------


def broken(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    theirs = stand_in(keys("torchvision-fasterrcnn_resnet50_fpn"))
    change(theirs)
    torch.save(theirs, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_tensors_that_do_not_fit_are_one_table(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        del state["rpn.head.bbox_pred.bias"]
        state["backbone.body.layer1.0.conv1.weight"] = torch.zeros(3, 3)
        state["backbone.body.layer1.0.bn1.num_batches_tracked"] = torch.zeros(2)
        state["roi_heads.cascade.0.weight"] = torch.zeros(2, 3)

    with pytest.raises(CheckpointError) as error:
        read_checkpoint(broken(tmp_path, change))
    first, *table = str(error.value).splitlines()
    assert first == f"{tmp_path / 'a.pth'} does not fit this model:"
    assert [" ".join(line.split()) for line in table] == [
        "backbone.res2.0.conv1.conv.weight has shape [3, 3], [64, 64, 1, 1] expected",
        "backbone.res2.0.conv1.norm.num_batches_tracked has shape [2], [] expected",
        "roi_heads.cascade.0.weight no part of a Mask R-CNN, [2, 3]",
        "rpn.deltas.bias missing, [12] expected",
    ]


def test_the_error_for_another_kind_of_model_says_what_it_has_and_lacks(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        for name in list(state):
            if name.startswith("roi_heads."):
                del state[name]
        state["head.classification_head.cls_logits.weight"] = torch.zeros(9, 256, 3, 3)

    with pytest.raises(CheckpointError, match=r"no part of a Mask R-CNN:\n  head\.classification_head"):
        read_checkpoint(broken(tmp_path, change))

    def change_less(state: dict[str, Tensor]) -> None:
        del state["rpn.head.cls_logits.weight"]
        state["other"] = torch.zeros(3)

    with pytest.raises(CheckpointError, match=r"it has no rpn\.objectness\.weight[^\n]*:\n  other +no part"):
        read_checkpoint(broken(tmp_path, change_less))


def test_a_whole_missing_layer_is_an_error(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("rpn.head.conv.")]:
            del state[name]

    with pytest.raises(
        CheckpointError, match=r"\n  rpn\.convs\.0\.conv\.bias +missing.*\n  rpn\.convs\.0\.conv\.weight"
    ):
        read_checkpoint(broken(tmp_path, change))


def test_weights_must_be_floating_point_tensors(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state["rpn.head.cls_logits.weight"] = torch.zeros(3, 256, 1, 1, dtype=torch.int8)
        state["rpn.head.cls_logits.bias"] = torch.tensor(1.0)

    with pytest.raises(CheckpointError, match=r"objectness\.weight +is of torch\.int8\n.*bias +is one number"):
        read_checkpoint(broken(tmp_path, change))


def test_a_long_table_is_cut(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state.update({f"other.{number}": torch.zeros(1) for number in range(30)})

    with pytest.raises(CheckpointError) as error:
        read_checkpoint(broken(tmp_path, change))
    assert len(str(error.value).splitlines()) == 22
    assert str(error.value).endswith("and 10 more")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({"other": torch.zeros(1)}, path), "not a checkpoint of a known kind"),
        (lambda path: torch.save([1], path), "dict of tensors was expected"),
        (lambda path: torch.save({}, path), "it has no tensors"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "it has no tensors"),
        (lambda path: save_file({"other": torch.zeros(1)}, path), "not a checkpoint of a known kind"),
        (lambda path: path.write_bytes(b"hello, this is no checkpoint"), "a.bin"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.mkdir(), "a folder without"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_sentence(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.bin")


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth cannot be read"):
        read_checkpoint(tmp_path / "absent.pth")


# --- backbones alone -------------------------------------------------------------------------------------------------


def backbone_of(name: str) -> dict[str, Tensor]:
    prefix = "backbone.body." if name.startswith("torchvision") else "backbone.bottom_up."
    theirs = stand_in(keys(name))
    return {key.removeprefix(prefix): value for key, value in theirs.items() if key.startswith(prefix)}


def test_a_backbone_can_only_start_a_training(tmp_path: Path) -> None:
    body = backbone_of("torchvision-maskrcnn_resnet50_fpn") | {
        "fc.weight": torch.zeros(9, 4),
        "fc.bias": torch.zeros(9),
    }
    torch.save(body, tmp_path / "resnet50.pth")
    with pytest.raises(CheckpointError, match="only a backbone"):
        read_checkpoint(tmp_path / "resnet50.pth")
    got = read_start(tmp_path / "resnet50.pth")
    assert (got.config.name, got.config.profile, got.categories) == ("R-50-FPN", "ours", ())
    assert (got.config.backbone.norm, got.config.backbone.norm_eps) == ("frozen_bn", 1e-5)
    assert len(got.state) == 53 * 5
    assert all(name.startswith("backbone.") for name in got.state)


def test_a_backbone_of_detectron2_brings_its_pixels_and_strides(tmp_path: Path) -> None:
    torch.save({"model": backbone_of("detectron2-mask_rcnn_R_50_FPN"), "matching_heuristics": True}, tmp_path / "r.pth")
    got = read_start(tmp_path / "r.pth", model=preset("R-50-C4")).config
    assert (got.name, got.backbone.features, got.backbone.stride_in) == ("R-50-C4", "c4", "1x1")
    assert (got.input.channel_order, got.input.mean) == ("bgr", (103.53, 116.28, 123.675))
    state = read_start(tmp_path / "r.pth", model=preset("R-50-C4")).state
    assert any(name.startswith("box_pool.trunk.2.") for name in state)
    assert not any(name.startswith("backbone.res5") for name in state)
    with pytest.raises(ConfigError, match=r"that of R-101-FPN is one of \(3, 4, 23, 3\) bottleneck blocks"):
        read_start(tmp_path / "r.pth", model=preset("R-101-FPN"))


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_is_a_file_in_the_cache_with_its_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    theirs = stand_in(keys("torchvision-keypointrcnn_resnet50_fpn"))
    frozen = {name: tensor for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")}
    (tmp_path / "torchvision").mkdir()
    for model in ("keypointrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn_legacy"):
        torch.save(frozen, tmp_path / "torchvision" / f"{model}.pth")
    got = read_checkpoint("torchvision:keypointrcnn_resnet50_fpn", offline=True)
    assert got.provenance["release"] == "torchvision:keypointrcnn_resnet50_fpn"
    assert "BSD" in got.provenance["licence"]
    assert got.config.backbone.norm_eps == 0
    legacy = read_checkpoint("torchvision:keypointrcnn_resnet50_fpn_legacy", offline=True)
    assert legacy.config.backbone.norm_eps == 1e-5


def test_only_arrays_and_tensors_are_kept() -> None:
    got = unwrap({"a": np.zeros(2, np.float32), "b": torch.ones(1), "c": "text", "d": 3}, "a").tensors
    assert sorted(got) == ["a", "b"]
    with pytest.raises(CheckpointError, match="list"):
        unwrap([1], "a")
