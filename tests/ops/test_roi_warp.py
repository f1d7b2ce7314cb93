"""RoIWarp: answers by hand."""

import pytest
import torch

from maskrcnn.ops.roi_warp import roi_warp


@pytest.mark.parametrize(("aggregate", "answer"), [("max", (28, 30, 43, 45)), ("average", (19.5, 21.5, 34.5, 36.5))])
def test_roi_warp_gives_the_known_answer(aggregate, answer) -> None:
    """A map of 6 x 8 pixels with value 10 y + x and the box (1, 1, 5, 4): 3 x 3 samples in bins of 2 x 1.5."""
    ramp = (10.0 * torch.arange(6)[:, None] + torch.arange(8))[None, None]
    one = torch.zeros(1, 1, dtype=torch.int64)
    box = torch.tensor([[[1.0, 1, 5, 4]]])
    got = roi_warp([ramp], box, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate=aggregate)
    assert got.flatten().tolist() == list(answer)


def test_samples_outside_do_not_count() -> None:
    """On a map of ones each bin's mean is one, also if the box hangs over the edge, and zero if no sample is inside."""
    one = torch.zeros(1, 2, dtype=torch.int64)
    boxes = torch.tensor([[[-3.0, -3, 3, 3], [20, 20, 30, 30]]])
    got = roi_warp([torch.ones(1, 1, 5, 5)], boxes, one, one == 0, scales=[(1.0, 1.0)], size=2, aggregate="average")
    assert got[0, 0].flatten().tolist() == [1, 1, 1, 1]
    assert not got[0, 1].any()
