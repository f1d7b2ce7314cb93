"""Rows of predictors, against answers written by hand."""

import torch

from maskrcnn.categories import Category
from maskrcnn.weights.interop.rows import anchors_to_size_major, background_to_first, background_to_last, carry_rows

THEIRS = {  # background, cat, dog
    "box_head.class_logits.bias": torch.tensor([9.0, 1.0, 2.0]),
    "box_head.box_deltas.bias": torch.tensor([0.0, 0, 0, 0, 10, 11, 12, 13, 20, 21, 22, 23]),
    "mask_head.predictor.bias": torch.tensor([0.0, 1.0, 2.0]),
    "box_head.fc.0.bias": torch.tensor([5.0]),
}


def listed(state: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in state.items()}


def test_the_background_goes_to_the_end_and_back() -> None:
    ours = background_to_last(THEIRS)
    assert listed(ours) == {
        "box_head.class_logits.bias": [1, 2, 9],
        "box_head.box_deltas.bias": [10, 11, 12, 13, 20, 21, 22, 23],
        "mask_head.predictor.bias": [1, 2],
        "box_head.fc.0.bias": [5],
    }
    assert listed(background_to_first(ours)) == listed(THEIRS)


def test_class_agnostic_predictors_lose_their_background_too() -> None:
    agnostic = {
        "box_head.class_logits.weight": torch.arange(5.0)[:, None],
        "box_head.box_deltas.weight": torch.arange(8.0)[:, None],
        "mask_head.predictor.weight": torch.ones(1, 1, 1, 1),
    }
    ours = background_to_last(agnostic)
    assert ours["box_head.box_deltas.weight"].flatten().tolist() == [4, 5, 6, 7]
    assert len(ours["mask_head.predictor.weight"]) == 1


def test_anchors_of_one_map_change_their_order() -> None:
    """Row ratio * 5 + size becomes row size * 3 + ratio, with the four deltas of an anchor together."""
    rows = torch.tensor([[ratio, size] for ratio in range(3) for size in range(5)])
    deltas = torch.tensor([[ratio, size, delta] for ratio in range(3) for size in range(5) for delta in range(4)])
    state = {"rpn.objectness.weight": rows, "rpn.deltas.weight": deltas, "rpn.objectness.bias": rows[:, 1]}
    ours = anchors_to_size_major(state)
    assert ours["rpn.objectness.weight"].tolist() == [[ratio, size] for size in range(5) for ratio in range(3)]
    assert ours["rpn.deltas.weight"].tolist() == [[r, s, d] for s in range(5) for r in range(3) for d in range(4)]
    assert ours["rpn.objectness.bias"].tolist() == [size for size in range(5) for _ in range(3)]


def test_rows_are_kept_by_name() -> None:
    before = [Category(1, "cat"), Category(2, "dog"), Category(3, "cow")]
    after = [Category(1, "dog"), Category(2, "ox")]
    start = {
        "box_head.class_logits.weight": torch.tensor([[1.0], [2], [3], [9]]),
        "box_head.box_deltas.bias": torch.arange(12.0),
        "mask_head.predictor.bias": torch.tensor([1.0, 2, 3]),
        "box_head.fc.0.bias": torch.tensor([7.0]),
    }
    fresh = {
        "box_head.class_logits.weight": torch.full((3, 1), -1.0),
        "box_head.box_deltas.bias": torch.full((8,), -1.0),
        "mask_head.predictor.bias": torch.full((2,), -1.0),
        "box_head.fc.0.bias": torch.tensor([-1.0]),
    }
    got, kept = carry_rows(start, fresh, before, after)
    assert kept == ["dog"]
    assert got["box_head.class_logits.weight"].flatten().tolist() == [2, -1, 9]
    assert got["box_head.box_deltas.bias"].tolist() == [4, 5, 6, 7, -1, -1, -1, -1]
    assert got["mask_head.predictor.bias"].tolist() == [2, -1]
    assert got["box_head.fc.0.bias"].tolist() == [7]
    assert fresh["mask_head.predictor.bias"].tolist() == [-1, -1]


def test_class_agnostic_predictors_stay() -> None:
    before, after = [Category(1, "cat"), Category(2, "dog")], [Category(1, "dog"), Category(2, "ox")]
    start = {"box_head.box_deltas.bias": torch.arange(4.0), "mask_head.predictor.bias": torch.tensor([3.0])}
    fresh = {"box_head.box_deltas.bias": torch.zeros(4), "mask_head.predictor.bias": torch.zeros(1)}
    got, _ = carry_rows(start, fresh, before, after)
    assert got["box_head.box_deltas.bias"].tolist() == [0, 1, 2, 3]
    assert got["mask_head.predictor.bias"].tolist() == [3]
