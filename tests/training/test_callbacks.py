"""Callbacks hear what happens, and what they raise never costs the run; the table of a run; the pace, by hand."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from maskrcnn.errors import ConfigError
from maskrcnn.training.callbacks import LOGS, check_callbacks, open_logs
from maskrcnn.training.loop import fit
from maskrcnn.training.pace import Pace, evaluations_between
from tests.training.stand_in import judge_weights, make_run, make_task


class Faulty:
    """Fails at every step."""

    def on_step(self, record: Any) -> None:
        record.clear()  # changes nobody else's
        raise ZeroDivisionError("by zero")


class Steps:
    """Hears of steps alone."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, record: Any) -> None:
        self.steps.append(record["step"])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_callback_that_fails_is_named_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    fit(make_task(tmp_path, epochs=0.5), (Faulty(), steps))
    lines = [line for line in capsys.readouterr().out.splitlines() if "Faulty" in line]
    assert steps.steps == [1, 2, 4, 6]
    assert len(lines) == 2
    assert lines[0].startswith("callback Faulty failed in on_step, the training goes on: ZeroDivisionError: by zero (")
    assert "test_callbacks.py, line " in lines[0]
    assert lines[1] == "callback Faulty failed 4 times, see its first failure above"


def test_what_could_never_hear_anything_is_refused() -> None:
    check_callbacks([Steps(), SimpleNamespace(on_end=print)])
    with pytest.raises(ConfigError, match=r"Steps is a class: write Steps\(\)"):
        check_callbacks([Steps])
    with pytest.raises(ConfigError, match="the callback list has none of the methods on_start, on_step"):
        check_callbacks([[]])


@pytest.mark.parametrize("name", LOGS)
def test_a_log_without_its_library_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{LOGS[name]} is not installed: pip install 'maskrcnn\[{name}\]'"):
        open_logs(name, tmp_path)
    with pytest.raises(ConfigError, match="it got 'paper'"):
        open_logs("paper", tmp_path)
    assert open_logs(None, tmp_path) == []


def test_the_table_has_every_record_once_also_after_a_kill(tmp_path: Path) -> None:
    """The log holds a step after the one that was saved, as after a kill; it is repeated, and is in the table once."""
    fit(make_task(tmp_path, judge=judge_weights, epochs=1.0))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(json.dumps({"kind": "step", "step": 13, "loss": -1.0}) + "\n")
    fit(make_task(tmp_path, judge=judge_weights, epochs=2.0))
    rows = rows_of(tmp_path)
    steps = [int(row["step"]) for row in rows if row["kind"] == "step"]
    assert steps == [1, 2, 4, 6, 8, 10, 12, 13, 14, 16, 18, 20, 22, 24]
    assert [int(row["step"]) for row in rows if row["kind"] == "evaluation"] == [12, 24]
    assert all(row["losses/mask"] != "" for row in rows if row["kind"] == "step")
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [r for r in records if r["kind"] in ("step", "evaluation")]
    assert [float(row["metrics/box/AP"]) for row in rows if row["kind"] == "evaluation"] == [
        r["metrics"]["box"]["AP"] for r in logged if r["kind"] == "evaluation"
    ]
    assert [row["loss"] for row in rows if row["kind"] == "step"] == [str(r["loss"]) for r in logged if "losses" in r]


def test_the_rest_is_counted_from_steps_after_the_warm_up_and_evaluations(tmp_path: Path) -> None:
    """24 steps; those that compile take 100 s, others 2 s; an evaluation after 6, 12, 18 and 24 steps takes 30 s."""
    run = make_run(tmp_path, val=True, evaluate_every=0.5)
    pace, seconds = Pace(run, 0, 0.0, []), 0.0
    rests = {}
    for step in range(1, 9):
        seconds += 100.0 if step <= 2 else 2.0
        pace.add(step, seconds)
        if step == 6:
            pace.evaluations.append(30.0)
        rests[step] = pace.rest(step, seconds)
    assert rests[1] == rests[2] == (None, 4)
    assert rests[4] == (pytest.approx(20 * 2.0), 4)  # nobody knows yet how long an evaluation takes
    assert rests[8] == (pytest.approx(16 * 2.0 + 3 * 30.0), 0)
    assert [pace.is_early(step) for step in range(1, 6)] == [True, False, False, True, False]
    resumed = Pace(run, 8, seconds, [30.0])
    resumed.add(9, seconds + 50)
    assert resumed.rest(9, seconds + 50) == (None, 3)
    assert resumed.is_early(9)


def test_evaluations_to_come_are_those_that_come(tmp_path: Path) -> None:
    run = make_run(tmp_path, val=True, epochs=2.5, batch=4)  # after 6, 12 and 15 steps
    assert [evaluations_between(step, 15, run) for step in (0, 5, 6, 11, 12, 14, 15)] == [3, 3, 2, 2, 1, 1, 0]
    assert evaluations_between(0, 15, make_run(tmp_path, epochs=2.5, batch=4)) == 0


class Recorder:
    """Stands in for a library: keeps the calls of all its parts, and returns itself, or words and numbers by name."""

    def __init__(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]], name: str = "", **values: Any) -> None:
        self.calls, self.name, self.values = calls, name, values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.values.get(name, Recorder(self.calls, name, **self.values))

    def __call__(self, *arguments: Any, **named: Any) -> "Recorder":
        self.calls.append((self.name, arguments, named))
        return self


SECOND = {"step": 4, "steps": 8, "out": "", "settings": {"model": {"name": "R-18-FPN"}}}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("step", {"step": 5, "loss": 1.5, "losses": {"mask": 0.5}, "eta_seconds": None}),
    ("evaluation", {"step": 6, "metrics": {"box": {"AP": 0.25, "names": ["a"]}}, "best": True}),
    ("images", {"step": 6, "images": {"a.png": Image.new("RGB", (4, 3))}}),
    ("end", {"step": 8, "reason": "finished", "finished": True}),
]


@pytest.mark.parametrize("name", LOGS)
def test_each_log_gets_numbers_and_images_and_goes_on_where_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    library: Any = Recorder(calls, run_id="id-1")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setitem(sys.modules, "mlflow.entities", library)
    for start in ({**SECOND, "step": 0}, SECOND):
        (log,) = open_logs(name, tmp_path)
        for event, record in [("start", start), *EVENTS]:
            getattr(log, f"on_{event}", print)(record)
    said = [(of, arguments, named) for of, arguments, named in calls]
    if name == "tensorboard":
        assert [named["purge_step"] for of, _, named in said if of == "SummaryWriter"] == [None, 5]
        scalars = [arguments for of, arguments, _ in said if of == "add_scalar"]
        assert ("step/losses/mask", 0.5, 5) in scalars
        assert ("evaluation/metrics/box/AP", 0.25, 6) in scalars
        (first, _) = [arguments for of, arguments, _ in said if of == "add_image"]
        assert (first[0], first[1].shape, first[2]) == ("a.png", (3, 4, 3), 6)
        assert said[-1][0] == "close"
    elif name == "wandb":
        begun = [named for of, _, named in said if of == "init"]
        assert begun[0]["id"] == begun[1]["id"] == (tmp_path / "wandb.txt").read_text().strip()
        assert begun[0]["config"] == SECOND["settings"]
        logged = [(arguments[0], named["step"]) for of, arguments, named in said if of == "log"]
        assert ({"step/loss": 1.5, "step/losses/mask": 0.5}, 5) in logged
        assert [list(values) for values, step in logged if step == 6][1] == ["images/a.png"]
        assert said[-1] == ("finish", (), {"exit_code": 0})
    else:
        assert sum(of == "create_run" for of, _, _ in said) == 1
        assert [arguments for of, arguments, _ in said if of == "Param"] == [("model.name", "R-18-FPN")]
        metrics = [(*arguments[:2], arguments[3]) for of, arguments, _ in said if of == "Metric"]
        assert metrics[:2] == [("step/loss", 1.5, 5), ("step/losses/mask", 0.5, 5)]
        assert next(named for of, _, named in said if of == "log_image") == {"key": "a.png", "step": 6}
        assert said[-1] == ("set_terminated", ("id-1", "FINISHED"), {})
