"""A patient's page as plain values: the head, the score's parts, trends, laboratory, other signals, provenance.

Here: choosing and ordering what one page says about one snapshot and what was kept before it.
Not here: HTML (templates), reading the past (clinic.readers), when it is painted (clinic.patient_painter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from clinic import words
from clinic.approved import Approved
from clinic.bed_view import Cell, ScoreView, cells_of, news2_of, score_view
from clinic.charts import HOUR_US, MINUTE_US, Axis, Point, Series, score_chart, trend_chart
from clinic.questions import Measured, Minute, Person, RiskPoint, ScorePoint
from clinic.risk_charts import course_chart, interval_bar, reason_bar
from clinic.risk_view import Reason, RiskView, risk_views
from vocabulary.concepts import CONCEPTS, by_number
from vocabulary.snapshot import Score, SignalState, TwinSnapshot

HOURS = (4, 24, 48)
"""The stretches of time a page offers."""

LABORATORY = tuple(concept.number for concept in CONCEPTS if concept.category == "laboratory")

_SCORE_AXIS = Axis(0, 10, "", marks=(5.0, 7.0))

# (name, ((concept, legend), …), axis); the axis is what a living adult shows most of the time, and grows to the data.
_CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...], Axis], ...] = (
    ("Heart rate", (("heart_rate", "Heart rate"),), Axis(40, 140, "/min")),
    ("Blood pressure", (("systolic_blood_pressure", "systolic"), ("diastolic_blood_pressure", "diastolic")),
     Axis(40, 180, "mmHg")),
    ("Respiratory rate", (("respiratory_rate", "Respiratory rate"),), Axis(0, 40, "/min")),
    ("Oxygen saturation", (("oxygen_saturation", "SpO₂"),), Axis(80, 100, "%")),
    ("Temperature", (("body_temperature", "Temperature"),), Axis(35, 40, "°C", decimals=1)),
    ("Arterial pressure",
     (("arterial_systolic_blood_pressure", "systolic"), ("arterial_diastolic_blood_pressure", "diastolic")),
     Axis(40, 180, "mmHg")),
    ("Core temperature", (("core_temperature", "Core temperature"),), Axis(35, 40, "°C", decimals=1)),
    ("Mean blood pressure", (("mean_blood_pressure", "mean"),), Axis(40, 120, "mmHg")),
    ("Inspired oxygen", (("inspired_oxygen_fraction", "FiO₂"),), Axis(20, 100, "%")),
    ("End-tidal CO₂", (("end_tidal_co2", "etCO₂"),), Axis(20, 60, "mmHg")),
    ("Glasgow coma score", (("glasgow_coma_score", "GCS"),), Axis(3, 15, "")),
    ("Pulse", (("pulse_rate", "Pulse"),), Axis(40, 140, "/min")),
)  # fmt: skip

_COMPONENT_COLUMNS = {
    "arterial_oxygen_saturation": "oxygen_saturation",
    "systolic_blood_pressure": "blood_pressure",
    "supplemental_oxygen": "oxygen",
}
_COMPONENT_ORDER = (
    "respiratory_rate",
    "oxygen_saturation",
    "arterial_oxygen_saturation",
    "supplemental_oxygen",
    "systolic_blood_pressure",
    "heart_rate",
    "consciousness",
    "body_temperature",
)


# Shown beside the score's parts already.
_IN_PARTS = frozenset({*_COMPONENT_ORDER, "diastolic_blood_pressure"})


@dataclass(frozen=True, slots=True)
class Part:
    """One component of NEWS2. `points` None: absent or too old to count."""

    name: str
    cell: Cell | None
    points: int | None


@dataclass(frozen=True, slots=True)
class OtherScore:
    """An aggregate score beside NEWS2."""

    name: str
    total: str
    statement: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Row:
    """One signal in a table: its latest value and, for laboratory results, the one before."""

    key: str
    name: str
    loinc: str
    text: str
    unit: str
    at_us: int
    valid_for_s: float
    is_stale: bool
    status: str
    device: str
    change: str  # "↑", "↓", "=" against the previous value, "" without one
    previous: str
    previous_at_us: int


@dataclass(frozen=True, slots=True)
class Chart:
    """One trend, drawn."""

    name: str
    svg: Markup
    unit: str
    legend: tuple[str, ...]  # names of its lines, where there is more than one


@dataclass(frozen=True, slots=True)
class History:
    """What was kept before the snapshot: read together, at one time."""

    minutes: tuple[Minute, ...] = ()
    laboratory: tuple[Measured, ...] = ()
    scores: tuple[ScorePoint, ...] = ()
    risks: tuple[RiskPoint, ...] = ()  # what the models in service said over this stay
    approved: Approved | None = None  # under which approval the model of the snapshot spoke
    is_available: bool = True


@dataclass(frozen=True, slots=True)
class RiskPanel:
    """One model's estimate with its drawings."""

    view: RiskView
    scale: Markup
    reasons: tuple[tuple[Reason, Markup], ...]
    course: Markup | None  # None while only one estimate was kept
    approved: Approved | None


@dataclass(frozen=True, slots=True)
class PatientView:
    """All of a page but its charts."""

    snapshot: TwinSnapshot
    name: str
    about: str
    is_synthetic: bool
    score: ScoreView
    news2: Score | None
    parts: tuple[Part, ...]
    others: tuple[OtherScore, ...]
    laboratory: tuple[Row, ...]
    signals: tuple[Row, ...]
    digest: str
    risks: tuple[RiskPanel, ...]


def patient_view(snapshot: TwinSnapshot, digest: str, person: Person | None, history: History) -> PatientView:
    """Return everything a page says about a snapshot, but its charts."""
    news2 = news2_of(snapshot)
    shown = _IN_PARTS if news2 is not None else frozenset()
    laboratory: list[Row] = []
    signals: list[Row] = []
    for signal in snapshot.signals:
        concept = words.concept_of(signal.concept)
        if concept is not None and concept.category == "laboratory":
            laboratory.append(_row(signal, history.laboratory))
        elif signal.concept not in shown:
            signals.append(_row(signal, ()))
    return PatientView(
        snapshot=snapshot,
        name=words.full_name(person, snapshot.patient_id),
        about=words.age_and_sex(person, snapshot.as_of_us),
        is_synthetic=bool(person and person.is_synthetic),
        score=score_view(news2),
        news2=news2,
        parts=_parts(snapshot, news2),
        others=tuple(_other(score) for score in snapshot.scores if score.name != "NEWS2"),
        laboratory=tuple(laboratory),
        signals=tuple(signals),
        digest=digest,
        risks=tuple(_panel(view, history) for view in risk_views(snapshot.risks)),
    )


def _panel(view: RiskView, history: History) -> RiskPanel:
    largest = max((abs(reason.log_odds) for reason in view.reasons), default=1.0)
    digest = history.approved.model_digest if history.approved else ""
    mine = [point for point in history.risks if not digest or point.model_digest == digest]
    return RiskPanel(
        view=view,
        scale=interval_bar(view.forecast),
        reasons=tuple((reason, reason_bar(reason, largest)) for reason in view.reasons),
        course=course_chart(mine, view.forecast.threshold) if len(mine) > 1 else None,
        approved=history.approved,
    )


def _parts(snapshot: TwinSnapshot, news2: Score | None) -> tuple[Part, ...]:
    if news2 is None:
        return ()
    cells = {cell.column: cell for cell in cells_of(snapshot)}
    known = {*news2.parts, *news2.missing}
    ordered = [name for name in _COMPONENT_ORDER if name in known]
    ordered += sorted(known - set(ordered))
    parts = []
    for name in ordered:
        cell = cells.get(_COMPONENT_COLUMNS.get(name, name))
        points = news2.parts.get(name)
        parts.append(Part(words.component_title(name), cell, None if points is None else int(points)))
    return tuple(parts)


def _other(score: Score) -> OtherScore:
    total = "–" if score.total is None else f"{score.total:.3g}"
    if score.total is not None and score.missing:
        total = f"≥ {total}"
    return OtherScore(score.name.replace("_", " "), total, score.statement, score.protocol)


def _row(signal: SignalState, history: Sequence[Measured]) -> Row:
    concept = words.concept_of(signal.concept)
    earlier = [
        measured
        for measured in history
        if concept is not None
        and measured.concept == concept.number
        and measured.effective_at_us < signal.effective_at_us
    ]
    before = max(earlier, key=lambda measured: measured.effective_at_us, default=None)
    return Row(
        key=signal.concept,
        name=words.title_of(signal.concept),
        loinc=concept.loinc if concept else "",
        text=words.number_text(signal.concept, signal.value) if signal.value is not None else signal.text,
        unit=words.unit_text(signal.unit),
        at_us=signal.effective_at_us,
        valid_for_s=concept.valid_for_s if concept else 3600.0,
        is_stale=signal.is_stale,
        status=signal.status,
        device=signal.device,
        change=_change(signal.value, before.value if before else None),
        previous=_measured_text(before) if before else "",
        previous_at_us=before.effective_at_us if before else 0,
    )


def _measured_text(measured: Measured) -> str:
    if measured.value is None:
        return measured.text
    return words.number_text(by_number(measured.concept).key, measured.value)


def _change(now: float | None, before: float | None) -> str:
    if now is None or before is None:
        return ""
    return "=" if now == before else "↑" if now > before else "↓"


def window_us(as_of_us: int, hours: int) -> tuple[int, int]:
    """Return the edges of charts over so many hours before a moment: whole minutes, the moment's own included."""
    to_us = -(-as_of_us // MINUTE_US) * MINUTE_US + MINUTE_US
    return to_us - hours * HOUR_US, to_us


def hours_of_stay(as_of_us: int, history: History, started_at_us: int) -> int:
    """Return the shortest stretch on offer that shows all there is of a stay; the longest when none does.

    Args:
        as_of_us: the moment the charts end at.
        history: what was kept, of earlier stays too.
        started_at_us: when this stay began; what is older belongs to another. 0: not known.
    """
    known = [point.at_us for point in history.scores if point.total is not None]
    known += [minute.start_us for minute in history.minutes if minute.medians]
    first_us = min((at_us for at_us in known if at_us >= started_at_us // MINUTE_US * MINUTE_US), default=as_of_us)
    return next((hours for hours in HOURS if window_us(as_of_us, hours)[0] <= first_us), HOURS[-1])


def charts(snapshot: TwinSnapshot, history: History, hours: int) -> tuple[Chart, ...]:
    """Return the trends of the last hours before the snapshot; a signal that never spoke has none."""
    from_us, to_us = window_us(snapshot.as_of_us, hours)
    signals = {signal.concept for signal in snapshot.signals}
    drawn = [Chart("NEWS2", score_chart("NEWS2", history.scores, _SCORE_AXIS, from_us, to_us), "", ())]
    for name, lines, axis in _CHARTS:
        series = [
            Series(legend, _points(history.minutes, key, from_us, to_us), "ab"[index])
            for index, (key, legend) in enumerate(lines)
        ]
        has_spoken = any(key in signals for key, _ in lines)
        if not has_spoken and not any(line.points for line in series):
            continue
        concept = words.concept_of(lines[0][0])
        valid_s = concept.valid_for_s if concept else 3600.0
        svg = trend_chart(name, series, axis, from_us, to_us, valid_s)
        drawn.append(Chart(name, svg, axis.unit, tuple(legend for _, legend in lines) if len(lines) > 1 else ()))
    return tuple(drawn)


def _points(minutes: Sequence[Minute], key: str, from_us: int, to_us: int) -> list[Point]:
    return [
        Point(minute.start_us, minute.medians[key])
        for minute in minutes
        if from_us <= minute.start_us < to_us and key in minute.medians
    ]
