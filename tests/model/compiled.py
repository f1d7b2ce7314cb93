"""python -m tests.model.compiled detection|training: a step compiled as one graph, against the same step as it is.

A program of its own, because no tracer can follow the checks that the tests put round every function.
"""

import sys

import torch

from maskrcnn.accelerate.prepare import prepare
from maskrcnn.model.losses import total
from maskrcnn.ops.dispatch import use
from maskrcnn.structures import GroundTruth, Images
from tests.model.small import assert_same_detections, decided, drawn_images, objects, one, small

CONFIG = small(  # as little as can be to trace: the reference's suppression is a loop
    backbone={"blocks": (1, 1, 1, 1)},
    rpn={"post_nms_train": 6, "post_nms_test": 6},
    box_head={"max_detections": 4},
)


def detection() -> None:
    model, images = prepare(decided(CONFIG), fuse=False), drawn_images()
    with torch.no_grad():
        got = torch.compile(model.detect, fullgraph=True, dynamic=False, backend="eager")(images)
        wanted = model.detect(images)
    assert wanted.valid.any()
    for b in range(2):
        assert_same_detections(one(got, b), one(wanted, b))


def training() -> None:
    model = decided(CONFIG).train()

    def loss(images: Images, gt: GroundTruth) -> torch.Tensor:
        return total(model.loss(images, gt))

    found = []
    for run in (torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager"), loss):
        model.zero_grad()
        with use("reference"):
            value = run(drawn_images(), objects())
        value.backward()
        found.append([value, *(p.grad for p in model.parameters() if p.grad is not None)])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    {"detection": detection, "training": training}[sys.argv[1]]()
