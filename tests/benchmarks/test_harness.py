"""Turns, medians, verdicts and the table, for contestants with known times."""

from collections.abc import Callable

import pytest

from benchmarks.harness import (
    AnswersDiffer,
    Left,
    Middle,
    Row,
    against,
    from_json,
    interleaved,
    middle,
    options_of,
    paired,
    require,
    table,
    to_json,
)


class Day:
    """A clock that moves only during work and sleep."""

    def __init__(self) -> None:
        self.now, self.done = 0.0, []

    def worker(self, name: str, *seconds: float) -> Callable[[], None]:
        """Work that takes these seconds in turn, and the last of them from then on."""
        left = list(seconds)

        def work() -> None:
            self.done.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_contestants_take_turns_also_in_starting_a_round() -> None:
    day = Day()
    workers = {name: day.worker(name, 1.0) for name in "abc"}
    seconds = interleaved(workers, rounds=4, warmup=2, clock=day.read, sleep=day.sleep)
    assert "".join(day.done) == "abcabc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_warm_up_and_pauses_are_not_counted() -> None:
    day = Day()
    workers = {"ours": day.worker("ours", 100.0, 2.0), "theirs": day.worker("theirs", 50.0, 8.0)}
    seconds = interleaved(workers, rounds=3, pause=7.0, clock=day.read, sleep=day.sleep)
    assert seconds == {"ours": pytest.approx([2.0] * 3), "theirs": pytest.approx([8.0] * 3)}


def test_median_and_quartiles() -> None:
    assert middle([5.0, 1.0, 2.0, 4.0, 3.0]) == Middle(3.0, 2.0, 4.0)
    assert middle([7.0]) == Middle(7.0, 7.0, 7.0)
    assert middle([1.0, 3.0]).median == 2.0


def test_a_ratio_is_of_one_round() -> None:
    """In the second round the machine was ten times slower for both. The ratio of the medians would be 0.05."""
    assert paired([1.0, 10.0, 1.0], [2.0, 20.0, 20.0]).median == 0.5
    row = against("work", {"a": [1.0, 10.0], "b": [2.0, 20.0]}, "a", "b", bar=0.5)
    assert (row.ours.median, row.theirs.median, row.ratio) == (5.5, 11.0, Middle(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


ONE = Middle(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("w", ONE, ratio=Middle(0.5, 0, 0), bar=0.5, goal=0.4), "pass"),
        (Row("w", ONE, ratio=Middle(0.4, 0, 0), bar=0.5, goal=0.4), "goal"),
        (Row("w", ONE, ratio=Middle(0.51, 0, 0), bar=0.5, goal=0.4), "MISS"),
        (Row("w", ONE, bar=0.9), "MISS"),
        (Row("w", ONE, bar=0.9, at_least=True), "pass"),
        (Row("w", ONE, bar=1.1, at_least=True), "MISS"),
        (Row("w", Middle(float("nan"), 0, 0), bar=1.0), "MISS"),
        (Row("w", ONE), ""),
    ],
)
def test_verdicts(row: Row, verdict: str) -> None:
    assert row.verdict == verdict


def test_answers_that_differ_are_an_error() -> None:
    assert require(0.995, 0.99, "detections") == "99.5% detections"
    for wrong in (0.98, float("nan")):
        with pytest.raises(AnswersDiffer, match=r"detections: .*99\.00% should"):
            require(wrong, 0.99, "detections")


def test_the_cells_of_the_table() -> None:
    rows = [
        Row("R-50", Middle(0.5, 0.4, 0.6), "s", "theirs", Middle(2, 2, 2), Middle(0.25, 0.2, 0.3), 0.28, 0.25)._replace(
            answers="all"
        ),
        Row("start", Middle(0.2, 0.2, 0.2), bar=0.3),
    ]  # fmt: skip
    head, rule, first, second = table(rows).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|") == 10
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == [
        "R-50", "0.5 (0.4–0.6) s", "theirs", "2 s", "0.25 (0.2–0.3)", "≤ 0.28", "≤ 0.25", "goal", "all",
    ]  # fmt: skip
    assert "| 0.2 s |  |  |  | ≤ 0.3 s |  | pass |" in second


def test_rows_are_the_same_after_json() -> None:
    found = [
        Row("a", ONE, "s", "b", Middle(2.0, 1.0, 3.0), Middle(0.5, 0.4, 0.6), 0.5, None, answers="all"),
        Row("c", ONE, "MB", bar=200, at_least=True),
        Left("d", "it cannot be imported"),
    ]
    assert from_json(to_json(found)) == found


def test_options() -> None:
    assert options_of(None, []).threads >= 1
    quick = options_of(None, ["--quick", "--threads", "3"])
    assert (quick.quick, quick.threads, quick.rounds(9), quick.rounds(9, 4)) == (True, 3, 2, 4)
    assert options_of(None, []).rounds(9) == 9
