"""The sections of `gpu.py`: functions that report a row as soon as they have it. Each runs in a new process."""

import copy
import importlib.util
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu_measure import Graphed, Run, interleaved, peak_gib, waits, where_time_goes
from benchmarks.gpu_models import (
    BF16,
    CANVAS,
    Batch,
    detectron2_model,
    make_batch,
    optimizer_of,
    our_loss,
    ours,
    their_loss,
    torchvision_model,
    training_step,
)
from maskrcnn.ops.boxes import iou
from maskrcnn.structures import Detections

Report = Callable[[Mapping[str, Any]], None]
DEVICE = "cuda"


class Section(NamedTuple):
    """A part of the benchmark, and the seconds after which it is stopped."""

    run: Callable[[Report], None]
    seconds: int


def machine(report: Report) -> None:
    """The GPU and the versions."""
    import triton

    found = {"gpu": torch.cuda.get_device_name(), "gpu_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1)}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    found |= {"triton": triton.__version__, "python": platform.python_version(), "processor": platform.processor()}
    for rival in ("torchvision", "detectron2"):
        found[rival] = importlib.import_module(rival).__version__ if importlib.util.find_spec(rival) else "absent"
    commit = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(commit, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    report({"kind": "machine", **found, "commit": done.stdout.strip() or "unknown"})


def checks(report: Report) -> None:
    """Every kernel against its reference, before anything is timed."""
    from tests.ops.kernel_checks import CHECKS

    for name, check in CHECKS.items():
        started = time.perf_counter()
        try:
            found = {"error": check.run(DEVICE), "tolerance": check.tolerance}
            found["passed"] = found["error"] <= check.tolerance
        except Exception:
            found = {"passed": False, "failure": traceback.format_exc(limit=-3)}
        report({"kind": "check", "name": name, **found, "seconds": round(time.perf_counter() - started, 1)})


def kernels(report: Report) -> None:
    """The milliseconds of each operator at the sizes of a batch of 8: ours, and torchvision's if it has one."""
    from benchmarks.gpu_operators import contestants

    for op, make in contestants().items():
        try:
            found = make(DEVICE)
        except Exception:
            report({"kind": "failure", "name": op, "failure": traceback.format_exc(limit=-4)})
            continue
        for name, runs in found.items():
            row = {"kind": "operator", "name": name}
            for who, times in _timed(report, row, _alive(report, row, runs), 4.0).items():
                report({**row, "who": who, **times})


def answers(report: Report) -> None:
    """In float32 with the same weights: a CUDA graph changes nothing, and torchvision finds and learns the same."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch = make_batch(2, DEVICE)
    backend = ours(DEVICE).engine("fp32").backend
    with torch.no_grad():
        found = backend.detect(batch.images)
        replayed = Graphed(backend.detect)(batch.images)
        same = all(torch.equal(a, b) for a, b in zip(found, replayed, strict=True) if a is not None)
        report({"kind": "answers", "name": "CUDA graph equals eager", "passed": same})
        theirs = torchvision_model(DEVICE).eval()(list(batch.images.pixels))
    shares = [_agreement(found, b, result) for b, result in enumerate(theirs)]
    counts = [len(result["boxes"]) for result in theirs]
    report(
        {
            "kind": "answers",
            "name": "torchvision's detections that are ours (IoU 0.9, same label, score within 0.01)",
            "shares": shares,
            "detections": counts,
            "passed": min(shares) >= 0.98 and min(counts) > 0,
        }
    )
    report(
        {"kind": "answers", "name": "training losses of boxes and masks within 10 % of torchvision's", **_losses(batch)}
    )


def _losses(batch: Batch) -> dict[str, Any]:
    """The losses that do not depend on the random choice of background."""
    with torch.no_grad():
        terms = ours(DEVICE).model.train().loss(batch.images, batch.gt)._asdict()
        theirs = torchvision_model(DEVICE).train()(list(batch.images.pixels), batch.targets)
    pairs = {"rpn_box": "loss_rpn_box_reg", "box_box": "loss_box_reg", "mask": "loss_mask"}
    own = {name: round(float(terms[name].sum / terms[name].count), 4) for name in pairs}
    wanted = {name: round(float(theirs[other]), 4) for name, other in pairs.items()}
    passed = all(abs(own[name] - wanted[name]) <= 0.1 * wanted[name] for name in pairs)
    return {"ours": own, "torchvision": wanted, "passed": passed}


def _agreement(found: Detections, b: int, theirs: Mapping[str, Tensor]) -> float:
    pairs = iou(theirs["boxes"].float(), found.boxes[b])
    near = (theirs["labels"][:, None] - 1 == found.labels[b]) & found.valid[b]
    near = near & ((theirs["scores"][:, None] - found.scores[b]).abs() < 0.01)
    return round(((pairs * near).amax(dim=1) >= 0.9).float().mean().item(), 4)


def detection(report: Report, *, batch: int, compiled: bool) -> None:
    """From pixels on the GPU to boxes and masks on the GPU, bf16."""
    torch.backends.cudnn.benchmark = True
    data = make_batch(batch, DEVICE)
    backend, theirs = ours(DEVICE).engine("bf16").backend, torchvision_model(DEVICE).eval()

    def detect(images: Any) -> Detections:
        with torch.no_grad(), torch.autocast(**BF16):
            return backend.detect(images)

    def torchvision() -> object:
        with torch.no_grad(), torch.autocast(**BF16):
            return theirs(list(data.images.pixels))

    runs: dict[str, Run] = {"torchvision": torchvision}
    if compiled:
        traced = torch.compile(detect, fullgraph=True, dynamic=False)
        runs |= {"ours, compiled": partial(traced, data.images)}
        runs |= {"ours, compiled, CUDA graph": partial(Graphed(traced), data.images)}
    else:
        runs |= {"ours": partial(detect, data.images), "ours, CUDA graph": partial(Graphed(detect), data.images)}
    _compare(report, {"what": "detection", "batch": batch, "canvas": list(CANVAS)}, runs)


def training(report: Report, *, batch: int, compiled: bool) -> None:
    """Forward, backward and a fused SGD update, bf16."""
    torch.backends.cudnn.benchmark = True
    data, theirs = make_batch(batch, DEVICE), torchvision_model(DEVICE)
    step = partial(
        training_step(theirs, their_loss(theirs), optimizer_of(theirs)), list(data.images.pixels), data.targets
    )
    # Its mask head has a row for each foreground RoI, and cuDNN's search for the fastest algorithm runs again for every
    # number of rows.
    runs: dict[str, Run] = {"torchvision": partial(_untuned, step), "torchvision, tuned": step}
    base = ours(DEVICE).model
    for suffix in ("", ", CUDA graph"):
        model = copy.deepcopy(base)  # each contestant updates its own weights
        loss = our_loss(model)
        own = training_step(
            model, torch.compile(loss, fullgraph=True, dynamic=False) if compiled else loss, optimizer_of(model)
        )
        name = f"ours{', compiled' if compiled else ''}{suffix}"
        runs[name] = partial(Graphed(own) if suffix else own, data.images, data.gt)
    _compare(report, {"what": "training", "batch": batch, "canvas": list(CANVAS)}, runs)


def _untuned(run: Run) -> object:
    """A call in which cuDNN chooses its algorithms without a search."""
    torch.backends.cudnn.benchmark = False
    try:
        return run()
    finally:
        torch.backends.cudnn.benchmark = True


def detectron2(report: Report) -> None:
    """Detectron2 alone, if it can be imported: batch 8, bf16 as far as its operators allow it."""
    if importlib.util.find_spec("detectron2") is None:
        report({"kind": "note", "text": "Detectron2 cannot be imported here"})
        return
    torch.backends.cudnn.benchmark = True
    data, model = make_batch(8, DEVICE), detectron2_model(DEVICE)
    inputs = [{"image": image[:, :, :1333], "height": 800, "width": 1333} for image in data.images.pixels]

    def detect() -> object:
        with torch.no_grad(), torch.autocast(**BF16):
            return model.inference(inputs, do_postprocess=False)  # type: ignore[operator]

    model.eval()
    _compare(report, {"what": "detection", "batch": 8, "canvas": list(CANVAS)}, {"Detectron2": detect})


def _compare(report: Report, row: Mapping[str, Any], runs: Mapping[str, Run]) -> None:
    """Times those that run without an error, then reports the memory of each, its waits and where its time goes."""
    alive = _alive(report, {"kind": "measurement", **row}, runs)
    for who, times in _timed(report, row, alive, 12.0).items():
        found: dict[str, Any] = {**times, "images_per_second": round(row["batch"] / times["ms"] * 1e3, 2)}
        for name, measure in (("peak_gib", peak_gib), ("waits", waits), ("profile", where_time_goes)):
            try:
                found[name] = measure(alive[who])
            except Exception as error:
                found[name] = None
                report({"kind": "failure", **row, "who": who, "failure": f"{name}: {error!r}"})
        report({"kind": "measurement", **row, "who": who, **found})


def _alive(report: Report, row: Mapping[str, Any], runs: Mapping[str, Run]) -> dict[str, Run]:
    """Those that run once without an error; the errors of the others are reported."""
    alive = {}
    for who, run in runs.items():
        started = time.perf_counter()
        try:
            found = _summary(run())
            torch.cuda.synchronize()
        except Exception:
            report({**row, "kind": "failure", "who": who, "failure": traceback.format_exc(limit=-4)})
            torch.cuda.empty_cache()
            continue
        report({**row, "kind": "first call", "who": who, "seconds": round(time.perf_counter() - started, 2), **found})
        alive[who] = run
    return alive


def _summary(answer: object) -> dict[str, Any]:
    """A call's answer in a number or two, which shows if nothing was found."""
    if isinstance(answer, Detections):
        return {"detections": answer.valid.sum(1).tolist()}
    if isinstance(answer, Tensor) and answer.ndim == 0:
        return {"loss": round(float(answer), 4)}
    if isinstance(answer, list) and answer and isinstance(answer[0], dict) and "boxes" in answer[0]:
        return {"detections": [len(result["boxes"]) for result in answer]}
    return {}


def _timed(
    report: Report, row: Mapping[str, Any], runs: Mapping[str, Run], seconds: float
) -> dict[str, dict[str, float]]:
    """`interleaved`; if one of them fails, each is timed alone, so that the others are not lost."""
    try:
        return interleaved(runs, seconds)
    except Exception:
        report({**row, "kind": "failure", "failure": f"in turns: {traceback.format_exc(limit=-3)}"})
    times: dict[str, dict[str, float]] = {}
    for who, run in runs.items():
        torch.cuda.empty_cache()
        try:
            times |= interleaved({who: run}, seconds / len(runs), 3)
        except Exception:
            report({**row, "kind": "failure", "who": who, "failure": traceback.format_exc(limit=-3)})
    return times


def _both(what: Callable[..., None], batch: int, *, compiled: bool = False) -> Callable[[Report], None]:
    return partial(what, batch=batch, compiled=compiled)


SECTIONS: dict[str, Section] = {  # the most important first: the time may run out
    "machine": Section(machine, 30),
    "checks": Section(checks, 100),
    "answers": Section(answers, 60),
    "detection-8": Section(_both(detection, 8), 60),
    "training-8": Section(_both(training, 8), 75),
    "detection-1": Section(_both(detection, 1), 45),
    "training-1": Section(_both(training, 1), 45),
    "detection-16": Section(_both(detection, 16), 60),
    "training-16": Section(_both(training, 16), 75),
    "detection-8-compiled": Section(_both(detection, 8, compiled=True), 120),
    "training-8-compiled": Section(_both(training, 8, compiled=True), 150),
    "kernels": Section(kernels, 60),
    "detectron2": Section(detectron2, 60),
    "detection-1-compiled": Section(_both(detection, 1, compiled=True), 120),
    "detection-16-compiled": Section(_both(detection, 16, compiled=True), 120),
    "training-1-compiled": Section(_both(training, 1, compiled=True), 150),
    "training-16-compiled": Section(_both(training, 16, compiled=True), 150),
}
