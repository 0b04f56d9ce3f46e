"""Concepts: the look-ups every room uses.

Here: `CONCEPTS`, and look-ups by number, key, LOINC and IEEE 11073-10101 code; the table's version.
Not here: the rows (vocabulary.concept_table, vocabulary.concept_table_laboratory), units of messages
(interop.terminology), scoring bands (validation.protocols).
"""

from __future__ import annotations

from types import MappingProxyType

from vocabulary.concept_table import FLUIDS, HAEMODYNAMICS, NEUROLOGICAL, PERSON, VENTILATION, VITALS, Concept
from vocabulary.concept_table_laboratory import CHEMISTRY, GASES, HAEMATOLOGY

__all__ = ["CONCEPTS", "TERMINOLOGY_VERSION", "Concept", "by_key", "by_loinc", "by_mdc", "by_number"]

TERMINOLOGY_VERSION = "vigil-concepts@1"
"""Part of every snapshot's provenance. A test pins the table's digest: whoever changes a row raises this."""

CONCEPTS: tuple[Concept, ...] = (
    *VITALS,
    *HAEMODYNAMICS,
    *VENTILATION,
    *NEUROLOGICAL,
    *GASES,
    *CHEMISTRY,
    *HAEMATOLOGY,
    *FLUIDS,
    *PERSON,
)
"""Every concept, by rising number."""

_BY_NUMBER = MappingProxyType({concept.number: concept for concept in CONCEPTS})
_BY_KEY = MappingProxyType({concept.key: concept for concept in CONCEPTS})
_BY_LOINC = MappingProxyType({code: concept for concept in CONCEPTS for code in concept.loinc_codes})
_BY_MDC = MappingProxyType({code: concept for concept in CONCEPTS for code in concept.mdc})


def by_number(number: int) -> Concept:
    """Return the concept with this number.

    Raises:
        KeyError: no concept has it; numbers are never taken away, so the table is older than the data.
    """
    return _BY_NUMBER[number]


def by_key(key: str) -> Concept:
    """Return the concept with this key, e.g. `heart_rate`.

    Raises:
        KeyError: no concept has it.
    """
    return _BY_KEY[key]


def by_loinc(code: str) -> Concept | None:
    """Return the concept a LOINC code means, or None."""
    return _BY_LOINC.get(code)


def by_mdc(code: int) -> Concept | None:
    """Return the concept an IEEE 11073-10101 context-free code means, or None."""
    return _BY_MDC.get(code)
