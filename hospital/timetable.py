"""A synthetic ward's days: who comes and goes, what is measured when, and the messages that follow from it.

Here: the calendar of actions (admissions, rounds, samples, specimens, transfers, discharges, a John Doe) and what each
says on the wire.
Not here: courses (hospital.courses), wire formats (hospital.messages), sending (hospital.play).
Source: intervals after usual intensive care practice (observations hourly, gases 4-hourly, bloods 6-hourly).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hospital.chance import named
from hospital.codes import PANELS
from hospital.courses import Condition, Course, CourseKind, Wander
from hospital.faults import Fault, FaultPlan
from hospital.laboratory import Specimen, amended, assessment_report, chart_report, draw, laboratory_report
from hospital.messages import Bed, Header, Identifier, Person, adt, merge
from hospital.monitors import BedMonitor, mount
from hospital.occupancy import HOUR_US, MARGIN_US, MINUTE_US, Occupancy
from hospital.outgoing import Timed, run_code
from hospital.patients import AUTHORITY, Patient, invent
from hospital.staff import VIP, VIP_BED, attending

ADT, MONITORS, LAB = "adt", "monitors", "lab"
REGISTRATION = "SYNTH_ADT"
FACILITY = "SYNTH"
RETRANSMITTED_AFTER_US = 8_000_000
ASSESSED_AFTER_US = 6 * 60_000_000

KINDS: Mapping[CourseKind, int] = {
    CourseKind.STABLE: 5,
    CourseKind.SEPSIS: 3,
    CourseKind.RECOVERY: 3,
    CourseKind.RESPIRATORY_FAILURE: 2,
    CourseKind.BLEEDING: 2,
}
"""How common each course is, as weights."""

Action = Callable[[int], Iterable[Timed]]


class Timetable:
    """One run of a ward: a calendar of actions, each of which may say something and plan more."""

    def __init__(
        self,
        seed: int,
        beds: Sequence[Bed],
        taken: int,
        plan: FaultPlan,
        *,
        start_us: int,
        end_us: int,
        sample_interval_us: int,
    ) -> None:
        """Plan the first arrivals and the day's incidents.

        Args:
            seed: of everything but the faults.
            beds: all beds of the ward.
            taken: how many of them get a patient at once.
            plan: what goes wrong; it also keeps the record.
            start_us: first moment.
            end_us: nothing is planned to be sent at or after it.
            sample_interval_us: how often a monitor sends.
        """
        self.seed, self.plan, self.end_us = seed, plan, end_us
        self.start_us, self.sample_interval_us = start_us, sample_interval_us
        self.occupancies: list[Occupancy] = []
        self._rng = named(seed, "calendar")
        self._calendar: list[tuple[int, int, Action]] = []
        self._entries = 0
        self._patients = 0
        self._messages = 0
        self._run = run_code(start_us)
        self._departures = 0
        self._held: dict[Bed, list[Timed]] = {}  # what the network keeps back during an outage
        self._last: Timed | None = None  # a message that went out whole, for a later one to borrow its control id
        self._monitors = {bed: mount(number, bed, seed, plan.allowed) for number, bed in enumerate(beds)}
        self._free = list(beds[taken:])
        length_us = end_us - start_us
        for number, bed in enumerate(beds[:taken]):
            arrival_us = start_us + round(self._rng.uniform(0, 4) * MINUTE_US)
            self._plan(arrival_us, self._arrival(bed, with_history=True, number=number))
        if self._free and length_us >= HOUR_US:
            self._plan(
                start_us + round(self._rng.uniform(0.1, 0.25) * length_us), self._when_a_bed_is_free(self._john_doe)
            )
        if self._free and length_us >= 2 * HOUR_US:
            self._plan(start_us + round(0.45 * length_us), self._when_a_bed_is_free(self._mistaken_admission))
            self._plan(start_us + round(0.6 * length_us), self._when_a_bed_is_free(self._transfer))

    def __iter__(self) -> Iterator[Timed]:
        while self._calendar and self._calendar[0][0] < self.end_us:
            at_us, _, action = heapq.heappop(self._calendar)
            yield from action(at_us)
        for held in self._held.values():  # the network is back at the end of the run
            for timed in held:
                yield timed._replace(at_us=self.end_us)

    def _plan(self, at_us: int, action: Action) -> None:
        self._entries += 1
        heapq.heappush(self._calendar, (at_us, self._entries, action))

    def _control_id(self, prefix: str) -> str:
        self._messages += 1
        return f"{prefix}{self.seed:X}-{self._run}-{self._messages:06d}"

    # Arrivals and departures

    def _arrival(self, bed: Bed, *, with_history: bool, number: int | None = None) -> Action:
        def arrive(at_us: int) -> Iterator[Timed]:
            self._patients += 1
            rng = named(self.seed, "patient", self._patients)
            patient = invent(self._patients, rng, self.start_us)
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            if number is not None and number < len(KINDS):
                kind = list(KINDS)[(number + 1) % len(KINDS)]  # the first beds show one of each course
            earlier_us = round(rng.uniform(1.5, 5.0) * HOUR_US) if with_history else 0
            stay = self._admit(patient, kind, bed, at_us, at_us - earlier_us)
            if number is not None:
                stay.attending, stay.vip = attending(number), VIP if number == VIP_BED else ""
            late = self.plan.choose([Fault.LATE_ADMISSION], at_us) if with_history else None
            delay_us = round(rng.uniform(2, 5) * MINUTE_US) if late else 0
            if late:
                self._plan(at_us + delay_us, lambda later_us: [self._adt("A01", stay, later_us, stay.admitted_at_us)])
            else:
                yield self._adt("A01", stay, at_us, stay.admitted_at_us)
            if with_history:
                for timed in self._history(stay, at_us):
                    if late:
                        self.plan.note(late, at_us, timed.feed, timed.control_id)
                    yield timed
            if rng.random() < 0.3:
                self._plan(
                    at_us + delay_us + 20 * MINUTE_US, lambda later_us: [self._adt("A08", stay, later_us, later_us)]
                )

        return arrive

    def _admit(self, patient: Patient, kind: CourseKind, bed: Bed, at_us: int, admitted_at_us: int) -> Occupancy:
        rng = named(self.seed, "course", patient.number)
        stay = Occupancy(
            patient=patient,
            course=Course(kind, patient, rng),
            wander=Wander(named(self.seed, "wander", patient.number)),
            visit_number=f"V{patient.number:05d}-{self._run}",
            admitted_at_us=admitted_at_us,
            bed=bed,
            monitor_from_us=at_us + MARGIN_US,
            person=patient.person(),
            attending=attending(patient.number),
        )
        self.occupancies.append(stay)
        interval_us = self.sample_interval_us
        # Monitors are not in step: each bed has its own phase.
        self._plan(stay.monitor_from_us + round(rng.random() * interval_us), self._sampling(stay))
        self._plan(at_us + ASSESSED_AFTER_US, self._assessment(stay))
        self._plan(at_us + round(rng.uniform(7, 20) * MINUTE_US), self._round(stay))
        for panel, every_h in (("blood_gas", 4), ("chemistry", 6), ("blood_count", 6)):
            self._plan(at_us + round(rng.uniform(0.2, 1.0) * HOUR_US), self._bloods(stay, panel, every_h))
        if kind in {CourseKind.STABLE, CourseKind.RECOVERY} and rng.random() < 0.6:
            leaves_at_us = at_us + round(rng.uniform(2.5, 14) * HOUR_US)
            stay.leaves_at_us = leaves_at_us
            self._plan(leaves_at_us, self._departure(stay))
        elif (dies_h := stay.course.dies_h) is not None:
            dies_at_us = admitted_at_us + round(dies_h * HOUR_US)
            if dies_at_us > at_us + HOUR_US:  # whom the ward admits, it has for an hour at least
                stay.is_dying, stay.leaves_at_us = True, dies_at_us
                self._plan(dies_at_us, self._departure(stay))
        return stay

    def _departure(self, stay: Occupancy) -> Action:
        def depart(at_us: int) -> Iterator[Timed]:
            stay.is_gone = True
            yield from self._release(stay.bed, at_us)
            if stay.is_dying:
                stay.person = stay.person._replace(is_dead=True)
            yield self._adt("A03", stay, at_us, at_us, discharged_at_us=at_us)
            self._departures += not stay.is_dying
            if stay.is_dying:
                self._vacate(stay.bed)
            elif self._departures == 1 or self._rng.random() < 0.1:  # no taxi: A13, and out again an hour later
                self._plan(at_us + 10 * MINUTE_US, lambda later_us: [self._adt("A13", stay, later_us, later_us)])
                self._plan(
                    at_us + HOUR_US,
                    lambda later_us: [self._adt("A03", stay, later_us, later_us, discharged_at_us=later_us)],
                )
                self._plan(at_us + HOUR_US, lambda _: self._vacate(stay.bed))
            else:
                self._vacate(stay.bed)
            self._plan(at_us + round(self._rng.uniform(70, 120) * MINUTE_US), self._next_patient)

        return depart

    def _next_patient(self, at_us: int) -> Iterable[Timed]:
        return self._arrival(self._free.pop(0), with_history=False)(at_us) if self._free else ()

    def _when_a_bed_is_free(self, action: Action) -> Action:
        """Return the action, put off by a quarter of an hour as long as every bed is taken."""

        def wait(at_us: int) -> Iterable[Timed]:
            if self._free:
                return action(at_us)
            self._plan(at_us + 15 * MINUTE_US, wait)
            return ()

        return wait

    def _vacate(self, bed: Bed) -> tuple[Timed, ...]:
        self._free.append(bed)
        return ()

    def _adt(
        self,
        trigger: str,
        stay: Occupancy,
        at_us: int,
        happened_at_us: int,
        *,
        prior_bed: Bed | None = None,
        discharged_at_us: int | None = None,
    ) -> Timed:
        control_id = self._control_id("A")
        header = Header(REGISTRATION, FACILITY, control_id, at_us)
        visit = stay.visit(prior_bed=prior_bed, discharged_at_us=discharged_at_us)
        body = adt(trigger, header, stay.person, visit, happened_at_us)
        return Timed(at_us, ADT, control_id, body, stay.medical_record_number)

    def _john_doe(self, at_us: int) -> Iterator[Timed]:
        """Admit somebody whose name nobody knows; an hour later his papers are found (A40)."""
        self._patients += 1
        patient = invent(self._patients, named(self.seed, "patient", self._patients), self.start_us)
        stay = self._admit(patient, CourseKind.BLEEDING, self._free.pop(0), at_us, at_us)
        temporary = Identifier(f"SYNDOE{patient.number:04d}", AUTHORITY)
        known = stay.person
        stay.person = Person((temporary,), "Doe", "John" if patient.sex == "M" else "Jane", sex=patient.sex)
        yield self._adt("A01", stay, at_us, at_us)

        def recognise(later_us: int) -> Iterator[Timed]:
            stay.person = known
            control_id = self._control_id("A")
            header = Header(REGISTRATION, FACILITY, control_id, later_us)
            body = merge(header, known, [temporary], later_us)
            yield Timed(later_us, ADT, control_id, body, patient.medical_record_number)

        self._plan(min(at_us + HOUR_US, (at_us + self.end_us) // 2), recognise)

    def _mistaken_admission(self, at_us: int) -> Iterator[Timed]:
        """Admit somebody to the wrong hospital and take it back (A11)."""
        bed = self._free.pop(0)
        self._patients += 1
        patient = invent(self._patients, named(self.seed, "patient", self._patients), self.start_us)
        rng = named(self.seed, "course", patient.number)
        course, wander = Course(CourseKind.STABLE, patient, rng), Wander(rng)
        stay = Occupancy(
            patient,
            course,
            wander,
            f"V{patient.number:05d}-{self._run}",
            at_us,
            bed,
            self.end_us,
            person=patient.person(),
            attending=attending(patient.number),
        )
        yield self._adt("A01", stay, at_us, at_us)
        self._plan(at_us + 5 * MINUTE_US, lambda later_us: [self._adt("A11", stay, later_us, later_us)])
        self._plan(at_us + 6 * MINUTE_US, lambda _: self._vacate(bed))

    def _transfer(self, at_us: int) -> Iterator[Timed]:
        """Move the sickest patient who is staying to a free bed (A02)."""
        staying = [stay for stay in self.occupancies if not stay.is_gone and stay.leaves_at_us is None]
        if not staying:
            return
        stay = max(staying, key=lambda s: s.course.burden(s.hours(at_us)).shock)
        bed = self._free.pop(0)
        # The leads come off before the move, so that no sample's clock can place it in the wrong bed.
        stay.monitor_from_us = at_us + 2 * MARGIN_US

        def move(later_us: int) -> Iterator[Timed]:
            old, stay.bed = stay.bed, bed
            yield from self._release(old, later_us)
            yield self._adt("A02", stay, later_us, later_us, prior_bed=old)
            self._vacate(old)

        self._plan(at_us + MARGIN_US, move)
        yield from ()

    # What is said about a patient who is there

    def _sampling(self, stay: Occupancy) -> Action:
        def sample(at_us: int) -> Iterator[Timed]:
            if stay.is_gone:
                return
            self._plan(at_us + self.sample_interval_us, sample)
            noisy = stay.wander.around(stay.truth(at_us), stay.hours(at_us))
            if not stay.is_monitored(at_us):
                return
            yield from self._sample(stay, noisy, at_us)

        return sample

    def _sample(self, stay: Occupancy, noisy: Condition, at_us: int) -> Iterator[Timed]:
        monitor = self._monitors[stay.bed]
        keys = monitor.metrics(at_us, has_line=stay.course.has_arterial_line, is_ventilated=stay.course.is_ventilated)
        is_held = stay.bed in self._held
        eligible = [Fault.AWAY, Fault.OUTAGE, *monitor.eligible(keys)]
        if self._last is None:
            eligible.remove(Fault.CONTROL_ID_CONFLICT)  # there is no control id yet to borrow
        fault = None if is_held else self.plan.choose(eligible, at_us)
        if fault is Fault.AWAY:
            stay.away_until_us = at_us + round(self._rng.uniform(20, 40) * MINUTE_US)
            self.plan.note(fault, at_us, MONITORS, "")
            return
        if fault is Fault.OUTAGE:
            self._held[stay.bed] = []
            bed = stay.bed
            self._plan(
                at_us + round(self._rng.uniform(4, 9) * MINUTE_US), lambda later_us: self._release(bed, later_us)
            )
        control_id = self._control_id("M")
        if fault is Fault.CONTROL_ID_CONFLICT and self._last is not None:
            control_id = self._last.control_id
        made = monitor.sample(noisy, keys, stay.person, stay.visit_number, at_us, control_id, fault)
        timed = Timed(at_us, MONITORS, control_id, made.body, stay.medical_record_number, made.values)
        self._note_sample(fault, timed, made.touched, monitor)
        if stay.bed in self._held:
            self._held[stay.bed].append(timed)
            self.plan.note(Fault.OUTAGE, at_us, MONITORS, control_id)
            return
        yield timed
        if fault is Fault.RETRANSMISSION:
            self._plan(at_us + RETRANSMITTED_AFTER_US, lambda later_us: [timed._replace(at_us=later_us)])
        if fault is None:
            self._last = timed

    def _note_sample(self, fault: Fault | None, timed: Timed, touched: tuple[int, ...], monitor: BedMonitor) -> None:
        of_the_bed = ((Fault.SKEWED_CLOCK, monitor.skew_s != 0), (Fault.BED_ONLY, not monitor.knows_patient))
        for lasting in (name for name, is_so in of_the_bed if is_so):
            self.plan.note(lasting, timed.at_us, timed.feed, timed.control_id)
        if fault is not None and fault is not Fault.OUTAGE:
            for index in touched or (None,):
                self.plan.note(fault, timed.at_us, timed.feed, timed.control_id, index)

    def _release(self, bed: Bed, at_us: int) -> Iterator[Timed]:
        for timed in self._held.pop(bed, []):
            yield timed._replace(at_us=at_us)

    def _assessment(self, stay: Occupancy) -> Action:
        def assess(at_us: int) -> Iterator[Timed]:
            if stay.is_gone:
                return
            patient = stay.patient
            measured = {"weight": patient.weight_kg, "height": patient.height_cm}
            if stay.person.birth_date:  # nobody knows a John Doe's age
                measured["age"] = float(patient.age_years)
            control_id = self._control_id("C")
            made = assessment_report(measured, stay.person, stay.visit(), FACILITY, control_id, at_us)
            yield Timed(at_us, MONITORS, control_id, made.body, stay.medical_record_number, made.values)

        return assess

    def _round(self, stay: Occupancy) -> Action:
        def go_round(at_us: int) -> Iterator[Timed]:
            if stay.is_gone:
                return
            self._plan(at_us + HOUR_US, go_round)
            if not stay.is_monitored(at_us):
                return
            truth = stay.truth(at_us)
            control_id = self._control_id("C")
            made = chart_report(truth, max(0.0, truth.urine), stay.person, stay.visit(), FACILITY, control_id, at_us)
            yield Timed(at_us, MONITORS, control_id, made.body, stay.medical_record_number, made.values)

        return go_round

    def _bloods(self, stay: Occupancy, panel: str, every_h: float) -> Action:
        def take(at_us: int) -> Iterator[Timed]:
            if stay.is_gone or (stay.leaves_at_us and at_us > stay.leaves_at_us - MARGIN_US):
                return
            self._plan(at_us + round(every_h * HOUR_US), take)
            specimen = self._draw(stay, panel, at_us)
            delay_us = round(
                self._rng.uniform(3, 8) * MINUTE_US if panel == "blood_gas" else self._rng.uniform(25, 70) * MINUTE_US
            )
            if panel == "chemistry" and self._rng.random() < 0.3:
                self._plan(at_us + delay_us // 2, lambda later_us: [self._report(stay, specimen, later_us, "P")])
            self._plan(at_us + delay_us, self._reporting(stay, specimen))
            yield from ()

        return take

    def _draw(self, stay: Occupancy, panel: str, at_us: int) -> Specimen:
        eligible = [Fault.MILLIMOLAR_GLUCOSE] if panel == "chemistry" else []
        fault = self.plan.choose(eligible, at_us)
        self._messages += 1
        return draw(panel, f"L{self.seed:X}-{self._run}-{self._messages:06d}", stay.truth(at_us), at_us, fault)

    def _reporting(self, stay: Occupancy, specimen: Specimen) -> Action:
        def tell(at_us: int) -> Iterator[Timed]:
            yield self._report(stay, specimen, at_us, "F")
            fault = self.plan.choose([Fault.CORRECTION, Fault.WITHDRAWAL], at_us)
            if fault:
                place = self._rng.randrange(len(specimen.results))
                change = amended(specimen, place, "C" if fault is Fault.CORRECTION else "D")
                later = at_us + round(self._rng.uniform(5, 40) * MINUTE_US)
                self._plan(min(later, self.end_us - 1), lambda later_us: self._amend(stay, change, fault, later_us))

        return tell

    def _amend(self, stay: Occupancy, change: Specimen, fault: Fault, at_us: int) -> Iterator[Timed]:
        timed = self._report(stay, change, at_us, "F")
        self.plan.note(fault, at_us, LAB, timed.control_id, 0)
        yield timed

    def _report(self, stay: Occupancy, specimen: Specimen, at_us: int, status: str) -> Timed:
        control_id = self._control_id("L")
        made = laboratory_report(specimen, stay.person, stay.visit(), FACILITY, control_id, at_us, status)
        for value in made.values:
            if value.unit == "mmol/L" and value.code == "14749-6" and value.status in {"F", "P"}:
                self.plan.note(Fault.MILLIMOLAR_GLUCOSE, at_us, LAB, control_id, value.value_index)
        return Timed(at_us, LAB, control_id, made.body, stay.medical_record_number, made.values)

    def _history(self, stay: Occupancy, at_us: int) -> Iterator[Timed]:
        """Report what the laboratory already has when the patient arrives."""
        for panel in PANELS:
            taken_us = stay.admitted_at_us + round(self._rng.uniform(0.1, 0.8) * (at_us - stay.admitted_at_us))
            yield self._report(stay, self._draw(stay, panel, taken_us), at_us, "F")
