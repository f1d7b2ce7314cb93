"""The same answers as torchvision and Detectron2: features, proposals, detections, masks and keypoints."""

import numpy as np
import pytest
import torch

from maskrcnn.canvas import prepare_views
from maskrcnn.images import read_image
from maskrcnn.model.build import build
from maskrcnn.results import from_detections
from maskrcnn.weights.checkpoint import restore
from tests.golden.compare import compare, good
from tests.golden.goldens import cases, checkpoint, close, golden, image, labels_of

QUICK = {
    "detectron2-mask_rcnn_R_50_C4-shapes-375x500",
    "detectron2-mask_rcnn_R_50_FPN-shapes-640x427",
    "detectron2-keypoint_rcnn_R_50_FPN-shapes-375x500",
    "torchvision-maskrcnn_resnet50_fpn_v2-shapes-375x500",
}


@pytest.mark.parametrize(("model", "name"), cases(train=False, quick=QUICK))
def test_answers_are_the_same(model: str, name: str) -> None:
    truth, found = golden(f"{model}-{name}"), checkpoint(model)
    network = build(found.config)
    restore(network, found.state, model)
    network.eval()
    images = prepare_views(read_image(image(name)), found.config.input)
    assert tuple(images.pixels.shape) == tuple(truth["input_shape"])
    assert images.sizes[0].tolist() == truth["resized"].tolist()
    with torch.inference_mode():
        pyramid = network.pyramid(images)
        proposals = network.propose(images)
        detections = network.detect(images, proposals)
    check_features([level[0].numpy() for level in pyramid], truth)
    check_proposals(proposals.boxes[0][proposals.valid[0]].numpy(), truth["proposals"])
    (result,) = from_detections(detections, images, found.config, found.categories)
    got = {"boxes": result.boxes, "scores": result.scores, "labels": labels_of(model, found, result.labels)}
    got |= {
        key: value for key, value in (("masks", result.masks), ("keypoints", result.keypoints)) if value is not None
    }
    report = compare(truth, got)
    print(report)
    assert good(report)


def check_features(pyramid: list[np.ndarray], truth: dict[str, np.ndarray]) -> None:
    names = [key.removesuffix("_shape") for key in truth if key.startswith("feature_") and key.endswith("_shape")]
    assert len(names) == len(pyramid)
    for name, level in zip(names, pyramid, strict=True):
        assert level.shape == tuple(truth[f"{name}_shape"][1:])
        assert close(level.mean(axis=(1, 2)), truth[f"{name}_mean"]) <= 1e-3, name
        assert close(level[:8, :6, :6], truth[f"{name}_crop"]) <= 1e-3, name


def check_proposals(ours: np.ndarray, theirs: np.ndarray) -> None:
    """99 in 100 of either side have one of the other within a twentieth of a pixel."""
    away = np.abs(ours[:, None] - theirs[None]).max(-1)
    assert (away.min(1) <= 0.05).mean() >= 0.99
    assert (away.min(0) <= 0.05).mean() >= 0.99
