"""The memory of a long prediction, which must not grow, of results that are kept, and of a training step.

    python -m benchmarks.footprint [--quick]

Each runs in a new process. Weights are random, but every branch has all its slots to work on. Growth is the resident
memory after 1,000 images divided by that after 50. The peak is that of the process, imports included, over two training
steps: the second holds the momentum of the first beside its gradients.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.categories import Category
from maskrcnn.config import TrainConfig, preset
from maskrcnn.model.backbone import Bottleneck
from maskrcnn.model.build import build
from maskrcnn.model.losses import total
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.predict import Predictor
from maskrcnn.results import from_detections
from maskrcnn.structures import GroundTruth, Images, Proposals, RoIs
from maskrcnn.training.optim import build_optimizer, clip

from .harness import Left, Middle, Options, Row, run
from .memory import draw
from .processes import in_a_process, memory_mb

IMAGES, WARM, KEPT = 1000, 50, 5000
OBJECTS = 8  # of an image to train on
STEPS = 2


def compare(options: Options) -> list[Row | Left]:
    def part(name: str) -> dict[str, Any]:
        images = str(options.rounds(IMAGES, 60))
        return in_a_process(["-m", "benchmarks.footprint", name, str(options.threads), images])

    found, kept, trained = part("predict"), part("keep"), part("train")
    growth, peak = found["end"] / found["warm"], trained["peak"] * 1e6 / 2**30
    memory = f"{found['warm']:.0f} MB after {WARM}, {found['end']:.0f} MB at the end"
    work = f"{trained['rois']} RoIs, {trained['foreground']} foreground, loss {trained['loss']:.2f}"
    return [
        Row(
            f"predict {found['images']} images of 256 x 256, R-18-FPN: resident memory, end / after {WARM}",
            Middle(growth, growth, growth), "", bar=1.05, answers=memory,
        ),
        Row(
            f"{kept['results']} results of 100 masks kept at once, each with its RLE: memory",
            Middle(*[kept["held"] / 1e3] * 3), "GB", answers=f"{kept['held'] / kept['results']:.2f} MB each",
        ),
        Row(
            f"training step, R-50-FPN, float32, 2 images of 800 x 1088, {OBJECTS} objects each; batch norm, stem and "
            "res2 are frozen: peak of the process",
            Middle(peak, peak, peak), "GiB", bar=8.0, answers=work,
        ),
    ]  # fmt: skip


def untrained() -> Predictor:
    """All 81 classes are about equally probable, so that with a threshold below 1 / 81 all slots are filled."""
    categories = tuple(Category(id, f"class {id}") for id in range(1, 81))
    return Predictor(build(replace(preset("R-18-FPN"), classes=80)), categories)


def keep() -> dict[str, float]:
    """The resident memory in MB of many results, all made from the detections of one image."""
    engine = untrained().engine("fp32").limited(score_threshold=0.01)
    images = engine.prepare(np.zeros((480, 640, 3), np.uint8))
    with torch.inference_mode():
        detections = engine.backend.detect(images)
    before, results = memory_mb()[0], []
    for _ in range(KEPT):
        results += from_detections(detections, images, engine.config, engine.categories)
        assert len(results[-1]) == len(results[-1].rle or []) == 100
    return {"results": len(results), "held": memory_mb()[0] - before}


def predict(images: int) -> dict[str, float]:
    """The resident memory in MB while so many files are predicted."""
    predictor = untrained()
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(images)]
        for file in files:
            draw(file, (256, 256))
        for result in predictor.predict(files, score_threshold=0.01):
            assert len(result)
            assert result.rle
            held.append(memory_mb()[0])
    return {"images": images, "warm": held[WARM - 1], "end": held[-1]}


def train() -> dict[str, float]:
    """The peak in MB, and how many RoIs the heads learned from."""
    config, settings = preset("R-50-FPN"), TrainConfig()
    assert (config.backbone.norm, config.backbone.freeze_at) == ("frozen_bn", 2)
    model = build(config).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, Bottleneck):  # random features that do not explode
            module.conv3.norm.weight.fill_(0.2)  # type: ignore[union-attr, operator]
    images, gt = batch(config.classes)
    counts = as_if_trained(model, gt.boxes[:, :OBJECTS])
    optimizer = build_optimizer(model, settings)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = total(model.loss(images, gt))
        loss.backward()
        clip(model, settings.clip_norm)
        optimizer.step()
    return {"peak": memory_mb()[1], "loss": loss.item(), **counts}


def batch(classes: int) -> tuple[Images, GroundTruth]:
    """Two images of noise and their objects."""
    B, G, height, width = 2, 16, 800, 1088
    rng = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[height, width]] * B)
    pixels = torch.randint(0, 256, (B, 3, height, width), generator=rng, dtype=torch.uint8)
    corner = torch.rand(B, G, 2, generator=rng) * torch.tensor([width - 300.0, height - 300.0])
    side = 32 + 268 * torch.rand(B, G, 2, generator=rng)
    valid = (torch.arange(G) < OBJECTS).expand(B, G)
    boxes = torch.where(valid[..., None], torch.cat((corner, corner + side), -1), 0.0)
    masks = torch.rand(B, G, 112, 112, generator=rng) > 0.3
    labels = torch.randint(0, classes, (B, G), generator=rng)
    gt = GroundTruth(boxes, labels, masks, boxes, None, torch.zeros_like(valid), valid)
    return Images(pixels, sizes, sizes, torch.ones(B, 2), torch.arange(B)), gt


def as_if_trained(model: MaskRCNN, objects: Tensor) -> dict[str, int]:
    """Puts half of the proposals on objects, as a trained RPN does. The table returned counts the RoIs sampled."""
    rng, sample = torch.Generator().manual_seed(1), model.sample
    counts = {"rois": 0, "foreground": 0}

    def moved(proposals: Proposals) -> Proposals:
        B, P, _ = proposals.boxes.shape
        near = objects[:, torch.arange(P) % OBJECTS]
        extent = (near[..., 2:] - near[..., :2]).repeat(1, 1, 2)
        stray = torch.where(torch.arange(P)[:, None] // OBJECTS % 2 > 0, 0.03, 0.8)
        near = near + stray * extent * torch.randn(B, P, 4, generator=rng)
        boxes = torch.cat((torch.minimum(near[..., :2], near[..., 2:] - 8), near[..., 2:]), -1)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([1088.0, 800, 1088, 800]))
        return proposals._replace(boxes=boxes, valid=torch.ones_like(proposals.valid))

    def sample_moved(pyramid: list[Tensor], proposals: Proposals, gt: GroundTruth, images: Images) -> RoIs:
        rois = sample(pyramid, moved(proposals), gt, images)
        counts.update(rois=int(rois.valid.sum()), foreground=int(rois.foreground.sum()))
        return rois

    model.sample = sample_moved
    return counts


if __name__ == "__main__":
    if sys.argv[1:2] in (["predict"], ["keep"], ["train"]):
        torch.set_num_threads(int(sys.argv[2]))
        torch.manual_seed(0)
        parts = {"predict": lambda: predict(int(sys.argv[3])), "keep": keep, "train": train}
        print(json.dumps(parts[sys.argv[1]]()))
    else:
        run(compare, __doc__)
