"""Detectron2, if it can be imported: its models with drawn weights, and the work that its users do."""

import numpy as np
import torch
from torch import nn

from .rivals import Answer, draw

# The folders of its configs.
_FOLDERS = {"mask": "COCO-InstanceSegmentation", "keypoint": "COCO-Keypoints", "faster": "COCO-Detection"}


def detectron2_model(golden: str) -> nn.Module:
    """The model of a golden's name, such as `mask_rcnn_R_50_C4`."""
    from detectron2 import model_zoo  # pyright: ignore
    from detectron2.modeling import build_model  # pyright: ignore

    config = model_zoo.get_config(f"{_FOLDERS[golden.partition('_')[0]]}/{golden}_3x.yaml", trained=False)
    config.MODEL.DEVICE = "cpu"
    if golden.startswith("keypoint"):
        config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    return draw(build_model(config))


def detectron2_predicts(model: nn.Module, array: np.ndarray) -> Answer:
    """As its DefaultPredictor does it: BGR, shorter side 800, model (which pastes), RLE."""
    from detectron2.data.transforms import ResizeShortestEdge  # pyright: ignore
    from pycocotools import mask as coco_mask

    height, width = array.shape[:2]
    bgr = array[:, :, ::-1]
    resized = ResizeShortestEdge([800, 800], 1333).get_transform(bgr).apply_image(bgr)
    pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)).astype("float32"))
    with torch.inference_mode():
        found = model([{"image": pixels, "height": height, "width": width}])[0]["instances"]
    boxes, labels = found.pred_boxes.tensor.numpy(), found.pred_classes.numpy()
    if not found.has("pred_masks"):
        return Answer(boxes, labels, [])
    bitmaps = found.pred_masks.numpy().astype(np.uint8).transpose(1, 2, 0)
    return Answer(boxes, labels, coco_mask.encode(np.asfortranarray(bitmaps)))
