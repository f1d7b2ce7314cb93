"""The time of one prediction: the share that is neither convolution nor matrix product, and each stage.

    python -m benchmarks.stages [--quick]

R-50-FPN in bf16, from an image of 640 x 480 in memory to 100 RLEs. torch's profiler gives the time of convolutions and
matrix products; the rest is the wall-clock time minus that. Stages are timed by a clock around each step of
`MaskRCNN.detect`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from maskrcnn.engine import Engine
from maskrcnn.predict import Predictor

from .harness import Left, Options, Row, middle, run
from .rivals import image, ours_from, torchvision_r50

# Parts of the names under which the profiler counts convolutions and matrix products, reorders of their weights and
# maps included, and the transforms of Winograd's convolutions.
TRANSFORMS = "maskrcnn::winograd"
PRODUCTS = (
    TRANSFORMS,
    "convolution",
    "conv2d",
    "conv_transpose",
    "addmm",
    "aten::mm",
    "aten::bmm",
    "baddbmm",
    "linear",
    "matmul",
)

# The stages, by the names of their rows: parts of the model, then functions.
PARTS = {
    "normalisation": "normalise",
    "backbone": "backbone",
    "FPN": "neck",
    "RPN head": "rpn",
    "box RoIAlign": "box_pool",
    "box head": "box_head",
    "mask RoIAlign": "detail_pool",
    "mask head": "mask_head",
}
FUNCTIONS = (
    ("proposals", "maskrcnn.model.mask_rcnn.propose"),
    ("detections", "maskrcnn.model.mask_rcnn.candidates"),
    ("detections", "maskrcnn.model.mask_rcnn.select"),
    ("sigmoid", "maskrcnn.model.mask_rcnn.mask_probabilities"),
    ("to the image's pixels", "maskrcnn.engine.from_detections"),
)


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    predictor = ours_from(torchvision_r50().state_dict())
    rounds = options.rounds(9, 3)
    return [*rest_of_bf16(predictor, image(), rounds), *stages(predictor, image(), rounds)]


def rest_of_bf16(predictor: Predictor, array: np.ndarray, rounds: int) -> list[Row]:
    """Shares of the whole time, in percent; a round gives one of each."""
    rest, transforms = [], []
    for number in range(rounds + 1):
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            start = time.perf_counter()
            (result,) = predictor.predict(array, precision="bf16")
            assert result.rle
            wall = time.perf_counter() - start
        if number:  # the first one warms up
            rest.append(100 * (1 - own(watched, PRODUCTS) / wall))
            transforms.append(100 * own(watched, (TRANSFORMS,)) / wall)
    what = "of the whole, bf16, image in memory to RLE"
    return [
        Row(f"neither convolution nor matrix product, {what}", middle(rest), "%", bar=12.0),
        Row(f"transforms of Winograd's convolutions, {what}", middle(transforms), "%"),
    ]


def own(watched: profile, names: Sequence[str]) -> float:
    """The seconds within operators of these names, without the operators that they call."""
    events = watched.key_averages()
    return sum(e.self_cpu_time_total for e in events if any(name in e.key for name in names)) / 1e6


def stages(predictor: Predictor, array: np.ndarray, rounds: int) -> list[Row | Left]:
    """The milliseconds of each stage, bf16. "between the stages" is what no clock measured."""
    engine = Engine.of(predictor.model, predictor.categories, "bf16")  # a copy, as the clocks stay on its parts
    assert isinstance(engine.backend, nn.Module)
    spent: dict[str, float] = defaultdict(float)
    kept: dict[str, list[float]] = defaultdict(list)
    with clocks(engine.backend, spent):
        for number in range(rounds + 1):
            spent.clear()
            start = time.perf_counter()
            images = timed("resize and canvas", spent, engine.prepare)(array)
            (result,) = engine.results(images)
            timed("RLE", spent, partial(getattr, result))("rle")
            whole = time.perf_counter() - start
            spent["between the stages"] = whole - sum(spent.values())
            spent["whole"] = whole
            if number:  # the first one warms up
                for name, seconds in spent.items():
                    kept[name].append(1e3 * seconds)
    return [Row(f"stage, bf16: {name}", middle(values), "ms") for name, values in kept.items()]


@contextmanager
def clocks(model: nn.Module, spent: dict[str, float]) -> Iterator[None]:
    """Within the block, a clock runs around every stage."""
    for name, part in PARTS.items():
        module = model.get_submodule(part)
        module.forward = timed(name, spent, module.forward)
    with ExitStack() as stack:
        for name, function in FUNCTIONS:
            stack.enter_context(mock.patch(function, timed(name, spent, resolve_name(function))))
        yield


def timed(name: str, spent: dict[str, float], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`; the seconds that it takes are added to `spent[name]`."""

    def run_it(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return run_it


if __name__ == "__main__":
    run(compare, __doc__)
