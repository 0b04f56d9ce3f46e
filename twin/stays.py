"""What an admission, a transfer or a discharge does to a patient's stays: pure rules, told in any order.

Here: a stay as its facts (start, end, placements), the table of movements, what is impossible.
Not here: who has a bed when two claim it (twin.beds), who cares for the patient (twin.care), whether it
ended in death (twin.endings), who the patient is (twin.directory), rows and their knowledge times (twin.book).
Source: HL7 v2.6 chapter 3 (A01 A02 A03 A04 A08 A11 A13); HL7 FHIR R4 Encounter.location.

The rules, since senders disagree with each other and with the order of events:
- A stay is found by its visit number; a stay told of without one takes the first number that arrives. Without a number
  the open stay is meant, for a discharge the latest begun before it.
- A transfer, discharge or update of a stay nobody told us of opens it (A02, A03, A08 before A01), from PV1-44 where
  sent. The A01 that follows sets its start and first bed. An update opens a stay only if it names a visit and a bed; a
  discharge only if a visit number or PV1-44 says which stay it ends.
- A second A01 of the same stay corrects its start and first bed (after its discharge it opens a new stay, since some
  hospitals use one visit number for all). One of another stay ends the stay begun before it and
  still open, at its own start; told late, it is itself ended where the next stay starts. Outpatient classes
  neither end nor are ended.
- A second A03 corrects the time of discharge. A11 takes a stay back; A13 opens the discharged one again.
- Impossible, so refused: a transfer before a known admission or after the discharge, a discharge before the admission
  or before a known transfer, cancelling what is not there, reopening while a later stay is open. Times that differ by
  less than a minute are not impossible: they are clocks, and are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from twin.care import Assignment, CareTold, Vip, with_care, with_start, with_vip, within
from twin.endings import EndingTold, outcome_after
from vocabulary.records import DischargeOutcome, Movement, Place, Reason, Rejected

CLOCK_TOLERANCE_US = 60_000_000
"""Clocks of ADT senders and of devices differ, and PV1-44/45 often carry only minutes."""

UNBEDDED_CLASSES = frozenset({"O", "P", "R"})
"""PV1-2 of stays beside an inpatient's own: outpatient, preadmit, recurring. They end no other stay."""

NOWHERE = Place()


class Placement(NamedTuple):
    """From when a stay was where, and which kind of message said so."""

    from_us: int
    place: Place
    placed_by: str  # admit, transfer, update


class Stay(msgspec.Struct, frozen=True):
    """One stay as its facts; its places over time follow from them."""

    encounter_id: int
    patient_id: int
    visit_number: str
    patient_class: str
    status: str  # in-progress, finished, cancelled
    started_at_us: int
    ended_at_us: int | None
    placements: tuple[Placement, ...]
    care: tuple[Assignment, ...] = ()
    vip: Vip | None = None
    outcome: DischargeOutcome = DischargeOutcome.UNKNOWN

    @property
    def is_open(self) -> bool:
        """Return whether the patient is still there."""
        return self.status == "in-progress"

    @property
    def is_bedded(self) -> bool:
        """Return whether the class is one that occupies a bed."""
        return self.patient_class not in UNBEDDED_CLASSES

    @property
    def place(self) -> Place:
        """Return the last place known."""
        return self.placements[-1].place if self.placements else NOWHERE

    @property
    def is_start_provisional(self) -> bool:
        """Return whether the start is only that of a transfer or discharge told before its admission."""
        if not self.placements:
            return self.started_at_us == self.ended_at_us
        return self.placements[0][::2] == (self.started_at_us, "transfer")

    def place_at(self, at_us: int) -> Place:
        """Return where the patient was at a time, by what is known."""
        found = NOWHERE
        for placement in self.placements:
            if placement.from_us > at_us:
                break
            found = placement.place
        return found

    def spans(self) -> list[tuple[Placement, int | None]]:
        """Return each placement with when it ended; None while it lasts."""
        ends = [*(placement.from_us for placement in self.placements[1:]), self.ended_at_us]
        return list(zip(self.placements, ends, strict=True)) if self.placements else []


class Told(NamedTuple):
    """What an ADT message says about a stay."""

    movement: Movement
    at_us: int
    visit_number: str
    patient_class: str
    place: Place
    prior_place: Place
    admitted_at_us: int | None
    discharged_at_us: int | None
    care: CareTold = CareTold()
    ending: EndingTold = EndingTold()


class Step(NamedTuple):
    """One stay after the message, and what happened to it."""

    movement: Movement
    at_us: int
    stay: Stay


def plan(stays: Sequence[Stay], told: Told, patient_id: int, encounter_id: int) -> list[Step] | Rejected:
    """Return the stays a message changes, in order; empty when it says nothing about a stay.

    Args:
        stays: all of the patient's, in any order.
        told: the message.
        patient_id: whose a stay opened now is.
        encounter_id: the number it takes.
    """
    known = sorted((s for s in stays if s.status != "cancelled"), key=lambda s: (s.started_at_us, s.encounter_id))
    blank = Stay(encounter_id, patient_id, told.visit_number, told.patient_class, "in-progress", told.at_us, None, ())
    steps = _RULES[told.movement](known, told, blank)
    if isinstance(steps, Rejected):
        return steps
    meant = next((step.stay.encounter_id for step in steps if step.movement is told.movement), None)
    before = next((stay for stay in known if stay.encounter_id == meant), None)
    return [
        _ended_as_told(_cared_for(step, told, before), told) if step.stay.encounter_id == meant else _tidied(step)
        for step in steps
    ]


def _ended_as_told(step: Step, told: Told) -> Step:
    """Add to the stay that a message means what it says of how it ended."""
    stay = step.stay
    outcome = outcome_after(stay.outcome, told.ending, told.movement, told.at_us, stay.started_at_us, stay.ended_at_us)
    return step if outcome is stay.outcome else step._replace(stay=_kept(stay, outcome=outcome))


def _cared_for(step: Step, told: Told, before: Stay | None) -> Step:
    """Add to the stay that a message means what it says of care."""
    stay = step.stay
    care, at_us = stay.care, max(told.at_us, stay.started_at_us)
    if before is None:
        at_us = stay.started_at_us  # what opens a stay says who cares from its start, as its place does
    elif not before.is_start_provisional:
        care = with_start(care, before.started_at_us, stay.started_at_us)
    care, vip = with_care(care, told.care, at_us), with_vip(stay.vip, told.care, told.at_us)
    return _tidied(step._replace(stay=_kept(stay, care=care, vip=vip)))


def _tidied(step: Step) -> Step:
    """Leave out places and care that lasted no time, or of a stay that never was."""
    stay = _settled(step.stay)
    care = () if stay.status == "cancelled" else within(stay.care, stay.started_at_us, stay.ended_at_us)
    return step._replace(stay=stay if care == stay.care else _kept(stay, care=care))


def _settled(stay: Stay) -> Stay:
    """Leave out placements that lasted no time: nobody was there."""
    ended = stay.ended_at_us
    if ended is None or all(placement.from_us < ended for placement in stay.placements):
        return stay
    return _kept(stay, placements=tuple(placement for placement in stay.placements if placement.from_us < ended))


def _admit(known: list[Stay], told: Told, blank: Stay) -> list[Step] | Rejected:
    stay = _numbered(known, told)
    if stay is not None and stay.ended_at_us is not None and told.at_us - stay.ended_at_us > CLOCK_TOLERANCE_US:
        stay = None
    elif stay is None:
        candidates = [s for s in reversed(known) if _adopts(s, told) and s.is_bedded == blank.is_bedded]
        stay = next((s for s in candidates if _is_its_admission(s, told.at_us)), None)
    if stay is None:
        return _opened(known, blank, Movement.ADMIT, _placed(told.at_us, told.place, "admit"), told)
    moved = _readmitted(stay, told)
    return moved if isinstance(moved, Rejected) else [Step(Movement.ADMIT, told.at_us, moved)]


def _is_its_admission(stay: Stay, at_us: int) -> bool:
    return abs(at_us - stay.started_at_us) <= CLOCK_TOLERANCE_US or (
        stay.is_start_provisional and at_us <= stay.started_at_us
    )


def _readmitted(stay: Stay, told: Told) -> Stay | Rejected:
    """Correct a stay's start and first place."""
    at_us, rest = told.at_us, stay.placements
    first = rest[0] if rest else None
    if first is not None and first.placed_by != "transfer":
        rest = rest[1:]
    limit = rest[0].from_us if rest else stay.ended_at_us
    if limit is not None and at_us > limit:
        if at_us - limit > CLOCK_TOLERANCE_US:
            return _impossible("PV1-44", "an admission before the stay's known movements")
        at_us = limit
    place = told.place if told.place != NOWHERE else (first.place if first and rest != stay.placements else NOWHERE)
    if rest and rest[0].from_us == at_us:  # admitted and moved in one moment: the later place holds
        start: tuple[Placement, ...] = (rest[0]._replace(placed_by="admit"),)
        rest = rest[1:]
    else:
        start = _placed(at_us, place, "admit")
    return _kept(_named(stay, told), started_at_us=at_us, placements=(*start, *rest))


def _transfer(known: list[Stay], told: Told, blank: Stay) -> list[Step] | Rejected:
    if told.place == NOWHERE:
        return Rejected(Reason.IDENTITY_CONFLICT, "PV1-3", "the place of the transfer", "none")
    stay = _meant(known, told)
    if stay is None:
        admitted = told.admitted_at_us
        if admitted is None or admitted >= told.at_us:
            return _opened(known, blank, Movement.TRANSFER, _placed(told.at_us, told.place, "transfer"), told)
        placements = (*_placed(admitted, told.prior_place, "admit"), Placement(told.at_us, told.place, "transfer"))
        return _opened(known, blank, Movement.TRANSFER, placements, told, started_at_us=admitted)
    at_us, started = told.at_us, stay.started_at_us
    if stay.ended_at_us is not None and at_us > stay.ended_at_us:
        return _impossible("EVN-6", "a transfer before the stay's discharge")
    if at_us < started:
        if stay.is_start_provisional:
            started = at_us
        elif started - at_us <= CLOCK_TOLERANCE_US:
            at_us = started
        else:
            return _impossible("EVN-6", "a transfer after the stay's admission")
    placements = _with(stay.placements, Placement(at_us, told.place, "transfer"))
    return [
        Step(Movement.TRANSFER, at_us, _kept(_named(stay, told), started_at_us=started, placements=placements)),
    ]


def _discharge(known: list[Stay], told: Told, blank: Stay) -> list[Step] | Rejected:
    stay = _numbered(known, told)
    if stay is None:
        begun = [s for s in known if _adopts(s, told) and s.started_at_us - told.at_us <= CLOCK_TOLERANCE_US]
        stay = next((s for s in reversed(begun) if s.is_open), None)
        if stay is None and not told.visit_number and begun:
            stay = begun[-1]
    if stay is not None:
        ended = _ended(_named(stay, told), told.at_us)
        return ended if isinstance(ended, Rejected) else [Step(Movement.DISCHARGE, ended.ended_at_us or 0, ended)]
    if not told.visit_number and told.admitted_at_us is None:
        return _impossible("PV1-19", "a stay that this discharge can end")
    started = min(told.at_us, told.admitted_at_us if told.admitted_at_us is not None else told.at_us)
    placements = _placed(started, told.place, "update") if started < told.at_us else ()
    whole = _kept(blank, status="finished", started_at_us=started, ended_at_us=told.at_us, placements=placements)
    return [Step(Movement.DISCHARGE, told.at_us, whole)]


def _update(known: list[Stay], told: Told, blank: Stay) -> list[Step] | Rejected:
    stay = _meant(known, told)
    if stay is None:
        if not told.visit_number or told.place == NOWHERE or not blank.is_bedded:
            return []
        started = told.admitted_at_us if told.admitted_at_us is not None else told.at_us
        steps = _opened(known, blank, Movement.UPDATE, _placed(started, told.place, "update"), told, started)
        if isinstance(steps, list) and told.discharged_at_us is not None:
            ended = _ended(steps[-1].stay, told.discharged_at_us)
            return ended if isinstance(ended, Rejected) else [*steps[:-1], steps[-1]._replace(stay=ended)]
        return steps
    stay = _named(stay, told)
    if told.admitted_at_us is not None and told.admitted_at_us != stay.started_at_us:
        first = stay.placements[0].place if stay.placements else NOWHERE
        if not stay.is_start_provisional or told.admitted_at_us < stay.started_at_us:
            place = NOWHERE if stay.is_start_provisional else first
            corrected = _readmitted(stay, told._replace(at_us=told.admitted_at_us, place=place))
            if isinstance(corrected, Rejected):
                return corrected
            stay = corrected
    is_within = stay.started_at_us <= told.at_us and (stay.ended_at_us is None or told.at_us < stay.ended_at_us)
    if told.place != NOWHERE and is_within:
        stay = _kept(stay, placements=_with(stay.placements, Placement(told.at_us, told.place, "update")))
    return [Step(Movement.UPDATE, told.at_us, stay)]


def _cancel_admit(known: list[Stay], told: Told, _blank: Stay) -> list[Step] | Rejected:
    stay = _meant(known, told)
    if stay is None or not stay.is_open:
        return _impossible("PV1-19", "an open stay whose admission can be cancelled")
    gone = _kept(stay, status="cancelled", ended_at_us=None, placements=())
    return [Step(Movement.CANCEL_ADMIT, told.at_us, gone)]


def _cancel_discharge(known: list[Stay], told: Told, _blank: Stay) -> list[Step] | Rejected:
    stay = _numbered(known, told)
    if stay is None:
        stay = next((s for s in reversed(known) if _adopts(s, told) and not s.is_open), None)
    if stay is None or stay.is_open:
        return _impossible("PV1-19", "a discharged stay")
    later = [s for s in known if s.is_open and s.is_bedded and s.started_at_us >= stay.started_at_us]
    if later and stay.is_bedded:
        return _impossible("PV1-19", "no later stay open")
    placements = stay.placements
    if told.place != NOWHERE and told.at_us >= stay.started_at_us:
        placements = _with(placements, Placement(told.at_us, told.place, "update"))
    back = _kept(_named(stay, told), status="in-progress", ended_at_us=None, placements=placements)
    return [Step(Movement.CANCEL_DISCHARGE, told.at_us, back)]


def _opened(
    known: list[Stay],
    blank: Stay,
    movement: Movement,
    placements: tuple[Placement, ...],
    told: Told,
    started_at_us: int | None = None,
) -> list[Step] | Rejected:
    """Open a stay, ending the one before it or itself where the next one starts."""
    started = told.at_us if started_at_us is None else started_at_us
    stay = _kept(blank, started_at_us=started, placements=placements)
    steps: list[Step] = []
    if stay.is_bedded:
        for other in known:
            if other.is_open and other.is_bedded and other.started_at_us <= started:
                ended = _ended(other, started)
                if isinstance(ended, Rejected):
                    return ended
                steps.append(Step(Movement.DISCHARGE, ended.ended_at_us or 0, ended))
        following = next((s for s in known if s.is_bedded and s.started_at_us > started), None)
        if following is not None:
            ended = _ended(stay, following.started_at_us)
            if isinstance(ended, Rejected):
                return ended
            return [*steps, Step(movement, told.at_us, stay), Step(Movement.DISCHARGE, ended.ended_at_us or 0, ended)]
    return [*steps, Step(movement, told.at_us, stay)]


def _ended(stay: Stay, at_us: int) -> Stay | Rejected:
    last = stay.placements[-1].from_us if stay.placements else stay.started_at_us
    latest = max(last, stay.started_at_us)
    if at_us < latest:
        if latest - at_us > CLOCK_TOLERANCE_US:
            return _impossible("PV1-45", "a discharge after the stay's known movements")
        at_us = latest
    return _settled(_kept(stay, status="finished", ended_at_us=at_us))


def _numbered(known: list[Stay], told: Told) -> Stay | None:
    if not told.visit_number:
        return None
    return next((s for s in reversed(known) if s.visit_number == told.visit_number), None)


def _adopts(stay: Stay, told: Told) -> bool:
    """Whether a message without this stay's number may still mean it."""
    return not told.visit_number or (stay.is_open and not stay.visit_number)


def _meant(known: list[Stay], told: Told) -> Stay | None:
    """Return the stay with the message's number; else an open one; else, unnumbered, the one around its time."""
    stay = _numbered(known, told)
    if stay is not None:
        return stay
    candidates = [s for s in reversed(known) if _adopts(s, told)]
    open_ones = [s for s in candidates if s.is_open]
    for stay in (*(s for s in open_ones if s.is_bedded), *open_ones):
        return stay
    for stay in candidates:
        if stay.started_at_us <= told.at_us <= (stay.ended_at_us or 0):
            return stay
    return None


def _named(stay: Stay, told: Told) -> Stay:
    return _kept(
        stay,
        visit_number=stay.visit_number or told.visit_number,
        patient_class=told.patient_class or stay.patient_class,
    )


def _kept(stay: Stay, **changes: object) -> Stay:
    return msgspec.structs.replace(stay, **changes)


def _placed(from_us: int, place: Place, placed_by: str) -> tuple[Placement, ...]:
    return () if place == NOWHERE else (Placement(from_us, place, placed_by),)


def _with(placements: tuple[Placement, ...], new: Placement) -> tuple[Placement, ...]:
    """Add a placement in its order; one of the same moment is replaced, one that changes nothing is left out."""
    before = [placement for placement in placements if placement.from_us < new.from_us]
    after = [placement for placement in placements if placement.from_us > new.from_us]
    replaced = len(before) + len(after) < len(placements)
    in_force = next((p.place for p in reversed(placements) if p.from_us <= new.from_us), None)
    if in_force == new.place:
        return placements
    if replaced and new.from_us == placements[0].from_us:
        new = new._replace(placed_by="admit" if placements[0].placed_by != "transfer" else new.placed_by)
    return (*before, new, *after)


def _impossible(where: str, expected: str) -> Rejected:
    return Rejected(Reason.IDENTITY_CONFLICT, where, expected, "a movement that contradicts what is known")


_RULES: Mapping[Movement, Callable[[list[Stay], Told, Stay], list[Step] | Rejected]] = MappingProxyType(
    {
        Movement.ADMIT: _admit,
        Movement.TRANSFER: _transfer,
        Movement.DISCHARGE: _discharge,
        Movement.UPDATE: _update,
        Movement.CANCEL_ADMIT: _cancel_admit,
        Movement.CANCEL_DISCHARGE: _cancel_discharge,
    }
)
