"""The policy read a second time: what must be decided, and who the people of the access matrix are.

Here: walking through governance/policy.toml with plain loops for every question, in code of its own: nothing of
governance.access; roles, relationships and glasses as people who have them.
Not here: asking the clinic (the tests beside this module), the clinic and its patients (guarded_site).
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

house = sys.modules["vigil_tests_guarded_site"]  # the tests load it first
Person = house.Person

# The policy, read a second time ---------------------------------------------------------------------------------------

POLICY = Path(__file__).resolve().parents[2] / "governance" / "policy.toml"
TABLE: list[dict[str, Any]] = tomllib.loads(POLICY.read_text(encoding="utf-8"))["row"]
CLOSENESS = {"none": 0, "unit": 1, "treating": 2}
PURPOSES = ("TREAT", "BTG", "HOPERAT", "HQUALIMP", "HRESCH", "HSYSADMIN", "PATSFTY")


class Verdict(NamedTuple):
    """What must come of an ask."""

    is_permitted: bool
    rule: str
    role: str = ""
    purpose: str = ""  # as the event names it
    by_glass: bool = False


class Standing(NamedTuple):
    """How somebody stands to a patient."""

    relationship: str
    vip: bool
    shares: bool
    secondary: bool
    glass: bool


def roles_of(who: Any) -> set[str]:
    """Return the roles a token gives: a program is a service; `operator` comes from no token."""
    return {"service"} if who.is_system else set(who.roles) - {"operator"}


def usual_purpose(who: Any, surface: str, verb: str) -> str:
    for row in TABLE:
        if row["surface"] == surface and verb in row["verbs"] and set(row["roles"]) & roles_of(who):
            return str(row["purposes"][0])
    return "TREAT"


def judge(
    who: Any,
    surface: str,
    verb: str,
    about: str,
    *,
    standing: Standing | None = None,
    ward: str = "",
    purpose: str = "",
) -> Verdict:  # fmt: skip
    """Return what the table says, by walking through all of it for every question."""
    asked = purpose or usual_purpose(who, surface, verb)
    if about == "patient" and standing is None:
        return Verdict(False, "unknown-patient", purpose=asked)
    for by_glass in (False, True):
        if by_glass and not (standing and standing.glass):
            continue
        for row in TABLE:
            if row["surface"] != surface or verb not in row["verbs"] or row["about"] != about:
                continue
            if by_glass and not row.get("break_glass"):
                continue
            if asked not in row["purposes"] and not (by_glass and asked == "BTG"):
                continue
            role = next((role for role in row["roles"] if role in roles_of(who)), None)
            if role is None:
                continue
            close = "treating" if by_glass else (standing.relationship if standing else "none")
            if about == "ward":
                close = "unit" if ward in units_of(who) else "none"
            if CLOSENESS[close] < CLOSENESS[row.get("relationship", "none")]:
                continue
            if standing is not None and not conditions_hold(row, standing, close):
                continue
            return Verdict(True, row["name"], role, "BTG" if by_glass else asked, by_glass)
    return Verdict(False, "default-deny", purpose=asked)


def conditions_hold(row: Mapping[str, Any], standing: Standing, close: str) -> bool:
    if standing.vip and row.get("vip", "allow") == "deny":
        return False
    if standing.vip and row.get("vip") == "only_treating" and close != "treating":
        return False
    refused = {"sharing": not standing.shares, "secondary": not standing.secondary}
    return not refused.get(row.get("consent", ""), False)


def units_of(who: Any) -> tuple[str, ...]:
    return () if who.is_system else who.units


def standing_of(caller: Caller, patient: Any) -> Standing | None:
    if patient is None:
        return None
    who = caller.person
    relationship = "unit" if patient.ward in units_of(who) else "none"
    if who.practitioner and not who.is_system and who.practitioner == patient.practitioner:
        relationship = "treating"
    has_glass = caller.glass == "open" and patient in house.PATIENTS
    has_glass = has_glass or (caller.glass == "for another patient" and patient == house.FAR)
    return Standing(relationship, bool(patient.vip), patient.shares, patient.secondary, has_glass)


# Who asks -------------------------------------------------------------------------------------------------------------

ROLES = (
    "nurse", "charge_nurse", "physician", "data_engineer", "clinical_lead", "safety_officer", "data_protection_officer",
    "model_author", "service", "operator",
)  # fmt: skip
ROLE_SETS: dict[str, tuple[str, ...]] = {
    **{role: (role,) for role in ROLES},
    "no role": (),
    "nurse and lead": ("nurse", "clinical_lead"),
}
RELATIONSHIPS: dict[str, dict[str, Any]] = {
    "none": {"units": ("SURG-9",), "practitioner": "P-1"},
    "unit": {"units": (house.WARD, "SURG-9"), "practitioner": "P-1"},
    "treating": {"units": (), "practitioner": house.TREATING},
}
GLASSES = ("none", "open", "expired", "of another person", "for another patient")


@dataclass(frozen=True)
class Caller:
    """Somebody of the matrix: a person of their own, so that their events are theirs alone."""

    person: Any
    role: str
    relationship: str
    glass: str = "none"
    glass_ids: tuple[int, ...] = field(default=(), compare=False)


def caller_of(role: str, relationship: str, glass: str = "none", group: str = "") -> Caller:
    subject = re.sub("[^a-z]+", "-", f"{group}-{role}-{relationship}-{glass}")
    more = RELATIONSHIPS[relationship]
    return Caller(
        Person(subject, ROLE_SETS[role], is_system=role == "service", **more), role, relationship, glass
    )  # fmt: skip


async def with_glasses(url: str, callers: Iterable[Caller]) -> list[Caller]:
    """Break the glasses that callers have, so that an event can be held against their numbers."""
    made = []
    for caller in callers:
        ids: list[int] = []
        if caller.glass in {"open", "expired"}:
            ago_s = 60 if caller.glass == "open" else 3601
            ids = await house.put_glasses(url, caller.person.agent, house.PATIENTS, opened_s_ago=ago_s)
        elif caller.glass == "for another patient":
            ids = await house.put_glasses(url, caller.person.agent, [house.FAR])
        made.append(replace(caller, glass_ids=tuple(ids)))
    return made


async def everybody(site: Any, group: str, glasses: Iterable[str] = GLASSES) -> list[Caller]:
    callers = [
        caller_of(role, relationship, glass, group)
        for glass, role, relationship in product(glasses, ROLE_SETS, RELATIONSHIPS)
    ]
    return await with_glasses(site.url, callers)


class Tally:
    """How many cells there were, by door."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, bool]] = Counter()

    def add(self, door: str, *, is_permitted: bool) -> None:
        self.counts[door, is_permitted] += 1

    def __len__(self) -> int:
        return sum(self.counts.values())

    def tell(self, title: str) -> None:
        print(f"\n{title}: {len(self)} cells")  # noqa: T201 - these numbers are a result
        for door in dict.fromkeys(door for door, _ in self.counts):
            numbers = self.counts[door, True], self.counts[door, False]
            print(f"  {door:<32}{numbers[0]:>6} permitted{numbers[1]:>6} denied")  # noqa: T201
