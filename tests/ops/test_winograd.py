"""Winograd's convolution against the direct one, in float64."""

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops.dispatch import implementations
from maskrcnn.ops.winograd import transform_weights, winograd

IMPLS = implementations("winograd")
SHAPES = [(1, 3, 2, 1, 1), (2, 5, 7, 4, 6), (2, 16, 8, 7, 9), (1, 8, 24, 1, 12), (3, 4, 4, 33, 50)]  # B C D H W
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}  # of the answer's root mean square


def drawn(shape, dtype):
    B, C, D, H, W = shape
    rng = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(B, C, H, W, generator=rng).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(D, C, 3, 3, generator=rng) / (3 * C**0.5)
    add = torch.randn(B, D, H, W, generator=rng).to(dtype)
    return x, weight, torch.randn(D, generator=rng), add


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("relu", "adds"), [(False, False), (True, False), (True, True), (False, True)])
def test_it_equals_the_direct_convolution(shape, dtype, relu, adds, impl) -> None:
    x, weight, bias, add = drawn(shape, dtype)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    wanted = wanted + add.double() if adds else wanted
    got = winograd(x, transform_weights(weight, dtype), bias, add if adds else None, relu=relu, impl=impl)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    error = (got.double() - (wanted.relu() if relu else wanted)).square().mean().sqrt()
    assert error <= TOLERANCE[dtype] * wanted.square().mean().sqrt()


def test_float64_is_the_references() -> None:
    x, weight, bias, _ = drawn((1, 3, 2, 5, 6), torch.float64)
    got = winograd(x, transform_weights(weight, torch.float64), bias, relu=False)
    torch.testing.assert_close(got, F.conv2d(x, weight.double(), bias.double(), padding=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_single_pixel_spreads_the_weights(impl) -> None:
    """By hand: around a single one the weights 0 to 8 appear mirrored, and the bias everywhere."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    weight = torch.arange(9.0).view(1, 1, 3, 3)
    got = winograd(x, transform_weights(weight, torch.float32), torch.tensor([10.0]), relu=False, impl=impl)
    wanted = torch.full((5, 5), 10.0)
    wanted[1:4, 1:4] += torch.arange(9.0).flip(0).view(3, 3)
    assert torch.equal(got[0, 0], wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_image_does_not_depend_on_the_others_in_its_batch(impl) -> None:
    x, weight, bias, _ = drawn((3, 4, 4, 33, 50), torch.float32)
    weights = transform_weights(weight, torch.float32)
    x[1] = torch.nan
    together = winograd(x, weights, bias, relu=True, impl=impl)
    assert together[1].isnan().all()
    for b in (0, 2):
        assert torch.equal(together[b], winograd(x[b : b + 1], weights, bias, relu=True, impl=impl)[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_without_images_the_answer_is_empty(impl) -> None:
    weights = transform_weights(torch.zeros(4, 2, 3, 3), torch.float32)
    assert winograd(torch.zeros(0, 2, 5, 6), weights, torch.zeros(4), relu=True, impl=impl).shape == (0, 4, 5, 6)
