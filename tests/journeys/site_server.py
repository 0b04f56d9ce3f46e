"""A clinic served as its process serves it, on a real socket, and requests to it as raw bytes.

Here: the server in a thread of its own, credentials of several kinds, what to put into its addresses.
Not here: what it is asked (test_http_conformance, test_http_requests), the clinic itself (guarded_site).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import APIRoute

from clinic import __main__ as clinic_process

house = sys.modules["vigil_tests_guarded_site"]  # the tests load it first

PLAIN, FAR = house.PATIENTS[0], house.FAR
NURSE = house.Person("nora", ("nurse",), (house.WARD,))
OTHER = house.Person("olga", ("nurse",), ("SURG-9",))
EVERY_ROLE = house.Person(
    "everything",
    ("nurse", "charge_nurse", "physician", "data_engineer", "clinical_lead", "safety_officer",
     "data_protection_officer", "model_author", "service"),
    (house.WARD, house.OTHER_WARD), house.TREATING,
)  # fmt: skip


class Served(NamedTuple):
    """A clinic listening on a real socket, and how to ask in somebody's name."""

    url: str
    site: Any
    headers: dict[str, dict[str, str]]
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Any) -> Any:
        """Run something in the clinic's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@pytest.fixture(scope="module")
def served(postgres_server: Any, template: Any) -> Iterator[Served]:
    """A clinic served by the very function that serves it in its process, in a thread of its own."""
    copied = house.copied(postgres_server, template)
    url = next(copied)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    is_ready = threading.Event()
    held: dict[str, Any] = {}

    async def serve() -> None:
        stop = asyncio.Event()
        async with house.open_site(url, template.settings, template.issuer, is_started=False) as site:
            serving = asyncio.create_task(
                clinic_process._run(site.app, template.settings, listener, address, stop, None)
            )
            await house.until_named(site.app)
            sessions = {
                name: site.browser(await site.session(person))
                for name, person in (("browser", NURSE), ("another's browser", OTHER), ("fuzzed browser", NURSE))
            }
            tokens = {"everything": site.headers(EVERY_ROLE), "nurse": site.headers(NURSE)}
            headers = {"nobody": {}, **tokens, **sessions}
            held.update(headers=headers, site=site, stop=stop, loop=asyncio.get_running_loop())
            is_ready.set()
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert is_ready.wait(30)
    yield Served(address, held["site"], held["headers"], held["loop"])
    held["loop"].call_soon_threadsafe(held["stop"].set)
    thread.join(15)
    assert not thread.is_alive()
    listener.close()
    for _ in copied:
        pass


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=10) as opened:
        yield opened


def names_a_patient(text: str) -> bool:
    return any(one.family in text for one in house.EVERYBODY)


KNOWN = {
    "patient_id": (str(PLAIN.number), str(FAR.number), str(house.MERGED), "0"),
    "snapshot_id": (PLAIN.snapshot_id,),
    "resource_id": (PLAIN.observation_id, f"{PLAIN.snapshot_id}.{house.HEART_RATE}", f"{PLAIN.snapshot_id}.news2"),
    "event_id": ("clinic.1",),
    "ward": (house.WARD,),
    "glass_id": ("1",),
    "scope": ("mortality",),
    "version": ("1",),
    "request_id": ("0123456789abcdef",),
    "incident_id": ("1",),
}


def paths_of(served: Served) -> list[str]:
    known = {name: values[0] for name, values in KNOWN.items()}
    routes = (route for route in served.site.app.routes if isinstance(route, APIRoute))
    return sorted({re.sub(r"\{(\w+)(:path)?\}", lambda match: known[match[1]], route.path) for route in routes})


def raw(served: Served, request: bytes, waits_s: float = 10) -> tuple[int, str]:
    """Send bytes as they are: a client library would tidy them up."""
    parts = urlsplit(served.url)
    answer = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as peer:
        peer.sendall(request)
        peer.settimeout(waits_s)
        with contextlib.suppress(TimeoutError):
            while more := peer.recv(65536):
                answer += more
                if b"text/event-stream" in answer:
                    break
    status = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(status[1]) if status else 0, answer.decode("latin-1")


def request_of(target: str, headers: dict[str, str], *, method: str = "GET", host: str = "localhost") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def also(request: bytes, header: str) -> bytes:
    """Return a request with one more header, as it is written."""
    return request.replace(b"\r\n\r\n", f"\r\n{header}\r\n\r\n".encode("latin-1"))
