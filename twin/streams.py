"""The four streams, as they must be.

Here: what each keeps, where, and how much. Not here: making them (twin.bus), reading RAW (twin.raw_reader).
"""

from __future__ import annotations

from typing import Final

from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from twin.subjects import EVENTS, RAW, SNAPSHOTS, TWINS, TWINS_SUBJECT

_DERIVED_BYTES: Final = 256 * 1024 * 1024


def streams(raw_max_bytes: int) -> list[StreamConfig]:
    """Return the streams as they must be; RAW is the first, all others can be made again from what PostgreSQL has."""
    return [
        # Discard NEW: what a sender was told is safe is never pushed out by what comes later.
        StreamConfig(
            name=RAW, subjects=[RAW + ".>"], storage=StorageType.FILE, discard=DiscardPolicy.NEW,
            max_bytes=raw_max_bytes, duplicate_window=120, allow_direct=True,
        ),
        StreamConfig(
            name=EVENTS, subjects=[EVENTS + ".>"], storage=StorageType.MEMORY, discard=DiscardPolicy.OLD,
            max_bytes=_DERIVED_BYTES, max_age=900,
        ),
        StreamConfig(
            name=SNAPSHOTS, subjects=[SNAPSHOTS + ".>"], storage=StorageType.MEMORY, discard=DiscardPolicy.OLD,
            max_bytes=_DERIVED_BYTES, max_age=300,
        ),
        StreamConfig(
            name=TWINS, subjects=[TWINS_SUBJECT + ">"], storage=StorageType.MEMORY, discard=DiscardPolicy.NEW,
            max_bytes=_DERIVED_BYTES, max_msgs_per_subject=1, allow_rollup_hdrs=True, deny_delete=True,
            allow_direct=True,
        ),
    ]  # fmt: skip
