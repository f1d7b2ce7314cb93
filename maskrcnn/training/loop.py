"""The training loop: data, loss, backward, step, log, evaluate, save. What is trained was decided before, in `run.py`.

A run is a function of its config, its data and its seed: `Progress` says where it is, and everything else follows.
A run that is killed at any step and started again ends with the same weights, on a CPU bit by bit.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import to_dict
from ..device import arithmetic, deterministic, to_device
from ..errors import TrainingError
from ..evaluation.matches import matches_of, write_matches
from ..files import write_json
from ..reports.run_report import read_history
from ..structures import Losses
from .callbacks import Callbacks
from .distributed import wrap
from .log import LOG, NORM, Meter, own_callbacks, peak_memory_gib
from .optim import build_optimizer, clip, learning_rate, set_rate
from .pace import Pace, evaluations_between
from .report import drawn_images, leave_report
from .run import BEST, FINAL, LAST, METRICS, STATE, Run, copy_file
from .state import Average, Progress, State, load_state, save_state
from .task import Inputs, Task


def fit(task: Task, callbacks: Sequence[Any] = ()) -> Path:
    """Trains to the end of the run, from the state in its folder if there is one; returns the final checkpoint's path.

    `callbacks` hear of the run in addition to its own (`log.py`). Raises `TrainingError` if a loss is not finite, and
    `KeyboardInterrupt` after SIGINT or SIGTERM, when the run is saved.
    """
    run, state = task.run, begin(task)
    progress = state.progress
    if is_finished(progress, run):
        run.ranks.say(f"{run.out} holds a finished run of {progress.step} steps: nothing to do")
        return publish(run)
    if progress.step:
        run.ranks.say(f"{run.out}: resuming after step {progress.step} of {run.steps}")
    compute_loss, batches = wrap(task, run.ranks), micro_batches(task, progress)
    meter, began = Meter(run, progress.seconds), time.perf_counter() - progress.seconds
    pace = Pace(run, progress.step, progress.seconds, past_evaluations(run))
    exact = deterministic(run.config.train.deterministic)
    with exact, telling(run, progress, callbacks) as tell, catching_signals() as stop:
        task.train()
        while not is_finished(progress, run):
            train_step(state, compute_loss, batches, meter, run)  # data, loss, backward, step
            task.thresholds = ()  # what was measured was measured of other weights
            progress.step += 1
            progress.seconds = time.perf_counter() - began
            pace.add(progress.step, progress.seconds)
            due, stopping = what_is_due(progress.step, run), run.ranks.any(stop.requested)
            due = due._replace(log=due.log or pace.is_early(progress.step))
            if any(due) or stopping:
                meter.check()  # so that nothing is saved of a loss that is not finite
            if due.log:
                tell("step", step_record(state, meter, run, pace))
            if due.evaluate:
                record = evaluate(state, task)
                tell("evaluation", record)
                tell.when_wanted("images", lambda: {"step": progress.step, "images": drawn_images(task)})
                pace.evaluations.append(time.perf_counter() - began - progress.seconds)
                began += pace.evaluations[-1]  # an evaluation is no training time
            if due.save or stopping:
                save(state, task)
            if stopping and not is_finished(progress, run):
                raise KeyboardInterrupt(
                    f"{stop.by}: saved after step {progress.step}; the same command resumes the run"
                )
    if unread := task.unread():
        run.ranks.say(f"{unread} of the images used could not be read (see above); maskrcnn check --verify lists all")
    leave_report(task)
    return publish(run)


def train_step(
    state: State, compute_loss: nn.Module, batches: Iterator[tuple[Inputs, Tensor]], meter: Meter, run: Run
) -> None:
    """One step of the optimiser over `accumulate` micro-batches: data, loss, backward, step."""
    train, device, step = run.config.train, run.ranks.device, state.progress.step
    optimizer, scaler = state.optimizer, state.scaler  # the scaler does nothing unless the precision is fp16
    set_rate(optimizer, learning_rate(step, run.steps, train, run.images_per_step))
    optimizer.zero_grad(set_to_none=True)
    for i in range(train.accumulate):
        inputs, image_ids = next(batches)
        # The ranks exchange gradients only once a step, with the last micro-batch.
        last = i == train.accumulate - 1
        with nullcontext() if last else getattr(compute_loss, "no_sync", nullcontext)():
            with arithmetic(run.precision, device):
                losses = compute_loss(*to_device(inputs, device))
            terms = divide(losses, run)
            scaler.scale(terms["loss"] / train.accumulate).backward()
        meter.add(step, terms, image_ids, train.accumulate)
    scaler.unscale_(optimizer)
    meter.add(step, {NORM: clip(state.model, train.clip_norm)})
    if device.type == "cpu":  # before a loss that is not finite reaches the weights; on a GPU looking would wait
        meter.check()
    scaler.step(optimizer)
    scaler.update()
    if state.average is not None:
        state.average.update(state.model, step)


def divide(losses: Losses, run: Run) -> dict[str, Tensor]:
    """Each term of the loss as a scalar, its sum divided by its count, and "loss", the sum of these.

    With `model.loss_counts` "global" the counts are added over the ranks first, so that the mean over the ranks is
    exactly the loss of all their images. With "rank" every rank divides by its own count, as other frameworks do.
    """
    terms = {name: term for name, term in zip(losses._fields, losses, strict=True) if term is not None}
    counts, share = torch.stack([term.count.detach().float() for term in terms.values()]), 1
    if run.config.model.loss_counts == "global":
        counts, share = run.ranks.total(counts), run.ranks.world
    counts = counts.clamp(min=1)
    values = {name: term.sum * share / counts[i] for i, (name, term) in enumerate(terms.items())}
    return {"loss": torch.stack(list(values.values())).sum(), **values}


def micro_batches(task: Task, progress: Progress) -> Iterator[tuple[Inputs, Tensor]]:
    """Epoch after epoch from the place in `progress`, which moves on with every micro-batch."""
    while True:
        empty = progress.batch == 0
        for batch in task.batches(progress.epoch, progress.batch):
            empty = False
            progress.batch += 1
            yield batch
        if empty:
            raise TrainingError(f"epoch {progress.epoch} has no batch to train on")
        progress.epoch, progress.batch = progress.epoch + 1, 0


# --- where a run is --------------------------------------------------------------------------------------------------


def begin(task: Task) -> State:
    """The state in the run's folder, or that of a new run."""
    run, model = task.run, task.model
    config = run.config.train
    average = Average(model, config.ema) if config.ema > 0 else None
    scaler = torch.amp.GradScaler(run.ranks.device.type, enabled=run.precision == "fp16")
    state = State(model, build_optimizer(model, config), average, scaler, Progress())
    if run.ranks.from_first((run.out / STATE).exists()):
        load_state(run.out / STATE, state)
    return state


def is_finished(progress: Progress, run: Run) -> bool:
    """All steps are done, or `patience` evaluations brought no improvement."""
    return progress.step >= run.steps or 0 < run.config.train.patience <= progress.stale


class Due(NamedTuple):
    """What comes after a step."""

    log: bool
    evaluate: bool
    save: bool


def what_is_due(step: int, run: Run) -> Due:
    """After `step` steps of the run. Everything is due at its end."""
    config, end = run.config.train, step == run.steps
    evaluate = evaluations_between(step - 1, step, run) > 0
    log, save = (end or (every > 0 and step % every == 0) for every in (config.log_every, config.checkpoint_every))
    return Due(log, evaluate, save or evaluate)


def save(state: State, task: Task) -> None:
    """Writes the newest checkpoint and the state that a resume needs. Raises `TrainingError`, on every rank, if the
    disk does not take them; what was saved before is intact then.
    """
    run, refused = task.run, ""
    if run.ranks.first:
        try:
            with state.averaged():
                task.write(run.out / LAST, {"step": state.progress.step})
            save_state(run.out / STATE, state)
        except OSError as error:
            refused = error.strerror or str(error)
    if refused := run.ranks.from_first(refused):
        before = "the save before is intact" if (run.out / STATE).exists() else "nothing was saved before"
        raise TrainingError(
            f"{run.out} does not take the save after step {state.progress.step} ({refused}): {before}; make room, "
            "and the same command goes on"
        )


def publish(run: Run) -> Path:
    """The checkpoint to use: the best if there was an evaluation, else the last."""
    final = run.out / FINAL
    if run.ranks.first:
        copy_file(run.out / (BEST if (run.out / BEST).exists() else LAST), final)
    run.ranks.wait()
    return final


# --- how good it is --------------------------------------------------------------------------------------------------


def evaluate(state: State, task: Task) -> dict[str, Any]:
    """Measures the run's weights on every rank and keeps them if they are the best; returns a record."""
    began, progress, run = time.perf_counter(), state.progress, task.run
    with state.averaged():
        task.eval()
        metrics = task.evaluate()
        loss = validation_loss(task) if run.config.train.validation_loss else None
        score = score_of(metrics)
        best = progress.best is None or score > progress.best
        begun = progress.best is not None and progress.best > 0  # an AP of 0 does not improve yet
        progress.best, progress.stale = (score, 0) if best else (progress.best, progress.stale + begun)
        if best and run.ranks.first:
            headline = {kind: values for kind, values in metrics.items() if isinstance(values, Mapping)}
            data = {"data": None if run.val_data is None else run.val_data.source.name}  # a path would name a machine
            data |= {name: metrics[name] for name in ("images", "objects") if name in metrics}
            task.write(run.out / BEST, {"step": progress.step, "metrics": headline, "evaluated_on": data})
            write_json(run.out / METRICS, dict(metrics))
            if task.measured is not None and run.val_data is not None:
                write_matches(run.out, matches_of(task.measured.judgement, run.val_data))
            task.best = task.measured
    task.train()
    seconds = time.perf_counter() - began
    return {"step": progress.step, "metrics": dict(metrics), "loss": loss, "best": best, "seconds": seconds}


@torch.no_grad()
def validation_loss(task: Task) -> float | None:
    """The loss over all validation images, or None if all are seen in tiles: sums and counts are added over images and
    ranks before they are divided.
    """
    run = task.run
    sums = torch.zeros(len(Losses._fields), 2, dtype=torch.float64, device=run.ranks.device)
    for inputs in task.val_batches():
        with arithmetic(run.precision, run.ranks.device):
            losses = task(*to_device(inputs, run.ranks.device))
        for i, term in enumerate(losses):
            if term is not None:
                sums[i] += torch.stack([term.sum.double(), term.count.double()])
    sums = run.ranks.total(sums)
    return None if not sums[:, 1].any() else float((sums[:, 0] / sums[:, 1].clamp(min=1)).sum())


def score_of(metrics: Mapping[str, Any]) -> float:
    """What `best` and `patience` go by: AP of keypoints, else of masks, else of boxes, else AR of proposals; or -1."""
    headlines = (("keypoint", "AP"), ("mask", "AP"), ("box", "AP"), ("proposals", "AR"))
    value = next((metrics[kind].get(name) for kind, name in headlines if kind in metrics), None)
    return -1.0 if value is None or not math.isfinite(value) else float(value)


# --- what it reports, and who stops it -------------------------------------------------------------------------------


@contextmanager
def telling(run: Run, progress: Progress, callbacks: Sequence[Any]) -> Iterator[Callbacks]:
    """Yields what tells all callbacks, on the first rank. Tells of the start, and of the end in any case."""
    first = run.ranks.first
    tell = Callbacks(own_callbacks(run) if first else (), callbacks if first else (), run.ranks.say)
    settings = to_dict(run.config)
    tell("start", {"step": progress.step, "steps": run.steps, "out": str(run.out), "settings": settings})
    reason, finished = "", False
    try:
        yield tell
        reason, finished = "finished" if progress.step >= run.steps else "no improvement", True
    except BaseException as error:
        reason = str(error) or type(error).__name__
        raise
    finally:  # after an error, too: a progress bar gives the terminal back
        tell("end", {"step": progress.step, "reason": reason, "finished": finished})


def past_evaluations(run: Run) -> list[float]:
    """The seconds of the evaluations that earlier starts of the run made."""
    history = read_history(run.out / LOG) if (run.out / LOG).exists() else []
    return [record["seconds"] for record in history if record.get("kind") == "evaluation"]


def step_record(state: State, meter: Meter, run: Run, pace: Pace) -> dict[str, Any]:
    """The record of the steps since the last one."""
    progress = state.progress
    rest, without = pace.rest(progress.step, progress.seconds)
    means, seconds_per_step = meter.read(progress.seconds)
    means = run.ranks.mean(means)  # the loss of all images, see `divide`
    return {
        "step": progress.step,
        "epoch": run.epochs_after(progress.step),
        "loss": means.pop("loss"),
        "gradient_norm": means.pop(NORM),
        "losses": means,
        "lr": state.optimizer.param_groups[0]["lr"],
        "seconds_per_step": seconds_per_step,
        "seconds": progress.seconds,
        "eta_seconds": rest,
        "eta_without_evaluations": without,
        "memory_gib": peak_memory_gib(run.ranks.device),
    }


class Stop:
    """Whether somebody asked the run to stop, and how."""

    requested = False
    by = "another rank"


@contextmanager
def catching_signals() -> Iterator[Stop]:
    """Takes SIGINT and SIGTERM as a request to stop after the step; a second signal acts at once.

    In the main thread only: Python delivers no signals to others.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with ExitStack() as restoring:

        def request(number: int, _frame: FrameType | None) -> None:
            stop.requested, stop.by = True, signal.Signals(number).name
            restoring.close()

        for number in (signal.SIGINT, signal.SIGTERM):
            restoring.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, request)
        yield stop
