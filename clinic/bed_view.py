"""One bed of the ward board, as plain values: what the template prints and what decides whether it changed.

Here: choosing, for each column, the signal that speaks; the order of the beds; the score's words.
Not here: HTML (templates), scoring (models.risk through the snapshot), ages (they grow in the browser from `at_us`).
A view holds no time of its own, so two snapshots that say the same are equal and nothing is repainted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clinic import words
from clinic.charts import sparkline
from clinic.questions import Person, ScorePoint, Stay
from clinic.risk_view import RiskCell, first_risk, risk_cell
from models.risk.inputs import AIR_PERCENT, measured
from vocabulary.concepts import CONCEPTS
from vocabulary.protocol import Input
from vocabulary.snapshot import Score, SignalState, TwinSnapshot

_RANKS = {"high": 4, "medium": 3, "low-medium": 2, "low": 1}

COLUMNS: tuple[tuple[str, str, str], ...] = (
    # (key of the column, its head, the head in full)
    ("heart_rate", "HR", "Heart rate, per minute"),
    ("respiratory_rate", "RR", "Respiratory rate, per minute"),
    ("oxygen_saturation", "SpO₂", "Oxygen saturation, percent"),
    ("blood_pressure", "BP", "Blood pressure, mmHg"),
    ("body_temperature", "Temp", "Temperature, degrees Celsius"),
    ("oxygen", "O₂", "Supplemental oxygen"),
    ("consciousness", "AVPU", "Consciousness (ACVPU)"),
)

_TEMPERATURES = (
    "body_temperature",
    *(
        c.key
        for c in CONCEPTS
        if c.key.endswith("_temperature") and c.key not in {"body_temperature", "skin_temperature"}
    ),
)

# Which component of NEWS2 a column shows the points of.
_PART_OF = {
    "blood_pressure": "systolic_blood_pressure",
    "oxygen": "supplemental_oxygen",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One vital sign in a row. `at_us` 0: never measured."""

    column: str
    label: str
    text: str
    unit: str
    at_us: int
    valid_for_s: float
    is_stale: bool
    points: int  # what it adds to NEWS2; 0 also when it is not part of it
    source: str  # "" unless it is not the usual one: "pulse", "arterial line", "GCS"


@dataclass(frozen=True, slots=True)
class ScoreView:
    """NEWS2 in words."""

    total: str  # "7", "≥ 3", "–"
    band: str  # the protocol's word, or "none"
    band_text: str  # "High", "At least medium", "Partial", "Not scored"
    statement: str
    measured: str  # "5 of 7", "" when all were
    rank: int
    is_partial: bool


@dataclass(frozen=True, slots=True)
class SilentFeed:
    """A feed that should be speaking about this patient and is not."""

    feed: str
    last_received_at_us: int


@dataclass(frozen=True, slots=True)
class BedRow:
    """Everything one row of the board shows."""

    patient_id: int
    ward: str
    bed: str
    name: str
    about: str  # "71 y · F"
    is_synthetic: bool
    score: ScoreView
    cells: tuple[Cell, ...]
    silent: tuple[SilentFeed, ...]
    notices: tuple[str, ...]
    trend: str  # SVG
    sick_key: str  # ascending order: sickest first
    bed_key: str
    is_waiting: bool = False  # no twin spoke of this patient yet
    risk: RiskCell | None = None  # what the model in service says; None where none does


def news2_of(snapshot: TwinSnapshot) -> Score | None:
    """Return the snapshot's NEWS2."""
    return next((score for score in snapshot.scores if score.name == "NEWS2"), None)


def score_view(score: Score | None) -> ScoreView:
    """Put a score in words. A total of only what was measured is a lower bound and says so."""
    if score is None:
        return ScoreView("–", "none", "Not scored", "No NEWS2 in this snapshot.", "", 0, is_partial=False)
    count = len(score.parts) + len(score.missing)
    measured = "" if not score.missing else f"{len(score.parts)} of {count}"
    if score.total is None:
        return ScoreView("–", "none", "Not scored", score.statement, measured, 0, is_partial=False)
    is_partial = bool(score.missing)
    total = f"{score.total:g}"
    rank = _RANKS.get(score.band, 0)
    if not is_partial:
        return ScoreView(total, score.band or "none", words.band_text(score.band), score.statement, "", rank, False)
    said = f"At least {words.band_text(score.band).lower()}" if score.band and score.band != "low" else "Partial"
    return ScoreView(f"≥ {total}", score.band or "none", said, score.statement, measured, rank, is_partial=True)


def score_point_of(at_us: int, scores: Sequence[Score]) -> ScorePoint:
    """Return what NEWS2 was at a moment, out of all scores of that moment."""
    score = next((score for score in scores if score.name == "NEWS2"), None)
    if score is None:
        return ScorePoint(at_us, None)
    return ScorePoint(at_us, score.total, score.band, is_partial=bool(score.missing))


def _newest(signals: Mapping[str, SignalState], *keys: str) -> SignalState | None:
    found = [signals[key] for key in keys if key in signals]
    return max(found, key=lambda signal: signal.effective_at_us, default=None)


def _valid_for_s(key: str) -> float:
    concept = words.concept_of(key)
    return concept.valid_for_s if concept else 3600.0


class _Cells:
    """Builds a row's cells from one snapshot."""

    def __init__(self, snapshot: TwinSnapshot) -> None:
        self.signals = {signal.concept: signal for signal in snapshot.signals}
        score = news2_of(snapshot)
        self.parts = score.parts if score else {}

    def cell(self, column: str, label: str, signal: SignalState | None, text: str, unit: str, source: str = "") -> Cell:
        # A part is called by its input, or by what stood in for it: an arterial sample's saturation.
        instead = self.parts.get(signal.concept, 0) if signal else 0
        points = int(self.parts.get(_PART_OF.get(column, column), instead))
        if signal is None:
            return Cell(column, label, "–", "", 0, 0.0, is_stale=False, points=points, source="")
        valid_s = _valid_for_s(signal.concept)
        return Cell(column, label, text, unit, signal.effective_at_us, valid_s, signal.is_stale, points, source)

    def speaking(self, name: Input, *keys: str) -> SignalState | None:
        """Return the signal the score was made of; when none was fresh, the newest stale one."""
        found = measured(name, self.signals)
        return self.signals[found.source] if found else _newest(self.signals, *keys)

    def number(self, column: str, label: str, unit: str, name: Input, *keys: str) -> Cell:
        signal = self.speaking(name, *keys)
        if signal is None:
            return self.cell(column, label, None, "", "")
        text = words.number_text(signal.concept, signal.value) if signal.value is not None else signal.text
        source = "" if signal.concept == keys[0] else words.title_of(signal.concept)
        return self.cell(column, label, signal, text, unit, source)

    def blood_pressure(self) -> Cell:
        signals = self.signals
        systolic = self.speaking(
            Input.SYSTOLIC_BLOOD_PRESSURE, "systolic_blood_pressure", "arterial_systolic_blood_pressure"
        )
        prefix = "arterial_" if systolic and systolic.concept.startswith("arterial_") else ""
        if systolic is None or systolic.value is None:
            mean = _newest(signals, "mean_blood_pressure", "arterial_mean_blood_pressure")
            if mean is None or mean.value is None:
                return self.cell("blood_pressure", "BP", None, "", "")
            source = "Arterial line" if mean.concept.startswith("arterial_") else ""
            return self.cell(
                "blood_pressure", "BP", mean, f"mean {words.number_text(mean.concept, mean.value)}", "mmHg", source
            )
        text = words.number_text(systolic.concept, systolic.value)
        diastolic = signals.get(f"{prefix}diastolic_blood_pressure")
        # A diastolic of another measurement beside this systolic would be a pressure nobody ever had.
        if diastolic and diastolic.value is not None and diastolic.effective_at_us == systolic.effective_at_us:
            text += f"/{words.number_text(diastolic.concept, diastolic.value)}"
        return self.cell("blood_pressure", "BP", systolic, text, "mmHg", "Arterial line" if prefix else "")

    def oxygen(self) -> Cell:
        signal = self.speaking(
            Input.SUPPLEMENTAL_OXYGEN, "supplemental_oxygen", "inspired_oxygen_fraction", "oxygen_flow_rate"
        )
        if signal is None or signal.value is None:
            return self.cell("oxygen", "O₂", None, "", "")
        if signal.concept == "inspired_oxygen_fraction":
            text = "Air" if signal.value <= AIR_PERCENT else f"{signal.value:.0f} %"
        elif signal.concept == "oxygen_flow_rate":
            text = "Air" if signal.value == 0 else f"{signal.value:g} {words.unit_text(signal.unit)}"
        elif signal.concept == "mechanical_ventilation":
            text = "Ventilator"
        else:
            text = "O₂" if signal.value > 0 else "Air"
        source = "" if signal.concept == "supplemental_oxygen" else words.title_of(signal.concept)
        return self.cell("oxygen", "O₂", signal, text, "", source)

    def consciousness(self) -> Cell:
        signal = self.speaking(Input.CONSCIOUSNESS, "consciousness", "glasgow_coma_score")
        if signal is None:
            return self.cell("consciousness", "AVPU", None, "", "")
        if signal.concept == "glasgow_coma_score" and signal.value is not None:
            return self.cell("consciousness", "AVPU", signal, f"GCS {signal.value:.0f}", "", "Glasgow coma score")
        return self.cell("consciousness", "AVPU", signal, words.consciousness_text(signal.text), "")


def cells_of(snapshot: TwinSnapshot) -> tuple[Cell, ...]:
    """Return the board's cells, in the order of COLUMNS."""
    cells = _Cells(snapshot)
    return (
        cells.number("heart_rate", "HR", "/min", Input.HEART_RATE, "heart_rate", "pulse_rate"),
        cells.number("respiratory_rate", "RR", "/min", Input.RESPIRATORY_RATE, "respiratory_rate"),
        cells.number(
            "oxygen_saturation", "SpO₂", "%", Input.OXYGEN_SATURATION, "oxygen_saturation", "arterial_oxygen_saturation"
        ),
        cells.blood_pressure(),
        cells.number("body_temperature", "Temp", "°C", Input.BODY_TEMPERATURE, *_TEMPERATURES),
        cells.oxygen(),
        cells.consciousness(),
    )


def order_keys(ward: str, bed: str, score: ScoreView) -> tuple[str, str]:
    """Return (sickest-first key, by-bed key): both sort ascending as plain strings, here and in the browser."""
    bed_key = f"{words.natural_key(ward)}|{words.natural_key(bed)}"
    digits = "".join(letter for letter in score.total if letter.isdigit())
    severity = score.rank * 100 + (int(digits) + 1 if digits else 0)
    return f"{999 - severity:03d}|{bed_key}", bed_key


def bed_row(snapshot: TwinSnapshot, person: Person | None, trend: Sequence[ScorePoint]) -> BedRow:
    """Return the row of a patient with a twin."""
    score = score_view(news2_of(snapshot))
    sick_key, bed_key = order_keys(snapshot.ward, snapshot.bed, score)
    forecast = first_risk(snapshot)
    return BedRow(
        patient_id=snapshot.patient_id,
        ward=snapshot.ward,
        bed=snapshot.bed,
        name=words.short_name(person, snapshot.patient_id),
        about=words.age_and_sex(person, snapshot.as_of_us),
        is_synthetic=bool(person and person.is_synthetic),
        score=score,
        cells=cells_of(snapshot),
        silent=tuple(SilentFeed(feed.feed, feed.last_received_at_us) for feed in snapshot.feeds if feed.is_silent),
        notices=tuple(snapshot.notices),
        trend=sparkline(trend),
        sick_key=sick_key,
        bed_key=bed_key,
        risk=None if forecast is None else risk_cell(forecast),
    )


def waiting_row(stay: Stay, person: Person | None, at_us: int) -> BedRow:
    """Return the row of an open stay whose twin has not spoken: the bed is never simply missing."""
    score = ScoreView("–", "none", "Not scored", "No snapshot of this patient was heard yet.", "", 0, is_partial=False)
    sick_key, bed_key = order_keys(stay.ward, stay.bed, score)
    empty = tuple(
        Cell(column, label, "–", "", 0, 0.0, is_stale=False, points=0, source="") for column, label, _ in COLUMNS
    )
    return BedRow(
        patient_id=stay.patient_id,
        ward=stay.ward,
        bed=stay.bed,
        name=words.short_name(person, stay.patient_id),
        about=words.age_and_sex(person, at_us),
        is_synthetic=bool(person and person.is_synthetic),
        score=score,
        cells=empty,
        silent=(),
        notices=("Waiting for the first snapshot.",),
        trend=sparkline(()),
        sick_key=sick_key,
        bed_key=bed_key,
        is_waiting=True,
    )


def shared_notices(rows: Iterable[BedRow]) -> tuple[str, ...]:
    """Return what every twin on the board says, in the first one's order: it is told once, above the beds.

    Beds that wait for a twin say nothing of it; of a single twin nothing is shared.
    """
    twins = [row for row in rows if not row.is_waiting]
    if len(twins) < 2:
        return ()
    first, *others = sorted(twins, key=lambda row: row.patient_id)
    return tuple(notice for notice in first.notices if all(notice in row.notices for row in others))
