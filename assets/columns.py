"""Column schemas as Dagster shows them: every table's columns with their types and what they mean.

Here: descriptions by name, one house-wide meaning a name, and the schema made of both.
Not here: the tables (stores.lake, assets.cohorts, assets.features).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import dagster as dg

if TYPE_CHECKING:
    import pyarrow as pa

EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "subject_id": "Our number of a patient, or a published record's; never a hospital's number",
        "time": "When it was so (effective time); empty for facts without a time",
        "code": "LOINC where there is one, else Vigil's own word",
        "numeric_value": "The number in single precision, as MEDS demands",
        "value": "The same number exactly, in the concept's canonical unit",
        "unit": "UCUM",
        "available_at": "When it could be known; a feature of anything later is a leak",
        "source": "Feed or published data set",
        "encounter_id": "The stay it belongs to",
        "concept": "Concept.number; empty for what is no measurement",
        "minute": "Whole minutes since the stay's start",
    }
)
COHORT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "subject_id": EVENTS["subject_id"],
        "record_id": "The stay's own number, by whose hash its part is drawn",
        "died": "Whether the stay ended in death in hospital: the label",
        "split": "train or held_out, by hash of the record: a stay is in one part only",
        "sex": "For judging bias; the model does not see it",
        "age_years": "At admission; empty where unknown",
        "icu_type": "Kind of intensive care unit; the model does not see it",
        "saps_i": "SAPS-I of the first day, as published; a baseline",
        "sofa": "SOFA of the first day, as published; a baseline",
        "stay_minutes": "From admission to the stay's end",
    }
)
FEATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "subject_id": EVENTS["subject_id"],
        "through_minute": "The last minute since admission whose values count",
        "available_minute": "When the latest of these values could be known, minutes since admission",
        "split": COHORT["split"],
        "died": COHORT["died"],
    }
)


def schema_of(schema: pa.Schema, descriptions: Mapping[str, str]) -> dg.TableSchema:
    """Return a table's columns for Dagster."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                str(field.type),
                description=descriptions.get(field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )
