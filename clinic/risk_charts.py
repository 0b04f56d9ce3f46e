"""Inline SVG of a model's estimate: its interval, its reasons, its course over the stay.

Here: pure functions from numbers to markup; colours and sizes are classes, as in clinic.charts.
Not here: what is shown where (clinic.risk_view, templates), the dossier's plots (governance.dossier_plots).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from clinic.questions import RiskPoint
from clinic.risk_view import Reason, percent, short
from vocabulary.snapshot import RiskForecast

_WIDTH, _SCALE_TOP, _SCALE_HEIGHT = 400, 16, 46
_REASON_HEIGHT, _REASON_MIDDLE = 12, 50.0
_COURSE_HEIGHT, _COURSE_LEFT, _COURSE_RIGHT, _COURSE_TOP, _COURSE_BOTTOM = 130, 34, 392, 8, 108
_LEAST_HOURS = 12
_MOST_HOURS = 48
_GAP_MINUTES = 90  # estimates are kept each quarter of an hour: a longer silence is drawn as one


def _x(probability: float) -> float:
    return 4 + min(max(probability, 0.0), 1.0) * (_WIDTH - 8)


def interval_bar(forecast: RiskForecast) -> Markup:
    """Return an estimate on a scale from 0 to 100 %: the interval as a bar, the estimate in it, the threshold beside.

    An estimate without an interval is drawn as its point; an abstention as the empty scale.
    """
    parts = [f'<rect class="scale" x="4" y="{_SCALE_TOP}" width="{_WIDTH - 8}" height="10" rx="5"/>']
    said = "No estimate"
    if forecast.probability is not None:
        said = f"{percent(forecast.probability)} %"
        if forecast.low is not None and forecast.high is not None:
            left, right = _x(forecast.low), _x(forecast.high)
            parts.append(
                f'<rect class="range" x="{left:.1f}" y="{_SCALE_TOP}" width="{max(right - left, 2):.1f}" height="10" '
                'rx="2"/>'
            )
            said += f", interval {percent(forecast.low)} to {percent(forecast.high)} %"
        parts.append(
            f'<rect class="estimate" x="{_x(forecast.probability) - 2:.1f}" y="{_SCALE_TOP - 4}" width="4" height="18" '
            'rx="1.5"/>'
        )
    for tick in (0, 25, 50, 75, 100):
        anchor = "start" if tick == 0 else "end" if tick == 100 else "middle"
        parts.append(
            f'<text class="tick" x="{_x(tick / 100):.1f}" y="{_SCALE_TOP + 26}" text-anchor="{anchor}">{tick}'
            f"{' %' if tick == 100 else ''}</text>"
        )
    if forecast.threshold is not None:
        x = _x(forecast.threshold)
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{_SCALE_TOP + 14}"/>')
        anchor = "start" if forecast.threshold < 0.7 else "end"
        beside = x + 4 if anchor == "start" else x - 4
        parts.append(f'<text class="tick" x="{beside:.1f}" y="10" text-anchor="{anchor}">attention</text>')
        said += f", attention from {percent(forecast.threshold)} %"
    return Markup(  # noqa: S704 - only numbers and words of ours
        f'<svg class="risk-scale" viewBox="0 0 {_WIDTH} {_SCALE_HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


def reason_bar(reason: Reason, largest: float) -> Markup:
    """Return one reason as a bar from the middle: to the right it raises the risk, to the left it lowers it.

    Args:
        reason: what moved the estimate.
        largest: the greatest absolute contribution among those shown together; above zero.
    """
    wide = abs(reason.log_odds) / largest * (_REASON_MIDDLE - 1)
    left = _REASON_MIDDLE if reason.log_odds > 0 else _REASON_MIDDLE - wide
    kind = "raises" if reason.log_odds > 0 else "lowers"
    label = escape(f"{short(reason.words)}: {reason.log_odds:+.2f} log-odds")
    return Markup(  # noqa: S704 - escaped
        f'<svg class="reason-bar" viewBox="0 0 100 {_REASON_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><line class="axis" x1="{_REASON_MIDDLE:g}" x2="{_REASON_MIDDLE:g}" y1="0" '
        f'y2="{_REASON_HEIGHT}"/><rect class="{kind}" x="{left:.2f}" y="2" width="{max(wide, 0.6):.2f}" '
        f'height="{_REASON_HEIGHT - 4}"/></svg>'
    )


def _hours_shown(points: Sequence[RiskPoint]) -> int:
    last = max((point.through_minute for point in points), default=0) / 60
    return next((hours for hours in (_LEAST_HOURS, 24, _MOST_HOURS) if last <= hours), _MOST_HOURS)


def course_chart(points: Sequence[RiskPoint], threshold: float | None) -> Markup:
    """Return the estimates of a stay over its hours with their intervals; where the model was silent it stays empty.

    Args:
        points: of one model, in time order.
        threshold: where attention is asked for; None draws no line.
    """
    hours = _hours_shown(points)
    spoken = [point for point in points if point.probability is not None]
    tops = [point.high if point.high is not None else point.probability or 0.0 for point in spoken]
    top = next(mark for mark in (0.25, 0.5, 1.0) if max([*tops, threshold or 0.0, 0.0]) <= mark or mark == 1.0)

    def x(minute: float) -> float:
        return _COURSE_LEFT + min(max(minute / 60 / hours, 0.0), 1.0) * (_COURSE_RIGHT - _COURSE_LEFT)

    def y(probability: float) -> float:
        return _COURSE_BOTTOM - min(probability / top, 1.0) * (_COURSE_BOTTOM - _COURSE_TOP)

    parts = []
    for index in range(6):
        value = top * index / 5
        parts.append(
            f'<line class="grid" x1="{_COURSE_LEFT}" x2="{_COURSE_RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="tick" x="{_COURSE_LEFT - 5}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value * 100:g}'
            "</text>"
        )
    parts += [
        f'<text class="tick" x="{x(hour * 60):.1f}" y="{_COURSE_BOTTOM + 15}" '
        f'text-anchor="{"end" if hour == hours else "middle"}">{hour} h</text>'
        for hour in range(0, hours + 1, hours // 4)
    ]
    if threshold is not None:
        parts.append(
            f'<line class="mark" x1="{_COURSE_LEFT}" x2="{_COURSE_RIGHT}" y1="{y(threshold):.1f}" '
            f'y2="{y(threshold):.1f}"/>'
        )
    parts += [_run_markup(run, x, y) for run in _runs(points)]
    last = spoken[-1] if spoken else None
    said = "Estimates over the stay: " + (
        f"last {percent(last.probability)} % at hour {last.through_minute / 60:.0f}"
        if last is not None and last.probability is not None
        else "none kept"
    )
    return Markup(  # noqa: S704 - only numbers of ours
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_COURSE_HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


def _runs(points: Sequence[RiskPoint]) -> list[list[RiskPoint]]:
    """Split the course wherever the model was silent, or nothing was kept for long."""
    runs: list[list[RiskPoint]] = [[]]
    for before, point in pairwise([None, *points]):
        assert point is not None
        is_gap = before is not None and point.through_minute - before.through_minute > _GAP_MINUTES
        if runs[-1] and (is_gap or point.probability is None):
            runs.append([])
        if point.probability is not None:
            runs[-1].append(point)
    return [run for run in runs if run]


def _run_markup(run: Sequence[RiskPoint], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    middle = [(x(point.through_minute), y(point.probability or 0.0)) for point in run]
    if len(run) == 1:
        return f'<circle class="dot" cx="{middle[0][0]:.1f}" cy="{middle[0][1]:.1f}" r="2.4"/>'
    line = "M" + "L".join(f"{left:.1f} {height:.1f}" for left, height in middle)
    band = ""
    if all(point.low is not None and point.high is not None for point in run):
        upper = [f"{x(point.through_minute):.1f} {y(point.high or 0.0):.1f}" for point in run]
        lower = [f"{x(point.through_minute):.1f} {y(point.low or 0.0):.1f}" for point in reversed(run)]
        band = f'<path class="spread" d="M{"L".join([*upper, *lower])}Z"/>'
    return f'{band}<path class="line" d="{line}"/>'
