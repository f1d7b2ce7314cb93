"""The time of one prediction: the share that is neither convolution nor matrix product, and each stage.

    python -m benchmarks.stages [--quick]

R-50-FPN in bf16, from an image of 640 x 480 in memory to 100 RLEs. torch's profiler gives the time of convolutions and
matrix products; the rest is the wall-clock time minus that. Stages are timed as by `maskrcnn benchmark`.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from maskrcnn.benchmark import stage_seconds
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
    engine = Engine.of(predictor.model, predictor.categories, "bf16")
    seconds = stage_seconds(engine, [array], rounds)
    return [Row(f"stage, bf16: {name}", middle([1e3 * one for one in each]), "ms") for name, each in seconds.items()]


if __name__ == "__main__":
    run(compare, __doc__)
