"""What every answer carries, and who is let in."""

from __future__ import annotations

import logging
import re

import pytest

from clinic.__main__ import main
from clinic.security import LARGEST_BODY, allowed_hosts
from vocabulary.settings import Settings

PATHS = ("/", "/patients/7", "/patients/x", "/api/ward", "/fhir/metadata", "/health", "/static/vigil.css", "/nowhere")


async def test_every_answer_carries_the_headers(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    for path in PATHS:
        headers = (await clinic.client.get(path)).headers
        assert headers["content-security-policy"].startswith("default-src 'self'"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store"), path
        assert headers["referrer-policy"] == "same-origin"


async def test_pages_need_nothing_the_policy_forbids(clinic, wards) -> None:
    clinic.live.publish(wards.snapshot(7, extra=[wards.signal("lactate", 2.4)]))
    await clinic.settle()
    for path in ("/", "/patients/7", "/patients/404"):
        page = (await clinic.client.get(path)).text
        assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:", page)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
        for address in re.findall(r'(?:src|href|action)="([^"]+)"', page):
            assert address.startswith(("/", "#")), address
            if address.startswith("/static"):
                assert (await clinic.client.get(address)).status_code == 200


async def test_no_asset_reaches_beyond_this_server(clinic) -> None:
    for name in ("vigil.css", "vigil.js"):
        text = (await clinic.client.get(f"/static/{name}")).text
        assert not re.search(r"https?://|@import|url\(", text)
    assert (await clinic.client.get("/static/../app.py")).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "10.0.0.5", "127.0.0.1.evil.example", "testserver", ""]
)
async def test_a_foreign_host_is_refused(clinic, host: str) -> None:
    assert (await clinic.client.get("/api/ward", headers={"Host": host})).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST", "127.0.0.2"])
async def test_this_machine_is_let_in(clinic, host: str) -> None:
    assert (await clinic.client.get("/health", headers={"Host": host})).status_code == 200


def test_the_public_name_and_the_listeners_own_are_let_in(tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, host="10.1.2.3")
    assert allowed_hosts(settings, "https://Vigil.example.org:8443") == {"vigil.example.org", "10.1.2.3"}
    everywhere = settings.model_copy(update={"host": "0.0.0.0"})
    assert allowed_hosts(everywhere, "https://vigil.example.org") == {"vigil.example.org"}


async def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(clinic) -> None:
    async def chunks():
        for _ in range(3):
            yield b"x" * (LARGEST_BODY // 2)

    assert (await clinic.client.post("/break-glass", content=b"x" * (LARGEST_BODY + 1))).status_code == 413
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await clinic.client.post("/break-glass", content=chunks(), headers=form)).status_code == 413


def test_help_explains_the_settings(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("VIGIL_CLINIC_PORT", "VIGIL_DATABASE_URL", "/fhir/metadata", "Exit status"):
        assert word in said


async def test_no_patient_is_named_in_the_logs(clinic, wards, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    clinic.live.publish(wards.snapshot(7))
    await clinic.settle()
    for path in ("/", "/patients/7", "/fhir/Patient?identifier=SECRET-MRN", "/patients/x"):
        await clinic.client.get(path)
    said = " ".join(
        record.getMessage() for record in caplog.records if record.name.split(".")[0] not in {"httpx", "httpcore"}
    )
    assert "Hansen" not in said
    assert "SECRET-MRN" not in said


async def _fence_out(house) -> None:
    """Have another writer of the clinic's name take the next number."""
    await house.execute(
        "insert into audit_event (writer, seq, at, action, outcome, surface, verb, agent, previous_hash, hash) "
        "select writer, seq + 1, now(), 'x', 'failed', 'x', 'x', 'x', hash, sha256(hash) from audit_event "
        "where writer = 'clinic' order by seq desc limit 1"
    )


async def test_a_clinic_whose_audit_another_writes_says_so_and_stops(house) -> None:
    client = await house.as_("nurse")
    assert (await client.get("/api/patients/7")).status_code == 200
    await _fence_out(house)
    for path in ("/api/patients/7", "/patients/7", "/fhir/Patient/7", "/streams/patients/7"):
        answer = await client.get(path)
        assert answer.status_code == 503, path
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert {type(error).__name__ for error in house.failures} == {"FencedOutError"}
    bearer = house.client(headers={"authorization": "Bearer x"})  # found out before any route is reached
    assert (await bearer.get("/api/patients/7")).status_code == 503


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/api/patients/7", "application/json"),
        ("/fhir/Patient/7", "application/fhir+json"),
        ("/patients/7", "text/html; charset=utf-8"),
        ("/streams/patients/7", "application/json"),
    ],
)
async def test_a_defect_is_answered_in_the_words_of_who_asked_and_with_the_headers(
    house, monkeypatch, path: str, media_type: str
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Ingrid Hansen")

    client = await house.as_("nurse", raises=False)
    monkeypatch.setattr(house.app.state.context.gate.auditor, "record", broken)
    answer = await client.get(path)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "Hansen" not in answer.text
    assert house.failures == []  # one request's defect stops nobody else
    strict = await house.as_("nurse")
    with pytest.raises(ZeroDivisionError):  # and it is not swallowed: the server logs it
        await strict.get(path)
