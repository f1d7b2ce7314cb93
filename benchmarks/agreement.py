"""The share of its float32 detections that a model keeps in bf16: ours on all goldens, torchvision on its own goldens.

    python -m benchmarks.agreement [--quick]

Same weights, same images. A detection is kept if bf16 has one of the same label at IoU 0.9. X-101 is left out: with
drawn weights its scores nearly tie. If MASKRCNN_BENCH_NUCLEI names a trained nuclei model and MASKRCNN_TEST_DATA the
folder of its data, the mask AP of that model in both precisions follows (some minutes).
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

from maskrcnn.evaluation.run import evaluate

from .harness import Left, Middle, Options, Row, middle, run
from .rivals import GOLDENS, Answer, draw, image, kept, ours_of_golden, ours_predicts, torchvision_predicts

SLACK = 0.02
QUICK = ("torchvision-maskrcnn_resnet50_fpn", "detectron2-keypoint_rcnn_R_50_FPN")
NUCLEI_SLACK = 0.002


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    models = sorted(path.name.removesuffix(".keys.json") for path in GOLDENS.glob("*.keys.json"))
    models = [name for name in models if "X_101" not in name and (not options.quick or name in QUICK)]
    ours: list[float] = []
    theirs: list[float] = []
    rows: list[Row | Left] = []
    for name in models:
        images = sorted(path.stem.removeprefix(f"{name}-") for path in GOLDENS.glob(f"{name}-shapes-*.npz"))
        mine = shares(our_predictor(name), images[: 1 if options.quick else None])
        other: list[float] = []
        if name.startswith("torchvision"):
            other = shares(
                torchvision_predictor(name.removeprefix("torchvision-")), images[: 1 if options.quick else None]
            )
        ours, theirs = ours + mine, theirs + other
        its = middle([100 * share for share in other]) if other else None
        rows.append(
            Row(f"{name}: kept in bf16", middle([100 * s for s in mine]), "%", "torchvision" if its else "", its)
        )
    bar = 100 * (float(np.mean(theirs)) - SLACK)
    total, its = mean_of(ours), mean_of(theirs)
    what = "float32 detections kept in bf16, all goldens but X-101, mean"
    first = Row(what, total, "%", "torchvision bf16 autocast", its, bar=bar, at_least=True)
    return [first, *rows, nuclei()]


def mean_of(values: list[float]) -> Middle:
    """In percent, with the lowest and highest in place of quartiles."""
    return Middle(100 * float(np.mean(values)), 100 * min(values), 100 * max(values))


def shares(predict: Callable[[np.ndarray, bool], Answer], images: list[str]) -> list[float]:
    """The share of float32's detections that bf16 keeps, image by image."""
    return [kept(predict(image(name), False), predict(image(name), True)) for name in images]


def our_predictor(name: str) -> Callable[[np.ndarray, bool], Answer]:
    predictor = ours_of_golden(name)
    return lambda array, bf16: ours_predicts(predictor, array, "bf16" if bf16 else "fp32")


def torchvision_predictor(name: str) -> Callable[[np.ndarray, bool], Answer]:
    model: nn.Module = draw(getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda array, bf16: torchvision_predicts(model, array, bf16=bf16)


def nuclei() -> Row | Left:
    """The mask AP of the trained model that MASKRCNN_BENCH_NUCLEI names, in both precisions."""
    what = "difference of the trained nuclei model's mask AP in bf16 and float32"
    weights, data = os.environ.get("MASKRCNN_BENCH_NUCLEI"), os.environ.get("MASKRCNN_TEST_DATA")
    if not weights or not data:
        return Left(what, "MASKRCNN_BENCH_NUCLEI (a checkpoint) or MASKRCNN_TEST_DATA (nuclei/ in it) is not set")
    found = {
        precision: evaluate(weights, Path(data) / "nuclei", precision=precision)["mask"]["AP"]
        for precision in ("fp32", "bf16")
    }
    away = abs(found["bf16"] - found["fp32"])
    words = f"float32 {found['fp32']:.4f}, bf16 {found['bf16']:.4f}"
    return Row(what, Middle(away, away, away), "AP", bar=NUCLEI_SLACK, answers=words)


if __name__ == "__main__":
    run(compare, __doc__)
