"""No patient data where it does not belong: a whole house is fed canaries, mistreated, and searched.

Real processes, real sockets. Canaries go in through every feed, well formed and in every kind of bad message, through
every HTTP route, through wrong credentials at every server; processes are killed; the `vigil` command and Dagster look
at it all. Then everything that is not a store for patient data is searched: logs, health files, temporary files,
Dagster's storage, command lines, environments, error answers. That the search can find is tested in test_canaries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

STORES = {
    "postgres/data/base": "PostgreSQL's tables: the clinical record itself",
    "postgres/data/pg_wal": "PostgreSQL's write-ahead log: the same, on its way",
    "postgres/data/global": "PostgreSQL's catalogues",
}
"""Where patient data may lie in the clear, below the data directory. Everything else is searched."""
PROGRAMS = "programs-*"  # a copy of PostgreSQL's own binaries, where root runs the house
SECRETS = ("keys", "identity", "authority", "issuer", "credentials", "postgres/password", "postgres/data/server.key")
"""Where this run's own secrets lie, below the data directory: they may stand nowhere else that is searched."""
STORE_KEY = "keys/jetstream.key"
"""nats-server takes it from its environment, which only its own user can read."""


@pytest.fixture(scope="module")
def house(haunted_house, canaries) -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix="vigil-canaries-"))
    folder.chmod(0o755)  # PostgreSQL runs as `nobody` where we are root
    for name, mode in (("temporary", 0o1777), ("said", 0o700), ("dagster", 0o700)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    feeds = [{"name": name, "max_message_bytes": 65536} for name in ("adt", "monitors", "lab")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIL_", "DAGSTER_"))} | {
        "VIGIL_DATA_DIR": str(folder / "data"),
        "VIGIL_FEEDS": json.dumps(feeds),
        "VIGIL_MODE": "demo",
        "VIGIL_OIDC_CLIENT_SECRET": canaries.CLIENT_SECRET,
        "DAGSTER_HOME": str(folder / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "TMPDIR": str(folder / "temporary"),
        "PYTHONPATH": str(haunted_house.CHECKOUT),
    }
    made = haunted_house.House(folder, environment)
    with (folder / "said/up").open("wb") as said:
        made.child = subprocess.Popen(
            [*haunted_house.VIGIL, "up"], env=environment, cwd=folder, stdout=said, stderr=said
        )
        try:
            yield made
        finally:
            if made.child.poll() is None:
                made.child.send_signal(signal.SIGTERM)
                try:
                    made.child.wait(60)
                except subprocess.TimeoutExpired:
                    made.child.kill()
                    made.child.wait()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def haunted(house: Any, haunted_house, visitors, canaries) -> tuple[Any, Any, dict[str, list]]:
    """The house after everything was done to it, the scanner, and what was found while it still ran."""
    now = datetime.now(UTC)
    stamps = [(now + timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000") for hours in (0, -1, 24)]
    messages = canaries.Messages(*stamps)
    with canaries.FolderWatch(house.temporary) as watch:
        house.wait_until(lambda: (house.data / "run/state.json").exists() and house.is_up(), "everything is up")
        house.send(canaries, messages.good())
        house.send(canaries, messages.bad())
        haunted_house.cut_off(house, canaries, messages)
        visitors.ask_every_route(house, canaries, visitors.visitor(house), "a stranger")
        for who, subject in visitors.PEOPLE.items():
            visitors.ask_every_route(house, canaries, visitors.sign_in(house, subject), who)
        visitors.break_the_glass(house, canaries)
        haunted_house.knock_with_wrong_credentials(house, canaries)
        for name in ("normalizer", "engine", "ingress", "clinic"):
            before = house.pid(name)
            os.kill(before, signal.SIGKILL)
            house.restarted[name] = (before, 0)
        house.wait_until(
            lambda: (
                all(house.pid(name) not in (0, before) for name, (before, _) in house.restarted.items())
                and house.is_up()
            ),
            "the killed run again",
        )
        house.restarted = {name: (before, house.pid(name)) for name, (before, _) in house.restarted.items()}
        house.send(canaries, messages.good())
        visitors.ask_every_route(house, canaries, visitors.visitor(house), "another")
        haunted_house.look_at_it(house, canaries)
        scanner = canaries.Scanner([*secrets_of(house.data), *house.secrets])
        visible = canaries.Scanner([*secrets_of(house.data, except_for=STORE_KEY), *house.secrets])
        alive = {"processes": _scan_processes(house, visible)}
        done = house.run("down")
        assert done.returncode == 0, done.stderr
        assert house.child is not None
        assert house.child.wait(60) == 0
    alive["temporary files"] = watch.findings(scanner)
    return house, scanner, alive


def _scan_processes(house: Any, scanner) -> list:
    """Search what other users of this machine see of the house's processes, and environments of what is not ours."""
    found = []
    assert house.child is not None
    postgres = [psutil.Process(house.pid("postgres"))]
    for process in [*psutil.Process(house.child.pid).children(recursive=True), *postgres, *postgres[0].children()]:
        is_server = any(name in process.name() for name in ("postgres", "nats"))
        found += scanner.scan_process(process, environment=is_server)
    return found


def secrets_of(data: Path, *, except_for: str = "") -> list[str]:
    """Return every secret that lies in the data directory: of a key in PEM the line that matters."""
    found = set()
    for place in (data / name for name in SECRETS):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            is_public = (
                path.suffix in {".pub", ".json"} or path.stem in {"certificate", "revoked"} or "authority" in path.stem
            )
            if not path.is_file() or is_public or path == data / except_for:
                continue
            lines = [line.strip() for line in path.read_text().splitlines() if not line.startswith("-----")]
            found.add(max(lines, key=len))
    assert len(found) > 5
    assert all(len(secret) >= 16 for secret in found)
    return sorted(found)


def no_leak(findings) -> None:
    shown = "\n".join(map(str, findings))
    assert not findings, f"{len(findings)} leaks:\n{shown[:8000]}"


def test_the_canaries_went_everywhere_they_were_sent(haunted, visitors, canaries):
    house, _, _ = haunted
    accepted = [code for code in house.acknowledged if code == "AA"]
    assert len(accepted) > 30
    assert set(house.acknowledged) <= {"AA", "AR", "AE", ""}
    assert house.said["planted"] == ""
    assert int((house.folder / "said/count").read_text()) > 20  # items in quarantine, each with its reason
    in_store = canaries.Scanner().scan_folder(house.data / "postgres/data/pg_wal")
    assert any("a canary" in finding.what for finding in in_store)
    assert len(visitors.routes()) > 15
    assert house.requests > 100
    assert all(before != after for before, after in house.restarted.values())
    looked = re.search(r"dagster looked at (\d+) assets and", house.said["dagster, stdout"])
    assert looked is not None, house.said["dagster, stderr"][-2000:]
    assert int(looked[1]) > 10
    refused = house.said["statements that fail, stdout"]
    assert int(refused.split()[-1]) >= 6, house.said["statements that fail, stderr"]


def test_no_log_health_file_or_message_of_a_server_holds_patient_data(haunted, canaries):
    house, scanner, _ = haunted
    except_below = [house.data / name for name in STORES] + list((house.data / "postgres").glob(PROGRAMS))
    except_below += [house.data / name for name in SECRETS]
    assert (house.data / "logs/normalizer.log").stat().st_size > 0
    assert (house.data / "postgres/log").stat().st_size > 0
    no_leak(scanner.scan_folder(house.data, except_below))
    no_leak([f for name in SECRETS for f in canaries.Scanner().scan_folder(house.data / name)])


def test_no_command_says_patient_data_outside_the_quarantine(haunted):
    house, scanner, _ = haunted
    no_leak(scanner.scan_folder(house.folder / "said"))
    no_leak(
        [
            f
            for name, text in house.said.items()
            if "->" not in name and "the books" not in name
            for f in scanner.scan_text(text, name)
        ]
    )


def test_no_denial_error_or_open_page_repeats_patient_data(haunted):
    house, scanner, _ = haunted
    answers = {name: text for name, text in house.said.items() if "->" in name}
    assert len(answers) > 50
    no_leak([f for name, text in answers.items() for f in scanner.scan_text(text, name)])


def test_ledger_and_audit_name_nobody_but_by_number(haunted):
    house, scanner, _ = haunted
    said = house.said["the books, stdout"]
    assert said.count("ledger_entry") > 10
    assert said.count("audit_event") > 100, house.said["the books, stderr"][-1000:]
    no_leak(scanner.scan_text(said, "ledger and audit"))


def test_dagster_is_told_nothing_of_patients(haunted):
    house, scanner, _ = haunted
    stored = [path for path in (house.folder / "dagster").rglob("*") if path.is_file()]
    assert stored
    no_leak(scanner.scan_folder(house.folder / "dagster"))


def test_no_temporary_file_holds_patient_data_not_even_for_a_moment(haunted):
    _, _, alive = haunted
    no_leak(alive["temporary files"])


def test_no_command_line_and_no_servers_environment_holds_a_secret_or_patient_data(haunted):
    _, _, alive = haunted
    no_leak(alive["processes"])
