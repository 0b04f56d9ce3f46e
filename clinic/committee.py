"""The committee's pages: the versions of every model, and one version with its evidence, requests and service.

Here: routes of /models, the dossier as a file, and what acts on models have in common.
Not here: reading (clinic.committee_view), the acts (clinic.committee_acts), signing (clinic.signing), the dossier
(governance.dossier).
"""

from __future__ import annotations

from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from clinic.approved import role_words
from clinic.committee_view import VersionPage, now_of, read_list, read_version, roles_to_sign, trust_of
from clinic.context import Context
from clinic.descriptions import FORM, PAGE
from clinic.frame import frame
from clinic.guarding import (
    GuardedRoute,
    asked,
    asks,
    caller_of,
    decided,
    number_of,
    purpose_stated,
)
from governance import dossier, lifecycle
from governance.access import Ask, Decision, Principal, Role, Surface, Verb
from governance.approval_states import RequestState, Status, statement_for
from governance.dossier_style import CONTENT_SECURITY_POLICY
from governance.model_acts import ModelRefusedError
from governance.promotion import promote_in
from governance.roster import SignatureRefusedError
from governance.serving import Standing
from governance.serving_record import Appender
from governance.statements import Action, ServingRow, statement_bytes
from stores.approvals import request_of
from stores.ledger import detail_of
from vocabulary.errors import RefusedError

HERE = "/models"


class Signable(NamedTuple):
    """A role somebody may sign in, and the exact statement."""

    role: Role
    words: str
    statement: str


def committee_router(context: Context) -> APIRouter:
    """Return the pages."""
    router = APIRouter(route_class=GuardedRoute, default_response_class=HTMLResponse, responses=FORM)

    @router.get(HERE, responses=PAGE)
    @asks(Surface.MODELS, Verb.READ, opens_view=True)
    async def models(request: Request) -> HTMLResponse:
        return await list_page(context, request)

    @router.get("/models/{scope}/{version}", responses=PAGE)
    @asks(Surface.MODELS, Verb.READ, opens_view=True)
    async def model(request: Request, scope: str, version: str) -> HTMLResponse:
        return await version_page(context, request, scope, version)

    @router.get("/models/{scope}/{version}/dossier", responses=PAGE)
    @asks(Surface.MODELS, Verb.READ)
    async def read_dossier(request: Request, scope: str, version: str, download: str = "") -> Response:  # noqa: ARG001
        page = await _page_of(context, scope, version)
        html = dossier.build(page.content(context.settings.site, context.wall_clock.now_us()), context.name_of)
        headers = {"content-security-policy": CONTENT_SECURITY_POLICY}
        if download:
            name = f"dossier-{page.line.version.scope}-{page.line.version.version}.html"
            headers["content-disposition"] = f'attachment; filename="{name}"'
        return HTMLResponse(html, headers=headers)

    return router


async def list_page(context: Context, request: Request, status: int = 200, fault: str = "") -> HTMLResponse:
    """Return the list of versions, with why something was refused."""
    caller = caller_of(request)
    async with context.gate.pool.reading() as connection:
        page = await read_list(context, connection)
    html = context.templates.get_template("models.html").render(
        page=page,
        fault=fault,
        may_close=context.may(caller.principal, Surface.MODELS, Verb.REVIEW),
        name_of=context.name_of,
        **frame(context, caller, here=HERE, view=asked(request).view),
    )
    return HTMLResponse(html, status)


def role_of(request: Request, text: str) -> Role:
    """Return the role somebody acts in: one of their own.

    Raises:
        HTTPException: 404: no role of theirs.
    """
    if text not in set(caller_of(request).principal.roles):
        raise HTTPException(404)
    return Role(text)


def appender_of(context: Context) -> Appender:
    """Return this process as one that appends to the serving record.

    Raises:
        ModelRefusedError: `no_identity`.
    """
    if context.appender is None:
        raise ModelRefusedError(
            "no_identity", "This process has no key to sign the record with: `vigil up` makes one for each process."
        )
    return context.appender


def models_ask(context: Context, request: Request, verb: Verb) -> Ask:
    """Return what an act on models asks of the policy."""
    purpose = purpose_stated(request, context, Surface.MODELS, verb)
    return Ask(surface=Surface.MODELS, verb=verb, purpose=purpose)


async def promote_complete(context: Context, request: Request, request_id: str) -> ServingRow:
    """Make a serving row of a complete request: one act, one event.

    Raises:
        ModelRefusedError: see governance.promotion.promote_in.
        RefusedError: the policy denies it.
    """
    principal = caller_of(request).principal
    ask = models_ask(context, request, Verb.APPROVE)
    async with context.gate.act(principal, ask, detail=detail_of(act="promote", request=request_id)) as connection:
        return await promote_in(
            connection, request_id, by=principal.agent, appender=appender_of(context), trust=trust_of(context),
            policy=lifecycle.load(), now=now_of(context),
        )  # fmt: skip


async def refused_page(
    context: Context, request: Request, ask: Ask, request_id: str, refusal: RefusedError
) -> Response:
    """Return the version's page with why an answer was refused.

    Raises:
        HTTPException: 404: there is no such request, or the policy denies it, which looks the same.
    """
    if not isinstance(refusal, ModelRefusedError | SignatureRefusedError):
        raise HTTPException(404)
    decided(request, ask, Decision(is_permitted=False, rule=refusal.reason))
    async with context.gate.pool.reading() as connection:
        kept = await request_of(connection, request_id)
    if kept is None:
        raise HTTPException(404)
    return await version_page(context, request, kept.scope, str(kept.version), 409, str(refusal))


async def to_request(context: Context, request_id: str) -> Response:
    """Return the way back to the version a request is about.

    Raises:
        HTTPException: 404: there is no such request.
    """
    async with context.gate.pool.reading() as connection:
        kept = await request_of(connection, request_id)
    if kept is None:
        raise HTTPException(404)
    return RedirectResponse(f"/models/{kept.scope}/{kept.version}", 303)


async def _page_of(context: Context, scope: str, version: str) -> VersionPage:
    number = number_of(version)
    page = None
    if 0 < number < 2**31:
        async with context.gate.pool.reading() as connection:
            page = await read_version(context, connection, scope, number)
    if page is None:
        raise HTTPException(404)
    return page


async def version_page(
    context: Context, request: Request, scope: str, version: str, status: int = 200, fault: str = ""
) -> HTMLResponse:
    """Return the page of one version, with why something was refused.

    Raises:
        HTTPException: 404: there is no such version.
    """
    caller = caller_of(request)
    principal = caller.principal
    page = await _page_of(context, scope, version)
    may_sign = context.may(principal, Surface.MODELS, Verb.APPROVE)
    statements = {
        state.request.request_id: [
            Signable(role, role_words(role), _readable(state, principal.agent, role, page))
            for role in roles_to_sign(principal, state, page.policy)
        ]
        for state in page.states
        if may_sign
    }
    roster = page.trust.roster
    signer = None if roster is None else next((one for one in roster.signers if one.person == principal.agent), None)
    html = context.templates.get_template("model.html").render(
        page=page,
        line=page.line,
        version=page.line.version,
        statements=statements,
        keys=[] if signer is None else signer.keys,
        is_author=principal.agent == page.line.version.author,
        voices=[action for action in _offered(page) if _may_voice(context, principal, action)],
        may_sign=may_sign,
        Status=Status,
        fault=fault,
        name_of=context.name_of,
        role_words=role_words,
        **frame(context, caller, here=HERE, view=asked(request).view),
    )
    return HTMLResponse(html, status)


def _offered(page: VersionPage) -> tuple[Action, ...]:
    """Return what could be done to the champion's place now; nothing on the page of a version that does not hold it."""
    held = page.champion
    if held.row is None or held.row.model_digest != page.line.version.model_digest:
        return ()
    if held.standing is Standing.SPEAKING:
        return (Action.RESTORE, Action.ABSTAIN, Action.CLAMP, Action.WITHDRAW)
    if held.standing is Standing.CLAMPED:
        return (Action.RESUME, Action.RESTORE, Action.ABSTAIN, Action.WITHDRAW)
    return (Action.RESUME, Action.RESTORE, Action.WITHDRAW)


def _may_voice(context: Context, principal: Principal, action: Action) -> bool:
    return context.may(principal, Surface.MODELS, Verb.RELEASE if action is Action.RESUME else Verb.CHANGE)


def _readable(state: RequestState, person: str, role: Role, page: VersionPage) -> str:
    """Return a statement's exact text: what is signed is these bytes."""
    return statement_bytes(statement_for(state.request, person, role, page.policy)).decode()
