"""Small models of every kind, and two images with objects and keypoints to run them on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from maskrcnn.config import ModelConfig, preset
from maskrcnn.model.backbone import BasicBlock, Bottleneck
from maskrcnn.model.build import build
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.ops import dispatch
from maskrcnn.structures import Detections, GroundTruth, Images, Losses, Term

NUM_KEYPOINTS = 5


def small(name: str = "R-18-FPN", **rooms: dict[str, Any]) -> ModelConfig:
    """The preset with few channels, blocks and slots, and anchors a quarter as large; `rooms` changes settings."""
    config = preset(name)
    sizes = tuple(tuple(size / 4 for size in level) for level in config.anchors.sizes)
    numbers = {
        "backbone": {"width": 8, "freeze_at": 0, "blocks": (1, 2, 1, 1)},
        "fpn": {"channels": 16},
        "anchors": {"sizes": sizes},
        "rpn": {"pre_nms_train": 60, "pre_nms_test": 60, "post_nms_train": 40, "post_nms_test": 30, "samples": 64},
        "box_head": {"channels": 32, "samples": 24, "max_detections": 8, "score_threshold": 0.02},
        "mask_head": {"channels": 16},
        "keypoint_head": {"channels": 16, "convs": 2, "num_keypoints": NUM_KEYPOINTS},
    }
    config = replace(config, classes=3)
    for values in (numbers, rooms):
        config = replace(config, **{room: replace(getattr(config, room), **v) for room, v in values.items()})
    return config


def decided(config: ModelConfig, seed: int = 0) -> MaskRCNN:
    """A model whose scores and boxes differ enough to be told apart; one of many blocks adds less with each."""
    rng = torch.Generator().manual_seed(seed)
    model = build(config)
    spread = ((model.rpn.objectness, 0.2), (model.box_head.class_logits, 0.3), (model.box_head.box_deltas, 0.05))
    with torch.no_grad():
        for block in model.modules() if sum(config.backbone.blocks) > 10 else ():
            if isinstance(block, BasicBlock | Bottleneck):  # else the features double with every block
                last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
                last.norm.weight.mul_(0.3)  # type: ignore[union-attr, operator]
        for layer, std in spread:
            layer.weight.normal_(0, std, generator=rng)  # type: ignore[operator]
        for branch in (model.mask_head, model.keypoint_head):
            if isinstance(branch, nn.Module):
                last = branch.deconv if hasattr(branch, "border") else branch.predictor
                last.weight.normal_(0, 0.2, generator=rng)  # type: ignore[union-attr, operator]
    return model


@contextmanager
def looking(allowed: bool) -> Iterator[None]:
    """Within the block the host may read values of CPU tensors, as ever, or may not, as on a GPU."""
    before = dispatch._READABLE
    dispatch._READABLE = before if allowed else set()
    try:
        yield
    finally:
        dispatch._READABLE = before


def drawn_images(seed: int = 0) -> Images:
    """Two of different sizes on one canvas of 64 x 96."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=rng, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 70]])
    pixels[1, :, 50:], pixels[1, :, :, 70:] = 0, 0
    return Images(
        pixels,
        sizes,
        torch.tensor([[128, 192], [40, 56]]),
        sizes / sizes.new_tensor([[128, 192], [40, 56]]),
        torch.tensor([11, 12]),
    )


def objects() -> GroundTruth:
    """Two in the first image, one and a crowd in the second; four slots, the rest padding."""
    boxes = torch.zeros(2, 4, 4)
    boxes[0, :2] = torch.tensor([[4.0, 4, 30, 40], [40, 10, 90, 60]])
    boxes[1, :2] = torch.tensor([[5.0, 5, 40, 45], [44, 8, 66, 44]])
    labels = torch.tensor([[0, 1, 0, 0], [2, 0, 0, 0]])
    masks = torch.zeros(2, 4, 112, 112, dtype=torch.bool)
    masks[:, :, 20:90, 10:100] = True
    share = torch.linspace(0.1, 0.9, NUM_KEYPOINTS)[:, None]
    keypoints = torch.cat(
        (
            boxes[:, :, None, :2] * (1 - share) + boxes[:, :, None, 2:] * share,
            torch.full((2, 4, NUM_KEYPOINTS, 1), 2.0),
        ),
        -1,
    )
    valid = torch.tensor([[True, True, False, False]] * 2)
    ignore = torch.zeros(2, 4, dtype=torch.bool)
    ignore[1, 1] = True
    keypoints[..., 2] *= (valid & ~ignore)[..., None]
    return GroundTruth(boxes, labels, masks, boxes.clone(), keypoints, ignore, valid)


def one(bundle: Any, b: int) -> Any:
    """Image `b` of a batch alone."""
    return bundle._replace(**{
        name: value[b : b + 1] for name, value in bundle._asdict().items() if isinstance(value, torch.Tensor)
    })  # fmt: skip


def terms(losses: Losses) -> dict[str, Term]:
    return {name: term for name, term in losses._asdict().items() if term is not None}


def assert_same_detections(got: Detections, wanted: Detections) -> None:
    """The first image of both: scores to 1e-4, boxes to 0.01 pixel, masks and keypoints too."""
    filled = int(wanted.valid[0].sum())
    assert int(got.valid[0].sum()) == filled
    assert torch.equal(got.labels[0, :filled], wanted.labels[0, :filled])
    for field, tolerance in (("scores", 1e-4), ("boxes", 0.01), ("masks", 1e-3), ("keypoints", 0.01)):
        g, w = getattr(got, field), getattr(wanted, field)
        assert (g is None) == (w is None)
        if w is not None:
            torch.testing.assert_close(g[0, :filled], w[0, :filled], rtol=0, atol=tolerance)
