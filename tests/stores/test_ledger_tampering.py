"""A database superuser tampers with signed chains, a hundred times at random: each time it is found, and where."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import pytest

from stores import audit_log, ledger
from stores.audit_log import AUDIT, AuditEntry, AuditWriter
from stores.chain import GENESIS, ChainTable, Content, Head, link_of, old_signed_message, signed_message
from stores.chain_heads import HeadFile
from stores.chain_verification import Fault, Row, WriterKeys
from stores.database import Connection, to_timestamp, transaction
from stores.ledger import LEDGER, Entry, LedgerWriter
from stores.ledger_verification import DatabaseRows, Evidence, judge, missing_guards
from vocabulary.errors import UnavailableError
from vocabulary.signing import SigningKey

NOW_US = 1_760_000_000_123_457
TABLES = {"audit_event": AUDIT, "ledger_entry": LEDGER}
NAMES = {"audit_event": ("clinic", "operator"), "ledger_entry": ("engine-00", "normalizer")}


class House(NamedTuple):
    """Four signed chains, and what is known of them outside of the database."""

    connection: Connection
    keys: dict[str, SigningKey]
    heads: HeadFile
    appends: dict[tuple[str, str], list[tuple[int, int]]]

    def evidence(self, table: str) -> Evidence:
        anchors: dict[str, dict[int, bytes]] = {}
        for kept in self.heads.read_all().heads:
            if kept.table == table:
                link = link_of(kept.hash, kept.signature_bytes, kept.key_id)
                anchors.setdefault(kept.writer, {})[kept.seq] = link
        return Evidence(anchors, keys=self.known)

    def known(self, writer: str) -> WriterKeys:
        key = self.keys.get(writer)
        return WriterKeys({} if key is None else {key.key_id: key.verifying}, NOW_US)

    async def faults(self) -> list[Fault]:
        found: list[Fault] = []
        for name, table in TABLES.items():
            found += (await judge(DatabaseRows(self.connection), table, self.evidence(name))).faults
        return found

    def append_of(self, chain: tuple[str, str], seq: int) -> tuple[int, int]:
        return next((first, last) for first, last in self.appends[chain] if first <= seq <= last)

    def size(self, chain: tuple[str, str]) -> int:
        return self.appends[chain][-1][1]


def event(number: int) -> AuditEntry:
    return AuditEntry(
        at_us=NOW_US + number, action="read", outcome="permitted", surface="patient", verb="read",
        agent=f"https://login.example|{number % 7}", patient_id=number if number % 3 else None, rule="treating",
    )  # fmt: skip


def entry(number: int) -> Entry:
    return Entry(at_us=NOW_US + number, kind="pack", feed="adt", position_from=number, position_to=number)


@pytest.fixture
async def house(connection, tmp_path):
    heads = HeadFile(tmp_path / "heads")
    found = House(connection, {}, heads, {})
    rng = random.Random(11)
    for table, names in NAMES.items():
        for name in names:
            key = found.keys[name] = SigningKey.generate()
            writer = AuditWriter(name, key, heads) if table == "audit_event" else LedgerWriter(name, key, heads)
            make = event if table == "audit_event" else entry
            await writer.open(connection)
            await connection.commit()
            last = 0
            for size in [rng.randint(1, 5) for _ in range(8)]:
                async with transaction(connection):
                    await writer.append(connection, [make(last + n) for n in range(1, size + 1)])
                writer.committed()
                found.appends.setdefault((table, name), []).append((last + 1, last + size))
                last += size
    await connection.execute("set session_replication_role = replica")  # a superuser puts the guards aside
    await connection.commit()
    return found


class Tampering(NamedTuple):
    """What was done: the rows that must be named, and the ranges that may be."""

    must: set[tuple[str, str, int]]
    may: dict[tuple[str, str], tuple[int, int]]


Chain = tuple[str, str]


async def stored(house: House, chain: Chain, first: int = 1) -> list[Row]:
    rows: list[Row] = []
    async for batch in DatabaseRows(house.connection).chain(TABLES[chain[0]], chain[1], first):
        rows += batch
    return rows


async def put_hash(house: House, chain: Chain, row: Row, previous: bytes, digest: bytes, *more: object) -> None:
    await house.connection.execute(
        f"update {chain[0]} set previous_hash = %s, hash = %s where writer = %s and seq = %s",
        (previous, digest, chain[1], row.seq),
    )


EDITS = {
    "audit_event": {
        "at": "at - interval '1 hour'", "action": "'forged'", "outcome": "'failed'",
        "surface": "'board'", "verb": "'search'", "agent": "'nobody|0'", "agent_name": "'x'", "role": "'nurse'",
        "purpose": "'TREAT'", "patient_id": "coalesce(patient_id, 0) + 1", "rule": "'x'", "policy": "'x'",
        "session": "'x'", "view": "'x'", "break_glass_id": "7", "detail": "'{}'",
    },
    "ledger_entry": {
        "at": "'infinity'", "kind": "'note'", "feed": "'x'", "position_from": "position_from - 1",
        "position_to": "position_to + 1", "detail": "'x'", **{name: f"{name} + 1" for name in ledger.COUNTS},
    },
}  # fmt: skip
KEPT = {"previous_hash": "sha256(previous_hash)", "hash": "sha256(hash)"}


def around(house: House, chain: Chain, *seqs: int) -> dict[Chain, tuple[int, int]]:
    ranges = [house.append_of(chain, seq) for seq in seqs]
    return {chain: (min(first for first, _ in ranges), max(last for _, last in ranges))}


async def edit(house: House, rng: random.Random, chain: Chain) -> Tampering:
    seq = rng.randint(1, house.size(chain))
    edits = EDITS[chain[0]] | KEPT
    column = rng.choice(sorted(edits))
    await house.connection.execute(
        f"update {chain[0]} set {column} = {edits[column]} where writer = %s and seq = %s", (chain[1], seq)
    )
    return Tampering({(*chain, seq)}, around(house, chain, seq))


async def edit_and_hash(house: House, rng: random.Random, chain: Chain) -> Tampering:
    seq = rng.randint(1, house.size(chain))
    edits = EDITS[chain[0]]
    column = rng.choice(sorted(edits))
    await house.connection.execute(
        f"update {chain[0]} set {column} = {edits[column]} where writer = %s and seq = %s", (chain[1], seq)
    )
    row = (await stored(house, chain, seq))[0]
    await put_hash(house, chain, row, row.previous, TABLES[chain[0]].row_hash(row.previous, row.content))
    return Tampering({(*chain, seq)}, around(house, chain, seq))


async def edit_and_remake(
    house: House, rng: random.Random, chain: Chain, *, key: SigningKey | None = None
) -> Tampering:
    """Edit a row, then give it and all behind it fresh, fitting hashes; sign them with a key of his own, or not."""
    seq = rng.randint(1, house.size(chain))
    await house.connection.execute(
        f"update {chain[0]} set detail = 'forged' where writer = %s and seq = %s", (chain[1], seq)
    )
    rows = await stored(house, chain, seq)
    previous = rows[0].previous
    for row in rows:
        digest = TABLES[chain[0]].row_hash(previous, row.content)
        begin = house.append_of(chain, row.seq)[0]
        signature, key_id = row.signature, row.key_id
        if key is not None and signature is not None:
            signature = key.sign(signed_message(digest, begin))
            key_id = key.key_id if rng.random() < 0.5 else key_id
        await house.connection.execute(
            f"update {chain[0]} set previous_hash = %s, hash = %s, signature = %s, key_id = %s "
            "where writer = %s and seq = %s",
            (previous, digest, signature, key_id, chain[1], row.seq),
        )
        previous = link_of(digest, signature, key_id)
    return Tampering({(*chain, seq)}, {chain: (house.append_of(chain, seq)[0], house.size(chain))})


async def edit_and_sign(house: House, rng: random.Random, chain: Chain) -> Tampering:
    return await edit_and_remake(house, rng, chain, key=SigningKey.generate())


async def delete(house: House, rng: random.Random, chain: Chain) -> Tampering:
    first = rng.randint(1, house.size(chain) - 1)
    last = rng.choice([first, rng.randint(first, house.size(chain) - 1)])
    await house.connection.execute(
        f"delete from {chain[0]} where writer = %s and seq between %s and %s", (chain[1], first, last)
    )
    return Tampering({(*chain, seq) for seq in range(first, last + 1)}, around(house, chain, first, last))


async def renumber(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """Delete a row and close the gap behind it."""
    seq = rng.randint(1, house.size(chain) - 1)
    for statement in (
        f"delete from {chain[0]} where writer = %(writer)s and seq = %(seq)s",
        f"update {chain[0]} set seq = -seq where writer = %(writer)s and seq > %(seq)s",
        f"update {chain[0]} set seq = -seq - 1 where writer = %(writer)s and seq < 0",
    ):
        await house.connection.execute(statement, {"writer": chain[1], "seq": seq})
    return Tampering({(*chain, seq)}, {chain: (house.append_of(chain, seq)[0], house.size(chain))})


async def swap(house: House, rng: random.Random, chain: Chain) -> Tampering:
    low, high = sorted(rng.sample(range(1, house.size(chain) + 1), 2))
    for old, new in ((low, -1), (high, low), (-1, high)):
        await house.connection.execute(
            f"update {chain[0]} set seq = %s where writer = %s and seq = %s", (new, chain[1], old)
        )
    return Tampering({(*chain, low), (*chain, high)}, around(house, chain, low, high))


async def truncate(house: House, rng: random.Random, chain: Chain) -> Tampering:
    first = rng.randint(2, house.size(chain))
    await house.connection.execute(f"delete from {chain[0]} where writer = %s and seq >= %s", (chain[1], first))
    missing = {(*chain, seq) for seq in range(first, house.size(chain) + 1)}
    return Tampering(missing, {chain: (house.append_of(chain, first)[0], house.size(chain))})


async def drop(house: House, rng: random.Random, chain: Chain) -> Tampering:
    await house.connection.execute(f"delete from {chain[0]} where writer = %s", (chain[1],))
    return Tampering({(*chain, seq) for seq in range(1, house.size(chain) + 1)}, {chain: (1, house.size(chain))})


async def insert_copy(house: House, source: Chain, seq: int, changes: dict[str, object]) -> None:
    table = TABLES[source[0]]
    names = [*table.names, "previous_hash", "hash", "signature", "key_id"]
    wanted = ", ".join("%(" + name + ")s" if name in changes else name for name in names)
    await house.connection.execute(
        f"insert into {table.name} ({', '.join(names)}) select {wanted} from {table.name} "
        "where writer = %(from_writer)s and seq = %(from_seq)s",
        {**changes, "from_writer": source[1], "from_seq": seq},
    )


async def forge_at_end(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """A new row that fits the chain perfectly, unsigned or signed with a key of his own, or with a signature copied."""
    last = (await stored(house, chain, house.size(chain)))[0]
    seq = last.seq + 1
    previous = link_of(last.hash, last.signature, last.key_id)
    content = (chain[1], seq, *last.content[2:])
    digest = TABLES[chain[0]].row_hash(previous, content)
    key = SigningKey.generate()
    signature, key_id = rng.choice(
        [(None, None), (key.sign(signed_message(digest, seq)), key.key_id), (last.signature, last.key_id)]
    )
    await insert_copy(
        house, chain, last.seq,
        {"seq": seq, "previous_hash": previous, "hash": digest, "signature": signature, "key_id": key_id},
    )  # fmt: skip
    return Tampering({(*chain, seq)}, {chain: (seq, seq)})


async def copy_from_another(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """A genuine, signed row of another chain over one of this, or behind its end."""
    other = next((chain[0], name) for name in NAMES[chain[0]] if name != chain[1])
    place = rng.randint(1, house.size(chain) + 1)
    await house.connection.execute(f"delete from {chain[0]} where writer = %s and seq = %s", (chain[1], place))
    await insert_copy(house, other, rng.randint(1, house.size(other)), {"writer": chain[1], "seq": place})
    if place > house.size(chain):
        return Tampering({(*chain, place)}, {chain: (place, place)})
    return Tampering({(*chain, place)}, around(house, chain, place))


async def new_chain(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """A chain of a writer that nobody registered, with fitting hashes."""
    content = ("ghost", 1, *(await stored(house, chain))[0].content[2:])
    digest = TABLES[chain[0]].row_hash(GENESIS, content)
    await insert_copy(
        house, chain, 1,
        {"writer": "ghost", "previous_hash": GENESIS, "hash": digest, "signature": None, "key_id": None},
    )  # fmt: skip
    ghost = (chain[0], "ghost")
    return Tampering({(*ghost, 1)}, {ghost: (1, 1)})


async def edit_signature(house: House, rng: random.Random, chain: Chain) -> Tampering:
    _, seq = rng.choice(house.appends[chain])
    row = (await stored(house, chain, seq))[0]
    assert row.signature is not None
    other = (await stored(house, chain, house.appends[chain][0][1]))[0]
    assert other.signature is not None
    changes = [
        ("signature = null, key_id = null", ()),
        ("signature = %s", (row.signature[:-1] + bytes([row.signature[-1] ^ 1]),)),
        ("signature = %s", (bytes(64),)),
        ("key_id = %s", ("0" * 16,)),
        ("signature = %s, key_id = %s", (SigningKey.generate().sign(signed_message(row.hash, seq)), "ab" * 8)),
    ]
    change, values = rng.choice(changes)
    await house.connection.execute(
        f"update {chain[0]} set {change} where writer = %s and seq = %s", (*values, chain[1], seq)
    )
    return Tampering({(*chain, seq)}, around(house, chain, seq))


async def sign_another(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """Give an unsigned row inside an append a signature."""
    inner = [seq for first, last in house.appends[chain] for seq in range(first, last)]
    seq = rng.choice(inner)
    await house.connection.execute(
        f"update {chain[0]} set signature = %s, key_id = 'x' where writer = %s and seq = %s",
        (os.urandom(64), chain[1], seq),
    )
    return Tampering({(*chain, seq)}, around(house, chain, seq))


async def forge_rows(house: House, table: ChainTable, writer: str, after: Head, contents: list[Content]) -> None:
    """Append unsigned rows with fitting hashes by plain SQL."""
    head = after
    names = ", ".join([*table.names, "previous_hash", "hash"])
    places = ", ".join(["%s"] * (len(table.names) + 2))
    for content in contents:
        seq = head.seq + 1
        digest = table.row_hash(head.link, (writer, seq, content.at_us, *content.rest))
        await house.connection.execute(
            f"insert into {table.name} ({names}) values ({places})",
            (writer, seq, to_timestamp(content.at_us), *content.rest, head.link, digest),
        )
        head = Head(writer, seq, digest)


def contents_of(table: ChainTable, numbers: list[int]) -> list[Content]:
    if table is AUDIT:
        return [audit_log.content_of(event(number)) for number in numbers]
    return [ledger.content_of(entry(number)) for number in numbers]


async def end_of(house: House, chain: Chain) -> Head:
    last = (await stored(house, chain, house.size(chain)))[0]
    return Head(chain[1], last.seq, last.hash, last.signature, last.key_id)


async def insert_and_go_on(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """Forged rows at the end; the writer comes back, goes on behind them, and signs."""
    table = TABLES[chain[0]]
    size, count = house.size(chain), rng.randint(1, 4)
    numbers = [rng.choice([-1_000, 800]) for _ in range(count)]
    await forge_rows(house, table, chain[1], await end_of(house, chain), contents_of(table, numbers))
    make = AuditWriter if table is AUDIT else LedgerWriter
    again = make(chain[1], house.keys[chain[1]], HeadFile(house.heads.folder.with_name(f"other-{rng.random()}")))
    await again.open(house.connection)
    await again.chain.append(house.connection, contents_of(table, list(range(900, 900 + rng.randint(1, 4)))))
    again.committed()
    return Tampering({(*chain, size + n) for n in range(1, count + 1)}, {chain: (size + 1, size + count)})


async def invented_chain(house: House, rng: random.Random, chain: Chain) -> Tampering:
    """A whole chain of a process that is known, unsigned, dated before its key."""
    table = TABLES[chain[0]]
    writer, count = f"{chain[1]}-b", rng.randint(1, 4)
    house.keys[writer] = house.keys[chain[1]]
    await forge_rows(house, table, writer, Head(writer, 0, GENESIS), contents_of(table, [-1_000] * count))
    return Tampering({(table.name, writer, n) for n in range(1, count + 1)}, {(table.name, writer): (1, count)})


KINDS: list[Callable[[House, random.Random, Chain], Awaitable[Tampering]]] = [
    edit, edit_and_hash, edit_and_remake, edit_and_sign, delete, renumber, swap, truncate, drop, forge_at_end,
    copy_from_another, new_chain, edit_signature, sign_another,
    insert_and_go_on, invented_chain,
]  # fmt: skip
TAMPERINGS = 100


def misjudged(house: House, done: Tampering, faults: list[Fault]) -> str | None:
    """Return why the faults do not say where it was, None if they do."""
    for table, writer, seq in done.must:
        named = [f for f in faults if (f.table, f.writer) == (table, writer) and f.first <= seq <= f.last]
        if not named:
            return f"row {seq} of {writer} is not named"
    for fault in faults:
        allowed = done.may.get((fault.table, fault.writer))
        if allowed is None or fault.first < allowed[0] or fault.last > allowed[1]:
            return f"{fault} is wider than {allowed}"
    return None


async def test_untouched_chains_are_whole(house):
    assert await house.faults() == []
    assert await missing_guards(house.connection) == []


async def test_each_of_100_random_tamperings_is_found_and_located(house):
    base = int.from_bytes(os.urandom(4), "big")
    failures = []
    for number in range(TAMPERINGS):
        rng = random.Random(base + number)
        table = rng.choice(sorted(NAMES))
        chain = (table, rng.choice(NAMES[table]))
        kind = KINDS[number % len(KINDS)]
        done = await kind(house, rng, chain)
        faults = await house.faults()
        wrong = misjudged(house, done, faults)
        if wrong is not None:
            failures.append(f"seed {base + number}, {kind.__name__} of {chain}: {wrong}; said {faults}")
        await house.connection.rollback()
    assert failures == []
    assert await house.faults() == []


async def test_a_chain_made_anew_is_located_in_the_first_append_that_was_touched(house):
    for seed in range(20):
        done = await edit_and_remake(house, random.Random(seed), ("audit_event", "clinic"))
        ((table, writer, seq),) = done.must
        first, *rest = await house.faults()
        append = house.append_of((table, writer), seq)
        assert (first.kind, first.first, first.last) == ("rewritten", *append)
        assert all(fault.kind == "remade" and fault.first == append[1] + 1 for fault in rest)
        await house.connection.rollback()


async def test_a_superuser_who_is_followed_by_the_true_writer_is_still_found(house):
    """The writer was restarted on a forged end and vouches for it unwittingly: the forged append still shows."""
    chain = ("audit_event", "clinic")
    await edit_and_remake(house, random.Random(3), chain)
    await house.connection.commit()
    again = AuditWriter("clinic", house.keys["clinic"], house.heads)
    await again.open(house.connection)
    await house.connection.commit()
    async with transaction(house.connection):
        await again.append(house.connection, [event(900)])
    again.committed()
    kinds = {fault.kind for fault in await house.faults()}
    assert "rewritten" in kinds
    aside = [path.name for path in house.heads.folder.glob("*.lost.json")]
    assert len(aside) == 1
    assert aside[0].startswith(f"audit_event.clinic.{house.size(chain)}-")


async def test_rows_cut_off_and_written_over_by_the_true_writer_are_still_missed(house):
    chain = ("ledger_entry", "normalizer")
    size = house.size(chain)
    await house.connection.execute("delete from ledger_entry where writer = 'normalizer' and seq > 6")
    await house.connection.commit()
    again = LedgerWriter("normalizer", house.keys["normalizer"], house.heads)
    await again.open(house.connection)
    for _ in range(2):
        await house.connection.commit()
        async with transaction(house.connection):
            await again.append(house.connection, [entry(900)])
        again.committed()
    (fault,) = await house.faults()
    assert (fault.kind, fault.writer, fault.last) == ("truncated", "normalizer", size)


async def test_a_crash_between_commit_and_the_kept_end_is_no_fault(house):
    silent = AuditWriter("clinic", house.keys["clinic"], None)
    await silent.open(house.connection)
    await house.connection.commit()
    async with transaction(house.connection):
        await silent.append(house.connection, [event(901), event(902)])
    silent.committed()
    assert await house.faults() == []


async def test_a_chain_that_began_without_keys_stays_valid(connection):
    old = LedgerWriter("engine-07")
    await old.open(connection)
    await connection.commit()
    async with transaction(connection):
        await old.append(connection, [entry(1), entry(2)])
    old.committed()
    key = SigningKey.generate()
    known = WriterKeys({key.key_id: key.verifying}, NOW_US + 100)

    async def faults() -> list[Fault]:
        evidence = Evidence({}, legacy={"engine-07": 2}, keys=lambda _: known)
        return (await judge(DatabaseRows(connection), LEDGER, evidence)).faults

    assert await faults() == [], "registered, and not started yet"
    signing = LedgerWriter("engine-07", key)
    await signing.open(connection)
    await connection.commit()
    async with transaction(connection):
        await signing.append(connection, [entry(200), entry(201)])
    signing.committed()
    assert await faults() == []
    await connection.rollback()
    await connection.execute("set session_replication_role = replica")
    await connection.execute("update ledger_entry set values_received = 1 where seq = 1")
    assert [(fault.kind, fault.first, fault.last) for fault in await faults()] == [("edited", 1, 1)]
    await connection.rollback()
    await connection.execute("set session_replication_role = replica")
    await connection.execute("update ledger_entry set signature = null, key_id = null where seq = 4")
    assert [(fault.kind, fault.first, fault.last) for fault in await faults()] == [("unvouched", 3, 4)]
    await connection.rollback()
    for pinned, expected in ((1, (2, 2)), (0, (1, 2)), (4, None)):
        evidence = Evidence({}, legacy={"engine-07": pinned}, keys=lambda _: known)
        found = (await judge(DatabaseRows(connection), LEDGER, evidence)).faults
        assert [(fault.kind, fault.first, fault.last) for fault in found] == (
            [] if expected is None else [("unvouched", *expected)]
        )


async def test_signatures_from_before_they_said_where_an_append_begins_stay_valid(house, monkeypatch):
    key = SigningKey.generate()
    house.keys["engine-01"] = key
    writer = LedgerWriter("engine-01", key)
    await writer.open(house.connection)
    with monkeypatch.context() as patch:
        patch.setattr("stores.chain.signed_message", lambda row_hash, _: old_signed_message(row_hash))
        for _ in range(2):
            await writer.append(house.connection, [entry(1), entry(2)])
    await writer.append(house.connection, [entry(3), entry(4)])
    writer.committed()
    assert await house.faults() == []
    await forge_rows(house, LEDGER, "engine-01", await end_at(house, 6), contents_of(LEDGER, [7, 8]))
    again = LedgerWriter("engine-01", key)
    await again.open(house.connection)
    await again.append(house.connection, [entry(9)])
    assert [(fault.kind, fault.first, fault.last) for fault in await house.faults()] == [("unvouched", 7, 8)]


async def end_at(house: House, seq: int) -> Head:
    row = (await stored(house, ("ledger_entry", "engine-01"), seq))[0]
    return Head("engine-01", seq, row.hash, row.signature, row.key_id)


async def test_a_writer_that_goes_on_behind_foreign_rows_logs_an_error(house, caplog):
    chain = ("audit_event", "operator")
    shared = AuditWriter("operator", house.keys["operator"], house.heads, is_shared=True)
    await shared.open(house.connection)
    await shared.append(house.connection, [event(900)])
    shared.committed()
    assert caplog.records == []
    house.appends[chain].append((house.size(chain) + 1, house.size(chain) + 1))
    await forge_rows(house, AUDIT, "operator", await end_of(house, chain), contents_of(AUDIT, [901]))
    await shared.append(house.connection, [event(902)])
    shared.committed()
    ((_, level, message),) = caplog.record_tuples
    assert (level, message) == (logging.ERROR, "chain_end_is_foreign")
    (fault,) = await house.faults()
    assert (fault.kind, fault.first, fault.last) == ("unvouched", house.size(chain) + 1, house.size(chain) + 1)
    caplog.clear()
    await AuditWriter("operator", house.keys["operator"]).open(house.connection)
    await AuditWriter("clinic", house.keys["clinic"]).open(house.connection)
    assert caplog.records == [], "without kept ends, their own signature tells it"


@pytest.mark.parametrize(
    "trap",
    [
        "create rule quiet as on insert to audit_event where new.agent like '%mallory' do instead nothing",
        """create function quiet() returns trigger language plpgsql as 'begin return null; end';
        create trigger quiet before insert on audit_event for each row execute function quiet()""",
    ],
)
async def test_an_event_that_the_database_drops_is_not_written(connection, trap):
    writer = AuditWriter("clinic", SigningKey.generate())
    await writer.open(connection)
    await connection.execute(trap)
    with pytest.raises(UnavailableError, match=r"2 rows were to be written, PostgreSQL kept [01]"):
        await writer.append(connection, [event(1), msgspec.structs.replace(event(2), agent="i|mallory")])
    assert writer.chain.staged is None
    (said,) = await missing_guards(connection)
    assert said.startswith("audit_event: quiet (a ")
    await connection.rollback()


async def test_a_guard_that_fires_for_replicas_only_is_named(connection):
    await connection.execute("alter table audit_event enable replica trigger audit_event_is_append_only")
    assert await missing_guards(connection) == ["audit_event: audit_event_is_append_only"]
    await connection.rollback()


async def test_a_guard_that_was_disabled_is_named(connection):
    await connection.execute("alter table audit_event disable trigger audit_event_is_append_only")
    assert await missing_guards(connection) == ["audit_event: audit_event_is_append_only"]
    await connection.rollback()


def test_the_link_of_an_unsigned_row_is_its_hash():
    head = Head("engine", 3, b"h" * 32)
    assert head.link == b"h" * 32
    assert Head("engine", 3, b"h" * 32, b"s" * 64, "k").link != head.link
    assert Head("engine", 0, GENESIS, b"s" * 64, "k").link == GENESIS


def test_audit_and_ledger_rows_never_share_a_hash():
    content = ("clinic", 1, NOW_US)
    assert AUDIT.row_hash(GENESIS, content) != LEDGER.row_hash(GENESIS, content)
    assert audit_log.AUDIT.version != ledger.LEDGER.version
