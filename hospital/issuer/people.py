"""The people of the demonstration, and what the hospital's directory says of each.

Here: the table, and the claims made from it.
Not here: what a role may do (that is the platform's policy), sessions (hospital.issuer.grants).
All of them are invented.
"""

from __future__ import annotations

from typing import NamedTuple

from hospital.ward import WARDS

_OWN_WARDS = (WARDS[0], "MICU")
"""The first ward of the synthetic hospital, and of the recorded stays the one with most of them."""


class Person(NamedTuple):
    """Somebody who may sign in."""

    subject: str  # stable, says nothing
    name: str
    roles: tuple[str, ...]
    title: str  # of the role, for people
    about: str  # what the demonstration shows with this person
    units: tuple[str, ...] = ()
    practitioner: str = ""  # as ADT names them in PV1-7, 8, 9 or 17

    def claims(self, scopes: frozenset[str]) -> dict[str, object]:
        """Return what these scopes tell of the person."""
        told: dict[str, object] = {}
        if "profile" in scopes:
            told["name"] = self.name
        if "roles" in scopes:
            told |= {"roles": list(self.roles), "units": list(self.units)}
            if self.practitioner:
                told["practitioner"] = self.practitioner
        return told


PEOPLE = (
    Person(
        "p-3f6a1c", "Nora Lind", ("nurse",), "Nurse",
        "Works on " + " and ".join(_OWN_WARDS) + "; sees the patients who lie there.", units=_OWN_WARDS,
    ),
    Person(
        "p-b20d97", "Pavel Novak", ("physician",), "Physician",
        "Sees the patients whose stay names him.", practitioner="P-NOVAK",
    ),
    Person(
        "p-71e845", "Chidi Okafor", ("charge_nurse",), "Charge nurse",
        "Leads the shift on " + " and ".join(_OWN_WARDS) + ".", units=_OWN_WARDS,
    ),
    Person(
        "p-c4590b", "Dana Weiss", ("data_engineer",), "Data engineer",
        "Looks after feeds and what they could not deliver.",
    ),
    Person(
        "p-0a8f32", "Lena Fischer", ("clinical_lead",), "Clinical lead",
        "Answers for clinical use; approves models.",
    ),
    Person(
        "p-5d1be6", "Sami Aalto", ("safety_officer",), "Safety officer",
        "Answers for patients' safety; approves models.",
    ),
    Person(
        "p-e97c04", "Petra Klein", ("data_protection_officer",), "Data-protection officer",
        "Reads the audit; reviews broken glasses.",
    ),
    Person(
        "p-846f2d", "Mira Haddad", ("model_author",), "Model author",
        "Makes models; sees no patients.",
    ),
)  # fmt: skip


def person_of(subject: str) -> Person | None:
    """Return the person with this subject, or None."""
    return next((person for person in PEOPLE if person.subject == subject), None)
