"""Rows of predictors, by hand."""

import torch

from maskrcnn.weights.interop.rows import anchors_to_size_major, background_to_first, background_to_last

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


def test_rows_of_no_class_lose_their_background_too() -> None:
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
