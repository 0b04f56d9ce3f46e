"""From one patient's state to a snapshot: what is current, what is stale, which score may be said.

Pure: the same state, log time, protocols and voice give the same bytes, on any day.

Here: staleness, scores by protocol, silent feeds, notices, when the next snapshot is due by itself.
Not here: the scores' arithmetic (models.risk), what a learned model says (twin.risk), reading or writing anything
(twin.engine).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from models.features import FeatureWindow
from models.risk import aggregate
from stores import snapshot_rules
from stores.minutes import minute_concepts
from twin import risk
from twin.state import EVENT_MEMORY_US, MINUTE_US, SIGNAL_MEMORY_US, Entry, Patient
from twin.voice import NOBODY, Voice
from validation import model_protocol
from validation import protocols as protocol_files
from validation.model_protocol import ModelProtocol
from vocabulary import concepts
from vocabulary.protocol import Protocol
from vocabulary.records import ObservationStatus
from vocabulary.settings import Settings
from vocabulary.snapshot import (
    FeedState,
    Provenance,
    RiskForecast,
    SignalState,
    SnapshotKey,
    TwinSnapshot,
    snapshot_id,
)

SECOND_US = 1_000_000
_RULES = msgspec.json.Decoder(tuple[dict[str, float], int])
_STATUS = {
    ObservationStatus.FINAL: "final",
    ObservationStatus.PRELIMINARY: "preliminary",
    ObservationStatus.CORRECTED: "corrected",
}


class Forecaster:
    """Builds snapshots under fixed protocols and a site's rules (`rules`, known by `rules_digest`)."""

    def __init__(
        self,
        settings: Settings,
        protocols: Mapping[str, Protocol],
        code: CodeIdentity,
        model_rules: ModelProtocol | None = None,
    ) -> None:
        """Fix everything a snapshot depends on besides the state and the voice.

        Args:
            settings: tolerances, feeds, heartbeat.
            protocols: of the scores, by name.
            code: which code is running.
            model_rules: the protocol that models speak under; None for Vigil's own.
        """
        rules_of_models = model_protocol.load() if model_rules is None else model_rules
        self.estimator = risk.Estimator(rules_of_models)
        self.series_concepts = risk.series_concepts()
        self._heartbeat_us = round(settings.snapshot_heartbeat_s * SECOND_US)
        self._trended = frozenset(minute_concepts())
        self._protocols = dict(protocols)
        rules = msgspec.json.encode(
            [
                {feed.name: feed.expected_interval_s for feed in settings.feeds},
                round(settings.future_tolerance_s * SECOND_US),
            ],
            order="sorted",
        )
        self._provenance = Provenance(
            code_version=code.version,
            lock_digest=code.lock_digest,
            terminology_version=concepts.TERMINOLOGY_VERSION,
            protocols={
                **{name: f"{protocol.version} {protocol.digest[:16]}" for name, protocol in protocols.items()},
                rules_of_models.name: f"{rules_of_models.version} {rules_of_models.digest[:16]}",
            },
        )
        self._follow(rules)

    def _follow(self, rules: bytes) -> None:
        self.rules, self.rules_digest = rules, snapshot_rules.digest_of(rules)
        self._intervals_s, self._future_us = _RULES.decode(rules)
        named = {**self._provenance.protocols, "feeds": self.rules_digest}
        self._provenance = msgspec.structs.replace(self._provenance, protocols=named)

    def under(self, rules: bytes) -> Forecaster:
        """Return one that follows a site's other rules (`rules` of another), everything else alike."""
        other = copy.copy(self)
        other._follow(rules)
        return other

    def until_us(self, log_time_us: int) -> int:
        """Return the newest effective time that counts as known: devices' clocks may run a little ahead."""
        return log_time_us + self._future_us

    def current(self, patient: Patient, log_time_us: int) -> dict[int, Entry]:
        """Return the latest entry of each concept that still belongs to the present, by concept number."""
        found: dict[int, Entry] = {}
        for number in sorted(patient.signals):
            entry = patient.signals[number].latest(self.until_us(log_time_us))
            if entry is None:
                continue
            memory_us = SIGNAL_MEMORY_US if concepts.by_number(number).signal_group else EVENT_MEMORY_US
            if entry.effective_at_us >= self.until_us(log_time_us) - memory_us:
                found[number] = entry
        return found

    def snapshot(
        self,
        patient: Patient,
        window: FeatureWindow,
        key: SnapshotKey,
        log_time_us: int,
        *,
        is_admitted: bool,
        voice: Voice = NOBODY,
        risks: Sequence[RiskForecast] = (),
    ) -> TwinSnapshot:
        """Return the snapshot of a patient at a log position and time.

        Args:
            patient: their state.
            window: the trends.
            key: where in the log.
            log_time_us: the log's clock there.
            is_admitted: whether they are still here.
            voice: of the champion, in force when this is said.
            risks: what it says of this patient.
        """
        latest = self.current(patient, log_time_us)
        signals = [self._signal(patient, window, number, entry, log_time_us) for number, entry in latest.items()]
        by_key = {signal.concept: signal for signal in signals}
        return TwinSnapshot(
            snapshot_id=snapshot_id(key),
            patient_id=patient.patient_id,
            encounter_id=patient.encounter_id,
            ward=patient.place.ward,
            bed=patient.place.bed_label,
            as_of_us=log_time_us,
            position=key.position,
            is_admitted=is_admitted,
            signals=signals,
            scores=aggregate.scores(self._protocols, by_key),
            feeds=self._feeds(latest, log_time_us),
            notices=voice.notices(),
            provenance=self._provenance_under(voice),
            risks=list(risks),
        )

    def _provenance_under(self, voice: Voice) -> Provenance:
        if voice is NOBODY:
            return self._provenance
        return msgspec.structs.replace(self._provenance, model=voice.name, serving=voice.serving_id)

    def _signal(
        self, patient: Patient, window: FeatureWindow, number: int, entry: Entry, log_time_us: int
    ) -> SignalState:
        concept = concepts.by_number(number)
        slope = None
        if number in self._trended:
            slope = window.slope_per_hour(patient.patient_id, number, log_time_us // MINUTE_US - 1)
        return SignalState(
            concept=concept.key,
            value=None if math.isnan(entry.value) else entry.value,
            unit=concept.unit,
            effective_at_us=entry.effective_at_us,
            received_at_us=entry.received_at_us,
            is_stale=log_time_us - entry.effective_at_us > concept.valid_for_s * SECOND_US,
            device=entry.device,
            text=entry.text,
            change_per_hour=slope,
            raw_position=entry.position,
            raw_index=entry.raw_index,
            status=_STATUS[ObservationStatus(entry.status)],
        )

    def _feeds(self, latest: Mapping[int, Entry], log_time_us: int) -> list[FeedState]:
        heard: dict[str, int] = {}
        for entry in latest.values():
            heard[entry.feed] = max(heard.get(entry.feed, 0), entry.received_at_us)
        states = []
        for feed, last_us in sorted(heard.items()):
            interval_s = self._intervals_s.get(feed, 60.0)
            is_silent = log_time_us - last_us > 2 * interval_s * SECOND_US
            states.append(FeedState(feed, last_us, interval_s, is_silent))
        return states

    def next_due_us(self, snapshot: TwinSnapshot) -> int:
        """Return the log time at which this snapshot would change, or is due again, without any news."""
        due = snapshot.as_of_us + self._heartbeat_us
        for signal in snapshot.signals:
            if not signal.is_stale:
                valid_us = round(concepts.by_key(signal.concept).valid_for_s * SECOND_US)
                due = min(due, signal.effective_at_us + valid_us + 1)
        for feed in snapshot.feeds:
            if not feed.is_silent:
                due = min(due, feed.last_received_at_us + round(2 * feed.expected_interval_s * SECOND_US) + 1)
        return due


class CodeIdentity(msgspec.Struct, frozen=True):
    """Which code is running."""

    version: str
    lock_digest: str


def identify_code() -> CodeIdentity:
    """Return the installed version and the digest of the lock file it runs on ("" outside a checkout)."""
    lock = Path(__file__).resolve().parent.parent / "requirements.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.exists() else ""
    return CodeIdentity(metadata.version("vigil-twin"), digest)


def open_forecaster(settings: Settings) -> Forecaster:
    """Read the protocols and identify the code: once, at a process's start."""
    return Forecaster(settings, protocol_files.load_all(), identify_code())
