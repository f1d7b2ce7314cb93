"""The loop on a model of a few weights: exact resume, stopping, saving, and what it says."""

import json
import os
import random
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import maskrcnn
from maskrcnn.errors import CheckpointError, TrainingError
from maskrcnn.structures import Losses, Term
from maskrcnn.training.log import JsonLines
from maskrcnn.training.loop import divide, fit, score_of, what_is_due
from maskrcnn.training.run import BEST, FINAL, LAST, METRICS, STATE
from maskrcnn.weights.checkpoint import read_tensors
from tests.training.processes import in_process
from tests.training.stand_in import IMAGES, Rising, Tiny, TinyTask, judge_weights, make_run, make_task


class Heard:
    """A callback that keeps what it hears."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda record: self.records.append((name.removeprefix("on_"), record))

    def of(self, wanted: str) -> list[Any]:
        return [record for kind, record in self.records if kind == wanted]


def progress_in(out: Path) -> dict[str, Any]:
    return read_tensors(out / STATE, "maskrcnn-run", 2)[1]["progress"]


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


# --- stopping and going on -------------------------------------------------------------------------------------------


def work(out: Path, options: dict[str, Any]) -> None:
    fit(make_task(out, judge=judge_weights, norm="bn", ema=0.9, accumulate=2, epochs=4.0, **options))


class Chosen(TinyTask):
    """Its evaluations choose a threshold, another one each time; it keeps what it wrote."""

    def evaluate(self) -> Any:
        metrics = super().evaluate()
        self.thresholds = (metrics["box"]["AP"],)
        return metrics

    def write(self, path: Path, provenance: Any) -> None:
        super().write(path, {**provenance, "thresholds": self.thresholds})


def test_a_checkpoint_has_the_thresholds_of_its_own_weights_also_after_a_resume(tmp_path: Path) -> None:
    def of(name: str) -> list[float]:
        return read_tensors(tmp_path / name, "tiny", 1)[1]["thresholds"]

    class StopAfter:
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step(self, record: Any) -> None:
            if record["step"] == self.step:
                os.kill(os.getpid(), signal.SIGINT)

    rising = Rising(peak=1)  # the first evaluation, after step 12 of 24, is the best
    settings = {"val": True, "evaluate_every": 1.0, "checkpoint_every": 5, "log_every": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(Chosen(make_run(tmp_path, **settings), judge=rising), [StopAfter(14)])
    assert (of(BEST), of(LAST)) == ([0.01], [])  # the last weights were not evaluated
    fit(Chosen(make_run(tmp_path, **settings), judge=lambda _: {"box": {"AP": 0.005, "AP50": 0.005}}))
    assert (of(BEST), of(FINAL), of(LAST)) == ([0.01], [0.01], [0.005])


def test_kill_9_at_random_steps_changes_nothing(tmp_path: Path) -> None:
    assert in_process(work, tmp_path / "whole", {}) == 0
    rng = random.Random(0)
    for _ in range(3):
        assert in_process(work, tmp_path / "killed", {"kill_at": rng.randrange(10, 20)}) == -signal.SIGKILL
    assert in_process(work, tmp_path / "killed", {}) == 0
    for name in (FINAL, LAST, BEST, METRICS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    whole, killed = (lines_of(tmp_path / run / "log.jsonl") for run in ("whole", "killed"))
    evaluations = [[r["metrics"] for r in run if r["kind"] == "evaluation"] for run in (whole, killed)]
    assert evaluations[0] == evaluations[1]
    steps = [r["step"] for r in killed if r["kind"] == "step"]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rest_equals_an_undisturbed_run(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(make_task(tmp_path / "whole"))
    out, heard = tmp_path / "stopped", Heard()

    class Interrupt:
        def on_step(self, record: Any) -> None:
            if record["step"] == 8:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(
        KeyboardInterrupt, match=f"^{number.name}: saved after step 9; the same command resumes the run"
    ):
        fit(make_task(out), (Interrupt(), heard))
    assert signal.getsignal(number) is before
    assert progress_in(out)["step"] == 9  # the step after the signal was finished
    assert heard.of("end")[0]["reason"].startswith(f"{number.name}: saved")
    capsys.readouterr()
    fit(make_task(out))
    assert capsys.readouterr().out.splitlines()[0] == f"{out}: resuming after step 9 of 24"
    assert (out / FINAL).read_bytes() == (tmp_path / "whole" / FINAL).read_bytes()


def test_a_finished_run_says_so_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_task(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != FINAL}
    capsys.readouterr()
    fit(make_task(tmp_path))
    assert capsys.readouterr().out == f"{tmp_path} holds a finished run of 24 steps: nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    fit(make_task(tmp_path, epochs=1.0, milestones=(2.0,)))
    fit(make_task(tmp_path, epochs=2.0, milestones=(2.0,), warmup_steps=1))
    assert progress_in(tmp_path)["step"] == 24


def test_a_damaged_state_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    fit(make_task(tmp_path, epochs=0.5))
    raw = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CheckpointError, match=STATE):
        fit(make_task(tmp_path, epochs=0.5))


def test_a_log_of_a_killed_run_loses_what_will_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"kind": "start", "step": 0}, {"kind": "step", "step": 2}, {"kind": "step", "step": 6}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    JsonLines(path).on_start({"step": 5, "steps": 9})
    assert [line["step"] for line in lines_of(path)] == [0, 2, 5]


# --- steps -----------------------------------------------------------------------------------------------------------


def test_an_accumulated_step_is_the_mean_of_its_micro_batches(tmp_path: Path) -> None:
    heard, task = Heard(), make_task(tmp_path, accumulate=2, log_every=1, epochs=0.1)
    fit(task, (heard,))
    halves = []
    for ((images, gt), _), _ in zip(task.batches(0), range(2), strict=False):
        halves.append(divide(Tiny().loss(images, gt), task.run)["loss"].item())
    assert heard.of("step")[0]["loss"] == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(TinyTask):
        def batches(self, epoch: int, start: int = 0) -> Any:
            for inputs, ids in super().batches(epoch, start):
                seen.extend(ids.tolist())
                yield inputs, ids

    fit(Watched(make_run(tmp_path)))
    assert sorted(seen) == sorted([*range(IMAGES)] * 2)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    heard = Heard()
    fit(make_task(tmp_path), (heard,))
    first, last = heard.of("step")[0], heard.of("step")[-1]
    assert last["loss"] < 0.5 * first["loss"]
    assert {"step", "epoch", "loss", "losses", "lr", "seconds_per_step", "eta_seconds", "memory_gib"} <= first.keys()
    assert sum(first["losses"].values()) == pytest.approx(first["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(TrainingError, match="not finite at step") as caught:
        fit(make_task(tmp_path, poison=7), (heard,))
    (end,) = heard.of("end")  # so that a progress bar gives the terminal back
    assert "not finite" in end["reason"]
    saved = json.loads((tmp_path / "not_finite.json").read_text())
    assert 7 in saved["image_ids"]
    assert len(saved["image_ids"]) == 2
    assert saved["losses"]["loss"] == "nan"
    assert str(tmp_path / "not_finite.json") in str(caught.value)
    if (tmp_path / STATE).exists():
        tensors, _ = read_tensors(tmp_path / STATE, "maskrcnn-run", 2)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_an_epoch_without_a_batch_is_an_error(tmp_path: Path) -> None:
    class Empty(TinyTask):
        def batches(self, epoch: int, start: int = 0) -> Any:
            return iter(())

    with pytest.raises(TrainingError, match="epoch 0 has no batch"):
        fit(Empty(make_run(tmp_path)))


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    heard = Heard()
    fit(make_task(tmp_path, precision="bf16"), (heard,))
    assert heard.of("step")[-1]["loss"] < heard.of("step")[0]["loss"]
    assert {t.dtype for t in read_tensors(tmp_path / LAST, "tiny", 1)[0].values()} == {torch.float32}


def test_a_term_is_its_sum_by_its_count_and_an_empty_one_is_zero(tmp_path: Path) -> None:
    one, zero = torch.tensor(6.0), torch.tensor(0.0)
    losses = Losses(Term(one, torch.tensor(3.0)), Term(zero, zero), Term(one, one), Term(one, one))
    run = make_run(tmp_path)
    own = replace(run, config=replace(run.config, model=replace(run.config.model, loss_counts="rank")))
    for one_run in (run, own):
        values = {name: value.item() for name, value in divide(losses, one_run).items()}
        assert values == {"loss": 4.0, "rpn_class": 2.0, "rpn_box": 0.0, "box_class": 1.0, "box_box": 1.0}


def test_frozen_weights_stay(tmp_path: Path) -> None:
    task = make_task(tmp_path, epochs=0.5)
    conv: Any = task.model.conv
    conv.requires_grad_(False)
    before = conv.weight.clone()
    fit(task)
    assert torch.equal(conv.weight, before)


def test_six_frames_lie_between_train_and_the_loss_of_a_box(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the package's own: those of torch, which calls modules, are left out."""
    package, stacks = Path(maskrcnn.__file__).parent, []
    original = torch.nn.functional.cross_entropy

    def recorded(*arguments: Any, **named: Any) -> Any:
        stack = [frame.name for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(package)]
        stacks.append(stack[stack.index("train") :])
        return original(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", recorded)
    small_run(epochs=0.5)
    below = stacks[0][1 : stacks[0].index("box_loss") + 1]
    assert below[:3] == ["fit", "train_step", "forward"]
    assert len(below) <= 6, below


# --- evaluating ------------------------------------------------------------------------------------------------------


def test_patience_ends_the_run_and_the_best_weights_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"epochs": 20.0, "evaluate_every": 0.5, "patience": 2}
    judge, heard = Rising(peak=3), Heard()
    fit(make_task(tmp_path, judge=judge, **settings), (heard,))
    progress = progress_in(tmp_path)
    assert judge.calls == 5  # three rises, two without
    assert heard.of("end") == [{"step": 30, "reason": "no improvement", "finished": True}]
    assert (progress["best"], progress["step"]) == (0.03, 30)
    assert read_tensors(tmp_path / FINAL, "tiny", 1)[1]["step"] == 18
    assert json.loads((tmp_path / METRICS).read_text())["box"]["AP"] == 0.03
    fit(make_task(tmp_path, judge=judge, **settings))
    assert "finished run of 30 steps" in capsys.readouterr().out.splitlines()[-1]


def test_patience_begins_when_something_is_found(tmp_path: Path) -> None:
    """Nothing is found in the first four evaluations, which is more than the patience; then something, twice."""

    def judge(model: torch.nn.Module) -> dict[str, Any]:
        calls.append(0)
        found = 0.1 * (len(calls) > 4)
        return {"box": {"AP": found, "AP50": found}}

    calls: list[int] = []
    fit(make_task(tmp_path, judge=judge, epochs=20.0, evaluate_every=0.5, patience=2))
    assert len(calls) == 7


def test_evaluations_come_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    """24 images, 4 a step: an epoch is 6 steps, 2.5 epochs are 15."""
    run = make_run(tmp_path, val=True, epochs=2.5, batch=4, log_every=10, checkpoint_every=7)
    due = {step: what_is_due(step, run) for step in range(1, 16)}
    assert run.steps == 15
    assert [step for step in due if due[step].evaluate] == [6, 12, 15]
    assert [step for step in due if due[step].save] == [6, 7, 12, 14, 15]
    assert [step for step in due if due[step].log] == [10, 15]
    never = make_run(tmp_path, epochs=2.5, batch=4, log_every=0, checkpoint_every=0)
    assert [step for step in due if any(what_is_due(step, never))] == [15]
    assert not what_is_due(15, never).evaluate  # there is nothing to evaluate on


def test_the_averaged_weights_are_judged_and_handed_out_and_the_run_goes_on_with_its_own(tmp_path: Path) -> None:
    fit(make_task(tmp_path / "plain", judge=judge_weights))
    fit(make_task(tmp_path / "ema", judge=judge_weights, ema=0.5))
    plain, averaged = (read_tensors(tmp_path / run / STATE, "maskrcnn-run", 2)[0] for run in ("plain", "ema"))
    for name in plain:
        assert torch.equal(plain[name], averaged[name]), name
    last = read_tensors(tmp_path / "ema" / LAST, "tiny", 1)[0]
    for name, tensor in last.items():
        assert torch.equal(tensor, averaged[f"average.{name}"]), name
        assert not torch.equal(tensor, averaged[f"model.{name}"]), name


def test_the_best_weights_are_those_of_the_finest_branch() -> None:
    every = {"box": {"AP": 0.5}, "mask": {"AP": 0.4}, "keypoint": {"AP": 0.3}, "notes": []}
    assert score_of(every) == 0.3
    assert score_of({"box": {"AP": 0.5}, "mask": {"AP": 0.4}}) == 0.4
    assert score_of({"box": {"AP": 0.5}}) == 0.5
    assert score_of({"keypoint": {"AP": None}}) == -1
    assert score_of({}) == -1
    assert score_of({"proposals": {"AR": 0.5}}) == 0.5


def test_images_that_could_not_be_read_are_counted_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTask, "unread", lambda self: 2)
    fit(make_task(tmp_path, epochs=0.1))
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of the images used could not be read")
