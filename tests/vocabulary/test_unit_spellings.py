"""Spellings and IEEE dimension codes: each leads to UCUM."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from vocabulary.unit_spellings import MDC_DIMENSIONS, MDC_UNITS, SPELLINGS
from vocabulary.units import is_valid, parse


def test_every_spelling_leads_to_ucum() -> None:
    assert [spelling for spelling, unit in {**SPELLINGS, **MDC_UNITS}.items() if not is_valid(unit)] == []


def test_dimension_codes_lie_in_the_dimension_partition() -> None:
    assert all(4 * 65536 <= code < 5 * 65536 for code, _, _ in MDC_DIMENSIONS)


def test_prefixes_of_dimension_codes_agree_with_the_standards_offsets() -> None:
    """IEEE 11073-10101 table A.6.1: kilo 3, centi 17, milli 18 above the plain unit."""
    by_name = {name: (code, parse(unit)) for code, name, unit in MDC_DIMENSIONS}
    pairs = [
        ("MDC_DIM_X_G", "MDC_DIM_KILO_G", 3, 1000),
        ("MDC_DIM_X_M", "MDC_DIM_CENTI_M", 17, 0.01),
        ("MDC_DIM_X_M", "MDC_DIM_MILLI_M", 18, 0.001),
        ("MDC_DIM_X_G", "MDC_DIM_MILLI_G", 18, 0.001),
        ("MDC_DIM_X_G_PER_DL", "MDC_DIM_MILLI_G_PER_DL", 18, 0.001),
        ("MDC_DIM_X_L_PER_MIN", "MDC_DIM_MILLI_L_PER_MIN", 18, 0.001),
    ]
    for plain, prefixed, offset, ratio in pairs:
        assert by_name[prefixed][0] - by_name[plain][0] == offset
        assert float(by_name[prefixed][1].factor / by_name[plain][1].factor) == pytest.approx(ratio)


@pytest.mark.shared_data
def test_monitor_units_of_mimic_are_spelt(shared_data: Path) -> None:
    with (shared_data / "terminology/mimic-to-loinc/numerics-summary.csv").open(newline="") as lines:
        pairs = {(row["units"].strip(), row["UCUM"].strip()) for row in csv.DictReader(lines)}
    wrong = []
    for sent, ucum in sorted(pairs):
        if sent in {"", "NU"} or not is_valid(ucum):  # NU: no unit
            continue
        ours = SPELLINGS.get(sent, sent)
        if not is_valid(ours) or parse(ours) != parse(ucum):
            wrong.append((sent, ucum))
    assert wrong == []
    assert len(pairs) > 8


@pytest.mark.shared_data
def test_dimension_codes_of_real_device_messages_are_known(shared_data: Path) -> None:
    texts = [path.read_text(errors="replace") for path in (shared_data / "hl7v2/pcd01").iterdir()]
    sent = {pair for text in texts for pair in re.findall(r"\|(26\d{4})\^(MDC_DIM_\w+)\^MDC\|", text)}
    assert len(sent) >= 4
    known = {(str(code), name) for code, name, _ in MDC_DIMENSIONS}
    assert sent <= known
