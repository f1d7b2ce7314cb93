"""Training from weights of any origin: rows by the names of classes, backbones alone, and what does not fit."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn.categories import Category
from maskrcnn.config import ModelConfig
from maskrcnn.errors import CheckpointError, ConfigError
from maskrcnn.model.build import build
from maskrcnn.training.run import claim_folder
from maskrcnn.training.task import build_model, start_from
from maskrcnn.training.train import train
from maskrcnn.weights.checkpoint import Checkpoint, load_checkpoint
from maskrcnn.weights.interop.profiles import with_profile
from maskrcnn.weights.interop.write import to_foreign, write_foreign
from tests.scenes import TWO_APART, write_coco
from tests.tiny import tiny_config, write_tiny_checkpoint
from tests.training.small import make_run

SMALL_INPUT = "model.input.min_size=64"
SIZES = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
OF_TINY = (
    "model.backbone.width=8",
    "model.fpn.channels=16",
    "model.box_head.channels=32",
    "model.mask_head.channels=16",
    "model.mask_head.convs=1",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two of its three categories have names that COCO knows."""
    path = write_coco(tmp_path, {"a.png": TWO_APART, "b.png": TWO_APART})
    path.write_text(path.read_text().replace('"brick"', '"dog"').replace('"wave"', '"person"'))
    return path


def foreign_config(origin: str) -> ModelConfig:
    config = tiny_config()
    config = replace(
        config,
        classes=90 if origin == "torchvision" else 80,
        anchors=replace(config.anchors, sizes=SIZES),
        backbone=replace(config.backbone, norm="frozen_bn"),
    )
    return with_profile(config, origin)


def make_foreign(path: Path, origin: str) -> dict[str, Tensor]:
    """Writes a whole small model of an origin that numbers COCO's classes; returns its tensors under their names."""
    config = foreign_config(origin)
    checkpoint = Checkpoint(config, (), build(config).state_dict(), {})
    write_foreign(path, checkpoint, origin, force=True)
    return to_foreign(checkpoint, origin, force=True)


@pytest.mark.parametrize(("origin", "file"), [("torchvision", "a.pth"), ("detectron2", "a.pkl")])
def test_rows_are_kept_by_name_and_the_rest_is_new(
    origin: str, file: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = make_foreign(tmp_path / file, origin)
    run, _ = make_run(data, SMALL_INPUT, model=None, weights=tmp_path / file)
    assert (run.config.model.profile, run.config.model.classes) == (origin, 3)
    assert [category.name for category in run.train_data.categories] == ["dog", "leaf", "person"]
    state = build_model(run).state_dict()
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence.startswith(f"start: {tmp_path / file}, {len(state)} of {len(state)} tensors")
    assert "2 of 3 classes keep their rows (dog, person), those of leaf are new" in sentence
    logits = theirs["roi_heads.box_predictor.cls_score.weight"]
    deltas = theirs["roi_heads.box_predictor.bbox_pred.weight"].unflatten(0, (-1, 4))
    masks = "roi_heads.mask_predictor.mask_fcn_logits" if origin == "torchvision" else "roi_heads.mask_head.predictor"
    (dog, person), background = ((18, 1), 0) if origin == "torchvision" else ((16, 0), 80)
    mine = state["box_head.class_logits.weight"]
    assert torch.equal(mine[[0, 2, 3]], logits[[dog, person, background]])
    assert not (mine[1][None] == logits).all(1).any()
    assert torch.equal(state["box_head.box_deltas.weight"].unflatten(0, (-1, 4))[[0, 2]], deltas[[dog, person]])
    assert torch.equal(state["mask_head.predictor.weight"][[0, 2]], theirs[f"{masks}.weight"][[dog, person]])
    assert torch.equal(state["rpn.deltas.bias"], theirs[_RPN_BIAS[origin]])


_RPN_BIAS = {
    "torchvision": "rpn.head.bbox_pred.bias",
    "detectron2": "proposal_generator.rpn_head.anchor_deltas.bias",
}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (("leaf", "dog", "person", "cat"), "all 3 classes keep their rows"),
        (
            ("cat",),
            "no class has a name that the checkpoint knows, so the rows of all classes are new (dog, leaf, person)",
        ),
        (("cat", "leaf"), "1 of 3 classes keep their rows (leaf), those of dog, person are new"),
    ],
)
def test_one_sentence_says_what_is_kept(known: tuple[str, ...], words: str) -> None:
    config = tiny_config()
    before = replace(config, classes=len(known))
    categories = tuple(Category(number, name) for number, name in enumerate(("dog", "leaf", "person"), 1))
    start = Checkpoint(
        before,
        tuple(Category(number, name) for number, name in enumerate(known, 1)),
        build(before).state_dict(),
        {},
    )
    total = len(start.state)
    assert start_from(build(config), start, categories, "x.pth") == f"start: x.pth, {total} of {total} tensors; {words}"


def test_new_heads_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_foreign(tmp_path / "a.pth", "torchvision")
    run, _ = make_run(
        data, SMALL_INPUT, "model.fpn.norm=gn", "model.mask_head.convs=2", model=None, weights=tmp_path / "a.pth"
    )
    build_model(run)
    said = capsys.readouterr().out
    assert "; new: mask_head.convs.1.conv.bias, mask_head.convs.1.conv.weight, neck.laterals.0.norm.bias" in said


# --- backbones alone -------------------------------------------------------------------------------------------------


def backbone_file(path: Path, origin: str, model: nn.Module) -> Path:
    """The backbone of `model` as each of the three publishes one."""
    ours = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}
    ours = {name: tensor for name, tensor in ours.items() if not name.endswith("num_batches_tracked")}
    if origin == "torchvision":
        config = with_profile(tiny_config(), "torchvision")
        theirs = to_foreign(Checkpoint(config, (), ours, {}), "torchvision", force=True)
        torch.save({name.removeprefix("backbone.body."): value for name, value in theirs.items()}, path)
    elif origin == "detectron2":
        theirs = to_foreign(
            Checkpoint(with_profile(tiny_config(), "detectron2"), (), ours, {}), "detectron2", force=True
        )
        arrays = {name.removeprefix("backbone.bottom_up."): value.numpy() for name, value in theirs.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    else:
        path.write_bytes(pickle.dumps(caffe2_names(ours), protocol=2))
    return path


def caffe2_names(ours: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Detectron2's copies of ImageNet's ResNets: Caffe2's names, norms not folded."""
    branches = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b"}
    ends = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    theirs = {"pred_w": np.zeros((10, 64), np.float32)}
    for name, tensor in ours.items():
        _, stage, *rest, part, end = name.split(".")
        layer = "conv1" if stage == "stem" else f"{stage}_{rest[0]}_{branches[rest[1]]}"
        norm = "res_conv1" if stage == "stem" else layer
        theirs[f"{layer}_w" if part == "conv" else f"{norm}_bn_{ends[end]}"] = tensor.numpy()
    return theirs


@pytest.mark.parametrize(
    ("origin", "pixels", "eps"),
    [("torchvision", "rgb", 1e-5), ("detectron2", "rgb", 1e-5), ("detectron", "bgr", 1e-5)],
)
def test_backbones_alone_start_the_model_that_is_asked_for(
    origin: str, pixels: str, eps: float, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = build(replace(tiny_config(), classes=7))
    path = backbone_file(tmp_path / "R-18.bin", origin, source)
    run, _ = make_run(data, *OF_TINY, weights=path)
    model = run.config.model
    assert (model.name, model.profile, model.anchors.sizes[0]) == ("R-18-FPN-tiny", "ours", (12.0,))
    assert (model.backbone.norm, model.backbone.norm_eps, model.backbone.freeze_at) == ("frozen_bn", eps, 2)
    assert (model.backbone.stride_in, model.input.channel_order) == ("3x3", pixels) or origin == "detectron"
    state = build_model(run).state_dict()
    said = capsys.readouterr().out
    truth = source.state_dict()
    body = [name for name in state if name.startswith("backbone.")]
    assert all(torch.equal(state[name], truth[name]) for name in body)
    assert f", {len(body)} of {len(state)} tensors; new: box_head.box_deltas.bias" in said
    assert "rows" not in said


def test_a_backbone_of_another_network_is_refused(data: Path, tmp_path: Path) -> None:
    path = backbone_file(tmp_path / "R-18.pth", "torchvision", build(tiny_config()))
    with pytest.raises(ConfigError, match=r"R-18\.pth is a backbone of \(2, 2, 2, 2\) basic blocks, width 8.*R-50-FPN"):
        make_run(data, model="R-50-FPN", weights=path)
    with pytest.raises(ConfigError, match="which no preset has"):
        make_run(data, model=None, weights=path)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_a_whole_model_is_not_another(data: Path, tmp_path: Path) -> None:
    make_foreign(tmp_path / "a.pth", "torchvision")
    with pytest.raises(ConfigError, match=r"a\.pth is a R-18-FPN, not a R-50-FPN"):
        make_run(data, model="R-50-FPN", weights=tmp_path / "a.pth")
    run, _ = make_run(data, "model.backbone.blocks=[1,1,1,1]", model=None, weights=tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth does not fit this model:\n +backbone\.res2\.1\.conv1"):
        build_model(run)


def test_live_norms_need_an_epsilon(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_foreign(tmp_path / "a.pth", "torchvision")
    words = {"model": None, "weights": tmp_path / "a.pth"}
    with pytest.raises(ConfigError, match=r"model\.backbone\.norm_eps"):
        make_run(data, "model.backbone.norm=bn", "model.backbone.norm_eps=0", **words)
    run, _ = make_run(data, "model.backbone.norm=bn", "model.backbone.norm_eps=1e-5", **words)
    build_model(run)
    said = capsys.readouterr().out
    assert "new:" not in said  # counts of batches start anew, which is no news


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_run_from_a_file_of_detectron2(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_foreign(tmp_path / "a.pkl", "detectron2")

    def run(**changes: Any) -> Path:
        arguments: dict[str, Any] = {"weights": tmp_path / "a.pkl", "out": tmp_path / "run", "epochs": 1, **changes}
        settings = (SMALL_INPUT, "train.workers=0", "train.precision=fp32", "model.box_head.samples=16")
        return train(data, overrides=settings, **arguments)

    found = load_checkpoint(run())
    assert "2 of 3 classes keep their rows (dog, person)" in capsys.readouterr().out
    assert found.config.input.channel_order == "bgr"
    assert found.provenance["start"] == {"weights": "a.pkl", "origin": "detectron2", "file": "a.pkl"}
    run()
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="weights"):
        run(weights=write_tiny_checkpoint(tmp_path / "tiny.safetensors"))


def test_the_folder_of_a_run_and_a_name_are_known_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's identity is what the file holds, whichever way it is named."""
    write_tiny_checkpoint(tmp_path / "earlier" / "model.safetensors")
    run, _ = make_run(data, model=None, weights=tmp_path / "earlier", out=tmp_path / "one")
    assert not claim_folder(run)
    assert claim_folder(run)
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    (tmp_path / "cache" / "torchvision").mkdir(parents=True)
    make_foreign(tmp_path / "cache" / "torchvision" / "maskrcnn_resnet50_fpn.pth", "torchvision")
    name = "torchvision:maskrcnn_resnet50_fpn"
    run, _ = make_run(data, model=None, weights=name, out=tmp_path / "two")
    assert not claim_folder(run)
    build_model(run)
    said = capsys.readouterr().out
    assert said.startswith(f"start: {name}, ")


# --- other channels ---------------------------------------------------------------------------------------------------


def stem(model: Any) -> Any:
    return model.backbone.stem.conv


def with_channels(channels: int, order: str = "rgb") -> ModelConfig:
    config = tiny_config()
    image = replace(config.input, channels=channels, mean=(100.0,) * channels, std=(50.0,) * channels)
    return replace(config, input=replace(image, channel_order=order))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6])
def test_a_grey_image_is_answered_as_before_whatever_the_channels(channels: int, order: str) -> None:
    """The same values in every channel, as much as the weights' sum allows: exactly for multiples and for one."""
    torch.manual_seed(0)
    old, new = build(with_channels(3, order)), build(with_channels(channels, order))
    with torch.no_grad():  # equal weights of all channels make the answer exact for any number
        stem(old).weight[:, 1:] = stem(old).weight[:, :1]
    start = Checkpoint(old.config, (), old.state_dict(), {})
    sentence = start_from(new, start, (), "old")
    assert sentence.endswith(
        f"the first convolution reads {channels} channels with what it learned on 3, repeated and scaled"
    )
    assert "new:" not in sentence
    grey = torch.randn(1, 1, 32, 32)
    answers = [stem(model)(grey.expand(-1, n, -1, -1)) for model, n in ((old, 3), (new, channels))]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=1e-4)


def test_new_channels_repeat_red_green_blue_in_the_image_s_order() -> None:
    torch.manual_seed(0)
    for order in ("rgb", "bgr"):
        old, new = build(with_channels(3, order)), build(with_channels(5, order))
        start_from(new, Checkpoint(old.config, (), old.state_dict(), {}), (), "old")
        first, second = (stem(model).weight for model in (old, new))
        if order == "bgr":
            first, second = first.flip(1), second.flip(1)
        torch.testing.assert_close(second, first[:, [0, 1, 2, 0, 1]] * 3 / 5)


def test_one_channel_gets_the_sum_of_three() -> None:
    torch.manual_seed(0)
    old, new = build(with_channels(3)), build(with_channels(1))
    start_from(new, Checkpoint(old.config, (), old.state_dict(), {}), (), "old")
    torch.testing.assert_close(stem(new).weight, stem(old).weight.sum(1, keepdim=True))


def test_a_widened_stem_is_learned(tmp_path: Path) -> None:
    path = write_coco(tmp_path, {"a.png": TWO_APART, "b.png": TWO_APART})
    for name in ("a", "b"):
        rgb = np.asarray(Image.open(tmp_path / "images" / f"{name}.png"))
        np.save(tmp_path / "images" / f"{name}.npy", np.concatenate([rgb, rgb[..., :2]], axis=2))
    path.write_text(path.read_text().replace(".png", ".npy"))
    weights = write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    run, _ = make_run(tmp_path, model=None, weights=weights)
    assert (run.config.model.input.channels, run.config.model.backbone.freeze_at) == (5, 0)
    assert stem(build_model(run)).weight.requires_grad


def test_weights_that_expect_undivided_pixels_get_them_of_the_same_size(tmp_path: Path, rng) -> None:
    path = write_coco(tmp_path, {"a.png": TWO_APART, "b.png": TWO_APART})
    for name in ("a", "b"):
        np.save(tmp_path / "images" / f"{name}.npy", rng.integers(0, 4000, (48, 64, 3)).astype(np.uint16))
    path.write_text(path.read_text().replace(".png", ".npy"))
    make_foreign(tmp_path / "a.pkl", "detectron2")
    run, _ = make_run(tmp_path, SMALL_INPUT, model=None, weights=tmp_path / "a.pkl")
    image = run.config.model.input
    assert image.channel_order == "bgr"
    assert 1.0 < min(image.std) <= max(image.std) < 1.6  # noise of 0..255 has a deviation of 74, ImageNet one of 58
