"""The concept table II: the laboratory.

Here: one row a concept, with molar mass where laboratories report moles as well as mass, and charge number for ions.
Not here: what a row means (vocabulary.concept_table), look-ups (vocabulary.concepts).
Source: LOINC, as MIMIC-IV's d_labitems is mapped by MIT-LCP's mimic-code (attribution in vocabulary.concept_table);
molar masses from IUPAC's standard atomic weights (urea nitrogen counts two nitrogens).

An enzyme's international unit is UCUM's U (1 umol/min) by its definition of 1961, so for enzymes, and only for them,
`[IU]/L` reads as `U/L`.
"""

from __future__ import annotations

from collections.abc import Mapping

from vocabulary.concept_table import GAS, LABORATORY, Concept, row

ENZYME = {"[IU]/L": "U/L", "[iU]/L": "U/L", "[IU]/mL": "U/mL", "m[IU]/mL": "U/L", "u[IU]/mL": "mU/mL"}
ACIDITY = {"1": "[pH]"}  # "units", "{pH}" and no unit at all: nothing else is sent for a pH


def _lab(
    number: int,
    key: str,
    display: str,
    short: str,
    unit: str,
    low: float,
    high: float,
    loinc: str,
    *,
    mass: float | None = None,
    valence: int | None = None,
    equivalents: Mapping[str, str] | None = None,
    mdc: tuple[int, ...] = (),
) -> Concept:
    return row(
        number, key, display, short, unit, low, high, loinc, category="laboratory", valid_for_s=LABORATORY,
        molar_mass=mass, valence=valence, equivalents=equivalents, mdc=mdc,
    )  # fmt: skip


def _gas(
    number: int,
    key: str,
    display: str,
    short: str,
    unit: str,
    low: float,
    high: float,
    loinc: str,
    *,
    mass: float | None = None,
    valence: int | None = None,
    equivalents: Mapping[str, str] | None = None,
    mdc: tuple[int, ...] = (),
) -> Concept:
    return row(
        number, key, display, short, unit, low, high, loinc, category="laboratory", valid_for_s=GAS,
        molar_mass=mass, valence=valence, equivalents=equivalents, mdc=mdc,
    )  # fmt: skip


def _enzyme(number: int, key: str, display: str, short: str, high: float, loinc: str) -> Concept:
    return _lab(number, key, display, short, "U/L", 0.1, high, loinc, equivalents=ENZYME)


# fmt: off
GASES: tuple[Concept, ...] = (
    _gas(401, "blood_ph", "pH of blood", "pH", "[pH]", 6.3, 8.1, "11558-4 2744-1", equivalents=ACIDITY),
    _gas(402, "arterial_co2_pressure", "Carbon dioxide partial pressure in blood", "PaCO2", "mm[Hg]", 3, 250,
         "2019-8 11557-6"),
    _gas(403, "arterial_o2_pressure", "Oxygen partial pressure in blood", "PaO2", "mm[Hg]", 10, 800,
         "2703-7 11556-8"),
    _gas(404, "arterial_oxygen_saturation", "Oxygen saturation in arterial blood", "SaO2", "%", 5, 100,
         "2708-6 20564-1", mdc=(150324,)),
    _gas(405, "base_excess", "Base excess in blood", "BE", "mmol/L", -50, 50, "11555-0 1925-7", valence=1),
    _gas(406, "total_co2", "Total carbon dioxide in blood", "TCO2", "mmol/L", 1, 90, "34728-6 41647-9 20565-8",
         valence=1),
    _gas(407, "lactate", "Lactate", "Lac", "mmol/L", 0.05, 60, "32693-4 2518-9 2524-7", mass=90.078, valence=1),
    _gas(408, "ionized_calcium", "Ionized calcium", "iCa", "mmol/L", 0.1, 6, "1994-3 13959-2", mass=40.078,
         valence=2),
    _gas(409, "carboxyhemoglobin", "Carboxyhemoglobin fraction", "COHb", "%", 0, 100, "20563-3"),
    _gas(410, "methemoglobin", "Methemoglobin fraction", "MetHb", "%", 0, 100, "2614-6"),
    _gas(411, "alveolar_arterial_gradient", "Alveolar-arterial oxygen difference", "A-a", "mm[Hg]", -100, 800,
         "19991-9"),
)
# fmt: on

# fmt: off
CHEMISTRY: tuple[Concept, ...] = (
    _lab(420, "sodium", "Sodium", "Na", "mmol/L", 80, 220, "2951-2 2947-0", mass=22.98976928, valence=1),
    _lab(421, "potassium", "Potassium", "K", "mmol/L", 0.5, 30, "2823-3 6298-4", mass=39.0983, valence=1),
    _lab(422, "chloride", "Chloride", "Cl", "mmol/L", 40, 180, "2075-0 2069-3", mass=35.45, valence=1),
    _lab(423, "bicarbonate", "Bicarbonate", "HCO3", "mmol/L", 1, 80, "1963-8 1959-6", mass=61.017, valence=1),
    _lab(424, "anion_gap", "Anion gap", "AG", "mmol/L", -30, 100, "1863-0 33037-3 41276-7", valence=1),
    _lab(425, "urea_nitrogen", "Urea nitrogen", "BUN", "mg/dL", 0.5, 400, "3094-0 6299-2 14937-7", mass=28.014),
    _lab(426, "creatinine", "Creatinine", "Cr", "mg/dL", 0.02, 60, "2160-0 14682-9 38483-4", mass=113.12),
    _lab(427, "glucose", "Glucose", "Glu", "mg/dL", 2, 3000, "2345-7 2339-0 14749-6 15074-8", mass=180.156,
         mdc=(160184, 160368)),
    _lab(428, "calcium", "Calcium", "Ca", "mg/dL", 1, 30, "17861-6 49765-1 2000-8", mass=40.078, valence=2),
    _lab(429, "magnesium", "Magnesium", "Mg", "mg/dL", 0.1, 30, "19123-9 2601-3", mass=24.305, valence=2),
    _lab(430, "phosphate", "Phosphate (as phosphorus)", "Phos", "mg/dL", 0.1, 40, "2777-1 14879-1",
         mass=30.973761998),
    _lab(431, "osmolality", "Osmolality", "Osm", "mosm/kg", 150, 600, "2692-2"),
    _lab(432, "uric_acid", "Urate", "UA", "mg/dL", 0.05, 60, "3084-1 14933-6", mass=168.112),
    _lab(433, "ammonia", "Ammonia", "NH3", "umol/L", 1, 3000, "16362-6", mass=17.031),
    _lab(434, "total_protein", "Total protein", "TP", "g/dL", 0.5, 20, "2885-2"),
    _lab(435, "albumin", "Albumin", "Alb", "g/dL", 0.2, 10, "1751-7"),
    _lab(436, "bilirubin_total", "Total bilirubin", "Bili", "mg/dL", 0.01, 100, "1975-2 14631-6", mass=584.66),
    _lab(437, "bilirubin_direct", "Direct bilirubin", "Bili-D", "mg/dL", 0.01, 80, "1968-7 14629-0", mass=584.66),
    _lab(438, "cholesterol_total", "Total cholesterol", "Chol", "mg/dL", 5, 2000, "2093-3 14647-2", mass=386.65),
    _lab(439, "cholesterol_hdl", "HDL cholesterol", "HDL", "mg/dL", 1, 300, "2085-9 14646-4", mass=386.65),
    _lab(440, "cholesterol_ldl", "LDL cholesterol", "LDL", "mg/dL", 1, 1500, "13457-7 18262-6 39469-2", mass=386.65),
    _lab(441, "triglycerides", "Triglycerides", "TG", "mg/dL", 5, 15_000, "2571-8 14927-8", mass=885.45),
    _lab(442, "iron", "Iron", "Fe", "ug/dL", 1, 2000, "2498-4", mass=55.845),
    _lab(443, "ferritin", "Ferritin", "Ferr", "ng/mL", 0.5, 200_000, "2276-4"),
    _lab(444, "hemoglobin_a1c", "Hemoglobin A1c fraction", "HbA1c", "%", 2, 25, "4548-4 17856-6"),
    _lab(445, "cortisol", "Cortisol", "Cort", "ug/dL", 0.1, 500, "2143-6", mass=362.46),
    _lab(446, "thyrotropin", "Thyrotropin", "TSH", "m[IU]/L", 0, 1000, "3016-3"),
    _lab(447, "thyroxine_free", "Free thyroxine", "fT4", "ng/dL", 0.01, 50, "3024-7", mass=776.87),
    _enzyme(448, "alanine_aminotransferase", "Alanine aminotransferase", "ALT", 100_000, "1742-6"),
    _enzyme(449, "aspartate_aminotransferase", "Aspartate aminotransferase", "AST", 100_000, "1920-8"),
    _enzyme(450, "alkaline_phosphatase", "Alkaline phosphatase", "ALP", 20_000, "6768-6"),
    _enzyme(451, "gamma_glutamyl_transferase", "Gamma glutamyl transferase", "GGT", 20_000, "2324-2"),
    _enzyme(452, "lactate_dehydrogenase", "Lactate dehydrogenase", "LDH", 100_000, "2532-0"),
    _enzyme(453, "lipase", "Lipase", "Lip", 100_000, "3040-3"),
    _enzyme(454, "amylase", "Amylase", "Amy", 50_000, "1798-8"),
    _enzyme(455, "creatine_kinase", "Creatine kinase", "CK", 1_000_000, "2157-6"),
    _lab(456, "creatine_kinase_mb", "Creatine kinase MB", "CK-MB", "ng/mL", 0, 5000, "13969-1"),
    _lab(457, "troponin_i", "Troponin I, cardiac", "TnI", "ng/mL", 0, 5000, "10839-9"),
    _lab(458, "troponin_t", "Troponin T, cardiac", "TnT", "ng/mL", 0, 1000, "6598-7"),
    _lab(459, "nt_pro_bnp", "NT-proBNP", "NT-proBNP", "pg/mL", 1, 500_000, "33762-6"),
    _lab(460, "c_reactive_protein", "C-reactive protein", "CRP", "mg/L", 0, 1500, "1988-5"),
    _lab(461, "procalcitonin", "Procalcitonin", "PCT", "ng/mL", 0, 2000, "33959-8"),
    _lab(462, "haptoglobin", "Haptoglobin", "Hapto", "mg/dL", 0, 2000, "4542-7"),
    _lab(463, "transferrin", "Transferrin", "Transf", "mg/dL", 5, 1000, "3034-6"),
    _lab(464, "bilirubin_indirect", "Indirect bilirubin", "Bili-I", "mg/dL", 0, 100, "1971-1", mass=584.66),
)
# fmt: on

# fmt: off
HAEMATOLOGY: tuple[Concept, ...] = (
    _lab(470, "hemoglobin", "Hemoglobin", "Hb", "g/dL", 0.5, 30, "718-7", mdc=(159764,)),
    _lab(471, "hematocrit", "Hematocrit", "Hct", "%", 2, 85, "4544-3 20570-8 48703-3", mdc=(160132,)),
    _lab(472, "leukocytes", "Leukocytes", "WBC", "10*3/uL", 0, 1500, "6690-2 26464-8"),
    _lab(473, "platelets", "Platelets", "Plt", "10*3/uL", 0, 6000, "777-3 26515-7"),
    _lab(474, "erythrocytes", "Erythrocytes", "RBC", "10*6/uL", 0.2, 15, "789-8"),
    _lab(475, "mean_corpuscular_volume", "Mean corpuscular volume", "MCV", "fL", 30, 200, "787-2"),
    _lab(476, "mean_corpuscular_hemoglobin", "Mean corpuscular hemoglobin", "MCH", "pg", 5, 100, "785-6"),
    _lab(477, "mean_corpuscular_hemoglobin_concentration", "Mean corpuscular hemoglobin concentration", "MCHC",
         "g/dL", 10, 60, "786-4", equivalents={"%": "g/dL"}),
    _lab(478, "erythrocyte_distribution_width", "Erythrocyte distribution width", "RDW", "%", 5, 60, "788-0"),
    _lab(479, "neutrophils", "Neutrophils", "Neut", "10*3/uL", 0, 1000, "751-8"),
    _lab(480, "neutrophil_fraction", "Neutrophil fraction", "Neut%", "%", 0, 100, "770-8"),
    _lab(481, "lymphocytes", "Lymphocytes", "Lymph", "10*3/uL", 0, 1500, "731-0"),
    _lab(482, "lymphocyte_fraction", "Lymphocyte fraction", "Lymph%", "%", 0, 100, "736-9"),
    _lab(483, "band_neutrophil_fraction", "Band neutrophil fraction", "Bands", "%", 0, 100, "26508-2"),
    _lab(484, "monocytes", "Monocytes", "Mono", "10*3/uL", 0, 1000, "742-7"),
    _lab(485, "eosinophils", "Eosinophils", "Eos", "10*3/uL", 0, 500, "711-2"),
    _lab(486, "basophils", "Basophils", "Baso", "10*3/uL", 0, 500, "704-7"),
    _lab(487, "erythrocyte_sedimentation_rate", "Erythrocyte sedimentation rate", "ESR", "mm/h", 0, 200, "4537-7"),
    _lab(488, "prothrombin_time", "Prothrombin time", "PT", "s", 3, 300, "5902-2"),
    _lab(489, "inr", "INR", "INR", "{INR}", 0.3, 40, "6301-6"),
    _lab(490, "partial_thromboplastin_time", "Activated partial thromboplastin time", "aPTT", "s", 5, 400, "14979-9"),
    _lab(491, "thrombin_time", "Thrombin time", "TT", "s", 2, 400, "3243-3"),
    _lab(492, "fibrinogen", "Fibrinogen", "Fib", "mg/dL", 5, 3000, "3255-7"),
    _lab(493, "d_dimer", "D-dimer (fibrinogen equivalent units)", "D-dimer", "ng/mL{FEU}", 0, 1_000_000, "48065-7"),
)
# fmt: on
