"""The patients of the access matrix: told by ADT as bytes, written by the directory, with values and snapshots.

Here: who lies where, who is shielded and what they refused; moving and shielding them later; broken glasses as rows.
Not here: the clinic that shows them (guarded_site), who asks (policy_reading).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from governance.privacy import open_ring, prepare
from interop.hl7v2 import Message, decode
from stores import access, clinical, roles, snapshots, timeseries
from stores.database import connect, migrate, transaction
from twin.directory import Applied, Directory
from vocabulary.concepts import by_key
from vocabulary.records import RawId, partition_of
from vocabulary.settings import Settings
from vocabulary.snapshot import (
    FeedState,
    Provenance,
    Score,
    SignalState,
    SnapshotKey,
    TwinSnapshot,
    canonical_bytes,
    digest,
    snapshot_id,
)

provider = sys.modules["vigil_tests_login_provider"]  # guarded_site loads it first
NOW_US = provider.NOW_US
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US

WARD, OTHER_WARD = "ICU-A", "MED-3"
TREATING = "P-7001"
FIRST_PATIENT = 470_101
ABSENT_PATIENT = 470_999
HEART_RATE = by_key("heart_rate").number
POSITION = (1 << 40) + 100


@dataclass(frozen=True)
class Patient:
    """Somebody in a bed, and what was said of them."""

    number: int
    ward: str
    family: str
    mrn: str
    vip: str = ""  # "adt": PV1-16 says so; "hand": the house does
    shares: bool = True
    secondary: bool = True
    practitioner: str = TREATING

    @property
    def bed(self) -> str:
        return str(self.number % 100)

    @property
    def snapshot_id(self) -> str:
        return snapshot_id(SnapshotKey(partition_of(self.number), POSITION, self.number))

    @property
    def observation_id(self) -> str:
        return f"{self.number}-{HEART_RATE}-{NOW_US - MINUTE_US}-3"


ABSENT = Patient(ABSENT_PATIENT, WARD, "Absentia", "MRN-404404")

PATIENTS = tuple(
    Patient(
        FIRST_PATIENT + bits, WARD, f"Quorve{bits}", f"MRN-{7700 + bits}",
        vip=("", "adt", "", "hand")[bits & 3] if bits & 1 else "", shares=not bits & 2, secondary=not bits & 4,
    )
    for bits in range(8)
)  # fmt: skip
"""Every combination of VIP, sharing refused and secondary use refused; half of the VIPs by ADT, half by hand."""

FAR = Patient(FIRST_PATIENT + 8, OTHER_WARD, "Zelmaru", "MRN-7708", practitioner="P-8001")
"""On another ward, treated by somebody else."""

MERGED = FIRST_PATIENT + 9
"""A retired record of the first patient."""

EVERYBODY = (*PATIENTS, FAR)


def stamp(hours: float) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOW_US) - timedelta(hours=hours)
    return at.strftime("%Y%m%d%H%M%S")


class Registration:
    """Tells the directory ADT as bytes, and writes what it makes of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.position = 1 << 40

    async def tell(self, *messages: str) -> None:
        connection = await connect(self._url, application_name="test registration")
        try:
            async with transaction(connection):
                directory = await Directory.load(connection)
                for text in messages:
                    self.position += 1
                    told = decode(text.encode(), UTC)
                    assert isinstance(told, Message), told
                    done = directory.apply(
                        told, raw=RawId(self.position, 0), feed="adt", received_at_us=NOW_US, received_monotonic_ns=0
                    )
                    assert isinstance(done, Applied), done
                await directory.write(connection)
        finally:
            await connection.close()

    def message(self, trigger: str, patient: Patient, hours_ago: float, *, ward: str = "", bed: str = "", vip: str = "",
                consulting: bool = False) -> str:  # fmt: skip
        said = {
            2: "I", 3: f"{ward or patient.ward}^1^{bed or patient.bed}", 9 if consulting else 7: patient.practitioner,
            16: vip, 19: f"V{patient.number}",
        }  # fmt: skip
        pv1 = "|".join(["PV1", *(said.get(place, "") for place in range(1, 46))])
        head = f"MSH|^~\\&|ADT|HOSP|||{stamp(hours_ago)}||ADT^{trigger}|{patient.number}{trigger}{ward}|P|2.5"
        pid = f"PID|||{patient.mrn}^^^HOSP^MR||{patient.family}^Given"
        return "\r".join((head, f"EVN||||||{stamp(hours_ago)}", pid, pv1))

    async def admit_everybody(self) -> None:
        await self.tell(
            *(
                self.message("A01", one, 20, vip="VIP" if one.vip == "adt" else "", consulting=bool(one.number % 2))
                for one in EVERYBODY
            )
        )
        retired = Patient(MERGED, "", "Quorve0", "MRN-OLD-1")
        await self.tell(
            self.message("A01", Patient(MERGED, "OUT", "Quorve0", "MRN-OLD-1", practitioner=""), 30),
            self.message("A03", retired, 28),
        )
        await self.merge(PATIENTS[0], retired, hours_ago=18)

    async def merge(self, survivor: Patient, retired: Patient, *, hours_ago: float = 0.3) -> None:
        """Say that two records are one person's (A40)."""
        head = f"MSH|^~\\&|ADT|HOSP|||{stamp(hours_ago)}||ADT^A40|m{retired.number}|P|2.5"
        await self.tell("\r".join((head, f"PID|||{survivor.mrn}^^^HOSP^MR", f"MRG|{retired.mrn}^^^HOSP^MR")))

    async def move(self, patient: Patient, ward: str) -> None:
        """Transfer somebody (A02)."""
        await self.tell(self.message("A02", patient, 0.5, ward=ward, bed="77"))

    async def shield(self, patient: Patient) -> None:
        """Say by ADT that somebody is a VIP (A08, PV1-16)."""
        await self.tell(self.message("A08", patient, 0.4, vip="VIP"))


def twin_of(patient: Patient, *, position: int = POSITION, ward: str = "", rate: float = 84.0) -> TwinSnapshot:
    """Return a patient's snapshot."""
    at_us = NOW_US - MINUTE_US
    signal = SignalState(
        concept="heart_rate", value=rate, unit=by_key("heart_rate").unit, effective_at_us=at_us,
        received_at_us=at_us + 5, is_stale=False, device="0009FB01", text="", status="final", raw_position=1 << 40,
    )  # fmt: skip
    score = Score(
        name="NEWS2", protocol="news2@1", total=1.0, parts={"heart_rate": 1}, missing=[], coverage=1.0, band="low",
        statement="NEWS2 1.",
    )  # fmt: skip
    return TwinSnapshot(
        snapshot_id=snapshot_id(SnapshotKey(partition_of(patient.number), position, patient.number)),
        patient_id=patient.number, encounter_id=patient.number * 10, ward=ward or patient.ward, bed=patient.bed,
        as_of_us=NOW_US, position=position, is_admitted=True, signals=[signal], scores=[score],
        feeds=[FeedState("monitors", NOW_US - 5_000_000, 60.0, False)], notices=[],
        provenance=Provenance("0.1.0", "0123456789abcdef", "vigil-concepts@1", {"news2": "1 sha256:12ab"}),
    )  # fmt: skip


async def seed(url: str, settings: Settings) -> None:
    """Make a house full of people: schema, roles, ADT, values, snapshots, what was said by hand."""
    await migrate(url)
    prepare(settings)
    connection = await connect(url, application_name="test")
    async with transaction(connection):
        await roles.create(connection, await roles.missing_roles(connection))
    await roles.apply(connection)
    async with transaction(connection):
        before = clinical.PatientRow(FIRST_PATIENT - 1, None, "Before", "", "", "unknown", 1, 1)
        await clinical.write(
            connection,
            clinical.Changes(
                patients=[before], identifiers=[], merges=[], encounters=[], closed_places=[], places=[],
                closed_associations=[], associations=[],
            ),
        )  # fmt: skip
    await Registration(url).admit_everybody()
    keys = await open_ring(settings, url)
    async with transaction(connection):
        held = {row.patient_id: row for row in await clinical.patients(connection, range(FIRST_PATIENT, MERGED + 1))}
        assert [held[one.number].family_name for one in EVERYBODY] == [one.family for one in EVERYBODY]
        assert held[MERGED].merged_into == PATIENTS[0].number
        for one in EVERYBODY:
            await _give_values(connection, one, keys)
        for one in EVERYBODY:
            if one.vip == "hand":
                await access.put_vip_flag(
                    connection, [one.number], is_vip=True, decided_at_us=1, decided_by="Petra Klein", recorded_by="test"
                )
            for scope, is_permitted in (("sharing", one.shares), ("secondary", one.secondary)):
                if not is_permitted:
                    await refuse(connection, one, scope)
    await keys.close()
    await connection.close()


async def refuse(connection: Any, patient: Patient, scope: Any) -> None:
    """Have a patient refuse a use of their data."""
    consent = access.Consent(
        patient_id=patient.number, scope=scope, is_permitted=False, decided_at_us=1, decided_by="Petra Klein",
        recorded_by="test",
    )  # fmt: skip
    await access.put_consent(connection, [consent])


async def _give_values(connection: Any, patient: Patient, keys: Any) -> None:
    sample = timeseries.Sample(
        patient_id=patient.number, concept=HEART_RATE, value=84.0, text="", effective_at_us=NOW_US - MINUTE_US,
        received_at_us=NOW_US - MINUTE_US + 5, status=0, source_key=3, device="0009FB01", feed="monitors",
        position=POSITION, raw_index=0, value_index=0,
    )  # fmt: skip
    await timeseries.write(connection, [sample], POSITION, NOW_US)
    twin = twin_of(patient)
    body = canonical_bytes(twin)
    key = SnapshotKey(partition_of(patient.number), POSITION, patient.number)
    entry = snapshots.RunEntry(patient.number, twin.as_of_us, digest(body))
    await snapshots.put_run(connection, key.partition, POSITION, twin.as_of_us, [entry])
    kept = snapshots.Body(key.partition, POSITION, patient.number, twin.as_of_us, "minute", body)
    await snapshots.put_bodies(connection, [kept], keys)


async def put_glasses(url: str, agent: str, patients: Sequence[Patient], *, opened_s_ago: float = 60) -> list[int]:
    """Break glasses as rows say it, each an hour from when it was opened; return their numbers, in order."""
    opened_us = NOW_US - int(opened_s_ago * 1e6)
    numbers = [zlib.crc32(f"{agent}|{patient.number}|{opened_s_ago}".encode()) + 1 for patient in patients]
    connection = await connect(url, application_name="test")
    try:
        async with transaction(connection):
            for number, patient in zip(numbers, patients, strict=True):
                glass = access.BrokenGlass(
                    break_glass_id=number, agent=agent, agent_name="", role="nurse", session="",
                    patient_id=patient.number, reason="Found unresponsive in the corridor", reason_salt=b"0" * 16,
                    opened_at_us=opened_us, expires_at_us=opened_us + HOUR_US,
                )  # fmt: skip
                await access.put_break_glass(connection, glass)
    finally:
        await connection.close()
    return numbers
