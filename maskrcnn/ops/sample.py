"""Random sampling with a fixed size and share of positives, without a generator: keys are hashes, the sample a top-k.

A key depends only on the image's seed, the stream and the slot. So a step draws the same sample on any rank, in any
batch and after any resume, compiled or not.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def random_keys(seeds: Int[Tensor, " B"], slots: int, stream: int) -> Float[Tensor, "B slots"]:
    """Uniform keys in [0, 1), 24 bits each. Each kind of sample in a step has its own `stream`."""
    slot = torch.arange(slots, device=seeds.device, dtype=torch.int64)
    x = seeds.to(torch.int64)[:, None] * -7046029254386353131 + (slot + (stream << 40)) * -4658895280553007687
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):  # the finalizer of SplitMix64
        x = (x ^ _shifted(x, shift)) * factor
    return _shifted(x ^ _shifted(x, 31), 40).to(torch.float32) / (1 << 24)


def sample(
    positive: Bool[Tensor, "B N"],
    negative: Bool[Tensor, "B N"],
    keys: Float[Tensor, "B N"],
    *,
    size: int,
    positive_fraction: float,
) -> tuple[Int[Tensor, "B R"], Bool[Tensor, "B R"], Bool[Tensor, "B R"]]:
    """Draws R = min(size, N) candidates, at most `positive_fraction * size` of them positive, the rest negative.

    Returns index, foreground and valid, foreground first. Slots are invalid only if there are too few candidates.
    """
    N = positive.shape[1]
    R, F = min(size, N), min(round(size * positive_fraction), N)
    best = torch.where(positive, keys, -1.0).topk(F, dim=1)
    chosen = torch.zeros_like(positive).scatter(1, best.indices, best.values >= 0)
    rank = torch.where(chosen, keys + 1.0, torch.where(negative & ~positive, keys, -1.0))
    order = rank.topk(R, dim=1)
    valid = order.values >= 0
    return torch.where(valid, order.indices, 0), order.values >= 1.0, valid


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's `>>` keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
