"""The mortality protocol is whole; one that contradicts itself is refused with the reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import validation
from validation import model_protocol, protocols
from vocabulary.errors import ConfigurationError

FILE = Path(validation.__file__).parent / "protocols" / "mortality.toml"
TEXT = FILE.read_text()


def test_the_shipped_protocol_is_read_with_the_digest_of_its_bytes():
    protocol = model_protocol.load("mortality")
    assert protocol.digest == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert protocol.label == "mortality@1"
    assert protocol.bias.age_bands_from_years == (18, 45, 65, 75, 85)
    assert protocol.bound_of("auroc").at_least < 0.86
    assert protocol.bound_of("log_loss") is None
    assert {protocol.drift_rule(kind).kind for kind in ("continuous", "discrete", "prediction")}


def test_scores_and_models_share_the_folder_and_not_the_reader():
    assert "mortality" not in protocols.load_all()
    with pytest.raises(ConfigurationError, match="shape"):
        protocols.load(FILE)
    with pytest.raises(ConfigurationError, match="shape"):
        model_protocol.load(FILE.parent / "news2.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("primary_hour = 48", "primary_hour = 40", "among judged_hours"),
        ("judged_hours = [6, 12,", "judged_hours = [12, 6,", "must rise"),
        ("last_hour = 48", "last_hour = 40", "where the model may speak"),
        ("first_hour = 1 ", "first_hour = 60 ", "first_hour must be before"),
        ("rearm_below = 0.25", "rearm_below = 0.35", "rearm_below"),
        ("threshold = 0.30", "threshold = 1.30", "between 0 and 1"),
        ('metric = "auprc"', 'metric = "auroc"', "one a metric"),
        ("at_least = 0.78\n", "", "expected at_least"),
        ("at_least = -0.4\nat_most = 0.4", "at_least = 0.4\nat_most = -0.4", "in order"),
        ("[18, 45, 65, 75, 85]", "[18, 65, 45, 75, 85]", "age bands must rise"),
        ("smallest_group = 30", "smallest_group = 3", "smallest_group"),
        ('measure = "false_positive_rate"\nattribute = "sex"', 'measure = "auroc"\nattribute = "sex"', "one a measure"),
        ("at_most = 1.5\n", "at_most = 0.5\n", "more than 1"),
        ('reason = "Shown: rises with the base rate."', 'reason = ""', "no reason"),
        ('kind = "prediction"', 'kind = "discrete"', "one rule each"),
        ('method = "jensenshannon"', 'method = "ks"', "not for discrete"),
        ("severe_above = 1.0", "severe_above = 0.1", "severe_above"),
        ("level = 0.999", "level = 1.0", "live.level"),
        ("observed_to_expected_at_most = 2.0", "observed_to_expected_at_most = 0.9", "must allow 1"),
        ("bootstrap_repetitions = 1000", "bootstrap_repetitions = 50", "too small"),
        ('outcome = "death before discharge from this hospital stay"', 'outcome = ""', "outcome is empty"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(old, new, said):
    assert old in TEXT
    with pytest.raises(ConfigurationError, match=said):
        model_protocol.parse(TEXT.replace(old, new, 1).encode(), "changed.toml")


@pytest.mark.parametrize(
    "text", ["not toml [", "", TEXT + "\n[unknown]\nx = 1\n", TEXT.replace('metric = "auroc"', 'metric = "shoe"')]
)
def test_a_file_of_another_shape_is_refused_by_name(text):
    with pytest.raises(ConfigurationError, match=r"changed\.toml is not of the expected shape"):
        model_protocol.parse(text.encode(), "changed.toml")


def test_a_missing_protocol_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        model_protocol.load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        model_protocol.load("sepsis")


def test_a_changed_threshold_changes_the_digest():
    assert model_protocol.parse(TEXT.replace("0.30", "0.31", 1).encode()).digest != model_protocol.load().digest
