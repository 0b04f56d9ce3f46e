"""The key ring: each patient's data under keys of its own, so that erasing it is destroying a key.

A ring holds the keys a process works with, unwrapped, in memory. It has a connection of its own to the database: a key
is committed before anything is sealed with it, and looking for destroyed keys waits for no transaction of anybody. What
is nobody's (yet) is sealed under a key of its UTC day.

Here: making, finding and forgetting keys; sealing and unsealing for stores.
Not here: the envelope (stores.envelope), the rows (stores.data_keys), the master key (governance.master_key),
destroying keys (governance.key_destruction), rotating them (governance.key_rotation).
Source: NIST SP 800-88r1 2.6 (cryptographic erase); SP 800-57 part 1 5.3 (cryptoperiods).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from governance.arrivals_key import ARRIVALS_KEY, ensure_arrivals, read_arrivals
from governance.master_key import MasterKey, ensure_master, open_master
from governance.wrapped_keys import new_key, unwrapped
from stores import data_keys, envelope
from stores.blob_keys import ArrivalsKey
from stores.data_keys import StoredKey
from stores.database import Connection, connect, transaction
from stores.envelope import ContentKey, DamagedEnvelopeError, KeyDestroyedError, KeyMissingError, nobody
from vocabulary.clock import Clock, SystemClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

__all__ = ["KeyDestroyedError", "KeyMissingError", "KeyRing", "open_ring", "prepare"]

LOOK_S = 2.0
"""How often a ring asks which keys were destroyed or rotated: five seconds after a destruction nobody has the key."""
BLIND_S = 4.0
"""A ring that could not ask for this long forgets all its keys: it may hold a destroyed one."""
MOST_KEYS = 20_000
"""Keys held in memory; those used longest ago are let go first, and unwrapped again when needed."""

_log = logging.getLogger("vigil.privacy")


class _Held:
    """One key in memory; `key` is None where it was destroyed."""

    __slots__ = ("key", "subject")

    def __init__(self, subject: int, key: ContentKey | None) -> None:
        self.subject = subject
        self.key = key


class KeyRing:
    """The keys of one process (stores.envelope.Keys). Open it in the event loop that uses it, and close it."""

    def __init__(
        self,
        connection: Callable[[], Awaitable[Connection]],
        master: MasterKey,
        clock: Clock,
        arrivals_file: Path,
        most_keys: int = MOST_KEYS,
    ) -> None:
        """Use `open`, or `open_ring`."""
        self._connect = connection
        self._master = master
        self._clock = clock
        self._arrivals_file = arrivals_file
        self._most_keys = most_keys
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._current: dict[int, bytes] = {}  # subject -> key that seals what is new
        self._arrivals: ArrivalsKey | None = None
        self._seen_change = 0
        self._looker: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        connection: Callable[[], Awaitable[Connection]],
        master: MasterKey,
        clock: Clock,
        arrivals_file: Path,
        most_keys: int = MOST_KEYS,
    ) -> KeyRing:
        """Open a ring and begin to look for destroyed keys.

        Args:
            connection: opens a connection to the database, in this process's own role.
            master: unwraps; closed with the ring.
            clock: tells the day.
            arrivals_file: keys_dir/arrivals.key.
            most_keys: held in memory at once.

        Raises:
            UnavailableError: the database does not answer.
            ConfigurationError: no master key that may wrap is known here.
        """
        ring = cls(connection, master, clock, arrivals_file, most_keys)
        try:
            async with ring._asking() as connected:
                await ring._agree_on_master(connected)
        except BaseException:
            await ring.close()
            raise
        ring._looker = asyncio.create_task(ring._look_forever(), name="key ring")
        return ring

    @property
    def master(self) -> MasterKey:
        """Return the master key."""
        return self._master

    @property
    def held(self) -> int:
        """Return how many keys are in memory."""
        return len(self._held)

    async def close(self) -> None:
        """Forget every key and close the connection."""
        if self._looker is not None:
            looker, self._looker = self._looker, None
            while not looker.done():  # once may be lost before Python 3.12 (twin.process.end)
                looker.cancel()
                await asyncio.wait({looker}, timeout=0.5)
        self._forget_all()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(UnavailableError):
                await connection.close()
        self._master.close()

    # -- stores.envelope.Keys

    async def ensure(self, subjects: Iterable[int]) -> None:
        """Have a key ready to seal for each subject; make, and commit, those that are missing.

        Args:
            subjects: patients; 0 for what is nobody's today; negative as `stores.envelope.nobody` says.

        Raises:
            UnavailableError: the database or the token does not answer.
            ConfigurationError: the master key is not known here.
        """
        wanted = {subject or self._today() for subject in subjects}
        if all(subject in self._current for subject in wanted):
            return
        async with self._turn:
            missing = [subject for subject in wanted if subject not in self._current]
            if not missing:
                return
            self._make_room(len(missing))
            rows = await self._find_or_make(missing)
            await self._hold(rows)
            self._current.update((row.subject, row.key_id) for row in rows)

    async def load(self, key_ids: Iterable[bytes]) -> None:
        """Have keys ready to unseal with.

        Raises:
            UnavailableError: the database or the token does not answer.
            ConfigurationError: the master key is not known here.
            KeyMissingError: no such key is known.
        """
        wanted = {key_id for key_id in key_ids if key_id not in self._held}
        if not wanted:
            return
        async with self._turn:
            self._make_room(len(wanted))
            async with self._asking() as connection, transaction(connection):
                rows = await data_keys.by_id(connection, wanted)
            if len(rows) < len(wanted):
                raise KeyMissingError(
                    f"{len(wanted) - len(rows)} data keys are not in this database. Restore the keys from their backup "
                    "(`vigil keys restore`)."
                )
            await self._hold(rows)

    def seal(self, subject: int, purpose: bytes, plaintext: bytes) -> bytes:
        """Seal for a subject that `ensure` was called for; 0 is what is nobody's today.

        Raises:
            UnavailableError: its key was let go in the meantime: ensure again.
        """
        held = self._held.get(self._current.get(subject or self._today(), b""))
        if held is None and subject == 0:
            # Midnight came between `ensure` and now; the day before's will do.
            newest = min((s for s in self._current if s < 0), default=0)
            held = self._held.get(self._current.get(newest, b""))
        if held is None or held.key is None:
            raise UnavailableError("A data key was let go before it was used. Try again.")
        self._used(held.key.key_id)
        return held.key.seal(purpose, held.subject, plaintext)

    def unseal(self, subject: int, purpose: bytes, sealed: bytes) -> bytes:
        """Unseal with a key that `load` was called for.

        Args:
            subject: whose the bytes must be; 0: nobody's, of whichever day.
            purpose: as they were sealed for.
            sealed: an envelope.

        Raises:
            KeyDestroyedError: the key was destroyed.
            DamagedEnvelopeError: they were changed, or are somebody else's.
            UnavailableError: the key was let go in the meantime: load again.
        """
        key_id = envelope.key_id_of(sealed)
        held = self._held.get(key_id)
        if held is None:
            raise UnavailableError("A data key was let go before it was used. Try again.")
        if held.subject != subject and not (subject == 0 and held.subject < 0):
            raise DamagedEnvelopeError("sealed bytes belong to another subject than the one they lie with")
        if held.key is None:
            raise KeyDestroyedError(
                f"The key {key_id.hex()} was destroyed: what it protected was erased. `vigil keys status` lists proofs."
            )
        self._used(key_id)
        return held.key.unseal(purpose, held.subject, sealed)

    def _used(self, key_id: bytes) -> None:
        with suppress(KeyError):  # sealing works in a thread, and the key may just have been let go
            self._held.move_to_end(key_id)

    def subject_of(self, key_id: bytes) -> int:
        """Return whose a key is that `load` was called for; also of a destroyed one.

        Raises:
            UnavailableError: it was let go in the meantime: load again.
        """
        held = self._held.get(key_id)
        if held is None:
            raise UnavailableError("A data key was let go before it was used. Try again.")
        return held.subject

    async def open_arrival(self, locked: bytes, info: bytes) -> bytes:
        """Return what was locked for the arrivals key (stores.blob_keys).

        Raises:
            ConfigurationError: the arrivals key is missing, or its master key is.
            DamagedEnvelopeError: it was changed.
        """
        if self._arrivals is None:
            self._arrivals = await asyncio.to_thread(read_arrivals, self._arrivals_file, self._master)
        return self._arrivals.unlock(locked, info)

    # -- finding and making

    def _today(self) -> int:
        return nobody(self._clock.now_us())

    async def _find_or_make(self, subjects: Sequence[int]) -> list[StoredKey]:
        async with self._asking() as connection:
            for _ in range(3):
                async with transaction(connection):
                    found = {row.subject: row for row in await data_keys.newest(connection, subjects)}
                living = [row for row in found.values() if row.wrapped is not None]
                if len(living) == len(subjects):
                    return living
                made = await self._made([s for s in subjects if s not in found or found[s].wrapped is None], found)
                async with transaction(connection):
                    added = await data_keys.add(connection, made)
                if added == 0:
                    # Another process was quicker; or our master key was replaced, and we are to learn of it.
                    await self._agree_on_master(connection)
        raise UnavailableError("Data keys could not be made: others changed them at every try. Try again.")

    async def _made(self, subjects: Sequence[int], found: dict[int, StoredKey]) -> list[StoredKey]:
        now_us = self._clock.now_us()

        def make() -> list[StoredKey]:
            made = []
            for subject in subjects:
                generation = found[subject].generation + 1 if subject in found else 0
                made.append(new_key(self._master, subject, generation, now_us))
            return made

        return await asyncio.to_thread(make)

    async def _hold(self, rows: Collection[StoredKey]) -> None:
        unknown = [row for row in rows if row.key_id not in self._held]
        keys = await asyncio.to_thread(lambda: [unwrapped(self._master, row) for row in unknown])
        for row, key in zip(unknown, keys, strict=True):
            self._held[row.key_id] = _Held(row.subject, key)

    def _make_room(self, wanted: int) -> None:
        while self._held and len(self._held) + wanted > self._most_keys:
            key_id, held = self._held.popitem(last=False)
            if self._current.get(held.subject) == key_id:
                del self._current[held.subject]

    async def _agree_on_master(self, connection: Connection) -> None:
        """Have the current master key known to the database, and obey when it was replaced."""
        async with transaction(connection):
            retired = await data_keys.retired_masters(connection)
            await asyncio.to_thread(self._master.retire, retired)
            holder = self._master.current
            await data_keys.know_master(connection, holder.key_id, holder.source, self._clock.now_us())

    # -- forgetting

    def _forget_all(self) -> None:
        self._held.clear()
        self._current.clear()
        self._arrivals = None

    def _forget(self, changes: data_keys.Changes) -> None:
        for key_id in changes.destroyed:
            self._held.pop(key_id, None)
        for subject in changes.subjects:
            self._current.pop(subject, None)

    async def look(self) -> None:
        """Ask now which keys were destroyed or rotated, and let them go.

        Raises:
            UnavailableError: the database does not answer.
        """
        async with self._turn, self._asking() as connection:
            async with transaction(connection):
                changes = await data_keys.changes(connection, self._seen_change)
            self._seen_change = changes.last
            self._forget(changes)
            await asyncio.to_thread(self._master.refresh)

    async def _look_forever(self) -> None:
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.wait_for(self.look(), BLIND_S)
                looked_at = loop.time()
            except (UnavailableError, TimeoutError):
                if loop.time() - looked_at > BLIND_S and self._held:
                    _log.warning("keys_forgotten", extra={"reason": "the database does not answer"})
                    self._forget_all()
            except ConfigurationError as error:
                _log.error("master_key", extra={"reason": str(error)})
                looked_at = loop.time()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Connection]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
            # What happened while we could not look is not known: begin anew.
            self._forget_all()
            async with transaction(self._connection):
                self._seen_change = await data_keys.last_change(self._connection)
        try:
            yield self._connection
        except (UnavailableError, asyncio.CancelledError):
            broken, self._connection = self._connection, None
            if broken is not None:
                with suppress(UnavailableError):
                    await broken.close()
            raise


def prepare(settings: Settings) -> None:
    """Make the master key and the arrivals key the first time; check them every other time. `vigil up` calls it.

    Raises:
        ConfigurationError: a key is gone, damaged or unusable; says which, and never makes another in its place.
    """
    master = ensure_master(settings)
    try:
        ensure_arrivals(settings, master)
    finally:
        master.close()


async def open_ring(settings: Settings, url: str, *, clock: Clock | None = None, purpose: str = "keys") -> KeyRing:
    """Open this process's ring.

    Args:
        settings: where the master key is.
        url: of the database, in this process's own role.
        clock: None for the machine's.
        purpose: who is speaking, for pg_stat_activity.

    Raises:
        UnavailableError: the database does not answer.
        ConfigurationError: a key is missing or unusable.
    """
    master = await asyncio.to_thread(open_master, settings)
    return await KeyRing.open(
        lambda: connect(url, application_name=f"vigil {purpose}"),
        master,
        clock or SystemClock(),
        settings.keys_dir / ARRIVALS_KEY,
    )
