"""A player of recorded stays: PhysioNet 2012 files become the messages a hospital would have sent.

Here: reading `set-a.tar.gz` as a stream (or a folder of .txt), and one stay as ADT A01, ORU^R01 and A03, every value
exactly as the file writes it, errors and all (pH 735, weight -1). Where `Outcomes-a.txt` lies beside them, the A03 says
who died in hospital: 48 hours after admission, when the recording ends, whenever it truly was.
Not here: sending (hospital.play), what a receiver makes of it.
Source: PhysioNet/Computing in Cardiology Challenge 2012 (Silva et al. 2012, Comput Cardiol 39:245; Goldberger et al.
2000, Circulation 101:e215), ODC-By 1.0. Units as its documentation gives them, but magnesium: see PARAMETERS.
"""

from __future__ import annotations

import csv
import heapq
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from hospital.messages import EXPIRED, HOME, Bed, Header, Identifier, Order, Person, Result, Visit, adt, report
from hospital.outgoing import Sent, Timed, run_code
from vocabulary.errors import VigilError

AUTHORITY = "PHYSIONET2012"
FACILITY = "PN2012"
MINUTE_US = 60_000_000
STAY_MINUTES = 48 * 60
HEADING = "Time,Parameter,Value"
WARDS = {"1": "CCU", "2": "CSRU", "3": "MICU", "4": "SICU"}
"""ICUType: coronary care, cardiac surgery recovery, medical, surgical."""
SEXES = {"0": "F", "1": "M"}
OUTCOMES = "Outcomes-a.txt"


class Parameter(NamedTuple):
    """How one of the challenge's parameters goes on the wire."""

    name: str  # as in the files
    code: str  # LOINC, or the sender's own where `system` says so
    display: str
    unit: str  # UCUM
    feed: str
    system: str = "LN"
    alternate: tuple[str, str, str] | None = None


LOCAL_SYSTEM = "99PN2012"
_M, _L = "monitors", "lab"
PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("Age", "30525-0", "Age", "a", _M),
        Parameter("Height", "8302-2", "Body height", "cm", _M),
        Parameter("Weight", "29463-7", "Body weight", "kg", _M),
        Parameter("GCS", "9269-2", "Glasgow coma score total", "{score}", _M),
        Parameter("HR", "8867-4", "Heart rate", "/min", _M),
        Parameter("RespRate", "9279-1", "Respiratory rate", "/min", _M),
        Parameter("Temp", "8310-5", "Body temperature", "Cel", _M),
        Parameter("SysABP", "76215-3", "Invasive Systolic blood pressure", "mm[Hg]", _M),
        Parameter("DiasABP", "76213-8", "Invasive Diastolic blood pressure", "mm[Hg]", _M),
        Parameter("MAP", "76214-6", "Invasive Mean blood pressure", "mm[Hg]", _M),
        Parameter("NISysABP", "76534-7", "Systolic blood pressure by Noninvasive", "mm[Hg]", _M),
        Parameter("NIDiasABP", "76535-4", "Diastolic blood pressure by Noninvasive", "mm[Hg]", _M),
        Parameter("NIMAP", "76536-2", "Mean blood pressure by Noninvasive", "mm[Hg]", _M),
        Parameter("FiO2", "3150-0", "Inhaled oxygen concentration", "1", _M),  # a fraction, 0 to 1
        # No LOINC term says only "is ventilated": a code of the sender's own (HL7 table 0396), with the receiver's as
        # alternate, which is what an interface specification between two hospitals' systems agrees on.
        Parameter(
            "MechVent",
            "MechVent",
            "Mechanical ventilation respiration",
            "1",
            _M,
            LOCAL_SYSTEM,
            ("mechanical_ventilation", "On mechanical ventilation", "99VIGIL"),
        ),
        Parameter("Urine", "9187-6", "Urine output", "mL", _M),
        Parameter("Albumin", "1751-7", "Albumin [Mass/volume] in Serum or Plasma", "g/dL", _L),
        Parameter("ALP", "6768-6", "Alkaline phosphatase [Enzymatic activity/volume] in Serum or Plasma", "[IU]/L", _L),
        Parameter("ALT", "1742-6", "Alanine aminotransferase [Enzymatic activity/volume]", "[IU]/L", _L),
        Parameter("AST", "1920-8", "Aspartate aminotransferase [Enzymatic activity/volume]", "[IU]/L", _L),
        Parameter("Bilirubin", "1975-2", "Bilirubin.total [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("BUN", "3094-0", "Urea nitrogen [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("Cholesterol", "2093-3", "Cholesterol [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("Creatinine", "2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("Glucose", "2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("HCO3", "1963-8", "Bicarbonate [Moles/volume] in Serum or Plasma", "mmol/L", _L),
        Parameter("HCT", "4544-3", "Hematocrit [Volume Fraction] of Blood by Automated count", "%", _L),
        Parameter("K", "2823-3", "Potassium [Moles/volume] in Serum or Plasma", "meq/L", _L),
        Parameter("Lactate", "32693-4", "Lactate [Moles/volume] in Blood", "mmol/L", _L),
        # Documented as mmol/L, but the values (median 2.0) are the mg/dL that its source, MIMIC-II, records.
        Parameter("Mg", "19123-9", "Magnesium [Mass/volume] in Serum or Plasma", "mg/dL", _L),
        Parameter("Na", "2951-2", "Sodium [Moles/volume] in Serum or Plasma", "meq/L", _L),
        Parameter("PaCO2", "2019-8", "Carbon dioxide [Partial pressure] in Arterial blood", "mm[Hg]", _L),
        Parameter("PaO2", "2703-7", "Oxygen [Partial pressure] in Arterial blood", "mm[Hg]", _L),
        Parameter("pH", "2744-1", "pH of Arterial blood", "[pH]", _L),
        Parameter("Platelets", "777-3", "Platelets [#/volume] in Blood by Automated count", "10*9/L", _L),
        Parameter("SaO2", "2708-6", "Oxygen saturation in Arterial blood", "%", _L),
        Parameter("TroponinI", "10839-9", "Troponin I.cardiac [Mass/volume] in Serum or Plasma", "ug/L", _L),
        Parameter("TroponinT", "6598-7", "Troponin T.cardiac [Mass/volume] in Serum or Plasma", "ug/L", _L),
        Parameter("WBC", "6690-2", "Leukocytes [#/volume] in Blood by Automated count", "10*9/L", _L),
    )
}
ADMINISTRATIVE = ("RecordID", "Gender", "ICUType")
"""Parameters that travel in PID and PV1, not as values."""


class RecordingError(VigilError):
    """A recording is not of the format its challenge documents."""


class Row(NamedTuple):
    """One line of a stay's file."""

    minute: int  # since admission
    parameter: str
    text: str  # exactly as written


class Record(NamedTuple):
    """One stay."""

    record_id: str
    sex: str  # F, M or U
    icu_type: str
    rows: tuple[Row, ...]  # values only, in the file's order
    died: bool | None = None  # in hospital; None: nobody says


class Expected(NamedTuple):
    """One value of a file and where it must turn up: the oracle for tests, made without the encoder."""

    record_id: str
    time_us: int
    parameter: str
    loinc: str  # "" for a code of the sender's own
    text_value: str
    unit: str
    control_id: str
    value_index: int
    sub_id: str
    feed: str


def parse(text: str, where: str) -> Record:
    """Return a stay from the text of its file.

    Raises:
        RecordingError: another heading, a line that is not `HH:MM,name,value`, or a parameter nobody documented.
    """
    lines = text.splitlines()
    if not lines or lines[0] != HEADING:
        raise RecordingError(f"{where}: expected the heading {HEADING!r}")
    rows, administrative = [], {}
    for number, line in enumerate(lines[1:], 2):
        parts = line.split(",")
        hours, _, minutes = parts[0].partition(":")
        if len(parts) != 3 or not (hours.isdigit() and minutes.isdigit()):
            raise RecordingError(f"{where}, line {number}: expected HH:MM,parameter,value")
        if parts[1] in ADMINISTRATIVE:
            administrative[parts[1]] = parts[2]
        elif parts[1] in PARAMETERS:
            rows.append(Row(int(hours) * 60 + int(minutes), parts[1], parts[2]))
        else:
            raise RecordingError(f"{where}, line {number}: unknown parameter {parts[1]!r}")
    if "RecordID" not in administrative:
        raise RecordingError(f"{where}: no RecordID")
    return Record(
        administrative["RecordID"],
        SEXES.get(administrative.get("Gender", ""), "U"),
        administrative.get("ICUType", ""),
        tuple(rows),
    )


def read_stays(source: Path, limit: int | None = None) -> Iterator[Record]:
    """Yield stays from a tar archive, from a folder of .txt files, or from a folder that holds `set-a.tar.gz`.

    Nothing is unpacked to disk. An archive is read as a stream, so the first stays come at once.

    Raises:
        RecordingError: nothing readable there, or a damaged file.
    """
    deaths = read_deaths((source if source.is_dir() else source.parent) / OUTCOMES)
    if source.is_dir() and (source / "set-a.tar.gz").is_file():
        source /= "set-a.tar.gz"
    stays: Iterator[Record]
    if source.is_dir():
        stays = (parse(path.read_text(), path.name) for path in sorted(source.glob("*.txt")) if _is_stay(path.name))
    elif source.is_file():
        stays = _read_archive(source)
    else:
        raise RecordingError(
            f"{source} does not exist: expected PhysioNet 2012's set-a.tar.gz or a folder of its files"
        )
    found = False
    for record in islice(stays, limit):
        found = True
        yield record._replace(died=deaths.get(record.record_id))
    if not found and limit != 0:
        raise RecordingError(f"{source} holds no stay: expected files like 132539.txt")


def read_deaths(outcomes: Path) -> dict[str, bool]:
    """Return who died in hospital, by RecordID; empty without the file.

    Raises:
        RecordingError: the file has no column `RecordID` or `In-hospital_death`, or an outcome that is neither 0 nor 1.
    """
    if not outcomes.is_file():
        return {}
    with outcomes.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"RecordID", "In-hospital_death"} <= set(reader.fieldnames or ()):
            raise RecordingError(f"{outcomes.name}: expected the columns RecordID and In-hospital_death")
        deaths = {}
        for number, row in enumerate(reader, 2):
            if row["In-hospital_death"] not in {"0", "1"}:
                raise RecordingError(f"{outcomes.name}, line {number}: expected an In-hospital_death of 0 or 1")
            deaths[row["RecordID"]] = row["In-hospital_death"] == "1"
    return deaths


def _is_stay(name: str) -> bool:
    return name.endswith(".txt") and name.removesuffix(".txt").isdigit()  # Outcomes-a.txt lies among them


def _read_archive(source: Path) -> Iterator[Record]:
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                if member.isfile() and _is_stay(Path(member.name).name):
                    stream = archive.extractfile(member)
                    assert stream is not None  # a regular file always has one
                    yield parse(stream.read().decode(), member.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RecordingError(f"{source} is not a readable tar archive ({type(error).__name__})") from error


def control_id(record_id: str, start_us: int, minute: int, feed: str) -> str:
    """Return MSH-10 of the message that carries a minute's values of one feed, for a stay that began at `start_us`."""
    return f"P{record_id}-{run_code(start_us)}-{minute:04d}{feed[0].upper()}"


def stay_messages(record: Record, start_us: int, bed: Bed) -> Iterator[Timed]:
    """Yield one stay's messages in order of time: A01 at `start_us`, values when charted, A03 after 48 hours.

    The files' last minute is 48:00, so the patient leaves a minute later. Values of one minute and feed share a
    message, in the file's order; a parameter that occurs twice in it gets OBX-4 1, 2, …
    """
    person = Person((Identifier(record.record_id, AUTHORITY),), sex=record.sex)
    visit = Visit(f"V{record.record_id}-{run_code(start_us)}", bed, admitted_at_us=start_us)
    yield _admission("A01", record, person, visit, start_us, start_us)
    rows = sorted(record.rows, key=lambda row: (row.minute, PARAMETERS[row.parameter].feed != _M))
    for (minute, feed), group in groupby(rows, key=lambda row: (row.minute, PARAMETERS[row.parameter].feed)):
        at_us = start_us + minute * MINUTE_US
        seen: Counter[str] = Counter()
        results = []
        for row in group:
            seen[row.parameter] += 1
            parameter = PARAMETERS[row.parameter]
            results.append(
                Result(
                    parameter.code,
                    parameter.display,
                    row.text,
                    parameter.unit,
                    sub_id=str(seen[row.parameter]),
                    effective_at_us=at_us,
                    code_system=parameter.system,
                    alternate=parameter.alternate,
                )
            )
        identity = control_id(record.record_id, start_us, minute, feed)
        header = Header(f"PN2012_{feed.upper()}", FACILITY, identity, at_us)
        order = Order(identity, *_PANEL[feed], observed_at_us=at_us, reported_at_us=at_us)
        sent = tuple(Sent(i, r.code, r.code_system, r.text, r.unit, at_us, r.status) for i, r in enumerate(results))
        yield Timed(at_us, feed, identity, report(header, person, visit, order, results), record.record_id, sent)
    leaves_us = start_us + (STAY_MINUTES + 1) * MINUTE_US
    disposition = "" if record.died is None else EXPIRED if record.died else HOME
    gone = visit._replace(discharged_at_us=leaves_us, disposition=disposition)
    yield _admission("A03", record, person._replace(is_dead=record.died is True), gone, leaves_us, start_us)


_PANEL = {_M: ("8716-3", "Vital signs"), _L: ("26436-6", "Laboratory studies")}


def _admission(trigger: str, record: Record, person: Person, visit: Visit, at_us: int, start_us: int) -> Timed:
    identity = f"P{record.record_id}-{run_code(start_us)}-{trigger}"
    body = adt(trigger, Header("PN2012_ADT", FACILITY, identity, at_us), person, visit, at_us)
    return Timed(at_us, "adt", identity, body, record.record_id)


def messages(records: Iterable[Record], start_us: int, stagger_s: float = 0.0) -> Iterator[Timed]:
    """Yield many stays' messages in order of time, each stay in a bed of its own.

    Args:
        records: the stays; each begins `stagger_s` after the one before.
        start_us: admission of the first.
        stagger_s: 0 admits all at once.
    """
    taken: Counter[str] = Counter()
    streams = []
    for place, record in enumerate(records):
        ward = WARDS.get(record.icu_type, "ICU")
        taken[ward] += 1
        bed = Bed(ward, f"{taken[ward]:02d}", "1", FACILITY)
        streams.append(stay_messages(record, start_us + round(place * stagger_s * 1e6), bed))
    return heapq.merge(*streams, key=lambda timed: timed.at_us)


def expected_values(record: Record, start_us: int) -> list[Expected]:
    """Return every value of the file and where it must turn up, in the file's order.

    Counted here line by line, not taken from the encoder, so that the two can be held against each other.
    """
    values_so_far: Counter[tuple[int, str]] = Counter()
    same_so_far: Counter[tuple[int, str]] = Counter()
    expected = []
    for minute, name, text in record.rows:
        parameter = PARAMETERS[name]
        place = (minute, parameter.feed)
        same_so_far[minute, name] += 1
        expected.append(
            Expected(
                record.record_id,
                start_us + minute * MINUTE_US,
                name,
                parameter.code if parameter.system == "LN" else "",
                text,
                parameter.unit,
                control_id(record.record_id, start_us, minute, parameter.feed),
                values_so_far[place],
                str(same_so_far[minute, name]),
                parameter.feed,
            )
        )
        values_so_far[place] += 1
    return expected
