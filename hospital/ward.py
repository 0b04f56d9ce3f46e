"""A synthetic ward: its beds, and every message its systems would send, in order of time.

Here: the layout of the ward and the door to its days.
Not here: what happens in them (hospital.timetable), sending (hospital.play).
The same arguments give the same bytes. What went wrong on the way is in `plan.injected`; what was said is in each
`Timed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hospital.chance import named
from hospital.faults import Fault, FaultPlan
from hospital.messages import Bed
from hospital.occupancy import HOUR_US, Occupancy
from hospital.outgoing import Timed
from hospital.timetable import FACILITY, Timetable

WARDS = ("ICU-A", "MED-3", "ICU-B", "SUR-2", "MED-4", "STEP-1")
BEDS_A_WARD = 8


class Ward:
    """A ward of `beds` beds whose whole future follows from `seed`."""

    def __init__(
        self,
        beds: int,
        seed: int,
        *,
        sample_interval_s: float = 60.0,
        fault_intensity: float = 1.0,
        faults: Iterable[Fault] | None = None,
        occupancy: float = 0.85,
    ) -> None:
        """Lay out the ward.

        Args:
            beds: how many beds, spread over wards of eight.
            seed: of everything.
            sample_interval_s: how often a monitor sends.
            fault_intensity: multiplies the rates of faults; 0 for none.
            faults: which faults may happen; None for all.
            occupancy: share of beds taken at the start.
        """
        if beds < 1:
            raise ValueError(f"a ward needs at least one bed, found {beds}")
        self.seed = seed
        self._sample_interval_us = round(sample_interval_s * 1_000_000)
        self._fault_intensity = fault_intensity
        self._faults = None if faults is None else tuple(faults)
        self._occupancy = occupancy
        self.beds = [_bed(number) for number in range(beds)]
        self.plan = FaultPlan(named(seed, "faults"), 0, 0.0, intensity=0)
        self.occupancies: list[Occupancy] = []

    def messages(self, start_us: int, hours: float) -> Iterator[Timed]:
        """Return every message of a run in order of sending. Asking again gives the same messages again.

        Args:
            start_us: first moment, microseconds since the epoch.
            hours: length of the run; whatever the network still holds then is sent at its end.
        """
        self.plan = FaultPlan(
            named(self.seed, "faults"), start_us, hours, intensity=self._fault_intensity, only=self._faults
        )
        timetable = Timetable(
            self.seed,
            self.beds,
            self.taken_at_start(),
            self.plan,
            start_us=start_us,
            end_us=start_us + round(hours * HOUR_US),
            sample_interval_us=self._sample_interval_us,
        )
        self.occupancies = timetable.occupancies
        return iter(timetable)

    def taken_at_start(self) -> int:
        """Return how many beds have a patient at the start: at least one, and of four or more not all."""
        most = len(self.beds) - 1 if len(self.beds) >= 4 else len(self.beds)
        return max(1, min(most, round(len(self.beds) * self._occupancy)))


def _bed(number: int) -> Bed:
    ward, bed = divmod(number, BEDS_A_WARD)
    storey = "" if ward < len(WARDS) else f"-{ward // len(WARDS) + 1}"
    return Bed(WARDS[ward % len(WARDS)] + storey, f"{bed + 1:02d}", "1", FACILITY)
