"""Whether a stay ended in death, from what movements say of it: pure rules, told in any order.

Here: putting a discharge disposition and a death date or indicator together, and what a later message changes of it.
Not here: reading them from HL7 (interop.hl7v2_patients), what a movement does to the stay's times (twin.stays).
Source: HL7 v2.6 chapter 3 (PV1-36, PID-29, PID-30) and 2.5.3.4 (a field not sent changes nothing, `""` empties it).

The rules:
- A discharge disposition says it. A death date within the stay says died; one behind its end says it was survived.
  Without a date, a death indicator counts in the message that discharges; later it does not say when.
- A disposition that the death date or indicator contradicts leaves the outcome unknown.
- A message that says nothing leaves what was known, and so do admissions and transfers. That a stay was survived counts
  only from its end on: before, a disposition is a plan, and "not dead" says nothing. A death counts at any time.
- Opening the stay again (A13) or taking it back (A11) withdraws the outcome.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from interop.messages import PatientIdentity, Visit
from vocabulary.records import DischargeOutcome, Movement

CLOCKS_US: Final = 60_000_000
"""As twin.stays: clocks of senders differ, and times often carry only minutes."""

DAY_US: Final = 86_400_000_000
"""A death date often carries only the day, so its time is that day's midnight, before an admission later that day."""


class EndingTold(NamedTuple):
    """What one message says."""

    disposition: DischargeOutcome | None = None  # None: not said
    is_dead: bool | None = None
    died_at_us: int | None = None


def ending_told(identity: PatientIdentity | None, visit: Visit) -> EndingTold:
    """Return what PID and PV1 say of how the stay ended."""
    if identity is None:
        return EndingTold(visit.outcome)
    return EndingTold(visit.outcome, identity.is_dead, identity.died_at_us)


def outcome_after(
    known: DischargeOutcome,
    told: EndingTold,
    movement: Movement,
    at_us: int,
    started_at_us: int,
    ended_at_us: int | None,
) -> DischargeOutcome:
    """Return how a stay ended, as known after a message.

    Args:
        known: as known before.
        told: what the message says.
        movement: what it does to the stay.
        at_us: when what it tells of happened.
        started_at_us: of the stay as it is after the message.
        ended_at_us: the same; None while it is open.
    """
    if movement in {Movement.CANCEL_ADMIT, Movement.CANCEL_DISCHARGE}:
        return DischargeOutcome.UNKNOWN
    if movement in {Movement.ADMIT, Movement.TRANSFER}:
        return known
    is_over = ended_at_us is not None and (movement is Movement.DISCHARGE or at_us >= ended_at_us - CLOCKS_US)
    disposition = told.disposition
    if disposition is DischargeOutcome.SURVIVED and not is_over:
        disposition = None
    death = _by_death(told, is_over, movement, started_at_us, ended_at_us)
    if disposition is None:
        return death or known
    if death is not None and disposition is not DischargeOutcome.UNKNOWN and death is not disposition:
        return DischargeOutcome.UNKNOWN
    return death or disposition


def _by_death(
    told: EndingTold, is_over: bool, movement: Movement, started_at_us: int, ended_at_us: int | None
) -> DischargeOutcome | None:
    """Return what the date and indicator of death say about the stay; None: nothing."""
    if told.is_dead is False:
        return DischargeOutcome.SURVIVED if told.died_at_us is None and is_over else None
    if told.died_at_us is not None:
        if started_at_us - told.died_at_us > DAY_US:
            return None  # before the stay: an error of somebody's, and no outcome
        if ended_at_us is not None and told.died_at_us > ended_at_us + CLOCKS_US:
            return DischargeOutcome.SURVIVED
        return DischargeOutcome.DIED
    if told.is_dead and (movement is Movement.DISCHARGE or ended_at_us is None):
        return DischargeOutcome.DIED
    return None
