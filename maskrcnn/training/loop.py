"""The training loop: step, log, evaluate, save, resume. `setup.py` decides what is run; this runs it.

A run is a function of its config, its data and its seed. `Progress` says where it is and everything else follows,
so that a run that was killed at any step ends with the same weights, on a CPU bit by bit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..errors import TrainingError
from ..files import replacing
from ..structures import Losses
from .distributed import Ranks, from_first, mean_over, on_any, ranks, total_over, wait_for_all, wrap
from .folder import claim_folder
from .job import BEST, FINAL, LAST, STATE, Batch, Job, to_device
from .log import Clock, Console, JsonLines, Listener, Meter, peak_memory_gib, tensorboard_listener
from .optim import build_optimizer, clip, learning_rate, set_rate
from .setup import Plan, build_model, make_job, plan
from .signals import catching_signals
from .stages import Narrow, check_stages, train_in_stages
from .state import Average, Progress, State, load_state, save_state
from .validate import evaluate, is_due
from .watch import Watch


def train(
    data: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    overrides: Sequence[str] = (),
    config: str | Path | None = None,
    val: str | Path | None = None,
    images: str | Path | None = None,
    precision: str | None = None,
    seed: int | None = None,
    patience: int | None = None,
    schedule: str | None = None,
    stages: Sequence[str] = (),
    proposals: str | Path | None = None,
    strict: bool = False,
    keypoints: bool = False,
    masks: bool = True,
    tensorboard: bool = False,
    device: str | None = None,
) -> Path:
    """Trains a Mask R-CNN on a COCO data set and returns the path of `model.safetensors` in the run's folder.

    `data` is a json, or a folder with one for training and one for validation; `model` a name such as R-50-FPN (the
    default); `weights` a checkpoint to start from; `out` the run's folder (default runs/NAME); `overrides` settings
    such as "train.lr=0.01"; `config` a TOML file of settings; `schedule` a name of `optim.SCHEDULES`; `stages` and
    `proposals` as in `stages.train_in_stages`. The same call again resumes an interrupted run and does nothing where
    it is finished. Raises `DataError`, `ConfigError` and `CheckpointError` before the first step,
    `TrainingError` if a loss is not finite, and `KeyboardInterrupt` after SIGINT or SIGTERM, once the run is saved.
    """
    stages = check_stages(stages, proposals)
    named = {
        "train.epochs": epochs,
        "train.batch": batch,
        "train.precision": precision,
        "train.seed": seed,
        "train.patience": patience,
        "model.mask_head.enabled": None if masks else False,
        "model.keypoint_head.enabled": True if keypoints else None,
        "model.rpn.features": "own" if stages else None,
    }
    reading = {"val": val, "images": images, "strict": strict, "keypoints": keypoints}
    with ranks(device) as among:
        say = print if among.first else _say_nothing
        run = plan(
            data, model=model, weights=weights, out=out, named=named, overrides=overrides, config=config,
            schedule=schedule, reading=reading, among=among, say=say,
        )  # fmt: skip
        start = partial(_start, weights=weights, tensorboard=tensorboard, among=among, say=say)
        return train_in_stages(run, stages, proposals, start, among, say) if stages else start(run)


def _start(
    run: Plan,
    narrow: Narrow | None = None,
    *,
    weights: str | Path | None,
    tensorboard: bool,
    among: Ranks,
    say: Callable[[str], None],
) -> Path:
    """Claims the run's folder and trains there; `narrow` makes a stage of the model and the job."""
    from_first(claim_folder(run, among, weights) if among.first else None, among)
    built, job = build_model(run, among, say), make_job(run, among)
    if narrow is not None:
        job = narrow(built, job)
    listeners: list[Listener] = [JsonLines(run.out / "log.jsonl"), Console(job.total(among.world))]
    if tensorboard:
        listeners.append(tensorboard_listener(run.out / "tensorboard"))
    return fit(built, job, among, listeners if among.first else (), say)


def fit(
    model: nn.Module,
    job: Job,
    among: Ranks,
    listeners: Iterable[Listener] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Trains `model`, or goes on where `job.out` left off, and returns the path of the final checkpoint."""
    state = begin(model, job, among)
    progress, total = state.progress, job.total(among.world)
    if is_finished(progress, total, job.config):
        say(f"{job.out} holds a finished run of {progress.step} steps: nothing to do")
        return _finish(job, among)
    if progress.step:
        say(f"{job.out}: going on after step {progress.step} of {total}")
    tell = _teller(listeners)
    tell("start", {"step": progress.step, "steps": total})
    module = wrap(_LossOf(model, job.loss), among, live_norms=_has_live_norms(model))
    batches, clock = _micro_batches(job, progress), Clock(progress.seconds)
    meter, watch = Meter(progress.seconds), Watch(job.out, among)
    model.train()
    reason = "an error"
    try:
        with catching_signals() as stop:
            while not is_finished(progress, total, job.config):
                rate = learning_rate(progress.step, total, job.config, job.images_per_step(among.world))
                set_rate(state.optimizer, rate)
                meter.add(step(state, module, batches, job, among, watch))
                progress.step += 1
                progress.seconds = clock.read()
                judged, stopping = is_due(progress.step, job, among), on_any(stop.requested, among)
                if _due(progress.step, job.config.log_every, total):
                    watch.check()
                    tell("step", _record(meter, state, job, among))
                if judged:
                    watch.check()
                    tell("evaluation", evaluate(state, job, among))
                    clock.skip()
                if judged or stopping or _due(progress.step, job.config.checkpoint_every, total):
                    watch.check()
                    _save(state, job, among)
                if stopping and not is_finished(progress, total, job.config):
                    reason = stop.name
                    say(f"{stop.name}: saved after step {progress.step}; the same command goes on from there")
                    raise KeyboardInterrupt
        reason = "finished" if progress.step >= total else "no improvement"
        if unread := len(job.unread()):
            say(f"{unread} of the images met could not be read, as told above; maskrcnn check --verify lists all")
    finally:  # after an error, too: a progress bar gives the terminal back
        tell("end", {"step": progress.step, "reason": reason})
    return _finish(job, among)


def step(
    state: State, module: nn.Module, batches: Iterator[Batch], job: Job, among: Ranks, watch: Watch
) -> dict[str, Tensor]:
    """One optimiser step over `accumulate` micro-batches; returns their mean losses and the gradient's norm."""
    config, scaler = job.config, state.scaler
    state.optimizer.zero_grad(set_to_none=True)
    values: dict[str, Tensor] = {}
    ids: list[int] = []
    for i in range(config.accumulate):
        *inputs, image_ids = next(batches)
        ids += [int(image_id) for image_id in image_ids]
        with _syncing(module, last=i == config.accumulate - 1):
            with job.autocast(among.device):
                losses = module(*(to_device(bundle, among.device) for bundle in inputs))
            terms = divide(losses, among, job.counts)
            terms = {"loss": torch.stack(list(terms.values())).sum(), **terms}
            scaler.scale(terms["loss"] / config.accumulate).backward()
        for name, term in terms.items():
            values[name] = values.get(name, 0) + term.detach() / config.accumulate
    scaler.unscale_(state.optimizer)
    values["gradient_norm"] = clip(state.model, config.clip_norm)
    watch.note(state.progress.step, ids, values, scaled=scaler.is_enabled())
    scaler.step(state.optimizer)
    scaler.update()
    if state.average is not None:
        state.average.update(state.model, state.progress.step)
    return values


def divide(losses: Losses, among: Ranks, counts: str = "global") -> dict[str, Tensor]:
    """Each term as a scalar whose mean over the ranks is the loss of all their images.

    With `counts` "global" that is exact: the counts are added over the ranks before the division. With "rank" every
    rank divides by its own, as the other frameworks do.
    """
    terms = {name: term for name, term in zip(losses._fields, losses, strict=True) if term is not None}
    divisors = torch.stack([term.count.detach().float() for term in terms.values()])
    share = 1
    if counts == "global":
        divisors, share = total_over(divisors, among), among.world
    divisors = divisors.clamp(min=1)
    return {name: term.sum * share / divisors[i] for i, (name, term) in enumerate(terms.items())}


def begin(model: nn.Module, job: Job, among: Ranks) -> State:
    """The state that the run's folder holds, or a fresh one."""
    optimizer = build_optimizer(model, job.config)
    average = Average(model, job.config.ema) if job.config.ema > 0 else None
    scaler = torch.amp.GradScaler(among.device.type, enabled=job.precision == "fp16")
    state = State(model, optimizer, average, scaler, Progress())
    if from_first((job.out / STATE).exists(), among):
        load_state(job.out / STATE, state)
    return state


def is_finished(progress: Progress, total: int, config: TrainConfig) -> bool:
    """All steps done, or `patience` evaluations without improvement."""
    return progress.step >= total or 0 < config.patience <= progress.stale


class _LossOf(nn.Module):
    """A loss of the model as a forward, which is what torch's data parallel wraps."""

    def __init__(self, model: nn.Module, loss: Callable[..., Losses]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *inputs: Any) -> Losses:
        return self.loss(self.model, *inputs)


def _micro_batches(job: Job, progress: Progress) -> Iterator[Batch]:
    """Epoch after epoch from where `progress` stands, which moves on with every micro-batch handed out."""
    while True:
        empty = progress.batch == 0
        for batch in job.epoch(progress.epoch, progress.batch):
            empty = False
            progress.batch += 1
            yield batch
        if empty:
            raise TrainingError(f"epoch {progress.epoch} has no batch to train on")
        progress.epoch, progress.batch = progress.epoch + 1, 0


def _save(state: State, job: Job, among: Ranks) -> None:
    if among.first:
        with state.judged() as model:
            job.write(job.out / LAST, model, {"step": state.progress.step})
        save_state(job.out / STATE, state)
    wait_for_all(among)


def _finish(job: Job, among: Ranks) -> Path:
    """The weights to use: the best where there was an evaluation, else the last."""
    final = job.out / FINAL
    if among.first:
        source = job.out / (BEST if (job.out / BEST).exists() else LAST)
        with replacing(final) as temporary:
            temporary.write_bytes(source.read_bytes())
    wait_for_all(among)
    return final


def _record(meter: Meter, state: State, job: Job, among: Ranks) -> dict[str, Any]:
    progress, total = state.progress, job.total(among.world)
    mine, per_step = meter.read(progress.seconds)
    means = mean_over(mine, among)  # the loss of all their images: see `divide`
    return {
        "step": progress.step,
        "epoch": job.epochs_after(progress.step, among.world),
        "loss": means.pop("loss"),
        "gradient_norm": means.pop("gradient_norm"),
        "losses": means,
        "lr": state.optimizer.param_groups[0]["lr"],
        "seconds_per_step": per_step,
        "seconds": progress.seconds,
        "eta_seconds": progress.seconds / progress.step * (total - progress.step),
        "memory_gib": peak_memory_gib(among.device),
    }


def _due(done: int, every: int, total: int) -> bool:
    return done == total or (every > 0 and done % every == 0)


def _syncing(module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Gradients travel with the last micro-batch of a step only."""
    return nullcontext() if last or not hasattr(module, "no_sync") else cast(Any, module).no_sync()


def _teller(listeners: Iterable[Listener]) -> Listener:
    heard = list(listeners)

    def tell(kind: str, record: Mapping[str, Any]) -> None:
        for listener in heard:
            listener(kind, record)

    return tell


def _has_live_norms(model: nn.Module) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def _say_nothing(_text: str) -> None:
    """What the other ranks say."""
