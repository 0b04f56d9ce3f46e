"""Packed columns: exact round trips, sizes, and damage that never passes for values."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import blocks, hour_blocks
from stores.packing import (
    CorruptBlockError,
    pack_floats,
    pack_integers,
    unpack_floats,
    unpack_integers,
    unpack_many_floats,
    unpack_many_integers,
)
from stores.samples import HOUR_US, Columns, Sample, columns_of, samples_of, transpose

HOUR = 1_770_000_000_000_000 // HOUR_US * HOUR_US
SEED = blocks.seed_of(7, 1, HOUR)
INT64 = st.integers(-(2**63), 2**63 - 1)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
CHARTED = st.one_of(
    st.integers(0, 300).map(float), st.integers(200, 4200).map(lambda tenths: tenths / 10), st.just(-0.0), ANY_FLOAT
)
TEXT = st.one_of(st.just(""), st.text(max_size=6), st.just("\ud800"))


def any_sample() -> st.SearchStrategy[Sample]:
    return st.builds(
        Sample,
        patient_id=st.just(7),
        concept=st.integers(1, 700),
        value=CHARTED,
        text=TEXT,
        effective_at_us=st.integers(HOUR, HOUR + HOUR_US - 1),
        received_at_us=st.one_of(st.just(HOUR + 5), INT64),
        status=st.integers(0, 3),
        source_key=st.one_of(st.just(9), st.integers(0, 2**63 - 1)),
        device=TEXT,
        feed=st.sampled_from(["monitors", "lab"]),
        position=st.one_of(st.just(2**41), st.integers(0, 2**62)),
        raw_index=st.one_of(st.just(0), st.integers(0, 2**33)),
        value_index=st.one_of(st.just(3), st.integers(0, 70_000)),
        released_position=st.one_of(st.just(0), st.integers(0, 2**62)),
    )


def exact(samples: list[Sample]) -> list[str]:
    """Samples as texts that differ when any bit of a value does, except which NaN it is."""
    return [
        repr((struct.pack("<d", s.value) if not math.isnan(s.value) else "nan", [
            getattr(s, name) for name in s.__struct_fields__ if name != "value"
        ]))
        for s in samples
    ]  # fmt: skip


def monitor_hour(concepts: int = 10, seconds: int = 1, seed: int = 1) -> list[Sample]:
    """An hour of a bedside monitor: whole-number vitals in a random walk, arrival jitter, shared packs."""
    random = np.random.default_rng(seed)
    walk = np.array([80.0, 16, 97, 120, 80, 93, 36.7, 21, 79, 38, 12, 4][:concepts])
    made, position = [], 1 << 41
    for second in range(0, 3600, seconds):
        position += int(random.integers(9, 12)) * seconds
        received = HOUR + second * 1_000_000 + int(random.integers(150_000, 400_000))
        index = int(random.integers(0, 200))
        walk = np.round(walk + random.integers(-1, 2, concepts) * np.where(walk < 50, 0.1, 1.0), 1)
        made += [
            Sample(
                7, concept + 1, float(walk[concept]), "", HOUR + second * 1_000_000, received, 0,
                2**61 + concept * 977, "00-11-22-33", "monitors", position, index, concept,
            )
            for concept in range(concepts)
        ]  # fmt: skip
    return made


@given(st.lists(any_sample(), min_size=1, max_size=40))
def test_a_short_block_gives_back_every_bit_in_order(samples: list[Sample]) -> None:
    data = blocks.encode(samples, SEED)
    back = exact(samples_of(blocks.decode(data, 7, SEED)))
    if data[0] == blocks.VERSION:
        assert back == exact(samples)
    else:  # an index too large for the short form
        assert any(s.raw_index >= 2**32 or s.value_index >= 2**16 for s in samples)
        assert sorted(back) == sorted(exact(samples))


@given(st.lists(any_sample(), min_size=1, max_size=60))
def test_an_hour_block_gives_back_every_bit(samples: list[Sample]) -> None:
    data = hour_blocks.encode(columns_of(transpose(samples)), SEED)
    assert sorted(exact(samples_of(hour_blocks.decode(data, 7, SEED)))) == sorted(exact(samples))
    wanted = {samples[0].concept}
    chosen = samples_of(hour_blocks.decode(data, 7, SEED, wanted))
    assert sorted(exact(chosen)) == sorted(exact([s for s in samples if s.concept in wanted]))


def test_more_rows_than_the_short_form_holds_are_written_in_the_long_one() -> None:
    samples = monitor_hour()[:256]
    data = blocks.encode(samples, SEED)
    assert data[0] == hour_blocks.VERSION
    assert blocks.encode(samples[:255], SEED)[0] == blocks.VERSION
    assert sorted(exact(samples_of(blocks.decode(data, 7, SEED)))) == sorted(exact(samples))


@given(st.lists(INT64, max_size=50), st.binary(max_size=5))
def test_integers_come_back_exactly(values: list[int], before: bytes) -> None:
    data = before + pack_integers(np.array(values, np.int64)) + b"after"
    assert unpack_integers(data, len(before), len(values)).tolist() == values


@given(st.lists(st.lists(st.one_of(INT64, st.integers(-9, 9)), max_size=9), max_size=12), st.integers(0, 2))
def test_many_columns_unpack_as_each_alone(columns: list[list[int]], order: int) -> None:
    packed = []
    for values in columns:
        array = np.array(values, np.int64)
        for _ in range(order):
            array = np.cumsum(array)
        packed.append((memoryview(b"x" + pack_integers(array)), 1, len(values)))
    together = unpack_many_integers(packed)
    assert [found.tolist() for found in together] == [unpack_integers(*one).tolist() for one in packed]


@given(st.lists(st.lists(CHARTED, max_size=9), max_size=12))
def test_many_float_columns_unpack_as_each_alone(columns: list[list[float]]) -> None:
    packed = [(memoryview(pack_floats(np.array(values, np.float64))), 0, len(values)) for values in columns]
    for found, values in zip(unpack_many_floats(packed), columns, strict=True):
        assert found.view(np.uint64).tolist() == np.array(values, np.float64).view(np.uint64).tolist()


@given(st.integers(0, 3), st.integers(-(2**40), 2**40), st.lists(st.integers(-3, 3), min_size=4, max_size=80))
def test_regular_integers_come_back_exactly(order: int, start: int, noise: list[int]) -> None:
    values = np.array(noise, np.int64)
    for _ in range(order):
        values = np.cumsum(values)
    values += start
    assert (unpack_integers(pack_integers(values), 0, len(values)) == values).all()


@given(
    st.one_of(st.lists(CHARTED, max_size=50), st.lists(st.sampled_from([37.22222222222222, 0.1 + 0.2]), max_size=50))
)
def test_floats_come_back_to_the_bit(values: list[float]) -> None:
    array = np.array(values, np.float64)
    back = unpack_floats(pack_floats(array), 0, len(values))
    assert back.view(np.uint64).tolist() == array.view(np.uint64).tolist()


@pytest.mark.parametrize("form", ["short", "hour"])
def test_any_single_damaged_byte_is_an_error(form: str) -> None:
    samples = monitor_hour(seconds=600)
    data = blocks.encode(samples, SEED) if form == "short" else hour_blocks.encode(columns_of(transpose(samples)), SEED)
    for place in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = data[:place] + bytes((data[place] ^ flip,)) + data[place + 1 :]
            with pytest.raises(CorruptBlockError):
                blocks.decode(damaged, 7, SEED)
    for size in range(len(data)):
        with pytest.raises(CorruptBlockError):
            blocks.decode(data[:size], 7, SEED)
    with pytest.raises(CorruptBlockError):
        blocks.decode(data + b"\0", 7, SEED)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x01", b"\x02"):
        with pytest.raises(CorruptBlockError):
            blocks.decode(prefix + data, 7, SEED)


@pytest.mark.parametrize("other", [(8, 1, HOUR), (7, 2, HOUR), (7, 1, HOUR + HOUR_US)])
def test_a_block_of_another_row_is_an_error(other: tuple[int, int, int]) -> None:
    samples = monitor_hour(seconds=600)
    for data in (blocks.encode(samples, SEED), hour_blocks.encode(columns_of(transpose(samples)), SEED)):
        with pytest.raises(CorruptBlockError):
            blocks.decode(data, 7, blocks.seed_of(*other))


def test_a_short_block_keeps_its_golden_bytes() -> None:
    """What is stored must stay readable for ever: a change of form needs a new version byte."""
    sample = Sample(7, 1, 36.7, "", HOUR + 1, HOUR + 2, 2, 9, "dev", "lab", 2**41, 3, 4)
    other = Sample(7, 2, 120.0, "", HOUR + 1, HOUR + 2, 0, 9, "dev", "lab", 2**41, 3, 5)
    golden = (
        "01 02 7d6a1a2b 1800 02"  # form, rows, crc32, what varies (value index, status), tenths in 16 bits
        "018833aecd490600 028833aecd490600 0000000000020000 03000000 0400 02 0000000000000000"  # what the first row has
        "0100 0200 6f01 b004"  # concepts 1 and 2, 36.7 and 120.0
        "0400 0500 02 00 0900000000000000"  # value indexes, statuses, source key
        "0300 646576 0300 6c6162 0000"  # dev, lab, no text
    )
    assert blocks.encode([sample, other], SEED) == bytes.fromhex(golden)


def test_an_hour_block_written_before_is_still_read() -> None:
    """Bytes of form 2 as the first release wrote them; another compressor may write others."""
    written = (
        "020102000200000060000000fcb09a5d8b181022"  # form, flags, concepts, samples, body size and crc32, crc32
        "010001000000010000009a999999995942409a999999995942409a99999999594240"  # concept 1: n, numbers, sum, range
        "020001000000010000000000000000005e400000000000005e400000000000005e40"
        "28b52ffd601000b502007402010000001600000009010a09036c61626465760200028833aecd49060009000101006f0400780515a0a016"
        "6d5b0d908294ec0f52045e0aa24a21b08410342f2f63945a8dbc0182331ce1120c97d7275e43ff3e14"
    )
    sample = Sample(7, 1, 36.7, "", HOUR + 1, HOUR + 2, 2, 9, "dev", "lab", 2**41, 3, 4)
    other = Sample(7, 2, 120.0, "", HOUR + 1, HOUR + 2, 0, 9, "dev", "lab", 2**41, 3, 5)
    assert samples_of(blocks.decode(bytes.fromhex(written), 7, SEED)) == [sample, other]


def test_the_directory_says_what_a_concept_holds_without_the_body() -> None:
    samples = monitor_hour(concepts=4)
    columns = columns_of(transpose(samples))
    data = hour_blocks.encode(columns, SEED)
    contents = hour_blocks.directory(data[: hour_blocks.directory_size(4)], SEED)
    assert contents.is_clean
    assert contents.n == len(samples)
    values = [s.value for s in samples if s.concept == 2]
    entry = hour_blocks.summary(data[: contents.size], 2, SEED)
    assert entry is not None
    assert (entry.n, entry.numbers, entry.least, entry.greatest) == (3600, 3600, min(values), max(values))
    assert entry.total == pytest.approx(math.fsum(values), rel=1e-12)
    nothing = hour_blocks.summary(data, 99, SEED)
    assert nothing is not None
    assert nothing.n == 0
    assert hour_blocks.summary(data[: contents.size - 1], 2, SEED) is None
    points = hour_blocks.points([(data, contents, {2, 99}, SEED)])
    assert list(points) == [2]
    assert points[2][0].value.tolist() == values


def test_two_revisions_of_a_measurement_or_a_deletion_make_a_block_unclean() -> None:
    samples = monitor_hour(concepts=2, seconds=600)

    def is_clean(rows: list[Sample]) -> bool:
        data = hour_blocks.encode(columns_of(transpose(rows)), SEED)
        return hour_blocks.directory(data, SEED).is_clean

    def changed(sample: Sample, **fields: object) -> Sample:
        return Sample(**{name: fields.get(name, getattr(sample, name)) for name in sample.__struct_fields__})

    assert is_clean(samples)
    assert not is_clean([*samples, changed(samples[0], position=2**42, device="another")])
    assert not is_clean([*samples[1:], changed(samples[0], status=3)])
    assert is_clean([*samples, changed(samples[0], source_key=1)])


@pytest.mark.parametrize(("seconds", "concepts", "limit"), [(1, 10, 5.0), (1, 4, 5.0), (60, 10, 5.0)])
def test_an_hour_takes_at_most_five_bytes_a_sample(seconds: int, concepts: int, limit: float) -> None:
    samples = monitor_hour(concepts, seconds)
    assert len(hour_blocks.encode(columns_of(transpose(samples)), SEED)) / len(samples) < limit


def test_an_empty_selection_is_empty_columns() -> None:
    data = hour_blocks.encode(columns_of(transpose(monitor_hour(seconds=600))), SEED)
    empty = hour_blocks.decode(data, 7, SEED, {600})
    assert isinstance(empty, Columns)
    assert len(empty.concept) == 0
    assert samples_of(empty) == []


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_an_hour_of_a_monitor_comes_back_whatever_its_jitter(seed: int) -> None:
    samples = monitor_hour(5, 7, seed)
    data = hour_blocks.encode(columns_of(transpose(samples)), SEED)
    back = sorted(samples_of(hour_blocks.decode(data, 7, SEED)), key=lambda s: (s.effective_at_us, s.concept))
    assert back == samples
