"""Registering one's own key for signatures, kept in a browser, a phone or a security key.

Here: the page, the challenge, keeping what the device made.
Not here: the ceremony's rules (governance.passkeys), whose key counts (governance.roster: a registration alone gives
nobody any power), signing with it (clinic.signing).
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import date
from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from clinic.context import Context
from clinic.descriptions import JSON, PAGE, Responses
from clinic.frame import frame
from clinic.guarding import GuardedRoute, asked, asks, caller_of, decided, purpose_stated, searches
from clinic.json_api import respond
from clinic.signers import roster_or_fault, today_of
from governance import passkeys
from governance.access import Ask, Decision, Surface, Verb
from governance.passkeys import RegistrationRefusedError, RelyingParty
from governance.roster import SignerKey
from stores import passkey_registrations as registrations
from vocabulary.errors import RefusedError

HERE: Final = "/account/keys"
API: Final = "/api/account/keys"
LARGEST_ANSWER = 64 * 1024
"""A browser's answer holds a key and, from some devices, a certificate chain: a few kilobytes."""
CHALLENGE_LASTS_US = 5 * 60 * 1_000_000
"""A person looks for the security key, types a PIN, touches it."""

REGISTER: Responses = {
    **JSON,
    **{
        status: {"description": said, "content": {"application/json": {}}}
        for status, said in {
            201: "Registered: the key's number.",
            403: "The request was not of this session's page.",
            409: "Not a key for us; says why.",
            413: "Too large.",
        }.items()
    },
}


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One key of the reader, as the page says it."""

    key_id: str
    kind: str
    registered_at_us: int | None
    standing: str
    counts: bool


def relying_party(public_url: str) -> RelyingParty:
    """Return our name towards browsers; keys belong to it, and a move to another host needs new ones."""
    parts = urlsplit(public_url)
    return RelyingParty(parts.hostname or "localhost", f"{parts.scheme}://{parts.netloc}")


def signing_keys_router(context: Context) -> APIRouter:
    """Return the routes under /account/keys."""
    router = APIRouter(route_class=GuardedRoute)
    party = relying_party(context.public_url)

    @router.get(HERE, response_class=HTMLResponse, responses=PAGE)
    @asks(Surface.SIGNERS, Verb.READ, opens_view=True)
    async def page(request: Request) -> HTMLResponse:
        caller = caller_of(request)
        async with context.gate.pool.reading() as connection:
            mine = await registrations.read(connection, caller.principal.agent)
        lines, fault = _lines(context, caller.principal.agent, mine)
        html = context.templates.get_template("signing_keys.html").render(
            keys=lines,
            fault=fault,
            host=party.host,
            is_named=not _is_address(party.host),
            **frame(context, caller, here=HERE, view=asked(request).view),
        )
        return HTMLResponse(html)

    @router.post(f"{API}/challenge", responses=JSON)
    @asks(Surface.SIGNERS, Verb.READ, continues_view=True)  # its page asks for it (static/signing_keys.js)
    async def challenge(request: Request) -> Response:
        caller = caller_of(request)
        session = _session_name(request)
        fresh = secrets.token_bytes(32)
        async with context.gate.pool.writing() as connection:
            until_us = context.wall_clock.now_us() + CHALLENGE_LASTS_US
            await registrations.put_challenge(connection, session, fresh, until_us)
            known = tuple(row.credential for row in await registrations.read(connection, caller.principal.agent))
        name = caller.principal.name or caller.principal.subject
        options = passkeys.registration_options(party, fresh, caller.principal.agent, name, known)
        return Response(options, media_type="application/json")

    @router.post(API, responses=REGISTER, status_code=201)
    @searches(Surface.SIGNERS, Verb.REGISTER)
    async def register(request: Request) -> Response:
        caller = caller_of(request)
        session = _session_name(request)
        answer = await _body(request)
        principal = caller.principal
        purpose = purpose_stated(request, context, Surface.SIGNERS, Verb.REGISTER)
        ask = Ask(surface=Surface.SIGNERS, verb=Verb.REGISTER, purpose=purpose)
        now_us = context.wall_clock.now_us()
        # Outside of the act: a refusal undoes the act, and the challenge would be there to try again and again.
        async with context.gate.pool.writing() as connection:
            given = await registrations.take_challenge(connection, session, now_us)
        try:
            async with context.gate.act(principal, ask) as connection:
                if given is None:
                    raise RegistrationRefusedError("The page waited too long. Load it again, and try once more.")
                made = passkeys.check_registration(answer, given, party)
                row = registrations.Registration(
                    made.credential, principal.agent, principal.name or principal.subject, made.public,
                    made.authenticator, made.is_synced, now_us,
                )  # fmt: skip
                if not await registrations.add(connection, row):
                    raise RegistrationRefusedError("This key was registered before.")
        except RegistrationRefusedError as refusal:
            decided(request, ask, Decision(is_permitted=False, rule="refused-by-rule"))
            return respond({"refused": str(refusal)}, 409)
        except RefusedError:
            raise HTTPException(404) from None
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return respond({"key": row.key_id}, 201)

    return router


def _is_address(host: str) -> bool:
    """Return whether a host is an IP address: browsers make keys for names only."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _session_name(request: Request) -> str:
    """Return what a challenge belongs to: the browser's session, or whoever a token is of."""
    caller = caller_of(request)
    return caller.principal.agent if caller.session is None else caller.session.name


async def _body(request: Request) -> bytes:
    """Return the request's body.

    Raises:
        HTTPException: 413.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise HTTPException(413)
    return bytes(body)


def _lines(context: Context, person: str, mine: list[registrations.Registration]) -> tuple[list[KeyLine], str]:
    """Return the reader's keys, those of the roster first, and what is wrong with the roster, "" when nothing is."""
    today = today_of(context.wall_clock)
    named: dict[str, SignerKey] = {}
    roster, fault = roster_or_fault(context.settings, today)
    if roster is not None:
        named = {key.key_id: key for signer in roster.signers if signer.person == person for key in signer.keys}
    registered = {row.key_id: row.registered_at_us for row in mine}
    lines = [KeyLine(key_id, key.kind, registered.get(key_id), *_standing(key, today)) for key_id, key in named.items()]
    lines += [
        KeyLine(row.key_id, "webauthn", row.registered_at_us, "waits until the roster names it", counts=False)
        for row in mine
        if row.key_id not in named
    ]
    return lines, fault


def _standing(key: SignerKey, today: date) -> tuple[str, bool]:
    if key.revoked_at is not None:
        return f"revoked on {key.revoked_at:%Y-%m-%d}", False
    if today < key.valid_from:
        return f"counts from {key.valid_from}", False
    if today > key.valid_until:
        return f"ended on {key.valid_until}", False
    return f"counts until {key.valid_until}", True
