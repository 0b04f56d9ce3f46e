"""Plots of verdicts and tables as SVG inside Dagster's metadata: no library, no file, no network.

Here: curves and bars as an image in Markdown, and a table of measures.
Not here: the dossier's plots (governance.dossier_plots), judging (validation).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Final

import dagster as dg

from vocabulary.verdict import Measure, Series, Verdict

WIDTH: Final = 460
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 40
_COLOURS: Final = ("#1f6f8b", "#c8553d", "#588157", "#6d597a", "#b08900")
_TICKS: Final = 5


def image(svg: str, title: str) -> dg.MarkdownMetadataValue:
    """Return an SVG as Markdown that shows it without asking any server."""
    body = base64.b64encode(svg.encode()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{body})")


def curves(title: str, series: Sequence[Series], *, is_diagonal: bool = False, lowest: float = -math.inf) -> str:
    """Return curves over one pair of axes as SVG; points that are no numbers are left out.

    Args:
        title: above the plot.
        series: curves with one pair of labels, at least one.
        is_diagonal: whether the line y = x is drawn, against which calibration is read.
        lowest: what lies below on the y axis is cut off: acting on everybody falls without end.
    """
    points = [[(x, y) for x, y in zip(one.x, one.y, strict=True) if not y < lowest] for one in series]
    finite = [point for listed in points for point in listed if all(map(math.isfinite, point))]
    if not finite:
        return _frame(title, "", "", [f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no points</text>'])
    x_low, x_high = _range([x for x, _ in finite])
    y_low, y_high = _range([y for _, y in finite])

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        up = HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{up:.1f}"

    body = []
    for tick in range(_TICKS + 1):
        x, y = x_low + (x_high - x_low) * tick / _TICKS, y_low + (y_high - y_low) * tick / _TICKS
        across, low = place(x, y_low).split(",")
        left, up = place(x_low, y).split(",")
        body.append(f'<text x="{across}" y="{float(low) + 14}" text-anchor="middle">{x:.3g}</text>')
        body.append(f'<text x="{float(left) - 6}" y="{float(up) + 4}" text-anchor="end">{y:.3g}</text>')
        body.append(f'<path d="M{left},{up} H{WIDTH - _RIGHT}" stroke="#e3e6e8"/>')
    if is_diagonal:
        low, high = max(x_low, y_low), min(x_high, y_high)
        if low < high:
            body.append(f'<path d="M{place(low, low)} L{place(high, high)}" stroke="#8a9299" stroke-dasharray="4 3"/>')
    for number, (one, listed) in enumerate(zip(series, points, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = [place(x, y) for x, y in listed if math.isfinite(x) and math.isfinite(y)]
        if drawn:
            body.append(f'<path d="M{" L".join(drawn)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        name = escape(one.name.replace("_", " "))
        body.append(
            f'<text x="{WIDTH - _RIGHT}" y="{_TOP + 13 * number + 10}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    return _frame(title, series[0].x_label, series[0].y_label, body)


def bars(title: str, labels: Sequence[str], values: Sequence[float], unit: str = "") -> str:
    """Return horizontal bars as SVG; a value that is no number has no bar."""
    top = max([value for value in values if math.isfinite(value)], default=0.0) or 1.0
    row = (HEIGHT - _TOP - 8) / max(len(labels), 1)
    body = []
    for number, (label, value) in enumerate(zip(labels, values, strict=True)):
        up = _TOP + row * number
        long = (WIDTH - 210) * value / top if math.isfinite(value) else 0.0
        middle = up + row / 2 + 4
        body.append(f'<text x="138" y="{middle:.1f}" text-anchor="end">{escape(label)}</text>')
        body.append(
            f'<rect x="144" y="{up + 2:.1f}" width="{long:.1f}" height="{max(row - 4, 1):.1f}" fill="{_COLOURS[0]}"/>'
        )
        body.append(f'<text x="{150 + long:.1f}" y="{middle:.1f}">{value:,.4g}{escape(unit)}</text>')
    return _frame(title, "", "", body)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.5, abs(low) / 10)
    return (low - room, high + room) if low == high else (low, high)


def _frame(title: str, x_label: str, y_label: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#30363c">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{escape(title)}</text>'
        f"{''.join(body)}"
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">{escape(y_label)}'
        "</text></svg>"
    )


def measures_table(verdict: Verdict, limit: int = 60) -> dg.TableMetadataValue:
    """Return a verdict's numbers, with interval and bounds, as a table."""
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    listed = sorted(verdict.measures, key=lambda measure: rank[measure.outcome])[:limit]
    return dg.MetadataValue.table(
        records=[dg.TableRecord(_row(measure)) for measure in listed],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in _row(Measure(name="", value=None))]),
    )


def _row(measure: Measure) -> dict[str, str | int | float | bool | None]:
    interval = "" if measure.low is None or measure.high is None else f"{measure.low:.4g} to {measure.high:.4g}"
    bounds = [
        f"{sign} {bound:.4g}" for sign, bound in (("≥", measure.at_least), ("≤", measure.at_most)) if bound is not None
    ]
    return {
        "measure": measure.name,
        "group": measure.group,
        "value": "" if measure.value is None else f"{measure.value:.4g}",
        "interval": interval,
        "bound": ", ".join(bounds),
        "outcome": str(measure.outcome),
        "note": measure.note,
    }
