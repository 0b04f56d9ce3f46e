"""The concept table: laws every row keeps, agreement with other people's tables, and a pinned version."""

from __future__ import annotations

import csv
import hashlib
import re
import tarfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from vocabulary.concepts import CONCEPTS, TERMINOLOGY_VERSION, Concept, by_key, by_loinc, by_mdc, by_number
from vocabulary.units import conversion, is_valid, parse

PHYSIONET_2012 = {
    "Albumin": "albumin", "ALP": "alkaline_phosphatase", "ALT": "alanine_aminotransferase",
    "AST": "aspartate_aminotransferase", "Bilirubin": "bilirubin_total", "BUN": "urea_nitrogen",
    "Cholesterol": "cholesterol_total", "Creatinine": "creatinine", "DiasABP": "arterial_diastolic_blood_pressure",
    "FiO2": "inspired_oxygen_fraction", "GCS": "glasgow_coma_score", "Glucose": "glucose", "HCO3": "bicarbonate",
    "HCT": "hematocrit", "HR": "heart_rate", "K": "potassium", "Lactate": "lactate", "Mg": "magnesium",
    "MAP": "arterial_mean_blood_pressure", "MechVent": "mechanical_ventilation", "Na": "sodium",
    "NIDiasABP": "diastolic_blood_pressure", "NIMAP": "mean_blood_pressure", "NISysABP": "systolic_blood_pressure",
    "PaCO2": "arterial_co2_pressure", "PaO2": "arterial_o2_pressure", "pH": "blood_ph", "Platelets": "platelets",
    "RespRate": "respiratory_rate", "SaO2": "arterial_oxygen_saturation", "SysABP": "arterial_systolic_blood_pressure",
    "Temp": "body_temperature", "TroponinI": "troponin_i", "TroponinT": "troponin_t", "Urine": "urine_output",
    "WBC": "leukocytes", "Weight": "body_weight", "Age": "age", "Gender": "sex", "Height": "body_height",
    "ICUType": "icu_type",
}  # fmt: skip

PHYSIONET_2019 = {
    "HR": "heart_rate", "O2Sat": "oxygen_saturation", "Temp": "body_temperature", "SBP": "systolic_blood_pressure",
    "MAP": "mean_blood_pressure", "DBP": "diastolic_blood_pressure", "Resp": "respiratory_rate",
    "EtCO2": "end_tidal_co2", "BaseExcess": "base_excess", "HCO3": "bicarbonate",
    "FiO2": "inspired_oxygen_fraction", "pH": "blood_ph",
    "PaCO2": "arterial_co2_pressure", "SaO2": "arterial_oxygen_saturation", "AST": "aspartate_aminotransferase",
    "BUN": "urea_nitrogen", "Alkalinephos": "alkaline_phosphatase", "Calcium": "calcium", "Chloride": "chloride",
    "Creatinine": "creatinine", "Bilirubin_direct": "bilirubin_direct", "Glucose": "glucose", "Lactate": "lactate",
    "Magnesium": "magnesium", "Phosphate": "phosphate", "Potassium": "potassium", "Bilirubin_total": "bilirubin_total",
    "TroponinI": "troponin_i", "Hct": "hematocrit", "Hgb": "hemoglobin", "PTT": "partial_thromboplastin_time",
    "WBC": "leukocytes", "Fibrinogen": "fibrinogen", "Platelets": "platelets", "Age": "age", "Gender": "sex",
}  # fmt: skip


def check_digit(digits: str) -> int:
    """LOINC's check digit: Luhn's algorithm."""
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(digits))]
    return -sum(value - 9 if value > 9 else value for value in doubled) % 10


def table_digest() -> str:
    return hashlib.sha256(msgspec.json.encode(CONCEPTS, order="sorted")).hexdigest()[:16]


def test_the_table_changes_only_with_its_version() -> None:
    """Snapshots name the version: raise it, and pin the new digest here, when a row changes."""
    assert (TERMINOLOGY_VERSION, table_digest()) == ("vigil-concepts@1", "645a0dd8b9dd9508")


def test_there_are_enough_concepts_of_each_kind() -> None:
    count = Counter(concept.category for concept in CONCEPTS)
    assert len(CONCEPTS) >= 100
    assert count["laboratory"] >= 50
    assert set(count) >= {"vital-signs", "ventilation", "neurological", "fluid", "medication", "demographic"}


def test_numbers_keys_labels_and_codes_are_unique() -> None:
    for names in (
        [concept.number for concept in CONCEPTS],
        [concept.key for concept in CONCEPTS],
        [concept.short for concept in CONCEPTS],
        [code for concept in CONCEPTS for code in concept.loinc_codes],
        [code for concept in CONCEPTS for code in concept.mdc],
    ):
        assert [name for name, times in Counter(names).items() if times > 1] == []


def test_numbers_fit_a_small_integer() -> None:
    assert all(1 <= concept.number <= 32767 for concept in CONCEPTS)


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.key)
def test_every_row_keeps_the_laws(concept: Concept) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", concept.key)
    assert concept.display
    assert len(concept.short) <= 10
    assert concept.valid_for_s > 0
    assert 0 <= concept.signal_group <= 3
    assert by_number(concept.number) is by_key(concept.key) is concept
    for code in concept.loinc_codes:
        digits, digit = code.split("-")
        assert check_digit(digits) == int(digit), code
        assert by_loinc(code) is concept
    for code in concept.mdc:
        assert 2 * 65536 <= code < 3 * 65536, "IEEE 11073-10101 keeps measurements in partition 2"
        assert by_mdc(code) is concept
    if concept.kind == "quantity":
        assert is_valid(concept.unit)
        assert concept.plausible_low < concept.plausible_high
        assert all(is_valid(sent) and is_valid(meant) for sent, meant in concept.equivalents.items())
        for answer in concept.answers.values():
            assert concept.plausible_low <= float(answer) <= concept.plausible_high
    else:
        assert concept.unit == ""
        assert concept.signal_group == 0, "packed blocks hold numbers"
    assert all(spelt == spelt.strip().lower() for spelt in concept.answers)


def test_what_can_be_sent_in_moles_and_mass_converts() -> None:
    for concept in CONCEPTS:
        if concept.molar_mass_g_per_mol is None:
            continue
        mass = Fraction(repr(concept.molar_mass_g_per_mol))
        into = conversion("umol/L", concept.unit, molar_mass=mass, valence=concept.valence)
        back = conversion(concept.unit, "umol/L", molar_mass=mass, valence=concept.valence)
        assert into.multiplier * back.multiplier == 1, concept.key


@pytest.mark.parametrize(
    ("key", "loinc", "unit"),
    [
        ("heart_rate", "8867-4", "/min"),
        ("respiratory_rate", "9279-1", "/min"),
        ("oxygen_saturation", "59408-5", "%"),
        ("arterial_oxygen_saturation", "2708-6", "%"),
        ("systolic_blood_pressure", "8480-6", "mm[Hg]"),
        ("diastolic_blood_pressure", "8462-4", "mm[Hg]"),
        ("mean_blood_pressure", "8478-0", "mm[Hg]"),
        ("body_temperature", "8310-5", "Cel"),
        ("glasgow_coma_score", "9269-2", "{score}"),
        ("body_weight", "29463-7", "kg"),
        ("body_height", "8302-2", "cm"),
        ("blood_ph", "11558-4", "[pH]"),
    ],
)
def test_the_house_vital_signs_are_what_design_names(key: str, loinc: str, unit: str) -> None:
    assert (by_key(key).loinc, by_key(key).unit) == (loinc, unit)


@pytest.mark.parametrize(
    ("key", "value"),
    [("blood_ph", 735), ("body_temperature", -17.8), ("heart_rate", 0), ("body_weight", -1), ("body_height", 431.8)],
)
def test_known_artefacts_are_not_plausible(key: str, value: float) -> None:
    concept = by_key(key)
    assert not concept.plausible_low <= value <= concept.plausible_high


def test_unknown_names_are_told_apart() -> None:
    assert by_loinc("0000-0") is None
    assert by_mdc(1) is None
    with pytest.raises(KeyError):
        by_key("heart_rat")
    with pytest.raises(KeyError):
        by_number(9999)


def test_the_challenges_parameters_all_have_a_concept() -> None:
    keys = {concept.key for concept in CONCEPTS}
    assert set(PHYSIONET_2012.values()) <= keys
    assert set(PHYSIONET_2019.values()) <= keys


@pytest.mark.shared_data
def test_nearly_all_real_values_are_plausible(shared_data: Path) -> None:
    """In 1,200 real stays only artefacts fall out: what cannot be, not what is abnormal."""
    seen: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    unknown = set()
    with tarfile.open(shared_data / "icu/physionet2012/set-a.tar.gz") as archive:
        stays = (member for member in archive if member.name.endswith(".txt"))
        for _, member in zip(range(1200), stays, strict=False):
            file = archive.extractfile(member)
            assert file is not None
            for line in file.read().decode().splitlines()[1:]:
                _, parameter, value = line.split(",")
                if parameter in {"", "RecordID"}:
                    continue
                if parameter not in PHYSIONET_2012:
                    unknown.add(parameter)
                    continue
                concept = by_key(PHYSIONET_2012[parameter])
                if concept.kind != "quantity":
                    assert str(int(float(value))) in concept.answers
                    continue
                number = float(value) * (100 if parameter == "FiO2" else 1)
                seen[parameter] += 1
                outside[parameter] += not concept.plausible_low <= number <= concept.plausible_high
    assert unknown == set()
    assert sum(seen.values()) > 100_000
    rates = {name: outside[name] / seen[name] for name in seen}
    assert all(rate < 0.02 for name, rate in rates.items() if name not in {"Height", "Weight"}), rates
    assert rates["Height"] < 0.6, "half of the heights are -1: not recorded"
    assert outside["Temp"]
    assert outside["HR"]


@pytest.mark.shared_data
def test_parameters_of_2019_are_all_known(shared_data: Path) -> None:
    with tarfile.open(shared_data / "icu/physionet2019/psv.tar.gz") as archive:
        member = next(member for member in archive if member.name.endswith(".psv"))
        file = archive.extractfile(member)
        assert file is not None
        header = file.readline().decode().strip().split("|")
    assert set(header) - set(PHYSIONET_2019) == {"Unit1", "Unit2", "HospAdmTime", "ICULOS", "SepsisLabel"}


def mimic_rows(shared_data: Path) -> list[tuple[str, str, str]]:
    """(LOINC code, unit, name) of every MIMIC item that other people mapped to LOINC."""
    folder = shared_data / "terminology/mimic-to-loinc"
    rows: list[tuple[str, str, str]] = []
    for file, unit in (
        ("d_labitems_to_loinc.csv", "valueuom"),
        ("outputevents_to_loinc.csv", "unitname"),
        ("numerics-summary.csv", "UCUM"),
        ("meas_chartevents_main.csv", ""),
    ):
        with (folder / file).open(newline="") as lines:
            table = csv.DictReader(lines)
            rows.extend((row["omop_concept_code"], row.get(unit, ""), row["omop_concept_name"]) for row in table)
    return rows


@pytest.mark.shared_data
def test_most_codes_are_confirmed_by_other_peoples_tables(shared_data: Path) -> None:
    evidence = {code for code, _, _ in mimic_rows(shared_data)}
    pattern = re.compile(r"\b\d{3,6}-\d\b")
    for folder in ("fhir", "hl7v2"):
        for path in (shared_data / folder).rglob("*"):
            if path.suffix in {".json", ".xml", ".hl7"}:
                evidence.update(pattern.findall(path.read_text(errors="replace")))
    ours = {code for concept in CONCEPTS for code in concept.loinc_codes}
    unconfirmed = ours - evidence
    # In none of the files beside us; looked up by hand in public value sets. All pass the check digit.
    assert unconfirmed == {"2524-7", "2601-3", "30525-0", "33959-8", "46098-0", "67775-7", "80288-4"}


@pytest.mark.shared_data
def test_names_of_shared_codes_agree(shared_data: Path) -> None:
    """A mistyped code would name another analyte: some word of our name is in theirs."""
    common = {"of", "in", "by", "blood", "total", "serum", "rate", "fraction", "pressure"}
    strangers = set()
    for code, _, name in mimic_rows(shared_data):
        concept = by_loinc(code)
        if concept is None or not name:
            continue
        theirs = set(re.findall(r"[a-z0-9]+", name.lower()))
        ours = set(re.findall(r"[a-z0-9]+", f"{concept.display} {concept.key.replace('_', ' ')}".lower()))
        if not (ours & theirs) - common:
            strangers.add(concept.key)
    # Read by hand: abbreviations, plurals and synonyms (MCH, aPTT, PEEP, "lymphocytes", "pressure max airway").
    assert strangers == {
        "lymphocyte_fraction",
        "mean_corpuscular_hemoglobin",
        "mean_corpuscular_hemoglobin_concentration",
        "neutrophil_fraction",
        "nt_pro_bnp",
        "partial_thromboplastin_time",
        "peak_inspiratory_pressure",
        "positive_end_expiratory_pressure",
        "pulse_rate",
        "triglycerides",
    }


@pytest.mark.shared_data
def test_device_codes_agree_with_hl7s_pairs(shared_data: Path) -> None:
    with (shared_data / "terminology/mdc-loinc/mdc_loinc_pairs_from_hl7_examples.tsv").open() as lines:
        pairs = {(int(row["mdc_code"]), row["loinc_code"]) for row in csv.DictReader(lines, delimiter="\t")}
    differing = set()
    for mdc, loinc in pairs:
        device, general = by_mdc(mdc), by_loinc(loinc)
        if device is not None and device is not general:
            differing.add((device.key, general.key if general else loinc))
    # FHIR's vital signs profile says heart rate and arterial saturation where the device says pulse and oximetry.
    assert differing == {("pulse_rate", "heart_rate"), ("oxygen_saturation", "arterial_oxygen_saturation")}
    assert {mdc for mdc, _ in pairs if by_mdc(mdc) is None} == {150020}, "the pressure panel is no quantity"


def test_units_of_one_concept_are_canonical() -> None:
    """A unit with another factor would be a second spelling of the same quantity."""
    assert parse(by_key("platelets").unit) == parse(by_key("leukocytes").unit)
    assert by_key("glucose").unit == "mg/dL"
