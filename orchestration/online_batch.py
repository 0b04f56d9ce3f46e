"""Whether what a model said live is what it says of the same files in batch: same model, same minute, bit for bit.

The files are read here by the research decoder (interop.physionet2012); the live scores came over MLLP, the log, the
stores and the twin's memory. Nothing but the model and the feature kernel is common to both ways.

A live estimate was made of what had arrived. Where something charted by then was still on its way (a demonstration's
clock runs thousands of times faster than its network), files cannot know that: such a score is counted apart.

Here: reading the live scores of played stays, scoring the files again, comparing.
Not here: playing them (hospital, as a process), scoring live (twin.risk), judging the model (validation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from interop import physionet2012
from interop.physionet2012 import RecordedStay
from models import stay_series
from models.risk import artefact
from models.risk.artefact import Estimate, RiskModel
from models.stay_features import compute
from stores import clinical, risk_scores, timeseries
from stores import models as model_rows
from stores.database import Connection, consistent_read
from stores.model_files import ModelFiles
from stores.risk_scores import RiskScore
from twin.voice import MODEL_FAILED, SILENCED
from vocabulary.settings import Settings

MINUTE_US = 60_000_000
_END_OF_TIME_US = 4_102_444_800_000_000  # the year 2100, which every column can hold


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What came of comparing."""

    stays: int  # with at least one score compared
    scores: int  # compared
    equal: int  # of these, equal in probability, interval and abstention, bit for bit
    probabilities: int  # of these, an estimate and no abstention
    incomplete: int  # left out: something charted by then arrived later
    hours: int  # different hours of a stay among those compared
    largest_difference: float  # between two probabilities of one score; 0 where all are equal

    @property
    def is_equal(self) -> bool:
        """Return whether there was something to compare, and no difference."""
        return self.scores > 0 and self.equal == self.scores


class _Live(NamedTuple):
    record_id: str
    score: RiskScore
    is_complete: bool


async def compare(connection: Connection, settings: Settings, folder: Path, record_ids: Collection[str]) -> Comparison:
    """Compare the champions' scores of played stays with batch scores of their files.

    Args:
        connection: to the database the stays were played into.
        settings: where models are kept.
        folder: the recording the stays came from.
        record_ids: which stays were played.

    Raises:
        CohortError: the folder holds no recording.
        VigilError: a model that spoke is not kept any more.
    """
    async with consistent_read(connection):
        live = await _live(connection, frozenset(record_ids))
        manifests = {
            digest: found.manifest.encode()
            for digest in sorted({one.score.model_digest for one in live})
            if (found := await model_rows.version_of_digest(connection, digest)) is not None
        }
    compared = [one for one in live if one.is_complete]
    wanted = {one.record_id for one in compared}
    stays = {stay.record_id: stay for stay in physionet2012.read(folder) if stay.record_id in wanted}
    read = ModelFiles(settings.models_dir).get
    models = {digest: artefact.load(body, read) for digest, body in manifests.items()}
    equal, largest = 0, 0.0
    for digest, model in models.items():
        mine = [one for one in compared if one.score.model_digest == digest]
        for one, estimate in zip(mine, _batch(model, mine, stays), strict=True):
            said = (one.score.probability, one.score.low, one.score.high, one.score.abstention)
            equal += said == (estimate.probability, estimate.low, estimate.high, estimate.abstention)
            if one.score.probability is not None and estimate.probability is not None:
                largest = max(largest, abs(one.score.probability - estimate.probability))
    return Comparison(
        stays=len(wanted),
        scores=len(compared),
        equal=equal,
        probabilities=sum(one.score.probability is not None for one in compared),
        incomplete=len(live) - len(compared),
        hours=len({(one.record_id, one.score.through_minute // 60) for one in compared}),
        largest_difference=largest,
    )


def _batch(model: RiskModel, asked: Sequence[_Live], stays: Mapping[str, RecordedStay]) -> list[Estimate]:
    names = sorted({one.record_id for one in asked})
    place = {name: index for index, name in enumerate(names)}
    bins = stay_series.bins_of_records([stays[name] for name in names])
    index = np.array([place[one.record_id] for one in asked], np.int32)
    minutes = np.array([one.score.through_minute for one in asked], np.int32)
    return model.score(compute(model.table, bins, index, minutes), minutes)


async def _live(connection: Connection, record_ids: frozenset[str]) -> list[_Live]:
    """Return the champions' scores of the played stays; those of abstention by order are not the model's."""
    found: list[_Live] = []
    by_patient = defaultdict(list)
    for score in await risk_scores.between(connection, 0, _END_OF_TIME_US):
        if score.abstention not in {SILENCED, MODEL_FAILED}:
            by_patient[score.patient_id].append(score)
    numbers = {
        row.patient_id: row.value
        for row in await clinical.identifiers(connection, sorted(by_patient))
        if row.value in record_ids
    }
    for patient_id, record_id in sorted(numbers.items()):
        stay = (await clinical.encounters(connection, [patient_id]))[-1]
        start_us = stay.started_at_us // MINUTE_US * MINUTE_US
        samples = await timeseries.columns_between(connection, [patient_id], None, start_us, _END_OF_TIME_US)
        minutes = (samples.effective_at_us - start_us) // MINUTE_US
        for score in by_patient[patient_id]:
            charted = samples.position[minutes <= score.through_minute]
            is_complete = not len(charted) or int(charted.max()) <= score.position
            found.append(_Live(record_id, score, is_complete))
    return found
