"""The codes and units this hospital's devices, charts and laboratory use.

Here: one row a quantity, as its sender names it: IEEE 11073-10101 for monitors, LOINC and UCUM for all others.
Not here: the platform's concept table (vocabulary.concepts); a sender does not know what a receiver makes of its codes.
Source: IEEE 11073-10101 (code = partition << 16 | term); LOINC 2.72; UCUM 2.1; IHE PCD TF-2 appendix on containment.
"""

from __future__ import annotations

from typing import NamedTuple


class DeviceUnit(NamedTuple):
    """A unit as a device writes it in OBX-6."""

    code: str
    name: str
    system: str = "MDC"


MMHG = DeviceUnit("266016", "MDC_DIM_MMHG")
BEAT_PER_MIN = DeviceUnit("264864", "MDC_DIM_BEAT_PER_MIN")
RESP_PER_MIN = DeviceUnit("264928", "MDC_DIM_RESP_PER_MIN")
PERCENT = DeviceUnit("262688", "MDC_DIM_PERCENT")
DEGREE_CELSIUS = DeviceUnit("268192", "MDC_DIM_DEGC")
DEGREE_FAHRENHEIT = DeviceUnit("266560", "MDC_DIM_FAHR")


class DeviceMetric(NamedTuple):
    """A number a bedside monitor measures."""

    key: str
    code: str  # IEEE 11073-10101
    name: str
    unit: DeviceUnit
    channel: str  # OBX-4 without the metric: device.module.channel
    decimals: int


DEVICE_METRICS = {
    metric.key: metric
    for metric in (
        DeviceMetric("heart_rate", "147842", "MDC_ECG_HEART_RATE", BEAT_PER_MIN, "1.5.1", 0),
        DeviceMetric("pulse_rate", "149530", "MDC_PULS_OXIM_PULS_RATE", BEAT_PER_MIN, "1.3.1", 0),
        DeviceMetric("oxygen_saturation", "150456", "MDC_PULS_OXIM_SAT_O2", PERCENT, "1.3.1", 0),
        DeviceMetric("perfusion_index", "150488", "MDC_BLD_PERF_INDEX", PERCENT, "1.3.1", 2),
        DeviceMetric("respiratory_rate", "151562", "MDC_RESP_RATE", RESP_PER_MIN, "1.7.1", 0),
        DeviceMetric("arterial_systolic", "150033", "MDC_PRESS_BLD_ART_SYS", MMHG, "1.13.1", 0),
        DeviceMetric("arterial_diastolic", "150034", "MDC_PRESS_BLD_ART_DIA", MMHG, "1.13.1", 0),
        DeviceMetric("arterial_mean", "150035", "MDC_PRESS_BLD_ART_MEAN", MMHG, "1.13.1", 0),
        DeviceMetric("cuff_systolic", "150021", "MDC_PRESS_BLD_NONINV_SYS", MMHG, "1.1.9", 0),
        DeviceMetric("cuff_diastolic", "150022", "MDC_PRESS_BLD_NONINV_DIA", MMHG, "1.1.9", 0),
        DeviceMetric("cuff_mean", "150023", "MDC_PRESS_BLD_NONINV_MEAN", MMHG, "1.1.9", 0),
        DeviceMetric("central_venous_pressure", "150087", "MDC_PRESS_BLD_VEN_CENT_MEAN", MMHG, "1.13.2", 0),
        DeviceMetric("temperature", "150364", "MDC_TEMP_BODY", DEGREE_CELSIUS, "1.2.1", 1),
        DeviceMetric("end_tidal_carbon_dioxide", "151708", "MDC_AWAY_CO2_ET", MMHG, "1.11.1", 0),
        DeviceMetric("inspired_oxygen", "152196", "MDC_CONC_AWAY_O2_INSP", PERCENT, "1.11.2", 0),
    )
}

MONITOR = ("69965", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS", "1.0.0.0")
"""The containment row that names the whole device; it carries no value (OBX-11 X)."""


class ChartItem(NamedTuple):
    """A quantity a nurse charts or a laboratory reports, under its LOINC code."""

    key: str
    code: str
    name: str
    unit: str  # UCUM; "" for coded items
    decimals: int


CHART_ITEMS = {
    item.key: item
    for item in (
        ChartItem("consciousness", "67775-7", "Level of responsiveness", "", 0),
        ChartItem("glasgow_coma_score", "9269-2", "Glasgow coma score total", "{score}", 0),
        ChartItem("oxygen_flow", "3151-8", "Inhaled oxygen flow rate", "L/min", 1),
        ChartItem("urine", "9187-6", "Urine output", "mL", 0),
        ChartItem("weight", "29463-7", "Body weight", "kg", 1),
        ChartItem("height", "8302-2", "Body height", "cm", 0),
        ChartItem("age", "30525-0", "Age", "a", 0),
    )
}

LABORATORY_ITEMS = {
    item.key: item
    for item in (
        ChartItem("lactate", "2524-7", "Lactate [Moles/volume] in Serum or Plasma", "mmol/L", 1),
        ChartItem("white_cells", "6690-2", "Leukocytes [#/volume] in Blood by Automated count", "10*9/L", 1),
        ChartItem("haemoglobin", "718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 1),
        ChartItem("platelets", "777-3", "Platelets [#/volume] in Blood by Automated count", "10*9/L", 0),
        ChartItem("creatinine", "2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 2),
        ChartItem("urea_nitrogen", "3094-0", "Urea nitrogen [Mass/volume] in Serum or Plasma", "mg/dL", 0),
        ChartItem("bilirubin", "1975-2", "Bilirubin.total [Mass/volume] in Serum or Plasma", "mg/dL", 1),
        ChartItem("c_reactive_protein", "1988-5", "C reactive protein [Mass/volume] in Serum or Plasma", "mg/L", 0),
        ChartItem("sodium", "2951-2", "Sodium [Moles/volume] in Serum or Plasma", "mmol/L", 0),
        ChartItem("potassium", "2823-3", "Potassium [Moles/volume] in Serum or Plasma", "mmol/L", 1),
        ChartItem("glucose", "2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", 0),
        ChartItem("arterial_ph", "2744-1", "pH of Arterial blood", "[pH]", 2),
        ChartItem(
            "arterial_carbon_dioxide", "2019-8", "Carbon dioxide [Partial pressure] in Arterial blood", "mm[Hg]", 0
        ),
        ChartItem("arterial_oxygen", "2703-7", "Oxygen [Partial pressure] in Arterial blood", "mm[Hg]", 0),
        ChartItem("bicarbonate", "1963-8", "Bicarbonate [Moles/volume] in Serum or Plasma", "mmol/L", 0),
    )
}

PANELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "chemistry": (
        "24323-8",
        "Comprehensive metabolic 2000 panel - Serum or Plasma",
        ("sodium", "potassium", "creatinine", "urea_nitrogen", "glucose", "bilirubin", "c_reactive_protein"),
    ),
    "blood_count": ("58410-2", "CBC panel - Blood by Automated count", ("white_cells", "haemoglobin", "platelets")),
    "blood_gas": (
        "24336-0",
        "Gas panel - Arterial blood",
        ("arterial_ph", "arterial_carbon_dioxide", "arterial_oxygen", "bicarbonate", "lactate"),
    ),
}

CONSCIOUSNESS = {
    "A": ("LA9340-6", "Alert"),
    "C": ("LA6560-2", "Confused"),
    "V": ("LA17108-4", "Responds to voice"),
    "P": ("LA17107-6", "Responds to pain"),
    "U": ("LA9343-0", "Unresponsive"),
}
"""ACVPU as LOINC answers (code, display)."""
