"""The notary: what is known about chains outside of the database, and the signature under each finished day.

Here: the public keys of writers (anchors/writers.json), the notary's own key, and signing the days that are due.
Not here: what a daily root is (governance.daily_roots), judging tables with all this (governance.chain_audit).

Everything lies below settings.anchors_dir, which a superuser of the database cannot write: `writers.json`, `heads/`
(stores.chain_heads) and `roots/`. Copies of that folder elsewhere guard against one who can.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from governance import daily_roots
from governance.daily_roots import TABLES, DailyRoot, RootFile, Stretch, day_of, end_us
from stores.chain import GENESIS, ChainTable, link_of
from stores.chain_heads import HeadFile, KeptHead
from stores.chain_verification import ChainVerifier, WriterKeys
from stores.database import Connection, consistent_read
from stores.ledger_verification import DatabaseRows, first_at_us, last_before, unsigned_end
from stores.merkle import Builder
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey, VerifyingKey

NOTARY = "notary"
"""Under this name the notary's own public keys are registered."""


class RegisteredKey(msgspec.Struct, frozen=True):
    """A public key that may sign chains of a name."""

    name: str  # of the process: "engine" signs engine-00, engine-32, …
    key_id: str
    public: str  # base64
    since_us: int


class PublicKeys:
    """Who may sign what, as registered."""

    def __init__(self, registered: list[RegisteredKey]) -> None:
        """Use registered keys.

        Raises:
            ConfigurationError: one is no public key, or stands under another key's id.
        """
        self.registered = registered
        self._by_stem: dict[str, dict[str, VerifyingKey]] = {}
        self._since_us: dict[str, int] = {}
        for one in registered:
            key = VerifyingKey.from_text(one.public)
            if key.key_id != one.key_id:
                raise ConfigurationError(f"The key {one.key_id} of {one.name} in writers.json is not the one it says.")
            stem = _stem(one.name)
            self._by_stem.setdefault(stem, {})[key.key_id] = key
            self._since_us[stem] = min(self._since_us.get(stem, one.since_us), one.since_us)

    def of(self, writer: str) -> WriterKeys:
        """Return the keys that may sign a writer's chain: those of its process, whichever of its kind."""
        stem = _stem(writer)
        return WriterKeys(self._by_stem.get(stem, {}), self._since_us.get(stem, 0))

    @property
    def notary(self) -> Mapping[str, VerifyingKey]:
        """Return the notary's keys."""
        return self._by_stem.get(NOTARY, {})


def _stem(name: str) -> str:
    return name.partition("-")[0]


def heads_of(settings: Settings) -> HeadFile:
    """Return where the ends of chains are kept."""
    return HeadFile(settings.anchors_dir / "heads")


def keys_path(anchors_dir: Path) -> Path:
    """Return the file of writers' public keys."""
    return anchors_dir / "writers.json"


def roots_dir(anchors_dir: Path) -> Path:
    """Return the folder of daily roots."""
    return anchors_dir / "roots"


def read_keys(anchors_dir: Path) -> PublicKeys | None:
    """Return the registered public keys, None where none ever was.

    Raises:
        ConfigurationError: the file is damaged.
    """
    path = keys_path(anchors_dir)
    try:
        return PublicKeys(msgspec.json.decode(path.read_bytes(), type=list[RegisteredKey]))
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigurationError(
            f"The writers' public keys {path} cannot be read. Put the file back from a copy: without it signatures "
            "cannot be checked."
        ) from None


def register_key(settings: Settings, name: str, key: VerifyingKey, clock: Clock) -> bool:
    """Add a process's public key to those believed, and return whether it is new. Nothing is ever removed.

    Args:
        settings: where the anchors are.
        name: the process ("engine", "clinic"); its chains are called so, or so with -something behind it.
        key: the public key of its ledger.key.
        clock: since when its rows are signed.

    Raises:
        ConfigurationError: the file is damaged or cannot be written.
    """
    return _register(settings.anchors_dir, name, key, clock.now_us())


def _register(anchors_dir: Path, name: str, key: VerifyingKey, since_us: int) -> bool:
    with _locked(anchors_dir):
        known = read_keys(anchors_dir)
        registered = known.registered if known is not None else []
        if any((one.name, one.key_id) == (name, key.key_id) for one in registered):
            return False
        added = [*registered, RegisteredKey(name, key.key_id, key.text(), since_us)]
        _replace(keys_path(anchors_dir), msgspec.json.format(msgspec.json.encode(added)) + b"\n")
        return True


def ensure_notary(settings: Settings) -> SigningKey:
    """Return the site's notary key, made on first use, its public part registered.

    Raises:
        ConfigurationError: the key is damaged, or its folder cannot be written.
    """
    path = settings.keys_dir / "notary.key"
    try:
        settings.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            SigningKey.generate().save(path)
    except FileExistsError:
        pass  # another process was quicker
    except OSError as error:
        raise ConfigurationError(f"The notary's key {path} cannot be made: {error.strerror}.") from None
    key = SigningKey.load(path)
    _register(settings.anchors_dir, NOTARY, key.verifying, 0)
    return key


@contextmanager
def _locked(anchors_dir: Path) -> Iterator[None]:
    """Keep two processes from writing an anchor at once."""
    try:
        anchors_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (anchors_dir / "lock").open("a")
    except OSError as error:
        raise ConfigurationError(f"The anchors {anchors_dir} cannot be written: {error.strerror}.") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


async def pin_unsigned_ends(connection: Connection, settings: Settings) -> None:
    """Keep where chains ended that began before there were keys, once in the life of a site; later calls do nothing.

    Unsigned rows are believed up to there and never beyond: without this, whoever may write the tables could invent a
    chain dated before the first key. Call it before the first keys are registered; `sign_due_days` calls it too.

    Args:
        connection: outside of a transaction, or inside one.
        settings: where the anchors are.

    Raises:
        UnavailableError: the database does not answer; the next call tries again.
        ConfigurationError: a file cannot be read or written.
    """
    kept = heads_of(settings)
    if kept.is_pinned:
        return
    keys = read_keys(settings.anchors_dir)
    processes = () if keys is None else [one for one in keys.registered if one.name != NOTARY]
    ends: list[KeptHead] = []
    for table in TABLES:
        for writer in await DatabaseRows(connection).writers(table):
            known = None if keys is None else keys.of(writer)
            if processes and (known is None or not known.keys):
                continue  # nobody of this name is known, while others are
            until_us = known.since_us if known is not None and known.keys else None
            end = await unsigned_end(connection, table, writer, until_us)
            if end is not None:
                ends.append(KeptHead(table=table.name, writer=writer, seq=end.seq, hash_hex=end.hash.hex()))
    with _locked(settings.anchors_dir):
        if not kept.is_pinned:
            kept.pin(ends)


class _Place(NamedTuple):
    """Where a chain's last root ended."""

    seq: int = 0
    link: bytes = GENESIS


async def sign_due_days(connection: Connection, settings: Settings, clock: Clock) -> list[date]:
    """Sign every finished UTC day that has no root yet, and return those signed now; calling again does nothing.

    Rows are judged before they are signed for. What does not fit is written into the root, signed too: the notary
    testifies to what it saw, and never to more.

    Args:
        connection: outside of a transaction.
        settings: where anchors and the notary's key are.
        clock: which days are finished.

    Raises:
        UnavailableError: the database does not answer; days signed until then stay signed.
        ConfigurationError: a file cannot be read or written.
    """
    async with consistent_read(connection):
        await pin_unsigned_ends(connection, settings)
    folder = roots_dir(settings.anchors_dir)
    today = day_of(clock.now_us())
    last = _last_root(folder)
    if last is not None and last.signed.signed.day >= today - timedelta(days=1):
        return []
    notary = ensure_notary(settings)
    keys = read_keys(settings.anchors_dir)
    assert keys is not None
    signed: list[date] = []
    legacy = {(one.table, one.writer): one.seq for one in heads_of(settings).read_all().heads if not one.key_id}
    async with consistent_read(connection):
        if last is not None:
            day = last.signed.signed.day + timedelta(days=1)
        else:
            first_us = await first_at_us(connection, TABLES)
            if first_us is None:
                return []
            day = day_of(first_us)
        places = _places(folder)
        previous = daily_roots.FIRST if last is None else last.digest
        while day < today:
            known = _Known(keys, legacy)
            root = await _root_of(
                connection, settings.site, day, places, known, previous, clock.now_us(), notary.key_id
            )
            with _locked(settings.anchors_dir):
                try:
                    daily_roots.write(folder, daily_roots.sign(root, notary))
                except FileExistsError:
                    return signed  # another process signs too: the next call goes on behind it
            written = _last_root(folder)
            assert written is not None
            previous = written.digest
            signed.append(day)
            day += timedelta(days=1)
    return signed


class _Known(NamedTuple):
    """What rows are judged by."""

    keys: PublicKeys
    legacy: Mapping[tuple[str, str], int]  # table and writer → end of its unsigned rows of old


def _last_root(folder: Path) -> RootFile | None:
    roots, faults = daily_roots.read(folder)
    if faults:
        raise ConfigurationError(
            f"The daily root {faults[-1].day} in {folder} is damaged: {faults[-1].text}. Put it back from a copy."
        )
    return roots[-1] if roots else None


def _places(folder: Path) -> dict[tuple[str, str], _Place]:
    places: dict[tuple[str, str], _Place] = {}
    for file in daily_roots.read(folder)[0]:
        for one in file.signed.signed.stretches:
            places[one.table, one.writer] = _Place(one.last, bytes.fromhex(one.link))
    return places


async def _root_of(
    connection: Connection,
    site: str,
    day: date,
    places: dict[tuple[str, str], _Place],
    known: _Known,
    previous: str,
    now_us: int,
    key_id: str,
) -> DailyRoot:
    """Return a day's root, and move the places behind it."""
    builder = Builder()
    stretches: list[Stretch] = []
    faults: list[str] = []
    source = DatabaseRows(connection)
    for table in TABLES:
        for writer in await source.writers(table):
            place = places.get((table.name, writer), _Place())
            last = await last_before(connection, table, writer, place.seq, end_us(day))
            if last is None:
                continue
            stretch, found = await _stretch(source, table, writer, place, last, known, builder)
            places[table.name, writer] = _Place(stretch.last, bytes.fromhex(stretch.link))
            stretches.append(stretch)
            faults += found
    return DailyRoot(site, day, builder.size, builder.root().hex(), stretches, faults, previous, now_us, key_id)


async def _stretch(
    source: DatabaseRows,
    table: ChainTable,
    writer: str,
    place: _Place,
    last: int,
    known: _Known,
    builder: Builder,
) -> tuple[Stretch, list[str]]:
    legacy_until = known.legacy.get((table.name, writer), 0)
    verifier = ChainVerifier(table, writer, {}, known.keys.of(writer), legacy_until=legacy_until, after=place)
    head, link = GENESIS, place.link
    is_signed = True
    async for batch in source.chain(table, writer, place.seq + 1, last):
        for row in batch:
            builder.add(row.leaf)
            verifier.take(row)
        head = batch[-1].hash
        link = link_of(head, batch[-1].signature, batch[-1].key_id)
        is_signed = batch[-1].key_id is not None
    if not is_signed and last > legacy_until:
        # The last append of the day may end in the next: its signature stands there, and says where it began.
        await _take_signature(source, verifier, last)
    faults = [
        f"{fault.table} {writer} {fault.place}: {fault.kind}" for fault in verifier.close() if fault.first <= last
    ]
    return Stretch(table.name, writer, place.seq + 1, last, head.hex(), link.hex()), faults


async def _take_signature(source: DatabaseRows, verifier: ChainVerifier, last: int) -> None:
    async for batch in source.chain(verifier.table, verifier.writer, last + 1):
        for row in batch:
            verifier.take(row)
            if row.key_id is not None:
                return
