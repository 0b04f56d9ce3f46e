"""The shock index: heart rate over systolic pressure.

Here: the ratio, of two values fresh at once, and the protocol's word for it.
Not here: its levels (validation/protocols/shock_index.toml).
Source: Allgower and Burri 1967; Rady et al. 1994, Ann Emerg Med 24:685.
"""

from __future__ import annotations

from models.risk import banded
from models.risk.inputs import Signals, measured
from vocabulary.protocol import Protocol
from vocabulary.snapshot import Score

NAME = "shock_index"
DECIMALS = 2
"""Of the ratio; it is rounded before it is compared with the levels, so that what is shown is what was judged."""


def score(protocol: Protocol, signals: Signals) -> Score:
    """Return the shock index of a patient's signals, by concept key in canonical units.

    There is no index of one value alone, nor over a pressure of zero: the total is then None.
    """
    parts: dict[str, int | float] = {}
    missing: list[str] = []
    for component in protocol.components:
        criterion = component.criteria[0]
        found = measured(criterion.input, signals)
        if found is None or found.unit != criterion.unit:
            missing.append(component.name)
        else:
            parts[component.name] = banded.rounded(found.value, criterion.decimals)
    over, under = (parts.get(component.name) for component in protocol.components)
    total = None if over is None or not under else banded.rounded(over / under, DECIMALS)
    word = "" if total is None else banded.level_of(protocol, total, ()).word
    return Score(
        name=protocol.title,
        protocol=protocol.label,
        total=total,
        parts=parts,
        missing=missing,
        coverage=len(parts) / len(protocol.components),
        band=word,
        statement=f"{protocol.title} cannot be said of one value." if total is None else f"{protocol.title} {word}.",
    )
