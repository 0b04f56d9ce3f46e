"""A guarded clinic and the development issuer, each on a port of its own: for browsers and for schemathesis.

Here: starting both in a thread, and stopping them.
Not here: the clinic behind the real policy (guarded_house), the tests.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn

from governance.oidc import Provider
from governance.provider_keys import http_client
from hospital.issuer.app import Issuer, Plan
from hospital.issuer.clients import Client
from hospital.issuer.keys import IssuerKey
from vocabulary.clock import SystemClock


class Site(NamedTuple):
    """A clinic and its provider, each on a port."""

    url: str
    issuer: str
    live: Any
    run: Callable[[Any], Any]  # a coroutine in the clinic's own loop
    house: Any


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    return listener


def _address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def _serving(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn tells in no other way
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextmanager
def serve_site(
    open_house: Any,
    seeded_url: str,
    clinic_settings: Any,
    wards: Any,
    live: Any,
    readers: Any,
    templates: Any,
    folder: Path,
    host: str = "127.0.0.1",
) -> Iterator[Site]:
    """Hold both; the twins are of the present time, and browsers reach the clinic under `host`."""
    clock = SystemClock()
    wards.now_us = clock.now_us()
    for patient_id, ward in ((7, "ICU-A"), (8, "ICU-A"), (9, "MED-3")):
        live.publish(wards.snapshot(patient_id, ward=ward, bed=f"0{patient_id}"))
    clinic_socket, issuer_socket = _listener(), _listener()
    url, issuer_url = _address(clinic_socket).replace("127.0.0.1", host), _address(issuer_socket)
    settings = clinic_settings.model_copy(update={"mode": "demo", "oidc_issuer": issuer_url})
    (folder / "issuer").mkdir(mode=0o700)
    ready, finished = threading.Event(), asyncio.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        held["loop"] = asyncio.get_running_loop()
        people = Client(
            client_id="vigil", name="Vigil", grants=frozenset({"authorization_code", "refresh_token"}),
            scopes=frozenset({"openid", "profile", "roles", "offline_access"}),
            redirect_uris=(f"{url}/auth/callback",), post_logout_redirect_uris=(f"{url}/auth/signed-out",),
            back_channel_logout_uri=f"{url}/auth/backchannel-logout",
        )  # fmt: skip
        async with httpx.AsyncClient(trust_env=False) as to_clinic, http_client(settings) as http:
            issuer = Issuer(Plan(issuer=issuer_url, audience="urn:vigil:api", clients=(people,),
                                 key=IssuerKey(folder / "issuer"), clock=clock, http=to_clinic))  # fmt: skip
            async with (
                open_house(seeded_url, settings, clock, clock, live, readers, templates,
                                   provider=Provider(settings, http, clock), public_url=url) as house,
                _serving(issuer.application(), issuer_socket),
                _serving(house.app, clinic_socket),
            ):  # fmt: skip
                held["house"] = house
                ready.set()
                await finished.wait()
                house.app.state.context.hub.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(20)

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, held["loop"]).result(10)

    yield Site(url, issuer_url, live, run, held["house"])
    held["loop"].call_soon_threadsafe(finished.set)
    thread.join(15)
    assert not thread.is_alive()
    clinic_socket.close()
    issuer_socket.close()
