"""The experiment tracker: a real MLflow on a database of its own; moved by hand, gone, or lying, it decides nothing."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from model_committee import SCOPE, Committee, Record
from model_desk import version_of

from governance.registry import ALIAS, Registry, champion_of
from governance.statements import Action
from vocabulary.errors import UnavailableError

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """One tracker for the module: its first use makes 60 tables."""
    folder = tmp_path_factory.mktemp("tracker")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Registry(f"sqlite:///{folder}/tracker.db", folder / "artifacts")


def client_of(registry):
    return registry._opened()


def test_a_version_is_recorded_once_with_what_made_it(registry):
    version = version_of(11, version=1, manifest="[model]\nname = 'x'\n", is_synthetic=True)
    run_id = registry.register(version, {"auroc": 0.861, "slope": float("nan")}, {"depth": 4, "long": "x" * 9000})
    assert registry.register(version, {"auroc": 0.5}, {}) == run_id
    run = client_of(registry).get_run(run_id)
    assert run.data.metrics == {"auroc": 0.861}
    assert run.data.params["depth"] == "4"
    assert len(run.data.params["long"]) == 500
    assert run.data.tags["vigil.model_digest"] == version.model_digest
    assert run.data.tags["vigil.is_synthetic"] == "true"
    assert run.info.artifact_uri.startswith("file://")
    assert Path(urlsplit(run.info.artifact_uri).path, "manifest.toml").read_text() == version.manifest
    found = client_of(registry).search_model_versions(f"name = '{SCOPE}'")
    assert [one.run_id for one in found if one.tags["vigil.model_digest"] == version.model_digest] == [run_id]


def test_the_alias_follows_the_record_and_a_hand_on_it_is_seen(registry):
    one, two = version_of(21, version=2), version_of(22, version=3)
    for version in (one, two):
        registry.register(version, {}, {})
    assert registry.project_alias(SCOPE, one.model_digest)
    assert not registry.project_alias(SCOPE, one.model_digest), "it was there already"
    assert registry.alias_of(SCOPE) == one.model_digest
    number = next(
        found.version
        for found in client_of(registry).search_model_versions(f"name = '{SCOPE}'")
        if found.tags["vigil.model_digest"] == two.model_digest
    )
    client_of(registry).set_registered_model_alias(SCOPE, ALIAS, number)  # moved by hand
    assert registry.alias_of(SCOPE) == two.model_digest
    assert registry.project_alias(SCOPE, one.model_digest), "and put back"
    assert registry.project_alias(SCOPE, None)
    assert registry.alias_of(SCOPE) is None
    assert not registry.project_alias(SCOPE, None)


def test_an_alias_moved_by_hand_changes_nothing_of_what_serves(registry):
    record = Record(Committee())
    served = record.promote(31)
    for number in (31, 32):
        registry.register(version_of(number, version=number), {}, {})
    registry.project_alias(SCOPE, served.model_digest)
    registry.project_alias(SCOPE, version_of(32).model_digest)  # as somebody at MLflow's page would
    assert champion_of(record.judge()) == served.model_digest
    assert champion_of(record.judge()) != registry.alias_of(SCOPE), "which is how a check finds it"


def test_a_champion_that_is_no_model_of_ours_is_told(registry):
    client = client_of(registry)
    client.create_registered_model("stranger")
    made = client.create_model_version("stranger", source="file:///tmp")
    client.set_registered_model_alias("stranger", ALIAS, made.version)
    assert registry.alias_of("stranger") == ""


def test_an_unknown_model_or_scope_is_unavailable_and_not_wrong(registry):
    with pytest.raises(UnavailableError, match="register it"):
        registry.project_alias(SCOPE, "f" * 64)
    assert registry.alias_of("unheard_of") is None


def test_a_tracker_that_is_away_is_named_without_its_password(tmp_path):
    away = Registry("postgresql+psycopg2://vigil:CANARY@127.0.0.1:9/none", tmp_path)
    begun = time.monotonic()
    with pytest.raises(UnavailableError) as told:
        away.alias_of(SCOPE)
    assert time.monotonic() - begun < 10, "whoever asks has other things to do"
    assert "CANARY" not in str(told.value)
    assert told.value.__cause__ is None


def test_what_the_alias_should_say():
    record = Record(Committee())
    assert champion_of(None) is None
    assert champion_of(record.judge()) is None
    row = record.promote()
    record.about(Action.ABSTAIN, row)
    assert champion_of(record.judge()) == row.model_digest, "silent, and still the champion"
    record.withdraw()
    assert champion_of(record.judge()) is None


def test_nothing_that_decides_imports_the_tracker():
    code = (
        "import sys, governance.serving, governance.promotion, governance.rollback, governance.approvals, "
        "governance.registry; "
        "print([name for name in ('mlflow', 'dagster', 'sklearn', 'pandas') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
