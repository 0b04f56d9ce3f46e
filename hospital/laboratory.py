"""The laboratory and the nurse's chart: reports about an invented patient, preliminary, final, corrected or withdrawn.

Here: which panel holds what, rounding, how a correction names what it corrects (same OBR-3, OBX-3, OBX-4).
Not here: the truth (hospital.courses), when specimens are taken (hospital.ward).
Source: HL7 v2.5.1 section 7.4.2 and table 0085 (OBX-11); reference ranges after the Merck Manual's laboratory tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hospital.codes import CHART_ITEMS, CONSCIOUSNESS, LABORATORY_ITEMS, PANELS, ChartItem
from hospital.courses import Condition
from hospital.faults import Fault
from hospital.messages import Header, Order, Person, Result, Visit, report
from hospital.outgoing import Sent

LABORATORY = "SYNTH_LAB"
CHART = "SYNTH_CHART"
MILLIGRAM_PER_MILLIMOLE_GLUCOSE = 18.016  # per 0.1 L: mg/dL in one mmol/L

_RANGES = {
    "lactate": "0.5-2.2",
    "white_cells": "4.5-11.0",
    "platelets": "150-450",
    "sodium": "136-145",
    "potassium": "3.5-5.1",
    "arterial_ph": "7.35-7.45",
    "c_reactive_protein": "<5",
}


class Specimen(NamedTuple):
    """What was drawn: enough to report it, and to correct the report later."""

    panel: str
    filler: str  # OBR-3, the laboratory's number: the same in every later version
    taken_at_us: int
    results: tuple[Result, ...]


class Report(NamedTuple):
    """A message and the values in it."""

    body: bytes
    values: tuple[Sent, ...]


def _result(item: ChartItem, value: float, sub_id: str, taken_at_us: int) -> Result:
    return Result(
        item.code,
        item.name,
        f"{value:.{item.decimals}f}",
        item.unit,
        sub_id=sub_id,
        effective_at_us=taken_at_us,
        reference_range=_RANGES.get(item.key, ""),
    )


def draw(panel: str, filler: str, condition: Condition, taken_at_us: int, fault: Fault | None = None) -> Specimen:
    """Return a panel's results for a patient in this condition.

    Args:
        panel: a key of codes.PANELS.
        filler: the laboratory's order number, unique.
        condition: at the moment the specimen is taken.
        taken_at_us: when it is taken; the results' effective time.
        fault: MILLIMOLAR_GLUCOSE reports glucose in mmol/L, as another analyser would.
    """
    truth = condition._asdict()
    results = []
    for number, key in enumerate(PANELS[panel][2], 1):
        item, value = LABORATORY_ITEMS[key], float(truth[key])
        if key == "glucose" and fault is Fault.MILLIMOLAR_GLUCOSE:
            # LOINC 14749-6: glucose as moles per volume.
            item = ChartItem("glucose", "14749-6", "Glucose [Moles/volume] in Serum or Plasma", "mmol/L", 1)
            value /= MILLIGRAM_PER_MILLIMOLE_GLUCOSE
        results.append(_result(item, value, str(number), taken_at_us))
    return Specimen(panel, filler, taken_at_us, tuple(results))


def amended(specimen: Specimen, place: int, status: str) -> Specimen:
    """Return the specimen with one result only, corrected (C: another value) or withdrawn (D)."""
    result = specimen.results[place]
    text = result.text
    if status == "C":
        decimals = len(text.partition(".")[2])
        text = f"{float(text) * 1.06:.{decimals}f}"
        if text == result.text:
            text = f"{float(text) + 10.0**-decimals:.{decimals}f}"
    return specimen._replace(results=(result._replace(text=text, status=status),))


def laboratory_report(
    specimen: Specimen,
    person: Person,
    visit: Visit,
    facility: str,
    control_id: str,
    reported_at_us: int,
    status: str = "F",
) -> Report:
    """Return the ORU^R01 for a specimen.

    Args:
        specimen: what is reported.
        person: the patient.
        visit: the stay.
        facility: the hospital's name.
        control_id: MSH-10.
        reported_at_us: when the laboratory speaks.
        status: OBR-25 and, for results that are F, OBX-11: P for a preliminary report.
    """
    code, name, _ = PANELS[specimen.panel]
    results = [r._replace(status=status) if r.status == "F" else r for r in specimen.results]
    order = Order(
        specimen.filler,
        code,
        name,
        specimen.taken_at_us,
        reported_at_us,
        status=status if results[0].status in {"F", "P"} else "C",
    )
    header = Header(LABORATORY, facility, control_id, reported_at_us)
    return Report(report(header, person, visit, order, results), _sent(results))


def chart_report(
    condition: Condition, urine_ml: float, person: Person, visit: Visit, facility: str, control_id: str, at_us: int
) -> Report:
    """Return the hourly round: Glasgow coma score, oxygen, urine since the last round [mL], consciousness."""
    results = []
    for key, value in (
        ("glasgow_coma_score", float(condition.glasgow_coma_score)),
        ("oxygen_flow", condition.oxygen_flow),
        ("urine", urine_ml),
    ):
        results.append(_result(CHART_ITEMS[key], value, "", at_us))
    level = CHART_ITEMS["consciousness"]
    code, display = CONSCIOUSNESS[condition.consciousness]
    results.append(Result(level.code, level.name, code, effective_at_us=at_us, coded=(code, display, "LN")))
    order = Order(control_id, "8716-3", "Vital signs", at_us, at_us)
    header = Header(CHART, facility, control_id, at_us)
    return Report(report(header, person, visit, order, results), _sent(results))


def assessment_report(
    measured: Mapping[str, float], person: Person, visit: Visit, facility: str, control_id: str, at_us: int
) -> Report:
    """Return the nursing assessment at admission.

    Args:
        measured: by key of `codes.CHART_ITEMS`, in its unit: weight, height, and age where somebody knows it.
        person: the patient.
        visit: the stay.
        facility: the hospital's name.
        control_id: MSH-10.
        at_us: when it was charted.
    """
    results = [_result(CHART_ITEMS[key], value, "", at_us) for key, value in measured.items()]
    order = Order(control_id, "8716-3", "Vital signs", at_us, at_us)
    header = Header(CHART, facility, control_id, at_us)
    return Report(report(header, person, visit, order, results), _sent(results))


def _sent(results: list[Result]) -> tuple[Sent, ...]:
    return tuple(
        Sent(index, r.code, r.code_system, r.text, r.unit, r.effective_at_us, r.status)
        for index, r in enumerate(results)
    )
