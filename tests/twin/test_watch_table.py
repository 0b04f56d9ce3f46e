"""What the watch looks at: windows, whose evidence it is, alerts and days, the newest inputs; in a real database."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores import risk_scores, timeseries
from stores.database import Connection, connect, transaction
from stores.risk_scores import RiskScore
from stores.samples import Sample
from stores.watching import EndedStay, Said
from twin.alerts import Rule
from twin.watch_table import DAY_US, HOUR_US, Watched, age_of, attention, gather
from validation import model_protocol
from validation.live import Reference
from vocabulary.concepts import by_key

NOW = 1_780_000_000_000_000
MODEL, OTHER = "a" * 64, "b" * 64
QUARTER = 15 * 60_000_000
PROTOCOL = model_protocol.load("mortality")
REFERENCE = Reference((0.005, 0.5, 0.995), (50.0, 110.0, 400.0))


def watched(**changes: object) -> Watched:
    made = Watched("mortality", 1, MODEL, 1, 1, False, {"glucose": REFERENCE, "heart_rate": REFERENCE})
    return made._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
async def connection(new_database: Callable[[], str]) -> AsyncIterator[Connection]:
    opened = await connect(new_database(), application_name="test")
    yield opened
    await opened.close()


class House:
    """Rows as the normalizer and the engine write them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def stay(self, number: int, *, ended_h_ago: float | None = 1.0, outcome: str = "", sex: str = "female",
                   birth_date: str = "1950-02-03", started_h_ago: float = 50.0) -> None:  # fmt: skip
        ended = None if ended_h_ago is None else NOW - round(ended_h_ago * HOUR_US)
        async with transaction(self.connection) as own:
            await own.execute(
                "insert into patient (patient_id, partition, family_name, given_name, birth_date, sex, "
                "created_position, updated_position) values (%s, 0, 'F', 'G', %s, %s, 1, 1)",
                (number, birth_date, sex),
            )
            await own.execute(
                "insert into encounter (encounter_id, patient_id, status, started_at_us, ended_at_us, known_from, "
                "updated_position) values (%s, %s, %s, %s, %s, 1, 1)",
                (number, number, "finished" if ended else "in-progress", NOW - round(started_h_ago * HOUR_US), ended),
            )
            if outcome:
                await own.execute("insert into outcome values (%s, 1, %s, %s)", (number, outcome, ended or NOW))

    async def outcome(self, number: int, outcome: str, position: int) -> None:
        async with transaction(self.connection) as own:
            await own.execute("insert into outcome values (%s, %s, %s, %s)", (number, position, outcome, NOW))

    async def say(self, number: int, *probabilities: float | None, ago_h: float = 2.0, model: str = MODEL,
                  serving: int = 1, slot: str = "champion") -> None:  # fmt: skip
        start = NOW - round(ago_h * HOUR_US)
        async with transaction(self.connection) as own:
            await risk_scores.add(
                own,
                [
                    RiskScore(
                        encounter_id=number, through_minute=60 + 15 * index, slot=slot, model_digest=model,
                        position=100 * serving + index, patient_id=number, serving_id=serving,
                        at_us=start + index * QUARTER, probability=probability,
                    )
                    for index, probability in enumerate(probabilities)
                ],
            )  # fmt: skip

    async def charted(self, number: int, key: str, value: float, *, ago_min: float, revision: int = 1,
                      status: int = 0) -> None:  # fmt: skip
        at = datetime.fromtimestamp(NOW / 1e6, UTC) - timedelta(minutes=ago_min)
        async with transaction(self.connection) as own:
            await own.execute(
                "insert into observation_event (patient_id, concept, effective_at, source_key, revision, raw_index, "
                "value_index, value, status, received_at, known_from) values (%s, %s, %s, 1, %s, 0, 0, %s, %s, %s, %s)",
                (number, by_key(key).number, at, revision, value, status, at, at),
            )

    async def minute(self, number: int, *, ago_min: float, heart_rate: float | None) -> None:
        at = datetime.fromtimestamp(NOW / 1e6, UTC) - timedelta(minutes=ago_min)
        async with transaction(self.connection) as own:
            await own.execute(
                "insert into vitals_minute (patient_id, minute, heart_rate, n) values (%s, %s, %s, %s)",
                (number, at, heart_rate, [1] * 11),
            )

    async def table(self, **changes: object):
        async with transaction(self.connection) as own:
            return await gather(own, watched(**changes), PROTOCOL, NOW)


async def test_each_ended_stay_counts_once_with_the_last_that_was_said(connection: Connection) -> None:
    house = House(connection)
    await house.stay(1, outcome="died", sex="male")
    await house.say(1, 0.1, 0.2, 0.7, None)
    await house.stay(2, outcome="survived")
    await house.say(2, 0.3)
    await house.stay(3)  # nobody knows how it ended
    await house.say(3, 0.9)
    await house.stay(4, ended_h_ago=None)  # goes on
    await house.say(4, 0.4)
    await house.stay(5, outcome="died", ended_h_ago=24 * 29)  # before the window
    await house.say(5, 0.5, ago_h=24 * 29.5)
    await house.stay(6, outcome="died")  # another model's, and a silent candidate's
    await house.say(6, 0.6, model=OTHER)
    await house.say(6, 0.6, slot="silent")
    await house.stay(7, outcome="died")  # nothing was ever said
    await house.say(7, None)
    table = await house.table()
    assert table.probability.tolist() == [0.7, 0.3]
    assert table.died.tolist() == [True, False]
    assert list(table.sex) == ["male", "female"]
    assert table.age_years is not None
    assert table.age_years == pytest.approx([76.3, 76.3], abs=0.2)


async def test_an_outcome_that_was_withdrawn_or_corrected_counts_as_known_now(connection: Connection) -> None:
    house = House(connection)
    for number in (1, 2):
        await house.stay(number, outcome="survived")
        await house.say(number, 0.2)
    await house.outcome(1, "unknown", 5)
    await house.outcome(2, "died", 5)
    table = await house.table()
    assert (table.probability.tolist(), table.died.tolist()) == ([0.2], [True])


async def test_evidence_begins_anew_where_it_was_let_speak_again(connection: Connection) -> None:
    house = House(connection)
    await house.stay(1, outcome="died")
    await house.say(1, 0.9, serving=1)
    await house.stay(2, outcome="survived")
    await house.say(2, 0.4, serving=3)
    table = await house.table(spoke_anew_id=3, serving_id=3)
    assert table.probability.tolist() == [0.4]
    assert table.alerts == 1, "the alert under the earlier row is not counted again"
    assert (await house.table(spoke_anew_id=1)).alerts == 2
    clamped = await house.table(spoke_anew_id=3, serving_id=4)
    assert clamped.alerts == 0, "a flood is called anew only by what came under the clamp"
    assert clamped.probability.tolist() == [0.4], "calibration goes on being watched"


async def test_the_newest_value_of_each_patient_is_an_input(connection: Connection) -> None:
    house = House(connection)
    for number in (1, 2, 3, 4, 5):
        await house.stay(number, ended_h_ago=None)
        await house.say(number, *[0.1] * 8, ago_h=2)
    await house.charted(1, "glucose", 90, ago_min=60)
    await house.charted(1, "glucose", 120, ago_min=10)
    await house.charted(2, "glucose", 150, ago_min=60)
    await house.charted(2, "glucose", 155, ago_min=60, revision=2, status=2)  # corrected
    await house.charted(3, "glucose", 100, ago_min=60)
    await house.charted(3, "glucose", 100, ago_min=60, revision=2, status=3)  # taken back
    await house.charted(4, "glucose", 80, ago_min=60 * (PROTOCOL.live.inputs.window_hours + 1))  # before the window
    await house.stay(6)
    await house.say(6, 0.1, ago_h=2)  # left since
    await house.charted(6, "glucose", 60, ago_min=100)
    await house.charted(4, "lactate", 2, ago_min=60)  # not an input of this model
    await house.stay(9, ended_h_ago=None)
    await house.charted(9, "glucose", 70, ago_min=10)  # never asked about
    await house.minute(1, ago_min=3, heart_rate=80)
    await house.minute(1, ago_min=2, heart_rate=None)
    await house.minute(2, ago_min=2, heart_rate=95)
    table = await house.table()
    assert {key: values.tolist() for key, values in table.inputs.items()} == {
        "glucose": [120.0, 155.0],
        "heart_rate": [80.0, 95.0],
    }
    resumed = await house.table(is_resumed=True, spoke_anew_id=1)
    assert resumed.inputs["glucose"].tolist() == [120.0, 155.0], "both lie behind the first word of two hours ago"
    await house.say(1, 0.2, 0.2, ago_h=0.5, serving=8)
    later = await house.table(is_resumed=True, spoke_anew_id=8)
    assert later.inputs["glucose"].tolist() == [120.0], "a person resumed it knowing of what came before"


async def test_inputs_that_only_signal_blocks_hold_are_found_by_the_deep_look(connection: Connection) -> None:
    house = House(connection)
    key = "arterial_mean_blood_pressure"
    for number, value in ((1, 70.0), (2, 90.0)):
        await house.stay(number, ended_h_ago=None)
        await house.say(number, 0.1, ago_h=0.5)
        at = [NOW - ago_min * 60_000_000 for ago_min in (9, 5)]
        number_of = by_key(key).number
        samples = [
            Sample(number, number_of, value + 4, "", at[0], NOW, 0, 7, "", "monitors", 1, 0, 0),
            Sample(number, number_of, value, "", at[1], NOW, 0, 7, "", "monitors", 1, 0, 1),
        ]
        async with transaction(connection) as own:
            await timeseries.write(own, samples, 1, NOW)
    references = {key: REFERENCE, "glucose": REFERENCE}
    assert (await house.table(references=references)).inputs[key].tolist() == [70.0, 90.0]
    async with transaction(connection) as own:
        shallow = await gather(own, watched(references=references), PROTOCOL, NOW, is_deep=False)
    assert dict(shallow.inputs) == {}


async def test_a_house_without_anything_is_no_evidence(connection: Connection) -> None:
    table = await House(connection).table()
    assert (len(table.probability), table.alerts, table.patient_days, table.patients, dict(table.inputs)) == (
        0, 0, 0.0, 0, {},
    )  # fmt: skip


def rows(*stays: list[float], step_us: int = QUARTER) -> Said:
    flat = [(n, 15 * i, NOW + i * step_us, p) for n, stay in enumerate(stays) for i, p in enumerate(stay)]
    columns = list(zip(*flat, strict=True)) if flat else [(), (), (), ()]
    return Said(*(np.array(column, kind) for column, kind in zip(columns, "qqqd", strict=True)))  # type: ignore[arg-type]


RULE = Rule(0.3, 0.25)


def test_alerts_are_counted_by_the_boards_own_rule() -> None:
    alerts, days, patients = attention(RULE, rows([0.1, 0.31, 0.29, 0.31, 0.2, 0.5], [0.1, math.nan]))
    assert (alerts, patients) == (2, 2)
    assert days == pytest.approx((6 + 1) * 15 / 1440)


def test_time_nobody_was_watched_is_no_patient_day() -> None:
    _, days, _ = attention(RULE, rows([0.1, 0.1], step_us=DAY_US))
    assert days == pytest.approx(2 * 15 / 1440)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), max_size=5), st.randoms())
def test_the_order_of_stays_changes_nothing(stays: list[list[float]], rng) -> None:
    before = attention(RULE, rows(*stays))
    rng.shuffle(stays)
    assert attention(RULE, rows(*stays)) == pytest.approx(before)


@pytest.mark.parametrize(
    ("birth_date", "charted", "age"),
    [("1950-01-01", None, 76.4), ("1950", None, 75.9), ("1950-06", 20.0, 76.0), ("", 54.0, 54.0), ("", None, math.nan),
     ("1950-13-01", 30.0, math.nan), ("2030-01-01", None, 0.0),
     ("19500101T00", 30.0, math.nan)],
)  # fmt: skip
def test_an_age_is_of_the_admission(birth_date: str, charted: float | None, age: float) -> None:
    stay = EndedStay(1, 0.1, False, "female", birth_date, charted, NOW)
    assert age_of(stay) == pytest.approx(age, abs=0.1, nan_ok=True)
