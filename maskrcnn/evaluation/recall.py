"""Average recall of proposals: the share of objects that they cover, whatever their class (the AR of the RPN)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ..ops.boxes import iou

THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))  # COCO's

Figures = dict[str, float | int]


def covered(proposals: Float[Tensor, "P 4"], objects: Float[Tensor, "G 4"]) -> Float[Tensor, " G"]:
    """The IoU of each object with the proposal that is matched to it, 0 without one.

    A proposal is matched to one object at most. The pair with the highest IoU is matched first, then the next.
    """
    found = torch.zeros(len(objects))
    overlap = iou(proposals, objects)
    for _ in range(min(overlap.shape)):
        proposal, g = divmod(int(overlap.argmax()), len(objects))
        found[g] = overlap[proposal, g].clamp(min=0)
        overlap[proposal], overlap[:, g] = -1, -1
    return found


def average_recall(found: Iterable[Float[Tensor, " _"]]) -> Figures:
    """AR, the mean over IoU 0.50, 0.55 .. 0.95 of the share of objects covered; AR50 and AR75; -1 without objects.

    found: the IoUs from `covered`, for each image.
    """
    ious = torch.cat([torch.zeros(0), *found])
    if not len(ious):
        return {"AR": -1.0, "AR50": -1.0, "AR75": -1.0, "objects": 0}
    recall = [float((ious >= threshold - 1e-6).float().mean()) for threshold in THRESHOLDS]
    return {"AR": sum(recall) / len(recall), "AR50": recall[0], "AR75": recall[5], "objects": len(ious)}
