"""The words of the bus: its streams, their subjects, and each process's own inbox.

Here: names and how they are made. Not here: the connection (twin.bus), who may use which
(orchestration.nats_configuration).
"""

from __future__ import annotations

import re
from typing import Final

RAW: Final = "RAW"
EVENTS: Final = "EVENTS"
SNAPSHOTS: Final = "SNAPSHOTS"
TWINS: Final = "KV_twins"
TWINS_SUBJECT: Final = "$KV.twins."
TICK_SUBJECT: Final = "EVENTS.tick"


def subject_token(text: str) -> str:
    """Return `text` as one token of a subject: NATS allows no spaces, dots or wildcards in it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text) or "_"


def inbox_prefix(name: str) -> str:
    """Return below which subject the process `name` hears answers: its own, so that nobody reads another's."""
    return f"_INBOX_{subject_token(name)}"


def subject_class(subject: str) -> str:
    """Return what kind of subject this is, for a log: nothing in it says which feed, bed or patient."""
    tokens = subject.split(".")
    if tokens[0].upper() in {"$JS", "$KV"}:
        return ".".join(tokens[: 4 if tokens[0].upper() == "$JS" else 2])
    return tokens[0]
