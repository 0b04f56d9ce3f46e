"""Least knowledge: what each process is told, and whose identities a house has."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest
from pydantic import SecretStr

from orchestration import addresses, credentials
from orchestration.credentials import PROCESSES, SECRETS, Identities, environment_of, listener_hosts
from orchestration.data_dir import DataDir
from orchestration.services import PROGRAMS
from stores.roles import ROLES
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

CANARIES = {
    "database_url": SecretStr("postgresql://own@h/CANARY-database"),
    "nats_url": SecretStr("tls://CANARY-nats"),
    "oidc_client_secret": SecretStr("CANARY-oidc"),
    "oidc_client_key": "/CANARY/oidc.pem",
    "master_key": "env:CANARY_MASTER",
    "master_key_pin": SecretStr("CANARY-pin"),
    "notify_url": "https://CANARY.example/hook",
}


def told(process: str, settings: Settings) -> set[str]:
    """Return which canaries stand anywhere in the environment of a process."""
    text = json.dumps(environment_of(settings, process))
    needles = {
        "database_url": "CANARY-database", "nats_url": "CANARY-nats", "oidc_client_secret": "CANARY-oidc",
        "oidc_client_key": "/CANARY/oidc.pem", "master_key": "CANARY-master", "master_key_pin": "CANARY-pin",
        "notify_url": "CANARY.example",
    }  # fmt: skip
    return {name for name, needle in needles.items() if needle in text}


def test_each_process_is_told_the_secrets_of_its_row_and_no_other(monkeypatch):
    monkeypatch.setenv("CANARY_MASTER", "CANARY-master")
    monkeypatch.setenv("VIGIL_STRAY", "CANARY-oidc")
    monkeypatch.setenv("PGPASSWORD", "CANARY-pin")
    settings = Settings(**CANARIES)
    for process, need in PROCESSES.items():
        own = need.secrets | ({"database_url"} if need.role else set())
        assert told(process, settings) == own, process


def test_the_engine_knows_neither_the_provider_nor_whom_to_notify():
    assert PROCESSES["engine"].secrets == {"nats_url", "master_key", "master_key_pin"}
    assert PROCESSES["ingress"] == credentials.Need(None, frozenset({"nats_url"}))


def test_what_chooses_numeric_kernels_reaches_the_engine_and_strangers_variables_do_not(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    environment = environment_of(Settings(), "engine")
    assert environment["OPENBLAS_CORETYPE"] == "Haswell", "else a replay beside it differs in the last bit"
    assert environment["PATH"] == os.environ["PATH"]
    assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_every_secret_setting_is_in_the_table():
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret <= SECRETS
    assert set(CANARIES) == SECRETS


def test_every_process_has_a_row_and_every_role_a_process():
    assert set(PROGRAMS) <= set(PROCESSES)
    assert {need.role for need in PROCESSES.values()} - {None} == set(ROLES)
    assert all(need.role in {None, f"vigil_{name}"} for name, need in PROCESSES.items())


def test_settings_of_every_kind_survive_the_way_through_the_environment(monkeypatch):
    settings = Settings(
        host="127.0.0.1", oidc_role_map={"a b": "nurse"}, local_codes={"x|y": "heart_rate"}, mode="demo",
        plaintext_waivers=(
            {"listener": "mllp.adt", "reason": "an old engine", "approved_by": "N. N.", "until": "2031-02-03"},
        ),
    )  # fmt: skip
    environment = environment_of(settings, "clinic")
    for name in [name for name in os.environ if name.startswith("VIGIL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


@pytest.fixture
def house(tmp_path) -> DataDir:
    data_dir = DataDir(tmp_path / "data")
    data_dir.prepare()
    return data_dir


def test_a_house_has_an_identity_for_each_process_and_server_and_keeps_them(house):
    identities = Identities(house, Settings())
    made = identities.prepare()
    assert set(made) == {*PROCESSES, "setup", "postgres", "nats-server", "server"}
    before = {
        path: path.read_bytes() for path in house.root.rglob("*") if path.is_file() and path.name != "revoked.pem"
    }
    assert identities.prepare() == []
    assert all(path.read_bytes() == content for path, content in before.items())
    keys = {identities.of(name).ledger_key.read_bytes() for name in PROCESSES}
    assert len(keys) == len(PROCESSES), "each signs with a key of its own"
    for path in house.identity.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_device_is_nobody_to_our_servers_and_a_process_nobody_to_our_listeners(house, tmp_path):
    identities = Identities(house, Settings())
    identities.prepare()
    identities.listeners.issue(tmp_path / "device", "engine")
    for certificate, believed in (
        (tmp_path / "device/certificate.pem", identities.of("nats-server").authority),
        (identities.of("engine").certificate, identities.server.authority),
    ):
        answer = subprocess.run(
            ["openssl", "verify", "-CAfile", str(believed), str(certificate)], capture_output=True, check=False
        )
        assert answer.returncode != 0


def test_a_hospitals_own_identity_is_used_as_it_is_or_said_to_be_incomplete(house, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    settings = Settings(server_identity=own)
    with pytest.raises(ConfigurationError, match=r"lacks certificate\.pem, key\.pem, authority\.pem"):
        Identities(house, settings).prepare()
    for name in ("certificate.pem", "key.pem", "authority.pem"):
        (own / name).write_text(name)
    assert "server" not in Identities(house, settings).prepare()
    assert {path.name: path.read_text() for path in own.iterdir()} == {
        name: name for name in ("certificate.pem", "key.pem", "authority.pem")
    }
    resolved, _ = addresses.resolve(settings, house)
    assert resolved.server_identity == own


@pytest.mark.parametrize(
    ("host", "public_url", "expected"),
    [
        ("127.0.0.1", None, {"localhost", "127.0.0.1", "::1"}),
        ("10.9.8.7", "https://Vigil.example.org:8443/", {"10.9.8.7", "vigil.example.org", "localhost"}),
        ("0.0.0.0", None, {"localhost", "127.0.0.1"}),
    ],
)
def test_listeners_are_certified_for_every_name_they_are_known_by(host, public_url, expected):
    hosts = set(listener_hosts(Settings(host=host, public_url=public_url)))
    assert expected <= hosts
    assert "0.0.0.0" not in hosts
