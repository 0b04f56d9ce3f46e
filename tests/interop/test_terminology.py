"""Codes and units of messages into concepts: what is mapped, what is refused and why, and what never happens."""

from __future__ import annotations

import csv
import math
from datetime import UTC
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.hl7v2 import Message, Reading, decode
from interop.terminology import HOUSE_SYSTEM, Terminology, ucum_meanings
from vocabulary.concepts import CONCEPTS, by_key, by_loinc, by_number
from vocabulary.errors import ConfigurationError
from vocabulary.records import Observation, ObservationStatus, Reason, Rejected, source_key_of

NOON_US = 1_700_000_000_000_000


def reading(value: float | str = 80.0, code: str = "8867-4", unit: str = "/min", **others: Any) -> Reading:
    fields: dict[str, Any] = {
        "value_index": 3,
        "code": code,
        "code_system": "LN",
        "alternate_code": "",
        "alternate_system": "",
        "value": value,
        "unit": unit,
        "unit_system": "UCUM",
        "effective_at_us": NOON_US,
        "status": "F",
        "device": "MON-1",
        "sub_id": "",
        "order_key": "",
        "value_type": "NM",
    }
    return Reading(**{**fields, **others})


def observe(read: Reading, **others: Any) -> Observation | Rejected:
    arguments: dict[str, Any] = {"default_effective_at_us": None, "default_device": "", **others}
    return Terminology().observation(read, **arguments)


def observed(read: Reading, **others: Any) -> Observation:
    found = observe(read, **others)
    assert isinstance(found, Observation), found
    return found


def refused(read: Reading, **others: Any) -> Rejected:
    found = observe(read, **others)
    assert isinstance(found, Rejected), found
    return found


def test_a_heart_rate_is_a_heart_rate() -> None:
    assert observed(reading()) == Observation(
        concept=1,
        value=80.0,
        effective_at_us=NOON_US,
        status=ObservationStatus.FINAL,
        source_key=source_key_of("MON-1", ""),
        value_index=3,
        device="MON-1",
        text="",
    )


@pytest.mark.parametrize(
    ("code", "system", "value", "unit", "unit_system", "key", "expected"),
    [
        ("8310-5", "LN", 98.6, "[degF]", "UCUM", "body_temperature", 37.0),
        ("150344", "MDC", 98.6, "266560", "MDC", "body_temperature", 37.0),
        ("8310-5", "LN", 37.5, "C", "", "body_temperature", 37.5),
        ("8310-5", "LN", 99.5, "F", "L", "body_temperature", 37.5),
        ("2345-7", "LN", 5.0, "mmol/L", "UCUM", "glucose", 90.078),
        ("14749-6", "LN", 5.0, "mmol/L", "UCUM", "glucose", 90.078),
        ("2160-0", "LN", 100.0, "umol/L", "UCUM", "creatinine", 1.1312),
        ("3094-0", "LN", 10.0, "mmol/L", "", "urea_nitrogen", 28.014),
        ("1975-2", "LN", 100.0, "umol/L", "", "bilirubin_total", 5.8466),
        ("2951-2", "LN", 140.0, "mEq/L", "", "sodium", 140.0),
        ("19123-9", "LN", 2.0, "mEq/L", "", "magnesium", 2.4305),
        ("19123-9", "LN", 1.0, "mmol/L", "", "magnesium", 2.4305),
        ("1994-3", "LN", 2.4, "mEq/L", "", "ionized_calcium", 1.2),
        ("17861-6", "LN", 2.5, "mmol/L", "", "calcium", 10.0195),
        ("777-3", "LN", 250.0, "K/uL", "", "platelets", 250.0),
        ("777-3", "LN", 250.0, "K/uL", "UCUM", "platelets", 250.0),
        ("777-3", "LN", 250.0, "10*9/L", "UCUM", "platelets", 250.0),
        ("777-3", "LN", 250000.0, "/uL", "UCUM", "platelets", 250.0),
        ("789-8", "LN", 4.5, "m/uL", "", "erythrocytes", 4.5),
        ("1742-6", "LN", 40.0, "IU/L", "", "alanine_aminotransferase", 40.0),
        ("1742-6", "LN", 1.0, "ukat/L", "UCUM", "alanine_aminotransferase", 60.0),
        ("11558-4", "LN", 7.38, "", "", "blood_ph", 7.38),
        ("11558-4", "LN", 7.38, "units", "", "blood_ph", 7.38),
        ("11558-4", "LN", 7.38, "[pH]", "UCUM", "blood_ph", 7.38),
        ("11558-4", "LN", 40.0, "nmol/L", "UCUM", "blood_ph", 7.3979400086720376),
        ("3150-0", "LN", 0.5, "1", "UCUM", "inspired_oxygen_fraction", 50.0),
        ("3150-0", "LN", 50.0, "%", "UCUM", "inspired_oxygen_fraction", 50.0),
        ("2019-8", "LN", 5.33288, "kPa", "UCUM", "arterial_co2_pressure", 40.0),
        ("6301-6", "LN", 2.5, "", "", "inr", 2.5),
        ("9269-2", "LN", 15.0, "", "", "glasgow_coma_score", 15.0),
        ("29463-7", "LN", 154.3, "lbs", "", "body_weight", 69.989302691),
        ("8302-2", "LN", 70.0, "in", "", "body_height", 177.8),
        ("150456", "MDC", 97.0, "262688", "MDC", "oxygen_saturation", 97.0),
        ("149530", "MDC", 72.0, "264864", "MDC", "pulse_rate", 72.0),
        ("151562", "MDC", 14.0, "264928", "MDC", "respiratory_rate", 14.0),
        ("150033", "MDC", 16.0, "265987", "MDC", "arterial_systolic_blood_pressure", 120.0102008670737),
        ("150087", "MDC", 8.0, "MDC_DIM_MMHG", "", "central_venous_pressure", 8.0),
        ("8867-4", "", 80.0, "bpm", "", "heart_rate", 80.0),
        ("mechanical_ventilation", HOUSE_SYSTEM, 1.0, "", "", "mechanical_ventilation", 1.0),
        ("norepinephrine_rate", HOUSE_SYSTEM, 0.1, "mcg/kg/min", "", "norepinephrine_rate", 0.1),
        ("insulin_rate", HOUSE_SYSTEM, 4.0, "units/hour", "", "insulin_rate", 4.0),
    ],
)
def test_golden_readings(
    code: str, system: str, value: float, unit: str, unit_system: str, key: str, expected: float
) -> None:
    found = observe(reading(value, code, unit, code_system=system, unit_system=unit_system))
    assert isinstance(found, Observation), found
    assert by_number(found.concept).key == key
    assert found.value == expected
    assert found.text == ""


def test_the_alternate_code_counts_when_the_first_is_unknown() -> None:
    found = observed(reading(code="HR", code_system="99LOCAL", alternate_code="8867-4", alternate_system="LN"))
    assert found.concept == by_key("heart_rate").number


def test_local_codes_go_first() -> None:
    terminology = Terminology({("99LAB", "GLU"): "glucose", ("LN", "8867-4"): "pulse_rate"})
    for read, key in (
        (reading(90.0, "GLU", "mg/dL", code_system="99LAB"), "glucose"),
        (reading(), "pulse_rate"),
    ):
        found = terminology.observation(read, default_effective_at_us=None, default_device="")
        assert isinstance(found, Observation)
        assert found.concept == by_key(key).number


def test_a_local_code_of_no_concept_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="glucos"):
        Terminology({("99LAB", "GLU"): "glucos"})


@pytest.mark.parametrize(
    ("read", "reason", "field"),
    [
        (reading(code="0000-0"), Reason.UNKNOWN_CODE, "OBX-3"),
        (reading(code="8867-4", code_system="99X"), Reason.UNKNOWN_CODE, "OBX-3"),
        (reading(code="999999", code_system="MDC"), Reason.UNKNOWN_CODE, "OBX-3"),
        (reading(code="MDC_X", code_system="MDC"), Reason.UNKNOWN_CODE, "OBX-3"),
        (reading(unit="furlong"), Reason.UNKNOWN_UNIT, "OBX-6"),
        (reading(unit="999", unit_system="MDC"), Reason.UNKNOWN_UNIT, "OBX-6"),
        (reading(36.6, "8310-5", ""), Reason.UNKNOWN_UNIT, "OBX-6"),
        (reading(97.0, "59408-5", ""), Reason.UNKNOWN_UNIT, "OBX-6"),
        (reading(unit="mm[Hg]"), Reason.INCOMPATIBLE_UNIT, "OBX-6"),
        (reading(4.0, "2823-3", "10*3/uL"), Reason.INCOMPATIBLE_UNIT, "OBX-6"),
        (reading(4.0, "1751-7", "mmol/L"), Reason.INCOMPATIBLE_UNIT, "OBX-6"),
        (reading(40.0, "3016-3", "U/L"), Reason.INCOMPATIBLE_UNIT, "OBX-6"),
        (reading(5.0, "2345-7", "mEq/L"), Reason.INCOMPATIBLE_UNIT, "OBX-6"),
        (reading(735.0, "11558-4", "[pH]"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(0.0), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(math.nan), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(math.inf, "8310-5", "[degF]"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(1e308, "2160-0", "mol/L"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(-1.0, "29463-7", "kg"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(-17.8, "8310-5", "Cel"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(98.6, "8310-5", "Cel"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading(0.0, "11558-4", "nmol/L"), Reason.IMPLAUSIBLE_VALUE, "OBX-5"),
        (reading("high"), Reason.NOT_A_NUMBER, "OBX-5"),
        (reading(80.0, comparator="<>"), Reason.UNSUPPORTED_VALUE_TYPE, "OBX-5"),
        (reading("sleepy", "67775-7", ""), Reason.UNKNOWN_CODE, "OBX-5"),
        (reading("", "20124-4", ""), Reason.UNSUPPORTED_VALUE_TYPE, "OBX-5"),
        (reading("x" * 201, "20124-4", ""), Reason.UNSUPPORTED_VALUE_TYPE, "OBX-5"),
        (reading(effective_at_us=None), Reason.NO_EFFECTIVE_TIME, "OBX-14"),
        (reading(status="X"), Reason.MALFORMED, "OBX-11"),
        (reading(status="N"), Reason.MALFORMED, "OBX-11"),
        (reading(status="?"), Reason.MALFORMED, "OBX-11"),
    ],
)
def test_what_is_refused_says_why_and_where(read: Reading, reason: Reason, field: str) -> None:
    found = refused(read)
    assert (found.reason, found.where) == (reason, f"value[4] {field}")
    assert found.expected


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("", ObservationStatus.FINAL),
        ("F", ObservationStatus.FINAL),
        ("U", ObservationStatus.FINAL),
        ("R", ObservationStatus.PRELIMINARY),
        ("P", ObservationStatus.PRELIMINARY),
        ("C", ObservationStatus.CORRECTED),
    ],
)
def test_statuses(sent: str, status: ObservationStatus) -> None:
    assert observed(reading(status=sent)).status is status


@pytest.mark.parametrize("status", ["D", "W"])
@pytest.mark.parametrize(
    "read",
    [reading(80.0), reading(math.nan), reading("gone"), reading(0.0), reading(80.0, unit=""), reading(1.0, unit="x")],
)
def test_a_deletion_needs_a_code_and_a_time_but_no_value(read: Reading, status: str) -> None:
    deletion = reading(read.value, unit=read.unit, status=status)
    found = observed(deletion)
    assert found.status is ObservationStatus.ENTERED_IN_ERROR
    assert math.isnan(found.value)
    assert (found.concept, found.source_key) == (1, observed(reading()).source_key)
    assert refused(reading(status=status, code="0000-0")).reason is Reason.UNKNOWN_CODE
    assert refused(reading(status=status, effective_at_us=None)).reason is Reason.NO_EFFECTIVE_TIME


@pytest.mark.parametrize(
    ("sent", "text"),
    [("A", "A"), ("alert", "A"), ("LA9340-6", "A"), ("C", "C"), ("LA17108-4", "V"), ("Pain", "P"), ("422107003", "U")],
)
def test_consciousness_is_told_in_one_letter(sent: str, text: str) -> None:
    found = observed(reading(sent, "67775-7", ""))
    assert found.text == text
    assert math.isnan(found.value)


def test_the_words_count_when_the_code_is_local() -> None:
    assert observed(reading("4711", "67775-7", "", value_text="Unresponsive")).text == "U"


@pytest.mark.parametrize(
    ("key", "sent", "value"),
    [
        ("mechanical_ventilation", "Y", 1.0),
        ("mechanical_ventilation", "no", 0.0),
        ("supplemental_oxygen", "Room air", 0.0),
        ("supplemental_oxygen", "LA33-6", 1.0),
        ("glasgow_coma_score_eye", "LA6556-0", 4.0),
        ("glasgow_coma_score_motor", "LA6566-9", 5.0),
        ("glasgow_coma_score", "13", 13.0),
    ],
)
def test_answers_to_a_quantity_are_numbers(key: str, sent: str, value: float) -> None:
    found = observed(reading(sent, key, "", code_system=HOUSE_SYSTEM))
    assert (found.value, found.text) == (value, "")


def test_an_open_list_keeps_the_words() -> None:
    assert observed(reading("PCV", "20124-4", "", value_text="Pressure control")).text == "Pressure control"
    assert observed(reading("SIMV", "20124-4", "")).text == "SIMV"


@pytest.mark.parametrize(
    ("value", "unit", "comparator", "expected"),
    [(0.01, "ng/mL", "<", (0.01, "<0.01")), (10.0, "ug/L", ">=", (10.0, ">=10.0"))],
)
def test_a_bound_keeps_its_number_and_says_that_it_is_one(
    value: float, unit: str, comparator: str, expected: tuple[float, str]
) -> None:
    found = observed(reading(value, "6598-7", unit, comparator=comparator))
    assert (found.value, found.text) == expected


def test_the_time_of_the_order_stands_in() -> None:
    assert observed(reading(effective_at_us=None), default_effective_at_us=7).effective_at_us == 7
    assert observed(reading(effective_at_us=5), default_effective_at_us=7).effective_at_us == 5


def test_a_correction_has_the_source_key_of_what_it_corrects() -> None:
    first = observed(reading(5.0, "2823-3", "mmol/L", device="", order_key="4711^LAB", sub_id="1"))
    corrected = observed(reading(4.1, "2823-3", "mEq/L", device="", order_key="4711^LAB", sub_id="1", status="C"))
    other = observed(reading(5.0, "2823-3", "mmol/L", device="", order_key="4712^LAB", sub_id="1"))
    assert first.source_key == corrected.source_key == source_key_of("4711^LAB", "1")
    assert other.source_key != first.source_key


def test_two_probes_of_one_monitor_are_two_measurements() -> None:
    left, right = (observed(reading(36.6, "8310-5", "Cel", sub_id=sub_id)) for sub_id in ("1.2.1.1", "1.2.2.1"))
    assert left.source_key != right.source_key


def test_a_monitors_order_numbers_do_not_tell_measurements_apart() -> None:
    first, second = (observed(reading(order_key=order_key)) for order_key in ("1", "2"))
    assert first.source_key == second.source_key


def test_a_device_named_by_the_sender_is_the_default() -> None:
    found = observed(reading(device=""), default_device="GW-1")
    assert (found.device, found.source_key) == ("GW-1", source_key_of("GW-1", ""))


@pytest.mark.parametrize(
    ("unit", "system", "meanings"),
    [
        ("K/uL", "", ["10*3/uL", "K/uL"]),
        ("K/uL", "UCUM", ["K/uL", "10*3/uL"]),
        ("266016", "MDC", ["mm[Hg]"]),
        ("266016", "", ["mm[Hg]"]),
        ("mmHg", "UCUM", ["mm[Hg]"]),
        ("nonsense", "", []),
    ],
)
def test_a_unit_may_have_two_meanings(unit: str, system: str, meanings: list[str]) -> None:
    assert ucum_meanings(unit, system) == meanings


def test_memory_is_bounded_under_garbage() -> None:
    terminology = Terminology()
    for number in range(20_000):
        terminology.observation(
            reading(code=f"X{number}", device=f"D{number}"), default_effective_at_us=None, default_device=""
        )
        terminology.observation(reading(device=f"D{number}"), default_effective_at_us=None, default_device="")
    assert len(terminology._meanings) <= 16_384
    assert len(terminology._source_keys) <= 16_384


words = st.text(max_size=12)
numbers = st.floats() | words


@given(
    value=numbers,
    code=st.sampled_from([code for concept in CONCEPTS for code in concept.loinc_codes] + ["x"]) | words,
    system=st.sampled_from(["LN", "MDC", "", HOUSE_SYSTEM]) | words,
    unit=st.sampled_from(["mmol/L", "%", "[pH]", "mg/dL", "[degF]", "", "266016", "1"]) | words,
    unit_system=st.sampled_from(["UCUM", "MDC", ""]) | words,
    status=st.sampled_from(["F", "D", "C", "", "X"]),
    comparator=st.sampled_from(["", "<", "<>"]),
    value_text=words,
)
def test_no_reading_breaks_it(
    value: float | str,
    code: str,
    system: str,
    unit: str,
    unit_system: str,
    status: str,
    comparator: str,
    value_text: str,
) -> None:
    read = reading(
        value,
        code,
        unit,
        code_system=system,
        unit_system=unit_system,
        status=status,
        comparator=comparator,
        value_text=value_text,
    )
    found = observe(read)
    if isinstance(found, Observation) and found.status is not ObservationStatus.ENTERED_IN_ERROR:
        concept = by_number(found.concept)
        if concept.kind == "quantity":
            assert concept.plausible_low <= found.value <= concept.plausible_high
        else:
            assert found.text


@given(value=st.floats(min_value=68, max_value=113))
def test_the_hot_path_rounds_as_the_exact_one(value: float) -> None:
    assert observed(reading(value, "8310-5", "[degF]")).value == float((Fraction(value) - 32) * 5 / 9)


@given(value=st.floats(min_value=0.2, max_value=160))
def test_moles_are_rounded_once(value: float) -> None:
    assert observed(reading(value, "2345-7", "mmol/L")).value == float(Fraction(value) * Fraction("18.0156"))


@pytest.mark.shared_data
def test_units_of_mimics_laboratory_convert_for_every_concept(shared_data: Path) -> None:
    with (shared_data / "terminology/mimic-to-loinc/d_labitems_to_loinc.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    seen, wrong = set(), []
    for row in rows:
        concept = by_loinc(row["omop_concept_code"])
        if concept is None or concept.kind != "quantity":
            continue
        for unit in row["valueuom"].split("|"):
            middle = (concept.plausible_low + concept.plausible_high) / 2
            if not unit or (concept.key, unit) in seen:
                continue
            seen.add((concept.key, unit))
            found = observe(reading(middle, concept.loinc, unit, unit_system=""))
            if isinstance(found, Rejected) and found.reason is not Reason.IMPLAUSIBLE_VALUE:
                wrong.append((concept.key, unit, found.reason.value))
    # MIMIC's own slip: an absolute neutrophil count in mmol/L.
    assert wrong == [("neutrophils", "mmol/L", "incompatible_unit")]
    assert len(seen) >= 70


@pytest.mark.shared_data
def test_every_value_of_real_device_messages_is_mapped(shared_data: Path) -> None:
    keys = set()
    for path in sorted((shared_data / "hl7v2/pcd01").iterdir()):
        body = path.read_bytes().replace(b"\r\n", b"\r").replace(b"\n", b"\r")
        message = decode(body, UTC)
        assert isinstance(message, Message), path
        assert message.readings
        for read in message.readings:
            found = observed(read, default_effective_at_us=message.header.message_at_us)
            assert found.value == read.value
            assert found.status is ObservationStatus.PRELIMINARY
            keys.add(by_number(found.concept).key)
    assert keys >= {
        "oxygen_saturation",
        "pulse_rate",
        "perfusion_index",
        "systolic_blood_pressure",
        "arterial_mean_blood_pressure",
        "body_temperature",
    }
