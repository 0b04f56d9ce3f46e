"""Signals for scoring, and the protocols as they are shipped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from validation import protocols
from vocabulary import concepts
from vocabulary.protocol import Protocol
from vocabulary.snapshot import SignalState


@pytest.fixture(scope="session")
def shipped() -> dict[str, Protocol]:
    return protocols.load_all()


@pytest.fixture(scope="session")
def signals() -> Callable[..., dict[str, SignalState]]:
    """Make signals by concept key: a number, a text, or a tuple of either with its time in seconds; None is stale."""

    def make(**given: object) -> dict[str, SignalState]:
        made = {}
        for key, said in given.items():
            value, at_s = said if isinstance(said, tuple) else (said, 0)
            made[key] = SignalState(
                concept=key,
                value=float(value) if isinstance(value, int | float) else (1.0 if value is None else None),
                unit=concepts.by_key(key).unit,
                effective_at_us=at_s * 1_000_000,
                received_at_us=0,
                is_stale=value is None,
                text=value if isinstance(value, str) else "",
            )
        return made

    return make
