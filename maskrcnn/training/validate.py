"""How good the weights are now: metrics, a validation loss, and whether they are the best so far."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..files import replacing
from .distributed import Ranks, from_first, gather
from .job import BEST, METRICS, Job, to_device
from .state import State


def is_due(step: int, job: Job, among: Ranks) -> bool:
    """Whether step `step` ends with an evaluation: at every multiple of `evaluate_every` epochs, and at the end."""
    if job.evaluate is None:
        return False
    if step == job.total(among.world):
        return True
    every = job.config.evaluate_every
    if every <= 0:
        return False
    before, after = (math.floor(job.epochs_after(s, among.world) / every + 1e-9) for s in (step - 1, step))
    return before != after


def evaluate(state: State, job: Job, among: Ranks) -> dict[str, Any]:
    """Judges the run's weights on every rank, keeps them if they are the best, and notes that in the progress."""
    started, progress = time.perf_counter(), state.progress
    with state.judged() as model:
        model.eval()
        metrics = cast(Any, job.evaluate)(model)
        loss = validation_loss(model, job, among) if job.validation is not None else None
        score = score_of(metrics)
        best = progress.best is None or score > progress.best
        if best:
            progress.best, progress.best_step, progress.stale = score, progress.step, 0
            _keep(model, metrics, state, job, among)
        else:
            progress.stale += 1
    model.train()
    seconds = time.perf_counter() - started
    return {"step": progress.step, "metrics": dict(metrics), "loss": loss, "best": best, "seconds": seconds}


@torch.no_grad()
def validation_loss(model: nn.Module, job: Job, among: Ranks) -> float:
    """The loss over the validation images with running norms; sums and counts are added over all images and ranks."""
    sums: dict[str, Tensor] = {}
    for *inputs, _ in cast(Any, job.validation)():
        with job.autocast(among.device):
            losses = job.loss(model, *(to_device(bundle, among.device) for bundle in inputs))
        for name, term in zip(losses._fields, losses, strict=True):
            if term is not None:
                pair = torch.stack([term.sum.double(), term.count.double()])
                sums[name] = sums[name] + pair if name in sums else pair
    gathered = gather({name: pair.cpu() for name, pair in sums.items()}, among) or []
    every = [pairs for pairs in gathered if pairs]  # a rank may have had no image
    terms = [torch.stack([pairs[name] for pairs in every]).sum(0) for name in (every[0] if every else {})]
    return from_first(float(sum(pair[0] / pair[1].clamp(min=1) for pair in terms)), among)


def score_of(metrics: Mapping[str, Any]) -> float:
    """What `best` and `patience` go by: AP of keypoints, else of masks, else of boxes, else AR of proposals; or -1."""
    figures = (metrics[kind].get(name) for kind, name in _HEADLINES if kind in metrics)
    value = next(figures, None)
    return -1.0 if value is None or not math.isfinite(value) else float(value)


_HEADLINES = (("keypoint", "AP"), ("mask", "AP"), ("box", "AP"), ("proposals", "AR"))


def _keep(model: nn.Module, metrics: Mapping[str, Any], state: State, job: Job, among: Ranks) -> None:
    if not among.first:
        return
    headline = {kind: values for kind, values in metrics.items() if isinstance(values, Mapping)}
    job.write(job.out / BEST, model, {"step": state.progress.step, "metrics": headline})
    with replacing(job.out / METRICS) as temporary:
        temporary.write_text(json.dumps(dict(metrics), indent=1) + "\n", encoding="utf-8")
