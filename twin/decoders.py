"""Which decoder reads a feed's bodies.

Here: one table from a feed's kind to its decoder.
Not here: decoding (interop), where bodies come from (twin.arrivals).

Every decoder takes any bytes and the feed's zone, and returns a Message about one patient or a Rejected; it never
raises. Doors cut what holds several patients (batch files, bundles) into one body a patient before RAW.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from typing import Final

from interop import hl7v2
from interop.messages import Message
from vocabulary.records import Rejected
from vocabulary.settings import FeedKind

Decoder = Callable[[bytes, tzinfo], Message | Rejected]

DECODERS: Final[dict[FeedKind, Decoder]] = {
    "hl7v2": hl7v2.decode,
}
