"""Requests for approval, the signatures they received, and rejections; append-only.

Here: adding and reading them as they were received.
Not here: whether signatures suffice (governance.approvals), what is signed (governance.statements).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stores.database import Connection, storable, translated

LONGEST_REASON = 2_000
"""Characters kept of why somebody rejected."""


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a committee is asked."""

    request_id: str
    site: str
    scope: str
    slot: str  # governance.statements.Slot
    version: int
    model_digest: str
    evidence_digest: str
    evidence: str  # canonical JSON of governance.evidence.Evidence
    conditions: tuple[str, ...]
    author: str
    opened_at_us: int
    opened_by: str
    expires_at_us: int


class ApprovalSignature(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of one person: a signature, or a rejection with its reason."""

    signature_id: int = 0
    request_id: str
    is_approval: bool
    person: str
    role: str
    signed: str = ""  # JSON of governance.statements.Signed
    reason: str = ""
    received_at_us: int


_REQUEST = ApprovalRequest.__struct_fields__
_SIGNATURE = ApprovalSignature.__struct_fields__


async def add_request(connection: Connection, request: ApprovalRequest) -> None:
    """Open a request in the caller's transaction."""
    stored = [
        msgspec.json.encode(value).decode() if name == "conditions" else value
        for name, value in zip(_REQUEST, msgspec.structs.astuple(request), strict=True)
    ]
    statement = f"insert into approval_request ({', '.join(_REQUEST)}) values ({', '.join(['%s'] * len(_REQUEST))})"  # noqa: S608
    with translated():
        await connection.execute(statement.encode(), stored)


async def requests(
    connection: Connection, *, scope: str | None = None, model_digest: str | None = None, limit: int = 200
) -> list[ApprovalRequest]:
    """Return requests, newest first."""
    statement = (
        f"select {', '.join(_REQUEST)} from approval_request "  # noqa: S608
        "where (%s::text is null or scope = %s) and (%s::text is null or model_digest = %s) "
        "order by opened_at_us desc, request_id limit %s"
    )
    with translated():
        cursor = await connection.execute(statement.encode(), (scope, scope, model_digest, model_digest, limit))
        return [_request(row) for row in await cursor.fetchall()]


async def request_of(connection: Connection, request_id: str, *, is_locked: bool = False) -> ApprovalRequest | None:
    """Return one request, None where there is none.

    Args:
        connection: inside a transaction.
        request_id: which.
        is_locked: whether nobody else may answer it until the transaction ends.
    """
    with translated():
        if is_locked:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"approval {request_id}",)
            )
        statement = f"select {', '.join(_REQUEST)} from approval_request where request_id = %s"  # noqa: S608
        cursor = await connection.execute(statement.encode(), (request_id,))
        row = await cursor.fetchone()
    return None if row is None else _request(row)


async def add_signature(connection: Connection, signature: ApprovalSignature) -> None:
    """Keep an answer in the caller's transaction.

    Raises:
        BrokenInvariantError: this person, or somebody in this role, has signed already.
    """
    names = _SIGNATURE[1:]
    values = list(msgspec.structs.astuple(signature)[1:])
    values[names.index("reason")] = storable(signature.reason, LONGEST_REASON)
    statement = f"insert into approval_signature ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})"  # noqa: S608
    with translated():
        await connection.execute(statement.encode(), values)


async def signatures_of(connection: Connection, request_id: str) -> list[ApprovalSignature]:
    """Return all answers to a request, oldest first."""
    statement = f"select {', '.join(_SIGNATURE)} from approval_signature where request_id = %s order by signature_id"  # noqa: S608
    with translated():
        cursor = await connection.execute(statement.encode(), (request_id,))
        return [ApprovalSignature(**dict(zip(_SIGNATURE, row, strict=True))) for row in await cursor.fetchall()]


def _request(row: Sequence[Any]) -> ApprovalRequest:
    fields = dict(zip(_REQUEST, row, strict=True))
    fields["conditions"] = msgspec.json.decode(fields["conditions"], type=tuple[str, ...])
    return ApprovalRequest(**fields)
