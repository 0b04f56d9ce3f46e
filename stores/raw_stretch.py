"""One stretch of RAW as a sealed file: its packs without their bodies, and for each patient one sealed chunk of bodies.

Destroying a patient's key leaves everything else readable: the packs, their order, and what others said. Packs that do
not come back bit for bit from their parts (what is no pack of ours, or was encoded by another program) lie whole in the
chunk of what is nobody's that day.

Layout: `VIGILRAW`, version (1 byte, 0x01), length of the head (4 bytes, big-endian), head (msgpack), chunks one behind
the other. The head has the packs' outlines (zstd of msgpack; no patient data but our own numbers) and the chunks'
subjects, keys and sizes. Each chunk is zstd, then sealed; its purpose holds the digest of the outlines, so neither a
chunk nor an outline can be exchanged.

Here: packs into bytes and back.
Not here: files and folders (stores.raw_archive), whose a message is (twin.normalizer, stores.raw_subjects).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import zstandard

from stores import envelope
from stores.envelope import DamagedEnvelopeError, KeyDestroyedError, Keys, nobody
from vocabulary.errors import BrokenInvariantError
from vocabulary.records import RawItem, RawPack

MAGIC = b"VIGILRAW"
UNREADABLE = "unreadable"
"""The feed that what is no pack of ours is counted under (vocabulary.settings.RESERVED_FEEDS)."""

_VERSION = 1
_HEAD = struct.Struct(">8sBI")
_LEVEL = 9  # messages of one patient repeat each other; still 30 MB/s on one core
_LARGEST = 1 << 30  # bytes that a part of a stretch may unpack to


class Pack(NamedTuple):
    """One pack as RAW held it."""

    position: int
    data: bytes
    erased: tuple[int, ...] = ()  # indices of items whose key was destroyed: their bodies are empty in `data`


class Outline(NamedTuple):
    """What is known of a pack without any key."""

    position: int
    feed: str
    items: int


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """The bodies of one subject in a stretch."""

    subject: int
    key_id: bytes
    size: int


class _Shape(msgspec.Struct, frozen=True, array_like=True):
    """A pack without its bodies; `pack` is None where it lies whole in its chunk."""

    position: int
    feed: str
    items: int
    pack: RawPack | None
    chunks: list[int]  # the chunk of each item's body; of a whole pack: of the pack
    lengths: list[int]


class _Head(msgspec.Struct, frozen=True, array_like=True):
    shapes: bytes
    chunks: list[Chunk]


_ENCODER = msgspec.msgpack.Encoder()
_PACK = msgspec.msgpack.Decoder(RawPack)
_SHAPES = msgspec.msgpack.Decoder(list[_Shape])
_READ_HEAD = msgspec.msgpack.Decoder(_Head)


def _without_bodies(pack: RawPack) -> RawPack:
    return msgspec.structs.replace(pack, items=[msgspec.structs.replace(item, body=b"") for item in pack.items])


def _read_exactly(data: bytes) -> RawPack | None:
    """Return a pack that is the same bytes again when it is encoded; None for any other bytes."""
    try:
        pack = _PACK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return pack if _ENCODER.encode(pack) == data else None


class _Plan:
    """Packs taken apart, before anything is sealed."""

    def __init__(self, packs: Sequence[Pack], owners: Mapping[int, Sequence[int]]) -> None:
        self.shapes: list[_Shape] = []
        self.bodies: dict[int, list[bytes]] = {}  # by subject
        self._numbers: dict[int, int] = {}
        at_us = 0
        for pack in packs:
            read = _read_exactly(pack.data)
            if read is None:
                feed, items = _outline_of(pack.data)
                number = self._put(nobody(at_us), pack.data)
                self.shapes.append(_Shape(pack.position, feed, items, None, [number], [len(pack.data)]))
                continue
            at_us = max(at_us, read.at_us)
            of_items = owners.get(pack.position, ())
            numbers = [
                self._put((of_items[index] if index < len(of_items) else 0) or nobody(read.at_us), item.body)
                if item.body
                else -1
                for index, item in enumerate(read.items)
            ]
            lengths = [len(item.body) for item in read.items]
            self.shapes.append(
                _Shape(pack.position, read.feed, len(read.items), _without_bodies(read), numbers, lengths)
            )

    def _put(self, subject: int, body: bytes) -> int:
        self.bodies.setdefault(subject, []).append(body)
        return self._numbers.setdefault(subject, len(self._numbers))


def _outline_of(data: bytes) -> tuple[str, int]:
    try:
        pack = _PACK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UNREADABLE, 1
    return pack.feed, len(pack.items)


def subjects(packs: Sequence[Pack], owners: Mapping[int, Sequence[int]]) -> set[int]:
    """Return whose keys `encode` will seal with, for Keys.ensure.

    Args:
        packs: in order of position.
        owners: by position, the patient of each item of the pack; 0 or absent: nobody's.
    """
    return set(_Plan(packs, owners).bodies)


def encode(packs: Sequence[Pack], owners: Mapping[int, Sequence[int]], keys: Keys) -> bytes:
    """Return packs as one sealed stretch.

    Args:
        packs: in order of position.
        owners: as for `subjects`.
        keys: ready to seal for `subjects`.
    """
    plan = _Plan(packs, owners)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    shapes = compressor.compress(_ENCODER.encode(plan.shapes))
    purpose = _purpose(shapes)
    sealed = {
        subject: keys.seal(subject, purpose, compressor.compress(b"".join(bodies)))
        for subject, bodies in plan.bodies.items()
    }
    chunks = [Chunk(subject, envelope.key_id_of(chunk), len(chunk)) for subject, chunk in sealed.items()]
    head = _ENCODER.encode(_Head(shapes, chunks))
    return b"".join((_HEAD.pack(MAGIC, _VERSION, len(head)), head, *sealed.values()))


def _purpose(shapes: bytes) -> bytes:
    return b"raw:" + hashlib.sha256(shapes).digest()


class Stretch:
    """A sealed stretch in memory."""

    def __init__(self, data: bytes) -> None:
        """Read the outlines and where the chunks are; needs no key.

        Raises:
            BrokenInvariantError: the bytes are no stretch.
        """
        try:
            magic, version, length = _HEAD.unpack_from(data)
            if magic != MAGIC or version != _VERSION:
                raise BrokenInvariantError("a sealed stretch begins otherwise, or is of a newer version")
            head = _READ_HEAD.decode(data[_HEAD.size : _HEAD.size + length])
            unpacked = zstandard.ZstdDecompressor().decompress(head.shapes, max_output_size=_LARGEST)
            self._shapes = _SHAPES.decode(unpacked)
        except (struct.error, zstandard.ZstdError, msgspec.DecodeError) as error:
            raise BrokenInvariantError(f"a sealed stretch is damaged ({type(error).__name__})") from None
        self._purpose = _purpose(head.shapes)
        self._data = data
        self._chunks_at = _HEAD.size + length
        self.chunks = head.chunks
        if self._chunks_at + sum(chunk.size for chunk in head.chunks) != len(data):
            raise BrokenInvariantError("a sealed stretch is cut off, or has something behind it")

    def outlines(self) -> list[Outline]:
        """Return the packs as they can be counted without any key."""
        return [Outline(shape.position, shape.feed, shape.items) for shape in self._shapes]

    def key_ids(self) -> set[bytes]:
        """Return the keys that reading needs, for Keys.load."""
        return {chunk.key_id for chunk in self.chunks}

    def packs(self, keys: Keys) -> Iterator[Pack]:
        """Yield the packs; bodies whose key was destroyed are empty, and marked.

        Raises:
            BrokenInvariantError: the stretch is damaged.
        """
        bodies = [_Bodies(body) for body in self._bodies(keys)]
        for shape in self._shapes:
            taken = [
                b"" if number < 0 else _of(bodies, number).take(length)
                for number, length in zip(shape.chunks, shape.lengths, strict=True)
            ]
            erased = tuple(index for index, body in enumerate(taken) if body is None)
            if shape.pack is None:
                # Nothing is left of it: an empty pack of as many items keeps the count.
                gone = RawPack("", shape.feed, 0, [RawItem(0, 0, "", b"")] * shape.items)
                whole = taken[0]
                if whole is None:
                    yield Pack(shape.position, _ENCODER.encode(gone), tuple(range(shape.items)))
                else:
                    yield Pack(shape.position, whole)
                continue
            items = [
                msgspec.structs.replace(item, body=body or b"")
                for item, body in zip(shape.pack.items, taken, strict=True)
            ]
            yield Pack(shape.position, _ENCODER.encode(msgspec.structs.replace(shape.pack, items=items)), erased)
        if any(left.is_left for left in bodies):
            raise BrokenInvariantError("a sealed stretch holds more than its outlines say")

    def _bodies(self, keys: Keys) -> Iterator[bytes | None]:
        at = self._chunks_at
        for chunk in self.chunks:
            sealed = self._data[at : at + chunk.size]
            at += chunk.size
            try:
                if envelope.key_id_of(sealed) != chunk.key_id:
                    raise DamagedEnvelopeError("a chunk is of another key than its head says")
                yield zstandard.ZstdDecompressor().decompress(
                    keys.unseal(chunk.subject, self._purpose, sealed), max_output_size=_LARGEST
                )
            except KeyDestroyedError:
                yield None
            except (zstandard.ZstdError, DamagedEnvelopeError) as error:
                raise BrokenInvariantError(f"a chunk of a sealed stretch is damaged ({type(error).__name__})") from None


def _of(bodies: Sequence[_Bodies], number: int) -> _Bodies:
    if number >= len(bodies):
        raise BrokenInvariantError("a sealed stretch lacks a chunk that its outlines name")
    return bodies[number]


class _Bodies:
    """A chunk's bodies, taken off one by one in the order of the log."""

    def __init__(self, body: bytes | None) -> None:
        self._body = body
        self._at = 0

    @property
    def is_left(self) -> bool:
        """Return whether something was not taken."""
        return self._body is not None and self._at != len(self._body)

    def take(self, length: int) -> bytes | None:
        """Return the next body; None where the chunk's key was destroyed."""
        if self._body is None:
            return None
        taken = self._body[self._at : self._at + length]
        if len(taken) != length:
            raise BrokenInvariantError("a chunk of a sealed stretch is shorter than its outlines say")
        self._at += length
        return taken
