"""The plot: charts as one SVG, readable on a light and on a dark page.

Written here, for all that is drawn are a few lines in boxes: less to read than what a plotting library would bring.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.figures import Chart, Point

_COLUMNS = 2
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 96, 44
_LEGEND_TOP, _LEGEND_LINE, _LEGEND_COLUMN = 40, 16, 200
_LONGEST_IN_COLUMN = 25
_INSET = 20
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart also by those who do not see all colours (Okabe and Ito)."""
_STEPS = (1, 2, 2.5, 5, 10)
_MOST_TICKS = 6
_LOGARITHMIC_FROM = 20
"""From this ratio of the last x to the first on, steps are factors."""
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:13px}.grid{stroke:#ddd}"
    ".curve{fill:none;stroke-width:2}.goal{fill:none;stroke:#777;stroke-width:1.5;stroke-dasharray:5 4}"
)


class _Panel:
    """One chart in its box."""

    def __init__(self, chart: Chart) -> None:
        points = [point for curve in (*chart.curves.values(), chart.goal) for point in curve]
        self._chart = chart
        self._across = sorted({x for x, _ in points})
        self._ticks = _ticks(max(y for _, y in points))

    def lines(self) -> list[str]:
        """Return its elements, the box's upper left corner at 0, 0."""
        return [*self._frame(), *self._curves()]

    def _frame(self) -> list[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        lines = [_text(_LEFT, 20, self._chart.title, "title")]
        for tick in self._ticks:
            y = self._y(tick)
            lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            lines.append(_text(_LEFT - 6, y + 4, f"{tick:g}", anchor="end"))
        lines += [_text(self._x(x), bottom + 16, f"{x:,.0f}", anchor="middle") for x in self._across]
        lines.append(_text((_LEFT + right) / 2, bottom + 34, self._chart.x, anchor="middle"))
        lines.append(_text(_LEFT - 6, _TOP - 10, self._chart.y, anchor="end"))
        return lines

    def _curves(self) -> list[str]:
        drawn = [
            (name, points, f'class="curve" stroke="{colour}"', f'fill="{colour}"')
            for (name, points), colour in zip(self._chart.curves.items(), _COLOURS, strict=False)
        ]
        drawn.append(("goal", self._chart.goal, 'class="goal"', 'fill="none"'))
        columns = 1 if max(len(name) for name, *_ in drawn) > _LONGEST_IN_COLUMN else 2
        lines = []
        for number, (name, points, style, dot) in enumerate(drawn):
            across, down = number % columns * _LEGEND_COLUMN, number // columns * _LEGEND_LINE
            lines += self._legend(_LEFT + across, _LEGEND_TOP + down, name, style)
            lines += self._curve(points, style, dot)
        return lines

    def _legend(self, x: float, y: float, name: str, style: str) -> list[str]:
        return [f'<path {style} d="M{x} {y - 4}h22"/>', _text(x + 28, y, name)]

    def _curve(self, points: Sequence[Point], style: str, dot: str) -> list[str]:
        places = [(self._x(x), self._y(y)) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dots = [f'<circle r="3" {dot} cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places]
        return [f'<path {style} d="M{path}"/>', *dots]

    def _x(self, value: float) -> float:
        first, last = self._across[0], self._across[-1]
        if first == last:
            return _LEFT + _INSET
        share = (value - first) / (last - first)
        if first > 0 and last / first >= _LOGARITHMIC_FROM:
            share = math.log(value / first) / math.log(last / first)
        return _LEFT + _INSET + share * (_WIDTH - _LEFT - _RIGHT - 2 * _INSET)

    def _y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self._ticks[-1] * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(most: float) -> list[float]:
    """Return round levels from 0 to at least `most`."""
    power = 10.0 ** math.floor(math.log10(most / _MOST_TICKS))
    step = next(power * factor for factor in _STEPS if most / (power * factor) <= _MOST_TICKS)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def draw(charts: Sequence[Chart], caption: str, path: Path) -> None:
    """Write charts to `path`, with a line below that says what they were measured on."""
    rows = math.ceil(len(charts) / _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, chart in enumerate(charts):
        x, y = number % _COLUMNS * _WIDTH, number // _COLUMNS * _HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *_Panel(chart).lines(), "</g>"]
    lines += [_text(_LEFT, height - 10, caption), "</svg>"]
    path.write_text("\n".join(lines) + "\n")
