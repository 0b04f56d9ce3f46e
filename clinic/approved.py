"""Under which approval a model speaks: the row of the record in words, with the people who signed.

Here: one pure function from a serving row, and the names of signers by the roster.
Not here: whether the row holds (governance.serving judges that, in the engine, before a model is loaded).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from governance.access import Role
from governance.statements import Action, ServingRow

_ACTIONS = {
    Action.PROMOTE: "approved",
    Action.RESTORE: "restored to an earlier approval",
    Action.RESUME: "resumed under its earlier approval",
    Action.CLAMP: "clamped: it speaks, but asks for nobody's attention",
    Action.ABSTAIN: "silenced",
    Action.WITHDRAW: "withdrawn",
}


@dataclass(frozen=True, slots=True)
class SignedByPerson:
    """One person who signed."""

    name: str
    role: str
    at_us: int  # when the signature was received


@dataclass(frozen=True, slots=True)
class Approved:
    """What a serving row says of the model that speaks."""

    serving_id: int
    version: int
    model_digest: str
    said: str  # "approved", "restored to an earlier approval"
    at_us: int
    cause: str
    people: tuple[SignedByPerson, ...]
    conditions: tuple[str, ...]


def role_words(role: Role | str) -> str:
    """Return a role as people write it."""
    return "data-protection officer" if role == Role.DATA_PROTECTION_OFFICER else str(role).replace("_", " ")


def subject_of(agent: str) -> str:
    """Return the part of `issuer|subject` that names somebody at the issuer."""
    return agent.rpartition("|")[2]


def approved_of(row: ServingRow, holds: ServingRow, name_of: Callable[[str], str]) -> Approved:
    """Return a serving row in words.

    Args:
        row: the row in force.
        holds: the row whose signatures it rests on: itself, or the earlier approval it names.
        name_of: the name of `issuer|subject`.
    """
    people = tuple(
        SignedByPerson(
            name_of(signed.statement.person),
            role_words(signed.statement.role),
            round(signed.received_at.timestamp() * 1e6),
        )
        for signed in holds.signed
    )
    conditions = holds.signed[0].statement.conditions if holds.signed else ()
    return Approved(
        row.serving_id, row.version, row.model_digest, _ACTIONS[row.action], row.at_us, row.cause, people, conditions
    )
