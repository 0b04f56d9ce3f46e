"""Data keys as they are kept: made, wrapped for their own row, and unwrapped.

Here: the context a data key is wrapped for, a new key, the key of a row.
Not here: the master key (governance.master_key), rows (stores.data_keys), keys in memory (governance.privacy).
"""

from __future__ import annotations

import os
import struct

from governance.master_key import MasterKey, commitment_of
from stores import envelope
from stores.data_keys import StoredKey
from stores.envelope import ContentKey
from vocabulary.errors import BrokenInvariantError

_CONTEXT = struct.Struct(">8sqi")


def context_of(key_id: bytes, subject: int, generation: int) -> bytes:
    """Return what a data key is wrapped for: its wrapped bytes open in no other row."""
    return b"vigil data key" + _CONTEXT.pack(key_id, subject, generation)


def new_key(master: MasterKey, subject: int, generation: int, at_us: int) -> StoredKey:
    """Return a fresh data key, wrapped, ready to be kept."""
    key_id, key = os.urandom(envelope.KEY_ID_BYTES), os.urandom(envelope.KEY_BYTES)
    wrapped = master.wrap(key, context_of(key_id, subject, generation))
    return StoredKey(key_id, subject, generation, wrapped.master_key_id, wrapped.wrapped, commitment_of(key), at_us)


def unwrapped(master: MasterKey, row: StoredKey) -> ContentKey | None:
    """Return the key of a row; None where it was destroyed.

    Raises:
        BrokenInvariantError: the row was changed.
        ConfigurationError, UnavailableError: as MasterKey.unwrap.
    """
    key = plain(master, row)
    return None if key is None else ContentKey(row.key_id, key)


def plain(master: MasterKey, row: StoredKey) -> bytes | None:
    """Return the bytes of a row's key, to wrap them anew; None where it was destroyed. Raises as `unwrapped`."""
    if row.wrapped is None:
        return None
    key = master.unwrap(row.master_key_id, row.wrapped, context_of(row.key_id, row.subject, row.generation))
    if commitment_of(key) != row.commitment:
        raise BrokenInvariantError(
            f"data key {row.key_id.hex()} is not the one its row commits to: restore the row from the backup of keys"
        )
    return key
