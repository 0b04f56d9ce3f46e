"""Signing an approval: by a key in the browser, or by a signature that a key file made elsewhere.

Here: the challenge over the exact statement, taking the answer, and promotion once nothing is missing.
Not here: whether a signature counts (governance.approvals), the page (clinic.committee), registering keys
(clinic.signing_keys), key files (governance.personal_keys: `vigil approve --key FILE --print`).
No challenge is remembered: it is made of the statement and the time, both of which are signed, and the time may lie ten
minutes back at most (governance.roster.check); a person signs a request once.
Source: W3C Web Authentication Level 2, section 7.2.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from clinic.committee import models_ask, promote_complete, refused_page, role_of
from clinic.committee_view import now_of, trust_of
from clinic.context import Context
from clinic.descriptions import APPROVE, FORM, form_body, json_body
from clinic.guarding import (
    GuardedRoute,
    asks,
    caller_of,
    decided,
    form_of,
    searches,
)
from clinic.json_api import respond
from governance import approvals, lifecycle, passkeys
from governance.access import Ask, Decision, Role, Surface, Verb
from governance.approval_states import RequestState, statement_for
from governance.model_acts import ModelRefusedError
from governance.passkeys import Assertion
from governance.roster import Signature, SignatureRefusedError, Signer, SignerKey, challenge
from governance.statements import Signed, statement_bytes
from stores.approvals import ApprovalRequest, request_of
from stores.ledger import detail_of
from vocabulary.errors import RefusedError

LONGEST_PASTE: Final = 20_000
"""Characters of a pasted signature: with its whole statement it is a few thousand."""


class _Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page asks a challenge for."""

    role: str


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser's key signed."""

    role: str
    signed_at: str
    assertion: Assertion


def signing_router(context: Context) -> APIRouter:
    """Return the routes by which people sign."""
    router = APIRouter(route_class=GuardedRoute)

    role_schema = {"type": "string", "enum": [str(role) for role in Role]}

    @router.post("/api/approvals/{request_id}/challenge", responses=APPROVE, openapi_extra=json_body(role=role_schema))
    @asks(Surface.MODELS, Verb.READ, continues_view=True)  # its page asks for it (static/approve.js)
    async def challenged(request: Request, request_id: str) -> Response:
        wanted = await _decoded(request, _Wanted)
        role = role_of(request, wanted.role)
        principal = caller_of(request).principal
        kept = await _request_of(context, request_id)
        trust = trust_of(context)
        signer = _signer(trust.roster.signers if trust.roster else (), principal.agent)
        credentials = tuple(key.credential for key in _browser_keys(signer))
        if trust.party is None or not credentials:
            return respond({"refused": "The roster names no key of yours that a browser could use."}, 409)
        statement = statement_bytes(statement_for(kept, principal.agent, role, lifecycle.load()))
        at = now_of(context)
        options = passkeys.assertion_options(trust.party, challenge(statement, at), credentials)
        return respond({"signed_at": at.isoformat(timespec="microseconds"), "options": msgspec.Raw(options.encode())})

    assertion = {
        "type": "object", "required": list(Assertion.__struct_fields__), "additionalProperties": False,
        "properties": {name: {"type": "string"} for name in Assertion.__struct_fields__},
    }  # fmt: skip
    signed_at = {"type": "string", "format": "date-time"}
    body = json_body(role=role_schema, signed_at=signed_at, assertion=assertion)

    @router.post("/api/approvals/{request_id}", responses=APPROVE, openapi_extra=body)
    @searches(Surface.MODELS, Verb.APPROVE)
    async def sign_by_browser(request: Request, request_id: str) -> Response:
        answer = await _decoded(request, _Answer)
        role = role_of(request, answer.role)
        ask = models_ask(context, request, Verb.APPROVE)
        try:
            state = await _take(context, request, ask, request_id, role, _browser_signature(context, request, answer))
        except (ModelRefusedError, SignatureRefusedError) as refusal:
            decided(request, ask, Decision(is_permitted=False, rule=refusal.reason))
            return respond({"refused": str(refusal)}, 409)
        except RefusedError:
            raise HTTPException(404) from None
        decided(request, ask, Decision(is_permitted=True, rule=""))
        if not state.is_complete:
            return respond({"status": str(state.status), "missing": state.missing})
        try:
            row = await promote_complete(context, request, request_id)
        except RefusedError as refusal:  # signed all the same: the page says so, and offers to try again
            return respond({"refused": f"Signed. The promotion was refused: {refusal}"}, 409)
        return respond({"status": "promoted", "serving": row.serving_id})

    @router.post(
        "/approvals/{request_id}/signature", responses=FORM, openapi_extra=form_body("role", "signature", "csrf")
    )
    @searches(Surface.MODELS, Verb.APPROVE)
    async def sign_by_file(request: Request, request_id: str) -> Response:
        fields = await form_of(request)
        role = role_of(request, fields.get("role", ""))
        ask = models_ask(context, request, Verb.APPROVE)
        kept = await _request_of(context, request_id)
        try:
            state = await _take(context, request, ask, request_id, role, _pasted(fields.get("signature", "")))
            decided(request, ask, Decision(is_permitted=True, rule=""))
            if state.is_complete:
                await promote_complete(context, request, request_id)
        except RefusedError as refusal:
            return await refused_page(context, request, ask, request_id, refusal)
        return RedirectResponse(f"/models/{kept.scope}/{kept.version}", 303)

    return router


async def _take(
    context: Context, request: Request, ask: Ask, request_id: str, role: Role, signature: Signature
) -> RequestState:
    """Take a signature with its event: both are kept, or neither; what is refused leaves its event as a denial."""
    principal = caller_of(request).principal
    policy = lifecycle.load()
    detail = detail_of(act="sign", request=request_id, role=str(role), key=signature.key_id)
    async with context.gate.act(principal, ask, detail=detail) as connection:
        kept = await request_of(connection, request_id)
        if kept is None:
            raise ModelRefusedError("no_such_request", "There is no such request for approval.")
        return await approvals.receive(
            connection,
            request_id,
            statement_for(kept, principal.agent, role, policy),
            signature,
            trust=trust_of(context),
            policy=policy,
            now=now_of(context),
        )


async def _request_of(context: Context, request_id: str) -> ApprovalRequest:
    async with context.gate.pool.reading() as connection:
        kept = await request_of(connection, request_id)
    if kept is None:
        raise HTTPException(404)
    return kept


async def _decoded(request: Request, kind: Any) -> Any:  # noqa: ANN401 - the type it is given
    """Return a request's JSON body.

    Raises:
        HTTPException: 400.
    """
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise HTTPException(400) from None


def _signer(signers: tuple[Signer, ...], person: str) -> Signer | None:
    return next((one for one in signers if one.person == person), None)


def _browser_keys(signer: Signer | None) -> list[SignerKey]:
    return [] if signer is None else [key for key in signer.keys if key.kind == "webauthn" and key.revoked_at is None]


def _browser_signature(context: Context, request: Request, answer: _Answer) -> Signature:
    """Return a browser's answer as a signature; whether it counts is judged with the rest.

    Raises:
        HTTPException: 400: the time is none.
        SignatureRefusedError: `unknown_key`.
    """
    try:
        at = datetime.fromisoformat(answer.signed_at)
    except ValueError:
        raise HTTPException(400) from None
    if at.tzinfo is None:
        raise HTTPException(400)
    trust = trust_of(context)
    signer = _signer(trust.roster.signers if trust.roster else (), caller_of(request).principal.agent)
    key = next((one for one in _browser_keys(signer) if one.credential == answer.assertion.credential), None)
    if key is None:
        raise SignatureRefusedError("unknown_key", "The roster does not name this key as yours.")
    return Signature(key_id=key.key_id, signed_at=at.astimezone(UTC), webauthn=answer.assertion)


def _pasted(text: str) -> Signature:
    """Return the signature that `vigil approve --print` wrote: alone, or with the statement it is of.

    Raises:
        ModelRefusedError: `unreadable`.
    """
    body = text.strip().encode()
    if len(text) <= LONGEST_PASTE:
        with suppress(msgspec.MsgspecError):
            return _dated(msgspec.json.decode(body, type=Signature))
        with suppress(msgspec.MsgspecError):
            return _dated(msgspec.json.decode(body, type=Signed).signature)
    raise ModelRefusedError("unreadable", "This is no signature: paste what `vigil approve --print` printed, whole.")


def _dated(signature: Signature) -> Signature:
    if signature.signed_at.tzinfo is None:
        raise ModelRefusedError("unreadable", "The signature's time has no time zone.")
    return signature
