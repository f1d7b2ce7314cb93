"""Prepared for inference, a model says what it said before."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

from maskrcnn.accelerate.fused import FusedConv, WinogradConv, can_fuse, suits_winograd
from maskrcnn.accelerate.prepare import prepare
from maskrcnn.config import ModelConfig, preset
from maskrcnn.device import arithmetic, choose_precision
from maskrcnn.errors import ConfigError
from maskrcnn.model.build import build
from maskrcnn.model.layers import ConvNorm, FrozenBatchNorm
from maskrcnn.structures import Images

CPU = torch.device("cpu")
Model = TypeVar("Model", bound=nn.Module)


def small(norm: str) -> ModelConfig:
    config = preset("R-18-FPN-tiny")
    backbone = replace(config.backbone, norm=norm, width=8, freeze_at=0)
    return replace(
        config, classes=3, backbone=backbone, box_head=replace(config.box_head, score_threshold=0.0, max_detections=20)
    )


def wild(model: Model, seed: int = 0) -> Model:
    """Statistics and affines of every norm drawn from a seed, so that folding them wrongly shows."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2, generator=rng)
                module.running_var.uniform_(0.5, 2, generator=rng)
                module.weight.uniform_(0.5, 1.5, generator=rng)
                module.bias.normal_(0, 0.2, generator=rng)
    return model


def drawn_images(seed: int = 0) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=rng, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 70]])
    return Images(pixels, sizes, sizes, torch.ones(2, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("features", ["shared", "own"])
@pytest.mark.parametrize(("norm", "order"), [("frozen_bn", "rgb"), ("bn", "bgr"), ("gn", "rgb")])
def test_the_prepared_model_gives_the_same_maps_and_detections(norm: str, order: str, features: str) -> None:
    config = small(norm)
    config = replace(config, input=replace(config.input, channel_order=order, mean=(90.0, 120.0, 150.0)))
    config = replace(config, rpn=replace(config.rpn, features=features))
    model = wild(build(config)).eval()
    assert model.normalise.reverse_channels == (order == "bgr")
    images = drawn_images()
    with torch.inference_mode():
        expected, prepared = model.pyramid(images), prepare(model)
        for got, want in zip(prepared.pyramid(images), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        logits, expected_logits = (each.rpn(each.pyramid(images), images).logits for each in (prepared, model))
        torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
        before, after = model.detect(images), prepared.detect(images)
    torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0.01)


def folded(block: ConvNorm, dtype: torch.dtype) -> ConvNorm:
    block = block.eval().requires_grad_(False).to(dtype)
    block.conv.weight.data = block.conv.weight.data.contiguous(memory_format=torch.channels_last)
    return block


BLOCKS = {
    "1x1": {"kernel": 1, "relu": True},
    "3x3": {"kernel": 3},
    "stride": {"kernel": 3, "stride": 2, "relu": True},
    "7x7 stride": {"kernel": 7, "stride": 2, "relu": True},
    "dilation": {"kernel": 3, "dilation": 2, "relu": True},
    "groups": {"kernel": 3, "groups": 8, "relu": True},
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_convolution_says_what_its_block_says(name: str, dtype: torch.dtype, torch_rng) -> None:
    block = folded(ConvNorm(16, 32, **BLOCKS[name]), dtype)
    if not can_fuse(block):
        pytest.skip(f"oneDNN has no {dtype} here")
    fused = FusedConv(block)
    x = torch.randn(2, 16, 19, 26, generator=torch_rng).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        want = block(x)
        add = torch.randn(want.shape, generator=torch_rng).to(dtype).contiguous(memory_format=torch.channels_last)
        rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (2e-2, 5e-2)
        got = fused(x)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
        torch.testing.assert_close(fused(x, add.clone()), block(x, add), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [True, False])
def test_a_wide_3x3_says_what_its_block_says(relu: bool, dtype: torch.dtype, torch_rng) -> None:
    block = ConvNorm(128, 160, 3, relu=relu).eval().requires_grad_(False)
    if not suits_winograd(block, dtype):
        pytest.skip("Numba is not installed, or AMX is there")
    wide = WinogradConv(block, dtype)
    x = torch.randn(2, 128, 9, 14, generator=torch_rng).contiguous(memory_format=torch.channels_last)
    add = torch.randn(2, 160, 9, 14, generator=torch_rng).contiguous(memory_format=torch.channels_last)
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2e-2, 3e-2)
    with torch.inference_mode():
        torch.testing.assert_close(wide(x).float(), block(x), rtol=rtol, atol=atol)
        torch.testing.assert_close(wide(x, add).float(), block(x, add), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", [*BLOCKS, "narrow"])
def test_only_wide_plain_3x3_take_winograd(name: str) -> None:
    channels = 64 if name == "narrow" else 128
    block = ConvNorm(channels, 128, **BLOCKS.get(name, {"kernel": 3}))
    if name == "3x3" and not suits_winograd(block, torch.float32):
        pytest.skip("Numba is not installed")
    assert suits_winograd(block, torch.float32) == (name == "3x3")
    assert not suits_winograd(block, torch.float16)


def test_what_can_be_fused_is_fused_and_only_where_asked() -> None:
    blocks = sum(isinstance(module, ConvNorm) for module in build(small("bn")).modules())

    def fused(norm: str, **how: Any) -> int:
        return sum(isinstance(module, FusedConv) for module in prepare(build(small(norm)), **how).modules())

    assert fused("bn") == blocks
    assert 0 < fused("gn") < blocks  # of group norm only blocks without a norm: FPN, RPN and heads
    assert fused("bn", fuse=False) == 0


@pytest.mark.parametrize("norm", ["frozen_bn", "bn"])
def test_norms_are_gone_from_the_copy_and_remain_in_the_model(norm: str) -> None:
    model = wild(build(small(norm)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    prepared = prepare(model)
    assert not any(isinstance(module, FrozenBatchNorm | nn.BatchNorm2d) for module in prepared.modules())
    assert model.training
    assert not prepared.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in prepared.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_a_prepared_model_is_not_prepared_again_but_can_be_kept() -> None:
    config = small("bn")
    config = replace(config, fpn=replace(config.fpn, channels=128))  # wide enough for Winograd
    prepared, other = (prepare(wild(build(config), seed)) for seed in range(2))
    with pytest.raises(ValueError, match="already prepared"):
        prepare(prepared, "bf16")
    other.load_state_dict(prepared.state_dict())
    with torch.inference_mode():
        assert torch.equal(other.detect(drawn_images()).boxes, prepared.detect(drawn_images()).boxes)


def test_folding_by_hand() -> None:
    """w 2, mean 1, var 4 - eps, weight 3, bias 5: y = (2x - 1) / 2 * 3 + 5 = 3x + 3.5."""
    block = ConvNorm(1, 1, 1, norm="frozen_bn", norm_eps=1.0)
    with torch.no_grad():
        block.conv.weight.fill_(2.0)
        for name, value in (("running_mean", 1.0), ("running_var", 3.0), ("weight", 3.0), ("bias", 5.0)):
            getattr(block.norm, name).fill_(value)
    from maskrcnn.accelerate.prepare import _fold

    _fold(block)
    assert block.norm is None
    assert block.conv.weight.item() == 3.0
    assert block.conv.bias is not None
    assert block.conv.bias.item() == 3.5


def test_bf16_stays_near_and_boxes_stay_float32() -> None:
    model = wild(build(small("bn"))).eval()
    images = drawn_images()
    prepared: Any = prepare(model, "bf16")
    assert prepared.box_head.fc[0].weight.dtype == torch.bfloat16
    assert prepared.normalise.mean.dtype == torch.float32
    with torch.inference_mode(), arithmetic("bf16", CPU):
        got = prepared.pyramid(images)
        detections = prepared.detect(images)
    want = model.pyramid(images)
    assert got[0].dtype == torch.bfloat16
    assert (got[0].float() - want[0]).abs().max() < 0.05 * want[0].abs().max()
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32


def test_precision_is_what_was_asked_for() -> None:
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert choose_precision("auto", torch.device("meta")) == "fp32"
    assert choose_precision("auto", CPU, "torchvision") == "fp32"
    assert choose_precision("bf16", CPU, "torchvision") == "bf16"
    with pytest.raises(ConfigError, match="fp8"):
        choose_precision("fp8", CPU)
