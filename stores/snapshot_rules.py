"""The site's rules that snapshots were made under, by digest: settings change, published snapshots do not.

Here: keeping rules once, reading them again.
Not here: what the rules are (twin.forecast), which of them a run was made under (stores.snapshots).
"""

from __future__ import annotations

import hashlib

from stores.database import Connection, translated
from vocabulary.errors import BrokenInvariantError


def digest_of(body: bytes) -> str:
    """Return what rules are known by: 16 hex digits of their SHA-256."""
    return hashlib.sha256(body).hexdigest()[:16]


async def put(connection: Connection, body: bytes) -> None:
    """Keep rules; those kept already stay."""
    with translated():
        await connection.execute(
            "insert into snapshot_rules (digest, body) values (%b, %b) on conflict do nothing", (digest_of(body), body)
        )


async def find(connection: Connection, digest: str) -> bytes:
    """Return the rules of a digest.

    Raises:
        BrokenInvariantError: they are not here, or are not those of the digest.
    """
    with translated():
        cursor = await connection.execute("select body from snapshot_rules where digest = %s", (digest,), binary=True)
        row = await cursor.fetchone()
    if row is None or digest_of(row[0]) != digest:
        what = "missing" if row is None else "altered"
        raise BrokenInvariantError(
            f"the rules {digest} that snapshots were made under are {what} (table snapshot_rules)"
        )
    body: bytes = row[0]
    return body
