"""How often something is charted says little about a patient: a monitor each minute must not look like another one."""

import numpy as np
import pytest

from models import stay_features
from models.stay_series import Bins, bins_of_columns
from vocabulary import concepts

MONITORED = ("heart_rate", "respiratory_rate")


def monitored(bins: Bins) -> Bins:
    """Return the same stays as a monitor would have sent them: each charted value again every minute for 54 min."""
    again = np.isin(bins.concept, [concepts.by_key(key).number for key in MONITORED])
    minutes = range(1, 55)
    return bins_of_columns(
        np.concatenate([bins.concept, *(bins.concept[again] for _ in minutes)]),
        np.concatenate([bins.stay, *(bins.stay[again] for _ in minutes)]),
        np.concatenate([bins.minute, *(bins.minute[again] + minute for minute in minutes)]),
        np.concatenate([bins.median, *(bins.median[again] for _ in minutes)]).astype(np.float64),
        bins.stays,
    )


PANEL = ("potassium", "sodium", "creatinine", "urea_nitrogen", "glucose", "bicarbonate", "leukocytes", "platelets")


def drawn_each_hour(bins: Bins, hours: int) -> Bins:
    """Return the same stays as a house would chart them that draws a panel each hour: the same values, more often."""
    again = np.isin(bins.concept, [concepts.by_key(key).number for key in PANEL])
    first = np.unique(np.stack([bins.concept[again], bins.stay[again]]), axis=1, return_index=True)[1]
    chosen = np.flatnonzero(again)[first]
    later = range(1, hours)
    return bins_of_columns(
        np.concatenate([bins.concept, *(bins.concept[chosen] for _ in later)]),
        np.concatenate([bins.stay, *(bins.stay[chosen] for _ in later)]),
        np.concatenate([bins.minute, *(bins.minute[chosen] + 60 * hour for hour in later)]),
        np.concatenate([bins.median, *(bins.median[chosen] for _ in later)]).astype(np.float64),
        bins.stays,
    )


@pytest.mark.parametrize("minute", [300, 420, 700])
def test_a_house_that_draws_blood_more_often_has_no_other_patients_for_it(small_cohort, small_model, minute):
    stays = np.arange(200, dtype=np.int32)
    through = np.full(200, minute, np.int32)
    usual, often = (
        small_model.score(stay_features.compute(small_model.table, bins, stays, through), through)
        for bins in (small_cohort.bins, drawn_each_hour(small_cohort.bins, 12))
    )
    spoke = [one for one, other in zip(usual, often, strict=True) if one.probability is not None]
    still = [one for one, other in zip(usual, often, strict=True) if None not in (one.probability, other.probability)]
    assert len(spoke) > 100
    assert len(still) >= 0.9 * len(spoke)


@pytest.mark.parametrize("hour", [6, 12, 24, 47])
def test_a_monitor_neither_silences_the_model_nor_moves_its_estimates(small_cohort, small_model, hour):
    stays = np.arange(200, dtype=np.int32)
    through = np.full(200, 60 * hour, np.int32)
    hourly, minutely = (
        small_model.score(stay_features.compute(small_model.table, bins, stays, through), through)
        for bins in (small_cohort.bins, monitored(small_cohort.bins))
    )
    assert sum(said.probability is not None for said in hourly) > 100
    spoken = [
        (one.probability, other.probability)
        for one, other in zip(hourly, minutely, strict=True)
        if one.probability is not None and other.probability is not None
    ]
    assert len(spoken) >= 0.88 * sum(said.probability is not None for said in hourly)
    before, after = np.array(spoken).T
    assert abs(after.mean() - before.mean()) < 0.02
    assert np.abs(after - before).mean() < 0.03
