"""Proofs that one event stood in the log on its day: the row, its daily root, and the few hashes between.

Here: making such a proof from the database, and checking it with nothing but the notary's public key.
Not here: trees (stores.merkle), the roots (governance.daily_roots).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from governance.daily_roots import TABLES, RootFile, SignedRoot
from stores.chain import ChainTable, Value
from stores.chain_verification import Row
from stores.database import Connection, consistent_read
from stores.ledger_verification import DatabaseRows
from stores.merkle import inclusion_proof, is_included
from vocabulary.errors import BrokenInvariantError
from vocabulary.signing import VerifyingKey


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody needs to see for himself that a row was written, and when at the latest."""

    table: str
    content: list[Value]  # the columns that the row's hash covers, in hashing order
    previous_hash: str  # hexadecimal, like all hashes here
    hash: str
    signature: bytes | None  # base64 in JSON
    key_id: str | None
    index: int  # of the leaf
    path: list[str]
    root: SignedRoot


async def prove(
    connection: Connection, roots: list[RootFile], table: ChainTable, writer: str, seq: int
) -> Proof | None:
    """Return the proof of a row; None where no root covers it yet (its day is not over) or there is no such row.

    Reads all rows of the row's day.

    Args:
        connection: outside of a transaction.
        roots: all daily roots.
        table: which table.
        writer: the row's chain.
        seq: its number.
    """
    root = next((file.signed for file in roots if _covers(file, table, writer, seq)), None)
    if root is None:
        return None
    leaves: list[bytes] = []
    found: tuple[int, Row] | None = None
    async with consistent_read(connection):
        source = DatabaseRows(connection)
        tables = {one.name: one for one in TABLES}
        for stretch in root.signed.stretches:
            async for batch in source.chain(tables[stretch.table], stretch.writer, stretch.first, stretch.last):
                for row in batch:
                    if (stretch.table, stretch.writer, row.seq) == (table.name, writer, seq):
                        found = len(leaves), row
                    leaves.append(row.leaf)
    if found is None:
        return None
    index, row = found
    return Proof(
        table=table.name,
        content=list(row.content),
        previous_hash=row.previous.hex(),
        hash=row.hash.hex(),
        signature=row.signature,
        key_id=row.key_id,
        index=index,
        path=[step.hex() for step in inclusion_proof(leaves, index)],
        root=root,
    )


def _covers(file: RootFile, table: ChainTable, writer: str, seq: int) -> bool:
    return any(
        (one.table, one.writer) == (table.name, writer) and one.first <= seq <= one.last
        for one in file.signed.signed.stretches
    )


def is_proven(proof: Proof, keys: Mapping[str, VerifyingKey]) -> bool:
    """Return whether the content has this hash, the hash is under the root, and the notary signed the root.

    Raises:
        BrokenInvariantError: the proof names a table that there is not.
    """
    table = next((one for one in TABLES if one.name == proof.table), None)
    if table is None:
        raise BrokenInvariantError(f"a proof is of a row of {', '.join(one.name for one in TABLES)}")
    digest = table.row_hash(bytes.fromhex(proof.previous_hash), proof.content)
    row = Row(0, (), b"", digest, proof.signature, proof.key_id)
    root = proof.root.signed
    path = [bytes.fromhex(step) for step in proof.path]
    return (
        digest.hex() == proof.hash
        and proof.root.is_signed_by(keys)
        and is_included(row.leaf, proof.index, root.size, path, bytes.fromhex(root.root))
    )
