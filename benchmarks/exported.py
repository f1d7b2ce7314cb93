"""torchvision's model as ONNX, run by OpenVINO and ONNX Runtime: resized image in, boxes and M x M masks out.

Resize and paste are left out: OpenVINO cannot convert the paste, and deployments do both themselves. The file is kept
in the benchmarks' environment; its name holds the versions that wrote it.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from .rivals import Answer

CACHE = Path(__file__).parents[1] / ".bench" / "cache"
NAMES = ["boxes", "labels", "scores", "masks"]

Detector = Callable[[np.ndarray], Answer]


class WithoutPaste(nn.Module):
    """torchvision's model between resize and paste.

    From the resized image, [1 3 h w] of 0..1, to boxes [D 4] on the canvas, labels [D], scores [D], masks [D 1 M M].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.padding = (0, canvas[1] - size[1], 0, canvas[0] - size[0])
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        x = nn.functional.pad((pixels - self.mean) / self.std, self.padding)
        features = model.backbone(x)
        proposals, _ = model.rpn(ImageList(x, [self.size]), features)
        (found,), _ = model.roi_heads(features, proposals, [self.size])
        return tuple(found[name] for name in NAMES)


def export(model: nn.Module, size: tuple[int, int], canvas: tuple[int, int]) -> Path:
    """The ONNX file of `model` for images of `size` (height, width) on a canvas. It is written once."""
    path = CACHE / f"torchvision-{torchvision.__version__}-torch-{torch.__version__}-{size[0]}x{size[1]}.onnx"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        example = torch.rand(1, 3, *size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing; the newer exporter does not trace, but fails on this model
            torch.onnx.export(
                WithoutPaste(model, size, canvas).eval(), (example,), str(part), dynamo=False, opset_version=17,
                input_names=["pixels"], output_names=NAMES,
            )  # fmt: skip
        part.rename(path)
    return path


def openvino_detector(path: Path, precision: str, threads: int) -> Detector:
    """The file run by OpenVINO; `precision` is f32 or bf16."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(pixels: np.ndarray) -> Answer:
        found = compiled([pixels])
        boxes, labels, _, masks = (np.array(found[i]) for i in range(len(NAMES)))
        return Answer(boxes, labels, masks[:, 0])

    return run


def onnxruntime_detector(path: Path, threads: int) -> Detector:
    """The file run by ONNX Runtime, in float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(pixels: np.ndarray) -> Answer:
        boxes, labels, _, masks = session.run(NAMES, {"pixels": pixels})
        return Answer(boxes, labels, masks[:, 0])

    return run
