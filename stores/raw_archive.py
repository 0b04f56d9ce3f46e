"""RAW's packs after their day in the stream: immutable files, one a stretch of the log, sealed under patients' keys.

Here: writing a stretch so that it survives a power cut, reading packs back by position, checking files against the
digests that the ledger holds.
Not here: a file's inside (stores.raw_stretch), deciding what may be sealed and removing it from the stream
(twin.sealing), whose a message is (stores.raw_subjects).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import zstandard

from stores import raw_stretch
from stores.envelope import Keys
from stores.ledger import Entry, detail_of
from stores.raw_stretch import Outline, Pack
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import RawPack

__all__ = ["Damage", "Outline", "Pack", "RawArchive", "Sealing", "Stretch", "check"]

_SUFFIX = ".raw.sealed"
_PLAIN_SUFFIX = ".raw.zst"  # as files were written before there were keys


class Stretch(NamedTuple):
    """A file of the archive: the first and last position in it."""

    first: int
    last: int
    path: Path


class Sealing(NamedTuple):
    """What the ledger says of a file: enough to tell that it is the same, whoever can read it."""

    name: str
    sha256: str
    first: int
    last: int
    packs: int
    messages: int

    def entry(self, at_us: int) -> Entry:
        """Return the ledger's row."""
        said = detail_of(action="sealed", file=self.name, sha256=self.sha256, packs=self.packs, messages=self.messages)
        return Entry(at_us=at_us, kind="note", position_from=self.first, position_to=self.last, detail=said)


class Damage(NamedTuple):
    """A file that is not what the ledger says."""

    name: str
    kind: Literal["missing", "altered", "unknown"]
    text: str


_PLAIN = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
_PACK = msgspec.msgpack.Decoder(RawPack)


class RawArchive:
    """A folder of sealed stretches."""

    def __init__(self, folder: Path) -> None:
        """Keep stretches in `folder`, made when the first is written."""
        self.folder = folder

    def write(self, packs: Sequence[Pack], owners: Mapping[int, Sequence[int]], keys: Keys) -> Stretch:
        """Seal packs, in order, into one file; it is on disk when this returns.

        Args:
            packs: in order of position.
            owners: by position, the patient of each item; 0 or absent: nobody's.
            keys: ready to seal for `stores.raw_stretch.subjects(packs, owners)`.

        Raises:
            ValueError: there are no packs, or they are not in order.
            OSError: the disk is full or the folder not writable; nothing was sealed.
        """
        positions = [pack.position for pack in packs]
        if not positions or positions != sorted(set(positions)):
            raise ValueError("expected packs in growing order of position")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{positions[0]:020d}-{positions[-1]:020d}{_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        sealed = raw_stretch.encode(packs, owners, keys)
        with temporary.open("wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return Stretch(positions[0], positions[-1], path)

    def stretches(self) -> list[Stretch]:
        """Return what is sealed, in order."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            name = path.name.removesuffix(_SUFFIX).removesuffix(_PLAIN_SUFFIX)
            if name != path.name:
                first, _, last = name.partition("-")
                found.append(Stretch(int(first), int(last), path))
        return sorted(found)

    def outlines(self, stretch: Stretch) -> list[Outline]:
        """Return the packs of a stretch as they can be counted without any key.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        if stretch.path.name.endswith(_PLAIN_SUFFIX):
            return [_outline(position, data) for position, data in _plain(stretch)]
        return _opened(stretch).outlines()

    def key_ids(self, stretch: Stretch) -> set[bytes]:
        """Return the keys that reading a stretch needs, for Keys.load.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        return set() if stretch.path.name.endswith(_PLAIN_SUFFIX) else _opened(stretch).key_ids()

    def chunks(self, stretch: Stretch) -> list[raw_stretch.Chunk]:
        """Return whose bodies a stretch holds, under which keys.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        return [] if stretch.path.name.endswith(_PLAIN_SUFFIX) else _opened(stretch).chunks

    def read(self, stretch: Stretch, keys: Keys) -> Iterator[Pack]:
        """Yield the packs of a stretch, bit for bit; items whose key was destroyed are empty, and marked.

        Args:
            stretch: one of `stretches()`.
            keys: ready to unseal with `key_ids(stretch)`.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        if stretch.path.name.endswith(_PLAIN_SUFFIX):
            return (Pack(position, data) for position, data in _plain(stretch))
        return self._sealed(stretch, keys)

    @staticmethod
    def _sealed(stretch: Stretch, keys: Keys) -> Iterator[Pack]:
        try:
            yield from _opened(stretch).packs(keys)
        except BrokenInvariantError as error:
            raise BrokenInvariantError(f"{stretch.path.name}: {error}") from None

    def sealing(self, stretch: Stretch) -> Sealing:
        """Return what the ledger is to say of a file.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        outlines = self.outlines(stretch)
        messages = sum(outline.items for outline in outlines)
        digest = _digest(stretch.path)
        return Sealing(stretch.path.name, digest, stretch.first, stretch.last, len(outlines), messages)

    def size_bytes(self) -> int:
        """Return how much the stretches take on disk."""
        return sum(stretch.path.stat().st_size for stretch in self.stretches())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(stretch: Stretch) -> raw_stretch.Stretch:
    try:
        return raw_stretch.Stretch(stretch.path.read_bytes())
    except (OSError, BrokenInvariantError) as error:
        raise BrokenInvariantError(
            f"sealed RAW {stretch.path.name} is damaged: {error}. Restore it from a copy."
        ) from None


def _plain(stretch: Stretch) -> list[tuple[int, bytes]]:
    try:
        return _PLAIN.decode(zstandard.ZstdDecompressor().decompress(stretch.path.read_bytes()))
    except (OSError, zstandard.ZstdError, msgspec.DecodeError):
        raise BrokenInvariantError(f"sealed RAW {stretch.path.name} is damaged: restore it from a copy") from None


def _outline(position: int, data: bytes) -> Outline:
    try:
        pack = _PACK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Outline(position, raw_stretch.UNREADABLE, 1)
    return Outline(position, pack.feed, len(pack.items))


def check(archive: RawArchive, sealings: Sequence[Sealing]) -> list[Damage]:
    """Compare every file with the digest that the ledger holds of it; needs no key, so erasure changes nothing.

    Args:
        archive: the folder.
        sealings: what the ledger says (stores.raw_subjects.sealings), in order.

    Returns:
        What is missing, altered, or among the noted files without a row. A file behind all noted ones is one that
        the keeper is about to note.
    """
    known = {sealing.name: sealing for sealing in sealings}
    found = {stretch.path.name: stretch for stretch in archive.stretches()}
    damages = []
    for name, sealing in known.items():
        if name not in found:
            damages.append(Damage(name, "missing", f"{sealing.packs} packs, {sealing.first} to {sealing.last}"))
        elif (digest := _digest(found[name].path)) != sealing.sha256:
            damages.append(Damage(name, "altered", f"expected sha256 {sealing.sha256}, found {digest}"))
    noted_to = max((sealing.last for sealing in sealings), default=0)
    damages += [
        Damage(name, "unknown", "the ledger holds no digest of it")
        for name in sorted(found.keys() - known.keys())
        if found[name].first <= noted_to
    ]
    return damages
