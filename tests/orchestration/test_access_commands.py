"""`vigil access`: what an operator may record and see, each with its event; and what is not for the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from governance.access import Policy
from governance.policy_page import markdown
from orchestration import access_commands
from orchestration.access_commands import (
    Change,
    access_app,
    keep_consent,
    operator_principal,
    waiting_reviews,
    who_looked,
)
from stores import access, audit_log, clinical
from stores.clinical import PatientRow
from stores.database import connect, migrate, transaction
from vocabulary.errors import RefusedError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey


@pytest.fixture
async def settings(database_url, tmp_path):
    """A database with patient 1 and patient 2, who was merged into 1; and an operator with a key."""
    await migrate(database_url)
    connection = await connect(database_url, application_name="test")
    names = ("identifiers", "merges", "encounters", "closed_places", "places", "closed_associations", "associations")
    async with transaction(connection):
        await clinical.write(
            connection,
            clinical.Changes(
                patients=[
                    PatientRow(1, None, "Canary", "", "", "unknown", 1, 1),
                    PatientRow(2, 1, "Canary", "", "", "unknown", 1, 1),
                ],
                **{name: [] for name in names},
            ),
        )
    await connection.close()
    identity = tmp_path / "identity"
    identity.mkdir()
    SigningKey.generate().save(identity / "ledger.key")
    return Settings(data_dir=tmp_path, database_url=SecretStr(database_url), identity_dir=identity)


async def events_of(settings: Settings) -> list[audit_log.AuditEntry]:
    connection = await connect(settings.database_url.get_secret_value(), application_name="test")
    async with transaction(connection):
        found = await audit_log.find(connection, limit=1_000)
    await connection.close()
    return [event.entry for event in sorted(found, key=lambda event: event.seq)]


async def test_consent_is_recorded_for_every_record_of_the_person_with_its_event(settings):
    consents, is_vip = await keep_consent(settings, 2, Change("secondary", False, "Petra Klein"))
    assert [(one.patient_id, one.scope, one.is_permitted, one.decided_by) for one in consents] == [
        (1, "secondary", False, "Petra Klein"), (2, "secondary", False, "Petra Klein"),
    ]  # fmt: skip
    assert {one.recorded_by for one in consents} == {operator_principal().agent}
    assert not is_vip
    (event,) = await events_of(settings)
    assert (event.surface, event.verb, event.outcome, event.patient_id) == ("privacy", "change", "permitted", 1)
    assert event.rule == "operators-record-consent"
    assert json.loads(event.detail) == {
        "kept": "secondary", "is_so": False, "decided_by": "Petra Klein", "asked_as": 2
    }  # fmt: skip
    consents, _ = await keep_consent(settings, 1, Change("secondary", True, "Petra Klein"))
    assert [one.is_permitted for one in consents] == [False, False, True, True]


async def test_a_patient_is_shielded_and_no_longer(settings):
    assert await keep_consent(settings, 1, Change("vip", True, "Petra Klein")) == ([], True)
    assert await keep_consent(settings, 2, None) == ([], True)
    assert await keep_consent(settings, 2, Change("vip", False, "Petra Klein")) == ([], False)
    assert [event.verb for event in await events_of(settings)] == ["change", "read", "change"]


async def test_nothing_is_recorded_of_a_patient_nobody_has(settings):
    for change in (Change("vip", True, "Petra Klein"), None):
        with pytest.raises(RefusedError):
            await keep_consent(settings, 99, change)
    assert [(event.outcome, event.rule) for event in await events_of(settings)] == [("denied", "unknown-patient")] * 2


async def test_who_looked_is_found_under_every_record_and_is_itself_an_event(settings):
    await keep_consent(settings, 1, None)
    found = await who_looked(settings, 2, 100)
    assert [(event.entry.surface, event.entry.verb) for event in found] == [("audit", "search"), ("privacy", "read")]
    lines = access_commands._by_person(found)
    assert {line[2] for line in lines} == {"audit", "privacy"}
    with pytest.raises(RefusedError):
        await who_looked(settings, 99, 100)


async def test_waiting_reviews_are_listed_and_that_is_an_event(settings):
    connection = await connect(settings.database_url.get_secret_value(), application_name="test")
    async with transaction(connection):
        await access.put_break_glass(
            connection,
            access.BrokenGlass(
                break_glass_id=5, agent="i|nora", agent_name="Nora", role="nurse", session="", patient_id=1,
                reason="an emergency", reason_salt=b"s", opened_at_us=1, expires_at_us=2,
            ),
        )  # fmt: skip
    await connection.close()
    (glass,) = await waiting_reviews(settings)
    assert access_commands._glass_line(glass)[-2:] == ("an emergency", "page")
    assert "reason_salt" not in access_commands._glass_record(glass)
    assert [(event.surface, event.role) for event in await events_of(settings)] == [("review", "operator")]


def test_the_table_is_printed_without_anything_running():
    answer = CliRunner().invoke(access_app, ["policy"])
    assert answer.exit_code == 0
    assert all(row.name in answer.output for row in Policy.load().rows())
    as_page = CliRunner().invoke(access_app, ["policy", "--markdown"])
    assert as_page.output == markdown(Policy.load())
    assert as_page.output == (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text()
    record = json.loads(CliRunner().invoke(access_app, ["policy", "--json"]).output)
    assert record["digest"] == Policy.load().digest


def test_a_glass_is_not_reviewed_at_the_command_line():
    answer = CliRunner().invoke(access_app, ["review", "5"])
    assert isinstance(answer.exception, RefusedError)
    assert "signed-in person" in str(answer.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["consent", "1", "--scope", "everything", "--deny", "--by", "Petra"],
        ["consent", "1", "--scope", "secondary", "--by", "Petra"],
        ["consent", "1", "--deny", "--by", "Petra"],
        ["consent", "1", "--scope", "secondary", "--deny", "--vip", "--by", "Petra"],
        ["consent", "1", "--vip"],
        ["consent", "1", "--scope", "secondary", "--deny", "--by", " "],
    ],
)
def test_half_said_decisions_are_not_recorded(arguments, monkeypatch):
    monkeypatch.setattr(access_commands, "_ask", lambda *_: pytest.fail("it was asked"))
    assert CliRunner().invoke(access_app, arguments).exit_code != 0
