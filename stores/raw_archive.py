"""RAW's packs after their day in the stream: compressed, immutable files, one a stretch of the log.

Here: writing a stretch so that it survives a power cut, reading packs back by position.
Not here: deciding what may be sealed and removing it from the stream (twin.sealing).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import zstandard

from vocabulary.errors import BrokenInvariantError

_SUFFIX = ".raw.zst"
_LEVEL = 9  # messages of one ward repeat each other: 15–20 times smaller, still 30 MB/s on one core


class Pack(NamedTuple):
    """One pack as RAW held it."""

    position: int
    data: bytes


class Stretch(NamedTuple):
    """A sealed file: the first and last position in it."""

    first: int
    last: int
    path: Path


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Pack])


class RawArchive:
    """A folder of sealed stretches."""

    def __init__(self, folder: Path) -> None:
        """Keep stretches in `folder`, made when the first is written."""
        self.folder = folder

    def write(self, packs: Sequence[Pack]) -> Stretch:
        """Seal packs, in order, into one file; it is on disk when this returns.

        Raises:
            ValueError: there are no packs, or they are not in order.
            OSError: the disk is full or the folder not writable; nothing was sealed.
        """
        positions = [pack.position for pack in packs]
        if not positions or positions != sorted(set(positions)):
            raise ValueError("expected packs in growing order of position")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{positions[0]:020d}-{positions[-1]:020d}{_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        compressed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(_ENCODER.encode(list(packs)))
        with temporary.open("wb") as file:
            file.write(compressed)
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
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            first, _, last = path.name.removesuffix(_SUFFIX).partition("-")
            found.append(Stretch(int(first), int(last), path))
        return found

    def read(self, stretch: Stretch) -> Iterator[Pack]:
        """Yield the packs of a stretch.

        Raises:
            BrokenInvariantError: the file is damaged.
        """
        try:
            yield from _DECODER.decode(zstandard.ZstdDecompressor().decompress(stretch.path.read_bytes()))
        except (zstandard.ZstdError, msgspec.DecodeError) as error:
            raise BrokenInvariantError(f"sealed RAW {stretch.path.name} is damaged: restore it from a copy") from error

    def size_bytes(self) -> int:
        """Return how much the stretches take on disk."""
        return sum(stretch.path.stat().st_size for stretch in self.stretches())
