"""The bookkeeping of the ablations, with a stand-in for the training: order, resuming, verdicts, the page."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablations
from benchmarks.ablation_rows import COMMON, ROWS, SEEDS, TABLES, Row
from benchmarks.ablations import collect, compare, described, report, sit, spread, verdict, wanted
from maskrcnn.config import Config, override, preset
from maskrcnn.errors import TrainingError
from maskrcnn.model.build import build

MACHINE = {"processor": "a small one, 2 of 2 cores, avx2", "versions": "torch 2.13.0"}
NAMES = ["R-18-C5", "R-18-C5 RoIPool max"]


class StandIn:
    """A trainer that records what it is asked for. `ap` holds the AP of rows by seed, in percent."""

    def __init__(self, ap: dict[str, list[float]] | None = None, interrupt_at: int | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.ap, self.interrupt_at = ap or {}, interrupt_at

    def __call__(self, row: Row, seed: int, name: Path) -> dict[str, Any]:
        if len(self.asked) == self.interrupt_at:
            raise KeyboardInterrupt
        of_row = next(label for label, known in ROWS.items() if known is row)
        self.asked.append((of_row, seed))
        ap = self.ap.get(of_row, [30.0] * SEEDS)[seed] / 100
        figures = {"AP": ap, "AP50": 2 * ap, "AP75": ap / 2}
        return {"box": figures, "mask": figures, "keypoint": figures, "seconds": 60.0 * (1 + seed), "machine": MACHINE}


def forever() -> float:
    return math.inf


def test_each_row_has_its_first_seed_before_any_has_the_second(tmp_path: Path) -> None:
    train = StandIn()
    assert sit(NAMES, tmp_path, train, forever) == 0
    assert train.asked == [(name, seed) for seed in range(SEEDS) for name in NAMES]
    assert {name: len(runs) for name, runs in collect(tmp_path).items() if runs} == dict.fromkeys(NAMES, 3)


def test_the_next_session_trains_what_is_missing(tmp_path: Path) -> None:
    first = StandIn(interrupt_at=4)
    assert sit(NAMES, tmp_path, first, forever) == 2
    assert len(list(tmp_path.iterdir())) == 4
    second = StandIn()
    assert sit(NAMES, tmp_path, second, forever) == 0
    assert second.asked == [(name, 2) for name in NAMES]
    third = StandIn()
    assert sit(NAMES, tmp_path, third, forever) == 0
    assert third.asked == []


def test_two_sessions_share_the_runs(tmp_path: Path) -> None:
    mine, other = StandIn(), StandIn()

    def train(row: Row, seed: int, name: Path) -> dict[str, Any] | None:
        if len(mine.asked) == 1 and not other.asked:  # while the first session trains this run, another one starts
            sit(NAMES, tmp_path, lambda r, s, n: None if (r, s) == (row, seed) else other(r, s, n), forever)
        return mine(row, seed, name)

    assert sit(NAMES, tmp_path, train, forever) == 0
    assert len(mine.asked) == 2
    assert sorted([*mine.asked, *other.asked]) == sorted((name, seed) for seed in range(SEEDS) for name in NAMES)


def test_a_session_ends_before_a_run_for_which_no_time_is_left(tmp_path: Path) -> None:
    clock = iter([20.0, 10.0, 0.0])
    train = StandIn()
    assert sit(NAMES, tmp_path, train, lambda: next(clock)) == 4
    assert len(train.asked) == 2


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in, calls = StandIn(), 0

    def train(row: Row, seed: int, name: Path) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TrainingError("the loss is nan")
        return stand_in(row, seed, name)

    assert sit(NAMES, tmp_path, train, forever) == 1
    assert f"{NAMES[1]}, seed 0: the loss is nan" in capsys.readouterr().out
    assert sit(NAMES, tmp_path, stand_in, forever) == 0
    assert stand_in.asked[-1] == (NAMES[1], 0)


def test_a_session_prints_how_long_the_rest_will_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of the stand-in takes a minute, which is known after the first."""
    sit(NAMES, tmp_path, StandIn(), forever)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("---")]
    assert printed[0] == f"--- {NAMES[0]}, seed 0; 6 runs left"
    assert printed[1] == f"--- {NAMES[1]}, seed 0; 5 runs left, about 5 minutes"


def test_a_run_with_other_settings_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sit(NAMES, tmp_path, StandIn(), forever)
    changed = ROWS["R-18-C5"]._replace(settings=(*ROWS["R-18-C5"].settings, "train.lr=0.001"))
    monkeypatch.setitem(ROWS, "R-18-C5", changed)
    assert (len(collect(tmp_path)["R-18-C5"]), len(collect(tmp_path)["R-18-C5 RoIPool max"])) == (0, 3)
    again = StandIn()
    sit(NAMES, tmp_path, again, forever)
    assert again.asked == [("R-18-C5", seed) for seed in range(SEEDS)]
    monkeypatch.setattr(ablations, "TRAIN_IMAGES", 7)
    assert not any(collect(tmp_path).values())


def test_a_file_says_what_was_run(tmp_path: Path) -> None:
    sit(["R-18-C4"], tmp_path, StandIn(), forever)
    stored = json.loads((tmp_path / "R-18-C4.1.json").read_text())
    assert stored["run"] == described(ROWS["R-18-C4"], 1)
    assert stored["run"]["seed"] == 1
    assert "model.box_head.res5_stride=1" in stored["run"]["settings"]


def test_standard_errors_by_hand(tmp_path: Path) -> None:
    """Variances of 1 and 4 with two degrees of freedom each are pooled to 2.5; the difference of two means of three
    seeds has a variance of 2.5 * 2/3.
    """
    train = StandIn({NAMES[0]: [29.0, 30.0, 31.0], NAMES[1]: [22.0, 24.0, 26.0]})
    sit(NAMES, tmp_path, train, forever)
    results = collect(tmp_path)
    assert spread(results, "mask", "AP") == pytest.approx(math.sqrt(2.5))
    assert compare(results, (NAMES[0], NAMES[1]), "mask", "AP") == pytest.approx((6.0, math.sqrt(2.5 * 2 / 3)))
    assert compare(results, (NAMES[0], "R-18-C4"), "mask", "AP") is None
    fewer = {**results, NAMES[1]: results[NAMES[1]][:1]}  # its single seed is taken to deviate as the others do, by 1
    assert compare(fewer, (NAMES[0], NAMES[1]), "mask", "AP") == pytest.approx((8.0, math.sqrt(1 + 1 / 3)))
    one_seed = {name: runs[:1] for name, runs in results.items()}
    assert compare(one_seed, (NAMES[0], NAMES[1]), "mask", "AP") is None


@pytest.mark.parametrize(
    ("paper", "ours", "error", "expected"),
    [
        (7.3, 6.0, 2.9, "agrees"),
        (7.3, 6.0, 3.1, "noise"),
        (7.3, -6.0, 2.9, "disagrees"),
        (7.3, -6.0, 3.1, "noise"),
        (-0.1, -6.0, 1.0, "agrees"),
        (-0.1, 6.0, 1.0, "disagrees"),
        (1.0, 0.0, 0.0, "noise"),
    ],
)
def test_verdicts(paper: float, ours: float, error: float, expected: str) -> None:
    assert verdict(paper, ours, error) == expected


def test_the_page_has_both_figures_and_the_verdict(tmp_path: Path) -> None:
    train = StandIn({NAMES[0]: [29.0, 30.0, 31.0], NAMES[1]: [22.0, 24.0, 26.0]})
    sit(NAMES, tmp_path, train, forever)
    page = report(collect(tmp_path))
    assert "| RoIAlign, masks | 30.9 | 51.8 | 32.1 | R-18-C5 | 30.0 | 60.0 | 15.0 | 3 |" in page
    assert "| RoIPool, boxes | 28.2 | 52.7 | 26.9 | R-18-C5 RoIPool max | 24.0 | 48.0 | 12.0 | 3 |" in page
    masks = "| RoIAlign, masks − RoIPool, masks | +7.3 | +6.0 ± 1.3 | agrees | +10.5 | +3.0 ± 0.6 | agrees |"
    assert masks in page
    assert "| FCN − MLP of two | +2.1 | – | – | +2.5 | – | – |" in page
    assert any(line.startswith("6 of 59 runs; ") and "6 minutes" in line for line in page)
    assert page[-1] == "Machine: a small one, 2 of 2 cores, avx2; torch 2.13.0."
    assert report(collect(tmp_path / "nothing"))


def test_tables_and_rows_belong_together() -> None:
    assert wanted("") == list(ROWS)  # every row is needed, and none is missing
    assert wanted("2d") == NAMES
    assert [ROWS[name].steps for name in wanted("2a-longer")] == [2100] * 5
    assert wanted("2b,6") == [name for name in ROWS if "keypoints" in name or name in ("R-18-C4", "R-18-C4 softmax")]
    with pytest.raises(SystemExit, match="2f"):
        wanted("2f")
    for content in TABLES.values():
        labels = {label for one in content.differences for label in (one.first, one.second)}
        assert labels == content.lines.keys()


@pytest.mark.parametrize("name", ROWS)
def test_the_model_of_each_row_can_be_built(name: str) -> None:
    config = override(Config(model=preset(ROWS[name].model)), [*COMMON, *ROWS[name].settings]).model
    model = build(replace(config, classes=6, keypoint_head=replace(config.keypoint_head, num_keypoints=13)))
    assert (model.mask_head is None) == ("keypoints" in name)
    assert (model.keypoint_head is None) != ("keypoints" in name)
