"""Whether a stay ended in death: the rules one by one, and through the directory into the database and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital import messages as wire
from interop import hl7v2
from stores.database import Connection, connect, transaction
from twin.directory import Applied, Directory
from twin.endings import EndingTold, outcome_after
from vocabulary.records import DischargeOutcome, Movement, RawId

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
START = 1_780_000_000 * SECOND
END = START + 2 * DAY
UNKNOWN, SURVIVED, DIED = DischargeOutcome.UNKNOWN, DischargeOutcome.SURVIVED, DischargeOutcome.DIED


def after(told: EndingTold, movement: Movement = Movement.DISCHARGE, *, known=UNKNOWN, at=END, end: int | None = END):
    return outcome_after(known, told, movement, at, START, end)


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (EndingTold(), UNKNOWN),
        (EndingTold(DIED), DIED),
        (EndingTold(SURVIVED), SURVIVED),
        (EndingTold(UNKNOWN), UNKNOWN),
        (EndingTold(None, True), DIED),
        (EndingTold(None, False), SURVIVED),
        (EndingTold(None, True, END - HOUR), DIED),
        (EndingTold(None, None, END - HOUR), DIED),
        (EndingTold(None, True, END + HOUR), SURVIVED),  # died at home, after this stay
        (EndingTold(SURVIVED, True, END + HOUR), SURVIVED),
        (EndingTold(None, True, START - HOUR), DIED),  # a date alone is that day's midnight
        (EndingTold(None, True, START - 2 * DAY), UNKNOWN),  # somebody's error
        (EndingTold(UNKNOWN, True), DIED),  # a site's own code, but the indicator is plain
        (EndingTold(SURVIVED, True), UNKNOWN),  # contradicts itself
        (EndingTold(DIED, False), UNKNOWN),
        (EndingTold(DIED, True, END + HOUR), UNKNOWN),
    ],
)
def test_what_a_discharge_says(told: EndingTold, outcome: DischargeOutcome) -> None:
    assert after(told) is outcome


def test_silence_changes_nothing() -> None:
    for movement, known in itertools.product(
        (Movement.DISCHARGE, Movement.UPDATE, Movement.TRANSFER), DischargeOutcome
    ):
        assert after(EndingTold(), movement, known=known) is known


def test_before_the_end_only_a_death_counts() -> None:
    for told in (EndingTold(SURVIVED), EndingTold(None, False)):
        assert after(told, Movement.UPDATE, end=None) is UNKNOWN
        assert after(told, Movement.UPDATE, at=END - HOUR) is UNKNOWN, "told late, true before the end"
        assert after(told, Movement.UPDATE, at=END + HOUR) is SURVIVED
    assert after(EndingTold(DIED), Movement.UPDATE, end=None) is DIED
    assert after(EndingTold(None, True), Movement.UPDATE, end=None) is DIED
    assert after(EndingTold(None, True), Movement.UPDATE, at=END + DAY) is UNKNOWN, "dead by now does not say when"


@given(
    st.sampled_from(DischargeOutcome),
    st.builds(
        EndingTold,
        st.sampled_from([None, *DischargeOutcome]),
        st.sampled_from([None, True, False]),
        st.none() | st.integers(START - 3 * DAY, END + 3 * DAY),
    ),
    st.sampled_from(Movement),
    st.integers(START, END + DAY),
    st.sampled_from([None, END]),
)
def test_an_admission_never_decides_and_a_cancellation_always_withdraws(known, told, movement, at, end) -> None:
    outcome = outcome_after(known, told, movement, at, START, end)
    if movement in {Movement.ADMIT, Movement.TRANSFER}:
        assert outcome is known
    if movement in {Movement.CANCEL_ADMIT, Movement.CANCEL_DISCHARGE}:
        assert outcome is UNKNOWN
    if end is None and outcome is SURVIVED:
        assert known is SURVIVED, "nobody has survived a stay that goes on"
    again = outcome_after(outcome, told, movement, at, START, end)
    assert again is outcome, "the same message again changes nothing"


class Registration:
    """Tells a directory what a registration sends, over the wire."""

    def __init__(self, directory: Directory) -> None:
        self.directory, self.position = directory, 0

    def tell(self, trigger: str, at_us: int, disposition: str = "", *, is_dead: bool = False, ended=None) -> None:
        self.position += 1
        person = wire.Person((wire.Identifier("7", "H"),), "Doe", is_dead=is_dead)
        bed = wire.Bed("ICU", "1", "A", "H")
        visit = wire.Visit("V7", bed, admitted_at_us=START, discharged_at_us=ended, disposition=disposition)
        header = wire.Header("ADT", "H", f"{self.position}", at_us)
        message = hl7v2.decode(wire.adt(trigger, header, person, visit, at_us), UTC)
        assert isinstance(message, hl7v2.Message)
        applied = self.directory.apply(
            message, raw=RawId(self.position, 0), feed="adt", received_at_us=at_us, received_monotonic_ns=0
        )
        assert isinstance(applied, Applied)


async def outcomes(connection: Connection) -> list[tuple[str, int, int]]:
    async with transaction(connection):
        cursor = await connection.execute("select outcome, at_us, known_from from outcome order by known_from")
        return [tuple(row) for row in await cursor.fetchall()]


async def write(registration: Registration, connection: Connection) -> None:
    async with transaction(connection):
        await registration.directory.write(connection)


async def test_every_change_of_mind_is_kept_with_when_it_was_known(new_database: Callable[[], str]) -> None:
    connection = await connect(new_database(), application_name="test")
    try:
        registration = Registration(Directory())
        registration.tell("A01", START)
        registration.tell("A03", END, "01", ended=END)
        await write(registration, connection)
        registration = _again(registration, await Directory.load(connection))
        await connection.rollback()
        registration.tell("A13", END + HOUR)
        registration.tell("A08", END + HOUR)  # says nothing
        await write(registration, connection)
        registration.tell("A03", END + DAY, "20", is_dead=True, ended=END + DAY)
        registration.tell("A03", END + DAY, ended=END + DAY)  # silent: what was said stands
        await write(registration, connection)
        assert await outcomes(connection) == [
            ("survived", END, 2),
            ("unknown", START, 3),
            ("died", END + DAY, 5),
        ]
    finally:
        await connection.close()


async def test_a_message_told_twice_in_one_commit_leaves_one_row(new_database: Callable[[], str]) -> None:
    connection = await connect(new_database(), application_name="test")
    try:
        registration = Registration(Directory())
        registration.tell("A01", START)
        registration.position = 8
        registration.tell("A03", END, "01", ended=END)
        registration.position = 8  # the same place in the log: another message of its pack
        registration.tell("A08", END + HOUR, "20", ended=END)
        await write(registration, connection)
        assert await outcomes(connection) == [("died", END, 9)]
    finally:
        await connection.close()


def _again(before: Registration, directory: Directory) -> Registration:
    after_restart = Registration(directory)
    after_restart.position = before.position
    return after_restart
