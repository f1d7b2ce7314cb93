"""Mask R-CNN R-50-FPN on one image, ours beside torchvision, OpenVINO and ONNX Runtime.

    python -m benchmarks.inference [--quick]

First from an image of 640 x 480 in memory to RLE: tensor, resize to 800 x 1066 on a canvas of 800 x 1088, network,
100 masks as RLE. Then from the resized image to boxes and M x M masks, beside the runtimes that run torchvision's
export.
"""

from collections.abc import Callable

import numpy as np
import torch

from maskrcnn.device import arithmetic
from maskrcnn.engine import Backend
from maskrcnn.predict import Predictor
from maskrcnn.structures import Images

from .harness import Left, Options, Row, Work, against, interleaved, require, run
from .rivals import (
    Answer,
    image,
    kept,
    ours_from,
    ours_predicts,
    probability_iou,
    rle_iou,
    torchvision_predicts,
    torchvision_r50,
)

WHOLE = "R-50-FPN, image in memory to RLE"
PART = "R-50-FPN, resized image to boxes and M x M masks"


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    rival = torchvision_r50()
    predictor = ours_from(rival.state_dict())
    return [*whole(rival, predictor, options), *runtimes(rival, predictor, options)]


def whole(rival: torch.nn.Module, predictor: Predictor, options: Options) -> list[Row | Left]:
    """Beside torchvision as users run it, and as fast as it can be made to run."""
    array = image()
    last = torchvision_r50().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    contestants: dict[str, Work] = {
        "ours bf16": lambda: ours_predicts(predictor, array, "bf16"),
        "ours fp32": lambda: ours_predicts(predictor, array, "fp32"),
        "torchvision float32": lambda: torchvision_predicts(rival, array),
        "torchvision bf16, channels last": lambda: torchvision_predicts(last, array, bf16=True),
    }
    truth = torchvision_predicts(rival, array)
    exact = agreement(truth, ours_predicts(predictor, array, "fp32"), 0.99)
    near = agreement(truth, ours_predicts(predictor, array, "bf16"), 0.5)  # `agreement.py` judges bf16
    seconds = interleaved(contestants, rounds=options.rounds(9))
    user, fastest = "torchvision float32", "torchvision bf16, channels last"
    return [
        against(f"{WHOLE}, bf16", seconds, "ours bf16", user, bar=0.28, goal=0.25, answers=near),
        against(f"{WHOLE}, bf16", seconds, "ours bf16", fastest, bar=0.6, answers=near),
        against(f"{WHOLE}, fp32", seconds, "ours fp32", user, bar=0.62, goal=0.5, answers=exact),
    ]


def runtimes(rival: torch.nn.Module, predictor: Predictor, options: Options) -> list[Row | Left]:
    """Our backend beside OpenVINO and ONNX Runtime, which run torchvision's model as ONNX."""
    from .exported import export, onnxruntime_detector, openvino_detector

    images = predictor.engine("fp32").prepare(image())
    (height, width), canvas = images.sizes[0].tolist(), (images.pixels.shape[2], images.pixels.shape[3])
    pixels = np.ascontiguousarray(images.pixels[:, :, :height, :width].float().numpy() / 255)
    path = export(rival, (height, width), canvas)
    theirs = {"OpenVINO bf16": openvino_detector(path, "bf16", options.threads)}
    ours = {"ours bf16": detector(predictor.engine("bf16").backend)}
    exact = detector(predictor.engine("fp32").backend)
    if not options.quick:
        ours["ours fp32"] = exact
        theirs["OpenVINO float32"] = openvino_detector(path, "f32", options.threads)
        theirs["ONNX Runtime float32"] = onnxruntime_detector(path, options.threads)
    truth = exact(images)
    words = {name: agreement(truth, detect(pixels), 0.5 if "bf16" in name else 0.99) for name, detect in theirs.items()}
    contestants: dict[str, Work] = {name: lambda d=detect: d(images) for name, detect in ours.items()}
    contestants |= {name: lambda d=detect: d(pixels) for name, detect in theirs.items()}
    seconds = interleaved(contestants, rounds=options.rounds(9))
    bars = {
        "OpenVINO bf16": ("bf16", 1.1, 1.0),
        "OpenVINO float32": ("fp32", 1.25, 1.0),
        "ONNX Runtime float32": ("fp32", None, None),
    }
    return [
        against(f"{PART}, {kind}", seconds, f"ours {kind}", name, bar=bar, goal=goal, answers=words[name])
        for name, (kind, bar, goal) in bars.items()
        if name in theirs
    ]


def detector(backend: Backend) -> Callable[[Images], Answer]:
    """The backend alone, normalisation included: from an image on its canvas to detections."""

    def detect(images: Images) -> Answer:
        with torch.inference_mode(), arithmetic(backend.precision, backend.device):
            found = backend.detect(images)
        valid = found.valid[0]
        assert found.masks is not None
        labels = found.labels[0][valid].numpy() + 1  # torchvision counts from 1
        return Answer(found.boxes[0][valid].numpy(), labels, found.masks[0][valid].float().numpy())

    return detect


def agreement(truth: Answer, answer: Answer, least: float) -> str:
    """In words: the share of detections that both have, and the mean IoU of their masks. Raises `AnswersDiffer`."""
    same = require(kept(truth, answer), least, "of boxes")
    iou = (rle_iou if isinstance(truth.masks[0], dict) else probability_iou)(truth, answer)
    return f"{same}; {require(iou, least, 'mask IoU')}"


if __name__ == "__main__":
    run(compare, __doc__)
