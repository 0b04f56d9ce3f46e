"""Every aggregate score there is a protocol for, in one fixed order.

Here: which module scores which protocol.
Not here: reading protocols (validation.protocols), the scores themselves (their modules).
"""

from __future__ import annotations

from collections.abc import Mapping

from models.risk import news2, qsofa, shock_index, sirs
from models.risk.inputs import Signals
from vocabulary.protocol import Protocol
from vocabulary.snapshot import Score


def scores(protocols: Mapping[str, Protocol], signals: Signals, *, uses_scale_2: bool = False) -> list[Score]:
    """Return NEWS2, qSOFA, SIRS and the shock index, those whose protocol is given.

    Args:
        protocols: by name, e.g. from validation.protocols.load_all.
        signals: the patient's, by concept key.
        uses_scale_2: whether NEWS2 judges saturation by its scale 2.
    """
    found: list[Score] = []
    if news2.NAME in protocols:
        found.append(news2.score(protocols[news2.NAME], signals, uses_scale_2=uses_scale_2))
    found.extend(
        module.score(protocols[module.NAME], signals)
        for module in (qsofa, sirs, shock_index)
        if module.NAME in protocols
    )
    return found
