"""Points by bands, the total, and the word for it, complete or of what was measured.

Here: rounding to the chart's precision, one component's points, what may be said of an incomplete total.
Not here: which signal answers for an input (models.risk.inputs), one score's own sentences (its module).
Source: RCP 2017 for the rule that one parameter at 3 points stands out; the rest is arithmetic.

An incomplete total is a lower bound: missing components can only add points. So it is said as what was measured; its
band is empty unless the measured points alone reach one beyond the mildest, and then it is "at least" that.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from models.risk.inputs import Signals, measured
from vocabulary.protocol import Band, Component, Criterion, Input, Level, Protocol
from vocabulary.snapshot import Score


class Points(NamedTuple):
    """One component's points and the concept they came from."""

    points: int
    source: str


def rounded(value: float, decimals: int) -> float:
    """Return `value` at the chart's precision, halves away from zero, exact in decimal: 38.05 is 38.1 at one place."""
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def points_in(bands: Iterable[Band], value: float) -> int:
    """Return the points of the band a rounded value falls in."""
    for band in bands:
        if (band.low is None or value >= band.low) and (band.high is None or value <= band.high):
            return band.points
    raise AssertionError("bands cover every value; validation.protocols checks it")


def component_points(component: Component, signals: Signals, *, uses_alternative: bool = False) -> Points | None:
    """Return the most points that any of a component's criteria gives; None when none can be judged."""
    criteria = component.criteria
    if uses_alternative and component.alternative is not None:
        criteria = (component.alternative, *criteria[1:])
    judged = [found for criterion in criteria if (found := _judged(criterion, signals)) is not None]
    return max(judged, key=lambda found: found.points, default=None)


def _judged(criterion: Criterion, signals: Signals) -> Points | None:
    found = measured(criterion.input, signals)
    if found is None or found.unit != criterion.unit:
        return None
    value = rounded(found.value, criterion.decimals)
    if criterion.bands:
        return Points(points_in(criterion.bands, value), found.source)
    oxygen = measured(Input.SUPPLEMENTAL_OXYGEN, signals)
    on_air = points_in(criterion.on_air, value)
    on_oxygen = points_in(criterion.on_oxygen, value)
    if oxygen is not None:
        return Points(on_oxygen if oxygen.value else on_air, found.source)
    # Without knowing whether oxygen is given, only a value that scores alike either way can be judged.
    return Points(on_air, found.source) if on_air == on_oxygen else None


def level_of(protocol: Protocol, total: float, parts: Iterable[int]) -> Level:
    """Return the strongest level that a total, or any single component, reaches."""
    highest = max(parts, default=0)
    reached = protocol.levels[0]
    for level in protocol.levels:
        by_total = level.at_least is not None and total >= level.at_least
        by_single = level.single is not None and highest >= level.single
        if by_total or by_single:
            reached = level
    return reached


def score(
    protocol: Protocol,
    signals: Signals,
    *,
    alternatives: frozenset[str] = frozenset(),
    named_by_source: frozenset[str] = frozenset(),
) -> Score:
    """Return a score of added points.

    Args:
        protocol: its bands and levels.
        signals: the patient's, by concept key; stale ones count as missing.
        alternatives: components whose alternative criterion was chosen for this patient.
        named_by_source: components whose part is named after the concept that answered.
    """
    parts: dict[str, int | float] = {}
    points: list[int] = []
    missing: list[str] = []
    for component in protocol.components:
        found = component_points(component, signals, uses_alternative=component.name in alternatives)
        if found is None:
            missing.append(component.name)
            continue
        points.append(found.points)
        parts[found.source if component.name in named_by_source else component.name] = found.points
    total = sum(points)
    band = level_of(protocol, total, points).word if points else ""
    if missing and band == protocol.levels[0].word:
        band = ""
    return Score(
        name=protocol.title,
        protocol=protocol.label,
        total=float(total) if points else None,
        parts=parts,
        missing=missing,
        coverage=len(points) / len(protocol.components),
        band=band,
        statement=_statement(protocol, len(points), band),
    )


def _statement(protocol: Protocol, count: int, band: str) -> str:
    every = len(protocol.components)
    if count == 0:
        return f"{protocol.title} cannot be said: nothing it needs was measured."
    if count == every:
        return f"{protocol.title} {band}: all {every} components were measured."
    if band:
        return f"{protocol.title} of what was measured ({count} of {every}): at least {band}."
    return f"{protocol.title} of what was measured ({count} of {every}): a lower bound."
