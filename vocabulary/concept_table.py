"""The concept table I: what a concept is, and what monitors, ventilators and bedside charts measure.

Here: `Concept`, its validity periods, one row a concept. Numbers are stable for ever: packed columns hold them.
Not here: laboratory concepts (vocabulary.concept_table_laboratory), look-ups and the version (vocabulary.concepts).
Source: LOINC (checked against MIMIC-IV's mappings and HL7's examples, and by check digit, in tests); IEEE 11073-10101
(131072 + term code of partition 2), as monitors send them and as HL7's device examples pair them with LOINC.
This material contains content from LOINC (http://loinc.org). LOINC is copyright © Regenstrief Institute, Inc. and the
Logical Observation Identifiers Names and Codes (LOINC) Committee and is available at no cost under the license at
http://loinc.org/license.

Plausible ranges say what cannot be, not what is abnormal: a value outside is an artefact or a wrong unit (pH 735).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Kind = Literal["quantity", "coded", "text"]
Category = Literal["vital-signs", "laboratory", "fluid", "ventilation", "neurological", "medication", "demographic"]

HOUR = 3600.0
CHARTED = 4 * HOUR
"""What NEWS2 needs: its monitoring table asks for observations at least every 4 to 6 h once anything scores."""
DEVICE = 2 * HOUR
"""What only a device at the bed measures, charted hourly where it is not streamed: older means it was taken off."""
GAS = 8 * HOUR
"""Blood gases follow ventilation within minutes; drawn every 4 to 8 h in a ventilated patient."""
LABORATORY = 24 * HOUR
"""Daily bloods: yesterday's is the last word until today's."""
FLUID = 6 * HOUR
"""Volumes over an interval; KDIGO's urine output criterion looks back 6 h."""
BODY = 30 * 24 * HOUR
"""Weight and height of a stay."""
ALWAYS = 3650 * 24 * HOUR
"""Facts about the person."""


class Concept(msgspec.Struct, frozen=True):
    """One thing that can be known about a patient, and how it is written everywhere in the house."""

    number: int  # stable for ever, 1..32767
    key: str  # "heart_rate"
    loinc: str  # primary LOINC code; "" where LOINC has none (then the key itself is the code, in system 99VIGIL)
    display: str  # clinical name
    short: str  # label on the ward board
    unit: str  # canonical UCUM; "" for text
    kind: Kind
    category: Category
    signal_group: int  # 0 observation_event; high-rate, in signal_block: 1 vitals, 2 respiratory, 3 haemodynamics
    mdc: tuple[int, ...]  # IEEE 11073-10101, context-free codes
    loinc_also: tuple[str, ...]  # other LOINC codes that mean it, perhaps in other units
    plausible_low: float  # in `unit`, inclusive
    plausible_high: float
    valid_for_s: float  # how long a value may count as current
    molar_mass_g_per_mol: float | None = None  # lets mg/dL become mmol/L
    valence: int | None = None  # charge number; lets mEq/L become mmol/L
    equivalents: Mapping[str, str] = {}  # units that mean another for this concept only: IU of an enzyme
    answers: Mapping[str, str] = {}  # what is sent, in lower case -> text, or a number for a quantity

    @property
    def loinc_codes(self) -> tuple[str, ...]:
        """Return every LOINC code that means this concept, the primary first."""
        return (self.loinc, *self.loinc_also) if self.loinc else self.loinc_also


def row(
    number: int,
    key: str,
    display: str,
    short: str,
    unit: str,
    low: float,
    high: float,
    loinc: str = "",
    *,
    category: Category,
    valid_for_s: float,
    group: int = 0,
    mdc: tuple[int, ...] = (),
    molar_mass: float | None = None,
    valence: int | None = None,
    equivalents: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
    kind: Kind = "quantity",
) -> Concept:
    """Return a concept; `loinc` holds its codes separated by spaces, the primary first."""
    codes = loinc.split()
    return Concept(
        number=number,
        key=key,
        loinc=codes[0] if codes else "",
        display=display,
        short=short,
        unit=unit,
        kind=kind,
        category=category,
        signal_group=group,
        mdc=mdc,
        loinc_also=tuple(codes[1:]),
        plausible_low=low,
        plausible_high=high,
        valid_for_s=valid_for_s,
        molar_mass_g_per_mol=molar_mass,
        valence=valence,
        equivalents=equivalents or {},
        answers=answers or {},
    )


def _vital(
    number: int, key: str, display: str, short: str, unit: str, low: float, high: float, loinc: str, *mdc: int
) -> Concept:
    return row(
        number, key, display, short, unit, low, high, loinc,
        category="vital-signs", valid_for_s=CHARTED, group=1, mdc=mdc,
    )  # fmt: skip


def _pressure(
    number: int, key: str, display: str, short: str, low: float, high: float, loinc: str, *mdc: int
) -> Concept:
    return row(
        number, key, display, short, "mm[Hg]", low, high, loinc,
        category="vital-signs", valid_for_s=DEVICE, group=3, mdc=mdc,
    )  # fmt: skip


def _flow(
    number: int, key: str, display: str, short: str, unit: str, low: float, high: float, loinc: str, *mdc: int
) -> Concept:
    return row(
        number, key, display, short, unit, low, high, loinc,
        category="vital-signs", valid_for_s=DEVICE, group=3, mdc=mdc,
    )  # fmt: skip


def _ventilation(
    number: int, key: str, display: str, short: str, unit: str, low: float, high: float, loinc: str, *mdc: int
) -> Concept:
    return row(
        number, key, display, short, unit, low, high, loinc,
        category="ventilation", valid_for_s=DEVICE, group=2, mdc=mdc,
    )  # fmt: skip


def _fluid(number: int, key: str, display: str, short: str, loinc: str, high: float = 20_000) -> Concept:
    return row(number, key, display, short, "mL", 0, high, loinc, category="fluid", valid_for_s=FLUID)


def _infusion(number: int, key: str, display: str, short: str, unit: str, high: float) -> Concept:
    return row(number, key, display, short, unit, 0, high, category="medication", valid_for_s=DEVICE)


YES_NO = {
    "y": "1", "yes": "1", "true": "1", "la33-6": "1", "on": "1",
    "n": "0", "no": "0", "false": "0", "la32-8": "0", "off": "0",
}  # fmt: skip

ALERTNESS = {
    "a": "A", "alert": "A", "la9340-6": "A", "248234008": "A",
    "c": "C", "confusion": "C", "confused": "C", "new confusion": "C", "la6560-2": "C",
    "v": "V", "voice": "V", "verbal": "V", "responds to voice": "V", "la17108-4": "V", "300202002": "V",
    "p": "P", "pain": "P", "painful": "P", "responds to pain": "P", "la17107-6": "P", "450847001": "P",
    "u": "U", "unresponsive": "U", "la9343-0": "U", "422107003": "U",
}  # fmt: skip
"""ACVPU of NEWS2: LOINC answers to 67775-7, SNOMED CT findings, and the words."""

SEX = {
    "m": "male", "male": "male", "la2-8": "male", "1": "male",
    "f": "female", "female": "female", "la3-6": "female", "0": "female",
    "o": "other", "other": "other", "u": "unknown", "unknown": "unknown", "-1": "unknown",
}  # fmt: skip

ICU_TYPES = {
    "1": "coronary care", "2": "cardiac surgery recovery", "3": "medical", "4": "surgical",
    "coronary care": "coronary care", "cardiac surgery recovery": "cardiac surgery recovery",
    "medical": "medical", "surgical": "surgical",
}  # fmt: skip
"""Unit types of the PhysioNet/Computing in Cardiology Challenge 2012."""

EYES = {"la6553-7": "1", "la6554-5": "2", "la6555-2": "3", "la6556-0": "4"}
WORDS = {"la6557-8": "1", "la6558-6": "2", "la6559-4": "3", "la6560-2": "4", "la6561-0": "5"}
MOVES = {"la6562-8": "1", "la6563-6": "2", "la6564-4": "3", "la6565-1": "4", "la6566-9": "5", "la6567-7": "6"}

# fmt: off
VITALS: tuple[Concept, ...] = (
    _vital(1, "heart_rate", "Heart rate", "HR", "/min", 1, 350, "8867-4 76282-3", 147842),
    _vital(2, "pulse_rate", "Pulse rate", "PR", "/min", 1, 350, "8889-8 76477-9 60978-4", 149530, 149546, 149522),
    _vital(3, "respiratory_rate", "Respiratory rate", "RR", "/min", 0, 150, "9279-1 76270-8 76171-8", 151562, 151570,
           151594),
    _vital(4, "oxygen_saturation", "Oxygen saturation by pulse oximetry", "SpO2", "%", 10, 100, "59408-5", 150456),
    _vital(5, "systolic_blood_pressure", "Systolic blood pressure", "SBP", "mm[Hg]", 1, 350, "8480-6 76534-7", 150021,
           150301),
    _vital(6, "diastolic_blood_pressure", "Diastolic blood pressure", "DBP", "mm[Hg]", 1, 300, "8462-4 76535-4",
           150022, 150302),
    _vital(7, "mean_blood_pressure", "Mean blood pressure", "MBP", "mm[Hg]", 1, 320, "8478-0 76536-2", 150023,
           150303),
    _vital(8, "body_temperature", "Body temperature", "Temp", "Cel", 20, 45, "8310-5 8331-1", 150344, 150364, 188424,
           188496),
    _vital(9, "core_temperature", "Core temperature", "Tcore", "Cel", 20, 45, "8329-5", 150368),
    _vital(10, "rectal_temperature", "Rectal temperature", "Trect", "Cel", 20, 45, "8332-9", 188420),
    _vital(11, "esophageal_temperature", "Esophageal temperature", "Teso", "Cel", 20, 45, "60836-4", 150372),
    _vital(12, "nasopharyngeal_temperature", "Nasopharyngeal temperature", "Tnaso", "Cel", 20, 45, "60838-0", 150380),
    _vital(13, "skin_temperature", "Skin temperature", "Tskin", "Cel", 5, 45, "39106-0", 150388),
    _vital(14, "blood_temperature", "Blood temperature", "Tblood", "Cel", 20, 45, "60834-9", 188436, 150352, 150396),
    _vital(15, "bladder_temperature", "Bladder temperature", "Tblad", "Cel", 20, 45, "", 150348),
    _vital(16, "tympanic_temperature", "Tympanic temperature", "Ttymp", "Cel", 20, 45, "", 150392, 188428),
    _vital(17, "perfusion_index", "Perfusion index", "PI", "%", 0, 30, "61006-3", 150488),
    _vital(18, "qt_interval", "QT interval", "QT", "ms", 100, 1200, "8634-8", 147232),
    _vital(19, "qt_interval_corrected", "QT interval corrected for rate", "QTc", "ms", 100, 1200, "8636-3", 147236),
    _vital(20, "premature_ventricular_contractions", "Premature ventricular contractions", "PVC", "/min", 0, 350,
           "8616-5", 148066),
)
# fmt: on

# fmt: off
HAEMODYNAMICS: tuple[Concept, ...] = (
    _pressure(101, "arterial_systolic_blood_pressure", "Arterial systolic blood pressure", "ABPs", 1, 350, "76215-3",
              150017, 150033, 150037),
    _pressure(102, "arterial_diastolic_blood_pressure", "Arterial diastolic blood pressure", "ABPd", 1, 300,
              "76213-8", 150018, 150034, 150038),
    _pressure(103, "arterial_mean_blood_pressure", "Arterial mean blood pressure", "ABPm", 1, 320, "76214-6", 150019,
              150035, 150039),
    _pressure(104, "central_venous_pressure", "Central venous pressure", "CVP", -20, 80, "60985-9 8591-0", 150084,
              150087),
    _pressure(105, "pulmonary_artery_systolic_pressure", "Pulmonary artery systolic pressure", "PAPs", 1, 180,
              "8440-0", 150045),
    _pressure(106, "pulmonary_artery_diastolic_pressure", "Pulmonary artery diastolic pressure", "PAPd", -5, 120,
              "8385-7", 150046),
    _pressure(107, "pulmonary_artery_mean_pressure", "Pulmonary artery mean pressure", "PAPm", 1, 150, "8414-5",
              150047),
    _pressure(108, "pulmonary_artery_wedge_pressure", "Pulmonary artery wedge pressure", "PAWP", -5, 80, "75994-4",
              150052),
    _pressure(109, "right_atrial_mean_pressure", "Right atrial mean pressure", "RAPm", -20, 80, "8400-4"),
    _pressure(110, "left_atrial_mean_pressure", "Left atrial mean pressure", "LAPm", -20, 80, "8399-8"),
    _flow(111, "cardiac_output", "Cardiac output", "CO", "L/min", 0.1, 30, "8741-1 76519-8", 150276, 150492),
    _flow(112, "cardiac_index", "Cardiac index", "CI", "L/min/m2", 0.1, 20, "75919-1"),
    _flow(113, "stroke_volume", "Stroke volume", "SV", "mL", 1, 300, "20562-5", 150404),
    _flow(114, "systemic_vascular_resistance", "Systemic vascular resistance", "SVR", "dyn.s/cm5", 50, 10_000,
          "8831-0", 150312),
    _flow(115, "mixed_venous_oxygen_saturation", "Mixed venous oxygen saturation", "SvO2", "%", 5, 100, "19224-5",
          150332),
    _flow(116, "central_venous_oxygen_saturation", "Central venous oxygen saturation", "ScvO2", "%", 5, 100,
          "97549-0"),
    _pressure(117, "intracranial_pressure", "Intracranial pressure", "ICP", -20, 150, "60956-0 60958-6", 153608,
              153611),
    _pressure(118, "cerebral_perfusion_pressure", "Cerebral perfusion pressure", "CPP", -50, 250, "61017-0", 153604),
)
# fmt: on

# fmt: off
VENTILATION: tuple[Concept, ...] = (
    _ventilation(201, "inspired_oxygen_fraction", "Inspired oxygen fraction", "FiO2", "%", 15, 100,
                 "3150-0 19996-8 62274-6", 152196, 151920),
    row(202, "supplemental_oxygen", "On supplemental oxygen", "O2", "1", 0, 1, category="ventilation",
        valid_for_s=CHARTED,
        answers=YES_NO | {"oxygen": "1", "supplemental oxygen": "1", "air": "0", "room air": "0"}),
    row(203, "oxygen_flow_rate", "Oxygen flow rate", "O2 flow", "L/min", 0, 100, "3151-8 19941-4",
        category="ventilation", valid_for_s=CHARTED),
    row(204, "mechanical_ventilation", "On mechanical ventilation", "Vent", "1", 0, 1, category="ventilation",
        valid_for_s=12 * HOUR, answers=YES_NO),
    row(205, "ventilation_mode", "Ventilation mode", "Mode", "", 0, 0, "20124-4", category="ventilation",
        valid_for_s=12 * HOUR, kind="coded"),
    _ventilation(206, "positive_end_expiratory_pressure", "Positive end-expiratory pressure", "PEEP", "cm[H2O]", -5,
                 60, "76247-6 20077-4", 151976, 151804, 152788),
    _ventilation(207, "tidal_volume", "Tidal volume", "Vt", "mL", 0, 4000, "76222-9 20112-9", 151980, 151868),
    _ventilation(208, "spontaneous_tidal_volume", "Spontaneous tidal volume", "Vt sp", "mL", 0, 4000, "20116-0"),
    _ventilation(209, "minute_volume", "Expired minute volume", "MV", "L/min", 0, 80, "75959-7", 151880, 151884,
                 152000, 152008),
    _ventilation(210, "peak_inspiratory_pressure", "Peak inspiratory pressure", "Ppeak", "cm[H2O]", -5, 120,
                 "60951-1", 151957, 151973, 151817),
    _ventilation(211, "plateau_pressure", "Plateau pressure", "Pplat", "cm[H2O]", -5, 100, "76259-1", 152424, 151784,
                 151960),
    _ventilation(212, "mean_airway_pressure", "Mean airway pressure", "Pmean", "cm[H2O]", -5, 80, "60949-5", 151975,
                 151819),
    _ventilation(213, "pressure_support", "Pressure support setting", "PS", "cm[H2O]", 0, 60, "20079-0"),
    _ventilation(214, "ventilator_rate_setting", "Breath rate setting", "RR set", "/min", 0, 150, "19834-1"),
    _ventilation(215, "ventilator_respiratory_rate", "Ventilator breath rate", "RR vent", "/min", 0, 150, "", 151586,
                 152490),
    _ventilation(216, "spontaneous_respiratory_rate", "Spontaneous breath rate", "RR sp", "/min", 0, 150, "76528-9",
                 152498),
    _ventilation(217, "inspiratory_time", "Inspiratory time", "Ti", "s", 0, 20, "60740-8"),
    _ventilation(218, "end_tidal_co2", "End-tidal carbon dioxide", "etCO2", "mm[Hg]", 0, 180, "19891-1", 151708,
                 151728, 151928),
    _ventilation(219, "inspired_co2", "Inspired carbon dioxide", "imCO2", "mm[Hg]", 0, 180, "", 151716, 151736,
                 151936),
    _ventilation(220, "lung_compliance", "Compliance of the respiratory system", "Crs", "mL/cm[H2O]", 0, 300, "",
                 151688),
    row(221, "vital_capacity", "Vital capacity", "VC", "mL", 0, 10_000, "19867-1", category="ventilation",
        valid_for_s=LABORATORY, mdc=(151680,)),
)
# fmt: on

# fmt: off
NEUROLOGICAL: tuple[Concept, ...] = (
    row(301, "consciousness", "Level of consciousness (ACVPU)", "ACVPU", "", 0, 0, "67775-7 80288-4",
        category="neurological", valid_for_s=CHARTED, kind="coded", answers=ALERTNESS),
    row(302, "glasgow_coma_score", "Glasgow coma score total", "GCS", "{score}", 3, 15, "9269-2",
        category="neurological", valid_for_s=CHARTED),
    row(303, "glasgow_coma_score_eye", "Glasgow coma score eye opening", "GCS-E", "{score}", 1, 4, "9267-6",
        category="neurological", valid_for_s=CHARTED, answers=EYES),
    row(304, "glasgow_coma_score_verbal", "Glasgow coma score verbal", "GCS-V", "{score}", 1, 5, "9270-0",
        category="neurological", valid_for_s=CHARTED, answers=WORDS),
    row(305, "glasgow_coma_score_motor", "Glasgow coma score motor", "GCS-M", "{score}", 1, 6, "9268-4",
        category="neurological", valid_for_s=CHARTED, answers=MOVES),
    row(306, "richmond_agitation_sedation_score", "Richmond agitation-sedation score", "RASS", "{score}", -5, 4,
        category="neurological", valid_for_s=CHARTED),
    row(307, "pain_score", "Pain severity 0-10", "Pain", "{score}", 0, 10, "72514-3", category="neurological",
        valid_for_s=CHARTED),
    row(308, "pupil_diameter_right", "Right pupil diameter", "Pupil R", "mm", 0.5, 12, "8643-9",
        category="neurological", valid_for_s=CHARTED),
    row(309, "pupil_diameter_left", "Left pupil diameter", "Pupil L", "mm", 0.5, 12, "8641-3",
        category="neurological", valid_for_s=CHARTED),
    row(310, "heart_rhythm", "Heart rhythm", "Rhythm", "", 0, 0, "8884-9", category="vital-signs",
        valid_for_s=CHARTED, kind="coded"),
)
# fmt: on

# fmt: off
FLUIDS: tuple[Concept, ...] = (
    _fluid(501, "urine_output", "Urine output", "Urine", "9187-6"),
    _fluid(502, "fluid_output_gastric_tube", "Gastric tube output", "NG out", "9149-6"),
    _fluid(503, "fluid_output_chest_tube", "Chest tube output", "Chest out", "9129-8"),
    _fluid(504, "fluid_output_wound_drain", "Wound drain output", "Drain out", "9203-1"),
    _fluid(505, "fluid_output_peritoneal_drain", "Peritoneal drain output", "Perit out", "9179-3"),
    _fluid(506, "stool_output", "Stool output", "Stool", "9217-1"),
    _fluid(507, "estimated_blood_loss", "Estimated blood loss", "EBL", "9110-8", 50_000),
    _fluid(508, "fluid_output_ventricular_drain", "Cerebral ventricle drain output", "EVD out", "9122-3"),
    _fluid(509, "fluid_intake", "Fluid intake", "Intake", ""),
    _infusion(521, "norepinephrine_rate", "Norepinephrine infusion rate", "NE", "ug/kg/min", 20),
    _infusion(522, "epinephrine_rate", "Epinephrine infusion rate", "EPI", "ug/kg/min", 20),
    _infusion(523, "vasopressin_rate", "Vasopressin infusion rate", "AVP", "[IU]/min", 1),
    _infusion(524, "dopamine_rate", "Dopamine infusion rate", "DOPA", "ug/kg/min", 100),
    _infusion(525, "dobutamine_rate", "Dobutamine infusion rate", "DOBU", "ug/kg/min", 100),
    _infusion(526, "phenylephrine_rate", "Phenylephrine infusion rate", "PHE", "ug/kg/min", 50),
    _infusion(527, "insulin_rate", "Insulin infusion rate", "Insulin", "[IU]/h", 200),
    _infusion(528, "propofol_rate", "Propofol infusion rate", "Propofol", "ug/kg/min", 500),
)
# fmt: on

# fmt: off
PERSON: tuple[Concept, ...] = (
    row(601, "body_weight", "Body weight", "Weight", "kg", 0.2, 650, "29463-7 3141-9", category="demographic",
        valid_for_s=BODY, mdc=(188736,)),
    row(602, "body_height", "Body height", "Height", "cm", 20, 275, "8302-2 8306-3", category="demographic",
        valid_for_s=BODY, mdc=(188740,)),
    row(603, "body_mass_index", "Body mass index", "BMI", "kg/m2", 5, 200, "39156-5", category="demographic",
        valid_for_s=BODY, mdc=(188752,)),
    row(604, "age", "Age", "Age", "a", 0, 130, "30525-0", category="demographic", valid_for_s=ALWAYS),
    row(605, "sex", "Sex", "Sex", "", 0, 0, "46098-0", category="demographic", valid_for_s=ALWAYS, kind="coded",
        answers=SEX),
    row(606, "icu_type", "Type of intensive care unit", "ICU type", "", 0, 0, category="demographic",
        valid_for_s=BODY, kind="coded", answers=ICU_TYPES),
)
# fmt: on
