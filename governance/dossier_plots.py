"""Plots of a dossier as inline SVG: curves with their intervals, in the page's own colours, printable in grey.

Here: scales, ticks, lines, bands; pure functions from vocabulary.verdict.Series to markup.
Not here: which curves a dossier shows (governance.dossier_verdicts), the page (governance.dossier).
Colours and widths are classes of the dossier's one style sheet: the file needs nothing from elsewhere, and no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from vocabulary.verdict import Series

_WIDTH: Final = 420
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 408, 12, 252
_STYLES: Final = 6
"""Lines that can be told apart, by colour and by dash; a seventh looks like the first."""


class _Scale(NamedTuple):
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _scale(values: Sequence[float], start: float, end: float, bounds: tuple[float, float] | None) -> _Scale:
    known = [value for value in values if math.isfinite(value)]
    low, high = bounds if bounds is not None else (min(known, default=0.0), max(known, default=1.0))
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    low = math.floor(low / step + 1e-9) * step
    high = math.ceil(high / step - 1e-9) * step
    count = round((high - low) / step)
    return _Scale(low, high, start, end, tuple(low + step * index for index in range(count + 1)))


def _tick_text(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def plot(
    curves: Sequence[tuple[str, Series]],
    *,
    has_diagonal: bool = False,
    x_bounds: tuple[float, float] | None = None,
    y_bounds: tuple[float, float] | None = None,
) -> str:
    """Return curves over common axes as an SVG with a legend; intervals are bands, single points are dots.

    Args:
        curves: (name for the legend, curve); the axes are named as the first curve says.
        has_diagonal: whether the line of perfect agreement is drawn.
        x_bounds: of the axis; None takes the data's.
        y_bounds: of the axis; None takes the data's, intervals included. What lies beyond is cut off.
    """
    x = _scale([value for _, one in curves for value in one.x], _LEFT, _RIGHT, x_bounds)
    y = _scale([value for _, one in curves for value in (*one.y, *one.low, *one.high)], _BOTTOM, _TOP, y_bounds)
    parts = [_axes(x, y, curves[0][1] if curves else None)]
    if has_diagonal:
        least, most = max(x.low, y.low), min(x.high, y.high)
        parts.append(
            f'<line class="diagonal" x1="{x.at(least):.1f}" y1="{y.at(least):.1f}" x2="{x.at(most):.1f}" '
            f'y2="{y.at(most):.1f}"/>'
        )
    drawn = "".join(_curve(one, x, y, index % _STYLES) for index, (_, one) in enumerate(curves))
    # A window of its own: what lies beyond the axes is cut off, never bent along the edge.
    wide, high = _RIGHT - _LEFT + 6, _BOTTOM - _TOP + 6
    parts.append(
        f'<svg x="{_LEFT - 3}" y="{_TOP - 3}" width="{wide}" height="{high}" '
        f'viewBox="{_LEFT - 3} {_TOP - 3} {wide} {high}">{drawn}</svg>'
    )
    parts += _legend([name for name, _ in curves])
    height = _HEIGHT + 16 * len(curves)
    label = escape("; ".join(f"{name}: {len(one.x)} points" for name, one in curves))
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(x: _Scale, y: _Scale, first: Series | None) -> str:
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{_tick_text(tick)}</text>'
        )
    for tick in x.ticks:
        at = x.at(tick)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>'
            f'<text class="tick" x="{at:.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{_tick_text(tick)}</text>'
        )
    if first is not None:
        middle = (_TOP + _BOTTOM) / 2
        parts.append(
            f'<text class="label" x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_BOTTOM + 33}" text-anchor="middle">'
            f"{escape(first.x_label)}</text>"
            f'<text class="label" x="12" y="{middle:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 12 {middle:.0f})">{escape(first.y_label)}</text>'
        )
    return "".join(parts)


def _curve(one: Series, x: _Scale, y: _Scale, style: int) -> str:
    # Of a curve whose lengths differ nobody can say which value belongs where: it stays empty.
    pairs = zip(one.x, one.y, strict=True) if len(one.x) == len(one.y) else ()
    points = [(x.at(left), y.at(value)) for left, value in pairs if math.isfinite(left) and math.isfinite(value)]
    band = ""
    if len(one.low) == len(one.x) == len(one.high) and len(one.x) > 1:
        upper = [f"{x.at(left):.1f} {y.at(value):.1f}" for left, value in zip(one.x, one.high, strict=True)]
        lower = [f"{x.at(left):.1f} {y.at(value):.1f}" for left, value in zip(one.x, one.low, strict=True)]
        band = f'<path class="band s{style}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
    if len(points) < 2:
        return "".join(f'<circle class="dot s{style}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points)
    line = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    dots = ""
    if len(points) <= 25:  # measured points; a denser curve is a function
        dots = "".join(f'<circle class="dot s{style}" cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in points)
    return f'{band}<path class="line s{style}" d="{line}"/>{dots}'


def _legend(names: Sequence[str]) -> list[str]:
    return [
        f'<line class="line s{index % _STYLES}" x1="{_LEFT}" x2="{_LEFT + 26}" y1="{_HEIGHT + 4 + 16 * index}" '
        f'y2="{_HEIGHT + 4 + 16 * index}"/><text class="legend" x="{_LEFT + 33}" y="{_HEIGHT + 8 + 16 * index}">'
        f"{escape(name)}</text>"
        for index, name in enumerate(names)
    ]


def interval(value: float | None, low: float | None, high: float | None, bounds: tuple[float, float]) -> str:
    """Return one value with its interval as a small bar between two bounds, for a table's cell; "" without an interval.

    Args:
        value: the point; None draws only the interval.
        low: lower end.
        high: upper end.
        bounds: of the scale, common to the table's column.
    """
    if low is None or high is None or not bounds[1] > bounds[0]:
        return ""
    scale = _Scale(bounds[0], bounds[1], 2, 98, ())
    left, right = scale.at(low), scale.at(high)
    point = "" if value is None else f'<circle class="point" cx="{scale.at(value):.1f}" cy="6" r="2.4"/>'
    zero = ""
    if bounds[0] < 0 < bounds[1]:
        zero = f'<line class="zero" x1="{scale.at(0):.1f}" x2="{scale.at(0):.1f}" y1="0" y2="12"/>'
    return (
        f'<svg class="interval" viewBox="0 0 100 12" aria-hidden="true">{zero}'
        f'<line class="reach" x1="{left:.1f}" x2="{max(right, left + 1):.1f}" y1="6" y2="6"/>{point}</svg>'
    )
