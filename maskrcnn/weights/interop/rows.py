"""Rows of predictors: the background, the order of anchors, and the rows of classes that a training keeps.

torchvision and Detectron give the background row 0 in scores, deltas and masks. In our order, and Detectron2's, it is
the last row of the scores and has no deltas and no mask.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...categories import Category
from .origin import State

_LOGITS, _DELTAS, _MASKS = "box_head.class_logits", "box_head.box_deltas", "mask_head.predictor"
_ENDS = ("weight", "bias")


def background_to_last(state: State) -> dict[str, Tensor]:
    """`state` in our order. The background's rows of deltas and masks are dropped.

    If deltas are class-agnostic there are eight rows, of which the last four count; a class-agnostic mask has one row.
    """
    return _moved(state, -1, lambda rows, background: rows[background:])


def background_to_first(state: State) -> dict[str, Tensor]:
    """The inverse of `background_to_last`. The background's rows of deltas and masks are zeros."""
    return _moved(state, 1, lambda rows, background: torch.cat((torch.zeros_like(rows[:background]), rows)))


def _moved(state: State, shift: int, change: Callable[[Tensor, int], Tensor]) -> dict[str, Tensor]:
    """`state` with the scores rolled by `shift`, and rows for the background taken off or added elsewhere."""
    result = dict(state)
    for logits, deltas, masks in _predictors():
        if logits in state:
            result[logits] = state[logits].roll(shift, 0)
            if deltas in state:
                result[deltas] = change(state[deltas], 4)
            if masks in state and len(state[masks]) == len(state[logits]) - max(shift, 0):
                result[masks] = change(state[masks], 1)
    return result


def anchors_to_size_major(state: State, *, ratios: int = 3) -> dict[str, Tensor]:
    """`state` with the RPN's rows moved from ratio-major order (all sizes of a ratio together) to size-major."""
    result = dict(state)
    for name, values in (("rpn.objectness", 1), ("rpn.deltas", 4)):
        for key in (f"{name}.{end}" for end in _ENDS):
            rows = state.get(key)
            # A number of rows that no model has is an error where the shapes are compared.
            if rows is not None and len(rows) and len(rows) % (ratios * values) == 0:
                result[key] = rows.unflatten(0, (ratios, -1, values)).transpose(0, 1).reshape(rows.shape)
    return result


def carry_rows(
    start: State, fresh: State, before: Sequence[Category], after: Sequence[Category]
) -> tuple[dict[str, Tensor], list[str]]:
    """`start` with predictors for the classes `after`: rows of `start` for names that are in `before`, else of `fresh`.

    Returns the names that kept their rows, too. The background's row is always kept. Class-agnostic predictors, and
    those whose shapes otherwise differ from `fresh`, stay as they are.
    """
    rows = {category.name: row for row, category in enumerate(before)}
    kept = [(new, rows[category.name]) for new, category in enumerate(after) if category.name in rows]
    result = dict(start)
    for names in _predictors():
        for name, per_class, background in zip(names, (1, 4, 1), (1, 0, 0), strict=True):
            if name not in start or name not in fresh:
                continue
            old, new = start[name], fresh[name].clone()
            if old.shape[1:] != new.shape[1:] or len(old) != per_class * (len(before) + background):
                continue
            pairs = [*kept, (len(after), len(before))] if background else kept
            target, source = new.unflatten(0, (-1, per_class)), old.unflatten(0, (-1, per_class))
            for to, origin in pairs:
                target[to] = source[origin].to(target.dtype)
            result[name] = new
    return result, [after[new].name for new, _ in kept]


def _predictors() -> list[tuple[str, str, str]]:
    """Weights, then biases of scores, deltas and masks."""
    return [(f"{_LOGITS}.{end}", f"{_DELTAS}.{end}", f"{_MASKS}.{end}") for end in _ENDS]
