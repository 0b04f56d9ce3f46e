"""Layer `normalized`, the live plane's closed days: what the twins saw, for learning, by (site, day).

Here: `normalized/live_events`.
Not here: reading the stores (stores.lake_live), when a day is closed (orchestration.sensors), patients' names: subjects
are our own numbers, and partitions name no patient.
"""

from datetime import UTC, datetime
from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa

from assets import columns, verdicts
from assets.event_tables import MINUTE_US, table_of
from assets.learning_plane import CODE_VERSION, OWNERS, POOL_DATABASE, LearningPlane, lake_of, step
from assets.live_plane import LivePlane, ask
from assets.partitions import LiveDay, live_day, live_days
from assets.sources import LIVE_GROUP
from assets.verdicts import Judging
from stores import lake_live
from stores.database import Connection, to_timestamp
from stores.lake import ADMISSION, DEATH, DISCHARGE, About, code_of, event_schema
from stores.lake_live import DayOfStay, DayStay
from vocabulary.concepts import CONCEPTS
from vocabulary.records import DischargeOutcome

KEY: Final = dg.AssetKey(["normalized", "live_events"])
_SOURCE_OF_STAYS: Final = "adt"

_CODE_OF = {concept.number: code_of(concept) for concept in CONCEPTS}
_UNIT_OF = {concept.number: concept.unit for concept in CONCEPTS}


def build_live_events(site: str, feed_names: list[str]) -> dg.AssetsDefinition:
    """Return the asset of one house."""

    @dg.asset(
        key=KEY,
        group_name=LIVE_GROUP,
        owners=OWNERS,
        kinds={"parquet", "postgres"},
        code_version=CODE_VERSION,
        pool=POOL_DATABASE,
        partitions_def=live_days(site),
        deps=[dg.AssetDep(dg.AssetKey(["source", name])) for name in feed_names],
        check_specs=[verdicts.spec(KEY, "Great Expectations: as for recorded events, on every closed day.")],
        metadata={"dagster/column_schema": columns.schema_of(event_schema(), columns.EVENTS)},
        description="Values of a day that is over, as the live plane knows them now, in the same layout as recorded "
        "stays. Later corrections come with the next materialization.",
    )
    def live_events(
        context: dg.AssetExecutionContext,
        config: Judging,
        live: dg.ResourceParam[LivePlane],
        learning: dg.ResourceParam[LearningPlane],
    ) -> dg.MaterializeResult:
        with step(learning, KEY):
            return _materialize(live_day(context.partition_key), config, live, learning)

    return live_events


def _materialize(day: LiveDay, config: Judging, live: LivePlane, learning: LearningPlane) -> dg.MaterializeResult:
    from validation import expectations

    async def read(connection: Connection) -> list[DayOfStay]:
        return [one async for one in lake_live.day_of(connection, day.from_us, day.to_us)]

    stays = ask(live, read)
    now_us = learning.now_us()
    about = About(
        dataset_name=day.dataset_name,
        etl_version=learning.provenance().code_version,
        created_at=datetime.fromtimestamp(now_us / 1e6, tz=UTC).isoformat(),
        time_origin="1970-01-01T00:00:00 UTC",
        # Whatever a demonstration's hospital sends was invented.
        is_synthetic=learning.settings().mode == "demo",
    )
    lake = lake_of(learning)
    dataset = lake.write(about, [table] if (table := day_table(day, stays)).num_rows else [])
    lake.trim(day.dataset_name)
    verdict = expectations.judge_events(
        lake.read(dataset).to_pandas(),
        judged_at=to_timestamp(now_us),
        subject="/".join(KEY.path),
        uses_great_expectations=config.uses_peers,
        data_fingerprint=dataset.fingerprint,
        made_at_us=now_us,
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(dataset.fingerprint),
        metadata={
            "dagster/row_count": dataset.rows,
            "stays": len(stays),
            "patients": dataset.subjects,
            "fingerprint": dataset.fingerprint,
            "is_synthetic": dataset.is_synthetic,
        },
        check_results=[verdicts.result(verdict, KEY) if stays else _nobody_was_here()],
    )


def _nobody_was_here() -> dg.AssetCheckResult:
    """Return the check of a day that no stay touched: nothing is wrong with it."""
    return dg.AssetCheckResult(
        asset_key=KEY, check_name=verdicts.CHECK, passed=True, description="No stay touched this day."
    )


def day_table(day: LiveDay, stays: list[DayOfStay]) -> pa.Table:
    """Return a day's events by patient and rising time: admissions, numbers, ends. Texts are left out."""
    subject, time, code, unit, value, available, source, encounter, concept, minute = ([] for _ in range(10))

    def add(
        stay: DayStay, at_us: int, what: str, *, measured: int = 0, number: float = np.nan, known_us: int, from_: str
    ) -> None:
        subject.append(stay.patient_id)
        time.append(at_us)
        code.append(what)
        unit.append(_UNIT_OF.get(measured, ""))
        value.append(number)
        available.append(known_us)
        source.append(from_)
        encounter.append(stay.encounter_id)
        concept.append(measured)
        # Minutes of the clock, as the live twin counts them: the epoch's minute less that of the admission.
        minute.append(at_us // MINUTE_US - stay.started_at_us // MINUTE_US)

    for stay, values in stays:
        # Of every stay, whenever it began: a day is complete in itself.
        add(stay, stay.started_at_us, ADMISSION, known_us=stay.started_at_us, from_=_SOURCE_OF_STAYS)
        rows = zip(values.concept.tolist(), values.value.tolist(), values.effective_at_us.tolist(),
                   values.received_at_us.tolist(), values.feed.tolist(), strict=True)  # fmt: skip
        for number, measured_value, at_us, received_us, feed in rows:
            if not np.isnan(measured_value):
                add(stay, at_us, _CODE_OF[number], measured=number, number=measured_value,
                    known_us=max(at_us, received_us), from_=feed)  # fmt: skip
        if stay.ended_at_us is not None and day.from_us <= stay.ended_at_us < day.to_us:
            add(stay, stay.ended_at_us, DISCHARGE, known_us=stay.ended_at_us, from_=_SOURCE_OF_STAYS)
            if stay.outcome == DischargeOutcome.DIED:
                add(stay, stay.ended_at_us, DEATH, known_us=stay.ended_at_us, from_=_SOURCE_OF_STAYS)
    times = np.array(time, np.int64)
    order = np.lexsort((times, np.array(subject, np.int64)))
    return table_of(
        subject=np.array(subject, np.int64)[order],
        time_us=times[order],
        is_timed=np.ones(len(order), np.bool_),
        code=np.array(code, object)[order],
        unit=np.array(unit, object)[order],
        value=np.array(value, np.float64)[order],
        available_us=np.array(available, np.int64)[order],
        source=np.array(source, object)[order],
        encounter=np.array(encounter, np.int64)[order],
        concept=np.array(concept, np.int64)[order],
        minute=np.array(minute, np.int64)[order],
    )
