"""Destroying keys, with proof: what they protected can never be read again, wherever copies of it lie.

A destruction is one transaction with its audit event; afterwards a signed proof is written outside of the database, in
anchors/destroyed. A database restored from an older backup has the keys again: `reconcile` compares it with the proofs
and destroys them once more.

Here: destroying, counting what was protected, proofs, destroying again.
Not here: who may (governance.gate), the rows (stores.data_keys), forgetting in other processes (governance.privacy).
Source: NIST SP 800-88r1 2.6 and appendix D (certificate of sanitization); GDPR article 17.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from governance.access import Ask, Principal, Purpose, Surface, Verb
from governance.arrivals_key import replace_file
from governance.gate import Gate
from governance.master_key import sync_folder
from governance.notary import ensure_notary, read_keys
from stores import clinical, data_keys, envelope, snapshots
from stores.blobs import BlobStore
from stores.data_keys import StoredKey
from stores.database import Connection, transaction
from stores.ledger import detail_of
from stores.raw_archive import RawArchive
from vocabulary.errors import BrokenInvariantError, RefusedError, UnavailableError
from vocabulary.settings import Settings
from vocabulary.signing import VerifyingKey

_SIGNED = b"vigil.key-destruction.1\n"
"""First bytes of what the notary signs."""


class DestroyedKey(msgspec.Struct, frozen=True):
    """One key, and how much was readable with it."""

    key_id: str
    subject: int  # patient_id
    generation: int
    commitment: str  # hex; whoever still has the key could show that it is this one
    snapshot_bodies: int = 0
    raw_chunks: int = 0
    blobs: int = 0


class Destruction(msgspec.Struct, frozen=True):
    """What was destroyed, when, by whom."""

    name: str
    site: str
    keys: list[DestroyedKey]
    destroyed_at_us: int
    by: str
    reason: str


class Proof(msgspec.Struct, frozen=True):
    """A destruction, signed by the site's notary key."""

    destruction: Destruction
    key_id: str
    signature: str  # base64, over the destruction's canonical JSON

    def is_valid(self, key: VerifyingKey) -> bool:
        """Return whether the holder of this key signed exactly this."""
        return key.is_valid(base64.b64decode(self.signature), _signed_bytes(self.destruction))


class Standing(NamedTuple):
    """How the database stands to the proofs."""

    proofs: list[Proof]
    risen: list[bytes]  # keys that a proof says were destroyed, and that are here again
    unproved: list[StoredKey]  # destroyed keys without a proof
    invalid: list[str]  # files that are no proof the notary signed


def _signed_bytes(destruction: Destruction) -> bytes:
    return _SIGNED + msgspec.json.encode(destruction, order="sorted")


def proofs_dir(settings: Settings) -> Path:
    """Return the folder of proofs."""
    return settings.anchors_dir / "destroyed"


async def destroy(
    gate: Gate,
    principal: Principal,
    settings: Settings,
    connection: Connection,
    patient_id: int,
    *,
    by: str,
    reason: str,
    even_though_admitted: bool = False,
) -> Proof:
    """Destroy every key of a person: all generations, of all records that were merged into one.

    Args:
        gate: decides and records; the event is in the destruction's own transaction.
        principal: who does it.
        settings: where sealed files, blobs and anchors are.
        connection: for reading, outside of a transaction.
        patient_id: any record of the person.
        by: who decided it.
        reason: why; no patient data, since proof and audit keep it for ever.
        even_though_admitted: also while a stay is open, whose twin then loses its past.

    Raises:
        RefusedError: the policy denies it, the person is admitted, or there is nothing to destroy (all recorded).
        UnavailableError: a server does not answer, or keys were made meanwhile; nothing was destroyed.
    """
    async with transaction(connection):
        records = await clinical.merged_ids(connection, patient_id)
        is_admitted = bool(set(records) & set(await clinical.present(connection)))
        living = await _living(connection, records)
    keys = await _counted(connection, settings, records, living)
    destroyed_at_us = gate.clock.now_us()
    name = f"{destroyed_at_us:020d}-{patient_id}"
    said = detail_of(by=by, reason=reason, keys=",".join(key.key_id for key in keys), proof=name)
    ask = Ask(surface=Surface.KEYS, verb=Verb.ERASE, purpose=Purpose.ADMINISTRATION, patient_id=patient_id)
    async with gate.act(principal, ask, detail=said) as acting:
        # Refused in here, so that the attempt is recorded, and only to somebody who may know of the patient.
        if is_admitted and not even_though_admitted:
            raise RefusedError(
                f"Patient {patient_id} is admitted. Destroying the keys erases the past of a twin that people look at; "
                "say --even-though-admitted if that is meant."
            )
        if not living:
            raise RefusedError(f"Patient {patient_id} has no living key: there is nothing to destroy.")
        await data_keys.lock(acting)
        if {key.key_id for key in await _living(acting, records)} != {key.key_id for key in living}:
            raise UnavailableError("Keys of this patient were made or destroyed at this moment. Try again.")
        await data_keys.destroy(acting, [key.key_id for key in living], destroyed_at_us, by, name)
    return keep_proof(settings, Destruction(name, settings.site, keys, destroyed_at_us, by, reason))


async def _living(connection: Connection, subjects: Sequence[int]) -> list[StoredKey]:
    return [key for key in await data_keys.of_subjects(connection, subjects) if key.wrapped is not None]


async def _counted(
    connection: Connection, settings: Settings, records: Sequence[int], keys: Sequence[StoredKey]
) -> list[DestroyedKey]:
    key_ids = [key.key_id for key in keys]
    async with transaction(connection):
        bodies = await snapshots.bodies_under(connection, records, key_ids)
    chunks, blobs = _files_under(settings, set(key_ids))
    return [
        DestroyedKey(
            key.key_id.hex(),
            key.subject,
            key.generation,
            key.commitment.hex(),
            bodies.get(key.key_id, 0),
            chunks[key.key_id],
            blobs[key.key_id],
        )
        for key in keys
    ]


def _files_under(settings: Settings, key_ids: set[bytes]) -> tuple[Counter[bytes], Counter[bytes]]:
    archive = RawArchive(settings.data_dir / "sealed")
    chunks: Counter[bytes] = Counter()
    for stretch in archive.stretches():
        try:
            chunks.update(chunk.key_id for chunk in archive.chunks(stretch) if chunk.key_id in key_ids)
        except BrokenInvariantError:
            continue  # `vigil verify --deep` says so; it must not stop an erasure
    sidecars = BlobStore(settings.data_dir / "blobs").sidecars()
    blobs = Counter(envelope.key_id_of(one) for one in sidecars if envelope.is_sealed(one))
    return chunks, blobs


def keep_proof(settings: Settings, destruction: Destruction) -> Proof:
    """Sign a destruction and keep it outside of the database, durably.

    Raises:
        ConfigurationError: the notary's key cannot be used.
        UnavailableError: the proof cannot be written; the keys are destroyed, and the keeper tries again.
    """
    notary = ensure_notary(settings)
    signature = base64.b64encode(notary.sign(_signed_bytes(destruction))).decode()
    proof = Proof(destruction, notary.key_id, signature)
    folder = proofs_dir(settings)
    try:
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_new:
            sync_folder(folder.parent)
        replace_file(
            folder / f"{destruction.name}.json", msgspec.json.format(msgspec.json.encode(proof, order="sorted")) + b"\n"
        )
    except OSError as error:
        raise UnavailableError(
            f"The keys are destroyed, but the proof in {folder} cannot be written: {os.strerror(error.errno or 0)}."
        ) from None
    return proof


def read_proofs(settings: Settings) -> tuple[list[Proof], list[str]]:
    """Return the proofs that the site's notary signed, and the names of files that are none."""
    known = read_keys(settings.anchors_dir)
    proofs, invalid = [], []
    folder = proofs_dir(settings)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            proof = msgspec.json.decode(path.read_bytes(), type=Proof)
            key = None if known is None else known.notary.get(proof.key_id)
            is_valid = key is not None and path.stem == proof.destruction.name and proof.is_valid(key)
        except (OSError, ValueError):
            is_valid = False
        if is_valid:
            proofs.append(proof)
        else:
            invalid.append(path.name)
    return proofs, invalid


async def stand(connection: Connection, settings: Settings) -> Standing:
    """Compare the database with the proofs; changes nothing.

    Args:
        connection: outside of a transaction.
        settings: where the anchors are.
    """
    proofs, invalid = read_proofs(settings)
    proved = {bytes.fromhex(key.key_id) for proof in proofs for key in proof.destruction.keys}
    async with transaction(connection):
        risen = [key.key_id for key in await data_keys.by_id(connection, proved) if key.wrapped is not None]
        unproved = [key for key in await data_keys.destroyed(connection) if key.key_id not in proved]
    return Standing(proofs, risen, unproved, invalid)


async def reconcile(connection: Connection, settings: Settings, standing: Standing | None = None) -> Standing:
    """Destroy again what a restored backup brought back, and write proofs that a crash prevented.

    Safe to repeat. Needs no audit event of its own: each destruction has one, which the proof repeats.

    Args:
        connection: outside of a transaction; its role may update data_key.
        settings: where the anchors are.
        standing: as `stand` returned; None asks anew.

    Returns:
        How it stood before.
    """
    standing = standing or await stand(connection, settings)
    if standing.risen:
        async with transaction(connection):
            await data_keys.lock(connection)
            for proof in standing.proofs:
                one = proof.destruction
                ids = [bytes.fromhex(key.key_id) for key in one.keys]
                await data_keys.destroy(connection, ids, one.destroyed_at_us, one.by, one.name)
    for name, keys in _by_proof(standing.unproved).items():
        listed = [DestroyedKey(key.key_id.hex(), key.subject, key.generation, key.commitment.hex()) for key in keys]
        at_us = keys[0].destroyed_at_us or 0
        keep_proof(
            settings,
            Destruction(name, settings.site, listed, at_us, keys[0].destroyed_by, "see the audit log; written later"),
        )
    return standing


def _by_proof(keys: Collection[StoredKey]) -> dict[str, list[StoredKey]]:
    found: dict[str, list[StoredKey]] = {}
    for key in keys:
        found.setdefault(key.proof, []).append(key)
    return found
