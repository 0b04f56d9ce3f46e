"""A committee with keys, a root, a house's processes, and a serving record they write: real signatures throughout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from governance import lifecycle
from governance import roster as rosters
from governance.access import Role
from governance.high_water import HighWater
from governance.notary import PublicKeys, RegisteredKey
from governance.roster import Roster, Signer, SignerKey, sign_statement
from governance.serving import Judgement, Trust, judge_scope
from governance.serving_record import Appender, sign_row
from governance.statements import Action, ServingRow, Signed, Slot, Statement, row_digest, statement_bytes
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
SCOPE = "mortality"
POLICY = lifecycle.load()
WAIVER = POLICY.waiver(lifecycle.SILENT_PERIOD).sentence
AUTHOR = "https://login.test|arne"
PEOPLE = {
    "lena": (Role.CLINICAL_LEAD,),
    "omar": (Role.SAFETY_OFFICER,),
    "petra": (Role.PHYSICIAN, Role.CLINICAL_LEAD),
    "quinn": (Role.CLINICAL_LEAD, Role.SAFETY_OFFICER),
    "arne": (Role.PHYSICIAN, Role.MODEL_AUTHOR),
    "nora": (Role.NURSE,),
}
PROCESSES = ("engine", "keeper", "clinic", "operator", "dagster", "normalizer")


def digest_of(version: int) -> str:
    """A model's digest that a test can name."""
    return f"{version:064x}"


def evidence_of(version: int, round_: int = 1) -> str:
    """An evidence's digest that a test can name."""
    return f"{round_:02x}{version:062x}"


def person_of(name: str) -> str:
    """How the roster names somebody."""
    return f"https://login.test|{name}"


def microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


class Committee:
    """Who may sign, with their keys; seeds are fixed, so that a failing test fails again."""

    def __init__(self) -> None:
        self.root = SigningKey(b"r" * 32)
        self.keys = {name: SigningKey(name.encode().ljust(32, b".")) for name in PEOPLE}
        self.machines = {name: SigningKey(name.encode().ljust(32, b"#")) for name in PROCESSES}
        day = NOW.date()
        self.roster = Roster(
            serial=3,
            issued_at=NOW - timedelta(days=30),
            valid_until=day + timedelta(days=365),
            signers=tuple(
                Signer(
                    person=person_of(name),
                    name=name.capitalize(),
                    roles=roles,
                    keys=(
                        SignerKey(
                            kind="ed25519",
                            public=self.keys[name].verifying.text(),
                            valid_from=day - timedelta(days=60),
                            valid_until=day + timedelta(days=60),
                        ),
                    ),
                )
                for name, roles in PEOPLE.items()
            ),
        )
        self.writers = PublicKeys(
            [RegisteredKey(name, key.key_id, key.verifying.text(), 0) for name, key in self.machines.items()]
        )

    def appender(self, name: str) -> Appender:
        return Appender(name, self.machines[name])

    def trust(self, **changes) -> Trust:
        fields = {"site": "st-anna", "mode": "demo", "roster": self.roster, "writers": self.writers}
        return Trust(**(fields | changes))

    def statement(self, name: str, role: Role, number: int = 1, /, **changes) -> Statement:
        fields = {
            "site": "st-anna",
            "request_id": f"request-{number}",
            "scope": SCOPE,
            "slot": Slot.CHAMPION,
            "version": number,
            "model_digest": digest_of(number),
            "evidence_digest": evidence_of(number),
            "conditions": (WAIVER,),
            "author": AUTHOR,
            "opened_at": NOW - timedelta(hours=2),
            "expires_at": NOW + timedelta(days=10),
            "person": person_of(name),
            "role": role,
        } | changes
        fields.setdefault("meaning", POLICY.slots[fields["slot"]].meaning)
        return Statement(**fields)

    def sign(self, name: str, role: Role, number: int = 1, /, *, at: datetime | None = None, **changes) -> Signed:
        at = at or NOW - timedelta(hours=1)
        statement = self.statement(name, role, number, **changes)
        return Signed(
            statement=statement,
            signature=sign_statement(self.keys[name], statement_bytes(statement), at),
            received_at=at,
        )

    def two(self, number: int = 1, /, **changes) -> tuple[Signed, ...]:
        """The two signatures that suffice for a champion."""
        return (
            self.sign("lena", Role.CLINICAL_LEAD, number, **changes),
            self.sign("omar", Role.SAFETY_OFFICER, number, **changes),
        )

    def install(self, folder: Path) -> Settings:
        """Put roster and public keys where a house has them."""
        signed = folder / "roster.signed"
        signed.write_bytes(rosters.sign(rosters.encode(self.roster), self.root))
        anchors = folder / "anchors"
        anchors.mkdir(exist_ok=True)
        (anchors / "writers.json").write_bytes(msgspec.json.encode(self.writers.registered))
        return Settings(data_dir=folder, site="st-anna", mode="demo", signer_root=self.root.verifying.text())


class Record:
    """One scope's record as processes append to it."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.rows: list[ServingRow] = []
        self.now = NOW

    def add(self, action: Action, appender: str = "clinic", **changes) -> ServingRow:
        """Append a row that is signed and chained as a process would."""
        self.now += timedelta(minutes=1)
        fields = {
            "serving_id": len(self.rows) + 1 if not self.rows else self.rows[-1].serving_id + 1,
            "at_us": microseconds(self.now),
            "scope": SCOPE,
            "slot": Slot.CHAMPION,
            "action": action,
            "version": 0,
            "model_digest": "",
            "evidence_digest": "",
            "request_id": "",
            "by": appender,
            "previous_digest": row_digest(self.rows[-1]) if self.rows else "",
        }
        row = sign_row(ServingRow(**(fields | changes)), self.committee.appender(appender))
        self.rows.append(row)
        return row

    def promote(self, number: int = 1, appender: str = "clinic", /, **changes) -> ServingRow:
        signed = changes.pop("signed", None)
        fields = {
            "version": number,
            "model_digest": digest_of(number),
            "evidence_digest": evidence_of(number),
            "request_id": f"request-{number}",
        } | changes
        about = {name: fields[name] for name in ("model_digest", "evidence_digest", "request_id")}
        if signed is None:
            at = self.now - timedelta(seconds=1)
            times = {"opened_at": at - timedelta(hours=1), "expires_at": at + timedelta(days=5)}
            signed = self.committee.two(number, at=at, **times, **about)
        return self.add(Action.PROMOTE, appender, signed=signed, **fields)

    def about(self, action: Action, target: ServingRow, appender: str = "keeper", **changes) -> ServingRow:
        """Append a row that names an approval."""
        fields = {
            name: getattr(target, name) for name in ("version", "model_digest", "evidence_digest", "request_id", "slot")
        }
        return self.add(action, appender, **(fields | {"restores": target.serving_id, "cause": "test"} | changes))

    def withdraw(self, appender: str = "keeper", **changes) -> ServingRow:
        return self.add(Action.WITHDRAW, appender, **({"cause": "calibration_breach"} | changes))

    def judge(self, **trust) -> Judgement:
        return judge_scope(SCOPE, self.rows, self.committee.trust(**trust), POLICY, self.now + timedelta(minutes=1))

    def seen(self) -> dict[str, HighWater]:
        """What a house that judged this record remembers."""
        return {SCOPE: self.judge().high_water}
