"""The policy table read from TOML, and what must be true of it before anybody is let in.

Here: reading governance/policy.toml, the checks that refuse a table with contradictions or rows that never permit.
Not here: the decision (governance.access), the page made of the table (governance.policy_page).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import product

import msgspec

from governance.access import (
    DEFAULT_DENY,
    UNKNOWN_PATIENT,
    About,
    Obligation,
    Purpose,
    Relationship,
    Role,
    Row,
    Surface,
    Verb,
    VipRule,
)
from vocabulary.errors import ConfigurationError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_VIP_STRICTNESS = {VipRule.ALLOW: 0, VipRule.ONLY_TREATING: 1, VipRule.DENY: 2}


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    row: list[Row]


def packaged_rows() -> tuple[Row, ...]:
    """Return the rows that came with this program, checked.

    Raises:
        ConfigurationError: see `read` and `check`.
    """
    return read((files("governance") / "policy.toml").read_text(encoding="utf-8"))


def read(text: str) -> tuple[Row, ...]:
    """Return the rows of a table written in TOML, checked.

    Raises:
        ConfigurationError: it is no TOML, holds a word that there is not, or `check` refuses it.
    """
    try:
        table = msgspec.convert(tomllib.loads(text), _Table)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The access policy is not TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"The access policy holds a word there is not: {error}.") from None
    check(table.row)
    return tuple(table.row)


def check(rows: Sequence[Row]) -> None:
    """Refuse a table that cannot mean what it says.

    Raises:
        ConfigurationError: names the row and what is wrong with it.
    """
    if not rows:
        raise ConfigurationError("The access policy has no rows: nobody could do anything.")
    may_break = {
        role
        for row in rows
        if row.surface is Surface.BREAK_GLASS and Verb.OPEN in row.verbs and row.about is About.PATIENT
        for role in row.roles
    }
    names: set[str] = set()
    for row in rows:
        for fault in (*_faults_of_words(row, names), *_faults_of_conditions(row), *_faults_of_glass(row, may_break)):
            raise ConfigurationError(f"The access policy's row {row.name!r} {fault}.")
        names.add(row.name)
    for index, row in enumerate(rows):
        if all(any(_covers(earlier, row, cell) for earlier in rows[:index]) for cell in _cells(row)):
            raise ConfigurationError(
                f"The access policy's row {row.name!r} is never reached: rows before it permit everything it would. "
                "Remove it, or put it before them."
            )


def _faults_of_words(row: Row, names: set[str]) -> list[str]:
    faults = []
    if not _NAME.fullmatch(row.name) or row.name in {DEFAULT_DENY, UNKNOWN_PATIENT}:
        faults.append("needs a name of small letters, digits and hyphens that is not one of the program's own")
    if row.name in names:
        faults.append("has the name of a row before it")
    if len(row.because.split()) < 4:
        faults.append("says in `because` not why it exists: expected a sentence")
    for heading, words in (("verbs", row.verbs), ("roles", row.roles), ("purposes", row.purposes)):
        if not words:
            faults.append(f"has no {heading}, so it never permits")
        if len(set(words)) != len(words):
            faults.append(f"names one of its {heading} twice")
    if len(set(row.obligations)) != len(row.obligations):
        faults.append("names one of its obligations twice")
    return faults


def _faults_of_conditions(row: Row) -> list[str]:
    faults = []
    if row.about is not About.PATIENT and (row.vip is not VipRule.ALLOW or row.consent is not None or row.break_glass):
        faults.append(f"is about a {row.about}, which has no VIP flag, no consent and no broken glass")
    if row.about is About.HOUSE and row.relationship is not Relationship.NONE:
        faults.append("is about the house, to which nobody has a care relationship")
    if row.about is About.WARD and row.relationship is Relationship.TREATING:
        faults.append("is about a ward, which nobody treats: the closest relationship to a ward is unit")
    if row.vip is VipRule.ONLY_TREATING and row.relationship is Relationship.TREATING:
        faults.append("lets only those treating in as it is: vip = only_treating says nothing more")
    return faults


def _faults_of_glass(row: Row, may_break: set[Role]) -> list[str]:
    faults = []
    if row.break_glass:
        if row.vip is VipRule.DENY:
            faults.append("opens to a broken glass and denies VIPs always: a glass is for them too")
        if row.relationship is Relationship.NONE and row.vip is VipRule.ALLOW:
            faults.append("permits without any relationship: a broken glass adds nothing")
        faults.extend(
            f"opens to a broken glass, and {role} may not break one" for role in row.roles if role not in may_break
        )
    is_breaking = row.surface is Surface.BREAK_GLASS and Verb.OPEN in row.verbs and row.about is About.PATIENT
    if is_breaking and not {Obligation.NOTIFY, Obligation.REVIEW} <= set(row.obligations):
        faults.append("lets a glass be broken without `notify` and `review`: an emergency nobody judges is a back door")
    is_judging = row.surface is Surface.REVIEW and Verb.REVIEW in row.verbs
    if is_judging and Obligation.ANOTHER_PERSON not in row.obligations:
        faults.append("lets people judge their own broken glass: expected the obligation `another_person`")
    if Purpose.BREAK_GLASS in row.purposes and row.surface is not Surface.BREAK_GLASS:
        faults.append("names the purpose BTG: that purpose comes from an open glass, never from a row")
    return faults


def _cells(row: Row) -> list[tuple[Verb, Purpose, Role]]:
    return list(product(row.verbs, row.purposes, row.roles))


def _covers(earlier: Row, row: Row, cell: tuple[Verb, Purpose, Role]) -> bool:
    """Return whether `earlier` permits a cell wherever `row` would."""
    verb, purpose, role = cell
    is_same_cell = (
        earlier.surface is row.surface
        and earlier.about is row.about
        and verb in earlier.verbs
        and purpose in earlier.purposes
        and role in earlier.roles
    )
    is_as_open = (
        earlier.relationship.rank <= row.relationship.rank
        and earlier.consent in {None, row.consent}
        and (earlier.break_glass or not row.break_glass or _is_open_to_treating(earlier))
    )
    is_as_open_to_vips = _VIP_STRICTNESS[earlier.vip] <= _VIP_STRICTNESS[row.vip] or (
        row.relationship is Relationship.TREATING and earlier.vip is VipRule.ONLY_TREATING
    )
    return is_same_cell and is_as_open and is_as_open_to_vips


def _is_open_to_treating(row: Row) -> bool:
    """Return whether a row needs no glass anywhere: it permits without relationship, VIPs too."""
    return row.relationship is Relationship.NONE and row.vip is VipRule.ALLOW
