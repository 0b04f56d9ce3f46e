"""Age bands: the groups by age that bias is judged for.

Here: names and membership from the bands' lower edges.
Not here: the edges (the protocol's), judging (validation.bias, validation.live).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = "unknown"


def band_names(edges: Sequence[int]) -> tuple[str, ...]:
    """Return what the bands are called, youngest first: `18-44`, `45-64`, … `85-`; whoever is younger is `-17`."""
    closed = [f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return (*([f"-{edges[0] - 1}"] if edges[0] > 0 else []), *closed, f"{edges[-1]}-")


def bands_of(age_years: NDArray[np.float64], edges: Sequence[int]) -> NDArray[np.str_]:
    """Return each age's band, `unknown` where it is not a number; shape as given.

    A band begins on the birthday: 64.9 years is 64.
    """
    names = np.asarray((*(() if edges[0] > 0 else ("",)), *band_names(edges), UNKNOWN))
    place = np.searchsorted(np.asarray(edges, np.float64), age_years, side="right")
    return names[np.where(np.isfinite(age_years), place, len(names) - 1)]
