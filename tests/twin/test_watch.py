"""The watch reacts: each breach by its cause, once, with record, incident, verdict and audit event, or not at all.

A real database, real signatures, a real manifest; scores and outcomes are put there by hand.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from governance import serving
from governance.audit import Auditor
from governance.lifecycle import load as load_policy
from governance.notary import heads_of
from governance.serving import Standing
from governance.serving_record import read_rows
from governance.statements import Action, Slot
from models.risk import manifest
from models.risk.manifest import Reference
from stores import incidents, models, risk_scores
from stores.database import Connection, connect, to_timestamp, transaction
from stores.incidents import Incident
from stores.models import ModelVersion
from stores.risk_scores import RiskScore
from twin import watch
from twin.watch import WATCH_FAILED, Watch
from twin.watch_reference import references_of
from vocabulary.clock import ManualClock
from vocabulary.concepts import by_key
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.verdict import Kind, Outcome

SECOND = 1_000_000
HOUR_US = 3600 * SECOND
NOW = 1_780_000_000 * SECOND
LOG = NOW + 4_000 * HOUR_US
"""The log's clock is another than the wall's, as in a demonstration."""
LEVELS = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
GLUCOSE = (55.0, 78.0, 102.0, 125.0, 155.0, 230.0, 420.0)


class House(NamedTuple):
    """A house with one champion that speaks."""

    connection: Connection
    watch: Watch
    settings: Settings
    committee: object
    clock: ManualClock
    digests: dict[int, str]

    async def standing(self) -> tuple[Standing, int, str]:
        """What the record says of the champion, as an engine would judge it: standing, version, cause."""
        async with transaction(self.connection) as own:
            rows = await read_rows(own)
        now = to_timestamp(self.clock.now_us())
        judged = serving.judge(rows, serving.load_trust(self.settings, now), load_policy(), now)["mortality"]
        held = judged.slots[Slot.CHAMPION]
        assert judged.refusals == (), judged.refusals
        return held.standing, 0 if held.row is None else held.row.version, held.cause

    async def actions(self) -> list[str]:
        async with transaction(self.connection) as own:
            return [str(row.action) for row in await read_rows(own)]

    async def incidents(self) -> list[Incident]:
        async with transaction(self.connection) as own:
            return (await incidents.find(own))[::-1]

    async def serving_id(self) -> int:
        async with transaction(self.connection) as own:
            return (await read_rows(own))[-1].serving_id

    async def register(self, version: int, body: bytes) -> str:
        """A version with its manifest, promoted by two people."""
        digest = manifest.digest(body)
        async with transaction(self.connection) as own:
            await models.add_version(
                own,
                ModelVersion(
                    scope="mortality", model_digest=digest, manifest=body.decode(), author="a|b",
                    registered_at_us=NOW, data_fingerprint="0" * 64, code_version="test", lock_digest="0" * 16,
                    protocol_digest="0" * 64, is_synthetic=True,
                ),
            )  # fmt: skip
        await self.committee.promote(self.connection, digest, version)  # type: ignore[attr-defined]
        self.digests[version] = digest
        return digest

    async def stays(self, count: int, probability: float, deaths: int, *, first: int = 1, sex: str = "female",
                    version: int = 1, birth_date: str = "1940-01-01") -> None:  # fmt: skip
        """Stays that ended an hour ago, the first `deaths` of them in death."""
        serving_id = await self.serving_id()
        ended = LOG - HOUR_US
        async with transaction(self.connection) as own:
            for number in range(first, first + count):
                await own.execute(
                    "insert into patient (patient_id, partition, family_name, given_name, birth_date, sex, "
                    "created_position, updated_position) values (%s, 0, 'F', 'G', %s, %s, 1, 1)",
                    (number, birth_date, sex),
                )
                await own.execute(
                    "insert into encounter (encounter_id, patient_id, status, started_at_us, ended_at_us, known_from, "
                    "updated_position) values (%s, %s, 'finished', %s, %s, 1, 1)",
                    (number, number, ended - 40 * HOUR_US, ended),
                )
                outcome = "died" if number < first + deaths else "survived"
                await own.execute("insert into outcome values (%s, 1, %s, %s)", (number, outcome, ended))
            await risk_scores.add(
                own,
                [
                    self._score(number, 60, probability, ended, serving_id, version)
                    for number in range(first, first + count)
                ],
            )

    def _score(
        self, number: int, minute: int, probability: float, at_us: int, serving_id: int, version: int
    ) -> RiskScore:
        return RiskScore(
            encounter_id=number, through_minute=minute, slot="champion", model_digest=self.digests[version],
            position=minute, patient_id=number, serving_id=serving_id, at_us=at_us, probability=probability,
            is_high=probability >= 0.3,
        )  # fmt: skip

    async def flood(self, patients: int, waves: int, *, first: int = 1000, version: int = 1) -> None:
        """Estimates that rise above the threshold and fall below again, `waves` times within the last hours."""
        serving_id = await self.serving_id()
        async with transaction(self.connection) as own:
            await risk_scores.add(
                own,
                [
                    self._score(
                        first + patient, 15 * step, (0.1, 0.6)[step % 2], LOG - (2 * waves - step) * 900 * SECOND,
                        serving_id, version,
                    )
                    for patient in range(patients)
                    for step in range(2 * waves)
                ],
            )  # fmt: skip

    async def glucose(self, values: list[float], *, first: int = 2000, ago_min: float = 5, version: int = 1) -> None:
        """One glucose a patient, of patients the model was just asked about."""
        serving_id = await self.serving_id()
        at = to_timestamp(LOG - round(ago_min * 60 * SECOND))
        asked_us = LOG - round((ago_min + 1) * 60 * SECOND)
        async with transaction(self.connection) as own:
            await risk_scores.add(
                own, [self._score(first + i, 600, 0.1, asked_us, serving_id, version) for i in range(len(values))]
            )
            for i, value in enumerate(values):
                await own.execute(
                    "insert into observation_event (patient_id, concept, effective_at, source_key, revision, "
                    "raw_index, value_index, value, status, received_at, known_from) "
                    "values (%s, %s, %s, 1, 1, 0, 0, %s, 0, %s, %s)",
                    (first + i, by_key("glucose").number, at, value, at, at),
                )


@pytest.fixture(scope="module")
def bodies(small_model: ModuleType) -> dict[int, bytes]:
    """Manifests of two models with a reference of their input."""
    made = manifest.from_bytes(small_model.train(1).body)
    reference = Reference(concept="glucose", levels=LEVELS, values=GLUCOSE)
    return {
        version: manifest.to_bytes(
            msgspec.structs.replace(
                made, references=(reference,), training=msgspec.structs.replace(made.training, seed=version)
            )
        )
        for version in (1, 2)
    }


@pytest.fixture
async def house(
    new_database: Callable[[], str],
    live_plane: ModuleType,
    committee: ModuleType,
    tmp_path: Path,
    bodies: dict[int, bytes],
) -> AsyncIterator[House]:
    url = new_database()
    root = SigningKey.generate()
    settings = live_plane.settings_for(tmp_path, url, "nats://unused", signer_root=root.verifying.text(), mode="demo")
    clock = ManualClock(NOW)
    people = committee.Committee(root, settings, clock)
    connection = await connect(url, application_name="test")
    other = await connect(url, application_name="test watch")
    keeper = people.processes["keeper"]
    auditor = Auditor(lambda: connect(url, application_name="test"), "keeper", keeper.signer, heads_of(settings), clock)
    async with transaction(connection) as own:
        await own.execute("update position set log_time_us = %s", (LOG,))
    made = House(connection, Watch(settings, other, auditor, keeper, clock), settings, people, clock, {})
    await made.register(1, bodies[1])
    yield made
    await auditor.close()
    await other.close()
    await connection.close()


async def test_a_model_nothing_contradicts_goes_on(house: House) -> None:
    await house.stays(40, 0.2, 8)
    await house.glucose(list(np.interp(np.linspace(0.02, 0.98, 30), LEVELS, GLUCOSE)))
    (verdict,) = await house.watch.look()
    assert verdict.outcome is not Outcome.FAIL
    assert await house.actions() == ["promote"]
    assert await house.incidents() == []
    assert house.watch.detail["watched"] == 1


async def test_too_little_evidence_silences_nobody(house: House) -> None:
    await house.stays(5, 0.05, 5)
    await house.glucose([5.0, 6.0])
    await house.flood(2, 1)
    await house.watch.look()
    assert await house.actions() == ["promote"]


async def test_deaths_that_contradict_the_risks_end_in_the_last_approved_model(house: House, bodies) -> None:
    await house.register(2, bodies[2])
    await house.stays(60, 0.1, 30, version=2)
    (verdict,) = await house.watch.look()
    assert verdict.outcome is Outcome.FAIL
    assert await house.standing() == (Standing.SPEAKING, 1, "")
    (incident,) = await house.incidents()
    assert (incident.cause, incident.reaction, incident.model_digest) == (
        "calibration_breach", "restore", house.digests[2],
    )  # fmt: skip
    assert incident.serving_id == await house.serving_id()
    assert incident.verdict_digest
    async with transaction(house.connection) as own:
        stored = await models.verdict_of(own, incident.verdict_digest)
    assert stored is not None
    assert (stored.verdict.kind, stored.verdict.outcome) == (Kind.LIVE, Outcome.FAIL)
    assert "30 deaths" in stored.verdict.statement


async def test_without_an_earlier_approval_nobody_speaks(house: House) -> None:
    await house.stays(60, 0.1, 30)
    await house.watch.look()
    standing, _, cause = await house.standing()
    assert (standing, cause) == (Standing.EMPTY, "calibration_breach")
    assert await house.watch.look() == [], "there is nobody to watch"
    assert len(await house.incidents()) == 1


async def test_one_group_alone_is_a_breach_of_its_own(house: House, bodies) -> None:
    await house.register(2, bodies[2])
    await house.stays(120, 0.3, 24, version=2, sex="male")
    await house.stays(40, 0.1, 26, first=500, version=2, sex="female")
    await house.watch.look()
    (incident,) = await house.incidents()
    assert (incident.cause, incident.reaction) == ("subgroup_breach", "restore")
    assert "sex=female" in incident.statement
    assert (await house.standing())[:2] == (Standing.SPEAKING, 1)


async def test_a_changed_unit_silences_the_model_and_names_the_factor(house: House) -> None:
    millimolar = [value / 18.0156 for value in np.interp(np.linspace(0.05, 0.95, 12), LEVELS, GLUCOSE)]
    await house.glucose(millimolar)
    await house.watch.look()
    assert await house.standing() == (Standing.ABSTAINING, 1, "interface_fault")
    (incident,) = await house.incidents()
    assert "glucose" in incident.statement
    assert "mmol/L" in incident.statement
    before = await house.actions()
    assert await house.watch.look() == [], "a model that is silent is not judged again"
    assert await house.actions() == before


async def test_the_gravest_cause_decides(house: House, bodies) -> None:
    await house.register(2, bodies[2])
    await house.stays(60, 0.1, 30, version=2)
    await house.glucose([5.0] * 12, version=2)
    await house.watch.look()
    assert (await house.standing())[0] is Standing.ABSTAINING
    assert [incident.cause for incident in await house.incidents()] == ["interface_fault"]


async def test_a_flood_is_clamped_first_and_ends_in_a_rollback_when_it_returns(house: House, bodies) -> None:
    await house.register(2, bodies[2])
    await house.flood(10, 6, version=2)
    await house.watch.look()
    assert await house.standing() == (Standing.CLAMPED, 2, "alert_flood")
    await house.watch.look()
    assert (await house.actions())[2:] == ["clamp"], "what came before the clamp was judged"
    await house.flood(10, 6, first=3000, version=2)  # goes on under the clamp
    await house.watch.look()
    assert (await house.standing())[:2] == (Standing.SPEAKING, 1)
    assert [(one.cause, one.reaction) for one in await house.incidents()] == [
        ("alert_flood", "clamp"), ("alert_flood", "restore"),
    ]  # fmt: skip


async def test_what_a_person_resumed_is_judged_by_what_comes_afterwards(house: House) -> None:
    await house.glucose([5.0] * 12)
    await house.watch.look()
    async with transaction(house.connection) as own:
        promoted = (await read_rows(own))[0]
    await house.committee.react(  # type: ignore[attr-defined]
        house.connection, Action.RESUME, promoted, "the analyser is mended", by="https://login.example|clinical_lead"
    )
    await house.watch.look()
    assert await house.standing() == (Standing.SPEAKING, 1, ""), "a person knew of what came before"
    await house.glucose([5.0] * 12, first=4000, ago_min=2)
    await house.watch.look()
    assert await house.standing() == (Standing.ABSTAINING, 1, "interface_fault"), "it was not mended"


async def test_row_incident_verdict_and_audit_event_come_together_or_not_at_all(house: House, monkeypatch) -> None:
    await house.stays(60, 0.1, 30)

    async def fails(*_: object) -> int:
        raise UnavailableError("the server died")

    with monkeypatch.context() as patched:
        patched.setattr(incidents, "add", fails)
        with pytest.raises(UnavailableError):
            await house.watch.look()
    assert await house.actions() == ["promote"]
    assert await house.incidents() == []
    await house.watch.look()
    assert await house.actions() == ["promote", "withdraw"]
    async with transaction(house.connection) as own:
        cursor = await own.execute("select action, agent, detail from audit_event where writer = 'keeper'")
        events = await cursor.fetchall()
    assert len(events) == 1
    assert "calibration_breach" in events[0][2]


async def test_two_keepers_react_once(house: House, bodies) -> None:
    await house.stays(60, 0.1, 30)
    other = await connect(house.settings.database_url.get_secret_value(), application_name="second keeper")
    keeper = house.committee.processes["keeper"]  # type: ignore[attr-defined]
    second = Watch(house.settings, other, house.watch._auditor, keeper, house.clock)
    try:
        await asyncio.gather(house.watch.look(), second.look())
        await house.watch.look()
        await second.look()
    finally:
        await other.close()
    assert await house.actions() == ["promote", "withdraw"]
    assert len(await house.incidents()) == 1


async def test_a_watch_that_starts_anew_knows_what_was_done(house: House) -> None:
    await house.glucose([5.0] * 12)
    await house.watch.look()
    keeper = house.committee.processes["keeper"]  # type: ignore[attr-defined]
    again = Watch(house.settings, house.watch._connection, house.watch._auditor, keeper, house.clock)
    assert await again.look() == []
    assert await house.actions() == ["promote", "abstain"]


async def test_a_model_nobody_can_watch_is_an_incident_once(house: House) -> None:
    async with transaction(house.connection) as own:
        await own.execute("alter table model_version disable trigger all")
        await own.execute("update model_version set manifest = manifest || '# forged'")
    for _ in range(3):
        await house.watch.look()
    (incident,) = await house.incidents()
    assert (incident.cause, incident.reaction, incident.serving_id) == (WATCH_FAILED, "", None)
    assert house.watch.detail["failures"] == 1
    assert await house.actions() == ["promote"]


async def test_a_verdict_is_kept_when_it_says_something_new(house: House) -> None:
    async def kept() -> int:
        async with transaction(house.connection) as own:
            return len(await models.verdicts_of(own, house.digests[1]))

    await house.watch.look()
    await house.watch.look()
    assert await kept() == 1
    await house.stays(100, 0.2, 20)
    await house.watch.look()
    assert await kept() == 2, "calibration can now be told from its bound"
    house.clock.advance(watch.KEPT_AGAIN_AFTER_US / SECOND + 1)
    await house.watch.look()
    assert await kept() == 3, "a sign that somebody looks"


@pytest.mark.parametrize(
    "reference",
    [
        None,
        Reference(concept="shoe_size", levels=(0.1, 0.9), values=(1.0, 2.0)),
        Reference(concept="glucose", levels=(0.9, 0.1), values=(1.0, 2.0)),
        Reference(concept="glucose", levels=(0.1, 0.9), values=(2.0, 1.0)),
        Reference(concept="glucose", levels=(0.1, 0.9), values=(1.0,)),
        Reference(concept="glucose", levels=(0.5,), values=(1.0,)),
    ],
)
def test_a_reference_that_is_none_is_refused(bodies: dict[int, bytes], reference: Reference | None) -> None:
    made = manifest.from_bytes(bodies[1])
    broken = msgspec.structs.replace(made, references=() if reference is None else (reference,))
    with pytest.raises(ConfigurationError, match="reference"):
        references_of(manifest.to_bytes(broken))


async def test_a_watch_goes_on_whatever_one_look_meets(house: House, monkeypatch, caplog) -> None:
    """PostgreSQL away, then a defect of our own, then all is well: the loop survives both, and says which."""
    stop = asyncio.Event()
    looks = 0

    async def look(self: Watch) -> list[object]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise UnavailableError("PostgreSQL is away")
        if looks == 2:
            raise KeyError("a defect")
        stop.set()
        return []

    monkeypatch.setattr(Watch, "look", look)
    monkeypatch.setattr(watch, "appender_of", lambda *_: house.committee.processes["keeper"])  # type: ignore[attr-defined]
    settings = house.settings.model_copy(update={"identity_dir": Path("unused"), "watch_interval_s": 0.01})
    url = house.settings.database_url.get_secret_value()
    tell: dict[str, object] = {}
    await asyncio.wait_for(watch.run(settings, url, house.clock, stop, tell), 20)  # type: ignore[arg-type]
    assert looks == 3
    assert {"watch_waits", "watch_failed"} <= {record.getMessage() for record in caplog.records}


async def test_a_keeper_without_an_identity_watches_nothing_and_says_so(house: House, caplog) -> None:
    tell: dict[str, object] = {}
    await watch.run(house.settings, "postgresql://unused", house.clock, asyncio.Event(), tell)  # type: ignore[arg-type]
    assert tell == {"watching": False}
    assert "not_watching" in {record.getMessage() for record in caplog.records}


def test_the_keeper_needs_neither_registry_nor_orchestrator_nor_trees() -> None:
    heavy = ["mlflow", "dagster", "sklearn", "pandas", "xgboost", "great_expectations", "evidently", "fairlearn"]
    program = f"import sys, twin.keeper; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
