"""Charts: round ticks, lines where the values are, nothing for nothing."""

import re

import numpy as np
import pytest

from maskrcnn.reports.plots import Line, Mark, bar_chart, heat_table, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (0, 1600, [0, 250, 500, 750, 1000, 1250, 1500]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0.0012, 0.0032, [0.0015, 0.002, 0.0025, 0.003]),
    ],
)
def test_ticks_are_round(low, high, expected) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def points(chart):
    paths = re.findall(r"<path[^>]* d='([^']*)'", chart)
    return [[tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]] for path in paths]


def test_a_line_goes_through_its_values() -> None:
    chart = line_chart("A < B", [Line("a", [0, 1, 2], [0, 1, 0.5])], x="step", floor=0.0)
    ((left, floor), (middle, top), (right, half)) = points(chart)[0]
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((floor + top) / 2, abs=0.1)
    assert floor > top
    assert "A &lt; B" in chart


def test_what_is_not_known_interrupts_the_line() -> None:
    chart = line_chart("", [Line("a", range(5), [1, 2, np.nan, 3, 4])], x="")
    assert len(re.findall("M", re.findall(r" d='([^']*)'", chart)[0])) == 2


def test_long_lines_are_thinned_and_short_ones_have_dots() -> None:
    assert len(points(line_chart("", [Line("a", range(10_000), np.sin(np.arange(10_000)))], x=""))[0]) == 400
    assert line_chart("", [Line("a", [3], [4])], x="").count("<circle") == 1


def test_nothing_to_show_is_no_chart() -> None:
    assert line_chart("", [], x="") == ""
    assert line_chart("", [Line("a", [1], [np.nan])], x="") == ""
    assert bar_chart("", []) == ""


def test_marks_and_bars_say_what_they_are() -> None:
    chart = line_chart("", [Line("a", [0, 1], [0, 1])], x="", marks=[Mark(0.5, "half & half")])
    assert chart.count("half &amp; half") == 2
    bars = bar_chart("t", [("a", 4, "four"), ("b", 1, "one"), ("c", 0, "none")])
    assert re.findall(r"width:([\d.]+)%", bars) == ["100.0", "25.0", "0.0"]


def test_heat_is_the_share_of_a_row() -> None:
    page = heat_table(["", "a", "b"], ["a", "b"], np.array([[3, 1], [0, 0]]))
    assert re.findall(r"heat\),([\d.]+)", page) == ["0.56", "0.19", "0.00", "0.00"]
