"""Latest, range, as of, as known at: equal to a brute-force oracle, whatever the lateness, batching and compaction."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import timeseries
from stores.database import Connection
from stores.timeseries import Sample
from vocabulary.records import ObservationStatus

HOUR_US = 3_600_000_000
START_US = 1_770_000_000_000_000 // HOUR_US * HOUR_US
# Concept to signal group. 1 and 145 share a filter bit, 143 has the sign's; 130 holds texts in a block; 900 and 901 are
# events; 70 has a block group of its own.
GROUPS = {1: 1, 145: 2, 143: 3, 130: 2, 70: 10, 900: 0, 901: 0}
PATIENTS = (10, 11, 12)


def key_of(sample: Sample) -> tuple[int, int, int]:
    return sample.position, sample.raw_index, sample.value_index


def known(samples: Iterable[Sample], ids: Sequence[int], known_at: int | None) -> list[Sample]:
    return [
        sample
        for sample in samples
        if sample.patient_id in ids
        and (known_at is None or (sample.position <= known_at and sample.released_position <= known_at))
    ]


def oracle_current(samples: Iterable[Sample], ids: Sequence[int], known_at: int | None) -> list[Sample]:
    """The rule of the contract, as slowly as it reads."""
    measurements: dict[tuple[int, int, int], list[Sample]] = {}
    for sample in known(samples, ids, known_at):
        measurements.setdefault((sample.concept, sample.effective_at_us, sample.source_key), []).append(sample)
    winners = [max(revisions, key=key_of) for revisions in measurements.values()]
    return [winner for winner in winners if winner.status != ObservationStatus.ENTERED_IN_ERROR]


def oracle_latest(
    samples: Iterable[Sample], ids: Sequence[int], as_of_us: int, known_at: int | None
) -> dict[int, Sample]:
    best: dict[int, Sample] = {}
    for sample in oracle_current(samples, ids, known_at):
        if sample.effective_at_us <= as_of_us:
            rival = best.get(sample.concept)
            if rival is None or (sample.effective_at_us, key_of(sample)) > (rival.effective_at_us, key_of(rival)):
                best[sample.concept] = sample
    return best


def bits(sample: Sample) -> tuple[object, ...]:
    """A sample as something equal to itself even when its value is NaN, and unequal when only a zero's sign differs."""
    fields = [getattr(sample, field) for field in sample.__struct_fields__]
    fields[2] = "nan" if math.isnan(sample.value) else struct.pack("<d", sample.value)
    return tuple(fields)


def listed(samples: Iterable[Sample]) -> list[tuple[object, ...]]:
    return sorted(map(bits, samples), key=repr)


class Commit(NamedTuple):
    samples: list[Sample]
    revision: int
    compact_before_us: int | None  # run compaction after it


@st.composite
def commits(draw: st.DrawFn) -> list[Commit]:
    made: list[Commit] = []
    position, value_index = 1 << 40, 0
    effective_times = st.one_of(
        st.integers(0, 12).map(lambda step: START_US + step * HOUR_US // 2),
        st.integers(0, 6 * HOUR_US).map(lambda offset: START_US + offset),
    )
    values = st.one_of(
        st.integers(30, 200).map(float), st.integers(300, 420).map(lambda tenths: tenths / 10), st.just(-0.0),
        st.floats(allow_nan=False),
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 14))):
        samples: list[Sample] = []
        for _ in range(draw(st.integers(1, 3))):  # messages
            position += draw(st.integers(1, 3))
            is_late_release = draw(st.integers(0, 9)) == 0
            at = draw(effective_times)
            received = START_US + (position - (1 << 40)) * 1_000_003
            patient = draw(st.sampled_from(PATIENTS))
            source = draw(st.sampled_from((5, 6)))
            raw_index = draw(st.integers(0, 2))
            for concept in draw(st.lists(st.sampled_from(sorted(GROUPS)), min_size=1, max_size=4, unique=True)):
                status = draw(st.sampled_from((0, 0, 0, 2, 2, 3)))
                is_text = concept in {901, 130}
                samples.append(
                    Sample(
                        patient_id=patient,
                        concept=concept,
                        value=math.nan if is_text else draw(values),
                        text=draw(st.sampled_from(("A", "V", "Ünresponsive"))) if is_text else "",
                        effective_at_us=at,
                        received_at_us=received,
                        status=status,
                        source_key=source,
                        device=f"device {source}",
                        feed="monitors",
                        position=position - 5 if is_late_release else position,
                        raw_index=raw_index,
                        value_index=value_index,
                        released_position=position if is_late_release else 0,
                    )
                )
                value_index += 1
        compact = draw(st.one_of(st.none(), st.none(), st.integers(1, 8).map(lambda hour: START_US + hour * HOUR_US)))
        made.append(Commit(samples, position, compact))
    return made


async def check(connection: Connection, everything: list[Sample], data: st.DataObject) -> None:
    last = max(sample.known_from for sample in everything)
    for ids in ([10], [10, 11], [12]):
        as_of_us = START_US + data.draw(st.integers(0, 7 * HOUR_US), "as of")
        known_at = data.draw(st.one_of(st.none(), st.integers((1 << 40) - 5, last)), "known at")
        concepts = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(sorted(GROUPS)), unique=True)), "concepts")
        wanted = set(GROUPS if concepts is None else concepts)
        expected = oracle_latest(everything, ids, as_of_us, known_at)
        found = await timeseries.latest(
            connection, ids, as_of_us=as_of_us, known_at=known_at, concepts=concepts, groups=GROUPS
        )
        assert listed(found.values()) == listed(s for s in expected.values() if s.concept in wanted)
        assert all(concept == sample.concept for concept, sample in found.items())

        to_us = as_of_us + data.draw(st.integers(0, 4 * HOUR_US), "interval")
        rows = await timeseries.range_(connection, ids, concepts, as_of_us, to_us, known_at=known_at, groups=GROUPS)
        inside = [
            sample
            for sample in oracle_current(everything, ids, known_at)
            if as_of_us <= sample.effective_at_us < to_us and sample.concept in wanted
        ]
        assert listed(rows) == listed(inside)
        order = [(sample.effective_at_us, sample.concept, sample.source_key) for sample in rows]
        assert order == sorted(order)

        curves = await timeseries.series(connection, ids, wanted, as_of_us, to_us, known_at=known_at, groups=GROUPS)
        pairs = sorted(
            (concept, at, struct.pack("<d", value))
            for concept, curve in curves.items()
            for at, value in zip(curve.effective_at_us.tolist(), curve.value.tolist(), strict=True)
        )
        assert pairs == sorted(
            (s.concept, s.effective_at_us, struct.pack("<d", s.value)) for s in inside if not math.isnan(s.value)
        )


@pytest.mark.timeout(120)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=commits(), data=st.data())
async def test_readers_equal_a_brute_force_oracle(
    connection: Connection, made: list[Commit], data: st.DataObject
) -> None:
    await connection.rollback()
    await connection.execute("truncate signal_block, observation_event")
    everything: list[Sample] = []
    for commit in made:
        written = await timeseries.write(
            connection, commit.samples, commit.revision, START_US + commit.revision, groups=GROUPS
        )
        assert written == len(commit.samples)
        everything += commit.samples
        if commit.compact_before_us is not None:
            await timeseries.compact(connection, commit.compact_before_us)
    await check(connection, everything, data)
    await timeseries.compact(connection, START_US + 100 * HOUR_US)
    assert (await timeseries.sizes(connection)).open_blocks == 0
    await check(connection, everything, data)
    one = data.draw(st.sampled_from(everything), "one")
    ids = [10, 11] if one.patient_id < 12 else [12]
    rows = await timeseries.revisions(connection, ids, one.concept, one.effective_at_us, groups=GROUPS)
    assert listed(rows) == listed(
        sample
        for sample in known(everything, ids, None)
        if (sample.concept, sample.effective_at_us) == (one.concept, one.effective_at_us)
    )
    assert list(map(key_of, rows)) == sorted(map(key_of, rows))
