"""The house as an operator meets it: up, status, down, and everything that may go wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket

import psutil
import pytest

from orchestration.embedded import free_port
from orchestration.services import PROGRAMS


def test_up_serves_says_where_and_down_leaves_nothing_running(vigil):
    child = vigil.up()
    pids = vigil.pids()
    assert set(pids) == {"postgres", "nats-server", *PROGRAMS}
    seen = json.loads((vigil.data_dir / "run/normalizer.seen").read_text())
    assert seen["VIGIL_DATABASE_URL"].startswith("postgresql://vigil_normalizer@127.0.0.1:")
    assert "sslmode=verify-full" in seen["VIGIL_DATABASE_URL"]
    assert seen["VIGIL_NATS_URL"].startswith("tls://127.0.0.1:")
    ports = {feed["name"]: feed["port"] for feed in json.loads(seen["VIGIL_FEEDS"])}
    assert set(ports) == {"adt", "monitors", "lab"}
    assert all(ports.values())
    assert (vigil.data_dir / "run/state.json").stat().st_mode & 0o077 == 0
    secret = (vigil.data_dir / "postgres/password").read_text()
    for file in [vigil.data_dir / "run/state.json", *(vigil.data_dir / "run").glob("*.seen")]:
        assert secret not in file.read_text(), "only `vigil up` is the owner of the database"

    refused = vigil.run("up")
    assert refused.returncode == 2
    assert "already works in" in refused.stderr
    assert str(child.pid) in refused.stderr
    assert vigil.is_up(), "a refused second `up` must not disturb the first"

    stopped = vigil.run("down")
    assert stopped.returncode == 0
    assert child.wait(10) == 0
    assert vigil.left(pids) == []
    assert vigil.run("status").returncode == 3
    assert vigil.run("down").returncode == 3

    vigil.up()  # resumes: same addresses, same data
    again = json.loads((vigil.data_dir / "run/normalizer.seen").read_text())
    assert again["VIGIL_FEEDS"] == seen["VIGIL_FEEDS"]
    assert again["VIGIL_DATABASE_URL"] == seen["VIGIL_DATABASE_URL"]
    assert again["VIGIL_CLINIC_PORT"] == seen["VIGIL_CLINIC_PORT"]


def test_whatever_is_killed_is_started_again(vigil):
    vigil.up()
    before = vigil.pids()
    for name in ("postgres", "nats-server", "engine", "clinic"):
        os.kill(before[name], signal.SIGKILL)
    vigil.wait_until(
        lambda: vigil.is_up() and all(vigil.pids()[n] != before[n] for n in ("postgres", "nats-server", "engine")),
        "the killed run again",
    )
    services = {s["name"]: s for s in json.loads(vigil.run("status", "--json").stdout)["services"]}
    assert services["engine"]["restarts"] == 1
    assert services["normalizer"]["restarts"] == 0


def test_what_a_killed_supervisor_left_is_ended_and_the_house_resumes(vigil):
    child = vigil.up()
    left = vigil.pids()
    child.kill()
    child.wait()
    assert vigil.left(left) == list(left), "children outlive a killed supervisor"
    asked = vigil.run("status")
    assert asked.returncode == 3
    assert "killed" in asked.stderr

    vigil.up()
    assert vigil.left(left) == []

    vigil.started[-1].kill()
    vigil.started[-1].wait()
    left = vigil.pids()
    ended = vigil.run("down")
    assert ended.returncode == 0
    assert vigil.left(left) == []


def test_a_number_given_to_another_process_is_not_ended(vigil):
    vigil.data_dir.mkdir()
    (vigil.data_dir / "run").mkdir()
    # A record from before a reboot: the numbers now belong to others (to this test's own process, for one).
    identity = {"pid": os.getpid(), "started_at": 12.0}
    service = {"name": "engine", "address": "", "identity": identity}
    state = {"supervisor": identity, "started_at": 12.0, "ports": {}, "services": [service], "command": "up"}
    (vigil.data_dir / "run/state.json").write_text(json.dumps(state))
    ended = vigil.run("down")
    assert ended.returncode == 0
    assert "nothing" in ended.stdout


def test_a_process_that_refuses_its_settings_stops_the_start_and_nothing_runs(vigil):
    vigil.let("engine", "refuses")
    child = vigil.start("up")
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "this setting cannot work" in said
    assert "engine.log" in said
    assert vigil.pids() == {}
    assert vigil.run("status").returncode == 3
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(vigil.data_dir) in " ".join(p.info["cmdline"] or [])]


def test_a_process_that_never_becomes_ready_is_given_up(vigil):
    vigil.let("normalizer", "crashes")
    child = vigil.start("up")
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 3
    assert "normalizer ended with status 1" in said
    assert vigil.pids() == {}


@pytest.mark.parametrize("setting", ["VIGIL_POSTGRES_PORT", "VIGIL_NATS_PORT", "VIGIL_MQTT_PORT", "VIGIL_CLINIC_PORT"])
def test_a_port_in_use_is_said_with_the_setting_to_change(vigil, setting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = vigil.run("up", **{setting: str(port)})
    assert answer.returncode == 2, answer.stderr
    assert str(port) in answer.stderr
    assert setting in answer.stderr
    assert vigil.pids() == {}


def test_two_services_on_one_port_are_refused(vigil):
    port = str(free_port())
    answer = vigil.run("up", VIGIL_NATS_PORT=port, VIGIL_CLINIC_PORT=port)
    assert answer.returncode == 2
    assert "one port" in answer.stderr


def test_an_external_server_that_does_not_answer_is_named_without_its_password(vigil):
    port = free_port()
    answer = vigil.run("up", VIGIL_DATABASE_URL=f"postgresql://me:hush@127.0.0.1:{port}/x", timeout_s=150)
    assert answer.returncode == 3
    assert str(port) in answer.stderr
    assert "hush" not in answer.stderr + answer.stdout


def test_data_of_another_postgresql_version_is_refused(vigil):
    vigil.up()
    vigil.run("down")
    version = vigil.data_dir / "postgres/data/PG_VERSION"
    version.write_text("9\n")
    answer = vigil.run("up")
    assert answer.returncode == 2
    assert "written by PostgreSQL 9" in answer.stderr
    assert vigil.pids() == {}


def test_a_setting_of_the_wrong_kind_is_named_and_its_value_is_not(vigil):
    answer = vigil.run("up", VIGIL_NATS_PORT="hush-hush")
    assert answer.returncode == 2
    assert "VIGIL_NATS_PORT" in answer.stderr
    assert "hush" not in answer.stderr


def test_a_data_directory_that_cannot_be_written_is_refused(vigil):
    vigil.data_dir.write_text("a file, not a folder")
    answer = vigil.run("up")
    assert answer.returncode == 2
    assert "VIGIL_DATA_DIR" in answer.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as somebody else")
def test_a_data_directory_that_postgresql_may_not_reach_is_refused(vigil):
    vigil.data_dir.mkdir()
    hidden = vigil.data_dir / "hidden"
    hidden.mkdir(mode=0o700)
    answer = vigil.run("up", "--data-dir", str(hidden / "data"))
    assert answer.returncode == 2
    assert "may not reach" in answer.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as somebody else")
def test_programs_that_postgresql_may_not_reach_are_copied_to_where_it_may(reachable_folder):
    from orchestration.embedded import EmbeddedPostgres, find_postgres_binaries

    # As in an environment below /root: nobody else may pass, and libraries lie beside the package.
    hidden = reachable_folder / "hidden"
    hidden.mkdir(mode=0o700)
    install = find_postgres_binaries().parent
    package = install.parent
    shutil.copytree(install, hidden / package.name / install.name, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, hidden / libraries.name, symlinks=True)
    programs = hidden / package.name / install.name / "bin"
    server = EmbeddedPostgres(reachable_folder / "p", free_port(), programs, fsync=False)
    server.start()
    try:
        assert server.is_running()
        assert not server.binaries.is_relative_to(hidden)
    finally:
        server.stop("immediate")
    assert not server.is_running()
