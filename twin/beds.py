"""Who has a bed: the key a bed is known by, and one occupant at a time whatever ADT claims.

Here: keys that messages wait for, and the timeline of a bed or a device.
Not here: how a stay came to a bed (twin.stays), rows and their knowledge times (twin.directory).

Two patients in one bed: the one placed last has it from then on. The earlier one's association ends and does not come
back when the later one leaves, because a value given to the wrong patient is worse than a value that waits. When the
later placement turns out never to have happened (A11, a corrected time), the earlier association is whole again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stores.clinical import AssociationRow
from vocabulary.records import Place

BED = "bed"
DEVICE = "device"


def bed_subject(place: Place) -> str:
    """Return a bed's canonical key `facility|ward|room|bed`, or "" when the place names no bed."""
    if not place.bed:
        return ""
    return "|".join(
        part.replace("%", "%25").replace("|", "%7C") for part in (place.facility, place.ward, place.room, place.bed)
    )


def bed_key(subject: str) -> str:
    """Return what a message waits for when nobody is known in a bed."""
    return f"{BED}:{subject}"


def device_key(device: str) -> str:
    """Return what a message waits for when nobody is known to wear a device."""
    return f"{DEVICE}:{device}"


def identifier_key(authority: str, value: str) -> str:
    """Return what a message waits for when nobody is known by an identifier."""
    return f"id:{authority}|{value}"


class Occupancy(NamedTuple):
    """One stay's claim to a bed; `to_us` None while it lasts."""

    from_us: int
    to_us: int | None
    encounter_id: int


def occupancies(claims: Iterable[Occupancy]) -> list[Occupancy]:
    """Return who has a bed when, oldest first, without overlaps: a later placement ends an earlier claim.

    Of two placed at the same moment the stay opened later has the bed.
    """
    ordered = sorted((c for c in claims if c.to_us is None or c.to_us > c.from_us), key=lambda c: c[::2])
    held: list[Occupancy] = []
    next_from: int | None = None
    for claim in reversed(ordered):
        ends = [end for end in (claim.to_us, next_from) if end is not None]
        end = min(ends) if ends else None
        if end is None or end > claim.from_us:
            held.append(claim._replace(to_us=end))
        next_from = claim.from_us
    return held[::-1]


def wearer(timeline: Sequence[AssociationRow], at_us: int) -> AssociationRow | None:
    """Return the association of a time, from rows ordered by start that do not overlap."""
    index = bisect_right(timeline, at_us, key=lambda row: row.from_us) - 1
    if index < 0:
        return None
    row = timeline[index]
    return row if row.to_us is None or at_us < row.to_us else None
