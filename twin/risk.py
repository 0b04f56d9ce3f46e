"""What the models say in one cycle: every patient whose forecast is due, in one call a model.

A forecast is of the last minute of the stay that is over, and depends on the bins up to it and on the voice in force:
nothing else. It is kept until one of these changes. Whatever fails in here silences the model, never the snapshot.

Here: asking models, the forecast a reader sees, the rows kept of what was said.
Not here: which model is in force (twin.serving), bins (twin.stay_state), features (models.stay_features), when an
estimate asks for attention (twin.alerts).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from models import feature_table, stay_features
from models.stay_series import StaySeries, bins_of_series
from stores.risk_scores import RiskScore
from twin import stay_state
from twin.alerts import Rule
from twin.state import Patient
from twin.voice import Voice, Voices
from validation.model_protocol import ModelProtocol
from vocabulary.records import partition_of
from vocabulary.snapshot import RiskForecast, RiskReason

if TYPE_CHECKING:
    from models.risk.artefact import Estimate

ROW_EVERY_MINUTES: Final = 15
"""A row is kept of the first forecast in each quarter of an hour of a stay, and whenever attention begins or ends."""

OUTSIDE_WINDOW: Final = "outside_window"

ABSTENTIONS: Final = {
    OUTSIDE_WINDOW: "the model speaks about the first {last_hour} hours of a stay, from its {first_hour}. hour on",
    "too_little_data": "too little of what the model looks at was measured",
    "stale_input": "nothing new was measured for too long",
    "outside_domain": "the patient is unlike those the model learned from",
    "silenced": "the model was silenced",
    "model_failed": "the model failed",
}
"""Why there is no estimate, as a reader sees it."""

_log = logging.getLogger("vigil.engine")


class Serving(Protocol):
    """Who may speak now."""

    @property
    def voices(self) -> Voices:
        """Return the voices of this moment; the same objects while nothing changed."""

    def note_failure(self, voice: Voice, error: Exception) -> None:
        """Take note that a model failed while it was asked."""


class Silence:
    """Nobody speaks: an engine without a serving record."""

    @property
    def voices(self) -> Voices:
        """Return nobody."""
        return Voices()

    def note_failure(self, voice: Voice, error: Exception) -> None:
        """Never happens: nobody is asked."""


class _Asked(NamedTuple):
    """Everything a forecast depends on."""

    voice: Voice
    encounter_id: int
    started_at_us: int
    series: StaySeries | None
    revision: int
    through_minute: int


class _Told(NamedTuple):
    """The last row kept of a stay: where, by which model, and whether it asked for attention."""

    encounter_id: int
    voice: Voice
    quarter: int
    is_high: bool


class Round(NamedTuple):
    """What a cycle says."""

    voices: Voices  # as they were while it was said: a model that failed in it is mute
    forecasts: Mapping[int, RiskForecast]  # of the champion, by patient
    rows: Sequence[RiskScore]  # to be kept


class Estimator:
    """Turns stays and a model into forecasts. Pure: holds only the protocol."""

    def __init__(self, protocol: ModelProtocol) -> None:
        """Say it in one protocol's words, and by its threshold."""
        self.protocol = protocol
        self.rule = Rule.of(protocol)

    def forecasts(
        self, voice: Voice, patients: Sequence[Patient], minutes: Sequence[int], *, with_reasons: bool
    ) -> list[RiskForecast]:
        """Return a forecast of each patient, of a minute of the stay, in one call of the model.

        Args:
            voice: with a card; whether it may speak or not.
            patients: with their series.
            minutes: of each stay, the last one that counts.
            with_reasons: also explain each estimate.

        Raises:
            Exception: whatever the model or its library raises; the caller silences it.
        """
        asked = [
            index
            for index, (patient, minute) in enumerate(zip(patients, minutes, strict=True))
            if voice.may_speak and patient.series is not None and 0 <= minute <= stay_state.LAST_MINUTE
        ]
        said: dict[int, Estimate] = {}
        if asked:
            estimates = self._ask(voice, [patients[i] for i in asked], [minutes[i] for i in asked], with_reasons)
            said = dict(zip(asked, estimates, strict=True))
        return [self._forecast(voice, minute, said.get(index)) for index, minute in enumerate(minutes)]

    def _ask(
        self, voice: Voice, patients: Sequence[Patient], minutes: Sequence[int], with_reasons: bool
    ) -> list[Estimate]:
        model = voice.model
        assert model is not None
        series = [patient.series or StaySeries() for patient in patients]
        through = np.asarray(minutes, np.int32)
        bins = bins_of_series(series, feature_table.concepts_of(model.table))
        features = stay_features.compute(model.table, bins, np.arange(len(series), dtype=np.int32), through)
        return model.score(features, through, with_reasons=with_reasons)

    def _forecast(self, voice: Voice, minute: int, estimate: Estimate | None) -> RiskForecast:
        protocol = self.protocol
        abstention = estimate.abstention if estimate is not None else voice.mute or OUTSIDE_WINDOW
        probability = None if estimate is None or abstention else estimate.probability
        speaks = estimate if probability is not None else None
        return RiskForecast(
            model=voice.scope,
            version=voice.version,
            title=protocol.title,
            outcome=protocol.outcome,
            probability=probability,
            low=speaks.low if speaks else None,
            high=speaks.high if speaks else None,
            level=estimate.level if estimate is not None else 0.0,
            hours_since_admission=max(minute, 0) / 60,
            is_high=self.rule.is_high(probability, is_clamped=voice.is_clamped),
            threshold=self.rule.threshold,
            reasons=[RiskReason(each.group, each.words, each.log_odds) for each in speaks.reasons] if speaks else [],
            abstention=abstention,
            statement=self._statement(minute, probability, speaks, abstention),
            is_synthetic=voice.is_synthetic,
            conditions=list(voice.conditions),
        )

    def _statement(self, minute: int, probability: float | None, speaks: Estimate | None, abstention: str) -> str:
        if probability is None or speaks is None:
            timing = self.protocol.timing
            why = ABSTENTIONS.get(abstention, abstention.replace("_", " "))
            return f"No estimate: {why.format(first_hour=timing.first_hour, last_hour=timing.last_hour)}."
        return (
            f"{self.protocol.title}: {_percent(probability)} ({round(speaks.level * 100)} % interval "
            f"{_percent(speaks.low)} to {_percent(speaks.high)}), {minute // 60} h {minute % 60} min after admission."
        )


def _percent(probability: float | None) -> str:
    if probability is None:
        return "?"
    percent = probability * 100
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


class RiskDesk:
    """Forecasts of the patients of one engine, each kept until something it depends on changes."""

    def __init__(self, estimator: Estimator) -> None:
        """Start with none."""
        self._estimator = estimator
        self._champion: dict[int, tuple[_Asked, RiskForecast]] = {}
        self._silent: dict[int, tuple[_Asked, RiskForecast]] = {}
        self._told: dict[tuple[str, int], _Told] = {}
        self.scored = 0

    def drop(self, patient_id: int) -> None:
        """Forget a patient."""
        self._champion.pop(patient_id, None)
        self._silent.pop(patient_id, None)
        for slot in ("champion", "silent"):
            self._told.pop((slot, patient_id), None)

    def forecast(
        self,
        serving: Serving,
        patients: Iterable[Patient],
        log_time_us: Callable[[int], int],
        positions: Mapping[int, int],
    ) -> Round:
        """Return what is to be said of patients whose snapshots are about to be made.

        Args:
            serving: who may speak; told when a model fails.
            patients: admitted ones.
            log_time_us: the log's clock of a patient.
            positions: of each partition, after the cycle.
        """
        voices = serving.voices
        listed = list(patients)
        minutes = [stay_state.through_minute(log_time_us(p.patient_id), p.started_at_us) for p in listed]
        champion, spoken = self._say(serving, voices.champion, listed, minutes, self._champion, with_reasons=True)
        silent, heard = self._say(serving, voices.silent, listed, minutes, self._silent, with_reasons=False)
        rows = [
            row
            for slot, voice, forecasts in (("champion", champion, spoken), ("silent", silent, heard))
            for patient, minute in zip(listed, minutes, strict=True)
            if (forecast := forecasts.get(patient.patient_id)) is not None
            and (row := self._row(slot, voice, patient, minute, forecast, log_time_us, positions)) is not None
        ]
        return Round(Voices(champion, silent), spoken, rows)

    def _say(
        self,
        serving: Serving,
        voice: Voice,
        patients: Sequence[Patient],
        minutes: Sequence[int],
        kept: dict[int, tuple[_Asked, RiskForecast]],
        *,
        with_reasons: bool,
    ) -> tuple[Voice, dict[int, RiskForecast]]:
        if not voice.is_card:
            kept.clear()
            return voice, {}
        try:
            return voice, self._ask(voice, patients, minutes, kept, with_reasons=with_reasons)
        except Exception as error:  # noqa: BLE001 - a library's fault must cost the estimate, never the snapshot
            _log.exception("model_failed", extra={"model": voice.name, "serving": voice.serving_id})
            serving.note_failure(voice, error)
            failed = voice.failed()
            return failed, self._ask(failed, patients, minutes, kept, with_reasons=False)

    def _ask(
        self,
        voice: Voice,
        patients: Sequence[Patient],
        minutes: Sequence[int],
        kept: dict[int, tuple[_Asked, RiskForecast]],
        *,
        with_reasons: bool,
    ) -> dict[int, RiskForecast]:
        asked = [
            _Asked(voice, p.encounter_id, p.started_at_us, p.series, p.series.revision if p.series else 0, minute)
            for p, minute in zip(patients, minutes, strict=True)
        ]
        due = [i for i, patient in enumerate(patients) if _is_due(kept.get(patient.patient_id), asked[i])]
        made = self._estimator.forecasts(
            voice, [patients[i] for i in due], [minutes[i] for i in due], with_reasons=with_reasons
        )
        self.scored += len(due) if voice.may_speak else 0
        for i, forecast in zip(due, made, strict=True):
            kept[patients[i].patient_id] = (asked[i], forecast)
        return {patient.patient_id: kept[patient.patient_id][1] for patient in patients}

    def _row(
        self,
        slot: str,
        voice: Voice,
        patient: Patient,
        minute: int,
        forecast: RiskForecast,
        log_time_us: Callable[[int], int],
        positions: Mapping[int, int],
    ) -> RiskScore | None:
        """Return a row where one is to be kept: the first of a quarter of an hour, or a change of attention."""
        if not 0 <= minute <= stay_state.LAST_MINUTE:
            return None
        told = _Told(patient.encounter_id, voice, minute // ROW_EVERY_MINUTES, forecast.is_high)
        if self._told.get((slot, patient.patient_id)) == told:
            return None
        self._told[slot, patient.patient_id] = told
        return RiskScore(
            encounter_id=patient.encounter_id,
            through_minute=minute,
            slot=slot,
            model_digest=voice.model_digest,
            position=positions[partition_of(patient.patient_id)],
            patient_id=patient.patient_id,
            serving_id=voice.serving_id,
            at_us=log_time_us(patient.patient_id),
            probability=forecast.probability,
            low=forecast.low,
            high=forecast.high,
            abstention=forecast.abstention,
            is_high=forecast.is_high,
        )


def _is_due(kept: tuple[_Asked, RiskForecast] | None, asked: _Asked) -> bool:
    if kept is None:
        return True
    before = kept[0]
    return before.voice is not asked.voice or before.series is not asked.series or before[1:] != asked[1:]


def series_concepts() -> tuple[int, ...]:
    """Return the concepts whose bins any model of this code may look at."""
    return tuple(sorted(frozenset().union(*(feature_table.concepts_of(table) for table in feature_table.TABLES))))
