"""The player of recorded stays, held against the files themselves and an independent parser of what it sends."""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

import hl7
import pytest

from hospital.messages import Bed
from hospital.stays import (
    PARAMETERS,
    Record,
    RecordingError,
    expected_values,
    messages,
    parse,
    read_stays,
    stay_messages,
)
from interop import hl7v2
from interop.terminology import Terminology
from vocabulary.records import Rejected

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
START = datetime(2026, 1, 1)  # noqa: DTZ001  compared with digits of a DTM written in UTC
BED = Bed("MICU", "01", "1", "PN2012")
FILE = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,-1
00:07,HR,73
00:07,Lactate,1.80
00:07,HR,74
00:07,Temp,35.1
48:00,pH,735
"""


@pytest.fixture
def archive(shared_data: Path) -> Path:
    return shared_data / "icu" / "physionet2012" / "set-a.tar.gz"


def files_of(archive: Path, count: int) -> Iterator[list[dict[str, str]]]:
    """Read stays the plain way: the csv module on extracted members."""
    with tarfile.open(archive) as tar:
        members = (m for m in tar if m.isfile() and Path(m.name).stem.isdigit())
        for member in islice(members, count):
            stream = tar.extractfile(member)
            assert stream is not None
            yield list(csv.DictReader(io.StringIO(stream.read().decode())))


def test_a_file_is_read_as_it_stands() -> None:
    record = parse(FILE, "132539.txt")
    assert (record.record_id, record.sex, record.icu_type) == ("132539", "F", "4")
    assert [(row.minute, row.parameter, row.text) for row in record.rows] == [
        (0, "Age", "54"),
        (0, "Height", "-1"),
        (0, "Weight", "-1"),
        (7, "HR", "73"),
        (7, "Lactate", "1.80"),
        (7, "HR", "74"),
        (7, "Temp", "35.1"),
        (2880, "pH", "735"),
    ]


def test_a_stay_is_told_in_order_with_values_as_written() -> None:
    told = list(stay_messages(parse(FILE, "x"), START_US, BED))
    assert [(m.control_id, m.feed) for m in told] == [
        ("P132539-T85S00-A01", "adt"),
        ("P132539-T85S00-0000M", "monitors"),
        ("P132539-T85S00-0007M", "monitors"),
        ("P132539-T85S00-0007L", "lab"),
        ("P132539-T85S00-2880L", "lab"),
        ("P132539-T85S00-A03", "adt"),
    ]
    vitals = hl7.parse(told[2].body.decode())
    assert [(str(o[3]), str(o[4]), str(o[5])) for o in vitals.segments("OBX")] == [
        ("8867-4^Heart rate^LN", "1", "73"),
        ("8867-4^Heart rate^LN", "2", "74"),
        ("8310-5^Body temperature^LN", "1", "35.1"),
    ]
    assert str(vitals.segment("OBX")[14]) == "20260101000700+0000"
    assert told[-1].at_us - told[0].at_us == (48 * 60 + 1) * 60_000_000


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "heading"),
        ("a,b,c\n", "heading"),
        ("Time,Parameter,Value\n00:00,RecordID\n", "line 2"),
        ("Time,Parameter,Value\nxx:00,HR,1\n", "line 2"),
        ("Time,Parameter,Value\n00:00,RecordID,1\n00:01,Shoes,2\n", "Shoes"),
        ("Time,Parameter,Value\n00:00,HR,2\n", "no RecordID"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_line(text: str, complaint: str) -> None:
    with pytest.raises(RecordingError, match=complaint):
        parse(text, "some.txt")


def test_a_folder_of_files_reads_like_the_archive(tmp_path: Path) -> None:
    (tmp_path / "132539.txt").write_text(FILE)
    assert list(read_stays(tmp_path)) == [parse(FILE, "x")]


OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"


@pytest.mark.parametrize(
    ("line", "disposition", "death"),
    [("132539,6,1,5,-1,0\n", "01", ""), ("132539,6,1,5,3,1\n", "20", "Y"), ("132540,6,1,5,3,1\n", "", "")],
)
def test_the_discharge_tells_who_died_where_the_outcomes_are_known(
    tmp_path: Path, line: str, disposition: str, death: str
) -> None:
    (tmp_path / "132539.txt").write_text(FILE)
    (tmp_path / "Outcomes-a.txt").write_text(OUTCOMES + line)
    (record,) = read_stays(tmp_path)
    *before, last = (hl7.parse(timed.body.decode()) for timed in stay_messages(record, START_US, BED))

    def field(message: hl7.Message, segment: str, number: int) -> str:
        found = message.segment(segment)
        return str(found[number]) if len(found) > number else ""

    assert last.extract_field("MSH", 1, 9, 1, 2) == "A03"
    assert (field(last, "PV1", 36), field(last, "PID", 30)) == (disposition, death)
    assert not any(field(message, "PV1", 36) or field(message, "PID", 30) for message in before)


@pytest.mark.parametrize("text", ["RecordID,SAPS-I\n132539,6\n", OUTCOMES + "132539,6,1,5,-1,yes\n"])
def test_outcomes_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "132539.txt").write_text(FILE)
    (tmp_path / "Outcomes-a.txt").write_text(text)
    with pytest.raises(RecordingError, match=r"Outcomes-a\.txt"):
        list(read_stays(tmp_path))


def test_every_recorded_death_is_told(shared_data: Path) -> None:
    folder = shared_data / "icu" / "physionet2012"
    lines = csv.DictReader((folder / "Outcomes-a.txt").read_text().splitlines())
    dead = {row["RecordID"] for row in lines if row["In-hospital_death"] == "1"}
    records = list(read_stays(folder, 300))
    assert {record.record_id for record in records if record.died} == dead & {r.record_id for r in records}
    assert all(record.died is not None for record in records)


@pytest.mark.parametrize("name", ["missing", "notes.txt", "."])
def test_a_source_without_stays_is_a_named_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(RecordingError):
        list(read_stays(tmp_path / name))


def test_the_platform_understands_every_parameter() -> None:
    """An adult's ordinary values, decoded by the platform: whatever it refuses is a code or unit it does not know."""
    ordinary = {"pH": "7.4", "FiO2": "0.4", "MechVent": "1", "Mg": "2.0", "Temp": "37", "K": "4", "Albumin": "4"}
    lines = "".join(f"00:01,{name},{ordinary.get(name, '15')}\n" for name in PARAMETERS if name not in {"Height", "Na"})
    text = "Time,Parameter,Value\n00:00,RecordID,1\n00:00,Height,170\n00:01,Na,140\n" + lines
    terminology = Terminology()
    known = 0
    for timed in stay_messages(parse(text, "x"), START_US, BED):
        decoded = hl7v2.decode(timed.body, UTC)
        assert not isinstance(decoded, Rejected)
        assert decoded.rejected == []
        for reading in decoded.readings:
            made = terminology.observation(reading, default_effective_at_us=None, default_device="")
            assert not isinstance(made, Rejected), (reading.code, made)
            known += 1
    assert known == len(PARAMETERS)


def test_a_stay_played_again_later_is_no_conflict_with_the_first_time() -> None:
    record = parse(FILE, "x")
    first, second = ({m.control_id for m in stay_messages(record, at, BED)} for at in (START_US, START_US + 1_000_000))
    assert first.isdisjoint(second)
    assert max(map(len, first)) <= 20  # MSH-10 in HL7 v2.5.1


def test_stays_are_admitted_one_after_another_into_beds_of_their_own() -> None:
    records = [parse(FILE.replace("132539", str(number)), "x") for number in range(1, 6)]
    told = list(messages(records, START_US, stagger_s=120))
    assert all(a.at_us <= b.at_us for a, b in pairwise(told))
    admissions = [m for m in told if m.control_id.endswith("A01")]
    assert [(m.at_us - START_US) / 1e6 for m in admissions] == [0, 120, 240, 360, 480]
    beds = {str(hl7.parse(m.body.decode()).segment("PV1")[3]) for m in admissions}
    assert beds == {f"SICU^0{number}^1^PN2012" for number in range(1, 6)}


@pytest.mark.shared_data
def test_the_archive_holds_what_an_independent_reader_counts(archive: Path) -> None:
    plain = list(files_of(archive, 250))
    records = list(read_stays(archive, 250))
    assert len(records) == 250
    for rows, record in zip(plain, records, strict=True):
        left = [row for row in rows if row["Parameter"] not in {"RecordID", "Gender", "ICUType"}]
        assert Counter((r["Time"], r["Parameter"], r["Value"]) for r in left) == Counter(
            (f"{row.minute // 60:02d}:{row.minute % 60:02d}", row.parameter, row.text) for row in record.rows
        )
        assert record.record_id == rows[0]["Value"]


@pytest.mark.shared_data
def test_the_expected_values_are_exactly_what_another_parser_finds_in_the_messages(archive: Path) -> None:
    records = list(read_stays(archive, 25))
    found: Counter[tuple[str, ...]] = Counter()
    for record in records:
        for timed in stay_messages(record, START_US, BED):
            if timed.feed == "adt":
                continue
            parsed = hl7.parse(timed.body.decode())
            assert str(parsed.segment("PID")[3]) == f"{record.record_id}^^^PHYSIONET2012^MR"
            for index, obx in enumerate(parsed.segments("OBX")):
                code, system = str(obx[3][0][0]), str(obx[3][0][2])
                found[
                    timed.feed, str(parsed.segment("MSH")[10]), str(index), code if system == "LN" else "",
                    str(obx[5]), str(obx[6][0][0]), str(obx[4]), str(obx[14]),
                ] += 1  # fmt: skip
    expected = Counter(
        (
            value.feed, value.control_id, str(value.value_index), value.loinc, value.text_value, value.unit,
            value.sub_id, (START + timedelta(microseconds=value.time_us - START_US)).strftime("%Y%m%d%H%M%S+0000"),
        )
        for record in records
        for value in expected_values(record, START_US)
    )  # fmt: skip
    assert found == expected
    assert sum(found.values()) == sum(len(record.rows) for record in records) > 8_000


@pytest.mark.shared_data
def test_sub_ids_tell_apart_values_of_one_parameter_and_minute(archive: Path) -> None:
    repeated = 0
    for record in read_stays(archive, 200):
        keys = [(e.control_id, e.parameter, e.sub_id) for e in expected_values(record, START_US)]
        assert len(keys) == len(set(keys))
        repeated += sum(1 for key in keys if key[2] != "1")
    assert repeated > 50


@pytest.mark.shared_data
def test_reading_a_few_stays_does_not_read_the_whole_archive(archive: Path) -> None:
    stays: Iterator[Record] = read_stays(archive)
    assert next(stays).record_id.isdigit()
