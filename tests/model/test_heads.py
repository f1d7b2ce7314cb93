"""The branches: each says what its plain form would say."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from maskrcnn.config import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig
from maskrcnn.model.box_head import BoxHead
from maskrcnn.model.keypoint_head import KeypointHead
from maskrcnn.model.mask_head import MaskHead, MaskMLPHead

LABELS = torch.tensor([[3, 0, 1], [2, 2, 3]])


def fcn(**changes: Any) -> MaskHead:
    return MaskHead(5, 4, MaskHeadConfig(**{"convs": 1, "channels": 6, **changes}))


def mlp(**changes: Any) -> MaskMLPHead:
    return MaskMLPHead(5, 4, MaskHeadConfig(**{"kind": "mlp2", "pool_size": 7, **changes}), channels=12)


def all_maps(head: MaskHead | MaskMLPHead, pooled: torch.Tensor) -> torch.Tensor:
    """Every class's logits [N O M M], the plain way."""
    x = pooled.flatten(0, 1)
    if isinstance(head, MaskHead):
        return head.predictor(torch.relu(head.deconv(head.convs(x))))
    x = x.flatten(1)
    for layer in head.fc:
        x = layer(x).relu()
    return head.predictor(x).unflatten(1, (-1, 14, 14))


@pytest.mark.parametrize("make", [fcn, mlp])
def test_the_map_of_the_class_is_that_of_all_maps(make, torch_rng) -> None:
    head = make()
    pooled = torch.randn(2, 3, 5, 7, 7, generator=torch_rng)
    weight = torch.randn(2, 3, 14, 14, generator=torch_rng)
    got = head(pooled, LABELS)
    wanted = all_maps(head, pooled)[torch.arange(6), LABELS.flatten()].unflatten(0, (2, 3))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    parameters = list(head.parameters())
    for g, w in zip(*(torch.autograd.grad((out * weight).sum(), parameters) for out in (got, wanted)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [fcn, mlp])
def test_one_map_serves_all_classes_where_agnostic(make, torch_rng) -> None:
    head = make(class_agnostic=True)
    pooled = torch.randn(2, 3, 5, 7, 7, generator=torch_rng)
    assert torch.equal(head(pooled, LABELS), head(pooled, LABELS * 0))
    assert all_maps(head, pooled).shape[1] == 1


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("make", [fcn, mlp])
def test_classes_compete_with_background_first(make, agnostic, torch_rng) -> None:
    head = make(class_agnostic=agnostic, loss="softmax")
    pooled = torch.randn(2, 3, 5, 7, 7, generator=torch_rng)
    shares = all_maps(head, pooled).softmax(1)
    assert shares.shape[1] == (2 if agnostic else 5)
    rows = LABELS.flatten() * 0 if agnostic else LABELS.flatten()
    got = head(pooled, LABELS).exp().flatten(0, 1)
    torch.testing.assert_close(got[:, 0], shares[:, 0])
    torch.testing.assert_close(got[:, 1], shares[torch.arange(6), rows + 1])


def test_detectrons_edges_are_its_fixed_deconvolution(torch_rng) -> None:
    """Kernel (1/4, 3/4, 3/4, 1/4) each way, stride 2, zeros around; inside, both ways agree."""
    config = KeypointHeadConfig(num_keypoints=3, convs=1, channels=6)
    plain, zeros = KeypointHead(5, config), KeypointHead(5, replace(config, upsample="deconv"))
    zeros.load_state_dict(plain.state_dict())
    pooled = torch.randn(2, 3, 5, 7, 7, generator=torch_rng)
    low = plain.deconv(plain.convs(pooled.flatten(0, 1)))
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 4, 4)
    wanted = F.conv_transpose2d(low, kernel, stride=2, padding=1, groups=3).unflatten(0, (2, 3))
    torch.testing.assert_close(zeros(pooled), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.shape == (2, 3, 3, 28, 28)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(plain(pooled)[inside], wanted[inside], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(pooled), wanted)


@pytest.mark.parametrize(("kind", "convs", "layers"), [("2fc", 0, 2), ("4conv1fc", 4, 1), ("res5", 0, 0)])
def test_the_box_branch_gives_classes_and_deltas(kind, convs, layers, torch_rng) -> None:
    head = BoxHead(5, 3, BoxHeadConfig(kind=kind, channels=8))
    assert (len(head.convs), len(head.fc)) == (convs, layers)
    pooled = torch.randn(2, 4, 5, 7, 7, generator=torch_rng)
    logits, deltas = head(pooled)
    assert logits.shape == (2, 4, 4)
    assert deltas.shape == (2, 4, 3, 4)
    if kind == "res5":  # C4: the mean over positions
        torch.testing.assert_close(logits, head.class_logits(pooled.mean((3, 4))))
