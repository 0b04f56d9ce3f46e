"""The whole house with TLS on every door: who is let in where, what each process knows, what `vigil status` says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import psycopg
import pytest

from orchestration import dagster_home
from orchestration.certificates import Authority
from orchestration.credentials import Identities
from orchestration.data_dir import DataDir, RunState
from orchestration.resources import RunningHouse
from stores import database, feeds, ledger, partition_log
from twin.bus import open_bus
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings
from vocabulary.tls import Identity, client_context

VIGIL = str(Path(sys.executable).parent / "vigil")
PROCESSES = ("ingress", "normalizer", "engine", "keeper", "clinic")


class House(NamedTuple):
    data_dir: DataDir
    state: RunState

    def port(self, name: str) -> int:
        return self.state.ports[name]

    def identities(self) -> Identities:
        return Identities(self.data_dir, Settings(data_dir=self.data_dir.root))

    def environment(self, process: str) -> dict[str, str]:
        state = self.data_dir.read_state()
        assert state is not None
        pid = next(one.identity.pid for one in state.services if one.name == process and one.identity)
        return psutil.Process(pid).environ()


@pytest.fixture(scope="module")
def house(server_folder) -> Iterator[House]:
    """`vigil up`, a demonstration's, with TLS also on loopback."""
    data_dir = DataDir(server_folder / "secured-house")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    log = (server_folder / "secured-house.log").open("wb")
    up = subprocess.Popen(
        [VIGIL, "up", "--data-dir", str(data_dir.root)], stdout=log, stderr=log, start_new_session=True,
        env=environment | {"VIGIL_TLS": "always", "VIGIL_MODE": "demo"},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([VIGIL, "status", "--data-dir", str(data_dir.root)], capture_output=True).returncode:  # noqa: PLW1510
            assert time.monotonic() < deadline, (server_folder / "secured-house.log").read_text()
            assert up.poll() is None, (server_folder / "secured-house.log").read_text()
            time.sleep(0.3)
        state = data_dir.read_state()
        assert state is not None
        yield House(data_dir, state)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(timeout=60)
        finally:
            log.close()
            if up.poll() is None:
                up.kill()
                up.wait()


def speak(port: int, context: ssl.SSLContext | None) -> bool:
    """Return whether a listener lets us speak: it reads what we send and does not hang up on us."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            if context is None:
                plain.sendall(b"\x0bMSH|^~\\&|\x1c\x0d")
                return plain.recv(1) not in {b"", b"\x15"}  # 0x15: a TLS alert
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as spoken:
                spoken.sendall(b"\x0bMSH|^~\\&|\x1c\x0d")
                return spoken.recv(1) == b"\x0b"  # an MLLP block: ACK or NAK
    except OSError:
        return False


@pytest.mark.slow
def test_status_says_what_every_door_speaks(house):
    answer = subprocess.run(
        [VIGIL, "status", "--json", "--data-dir", str(house.data_dir.root)], capture_output=True, text=True, check=True
    )
    said = {one["name"]: (one["transport"], one["is_waived"]) for one in json.loads(answer.stdout)["listeners"]}
    doors = {f"mllp.{feed}": ("tls+client certificate", False) for feed in ("adt", "monitors", "lab")}
    postgres = said.pop("postgres")
    assert postgres in {("tls+client certificate", False), ("plain (loopback), a password a process", False)}
    assert said == doors | {
        "clinic": ("tls", False), "mqtt": ("tls+client certificate", False),
        "nats-server": ("tls+client certificate", False), "issuer": ("plain (loopback)", False),
    }  # fmt: skip
    assert json.loads(answer.stdout)["notes"] == []


@pytest.mark.slow
def test_an_mllp_door_lets_in_a_known_device_and_nobody_else(house, tmp_path):
    identities = house.identities()
    device, stranger = Identity(tmp_path / "device"), Identity(tmp_path / "stranger")
    identities.listeners.issue(device.folder, "patch-7")
    Authority(tmp_path / "elsewhere").issue(stranger.folder, "patch-7")
    stranger.authority.write_bytes(device.authority.read_bytes())
    insider = Identity(tmp_path / "insider")
    insider.folder.mkdir()
    for name in ("certificate.pem", "key.pem"):
        (insider.folder / name).write_bytes((identities.of("engine").folder / name).read_bytes())
    insider.authority.write_bytes(device.authority.read_bytes())
    for feed in ("adt", "monitors", "lab"):
        port = house.port(f"feed.{feed}")
        assert speak(port, client_context(device)), feed
        for somebody in (stranger, insider):
            assert not speak(port, client_context(somebody)), feed
        assert not speak(port, ssl.create_default_context(cafile=str(device.authority))), "without a certificate"
        assert not speak(port, None), "in plain text"


@pytest.mark.slow
def test_the_pages_are_served_over_tls_and_lead_to_sign_in(house):
    authority = ssl.create_default_context(cafile=str(house.identities().server.authority))
    url = f"https://127.0.0.1:{house.port('clinic')}"
    with httpx.Client(verify=authority) as client:
        assert client.get(f"{url}/health").status_code == 200
        assert client.get(f"{url}/", headers={"accept": "text/html"}).status_code == 303
        assert client.get(f"{url}/fhir/Patient").status_code == 401
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{house.port('clinic')}/health")
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{url}/health", verify=ssl.create_default_context())


@pytest.mark.slow
def test_no_process_knows_the_owners_password_or_anothers_identity(house):
    owner = (house.data_dir.postgres / "password").read_text()
    for process in PROCESSES:
        environment = house.environment(process)
        text = json.dumps(environment)
        assert owner not in text, process
        assert environment["VIGIL_IDENTITY_DIR"].endswith(f"/identity/{process}")
        others = [other for other in PROCESSES if other != process]
        assert not [other for other in others if f"/identity/{other}" in text], process
        assert ("vigil_" in environment.get("VIGIL_DATABASE_URL", "")) == (process != "ingress")
    state = house.data_dir.read_state()
    for service in state.services:
        if service.identity:
            assert owner not in " ".join(psutil.Process(service.identity.pid).cmdline())


@pytest.mark.slow
async def test_the_engines_identity_is_no_other_process_on_the_bus_or_in_the_database(house):
    environment = house.environment("engine")
    as_engine = Settings(nats_url=environment["VIGIL_NATS_URL"], identity_dir=environment["VIGIL_IDENTITY_DIR"])
    bus = await open_bus(as_engine, "engine")
    try:
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(bus.publish_raw("adt", "forged", b"x"), 8)
        await asyncio.sleep(0.1)
        assert bus.denied, "and the server says so"
    finally:
        await bus.close()
    with psycopg.connect(environment["VIGIL_DATABASE_URL"], autocommit=True) as connection:
        for statement in ("select * from audit_event", "select family_name from patient", "delete from ledger_entry"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    for role in ("vigil_normalizer", "vigil_clinic", "vigil"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(environment["VIGIL_DATABASE_URL"].replace("vigil_engine", role)).close()


@pytest.mark.slow
def test_dagster_asks_as_its_own_role_and_has_a_database_of_its_own(house, monkeypatch):
    settings = Settings(data_dir=house.data_dir.root)
    _, environment = asyncio.run(dagster_home.prepare(settings))
    assert (house.data_dir.postgres / "password").read_text() not in json.dumps(environment)
    with psycopg.connect(environment[dagster_home.DATABASE_VARIABLE], autocommit=True) as connection:
        assert connection.execute("select current_user, current_database()").fetchone() == ("vigil_dagster", "dagster")
        connection.execute("create table if not exists made (n int)")
    for name, value in environment.items():
        if name.startswith("VIGIL_"):
            monkeypatch.setenv(name, value)

    async def ask() -> str:
        connection = await database.connect(RunningHouse(Settings()).database_url(), application_name="test")
        async with database.consistent_read(connection):
            await ledger.balance(connection)
            await partition_log.unfolded(connection)
            await feeds.read(connection)
            row = await (await connection.execute("select current_user")).fetchone()
        await connection.close()
        return row[0]

    assert asyncio.run(ask()) == "vigil_dagster"


@pytest.mark.slow
def test_certificates_are_issued_listed_and_revoked_by_command(house, tmp_path):
    program = [sys.executable, "-c", "from orchestration.certificates_commands import certificates_app as a; a()"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *arguments, "--data-dir", str(house.data_dir.root)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run("issue", "patch-8", "--to", str(tmp_path / "p")).returncode == 0
    assert (tmp_path / "p/key.pem").stat().st_mode & 0o077 == 0
    assert speak(house.port("feed.adt"), client_context(Identity(tmp_path / "p")))
    assert "still good" in run("issue", "patch-8", "--to", str(tmp_path / "p")).stdout
    assert run("issue", "engine", "--to", str(tmp_path / "e")).returncode != 0
    assert not (tmp_path / "e").exists()
    assert "patch-8" in [one["name"] for one in json.loads(run("list", "--json").stdout)]
    assert run("revoke", "patch-8").returncode == 0
    assert run("revoke", "patch-8").returncode != 0
    assert [one["name"] for one in json.loads(run("list", "--json").stdout) if one["revoked_at"]] == ["patch-8"]
