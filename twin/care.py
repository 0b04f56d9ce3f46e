"""Who cares for a patient in a stay over time, and whether the patient is a VIP: pure rules, told in any order.

Here: a role's practitioners from a time on, what a message changes of them, the same within the stay's start and end.
Not here: what a movement does to the stay itself (twin.stays), rows and their knowledge times (twin.book), who may see
the patient because of it (governance.access).
Source: HL7 v2.6 chapter 3 (PV1-7, 8, 9, 16, 17) and 2.5.3.4 (a field not sent changes nothing, `""` empties it); HL7
FHIR R4 Encounter.participant.

The rules are those of places: what a message says of a role holds from the message's time until another says
otherwise, so that one told late changes only the past. What opens a stay holds from its start. Nobody cares in a stay
that was cancelled. A role told with nobody is an assignment of nobody, not the absence of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from interop.messages import Visit
from stores.database import storable

Practitioners = tuple[tuple[str, str], ...]
"""(authority, identifier) of each, in order, none twice."""


class Assignment(NamedTuple):
    """From when a role of a stay was whose; nobody's, where `practitioners` is empty."""

    from_us: int
    role: str  # attending, referring, consulting, admitting
    practitioners: Practitioners


class Vip(NamedTuple):
    """What was last said of the patient's privacy in a stay, and when."""

    at_us: int
    is_vip: bool


class CareTold(NamedTuple):
    """What a message says: each role it speaks of with its practitioners, and whether the patient is a VIP."""

    roles: tuple[tuple[str, Practitioners], ...] = ()
    is_vip: bool | None = None


def care_told(visit: Visit) -> CareTold:
    """Return what PV1 says of care, as it can be stored."""
    if not visit.told_roles:
        return CareTold((), visit.is_vip)
    named: dict[str, set[tuple[str, str]]] = {role: set() for role in visit.told_roles}
    for who in visit.practitioners:
        named[who.role].add((storable(who.authority), storable(who.identifier)))
    return CareTold(tuple((role, tuple(sorted(found))) for role, found in named.items()), visit.is_vip)


def with_care(care: Sequence[Assignment], told: CareTold, at_us: int) -> tuple[Assignment, ...]:
    """Return the assignments with what a message of this time says, in order of time and role."""
    for role, practitioners in told.roles:
        before = [held for held in care if held.role == role and held.from_us <= at_us]
        in_force = before[-1].practitioners if before else ()
        if in_force != practitioners:
            kept = [held for held in care if (held.from_us, held.role) != (at_us, role)]
            care = sorted([*kept, Assignment(at_us, role, practitioners)])
    return tuple(care)


def with_start(care: tuple[Assignment, ...], old_us: int, new_us: int) -> tuple[Assignment, ...]:
    """Return the assignments of a stay that turns out to start earlier: what held from one start holds from the other.

    A start that turns out to be later needs nothing but `within`.
    """
    if not care or new_us >= old_us:
        return care
    return tuple(sorted(held._replace(from_us=new_us) if held.from_us == old_us else held for held in care))


def with_vip(vip: Vip | None, told: CareTold, at_us: int) -> Vip | None:
    """Return what is last known of a patient's privacy, with what a message of this time says."""
    if told.is_vip is None or (vip is not None and (vip.is_vip == told.is_vip or at_us < vip.at_us)):
        return vip
    return Vip(at_us, told.is_vip)


def within(care: Sequence[Assignment], started_at_us: int, ended_at_us: int | None) -> tuple[Assignment, ...]:
    """Return the assignments within a stay: one from before holds from its start, one from its end on never did."""
    if not care or (ended_at_us is not None and ended_at_us <= started_at_us):
        return ()
    latest: dict[tuple[int, str], Assignment] = {}
    for held in care:  # in order, so that of those before the start the last one stays
        if ended_at_us is None or held.from_us < ended_at_us:
            from_us = max(held.from_us, started_at_us)
            latest[from_us, held.role] = held._replace(from_us=from_us)
    return tuple(sorted(latest.values()))


def spans(care: Sequence[Assignment], ended_at_us: int | None) -> list[tuple[Assignment, int | None]]:
    """Return each assignment with when it ended; None while it lasts."""
    following: dict[str, int | None] = {}
    found = []
    for held in reversed(care):
        found.append((held, following.get(held.role, ended_at_us)))
        following[held.role] = held.from_us
    return found[::-1]
