"""What a run says, by hand."""

from pathlib import Path

import pytest
import torch

from maskrcnn.errors import TrainingError
from maskrcnn.training.log import NORM, Console, Meter, duration
from tests.training.stand_in import make_run

RECORD = {
    "step": 20,
    "epoch": 0.5,
    "loss": 1.25,
    "losses": {"rpn_class": 0.75, "mask": 0.5},
    "lr": 0.005,
    "seconds_per_step": 0.5,
    "memory_gib": 1.5,
    "eta_seconds": 3725.4,
    "eta_without_evaluations": 0,
}


def test_a_meter_gives_means_since_the_last_reading(tmp_path: Path) -> None:
    meter = Meter(make_run(tmp_path), seconds=10.0)
    meter.add(0, {"loss": torch.tensor(1.0)})
    meter.add(1, {"loss": torch.tensor(4.0)})
    assert meter.read(13.0) == ({"loss": 2.5}, 1.5)
    meter.add(2, {"loss": torch.tensor(7.0)})
    assert meter.read(14.0) == ({"loss": 7.0}, 1.0)
    assert meter.read(15.0) == ({}, 0.0)


def test_a_meter_keeps_no_graph(tmp_path: Path) -> None:
    meter = Meter(make_run(tmp_path))
    leaf = torch.ones((), requires_grad=True)
    meter.add(0, {"loss": leaf * 2})
    meter.check()
    assert not meter._sums["loss"].requires_grad


def test_a_meter_takes_the_mean_of_a_steps_micro_batches(tmp_path: Path) -> None:
    meter = Meter(make_run(tmp_path))
    for step, losses in enumerate(((1.0, 2.0), (3.0, 6.0))):
        for loss in losses:
            meter.add(step, {"loss": torch.tensor(loss)}, parts=2)
        meter.add(step, {NORM: torch.tensor(4.0)})
    assert meter.read(5.0) == ({"loss": 3.0, NORM: 4.0}, 2.5)


def test_a_meter_names_the_first_step_that_is_not_finite_and_its_images(tmp_path: Path) -> None:
    meter = Meter(make_run(tmp_path))
    for step, loss in enumerate((1.0, float("inf"), float("nan"))):
        for image_id, value in ((2 * step + 1, loss), (2 * step, 1.0)):
            meter.add(step, {"loss": torch.tensor(value)}, torch.tensor([image_id]), parts=2)
    with pytest.raises(TrainingError, match=r"step 2 \(loss inf\), images 2, 3; .*not_finite\.json lists"):
        meter.check()


def test_a_gradient_may_overflow_with_fp16_and_only_then(tmp_path: Path) -> None:
    for precision in ("fp16", "fp32"):
        meter = Meter(make_run(tmp_path, precision=precision))
        meter.add(0, {"loss": torch.tensor(1.0)}, torch.tensor([5]))
        meter.add(0, {NORM: torch.tensor(float("inf"))})
        if precision == "fp16":
            meter.check()
        else:
            with pytest.raises(TrainingError, match=r"\(loss 1.0, gradient_norm inf\), images 5;"):
                meter.check()


def test_one_line_an_interval_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(40)
    console.on_step(RECORD)
    console.on_evaluation({"step": 20, "metrics": {"box": {"AP": 0.25, "AP50": None}}, "seconds": 3.0, "best": True})
    console.on_end({"step": 20})
    assert capsys.readouterr().out.splitlines() == [
        "step 20/40 epoch 0.50 loss 1.250 (rpn_class 0.750 mask 0.500) lr 0.005 0.50 s/step 1.5 GiB eta 1:02:05",
        "step 20: box AP 0.250 AP50 -, 3 s (best so far)",
    ]


def test_the_rest_of_a_run_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    for changes in ({"eta_seconds": None}, {"eta_without_evaluations": 1}, {"eta_without_evaluations": 6}):
        Console(40).on_step({**RECORD, **changes})
    ends = [line.partition("eta ")[2] for line in capsys.readouterr().out.splitlines()]
    assert ends == ["soon", "1:02:05 + 1 evaluation", "1:02:05 + 6 evaluations"]


def test_a_bar_on_a_terminal_fits_and_gives_the_cursor_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "TTY_COMPATIBLE": "1"}.items():
        monkeypatch.setenv(name, value)
    console = Console(40)
    console.on_step(RECORD)
    console.on_end({"step": 20})
    out = capsys.readouterr().out
    assert "20/40 loss 1.250 lr 0.005 0.50 s/step eta 1:02:05" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # shown again, after it was hidden


def test_proposals_are_judged_by_their_recall(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"AR": 0.5, "AR50": 0.75, "AR75": 0.25, "objects": 8}
    Console(40).on_evaluation({"step": 20, "metrics": {"proposals": figures}, "seconds": 3.0, "best": False})
    assert capsys.readouterr().out == "step 20: proposals AR 0.500 AR50 0.750, 3 s\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
