"""Inline SVG, drawn on the server: the board's NEWS2 sparkline and the patient page's trends.

Here: pure functions from points to markup; gaps stay gaps; colours and sizes are classes, so the style sheet and the
content security policy decide them.
Not here: which series a page shows (clinic.patient_view), HTML around it (templates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from markupsafe import Markup, escape

from clinic import words
from clinic.questions import ScorePoint

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US

TREND_HOURS = 4
"""How far back the board's sparkline looks."""

_SPARK_WIDTH, _SPARK_HEIGHT = 120, 30
_SPARK_TOP = 12.0  # NEWS2 points at the top edge; more are drawn there
_SPARK_GAP_US = 5 * MINUTE_US  # least silence that is a gap: of a patient charted once an hour it is longer
_SPARK_LONGEST_GAP_US = 2 * HOUR_US

_WIDTH, _HEIGHT = 640, 148
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 632, 8, 126
_COLUMNS = 480  # most points drawn across a chart: more than that is invisible
_HITS = 96  # hover targets across a chart


class Point(NamedTuple):
    """One value at one moment."""

    at_us: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    style: str = "a"  # class suffix: a, b


@dataclass(frozen=True, slots=True)
class Axis:
    """What a chart shows before the data ask for more."""

    low: float
    high: float
    unit: str
    decimals: int = 0
    marks: tuple[float, ...] = ()  # faint lines with a meaning, e.g. the bands of a score


class _Bin(NamedTuple):
    at_us: int
    low: float
    middle: float
    high: float


def sparkline(points: Sequence[ScorePoint]) -> Markup:
    """Return NEWS2 over the last four hours as steps; shaded are 5 and more (medium), 7 and more (high).

    Args:
        points: in time order; the last one is the right edge.
    """
    marks = "".join(
        f'<rect class="zone-{band}" x="0" y="{_spark_y(top)}" width="{_SPARK_WIDTH}" '
        f'height="{float(_spark_y(low)) - float(_spark_y(top)):.1f}"/>'
        for band, low, top in (("medium", 5.0, 7.0), ("high", 7.0, _SPARK_TOP))
    )
    head = f'<svg class="spark" viewBox="0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}" role="img" aria-label='
    known = [point for point in points if point.total is not None]
    if not known:
        return Markup(f'{head}"No NEWS2 in the last 4 hours">{marks}</svg>')  # noqa: S704 - only numbers of ours
    end_us = points[-1].at_us // MINUTE_US * MINUTE_US
    start_us = end_us - TREND_HOURS * HOUR_US
    gap_us = _spark_gap_us([point.at_us for point in known if point.at_us >= start_us])
    path: list[str] = []
    last_x, last_y, last_us = 0.0, "", -(10**18)
    for point in points:
        if point.at_us < start_us or point.total is None:
            last_us = -(10**18) if point.total is None else last_us
            continue
        x = round((point.at_us // MINUTE_US * MINUTE_US - start_us) / (end_us - start_us) * (_SPARK_WIDTH - 6) + 1, 1)
        y = _spark_y(point.total)
        if point.at_us - last_us > gap_us:
            if path:
                path.append(f"H{last_x:g}")
            path.append(f"M{x:g} {y}h.8")
        elif y != last_y:
            path.append(f"H{x:g}V{y}")
        last_x, last_y, last_us = x, y, point.at_us
    if path:
        path.append(f"H{last_x:g}")
    highest = max(point.total for point in known if point.total is not None)
    now = points[-1].total
    said = f"NEWS2 over 4 hours: now {'not scored' if now is None else f'{now:g}'}, highest {highest:g}"
    dot = f'<circle class="now" cx="{last_x:g}" cy="{last_y}" r="2.6"/>' if path and now is not None else ""
    return Markup(  # noqa: S704 - only numbers of ours
        f'{head}"{said}">{marks}<path class="line" d="{"".join(path)}"/>{dot}</svg>'
    )


def _spark_gap_us(times_us: Sequence[int]) -> int:
    """Return how long no snapshot may come before the line breaks: four times this patient's own rhythm."""
    rhythm_us = median(later - earlier for earlier, later in pairwise(times_us)) if len(times_us) > 1 else 0
    return int(min(max(4 * rhythm_us, _SPARK_GAP_US), _SPARK_LONGEST_GAP_US))


def _spark_y(total: float) -> str:
    return f"{_SPARK_HEIGHT - 3 - min(total, _SPARK_TOP) / _SPARK_TOP * (_SPARK_HEIGHT - 6):.1f}"


class _Frame:
    """The scale of one chart."""

    def __init__(self, axis: Axis, series: Sequence[Series], from_us: int, to_us: int) -> None:
        self.from_us, self.to_us = from_us, to_us
        values = [point.value for line in series for point in line.points]
        self.low = min([axis.low, *values])
        self.high = max([axis.high, *values])
        step = _nice_step((self.high - self.low) / 5)
        self.low = math.floor(self.low / step + 1e-9) * step
        self.high = math.ceil(self.high / step - 1e-9) * step
        count = round((self.high - self.low) / step)
        self.ticks = [self.low + step * index for index in range(count + 1)]
        self.decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0

    def x(self, at_us: int) -> float:
        return _LEFT + (at_us - self.from_us) / (self.to_us - self.from_us) * (_RIGHT - _LEFT)

    def y(self, value: float) -> float:
        return _BOTTOM - (value - self.low) / (self.high - self.low) * (_BOTTOM - _TOP)


def _nice_step(raw: float) -> float:
    """Return the smallest of 1, 2, 3, 4, 5 × 10ⁿ that is not below `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 3, 4, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _binned(points: Sequence[Point], from_us: int, width_us: int) -> list[_Bin]:
    """Return minimum, median and maximum of each stretch of `width_us` that has points."""
    grouped: dict[int, list[Point]] = {}
    for point in points:
        grouped.setdefault((point.at_us - from_us) // width_us, []).append(point)
    bins = []
    for index in sorted(grouped):
        values = [point.value for point in grouped[index]]
        at_us = grouped[index][len(values) // 2].at_us
        bins.append(_Bin(at_us, min(values), median(values), max(values)))
    return bins


def _gap_us(bins: Sequence[_Bin], valid_s: float, bin_us: int) -> int:
    """Return how long a silence is a gap: four times this signal's own rhythm, at least ten minutes.

    Never longer than a value counts as current; never so short that two neighbouring bins fall apart.
    """
    rhythm_us = median(b.at_us - a.at_us for a, b in pairwise(bins)) if len(bins) > 1 else 0
    return int(max(min(max(4 * rhythm_us, 10 * MINUTE_US), valid_s * 1e6), 2 * bin_us))


def _runs(bins: Sequence[_Bin], gap_us: int) -> list[list[_Bin]]:
    """Split bins wherever nothing was measured for longer than a gap."""
    runs: list[list[_Bin]] = []
    for entry in bins:
        if runs and entry.at_us - runs[-1][-1].at_us <= gap_us:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


def _line(frame: _Frame, runs: Sequence[Sequence[_Bin]], style: str) -> str:
    lines, dots, bands = [], [], []
    for run in runs:
        if len(run) == 1:
            dots.append(f'<circle class="dot {style}" cx="{frame.x(run[0].at_us):.1f}" '
                        f'cy="{frame.y(run[0].middle):.1f}" r="2.2"/>')  # fmt: skip
            continue
        lines.append("M" + "L".join(f"{frame.x(entry.at_us):.1f} {frame.y(entry.middle):.1f}" for entry in run))
        if any(entry.high > entry.low for entry in run):
            upper = [f"{frame.x(entry.at_us):.1f} {frame.y(entry.high):.1f}" for entry in run]
            lower = [f"{frame.x(entry.at_us):.1f} {frame.y(entry.low):.1f}" for entry in reversed(run)]
            bands.append("M" + "L".join([*upper, *lower]) + "Z")
    spread = f'<path class="spread {style}" d="{"".join(bands)}"/>' if bands else ""
    line = f'<path class="line {style}" d="{"".join(lines)}"/>' if lines else ""
    return spread + line + "".join(dots)


def _hits(frame: _Frame, series: Sequence[Series], axis: Axis) -> str:
    """Return invisible targets whose titles tell the values under the pointer; the browser puts the local time."""
    width_us = max(MINUTE_US, (frame.to_us - frame.from_us) // _HITS)
    told: dict[int, list[str]] = {}
    when: dict[int, int] = {}
    for line in series:
        for entry in _binned(line.points, frame.from_us, width_us):
            slot = (entry.at_us - frame.from_us) // width_us
            value = f"{entry.middle:.{axis.decimals}f}"
            told.setdefault(slot, []).append(f"{line.name} {value}" if len(series) > 1 else value)
            when.setdefault(slot, entry.at_us)
    targets = []
    for slot, texts in sorted(told.items()):
        left = frame.x(frame.from_us + slot * width_us)
        wide = width_us / (frame.to_us - frame.from_us) * (_RIGHT - _LEFT)
        said = escape(f"{', '.join(texts)} {axis.unit}".strip() + " · ")
        targets.append(
            f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{wide:.1f}" height="{_BOTTOM - _TOP}">'
            f'<title data-clock="{when[slot]}" data-before="{said}">{said}{words.clock_text(when[slot])} UTC</title>'
            "</rect>"
        )
    return "".join(targets)


def _grid(frame: _Frame, axis: Axis) -> str:
    parts = []
    for tick in frame.ticks:
        y = frame.y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:.{frame.decimals}f}</text>'
        )
    for mark in axis.marks:
        y = frame.y(mark)
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    hours = (frame.to_us - frame.from_us) / HOUR_US
    step_us = HOUR_US * (1 if hours <= 6 else 4 if hours <= 30 else 8)
    at_us = -(-frame.from_us // step_us) * step_us
    while at_us <= frame.to_us:
        x = frame.x(at_us)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>'
            f'<text class="tick" x="{x:.1f}" y="{_BOTTOM + 15}" text-anchor="middle" data-clock="{at_us}">'
            f"{words.clock_text(at_us)}</text>"
        )
        at_us += step_us
    return "".join(parts)


def trend_chart(name: str, series: Sequence[Series], axis: Axis, from_us: int, to_us: int, valid_s: float) -> Markup:
    """Return a line chart; a stretch without values is left empty.

    Args:
        name: what is drawn, for those who cannot see it.
        series: lines, each in time order, within from_us ≤ at < to_us.
        axis: extent in the unit of the values; it grows to the data, never cuts them.
        from_us: left edge.
        to_us: right edge.
        valid_s: how long a value counts as current.
    """
    frame = _Frame(axis, series, from_us, to_us)
    width_us = max(MINUTE_US, (to_us - from_us) // _COLUMNS // MINUTE_US * MINUTE_US)
    body = [_grid(frame, axis)]
    for line in series:
        bins = _binned(line.points, from_us, width_us)
        body.append(_line(frame, _runs(bins, _gap_us(bins, valid_s, width_us)), line.style))
    body.append(_hits(frame, series, axis))
    said = "; ".join(_summary(line, axis) for line in series)
    label = escape(f"{name}: {said}")
    return Markup(  # noqa: S704 - every text inside is escaped
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'
    )


def _summary(line: Series, axis: Axis) -> str:
    if not line.points:
        return f"{line.name}: nothing measured"
    values = [point.value for point in line.points]
    low, high, last = (f"{value:.{axis.decimals}f}" for value in (min(values), max(values), values[-1]))
    return f"{line.name} last {last} {axis.unit}, lowest {low}, highest {high}"


def score_chart(name: str, points: Sequence[ScorePoint], axis: Axis, from_us: int, to_us: int) -> Markup:
    """Return an aggregate score as bars coloured by band; hollow bars are totals of only what was measured."""
    width_us = max(5 * MINUTE_US, (to_us - from_us) // _HITS // MINUTE_US * MINUTE_US)
    slots: dict[int, ScorePoint] = {}
    for point in points:
        if point.total is None or not from_us <= point.at_us < to_us:
            continue
        slot = (point.at_us - from_us) // width_us
        before = slots.get(slot)
        if before is None or (before.total or 0) <= point.total:
            slots[slot] = point
    known = [Point(point.at_us, point.total) for point in slots.values() if point.total is not None]
    frame = _Frame(axis, [Series(name, known)], from_us, to_us)
    wide = width_us / (to_us - from_us) * (_RIGHT - _LEFT)
    bars = []
    for slot, point in sorted(slots.items()):
        total = point.total or 0.0
        top = min(frame.y(total), _BOTTOM - 2.0)
        kind = f"bar {'partial ' if point.is_partial else ''}band-{point.band or 'none'}"
        said = escape(f"{name} {'≥ ' if point.is_partial else ''}{total:g} · ")
        bars.append(
            f'<rect class="{escape(kind)}" x="{frame.x(from_us + slot * width_us) + 0.4:.1f}" y="{top:.1f}" '
            f'width="{max(wide - 0.8, 0.8):.1f}" height="{_BOTTOM - top:.1f}">'
            f'<title data-clock="{point.at_us}" data-before="{said}">{said}{words.clock_text(point.at_us)} UTC</title>'
            "</rect>"
        )
    label = escape(f"{name}: {_summary(Series(name, known), axis)}")
    return Markup(  # noqa: S704 - every text inside is escaped
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{_grid(frame, axis)}{''.join(bars)}</svg>"
    )
