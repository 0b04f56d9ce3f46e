"""What decides who is let in, put together for one process: audit, gate, sessions, provider.

Here: making `Access` from the settings, its chores (telling reviewers of broken glasses, removing old sessions),
closing it.
Not here: the parts (governance, clinic.sessions, clinic.identity), the application (clinic.app).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from clinic.app import Access
from clinic.failures import FailureLog
from clinic.identity import Identity
from clinic.sessions import Cookie, StoredSessions
from clinic.sign_in import PendingCookie
from governance.access import Policy
from governance.audit import Auditor
from governance.break_glass import deliver_notifications
from governance.gate import Gate
from governance.oidc import Provider
from governance.provider_keys import http_client
from governance.serving_record import Appender
from stores.chain_heads import HeadFile
from stores.database import Connection, connect
from stores.pool import Pool
from twin.process import end
from vocabulary.clock import Clock
from vocabulary.errors import UnavailableError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity as Papers

_LOG = logging.getLogger("clinic")

WRITER = "clinic"
"""The chain of the audit that this process writes."""

_SESSIONS_CONNECTIONS = 4
_NOTIFY_EVERY_S = 5.0
_SWEEP_EVERY_S = 300.0


def public_url_of(settings: Settings, address: str) -> str:
    """Return our address as browsers write it: as set, or where we listen."""
    return (settings.public_url or address).rstrip("/")


@asynccontextmanager
async def open_access(settings: Settings, url: str, public_url: str, clock: Clock) -> AsyncIterator[Access]:
    """Hold everything that decides who is let in.

    Args:
        settings: provider, lifetimes, identity folder.
        url: of the database, in this process's role.
        public_url: our address as browsers write it.
        clock: real time.

    Raises:
        ConfigurationError: the policy, the provider's settings or our keys cannot be used.
    """

    async def opened() -> Connection:
        return await connect(url, application_name="vigil clinic")

    signer = _signer(settings)
    heads = HeadFile(settings.anchors_dir / "heads") if signer is not None else None
    is_secure = public_url.startswith("https://")
    auditor = Auditor(opened, WRITER, signer, heads, clock)
    gate = Gate(Policy.load(), auditor, opened, clock, settings)
    pool = Pool(opened, _SESSIONS_CONNECTIONS)
    async with http_client(settings) as http:
        provider = None if settings.oidc_issuer is None else Provider(settings, http, clock)
        sessions = StoredSessions(settings, pool, clock, session_key(signer))
        identity = Identity(
            sessions,
            Cookie("vigil_session", is_secure=is_secure),
            provider,
            None if provider is None else provider.verifier(),
            FailureLog(auditor, clock),
        )
        pending = PendingCookie(
            Cookie("vigil_sign_in", is_secure=is_secure), _key(signer, b"key of sign-ins under way")
        )
        chores = [asyncio.create_task(_keep_swept(sessions))]
        if settings.notify_url is not None:
            chores.append(asyncio.create_task(_keep_telling(pool, http, settings.notify_url, settings.site, clock)))
        try:
            appender = None if signer is None else Appender(WRITER, signer)
            yield Access(identity, gate, pending, clock, public_url, appender)
        finally:
            await end(chores)
            await identity.close()
            await auditor.close()
            await gate.close()
            await pool.close()


def _signer(settings: Settings) -> SigningKey | None:
    if settings.identity_dir is None:
        return None
    path = Papers(settings.identity_dir).ledger_key
    return SigningKey.load(path) if path.exists() else None


def session_key(signer: SigningKey | None) -> bytes:
    """Return the key that makes a row of the sessions ours; without an identity it, and they, end with the process."""
    return _key(signer, b"key of session rows")


def _key(signer: SigningKey | None, purpose: bytes) -> bytes:
    """Return a key of 32 bytes that is in no database: the same in every process with our identity."""
    if signer is None:
        return os.urandom(32)
    # Ed25519 signs the same text with the same bytes (RFC 8032).
    return hashlib.sha256(signer.sign(b"vigil: " + purpose + b", version 1")).digest()


async def _keep_telling(pool: Pool, http: httpx.AsyncClient, address: str, site: str, clock: Clock) -> None:
    """Tell whoever must know of broken glasses, until cancelled; what fails stands on the reviewers' page."""
    while True:
        try:
            await deliver_notifications(pool, http, address, site, clock)
        except UnavailableError as error:
            _LOG.warning("notifications_wait", extra={"reason": str(error)})
        await asyncio.sleep(_NOTIFY_EVERY_S)


async def _keep_swept(sessions: StoredSessions) -> None:
    """Remove sessions that are over, until cancelled."""
    while True:
        with suppress(UnavailableError):  # they are over all the same: nobody finds them
            await sessions.sweep()
        await asyncio.sleep(_SWEEP_EVERY_S)
