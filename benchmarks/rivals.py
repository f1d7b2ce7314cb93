"""The same weights for us and for torchvision, the work that users of torchvision do, and how far two answers agree.

Weights are drawn from the names of the tensors (tests/golden/drawn_weights.py). The names are torchvision's, and our
model reads the file as it reads any of torchvision's. So the weights are the same on every machine, and every image has
100 detections.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn.predict import Predictor, load
from tests.golden.compare import match
from tests.golden.drawn_weights import tensor as drawn

GOLDENS = Path(__file__).parents[1] / "tests" / "golden"
R101_BLOCKS = 23  # of res4, where R-50 has 6


class Answer(NamedTuple):
    """The detections of one image, best first."""

    boxes: np.ndarray  # [D 4]
    labels: np.ndarray  # [D]
    masks: Sequence[Any]  # of each detection COCO's RLE, or M x M probabilities


def image(name: str = "shapes-640x480") -> np.ndarray:
    """An image of the goldens, uint8 [H W 3]."""
    return np.array(Image.open(GOLDENS / "images" / f"{name}.png").convert("RGB"))


def draw(model: nn.Module) -> nn.Module:
    """`model`, in eval mode, with every tensor drawn from its name."""
    with torch.no_grad():
        for name, own in model.state_dict().items():
            own.copy_(torch.from_numpy(np.asarray(drawn(name, tuple(own.shape)), order="C")))
    return model.eval()


def torchvision_r50() -> nn.Module:
    """`maskrcnn_resnet50_fpn` as for the released weights: frozen norms with epsilon 0."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection._utils import overwrite_eps
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.misc import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = MaskRCNN(backbone, num_classes=91)
    overwrite_eps(model, 0.0)
    return draw(model)


def ours_from(state: Mapping[str, Tensor], device: str = "cpu") -> Predictor:
    """Our predictor of another framework's tensors, loaded from a file as users do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.pth"
        torch.save(dict(state), path)
        return load(path, device=device)


def ours_of_golden(name: str) -> Predictor:
    """Our predictor with the drawn weights of a golden, such as `detectron2-mask_rcnn_R_50_C4`."""
    return ours_from(drawn_state(golden_shapes(name)))


def golden_shapes(name: str) -> dict[str, list[int]]:
    """The names and shapes of a golden's tensors. Those of R-101 are R-50's with a longer res4."""
    if "R_101" not in name:
        return json.loads((GOLDENS / f"{name}.keys.json").read_text())
    shapes = golden_shapes(name.replace("R_101", "R_50"))
    last = {key: shape for key, shape in shapes.items() if ".res4.5." in key}
    more = {key.replace(".res4.5.", f".res4.{n}."): shape for n in range(6, R101_BLOCKS) for key, shape in last.items()}
    return shapes | more


def drawn_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(drawn(name, tuple(shape)), order="C")) for name, shape in shapes.items()}


# --- the work --------------------------------------------------------------------------------------------------------


def ours_predicts(predictor: Predictor, array: np.ndarray, precision: str) -> Answer:
    """From an image in memory to RLE, as users do it."""
    (result,) = predictor.predict(array, precision=precision)
    return Answer(result.boxes, result.labels, result.rle or [])


def torchvision_predicts(model: nn.Module, array: np.ndarray, *, bf16: bool = False) -> Answer:
    """The same with torchvision: tensor, model (which resizes and pastes), threshold, RLE."""
    from pycocotools import mask as coco_mask

    pixels = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        (found,) = model([pixels])
    boxes, labels = found["boxes"].float().numpy(), found["labels"].numpy()
    if "masks" not in found:
        return Answer(boxes, labels, [])
    bitmaps = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    return Answer(boxes, labels, coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0))))


# --- agreement -------------------------------------------------------------------------------------------------------


def pairs(one: Answer, other: Answer, iou: float = 0.9) -> np.ndarray:
    """The detections that both have, int64 [n 2], one to one: the same label, and boxes of at least that IoU."""
    index = match(one.boxes, one.labels, other.boxes, other.labels)
    first = np.flatnonzero(index >= 0)
    second = index[first]
    good = _ious(one.boxes[first], other.boxes[second]) >= iou
    return np.stack([first[good], second[good]], axis=1)


def kept(one: Answer, other: Answer, iou: float = 0.9) -> float:
    """The share of the detections of `one` that `other` has too; 1 if there are none."""
    return len(pairs(one, other, iou)) / len(one.boxes) if len(one.boxes) else 1.0


def rle_iou(one: Answer, other: Answer) -> float:
    """The mean IoU of the masks of detections that both have; two empty masks are equal."""
    from pycocotools import mask as coco_mask

    both = [(one.masks[i], other.masks[j]) for i, j in pairs(one, other)]
    ious = [
        np.asarray(coco_mask.iou([a], [b], [0])).item() if coco_mask.area(a) or coco_mask.area(b) else 1.0
        for a, b in both
    ]
    return float(np.mean(ious)) if ious else 0.0


def probability_iou(one: Answer, other: Answer) -> float:
    """The same for M x M probabilities, cut at 0.5."""
    both = [(one.masks[i] > 0.5, other.masks[j] > 0.5) for i, j in pairs(one, other)]
    ious = [(a & b).sum() / (a | b).sum() if (a | b).any() else 1.0 for a, b in both]
    return float(np.mean(ious)) if ious else 0.0


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1)
    return shared / np.maximum(areas - shared, 1e-9)
