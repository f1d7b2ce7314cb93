"""A model's structure from its tensors alone: every kind is built, inferred from its shapes, and must come back."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maskrcnn.config import (
    FPNConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ModelConfig,
    preset,
)
from maskrcnn.errors import CheckpointError
from maskrcnn.model.build import build
from maskrcnn.weights.interop.infer import empty_model, infer, shapes_of

READ = {  # what shapes show
    "backbone": ("block", "blocks", "width", "groups", "width_per_group", "norm", "features"),
    "fpn": ("channels", "norm"),
    "anchors": ("sizes", "ratios"),
    "rpn": ("convs",),
    "box_head": ("kind", "pool_size", "channels", "norm", "class_agnostic"),
    "mask_head": ("enabled", "kind", "convs", "channels", "norm", "class_agnostic"),
    "keypoint_head": ("enabled", "num_keypoints", "convs", "channels"),
}
FPN = preset("R-50-FPN")
C4 = preset("R-50-C4")
CASES: dict[str, ModelConfig] = {
    "R-50-FPN": FPN,
    "R-18-FPN": preset("R-18-FPN"),
    "R-101-FPN": preset("R-101-FPN"),
    "X-101-32x8d-FPN": preset("X-101-32x8d-FPN"),
    "X-101-64x4d-FPN": preset("X-101-64x4d-FPN"),
    "X-152-32x8d-FPN": preset("X-152-32x8d-FPN"),
    "R-50-C4": C4,
    "R-34-C4": preset("R-34-C4"),
    "R-50-C5": preset("R-50-C5"),
    "C4 without masks": replace(C4, mask_head=replace(C4.mask_head, enabled=False)),
    "91 classes": replace(FPN, classes=90),
    "live norms": replace(FPN, backbone=replace(FPN.backbone, norm="bn")),
    "group norms": replace(
        FPN,
        backbone=replace(FPN.backbone, norm="gn"),
        fpn=FPNConfig(norm="gn"),
        box_head=replace(FPN.box_head, kind="4conv1fc", norm="gn"),
        mask_head=MaskHeadConfig(norm="gn"),
    ),
    "like torchvision's second": replace(
        FPN,
        backbone=replace(FPN.backbone, norm="bn"),
        fpn=FPNConfig(norm="bn"),
        rpn=replace(FPN.rpn, convs=2),
        box_head=replace(FPN.box_head, kind="4conv1fc", norm="bn"),
        mask_head=MaskHeadConfig(norm="bn"),
    ),
    "boxes alone": replace(FPN, mask_head=MaskHeadConfig(enabled=False)),
    "keypoints alone": replace(
        FPN, classes=1, mask_head=MaskHeadConfig(enabled=False), keypoint_head=KeypointHeadConfig(enabled=True)
    ),
    "five keypoints and masks": replace(
        FPN, classes=1, keypoint_head=KeypointHeadConfig(enabled=True, num_keypoints=5, convs=2, channels=64)
    ),
    "no class in boxes and masks": replace(
        FPN, box_head=replace(FPN.box_head, class_agnostic=True), mask_head=MaskHeadConfig(class_agnostic=True)
    ),
    "another width": replace(
        FPN, input=replace(FPN.input, channels=5), backbone=replace(FPN.backbone, width=16), fpn=FPNConfig(channels=24)
    ),
    "wide blocks": replace(FPN, backbone=replace(FPN.backbone, width_per_group=128)),
}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    pixels = config.input.channels  # whose mean and deviation no tensor holds
    image = replace(config.input, mean=(0.0,) * pixels, std=(1.0,) * pixels)
    return dict(shapes_of(empty_model(replace(config, input=image)).state_dict()))


def read_of(config: ModelConfig) -> Iterable[tuple[str, Any]]:
    yield "classes", config.classes
    yield "channels", config.input.channels
    for room, names in READ.items():
        part = getattr(config, room)
        if not getattr(part, "enabled", True):
            names = ("enabled",)
        elif room == "fpn" and config.backbone.features != "fpn":
            names = ()
        elif getattr(part, "kind", "") == "res5":
            names = ("kind", "class_agnostic")
        for name in names:
            yield f"{room}.{name}", getattr(part, name)


def test_an_empty_model_has_the_tensors_of_a_real_one_and_draws_nothing() -> None:
    """On the meta device, drawing would import torch's compiler."""

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(func)
            return func(*args, **(kwargs or {}))

    called: list[Any] = []
    with Recorder():
        empty = empty_model(preset("R-18-FPN-tiny"))
    assert called
    assert Tensor.normal_ not in called
    real = build(preset("R-18-FPN-tiny")).state_dict()
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert shapes_of(empty.state_dict()) == shapes_of(real)


@pytest.mark.parametrize("name", CASES)
def test_structure_comes_back(name: str) -> None:
    config = CASES[name]
    got = infer(shapes(config))
    assert dict(read_of(got)) == dict(read_of(config))
    assert shapes(got) == shapes(config)


@pytest.mark.parametrize("name", ["R-50-FPN", "X-101-64x4d-FPN", "R-50-C4", "R-18-FPN"])
def test_the_name_is_the_papers(name: str) -> None:
    assert infer(shapes(preset(name))).name == name


def test_norms_of_the_heads_are_live_even_if_not_counted() -> None:
    """Frameworks freeze norms in the backbone only."""
    found = shapes(CASES["like torchvision's second"])
    uncounted = {name: shape for name, shape in found.items() if not name.endswith("num_batches_tracked")}
    got = infer(uncounted)
    assert (got.backbone.norm, got.fpn.norm, got.box_head.norm, got.mask_head.norm) == ("frozen_bn", "bn", "bn", "bn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_head.class_logits.weight": None}, r"no box_head\.class_logits\.weight"),
        ({"backbone.stem.norm.weight": None, "backbone.stem.norm.running_var": None}, "no norm at backbone.stem"),
        ({"rpn.objectness.weight": (9, 256, 1, 1)}, "9 anchors per position, not 3"),
        ({"backbone.res3.1.conv1.conv.weight": None, "backbone.res3.1.": None}, r"numbered \[0, 2, 3\]"),
        ({"box_head.class_logits.weight": (1, 1024)}, "no class beside the background"),
        ({"box_head.class_logits.weight": (81,)}, r"class_logits\.weight has shape \[81\], which no layer has"),
        ({"rpn.objectness.weight": (0, 256, 1, 1)}, r"objectness\.weight has shape \[0, 256, 1, 1\]"),
        ({"backbone.res2.0.conv2.conv.weight": (64, 0, 3, 3)}, r"conv2\.conv\.weight has shape \[64, 0, 3, 3\]"),
        (
            {"backbone.res2.0.conv2.conv.weight": (256, 7, 3, 3)},
            r"conv2 has shape \[256, 7, 3, 3\], which fits no stem of 64",
        ),
    ],
)
def test_a_missing_or_impossible_tensor_is_named(changes: dict[str, tuple[int, ...] | None], message: str) -> None:
    found = shapes(FPN)
    for name, shape in changes.items():
        if shape is None:
            found = {key: value for key, value in found.items() if not key.startswith(name)}
        else:
            found[name] = shape
    with pytest.raises(CheckpointError, match=message):
        infer(found)


def test_impossible_shapes_of_a_head_are_left_to_the_table_of_differences() -> None:
    """A head that reads no square map, an RPN without its convolution: the default structure is assumed."""
    found = {name: shape for name, shape in shapes(FPN).items() if not name.startswith("rpn.convs.")}
    got = infer(found | {"box_head.fc.0.weight": (1024, 1000)})
    assert (got.box_head.pool_size, got.rpn.convs) == (7, 1)
