"""NEWS2 over rows against NEWS2 of one patient's signals."""

from __future__ import annotations

import numpy as np

from models.risk import news2, news2_measured
from models.stay_series import bins_of_columns
from vocabulary import concepts


def scored(protocol, values, minute):
    bins = bins_of_columns(
        np.array([concepts.by_key(key).number for key, _, _ in values], np.int16),
        np.zeros(len(values), np.int32),
        np.array([at for _, at, _ in values], np.int32),
        np.array([value for _, _, value in values], np.float64),
        1,
    )
    return news2_measured.score(protocol, bins, np.zeros(1, np.int32), np.array([minute], np.int32))


def test_it_is_the_score_of_the_card(shipped, signals):
    values = {
        "respiratory_rate": 26,
        "oxygen_saturation": 92,
        "supplemental_oxygen": 1,
        "systolic_blood_pressure": 98,
        "heart_rate": 118,
        "glasgow_coma_score": 13,
        "body_temperature": 38.5,
    }
    card = news2.score(shipped["news2"], signals(**values))
    rows = scored(shipped["news2"], [(key, 100, value) for key, value in values.items()], 110)
    assert rows.total[0] == card.total == 3 + 2 + 2 + 2 + 2 + 3 + 1
    assert rows.coverage[0] == 1.0


def test_what_is_stale_or_later_does_not_count(shipped):
    values = [("heart_rate", 10, 150.0), ("heart_rate", 700, 150.0), ("respiratory_rate", 300, 30.0)]
    found = scored(shipped["news2"], values, 320)
    assert found.total[0] == 3  # the rate of breathing alone: the heart's is older than four hours, or not yet there
    assert found.coverage[0] == 1 / 7


def test_nothing_measured_is_no_score(shipped):
    assert np.isnan(scored(shipped["news2"], [("cholesterol_total", 0, 150.0)], 60).total[0])
