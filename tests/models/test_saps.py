"""SAPS-I against its published table, point by point, and against the scores recorded with real stays."""

from __future__ import annotations

import numpy as np
import pytest

from models.risk import saps
from models.risk.cross_validation import rank_correlation
from models.stay_series import bins_of_columns
from vocabulary import concepts

# Le Gall et al. 1984, table 1, read off by hand: values just inside each band, with the points printed above it.
PUBLISHED = [
    ("age", [(45, 0), (46, 1), (55, 1), (56, 2), (65, 2), (66, 3), (75, 3), (76, 4)]),
    (
        "heart_rate",
        [(180, 4), (179, 3), (140, 3), (139, 2), (110, 2), (109, 0), (70, 0), (69, 2), (55, 2), (54, 3), (39, 4)],
    ),
    ("systolic_blood_pressure", [(190, 4), (189, 2), (150, 2), (149, 0), (80, 0), (79, 2), (55, 2), (54, 4)]),
    (
        "body_temperature",
        [
            (41, 4),
            (40.9, 3),
            (39, 3),
            (38.9, 1),
            (38.5, 1),
            (38.4, 0),
            (36, 0),
            (35.9, 1),
            (34, 1),
            (33.9, 2),
            (32, 2),
            (31.9, 3),
            (30, 3),
            (29.9, 4),
        ],
    ),
    (
        "respiratory_rate",
        [(50, 4), (49, 3), (35, 3), (34, 1), (25, 1), (24, 0), (12, 0), (11, 1), (10, 1), (9, 2), (6, 2), (5, 4)],
    ),
    (
        "hematocrit",
        [(60, 4), (59.9, 2), (50, 2), (49.9, 1), (46, 1), (45.9, 0), (30, 0), (29.9, 2), (20, 2), (19.9, 4)],
    ),
    ("leukocytes", [(40, 4), (39.9, 2), (20, 2), (19.9, 1), (15, 1), (14.9, 0), (3, 0), (2.9, 2), (1, 2), (0.9, 4)]),
    (
        "potassium",
        [
            (7, 4),
            (6.9, 3),
            (6, 3),
            (5.9, 1),
            (5.5, 1),
            (5.4, 0),
            (3.5, 0),
            (3.4, 1),
            (3, 1),
            (2.9, 2),
            (2.5, 2),
            (2.4, 4),
        ],
    ),
    (
        "sodium",
        [
            (180, 4),
            (179, 3),
            (161, 3),
            (160, 2),
            (156, 2),
            (155, 1),
            (151, 1),
            (150, 0),
            (130, 0),
            (129, 2),
            (120, 2),
            (119, 3),
            (110, 3),
            (109, 4),
        ],
    ),
    ("bicarbonate", [(40, 3), (39.9, 1), (30, 1), (29.9, 0), (20, 0), (19.9, 1), (10, 1), (9.9, 3), (5, 3), (4.9, 4)]),
    ("glasgow_coma_score", [(15, 0), (13, 0), (12, 1), (10, 1), (9, 2), (7, 2), (6, 3), (4, 3), (3, 4)]),
    # 3.5, 7.5, 29, 36 and 55 mmol/L of urea; 1.6 … 44.5 mmol/L of glucose, in the concepts' own mg/dL.
    ("urea_nitrogen", [(155, 4), (153, 3), (101, 3), (100, 2), (82, 2), (81, 1), (22, 1), (20, 0), (10, 0), (9, 1)]),
    (
        "glucose",
        [
            (802, 4),
            (801, 3),
            (501, 3),
            (500, 1),
            (253, 1),
            (252, 0),
            (71, 0),
            (70, 2),
            (51, 2),
            (50, 3),
            (29, 3),
            (28, 4),
        ],
    ),
    (
        "urine_output",
        [(5000, 2), (4990, 1), (3500, 1), (3490, 0), (700, 0), (690, 2), (500, 2), (490, 3), (200, 3), (190, 4)],
    ),
]


def stay(values):
    """Return bins of one stay: (concept key, minute, value)."""
    keys, minutes, numbers = zip(*values, strict=True)
    return bins_of_columns(
        np.array([concepts.by_key(key).number for key in keys], np.int16),
        np.zeros(len(keys), np.int32),
        np.array(minutes, np.int32),
        np.array(numbers, np.float64),
        1,
    )


def scored(values, minute=1440):
    return saps.score(stay(values), np.zeros(1, np.int32), np.array([minute], np.int32))


@pytest.mark.parametrize(("key", "value", "points"), [(k, v, p) for k, rows in PUBLISHED for v, p in rows])
def test_each_component_scores_what_the_table_prints(key, value, points):
    found = scored([(key, 700, value)])
    assert found.total[0] == points
    assert found.coverage[0] == pytest.approx(1 / 14)


def test_the_worst_of_the_last_day_counts_and_what_is_older_does_not():
    assert scored([("sodium", 10, 100.0), ("sodium", 2000, 140.0), ("sodium", 2300, 157.0)], 2880).total[0] == 2


def test_a_ventilator_scores_three_whatever_the_rate_but_a_worse_rate_wins():
    assert scored([("mechanical_ventilation", 5, 1.0), ("respiratory_rate", 6, 14.0)]).total[0] == 3
    assert scored([("mechanical_ventilation", 5, 1.0), ("respiratory_rate", 6, 52.0)]).total[0] == 4


def test_urine_of_a_shorter_stay_is_scaled_to_a_day():
    assert scored([("urine_output", 100, 250.0)], minute=360).total[0] == 0  # 1 L a day


def test_points_of_components_add_up_and_a_stay_without_any_has_no_score():
    assert scored([("age", 0, 80.0), ("heart_rate", 9, 150.0), ("potassium", 20, 2.0)]).total[0] == 4 + 3 + 4
    assert np.isnan(scored([("cholesterol_total", 0, 200.0)]).total[0])


def test_agrees_with_the_scores_recorded_with_the_challenge(real_cohort):
    cohort = real_cohort
    stays = np.arange(len(cohort.died), dtype=np.int32)
    found = saps.score(cohort.bins, stays, np.full(len(stays), 1440, np.int32))
    # The challenge's come from the full charts of MIMIC-II; ours from the 37 parameters it gives.
    assert rank_correlation(found.total, cohort.saps_i) > 0.93
    assert abs(np.nanmean(found.total - cohort.saps_i)) < 1.0
