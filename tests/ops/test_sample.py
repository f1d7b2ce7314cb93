"""Random sampling: counts by hand, independence of the batch, and equal chances."""

import pytest
import torch

from maskrcnn.ops.sample import random_keys, sample


def flags(count: int, total: int) -> torch.Tensor:
    return (torch.arange(total) < count)[None]


@pytest.mark.parametrize(
    ("positives", "negatives", "foreground", "chosen"),
    [
        (100, 800, 64, 256),  # a quarter at most
        (10, 800, 10, 256),  # fewer positives leave room for negatives
        (100, 50, 64, 114),  # too few of either
        (0, 800, 0, 256),
        (0, 0, 0, 0),
    ],
)
def test_counts_by_hand(positives, negatives, foreground, chosen) -> None:
    total = 1000
    positive = flags(positives, total)
    negative = flags(positives + negatives, total) & ~positive
    keys = random_keys(torch.tensor([3]), total, stream=1)
    index, fg, valid = sample(positive, negative, keys, size=256, positive_fraction=0.25)
    assert index.shape == fg.shape == valid.shape == (1, 256)
    assert (int(fg.sum()), int(valid.sum())) == (foreground, chosen)
    assert fg[0, :foreground].all(), "foreground comes first"
    assert valid[0, :chosen].all()
    assert positive[0, index[fg]].all()
    assert negative[0, index[valid & ~fg]].all()
    assert len(set(index[valid].tolist())) == chosen, "without replacement"


def test_a_size_beyond_the_candidates_takes_them_all() -> None:
    """The fraction is of the size asked for, not of the candidates, and there are no slots that could not be filled."""
    positive, negative = flags(3, 10), ~flags(3, 10)
    index, fg, valid = sample(positive, negative, torch.rand(1, 10), size=10**7, positive_fraction=0.25)
    assert index.shape == (1, 10)
    assert int(fg.sum()) == 3
    assert valid.all()


def test_keys_depend_on_seed_slot_and_stream_alone() -> None:
    keys = random_keys(torch.tensor([5, 9]), 1000, stream=1)
    assert torch.equal(keys[1:], random_keys(torch.tensor([9]), 1000, stream=1))
    assert torch.equal(keys[:, :10], random_keys(torch.tensor([5, 9]), 10, stream=1))
    for other in (random_keys(torch.tensor([5, 9]), 1000, stream=2), keys.flip(0)):
        assert (keys == other).float().mean() < 0.01


def test_keys_are_uniform() -> None:
    keys = random_keys(torch.arange(200), 1000, stream=2)
    assert keys.min() >= 0
    assert keys.max() < 1
    counts = torch.histc(keys, 20, 0, 1)
    assert (counts - 10000).abs().max() < 500  # five standard deviations of a bin are 487
    assert abs(float(torch.corrcoef(torch.stack((keys[0], keys[1])))[0, 1])) < 0.15


def test_each_candidate_has_the_same_chance() -> None:
    positive, negative = flags(20, 100).expand(2000, -1), ~flags(20, 100).expand(2000, -1)
    keys = random_keys(torch.arange(2000), 100, stream=1)
    index, _, valid = sample(positive, negative, keys, size=20, positive_fraction=0.5)
    share = torch.zeros(2000, 100).scatter_add(1, index, valid.float()).mean(0)
    assert (share[:20] - 0.5).abs().max() < 0.06
    assert (share[20:] - 0.125).abs().max() < 0.04
