"""Two people who sign, and the processes that append: a serving record as it would come about, by hand.

Here: a roster, registered process keys, rows with real signatures.
Not here: collecting signatures and checking evidence (governance.approvals, governance.promotion).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from governance import lifecycle, notary, roster, serving_record, trust
from governance.access import Role
from governance.roster import Roster, Signer, SignerKey
from governance.serving_record import Appender
from governance.statements import Action, ServingRow, Signed, Slot, Statement, statement_bytes
from stores import serving as stored
from stores.database import Connection, to_microseconds, transaction
from vocabulary.clock import Clock
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

WAIVERS = tuple(waiver.sentence for waiver in lifecycle.load().waivers)
EVIDENCE = "e" * 64


class Committee:
    """Everybody who can put a row into the record, rightly."""

    def __init__(self, root: SigningKey, settings: Settings, clock: Clock) -> None:
        """Install the roster and register the processes' keys."""
        self.root, self.settings, self.clock = root, settings, clock
        self.people = {role: SigningKey.generate() for role in (Role.CLINICAL_LEAD, Role.SAFETY_OFFICER)}
        today = self.now.date()
        self.draft = Roster(
            serial=1,
            issued_at=self.now,
            valid_until=today + timedelta(days=365),
            signers=tuple(
                Signer(
                    person=self.person(role),
                    name=str(role),
                    roles=(role,),
                    keys=(
                        SignerKey(
                            kind="ed25519",
                            public=key.verifying.text(),
                            valid_from=today - timedelta(days=1),
                            valid_until=today + timedelta(days=300),
                        ),
                    ),
                )
                for role, key in self.people.items()
            ),
        )
        self.install(self.draft)
        self.processes = {name: Appender(name, SigningKey.generate()) for name in ("operator", "keeper")}
        for name, appender in self.processes.items():
            notary.register_key(settings, name, appender.signer.verifying, clock)  # type: ignore[attr-defined]
        self._requests = 0

    @property
    def now(self) -> datetime:
        """The time by the clock."""
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    @staticmethod
    def person(role: Role) -> str:
        """How a signer is named."""
        return f"https://login.example|{role}"

    def install(self, draft: Roster) -> None:
        """Put another roster in place."""
        path = Path(self.settings.data_dir) / "draft.signed"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(roster.sign(roster.encode(draft), self.root))
        trust.install(self.settings, path, self.now.date())

    def signed(self, digest: str, version: int, slot: Slot, *, conditions: tuple[str, ...] = WAIVERS) -> list[Signed]:
        """The committee's signatures of one approval."""
        self._requests += 1
        rule = lifecycle.load().slots[slot]
        made = []
        for role, key in list(self.people.items())[: rule.people]:
            statement = Statement(
                site=self.settings.site,
                request_id=f"request-{self._requests}",
                scope="mortality",
                slot=slot,
                version=version,
                model_digest=digest,
                evidence_digest=EVIDENCE,
                conditions=conditions,
                author="https://login.example|author",
                opened_at=self.now,
                expires_at=self.now + timedelta(days=7),
                person=self.person(role),
                role=role,
                meaning=rule.meaning,
            )
            signature = roster.sign_statement(key, statement_bytes(statement), self.now)
            made.append(Signed(statement=statement, signature=signature, received_at=self.now))
        return made

    async def promote(
        self, connection: Connection, digest: str, version: int, slot: Slot = Slot.CHAMPION, **changes: object
    ) -> ServingRow:
        """Let a version hold a slot."""
        signed = self.signed(digest, version, slot)
        row = self._row(Action.PROMOTE, slot, signed[0].statement, signed=tuple(signed))
        return await self.append(connection, msgspec.structs.replace(row, **changes), "operator")

    async def react(
        self, connection: Connection, action: Action, about: ServingRow, cause: str, *, by: str = "keeper"
    ) -> ServingRow:
        """Silence, clamp, resume, withdraw or restore under an approval."""
        statement = about.signed[0].statement
        row = self._row(action, about.slot, statement, restores=about.serving_id, cause=cause)
        name = "keeper" if by == "keeper" else "operator"
        return await self.append(connection, msgspec.structs.replace(row, by=by), name)

    def _row(self, action: Action, slot: Slot, about: Statement, **more: object) -> ServingRow:
        return ServingRow(
            serving_id=0,
            at_us=to_microseconds(self.now),
            scope="mortality",
            slot=slot,
            action=action,
            version=about.version,
            model_digest=about.model_digest,
            evidence_digest=about.evidence_digest,
            request_id=about.request_id,
            by="https://login.example|somebody",
            **more,  # type: ignore[arg-type]
        )

    async def append(self, connection: Connection, row: ServingRow, process: str) -> ServingRow:
        """Sign a row by a process, and store it behind the last."""
        async with transaction(connection):
            await stored.lock(connection, row.scope)
            rows = await serving_record.read_rows(connection, row.scope)
            chained = msgspec.structs.replace(row, previous_digest=serving_record.previous_digest(rows))
            numbered = serving_record.sign_row(chained, self.processes[process])
            return await serving_record.append_row(connection, numbered, rows)
