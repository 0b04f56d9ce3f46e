"""Randomness by name: every source of chance in the hospital is a generator of its own, made from one seed.

Here: `named`, the one place generators are made, so that adding a draw in one room never changes another's.
Not here: any distribution (they live where they are drawn).
"""

from __future__ import annotations

import random


def named(seed: int, *names: object) -> random.Random:
    """Return the generator of that name under that seed: the same on every machine and Python version."""
    return random.Random("/".join(str(part) for part in (seed, *names)))  # noqa: S311  not for secrets
