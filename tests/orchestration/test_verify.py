"""`vigil verify` and `vigil audit`: what an operator sees of sound books, altered ones, and an exported folder."""

from __future__ import annotations

import io
import json
import pwd
from contextlib import contextmanager
from datetime import date

import pytest
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner

from governance import notary
from governance.audit import Auditor
from governance.audit_export import export
from governance.ledger_writers import ledger_writer
from orchestration import storage, verify
from orchestration.audit_commands import audit_app
from orchestration.operator_audit import operator, operator_auditor
from stores.audit_log import AuditEntry
from stores.chain_heads import HeadFile
from stores.database import connect, migrate, transaction
from stores.ledger import Entry
from twin.bus import open_bus
from twin.process import clock_of
from twin.subjects import EVENTS, RAW
from vocabulary.clock import MICROSECONDS, ManualClock, SystemClock
from vocabulary.errors import ConfigurationError, RefusedError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity

DAY_US = 86_400 * MICROSECONDS


def operator_entry(surface: str, verb: str, patient_id: int | None = None) -> AuditEntry:
    person = operator()
    return AuditEntry(
        at_us=0, action=verb, outcome="permitted", surface=surface, verb=verb, agent=person.agent, patient_id=patient_id
    )


@pytest.fixture
async def settings(database_url, nats_server, tmp_path):
    """A house whose operator and engine have keys, with a little in its books."""
    await migrate(database_url)
    found = Settings(
        data_dir=tmp_path / "data",
        site="st-anna",
        database_url=SecretStr(database_url),
        nats_url=SecretStr(nats_server.url()),
    )
    bus = await open_bus(found, "test")
    await bus.prepare_streams(found.raw_max_bytes, RAW, EVENTS)
    await bus.close()
    for name in ("operator", "engine"):
        identity = Identity(found.data_dir / "identity" / name)
        identity.folder.mkdir(parents=True)
        key = SigningKey.generate()
        key.save(identity.ledger_key)
        notary.register_key(found, name, key.verifying, SystemClock())
    now_us = clock_of(found).now_us()
    engine = found.model_copy(update={"identity_dir": found.data_dir / "identity" / "engine"})
    writer = ledger_writer(engine, "engine-00")
    connection = await connect(database_url, application_name="test")
    async with transaction(connection):
        await writer.open(connection)
    for number in range(3):
        async with transaction(connection):
            await writer.append(
                connection,
                [Entry(at_us=now_us - DAY_US + number, kind="note", position_from=0, position_to=0) for _ in range(2)],
            )
        writer.committed()
    await connection.close()
    async with operator_auditor(found) as auditor:
        await auditor.record(operator_entry("keys", "change"))
        await auditor.record(operator_entry("keys", "read", patient_id=7))
    return found


async def tampered(settings: Settings, *statements: str) -> None:
    connection = await connect(settings.database_url.get_secret_value(), application_name="test superuser")
    async with transaction(connection):
        await connection.execute("set local session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)
    await connection.close()


def said(verdict: verify.Verdict) -> str:
    text = io.StringIO()
    verify.show(verdict, Console(file=text, width=200))
    return text.getvalue()


async def test_sound_books_are_sound(settings):
    for is_deep in (False, True):
        verdict = await verify.verify(settings, is_deep=is_deep)
        assert verdict.is_sound
        assert "chains: 2 writers, 8 rows, 5 signatures checked, 0 daily roots: all whole" in said(verdict)
    record = json.loads(json.dumps(verify.as_record(verdict)))
    assert record["is_sound"] is True
    assert record["chain_faults"] == record["root_faults"] == record["missing_guards"] == []
    assert record["tables"]["audit_event"] == {"rows": 2, "signatures": 2}
    assert set(record["heads"]) == {"audit_event/operator", "ledger_entry/engine-00"}


async def test_an_altered_row_is_said_in_words_with_its_table_writer_and_row(settings):
    await tampered(settings, "update audit_event set patient_id = 8 where seq = 2")
    verdict = await verify.verify(settings)
    assert not verdict.is_sound
    assert "audit log, writer operator, row 2: edited, changed after it was written" in said(verdict)
    assert "NOT WHOLE" in said(verdict)
    (fault,) = verify.as_record(verdict)["chain_faults"]
    assert (fault["table"], fault["writer"], fault["kind"], fault["first"]) == ("audit_event", "operator", "edited", 2)


async def test_rows_cut_off_the_end_are_missed_at_once(settings):
    await tampered(settings, "delete from ledger_entry where seq > 4")
    text = said(await verify.verify(settings))
    assert "ledger, writer engine-00, rows 5 to 6: truncated, cut off the end" in text


async def test_a_guard_that_was_taken_away_is_a_fault_of_its_own(settings):
    await tampered(settings, "alter table ledger_entry disable trigger ledger_entry_is_append_only")
    verdict = await verify.verify(settings)
    assert not verdict.is_sound
    assert "not append-only any more: the trigger ledger_entry: ledger_entry_is_append_only" in said(verdict)


async def test_a_folder_is_judged_with_nothing_running(settings, tmp_path):
    folder = tmp_path / "export"
    connection = await connect(settings.database_url.get_secret_value(), application_name="test")
    await notary.sign_due_days(connection, settings, ManualClock(clock_of(settings).now_us()))
    await export(connection, settings.anchors_dir, folder)
    await connection.close()
    finding = await verify.verify_folder(folder)
    assert finding.is_whole
    assert finding.roots >= 1
    assert verify.finding_as_record(finding)["is_whole"] is True
    HeadFile(folder / "heads").write("ledger_entry", "engine-00", 9, bytes(32), None, None)  # it had grown further
    text = io.StringIO()
    verify.show_finding(await verify.verify_folder(folder), Console(file=text, width=200))
    assert "ledger, writer engine-00, rows 7 to 9: truncated" in text.getvalue()
    with pytest.raises(ConfigurationError, match="holds no"):
        await verify.verify_folder(tmp_path)


async def test_without_its_key_the_operator_may_not_act_unaudited(settings):
    (settings.data_dir / "identity" / "operator" / "ledger.key").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        async with operator_auditor(settings):
            pass


def test_the_operator_is_whom_the_operating_system_knows(monkeypatch):
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(nobody.pw_uid))
    monkeypatch.setenv("SUDO_USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    person = operator()
    assert person.agent.startswith("operator|nobody@")
    monkeypatch.setattr("os.getuid", lambda: nobody.pw_uid)  # whoever is not root is who they are
    monkeypatch.setenv("SUDO_UID", "0")
    assert operator().agent == person.agent
    assert {role.value for role in person.roles} == {"operator"}


@pytest.fixture
def vigil_audit(settings, monkeypatch):
    """The commands, in this process, on the house above."""

    @contextmanager
    def reachable(_):
        yield settings

    monkeypatch.setattr(storage, "reachable", reachable)
    monkeypatch.setattr(storage, "load_settings", lambda _: settings)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(audit_app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


async def in_thread(call, *arguments):
    import asyncio

    return await asyncio.to_thread(call, *arguments)


async def test_looking_at_the_audit_log_is_in_the_audit_log(vigil_audit):
    events = json.loads(await in_thread(vigil_audit, "list", "--json"))
    assert [(event["surface"], event["verb"]) for event in events] == [
        ("audit", "search"), ("keys", "read"), ("keys", "change"),
    ]  # fmt: skip
    with pytest.raises(RefusedError):  # of a patient nobody has there is nothing, and the question is recorded
        await in_thread(vigil_audit, "list", "--patient", "7")
    table = await in_thread(vigil_audit, "list", "--surface", "keys")
    assert "operator 2" in table
    assert "operator 1" in table
    assert "No event is like that" in await in_thread(vigil_audit, "list", "--agent", "nobody")


async def test_one_event_with_its_proof_and_as_fhir(vigil_audit, settings):
    connection = await connect(settings.database_url.get_secret_value(), application_name="test")
    tomorrow = ManualClock(clock_of(settings).now_us() + DAY_US)
    await notary.sign_due_days(connection, settings, tomorrow)
    await connection.close()
    shown = json.loads(await in_thread(vigil_audit, "show", "operator", "2", "--proof"))
    assert shown["patient_id"] == 7
    assert shown["is_proven"] is True
    assert shown["proof"]["root"]["signed"]["site"] == "st-anna"
    fhir = json.loads(await in_thread(vigil_audit, "show", "operator", "2", "--fhir"))
    assert (fhir["resourceType"], fhir["id"]) == ("AuditEvent", "operator.2")
    unsigned = json.loads(await in_thread(vigil_audit, "show", "operator", "3", "--proof"))
    assert unsigned["proof"] is None
    days = [json.loads(line) for line in (await in_thread(vigil_audit, "root")).splitlines()]
    assert days[-1]["day"] == shown["proof"]["root"]["signed"]["day"]
    one = (await in_thread(vigil_audit, "root", days[0]["day"])).splitlines()
    assert [date.fromisoformat(json.loads(line)["day"]) for line in one] == [date.fromisoformat(days[0]["day"])]


async def test_an_export_is_itself_an_event_and_verifies(vigil_audit, tmp_path):
    folder = tmp_path / "handed-over"
    rows = json.loads(await in_thread(vigil_audit, "export", "--to", str(folder), "--json"))
    assert rows == {"audit_event": 3, "ledger_entry": 6}
    assert (await verify.verify_folder(folder)).is_whole
    events = json.loads(await in_thread(vigil_audit, "list", "--json", "--limit", "2"))
    assert [event["verb"] for event in events] == ["search", "export"]


async def test_two_commands_at_once_share_the_operators_chain(settings):
    import asyncio

    async def command(number: int) -> None:
        async with operator_auditor(settings) as auditor:
            assert isinstance(auditor, Auditor)
            await auditor.record(operator_entry("keys", "read", patient_id=number))

    await asyncio.gather(*(command(number) for number in range(6)))
    verdict = await verify.verify(settings)
    assert verdict.is_sound
    assert verdict.finding.tables[0].rows == 8
