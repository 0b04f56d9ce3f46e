"""A model's estimate in words: what a bed shows of it in two lines, and what the patient's page says in full.

Here: rounding, intervals, reasons, abstentions; which models speak on a board.
Not here: scoring (twin.risk), HTML (templates), drawings (clinic.risk_charts), FHIR (clinic.fhir_risk).
A probability never travels without its interval, and an abstention is a sentence, never a blank or a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vocabulary.snapshot import RiskForecast, TwinSnapshot

SYNTHETIC_WORDS: Final = "Synthetic: trained on generated patients, means nothing clinically."

_ABSTENTIONS: Final = {
    "outside_window": "outside the model's hours",
    "too_little_data": "too little data",
    "stale_input": "values too old",
    "outside_domain": "outside the model's patients",
    "model_failed": "the model failed",
    "silenced": "the model was silenced",
}

_LEVEL_WORDS: Final = ((1.0, "raises it a lot"), (0.3, "raises it"), (0.0, "raises it a little"))


@dataclass(frozen=True, slots=True)
class RiskCell:
    """What one bed shows of the model that speaks. Equal cells paint alike."""

    text: str  # "23 %", "–"
    interval: str  # "18–29 %"; "" where it abstains
    second: str  # the strongest reason, or why it abstains
    is_high: bool
    is_abstaining: bool
    told: str  # everything, for a tooltip and for those who cannot see
    is_synthetic: bool


@dataclass(frozen=True, slots=True)
class RiskHead:
    """What stands above the column: which model speaks, and under which conditions."""

    model: str  # "mortality 3"
    title: str
    outcome: str
    is_synthetic: bool
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """One group of inputs that moved an estimate."""

    words: str
    log_odds: float
    effect: str  # "raises it", "lowers it a little"


@dataclass(frozen=True, slots=True)
class RiskView:
    """One model's estimate on a patient's page."""

    forecast: RiskForecast
    text: str
    interval: str
    level: str  # "80 %"
    threshold: str  # "30 %", "" where the protocol names none
    hours: str  # "36"
    reasons: tuple[Reason, ...]
    why_silent: str  # the abstention in words; "" when it speaks


def percent(probability: float) -> str:
    """Return a probability as a whole percentage, as `<1` or `>99` at its ends: a risk is never said to be none."""
    hundredths = probability * 100
    if hundredths < 1:
        return "<1"
    if hundredths > 99:
        return ">99"
    return f"{hundredths:.0f}"


def interval_text(low: float, high: float) -> str:
    """Return an interval, `18–29 %`."""
    return f"{percent(low)}–{percent(high)} %"


def short(words: str) -> str:
    """Return a group's words without what stands in brackets: a wall has room for no more."""
    return words.partition(" (")[0]


def abstention_text(forecast: RiskForecast) -> str:
    """Return why a model says nothing, in two or three words."""
    word = forecast.abstention
    return _ABSTENTIONS.get(word, word.replace("_", " ") or "no estimate")


def effect_text(log_odds: float) -> str:
    """Return what a reason does to the estimate."""
    said = next(words for least, words in _LEVEL_WORDS if abs(log_odds) >= least)
    return said if log_odds > 0 else said.replace("raises", "lowers")


def _reasons(forecast: RiskForecast) -> tuple[Reason, ...]:
    return tuple(
        Reason(reason.words, reason.log_odds, effect_text(reason.log_odds))
        for reason in forecast.reasons
        if reason.log_odds != 0
    )


def risk_cell(forecast: RiskForecast) -> RiskCell:
    """Return what a bed shows of an estimate."""
    if forecast.probability is None:
        told = f"{forecast.title}: no estimate, {abstention_text(forecast)}. {forecast.statement}".strip()
        return RiskCell("–", "", abstention_text(forecast), False, True, told, forecast.is_synthetic)
    interval = "" if forecast.low is None or forecast.high is None else interval_text(forecast.low, forecast.high)
    reasons = _reasons(forecast)
    raising = (reason for reason in reasons if reason.log_odds > 0)
    first = next(raising, None) if forecast.is_high else None  # why it is high, not what speaks against it
    first = first or (reasons[0] if reasons else None)
    second = f"{'↑' if first.log_odds > 0 else '↓'} {short(first.words)}" if first else ""
    parts = [f"{forecast.title}: {percent(forecast.probability)} %"]
    if interval:
        parts.append(f"{forecast.level * 100:.0f} % interval {interval}")
    if forecast.is_high and forecast.threshold is not None:
        parts.append(f"at or above {percent(forecast.threshold)} %, where attention is asked for")
    parts += [f"{reason.words} {reason.effect}" for reason in reasons[:3]]
    if forecast.is_synthetic:
        parts.append(SYNTHETIC_WORDS)
    text = f"{percent(forecast.probability)} %"
    return RiskCell(text, interval, second, forecast.is_high, False, "; ".join(parts), forecast.is_synthetic)


def first_risk(snapshot: TwinSnapshot) -> RiskForecast | None:
    """Return the estimate a bed has room for; None where no model speaks."""
    return snapshot.risks[0] if snapshot.risks else None


def head_of(forecast: RiskForecast) -> RiskHead:
    """Return what a column of these estimates is headed by."""
    return RiskHead(
        f"{forecast.model} {forecast.version}",
        forecast.title,
        forecast.outcome,
        forecast.is_synthetic,
        tuple(forecast.conditions),
    )


def heads_of(snapshots: Iterable[TwinSnapshot]) -> tuple[RiskHead, ...]:
    """Return which models speak on a board: one, or two for the moment in which the engines change over."""
    found = {head_of(risk) for snapshot in snapshots if (risk := first_risk(snapshot)) is not None}
    return tuple(sorted(found, key=lambda head: head.model))


def risk_views(risks: Sequence[RiskForecast]) -> tuple[RiskView, ...]:
    """Return what a patient's page says of each estimate."""
    return tuple(_view(forecast) for forecast in risks)


def _view(forecast: RiskForecast) -> RiskView:
    is_silent = forecast.probability is None
    has_interval = forecast.low is not None and forecast.high is not None
    return RiskView(
        forecast=forecast,
        text="–" if forecast.probability is None else f"{percent(forecast.probability)} %",
        interval=interval_text(forecast.low or 0.0, forecast.high or 0.0) if has_interval and not is_silent else "",
        level=f"{forecast.level * 100:.0f} %",
        threshold="" if forecast.threshold is None else f"{percent(forecast.threshold)} %",
        hours=f"{forecast.hours_since_admission:.1f}".removesuffix(".0"),
        reasons=() if is_silent else _reasons(forecast),
        why_silent=abstention_text(forecast) if is_silent else "",
    )
