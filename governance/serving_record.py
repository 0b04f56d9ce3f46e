"""Serving rows as they are stored, and the signature of the process that appended each.

Here: a stored record as a ServingRow and back, signing a row by a process's own key, checking that signature.
Not here: the table (stores.serving), judging what rows do (governance.serving), who appends (governance.promotion,
governance.rollback).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from governance.notary import PublicKeys
from governance.statements import Action, ServingRow, Signed, Slot, row_bytes, row_digest
from stores import serving as stored
from stores.database import Connection
from stores.serving import ServingRecord
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import Signer, SigningKey
from vocabulary.tls import Identity

_ROW_DOMAIN: Final = b"vigil.serving.row.1\n"
"""What a process signs begins with its domain: its ledger key signs chains too."""

UNREADABLE: Final = "unreadable"
"""Cause of a row whose words are none of ours: somebody altered it, and it is judged so."""


class Appender(NamedTuple):
    """Who appends: the process's name, and its key."""

    name: str  # "keeper", "clinic", "operator", "dagster"
    signer: Signer


def appender_of(settings: Settings, name: str, identity_dir: Path | None = None) -> Appender:
    """Return a process as an appender, with the key it signs its chains with.

    Args:
        settings: of the process.
        name: of the process, as its key is registered in anchors/writers.json.
        identity_dir: the identity folder; None for settings.identity_dir.

    Raises:
        ConfigurationError: the process has no identity, or its key is damaged.
    """
    folder = identity_dir or settings.identity_dir
    if folder is None:
        raise ConfigurationError(
            f"{name} has no identity folder, so it cannot sign serving rows: `vigil up` makes one for each process."
        )
    return Appender(name, SigningKey.load(Identity(folder).ledger_key))


def sign_row(row: ServingRow, appender: Appender) -> ServingRow:
    """Return the row with the appender's signature over all of it but its number."""
    bare = msgspec.structs.replace(row, key_id=appender.signer.key_id, machine_signature="")
    signature = appender.signer.sign(_ROW_DOMAIN + row_bytes(bare))
    return msgspec.structs.replace(bare, machine_signature=base64.b64encode(signature).decode())


def signing_process(row: ServingRow, writers: PublicKeys) -> str | None:
    """Return which registered process signed exactly this row; "" for a key nobody registered, None for no signature.

    None means that the key is known and the row is not what it signed: the row was altered.
    """
    named = [one for one in writers.registered if one.key_id == row.key_id]
    if not named:
        return ""
    try:
        signature = base64.b64decode(row.machine_signature, validate=True)
    except ValueError:
        return None
    for one in named:
        key = writers.of(one.name).keys.get(row.key_id)
        if key is not None and key.is_valid(signature, _ROW_DOMAIN + row_bytes(row)):
            return one.name
    return None


_SIGNED = msgspec.json.Decoder(tuple[Signed, ...])


def record_of(row: ServingRow) -> ServingRecord:
    """Return a row as it is stored."""
    return ServingRecord(
        serving_id=row.serving_id,
        at_us=row.at_us,
        scope=row.scope,
        slot=str(row.slot),
        action=str(row.action),
        version=row.version,
        model_digest=row.model_digest,
        evidence_digest=row.evidence_digest,
        request_id=row.request_id,
        signed=msgspec.json.encode(row.signed).decode(),
        restores=row.restores,
        cause=row.cause,
        by=row.by,
        previous_digest=row.previous_digest,
        key_id=row.key_id,
        machine_signature=row.machine_signature,
    )


def row_of(record: ServingRecord) -> ServingRow:
    """Return a stored record as a row. One with words that are none of ours becomes a row that no key signed."""
    try:
        slot, action = Slot(record.slot), Action(record.action)
        signed = _SIGNED.decode(record.signed)
        is_read = True
    except (ValueError, msgspec.MsgspecError):
        slot, action, signed, is_read = Slot.CHAMPION, Action.ABSTAIN, (), False
    return ServingRow(
        serving_id=record.serving_id,
        at_us=record.at_us,
        scope=record.scope,
        slot=slot,
        action=action,
        version=record.version,
        model_digest=record.model_digest,
        evidence_digest=record.evidence_digest,
        request_id=record.request_id,
        signed=signed,
        restores=record.restores,
        cause=record.cause if is_read else UNREADABLE,
        by=record.by,
        previous_digest=record.previous_digest,
        key_id=record.key_id,
        machine_signature=record.machine_signature if is_read else "",
    )


async def read_rows(connection: Connection, scope: str | None = None) -> list[ServingRow]:
    """Return the record of one scope, or of all, oldest first, nothing judged."""
    return [row_of(record) for record in await stored.rows(connection, scope)]


async def append_row(connection: Connection, row: ServingRow, rows: list[ServingRow]) -> ServingRow:
    """Store a signed row in the caller's transaction, which holds `stores.serving.lock`, and return it numbered.

    Args:
        connection: inside the transaction.
        row: signed, its previous_digest being that of the last of `rows`.
        rows: the scope's record as it was read under the lock.
    """
    assert row.previous_digest == previous_digest(rows)
    serving_id = await stored.append(connection, record_of(row))
    return msgspec.structs.replace(row, serving_id=serving_id)


def previous_digest(rows: list[ServingRow]) -> str:
    """Return what the next row of this record names as its predecessor."""
    return row_digest(rows[-1]) if rows else ""
