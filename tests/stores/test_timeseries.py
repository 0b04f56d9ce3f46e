"""The time series on PostgreSQL: corrections, merges, compaction beside writers and readers, damage, refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from stores import latest as walking
from stores import signals, timeseries
from stores.database import Connection, connect, consistent_read, to_timestamp, transaction
from stores.timeseries import CorruptBlockError, Sample
from vocabulary.concepts import CONCEPTS, by_key
from vocabulary.errors import BrokenInvariantError

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
START_US = 1_770_000_000_000_000 // HOUR_US * HOUR_US
FIRST = 1 << 40
HEART_RATE = by_key("heart_rate").number
PRESSURE = by_key("systolic_blood_pressure").number
LACTATE = next(c.number for c in CONCEPTS if c.signal_group == 0 and c.category == "laboratory")


def sample(at_us: int, value: float, position: int, **fields: object) -> Sample:
    given = {
        "patient_id": 1, "concept": HEART_RATE, "value": value, "text": "", "effective_at_us": at_us,
        "received_at_us": at_us + SECOND_US, "status": 0, "source_key": 5, "device": "bed 1", "feed": "monitors",
        "position": position, "raw_index": 0, "value_index": 0,
    }  # fmt: skip
    return Sample(**{**given, **fields})  # type: ignore[arg-type]


async def put(connection: Connection, samples: Sequence[Sample]) -> None:
    async with transaction(connection):
        await timeseries.write(connection, samples, max(s.known_from for s in samples), START_US)


async def put_a_commit_each(connection: Connection, samples: Sequence[Sample]) -> None:
    async with transaction(connection):
        for one in samples:
            await timeseries.write(connection, [one], one.known_from, START_US)


def seconds(count: int, *, first_position: int = FIRST, start_us: int = START_US) -> list[Sample]:
    return [
        sample(start_us + second * SECOND_US, 60.0 + second % 50, first_position + second) for second in range(count)
    ]


@pytest.mark.parametrize("concept", [HEART_RATE, LACTATE])
async def test_a_late_correction_is_the_latest_only_for_who_knew_it(connection: Connection, concept: int) -> None:
    first = sample(START_US, 80.0, FIRST + 1, concept=concept)
    newer = sample(START_US + HOUR_US, 90.0, FIRST + 2, concept=concept)
    correction = sample(START_US + HOUR_US, 91.0, FIRST + 7, concept=concept, status=2)
    withdrawal = sample(START_US + HOUR_US, 91.0, FIRST + 9, concept=concept, status=3)
    await put_a_commit_each(connection, [first, newer, correction, withdrawal])
    for known_at, expected in ((FIRST, None), (FIRST + 1, first), (FIRST + 6, newer), (FIRST + 7, correction),
                               (FIRST + 8, correction), (FIRST + 9, first), (None, first)):  # fmt: skip
        found = await timeseries.latest(connection, [1], as_of_us=START_US + 2 * HOUR_US, known_at=known_at)
        assert found.get(concept) == expected
    await connection.rollback()
    assert await timeseries.revisions(connection, [1], concept, START_US + HOUR_US) == [newer, correction, withdrawal]


@pytest.mark.parametrize("concept", [HEART_RATE, LACTATE])
async def test_a_released_message_is_known_from_its_release(connection: Connection, concept: int) -> None:
    held = sample(START_US, 80.0, FIRST + 1, concept=concept, released_position=FIRST + 5)
    await put(connection, [held])
    for known_at, expected in ((FIRST + 4, []), (FIRST + 5, [held])):
        rows = await timeseries.range_(connection, [1], [concept], START_US, START_US + 1, known_at=known_at)
        assert rows == expected
        latest = await timeseries.latest(connection, [1], as_of_us=START_US, known_at=known_at)
        assert list(latest.values()) == expected


async def test_a_correction_after_a_merge_replaces_what_the_retired_id_holds(connection: Connection) -> None:
    for concept in (HEART_RATE, LACTATE):
        before = sample(START_US, 80.0, FIRST + 1, concept=concept, patient_id=2)
        after = sample(START_US, 82.0, FIRST + 9, concept=concept, patient_id=1)
        await put(connection, [before])
        await put(connection, [after])
        assert await timeseries.range_(connection, [1, 2], [concept], START_US, START_US + 1) == [after]
        assert (await timeseries.latest(connection, [1, 2], as_of_us=START_US))[concept] == after
        assert (await timeseries.latest(connection, [2], as_of_us=START_US))[concept] == before
        await connection.rollback()


async def test_merged_walks_do_not_stop_at_the_newer_record_s_old_hour(connection: Connection) -> None:
    """One id has a compacted old hour, the other many newer unread blocks: neither may settle for the other."""
    old = [sample(START_US + n, 50.0, FIRST + n, patient_id=2, concept=PRESSURE) for n in range(1, 4)]
    await put(connection, old)
    await timeseries.compact(connection, START_US + 5 * HOUR_US)
    between = START_US + 6 * HOUR_US
    await put(connection, [sample(between - 1, 60.0, FIRST + 50, patient_id=2, concept=PRESSURE)])
    beats = [sample(between + n * SECOND_US, 70.0, FIRST + 100 + n) for n in range(40)]
    cuff = sample(between + 3 * SECOND_US, 110.0, FIRST + 99, concept=PRESSURE)
    await put_a_commit_each(connection, [cuff, *beats])
    found = await timeseries.latest(
        connection, [1, 2], as_of_us=START_US + 7 * HOUR_US, concepts=[PRESSURE, HEART_RATE]
    )
    assert found == {PRESSURE: cuff, HEART_RATE: beats[-1]}


async def test_latest_reads_a_few_blocks_of_many(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    cuff = sample(START_US + 200 * SECOND_US, 120.0, FIRST + 200, concept=PRESSURE)
    beats = [one for one in seconds(600) if one.position != cuff.position]
    await put_a_commit_each(connection, sorted([*beats, cuff], key=lambda s: s.position))
    read = []
    decode = walking.blocks.decode_into
    monkeypatch.setattr(walking.blocks, "decode_into", lambda *given: (read.append(1), decode(*given)))
    found = await timeseries.latest(connection, [1], as_of_us=START_US + HOUR_US)
    assert found == {HEART_RATE: beats[-1], PRESSURE: cuff}
    assert len(read) < 20


async def test_latest_is_bounded_by_its_lookback(connection: Connection) -> None:
    old, lactate = sample(START_US, 80.0, FIRST), sample(START_US, 2.0, FIRST, concept=LACTATE, value_index=1)
    await put(connection, [old, lactate])
    just_in = START_US + 48 * HOUR_US
    assert set(await timeseries.latest(connection, [1], as_of_us=just_in)) == {HEART_RATE, LACTATE}
    assert set(await timeseries.latest(connection, [1], as_of_us=just_in + 1)) == {LACTATE}
    assert await timeseries.latest(connection, [1], as_of_us=just_in + 1, event_lookback_s=48 * 3600) == {}
    assert set(await timeseries.latest(connection, [1], as_of_us=just_in + 1, lookback_s=72 * 3600)) == {
        HEART_RATE, LACTATE,
    }  # fmt: skip


async def test_writing_a_commit_twice_is_a_broken_invariant(connection: Connection) -> None:
    for one in (sample(START_US, 80.0, FIRST), sample(START_US, 2.0, FIRST, concept=LACTATE)):
        await put(connection, [one])
        with pytest.raises(BrokenInvariantError):
            await put(connection, [one])
    assert len(await timeseries.range_(connection, [1], None, START_US, START_US + 1)) == 2


async def test_what_the_concept_table_does_not_know_is_refused(connection: Connection) -> None:
    with pytest.raises(BrokenInvariantError, match="concept"):
        await timeseries.write(connection, [sample(START_US, 1.0, FIRST, concept=32_000)], FIRST, START_US)
    with pytest.raises(BrokenInvariantError, match="log position"):
        await timeseries.write(connection, [sample(START_US, 1.0, FIRST + 1)], FIRST, START_US)


async def test_an_unknown_or_empty_selection_is_empty(connection: Connection) -> None:
    await put(connection, seconds(3))
    end = START_US + HOUR_US
    assert await timeseries.range_(connection, [1], [32_000], START_US, end) == []
    assert await timeseries.range_(connection, [1], [], START_US, end) == []
    assert await timeseries.range_(connection, [99], None, START_US, end) == []
    assert await timeseries.range_(connection, [1], None, end, START_US) == []
    assert await timeseries.latest(connection, [99], as_of_us=end) == {}
    assert await timeseries.series(connection, [99], [HEART_RATE], START_US, end) == {}
    assert await timeseries.hourly(connection, [1], HEART_RATE, START_US, START_US) == []


async def test_compaction_leaves_the_open_hour_and_makes_one_block_of_a_closed_one(connection: Connection) -> None:
    await put_a_commit_each(connection, seconds(50))
    await put_a_commit_each(connection, seconds(20, first_position=FIRST + 1000, start_us=START_US + HOUR_US))
    done = await timeseries.compact(connection, START_US + 2 * HOUR_US - 1)
    assert (done.hours, done.blocks_before, done.samples, done.corrupt) == (1, 50, 50, ())
    assert done.bytes_after < done.bytes_before / 5
    sizes = await timeseries.sizes(connection)
    assert (sizes.blocks, sizes.open_blocks, sizes.block_samples) == (21, 20, 70)
    assert await timeseries.compact(connection, START_US + 2 * HOUR_US - 1) == timeseries.Compacted()


async def test_a_backfilled_hour_keeps_its_bytes_when_compacted(connection: Connection) -> None:
    beats = seconds(600)
    await put(connection, beats)
    before = await connection.execute("select level, n, columns from signal_block")
    level, n, columns = (await before.fetchall())[0]
    assert (level, n) == (0, 600)
    await timeseries.compact(connection, START_US + HOUR_US)
    after = await connection.execute("select level, n, columns from signal_block")
    assert await after.fetchall() == [(1, 600, columns)]
    assert await timeseries.range_(connection, [1], None, START_US, START_US + HOUR_US) == beats


async def test_a_late_value_is_merged_into_the_compacted_hour_the_next_time(connection: Connection) -> None:
    on_time = seconds(50)
    await put_a_commit_each(connection, on_time)
    await timeseries.compact(connection, START_US + HOUR_US)
    late = sample(START_US + 7 * SECOND_US, 99.0, FIRST + 500, status=2)
    await put(connection, [late])
    expected = [late if one.effective_at_us == late.effective_at_us else one for one in on_time]
    for _ in range(2):
        assert await timeseries.range_(connection, [1], None, START_US, START_US + HOUR_US) == expected
        known = await timeseries.range_(connection, [1], None, START_US, START_US + HOUR_US, known_at=FIRST + 499)
        assert known == on_time
        curve = await timeseries.series(
            connection, [1], [HEART_RATE], START_US, START_US + HOUR_US, known_at=FIRST + 499
        )
        assert curve[HEART_RATE].value.tolist() == [one.value for one in on_time]
        await connection.rollback()
        await timeseries.compact(connection, START_US + HOUR_US)
        sizes = await timeseries.sizes(connection)
        assert (sizes.blocks, sizes.block_samples) == (1, 51)


async def test_a_curve_knows_nothing_of_a_compacted_block_s_later_values(connection: Connection) -> None:
    beats = seconds(10)
    await put_a_commit_each(connection, beats)
    await timeseries.compact(connection, START_US + HOUR_US)
    for count in (0, 4, 10):
        curve = await timeseries.series(
            connection, [1], [HEART_RATE], START_US, START_US + HOUR_US, known_at=FIRST + count - 1
        )
        values = curve[HEART_RATE].value.tolist() if curve else []
        assert values == [one.value for one in beats[:count]]
        hours = await timeseries.hourly(
            connection, [1], HEART_RATE, START_US, START_US + HOUR_US, known_at=FIRST + count - 1
        )
        assert [hour.n for hour in hours] == ([count] if count else [])


async def test_compaction_and_a_writer_at_once_lose_nothing(connection: Connection, migrated_url: str) -> None:
    beats = seconds(300)
    await put_a_commit_each(connection, beats[:200])

    async def write() -> None:
        writer = await connect(migrated_url, application_name="vigil test writer")
        for one in beats[200:]:
            async with transaction(writer):
                await timeseries.write(writer, [one], one.position, START_US)
        await writer.close()

    async def compact() -> None:
        compactor = await connect(migrated_url, application_name="vigil test compactor")
        for _ in range(20):
            await timeseries.compact(compactor, START_US + HOUR_US)
        await compactor.close()

    await asyncio.gather(write(), compact(), compact())
    await connection.rollback()
    assert await timeseries.range_(connection, [1], None, START_US, START_US + HOUR_US) == beats
    assert (await timeseries.sizes(connection)).block_samples == 300


async def test_readers_never_miss_a_value_while_compaction_runs(connection: Connection, migrated_url: str) -> None:
    """`latest` asks several queries: rows that move between them would be lost without the lock."""
    cuff = sample(START_US, 120.0, FIRST, concept=PRESSURE)
    await put_a_commit_each(connection, [cuff, *seconds(400, first_position=FIRST + 1)])
    compactor = await connect(migrated_url, application_name="vigil test compactor")
    reader_is_between_queries, compaction_tried = asyncio.Event(), asyncio.Event()
    back = walking.signals.back

    async def slow_back(*given: object) -> object:
        page = await back(*given)  # type: ignore[arg-type]
        reader_is_between_queries.set()
        await compaction_tried.wait()
        return page

    async def compact() -> timeseries.Compacted:
        await reader_is_between_queries.wait()
        done = await timeseries.compact(compactor, START_US + HOUR_US)
        compaction_tried.set()
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walking.signals, "back", slow_back)
        found, done = await asyncio.gather(
            timeseries.latest(connection, [1], as_of_us=START_US + HOUR_US, concepts=[PRESSURE, HEART_RATE]), compact()
        )
    assert found[PRESSURE] == cuff
    assert (done.hours, done.skipped_patients) == (0, 1)
    await connection.rollback()
    assert (await timeseries.compact(compactor, START_US + HOUR_US)).hours == 1
    await compactor.close()


async def test_latest_works_in_a_read_only_snapshot(connection: Connection) -> None:
    beats = seconds(30)
    await put_a_commit_each(connection, beats)
    async with consistent_read(connection):
        assert await timeseries.latest(connection, [1], as_of_us=START_US + HOUR_US) == {HEART_RATE: beats[-1]}


async def test_a_damaged_block_is_an_error_for_readers_and_left_alone_by_compaction(connection: Connection) -> None:
    await put_a_commit_each(connection, seconds(5))
    await put(connection, seconds(5, first_position=FIRST + 100, start_us=START_US + HOUR_US))
    async with transaction(connection):
        await connection.execute(
            "update signal_block set columns = set_byte(columns, 70, get_byte(columns, 70) # 1) where revision = %s",
            (FIRST + 2,),
        )
    end = START_US + 2 * HOUR_US
    for read in (
        timeseries.range_(connection, [1], None, START_US, end),
        timeseries.series(connection, [1], [HEART_RATE], START_US, end),
        timeseries.latest(connection, [1], as_of_us=START_US + 3 * SECOND_US),
        timeseries.revisions(connection, [1], HEART_RATE, START_US + 2 * SECOND_US),
    ):
        with pytest.raises(CorruptBlockError):
            await read
        await connection.rollback()
    done = await timeseries.compact(connection, end)
    group = signals.NUMERICS
    assert (done.hours, done.corrupt) == (1, ((1, group, START_US),))
    sizes = await timeseries.sizes(connection)
    assert (sizes.blocks, sizes.block_samples) == (6, 10)


async def test_a_block_moved_to_another_patient_is_an_error(connection: Connection) -> None:
    await put(connection, seconds(5))
    async with transaction(connection):
        await connection.execute("update signal_block set patient_id = 2")
    with pytest.raises(CorruptBlockError):
        await timeseries.range_(connection, [2], None, START_US, START_US + HOUR_US)


async def test_hourly_summaries_equal_the_values(connection: Connection) -> None:
    rows = [
        sample(
            START_US + second * 37 * SECOND_US, 60.0 + second % 7, FIRST + second, patient_id=patient,
            concept=concept, value_index=concept,
        )
        for patient in (1, 2) for second in range(300) for concept in (HEART_RATE, LACTATE)
    ]  # fmt: skip
    await put(connection, [one for one in rows if one.patient_id == 1])
    await put(connection, [one for one in rows if one.patient_id == 2])
    await timeseries.compact(connection, START_US + 2 * HOUR_US)  # the last hour stays open
    late = sample(START_US + HOUR_US, 75.0, FIRST + 999, status=2, source_key=8)
    await put(connection, [late])
    for concept in (HEART_RATE, LACTATE):
        chosen = [one for one in [*rows, late] if one.concept == concept]
        found = await timeseries.hourly(connection, [1, 2], concept, START_US, START_US + 4 * HOUR_US)
        keys = sorted({(one.patient_id, one.effective_at_us // HOUR_US * HOUR_US) for one in chosen})
        assert [(hour.patient_id, hour.hour_us) for hour in found] == keys
        for hour in found:
            values = [
                one.value
                for one in chosen
                if one.patient_id == hour.patient_id and hour.hour_us <= one.effective_at_us < hour.hour_us + HOUR_US
            ]
            assert (hour.n, hour.least, hour.greatest) == (len(values), min(values), max(values))
            assert hour.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-12)


async def test_texts_and_not_a_number_survive_both_tables(connection: Connection) -> None:
    coded = next(c.number for c in CONCEPTS if c.kind != "quantity" and c.signal_group == 0)
    rows = [
        sample(START_US, math.nan, FIRST, concept=coded, text="Unresponsive · 意识"),
        sample(START_US + 1, math.nan, FIRST + 1, text="—"),
        sample(START_US + 2, math.inf, FIRST + 2),
        sample(START_US + 2, -0.0, FIRST + 2, concept=LACTATE),
    ]
    await put_a_commit_each(connection, rows[:2])
    await put(connection, rows[2:])
    found = await timeseries.range_(connection, [1], None, START_US, START_US + HOUR_US)
    assert [(s.concept, s.text, repr(s.value)) for s in found] == [
        (coded, "Unresponsive · 意识", "nan"), (HEART_RATE, "—", "nan"),
        *sorted([(HEART_RATE, "", "inf"), (LACTATE, "", "-0.0")]),
    ]  # fmt: skip


async def test_the_row_says_what_lies_within(connection: Connection) -> None:
    await put(connection, [sample(START_US + 1_500, 60.0, FIRST), sample(START_US + 9_999_001, 61.0, FIRST + 1)])
    found = await connection.execute(
        "select t0, revision, known_from, effective_from_ms, effective_to_ms, n, level, concept_bits from signal_block"
    )
    assert await found.fetchone() == (
        to_timestamp(START_US), FIRST + 1, to_timestamp(START_US), 1, 10_000, 2, 0, 1 << HEART_RATE,
    )  # fmt: skip


def test_no_two_high_rate_concepts_share_a_filter_bit() -> None:
    """Sharing would stay correct (test_bitemporal does it) but read more blocks than needed."""
    bits = [signals.bit_of(concept.number) for concept in CONCEPTS if concept.signal_group]
    assert len(bits) == len(set(bits))


async def test_a_message_of_several_signal_groups_is_one_row(connection: Connection) -> None:
    several = {concept.signal_group: concept.number for concept in CONCEPTS if concept.signal_group}
    assert len(several) > 1
    message = [sample(START_US, 9.0, FIRST, concept=number, value_index=number) for number in several.values()]
    await put(connection, message)
    assert (await timeseries.sizes(connection)).blocks == 1
    rows = await timeseries.range_(connection, [1], [message[0].concept], START_US, START_US + 1)
    assert rows == message[:1]
