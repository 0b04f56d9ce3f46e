"""Whose each message in RAW is, from when the normalizer found out until the message is sealed under its patient's key.

Here: a few bytes a pack, and what the ledger says of sealed files.
Not here: finding out (twin.normalizer), sealing (twin.sealing, stores.raw_archive).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from stores.database import Connection, translated
from stores.raw_archive import Sealing

SEALER = "keeper"
"""The writer of the ledger's chain that sealed files are noted in."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[int])


def _packed(subjects: Sequence[int]) -> bytes:
    last = max((index for index, subject in enumerate(subjects) if subject), default=-1)
    return _ENCODER.encode(list(subjects[: last + 1]))


async def put(connection: Connection, subjects: Mapping[int, Sequence[int]]) -> None:
    """Keep, by position, the patient of each message of a pack (0: nobody's), in the normalizer's transaction."""
    rows = [(position, _packed(listed)) for position, listed in subjects.items() if any(listed)]
    if not rows:
        return
    with translated():
        await connection.execute(
            "insert into raw_subject (position, subjects) select * from unnest(%b::int8[], %b::bytea[])",
            [list(column) for column in zip(*rows, strict=True)],
        )


async def amend(connection: Connection, found: Iterable[tuple[int, int, int]]) -> None:
    """Note (position, index, patient) of messages that were nobody's until now; what was sealed already stays."""
    by_position: dict[int, list[tuple[int, int]]] = {}
    for position, index, patient_id in found:
        by_position.setdefault(position, []).append((index, patient_id))
    if not by_position:
        return
    known = await of(connection, min(by_position), max(by_position), only=list(by_position))
    rows = []
    for position, items in by_position.items():
        listed = list(known.get(position, ()))
        for index, patient_id in items:
            listed += [0] * (index + 1 - len(listed))
            listed[index] = patient_id
        rows.append((position, _packed(listed)))
    with translated():
        await connection.execute(
            "insert into raw_subject (position, subjects) select * from unnest(%b::int8[], %b::bytea[]) "
            "on conflict (position) do update set subjects = excluded.subjects",
            [list(column) for column in zip(*rows, strict=True)],
        )


async def of(
    connection: Connection, first: int, last: int, *, only: Sequence[int] | None = None
) -> dict[int, list[int]]:
    """Return, by position, the patients of the messages of the packs from `first` to `last`; absent: nobody's."""
    with translated():
        cursor = await connection.execute(
            "select position, subjects from raw_subject where position between %s and %s "
            "and (%s::int8[] is null or position = any(%s::int8[]))",
            (first, last, only, only),
            binary=True,
        )
        return {row[0]: _DECODER.decode(row[1]) for row in await cursor.fetchall()}


async def forget(connection: Connection, last: int) -> int:
    """Remove what is known of packs up to `last`, which were sealed; return of how many."""
    with translated():
        cursor = await connection.execute("delete from raw_subject where position <= %s", (last,))
        return cursor.rowcount


async def last_sealed(connection: Connection) -> int:
    """Return the last position that the ledger says was sealed; 0 where none was."""
    with translated():
        cursor = await connection.execute(
            "select position_to from ledger_entry where writer = %s and kind = 'note' "
            """and detail like '{"action":"sealed"%%' order by seq desc limit 1""",
            (SEALER,),
        )
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


class _Detail(msgspec.Struct):
    file: str
    sha256: str
    packs: int
    messages: int


async def sealings(connection: Connection) -> list[Sealing]:
    """Return what the ledger says of sealed files, in the order they were sealed."""
    with translated():
        cursor = await connection.execute(
            "select position_from, position_to, detail from ledger_entry "
            """where writer = %s and kind = 'note' and detail like '{"action":"sealed"%%' order by seq""",
            (SEALER,),
        )
        rows = await cursor.fetchall()
    found = []
    for first, last, text in rows:
        detail = msgspec.json.decode(text, type=_Detail)
        found.append(Sealing(detail.file, detail.sha256, first, last, detail.packs, detail.messages))
    return found
