"""RoIPool: answers of torchvision's operator, which equal those of Caffe2's."""

import pytest
import torch

from maskrcnn.ops.roi_pool import roi_pool

BY_HAND = [  # a map of 6 x 8 pixels with value 10 y + x, 2 x 2 bins
    (1.0, (1, 1, 5, 4), (23, 25, 43, 45)),
    (1.0, (0, 0, 0.4, 0.4), (0, 0, 0, 0)),
    (1.0, (-3, -2, 3, 2), (0, 3, 20, 23)),
    (1.0, (5, 3, 12, 9), (57, 0, 0, 0)),
    (0.25, (5, 6, 22, 19), (33, 36, 53, 56)),
]


def ramp() -> torch.Tensor:
    return (10.0 * torch.arange(6)[:, None] + torch.arange(8))[None, None]


@pytest.mark.parametrize(("scale", "box", "answer"), BY_HAND)
def test_roi_pool_gives_the_known_answer(scale, box, answer) -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    got = roi_pool([ramp()], torch.tensor([[box]]).float(), one, one == 0, scales=[(scale, scale)], size=2)
    assert got.flatten().tolist() == list(answer)


def test_the_mean_of_a_bin() -> None:
    """Box (1, 1, 4, 2): columns 1 .. 4 and rows 1, 2; the bins are (11, 12), (13, 14), (21, 22), (23, 24)."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    box = torch.tensor([[[1.0, 1, 4, 2]]])
    got = roi_pool([ramp()], box, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate="average")
    assert got.flatten().tolist() == [11.5, 13.5, 21.5, 23.5]
