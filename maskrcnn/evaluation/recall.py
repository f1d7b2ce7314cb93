"""Average recall of proposals: how much of what there is they cover, whatever its class (AR of the RPN alone)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.boxes import iou

THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))  # COCO's

Figures = dict[str, float | int]


def covered(proposals: Float[Tensor, "P 4"], objects: Float[Tensor, "G 4"]) -> Float[Tensor, " G"]:
    """The IoU with which each object is found, where a proposal finds one object; the best pair of all comes first."""
    found = torch.zeros(len(objects))
    overlap = iou(proposals, objects)
    for _ in range(min(overlap.shape)):
        proposal, g = divmod(int(overlap.argmax()), len(objects))
        found[g] = overlap[proposal, g].clamp(min=0)
        overlap[proposal], overlap[:, g] = -1, -1
    return found


def average_recall(found: Iterable[Float[Tensor, " _"]]) -> Figures:
    """AR, the share of objects found at IoU 0.50, 0.55 .. 0.95 on average; AR50 and AR75; -1 without an object.

    found: what `covered` gave for each image.
    """
    every = list(found)
    ious = torch.cat(every) if every else torch.zeros(0)
    if not len(ious):
        return {"AR": -1.0, "AR50": -1.0, "AR75": -1.0, "objects": 0}
    recall = [float((ious >= threshold - 1e-6).float().mean()) for threshold in THRESHOLDS]
    return {"AR": sum(recall) / len(recall), "AR50": recall[0], "AR75": recall[5], "objects": len(ious)}
