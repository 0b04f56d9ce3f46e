"""What one viewer of a board may see: which wards, and which beds there with their patient.

Here: the sight as a value (two people with the same sight share one rendered event), and finding it.
Not here: the decisions (governance.gate), painting (clinic.painter), asking again while a board is open
(clinic.watching).
A bed whose patient is not for this viewer stays on the board as a place without a name or a score: a ward whose beds
vanish would be counted wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from governance.access import Ask, Policy, Principal, Purpose, Surface, Verb
from governance.gate import Gate


class Sight(msgspec.Struct, frozen=True):
    """What may be seen of the house's beds."""

    wards: frozenset[str]
    shown: frozenset[int]  # patients whose beds are shown whole
    decided: frozenset[int]  # patients that were asked about: any other stays hidden until it is

    def sees(self, patient_id: int) -> bool:
        """Return whether a patient may be shown."""
        return patient_id in self.shown

    def has_bed(self, ward: str, patient_id: int) -> bool:
        """Return whether a bed is on this viewer's board: its ward is theirs, or its patient is."""
        return ward in self.wards or patient_id in self.shown


class BoardTopic(msgspec.Struct, frozen=True):
    """Those who watch one ward's board, or all there is for them (None), with the same sight."""

    ward: str | None
    sight: Sight

    def has_bed(self, ward: str, patient_id: int) -> bool:
        """Return whether a bed belongs on this board."""
        return self.ward in {None, ward} and self.sight.has_bed(ward, patient_id)


def purpose_of(policy: Policy, principal: Principal, surface: Surface, verb: Verb) -> Purpose:
    """Return the purpose somebody asks with who stated none."""
    return policy.purpose_for(principal.roles, surface, verb) or Purpose.TREATMENT


async def look(gate: Gate, principal: Principal, ask: Ask, beds: Mapping[int, str], view: str) -> Sight | None:
    """Ask for a board: one event, in which a patient who is shown only under a broken glass is told as such.

    Args:
        gate: knows the policy and the facts.
        principal: who looks.
        ask: for one ward's board, or for that of all they may see.
        beds: the ward of each patient who lies in a bed now.
        view: the page the board belongs to.

    Returns:
        What may be seen; None: no board.

    Raises:
        UnavailableError: the facts cannot be read, or the event cannot be written: nothing may be shown.
    """
    policy = gate.policy
    is_permitted = policy.decide(principal, ask, None).is_permitted
    ids = frozenset(patient_id for patient_id, ward in beds.items() if ask.ward in {"", ward})
    shown = await gate.visible(principal, ask, ids, view=view)  # a denial leaves its event, too
    if not is_permitted:
        return None
    wards = frozenset(
        ward
        for ward in set(beds.values()) | {ask.ward}
        if ward and policy.decide(principal, msgspec.structs.replace(ask, ward=ward), None).is_permitted
    )
    return Sight(wards, frozenset(shown), ids)
