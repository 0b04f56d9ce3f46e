"""What the watch judges a model in service by: its last weeks' stays, its last day's alerts, the newest inputs.

Here: choosing windows by the protocol and putting a `LiveTable` together.
Not here: SQL (stores.watching), the judgement (validation.live), what follows from it (twin.watch).

Evidence begins anew where somebody let the model speak again: what it said under earlier serving rows was judged, and a
person who resumed it knew of that. An input, too, counts only from then on. Under a clamp alerts count as if there
were none, from the clamp on: whether it would flood still is what the next step is decided by.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stores import watching
from stores.database import Connection
from stores.watching import EndedStay, Said
from twin.alerts import Rule, onset_rows
from validation.live import LiveTable, Reference
from validation.model_protocol import ModelProtocol
from vocabulary.concepts import by_key

AGE: Final = "age"
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
DAYS_A_YEAR: Final = 365.2425
SPEAKS_EVERY_US: Final = 15 * 60_000_000
"""A score is kept each quarter of an hour of a stay, so the last of a run speaks for that long."""
PRESENT_US: Final = 4 * SPEAKS_EVERY_US
"""A patient whose risk was asked this lately is there: inputs of those who left would only hide what changed."""
LONGEST_GAP_US: Final = 2 * SPEAKS_EVERY_US
"""Between two scores farther apart nobody was watched: the engine stood still, or the model abstained."""


class Watched(NamedTuple):
    """A champion in force, as far as the watch must know it."""

    scope: str
    version: int
    model_digest: str
    serving_id: int  # of the row it stands under: the one below, or a clamp of it
    spoke_anew_id: int  # of the newest row that let it speak: promote, restore or resume
    is_resumed: bool  # that row is a resume: a person let it speak again
    references: Mapping[str, Reference]


async def gather(
    connection: Connection, watched: Watched, protocol: ModelProtocol, now_us: int, *, is_deep: bool = True
) -> LiveTable:
    """Return what happened lately.

    Args:
        connection: inside a transaction that sees one moment.
        watched: the model.
        protocol: gives the windows.
        now_us: the log's clock.
        is_deep: look into signal blocks too, for inputs that are nowhere else: a walk a patient.
    """
    live = protocol.live
    days = max(live.calibration.window_days, live.subgroup.window_days)
    ended = await watching.ended_stays(
        connection,
        watched.model_digest,
        now_us - days * DAY_US,
        serving_from=watched.spoke_anew_id,
        age_concept=by_key(AGE).number,
    )
    alerts_since = now_us - round(live.alerts.window_hours * HOUR_US)
    said = await watching.said(connection, watched.model_digest, alerts_since, serving_from=watched.serving_id)
    first_us = await watching.first_said_at(connection, watched.model_digest, watched.spoke_anew_id)
    inputs_since = now_us - round(live.inputs.window_hours * HOUR_US)
    inputs: Mapping[str, NDArray[np.float64]] = {}
    if first_us is not None:
        since = max(inputs_since, first_us) if watched.is_resumed else inputs_since
        numbers = {by_key(key).number: key for key in watched.references}
        near = [number for number in sorted(numbers) if not watching.is_only_in_blocks(number)]
        newest = dict(await watching.newest_inputs(connection, near, now_us - PRESENT_US, since, now_us + 1))
        if is_deep and (far := sorted(numbers.keys() - set(near))):
            newest |= await watching.newest_signals(connection, far, now_us - PRESENT_US, since, now_us + 1)
        inputs = {numbers[number]: values for number, values in newest.items()}
    alerts, patient_days, patients = attention(Rule.of(protocol), said)
    return LiveTable(
        probability=np.array([stay.probability for stay in ended], np.float64),
        died=np.array([stay.died for stay in ended], np.bool_),
        sex=[stay.sex if stay.sex in {"female", "male"} else "" for stay in ended],
        age_years=np.array([age_of(stay) for stay in ended], np.float64),
        alerts=alerts,
        patient_days=patient_days,
        patients=patients,
        inputs=inputs,
        references=watched.references,
    )


def attention(rule: Rule, said: Said) -> tuple[int, float, int]:
    """Return how many alerts what was said raises, the days it spoke about somebody, and about how many.

    Args:
        rule: when attention is raised.
        said: of each stay in order of time.
    """
    spoken = ~np.isnan(said.probability)
    stay, minute, at_us = said.encounter_id[spoken], said.through_minute[spoken], said.at_us[spoken]
    if not len(stay):
        return 0, 0.0, 0
    alerts = int(onset_rows(rule, stay, minute, said.probability[spoken]).sum())
    order = np.lexsort((at_us, stay))
    stay, at_us = stay[order], at_us[order]
    is_last = np.append(stay[1:] != stay[:-1], True)
    lasts = np.append(np.diff(at_us), 0)
    spans = np.where(is_last | (lasts > LONGEST_GAP_US), SPEAKS_EVERY_US, lasts)
    return alerts, float(spans.sum()) / DAY_US, int(is_last.sum())


def age_of(stay: EndedStay) -> float:
    """Return the patient's age at admission in years: by the date of birth, else as charted, else NaN."""
    if len(stay.birth_date) >= 4:
        try:
            year, month, day = (*map(int, stay.birth_date.split("-")), 7, 1)[:3]  # a year alone: its middle
            born = date(year, month, day)
        except ValueError:
            return np.nan
        days = stay.started_at_us / DAY_US - (born - date(1970, 1, 1)).days
        return max(0.0, days / DAYS_A_YEAR)
    return np.nan if stay.age_years is None else stay.age_years
