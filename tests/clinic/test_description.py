"""The OpenAPI description: it names every address, is itself not for everybody, and schemathesis finds it honest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

NOT_ASKED = "^/streams|sign-out|backchannel"
"""Streams never end by themselves; signing out would end the run."""


async def test_every_address_is_described_with_what_it_answers(clinic) -> None:
    described = (await clinic.client.get("/api/openapi.json")).json()
    addresses = {route.path.replace(":path}", "}") for route in clinic.app.routes if route.path != "/static"}
    assert set(described["paths"]) == addresses
    for path, operations in described["paths"].items():
        for operation in operations.values():
            if path == "/health" or path.startswith("/auth/"):
                assert operation["security"] == []
            else:
                assert operation["security"], path
                assert {"401", "421", "503"} <= operation["responses"].keys(), path
            assert "422" not in operation["responses"]


async def test_the_description_is_told_to_nobody(clinic) -> None:
    clinic.client.cookies.clear()
    answer = await clinic.client.get("/api/openapi.json")
    assert (answer.status_code, answer.content) == (401, b"")


async def test_an_address_says_which_methods_it_answers(clinic) -> None:
    answer = await clinic.client.options("/break-glass")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["", "nurse", "safety_officer"])
def test_schemathesis_finds_nothing(site: Any, guarded: Any, tmp_path: Path, who: str) -> None:
    pytest.importorskip("schemathesis")
    known = msgspec.structs.replace(guarded.PEOPLE[who or "nurse"], issuer=site.issuer)
    session = site.run(site.house.session(known))
    answer = httpx.get(f"{site.url}/api/openapi.json", cookies={"vigil_session": session.cookie})
    description, config = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
    description.write_bytes(answer.content)
    forms = f'[auth.openapi.session]\napi_key = "{session.cookie}"\n[headers]\nX-Vigil-CSRF = "{session.csrf}"\n'
    config.write_text(forms if who else "")
    found = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis", "--config-file", config, "run", description,
            "--url", site.url, "--max-examples", "4", "--request-timeout", "10", "--seed", "7", "--no-color",
            "--exclude-path-regex", NOT_ASKED,
        ],
        capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", found.stdout)[-1]) > 200
    if not who:  # who is nobody is answered by /health alone
        for path, operations in json.loads(answer.content)["paths"].items():
            if re.search(NOT_ASKED, path) or "get" not in operations or path == "/health":
                continue
            nobody = httpx.get(site.url + re.sub(r"\{[^}]*\}", "7", path))
            assert not 200 <= nobody.status_code < 300, path
