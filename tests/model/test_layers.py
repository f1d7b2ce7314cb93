"""Layers whose answer must not depend on slots that hold nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrcnn.model.layers import on_valid, unrecorded


def test_empty_slots_are_in_no_statistic() -> None:
    """Three of four slots hold something: the running mean is theirs, whatever lies in the fourth."""
    norm = nn.BatchNorm2d(2).train()
    x = torch.randn(2, 2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    x[1, 1] = float("nan")
    valid = torch.tensor([[True, True], [True, False]])
    found = on_valid(lambda rows: norm(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]), valid, x)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[valid].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found[valid], F.batch_norm(x[valid], None, None, training=True))
    assert found[1, 1].eq(0).all()


@pytest.mark.parametrize("many", [0, 3])
def test_on_valid_keeps_every_parameter_in_the_graph(many) -> None:
    layer = nn.Linear(5, 4)
    valid = torch.arange(6).view(2, 3) < many
    first, second = on_valid(lambda rows: (layer(rows), layer(rows)[..., :1]), valid, torch.ones(2, 3, 5))
    assert first.shape == (2, 3, 4)
    assert second.shape == (2, 3, 1)
    (first * valid[..., None]).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), float(many)))


def test_a_look_ahead_has_the_batchs_statistics_and_leaves_the_norms_alone() -> None:
    norm = nn.BatchNorm2d(3)
    layers = nn.Sequential(nn.Conv2d(2, 3, 1), norm).train()
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    seen = unrecorded(layers)(x)
    torch.testing.assert_close(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0
    assert torch.equal(seen, layers(x))
    assert norm.num_batches_tracked == 1
