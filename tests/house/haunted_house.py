"""A real `vigil up`, what it says, and what is done to it besides its pages.

Here: the running house and commands beside it, messages, noise, wrong credentials, statements that fail, a look at it
with every command and with Dagster.
Not here: its pages and doors (visitors), the canaries (canaries), what must not be found (test_no_patient_data_leaks).
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent.parent
VIGIL = [sys.executable, "-c", "from orchestration.cli import main; main()"]

READ_THE_BOOKS = """
import psycopg
from orchestration.storage import load_settings, reachable

with reachable(load_settings()) as settings, psycopg.connect(settings.database_url.get_secret_value()) as connection:
    for table in ("ledger_entry", "audit_event", "feed_status", "web_session", "notification"):
        try:
            for row in connection.execute(f"select to_jsonb(t)::text from {table} t"):
                print(table, row[0])
        except psycopg.errors.InsufficientPrivilege:
            connection.rollback()
"""

LOOK_WITH_DAGSTER = """
import sys
import dagster as dg
from orchestration.definitions import build_definitions
from vocabulary.settings import Settings

definitions = build_definitions(Settings())
graph = definitions.resolve_asset_graph()
seen = [key for key in graph.get_all_asset_keys() if graph.get(key).is_executable]
job = dg.define_asset_job("look", selection=dg.AssetSelection.assets(*seen) | dg.AssetSelection.all_asset_checks())
resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("look")
instance = dg.DagsterInstance.local_temp(sys.argv[1])
result = resolved.execute_in_process(instance=instance, raise_on_error=False)
print("dagster looked at", len(seen), "assets and", len(result.get_asset_check_evaluations()), "checks")
"""

MAKE_POSTGRES_COMPLAIN = """
import sys
import psycopg
from orchestration.storage import load_settings, reachable

family, statements = sys.argv[1], 0
with reachable(load_settings()) as settings:
    url = settings.database_url.get_secret_value()
with psycopg.connect(url, autocommit=True) as connection:
    for statement, parameters in (
        ("select * from quexold_table", None),
        ("select '" + family + "'::bigint", None),
        ("select %s::text::bigint", [family]),
        ("select 'x' from patient where family_name = %s and 1 / (length(family_name) * 0) = 1", [family]),
        ("do $$ begin raise exception 'about %', '" + family + "'; end $$", None),
        ("do $$ begin raise warning 'about %', '" + family + "'; end $$", None),
        ("create temp table shelf (name text primary key check (length(name) < 5))", None),
        ("insert into shelf values (%s)", [family]),
        ("insert into shelf select left(%s, 4) from generate_series(1, 2)", [family]),
        ("insert into patient (patient_id, partition, family_name, birth_date, created_position, updated_position) "
         "values (1, 1, %s, %s, 1, 1)", [family, family]),
        ("set statement_timeout = 50", None),
        ("select pg_sleep(1), %s", [family]),
    ):
        try:
            connection.execute(statement, parameters)
        except psycopg.Error:
            statements += 1
print("PostgreSQL refused", statements)
"""


@dataclass
class House:
    """A running `vigil up` and everything it was seen to say."""

    folder: Path
    environment: dict[str, str]
    child: subprocess.Popen[bytes] | None = None
    said: dict[str, str] = field(default_factory=dict)  # by whom: what commands and answers said
    acknowledged: list[str] = field(default_factory=list)
    restarted: dict[str, tuple[int, int]] = field(default_factory=dict)
    requests: int = 0
    secrets: list[str] = field(default_factory=list)  # of the sessions: what their cookies hold

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    def state(self) -> dict[str, Any]:
        return json.loads((self.data / "run/state.json").read_text())

    def pid(self, name: str) -> int:
        (found,) = [service["identity"] for service in self.state()["services"] if service["name"] == name]
        return found["pid"] if found else 0

    def run(self, *arguments: str, name: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the house and keep what it says."""
        return self.keep(name or f"vigil {' '.join(arguments)}", [*VIGIL, *arguments], extra)

    def script(self, name: str, code: str, *arguments: str) -> str:
        return self.keep(name, [sys.executable, "-c", code, *arguments], {}).stdout

    def keep(self, name: str, command: list[str], extra: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=self.environment | extra, cwd=self.folder, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        self.said[f"{name}, stdout"] = done.stdout
        self.said[f"{name}, stderr"] = done.stderr
        return done

    def wait_until(self, is_so, what: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if self.child is not None and self.child.poll() is not None:
                pytest.fail(f"vigil up ended: {(self.folder / 'said/up').read_text()[-2000:]}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {what}")
            time.sleep(0.2)

    def is_up(self) -> bool:
        return self.run("status", "--json").returncode == 0

    def feed(self, name: str) -> tuple[str, int]:
        (address,) = [service["address"] for service in self.state()["services"] if service["name"] == "ingress"]
        host, _, port = dict(part.split("=") for part in address.split())[name].rpartition(":")
        return host, int(port)

    def board(self) -> str:
        (address,) = [service["address"] for service in self.state()["services"] if service["name"] == "clinic"]
        return address.split()[0].rstrip("/")

    def send(self, canaries, messages) -> None:
        for feed, body in messages:
            with socket.create_connection(self.feed(feed), timeout=10) as peer:
                peer.settimeout(10)
                with contextlib.suppress(OSError):  # one that is too long is answered before it was all said
                    peer.sendall(canaries.framed(body))
                answer = b""
                with contextlib.suppress(OSError):
                    while b"\x1c" not in answer and (more := peer.recv(4096)):
                        answer += more
                msa = answer.decode(errors="replace").partition("\rMSA|")[2]
                self.acknowledged.append(msa.partition("|")[0])


def cut_off(house: House, canaries, messages) -> None:
    """Say half of a message, and noise that is none."""
    body = messages.admission("A08")
    for content in (b"\x0b" + body[: len(body) // 2], body, b"\x0b" * 5 + canaries.FAMILY.encode(), b"\x0b\x1c\r"):
        with socket.create_connection(house.feed("adt"), timeout=10) as peer:
            peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(5)
            with contextlib.suppress(OSError):
                peer.recv(4096)


def knock_with_wrong_credentials(house: House, canaries) -> None:
    """Try every server with credentials that are none, and speak nonsense to it."""
    ports = house.state()["ports"]
    wrong = canaries.WRONG_PASSWORD
    connect = json.dumps(
        {"user": "vigil", "pass": wrong, "auth_token": wrong, "name": canaries.FAMILY, "verbose": True}
    )
    mqtt = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"".join(
        len(part).to_bytes(2, "big") + part for part in (b"gateway-7", b"monitor", wrong.encode())
    )
    knocks = [
        (ports["nats"], f"CONNECT {connect}\r\nPING\r\n".encode()),
        (ports["nats"], f"{canaries.FAMILY} {wrong}\r\n".encode()),
        (ports["nats"], f"PUB {canaries.FAMILY} x\r\n".encode()),
        (ports["mqtt"], b"\x10" + bytes([len(mqtt)]) + mqtt),
        (ports["mqtt"], canaries.FAMILY.encode() * 10),
        (ports["postgres"], canaries.FAMILY.encode() * 10),
        (ports["postgres"], len(wrong).to_bytes(4, "big") + b"\x00\x03\x00\x00user\x00" + wrong.encode()),
    ]
    for port, content in knocks:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.settimeout(2)
            peer.sendall(content)
            while peer.recv(4096):
                pass
    addresses = {
        "VIGIL_DATABASE_URL": f"postgresql://vigil:{wrong}@127.0.0.1:{ports['postgres']}/postgres",
        "VIGIL_NATS_URL": f"nats://vigil:{wrong}@127.0.0.1:{ports['nats']}",
        "VIGIL_DATA_DIR": str(house.folder / "elsewhere"),
    }
    house.run("verify", name="vigil verify with a wrong password", **addresses)
    for name, program in (("engine", ["twin", "engine"]), ("clinic", ["clinic"])):
        said = house.folder / "said" / f"{name}-with-a-wrong-password"
        with said.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", *program], env=house.environment | addresses, stdout=file, stderr=file,
                cwd=house.folder,
            )  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(6)
            child.kill()
            child.wait()


def look_at_it(house: House, canaries) -> None:
    """Run everything an operator and a data engineer would."""
    commands = (
        ["status"],
        ["feeds"],
        ["feeds", "--json"],
        ["verify"],
        ["verify", "--json"],
        ["replay", "--sample", "3"],
    )
    for command in commands:
        house.run(*command)
    house.run("quarantine", "release", "999999999")
    house.script("dagster", LOOK_WITH_DAGSTER, str(house.folder / "dagster"))
    house.script("the books", READ_THE_BOOKS)
    house.script("statements that fail", MAKE_POSTGRES_COMPLAIN, canaries.FAMILY)
    shown = house.keep("quarantine list", [*VIGIL, "quarantine", "list", "--json", "--limit", "1000"], {})
    house.said["quarantine list, stdout"] = ""  # it shows messages to those allowed: not a leak
    (house.folder / "said" / "count").write_text(str(shown.stdout.lower().count("reason")))
    house.said["planted"] = "" if canaries.MARKER in shown.stdout.lower() else "nothing was planted"
