"""What a prediction costs, stage by stage: time, floating-point operations and memory. The command line reads the
options of `benchmark` here, so heavy imports wait until it runs.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pkgutil import resolve_name
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from .config import ModelConfig
    from .engine import Engine
    from .model.mask_rcnn import MaskRCNN

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
    "keypoint head": "keypoint_head",
}
FUNCTIONS = (
    ("proposals", "maskrcnn.model.mask_rcnn.propose"),
    ("detections", "maskrcnn.model.mask_rcnn.candidates"),
    ("detections", "maskrcnn.model.mask_rcnn.select"),
    ("sigmoid", "maskrcnn.model.mask_rcnn.mask_probabilities"),
    ("keypoints", "maskrcnn.model.mask_rcnn.locate_keypoints"),
    ("to the image's pixels", "maskrcnn.engine.from_detections"),
)
BETWEEN, WHOLE = "between the stages", "whole"

Watch = Callable[[str, Callable[..., Any]], Callable[..., Any]]  # of a stage's name and its function


class Stage(NamedTuple):
    """What one stage costs, of a whole batch."""

    name: str
    seconds: float
    flops: int  # of convolutions and matrix products; a multiplication and an addition are two
    memory: int | None  # bytes: the most that was in use at once during the stage, without the weights


class Costs(NamedTuple):
    """What a prediction costs."""

    about: str
    stages: list[Stage]  # in order; last "between the stages" and "whole"


def benchmark(
    model: str,
    *,
    size: str = "480x640",
    batch: int = 1,
    precision: str = "auto",
    rounds: int = 5,
    device: str | None = None,
) -> Costs:
    """Time, operations and memory of a prediction by stage, from images in memory to RLE.

    The image is noise, and the model finds as many objects as it may, so this is what an image costs at most.

    Args:
        model: Checkpoint of any origin, folder of a run, name of a release, or of a model such as R-50-FPN.
        size: Height and width of the images, before they are resized for the model.
        batch: Images per batch.
        precision: fp32, bf16, fp16 or auto.
        rounds: Predictions that are timed, after one that warms up; the median counts.
        device: cpu, cuda or cuda:1; default: a GPU if there is one.

    Raises `ConfigError` and `CheckpointError`.
    """
    import numpy as np

    from .engine import Engine
    from .errors import ConfigError

    try:
        height, width = (int(word) for word in size.lower().split("x"))
    except ValueError as error:
        raise ConfigError(f"size is HEIGHTxWIDTH, such as 480x640; it got {size!r}") from error
    if min(height, width, batch, rounds) < 1:
        raise ConfigError(f"size, batch and rounds must be at least 1; they are {size}, {batch} and {rounds}")
    network, categories = _open(model, device)
    network.config = _with_all_detections(network.config)
    engine = Engine.of(network, categories, precision)
    channels = engine.config.input.channels
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    seconds = stage_seconds(engine, [image] * batch, rounds)
    flops = _flops(network, categories, [image] * batch)
    memory = _memory(engine, [image] * batch)
    stages = [Stage(name, median(times), flops[name], memory.get(name)) for name, times in seconds.items()]
    canvas = "x".join(map(str, engine.prepare(image).pixels.shape[-2:]))
    about = f"{engine.config.name}, {engine.backend.precision} on {engine.backend.device}, {batch} x {height}x{width}"
    most = engine.config.box_head.max_detections
    return Costs(f"{about} on a canvas of {canvas}, at most {most} detections an image", stages)


def _open(model: str, device: str | None) -> "tuple[MaskRCNN, tuple[Any, ...]]":
    """The model and its categories; one with drawn weights for the name of a model."""
    import torch

    from .config import MODEL_NAMES, preset
    from .device import choose_device
    from .engine import open_model
    from .model.build import build
    from .weights.interop.classes import name_classes

    if model not in MODEL_NAMES:
        return open_model(model, device=device)[:2]
    config = preset(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config).to(choose_device(device)).eval(), name_classes(config)


def _with_all_detections(config: "ModelConfig") -> "ModelConfig":
    return replace(config, box_head=replace(config.box_head, score_threshold=0.0))


def stage_seconds(engine: "Engine", arrays: "list[np.ndarray]", rounds: int) -> dict[str, list[float]]:
    """The seconds of each stage in each round; "between the stages" is what no clock measured. One round warms up."""
    spent: dict[str, float] = defaultdict(float)
    kept: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        spent.clear()
        start = time.perf_counter()
        run_stages(engine, arrays, lambda name, function: timed(name, spent, function))
        whole = time.perf_counter() - start
        spent[BETWEEN] = whole - sum(spent.values())
        spent[WHOLE] = whole
        if number:
            for name, seconds in spent.items():
                kept[name].append(seconds)
    return kept


def run_stages(engine: "Engine", arrays: "list[np.ndarray]", watch: Watch) -> None:
    """One prediction of a batch, with every stage watched."""
    from .canvas import join

    with watched(engine.backend, watch):  # type: ignore[arg-type]
        images = watch("resize and canvas", lambda: join([engine.prepare(array) for array in arrays]))()
        results = engine.results(images)
        watch("RLE", lambda: [result.rle for result in results])()


@contextmanager
def watched(model: "nn.Module", watch: Watch) -> Iterator[None]:
    """Within the block, every stage of the model is watched."""
    with ExitStack() as stack:
        for name, part in PARTS.items():
            module: Any = getattr(model, part, None)
            if module is not None:
                stack.enter_context(mock.patch.object(module, "forward", watch(name, module.forward)))
        for name, function in FUNCTIONS:
            stack.enter_context(mock.patch(function, watch(name, resolve_name(function))))
        yield


def timed(name: str, spent: dict[str, float], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`; the seconds that it takes are added to `spent[name]`."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None

    def run_it(*args: Any, **kwargs: Any) -> Any:
        wait()
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            wait()
            spent[name] += time.perf_counter() - start

    return run_it


def _flops(model: "MaskRCNN", categories: Any, arrays: "list[np.ndarray]") -> Mapping[str, int]:
    """Of each stage, counted in a copy without fused kernels, which compute the same and are not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    from .accelerate.prepare import prepare
    from .engine import Engine

    found: dict[str, int] = defaultdict(int)
    engine = Engine(prepare(model, fuse=False), model.config, categories)
    with FlopCounterMode(display=False) as counter:

        def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def run_it(*args: Any, **kwargs: Any) -> Any:
                before = counter.get_total_flops()
                result = function(*args, **kwargs)
                found[name] += counter.get_total_flops() - before
                return result

            return run_it

        run_stages(engine, arrays, watch)
        found[WHOLE] = counter.get_total_flops()
    found[BETWEEN] = found[WHOLE] - sum(count for name, count in found.items() if name != WHOLE)
    return found


def _memory(engine: "Engine", arrays: "list[np.ndarray]") -> Mapping[str, int]:
    """Of each stage, from what torch's allocator tells its profiler; arrays of NumPy and Numba are not seen."""
    from torch.profiler import ProfilerActivity, profile, record_function

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run_it(*args: Any, **kwargs: Any) -> Any:
            with record_function(f"stage {name}"):
                return function(*args, **kwargs)

        return run_it

    on_gpu = engine.backend.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities, profile_memory=True) as watched_by, record_function(f"stage {WHOLE}"):
        run_stages(engine, arrays, watch)
    profiler: Any = watched_by.profiler
    events = profiler.kineto_results.events()
    kind = engine.backend.device.type
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type().name.lower() == kind
    )
    spans = [
        (event.name().removeprefix("stage "), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.name().startswith("stage ") and event.device_type().name == "CPU"
    ]
    return most_in_use(changes, spans)


def most_in_use(changes: list[tuple[int, int]], spans: list[tuple[str, int, int]]) -> dict[str, int]:
    """The most bytes in use at once within spans of time: `changes` are (time, bytes), in order of time; of spans with
    one name the most.
    """
    most: dict[str, int] = {}
    for name, start, end in spans:
        used, peak = 0, 0
        for at, change in changes:
            if at > end:
                break
            if at >= start:
                peak = max(peak, used)
            used += change
            if at >= start:
                peak = max(peak, used)
        most[name] = max(most.get(name, 0), peak)
    return most
