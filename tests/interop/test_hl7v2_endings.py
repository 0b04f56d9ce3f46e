"""How a stay ended, as PV1-36, PID-29 and PID-30 say it: golden segments, and what is left unknown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop import hl7v2
from interop.hl7v2 import Message
from vocabulary.records import DischargeOutcome, Rejected

MSH = "MSH|^~\\&|ADT|H|VIGIL|H|20260503120000+0000||ADT^A03^ADT_A03|1|P|2.5.1"
EVN = "EVN||20260503120000+0000"


def decode(pid: str = "", pv1: str = "", msh: str = MSH) -> Message | Rejected:
    segments = [msh, EVN, "PID|1||7^^^H^MR" + pid, "PV1|1|I|ICU^1^A" + pv1]
    return hl7v2.decode("\r".join(segments).encode(), UTC)


def disposition(code: str) -> DischargeOutcome | None:
    message = decode(pv1="|" * 33 + code)
    assert isinstance(message, Message)
    assert message.visit is not None
    return message.visit.outcome


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("01", "survived"), ("1", "survived"), ("02", "survived"), ("07", "survived"), ("19", "survived"),
        ("62", "survived"), ("20", "died"), ("40", "died"), ("41", "died"), ("42^Expired^0112", "died"),
        # The stay goes on, two tables disagree, still a patient, a site's own word, emptied:
        ("09", "unknown"), ("21", "unknown"), ("29", "unknown"), ("30", "unknown"), ("EXP", "unknown"),
        ('""', "unknown"), ("020", "unknown"),
    ],
)  # fmt: skip
def test_a_disposition_counts_only_where_its_meaning_is_sure(code: str, outcome: str) -> None:
    assert disposition(code) == DischargeOutcome(outcome)


@pytest.mark.parametrize("code", ["", " ", "^"])
def test_a_disposition_that_is_not_sent_says_nothing(code: str) -> None:
    assert disposition(code) is None


@pytest.mark.parametrize(
    ("death", "is_dead", "died_at"),
    [
        ("20260503113000+0000|Y", True, datetime(2026, 5, 3, 11, 30, tzinfo=UTC)),
        ("|Y", True, None),
        ("|N", False, None),
        ("20260503|", None, datetime(2026, 5, 3, tzinfo=UTC)),
        ('""|""', None, None),
        ("|maybe", None, None),
        ("noon|Y", True, None),
        ("", None, None),
    ],
)
def test_a_death_is_read_from_the_patient(death: str, is_dead: bool | None, died_at: datetime | None) -> None:
    message = decode(pid="|" * 26 + death)
    assert isinstance(message, Message)
    assert message.patient is not None
    assert message.patient.is_dead is is_dead
    expected = None if died_at is None else round(died_at.timestamp() * 1e6)
    assert message.patient.died_at_us == expected


def test_a_monitor_says_nothing_of_how_a_stay_ended() -> None:
    oru = MSH.replace("ADT^A03^ADT_A03", "ORU^R01^ORU_R01")
    message = decode(pv1="|" * 33 + "20", msh=oru)
    assert isinstance(message, Message)
    assert message.visit is not None
    assert message.visit.outcome is None


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_any_text_in_these_fields_is_read_or_refused(code: str, at: str, indicator: str) -> None:
    message = decode(pid="|" * 26 + f"{at}|{indicator}", pv1="|" * 33 + code)
    assert isinstance(message, (Message, Rejected))
