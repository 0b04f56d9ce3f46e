"""The journey of one model over the database's own roles: each process does its part, with the rights it has."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import pytest
from model_committee import POLICY, SCOPE, person_of
from model_desk import LEAD, SAFETY, WAIVERS, verdict_of, version_of

from governance import approvals
from governance.access import Verb
from governance.audit import Auditor
from governance.model_acts import acting, event
from governance.promotion import promote
from governance.rollback import close_incident, command, react
from governance.roster import sign_statement
from governance.serving import Standing, judge, read_rows
from governance.statements import Action, Slot, statement_bytes
from stores import incidents, models, risk_scores, roles
from stores.database import connect, transaction
from stores.risk_scores import RiskScore
from vocabulary.clock import ManualClock
from vocabulary.verdict import Kind, Outcome

PASSWORD = "not-a-secret"


@pytest.fixture
async def auditors(desk):
    """An auditor a process, over a connection in that process's role."""
    owner = await desk.house.connect()
    async with transaction(owner):
        await roles.create(owner, await roles.missing_roles(owner))
        await roles.set_passwords(owner, dict.fromkeys(roles.ROLES, PASSWORD))
    await roles.apply(owner)
    await owner.close()
    parts = urlsplit(desk.house.url)

    def of(role, writer):
        url = urlunsplit(parts._replace(netloc=f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))
        return Auditor(
            lambda: connect(url, application_name="test"), writer, None, None, ManualClock(desk.house.clock.now_us())
        )

    made = {name: of(f"vigil_{name}", name) for name in ("dagster", "clinic", "keeper", "operator")}
    made["engine"] = of("vigil_engine", "engine-00")
    yield made
    for auditor in made.values():
        await auditor.close()


async def test_from_registration_to_rollback_each_role_can_do_its_part(desk, auditors):
    def said(name):
        return {
            "appender": desk.committee.appender(name), "trust": desk.trust(), "policy": POLICY, "now": desk.now,
        }  # fmt: skip

    # Dagster registers, keeps verdicts, asks.
    async with acting(auditors["dagster"], event("register", Verb.REGISTER, "system|dagster")) as connection:
        version = await models.add_version(connection, version_of())
        for kind in POLICY.evidence.kinds:
            await models.add_verdict(connection, verdict_of(kind), version.model_digest, 1)
        request = await approvals.open_request(
            connection, version, Slot.CHAMPION, opened_by="dagster", trust=desk.trust(), policy=POLICY, now=desk.now,
            waivers=WAIVERS,
        )  # fmt: skip
    # People sign on the clinic's page.
    for name, role in (("lena", LEAD), ("omar", SAFETY)):
        statement = approvals.statement_for(request, person_of(name), role, POLICY)
        signature = sign_statement(desk.committee.keys[name], statement_bytes(statement), desk.now)
        entry = event("sign", Verb.APPROVE, person_of(name))
        async with acting(auditors["clinic"], entry) as connection:
            state = await approvals.receive(
                connection, request.request_id, statement, signature, trust=desk.trust(), policy=POLICY, now=desk.now
            )
    assert state.is_complete
    row = await promote(auditors["clinic"], request.request_id, by=person_of("omar"), **said("clinic"))
    # The engine reads the record, writes what the model says, and could record a refusal.
    async with auditors["engine"].act(event("load_model", Verb.READ, "system|engine-00")) as connection:
        rows = await read_rows(connection)
        assert rows == [row]
        assert judge(rows, desk.trust(), POLICY, desk.now)[SCOPE].slots[Slot.CHAMPION].standing is Standing.SPEAKING
        score = RiskScore(
            encounter_id=1, through_minute=60, slot="champion", model_digest=row.model_digest, position=9,
            patient_id=1, serving_id=row.serving_id, at_us=1, probability=0.2,
        )  # fmt: skip
        await risk_scores.add(connection, [score])
    # The keeper looks at scores and outcomes, and reacts.
    async with auditors["keeper"].act(event("look", Verb.READ, "system|keeper")) as connection:
        assert await risk_scores.between(connection, 0, 9) == [score]
        assert await risk_scores.outcomes(connection) == []
        await connection.execute("select patient_id, sex, birth_date from patient")
        await connection.execute("select encounter_id, patient_id, status, started_at_us, ended_at_us from encounter")
    desk.now += timedelta(minutes=1)
    verdict = verdict_of(Kind.LIVE, Outcome.FAIL)
    reaction = await react(
        auditors["keeper"], SCOPE, "alert_flood", statement="Too many.", verdict=verdict, **said("keeper")
    )
    assert reaction.row.action is Action.CLAMP
    # A person at the command line ends it; another closes the incident.
    desk.now += timedelta(minutes=1)
    by = {"by": person_of("lena"), "name": "Lena", "role": LEAD}
    await command(auditors["operator"], SCOPE, Action.RESUME, reason="A test patient.", **by, **said("operator"))
    await close_incident(auditors["operator"], reaction.incident_id, note="A test patient.", now=desk.now, **by)
    async with auditors["clinic"].act(event("read", Verb.READ, person_of("lena"))) as connection:
        (incident,) = await incidents.find(connection)
        assert incident.closed_by == person_of("lena")
    writers = await desk.house.row("select array_agg(distinct writer order by writer) from audit_event")
    assert writers == (["clinic", "dagster", "engine-00", "keeper", "operator"],)
