"""No act without its event: group commit, acts in one transaction, lost connections, fences; and FHIR after BALP."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from governance import audit, audit_event
from governance.audit import Auditor, as_fhir
from orchestration.embedded import EmbeddedPostgres, free_port
from stores import audit_log
from stores.audit_log import AuditEntry
from stores.chain_heads import HeadFile
from stores.database import Connection, connect, migrate
from stores.ledger_verification import DatabaseRows, Evidence, judge
from vocabulary.clock import ManualClock
from vocabulary.errors import BrokenInvariantError, FencedOutError, UnavailableError
from vocabulary.signing import SigningKey

NOW_US = 1_760_000_000_000_000


def seen(number: int = 0, **changes) -> AuditEntry:
    fields = {
        "at_us": NOW_US + number, "action": "read", "outcome": "permitted", "surface": "patient", "verb": "read",
        "agent": "https://login.example|nora", "patient_id": number,
    }  # fmt: skip
    return AuditEntry(**(fields | changes))


@pytest.fixture
async def audited_url(database_url):
    await migrate(database_url)
    connection = await connect(database_url, application_name="test")
    await connection.execute("create table act (number int primary key)")
    await connection.commit()
    await connection.close()
    return database_url


@pytest.fixture
async def reader(audited_url):
    connection = await connect(audited_url, application_name="test reader")
    await connection.set_autocommit(True)
    yield connection
    await connection.close()


@pytest.fixture
async def make(audited_url, tmp_path):
    made: list[Auditor] = []

    def make(name: str = "clinic", opening: Callable[[], Awaitable[Connection]] | None = None, **more) -> Auditor:
        def plain() -> Awaitable[Connection]:
            return connect(audited_url, application_name="test auditor")

        auditor = Auditor(
            opening or plain, name, SigningKey.generate(), HeadFile(tmp_path / "heads"), ManualClock(NOW_US), **more
        )
        made.append(auditor)
        return auditor

    yield make
    for auditor in made:
        await auditor.close()


async def numbers(reader) -> list[int]:
    cursor = await reader.execute("select patient_id from audit_event order by writer, seq")
    return [row[0] for row in await cursor.fetchall()]


async def acts(reader) -> list[int]:
    cursor = await reader.execute("select number from act order by number")
    return [row[0] for row in await cursor.fetchall()]


async def is_whole(url: str) -> bool:
    connection = await connect(url, application_name="test judge")
    try:
        return (await judge(DatabaseRows(connection), audit_log.AUDIT, Evidence({}))).is_whole
    finally:
        await connection.close()


async def test_an_event_is_in_the_log_when_record_returns(make, reader):
    auditor = make()
    await auditor.record(seen(1))
    assert await numbers(reader) == [1]
    await auditor.record(seen(2))
    assert await numbers(reader) == [1, 2]


async def test_an_event_without_a_time_gets_the_clocks(make, reader):
    await make().record(seen(1, at_us=0))
    (event,) = await audit_log.find(reader)
    assert event.entry.at_us == NOW_US


async def test_events_that_wait_together_share_a_commit(make, reader, audited_url):
    auditor = make()
    await asyncio.gather(*(auditor.record(seen(number)) for number in range(200)))
    assert sorted(await numbers(reader)) == list(range(200))
    cursor = await reader.execute("select count(*) from audit_event where signature is not null")
    assert (await cursor.fetchone())[0] <= 3, "one signature, and so one commit, for many"
    assert await is_whole(audited_url)


async def test_one_bad_event_does_not_take_others_with_it(make, reader):
    auditor = make()
    results = await asyncio.gather(
        auditor.record(seen(1)),
        auditor.record(seen(2, agent="")),
        auditor.record(seen(3, outcome="perhaps")),  # only the database refuses this one
        auditor.record(seen(4)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), BrokenInvariantError, BrokenInvariantError, type(None)]
    assert await numbers(reader) == [1, 4]


async def test_an_act_and_its_event_are_kept_together(make, reader):
    auditor = make()
    async with auditor.act(seen(1)) as connection:
        await connection.execute("insert into act values (1)")
        assert await acts(reader) == []
        assert await numbers(reader) == []
    assert (await acts(reader), await numbers(reader)) == ([1], [1])


async def test_an_act_that_fails_leaves_neither(make, reader):
    auditor = make()
    with pytest.raises(BrokenInvariantError, match="DivisionByZero"):
        async with auditor.act(seen(1)) as connection:
            await connection.execute("insert into act values (1), (1 / 0)")
    assert (await acts(reader), await numbers(reader)) == ([], [])
    async with auditor.act(seen(2)) as connection:
        await connection.execute("insert into act values (2)")
    assert (await acts(reader), await numbers(reader)) == ([2], [2])


async def test_an_act_whose_event_cannot_be_written_is_undone(make, reader):
    auditor = make()
    with pytest.raises(BrokenInvariantError):
        async with auditor.act(seen(1, outcome="perhaps")) as connection:
            await connection.execute("insert into act values (1)")
    assert (await acts(reader), await numbers(reader)) == ([], [])


async def test_an_act_may_say_at_its_end_what_it_was(make, reader):
    auditor = make()
    async with auditor.act(None) as connection:
        await connection.execute("insert into act values (1)")
        await auditor.record_in(connection, seen(5))
        await auditor.record_in(connection, seen(6))
    assert (await acts(reader), await numbers(reader)) == ([1], [5, 6])


async def test_an_act_without_an_event_is_a_defect_and_is_undone(make, reader):
    auditor = make()
    with pytest.raises(BrokenInvariantError, match="leaves an event"):
        async with auditor.act(None) as connection:
            await connection.execute("insert into act values (1)")
    assert await acts(reader) == []
    with pytest.raises(BrokenInvariantError, match=r"auditor\.act"):
        await auditor.record_in(reader, seen(1))


async def test_an_act_in_the_callers_own_connection(make, reader, audited_url):
    auditor = make()
    own = await connect(audited_url, application_name="test own")
    async with auditor.act(seen(1), own) as connection:
        assert connection is own
        await connection.execute("insert into act values (1)")
    assert (await acts(reader), await numbers(reader)) == ([1], [1])
    await own.close()


async def test_acts_and_events_of_one_process_make_one_whole_chain(make, reader, audited_url):
    auditor = make()

    async def act(number: int) -> None:
        async with auditor.act(seen(number)) as connection:
            await connection.execute("insert into act values (%s)", (number,))
            await asyncio.sleep(0)

    await asyncio.gather(*(act(n) if n % 3 == 0 else auditor.record(seen(n)) for n in range(60)))
    assert sorted(await numbers(reader)) == list(range(60))
    assert await acts(reader) == list(range(0, 60, 3))
    assert await is_whole(audited_url)


async def test_the_second_process_of_a_name_is_fenced_out_for_good(make, reader):
    first, second = make(), make()
    await first.record(seen(1))
    await second.record(seen(2))
    for _ in range(2):
        with pytest.raises(FencedOutError, match="same name"):
            await first.record(seen(3))
    with pytest.raises(FencedOutError):
        async with first.act(seen(4)):
            pass
    await second.record(seen(5))
    assert await numbers(reader) == [1, 2, 5]


async def test_an_act_is_fenced_out_too(make, reader):
    first, second = make(), make()
    await first.record(seen(1))
    await second.record(seen(2))
    with pytest.raises(FencedOutError):
        async with first.act(seen(3)) as connection:
            await connection.execute("insert into act values (3)")
    assert (await acts(reader), await numbers(reader)) == ([], [1, 2])
    with pytest.raises(FencedOutError):
        await first.record(seen(4))


async def test_commands_share_a_chain(make, reader, audited_url):
    auditors = [make("operator", is_shared=True) for _ in range(4)]
    await asyncio.gather(*(auditors[n % 4].record(seen(n)) for n in range(40)))
    async with auditors[0].act(seen(40)) as connection:
        await connection.execute("insert into act values (1)")
    await auditors[1].record(seen(41))
    assert sorted(await numbers(reader)) == list(range(42))
    assert await is_whole(audited_url)


async def test_a_closed_auditor_writes_nothing_more(make):
    auditor = make()
    await auditor.record(seen(1))
    await auditor.close()
    with pytest.raises(BrokenInvariantError, match="closed"):
        await auditor.record(seen(2))


async def test_a_caller_who_goes_away_does_not_stop_the_others(make, reader):
    auditor = make()
    going = asyncio.create_task(auditor.record(seen(1)))
    await asyncio.sleep(0)
    going.cancel()
    await auditor.record(seen(2))
    assert set(await numbers(reader)) >= {2}


# -- what may go wrong on the way


async def test_without_a_database_an_act_is_refused_within_patience(make):
    async def refused() -> Connection:
        raise UnavailableError("PostgreSQL is not available: refused")

    auditor = make(opening=refused)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="audit log cannot be written"):
        await auditor.record(seen(1))
    assert time.monotonic() - began < audit.PATIENCE_S + 1
    with pytest.raises(UnavailableError):
        async with auditor.act(seen(1)):
            pass


async def test_a_server_that_hangs_holds_nobody_longer_than_patience(make, monkeypatch):
    monkeypatch.setattr(audit, "PATIENCE_S", 0.3)

    async def hanging() -> Connection:
        await asyncio.sleep(3_600)
        raise AssertionError

    auditor = make(opening=hanging)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await asyncio.gather(auditor.record(seen(1)), auditor.record(seen(2)))
    assert time.monotonic() - began < 2


class Lossy:
    """Opens connections; the commit of the n-th fails as when the server's answer is lost, before or after it."""

    def __init__(self, url: str, plan: list[str]) -> None:
        self.url = url
        self.plan = plan  # for each commit that wrote something: "lost after", "lost before", "fine"

    async def open(self) -> Connection:
        connection = await connect(self.url, application_name="test lossy")
        commit, execute = connection.commit, connection.execute
        wrote = False

        async def lossy_execute(query, *given, **more):
            nonlocal wrote
            wrote = wrote or b"insert into audit_event" in (query if isinstance(query, bytes) else b"")
            return await execute(query, *given, **more)

        async def lossy_commit() -> None:
            nonlocal wrote
            if not wrote:
                await commit()
                return
            wrote = False
            fate = self.plan.pop(0) if self.plan else "fine"
            if fate != "lost before":
                await commit()
            if fate != "fine":
                await connection.close()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        connection.commit = lossy_commit  # type: ignore[method-assign]
        connection.execute = lossy_execute  # type: ignore[method-assign,assignment]
        return connection


@pytest.mark.parametrize("plan", [["lost after"], ["lost before"], ["lost before", "lost after"], ["lost after"] * 3])
async def test_an_answer_that_was_lost_is_looked_up_and_nothing_is_written_twice(make, reader, audited_url, plan):
    auditor = make(opening=Lossy(audited_url, [*plan]).open)
    await auditor.record(seen(1))
    await asyncio.gather(*(auditor.record(seen(number)) for number in range(2, 6)))
    assert await numbers(reader) == [1, 2, 3, 4, 5]
    assert await is_whole(audited_url)


async def test_an_act_whose_commit_was_lost_after_it_happened_has_happened(make, reader, audited_url):
    auditor = make(opening=Lossy(audited_url, ["lost after"]).open)
    async with auditor.act(seen(1)) as connection:
        await connection.execute("insert into act values (1)")
    assert (await acts(reader), await numbers(reader)) == ([1], [1])
    await auditor.record(seen(2))
    assert await numbers(reader) == [1, 2]


async def test_an_act_whose_commit_was_lost_before_it_happened_is_refused(make, reader, audited_url):
    auditor = make(opening=Lossy(audited_url, ["lost before"]).open)
    with pytest.raises(UnavailableError, match="neither was"):
        async with auditor.act(seen(1)) as connection:
            await connection.execute("insert into act values (1)")
    assert (await acts(reader), await numbers(reader)) == ([], [])
    async with auditor.act(seen(2)) as connection:
        await connection.execute("insert into act values (2)")
    assert (await acts(reader), await numbers(reader)) == ([2], [2])


async def test_a_shared_chain_survives_a_lost_answer_too(make, reader, audited_url):
    lossy = make("operator", Lossy(audited_url, ["lost after", "lost before"]).open, is_shared=True)
    other = make("operator", is_shared=True)
    for number in range(1, 7):
        await (lossy if number % 2 else other).record(seen(number))
    assert await numbers(reader) == [1, 2, 3, 4, 5, 6]
    assert await is_whole(audited_url)


@pytest.fixture
def mortal_server():
    folder = Path(tempfile.mkdtemp(prefix="vigil-test-"))
    folder.chmod(0o755)  # PostgreSQL runs as nobody when we are root
    server = EmbeddedPostgres(folder / "postgres", free_port())
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_server_killed_again_and_again_loses_and_doubles_no_event(mortal_server, tmp_path):
    server = mortal_server
    recorded: list[int] = []
    refused: list[int] = []
    await migrate(server.url())
    auditor = Auditor(
        lambda: connect(server.url(), application_name="test"), "clinic", SigningKey.generate(),
        HeadFile(tmp_path / "heads"), ManualClock(NOW_US),
    )  # fmt: skip
    is_over = asyncio.Event()

    async def record(first: int) -> None:
        number = first
        while not is_over.is_set():
            try:
                await auditor.record(seen(number))
                recorded.append(number)
            except UnavailableError:
                refused.append(number)
            number += 8
            await asyncio.sleep(0.002)

    recorders = [asyncio.create_task(record(first)) for first in range(8)]
    for _ in range(2):
        await asyncio.sleep(0.4)
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
    await asyncio.sleep(0.4)
    is_over.set()
    await asyncio.gather(*recorders)
    await auditor.close()
    connection = await connect(server.url(), application_name="test")
    kept = await numbers(connection)
    await connection.close()
    assert len(kept) == len(set(kept)), "no event is written twice"
    assert set(recorded) <= set(kept), "what was said to be written is written"
    assert set(kept) <= set(recorded) | set(refused)
    assert len(recorded) > 100
    assert await is_whole(server.url())


# -- FHIR


def rendered(**changes) -> dict:
    fields = {
        "at_us": NOW_US + 123_000, "role": "nurse", "agent_name": "Nora Lind", "purpose": "TREAT", "rule": "unit",
        "policy": "0123456789abcdef", "view": "v1", "session": "s1", "detail": '{"a":1}', "patient_id": 7,
    }  # fmt: skip
    return as_fhir(seen(**(fields | changes)), 12, "clinic", "st-anna")


def slice_of(event: dict, code: str) -> dict:
    (found,) = [agent for agent in event["agent"] if agent["type"]["coding"][0]["code"] == code]
    return found


def entity_of(event: dict, code: str) -> dict:
    (found,) = [entity for entity in event["entity"] if entity["type"]["code"] == code]
    return found


VERBS = [
    "read", "search", "open", "review", "release", "discard", "change", "erase", "register", "approve", "export",
    "what_if",
]  # fmt: skip


@pytest.mark.parametrize("outcome", ["permitted", "denied", "failed"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "more", [{}, {"patient_id": None}, {"role": "service", "agent_name": ""}, {"action": "sign_in"}]
)
def test_every_event_is_a_valid_fhir_audit_event(verb, outcome, more):
    event = rendered(verb=verb, outcome=outcome, action=verb, **more) if "action" not in more else rendered(
        verb=verb, outcome=outcome, **more
    )  # fmt: skip
    parsed = AuditEvent.model_validate_json(json.dumps(event))
    assert parsed.recorded.timestamp() * 1_000_000 == NOW_US + 123_000
    assert event["outcome"] == {"permitted": "0", "failed": "4", "denied": "8"}[outcome]
    assert event["id"] == "clinic.12"
    assert event["source"]["observer"]["identifier"]["value"] == "st-anna"
    assert sum(agent["requestor"] for agent in event["agent"]) == 1
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"


def test_a_page_that_was_read_keeps_ihe_patient_read():
    event = rendered()
    assert event["meta"]["profile"] == [
        "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"
    ]
    assert (event["type"]["code"], event["action"], event["subtype"][0]["code"]) == ("rest", "R", "read")
    client, server, user = slice_of(event, "110152"), slice_of(event, "110153"), slice_of(event, "IRCP")
    assert client["who"]
    assert client["network"]
    assert server["network"]["address"] == "st-anna"
    assert user["who"]["identifier"] == {"system": "https://login.example", "value": "nora"}
    assert user["name"] == "Nora Lind"
    assert user["role"] == [{"text": "nurse"}]
    assert user["requestor"] is True
    assert "network" not in user
    assert user["purposeOfUse"][0]["coding"][0] == {
        "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
        "code": "TREAT",
    }
    patient = entity_of(event, "1")
    assert patient["role"]["code"] == "1"
    assert patient["what"] == {"reference": "Patient/7"}
    assert entity_of(event, "2")["role"]["code"] == "4"
    assert entity_of(event, "XrequestId")["what"]["identifier"]["value"] == "clinic/12"


def test_a_search_keeps_ihe_query_with_roles_as_ihe_turns_them():
    event = rendered(verb="search", action="search", patient_id=None, surface="audit")
    assert event["meta"]["profile"][0].endswith("IHE.BasicAudit.Query")
    assert event["action"] == "E"
    assert slice_of(event, "110153")["who"]["display"].startswith("the browser")
    assert slice_of(event, "110152")["who"]["identifier"]["value"] == "st-anna"
    query = entity_of(event, "2")
    assert query["role"]["code"] == "24"
    assert "what" not in query
    assert "detail" not in query
    assert query["query"] == "YXVkaXQ/eyJhIjoxfQ=="
    assert rendered(verb="search")["meta"]["profile"][0].endswith("IHE.BasicAudit.PatientQuery")


def test_an_export_is_a_privacy_disclosure_at_its_source():
    event = rendered(verb="export", action="export", role="service", agent="https://login.example|registry")
    assert event["meta"]["profile"][0].endswith("IHE.BasicAudit.PrivacyDisclosure.Source")
    assert (event["type"]["code"], event["action"], event["subtype"][0]["code"]) == ("110106", "R", "disclose")
    assert slice_of(event, "110153")["who"] == event["source"]["observer"]
    assert slice_of(event, "110152")["who"]["identifier"]["value"] == "registry"
    assert "meta" not in rendered(verb="export", patient_id=None)


def test_a_denial_is_an_authorization_decision_and_claims_no_profile_it_does_not_keep():
    event = rendered(outcome="denied", rule="default-deny")
    assert "meta" not in event
    assert (event["type"]["code"], event["subtype"][0]["code"], event["action"]) == ("110113", "AuthZ-Role", "E")
    assert event["outcome"] == "8"
    assert event["outcomeDesc"] == "denied: read, by rule default-deny"
    authorizer = slice_of(event, "authserver")
    assert authorizer["who"] == event["source"]["observer"]
    assert "network" not in authorizer
    assert slice_of(event, "110150")["network"]


def test_a_broken_glass_is_an_emergency_override():
    event = rendered(surface="break_glass", verb="open", action="open", purpose="BTG", break_glass_id=5)
    assert (event["type"]["code"], event["subtype"][0]["code"]) == ("110113", "110127")
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "BTG"
    details = {detail["type"]: detail["valueString"] for detail in entity_of(event, "2")["detail"]}
    assert details["break_glass"] == "5"


def test_signing_in_and_out_are_user_authentication():
    found = [rendered(action=action)["subtype"][0]["code"] for action in ("sign_in", "sign_out")]
    assert found == ["110122", "110123"]
    assert rendered(action="sign_in")["type"]["code"] == "110114"


def test_dicom_codes_have_one_system():
    assert audit_event.DCM == "http://dicom.nema.org/resources/ontology/DCM"
