"""Who works in the synthetic ward, as its ADT names them.

Here: the attending physicians and whose each stay is; what PV1-16 says of a patient whose stay is to be kept quiet.
Not here: patients (hospital.patients), how XCN is written (hospital.messages). Nobody of them exists.
"""

from __future__ import annotations

from hospital.messages import Practitioner

AUTHORITY = "SYNTH"
PHYSICIANS = (
    Practitioner("P-ADEYEMI", "Adeyemi", "Folake", AUTHORITY),
    Practitioner("P-NOVAK", "Novak", "Pavel", AUTHORITY),
)

VIP = "VIP"
VIP_BED = 1
"""The bed, counted from 0, whose first patient is a VIP: the second of the first ward, whom P-NOVAK attends."""


def attending(number: int) -> Practitioner:
    """Return who attends: every other stay is one's, the rest the other's.

    Args:
        number: the patient's; for a ward's first patients the bed's, so that a demonstration is the same every day.
    """
    return PHYSICIANS[number % len(PHYSICIANS)]
