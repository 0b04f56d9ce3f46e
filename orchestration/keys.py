"""`vigil keys`: what the commands do about the keys that protect data.

Here: each command's work, with its event in the audit log, and saying the answer.
Not here: arguments (orchestration.keys_commands), rings, destruction and rotation themselves (governance).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from governance import key_backup, key_destruction, key_rotation
from governance.access import Ask, Purpose, Surface, Verb, refused
from governance.gate import Gate
from governance.key_backup import Check
from governance.key_destruction import Proof, Standing
from governance.master_key import Holder, open_holder, open_master
from orchestration.operator_audit import operator
from orchestration.operator_gate import operator_gate
from orchestration.storage import connection
from stores import blob_keys, data_keys, database
from stores.blobs import BlobStore
from stores.data_keys import Census, MasterRow
from stores.database import Connection
from stores.ledger import detail_of
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings


class Status(NamedTuple):
    """What there is."""

    masters: list[MasterRow]
    known: list[Holder]
    current: str
    census: Census
    standing: Standing
    waiting_blobs: int  # whose patient is not known yet: under the arrivals key

    @property
    def is_sound(self) -> bool:
        """Return whether every living key can be unwrapped here, and no destroyed one had returned."""
        known = {holder.key_id for holder in self.known}
        is_readable = all(row.wraps == 0 or row.master_key_id in known for row in self.masters)
        return is_readable and not self.standing.risen and not self.standing.invalid


@asynccontextmanager
async def _permitted(settings: Settings, verb: Verb, detail: str) -> AsyncIterator[tuple[Gate, Connection]]:
    """Ask for what changes or shows keys, and give a connection for it.

    Raises:
        RefusedError: the policy says no; recorded.
    """
    async with operator_gate(settings) as gate, connection(settings, "keys") as connected:
        ask = Ask(surface=Surface.KEYS, verb=verb, purpose=Purpose.ADMINISTRATION)
        if not (await gate.ask(operator(), ask, detail=detail)).is_permitted:
            raise refused()
        yield gate, connected


async def status(settings: Settings) -> Status:
    """Look at keys, master keys and proofs; destroy again what a restored backup brought back."""
    async with _permitted(settings, Verb.READ, detail_of(command="status")) as (_, connected):
        master = open_master(settings)
        try:
            async with database.consistent_read(connected):
                masters, census = await data_keys.masters(connected), await data_keys.census(connected)
                master.retire({row.master_key_id for row in masters if row.retired_at_us is not None})
            standing = await key_destruction.reconcile(connected, settings)
            sidecars = BlobStore(settings.data_dir / "blobs").sidecars()
            waiting = sum(blob_keys.is_locked(sidecar) for sidecar in sidecars)
            return Status(masters, master.known(), master.key_id, census, standing, waiting)
        finally:
            master.close()


async def rotate_master(settings: Settings, to: str | None) -> key_rotation.Rotated:
    """Put another master key in the place of the current one; goes on where an earlier attempt ended."""
    async with _permitted(settings, Verb.CHANGE, detail_of(command="rotate master", to=_kind(to))) as (_, connected):
        master = open_master(settings)
        try:
            unfinished = await _unfinished(connected, master.known())
            if to is None and unfinished is not None:
                successor = unfinished
            else:
                successor = key_rotation.make_successor(settings, to, master.known())
            return await key_rotation.rotate_master(connected, settings, master, successor, SystemClock())
        finally:
            master.close()


async def _unfinished(connected: Connection, known: Sequence[Holder]) -> Holder | None:
    """Return the master key that an interrupted rotation had begun to wrap with."""
    async with database.consistent_read(connected):
        masters = await data_keys.masters(connected)
    is_unfinished = any(row.retired_at_us is not None and row.wraps for row in masters)
    chosen = {row.master_key_id for row in masters if row.retired_at_us is None}
    return next((one for one in known if is_unfinished and one.key_id in chosen), None)


def _kind(address: str | None) -> str:
    return "file" if address is None else address.partition(":")[0]


async def rotate_patients(settings: Settings, patient_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Give patients a new generation of their keys."""
    said = detail_of(command="rotate patients", patients=",".join(map(str, patient_ids)))
    async with _permitted(settings, Verb.CHANGE, said) as (_, connected):
        master = open_master(settings)
        try:
            async with database.transaction(connected):
                master.retire(await data_keys.retired_masters(connected))
                return await key_rotation.rotate_subjects(connected, master, patient_ids, SystemClock())
        finally:
            master.close()


async def create_master(settings: Settings, address: str | None) -> Holder:
    """Make a master key inside a token; needs no service to run, and leaves its event once one does."""
    from governance.pkcs11_key import Pkcs11Key

    chosen = address or settings.master_key
    if not chosen.startswith("pkcs11:"):
        raise ConfigurationError(
            "Only a key inside a token is made here: a file is made by `vigil up` the first time, a variable by you "
            "(`openssl rand -base64 32`)."
        )
    pin = settings.master_key_pin
    return Pkcs11Key(chosen, None if pin is None else pin.get_secret_value(), is_new=True)


async def destroy_master(settings: Settings, master_key_id: str) -> str:
    """Destroy a master key that wraps nothing any more."""
    said = detail_of(command="destroy master", master=master_key_id)
    async with _permitted(settings, Verb.CHANGE, said) as (_, connected):
        master = open_master(settings)
        try:
            return await key_rotation.destroy_master(connected, settings, master, master_key_id, SystemClock())
        finally:
            master.close()


async def destroy(settings: Settings, patient_id: int, *, by: str, reason: str, even_though_admitted: bool) -> Proof:
    """Destroy a person's keys, and with them everything they protect."""
    async with operator_gate(settings) as gate, connection(settings, "keys destroy") as connected:
        return await key_destruction.destroy(
            gate,
            operator(),
            settings,
            connected,
            patient_id,
            by=by,
            reason=reason,
            even_though_admitted=even_though_admitted,
        )


async def backup(settings: Settings, to: Path) -> int:
    """Write a backup of all keys, wrapped as they are; return how many."""
    async with _permitted(settings, Verb.EXPORT, detail_of(command="backup")) as (_, connected):
        taken = await key_backup.take(connected, settings, SystemClock())
        key_backup.save(taken, to)
        return len(taken.keys)


async def check_backup(settings: Settings, path: Path) -> Check:
    """Try whether a backup of keys could be restored here."""
    found = key_backup.load(path)
    async with _permitted(settings, Verb.READ, detail_of(command="restore-check")) as (_, connected):
        master = open_master(settings)
        try:
            return await key_backup.check(found, connected, master)
        finally:
            master.close()


async def restore(settings: Settings, path: Path) -> tuple[int, int]:
    """Put back the keys that are gone, and destroy again what was destroyed since; return how many of each."""
    found = key_backup.load(path)
    async with _permitted(settings, Verb.CHANGE, detail_of(command="restore")) as (_, connected):
        restored = await key_backup.restore_rows(found, connected)
        standing = await key_destruction.reconcile(connected, settings)
        return restored, len(standing.risen)


def as_record(found: Status) -> dict[str, Any]:
    """Return the status for `--json`."""
    sources = {holder.key_id: holder.source for holder in found.known}
    return {
        "is_sound": found.is_sound,
        "current_master": found.current,
        "masters": [{**row._asdict(), "is_known_here": row.master_key_id in sources} for row in found.masters],
        "keys": found.census._asdict(),
        "proofs": len(found.standing.proofs),
        "destroyed_keys_that_returned": [key_id.hex() for key_id in found.standing.risen],
        "destroyed_keys_without_proof": [key.key_id.hex() for key in found.standing.unproved],
        "files_that_are_no_proof": found.standing.invalid,
        "blobs_waiting_for_their_patient": found.waiting_blobs,
    }


def show(found: Status, console: Console) -> None:
    """Print what there is."""
    known = {holder.key_id for holder in found.known}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("master key", "where", "since (UTC)", "wraps", ""):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "wraps" else "left")
    for row in found.masters:
        table.add_row(row.master_key_id, row.source, _at(row.added_at_us), f"{row.wraps:,}", _said(row, known, found))
    console.print(table)
    census = found.census
    console.print(
        f"data keys: {census.living:,} living (of {census.patients:,} patients and {census.days:,} days of nobody's), "
        f"{census.destroyed:,} destroyed; {len(found.standing.proofs):,} proofs",
        highlight=False,
    )
    if found.waiting_blobs:
        console.print(f"large bodies whose patient is not known yet: {found.waiting_blobs:,}", highlight=False)
    if found.standing.risen:
        console.print(
            f"[red]{len(found.standing.risen)} destroyed keys had returned (a backup was restored?) and were destroyed "
            "again just now.[/]"
        )
    if found.standing.unproved:
        console.print(
            f"[yellow]{len(found.standing.unproved)} destroyed keys had no proof; it was written just now.[/]"
        )
    for name in found.standing.invalid:
        console.print(f"[red]{name} in anchors/destroyed is no proof that the notary signed.[/]")


def _said(row: MasterRow, known: set[str], found: Status) -> str:
    if row.destroyed_at_us is not None:
        return f"destroyed {_at(row.destroyed_at_us)}"
    if row.master_key_id == found.current:
        return "current"
    if row.wraps and row.master_key_id not in known:
        return "[red]NOT KNOWN HERE: what it wraps cannot be read[/]"
    if row.wraps:
        return "[yellow]still wraps: run `vigil keys rotate` again[/]"
    return "retired: `vigil keys master --destroy` ends it" if row.master_key_id in known else "retired"


def _at(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")


def describe_master(settings: Settings) -> Holder:
    """Return the configured master key, opened.

    Raises:
        ConfigurationError: it is missing or unusable; says why.
    """
    return open_holder(settings, settings.master_key)
