"""The policy table as a page that people read: docs/policy.md.

Here: the table's words explained, and one line a row.
Not here: the table itself (governance.policy_table), the decision (governance.access).
"""

from __future__ import annotations

from collections.abc import Sequence

from governance.access import Policy, Purpose, Relationship, Role, Row, VipRule

_INTRODUCTION = """\
# Who may see or do what

Made from `governance/policy.toml` by `vigil access policy --markdown`; a test says that it is current. Edit the table,
not this page.

What no row permits is denied. A denial looks like absence: the same status, headers and body as for something that
does not exist. Every decision, denials included, leaves one event in the audit log, with the row that decided and the
first 16 digits of this table's digest. A row permits when **all** of its conditions hold:

- **relationship** is the least care relationship, from ADT. *unit*: the patient lies on a ward of theirs. *treating*:
  they are named in the stay (attending, referring, consulting, admitting). Each includes the one before.
- **VIP**: whether patients whom PV1-16 or a person of the house flags are shown: *allow*, *only treating*, *deny*.
- **consent** is what the patient must not have refused: *secondary* use (quality, research, export) or *sharing* with
  other systems. Nothing recorded counts as not refused.
- **broken glass**: whether an open broken glass counts as treating that one patient. Its reads have the purpose BTG.
- **obligations** go with the permission: *notify* (the reviewers are told), *review* (another person judges it; until
  then that person breaks no other glass), *another person* (never on one's own act), *name who decided* (carried out
  for somebody, whose name stands in the audit).

What was said of any of a person's merged records counts. Relationship and VIP flag are those of now: a transfer, a
refusal, or a glass that ran out counts from the next question on.
"""

HEADINGS = (
    "row", "surface", "verbs", "about", "roles", "purposes", "relationship", "VIP", "consent", "broken glass",
    "obligations",
)  # fmt: skip
"""Over what `cells` returns."""

_WORDS = {
    Role.NURSE: "nurse",
    Role.PHYSICIAN: "physician",
    Role.CHARGE_NURSE: "charge nurse",
    Role.DATA_ENGINEER: "data engineer",
    Role.CLINICAL_LEAD: "clinical lead",
    Role.SAFETY_OFFICER: "safety officer",
    Role.DATA_PROTECTION_OFFICER: "data-protection officer",
    Role.MODEL_AUTHOR: "model author",
    Role.SERVICE: "service (another system)",
    Role.OPERATOR: "operator (this machine's command line)",
}

_PURPOSES = {
    Purpose.TREATMENT: "treatment",
    Purpose.BREAK_GLASS: "break the glass",
    Purpose.OPERATIONS: "operations",
    Purpose.QUALITY: "quality improvement",
    Purpose.RESEARCH: "research",
    Purpose.ADMINISTRATION: "system administration",
    Purpose.SAFETY: "patient safety",
}


def markdown(policy: Policy) -> str:
    """Return the whole page."""
    rows = policy.rows()
    parts = [_INTRODUCTION, f"Digest of this table: `{policy.digest[:16]}…`, {len(rows)} rows.\n", "## The table\n"]
    rule = "---|" * len(HEADINGS)
    parts.append(f"| {' | '.join(HEADINGS)} |\n|{rule}\n" + "".join(_line(row) for row in rows))
    parts.append("## Why each row exists\n")
    parts.append("".join(f"- **{row.name}**: {row.because}\n" for row in rows))
    parts.append("## What each role may do\n")
    parts.append("".join(_role(role, rows) for role in Role))
    parts.append("## Purposes\n")
    parts.append("".join(f"- `{purpose}`: {_PURPOSES[purpose]}\n" for purpose in Purpose))
    return "\n".join(parts)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's columns as the page and the terminal show them; HEADINGS stand over them."""
    return (
        row.name,
        row.surface,
        _list(row.verbs),
        row.about,
        _list(row.roles),
        ", ".join(row.purposes),
        "" if row.relationship is Relationship.NONE else row.relationship,
        "" if row.vip is VipRule.ALLOW else _plain(row.vip),
        "" if row.consent is None else row.consent,
        "opens" if row.break_glass else "",
        _list(row.obligations),
    )


def _line(row: Row) -> str:
    return f"| {' | '.join(cells(row))} |\n"


def _role(role: Role, rows: Sequence[Row]) -> str:
    found: dict[str, list[str]] = {}
    for row in rows:
        if role in row.roles:
            known = found.setdefault(row.surface, [])
            known.extend(verb for verb in row.verbs if verb not in known)
    may = "; ".join(f"{_plain(surface)}: {_list(verbs)}" for surface, verbs in found.items())
    return f"- **{_WORDS[role]}**: {may}\n"


def _list(words: Sequence[str]) -> str:
    return ", ".join(_plain(word) for word in words)


def _plain(word: str) -> str:
    return word.replace("_", " ")
