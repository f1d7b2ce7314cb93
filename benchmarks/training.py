"""One training step, ours beside torchvision: forward, losses, backward, clipping, SGD.

    python -m benchmarks.training [--quick]

R-18-FPN from scratch on four crops of 256 x 256 with 40 nuclei and 256 RoIs each, and R-50-FPN with frozen norms on two
images of 800 x 1088 with 8 objects and 512 RoIs each. First weights, images and objects are the same; ours runs in bf16
and float32, torchvision in float32. Both sides are given tensors: workers read and resize, so that is left out.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from maskrcnn.config import Config, ModelConfig, TrainConfig, preset
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import EvalLoader
from maskrcnn.model.build import build
from maskrcnn.training.distributed import Ranks
from maskrcnn.training.log import Meter
from maskrcnn.training.loop import begin, train_step
from maskrcnn.training.optim import REFERENCE_IMAGES
from maskrcnn.training.run import Run
from maskrcnn.training.task import Task
from maskrcnn.weights.checkpoint import restore
from maskrcnn.weights.interop.origin import Contents
from maskrcnn.weights.read import recognise, to_whole

from .harness import Left, Options, Row, Work, against, interleaved, require, run
from .scenes import box_of, ellipses, write_coco

RATE, MOMENTUM, DECAY, CLIP = 1e-4, 0.9, 1e-4, 10.0
BAR = 0.4
TOLERANCE = 0.1  # of the sum of the first losses: each side samples its own anchors and RoIs, and ours aligns RoIs


class Case(NamedTuple):
    name: str
    size: tuple[int, int]
    images: int
    objects: int
    radii: tuple[float, float]
    classes: int
    config: ModelConfig
    rival: Callable[[], nn.Module]


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    cases = [nuclei()] if options.quick else [nuclei(), coco()]
    return [row for case in cases for row in compare_case(case, options)]


def compare_case(case: Case, options: Options) -> list[Row | Left]:
    torch.manual_seed(0)
    rival = case.rival().train()
    state = {name: tensor.clone() for name, tensor in rival.state_dict().items()}
    rng = np.random.default_rng(0)
    scenes = [ellipses(rng, case.size, case.objects, case.radii) for _ in range(case.images)]
    labels = [rng.integers(0, case.classes, len(bitmaps)) for _, bitmaps in scenes]
    with tempfile.TemporaryDirectory() as folder:
        loader = EvalLoader(
            read_dataset(write_coco(Path(folder), scenes, labels, case.classes)),
            case.config,
            batch=case.images,
            gt=True,
        )
        (batch,) = loader
        theirs = torchvision_step(rival, scenes, labels)
        ours = {
            name: our_step(case, state, loader.dataset, batch, precision, Path(folder))
            for name, precision in (("ours bf16", "bf16"), ("ours fp32", "fp32"))
        }
        first, expected = ours["ours fp32"](), theirs()
        answers = require(1 - abs(first / expected - 1), 1 - TOLERANCE, f"of the loss, {expected:.3f}")
        contestants: dict[str, Work] = {**ours, "torchvision float32": theirs}
        seconds = interleaved(contestants, rounds=options.rounds(5, 1), warmup=1)
    what = f"training step, {case.name}"
    return [
        against(f"{what}, bf16", seconds, "ours bf16", "torchvision float32", bar=BAR, answers=answers),
        against(f"{what}, fp32", seconds, "ours fp32", "torchvision float32", answers=answers),
    ]


def our_step(
    case: Case, state: dict[str, Any], data: Dataset, batch: Any, precision: Any, folder: Path
) -> Callable[[], float]:
    """A step of `training.loop` on the same batch again and again; gives the loss."""
    model = build(case.config)
    restore(
        model, to_whole(recognise(Contents(state, {}), "torchvision's first weights")).state, "torchvision's weights"
    )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig(
        batch=case.images,
        lr=RATE * REFERENCE_IMAGES / case.images,
        warmup_steps=0,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        clip_norm=CLIP,
        workers=0,
    )
    run = Run(Config(case.config, config), data, None, folder / precision, Ranks(), precision)
    task = Task(run, model)
    running, meter, inputs = begin(task), Meter(run), ((batch.images, batch.gt), batch.image_ids)
    task.train()

    def one() -> float:
        train_step(running, task, iter([inputs]), meter, run)
        return meter.read(0.0)[0]["loss"]

    return one


def torchvision_step(model: nn.Module, scenes: list[Any], labels: list[np.ndarray]) -> Callable[[], float]:
    pixels = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image, _ in scenes]
    targets = [
        {
            "boxes": torch.from_numpy(np.array([box_of(bitmap) for bitmap in bitmaps])).float(),
            "labels": torch.from_numpy(classes).long() + 1,
            "masks": torch.from_numpy(bitmaps.astype(np.uint8)),
        }
        for (_, bitmaps), classes in zip(scenes, labels, strict=True)
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def one() -> float:
        loss = torch.stack(list(model(pixels, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return float(loss.detach())

    return one


# --- the two cases ---------------------------------------------------------------------------------------------------


def nuclei() -> Case:
    model = preset("R-18-FPN")
    config = replace(
        model,
        classes=1,
        input=replace(model.input, min_size=256, max_size=512),
        backbone=replace(model.backbone, norm="bn", freeze_at=0),
        anchors=replace(model.anchors, sizes=tuple((8.0 * 2**level,) for level in range(5))),
        rpn=replace(model.rpn, pre_nms_train=1000, post_nms_train=500, post_nms_test=500),
        box_head=replace(model.box_head, samples=256, max_detections=300),
    )
    name = "R-18-FPN, 4 crops of 256 x 256, 256 RoIs each"
    return Case(name, (256, 256), 4, 40, (5.0, 14.0), 1, config, torchvision_r18)


def torchvision_r18() -> nn.Module:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    anchors = AnchorGenerator(tuple((8 << level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone, num_classes=2, min_size=256, max_size=512, box_detections_per_img=300, box_batch_size_per_image=256,
        rpn_anchor_generator=anchors, rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_test=500,
    )  # fmt: skip


def coco() -> Case:
    """Images that already have their final size, so that neither side resizes."""
    model = preset("R-50-FPN")
    rpn = replace(model.rpn, post_nms_train=2000)
    config = replace(model, classes=90, rpn=rpn)
    name = "R-50-FPN, 2 images of 800 x 1088, 512 RoIs each"
    return Case(name, (800, 1088), 2, 8, (20.0, 200.0), 90, config, torchvision_r50)


def torchvision_r50() -> nn.Module:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.misc import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    return MaskRCNN(backbone, num_classes=91)


if __name__ == "__main__":
    run(compare, __doc__)
