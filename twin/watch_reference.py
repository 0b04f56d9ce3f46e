"""The training reference of a model's inputs, as the live judgement takes it, from the model's manifest.

Here: the manifest's references by concept, checked to be distributions of known concepts.
Not here: the manifest's shape (models.risk.manifest), the model itself (the watch needs no trees), comparing values
(validation.live).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from models.risk import manifest
from validation.live import Reference
from vocabulary.concepts import by_key
from vocabulary.errors import ConfigurationError


def references_of(body: bytes) -> Mapping[str, Reference]:
    """Return the reference distribution of each input concept, by its key.

    Args:
        body: the manifest's bytes.

    Raises:
        ConfigurationError: no manifest of ours, one without any reference, or a reference that is no distribution of a
            known concept.
    """
    found = manifest.from_bytes(body).references
    if not found:
        raise ConfigurationError(
            "A model's manifest has no reference quantiles of its inputs: without them nobody can tell a change of "
            "unit from illness. Train and register the model again."
        )
    return {one.concept: _checked(one.concept, Reference(one.levels, one.values)) for one in found}


def _checked(key: str, reference: Reference) -> Reference:
    try:
        by_key(key)
    except KeyError:
        raise ConfigurationError(f"A model's manifest has a reference for {key!r}, which is no concept.") from None
    levels, values = reference.levels, reference.values
    is_rising = all(0 <= low < high <= 1 for low, high in pairwise(levels)) and all(
        low <= high for low, high in pairwise(values)
    )
    if len(levels) < 2 or len(levels) != len(values) or not is_rising or not all(map(math.isfinite, values)):
        raise ConfigurationError(f"A model's manifest has a reference for {key} that is no rising row of quantiles.")
    return reference
