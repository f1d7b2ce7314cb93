"""Losses: numbers by hand, and counts that say what they divide."""

import math

import pytest
import torch

from maskrcnn.config import BoxHeadConfig, RPNConfig
from maskrcnn.model.losses import (
    box_loss,
    keypoint_loss,
    mask_loss,
    rpn_loss,
    smooth_l1,
    total,
)
from maskrcnn.model.rpn import RPNOutput
from maskrcnn.structures import AnchorTargets, Losses, RoIs, Term


def test_smooth_l1_by_hand() -> None:
    x = torch.tensor([0.1, -1.0, 0.0])
    torch.testing.assert_close(smooth_l1(x, 1 / 9), torch.tensor([0.045, 1 - 1 / 18, 0]))
    torch.testing.assert_close(smooth_l1(x, 1.0), torch.tensor([0.005, 0.5, 0]))
    torch.testing.assert_close(smooth_l1(x, 0.0), x.abs())


@pytest.mark.parametrize(("beta", "answer"), [(1 / 9, [0.9, -1.0]), (1.0, [0.1, -1.0])])
def test_its_slope_by_hand(beta, answer) -> None:
    x = torch.tensor([0.1, -1.0], requires_grad=True)
    smooth_l1(x, beta).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor(answer))


@pytest.mark.parametrize(("normalise", "count"), [("samples", 8.0), ("counted", 3.0)])
def test_the_rpns_loss_by_hand(normalise, count) -> None:
    """Three anchors of two images sampled; the logit 0 costs log 2, whatever it should say."""
    targets = AnchorTargets(
        index=torch.tensor([[4, 1], [2, 0]]),
        deltas=torch.tensor([[[1.0, 0, 0, 0], [9, 9, 9, 9]], [[9, 9, 9, 9], [float("nan")] * 4]]),
        foreground=torch.tensor([[True, False], [False, False]]),
        valid=torch.tensor([[True, True], [True, False]]),
    )
    scored = RPNOutput(torch.zeros(5, 4), torch.zeros(2, 5), torch.zeros(2, 5, 4), (5,))
    classes, boxes = rpn_loss(scored, targets, RPNConfig(samples=4, normalise=normalise, smooth_l1_beta=0.0))
    torch.testing.assert_close(classes.sum, torch.tensor(3 * math.log(2)))
    assert (boxes.sum, classes.count, boxes.count) == (1, count, count)


def rois(foreground: list[bool], valid: list[bool], labels: list[int]) -> RoIs:
    R = len(valid)
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(R, 1)[None]
    return RoIs(
        boxes,
        torch.tensor([labels]),
        torch.zeros(1, R, dtype=torch.int64),
        boxes + 1,
        torch.tensor([foreground]),
        torch.tensor([valid]),
    )


@pytest.mark.parametrize("rows", [3, 1])
def test_the_box_branchs_loss_by_hand(rows) -> None:
    """Uniform logits over K + 1 = 4 cost log 4; the true delta of the foreground RoI is (0.1, 0.1, 0, 0)."""
    deltas = torch.full((1, 3, rows, 4), 77.0)
    deltas[0, 0, 2 % rows] = torch.tensor([0.1, 0.3, 0, -0.5])
    classes, boxes = box_loss(
        torch.zeros(1, 3, 4),
        deltas,
        rois([True, False, False], [True, True, False], [2, 3, 3]),
        BoxHeadConfig(weights=(1.0, 1.0, 1.0, 1.0), smooth_l1_beta=0.0),
    )
    torch.testing.assert_close(classes.sum, torch.tensor(2 * math.log(4)))
    torch.testing.assert_close(boxes.sum, torch.tensor(0.7))
    assert classes.count == boxes.count == 2  # all sampled RoIs, not the foreground ones


def test_the_mask_branchs_loss_by_hand() -> None:
    """Logit 0 costs log 2 a pixel; the slot without an object is NaN and costs nothing, forward and backward."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = float("nan")
    logits.requires_grad_()
    term = mask_loss(logits, torch.ones(1, 2, 2, 2), rois([True, False], [True, False], [0, 0]))
    torch.testing.assert_close(term.sum, torch.tensor(4 * math.log(2)))
    assert term.count == 4
    term.sum.backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [-0.5] * 4 + [0] * 4


def test_masks_that_compete_by_hand() -> None:
    """Inside the object its class is right, outside background: half of each, at 1/2 and 1/4."""
    logs = torch.tensor([0.25, 0.5]).log().view(1, 1, 2, 1, 1).expand(1, 1, 2, 2, 2)
    targets = torch.tensor([[[[1.0, 1], [0, 0]]]])
    term = mask_loss(logs, targets, rois([True], [True], [0]))
    torch.testing.assert_close(term.sum, torch.tensor(2 * math.log(2) + 2 * math.log(4)))
    assert term.count == 4


def test_the_keypoint_branchs_loss_by_hand() -> None:
    """Uniform over 3136 cells, two keypoints seen; the third's map is NaN and costs nothing, forward and backward."""
    logits = torch.zeros(1, 1, 3, 56, 56)
    logits[0, 0, 2] = float("nan")
    logits.requires_grad_()
    term = keypoint_loss(logits, torch.tensor([[[0, 3135, 5]]]), torch.tensor([[[True, True, False]]]))
    torch.testing.assert_close(term.sum, torch.tensor(2 * math.log(3136)))
    assert term.count == 2
    term.sum.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[0, 0, 2].any()


def test_the_total_divides_each_term_by_its_own_count() -> None:
    def term(value: float, count: float) -> Term:
        return Term(torch.tensor(value), torch.tensor(count))

    losses = Losses(term(8.0, 4.0), term(0.0, 0.0), term(9.0, 3.0), term(1.0, 2.0), None, term(5.0, 10.0))
    assert total(losses) == 2 + 0 + 3 + 0.5 + 0.5
