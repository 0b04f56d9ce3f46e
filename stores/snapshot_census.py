"""How many snapshots were published, and a random few of them: for `vigil demo` and for replaying a sample.

Here: looking over the packed runs as a whole.
Not here: one snapshot by its id, a patient's newest (stores.snapshots).
"""

from __future__ import annotations

import random

from stores.database import Connection, translated
from stores.snapshots import unpack_entries
from vocabulary.snapshot import SnapshotKey, snapshot_id

ENTRY_BYTES = 48
_FEW_RUNS = 100_000
"""Up to this many runs every one is looked at; beyond, PostgreSQL's own sampling chooses which."""


async def count(connection: Connection) -> int:
    """Return how many snapshots were published."""
    with translated():
        cursor = await connection.execute(
            "select coalesce(sum(octet_length(entries) / %s), 0)::bigint from snapshot_run", (ENTRY_BYTES,)
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def sample(connection: Connection, size: int, seed: int) -> list[str]:
    """Return up to `size` snapshot ids, spread over all that were published, the same for the same seed and runs."""
    with translated():
        cursor = await connection.execute("select reltuples::bigint from pg_class where oid = 'snapshot_run'::regclass")
        row = await cursor.fetchone()
        estimate = max(0, row[0]) if row else 0
        percent = 100.0 if estimate <= _FEW_RUNS else min(100.0, 100.0 * 20 * size / estimate)
        cursor = await connection.execute(
            "select partition, position, entries from (select partition, position, entries from snapshot_run "
            "tablesample bernoulli (%s) repeatable (%s)) as chosen "
            "order by md5(%s || '-' || partition || '-' || position) limit %s",
            (percent, seed, str(seed), size),
            binary=True,
        )
        rows = await cursor.fetchall()
    chance = random.Random(seed)  # noqa: S311 — a sample, not a secret
    keys = []
    for partition, position, packed in rows:
        entries = unpack_entries(packed)
        if entries:
            keys.append(SnapshotKey(partition, position, chance.choice(entries).patient_id))
    return [snapshot_id(key) for key in keys]
