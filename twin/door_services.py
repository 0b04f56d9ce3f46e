"""Doors beside MLLP: what each kind of feed listens with or asks, all storing through one intake.

Here: what a door must offer ingress, what it is given, which class serves which kind.
Not here: the doors themselves (twin.ingress_*), MLLP (twin.ingress), storing (twin.raw_writer).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple, Protocol

from stores.blobs import BlobStore
from twin.bus import Bus
from twin.raw_writer import Intake
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import FeedSettings, Settings


class DoorContext(NamedTuple):
    """What a door is given."""

    feed: FeedSettings
    settings: Settings
    bus: Bus
    clock: Clock
    blobs: BlobStore
    intake: Intake  # its own feed's; ingress runs and drains it
    today: date  # by which waivers are judged


class DoorService(Protocol):
    """One feed's door. Ingress starts it, runs it as a task, asks how it is, and stops it before the intake drains."""

    @property
    def is_ready(self) -> bool:
        """Return whether it can take what is sent; ingress is not ready without it."""

    async def start(self, host: str) -> str:
        """Listen, or begin to ask; return the address.

        Raises:
            ConfigurationError: it cannot be, with what to do.
        """

    async def run(self) -> None:
        """Work until cancelled; what fails for a while is tried again inside."""

    async def stop(self) -> None:
        """Take nothing new; what was handed to the intake is still stored and answered."""

    def detail(self) -> Mapping[str, int | float | str | bool]:
        """Return what status shows of it: counts and states, never a patient's data."""


def door_for(context: DoorContext) -> DoorService:
    """Return the door of a feed's kind; nothing listens yet.

    Raises:
        ConfigurationError: no door serves this kind.
    """
    kind = context.feed.kind
    raise ConfigurationError(f"feed {context.feed.name}: no door serves the kind {kind!r}.")
