"""SOFA against its published table, point by point, and against the scores recorded with real stays."""

from __future__ import annotations

import numpy as np
import pytest

from models.risk import sofa
from models.risk.cross_validation import rank_correlation
from models.stay_series import bins_of_columns
from vocabulary import concepts

# Vincent et al. 1996, table 3, read off by hand.
PUBLISHED = [
    ("platelets", [(150, 0), (149, 1), (100, 1), (99, 2), (50, 2), (49, 3), (20, 3), (19, 4)]),
    ("bilirubin_total", [(1.1, 0), (1.2, 1), (1.9, 1), (2.0, 2), (5.9, 2), (6.0, 3), (11.9, 3), (12.0, 4)]),
    ("mean_blood_pressure", [(70, 0), (69, 1)]),
    ("dopamine_rate", [(0, 0), (5, 2), (5.1, 3), (15, 3), (15.1, 4)]),
    ("dobutamine_rate", [(0, 0), (2, 2)]),
    ("norepinephrine_rate", [(0.1, 3), (0.11, 4)]),
    ("epinephrine_rate", [(0.02, 3), (0.2, 4)]),
    ("glasgow_coma_score", [(15, 0), (14, 1), (13, 1), (12, 2), (10, 2), (9, 3), (6, 3), (5, 4)]),
    ("creatinine", [(1.1, 0), (1.2, 1), (1.9, 1), (2.0, 2), (3.4, 2), (3.5, 3), (4.9, 3), (5.0, 4)]),
    ("urine_output", [(500, 0), (499, 3), (200, 3), (199, 4)]),
]


def scored(values, minute=1440):
    keys, minutes, numbers = zip(*values, strict=True)
    bins = bins_of_columns(
        np.array([concepts.by_key(key).number for key in keys], np.int16),
        np.zeros(len(keys), np.int32),
        np.array(minutes, np.int32),
        np.array(numbers, np.float64),
        1,
    )
    return sofa.score(bins, np.zeros(1, np.int32), np.array([minute], np.int32))


@pytest.mark.parametrize(("key", "value", "points"), [(k, v, p) for k, rows in PUBLISHED for v, p in rows])
def test_each_organ_scores_what_the_table_prints(key, value, points):
    found = scored([(key, 700, value)])
    assert found.total[0] == points
    assert found.coverage[0] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("ratio", "alone", "supported"), [(400, 0, 0), (399, 1, 1), (299, 2, 2), (199, 2, 3), (99, 2, 4)]
)
def test_three_and_four_points_of_the_lungs_ask_for_support(ratio, alone, supported):
    gas = [("inspired_oxygen_fraction", 90, 50.0), ("arterial_o2_pressure", 100, ratio / 2)]
    assert scored(gas).total[0] == alone
    assert scored([*gas, ("mechanical_ventilation", 50, 1.0)]).total[0] == supported


def test_urine_of_less_than_a_day_is_no_kidney_failure():
    assert np.isnan(scored([("urine_output", 60, 30.0)], minute=120).total[0])


def test_the_worse_of_creatinine_and_urine_counts_once():
    assert scored([("creatinine", 60, 2.5), ("urine_output", 60, 300.0)]).total[0] == 3


def test_agrees_with_the_scores_recorded_with_the_challenge(real_cohort):
    cohort = real_cohort
    stays = np.arange(len(cohort.died), dtype=np.int32)
    found = sofa.score(cohort.bins, stays, np.full(len(stays), 1440, np.int32))
    assert rank_correlation(found.total, cohort.sofa) > 0.93
    # No vasopressor is carried: ours is a lower bound, on average not a point below.
    assert -1.0 < np.nanmean(found.total - cohort.sofa) < 0.0
