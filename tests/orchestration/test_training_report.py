"""What `vigil train` prints: metrics over repeats, and clear words where there is nothing to learn from."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.training_report import METRICS, over_repeats
from vocabulary.errors import ConfigurationError, VigilError

HEADING = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"


def test_a_metric_is_taken_over_each_repeat_and_told_with_its_standard_error():
    rng = np.random.default_rng(4)
    labels = rng.random(300) < 0.2
    rows = np.clip(0.2 + 0.2 * labels + 0.1 * rng.standard_normal((4, 300)), 0.01, 0.99)
    found = over_repeats(labels, rows, METRICS["auroc"])
    each = [roc_auc_score(labels, row) for row in rows]
    assert found.mean == pytest.approx(np.mean(each), abs=1e-12)
    assert found.standard_error == pytest.approx(np.std(each, ddof=1) / math.sqrt(4), abs=1e-12)


def test_stays_without_a_score_are_left_out_and_one_repeat_has_no_error():
    labels = np.array([True, False, True, False])
    rows = np.array([[0.9, 0.1, np.nan, 0.2]])
    found = over_repeats(labels, rows, METRICS["brier"])
    assert found.mean == pytest.approx((0.01 + 0.01 + 0.04) / 3)
    assert found.standard_error is None


def test_what_cannot_be_said_is_said_so():
    assert over_repeats(np.zeros(3, bool), np.full((2, 3), 0.1), METRICS["auroc"]).mean is None


def refused(*words):
    """Return the error a command ends with."""
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code != 0
    assert isinstance(found.exception, VigilError), found.output
    return found.exception


def test_an_unknown_scope_names_the_one_there_is(tmp_path):
    assert "mortality" in str(refused("train", "sepsis", "--from", str(tmp_path)))


def test_a_folder_without_stays_or_without_outcomes_is_refused(tmp_path):
    refused("train", "mortality", "--from", str(tmp_path))
    (tmp_path / "132539.txt").write_text("Time,Parameter,Value\n00:00,RecordID,132539\n00:07,HR,73\n")
    error = refused("train", "mortality", "--from", str(tmp_path))
    assert isinstance(error, ConfigurationError)
    assert "Outcomes-a.txt" in str(error)
