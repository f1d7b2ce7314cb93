"""How many images a batch should have, measured: real training steps on this machine, with the images of the run."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..device import arithmetic, to_device
from ..model.build import build
from ..model.losses import total
from .run import Run
from .task import Task

MOST = {"cuda": 64, "cpu": 16}  # images that are tried
PATIENCE = 60.0  # seconds after which no larger batch is tried
SHARE = 0.8  # of the memory that may be taken: other batches may have larger images or more objects
CLOSE = 1.05  # of the least time per image: more images make fewer steps, so they must be worth it


class Trial(NamedTuple):
    """What a batch of some size takes."""

    seconds: float  # per image
    memory: float  # as a share of what there is


def measured_batch(run: Run, trial: Callable[[Run], Trial | None] | None = None) -> tuple[int, str]:
    """Images per batch and process, and the reason in a few words: of the sizes that fit into memory the smallest that
    is about as fast as the fastest.

    It begins with the recipe's batch and doubles it; on a GPU without room for that, it is halved first. `trial` runs a
    batch of `run.config.train.batch` images; None if it does not fit.
    """
    trial, began, first = trial or _trial, time.perf_counter(), run.config.train.batch
    most = max(1, min(MOST.get(run.ranks.device.type, MOST["cpu"]), len(run.train_data) // run.ranks.world))
    found: dict[int, Trial] = {}
    size = min(first, most)
    while 1 <= size <= most and size not in found:
        seen = trial(replace(run, config=replace(run.config, train=replace(run.config.train, batch=size))))
        if seen is None or (seen.memory > SHARE and size > 1):
            most, size = size - 1, size // 2
            continue
        found[size] = seen
        if time.perf_counter() - began > PATIENCE or seen.memory * 2 > SHARE:
            break
        size *= 2
    best = min((one.seconds for one in found.values()), default=0.0)
    chosen = min((size for size, one in found.items() if one.seconds <= CLOSE * best), default=1)
    least = min(run.ranks.gather(chosen) or [chosen])  # the other ranks hear it from the first
    tried = ", ".join(f"{size}: {one.seconds:.3g} s" for size, one in sorted(found.items()))
    return least, f"measured, seconds an image: {tried}" if tried else "not even one image fits into memory"


def _trial(run: Run) -> Trial | None:
    """Forward and backward of two batches, of which the first warms up."""
    device, steps = run.ranks.device, []
    reading = replace(run, config=replace(run.config, train=replace(run.config.train, workers=0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.train.seed)
        model = build(run.config.model, parts=run.parts)
    task = Task(reading, model.to(device, memory_format=torch.channels_last)).train()  # type: ignore[call-overload]
    parameters = sum(parameter.numel() * 4 for parameter in model.parameters())
    more = parameters * (run.config.train.optimizer == "adamw") + parameters * (1 + (run.config.train.ema > 0))
    before = _available(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        for epoch in range(2):
            inputs, _ids = next(task.batches(epoch))
            start = time.perf_counter()
            with arithmetic(run.precision, device):
                losses = task(*to_device(inputs, device))
            total(losses).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            steps.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return None
    finally:
        del task, model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Trial(steps[-1] / run.config.train.batch, _share(device, before, more))


def _share(device: torch.device, available: int, more: int) -> float:
    """Of the memory that was available before, the part that a step took; `more` bytes are the optimiser's."""
    if not available:
        return 0.0
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device) + more) / available
    status = Path("/proc/self/status")
    return (_kib(status, "VmHWM:") * 1024 + more) / (available + _kib(status, "VmRSS:") * 1024)


def _available(device: torch.device) -> int:
    """Bytes that this process could still take; 0 if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return _kib(Path("/proc/meminfo"), "MemAvailable:") * 1024


def _kib(path: Path, name: str) -> int:
    """A line of Linux's files on memory; 0 elsewhere."""
    if not path.exists():
        return 0
    return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name)), 0)
