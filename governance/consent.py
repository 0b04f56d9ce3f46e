"""What a patient decided, and who is to be shielded: recorded with its event, for all records that are one person's.

Here: recording.
Not here: what follows from it (governance.access), the rows (stores.access).
"""

from __future__ import annotations

from typing import Literal

from governance.access import Ask, Principal, Purpose, Surface, Verb
from governance.gate import Gate
from stores import access
from stores.ledger import detail_of


async def record(
    gate: Gate,
    principal: Principal,
    patient_id: int,
    kept: Literal["secondary", "sharing", "vip"],
    *,
    is_so: bool,
    decided_by: str,
) -> None:
    """Record a decision; it counts from the next question on.

    A decision is about the person: it is kept for every record that is merged into one now, so that a later permission
    also lifts what an earlier record refused, and each keeps it should the merge be undone.

    Args:
        gate: decides and records.
        principal: who records it.
        patient_id: any of the person's records.
        kept: a scope of consent, or the VIP flag.
        is_so: permitted, or shielded.
        decided_by: the member of staff who took it down, by name; stands in the audit, so never the patient's.

    Raises:
        RefusedError: not permitted, or nobody has this number; recorded.
        UnavailableError: it cannot be recorded; nothing was changed.
    """
    purpose = gate.purpose_for(principal, Surface.PRIVACY, Verb.CHANGE) or Purpose.ADMINISTRATION
    ask = Ask(surface=Surface.PRIVACY, verb=Verb.CHANGE, purpose=purpose, patient_id=patient_id)
    detail = detail_of(kept=kept, is_so=is_so, decided_by=decided_by)
    async with gate.act(principal, ask, detail=detail) as connection:
        now_us = gate.clock.now_us()
        records = await access.records_of(connection, patient_id)
        if kept == "vip":
            await access.put_vip_flag(
                connection,
                records,
                is_vip=is_so,
                decided_at_us=now_us,
                decided_by=decided_by,
                recorded_by=principal.agent,
            )
            return
        await access.put_consent(
            connection,
            [
                access.Consent(
                    patient_id=record_id,
                    scope=kept,
                    is_permitted=is_so,
                    decided_at_us=now_us,
                    decided_by=decided_by,
                    recorded_by=principal.agent,
                )
                for record_id in records
            ],
        )
