"""`vigil keys root | person | roster`: the whole way from a root key to a roster that counts."""

import json
from datetime import UTC, datetime

import pytest
import typer
from typer.testing import CliRunner

from governance import personal_keys, roster, trust
from governance.roster import SignatureRefusedError
from orchestration import signer_commands
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

PASSPHRASE = "heron copper ninety lantern"


@pytest.fixture
def vigil(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    app = typer.Typer()
    keys = typer.Typer()
    signer_commands.register(keys)
    app.add_typer(keys, name="keys")

    def run(*arguments):
        result = CliRunner().invoke(app, ["keys", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def make_roster(vigil, tmp_path):
    said = vigil("root", "--to", "root.key", "--passphrase-file", "passphrase")
    root = said.split('signer_root = "')[1].split('"')[0]
    person = ["--name", "Lena Fischer", "--person", "https://op|lena", "--passphrase-file", "passphrase"]
    (tmp_path / "lena.json").write_text(vigil("person", "--to", "lena.key", *person).splitlines()[0])
    vigil("roster", "new", "draft.json")
    until = ["--until", "2099-12-31"]
    vigil("roster", "add", "draft.json", "--record", "lena.json", "--role", "clinical_lead", *until)
    return root


def sign(vigil):
    vigil("roster", "sign", "draft.json", "--root", "root.key", "--to", "signed", "--passphrase-file", "passphrase")


def test_a_person_of_an_installed_roster_signs_and_counts_until_revoked(vigil, tmp_path, monkeypatch):
    root = make_roster(vigil, tmp_path)
    sign(vigil)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("VIGIL_SIGNER_ROOT", root)
    assert "Roster 1 counts" in vigil("roster", "install", "signed", "--data-dir", str(data))
    settings = Settings(data_dir=data)
    key = personal_keys.open_key(tmp_path / "lena.key", PASSPHRASE)
    now = datetime.now(UTC)
    signature = roster.sign_statement(key, b"approve", now)
    counted = roster.check(trust.load_roster(settings, now.date()), signature, b"approve", now)
    assert counted.name == "Lena Fischer"
    vigil("roster", "revoke", "draft.json", key.key_id, "--because", "left the hospital")
    sign(vigil)
    vigil("roster", "install", "signed", "--data-dir", str(data))
    assert "REVOKED" in vigil("roster", "show", "--data-dir", str(data))
    now = datetime.now(UTC)
    with pytest.raises(SignatureRefusedError, match="revoked"):
        roster.check(trust.load_roster(settings, now.date()), roster.sign_statement(key, b"x", now), b"x", now)


def test_a_record_altered_on_the_way_is_not_added(vigil, tmp_path):
    make_roster(vigil, tmp_path)
    person = ["--name", "Sami Aalto", "--person", "https://op|sami", "--passphrase-file", "passphrase"]
    record = json.loads(vigil("person", "--to", "sami.key", *person).splitlines()[0])
    (tmp_path / "sami.json").write_text(json.dumps(record | {"person": "https://op|mallory"}))
    with pytest.raises(ConfigurationError, match="altered"):
        vigil(
            "roster", "add", "draft.json", "--record", "sami.json", "--role", "safety_officer", "--until", "2099-12-31"
        )


def test_a_roster_of_another_root_is_not_installed(vigil, tmp_path, monkeypatch):
    make_roster(vigil, tmp_path)
    sign(vigil)
    other = personal_keys.create(tmp_path / "other.key", "root", PASSPHRASE)
    monkeypatch.setenv("VIGIL_SIGNER_ROOT", other.verifying.text())
    (tmp_path / "data").mkdir()
    with pytest.raises(SignatureRefusedError, match="not signed by root key"):
        vigil("roster", "install", "signed", "--data-dir", str(tmp_path / "data"))


def test_without_a_terminal_or_file_there_is_no_passphrase(vigil):
    with pytest.raises(ConfigurationError, match="--passphrase-file"):
        vigil("root", "--to", "root.key")
