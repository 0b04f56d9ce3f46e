"""The challenge's files, held against the csv module and against the same stays sent as HL7 messages."""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter
from datetime import UTC
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital import stays as player
from hospital.messages import Bed
from interop import hl7v2, physionet2012
from interop.physionet2012 import CohortError, Decoder, Outcome, RecordedStay, read, read_outcomes
from interop.terminology import Terminology
from vocabulary import concepts
from vocabulary.records import Reason, Rejected

START_US = 1_767_225_600_000_000
FILE = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,80.5
00:07,HR,73
00:07,FiO2,0.4
00:07,HR,74
00:07,MechVent,1
10:31,Mg,2.0
48:00,pH,735
48:00,pH,7.35
48:01,HR,80
"""
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n132539,6,-1,5,-1,0\n132540,16,8,8,7,1\n"


def number(key: str) -> int:
    return concepts.by_key(key).number


def decoded(text: str) -> RecordedStay:
    stay = Decoder().stay(text.encode(), "132539.txt", read_outcomes(OUTCOMES.encode(), "Outcomes-a.txt"))
    assert isinstance(stay, RecordedStay)
    return stay


def test_a_file_becomes_canonical_values_with_its_descriptors_and_outcome() -> None:
    stay = decoded(FILE)
    assert (stay.record_id, stay.sex, stay.icu_type) == ("132539", "female", "surgical")
    assert stay.outcome == Outcome(died_in_hospital=False, saps_i=6, sofa=None, length_of_stay_days=5)
    assert stay.observations() == [
        (number("age"), 0, 54.0),
        (number("body_weight"), 0, 80.5),
        (number("heart_rate"), 7, 73.0),
        (number("inspired_oxygen_fraction"), 7, 40.0),  # per cent
        (number("heart_rate"), 7, 74.0),
        (number("mechanical_ventilation"), 7, 1.0),
        (number("magnesium"), 631, 2.0),
        (number("blood_ph"), 2880, 7.35),
    ]
    assert [(one.reason, one.where) for one in stay.rejected] == [
        (Reason.IMPLAUSIBLE_VALUE, "line 5 Height"),
        (Reason.IMPLAUSIBLE_VALUE, "line 13 pH"),
        (Reason.AFTER_DISCHARGE, "line 15"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("00:01,HR", Reason.MALFORMED),
        ("00:01,HR,70,80", Reason.MALFORMED),
        ("1,HR,70", Reason.MALFORMED),
        ("00:61,HR,70", Reason.MALFORMED),
        ("00:01,Shoes,42", Reason.UNKNOWN_CODE),
        ("00:01,HR,fast", Reason.NOT_A_NUMBER),
        ("00:01,HR,", Reason.NOT_A_NUMBER),
        ("00:01,HR,nan", Reason.NOT_A_NUMBER),
        ("00:01,pH,7,35", Reason.MALFORMED),
        ("00:01,SysABP,0", Reason.IMPLAUSIBLE_VALUE),
        ("", Reason.MALFORMED),
    ],
)
def test_a_line_that_makes_no_sense_is_itemised_and_the_rest_is_kept(line: str, reason: Reason) -> None:
    stay = decoded(f"Time,Parameter,Value\n00:00,RecordID,132539\n{line}\n00:02,HR,71\n")
    assert stay.observations() == [(number("heart_rate"), 2, 71.0)]
    assert [(one.reason, one.where.split()[:2]) for one in stay.rejected] == [(reason, ["line", "3"])]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"Time;Parameter;Value\n00:00;RecordID;1\n", Reason.MALFORMED),
        (b"Time,Parameter,Value\n00:07,HR,73\n", Reason.MALFORMED),
        (b"Time,Parameter,Value\n00:00,RecordID,-1\n", Reason.MALFORMED),
        (b"Time,Parameter,Value\n00:00,RecordID,1\n00:07,HR,7\xff\n", Reason.UNSUPPORTED_CHARSET),
        (b"Time,Parameter,Value\n" + b"00:00,HR,7\n" * 500_000, Reason.TOO_LARGE),
    ],
)
def test_a_file_that_is_no_stay_is_refused_with_its_reason(body: bytes, reason: Reason) -> None:
    found = Decoder().stay(body, "1.txt")
    assert isinstance(found, Rejected)
    assert found.reason is reason
    assert found.where.startswith("1.txt")


texts = st.text(st.characters(codec="ascii"), max_size=12)
lines = st.tuples(
    st.one_of(st.just("00:05"), texts), st.one_of(st.sampled_from(sorted(physionet2012.PARAMETERS)), texts), texts
).map(",".join)


@given(st.one_of(st.binary(), st.lists(lines).map(lambda some: "\n".join([FILE, *some]).encode())))
def test_whatever_the_bytes_there_is_a_stay_or_a_reason(body: bytes) -> None:
    found = Decoder().stay(body, "x")
    if isinstance(found, RecordedStay):
        assert len(found.concepts) == len(found.minutes) == len(found.values)
        for concept, minute, value in found.observations():
            known = concepts.by_number(concept)
            assert known.plausible_low <= value <= known.plausible_high
            assert 0 <= minute <= 2880
    else:
        assert isinstance(found, Rejected)


def test_outcomes_that_cannot_be_trusted_stop_everything() -> None:
    for spoilt in (
        OUTCOMES.replace("SOFA", "sofa"),
        OUTCOMES + "132541,6,1,5,-1,2\n",
        OUTCOMES + "132541,6,1,5,-1\n",
        OUTCOMES + "132541,6,1,5,-1,\n",
        OUTCOMES + "132539,6,1,5,-1,1\n",
        OUTCOMES + "132541,six,1,5,-1,1\n",
        "",
    ):
        with pytest.raises(CohortError, match="Outcomes"):
            read_outcomes(spoilt.encode(), "Outcomes-a.txt")
    with pytest.raises(CohortError):
        read_outcomes(b"\xff", "x")


def packed(folder: Path, files: dict[str, str]) -> Path:
    with tarfile.open(folder / "set-a.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    (folder / "Outcomes-a.txt").write_text(OUTCOMES)
    return folder


def test_an_archive_a_folder_with_it_and_loose_files_read_alike(tmp_path: Path) -> None:
    other = FILE.replace("132539", "132540")
    folder = packed(tmp_path, {"set-a/132539.txt": FILE, "set-a/README.txt": "no", "set-a/132540.txt": other})
    loose = tmp_path / "loose"
    loose.mkdir()
    for name, text in (("132539.txt", FILE), ("132540.txt", other), ("Outcomes-a.txt", OUTCOMES)):
        (loose / name).write_text(text)
    told = [
        [(stay.record_id, stay.observations(), stay.rejected, stay.outcome) for stay in read(source)]
        for source in (folder, folder / "set-a.tar.gz", loose)
    ]
    assert told[0] == told[1] == told[2]
    assert [(name, outcome and outcome.died_in_hospital) for name, _, _, outcome in told[0]] == [
        ("132539", False),
        ("132540", True),
    ]


def test_a_file_that_is_no_stay_is_an_error_unless_somebody_listens(tmp_path: Path) -> None:
    folder = packed(tmp_path, {"1.txt": "rubbish", "132539.txt": FILE, "132540.txt": FILE})
    refused: list[Rejected] = []
    assert [stay.record_id for stay in read(folder, refused.append)] == ["132539"]
    assert [one.reason for one in refused] == [Reason.MALFORMED, Reason.CONTROL_ID_CONFLICT]
    with pytest.raises(CohortError, match=r"1\.txt"):
        list(read(folder))


def test_what_holds_no_stays_is_named(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CohortError):
            list(read(source))
    whole = (packed(tmp_path, {"132539.txt": FILE}) / "set-a.tar.gz").read_bytes()
    spoilt = tmp_path / "set-a.tar.gz"
    for body in (b"no archive", whole[: len(whole) // 2], whole[:30] + b"\0" * 40 + whole[70:], b""):
        spoilt.write_bytes(body)
        with pytest.raises(CohortError):
            list(read(tmp_path))


def test_a_marker_beside_the_files_says_that_they_were_invented(tmp_path: Path) -> None:
    folder = packed(tmp_path, {"132539.txt": FILE})
    assert not physionet2012.is_synthetic(folder)
    (folder / "SYNTHETIC.txt").write_text("invented")
    assert physionet2012.is_synthetic(folder)
    assert physionet2012.is_synthetic(folder / "set-a.tar.gz")


@pytest.mark.shared_data
def test_live_messages_and_files_say_exactly_the_same(shared_data: Path) -> None:
    folder = shared_data / "icu" / "physionet2012"
    compared = refused = 0
    for record, stay in islice(zip(player.read_stays(folder), read(folder), strict=True), 60):
        terminology = Terminology(physionet2012.LOCAL_CODES)
        live: Counter[tuple[int, int, float]] = Counter()
        live_refused: Counter[Reason] = Counter()
        for timed in player.stay_messages(record, START_US, Bed("MICU", "01", "1", "PN2012")):
            message = hl7v2.decode(timed.body, UTC)
            assert not isinstance(message, Rejected)
            live_refused.update(why.reason for _, why in message.rejected)
            for reading in message.readings:
                made = terminology.observation(reading, default_effective_at_us=None, default_device="")
                if isinstance(made, Rejected):
                    live_refused[made.reason] += 1
                else:
                    live[made.concept, (made.effective_at_us - START_US) // 60_000_000, made.value] += 1
        assert record.record_id == stay.record_id
        assert Counter(stay.observations()) == live
        assert Counter(one.reason for one in stay.rejected) == live_refused
        compared += len(stay.values)
        refused += len(stay.rejected)
    assert compared > 20_000
    assert refused > 40


@pytest.mark.shared_data
def test_every_stay_of_the_challenge_is_read_whole(shared_data: Path) -> None:
    folder = shared_data / "icu" / "physionet2012"
    archive = folder / "set-a.tar.gz"
    lines: Counter[str] = Counter()
    with tarfile.open(archive) as tar:
        for member in islice((m for m in tar if m.isfile()), 400):
            stream = tar.extractfile(member)
            assert stream is not None
            rows = list(csv.DictReader(io.StringIO(stream.read().decode())))
            lines[rows[0]["Value"]] = len(rows) - 3  # RecordID, Gender, ICUType
    with (folder / "Outcomes-a.txt").open() as file:
        died = {row["RecordID"]: row["In-hospital_death"] == "1" for row in csv.DictReader(file)}
    for stay in islice(read(folder), 400):
        assert len(stay.values) + len(stay.rejected) == lines[stay.record_id]
        assert all(one.reason is Reason.IMPLAUSIBLE_VALUE for one in stay.rejected)
        assert stay.outcome is not None
        assert stay.outcome.died_in_hospital == died[stay.record_id]
