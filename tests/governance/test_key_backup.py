"""A backup of keys: apart from data and master key, tried before it is needed, and no way around a destruction."""

from __future__ import annotations

import msgspec
import pytest

from governance import key_backup
from governance.key_rotation import rotate_subjects
from governance.master_key import open_master
from governance.privacy import KeyDestroyedError, open_ring, prepare
from stores import data_keys
from stores.database import connect, migrate, transaction
from stores.envelope import key_id_of
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

CLOCK = ManualClock(1_780_000_000_000_000)


@pytest.fixture
async def house(database_url, tmp_path):
    settings = Settings(data_dir=tmp_path)
    prepare(settings)
    await migrate(database_url)
    connection = await connect(database_url, application_name="test")
    ring = await open_ring(settings, database_url)
    await ring.ensure([7, 8, 9])
    yield settings, connection, ring
    await ring.close()
    await connection.close()


async def test_keys_come_back_from_a_backup_and_open_what_they_protected(house, tmp_path):
    settings, connection, ring = house
    sealed = ring.seal(7, b"p", b"body")
    path = tmp_path / "keys.json"
    key_backup.save(await key_backup.take(connection, settings, CLOCK), path)
    assert path.stat().st_mode & 0o777 == 0o600
    async with transaction(connection):
        await connection.execute("delete from data_key")
        await connection.execute("delete from master_key")
    (settings.keys_dir / "arrivals.key").unlink()
    (settings.keys_dir / "arrivals.pub").unlink()
    backup = key_backup.load(path)
    before = await key_backup.check(backup, connection, open_master(settings))
    assert (before.keys, before.readable, before.absent, before.newer) == (3, 3, 3, 0)
    assert sorted(key_backup.restore_files(backup, settings)) == ["arrivals.key", "arrivals.pub"]
    prepare(settings)
    assert await key_backup.restore_rows(backup, connection) == 3
    assert await key_backup.restore_rows(backup, connection) == 0, "again is no work"
    ring._forget_all()
    await ring.load([key_id_of(sealed)])
    assert ring.unseal(7, b"p", sealed) == b"body"


async def test_a_backup_holds_no_plain_key_and_not_the_master_key(house, tmp_path):
    settings, connection, ring = house
    key_backup.save(await key_backup.take(connection, settings, CLOCK), tmp_path / "keys.json")
    text = (tmp_path / "keys.json").read_text()
    plain = ring._held[ring._current[7]].key._key
    backup = key_backup.load(tmp_path / "keys.json")
    assert (settings.keys_dir / "master.key").read_text().strip() not in text
    assert plain not in b"".join([*backup.files.values(), *(key.wrapped or b"" for key in backup.keys)])


async def test_restoring_leaves_a_destroyed_key_destroyed(house):
    settings, connection, ring = house
    sealed = ring.seal(7, b"p", b"body")
    backup = await key_backup.take(connection, settings, CLOCK)
    async with transaction(connection):
        await data_keys.lock(connection)
        await data_keys.destroy(connection, [key_id_of(sealed)], 1, "somebody", "proof")
    found = await key_backup.check(backup, connection, open_master(settings))
    assert (found.destroyed_since, found.absent) == (1, 0)
    assert await key_backup.restore_rows(backup, connection) == 0
    ring._forget_all()
    await ring.load([key_id_of(sealed)])
    with pytest.raises(KeyDestroyedError):
        ring.unseal(7, b"p", sealed)


async def test_a_check_tells_what_a_backup_lacks(house):
    settings, connection, _ = house
    backup = await key_backup.take(connection, settings, CLOCK)
    async with transaction(connection):
        await rotate_subjects(connection, open_master(settings), [7], CLOCK)
    changed = backup.keys[0]._replace(wrapped=bytes(60))
    elsewhere = backup.keys[1]._replace(master_key_id="f" * 16)
    spoiled = msgspec.structs.replace(backup, keys=[changed, elsewhere, *backup.keys[2:]])
    found = await key_backup.check(spoiled, connection, open_master(settings))
    assert (found.readable, found.damaged, found.missing_masters, found.newer) == (1, 1, {"f" * 16: 1}, 1)


async def test_a_backup_never_overwrites_another_and_other_files_are_none(house, tmp_path):
    settings, connection, _ = house
    path = tmp_path / "keys.json"
    backup = await key_backup.take(connection, settings, CLOCK)
    key_backup.save(backup, path)
    with pytest.raises(ConfigurationError, match="never overwrites"):
        key_backup.save(backup, path)
    for content, says in ((b"{}", "no backup"), (b"\xff", "no backup"), (None, "cannot be read")):
        other = tmp_path / "other.json"
        if content is None:
            other.unlink()
        else:
            other.write_bytes(content)
        with pytest.raises(ConfigurationError, match=says):
            key_backup.load(other)
