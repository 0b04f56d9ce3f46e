"""The audit log's table: append-only for everybody, a role writes its own chains only, and an auditor's questions."""

from __future__ import annotations

import hashlib
import json

import psycopg
import pytest
from psycopg import sql

from stores import audit_log
from stores.audit_log import AUDIT, LONGEST_NAME, AuditEntry, AuditWriter
from stores.chain import GENESIS, link_of, signed_message
from stores.chain_heads import SECTOR_BYTES, HeadFile, KeptHeads
from stores.database import transaction
from vocabulary.errors import BrokenInvariantError, FencedOutError, RefusedError
from vocabulary.signing import SigningKey

NOW_US = 1_760_000_000_123_457


def seen(number: int = 1, **changes) -> AuditEntry:
    fields = {
        "at_us": NOW_US + number, "action": "read", "outcome": "permitted", "surface": "patient", "verb": "read",
        "agent": "https://login.example|nora", "agent_name": "Nora Lind", "role": "nurse", "purpose": "TREAT",
        "patient_id": 7, "rule": "unit", "policy": "0123456789abcdef", "session": "s1", "view": "v1",
        "break_glass_id": None, "detail": '{"a":1}',
    }  # fmt: skip
    return AuditEntry(**(fields | changes))


async def written(connection, writer: AuditWriter, *entries: AuditEntry) -> None:
    await connection.rollback()
    async with transaction(connection):
        await writer.append(connection, entries)
    writer.committed()


@pytest.fixture
async def clinic(connection):
    writer = AuditWriter("clinic", SigningKey.generate())
    await writer.open(connection)
    return writer


async def test_an_event_is_kept_as_it_was_given(connection, clinic):
    await written(connection, clinic, seen(1), seen(2, patient_id=None, break_glass_id=3, outcome="denied"))
    first, second = await audit_log.get(connection, "clinic", 1), await audit_log.get(connection, "clinic", 2)
    assert first is not None
    assert second is not None
    assert (first.entry, second.entry) == (
        seen(1),
        seen(2, patient_id=None, break_glass_id=3, outcome="denied"),
    )
    assert await audit_log.get(connection, "clinic", 3) is None
    assert await audit_log.count(connection) == 2


async def test_hash_link_and_signature_are_what_the_documentation_says(connection):
    key = SigningKey.generate()
    writer = AuditWriter("clinic", key)
    await writer.open(connection)
    await written(connection, writer, seen(1))
    await written(connection, writer, seen(2), seen(3))
    cursor = await connection.execute("select previous_hash, hash, signature, key_id from audit_event order by seq")
    rows = await cursor.fetchall()
    previous = GENESIS
    for number, (stored_previous, digest, signature, key_id) in enumerate(rows, start=1):
        assert stored_previous == previous
        content = [
            "clinic", number, NOW_US + number, "read", "permitted", "patient", "read", "https://login.example|nora",
            "Nora Lind", "nurse", "TREAT", 7, "unit", "0123456789abcdef", "s1", "v1", None, '{"a":1}',
        ]  # fmt: skip
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        assert digest == hashlib.sha256(b"vigil.audit.1\n" + previous + text).digest()
        if signature is None:
            previous = digest
        else:
            first = {1: 1, 3: 2}[number]
            message = b"vigil.chain.signature.2\n" + first.to_bytes(8, "big") + digest
            assert key.verifying.is_valid(signature, message)
            assert signed_message(digest, first) == message
            assert key_id == key.key_id
            previous = hashlib.sha256(b"vigil.chain.link.1\n" + digest + signature + key_id.encode()).digest()
            assert previous == link_of(digest, signature, key_id)
    assert [row[2] is not None for row in rows] == [True, False, True], "one signature an append, on its last row"


@pytest.mark.parametrize("table", ["audit_event", "ledger_entry"])
@pytest.mark.parametrize("change", ["update {} set detail = ''", "delete from {}", "truncate {}"])
async def test_nobody_changes_a_chain_not_even_its_owner(connection, table, change):
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        await connection.execute(sql.SQL(change).format(sql.Identifier(table)))
    await connection.rollback()


ROLES = {
    "vigil_engine": {("ledger_entry", "engine-00"), ("audit_event", "engine-00")},
    "vigil_normalizer": {("ledger_entry", "normalizer"), ("audit_event", "normalizer")},
    "vigil_clinic": {("audit_event", "clinic"), ("audit_event", "clinic-2")},
    "vigil_keeper": {("audit_event", "keeper"), ("ledger_entry", "keeper")},
    "vigil_operator": {("audit_event", "operator"), ("ledger_entry", "operator")},
    "vigil_dagster": {("audit_event", "dagster")},
    "somebody": set(),
}
CHAINS = {place for places in ROLES.values() for place in places} | {
    ("audit_event", "engine-00"), ("audit_event", "clinical"), ("ledger_entry", "clinic"), ("ledger_entry", "engine"),
}  # fmt: skip


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_a_role_appends_to_its_own_chains_and_to_no_other(connection, role):
    identifier = sql.Identifier(role)
    known = await (await connection.execute("select from pg_roles where rolname = %s", (role,))).fetchone()
    if known is None:  # undone with the transaction
        await connection.execute(sql.SQL("create role {}").format(identifier))
    await connection.execute(sql.SQL("grant select, insert on audit_event, ledger_entry to {}").format(identifier))
    permitted = set()
    for table, writer in sorted(CHAINS):
        more = "agent, action, outcome, surface, verb" if table == "audit_event" else "kind, position_from, position_to"
        values = "'a', 'a', 'denied', 'a', 'a'" if table == "audit_event" else "'note', 0, 0"
        columns = f"writer, seq, at, previous_hash, hash, {more}"
        statement = f"insert into {table} ({columns}) values (%s, 1, now(), '', '', {values})"
        await connection.execute("savepoint one")
        await connection.execute(sql.SQL("set local role {}").format(identifier))
        try:
            await connection.execute(statement, (writer,))
            permitted.add((table, writer))
        except psycopg.errors.InsufficientPrivilege:
            pass
        await connection.execute("rollback to savepoint one")
    await connection.rollback()
    expected = ROLES[role] | ({("ledger_entry", "engine")} if role == "vigil_engine" else set())
    assert permitted == expected


async def test_a_stolen_engine_credential_is_a_named_refusal(connection):
    await connection.rollback()
    writer = AuditWriter("clinic")
    await writer.open(connection)
    if await (await connection.execute("select from pg_roles where rolname = 'vigil_engine'")).fetchone() is None:
        await connection.execute("create role vigil_engine")
    await connection.execute("grant select, insert on audit_event to vigil_engine")
    await connection.execute("set local role vigil_engine")
    with pytest.raises(RefusedError, match="vigil_engine may not append to the chain clinic"):
        await writer.append(connection, [seen()])
    await connection.rollback()


async def test_an_auditor_finds_who_looked_at_a_patient_and_what_somebody_did(connection, clinic):
    await written(
        connection, clinic,
        seen(1), seen(2, patient_id=8), seen(3, agent="https://login.example|pavel"),
        seen(4, outcome="denied", surface="audit", patient_id=None),
    )  # fmt: skip

    async def numbers(**wanted) -> list[int]:
        return [event.seq for event in await audit_log.find(connection, **wanted)]

    assert await numbers() == [4, 3, 2, 1]
    assert await numbers(patient_ids=[7]) == [3, 1]
    assert await numbers(agent="https://login.example|nora") == [4, 2, 1]
    assert await numbers(patient_ids=[7], agent="https://login.example|nora") == [1]
    assert await numbers(outcome="denied") == [4]
    assert await numbers(surface="patient", limit=2) == [3, 2]
    assert await numbers(since_us=NOW_US + 2, until_us=NOW_US + 4) == [3, 2]


async def test_text_that_postgresql_cannot_hold_or_index_is_still_kept_and_verifies(connection, clinic):
    odd = seen(agent="a" * 5_000, agent_name="x\x00\ud800", detail="é\x00" * 3_000)
    await written(connection, clinic, odd)
    found = await audit_log.get(connection, "clinic", 1)
    assert found is not None
    assert len(found.entry.agent) == LONGEST_NAME
    assert found.entry.agent_name == "x\u2400\ufffd"
    assert found.entry.detail == "é\u2400" * 3_000
    assert AUDIT.row_hash(GENESIS, ["clinic", 1, *audit_log.content_of(odd)[:1], *audit_log.content_of(odd)[1]]) == (
        found.hash
    )


@pytest.mark.parametrize("word", ["action", "surface", "verb", "agent"])
async def test_an_event_without_its_words_is_a_defect(connection, clinic, word):
    with pytest.raises(BrokenInvariantError, match="names its action"):
        await clinic.append(connection, [seen(**{word: ""})])


async def test_a_second_writer_of_the_same_name_is_fenced_out_and_a_shared_chain_is_not(connection):
    first, second = AuditWriter("clinic"), AuditWriter("clinic")
    await first.open(connection)
    await second.open(connection)
    await written(connection, first, seen(1))
    with pytest.raises(FencedOutError, match="same name"):
        await second.append(connection, [seen(2)])
    await connection.rollback()
    one, other = AuditWriter("operator", is_shared=True), AuditWriter("operator", is_shared=True)
    for writer in (one, other, one):
        await written(connection, writer, seen(1), seen(2))
    cursor = await connection.execute("select max(seq), count(*) from audit_event where writer = 'operator'")
    assert await cursor.fetchone() == (6, 6)


async def test_the_end_is_kept_outside_only_once_it_is_committed(connection, tmp_path):
    heads = HeadFile(tmp_path / "heads")
    writer = AuditWriter("clinic", SigningKey.generate(), heads)
    await writer.open(connection)
    await connection.commit()
    await writer.append(connection, [seen(1)])
    assert heads.read_all() == KeptHeads([], [])
    await connection.rollback()
    writer.rolled_back()
    await written(connection, writer, seen(2), seen(3))
    (kept,) = heads.read_all().heads
    found = await audit_log.get(connection, "clinic", 2)
    assert found is not None
    assert (kept.table, kept.writer, kept.seq, kept.hash) == ("audit_event", "clinic", 2, found.hash)
    assert (kept.signature_bytes, kept.key_id) == (found.signature, found.key_id)
    assert [path.name for path in heads.folder.iterdir()] == ["audit_event.clinic.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"table":"a","writer":"b","seq":1,"hash":"00"}', b"\xff"])
def test_a_kept_end_that_a_loss_of_power_left_torn_is_named_as_damaged(tmp_path, content):
    (tmp_path / "audit_event.clinic.json").write_bytes(content)
    assert HeadFile(tmp_path).read_all() == KeptHeads([], ["audit_event.clinic.json"])
    assert HeadFile(tmp_path).read("audit_event", "clinic") is None


def test_an_end_is_written_in_place_in_one_sector_and_a_torn_one_is_not_believed(tmp_path):
    heads, path = HeadFile(tmp_path), tmp_path / "audit_event.clinic-64.json"
    for seq in (10**15, 7):
        heads.write("audit_event", "clinic-64", seq, b"h" * 32, b"s" * 64, "k" * 16)
        assert path.stat().st_size == SECTOR_BYTES
        kept = heads.read("audit_event", "clinic-64")
        assert kept is not None
        assert (kept.seq, kept.hash, kept.signature_bytes) == (seq, b"h" * 32, b"s" * 64)
    path.write_bytes(path.read_bytes().replace(b'"seq":7', b'"seq":8'))
    assert heads.read("audit_event", "clinic-64") is None
    assert heads.read_all().damaged == [path.name]


def test_a_disk_that_refuses_the_kept_end_does_not_undo_what_was_committed(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    heads = HeadFile(blocked / "heads")
    for _ in range(3):
        heads.write("audit_event", "clinic", 1, b"h" * 32, None, None)
    assert [record.message for record in caplog.records] == ["chain_end_not_kept"]


def test_a_writers_name_cannot_leave_the_folder(tmp_path):
    with pytest.raises(ValueError, match="writer's name"):
        HeadFile(tmp_path).write("audit_event", "../x", 1, b"h" * 32, None, None)
