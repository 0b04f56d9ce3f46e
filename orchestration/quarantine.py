"""`vigil quarantine`: what was not accepted, why, and settling it.

Here: listing, showing one item, and asking the normalizer (through the log) to release or discard.
Not here: the items (stores.quarantine), what release does (twin.normalizer).
Items quote messages: this command shows patient data to whoever may run it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from governance.access import Surface, Verb
from orchestration.data_dir import DataDir
from orchestration.operator_audit import operator
from orchestration.operator_gate import require
from orchestration.storage import connection
from stores import database, quarantine
from stores.ledger import detail_of
from twin.bus import Bus, open_bus
from twin.process import clock_of
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.records import RawItem, RawPack, Reason
from vocabulary.settings import Settings

_NAMED_ITEMS = 100  # of one command, in its audit event
SETTLE_TIMEOUT_S = 20.0
"""The normalizer reads the log within a second; longer means that it does not run well."""


def reason_of(text: str | None) -> Reason | None:
    """Return the reason a person typed.

    Raises:
        ConfigurationError: there is none of this name; lists them.
    """
    if text is None:
        return None
    try:
        return Reason(text.replace("-", "_").lower())
    except ValueError:
        known = ", ".join(reason.value for reason in Reason)
        raise ConfigurationError(f"No reason is called {text!r}. There are: {known}.") from None


async def find(
    settings: Settings, *, state: quarantine.State | None, reason: Reason | None, feed: str | None, limit: int
) -> tuple[list[quarantine.Item], list[quarantine.ItemCount]]:
    """Return the newest items, and all counts by outcome, reason and state."""
    asked = detail_of(state=state, reason=reason, feed=feed, limit=limit)
    await require(settings, Surface.QUARANTINE, Verb.SEARCH, detail=asked)
    async with connection(settings, "quarantine") as connected, database.consistent_read(connected):
        items = await quarantine.find(connected, state=state, reason=reason, feed=feed, limit=limit)
        return items, await quarantine.counts(connected)


async def get(settings: Settings, item_id: int) -> quarantine.Item:
    """Return one item with its body.

    Raises:
        ConfigurationError: there is no such item.
    """
    await require(settings, Surface.QUARANTINE, Verb.READ, detail=detail_of(item=item_id))
    async with connection(settings, "quarantine") as connected, database.consistent_read(connected):
        item = await quarantine.get(connected, item_id)
    if item is None:
        raise ConfigurationError(f"No item has number {item_id}. See `vigil quarantine list --state all`.")
    return item


async def settle(
    settings: Settings, action: Literal["release", "discard"], item_ids: Sequence[int]
) -> list[quarantine.Item]:
    """Ask the normalizer to release or discard items, and wait until it has read the request.

    Returns:
        The items as they are afterwards, and behind them those under which a released message is held again (its
        patient is still unknown, say). One that is open could not be settled.

    Raises:
        UnavailableError: the services do not run, or the normalizer does not answer in time.
        ConfigurationError: an item does not exist.
    """
    from twin.normalizer import RELEASED_INDEX
    from twin.outcomes import CONTROL_FEED, Command

    if DataDir(settings.data_dir).live_state() is None:
        raise UnavailableError("Items are settled by the running normalizer. Start Vigil with `vigil up`.")
    async with connection(settings, "quarantine") as connected:
        for item in await _items(connected, item_ids):
            if item.state != "open":
                raise ConfigurationError(f"Item {item.item_id} is already {item.state}.")
        verb = Verb.RELEASE if action == "release" else Verb.DISCARD
        asked = detail_of(items=",".join(map(str, item_ids[:_NAMED_ITEMS])), count=len(item_ids))
        await require(settings, Surface.QUARANTINE, verb, detail=asked)
        bus = await open_bus(settings, "operator")
        try:
            sequence = await _publish(bus, settings, CONTROL_FEED, Command(action, list(item_ids), operator().name))
            position = await _await_read(connected, sequence)
        finally:
            await bus.close()
        settled = await _items(connected, item_ids)
        async with database.consistent_read(connected):
            return settled + await quarantine.held_at(connected, position, RELEASED_INDEX)


async def _publish(bus: Bus, settings: Settings, feed: str, command: msgspec.Struct) -> int:
    clock = clock_of(settings)
    now_us = clock.now_us()
    item = RawItem(now_us, clock.monotonic_ns(), "", msgspec.json.encode(command))
    pack = RawPack(f"control-{uuid.uuid4().hex}", feed, now_us, [item])
    return await bus.publish_raw(feed, pack.pack_id, msgspec.msgpack.encode(pack))


async def _items(connected: database.Connection, item_ids: Sequence[int]) -> list[quarantine.Item]:
    found = []
    async with database.consistent_read(connected):
        for item_id in item_ids:
            item = await quarantine.get(connected, item_id)
            if item is None:
                raise ConfigurationError(f"No item has number {item_id}. See `vigil quarantine list --state all`.")
            found.append(item)
    return found


async def _await_read(connected: database.Connection, sequence: int) -> int:
    """Wait until the normalizer has read a message of RAW, and return that message's log position."""
    from stores import positions
    from vocabulary.records import INCARNATION_SHIFT

    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        async with database.consistent_read(connected):
            place = (await positions.read(connected))[positions.NORMALIZER]
        if place.position & ((1 << INCARNATION_SHIFT) - 1) >= sequence:
            return place.position >> INCARNATION_SHIFT << INCARNATION_SHIFT | sequence
        await asyncio.sleep(0.1)
    raise UnavailableError(
        f"The normalizer did not come to the request within {SETTLE_TIMEOUT_S:g} s; it is in the log and will be "
        "carried out. See `vigil status`."
    )


def as_record(item: quarantine.Item) -> dict[str, Any]:
    """Return an item for `--json`; its body as text."""
    record: dict[str, Any] = msgspec.to_builtins(item, builtin_types=(bytes,))
    record["body"] = None if item.body is None else item.body.decode("utf-8", "replace")
    return record


def _at(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_list(items: Sequence[quarantine.Item], counts: Sequence[quarantine.ItemCount], console: Console) -> None:
    """Print the counts by reason, then the items."""
    if not counts:
        console.print("Nothing was ever held back or refused.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("reason", "outcome", "state", "items", "messages", "values"):
        table.add_column(
            heading, no_wrap=True, justify="right" if heading in {"items", "messages", "values"} else "left"
        )
    for count in counts:
        numbers = (f"{count.items:,}", f"{count.messages:,}", f"{count.values:,}")
        table.add_row(count.reason.value, count.outcome.value, count.state, *numbers)
    console.print(table)
    listing = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("item", "received (UTC)", "feed", "reason", "where", "expected", "found", "waits for"):
        listing.add_column(heading, no_wrap=heading in {"item", "received (UTC)", "feed", "reason"}, overflow="fold")
    for item in items:
        listing.add_row(
            str(item.item_id),
            _at(item.received_at_us),
            item.feed,
            item.reason.value,
            *(_plain(text) for text in (item.where, item.expected, item.found, item.waits_for)),
        )
    console.print()
    console.print(listing)


def _plain(text: str, limit: int = 60) -> str:
    from rich.markup import escape

    shown = "".join(character if character.isprintable() else "·" for character in text)
    return escape(shown if len(shown) <= limit else shown[: limit - 1] + "…")


def show_item(item: quarantine.Item, console: Console) -> None:
    """Print everything about one item, its message a segment a line."""
    facts = {
        "item": str(item.item_id),
        "state": item.state,
        "outcome": item.outcome.value,
        "reason": item.reason.value,
        "where": item.where,
        "expected": item.expected,
        "found": item.found,
        "feed": item.feed,
        "received": f"{_at(item.received_at_us)} UTC",
        "log place": f"{item.position}:{item.raw_index}"
        + (f", value {item.value_index}" if item.value_index >= 0 else ""),
        "values": str(item.values),
        "waits for": item.waits_for,
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            table.add_row(name, _plain(fact, 2_000))
    console.print(table)
    if item.body is not None:
        console.print()
        for segment in item.body.decode("utf-8", "replace").replace("\n", "\r").split("\r"):
            if segment:
                console.print(_plain(segment, 2_000), highlight=False, soft_wrap=True)
