"""`python -m clinic` as it runs: real PostgreSQL, real nats-server, real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from clinic.__main__ import _listen
from clinic.assembly import session_key
from clinic.sessions import SessionTokens, StoredSessions
from governance.master_key import ensure_master
from stores.database import connect
from stores.pool import Pool
from twin import health
from twin.bus import Bus
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.signing import SigningKey
from vocabulary.snapshot import canonical_bytes
from vocabulary.tls import Identity


def _start(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "clinic"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=Path(__file__).resolve().parents[2],
        )


async def _ready(folder: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(400):
        assert process.poll() is None, "the process ended"
        said = health.read(folder / "run", "clinic")
        if said is not None and said.is_ready:
            return said.address
        await asyncio.sleep(0.05)
    raise AssertionError("never ready")


async def test_a_snapshot_on_the_bus_is_on_the_page_of_who_may_see_it(
    seeded_url: str, nats_server: Any, tmp_path: Path, wards: Any, guarded: Any, clinic_settings: Any
) -> None:
    ensure_master(clinic_settings)
    bus = await Bus.connect(nats_server.url(), "test")
    await bus.ensure_streams(64 * 1024 * 1024)
    environment = {
        "VIGIL_DATABASE_URL": seeded_url,
        "VIGIL_NATS_URL": nats_server.url(),
        "VIGIL_DATA_DIR": str(tmp_path),
        "VIGIL_CLINIC_PORT": "0",
        "VIGIL_IDENTITY_DIR": str(tmp_path / "identity"),
    }
    signer = SigningKey.generate()
    (tmp_path / "identity").mkdir()
    signer.save(Identity(tmp_path / "identity").ledger_key)
    first, later = wards.snapshot(7), wards.snapshot(10)
    await bus.publish_snapshots(
        [_with_bytes(wards.publication(one)) for one in (first, wards.snapshot(9, ward="MED-3"))]
    )
    log = tmp_path / "clinic.log"
    process = _start(environment, log)
    try:
        address = await _ready(tmp_path, process)
        cookie = await _session(seeded_url, clinic_settings, guarded.PEOPLE["nurse"], session_key(signer))
        forged = await _session(seeded_url, clinic_settings, guarded.PEOPLE["nurse"], bytes(32))
        async with httpx.AsyncClient(base_url=address, timeout=5, cookies={"vigil_session": cookie}) as client:
            page = (await client.get("/")).text
            assert "bed-7" in page  # published before we came
            assert "bed-9" not in page  # of another ward
            await bus.publish_snapshots([_with_bytes(wards.publication(later))])
            for _ in range(100):
                if "bed-10" in (await client.get("/wards/ICU-A")).text:
                    break
                await asyncio.sleep(0.05)
            assert "bed-10" in (await client.get("/wards/ICU-A")).text
            assert (await client.get("/api/snapshots/" + first.snapshot_id)).content == canonical_bytes(first)
            assert (await client.get("/ready")).status_code == 200
        async with httpx.AsyncClient(base_url=address, timeout=5) as nobody:
            assert (await nobody.get("/health")).status_code == 200
            assert (await nobody.get("/ready")).status_code == 401
        async with httpx.AsyncClient(base_url=address, timeout=5, cookies={"vigil_session": forged}) as thief:
            assert (await thief.get("/ready")).status_code == 401  # the table alone lets nobody in
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        await bus.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "ready" in [line["event"] for line in lines]
    assert "Hansen" not in log.read_text()


async def _session(url: str, settings: Any, principal: Any, key: bytes) -> str:
    """Sign somebody in beside the process: sessions are rows, whoever opened them with the clinic's key."""
    pool = Pool(lambda: connect(url, application_name="test"), 1)
    try:
        sessions = StoredSessions(settings, pool, SystemClock(), key)
        return (await sessions.open(principal, SessionTokens("id"), "", 0)).cookie
    finally:
        await pool.close()


def test_a_port_that_is_taken_is_told_by_its_setting(clinic_settings: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="VIGIL_CLINIC_PORT"):
            _listen(clinic_settings.model_copy(update={"clinic_port": port}))


def _with_bytes(publication: Any) -> tuple[Any, bytes]:
    return publication, msgspec.msgpack.encode(publication)
