"""What is signed for a model: the statement of one person, and the row that says which model serves.

Here: the shapes, their canonical bytes, the words of the lifecycle.
Not here: whether signatures suffice (governance.approvals), appending rows (governance.promotion and rollback),
judging a row before a model is loaded (governance.serving), tables (stores.models, stores.serving).
Source: design.md section 6.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from governance.access import Role
from governance.roster import Signature

FORMAT: Final = "vigil.approval.1"


class Stage(StrEnum):
    """Where a version is in its life."""

    CANDIDATE = "candidate"  # trained and registered
    VALIDATED = "validated"  # every verdict passed, or is inconclusive and a request names it as a condition
    SILENT = "silent"  # scores live traffic, shown to nobody
    CHAMPION = "champion"  # speaks
    RETIRED = "retired"  # spoke, or was rejected; never again under the same approval


class Slot(StrEnum):
    """The two places a model can hold in the engine, for one scope."""

    CHAMPION = "champion"
    SILENT = "silent"


class Action(StrEnum):
    """What a serving row does to its slot."""

    PROMOTE = "promote"  # people's signatures: this version holds the slot
    RESTORE = "restore"  # machine or one person: an earlier approved row holds it again
    ABSTAIN = "abstain"  # machine or one person: the model stays silent; NEWS2 is shown
    CLAMP = "clamp"  # machine or one person: it speaks, but raises nobody's attention
    RESUME = "resume"  # one person: an abstention or clamp is over; the row it names holds again
    WITHDRAW = "withdraw"  # machine or one person: the slot is empty


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one person signs: everything the approval depends on, and who they are in it."""

    format: str = FORMAT
    site: str
    request_id: str  # one approval; consumed once
    scope: str  # what it may speak about: "mortality"
    slot: Slot  # the meaning: to speak, or to listen silently
    version: int
    model_digest: str  # SHA-256 of the manifest, hexadecimal
    evidence_digest: str  # SHA-256 over the evidence: data, code, environment, verdicts
    conditions: tuple[str, ...]  # inconclusive findings and waivers, in words; signed with the rest
    author: str  # who made the model ("issuer|subject")
    opened_at: datetime
    expires_at: datetime  # signatures and the right to promote by them end here
    person: str  # "issuer|subject" of the signer
    role: Role  # the role signed in
    meaning: str  # the sentence the signer read and agreed to


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement with its signature, as received."""

    statement: Statement
    signature: Signature
    received_at: datetime


class ServingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the record that says which model serves. Append-only; the newest row of a slot holds."""

    serving_id: int
    at_us: int
    scope: str
    slot: Slot
    action: Action
    version: int  # 0 for withdraw
    model_digest: str
    evidence_digest: str
    request_id: str
    signed: tuple[Signed, ...] = ()  # people's, for promote
    restores: int = 0  # serving_id of the approved promote row that holds again (restore, resume) or still holds
    cause: str = ""  # "calibration_breach", "alert_flood", "interface_fault", … or a person's words
    by: str  # "issuer|subject" of a person, or the process: "keeper", "engine-00"
    previous_digest: str = ""  # of the scope's row before
    key_id: str = ""  # of the process that appended it
    machine_signature: str = ""  # base64 Ed25519 over `row_bytes`, by that process's own key


_ENCODER = msgspec.json.Encoder(order="sorted")


def statement_bytes(statement: Statement) -> bytes:
    """Return the bytes a person signs."""
    return _ENCODER.encode(statement)


def row_bytes(row: ServingRow) -> bytes:
    """Return what the appending process signs: the row without its number and its own signature."""
    return _ENCODER.encode(msgspec.structs.replace(row, serving_id=0, machine_signature=""))


def row_digest(row: ServingRow) -> str:
    """Return what the next row of the scope names as its predecessor, hexadecimal."""
    return hashlib.sha256(_ENCODER.encode(row)).hexdigest()
