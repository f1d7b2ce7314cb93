"""Charts as pieces of HTML with inline SVG, for `page.py`: no script, no library, light or dark as the page is."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from .page import table

COLOURS = 10  # of lines; more lines repeat them, dashed
_WIDTH, _HEIGHT = 470, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 40  # margins
_MOST_POINTS = 400  # of a line; neighbours of a longer one are averaged

STYLE = """
:root { --c0: #3b6fb6; --c1: #c2521b; --c2: #3f8d50; --c3: #b03a58; --c4: #7457b0; --c5: #86633d; --c6: #b0629a;
  --c7: #66707c; --c8: #86861f; --c9: #218796; --heat: 59, 111, 182; }
@media (prefers-color-scheme: dark) { :root { --c0: #6f9fe0; --c1: #f08a4b; --c2: #6fbf80; --c3: #e57390;
  --c4: #a68be0; --c5: #c49a6c; --c6: #dd94c8; --c7: #a2adba; --c8: #c2c24d; --c9: #4fc0d0; --heat: 111, 159, 224; } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem;
  margin-top: .75rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .75rem; margin: 0;
  break-inside: avoid; overflow: visible; }
.chart b { font-weight: 600; } .chart svg { width: 100%; height: auto; display: block; border: 0; }
.chart text { fill: var(--soft); font: 12.5px system-ui, sans-serif; }
.chart .grid { stroke: var(--line); stroke-width: 1; } .chart .axis { stroke: var(--soft); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; } .chart .mark { stroke-dasharray: 2 3; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; color: var(--soft); font-size: .82rem; padding: 0;
  margin: .3rem 0 .5rem; list-style: none; }
.legend i { display: inline-block; width: 1.1rem; border-top: 3px solid; vertical-align: middle; margin-right: .35rem; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .25rem .7rem; align-items: center;
  margin-top: .5rem; font-variant-numeric: tabular-nums; font-size: .9rem; }
.bars i { display: block; height: .9rem; background: var(--bar); border-radius: 3px; min-width: 1px; }
td.heat { min-width: 2.2rem; }
"""


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray  # NaN interrupts the line
    dashed: bool = False
    colour: int | None = None  # default: the place among the lines
    dots: bool = False  # a dot at every point


class Interval(NamedTuple):
    """One line of a chart of intervals; `low` and `high` are NaN if there is none."""

    name: str
    value: float
    low: float
    high: float
    strong: bool = False  # whether the eye shall find it


class Mark(NamedTuple):
    """A vertical line, such as a threshold."""

    x: float
    name: str


def line_chart(
    title: str,
    lines: Iterable[Line],
    *,
    x: str,
    y: str = "",
    shares: bool = False,
    floor: float | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """A chart of lines with a legend below; empty if no line has a point.

    Args:
        x, y: what the axes measure.
        shares: whether both are shares, so that the axes go from 0 to 1.
        floor: where the y axis begins; default: a little below the lowest value.
    """
    shown = [line for line in lines if np.isfinite(np.asarray(line.y, dtype=float)).any()]
    if not shown:
        return ""
    every_x, every_y = (np.concatenate([np.asarray(line[i], dtype=float) for line in shown]) for i in (1, 2))
    across, up = _ends(every_x[np.isfinite(every_x)]), _ends(every_y[np.isfinite(every_y)], floor)
    frame = _Frame((0.0, 1.0), (0.0, 1.02)) if shares else _Frame(across, up)
    pieces = [*frame.axes(x, y)]
    for mark in marks:
        at = frame.x(mark.x)
        place = f"x1={at:.1f} x2={at:.1f} y1={_TOP} y2={_HEIGHT - _BOTTOM}"
        pieces.append(f"<line class='axis mark' {place}><title>{escape(mark.name)}</title></line>")
    legend = []
    for place, line in enumerate(shown):
        index = place if line.colour is None else line.colour
        colour, dashed = f"var(--c{index % COLOURS})", line.dashed or index >= COLOURS
        pieces.append(frame.line(line, colour, dashed))
        border = "dashed" if dashed else "solid"
        legend.append(f"<li><i style='border-color:{colour};border-top-style:{border}'></i>{escape(line.name)}</li>")
    legend += [f"<li>┊ {escape(mark.name)}</li>" for mark in marks]
    svg = f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{escape(title, quote=True)}'>"
    below = f"<ul class=legend>{''.join(legend)}</ul>"
    return f"<div class=chart><b>{escape(title)}</b>{svg}{''.join(pieces)}</svg>{below}</div>"


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]], note: str = "") -> str:
    """Horizontal bars of (name, value, the value as text), with a line below; empty without rows."""
    if not rows:
        return ""
    most = max((value for _, value, _ in rows), default=0) or 1
    bars = "".join(
        f"<span>{escape(name)}</span><i style='width:{100 * max(value, 0) / most:.1f}%'></i><span>{escape(text)}</span>"
        for name, value, text in rows
    )
    under = f"<p class=under>{escape(note)}</p>" if note else ""
    return f"<div class=chart><b>{escape(title)}</b><div class=bars>{bars}</div>{under}</div>"


def interval_chart(title: str, rows: Sequence[Interval]) -> str:
    """Values with their intervals, one below the other, and a line at 0; empty without rows."""
    if not rows:
        return ""
    step, top, left = 20, 6, 120
    height = top + step * len(rows)
    ends = np.array([[row.value, row.low, row.high] for row in rows])
    low, high = _ends(np.append(ends[np.isfinite(ends)], 0.0))

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - _RIGHT)

    pieces = []
    for value in ticks(low, high):
        at, kind = place(value), "grid" if value else "axis"
        pieces.append(f"<line class={kind} x1={at:.1f} x2={at:.1f} y1={top} y2={height} />")
        pieces.append(f"<text x={at:.1f} y={height + 16} text-anchor=middle>{value:g}</text>")
    for n, row in enumerate(rows):
        y, colour = top + step * (n + 0.5), f"var(--c{(0 if row.value > 0 else 1) if row.strong else 7})"
        name = row.name if len(row.name) <= 18 else row.name[:17] + "…"
        about = f"<title>{escape(row.name)}: {row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})</title>"
        pieces.append(f"<text x={left - 8} y={y + 4:.1f} text-anchor=end>{escape(name)}</text>")
        if np.isfinite(row.low):
            ends_ = f"x1={place(row.low):.1f} x2={place(row.high):.1f} y1={y:.1f} y2={y:.1f}"
            pieces.append(f"<line {ends_} style='stroke:{colour};stroke-width:2'>{about}</line>")
            pieces.append(f"<circle cx={place(row.value):.1f} cy={y:.1f} r=4 style='fill:{colour}'>{about}</circle>")
        else:
            hollow = f"fill:var(--card);stroke:{colour}"
            pieces.append(f"<circle cx={place(row.value):.1f} cy={y:.1f} r=3.5 style='{hollow}' />")
    svg = f"<svg viewBox='0 0 {_WIDTH} {height + 24}' role=img aria-label='{escape(title, quote=True)}'>"
    return f"<div class=chart><b>{escape(title)}</b>{svg}{''.join(pieces)}</svg></div>"


def heat_table(head: Sequence[str], names: Sequence[str], counts: np.ndarray) -> str:
    """A table of counts [R C] whose cells are the darker the larger their share of the row is."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, counts.tolist(), strict=True)]
    styles = [["", *(f"background:rgba(var(--heat),{0.75 * share:.2f})" for share in row)] for row in shares.tolist()]
    return table(head, rows, styles)


class _Frame:
    """From values to places in the SVG."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.across, self.up = across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.up
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x: str, y: str) -> Iterable[str]:
        floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        for value in ticks(*self.up):
            at = self.y(value)
            yield f"<line class=grid x1={_LEFT} x2={right} y1={at:.1f} y2={at:.1f} />"
            yield f"<text x={_LEFT - 6} y={at + 4:.1f} text-anchor=end>{value:g}</text>"
        for value in ticks(*self.across):
            at = self.x(value)
            yield f"<line class=grid x1={at:.1f} x2={at:.1f} y1={_TOP} y2={floor} />"
            yield f"<text x={at:.1f} y={floor + 16} text-anchor=middle>{_short(value)}</text>"
        yield f"<line class=axis x1={_LEFT} x2={right} y1={floor} y2={floor} />"
        yield f"<text x={(_LEFT + right) / 2:.0f} y={_HEIGHT - 5} text-anchor=middle>{escape(x)}</text>"
        if y:
            middle = (_TOP + floor) / 2
            yield f"<text transform='translate(13 {middle:.0f}) rotate(-90)' text-anchor=middle>{escape(y)}</text>"

    def line(self, line: Line, colour: str, dashed: bool) -> str:
        xs, ys = _thinned(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
        path, pen = [], "M"
        for a, b in zip(xs.tolist(), ys.tolist(), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                path.append(f"{pen}{self.x(a):.1f} {self._inside(b):.1f}")
                pen = "L"
            else:
                pen = "M"
        style = f"stroke:{colour}" + (";stroke-dasharray:6 4" if dashed else "")
        drawn = f"<path class=line style='{style}' d='{''.join(path)}'><title>{escape(line.name)}</title></path>"
        if line.dots or len(path) == 1:
            drawn += "".join(
                f"<circle cx={self.x(a):.1f} cy={self._inside(b):.1f} r=3 style='fill:{colour}'>"
                f"<title>{escape(line.name)}: {b:.4g} at {a:g}</title></circle>"
                for a, b in zip(xs.tolist(), ys.tolist(), strict=True)
                if math.isfinite(a) and math.isfinite(b)
            )
        return drawn

    def _inside(self, value: float) -> float:
        return min(max(self.y(value), _TOP), _HEIGHT - _BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers from `low` to `high`, evenly spread."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(factor for factor in (1, 2, 2.5, 5) if factor * step * 4 <= (high - low) * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _ends(values: np.ndarray, floor: float | None = None) -> tuple[float, float]:
    """The ends of an axis, with some room around the values."""
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    low = low - room if floor is None else floor
    return low, max(high + room, low + room)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= _MOST_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _MOST_POINTS)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:g}"
