"""The lake: what is written is read back exactly, in the standard's layout, whole or not at all."""

from __future__ import annotations

import datetime
import json
import math

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import lake, lake_live, lake_tables, timeseries
from stores.database import consistent_read, transaction
from stores.samples import Sample
from vocabulary.concepts import CONCEPTS, by_key
from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError
from vocabulary.records import ObservationStatus

HEART_RATE = by_key("heart_rate")
ABOUT = lake.About(dataset_name="trial", etl_version="1", created_at="2026-01-01T00:00:00Z")

# The four mandatory fields as published: github.com/Medical-Event-Data-Standard/meds, schema.py of 0.3.3.
MEDS_FIELDS = {
    "subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float32(),
}  # fmt: skip


def events(*rows: tuple[int, int | None, float], source: str = "test") -> pa.Table:
    """Heart rates of (subject, minute, value)."""
    times = [None if minute is None else minute * 60_000_000 for _, minute, _ in rows]
    values = [value for *_, value in rows]
    columns = {
        "subject_id": [subject for subject, *_ in rows],
        "time": times,
        "code": [lake.code_of(HEART_RATE)] * len(rows),
        "numeric_value": np.array(values, np.float32),
        "value": np.array(values, np.float64),
        "unit": [HEART_RATE.unit] * len(rows),
        "available_at": times,
        "source": [source] * len(rows),
        "encounter_id": [subject for subject, *_ in rows],
        "concept": [HEART_RATE.number] * len(rows),
        "minute": [minute for _, minute, _ in rows],
    }
    schema = lake.event_schema()
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


@pytest.fixture
def store(tmp_path):
    return lake.Lake(tmp_path / "lake")


def test_nobody_else_on_this_machine_reads_what_is_kept(store):
    store.write(ABOUT, [events((1, 3, 71.0))])
    lake_tables.LakeTables(store.folder).put_record(["cohort", "mortality"], "run", b"{}")
    for folder in (store.folder, lake_tables.LakeTables(store.folder).folder):
        assert folder.stat().st_mode & 0o077 == 0


def test_tables_kept_before_any_dataset_are_nobody_elses_either(tmp_path):
    tables = lake_tables.LakeTables(tmp_path / "lake")
    tables.put_record(["cohort", "mortality"], "run", b"{}")
    assert tables.folder.stat().st_mode & 0o077 == 0


def test_a_dataset_has_the_layout_and_types_of_the_standard(store):
    dataset = store.write(
        ABOUT, [events((1, None, 70.5), (1, 3, 71.0)), events((2, 0, 64.25))], [lake.Split(1, "train")]
    )
    folder = store.folder_of("trial", dataset.fingerprint)
    files = sorted((folder / "data").glob("**/*.parquet"))
    assert len(files) == 2
    for file in files:
        schema = pq.read_schema(file)
        assert {name: schema.field(name).type for name in MEDS_FIELDS} == MEDS_FIELDS
        ids = pq.read_table(file).column("subject_id").to_pylist()
        assert ids == sorted(ids)
    codes = pq.read_table(folder / "metadata" / "codes.parquet")
    assert codes.schema.field("code").type == pa.string()
    assert codes.schema.field("description").type == pa.string()
    assert codes.schema.field("parent_codes").type == pa.list_(pa.string())
    assert codes.column("code").to_pylist() == ["LOINC//8867-4"]
    splits = pq.read_table(folder / "metadata" / "subject_splits.parquet")
    assert {name: splits.schema.field(name).type for name in ("subject_id", "split")} == {
        "subject_id": pa.int64(), "split": pa.string(),
    }  # fmt: skip
    facts = json.loads((folder / "metadata" / "dataset.json").read_text())
    for name in ("dataset_name", "dataset_version", "etl_name", "etl_version", "meds_version", "created_at"):
        assert isinstance(facts[name], str)
    datetime.datetime.fromisoformat(facts["created_at"])
    assert (dataset.rows, dataset.subjects) == (3, 2)


def test_every_concept_has_a_code_of_its_own():
    assert len({lake.code_of(concept) for concept in CONCEPTS}) == len(CONCEPTS)


rows = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(-10, 10_000)), st.floats(-1e30, 1e30)),
    max_size=30,
).map(lambda found: sorted(found, key=lambda row: (row[0], -math.inf if row[1] is None else row[1])))


@settings(max_examples=40, deadline=None)
@given(rows)
def test_what_was_written_is_read_back_exactly_and_named_by_its_rows(tmp_path_factory, found):
    store = lake.Lake(tmp_path_factory.mktemp("lake"))
    table = events(*found)
    dataset = store.write(ABOUT, [table])
    assert store.read(dataset).equals(table)
    assert store.read(dataset, ["value", "subject_id"]).column_names == ["value", "subject_id"]
    # Neither the layout in memory nor the time of writing is part of its name.
    again = pa.concat_tables([table.slice(0, len(found) // 2), table.slice(len(found) // 2)])
    later = lake.About(dataset_name="trial", etl_version="1", created_at="2027-01-01T00:00:00Z")
    assert store.write(later, [again]).fingerprint == dataset.fingerprint
    assert store.current("trial") == dataset


@pytest.mark.parametrize(
    "changed", [events((1, 0, 70.0)), events((1, 1, 71.0)), events((2, 1, 70.0)), events((1, 1, 70.0), source="x"),
                events((1, None, 70.0))]
)  # fmt: skip
def test_another_value_time_subject_or_source_is_another_dataset(store, changed):
    assert store.write(ABOUT, [events((1, 1, 70.0))]).fingerprint != store.write(ABOUT, [changed]).fingerprint


def test_a_table_written_half_is_not_there_and_the_one_before_stays_current(store):
    before = store.write(ABOUT, [events((1, 1, 70.0))])

    def failing():
        yield events((2, 1, 70.0))
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigurationError, match="No space left"):
        store.write(ABOUT, failing())
    assert store.current("trial") == before
    assert [entry.name for entry in (store.folder / "trial").iterdir() if entry.is_dir()] == [before.fingerprint]


@pytest.mark.parametrize(
    "tables",
    [
        [events((1, 1, 70.0)), events((1, 2, 70.0))],  # a subject in two files
        [events((1, 1, 70.0), (2, 1, 70.0), (1, 2, 70.0))],  # in two pieces
        [events((1, 2, 70.0), (1, 1, 70.0))],  # time goes back
        [events((1, 2, 70.0), (1, None, 70.0))],  # what has no time comes first
        [events((1, 2, 70.0)).drop_columns(["available_at"])],
    ],
)
def test_a_table_the_standard_forbids_is_refused_whole(store, tables):
    with pytest.raises(BrokenInvariantError):
        store.write(ABOUT, tables)
    assert store.current("trial") is None


@pytest.mark.parametrize("name", ["../outside", "/etc", "A", "a//b", "", "a b", "."])
def test_a_name_cannot_leave_the_lake(store, name):
    with pytest.raises(ConfigurationError):
        store.write(lake.About(dataset_name=name), [events((1, 1, 70.0))])


def test_trimming_keeps_the_newest_and_the_current_one(store):
    made = [store.write(ABOUT, [events((1, 1, float(value)))]) for value in range(5)]
    store.write(ABOUT, [events((1, 1, 0.0))])  # the oldest is the current one again
    assert store.trim("trial", keep=2) == 2
    assert store.read(made[0]).num_rows == 1
    with pytest.raises(UnavailableError):
        store.read(made[1])


def test_an_empty_dataset_can_be_read(store):
    dataset = store.write(ABOUT, [])
    assert store.read(dataset).schema == lake.event_schema()
    assert store.read(dataset, ["code"]).num_rows == 0


@pytest.fixture
def tables(tmp_path):
    return lake_tables.LakeTables(tmp_path)


def test_each_run_reads_its_own_result_and_others_the_newest(tables):
    key = ["cohort", "mortality"]
    first, second = events((1, 1, 70.0)), events((1, 1, 71.0))
    tables.put_table(key, "run-1", first)
    tables.put_table(key, "run-2", second)
    assert tables.table(key, "run-1").equals(first)
    assert tables.table(key, "run-2").equals(second)
    assert tables.table(key, "run-3").equals(second)
    assert tables.table(key).equals(second)
    assert tables.put_table(key, "run-4", first) == tables.put_table(key, "run-5", first)


def test_a_result_that_was_changed_is_not_believed(tables):
    tables.put_record(["model", "mortality"], "run", b'{"digest":"aa"}')
    assert tables.record(["model", "mortality"]) == b'{"digest":"aa"}'
    (file,) = tables.folder.glob("model/mortality/*.json")
    file.write_bytes(b'{"digest":"bb"}')
    with pytest.raises(BrokenInvariantError):
        tables.record(["model", "mortality"])
    digest = tables.put_table(["a"], "run", events((1, 1, 70.0)))
    pq.write_table(events((1, 1, 71.0)), tables.folder / "a" / f"{digest}.parquet")
    with pytest.raises(BrokenInvariantError):
        tables.table(["a"])


def test_what_was_never_made_is_said_so(tables):
    with pytest.raises(UnavailableError, match="materialize"):
        tables.table(["feature", "mortality"])


def test_trimming_tables_keeps_what_the_newest_runs_made(tables):
    for value in range(6):
        tables.put_table(["a"], f"run-{value}", events((1, 1, float(value))))
    assert tables.trim(["a"], keep_runs=2) == 4
    assert tables.table(["a"], "run-5").column("value").to_pylist() == [5.0]
    assert tables.table(["a"], "run-4").column("value").to_pylist() == [4.0]


HOUR_US = 3_600_000_000
DAY_FROM_US = 1_780_012_800_000_000 // (24 * HOUR_US) * 24 * HOUR_US


async def admit(connection, encounter_id, patient_id, started_us, ended_us=None, status="in-progress", outcome=None):
    await connection.execute(
        "insert into patient (patient_id, partition, created_position, updated_position) values (%s, 0, 1, 1) "
        "on conflict do nothing",
        (patient_id,),
    )
    await connection.execute(
        "insert into encounter (encounter_id, patient_id, status, started_at_us, ended_at_us, known_from, "
        "updated_position) values (%s, %s, %s, %s, %s, 1, 1)",
        (encounter_id, patient_id, status, started_us, ended_us),
    )
    if outcome is not None:
        await connection.execute(
            "insert into outcome (encounter_id, known_from, outcome, at_us) values (%s, 1, %s, %s)",
            (encounter_id, outcome, ended_us),
        )


def value(patient_id, at_us, number):
    return Sample(
        patient_id, HEART_RATE.number, number, "", at_us, at_us, int(ObservationStatus.FINAL), at_us, "", "monitors",
        1, 0, 0,
    )  # fmt: skip


async def test_a_closed_day_holds_each_value_once_in_the_stay_it_belongs_to(connection):
    at = [DAY_FROM_US + hour * HOUR_US for hour in range(24)]
    async with transaction(connection):
        await admit(connection, 1, 7, at[0] - 30 * HOUR_US, at[5], "finished", "died")
        await admit(connection, 2, 7, at[10])
        await admit(connection, 3, 8, at[2], status="cancelled", ended_us=at[3])
        await admit(connection, 4, 9, at[0] - 90 * HOUR_US, at[0] - 60 * HOUR_US, "finished")
        samples = [value(7, at[hour], 60.0 + hour) for hour in (1, 4, 7, 12, 23)]
        samples += [value(7, at[0] - HOUR_US, 50.0), value(8, at[2], 55.0)]
        await timeseries.write(connection, samples, 1, at[23])
        # An hour of the day is corrected: what is written is what is known now.
        deleted = msgspec.structs.replace(samples[1], status=int(ObservationStatus.ENTERED_IN_ERROR), position=2)
        await timeseries.write(connection, [deleted], 2, at[23])
    async with consistent_read(connection):
        days = [one async for one in lake_live.day_of(connection, DAY_FROM_US, DAY_FROM_US + 24 * HOUR_US)]
    assert [(one.stay.encounter_id, one.stay.patient_id, one.stay.outcome) for one in days] == [
        (1, 7, "died"), (2, 7, ""),
    ]  # fmt: skip
    assert [one.values.value.tolist() for one in days] == [[61.0], [72.0, 83.0]]
