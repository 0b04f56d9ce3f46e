"""The ledger's chain and its sums: every tampering through plain SQL is located, and both sides balance."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import ledger, ledger_verification, partition_log
from stores.chain import GENESIS, Head
from stores.chain_verification import Fault
from stores.database import connect, transaction
from stores.ledger import LEDGER, Entry, LedgerWriter, Remainder
from stores.ledger_verification import reconcile, verify
from stores.quarantine import Item, add, resolve
from vocabulary.errors import BrokenInvariantError, FencedOutError
from vocabulary.records import Outcome, Reason

ROWS = 12
START_US = 1_760_000_000_123_457


def pack(number: int = 1, **counts: int) -> Entry:
    return Entry(
        at_us=START_US + number, kind="pack", feed="monitors", position_from=number, position_to=number, **counts
    )


async def write(connection, writer: LedgerWriter, *entries: Entry) -> None:
    await connection.rollback()
    async with transaction(connection):
        await writer.append(connection, entries)
    writer.committed()


@pytest.fixture
async def chains(connection):
    """Two writers of ROWS rows each, and a superuser who has put the guards aside."""
    await connection.execute("set session_replication_role = replica")
    await connection.commit()
    for name in ("engine", "normalizer"):
        writer = LedgerWriter(name)
        await writer.open(connection)
        await write(connection, writer, *(pack(n, messages_received=n, values_received=3 * n) for n in range(1, 8)))
        await write(connection, writer, *(pack(n, messages_accepted=n) for n in range(8, ROWS + 1)))
    return connection


async def row(connection, seq: int, writer: str = "engine") -> dict:
    cursor = await connection.execute("select * from ledger_entry where writer = %s and seq = %s", (writer, seq))
    values = await cursor.fetchone()
    assert values is not None
    return dict(zip([column.name for column in cursor.description], values, strict=True))


def independent_hash(stored: dict) -> bytes:
    """The documented encoding, spelled out without the code under test."""
    columns = [name for name in stored if name not in {"previous_hash", "hash", "signature", "key_id"}]
    delta = stored["at"] - datetime(1970, 1, 1, tzinfo=UTC)
    at_us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    content = [at_us if name == "at" else stored[name] for name in columns]
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"vigil.ledger.1\n" + stored["previous_hash"] + text.encode()).digest()


async def test_a_chain_is_what_its_documentation_says(chains):
    previous = GENESIS
    for seq in range(1, ROWS + 1):
        stored = await row(chains, seq)
        assert stored["previous_hash"] == previous
        assert stored["hash"] == independent_hash(stored)
        previous = stored["hash"]


async def test_the_hash_of_a_known_row_never_changes():
    content = ("engine", 1, 1_760_000_000_123_457, "pack", "monitors", 7, 9, *range(13), '{"pack":"a\\"é"}')
    assert (
        LEDGER.row_hash(GENESIS, content).hex()
        == hashlib.sha256(
            b"vigil.ledger.1\n"
            + bytes(32)
            + b'["engine",1,1760000000123457,"pack","monitors",7,9,0,1,2,3,4,5,6,7,8,9,10,'
            b'11,12,"{\\"pack\\":\\"a\\\\\\"\xc3\xa9\\"}"]'
        ).hexdigest()
    )


async def test_untouched_chains_have_no_fault(chains):
    anchors = await ledger.heads(chains)
    assert {writer: head.seq for writer, head in anchors.items()} == {"engine": ROWS, "normalizer": ROWS}
    assert await verify(chains) == []
    assert await verify(chains, anchors.values()) == []


async def test_a_writer_started_again_continues_the_chain(chains):
    again = LedgerWriter("engine")
    head = await again.open(chains)
    assert (head.seq, head.hash) == (ROWS, (await row(chains, ROWS))["hash"])
    await write(chains, again, Entry(at_us=START_US, kind="opened", position_from=0, position_to=0))
    assert (await row(chains, ROWS + 1))["previous_hash"] == head.hash
    assert await verify(chains) == []


async def test_a_transaction_that_failed_does_not_advance_the_chain(connection):
    writer = LedgerWriter("engine")
    await writer.open(connection)
    await connection.commit()
    await writer.append(connection, [pack(1), pack(2)])
    await connection.rollback()
    writer.rolled_back()
    async with transaction(connection):
        await writer.append(connection, [pack(3)])
        await writer.append(connection, [pack(4), pack(5)])
    writer.committed()
    await write(connection, writer, pack(6))
    assert [(await row(connection, seq))["position_from"] for seq in range(1, 5)] == [3, 4, 5, 6]
    assert await verify(connection) == []


async def test_a_second_writer_of_the_same_name_is_fenced_out(connection, migrated_url):
    second_connection = await connect(migrated_url, application_name="second")
    first, second = LedgerWriter("engine"), LedgerWriter("engine")
    await first.open(connection)
    await second.open(second_connection)
    await write(connection, first, pack(1))
    with pytest.raises(FencedOutError, match="same name"):
        await write(second_connection, second, pack(2))
    second.rolled_back()
    await write(connection, first, pack(3))
    assert await verify(connection) == []
    await second_connection.close()


async def test_appending_before_opening_is_a_defect(connection):
    with pytest.raises(BrokenInvariantError, match="open it"):
        await LedgerWriter("engine").append(connection, [pack(1)])


async def test_text_that_postgresql_cannot_hold_still_verifies(connection):
    writer = LedgerWriter("engine")
    await writer.open(connection)
    odd = Entry(at_us=1, kind="note", feed="a\x00b", position_from=0, position_to=0, detail="\ud800 \u2028 é \x07")
    await write(connection, writer, odd)
    assert await verify(connection) == []


def test_details_have_one_spelling():
    assert ledger.detail_of(b=1, a="é") == ledger.detail_of(a="é", b=1) == '{"a":"é","b":1}'


EDITS = {
    "at": "at + interval '1 microsecond'",
    "kind": "'note'",
    "feed": "feed || 'x'",
    "position_from": "position_from - 1",
    "position_to": "position_to + 1",
    **{name: f"{name} + 1" for name in ledger.COUNTS},
    "detail": "detail || ' '",
    "previous_hash": "sha256(previous_hash)",
    "hash": "sha256(hash)",
}


@st.composite
def tamperings(draw):
    """A tampering of the engine's chain, and the faults (kind, first, last, was) it must show.

    Its steps are SQL statements, or the number of a row to forge.
    """
    one = st.integers(1, ROWS)
    kind = draw(st.sampled_from(["edit", "delete", "swap", "renumber", "edits", "forge", "move away"]))
    where = "where writer = 'engine' and seq"
    if kind == "edit":
        column, seq = draw(st.sampled_from(sorted(EDITS))), draw(one)
        return [f"update ledger_entry set {column} = {EDITS[column]} {where} = {seq}"], {("edited", seq, seq, None)}
    if kind == "edits":
        seqs = sorted(draw(st.sets(one.filter(lambda n: n % 2 == 0), min_size=1)))  # apart, so never joined
        statements = [f"update ledger_entry set values_received = 99 {where} = {seq}" for seq in seqs]
        return statements, {("edited", seq, seq, None) for seq in seqs}
    if kind == "delete":
        first = draw(st.integers(1, ROWS - 1))
        last = draw(st.integers(first, ROWS - 1))
        return [f"delete from ledger_entry {where} between {first} and {last}"], {("deleted", first, last, None)}
    if kind == "swap":
        low, high = sorted(draw(st.lists(one, min_size=2, max_size=2, unique=True)))
        statements = [
            f"update ledger_entry set seq = {new} {where} = {old}" for old, new in ((low, -1), (high, low), (-1, high))
        ]
        return statements, {("moved", low, low, high), ("moved", high, high, low)}
    if kind == "renumber":  # delete a row and close the gap behind it
        seq = draw(st.integers(1, ROWS - 1))
        statements = [
            f"delete from ledger_entry {where} = {seq}",
            f"update ledger_entry set seq = -seq {where} > {seq}",
            f"update ledger_entry set seq = -seq - 1 {where} < 0",
        ]
        return statements, {("deleted", seq, seq, None), ("moved", seq, ROWS - 1, seq + 1)}
    if kind == "move away":  # a row given to the other writer: missing here, edited there
        seq = draw(st.integers(1, ROWS - 1))
        statements = [f"update ledger_entry set writer = 'normalizer', seq = {ROWS + 1} {where} = {seq}"]
        return statements, {("deleted", seq, seq, None), ("normalizer", "edited", ROWS + 1)}
    seq = draw(st.integers(1, ROWS - 1))
    return [seq], {("rewritten", seq, seq, None)}


async def forge(connection, seq: int, *, link: bytes | None = None) -> bytes:
    """Edit a row and give it a fresh, fitting hash (and another row to follow); return that hash."""
    where = "where writer = 'engine' and seq = %s"
    await connection.execute(f"update ledger_entry set values_received = 77 {where}", (seq,))
    if link is not None:
        await connection.execute(f"update ledger_entry set previous_hash = %s {where}", (link, seq))
    fresh = independent_hash(await row(connection, seq))
    await connection.execute(f"update ledger_entry set hash = %s {where}", (fresh, seq))
    return fresh


def seen(faults: list[Fault]) -> set:
    return {
        (fault.kind, fault.first, fault.last, fault.was)
        if fault.writer == "engine"
        else (fault.writer, fault.kind, fault.first)
        for fault in faults
    }


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tampering=tamperings())
async def test_any_edit_deletion_or_reordering_inside_a_chain_is_located(chains, tampering):
    steps, expected = tampering
    await chains.rollback()
    for step in steps:
        if isinstance(step, int):
            await forge(chains, step)
        else:
            await chains.execute(step)
    assert seen(await verify(chains)) == expected
    await chains.rollback()


async def contents(connection) -> list[tuple]:
    cursor = await connection.execute("select * from ledger_entry order by writer, seq")
    return await cursor.fetchall()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["edit", "delete", "swap", "forge", "cut", "rewrite", "clear"]),
        st.integers(1, ROWS),
        st.integers(1, ROWS),
        st.sampled_from(sorted(EDITS)),
    ),
    max_size=4,
)


async def tamper(connection, action: str, one: int, two: int, column: str) -> None:
    where = "where writer = 'engine' and seq"
    present = [
        found[0]
        for found in await (
            await connection.execute("select seq from ledger_entry where writer = 'engine' order by seq")
        ).fetchall()
    ]
    if action == "edit":
        await connection.execute(f"update ledger_entry set {column} = {EDITS[column]} {where} = {one}")
    elif action == "delete":
        await connection.execute(f"delete from ledger_entry {where} = {one}")
    elif action == "swap":
        for old, new in ((one, -1), (two, one), (-1, two)):
            await connection.execute(f"update ledger_entry set seq = {new} {where} = {old}")
    elif action == "cut":
        await connection.execute(f"delete from ledger_entry {where} >= {one}")
    elif action == "clear":
        await connection.execute("delete from ledger_entry where writer = 'engine'")
    elif action == "forge" and one in present:
        await forge(connection, one)
    elif action == "rewrite":
        link = None
        for seq in (seq for seq in present if seq >= one):
            link = await forge(connection, seq, link=link)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_with_an_anchor_kept_elsewhere_no_change_at_all_stays_unseen(chains, steps):
    await chains.rollback()
    before, anchors = await contents(chains), await ledger.heads(chains)
    for step in steps:
        await tamper(chains, *step)
    is_changed = await contents(chains) != before
    assert bool(await verify(chains, anchors.values())) == is_changed
    await chains.rollback()


async def test_without_an_anchor_a_cut_end_is_unseen_and_with_one_it_is_located(chains):
    anchors = await ledger.heads(chains)
    await chains.execute("delete from ledger_entry where writer = 'engine' and seq > 9")
    assert await verify(chains) == []
    assert seen(await verify(chains, anchors.values())) == {("truncated", 10, ROWS, None)}


async def test_a_chain_removed_whole_is_located_by_its_anchor(chains):
    anchors = await ledger.heads(chains)
    await chains.execute("delete from ledger_entry where writer = 'engine'")
    assert seen(await verify(chains, anchors.values())) == {("truncated", 1, ROWS, None)}


async def test_a_chain_rewritten_to_its_end_is_located_between_anchors(chains):
    anchors = [*(await ledger.heads(chains)).values(), Head("engine", 4, (await row(chains, 4))["hash"])]
    await tamper(chains, "rewrite", 6, 0, "")
    assert await verify(chains) == []
    assert seen(await verify(chains, anchors)) == {("rewritten", 5, ROWS, None)}


async def test_thousands_of_moved_rows_are_one_fault(connection):
    writer = LedgerWriter("engine")
    await writer.open(connection)
    await write(connection, writer, *(pack(n) for n in range(1, 3_001)))
    anchors = (await ledger.heads(connection)).values()
    await connection.execute("set session_replication_role = replica")
    await connection.execute("delete from ledger_entry where seq = 10")
    await connection.execute("update ledger_entry set seq = -seq where seq > 10")
    await connection.execute("update ledger_entry set seq = -seq - 1 where seq < 0")
    expected = {("deleted", 10, 10, None), ("moved", 10, 2_999, 11)}
    assert seen(await verify(connection)) == expected
    assert seen(await verify(connection, anchors)) == expected  # its last row is there, so nothing was cut off


async def test_the_balance_adds_up_per_feed_and_in_all(connection):
    writer = LedgerWriter("normalizer")
    await writer.open(connection)
    lab = Entry(
        at_us=1, kind="pack", feed="lab", position_from=2, position_to=2, messages_received=4, messages_rejected=1,
        messages_duplicate=1, values_received=9, values_rejected=2, values_shed=1, without_value=5,
    )  # fmt: skip
    await write(connection, writer, pack(1, messages_received=10, values_received=120, values_quarantined=3), lab)
    found = await ledger.balance(connection)
    assert set(found.feeds) == {"monitors", "lab"}
    assert found.feeds["lab"].messages == ledger.Tally(4, 0, 1, 0, 1, 0)
    assert (found.feeds["lab"].messages.unaccounted, found.feeds["lab"].without_value) == (2, 5)
    assert found.total.values == ledger.Tally(129, 0, 0, 3, 2, 1)
    assert found.remainder((12, 123)) == Remainder(0, 0)
    assert found.remainder(partition_log.Counts(0, 0)) == Remainder(12, 123)


async def test_an_empty_ledger_balances(connection):
    found = await ledger.balance(connection)
    assert (found.feeds, found.remainder((0, 0))) == ({}, Remainder(0, 0))


async def test_items_and_sums_agree_until_one_of_them_is_changed(connection):
    writer = LedgerWriter("normalizer")
    await writer.open(connection)
    await write(
        connection,
        writer,
        pack(1, messages_received=3, messages_quarantined=1, values_received=30, values_quarantined=13),
    )
    fields = {"feed": "monitors", "where": "PID-3", "received_at_us": 1}
    waiting = Item(
        position=1, raw_index=0, values=12, outcome=Outcome.QUARANTINED, reason=Reason.UNKNOWN_PATIENT, **fields
    )
    value = Item(
        position=1, raw_index=1, value_index=4, values=1, outcome=Outcome.QUARANTINED,
        reason=Reason.IMPLAUSIBLE_VALUE, **fields,
    )  # fmt: skip
    await add(connection, [waiting, value])
    assert await reconcile(connection) == []
    await resolve(connection, [(await waiting_id(connection))], "released", 9)
    assert await reconcile(connection) == [
        ledger_verification.Difference("monitors", "quarantined", "messages", 1, 0),
        ledger_verification.Difference("monitors", "quarantined", "values", 13, 1),
    ]
    released = Entry(
        at_us=5, kind="released", feed="monitors", position_from=9, position_to=9,
        messages_quarantined=-1, values_quarantined=-12,
    )  # fmt: skip
    await connection.commit()
    await write(connection, writer, released)
    assert await reconcile(connection) == []
    await connection.execute("update quarantine_item set outcome = 'rejected' where value_index = 4")
    assert {(one.outcome, one.ledger, one.items) for one in await reconcile(connection)} == {
        ("quarantined", 1, 0),
        ("rejected", 0, 1),
    }


async def waiting_id(connection) -> int:
    found = await (await connection.execute("select item_id from quarantine_item where value_index = -1")).fetchone()
    return found[0]
