"""Minute medians: exact, marked when revised, and the same when made again from the stored values."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores import timeseries
from stores.database import Connection, transaction
from stores.minutes import MINUTE_COLUMNS, MINUTE_US, Minute, minute_concepts
from stores.timeseries import Sample, compute_minutes, median, minutes, put_minutes, rebuild_minutes
from vocabulary.records import ObservationStatus

START_US = 1_770_000_000_000_000 // 3_600_000_000 * 3_600_000_000
FIRST = 1 << 40


def minute(number: int, patient_id: int = 1, **medians: float) -> Minute:
    values = tuple(medians.get(name) for name in MINUTE_COLUMNS)
    return Minute(patient_id, START_US + number * MINUTE_US, values, tuple(int(v is not None) for v in values))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)))
def test_the_median_is_the_textbook_s(values: list[float]) -> None:
    assert median(values) == (statistics.median(values) if values else None)


async def test_columns_and_table_agree(connection: Connection) -> None:
    found = await connection.execute(
        "select column_name from information_schema.columns where table_name = 'vitals_minute' "
        "order by ordinal_position"
    )
    names = tuple(row[0] for row in await found.fetchall())
    assert names == ("patient_id", "minute", *MINUTE_COLUMNS, "n", "revised")
    assert len(set(minute_concepts())) == len(MINUTE_COLUMNS)


async def test_a_minute_written_again_is_revised_only_when_it_differs(connection: Connection) -> None:
    first = [minute(0, heart_rate=80.1, body_temperature=36.7), minute(1, heart_rate=1 / 3)]
    assert await put_minutes(connection, first) == 2
    assert await minutes(connection, [1], START_US, START_US + 2 * MINUTE_US) == first
    assert await put_minutes(connection, first) == 0
    changed = minute(1, heart_rate=0.5)
    assert await put_minutes(connection, [first[0], minute(1, heart_rate=9.0), changed]) == 1
    found = await minutes(connection, [1], START_US, START_US + 2 * MINUTE_US)
    assert found == [first[0], Minute(1, changed.minute_us, changed.medians, changed.n, is_revised=True)]
    assert await put_minutes(connection, []) == 0


async def test_the_first_id_counts_where_two_have_the_same_minute(connection: Connection) -> None:
    rows = [minute(0, 1, heart_rate=80.0), minute(0, 2, heart_rate=90.0), minute(1, 2, heart_rate=91.0)]
    await put_minutes(connection, rows)
    end = START_US + 9 * MINUTE_US
    assert await minutes(connection, [1, 2], START_US, end) == [rows[0], rows[2]]
    assert await minutes(connection, [2, 1], START_US, end) == rows[1:]
    assert await minutes(connection, [2], START_US + 1, end) == [rows[2]]


@pytest.mark.parametrize("seed", range(3))
async def test_minutes_made_again_equal_those_kept_up_step_by_step(connection: Connection, seed: int) -> None:
    """Corrections, deletions and late values in random order: after each commit, the touched minutes are put."""
    chance = random.Random(seed)
    numbers = minute_concepts()
    by_measurement: dict[tuple[int, int, int], Sample] = {}
    end = START_US + 30 * MINUTE_US
    for step in range(60):
        position = FIRST + step
        samples = [
            Sample(
                1, chance.choice(numbers), chance.choice([80.0, 36.7, 97.5, 120.0, 21.3]), "",
                START_US + chance.randrange(30) * MINUTE_US + chance.randrange(4) * 15_000_000, START_US,
                chance.choice([0, 0, 0, 2, 3]), chance.randrange(2), "bed 1", "monitors", position, 0, index,
            )
            for index in range(chance.randrange(1, 8))
        ]  # fmt: skip
        async with transaction(connection):
            await timeseries.write(connection, samples, position, START_US)
            for sample in samples:
                by_measurement[sample.concept, sample.effective_at_us, sample.source_key] = sample
            rows = []
            for at_us in {sample.effective_at_us // MINUTE_US * MINUTE_US for sample in samples}:
                values = [
                    [
                        sample.value
                        for sample in by_measurement.values()
                        if sample.concept == number
                        and at_us <= sample.effective_at_us < at_us + MINUTE_US
                        and sample.status != ObservationStatus.ENTERED_IN_ERROR
                    ]
                    for number in numbers
                ]
                medians = tuple(statistics.median(listed) if listed else None for listed in values)
                rows.append(Minute(1, at_us, medians, tuple(map(len, values))))
            await put_minutes(connection, rows)
        if chance.random() < 0.2:
            await timeseries.compact(connection, START_US + 3_600_000_000)
    kept = await minutes(connection, [1], START_US, end)
    assert any(row.is_revised for row in kept)
    assert await rebuild_minutes(connection, [1], START_US, end) == 0
    assert await minutes(connection, [1], START_US, end) == kept
    filled = [row for row in kept if any(row.n)]
    made = await compute_minutes(connection, [1], START_US, end)
    assert [(row.minute_us, row.medians, row.n) for row in made] == [
        (row.minute_us, row.medians, row.n) for row in filled
    ]
    # Lost altogether, they come back; damaged, they are mended and say so.
    await connection.execute("delete from vitals_minute")
    assert await rebuild_minutes(connection, [1], START_US + 1, end - 1) == len(filled)
    await connection.execute(
        "update vitals_minute set heart_rate = 1, pulse_rate = 2 where minute = (select min(minute) from vitals_minute)"
    )
    assert await rebuild_minutes(connection, [1], START_US, end) == 1
    mended = await minutes(connection, [1], START_US, end)
    assert [(row.minute_us, row.medians, row.n) for row in mended] == [
        (row.minute_us, row.medians, row.n) for row in filled
    ]
    assert [row.is_revised for row in mended] == [True] + [False] * (len(mended) - 1)


async def test_a_minute_whose_values_were_withdrawn_stays_empty_and_revised(connection: Connection) -> None:
    number = minute_concepts()[0]
    there = Sample(1, number, 80.0, "", START_US, START_US, 0, 5, "", "monitors", FIRST, 0, 0)
    gone = Sample(1, number, 80.0, "", START_US, START_US, 3, 5, "", "monitors", FIRST + 1, 0, 0)
    await timeseries.write(connection, [there], FIRST, START_US)
    assert await rebuild_minutes(connection, [1], START_US, START_US + 1) == 1
    await timeseries.write(connection, [gone], FIRST + 1, START_US)
    assert await rebuild_minutes(connection, [1], START_US, START_US + 1) == 1
    assert await minutes(connection, [1], START_US, START_US + 1) == [
        Minute(1, START_US, (None,) * 11, (0,) * 11, is_revised=True)
    ]


async def test_a_merged_patient_s_minutes_are_made_of_all_its_records(connection: Connection) -> None:
    number = minute_concepts()[0]
    for patient_id, value, position in ((1, 80.0, FIRST), (2, 90.0, FIRST + 1)):
        one = Sample(patient_id, number, value, "", START_US + patient_id, START_US, 0, 5, "", "m", position, 0, 0)
        await timeseries.write(connection, [one], position, START_US)
        await rebuild_minutes(connection, [patient_id], START_US, START_US + 1)
    assert await rebuild_minutes(connection, [1, 2], START_US, START_US + 1) == 1
    (row,) = await minutes(connection, [1, 2], START_US, START_US + 1)
    assert (row.patient_id, row.medians[0], row.n[0], row.is_revised) == (1, 85.0, 2, True)
