"""One model's whole way, as `vigil demo --from` takes it: learned, judged, signed, serving, speaking live as in batch.

The stays are invented (a cohort in the challenge's format), so that the journey runs where nobody's data lie; the same
command on real stays is in the README.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

VIGIL = str(Path(sys.executable).parent / "vigil")
PLAYED = 10


def run(*words, data_dir, check=True):
    command = [VIGIL, *words, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, env=os.environ, check=False)
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def journey(server_folder):
    """What `vigil demo --from` said of an invented cohort, and the demonstration's data directory."""
    cohort, root = server_folder / "cohort", server_folder / "journey"
    subprocess.run(
        [sys.executable, "-P", "-m", "hospital", "cohort", "--stays", "1200", "--seed", "3", "--to", str(cohort)],
        check=True,
        capture_output=True,
    )
    done = run("demo", "--from", str(cohort), "--stays", str(PLAYED), "--exit", "--json", data_dir=root)
    return json.loads(done.stdout), root


def test_the_model_was_judged_signed_by_two_and_put_in_service(journey):
    model = journey[0]["model"]
    assert set(model["verdicts"]) == {"expectations", "drift", "bias", "clinical"}
    assert "fail" not in model["verdicts"].values()
    assert len(model["signed_by"]) == 2
    assert model["serving"] == 1
    assert model["is_synthetic"]
    assert any(condition.startswith("Waiver:") for condition in model["conditions"])


def test_each_live_score_equals_its_batch_score(journey):
    compared = journey[0]["model"]["online_equals_batch"]
    assert compared["stays"] == PLAYED
    assert compared["hours"] >= 24 * PLAYED
    assert compared["equal"] == compared["scores"] > 100
    assert compared["probabilities"] > 0
    assert compared["largest_difference"] == 0.0


def test_nothing_was_lost_and_snapshots_with_estimates_replay_bit_for_bit(journey):
    result, root = journey
    assert result["remainder"] == 0
    again = json.loads(run("replay", "--sample", "12", "--json", data_dir=root).stdout)
    assert again["identical"] == again["replayed"] >= 12
    run("verify", data_dir=root)


def test_the_record_tells_who_served_when_and_one_person_takes_its_voice_away(journey):
    _, root = journey
    before = json.loads(run("live-at", "mortality", "2001-01-01", "--json", data_dir=root).stdout)
    assert before["champion"]["version"] == 0
    now = json.loads(run("live-at", "mortality", datetime.now(UTC).isoformat(), "--json", data_dir=root).stdout)
    assert now["champion"]["version"] == 1
    assert sorted(role for _, role in now["champion"]["signed_by"]) == ["clinical_lead", "safety_officer"]

    row = json.loads(run("rollback", "mortality", "--reason", "a drill", "--json", data_dir=root).stdout)
    assert row["action"] == "withdraw"  # nothing was approved before it
    after = json.loads(run("models", "--json", data_dir=root).stdout)
    assert after["serving"]["champion"]["version"] == 0
    assert [request["status"] for request in after["requests"]] == ["consumed"]
    again = run("promote", "mortality@1", data_dir=root, check=False)
    assert after["serving"]["champion"]["version"] == 0
    still = json.loads(run("models", "--json", data_dir=root).stdout)
    assert still["serving"]["champion"]["version"] == 0, again.stdout


def test_an_author_and_a_second_signature_in_one_role_are_refused(journey):
    _, root = journey
    demo = root / "demo"
    asked = run(
        "promote", "mortality@1", "--ask", "--waive", "sites", "--waive", "silent_period", data_dir=root, check=False
    )
    assert asked.returncode == 1
    assert "rolled back" in asked.stderr  # barred until there is new evidence
    secret = demo / "passphrase"
    secret.write_text("a demonstration, no secret\n")
    key = demo / "signers" / "lena-fischer.key"
    signed = run(
        "approve",
        "mortality@1",
        "--key",
        str(key),
        "--passphrase-file",
        str(secret),
        "--yes",
        data_dir=root,
        check=False,
    )
    assert signed.returncode == 1
    assert "consumed" in signed.stderr
