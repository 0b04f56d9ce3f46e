"""`vigil keys` against a running database: each command does what it says, and leaves its event, refusals too."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner

from governance import key_rotation
from governance.privacy import open_ring, prepare
from orchestration import keys, keys_commands
from stores.database import migrate
from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey


@pytest.fixture
def house(database_url, tmp_path, monkeypatch):
    """Settings of a house with patient 7, who has a key, and an operator who may type."""
    identity = tmp_path / "identity" / "operator"
    identity.mkdir(parents=True)
    SigningKey.generate().save(identity / "ledger.key")
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url), identity_dir=identity)
    prepare(settings)
    asyncio.run(migrate(database_url))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into patient (patient_id, partition, created_position, updated_position) values (7, 7, 1, 1)"
        )

    async def furnish():
        ring = await open_ring(settings, database_url)
        await ring.ensure([7, 8, 0])
        await ring.close()

    asyncio.run(furnish())
    monkeypatch.setattr(keys_commands, "_ask", lambda _data_dir, question: asyncio.run(question(settings)))
    return settings


def run(*arguments, exit_code=0):
    done = CliRunner().invoke(keys_commands.keys_app, list(arguments))
    if isinstance(done.exception, (ConfigurationError, RefusedError)):
        raise done.exception
    assert done.exit_code == exit_code, (done.output, done.exception)
    return done.output


def events(house):
    with psycopg.connect(house.database_url.get_secret_value()) as connection:
        rows = connection.execute("select verb, outcome, agent from audit_event where surface = 'keys' order by seq")
        return [(verb, outcome) for verb, outcome, agent in rows if agent.startswith("operator|")]


def test_the_status_counts_keys_and_leaves_an_event(house):
    found = json.loads(run("status", "--json"))
    assert found["is_sound"] is True
    assert found["keys"] == {"living": 3, "destroyed": 0, "patients": 2, "days": 1}
    (master,) = found["masters"]
    assert (master["wraps"], master["source"], master["is_known_here"]) == (3, "file", True)
    assert master["master_key_id"] == found["current_master"]
    assert events(house) == [("read", "permitted")]


def test_a_rotation_and_the_end_of_the_old_master_key(house):
    before = json.loads(run("status", "--json"))["current_master"]
    assert "3 data keys were wrapped anew" in run("rotate")
    after = json.loads(run("status", "--json"))
    assert after["current_master"] != before
    assert after["is_sound"] is True
    with pytest.raises(RefusedError, match="in use"):
        run("master", "--destroy", after["current_master"], "--yes")
    assert "overwritten and removed" in run("master", "--destroy", before, "--yes")
    assert json.loads(run("status", "--json"))["is_sound"] is True
    assert [path.name for path in sorted(house.keys_dir.glob("master*"))] == ["master.key"]


def test_a_rotation_that_was_interrupted_is_not_begun_anew(house, monkeypatch):
    async def fails(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(key_rotation.data_keys, "rewrapped", fails)
        CliRunner().invoke(keys_commands.keys_app, ["rotate"])
    chosen = json.loads(run("status", "--json"))
    assert len(chosen["masters"]) == 2
    assert "3 data keys" in run("rotate")
    assert json.loads(run("status", "--json"))["current_master"] == chosen["current_master"]


def test_a_destruction_asks_first_and_says_where_the_proof_is(house):
    arguments = ("destroy", "7", "--by", "Petra Klein", "--reason", "request 17")
    refused = CliRunner().invoke(keys_commands.keys_app, list(arguments), input="n\n")
    assert refused.exit_code == 1
    assert json.loads(run("status", "--json"))["keys"]["destroyed"] == 0
    said = run(*arguments, "--yes")
    assert "1 keys destroyed" in said
    (proof,) = (house.anchors_dir / "destroyed").iterdir()
    assert proof.name in said
    assert ("erase", "permitted") in events(house)
    found = json.loads(run("status", "--json"))
    assert (found["keys"]["destroyed"], found["proofs"], found["is_sound"]) == (1, 1, True)


@pytest.mark.parametrize(("by", "reason"), [("", "request 17"), ("Petra", "why"), (" ", "     ")])
def test_a_destruction_names_a_person_and_a_reason(house, by, reason):
    with pytest.raises(ConfigurationError, match="--by"):
        run("destroy", "7", "--by", by, "--reason", reason, "--yes")


def test_nobody_is_told_whether_an_unknown_patient_exists(house):
    with pytest.raises(RefusedError) as unknown:
        run("destroy", "999", "--by", "Petra Klein", "--reason", "request 17", "--yes")
    assert "999" not in str(unknown.value)
    assert events(house) == [("erase", "denied")]


def test_status_destroys_again_what_a_restored_backup_brought_back(house):
    url = house.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        (wrapped,) = connection.execute("select wrapped from data_key where subject = 7").fetchone()
        run("destroy", "7", "--by", "Petra Klein", "--reason", "request 17", "--yes")
        connection.execute("update data_key set wrapped = %s, destroyed_at_us = null where subject = 7", (wrapped,))
        found = json.loads(run("status", "--json", exit_code=1))
        assert len(found["destroyed_keys_that_returned"]) == 1
        assert connection.execute("select wrapped from data_key where subject = 7").fetchone() == (None,)
    assert json.loads(run("status", "--json"))["is_sound"] is True


def test_a_backup_is_written_tried_and_restored(house, tmp_path):
    to = tmp_path / "keys.json"
    assert "3 keys" in run("backup", str(to))
    assert json.loads(run("restore-check", str(to), "--json"))["readable"] == 3
    with psycopg.connect(house.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("delete from data_key where subject = 7")
    assert "1 keys restored" in run("restore", str(to))
    assert [verb for verb, _ in events(house)] == ["export", "read", "change"]


def test_a_patients_key_gets_a_new_generation(house):
    assert run("rotate", "--patient", "7", "--patient", "8").splitlines() == [
        "patient 7: generation 1",
        "patient 8: generation 1",
    ]
    with pytest.raises(ConfigurationError, match="one or the other"):
        run("rotate", "--patient", "7", "--to", "env:X")


def test_the_tables_say_the_same_as_the_record(house):
    console = Console(width=140, record=True)
    keys.show(asyncio.run(keys.status(house)), console)
    shown = console.export_text()
    assert "current" in shown
    assert "3 living (of 2 patients and 1 days" in shown
