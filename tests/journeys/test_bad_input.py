"""Everything a hospital sends that it should not: nothing crashes, nothing is lost, each has its reason.

All through real sockets. Each case says what it sends, what it is answered, and what must be found of it afterwards;
one test sends them all, shuffled among good messages, and balances the books.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from stores.database import transaction
from stores.source_messages import body_digest
from twin import replay
from twin.outcomes import CONTROL_FEED

SECOND = 1_000_000
HOUR = 3600 * SECOND


@dataclass
class Case:
    """Bytes, and what becomes of them."""

    name: str
    body: bytes
    reasons: Counter = field(default_factory=Counter)  # (reason, outcome, whole message or value) -> items
    code: str = "AA"
    feed: str = "monitors"
    values: int = 1  # received
    accepted: int = 0  # values
    without_value: int = 0


def whole(reason, outcome):
    return Counter({(reason, outcome, "message"): 1})


def single(reason, outcome, count=1):
    return Counter({(reason, outcome, "value"): count})


def cases(hospital, now_us):
    """Every bad input there is a rule for. Patient 1 lies in bed A since two hours; 2 left an hour ago."""
    told = []

    def add(name, body, reasons, **more):
        told.append(Case(name, body, reasons, **more))

    def pulse(text="80", unit="/min", *, number="1", code="8867-4", at_us=now_us, status="F", bed="", **header):
        result = hospital.result(code, text, unit, at_us=at_us, status=status)
        return hospital.report(number, result, bed=bed, application="MON", **header)

    add("wrong MSH", b"XSH|^~\\&|A|B|C|D|||ORU^R01|1|P|2.5\r", whole("malformed", "rejected"), code="AR", values=0)
    add("no bytes", b"", whole("malformed", "rejected"), code="AR", values=0)
    add("binary", bytes(range(32, 256)), whole("malformed", "rejected"), code="AR", values=0)
    add("unknown code", pulse(code="99999-9"), single("unknown_code", "rejected"))
    add("unknown unit", pulse(unit="furlong"), single("unknown_unit", "rejected"))
    add("incompatible unit", pulse(unit="kg"), single("incompatible_unit", "rejected"))
    add("no unit", pulse(unit=""), single("unknown_unit", "rejected"))
    add("pH 735", pulse("735", "[pH]", code="2744-1"), single("implausible_value", "quarantined"))
    add("heart rate 0", pulse("0"), single("implausible_value", "quarantined"))
    add("weight -1", pulse("-1", "kg", code="29463-7"), single("implausible_value", "quarantined"))
    add("not a number", pulse("eighty"), single("not_a_number", "rejected"))
    add("cuff failure", pulse("---"), single("not_a_number", "rejected"))
    add("future", pulse(at_us=now_us + 6 * HOUR), single("future_time", "quarantined"))
    add("before admission", pulse(at_us=now_us - 3 * HOUR), single("before_admission", "quarantined"))
    add("after discharge", pulse(number="2", at_us=now_us), single("after_discharge", "quarantined"))
    add("impossible time", pulse().replace(b"|F|||20", b"|F|||20991399"), single("bad_timestamp", "rejected"))
    add("training", pulse(processing_id="T"), whole("not_production", "quarantined"))
    add("debugging", pulse(processing_id="D"), whole("not_production", "quarantined"))
    add(
        "unsupported message",
        pulse().replace(b"ORU^R01^ORU_R01", b"SIU^S12^SIU_S12"),
        whole("unsupported_message", "rejected"),
        values=0,
    )
    add("unknown trigger", hospital.adt("A08", "1", "A", at_us=now_us).replace(b"ADT^A08", b"ADT^A99"),
        whole("unsupported_message", "rejected"), values=0)  # fmt: skip
    add("unknown charset", pulse().replace(b"UNICODE UTF-8", b"KLINGON"),
        whole("unsupported_charset", "rejected"), values=0, code="?")  # fmt: skip
    add("not in its charset", pulse().replace(b"|8867-4^8867-4", b"|8867-4^\xff\xfe"), Counter(), code="?", values=-1)
    add("no patient, no bed", pulse(number=""), whole("unknown_patient", "quarantined"))
    add("unknown patient", pulse(number="404"), whole("unknown_patient", "quarantined"))
    add("unassociated monitor", pulse(number="", bed="Z"), whole("unassociated_device", "quarantined"))
    add("status X", pulse("", "", status="X"), Counter(), values=0, without_value=1)
    add("a value that says it has none", pulse("80", status="X"), single("malformed", "rejected"))
    add(
        "impossible movement",
        hospital.adt("A13", "1", "A", at_us=now_us),
        whole("identity_conflict", "quarantined"),
        values=0,
        feed="adt",
    )
    add("too large", hospital.heart_rate("1", "9" * 2_000_000, at_us=now_us), whole("too_large", "rejected"),
        code="AR", values=0)  # fmt: skip
    return told


async def admit(live, hospital, now_us):
    assert (
        await live.send(
            "adt",
            hospital.adt("A01", "1", "A", at_us=now_us - 2 * HOUR),
            hospital.adt("A01", "2", "B", at_us=now_us - 2 * HOUR),
            hospital.adt("A03", "2", "B", at_us=now_us - HOUR),
        )
        == ["AA"] * 3
    )


async def found(live):
    return [(str(i.reason), str(i.outcome), "message" if i.value_index == -1 else "value") for i in await live.items()]


async def test_each_bad_input_has_its_reason_and_the_books_balance(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    await live.drain()
    listed = cases(hospital, now_us)
    expected: Counter = Counter()
    for case in listed:
        peer = await live.connect(case.feed)
        code = await peer.ask(case.body)
        await peer.hang_up()
        assert case.code in {code, "?"}, case.name
        account = await live.drain()
        assert account.remainder == 0, case.name
        now = Counter(await found(live))
        if case.values < 0:
            case.reasons = now - expected  # read leniently or rejected: either way it is accounted for
        expected += case.reasons
        assert now == expected, f"{case.name}: {dict(now - expected)} instead of {dict(expected - now)}"
        for item in (await live.items())[-1:]:
            if case.reasons:
                assert item.where, f"{case.name}: nothing says where"
                assert item.expected, f"{case.name}: nothing says what was expected"
    assert await live.faults() == []
    # A good message afterwards is none the worse for all that.
    assert await live.send("monitors", hospital.heart_rate("1", 91, at_us=now_us)) == ["AA"]
    account = await live.drain()
    await live.next_ticks()
    (rate,) = [s for s in (await live.twins())[1].signals if s.concept == "heart_rate"]
    assert rate.value == 91.0
    assert account.without_value == 1
    await every_snapshot_replays(live)


async def every_snapshot_replays(live):
    ids = await replay.sample_ids(live.connection, 100, seed=1)
    assert ids
    for snapshot_id in ids:
        again = await replay.replay(live.connection, live.forecaster, snapshot_id, live.keys)
        assert again.is_identical, (snapshot_id, again.differences)


@pytest.mark.parametrize("seed", [1, 2])
async def test_all_at_once_in_any_order_and_twice(live, hospital, seed):
    rng = random.Random(seed)
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    await live.drain()
    listed = [case for case in cases(hospital, now_us) if case.feed == "monitors" and case.values >= 0]
    good = [hospital.heart_rate("1", 60 + n, at_us=now_us - n * SECOND) for n in range(40)]
    bodies = [case.body for case in listed] + good
    doubled = bodies * 2
    rng.shuffle(doubled)
    peer = await live.connect("monitors")
    for body in doubled:
        peer.put(body)
    for _ in doubled:
        await peer.answer()
    account = await live.drain()
    assert account.remainder == 0
    assert await live.faults() == []
    now = Counter(await found(live))
    expected = sum((case.reasons for case in listed), Counter())
    duplicates = now.pop(("retransmission", "duplicate", "message"), 0)
    # What could not be read has no identity by which a second copy could be told: it is counted each time.
    reasons = ("malformed", "too_large", "unsupported_message", "unsupported_charset")
    unread = {(reason, "rejected", "message") for reason in reasons}
    for key, count in expected.items():
        assert now[key] == (2 * count if key in unread else count), key
    assert set(now) == set(expected)
    assert duplicates == len(bodies) - sum(expected[key] for key in unread)
    assert account.messages.received == 2 * len(bodies) + 3
    async with transaction(live.connection) as connection:
        (stored,) = await (await connection.execute("select sum(n) from signal_block")).fetchone()
    assert stored == len(good)
    assert account.values.accepted == stored


async def test_a_message_cut_off_is_evidence_and_its_retransmission_the_message(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    body = hospital.heart_rate("1", 80, at_us=now_us)
    peer = await live.connect("monitors")
    peer.writer.write(b"\x0b" + body[:-20])
    await peer.hang_up()
    assert await live.send("monitors", body) == ["AA"]
    account = await live.drain()
    assert account.remainder == 0
    assert Counter(await found(live)) == whole("malformed", "rejected")
    assert account.values.accepted == 1
    assert account.messages.duplicate == 0
    assert await live.faults() == []


async def test_fifty_megabytes_are_refused_with_their_size_and_the_connection_lives_on(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    peer = await live.connect("monitors")
    assert await peer.ask(hospital.heart_rate("1", "8" * 50_000_000, at_us=now_us)) == "AR"
    assert await peer.ask(hospital.heart_rate("1", 80, at_us=now_us)) == "AA"
    account = await live.drain()
    assert account.remainder == 0
    (item,) = await live.items()
    assert item.reason == "too_large"
    assert item.found.startswith("50000")
    assert account.values.accepted == 1


async def test_a_retransmission_is_a_duplicate_and_another_body_a_conflict(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    first = hospital.heart_rate("1", 80, at_us=now_us)
    other = first.replace(b"|80|", b"|81|")
    assert body_digest(first) != body_digest(other)
    assert await live.send("monitors", first, first, other) == ["AA"] * 3
    # The same control id of another sender, or on another feed, is another message.
    assert await live.send("monitors", first.replace(b"|MON|", b"|MON2|", 1)) == ["AA"]
    assert await live.send("lab", first) == ["AA"]
    account = await live.drain()
    assert account.remainder == 0
    assert Counter(await found(live)) == Counter(
        {("retransmission", "duplicate", "message"): 1, ("control_id_conflict", "quarantined", "message"): 1}
    )
    assert (account.values.duplicate, account.values.quarantined, account.values.accepted) == (1, 1, 3)
    await live.next_ticks()
    (rate,) = (await live.twins())[1].signals
    assert rate.value == 80.0


async def test_values_before_their_admission_wait_for_it_and_then_count(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    early = [hospital.heart_rate("7", 70 + n, at_us=now_us - n * SECOND) for n in range(3)]
    assert await live.send("monitors", *early) == ["AA"] * 3
    account = await live.drain()
    assert (account.waiting, account.messages.quarantined, account.values.quarantined) == (3, 3, 3)
    assert account.remainder == 0
    assert await live.twins() == {}
    assert await live.send("adt", hospital.adt("A01", "7", "A", at_us=now_us - HOUR)) == ["AA"]
    account = await live.drain()
    assert (account.waiting, account.messages.quarantined, account.values.accepted) == (0, 0, 3)
    assert account.remainder == 0
    await live.next_ticks()
    (twin,) = (await live.twins()).values()
    assert [s.value for s in twin.signals] == [70.0]
    assert await live.reasons() == Counter({("unknown_patient", "released"): 3})
    assert await live.faults() == []
    # Sent again, they are duplicates although they were held back.
    assert await live.send("monitors", *early) == ["AA"] * 3
    account = await live.drain()
    assert (account.messages.duplicate, account.values.accepted, account.remainder) == (3, 3, 0)
    await every_snapshot_replays(live)


async def test_a_monitor_that_knows_only_its_bed_waits_for_the_beds_patient(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    say = hospital.result("8867-4", "77", "/min", at_us=now_us)
    assert await live.send("monitors", hospital.report("", say, bed="C", application="MON")) == ["AA"]
    account = await live.drain()
    assert await live.reasons() == Counter({("unassociated_device", "open"): 1})
    assert await live.send("adt", hospital.adt("A01", "9", "C", at_us=now_us - HOUR)) == ["AA"]
    account = await live.drain()
    assert (account.remainder, account.waiting, account.values.accepted) == (0, 0, 1)
    await live.next_ticks()
    (twin,) = (await live.twins()).values()
    assert [s.value for s in twin.signals] == [77.0]


async def test_what_waits_for_one_thing_and_then_meets_another_obstacle_is_held_for_that(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    assert await live.send("monitors", hospital.heart_rate("7", 70, at_us=now_us - 5 * HOUR)) == ["AA"]
    await live.drain()
    assert await live.send("adt", hospital.adt("A01", "7", "A", at_us=now_us - HOUR)) == ["AA"]
    account = await live.drain()
    assert account.remainder == 0
    assert await live.reasons() == Counter({("unknown_patient", "released"): 1, ("before_admission", "open"): 1})
    assert await live.faults() == []


async def test_an_operator_releases_a_held_message_or_lets_it_be(live, hospital):
    import msgspec

    from vocabulary.records import RawItem, RawPack

    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    drills = [hospital.heart_rate("1", 80 + n, at_us=now_us - n * SECOND, processing_id="T") for n in range(2)]
    assert await live.send("monitors", *drills) == ["AA", "AA"]
    await live.drain()
    release, discard = await live.items()

    async def command(action, *ids):
        body = msgspec.json.encode({"action": action, "item_ids": list(ids)})
        item = RawItem(live.clock.now_us(), 0, "operator", body)
        pack = RawPack(f"test-{action}-{ids}", CONTROL_FEED, live.clock.now_us(), [item])
        await live.bus.publish_raw(CONTROL_FEED, pack.pack_id, msgspec.msgpack.encode(pack))
        await live.next_ticks()

    await command("release", release.item_id)
    await command("discard", discard.item_id)
    await command("release", release.item_id, discard.item_id, 10**9)  # settled already, or never there
    await command("nonsense")
    account = await live.drain()
    assert account.remainder == 0
    assert await live.reasons() == Counter({("not_production", "released"): 1, ("not_production", "discarded"): 1})
    assert (account.values.accepted, account.values.quarantined) == (1, 1)
    assert await live.faults() == []


async def test_noise_and_a_port_scanner_harm_nobody(live, hospital):
    now_us = live.clock.now_us() // SECOND * SECOND
    await admit(live, hospital, now_us)
    rng = random.Random(3)
    for size in (0, 1, 7, 500, 70_000):
        peer = await live.connect("monitors")
        peer.writer.write(rng.randbytes(size).replace(b"\x0b", b""))
        await peer.hang_up()
    assert await live.send("monitors", hospital.heart_rate("1", 80, at_us=now_us)) == ["AA"]
    account = await live.drain()
    assert (account.remainder, account.messages.received) == (0, 4)
    assert await live.items() == []
