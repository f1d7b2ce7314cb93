"""Masks seen through RoIs: answers by hand, the kernel equal to the reference, NaN in slots that are not read."""

import pytest
import torch

from maskrcnn.ops.crop_masks import crop_masks
from maskrcnn.ops.dispatch import implementations, recorded_paths

IMPLS = implementations("crop_masks")


def crop(bits, frame, box, impl, side=4, **more):
    with recorded_paths() as paths:
        out = crop_masks(
            bits[None, None],
            torch.tensor([[frame]]).float(),
            torch.zeros(1, 1, dtype=torch.long),
            torch.tensor([[box]]).float(),
            torch.ones(1, 1, dtype=torch.bool),
            side=side,
            impl=impl,
            **more,
        )
    assert paths == [f"crop_masks:{impl}"]
    return out[0, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_full_mask_covers_its_frame(impl) -> None:
    full = torch.ones(16, 16, dtype=torch.bool)
    inside = crop(full, (0, 0, 32, 32), (8, 8, 24, 24), impl)
    torch.testing.assert_close(inside, torch.ones(4, 4))
    beside = crop(full, (0, 0, 32, 32), (40, 0, 72, 32), impl)
    torch.testing.assert_close(beside, torch.zeros(4, 4))
    across = crop(full, (0, 0, 32, 32), (-32, 0, 32, 32), impl)  # the left half of the RoI lies outside
    torch.testing.assert_close(across[1:3, 0], torch.zeros(2))
    torch.testing.assert_close(across[1:3, 3], torch.tensor([1.0, 1.0]), atol=0.07, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_mirrored_frame_mirrors_the_mask(impl) -> None:
    bits = torch.zeros(8, 8, dtype=torch.bool)
    bits[:, :4] = True
    plain = crop(bits, (0, 0, 16, 16), (0, 0, 16, 16), impl)
    mirrored = crop(bits, (16, 0, 0, 16), (0, 0, 16, 16), impl)
    torch.testing.assert_close(plain[1], torch.tensor([1.0, 1.0, 0.0, 0.0]), atol=0.15, rtol=0)
    torch.testing.assert_close(mirrored, plain.flip(1))


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("impl", [name for name in IMPLS if name != "reference"])
def test_the_kernel_equals_the_reference(impl, seed, samples) -> None:
    rng = torch.Generator().manual_seed(seed)
    B, G, F, S = 2, 3, 5, 7 + seed
    bits = torch.rand(B, G, S, S, generator=rng) > 0.5
    corners = torch.rand(B, G, 2, 2, generator=rng) * 40  # in any order: some are mirrored
    frames = corners.flatten(2)
    frames[0, 0, 2] = frames[0, 0, 0]  # without extent
    low = torch.rand(B, F, 2, generator=rng) * 40 - 5
    boxes = torch.cat([low, low + torch.rand(B, F, 2, generator=rng) * 30], dim=2)
    boxes[0, 0, 2:] = boxes[0, 0, :2]
    index = torch.randint(0, G, (B, F), generator=rng)
    valid = torch.rand(B, F, generator=rng) > 0.3
    poison = torch.where(valid[..., None], boxes, float("nan"))
    expected = crop_masks(bits, frames, index, poison, valid, side=6, samples=samples, impl="reference")
    got = crop_masks(bits, frames, index, poison, valid, side=6, samples=samples, impl=impl)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_cropping_without_rois_is_no_error(impl) -> None:
    none = torch.zeros(2, 0, dtype=torch.long)
    out = crop_masks(
        torch.zeros(2, 3, 8, 8, dtype=torch.bool), torch.zeros(2, 3, 4), none, torch.zeros(2, 0, 4), none.bool(),
        side=5, impl=impl,
    )  # fmt: skip
    assert out.shape == (2, 0, 5, 5)
