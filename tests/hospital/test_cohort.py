"""The synthetic cohort: the challenge's format to both its readers, the same bytes again, something to learn."""

from __future__ import annotations

import hashlib
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hospital.__main__ import main
from hospital.cohort import ARCHIVE, MARKER, OUTCOMES, invent_stay, write_cohort
from hospital.stays import PARAMETERS, read_stays
from interop import physionet2012
from vocabulary.errors import RefusedError
from vocabulary.records import Reason


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, 1200, 7)
    return folder


@pytest.fixture(scope="module")
def stays(cohort: Path) -> list[physionet2012.RecordedStay]:
    return list(physionet2012.read(cohort))


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in (ARCHIVE, OUTCOMES, MARKER))).hexdigest()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_cohort(tmp_path / name, 12, seed)
    one, two, three = (digest(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three
    write_cohort(tmp_path / "three", 12, 3)  # what was invented may be invented anew
    assert digest(tmp_path / "three") == one


def test_a_stay_is_the_same_in_a_cohort_of_any_size(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, 3, 7)
    assert [record for record, _ in zip(read_stays(cohort), range(3), strict=False)] == list(read_stays(tmp_path))


def test_it_is_marked_as_invented_in_words_a_person_understands(cohort: Path) -> None:
    assert physionet2012.is_synthetic(cohort)
    assert "means nothing clinically" in (cohort / MARKER).read_text()
    assert "--seed 7" in (cohort / MARKER).read_text()


def test_a_cohort_that_is_not_marked_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / OUTCOMES).write_text("real")
    with pytest.raises(RefusedError, match="may be real"):
        write_cohort(tmp_path, 2, 1)
    assert [path.name for path in tmp_path.iterdir()] == [OUTCOMES]
    assert (tmp_path / OUTCOMES).read_text() == "real"


def test_both_readers_understand_all_of_it(cohort: Path, stays: list[physionet2012.RecordedStay]) -> None:
    records = list(read_stays(cohort, 100))
    assert [record.record_id for record in records] == [stay.record_id for stay in stays[:100]]
    assert all(len(r.rows) == len(s.values) + len(s.rejected) for r, s in zip(records, stays, strict=False))
    assert {row.parameter for record in read_stays(cohort) for row in record.rows} == set(PARAMETERS)
    reasons = {one.reason for stay in stays for one in stay.rejected}
    assert reasons == {Reason.IMPLAUSIBLE_VALUE}  # slips of hand and device, never of format
    for record in records:
        minutes = [row.minute for row in record.rows]
        assert minutes == sorted(minutes)


def test_about_one_in_seven_dies_and_nothing_contradicts_it(stays: list[physionet2012.RecordedStay]) -> None:
    outcomes = [stay.outcome for stay in stays if stay.outcome is not None]
    assert len(outcomes) == len(stays) == 1200
    assert 0.11 < statistics.fmean(outcome.died_in_hospital for outcome in outcomes) < 0.175
    assert {stay.icu_type for stay in stays} == set(physionet2012.ICU_TYPES.values())
    assert {stay.sex for stay in stays} == {"female", "male"}


def test_who_dies_spent_no_longer_in_hospital_than_they_lived(cohort: Path) -> None:
    for line in (cohort / OUTCOMES).read_text().splitlines()[1:]:
        _, saps, sofa, length, survival, died = map(int, line.split(","))
        assert -1 <= saps <= 34
        assert -1 <= sofa <= 24
        assert (2 <= survival <= length) == bool(died)


def test_what_is_missing_is_missing_as_in_life(stays: list[physionet2012.RecordedStay]) -> None:
    def share(*concepts: int) -> float:
        return statistics.fmean(bool(np.isin(stay.concepts, concepts).any()) for stay in stays)

    assert 0.95 < share(1) < 1.0  # heart rate: a few stays were never charted at all
    assert 0.2 < share(3) < 0.36  # respiratory rate
    assert 0.55 < share(103) < 0.8  # an arterial line
    assert 0.4 < share(407) < 0.65  # lactate
    assert 0.04 < share(438) < 0.13  # cholesterol
    assert 0.4 < share(602) < 0.65  # height


def test_severity_shows_in_what_is_measured_and_death_can_be_learnt(stays: list[physionet2012.RecordedStay]) -> None:
    """Six crude numbers a stay and a linear model; a model that sees trends finds more."""

    def mean(stay: physionet2012.RecordedStay, concept: int, otherwise: float) -> float:
        values = stay.values[stay.concepts == concept]
        return float(values.mean()) if len(values) else otherwise

    usual = ((425, 24.0), (302, 13.0), (501, 65.0), (604, 67.0), (426, 1.1))  # urea, GCS, urine, age, creatinine
    columns = np.array([[mean(stay, *one) for one in usual] + [len(stay.values)] for stay in stays])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    died = np.array([stay.outcome is not None and stay.outcome.died_in_hospital for stay in stays])
    model = LogisticRegression().fit(columns[:700], died[:700])
    assert 0.72 < roc_auc_score(died[700:], model.decision_function(columns[700:])) < 0.93
    severity = [invent_stay(number, 7).severity for number in range(300)]
    assert roc_auc_score(died[:300], severity) > 0.8


def test_the_command_writes_it_and_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cohort", "--stays", "20", "--seed", "2", "--to", str(tmp_path / "a" / "b")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["stays"], told["is_synthetic"]) == (20, True)
    assert len(list(physionet2012.read(tmp_path / "a" / "b"))) == 20
    assert main(["cohort", "--stays", "0", "--to", str(tmp_path)]) == 2
    (tmp_path / ARCHIVE).write_bytes(b"real")
    assert main(["cohort", "--stays", "2", "--to", str(tmp_path)]) == 3
    assert "may be real" in capsys.readouterr().err
