"""Keypoints to cells and back: answers by hand, the round trip, and the rules of the other frameworks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskrcnn.ops.heatmap import decode_keypoints, encode_keypoints

NAN = float("nan")


def test_cells_by_hand() -> None:
    """torchvision's answer for these keypoints in the box (10, 20, 30, 52)."""
    keypoints = torch.tensor([[10.0, 20, 2], [30, 52, 1], [9.9, 20, 2], [20, 30, 0], [29.99, 51.99, 2]])
    cells, seen = encode_keypoints(keypoints[None], torch.tensor([[10.0, 20, 30, 52]]), side=56)
    assert cells.tolist() == [[0, 3135, 0, 0, 3135]]
    assert seen.tolist() == [[True, True, False, False, True]]


def test_keypoints_without_numbers_and_boxes_without_extent_are_not_seen() -> None:
    keypoints = torch.tensor([[[NAN, NAN, NAN], [NAN, 5.0, 2.0], [5.0, 7.0, 2.0]]]).expand(2, 3, 3)
    cells, seen = encode_keypoints(keypoints, torch.tensor([[4.0, 4, 4, 4], [NAN, NAN, NAN, NAN]]), side=8)
    assert not seen.any()
    assert not cells.any()


@pytest.mark.parametrize("points", ["cells", "pixels"])
@pytest.mark.parametrize("bound", [None, (168, 280)])
def test_decoding_returns_the_keypoint_within_half_a_cell(bound, points, torch_rng) -> None:
    """Pixels do so if each cell's centre is a pixel's centre: with 1, 3 or 5 pixels for each cell and axis.

    Otherwise they are up to half a pixel further away, and miss a single cell if the box has fewer pixels than cells.
    """
    Q, J = 56, 6
    side = torch.tensor([[56.0, 168], [280, 56], [168, 168], [61.3, 90.7], [57.0, 130.2], [9.7, 30.0], [0.4, 113.0]])
    side = side if points == "cells" else side[:5]
    N = len(side)
    low = torch.rand(N, 2, generator=torch_rng) * torch.tensor([40.0, 20.0])
    boxes = torch.cat((low, low + side), 1)
    share = torch.rand(N, J, 2, generator=torch_rng)
    if points == "cells":
        share[:, 0], share[:, 1] = 0.1 / Q, 1 - 0.1 / Q  # near the outer edges of the first and the last cell
    keypoints = low[:, None] + side[:, None] * share
    cells, seen = encode_keypoints(torch.cat((keypoints, torch.full((N, J, 1), 2.0)), -1), boxes, side=Q)
    assert seen.all()
    logits = 10.0 * F.one_hot(cells, Q * Q).float().unflatten(-1, (Q, Q))
    got = decode_keypoints(logits, boxes, bound=bound, points=points)
    reach = 0.5 * side / Q
    exact = N if points == "cells" else 3
    reach[exact:] += 0.5
    away = (got[..., :2] - keypoints).abs()
    assert (away <= reach[:, None] + 5e-5).all()
    score = np.exp(10) / (np.exp(10) + Q * Q - 1)
    torch.testing.assert_close(got[:exact, :, 2], torch.full((exact, J), score), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bound", [None, (90, 90)])
def test_decoding_is_that_of_detectron2(bound, torch_rng) -> None:
    """Each map enlarged by PyTorch's bicubic interpolation, its highest pixel, and Detectron2's score."""
    logits = F.interpolate(torch.randn(6, 3, 8, 8, generator=torch_rng) * 3, (56, 56), mode="bicubic")
    low = torch.rand(6, 2, generator=torch_rng) * 10
    side = torch.tensor([[70.3, 61.0], [56.0, 56.0], [12.2, 80.0], [0.3, 9.0], [33.0, 0.0], [56.5, 7.1]])
    boxes = torch.cat((low, low + side), 1)
    for score in ("probability", "logit"):
        got = decode_keypoints(logits, boxes, score=score, points="pixels", bound=bound)
        for n, (w, h) in enumerate(side.clamp(min=1).tolist()):
            width, height = int(np.ceil(w)), int(np.ceil(h))
            resized = F.interpolate(logits[n : n + 1], (height, width), mode="bicubic", align_corners=False)[0]
            peak, at = resized.flatten(1).max(1)
            x, y = (at % width + 0.5) * w / width + low[n, 0], (at // width + 0.5) * h / height + low[n, 1]
            torch.testing.assert_close(got[n, :, 0], x, rtol=0, atol=1e-3)
            torch.testing.assert_close(got[n, :, 1], y, rtol=0, atol=1e-3)
            share = 1 / (logits[n] - peak[:, None, None]).exp().sum((1, 2))
            torch.testing.assert_close(got[n, :, 2], peak if score == "logit" else share, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [{"score": "oks"}, {"points": "lattice"}])
def test_unknown_rules_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        decode_keypoints(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4), **wrong)


def test_no_detections_have_no_keypoints() -> None:
    assert decode_keypoints(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4)).shape == (0, 3, 3)
