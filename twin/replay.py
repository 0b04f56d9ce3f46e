"""Any published snapshot again, from what was known at its place in the log, and whether it is the same bit for bit.

Here: finding a snapshot, rebuilding its state from the stores, comparing digests.
Not here: folding live events (twin.engine), the command (orchestration).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from models.features import FeatureWindow
from stores import minutes, snapshot_census, snapshot_rules, snapshots
from stores.database import Connection, transaction
from stores.envelope import Keys
from twin import rebuilding, stay_state
from twin.forecast import Forecaster
from twin.serving import Memory
from twin.state import Patient
from twin.voice import NOBODY, Voice
from vocabulary.errors import VigilError
from vocabulary.snapshot import (
    RiskForecast,
    SnapshotKey,
    TwinSnapshot,
    canonical_bytes,
    digest,
    from_bytes,
    parse_snapshot_id,
)


class UnknownSnapshotError(VigilError):
    """No snapshot with this id was ever published."""


class Replayed(NamedTuple):
    """A snapshot made again."""

    snapshot_id: str
    is_identical: bool
    published_digest: str  # hex, as recorded when it was published
    rebuilt_digest: str
    rebuilt: TwinSnapshot
    published: TwinSnapshot | None  # where its body was kept
    differences: list[str]  # names of fields that differ, where the body was kept


async def replay(
    connection: Connection, forecaster: Forecaster, snapshot_id: str, keys: Keys, memory: Memory | None = None
) -> Replayed:
    """Make one published snapshot again and compare.

    The comparison is of digests, so it needs no key; the fields that differ can be named only where the kept body can
    still be read.

    Args:
        connection: outside of a transaction.
        forecaster: of the code and protocols of then; the site's rules of then are looked up.
        snapshot_id: which.
        keys: unseal the kept body.
        memory: the models that spoke then; None: only snapshots without a model can be made again.

    Raises:
        UnknownSnapshotError: no such snapshot was published, or the id is not one.
        ModelFileMissingError, ModelFileDamagedError: the model that spoke then is not here any more.
        BrokenInvariantError: the site's rules of then are missing or were altered.
        UnavailableError: PostgreSQL does not answer.
    """
    memory = memory or Memory(None)
    try:
        key = parse_snapshot_id(snapshot_id)
    except ValueError as error:
        raise UnknownSnapshotError(f"{snapshot_id!r} is not a snapshot id: {error}.") from None
    async with transaction(connection):
        kept = await snapshots.find(connection, key, keys)
        if kept is None:
            raise UnknownSnapshotError(
                f"no snapshot {snapshot_id} was published. `vigil replay --sample 5` takes some."
            )
        if kept.rules and kept.rules != forecaster.rules_digest:
            forecaster = forecaster.under(await snapshot_rules.find(connection, kept.rules))
        rebuilt = await rebuild(connection, forecaster, key, kept.as_of_us, await memory.voice(connection, kept.voice))
    body = canonical_bytes(rebuilt)
    published = from_bytes(kept.body) if kept.body is not None else None
    rebuilt_digest = digest(body)
    differences = []
    if published is not None and rebuilt_digest != kept.digest:
        differences = [
            name for name in TwinSnapshot.__struct_fields__ if getattr(published, name) != getattr(rebuilt, name)
        ]
    return Replayed(
        snapshot_id,
        rebuilt_digest == kept.digest,
        kept.digest.hex(),
        rebuilt_digest.hex(),
        rebuilt,
        published,
        differences,
    )


async def rebuild(
    connection: Connection, forecaster: Forecaster, key: SnapshotKey, as_of_us: int, voice: Voice = NOBODY
) -> TwinSnapshot:
    """Return the snapshot of a patient as known at a log position, at a log time, under a voice."""
    located = await rebuilding.locate(connection, key.patient_id, key.position)
    patient = Patient(key.patient_id, located.encounter_id, located.place, located.record_ids, located.started_at_us)
    await rebuilding.read_signals(
        connection,
        patient,
        until_us=forecaster.until_us(as_of_us),
        log_time_us=as_of_us,
        known_at=key.position,
    )
    window = FeatureWindow(minutes.minute_concepts())
    await rebuilding.compute_window(connection, window, patient, as_of_us, key.position)
    risks: list[RiskForecast] = []
    if voice.is_card and located.is_admitted:
        minute = stay_state.through_minute(as_of_us, patient.started_at_us)
        if voice.may_speak and minute <= stay_state.LAST_MINUTE:
            await stay_state.compute(connection, patient, forecaster.series_concepts, as_of_us, key.position)
        risks = forecaster.estimator.forecasts(voice, [patient], [minute], with_reasons=True)
    return forecaster.snapshot(
        patient, window, key, as_of_us, is_admitted=located.is_admitted, voice=voice, risks=risks
    )


async def sample_ids(connection: Connection, count: int, seed: int) -> Sequence[str]:
    """Return ids of published snapshots, spread evenly over all that were published."""
    async with transaction(connection):
        return await snapshot_census.sample(connection, count, seed)
