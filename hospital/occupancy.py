"""One patient's time in the synthetic ward.

Here: who, in which bed, from when to when, with which course, and whether the leads are on.
Not here: what happens next (hospital.timetable).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hospital.courses import Condition, Course, Wander
from hospital.messages import EXPIRED, HOME, Bed, Person, Practitioner, Visit
from hospital.patients import Patient

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
MARGIN_US = 6 * MINUTE_US
"""Leads go on this long after an arrival and come off this long before a departure: longer than any clock is skewed,
so that no sample of a skewed clock claims to be before an admission, after a discharge or in another bed."""


@dataclass(slots=True, eq=False)
class Occupancy:
    """One patient in the ward, from arrival to departure."""

    patient: Patient
    course: Course
    wander: Wander
    visit_number: str
    admitted_at_us: int
    bed: Bed
    monitor_from_us: int
    leaves_at_us: int | None = None
    is_dying: bool = False  # leaves dead, where they leave at all
    person: Person = field(default_factory=lambda: Person(identifiers=()))  # as registration knows the patient now
    away_until_us: int = 0
    is_gone: bool = False
    attending: Practitioner | None = None
    vip: str = ""

    def hours(self, at_us: int) -> float:
        """Return hours since admission."""
        return (at_us - self.admitted_at_us) / HOUR_US

    def truth(self, at_us: int) -> Condition:
        """Return the patient's condition without noise."""
        return self.course.at(self.hours(at_us), (at_us / HOUR_US) % 24)

    def is_monitored(self, at_us: int) -> bool:
        """Return whether the leads are on and the patient is in the room."""
        is_leaving = self.leaves_at_us is not None and at_us > self.leaves_at_us - MARGIN_US
        return not self.is_gone and self.monitor_from_us <= at_us and at_us >= self.away_until_us and not is_leaving

    def visit(self, *, prior_bed: Bed | None = None, discharged_at_us: int | None = None) -> Visit:
        """Return the stay as PV1 tells it now."""
        return Visit(
            self.visit_number,
            self.bed,
            prior_bed,
            admitted_at_us=self.admitted_at_us,
            discharged_at_us=discharged_at_us,
            attending=self.attending,
            vip=self.vip,
            disposition="" if discharged_at_us is None else EXPIRED if self.is_dying else HOME,
        )

    @property
    def medical_record_number(self) -> str:
        """Return the number registration uses now."""
        return self.person.identifiers[0].value
