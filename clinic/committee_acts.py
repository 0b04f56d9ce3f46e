"""What one person does about a model without signing: rejecting, promoting what all signed, taking its voice away.

Here: routes of these acts; each is one event of the audit, kept with what was done, or as a denial with why not.
Not here: pages (clinic.committee), signing (clinic.signing), the rules (governance.approvals, promotion, rollback).
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from clinic.committee import (
    HERE,
    appender_of,
    list_page,
    models_ask,
    promote_complete,
    refused_page,
    role_of,
    to_request,
    version_page,
)
from clinic.committee_view import now_of, trust_of
from clinic.context import Context
from clinic.descriptions import FORM, form_body
from clinic.guarding import GuardedRoute, caller_of, decided, form_of, number_of, searches
from governance import approvals, lifecycle, rollback
from governance.access import Decision, Surface, Verb
from governance.model_acts import ModelRefusedError
from governance.statements import Action, Slot
from stores import incidents
from stores.ledger import detail_of
from vocabulary.errors import RefusedError

VOICE = (Action.RESTORE, Action.ABSTAIN, Action.CLAMP, Action.RESUME, Action.WITHDRAW)
"""What one person may do to a model in service; letting a new one speak is not among it."""


def answers_router(context: Context) -> APIRouter:
    """Return the routes that answer a request without a key: rejecting it, promoting what all have signed."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=FORM)

    @router.post("/approvals/{request_id}/rejection", openapi_extra=form_body("role", "reason", "csrf"))
    @searches(Surface.MODELS, Verb.APPROVE)
    async def reject(request: Request, request_id: str) -> Response:
        fields = await form_of(request)
        role = role_of(request, fields.get("role", ""))
        ask = models_ask(context, request, Verb.APPROVE)
        principal = caller_of(request).principal
        try:
            async with context.gate.act(
                principal, ask, detail=detail_of(act="reject", request=request_id, role=str(role))
            ) as connection:
                await approvals.reject(
                    connection, request_id, principal.agent, role, fields.get("reason", ""),
                    trust=trust_of(context), policy=lifecycle.load(), now=now_of(context),
                )  # fmt: skip
        except RefusedError as refusal:
            return await refused_page(context, request, ask, request_id, refusal)
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return await to_request(context, request_id)

    @router.post("/approvals/{request_id}/promotion", openapi_extra=form_body("csrf"))
    @searches(Surface.MODELS, Verb.APPROVE)
    async def promote(request: Request, request_id: str) -> Response:
        ask = models_ask(context, request, Verb.APPROVE)
        try:
            await promote_complete(context, request, request_id)
        except RefusedError as refusal:
            return await refused_page(context, request, ask, request_id, refusal)
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return await to_request(context, request_id)

    return router


def voice_router(context: Context) -> APIRouter:
    """Return the routes by which one person takes voice away, gives an approved one back, and closes incidents."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=FORM)
    voices = tuple(str(action) for action in VOICE)

    @router.post("/models/{scope}/{version}/voice", openapi_extra=form_body("reason", "csrf", action=voices))
    @searches(Surface.MODELS, Verb.CHANGE)
    async def change_voice(request: Request, scope: str, version: str) -> Response:
        fields = await form_of(request)
        if fields.get("action", "") not in voices:
            raise HTTPException(400)
        action = Action(fields["action"])
        ask = models_ask(context, request, Verb.RELEASE if action is Action.RESUME else Verb.CHANGE)
        principal = caller_of(request).principal
        detail = detail_of(act=str(action), scope=scope, slot=str(Slot.CHAMPION))
        try:
            async with context.gate.act(principal, ask, detail=detail) as connection:
                await rollback.command_in(
                    connection, scope, action, by=principal.agent, reason=fields.get("reason", ""),
                    appender=appender_of(context), trust=trust_of(context), policy=lifecycle.load(),
                    now=now_of(context),
                )  # fmt: skip
        except ModelRefusedError as refusal:
            decided(request, ask, Decision(is_permitted=False, rule=refusal.reason))
            return await version_page(context, request, scope, version, 409, str(refusal))
        except RefusedError:
            raise HTTPException(404) from None
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return RedirectResponse(f"/models/{scope}/{version}", 303)

    @router.post("/incidents/{incident_id}/closing", openapi_extra=form_body("note", "csrf"))
    @searches(Surface.MODELS, Verb.REVIEW)
    async def close_incident(request: Request, incident_id: str) -> Response:
        number = number_of(incident_id)
        note = (await form_of(request)).get("note", "").strip()
        ask = models_ask(context, request, Verb.REVIEW)
        principal = caller_of(request).principal
        try:
            async with context.gate.act(principal, ask, detail=detail_of(act="close", incident=number)) as connection:
                at_us = context.wall_clock.now_us()
                if not note or not await incidents.close(connection, number, at_us, principal.agent, note):
                    raise ModelRefusedError("not_open", "An open incident is closed with what was found.")
        except ModelRefusedError as refusal:
            decided(request, ask, Decision(is_permitted=False, rule=refusal.reason))
            return await list_page(context, request, 409, str(refusal))
        except RefusedError:
            raise HTTPException(404) from None
        decided(request, ask, Decision(is_permitted=True, rule=""))
        return RedirectResponse(HERE, 303)

    return router
