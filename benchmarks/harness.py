"""What the comparisons share: interleaved timing, the check that answers agree, rows with bars, and their table.

Contestants run in turns within one process, so that whatever else the machine does slows all of them down. A ratio is
the median of the ratios of single rounds, and its spread is their quartiles.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Work = Callable[[], object]


class AnswersDiffer(Exception):
    """The contestants did not do the same work, so their times cannot be compared."""


class Middle(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float


class Row(NamedTuple):
    """One line of the table. The bar is for ours / theirs, or for `ours` if no rival is measured."""

    what: str  # the work, and what it includes
    ours: Middle
    unit: str = "s"
    rival: str = ""
    theirs: Middle | None = None
    ratio: Middle | None = None
    bar: float | None = None
    goal: float | None = None
    at_least: bool = False  # the figure must be at least the bar, not at most
    answers: str = ""  # how far the answers agree

    @property
    def figure(self) -> float:
        return (self.ratio or self.ours).median

    @property
    def verdict(self) -> str:
        """`goal`, `pass` or `MISS`; empty without a bar."""
        if self.bar is None:
            return ""
        if self.goal is not None and self._holds(self.goal):
            return "goal"
        return "pass" if self._holds(self.bar) else "MISS"

    def _holds(self, limit: float) -> bool:
        return self.figure >= limit if self.at_least else self.figure <= limit


class Left(NamedTuple):
    """A comparison that was not made, and why."""

    what: str
    why: str


class Options(NamedTuple):
    quick: bool
    threads: int
    out: Path | None

    def rounds(self, full: int, quick: int = 2) -> int:
        return quick if self.quick else full


def interleaved(
    contestants: Mapping[str, Work],
    *,
    rounds: int,
    warmup: int = 1,
    pause: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """The seconds of each contestant in each round. The contestants take turns in starting a round.

    Before the clock starts, garbage is collected and `pause` seconds pass: threads that one library leaves spinning
    would slow down the next one.
    """
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            sleep(pause)
            start = clock()
            contestants[name]()
            seconds[name].append(clock() - start)
    return seconds


def middle(values: Sequence[float]) -> Middle:
    """Median and quartiles; a single value is all three."""
    if len(values) == 1:
        return Middle(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Middle(median, low, high)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Middle:
    """Median and quartiles of the ratio in each round."""
    return middle([mine / other for mine, other in zip(ours, theirs, strict=True)])


def against(
    what: str, seconds: Mapping[str, Sequence[float]], ours: str, rival: str, *, unit: str = "s", **rest: Any
) -> Row:
    """The row of two contestants of `interleaved`. `rest`: bar, goal, answers."""
    mine, other = seconds[ours], seconds[rival]
    return Row(what, middle(mine), unit, rival, middle(other), paired(mine, other), **rest)


def require(agreement: float, least: float, what: str) -> str:
    """`agreement` (0..1) in words for the table. Raises `AnswersDiffer` if it is below `least` or not a number."""
    if not agreement >= least:
        raise AnswersDiffer(f"{what}: {agreement:.2%} agree, {least:.2%} should")
    return f"{agreement:.1%} {what}"


# --- the table -------------------------------------------------------------------------------------------------------

_HEAD = ("what", "ours", "rival", "its", "ours / its", "bar", "goal", "verdict", "answers")


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line for each row. Figures are medians with quartiles in brackets, or single measurements."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.at_least else "≤"
    unit = "" if row.ratio else f" {row.unit}"
    bar, goal = (f"{sign} {limit:g}{unit}" if limit is not None else "" for limit in (row.bar, row.goal))
    theirs = _span(row.theirs, row.unit) if row.theirs else ""
    ratio = _span(row.ratio, "") if row.ratio else ""
    return row.what, _span(row.ours, row.unit), row.rival, theirs, ratio, bar, goal, row.verdict, row.answers


def _span(figure: Middle, unit: str) -> str:
    several = f" ({figure.low:.3g}–{figure.high:.3g})" if figure.low < figure.high else ""
    return f"{figure.median:.3g}{several} {unit}".strip()


# --- a comparison as a program ---------------------------------------------------------------------------------------


def run(compare: Callable[[Options], list[Row | Left]], description: str | None) -> None:
    """Reads the options, makes the comparison, prints its rows and writes them to `--out`, a json."""
    options = options_of(description)
    found = compare(options)
    print(table([row for row in found if isinstance(row, Row)]))
    for left in (row for row in found if isinstance(row, Left)):
        print(f"not compared: {left.what}: {left.why}")
    if options.out is not None:
        options.out.write_text(to_json(found))


def options_of(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="json file to write")
    found = parser.parse_args(arguments)
    return Options(found.quick, found.threads, found.out)


def to_json(found: Sequence[Row | Left]) -> str:
    return json.dumps([row._asdict() | ({"verdict": row.verdict} if isinstance(row, Row) else {}) for row in found])


def from_json(text: str) -> list[Row | Left]:
    """The inverse of `to_json`."""
    return [_revived(entry) for entry in json.loads(text)]


def _revived(entry: dict[str, Any]) -> Row | Left:
    if "why" in entry:
        return Left(**entry)
    entry.pop("verdict")
    for name in ("ours", "theirs", "ratio"):
        entry[name] = Middle(*entry[name]) if entry[name] is not None else None
    return Row(**entry)
