"""What a hospital system hands to its sender: a message, when it is due, and what stands in it.

Here: `Outgoing` and `Sent`, the generator's own record of what it said: the oracle a receiver is checked against.
Not here: what was acknowledged (sender.Transcript), what was made wrong on purpose (faults.Injected).
"""

from __future__ import annotations

import string
from typing import NamedTuple

_DIGITS = string.digits + string.ascii_uppercase


def run_code(start_us: int) -> str:
    """Return a run's start as six letters and digits, to the second.

    Part of control ids and visit numbers: the same recording played again later is not a conflict with the first time.
    """
    seconds, code = start_us // 1_000_000, ""
    while seconds or not code:
        seconds, digit = divmod(seconds, 36)
        code = _DIGITS[digit] + code
    return code.rjust(6, "0")


class Sent(NamedTuple):
    """One value as it stands in a message: what a receiver must account for."""

    value_index: int  # place among the OBX that carry a value, from 0
    code: str
    system: str  # OBX-3.3
    text: str  # OBX-5 (the code of a coded value)
    unit: str  # OBX-6.1
    effective_at_us: int | None
    status: str  # OBX-11


class Timed(NamedTuple):
    """One message and when it is to be sent."""

    at_us: int
    feed: str
    control_id: str
    body: bytes
    medical_record_number: str  # as the sender knows it; "" where it knows none
    values: tuple[Sent, ...] = ()
