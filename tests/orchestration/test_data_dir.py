"""The data directory: addresses that stay, one supervisor at a time, and what may be removed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.data_dir import FIRST_PORT, DataDir, InUseError, RunState
from orchestration.embedded import EmbeddedPostgres, free_port
from orchestration.processes import Identity, end, identify, is_alive
from vocabulary.errors import ConfigurationError


@pytest.fixture
def data_dir(tmp_path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def test_a_port_once_given_stays_and_a_configured_one_wins(data_dir):
    first = data_dir.ports({"clinic": 0, "feed.adt": 0})
    assert data_dir.ports({"feed.adt": 0, "clinic": 0, "nats": 0}).items() >= first.items()
    assert data_dir.ports({"clinic": 4444, "feed.adt": 0}) == {"clinic": 4444, "feed.adt": first["feed.adt"]}
    assert data_dir.ports({"clinic": 0}) == {"clinic": first["clinic"]}, "a configured port is not kept"


def test_new_ports_are_free_distinct_and_below_those_linux_lends_out(data_dir):
    probe = data_dir.ports({"probe": 0})["probe"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", probe + 1))
        ports = data_dir.ports({f"s{n}": 0 for n in range(8)})
    assert len(set(ports.values())) == 8
    assert probe + 1 not in ports.values()
    assert probe not in ports.values(), "kept for another name"
    assert all(FIRST_PORT <= port < 32_000 for port in ports.values())


def test_one_supervisor_at_a_time_and_the_lock_dies_with_its_holder(data_dir):
    holder = (
        "import sys, pathlib; from orchestration.data_dir import DataDir\n"
        "with DataDir(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(data_dir.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match="already works"), data_dir.lock():
            pass
        other.kill()
    with data_dir.lock():
        pass


def test_too_little_room_is_said_before_anything_starts(data_dir, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**8, 10**8))
    with pytest.raises(ConfigurationError, match="95 MB free"):
        data_dir.prepare()


def test_a_state_that_cannot_be_read_is_no_state(data_dir):
    (data_dir.run / "state.json").write_text('{"half":')
    assert data_dir.read_state() is None


@given(pid=st.integers(1, 2**22), started_at=st.floats(0, 2e9), ports=st.dictionaries(st.text(), st.integers(0, 65535)))
def test_a_state_reads_back_as_it_was_written(tmp_path_factory, pid, started_at, ports):
    data_dir = DataDir(tmp_path_factory.mktemp("state"))
    data_dir.run.mkdir()
    state = RunState(Identity(pid, started_at), started_at, ports, [], "up")
    data_dir.write_state(state)
    assert data_dir.read_state() == state


def test_a_demonstration_never_removes_data_that_is_not_its_own(data_dir):
    (data_dir.postgres / "data").mkdir(parents=True)
    (data_dir.postgres / "data/PG_VERSION").write_text("18\n")
    with pytest.raises(ConfigurationError, match="not marked"):
        data_dir.clear_demonstration()
    assert data_dir.has_data

    (data_dir.root / "only-a-demonstration").touch()
    kept = data_dir.ports({"clinic": 0})
    data_dir.clear_demonstration()
    assert not data_dir.has_data
    assert data_dir.ports({"clinic": 0}) == kept


def test_a_process_is_known_by_its_start_too():
    me = identify(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(Identity(me.pid, me.started_at - 5))
    assert end(Identity(me.pid, me.started_at - 5), grace_s=0.1), "somebody else's process counts as gone, and lives on"


def test_a_process_that_does_not_listen_is_killed():
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "deaf\n"
        identity = identify(child.pid)
        assert identity is not None
        assert not end(identity, grace_s=0.2)
        assert child.wait(5) == -9


def test_a_stale_postmaster_file_naming_another_process_does_not_prevent_the_start(reachable_folder):
    server = EmbeddedPostgres(reachable_folder / "postgres", free_port(), fsync=False)
    server.start()
    server.stop("immediate")
    # After a power cut the file is still there and its number is given to somebody else: here, to this test.
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n1\n{server.port}\n\n127.0.0.1\n")
    assert server.pid() is None
    server.start()
    assert server.is_running()
    server.stop("immediate")
