"""Files of the PhysioNet 2012 challenge into stays of canonical values: a cohort to learn from.

Here: `set-a.tar.gz` or a folder of .txt files read as a stream, descriptors, `Outcomes-a.txt`. A value passes the very
Terminology that live messages pass, so that what a model learned from is what it will meet.
Not here: minute bins (models.stay_series), folds and labels (models.risk), the same files as messages (hospital.stays).
Source: PhysioNet/Computing in Cardiology Challenge 2012 (Silva et al. 2012, Comput Cardiol 39:245; Goldberger et al.
2000, Circulation 101:e215), its documentation of parameters, units and outcomes; magnesium: see PARAMETERS.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interop.hl7v2 import Reading
from interop.hl7v2_values import read_number
from interop.terminology import Terminology
from vocabulary.errors import VigilError
from vocabulary.records import Reason, Rejected

ARCHIVE: Final = "set-a.tar.gz"
OUTCOMES: Final = "Outcomes-a.txt"
SYNTHETIC: Final = "SYNTHETIC.txt"
"""A folder that holds a file of this name was invented: nothing made of it means anything clinically."""

HEADING: Final = "Time,Parameter,Value"
OUTCOME_HEADING: Final = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
STAY_MINUTES: Final = 48 * 60

_LOCAL: Final = "99PN2012"
PARAMETERS: Final = MappingProxyType(
    {
        # parameter: (LOINC or the data set's own code, unit in UCUM)
        "Age": ("30525-0", "a"),
        "Height": ("8302-2", "cm"),
        "Weight": ("29463-7", "kg"),
        "Albumin": ("1751-7", "g/dL"),
        "ALP": ("6768-6", "[IU]/L"),
        "ALT": ("1742-6", "[IU]/L"),
        "AST": ("1920-8", "[IU]/L"),
        "Bilirubin": ("1975-2", "mg/dL"),
        "BUN": ("3094-0", "mg/dL"),
        "Cholesterol": ("2093-3", "mg/dL"),
        "Creatinine": ("2160-0", "mg/dL"),
        "DiasABP": ("76213-8", "mm[Hg]"),
        "FiO2": ("3150-0", "1"),  # a fraction, 0 to 1
        "GCS": ("9269-2", "{score}"),
        "Glucose": ("2345-7", "mg/dL"),
        "HCO3": ("1963-8", "mmol/L"),
        "HCT": ("4544-3", "%"),
        "HR": ("8867-4", "/min"),
        "K": ("2823-3", "meq/L"),
        "Lactate": ("32693-4", "mmol/L"),
        "MAP": ("76214-6", "mm[Hg]"),
        "MechVent": ("MechVent", "1"),
        # Documented as mmol/L, but the values (median 2.0) are the mg/dL that its source, MIMIC-II, records.
        "Mg": ("19123-9", "mg/dL"),
        "Na": ("2951-2", "meq/L"),
        "NIDiasABP": ("76535-4", "mm[Hg]"),
        "NIMAP": ("76536-2", "mm[Hg]"),
        "NISysABP": ("76534-7", "mm[Hg]"),
        "PaCO2": ("2019-8", "mm[Hg]"),
        "PaO2": ("2703-7", "mm[Hg]"),
        "pH": ("2744-1", "[pH]"),
        "Platelets": ("777-3", "10*9/L"),
        "RespRate": ("9279-1", "/min"),
        "SaO2": ("2708-6", "%"),
        "SysABP": ("76215-3", "mm[Hg]"),
        "Temp": ("8310-5", "Cel"),
        "TroponinI": ("10839-9", "ug/L"),
        "TroponinT": ("6598-7", "ug/L"),
        "Urine": ("9187-6", "mL"),
        "WBC": ("6690-2", "10*9/L"),
    }
)
"""What the challenge documents, but for the descriptors RecordID, Gender and ICUType."""

LOCAL_CODES: Final = MappingProxyType({(_LOCAL, "MechVent"): "mechanical_ventilation"})
SEXES: Final = MappingProxyType({"0": "female", "1": "male"})
ICU_TYPES: Final = MappingProxyType(
    {"1": "coronary care", "2": "cardiac surgery recovery", "3": "medical", "4": "surgical"}
)

_DESCRIPTORS: Final = frozenset({"RecordID", "Gender", "ICUType"})
_TIME: Final = re.compile(r"(\d{1,3}):([0-5]\d)", re.ASCII)
_RECORD_ID: Final = re.compile(r"\d{1,12}", re.ASCII)
_LARGEST_FILE: Final = 4 << 20
"""A stay's file has about 12 kB; more than this is something else, and would only fill the memory."""
_REMEMBERED: Final = 131_072
_LONGEST_FOUND: Final = 80


class CohortError(VigilError):
    """What was to be a cohort is none: nothing there, or a file that is not what its challenge documents."""


class Outcome(NamedTuple):
    """What became of a patient; None where the file says it is not known (-1)."""

    died_in_hospital: bool
    saps_i: int | None  # points, Le Gall et al. 1984
    sofa: int | None  # points, Vincent et al. 1996
    length_of_stay_days: int | None


class RecordedStay(NamedTuple):
    """One stay: its values as columns in the file's order, all of length n."""

    record_id: str
    sex: str  # female, male or unknown
    icu_type: str  # in the words of vocabulary.concepts' `icu_type`; "" when not given
    concepts: NDArray[np.int16]  # Concept.number
    minutes: NDArray[np.int32]  # since admission, 0..2880
    values: NDArray[np.float64]  # in the concept's canonical unit
    rejected: tuple[Rejected, ...]  # values that are not among those above, and why
    outcome: Outcome | None  # None without Outcomes-a.txt, or where it does not name the stay

    def observations(self) -> list[tuple[int, int, float]]:
        """Return the columns as (concept number, minute, value) triples."""
        return list(zip(self.concepts.tolist(), self.minutes.tolist(), self.values.tolist(), strict=True))


Refused = Callable[[Rejected], None]


class Decoder:
    """Makes stays of files; remembers what a parameter's text means, for the same few texts come a million times."""

    def __init__(self) -> None:
        """Know the challenge's parameters."""
        self._terminology = Terminology(LOCAL_CODES)
        self._meanings: dict[tuple[str, str], tuple[int, float] | Rejected] = {}

    def stay(self, body: bytes, where: str, outcomes: dict[str, Outcome] | None = None) -> RecordedStay | Rejected:
        """Return a file's stay, or why it is none. Never raises, whatever the bytes.

        Args:
            body: the file.
            where: its name, for rejections.
            outcomes: by record id.
        """
        if len(body) > _LARGEST_FILE:
            return Rejected(Reason.TOO_LARGE, where, f"at most {_LARGEST_FILE} bytes", f"{len(body)} bytes")
        try:
            lines = body.decode("ascii").splitlines()
        except UnicodeDecodeError:
            return Rejected(Reason.UNSUPPORTED_CHARSET, where, "ASCII", "other bytes")
        if not lines or lines[0].strip() != HEADING:
            return Rejected(Reason.MALFORMED, f"{where}, line 1", HEADING, lines[0][:_LONGEST_FOUND] if lines else "")
        descriptors: dict[str, str] = {}
        concepts: list[int] = []
        minutes: list[int] = []
        values: list[float] = []
        rejected: list[Rejected] = []
        for number, line in enumerate(lines[1:], 2):
            parts = line.split(",")
            time = _TIME.fullmatch(parts[0])
            if len(parts) != 3 or time is None:
                expected = "HH:MM,parameter,value"
                rejected.append(Rejected(Reason.MALFORMED, f"line {number}", expected, line[:_LONGEST_FOUND]))
                continue
            _, parameter, text = parts
            if parameter in _DESCRIPTORS:
                descriptors.setdefault(parameter, text)
                continue
            minute = int(time[1]) * 60 + int(time[2])
            if minute > STAY_MINUTES:
                rejected.append(Rejected(Reason.AFTER_DISCHARGE, f"line {number}", "a time up to 48:00", parts[0]))
                continue
            meaning = self._meanings.get((parameter, text)) or self._learn(parameter, text)
            if isinstance(meaning, Rejected):
                where_found = f"line {number} {parameter[:_LONGEST_FOUND]}"
                rejected.append(Rejected(meaning.reason, where_found, meaning.expected, meaning.found))
                continue
            concepts.append(meaning[0])
            minutes.append(minute)
            values.append(meaning[1])
        record_id = descriptors.get("RecordID", "")
        if not _RECORD_ID.fullmatch(record_id):
            return Rejected(Reason.MALFORMED, where, "a line 00:00,RecordID,number", record_id[:_LONGEST_FOUND])
        return RecordedStay(
            record_id,
            SEXES.get(descriptors.get("Gender", ""), "unknown"),
            ICU_TYPES.get(descriptors.get("ICUType", ""), ""),
            np.array(concepts, np.int16),
            np.array(minutes, np.int32),
            np.array(values, np.float64),
            tuple(rejected),
            None if outcomes is None else outcomes.get(record_id),
        )

    def _learn(self, parameter: str, text: str) -> tuple[int, float] | Rejected:
        meaning = self._mean(parameter, text)
        if len(self._meanings) >= _REMEMBERED:
            self._meanings.clear()
        self._meanings[parameter, text] = meaning
        return meaning

    def _mean(self, parameter: str, text: str) -> tuple[int, float] | Rejected:
        """Return (concept, canonical value) of a parameter's text, or why there is none."""
        coded = PARAMETERS.get(parameter)
        if coded is None:
            expected = "a parameter of the challenge"
            return Rejected(Reason.UNKNOWN_CODE, parameter[:_LONGEST_FOUND], expected, parameter[:_LONGEST_FOUND])
        number = read_number(text)
        if number is None:
            expected = "a number with a point as decimal mark"
            return Rejected(Reason.NOT_A_NUMBER, parameter, expected, text[:_LONGEST_FOUND])
        code, unit = coded
        reading = Reading(
            value_index=0,
            code=code,
            code_system="LN" if code != parameter else _LOCAL,
            alternate_code="",
            alternate_system="",
            value=number.value,
            unit=unit,
            unit_system="UCUM",
            effective_at_us=0,
            status="F",
            device="",
            sub_id="",
            order_key="",
            value_type="NM",
            comparator=number.comparator,
        )
        found = self._terminology.observation(reading, default_effective_at_us=0, default_device="")
        return found if isinstance(found, Rejected) else (found.concept, found.value)


def read(source: Path, refused: Refused | None = None) -> Iterator[RecordedStay]:
    """Yield the stays of an archive, of a folder that holds `set-a.tar.gz`, or of a folder of .txt files.

    Nothing is unpacked to disk: the archive is read as a stream. Outcomes come from `Outcomes-a.txt` beside the files.

    Args:
        source: folder or archive.
        refused: told of each file that is no stay; without it such a file is an error.

    Raises:
        CohortError: nothing there, no stay in it, outcomes that cannot be read, or (without `refused`) a file that is
            no stay or a record that comes twice.
    """
    archive = source if source.is_file() else source / ARCHIVE
    if not source.exists():
        raise CohortError(f"{source} does not exist: expected {ARCHIVE} or a folder that holds it or its .txt files")
    listed = archive.parent / OUTCOMES
    outcomes = read_outcomes(listed.read_bytes(), str(listed)) if listed.is_file() else None
    decoder = Decoder()
    seen: set[str] = set()
    for name, body in _archived(archive) if archive.is_file() else _loose(source):
        stay = decoder.stay(body, name, outcomes)
        if isinstance(stay, RecordedStay) and stay.record_id in seen:
            stay = Rejected(Reason.CONTROL_ID_CONFLICT, name, "each RecordID once", "a RecordID of another file")
        if isinstance(stay, RecordedStay):
            seen.add(stay.record_id)
            yield stay
        elif refused is None:
            raise CohortError(f"{stay.where}: expected {stay.expected}; remove the file, or let it be skipped")
        else:
            refused(stay)
    if not seen:
        raise CohortError(f"{source} holds no stay: expected {ARCHIVE}, or files like 132539.txt")


def is_synthetic(source: Path) -> bool:
    """Return whether a marker beside the files says that they were invented."""
    return ((source.parent if source.is_file() else source) / SYNTHETIC).is_file()


def read_outcomes(body: bytes, where: str) -> dict[str, Outcome]:
    """Return outcomes by record id.

    Raises:
        CohortError: not the file the challenge documents; a label that may be wrong must stop a training.
    """
    try:
        rows = list(csv.reader(io.StringIO(body.decode("ascii"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise CohortError(f"{where}: expected comma-separated ASCII, found other bytes") from None
    if not rows or ",".join(rows[0]).strip() != OUTCOME_HEADING:
        raise CohortError(f"{where}, line 1: expected {OUTCOME_HEADING}")
    outcomes: dict[str, Outcome] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        numbers = [int(text) if re.fullmatch(r"-?\d{1,12}", text.strip(), re.ASCII) else None for text in row]
        record, saps, sofa, stay, _, died = numbers if len(numbers) == 6 else [None] * 6
        if record is None or saps is None or sofa is None or stay is None or died not in (0, 1):
            raise CohortError(f"{where}, line {number}: expected six whole numbers, the last of them 0 or 1")
        if str(record) in outcomes:
            raise CohortError(f"{where}, line {number}: expected each RecordID once")
        outcomes[str(record)] = Outcome(died == 1, _known(saps), _known(sofa), _known(stay))
    return outcomes


def _known(number: int) -> int | None:
    return None if number < 0 else number


def _is_stay(name: str) -> bool:
    return name.endswith(".txt") and name.removesuffix(".txt").isdigit()  # the outcomes lie among them


def _loose(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*.txt")):
        if _is_stay(path.name):
            with path.open("rb") as file:
                yield path.name, file.read(_LARGEST_FILE + 1)


def _archived(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and _is_stay(name):
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular file always has one
                    yield name, stream.read(_LARGEST_FILE + 1)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CohortError(f"{archive} is not a readable tar archive ({type(error).__name__})") from error
