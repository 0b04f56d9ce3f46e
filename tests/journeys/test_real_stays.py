"""Real ICU stays through real sockets: every value of their files is in the store, or held with a reason.

The comparison reads the challenge's files by itself: csv lines, its own table of names. It shares nothing with the
player's encoder, the decoder, or the concept table's mapping of codes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import psycopg
import pytest

from orchestration.data_dir import DataDir
from orchestration.embedded import EmbeddedPostgres
from stores import database, timeseries
from vocabulary import concepts

STAYS = 48

# The challenge's parameter → our concept, and the factor from the file's unit to ours.
PARAMETERS = {
    "Age": ("age", 1), "Albumin": ("albumin", 1), "ALP": ("alkaline_phosphatase", 1),
    "ALT": ("alanine_aminotransferase", 1), "AST": ("aspartate_aminotransferase", 1),
    "Bilirubin": ("bilirubin_total", 1), "BUN": ("urea_nitrogen", 1), "Cholesterol": ("cholesterol_total", 1),
    "Creatinine": ("creatinine", 1),
    "DiasABP": ("arterial_diastolic_blood_pressure", 1), "FiO2": ("inspired_oxygen_fraction", 100),
    "GCS": ("glasgow_coma_score", 1), "Glucose": ("glucose", 1), "HCO3": ("bicarbonate", 1), "HCT": ("hematocrit", 1),
    "HR": ("heart_rate", 1), "Height": ("body_height", 1), "K": ("potassium", 1), "Lactate": ("lactate", 1),
    "Mg": ("magnesium", 1), "MAP": ("arterial_mean_blood_pressure", 1), "MechVent": ("mechanical_ventilation", 1),
    "Na": ("sodium", 1), "NIDiasABP": ("diastolic_blood_pressure", 1), "NIMAP": ("mean_blood_pressure", 1),
    "NISysABP": ("systolic_blood_pressure", 1), "PaCO2": ("arterial_co2_pressure", 1),
    "PaO2": ("arterial_o2_pressure", 1), "pH": ("blood_ph", 1), "Platelets": ("platelets", 1),
    "RespRate": ("respiratory_rate", 1), "SaO2": ("arterial_oxygen_saturation", 1),
    "SysABP": ("arterial_systolic_blood_pressure", 1), "Temp": ("body_temperature", 1), "TroponinI": ("troponin_i", 1),
    "TroponinT": ("troponin_t", 1), "Urine": ("urine_output", 1), "WBC": ("leukocytes", 1),
    "Weight": ("body_weight", 1),
}  # fmt: skip
TOLD_OTHERWISE = {"RecordID", "Gender", "ICUType"}  # in PID and PV1


def _files(archive: Path) -> dict[str, list[tuple[int, str, str]]]:
    """Return RecordID → (minute, parameter, text) of every stay, as the files say."""
    stays: dict[str, list[tuple[int, str, str]]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.startswith("set-a/") or not member.name.endswith(".txt"):
                continue
            content = tar.extractfile(member)
            assert content is not None
            rows = list(csv.DictReader(io.StringIO(content.read().decode())))
            record = next(row["Value"] for row in rows if row["Parameter"] == "RecordID")
            stays[record] = [
                (int(row["Time"][:2]) * 60 + int(row["Time"][3:]), row["Parameter"], row["Value"])
                for row in rows
                if row["Parameter"] and row["Parameter"] not in TOLD_OTHERWISE
            ]
    return stays


@pytest.fixture(scope="module")
def played(shared_data, server_folder):
    """The demonstration's JSON, and its database started again."""
    root = server_folder / "stays"
    command = [
        str(Path(sys.executable).parent / "vigil"), "demo", "--from", str(shared_data / "icu/physionet2012"),
        "--stays", str(STAYS), "--speed", "6000", "--no-model", "--exit", "--json", "--data-dir", str(root),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    data_dir = DataDir(Path(result["data_dir"]))
    server = EmbeddedPostgres(data_dir.postgres, data_dir.ports({"postgres": 0})["postgres"])
    server.start()
    yield result, server.url("postgres")
    server.stop()


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_books_of_real_stays_balance_and_snapshots_are_fresh(played):
    result, _ = played
    assert result["stays"] >= 40
    assert result["remainder"] == 0
    assert result["messages"]["pending"] == result["values"]["pending"] == 0
    assert result["snapshots"] > result["stays"]
    assert result["snapshot_ids"]
    assert 0 < result["p50_s"] < 1


@pytest.mark.slow
@pytest.mark.shared_data
async def test_every_value_of_the_files_is_stored_or_held_with_its_reason(played, shared_data):
    _, url = played
    files = _files(shared_data / "icu/physionet2012/set-a.tar.gz")
    with psycopg.connect(url) as connection:
        patients = dict(
            connection.execute(
                "select i.value, i.patient_id from patient_identifier i where i.authority = 'PHYSIONET2012'"
            ).fetchall()
        )
        starts = dict(connection.execute("select patient_id, min(started_at_us) from encounter group by 1").fetchall())
        held = Counter(
            row[0]
            for row in connection.execute(
                "select reason from quarantine_item where state = 'open' and value_index >= 0"
            ).fetchall()
        )
    assert len(patients) == STAYS
    connection = await database.connect(url, application_name="test")
    missing: list[tuple[str, int, str, str]] = []
    surplus = 0
    compared = 0
    for record, patient_id in patients.items():
        async with database.transaction(connection):
            samples = await timeseries.range_(connection, [patient_id], None, 0, 2**52)
        stored: dict[tuple[str, int], list[float]] = defaultdict(list)
        for sample in samples:
            minute = round((sample.effective_at_us - starts[patient_id]) / 60e6)
            stored[concepts.by_number(sample.concept).key, minute].append(sample.value)
        for minute, parameter, text in files[record]:
            compared += 1
            key, factor = PARAMETERS[parameter]
            wanted = float(text) * factor
            values = stored[key, minute]
            match = next((value for value in values if abs(value - wanted) <= 1e-9 * max(1.0, abs(wanted))), None)
            if match is None:
                missing.append((record, minute, parameter, text))
            else:
                values.remove(match)
        surplus += sum(len(values) for values in stored.values())
    await connection.close()
    assert compared > 15_000
    assert surplus == 0, "the store holds values that are in no file"
    # What is not stored is itemised, one item a value, and for being impossible; nothing else.
    assert held == {"implausible_value": len(missing)}, missing[:10]
    doubtful = {"pH", "Temp", "Weight", "Height"}
    assert all(float(text) <= 0 or parameter in doubtful for _, _, parameter, text in missing), missing
