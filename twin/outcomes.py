"""What one commit of the normalizer gathers: messages as they arrived, their counts, and all that will be written.

Here: plain holders of one transaction's work.
Not here: deciding (twin.normalizer), writing (stores).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from interop.messages import Message
from stores import feeds, quarantine
from stores.ledger import Entry, Kind
from vocabulary.records import Event, Merged, Outcome, RawId, RawItem, RawPack, Rejected, partition_of

CONTROL_FEED = "control"
"""Packs of commands to the normalizer itself (release or discard a quarantined item), in the log like the rest."""

UNREADABLE_FEED = "unreadable"
"""What RAW holds and is no pack of ours, as one message of this feed: it is itemised, and the log goes on."""

_PACK = msgspec.msgpack.Decoder(RawPack)


def read_pack(data: bytes, received_at_us: int = 0) -> RawPack:
    """Return a pack of RAW; bytes that are none are a pack of one message that nobody will understand."""
    try:
        return _PACK.decode(data)
    except msgspec.DecodeError:
        return RawPack("", UNREADABLE_FEED, 0, [RawItem(received_at_us, 0, "", data)])


class Command(msgspec.Struct, frozen=True):
    """What an operator asks of the normalizer through the log."""

    action: str  # "release" or "discard"
    item_ids: list[int]
    by: str = ""  # who asks: the operating system's user, until people sign in


class Arrival(NamedTuple):
    """One message of the log, decoded."""

    raw: RawId
    feed: str
    item: RawItem
    body: bytes
    message: Message | Rejected


class Counts:
    """The ledger's columns for one pack, while it is being worked on."""

    def __init__(self) -> None:
        """Start at zero."""
        self.messages = dict.fromkeys(Outcome, 0)
        self.values = dict.fromkeys(Outcome, 0)
        self.messages_received = 0
        self.values_received = 0
        self.without_value = 0

    def entry(self, at_us: int, kind: Kind, feed: str, first: int, last: int) -> Entry:
        """Return the ledger row."""
        counts = {
            **{f"messages_{outcome}": count for outcome, count in self.messages.items()},
            **{f"values_{outcome}": count for outcome, count in self.values.items()},
        }
        entry = Entry(
            at_us=at_us,
            kind=kind,
            feed=feed,
            position_from=first,
            position_to=last,
            messages_received=self.messages_received,
            values_received=self.values_received,
            without_value=self.without_value,
        )
        return msgspec.structs.replace(entry, **counts)


class Work:
    """What one transaction will write."""

    def __init__(self, position: int, log_time_us: int) -> None:
        """Start empty at the batch's last position."""
        self.position = position
        self.log_time_us = log_time_us
        self.events: dict[int, list[Event]] = {}
        self.entries: list[Entry] = []
        self.items: list[quarantine.Item] = []
        self.touches: list[feeds.FeedTouch] = []
        self.released: set[int] = set()
        self.discarded: set[int] = set()
        self.held = 0  # messages and values that were not accepted
        self.released_by: dict[RawId, int] = {}  # how many messages each message of the log released
        self.subjects: dict[int, list[int]] = {}  # by position: the patient of each message, 0: nobody's
        self.found: list[tuple[int, int, int]] = []  # position, index, patient of messages held earlier
        self.blobs: dict[str, int] = {}  # whose a body outside of RAW is

    def belongs(self, position: int, index: int, patient_id: int) -> None:
        """Note whose a message is; one that was held in an earlier commit is amended."""
        listed = self.subjects.get(position)
        if listed is None:
            self.found.append((position, index, patient_id))
        elif index < len(listed):
            listed[index] = patient_id

    def add(self, events: Iterable[Event]) -> bool:
        """Put events to their patients' partitions; return whether there was any."""
        is_any = False
        for event in events:
            is_any = True
            if isinstance(event, Merged):
                partitions = {partition_of(event.survivor_id), partition_of(event.retired_id)}
            else:
                partitions = {partition_of(event.patient_id)}
            for partition in partitions:
                self.events.setdefault(partition, []).append(event)
        return is_any
