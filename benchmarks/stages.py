"""Where the time of one prediction goes: the share that is neither convolution nor matrix product, and every stage.

    python -m benchmarks.stages [--quick]

R-50-FPN, an image of 640 x 480 in memory to 100 RLEs, in bf16. torch's profiler tells convolutions and matrix products
from the rest; the rest is the wall-clock time minus those. Stages are timed by a clock around each step of the page.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from maskrcnn.accelerate.prepare import prepare
from maskrcnn.device import arithmetic
from maskrcnn.model.mask_rcnn import MaskRCNN
from maskrcnn.predict import Predictor, load_image
from maskrcnn.results import from_detections

from .harness import Left, Options, Row, middle, run
from .rivals import image, ours_from, torchvision_r50

# Where torch's own time of a convolution or a matrix product is booked, reorders of its weights and maps included, and
# the transforms of Winograd's convolutions.
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
CPU = torch.device("cpu")


def compare(options: Options) -> list[Row | Left]:
    torch.set_num_threads(options.threads)
    predictor = ours_from(torchvision_r50().state_dict())
    rounds = options.rounds(9, 3)
    return [*rest_of_bf16(predictor, image(), rounds), *stages(predictor, image(), rounds)]


def rest_of_bf16(predictor: Predictor, array: np.ndarray, rounds: int) -> list[Row]:
    """Shares of the whole, in percent, of each round."""
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
    """Seconds within operators of these names, without those that they call."""
    events = watched.key_averages()
    return sum(e.self_cpu_time_total for e in events if any(name in e.key for name in names)) / 1e6


def stages(predictor: Predictor, array: np.ndarray, rounds: int) -> list[Row | Left]:
    """Seconds of each step of the page, bf16; what is left over is normalisation and the glue between the steps."""
    model = prepare(predictor.model, "bf16")
    spent: dict[str, float] = defaultdict(float)
    clocks(model, spent)
    kept: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        spent.clear()
        start = time.perf_counter()
        with torch.inference_mode(), arithmetic("bf16", CPU):
            (images,) = timed("resize and canvas", spent, load_image)(array, predictor.config).views
            detections = timed("network", spent, model.detect)(images)
            rules = predictor.config.mask_head
            read = timed("to the image's pixels", spent, from_detections)
            (result,) = read(
                detections, images, predictor.categories, paste_rule=rules.paste, threshold=rules.threshold
            )
            timed("RLE", spent, type(result).rle.func)(result)
        whole = time.perf_counter() - start
        inside = sum(spent[name] for name in STEPS)
        spent["normalisation and glue"] = spent.pop("network") - inside
        spent["whole"] = whole
        if number:
            for name, seconds in spent.items():
                kept[name].append(1e3 * seconds)
    return [Row(f"stage, bf16: {name}", middle(values), "ms") for name, values in kept.items()]


STEPS = (
    "backbone",
    "FPN",
    "RPN head",
    "proposals",
    "box RoIAlign",
    "box head",
    "detections",
    "mask RoIAlign",
    "mask head",
    "sigmoid",
)


def clocks(model: MaskRCNN, spent: dict[str, float]) -> None:
    """Puts a clock around every step of the page."""
    parts = (
        model.backbone,
        model.neck,
        model.rpn,
        None,
        model.box_pool,
        model.box_head,
        None,
        model.detail_pool,
        model.mask_head,
    )
    for name, part in zip(STEPS, parts, strict=False):
        if part is not None:
            part.forward = timed(name, spent, part.forward)
    steps = model.steps
    model.steps = steps._replace(
        propose_test=timed("proposals", spent, steps.propose_test),
        candidates=timed("detections", spent, steps.candidates),
        select=timed("detections", spent, steps.select),
        mask_probabilities=timed("sigmoid", spent, steps.mask_probabilities),
    )


def timed(name: str, spent: dict[str, float], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose seconds are added to `spent[name]`."""

    def run_it(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return run_it


if __name__ == "__main__":
    run(compare, __doc__)
