"""The loop on a model of a few weights: exact resume, stopping, saving, and what it says."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn.errors import CheckpointError, TrainingError
from maskrcnn.structures import Losses, Term
from maskrcnn.training.distributed import alone
from maskrcnn.training.job import BEST, FINAL, LAST, METRICS, STATE, Job
from maskrcnn.training.log import JsonLines
from maskrcnn.training.loop import divide, fit
from maskrcnn.weights.checkpoint import read_tensors
from tests.training.stand_in import IMAGES, Rising, Tiny, judge_weights, make_job

PROGRAM = Path(__file__).with_name("stand_in.py")


def train(job: Job, norm: str = "gn", listeners: tuple = ()) -> list[str]:
    said: list[str] = []
    fit(Tiny(norm), job, alone(), listeners, said.append)
    return said


def program(out: Path, *settings: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(out), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=check, capture_output=True, text=True, env=environment, timeout=120)


def test_kill_9_at_random_steps_changes_nothing(tmp_path: Path) -> None:
    settings = ("norm=bn", "ema=0.9", "accumulate=2", "epochs=4.0")
    program(tmp_path / "whole", *settings)
    rng = random.Random(0)
    for _ in range(3):
        killed = program(tmp_path / "killed", *settings, f"kill_at={rng.randrange(10, 20)}", check=False)
        assert killed.returncode == -signal.SIGKILL
    program(tmp_path / "killed", *settings)
    for name in (FINAL, LAST, BEST, METRICS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    whole, killed = (
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "killed")
    )
    evaluations = [[r["metrics"] for r in run if r["kind"] == "evaluation"] for run in (whole, killed)]
    assert evaluations[0] == evaluations[1]
    assert [r["step"] for r in killed if r["kind"] == "step"] == sorted(
        {r["step"] for r in killed if r["kind"] == "step"}
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_rest_equals_an_undisturbed_run(tmp_path: Path, number: signal.Signals) -> None:
    train(make_job(tmp_path / "whole", alone()))
    job = make_job(tmp_path / "stopped", alone())

    def interrupt(kind: str, record: dict) -> None:
        if kind == "step" and record["step"] == 8:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(job, listeners=(interrupt,))
    assert signal.getsignal(number) is before
    progress = read_tensors(job.out / STATE, "maskrcnn-run", 1)[1]["progress"]
    assert progress["step"] == 9  # the step after the signal was finished
    assert train(job) == [f"{job.out}: going on after step 9 of 24"]
    assert (job.out / FINAL).read_bytes() == (tmp_path / "whole" / FINAL).read_bytes()


def test_a_finished_run_says_so_and_does_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, alone())
    train(job)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != FINAL}
    assert train(job) == [f"{tmp_path} holds a finished run of 24 steps: nothing to do"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_images_that_could_not_be_read_are_counted_at_the_end(tmp_path: Path) -> None:
    (said,) = train(make_job(tmp_path, alone(), epochs=0.1)._replace(unread=lambda: {"a.jpg", "b.jpg"}))
    assert said.startswith("2 of the images met could not be read")


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    train(make_job(tmp_path, alone(), epochs=1.0, milestones=(2.0,)))
    train(make_job(tmp_path, alone(), epochs=2.0, milestones=(2.0,), warmup_steps=1))
    whole = make_job(tmp_path / "whole", alone(), epochs=2.0, milestones=(2.0,), warmup_steps=1)
    train(whole)
    assert read_tensors(tmp_path / STATE, "maskrcnn-run", 1)[1]["progress"]["step"] == 24


def test_an_accumulated_step_is_the_mean_of_its_micro_batches(tmp_path: Path) -> None:
    records: list[dict] = []
    job = make_job(tmp_path, alone(), accumulate=2, log_every=1, epochs=0.1)
    train(job, listeners=(lambda kind, record: records.append(record),))
    halves = []
    for (images, gt, _), _ in zip(job.epoch(0, 0), range(2), strict=False):
        terms = divide(Tiny().loss(images, gt), alone())
        halves.append(sum(term.item() for term in terms.values()))
    assert records[1]["loss"] == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    job = make_job(tmp_path, alone())
    seen: list[int] = []
    original = job.epoch

    def watched(number: int, first: int):
        for batch in original(number, first):
            seen.extend(batch[2])
            yield batch

    train(job._replace(epoch=watched))
    assert sorted(seen) == sorted([*range(IMAGES)] * 2)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    records: list[dict] = []
    train(make_job(tmp_path, alone()), listeners=(lambda kind, r: records.append(r) if kind == "step" else None,))
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert records[0].keys() >= {
        "step",
        "epoch",
        "loss",
        "losses",
        "lr",
        "seconds_per_step",
        "eta_seconds",
        "memory_gib",
    }
    assert sum(records[0]["losses"].values()) == pytest.approx(records[0]["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path: Path) -> None:
    job, told = make_job(tmp_path, alone(), poison=7), []
    with pytest.raises(TrainingError, match="not finite at step") as caught:
        train(job, listeners=(lambda *record: told.append(record),))
    assert told[-1][0] == "end"  # so that a progress bar gives the terminal back
    saved = json.loads((tmp_path / "not_finite.json").read_text())
    assert 7 in saved["image_ids"]
    assert len(saved["image_ids"]) == 2
    assert saved["losses"]["loss"] == "nan"
    assert str(tmp_path / "not_finite.json") in str(caught.value)
    state = tmp_path / STATE
    if state.exists():
        tensors, _ = read_tensors(state, "maskrcnn-run", 1)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_patience_ends_the_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    judge = Rising(peak=3)
    job = make_job(tmp_path, alone(), judge=judge, epochs=20.0, evaluate_every=0.5, patience=2)
    train(job)
    progress = read_tensors(tmp_path / STATE, "maskrcnn-run", 1)[1]["progress"]
    assert judge.calls == 5  # three rises, two without
    assert (progress["best"], progress["best_step"], progress["step"]) == (0.03, 18, 30)
    assert read_tensors(tmp_path / FINAL, "tiny", 1)[1]["step"] == 18
    assert json.loads((tmp_path / METRICS).read_text())["box"]["AP"] == 0.03
    assert "finished" in train(job)[0]


def test_the_averaged_weights_are_judged_and_handed_out_and_the_run_goes_on_with_its_own(tmp_path: Path) -> None:
    train(make_job(tmp_path / "plain", alone(), judge=judge_weights))
    train(make_job(tmp_path / "ema", alone(), judge=judge_weights, ema=0.5))
    plain, averaged = (read_tensors(tmp_path / run / STATE, "maskrcnn-run", 1)[0] for run in ("plain", "ema"))
    for name in plain:
        assert torch.equal(plain[name], averaged[name]), name
    last = read_tensors(tmp_path / "ema" / LAST, "tiny", 1)[0]
    for name, tensor in last.items():
        assert torch.equal(tensor, averaged[f"average.{name}"]), name
        assert not torch.equal(tensor, averaged[f"model.{name}"]), name


def test_a_damaged_state_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    job = make_job(tmp_path, alone())
    train(job)
    raw = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CheckpointError, match=STATE):
        train(job)


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    records: list[dict] = []
    job = make_job(tmp_path, alone())._replace(precision="bf16")
    train(job, listeners=(lambda kind, r: records.append(r) if kind == "step" else None,))
    assert records[-1]["loss"] < records[0]["loss"]
    assert {t.dtype for t in read_tensors(tmp_path / LAST, "tiny", 1)[0].values()} == {torch.float32}


def test_a_term_is_its_sum_by_its_count_and_an_empty_one_is_zero() -> None:
    one, zero = torch.tensor(6.0), torch.tensor(0.0)
    losses = Losses(Term(one, torch.tensor(3.0)), Term(zero, zero), Term(one, one), Term(one, one))
    for counts in ("global", "rank"):
        values = {name: value.item() for name, value in divide(losses, alone(), counts).items()}
        assert values == {"rpn_class": 2.0, "rpn_box": 0.0, "box_class": 1.0, "box_box": 1.0}


def test_a_log_of_a_killed_run_loses_what_will_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"kind": "start", "step": 0}, {"kind": "step", "step": 2}, {"kind": "step", "step": 6}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    JsonLines(path)("start", {"step": 5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 2, 5]


def test_frozen_weights_stay(tmp_path: Path) -> None:
    model = Tiny()
    model.conv.requires_grad_(False)
    before = model.conv.weight.clone()
    fit(model, make_job(tmp_path, alone(), epochs=0.5), alone(), (), lambda text: None)
    assert torch.equal(model.conv.weight, before)
