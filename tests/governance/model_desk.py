"""A house in which versions are registered, asked about, signed, promoted and rolled back: real database, real keys."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import psycopg
from model_committee import AUTHOR, NOW, POLICY, SCOPE, digest_of, person_of

from governance import approvals, lifecycle, serving
from governance.access import Role
from governance.audit import Auditor
from governance.promotion import promote
from governance.rollback import command, react
from governance.roster import sign_statement
from governance.serving import judge, read_rows
from governance.statements import Slot, statement_bytes
from stores import models
from stores.models import ModelVersion
from vocabulary.clock import ManualClock
from vocabulary.verdict import Outcome, Verdict

LEAD, SAFETY, PHYSICIAN = Role.CLINICAL_LEAD, Role.SAFETY_OFFICER, Role.PHYSICIAN
WAIVERS = (lifecycle.SILENT_PERIOD, lifecycle.SITES)


def version_of(number=1, **changes):
    fields = {
        "scope": SCOPE, "model_digest": digest_of(number), "manifest": "[model]", "author": AUTHOR,
        "registered_at_us": 1, "data_fingerprint": "d", "code_version": "c", "lock_digest": "l",
        "protocol": "mortality@1", "protocol_digest": "p", "is_synthetic": False,
    }  # fmt: skip
    return ModelVersion(**(fields | changes))


def verdict_of(kind, outcome=Outcome.PASS, *measures, **changes):
    fields = {
        "kind": kind, "subject": SCOPE, "outcome": outcome, "statement": "Found so.", "measures": measures,
        "protocol_digest": "p", "made_at_us": 5,
    }  # fmt: skip
    return Verdict(**(fields | changes))


class Desk:
    """A house's database, its committee, and somebody who carries things between them."""

    def __init__(self, house, committee, folder):
        self.house = house
        self.committee = committee
        self.settings = committee.install(folder)
        self.now = NOW
        self.auditor = Auditor(house.connect, "operator", None, None, ManualClock(house.clock.now_us()))

    def trust(self, **changes):
        found = serving.load_trust(self.settings, self.now)
        return msgspec.structs.replace(found, **changes)

    async def register(self, number=1, outcomes=None, **changes):
        async with self.house.writing() as connection:
            version = await models.add_version(connection, version_of(number, **changes))
            for kind in POLICY.evidence.kinds:
                outcome = (outcomes or {}).get(kind, Outcome.PASS)
                if outcome is not None:
                    await models.add_verdict(connection, verdict_of(kind, outcome), version.model_digest, 1)
        return version

    async def open(self, version, slot=Slot.CHAMPION, **changes):
        fields = {"opened_by": "dagster", "trust": self.trust(), "policy": POLICY, "now": self.now, "waivers": WAIVERS}
        async with self.house.writing() as connection:
            return await approvals.open_request(connection, version, slot, **(fields | changes))

    async def sign(self, request, name, role, **changes):
        statement = approvals.statement_for(request, person_of(name), role, POLICY)
        statement = msgspec.structs.replace(statement, **changes)
        signature = sign_statement(self.committee.keys[name], statement_bytes(statement), self.now)
        async with self.house.writing() as connection:
            return await approvals.receive(
                connection, request.request_id, statement, signature, trust=self.trust(), policy=POLICY, now=self.now
            )

    async def reject(self, request, name, role, reason="Not yet."):
        async with self.house.writing() as connection:
            return await approvals.reject(
                connection, request.request_id, person_of(name), role, reason, trust=self.trust(), policy=POLICY,
                now=self.now,
            )  # fmt: skip

    async def state(self, request, **trust):
        async with self.house.writing() as connection:
            return await approvals.state_of(
                connection, request.request_id, trust=self.trust(**trust), policy=POLICY, now=self.now
            )

    async def promote(self, request, **changes):
        fields = {
            "by": "dagster", "appender": self.committee.appender("dagster"), "trust": self.trust(), "policy": POLICY,
            "now": self.now,
        }  # fmt: skip
        return await promote(self.auditor, request.request_id, **(fields | changes))

    async def approved(self, number=1):
        request = await self.open(await self.register(number))
        await self.sign(request, "lena", LEAD)
        await self.sign(request, "omar", SAFETY)
        return request

    async def judged(self):
        async with self.house.writing() as connection:
            rows = await read_rows(connection)
        return judge(rows, self.trust(), POLICY, self.now + timedelta(minutes=1))[SCOPE]

    async def command(self, action, **changes):
        fields = {
            "by": person_of("lena"), "name": "Lena", "role": LEAD, "reason": "It is wrong.",
            "appender": self.committee.appender("operator"), "trust": self.trust(), "policy": POLICY, "now": self.now,
        }  # fmt: skip
        return await command(self.auditor, SCOPE, action, **(fields | changes))

    async def react(self, cause, **changes):
        fields = {
            "statement": "Something is wrong.", "verdict": None, "appender": self.committee.appender("keeper"),
            "trust": self.trust(), "policy": POLICY, "now": self.now,
        }  # fmt: skip
        return await react(self.auditor, SCOPE, cause, **(fields | changes))

    def superuser(self, statement):
        with psycopg.connect(self.house.url, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute(statement)
