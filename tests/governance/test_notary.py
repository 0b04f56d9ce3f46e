"""The notary: keys outside of the database, one signed root a day, proofs, and judging both tables by them."""

from __future__ import annotations

import json
from datetime import date

import msgspec
import pytest

from governance import daily_roots, notary
from governance.audit_export import FolderRows, export
from governance.chain_audit import Finding, describe, gather, judge_all
from governance.daily_roots import FIRST, day_of, end_us
from governance.inclusion import is_proven, prove
from stores import merkle
from stores.audit_log import AUDIT, AuditEntry, AuditWriter
from stores.audit_log import content_of as audit_content
from stores.chain import Chain
from stores.database import connect, consistent_read, migrate, transaction
from stores.ledger import LEDGER, Entry, LedgerWriter
from stores.ledger import content_of as ledger_content
from stores.ledger_verification import DatabaseRows
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

DAY_US = 86_400_000_000
FIRST_DAY = date(2026, 1, 30)
START_US = end_us(FIRST_DAY) - DAY_US


def event(at_us: int, number: int = 1) -> AuditEntry:
    return AuditEntry(
        at_us=at_us, action="read", outcome="permitted", surface="patient", verb="read", agent="i|nora",
        patient_id=number,
    )  # fmt: skip


def entry(at_us: int, number: int = 1) -> Entry:
    return Entry(at_us=at_us, kind="pack", feed="adt", position_from=number, position_to=number)


class Site:
    """A database and its anchors, with a clinic and an engine that write."""

    def __init__(self, connection, settings: Settings) -> None:
        self.connection = connection
        self.settings = settings
        self.clock = ManualClock(START_US)
        heads = notary.heads_of(settings)
        keys = {name: SigningKey.generate() for name in ("clinic", "engine")}
        for name, key in keys.items():
            notary.register_key(settings, name, key.verifying, self.clock)
        self.clinic = AuditWriter("clinic", keys["clinic"], heads)
        self.engine = LedgerWriter("engine-00", keys["engine"], heads)

    async def open(self) -> None:
        async with transaction(self.connection):
            await self.clinic.open(self.connection)
            await self.engine.open(self.connection)

    async def write(self, *entries: AuditEntry | Entry) -> None:
        events = [one for one in entries if isinstance(one, AuditEntry)]
        packs = [one for one in entries if isinstance(one, Entry)]
        async with transaction(self.connection):
            await self.clinic.append(self.connection, events)
            await self.engine.append(self.connection, packs)
        self.clinic.committed()
        self.engine.committed()

    async def sign(self) -> list[date]:
        return await notary.sign_due_days(self.connection, self.settings, self.clock)

    def at_day(self, number: int, seconds: float = 60) -> None:
        wanted = START_US + number * DAY_US + int(seconds * 1_000_000)
        self.clock.advance((wanted - self.clock.now_us()) / 1_000_000)

    def roots(self) -> list[daily_roots.RootFile]:
        return daily_roots.read(notary.roots_dir(self.settings.anchors_dir))[0]

    async def judge(self, **more) -> Finding:
        anchors = gather(self.settings.anchors_dir)
        async with consistent_read(self.connection):
            return await judge_all(DatabaseRows(self.connection), anchors, **more)

    async def tamper(self, *statements: str) -> None:
        async with transaction(self.connection):
            await self.connection.execute("set local session_replication_role = replica")
            for statement in statements:
                await self.connection.execute(statement)


@pytest.fixture
async def site(database_url, tmp_path):
    await migrate(database_url)
    connection = await connect(database_url, application_name="test notary")
    found = Site(connection, Settings(data_dir=tmp_path / "data", site="st-anna"))
    await found.open()
    yield found
    await connection.close()


@pytest.fixture
async def three_days(site):
    """Three days of rows; the first two are finished and signed."""
    for day in range(3):
        for number in range(4):
            at_us = START_US + day * DAY_US + number * 3_600_000_000
            await site.write(event(at_us, number), event(at_us + 1, number), entry(at_us, number))
    site.at_day(2, seconds=12 * 3_600)
    await site.sign()
    return site


# -- keys


def test_a_key_is_registered_once_and_stays(tmp_path):
    settings = Settings(data_dir=tmp_path)
    first, second = SigningKey.generate(), SigningKey.generate()
    clock = ManualClock(5)
    assert notary.read_keys(settings.anchors_dir) is None
    assert notary.register_key(settings, "engine", first.verifying, clock) is True
    clock.advance(1)
    assert notary.register_key(settings, "engine", first.verifying, clock) is False
    assert notary.register_key(settings, "engine", second.verifying, clock) is True
    keys = notary.read_keys(settings.anchors_dir)
    assert keys is not None
    for writer in ("engine", "engine-00", "engine-32"):
        assert set(keys.of(writer).keys) == {first.key_id, second.key_id}
        assert keys.of(writer).since_us == 5
    assert keys.of("enginex").keys == {}
    assert keys.notary == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[{}]", b'[{"name":"a","key_id":"b","public":"c","since_us":1}]', b"\xff"],
)
def test_a_damaged_file_of_keys_is_a_clear_error(tmp_path, content):
    notary.keys_path(tmp_path).write_bytes(content)
    with pytest.raises(ConfigurationError):
        notary.read_keys(tmp_path)


def test_a_key_under_anothers_id_is_refused(tmp_path):
    key, other = SigningKey.generate(), SigningKey.generate()
    record = [{"name": "engine", "key_id": other.key_id, "public": key.verifying.text(), "since_us": 0}]
    notary.keys_path(tmp_path).write_text(json.dumps(record))
    with pytest.raises(ConfigurationError, match="is not the one it says"):
        notary.read_keys(tmp_path)


def test_the_notary_has_one_key_for_its_owners_eyes_only(tmp_path):
    settings = Settings(data_dir=tmp_path)
    first, again = notary.ensure_notary(settings), notary.ensure_notary(settings)
    assert first.key_id == again.key_id
    assert (settings.keys_dir / "notary.key").stat().st_mode & 0o777 == 0o600
    keys = notary.read_keys(settings.anchors_dir)
    assert keys is not None
    assert set(keys.notary) == {first.key_id}


# -- signing


async def test_nothing_is_signed_before_the_first_day_is_over(site):
    assert await site.sign() == []
    await site.write(event(START_US + 5))
    site.at_day(0, seconds=86_399)
    assert await site.sign() == []
    site.at_day(1, seconds=1)
    assert await site.sign() == [FIRST_DAY]
    assert await site.sign() == []


async def test_every_finished_day_is_signed_once_in_order_idle_ones_too(site):
    await site.write(event(START_US + 5))
    site.at_day(4)
    assert await site.sign() == [date(2026, 1, 30), date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 2)]
    await site.write(event(START_US + 4 * DAY_US))
    site.at_day(5)
    assert await site.sign() == [date(2026, 2, 3)]
    roots = site.roots()
    assert [file.signed.signed.size for file in roots] == [1, 0, 0, 0, 1]
    assert roots[1].signed.signed.root == merkle.EMPTY_ROOT.hex()
    assert [file.signed.signed.previous for file in roots] == [FIRST, *(file.digest for file in roots[:-1])]
    assert (await site.judge()).is_whole


async def test_a_root_is_the_merkle_root_of_the_days_rows_in_their_documented_order(three_days):
    leaves = []
    for table in ("audit_event", "ledger_entry"):
        cursor = await three_days.connection.execute(
            f"select hash, signature, key_id from {table} where at < '2026-01-31T00:00:00Z' order by writer, seq"
        )
        leaves += [digest + (sig or b"") + (key_id or "").encode() for digest, sig, key_id in await cursor.fetchall()]
    root = three_days.roots()[0].signed.signed
    assert len(leaves) == root.size == 12
    assert merkle.root_of(leaves).hex() == root.root
    assert [(one.table, one.writer, one.first, one.last) for one in root.stretches] == [
        ("audit_event", "clinic", 1, 8),
        ("ledger_entry", "engine-00", 1, 4),
    ]
    assert (root.site, root.day, root.faults) == ("st-anna", FIRST_DAY, [])


async def test_a_row_that_comes_late_is_under_the_next_root(three_days):
    await three_days.write(entry(START_US + 5))  # of the first day by its time, written on the third
    three_days.at_day(3)
    await three_days.sign()
    stretch = next(one for one in three_days.roots()[-1].signed.signed.stretches if one.table == "ledger_entry")
    assert (stretch.first, stretch.last) == (9, 13)
    assert (await three_days.judge()).is_whole


async def test_an_append_over_midnight_is_no_fault(site):
    midnight = START_US + DAY_US
    await site.write(event(midnight - 1), event(midnight), event(midnight + 1))
    site.at_day(1)
    await site.sign()
    site.at_day(2)
    await site.sign()
    assert [file.signed.signed.faults for file in site.roots()] == [[], []]
    assert (await site.judge()).is_whole
    assert (await site.judge(every_signature=True)).is_whole


async def forge(site, table, writer: str, *contents) -> None:
    """A superuser appends unsigned rows with fitting hashes."""
    async with transaction(site.connection):
        await site.connection.execute("set local session_replication_role = replica")
        forger = Chain(table, writer)
        await forger.open(site.connection)
        await forger.append(site.connection, contents)


async def test_rows_put_in_at_the_end_of_a_day_are_testified_to_and_found(site):
    await site.write(event(START_US + 5))
    await forge(site, AUDIT, "clinic", audit_content(event(START_US + 6)), audit_content(event(START_US + 7)))
    site.at_day(1)
    async with transaction(site.connection):
        await site.clinic.open(site.connection)
    await site.write(event(START_US + DAY_US), event(START_US + DAY_US + 1))
    await site.sign()
    assert site.roots()[0].signed.signed.faults == ["audit_event clinic rows 2 to 3: unvouched"]
    finding = await site.judge()
    assert [(fault.kind, fault.first, fault.last) for fault in finding.tables[0].faults] == [("unvouched", 2, 3)]


async def test_a_chain_invented_after_the_first_start_is_never_whole(site):
    await site.sign()  # the first look pins what there is: nothing
    before_us = START_US - 30 * DAY_US
    await forge(site, AUDIT, "clinic-b", *(audit_content(event(before_us, number)) for number in range(3)))
    await site.write(event(START_US + 5))
    for _ in range(2):
        finding = await site.judge()
        found = [(fault.writer, fault.kind, fault.first, fault.last) for fault in finding.tables[0].faults]
        assert found == [("clinic-b", "unvouched", 1, 3)]
        site.at_day(1)
        await site.sign()
    assert ["audit_event clinic-b rows 1 to 3: unvouched"] in [file.signed.signed.faults for file in site.roots()]


async def test_unsigned_rows_of_old_are_believed_up_to_where_they_were_pinned(database_url, tmp_path):
    await migrate(database_url)
    connection = await connect(database_url, application_name="test notary")
    old = LedgerWriter("engine-00")
    async with transaction(connection):
        await old.open(connection)
        await old.append(connection, [entry(START_US - DAY_US * 3 + number * DAY_US) for number in range(3)])
    settings = Settings(data_dir=tmp_path / "data", site="st-anna")
    await notary.pin_unsigned_ends(connection, settings)
    await connection.rollback()
    site = Site(connection, settings)
    await site.open()
    await site.write(event(START_US), entry(START_US), entry(START_US + 1))
    assert (await site.judge()).is_whole
    site.at_day(1)
    assert len(await site.sign()) == 4
    assert [file.signed.signed.faults for file in site.roots()] == [[]] * 4
    assert (await site.judge()).is_whole
    assert (await site.judge(every_signature=True)).is_whole
    assert (await exported(site, tmp_path / "export")).is_whole
    await forge(site, LEDGER, "engine-01", ledger_content(entry(START_US - DAY_US)))
    await notary.pin_unsigned_ends(connection, settings)
    await connection.rollback()
    assert [fault.writer for fault in (await site.judge()).tables[1].faults] == ["engine-01"]
    await connection.close()


async def test_a_house_that_has_keys_already_pins_only_rows_older_than_they(site):
    await forge(site, LEDGER, "engine-32", ledger_content(entry(START_US - 5)), ledger_content(entry(START_US + 5)))
    await forge(site, LEDGER, "nobody", ledger_content(entry(START_US - 5)))
    await site.sign()
    found = [(fault.writer, fault.first, fault.last) for fault in (await site.judge()).tables[1].faults]
    assert found == [("engine-32", 2, 2), ("nobody", 1, 1)]


async def test_the_notary_testifies_to_what_was_broken_already_when_it_signed(three_days):
    await three_days.tamper("update audit_event set rule = 'x' where seq = 20")
    three_days.at_day(3)
    await three_days.sign()
    assert three_days.roots()[-1].signed.signed.faults == [
        "audit_event clinic row 19: unvouched",  # of the same append
        "audit_event clinic row 20: edited",
    ]
    finding = await three_days.judge()
    assert any("when it was signed: audit_event clinic row 20" in fault.text for fault in finding.root_faults)


# -- judging


async def test_a_sound_site_is_whole_and_a_root_saves_the_signatures_it_vouches_for(three_days):
    quick, full = await three_days.judge(), await three_days.judge(every_signature=True)
    assert quick.is_whole
    assert full.is_whole
    assert (quick.root_faults, quick.warnings, quick.roots) == ([], [], 2)
    assert [(table.rows, table.signatures) for table in quick.tables] == [(24, 4), (12, 4)]
    assert [(table.rows, table.signatures) for table in full.tables] == [(24, 12), (12, 12)]


async def test_an_edit_under_a_signed_root_is_located_in_its_row_and_its_day(three_days):
    await three_days.tamper("update audit_event set patient_id = 99 where seq = 11")
    finding = await three_days.judge()
    assert [(fault.kind, fault.first, fault.last) for fault in finding.tables[0].faults] == [("edited", 11, 11)]
    assert finding.tables[1].is_whole
    assert finding.root_faults == [], "its hash still stands, so the tree does"
    assert describe(finding.tables[0]) == [
        "audit log, writer clinic, row 11: edited, changed after it was written (its content does not fit its hash)"
    ]


async def test_a_signature_removed_under_a_root_shows_in_chain_and_tree(three_days):
    await three_days.tamper("update audit_event set signature = null, key_id = null where seq = 4")
    finding = await three_days.judge()
    assert {(fault.first, fault.last) for fault in finding.tables[0].faults} == {(3, 4), (4, 4)}
    assert [fault.day for fault in finding.root_faults] == ["2026-01-30"]


async def test_a_chain_cut_behind_a_root_is_located(three_days):
    await three_days.tamper("delete from audit_event where seq > 10")
    finding = await three_days.judge()
    (fault,) = finding.tables[0].faults
    assert (fault.kind, fault.first, fault.last) == ("truncated", 11, 24)
    assert [fault.day for fault in finding.root_faults] == ["2026-01-31"]


async def test_even_without_kept_ends_a_root_misses_the_rows_it_covers(three_days):
    for path in (three_days.settings.anchors_dir / "heads").iterdir():
        path.unlink()
    await three_days.tamper("delete from ledger_entry")
    finding = await three_days.judge()
    (fault,) = finding.tables[1].faults
    assert (fault.kind, fault.writer, fault.first, fault.last) == ("truncated", "engine-00", 1, 8)


async def test_a_root_that_was_changed_or_removed_is_named(three_days):
    folder = notary.roots_dir(three_days.settings.anchors_dir)
    first, second = folder / "2026-01-30.json", folder / "2026-01-31.json"
    kept = first.read_bytes()
    first.write_bytes(kept.replace(b'"size": 12', b'"size": 13'))
    faults = (await three_days.judge()).root_faults
    assert ("2026-01-30", "its signature is not the notary's: the file was changed") in faults
    first.unlink()
    assert [fault.text for fault in (await three_days.judge()).root_faults] == ["an earlier root was removed"]
    first.write_bytes(kept)
    second.write_bytes(b"nonsense")
    assert [fault.day for fault in (await three_days.judge()).root_faults] == ["2026-01-31"]
    three_days.at_day(3)
    with pytest.raises(ConfigurationError, match="damaged"):
        await three_days.sign()


async def test_a_root_of_a_foreign_key_is_not_believed(three_days):
    folder = notary.roots_dir(three_days.settings.anchors_dir)
    file = three_days.roots()[-1]
    stranger = SigningKey.generate()
    root = msgspec.structs.replace(file.signed.signed, key_id=stranger.key_id)
    (folder / "2026-01-31.json").write_bytes(daily_roots.sign(root, stranger).content())
    finding = await three_days.judge()
    assert [(fault.day, fault.text[:24]) for fault in finding.root_faults] == [
        ("2026-01-31", "its signature is not the")
    ]


async def test_a_root_is_never_written_over(three_days):
    with pytest.raises(FileExistsError):
        daily_roots.write(notary.roots_dir(three_days.settings.anchors_dir), three_days.roots()[0].signed)


async def test_without_registered_keys_the_judgement_says_what_it_could_not_check(three_days):
    notary.keys_path(three_days.settings.anchors_dir).unlink()
    finding = await three_days.judge()
    assert finding.warnings == ["no writer's public key is registered: signatures were not checked"]
    assert not finding.is_whole, "roots of a notary whom nobody knows are not believed"


# -- proofs


async def test_an_event_is_proven_by_its_root_to_whoever_has_the_notarys_key(three_days):
    keys = notary.read_keys(three_days.settings.anchors_dir)
    assert keys is not None
    for table, writer, seq in ((AUDIT, "clinic", 1), (AUDIT, "clinic", 16), (LEDGER, "engine-00", 5)):
        proof = await prove(three_days.connection, three_days.roots(), table, writer, seq)
        assert proof is not None
        handed_over = msgspec.json.decode(msgspec.json.encode(proof), type=type(proof))
        assert is_proven(handed_over, keys.notary)
        content = list(handed_over.content)
        content[3] = "forged"
        assert not is_proven(msgspec.structs.replace(handed_over, content=content), keys.notary)
        assert not is_proven(msgspec.structs.replace(handed_over, index=handed_over.index + 1), keys.notary)
        assert not is_proven(handed_over, {})
    assert await prove(three_days.connection, three_days.roots(), AUDIT, "clinic", 17) is None, "its day is not over"
    assert await prove(three_days.connection, three_days.roots(), AUDIT, "nobody", 1) is None


# -- exports


async def exported(site, folder) -> Finding:
    await export(site.connection, site.settings.anchors_dir, folder)
    return await judge_all(FolderRows(folder), gather(folder), every_signature=True)


async def test_an_export_is_judged_without_the_database_as_with_it(three_days, tmp_path):
    assert (await exported(three_days, tmp_path / "sound")).is_whole
    await three_days.tamper(
        "update audit_event set patient_id = 99 where seq = 11", "delete from ledger_entry where seq > 9"
    )
    inside, outside = await three_days.judge(every_signature=True), await exported(three_days, tmp_path / "altered")
    assert [table.faults for table in outside.tables] == [table.faults for table in inside.tables]
    assert [len(table.faults) for table in outside.tables] == [1, 1]


async def test_an_export_edited_afterwards_is_found(three_days, tmp_path):
    import zstandard

    folder = tmp_path / "export"
    assert (await exported(three_days, folder)).is_whole
    path = folder / "audit_event.jsonl.zst"
    lines = zstandard.decompress(path.read_bytes(), max_output_size=10_000_000).splitlines(keepends=True)

    async def with_lines(changed: list[bytes]) -> list[tuple[str, int, int]]:
        path.write_bytes(zstandard.compress(b"".join(changed)))
        finding = await judge_all(FolderRows(folder), gather(folder), every_signature=True)
        return [(fault.kind, fault.first, fault.last) for fault in finding.tables[0].faults]

    edited = [*lines[:6], lines[6].replace(b'"i|nora"', b'"i|sami"'), *lines[7:]]
    assert edited != lines
    assert await with_lines(edited) == [("edited", 7, 7)]
    assert await with_lines(lines[:-2]) == [("truncated", 23, 24)]
    assert ("deleted", 5, 6) in await with_lines(lines[:4] + lines[6:])
    assert await with_lines([*lines, lines[3]]) == [("edited", 4, 4)]
    path.write_bytes(zstandard.compress(b"".join(lines))[:-20])
    with pytest.raises(ConfigurationError, match="cannot be read behind line"):
        await with_lines_of(folder)


async def with_lines_of(folder) -> Finding:
    return await judge_all(FolderRows(folder), gather(folder))


async def test_an_export_never_writes_over_anything(three_days, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="not empty"):
        await export(three_days.connection, three_days.settings.anchors_dir, tmp_path / "full")
    with pytest.raises(ConfigurationError, match="holds no"):
        FolderRows(tmp_path / "full")


def test_days_are_those_of_utc():
    assert day_of(START_US) == FIRST_DAY
    assert day_of(START_US - 1) == date(2026, 1, 29)
    assert end_us(FIRST_DAY) == START_US + DAY_US
