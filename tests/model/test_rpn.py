"""Proposals: by hand, level by level."""

from typing import Any

import torch

from maskrcnn.config import AnchorConfig, BoxArithmetic, RPNConfig
from maskrcnn.model.rpn import RPN, RPNOutput, propose
from maskrcnn.structures import Images, Proposals

NUMBERS: dict[str, Any] = {"pre_nms_test": 3, "post_nms_test": 5, "post_nms_train": 2, "pre_nms_train": 3}
SIZE = torch.tensor([[100, 100]])
IMAGES = Images(torch.zeros(1, 3, 100, 100), SIZE, SIZE, torch.ones(1, 2), torch.zeros(1).long())


def outputs(logits: list[float]) -> RPNOutput:
    """Four anchors on one level, two on the next, no deltas."""
    anchors = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50], [0, 0, 10, 10], [90, 90, 120, 130]]
    return RPNOutput(torch.tensor(anchors).float(), torch.tensor([logits]), torch.zeros(1, 6, 4), (4, 2))


def proposed(logits: list[float], *, training: bool = False, **changes: Any) -> Proposals:
    config = RPNConfig(**{**NUMBERS, **changes})
    return propose(outputs(logits), IMAGES, config, BoxArithmetic(), training=training)


def test_the_best_of_each_level_suppressed_within_it() -> None:
    """Anchor 3 is the worst of its level and not taken; 1 falls to 0; 4 equals 0, but on another level."""
    got = proposed([5.0, 4, 3, 2, 1, 6])
    assert got.boxes[0].tolist() == [[90, 90, 100, 100], [0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10], [0, 0, 0, 0]]
    assert got.scores[0].tolist() == [6, 5, 3, 1, 0]
    assert got.valid[0].tolist() == [True, True, True, True, False]


def test_slots_size_and_score() -> None:
    assert proposed([5.0, 4, 3, 2, 1, 6], post_nms_test=2).boxes.shape == (1, 2, 4)
    assert proposed([5.0, 4, 3, 2, 1, 6], training=True).boxes.shape == (1, 2, 4)
    assert proposed([5.0, 4, 3, 2, 1, 6], min_size=10.5).valid.sum() == 0
    chances = proposed([5.0, 4, 3, 2, 1, 6], score="probability")
    torch.testing.assert_close(chances.scores[0, :2], torch.tensor([6.0, 5]).sigmoid())
    assert proposed([float("nan"), 4, 3, 2, 1, 6]).boxes[0, 1].tolist() == [0, 0, 10, 9]


def test_no_gradient_flows_through_boxes() -> None:
    output = outputs([5.0, 4, 3, 2, 1, 6])
    output = output._replace(logits=output.logits.requires_grad_(), deltas=output.deltas.requires_grad_())
    got = propose(output, IMAGES, RPNConfig(**NUMBERS), BoxArithmetic())
    assert not got.boxes.requires_grad
    assert not got.scores.requires_grad


def head(stride: Any = "constant", *, inclusive: bool = False) -> RPN:
    anchors = AnchorConfig(sizes=((8.0,), (16.0,)), stride=stride)
    return RPN(4, anchors, BoxArithmetic(inclusive=inclusive), strides=(32, 64), convs=1)


def canvas(height: int, width: int) -> Images:
    return IMAGES._replace(pixels=torch.zeros(1, 3, height, width))


def test_boxes_that_end_on_their_last_pixel_are_a_pixel_larger() -> None:
    maps = [torch.zeros(1, 4, 1, 1)] * 2
    plain, larger = (head(inclusive=inclusive)(maps, canvas(32, 32)).anchors for inclusive in (False, True))
    assert torch.equal(larger - plain, torch.tensor([0.0, 0, 1, 1]).expand(6, 4))


def test_the_head_gives_three_answers_for_every_position() -> None:
    rpn = head()
    maps = [torch.randn(2, 4, 3, 5), torch.randn(2, 4, 2, 3)]
    got = rpn(maps, canvas(96, 160))
    assert got.counts == (45, 18)
    assert got.anchors.shape == (63, 4)
    assert got.logits.shape == (2, 63)
    assert got.deltas.shape == (2, 63, 4)
    hidden = rpn.convs(maps[0])
    y, x, cell = 2, 3, 1  # row by row, the cells of a position together; four deltas of a cell together
    slot = (y * 5 + x) * 3 + cell
    torch.testing.assert_close(got.logits[:, slot], rpn.objectness(hidden)[:, cell, y, x])
    torch.testing.assert_close(got.deltas[:, slot], rpn.deltas(hidden)[:, 4 * cell : 4 * cell + 4, y, x])
    centre = (got.anchors[slot, :2] + got.anchors[slot, 2:]) / 2
    assert centre.tolist() == [x * 32, y * 32]


def test_torchvisions_stride_is_the_padded_side_over_the_features() -> None:
    """A side of 800 has 25 cells at P5 and 13 at P6: there, 61 instead of 64."""
    maps = [torch.zeros(1, 4, 25, 34), torch.zeros(1, 4, 13, 17)]
    for rule, last in (("constant", (12 * 64, 16 * 64)), ("padded-over-feature", (12 * 61, 16 * 64))):
        anchor = head(rule)(maps, canvas(800, 1088)).anchors[-2]
        assert [float(anchor[1] + anchor[3]) / 2, float(anchor[0] + anchor[2]) / 2] == list(last)
