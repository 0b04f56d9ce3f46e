"""Tables of the learning plane: batch equals the kernel, parts never mix, exclusions are counted, days are whole."""

from __future__ import annotations

from datetime import UTC, date, datetime
from xml.etree import ElementTree as ET

import dagster as dg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets import audits, cohorts, event_tables, features, live_events, partitions, parts, pictures, recorded, verdicts
from assets.event_tables import MINUTE_US
from assets.partitions import LiveDay
from interop.physionet2012 import Outcome, RecordedStay
from models import stay_features
from models.feature_table import MORTALITY, names
from models.stay_series import bins_of_records
from stores.lake import ADMISSION, DEATH, DISCHARGE, About, Lake, Split
from stores.lake_live import DayOfStay, DayStay
from stores.samples import Sample, columns_of, transpose
from validation import expectations
from vocabulary import verdict as verdict_words
from vocabulary.concepts import by_key
from vocabulary.errors import ConfigurationError
from vocabulary.verdict import Kind, Measure, Series, Verdict

HOURS = (6, 12, 24, 48)
AGE, HEART_RATE, CREATININE = (by_key(key).number for key in ("age", "heart_rate", "creatinine"))


def stay(number: int, *, age: float = 60.0, outcome: Outcome | None = None, values: int = 40) -> RecordedStay:
    """A stay with heart rates at odd minutes, some minutes twice."""
    rng = np.random.default_rng(number)
    minutes = np.sort(rng.integers(0, 2_881, values)).astype(np.int32)
    concepts = np.where(rng.random(values) < 0.8, HEART_RATE, CREATININE).astype(np.int16)
    readings = np.where(concepts == HEART_RATE, rng.normal(85, 15, values), rng.normal(1.2, 0.2, values))
    return RecordedStay(
        str(number), "female" if number % 2 else "male", "medical",
        np.r_[np.int16(AGE), concepts].astype(np.int16), np.r_[np.int32(0), minutes].astype(np.int32),
        np.r_[age, np.abs(readings)], (),
        outcome if outcome is not None else Outcome(number % 3 == 0, 12, 4, 3),
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path)


def written(lake, stays):
    splits = [Split(int(one.record_id), parts.split_of(one.record_id)) for one in stays]
    return lake.write(About(dataset_name="trial"), event_tables.recorded_tables(iter(stays), "trial"), splits)


def test_features_out_of_the_lake_are_bit_for_bit_those_of_the_recorded_stays(lake):
    stays = [stay(number) for number in range(100, 130)]
    dataset = written(lake, stays)
    cohort, _ = cohorts.build(lake, dataset)
    table = features.build(cohort, features.bins_of(lake, dataset, np.asarray(cohort.column("subject_id"))), HOURS)
    bins = bins_of_records(stays)
    index = np.repeat(np.arange(len(stays), dtype=np.int32), len(HOURS))
    expected = stay_features.compute(MORTALITY, bins, index, np.tile(np.array(HOURS, np.int32) * 60, len(stays)))
    assert features.matrix_of(table).tobytes() == expected.tobytes()
    assert table.column_names == [*features.FACTS, *names(MORTALITY)]
    available = np.asarray(table.column("available_minute"))
    assert (available <= np.asarray(table.column("through_minute"))).all()
    for row in range(table.num_rows):
        one = stays[row // len(HOURS)]
        known = one.minutes[one.minutes <= HOURS[row % len(HOURS)] * 60]
        assert available[row] == known.max()


def test_bins_follow_the_order_of_the_stays_asked_for(lake):
    stays = [stay(number) for number in (7, 30, 200)]
    dataset = written(lake, stays)
    there = features.bins_of(lake, dataset, np.array([200, 7]))
    again = bins_of_records([stays[2], stays[0]])
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(there[:4], again[:4], strict=True))


def test_who_is_left_out_is_counted_by_reason(lake):
    unknown = stay(1)._replace(outcome=None)
    young = stay(2, age=15.0)
    empty = stay(3, values=0)
    empty = empty._replace(concepts=empty.concepts[:0], minutes=empty.minutes[:0], values=empty.values[:0])
    cohort, excluded = cohorts.build(lake, written(lake, [unknown, young, empty, stay(4), stay(6)]))
    assert excluded == {cohorts.NO_OUTCOME: 1, cohorts.TOO_YOUNG: 1, cohorts.NO_MEASUREMENT: 1}
    assert cohort.column("subject_id").to_pylist() == [4, 6]
    assert cohort.column("died").to_pylist() == [0, 1]
    assert cohort.column("saps_i").to_pylist() == [12.0, 12.0]
    assert cohort.column("sex").to_pylist() == ["male", "male"]
    assert cohort.column("stay_minutes").to_pylist() == [4320, 4320]


def test_outcome_and_scores_are_not_available_before_they_could_be_known(lake):
    events = lake.read(written(lake, [stay(6)]))
    rows = events.to_pylist()
    by_code = {row["code"]: row for row in rows}
    assert by_code[event_tables.SAPS_I]["minute"] == 1440
    assert by_code[DISCHARGE]["minute"] == by_code[DEATH]["minute"] == 4320
    assert rows[0]["time"] is None  # sex has no time
    assert ADMISSION in by_code
    assert all(row["available_at"] == row["time"] for row in rows)


def test_events_of_the_lake_keep_the_expectations(lake):
    events = lake.read(written(lake, [stay(number) for number in range(10, 40)])).to_pandas()
    verdict = expectations.judge_events(events, uses_great_expectations=False)
    assert verdict.outcome == "pass", verdict.statement
    late = events.copy()
    late.loc[late.index[-2], "available_at"] = late["time"].min()
    wrong_unit = events.assign(unit="mmol/L")
    for broken in (wrong_unit, events.assign(value=1e9)):
        assert expectations.judge_events(broken, uses_great_expectations=False).outcome == "fail"


@given(st.integers(0, 10**9))
def test_a_stays_part_depends_on_its_record_alone(number):
    assert parts.split_of(str(number)) == parts.split_of(str(number))
    assert parts.split_of(str(number)) in {parts.TRAIN, parts.HELD_OUT}


def test_seven_tenths_train():
    share = np.mean([parts.split_of(str(number)) == parts.TRAIN for number in range(20_000)])
    assert abs(share - 0.7) < 0.01


DAY = LiveDay("demo", date(2026, 3, 1))


def live_stay(started_us, ended_us=None, outcome="", values=()):
    samples = [
        Sample(5, HEART_RATE, value, "", at_us, at_us + 1_000_000, 1, 1, "", "monitors", 1, 0, index)
        for index, (at_us, value) in enumerate(values)
    ]
    columns = columns_of(transpose(samples)) if samples else columns_of([[] for _ in Sample.__struct_fields__])
    return DayOfStay(DayStay(9, 5, started_us, ended_us, outcome), columns)


def test_a_closed_day_counts_minutes_of_the_clock_from_the_admission(lake):
    started = DAY.from_us - 90 * MINUTE_US + 59_000_000  # 22:30:59 of the day before
    at_us = DAY.from_us + 30 * MINUTE_US
    died_us = DAY.from_us + 600 * MINUTE_US
    table = live_events.day_table(
        DAY, [live_stay(started, died_us, "died", [(at_us, 80.5), (at_us + 1, float("nan"))])]
    )
    rows = table.to_pylist()
    assert [row["code"] for row in rows] == [ADMISSION, "LOINC//8867-4", DISCHARGE, DEATH]
    assert rows[1]["minute"] == 120
    assert rows[1]["available_at"] == datetime.fromtimestamp(at_us / 1e6 + 1, tz=UTC).replace(tzinfo=None)
    assert (rows[1]["subject_id"], rows[1]["encounter_id"], rows[1]["source"]) == (5, 9, "monitors")
    dataset = lake.write(About(dataset_name=DAY.dataset_name), [table])
    verdict = expectations.judge_events(lake.read(dataset).to_pandas(), uses_great_expectations=False)
    assert verdict.outcome == "pass", verdict.statement


def test_an_audited_day_has_the_rows_whose_hour_fell_into_it_as_the_kernel_computes_them(lake):
    started = DAY.from_us - 10 * 3_600_000_000  # hour 12 of the stay is 02:00 of the day
    before = LiveDay("demo", date(2026, 2, 28))
    first = [(started + minute * MINUTE_US, 70.0 + minute) for minute in range(0, 300, 50)]
    second = [(DAY.from_us + minute * MINUTE_US, 90.0 + minute) for minute in range(0, 300, 50)]
    for day, values in ((before, first), (DAY, second)):
        lake.write(
            About(dataset_name=day.dataset_name), [live_events.day_table(day, [live_stay(started, None, "", values)])]
        )
    rows, hours = audits.day_rows(lake, DAY, HOURS)
    assert hours.tolist() == [12]
    samples = [(at_us, value) for at_us, value in (*first, *second)]
    record = RecordedStay(
        "9", "", "", np.full(len(samples), HEART_RATE, np.int16),
        np.array([(at_us - started) // MINUTE_US for at_us, _ in samples], np.int32),
        np.array([value for _, value in samples]), (), None,
    )  # fmt: skip
    expected = stay_features.compute(
        MORTALITY, bins_of_records([record]), np.zeros(1, np.int32), np.array([720], np.int32)
    )
    assert rows.tobytes() == expected.tobytes()


def test_a_day_nobody_wrote_has_no_rows(lake):
    rows, hours = audits.day_rows(lake, DAY, HOURS)
    assert rows.shape == (0, len(names(MORTALITY)))
    assert len(hours) == 0


@given(st.dates(date(2026, 1, 1), date(2030, 1, 1)))
def test_a_partition_key_names_its_day(day):
    assert partitions.live_day(LiveDay("demo", day).key) == LiveDay("demo", day)
    assert partitions.live_day(str(LiveDay("demo", day).key)) == LiveDay("demo", day)
    assert LiveDay("demo", day).to_us - LiveDay("demo", day).from_us == 86_400_000_000


def test_the_fingerprint_of_a_folder_is_its_bytes_and_an_empty_one_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="hospital cohort"):
        recorded.look(tmp_path)
    (tmp_path / "132539.txt").write_text("a")
    first = recorded.look(tmp_path)
    (tmp_path / "132539.txt").write_text("a")
    assert recorded.look(tmp_path) == first
    (tmp_path / "132539.txt").write_text("b")
    assert recorded.look(tmp_path).fingerprint != first.fingerprint
    (tmp_path / "SYNTHETIC.txt").write_text("means nothing clinically")
    assert recorded.look(tmp_path).is_synthetic


@pytest.mark.parametrize(
    ("outcome", "is_passed", "severity"),
    [("pass", True, "WARN"), ("inconclusive", False, "WARN"), ("fail", False, "ERROR")],
)
def test_only_a_failure_is_an_error_and_only_a_pass_is_green(outcome, is_passed, severity):
    verdict = Verdict(
        kind=Kind.CLINICAL, subject="trial", outcome=verdict_words.Outcome(outcome), statement="As told.",
        measures=(Measure(name="auroc", value=0.8, low=0.7, high=0.9, at_least=0.78, count=10),),
        series=(Series(name="calibration", x_label="said", y_label="seen", x=(0.0, 1.0), y=(0.1, float("nan"))),),
    )  # fmt: skip
    key = dg.AssetKey(["gate", "clinical"])
    result = verdicts.result(verdict, key)
    assert (result.passed, result.severity.value, result.description) == (is_passed, severity, "As told.")
    assert result.metadata["auroc"].value == 0.8
    assert "plot_calibration" in result.metadata


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(st.tuples(numbers, numbers), max_size=8), st.text("ab<&>\"' é", max_size=12))
def test_plots_are_well_formed_whatever_the_numbers(points, name):
    series = Series(name=name, x_label="<x>", y_label="&", x=tuple(x for x, _ in points), y=tuple(y for _, y in points))
    drawn = pictures.curves("Title", [series], is_diagonal=True)
    barred = pictures.bars(name, ["a"] * len(points), [y for _, y in points])
    for svg in (drawn, barred):
        assert ET.fromstring(svg).tag.endswith("svg")
    assert "nan" not in drawn
