"""What was not accepted, item by item, each with its reason: found, counted, released.

Here: one row a message or a value that reached no twin, and the bodies of messages that may be released.
Not here: deciding what is held back (twin.normalizer, interop.terminology), the sums (stores.ledger).
`found` and `body` are patient data: shown only to those allowed, never in a log, a metric or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import zstandard

from stores.database import Connection, storable, to_microseconds, to_timestamp, translated
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import Outcome, Reason

State = Literal["open", "released", "discarded"]

WHOLE_MESSAGE = -1
"""`value_index` of an item that is a whole message."""

LONGEST_TEXT = 2_000
"""Characters kept of `where`, `expected` and `found`: enough for a person, however large the message was."""

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes a kept body may unpack to; ingress refuses larger messages long before."""

_COLUMNS = (
    'position, raw_index, value_index, feed, outcome, reason, "where", expected, found, "values", received_at, '
    "state, resolved_position, waits_for"
)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One message or value that was not accepted."""

    item_id: int = 0  # given by the store
    position: int  # the raw id: position in the log, index in the pack
    raw_index: int
    value_index: int = WHOLE_MESSAGE
    feed: str
    outcome: Outcome
    reason: Reason
    where: str
    expected: str = ""
    found: str = ""
    values: int  # of a whole message: how many it has; of a value: 1
    received_at_us: int
    state: State = "open"
    resolved_position: int | None = None
    waits_for: str = ""  # identifier, bed or device keys, one a line: the arrival of any releases it
    body: bytes | None = None  # of whole messages that can be released; `find` leaves it out


class ItemCount(NamedTuple):
    """How many items share an outcome, a reason and a state."""

    outcome: Outcome
    reason: Reason
    state: State
    items: int
    messages: int  # whole messages among them
    values: int


async def add(connection: Connection, items: Sequence[Item]) -> None:
    """Keep items, in the transaction whose ledger row counts them.

    Raises:
        BrokenInvariantError: the same message or value is there already, or an item was accepted.
    """
    if not items:
        return
    compressor = zstandard.ZstdCompressor(level=3)
    rows = []
    for item in items:
        if item.outcome is Outcome.ACCEPTED or (item.value_index != WHOLE_MESSAGE and item.values != 1):
            raise BrokenInvariantError(
                f"an item at {item.position}:{item.raw_index}:{item.value_index} cannot be {item.outcome} "
                f"with {item.values} values: expected an outcome other than accepted, and 1 value where it is one"
            )
        rows.append(
            (
                item.position,
                item.raw_index,
                item.value_index,
                storable(item.feed),
                item.outcome.value,
                item.reason.value,
                storable(item.where, LONGEST_TEXT),
                storable(item.expected, LONGEST_TEXT),
                storable(item.found, LONGEST_TEXT),
                item.values,
                to_timestamp(item.received_at_us),
                item.state,
                item.resolved_position,
                storable(item.waits_for),
                None if item.body is None else compressor.compress(item.body),
            )
        )
    with translated():
        await connection.execute(
            f"insert into quarantine_item ({_COLUMNS}, body) select * from unnest("  # noqa: S608
            "%b::int8[], %b::int4[], %b::int4[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], "
            "%b::text[], %b::int4[], %b::timestamptz[], %b::text[], %s::int8[], %b::text[], %s::bytea[])",
            [list(column) for column in zip(*rows, strict=True)],
        )


async def find(
    connection: Connection,
    *,
    state: State | None = "open",
    reason: Reason | None = None,
    feed: str | None = None,
    limit: int = 100,
) -> list[Item]:
    """Return the newest items without their bodies; None leaves a condition out."""
    with translated():
        cursor = await connection.execute(
            f"select item_id, {_COLUMNS}, null::bytea from quarantine_item "  # noqa: S608
            "where (%(state)s::text is null or state = %(state)s) "
            "and (%(reason)s::text is null or reason = %(reason)s) "
            "and (%(feed)s::text is null or feed = %(feed)s) order by item_id desc limit %(limit)s",
            {"state": state, "reason": None if reason is None else reason.value, "feed": feed, "limit": limit},
        )
        return [_item(row) for row in await cursor.fetchall()]


async def get(connection: Connection, item_id: int) -> Item | None:
    """Return one item with its body, or None."""
    with translated():
        cursor = await connection.execute(
            f"select item_id, {_COLUMNS}, body from quarantine_item where item_id = %s",  # noqa: S608
            (item_id,),
            binary=True,
        )
        row = await cursor.fetchone()
    return None if row is None else _item(row)


async def waiting_for(connection: Connection, keys: Sequence[str]) -> list[Item]:
    """Return the open items that wait for any of `keys`, with bodies, in the order of the log."""
    wanted = sorted({storable(key) for key in keys if key})
    if not wanted:
        return []
    with translated():
        cursor = await connection.execute(
            f"select item_id, {_COLUMNS}, body from quarantine_item "  # noqa: S608
            "where state = 'open' and waits_for <> '' and string_to_array(waits_for, E'\\n') && %s::text[] "
            "order by position, raw_index, value_index",
            (wanted,),
            binary=True,
        )
        return [_item(row) for row in await cursor.fetchall()]


async def waiting_keys(connection: Connection) -> set[str]:
    """Return every key that some open item waits for."""
    with translated():
        cursor = await connection.execute(
            "select distinct unnest(string_to_array(waits_for, E'\\n')) from quarantine_item "
            "where state = 'open' and waits_for <> ''"
        )
        return {row[0] for row in await cursor.fetchall()}


async def waiting_count(connection: Connection) -> int:
    """Return how many open items wait for somebody's arrival."""
    with translated():
        cursor = await connection.execute(
            "select count(*) from quarantine_item where state = 'open' and waits_for <> ''"
        )
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def held_at(connection: Connection, position: int, least_index: int) -> list[Item]:
    """Return the open whole messages held at a log position from an index on, in order, without their bodies."""
    with translated():
        cursor = await connection.execute(
            f"select item_id, {_COLUMNS}, null::bytea from quarantine_item "  # noqa: S608
            "where position = %s and raw_index >= %s and value_index = %s and state = 'open' order by raw_index",
            (position, least_index, WHOLE_MESSAGE),
        )
        return [_item(row) for row in await cursor.fetchall()]


async def resolve(connection: Connection, item_ids: Sequence[int], state: State, position: int) -> int:
    """Release or discard open items at a log position, and return how many were open.

    A released message's body is let go: from now on its events are what is kept. The caller writes the ledger row
    that takes the counts back (released) or says who decided (discarded).
    """
    if state == "open":
        raise BrokenInvariantError("an item is resolved as released or discarded, not as open")
    with translated():
        cursor = await connection.execute(
            "update quarantine_item set state = %(state)s, resolved_position = %(position)s, waits_for = '', "
            "body = case when %(state)s = 'released' then null else body end "
            "where item_id = any(%(ids)s::int8[]) and state = 'open'",
            {"state": state, "position": position, "ids": list(item_ids)},
        )
        return cursor.rowcount


async def amend(
    connection: Connection, item_id: int, *, outcome: Outcome, reason: Reason, where: str, waits_for: str = ""
) -> bool:
    """Say anew why an open item is held: it was tried again and something else stands in its way.

    Returns whether it was open. A changed outcome needs a ledger row that moves the counts.
    """
    if outcome is Outcome.ACCEPTED:
        raise BrokenInvariantError("what is accepted is released, not amended")
    with translated():
        cursor = await connection.execute(
            'update quarantine_item set outcome = %s, reason = %s, "where" = %s, waits_for = %s '
            "where item_id = %s and state = 'open'",
            (outcome.value, reason.value, storable(where, LONGEST_TEXT), storable(waits_for), item_id),
        )
        return cursor.rowcount == 1


async def counts(connection: Connection) -> list[ItemCount]:
    """Return the items by outcome, reason and state, most first."""
    with translated():
        cursor = await connection.execute(
            "select outcome, reason, state, count(*), count(*) filter (where value_index = %s), "
            'sum("values")::bigint from quarantine_item group by outcome, reason, state '
            "order by count(*) desc, outcome, reason, state",
            (WHOLE_MESSAGE,),
        )
        return [ItemCount(Outcome(row[0]), Reason(row[1]), *row[2:]) for row in await cursor.fetchall()]


def _item(row: tuple[Any, ...]) -> Item:
    fields = dict(zip(Item.__struct_fields__, row, strict=True))
    fields["outcome"] = Outcome(fields["outcome"])
    fields["reason"] = Reason(fields["reason"])
    fields["received_at_us"] = to_microseconds(fields["received_at_us"])
    if fields["body"] is not None:
        fields["body"] = zstandard.ZstdDecompressor().decompress(fields["body"], max_output_size=LARGEST_BODY)
    return Item(**fields)
