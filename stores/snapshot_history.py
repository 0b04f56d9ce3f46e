"""Scores over time, from the snapshot bodies that were kept: for trends of what is not a measurement.

Here: reading a patient's kept bodies of an interval, thinned to one a step.
Not here: one snapshot by its id (stores.snapshots), values over time (stores.timeseries).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stores import envelope, snapshots
from stores.database import Connection, translated
from stores.envelope import Keys
from vocabulary.snapshot import Score


class ScoresThen(NamedTuple):
    """All scores of one snapshot."""

    patient_id: int
    as_of_us: int
    scores: list[Score]


class _Scored(msgspec.Struct):
    """The part of a snapshot's body that is needed; the rest is skipped, not decoded."""

    scores: list[Score]


_DECODER = msgspec.json.Decoder(_Scored)


async def scores_between(
    connection: Connection, patient_ids: Sequence[int], from_us: int, to_us: int, step_us: int, keys: Keys
) -> list[ScoresThen]:
    """Return the scores of kept snapshots with from_us ≤ as_of < to_us in time order, the last of each step.

    Args:
        connection: inside or outside a transaction.
        patient_ids: all ids of one patient, or of several.
        from_us: first log time that counts.
        to_us: first log time that no longer counts.
        step_us: at most one snapshot a patient within each multiple of this.
        keys: unseal bodies; those whose key was destroyed are left out.
    """
    with translated():
        cursor = await connection.execute(
            "select distinct on (patient_id, as_of_us / %(step)s) patient_id, as_of_us, body from snapshot_body "
            "where patient_id = any(%(patients)s::int8[]) and as_of_us >= %(from)s and as_of_us < %(to)s "
            "order by patient_id, as_of_us / %(step)s, as_of_us desc, position desc",
            {"step": step_us, "patients": list(patient_ids), "from": from_us, "to": to_us},
            binary=True,
        )
        rows = await cursor.fetchall()
    await keys.load(envelope.key_ids(row[2] for row in rows))
    bodies = snapshots.bodies_of(((row[0], row[2]) for row in rows), keys)
    found = [
        ScoresThen(row[0], row[1], _DECODER.decode(body).scores)
        for row, body in zip(rows, bodies, strict=True)
        if body is not None
    ]
    return sorted(found, key=lambda then: then.as_of_us)
