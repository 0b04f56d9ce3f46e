"""Registered versions of models and the verdicts about them, append-only.

Here: adding and reading versions and verdicts.
Not here: their files (stores.model_files), approvals (stores.approvals), which one serves (stores.serving), what they
said (stores.risk_scores), the experiment tracker (governance.registry).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stores.database import Connection, translated
from vocabulary import verdict as verdicts
from vocabulary.verdict import Verdict

_LOCK = 0x6D6F_6465  # "mode": versions of a scope are numbered one behind the other


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version. Nothing of it ever changes."""

    scope: str  # "mortality"
    version: int = 0  # given at registration
    model_digest: str  # SHA-256 of the manifest's bytes, hexadecimal
    manifest: str  # TOML
    author: str  # "issuer|subject"
    registered_at_us: int
    data_fingerprint: str
    code_version: str
    lock_digest: str
    protocol: str = ""  # "mortality@1"
    protocol_digest: str
    is_synthetic: bool
    run_id: str = ""  # of the experiment tracker; "" where it did not answer


class StoredVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with its place."""

    verdict_id: int
    model_digest: str  # of the version it is evidence for; "" for none
    digest: str
    at_us: int
    verdict: Verdict


_COLUMNS = ModelVersion.__struct_fields__
_SELECT = f"select {', '.join(_COLUMNS)} from model_version"  # noqa: S608 - names of our own


def _version(row: Sequence[Any]) -> ModelVersion:
    return ModelVersion(**dict(zip(_COLUMNS, row, strict=True)))


async def add_version(connection: Connection, version: ModelVersion) -> ModelVersion:
    """Register a version in the caller's transaction, numbered behind the scope's last; a known digest gives the old.

    Args:
        connection: inside a transaction.
        version: its number is not looked at.

    Raises:
        BrokenInvariantError: a word is missing or is no digest, or another scope has this model.
    """
    with translated():
        await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, version.scope))
        known = await version_of_digest(connection, version.model_digest)
        if known is not None and known.scope == version.scope:
            return known
        cursor = await connection.execute(
            "select coalesce(max(version), 0) + 1 from model_version where scope = %s", (version.scope,)
        )
        row = await cursor.fetchone()
        assert row is not None
        numbered = msgspec.structs.replace(version, version=row[0])
        statement = f"insert into model_version ({', '.join(_COLUMNS)}) values ({', '.join(['%s'] * len(_COLUMNS))})"  # noqa: S608
        await connection.execute(statement.encode(), msgspec.structs.astuple(numbered))
    return numbered


async def versions(connection: Connection, scope: str | None = None) -> list[ModelVersion]:
    """Return the versions of one scope, or of all, newest first."""
    with translated():
        cursor = await connection.execute(
            (_SELECT + " where %s::text is null or scope = %s order by scope, version desc").encode(), (scope, scope)
        )
        return [_version(row) for row in await cursor.fetchall()]


async def version_of(connection: Connection, scope: str, version: int) -> ModelVersion | None:
    """Return one version, None where there is none."""
    with translated():
        cursor = await connection.execute((_SELECT + " where scope = %s and version = %s").encode(), (scope, version))
        row = await cursor.fetchone()
    return None if row is None else _version(row)


async def version_of_digest(connection: Connection, model_digest: str) -> ModelVersion | None:
    """Return the version of a manifest's digest, None where there is none."""
    with translated():
        cursor = await connection.execute((_SELECT + " where model_digest = %s").encode(), (model_digest,))
        row = await cursor.fetchone()
    return None if row is None else _version(row)


async def add_verdict(connection: Connection, verdict: Verdict, model_digest: str, at_us: int) -> str:
    """Keep a verdict in the caller's transaction and return its digest. Keeping it again does nothing.

    Args:
        connection: inside a transaction.
        verdict: as judged.
        model_digest: the version it is evidence for (a judgement of data is evidence for the model made of it);
            "" for none.
        at_us: when it was kept.
    """
    digest = verdicts.digest(verdict)
    body = verdicts.canonical_bytes(verdict).decode()
    with translated():
        await connection.execute(
            "insert into model_verdict (model_digest, kind, subject, outcome, digest, body, at_us) "
            "values (%s, %s, %s, %s, %s, %s, %s) on conflict (model_digest, digest) do nothing",
            (model_digest, str(verdict.kind), verdict.subject, str(verdict.outcome), digest, body, at_us),
        )
    return digest


async def verdicts_of(connection: Connection, model_digest: str, *, limit: int = 1_000) -> list[StoredVerdict]:
    """Return the verdicts that are evidence for a version, newest first; of "" those of no model.

    Raises:
        msgspec.MsgspecError: a body was altered and is no verdict any more.
    """
    with translated():
        cursor = await connection.execute(
            "select verdict_id, model_digest, digest, at_us, body from model_verdict where model_digest = %s "
            "order by verdict_id desc limit %s",
            (model_digest, limit),
        )
        return [_stored(row) for row in await cursor.fetchall()]


async def verdict_of(connection: Connection, digest: str) -> StoredVerdict | None:
    """Return a verdict by its digest, None where there is none."""
    with translated():
        cursor = await connection.execute(
            "select verdict_id, model_digest, digest, at_us, body from model_verdict where digest = %s limit 1",
            (digest,),
        )
        row = await cursor.fetchone()
    return None if row is None else _stored(row)


def _stored(row: Sequence[Any]) -> StoredVerdict:
    return StoredVerdict(
        verdict_id=row[0],
        model_digest=row[1],
        digest=row[2],
        at_us=row[3],
        verdict=verdicts.from_bytes(row[4].encode()),
    )
