"""Rows of predictors: where the background stands, and the order of the anchors. Each change has its inverse.

torchvision and Detectron give the background row 0 in scores, deltas and masks. Ours, and Detectron2's, is the last row
of the scores and has no deltas and no mask.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_LOGITS, _DELTAS, _MASKS = "box_head.class_logits", "box_head.box_deltas", "mask_head.predictor"
_OBJECTNESS, _ANCHOR_DELTAS = "rpn.objectness", "rpn.deltas"
_ENDS = ("weight", "bias")


def background_to_last(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the background's row moved from the first to the last of the scores, and its other rows left out.

    Where deltas are class-agnostic there are eight rows, of which the last four count; an agnostic mask has one row.
    """
    result = dict(state)
    for end in _ENDS:
        logits = state.get(f"{_LOGITS}.{end}")
        if logits is None:
            continue
        result[f"{_LOGITS}.{end}"] = torch.cat((logits[1:], logits[:1]))
        if (deltas := state.get(f"{_DELTAS}.{end}")) is not None:
            result[f"{_DELTAS}.{end}"] = deltas[4:]
        masks = state.get(f"{_MASKS}.{end}")
        if masks is not None and len(masks) == len(logits):
            result[f"{_MASKS}.{end}"] = masks[1:]
    return result


def background_to_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `background_to_last`; the background's rows of deltas and masks are zeros."""
    result = dict(state)
    for end in _ENDS:
        logits = state.get(f"{_LOGITS}.{end}")
        if logits is None:
            continue
        result[f"{_LOGITS}.{end}"] = torch.cat((logits[-1:], logits[:-1]))
        if (deltas := state.get(f"{_DELTAS}.{end}")) is not None:
            result[f"{_DELTAS}.{end}"] = torch.cat((torch.zeros_like(deltas[:4]), deltas))
        masks = state.get(f"{_MASKS}.{end}")
        if masks is not None and len(masks) == len(logits) - 1:
            result[f"{_MASKS}.{end}"] = torch.cat((torch.zeros_like(masks[:1]), masks))
    return result


def anchors_to_size_major(state: Mapping[str, Tensor], *, ratios: int = 3) -> dict[str, Tensor]:
    """`state` with the RPN's rows moved from ratio-major order (all sizes of a ratio together) to size-major."""
    result = dict(state)
    for end in _ENDS:
        for name, values in ((f"{_OBJECTNESS}.{end}", 1), (f"{_ANCHOR_DELTAS}.{end}", 4)):
            if name in state:
                rows = state[name]
                if not len(rows) or len(rows) % (ratios * values):
                    continue  # as many as no model has, which is told where the names are compared
                parts = rows.reshape(ratios, -1, values, *rows.shape[1:])
                result[name] = parts.transpose(0, 1).reshape(rows.shape)
    return result
