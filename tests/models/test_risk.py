"""Scores against the published bands, and what may be said when something is missing."""

from __future__ import annotations

import csv
import json
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.risk import aggregate, banded, inputs, news2, qsofa, shock_index, sirs
from vocabulary.protocol import Input

WELL = {
    "respiratory_rate": 16,
    "oxygen_saturation": 98,
    "supplemental_oxygen": 0,
    "systolic_blood_pressure": 120,
    "heart_rate": 70,
    "consciousness": "A",
    "body_temperature": 37.0,
}
# name in the published table -> concept key
COLUMNS = {
    "resp_rate": "respiratory_rate",
    "spo2_scale1": "oxygen_saturation",
    "spo2_scale2": "oxygen_saturation",
    "systolic_bp": "systolic_blood_pressure",
    "pulse": "heart_rate",
    "temperature": "body_temperature",
}


@pytest.fixture(scope="session")
def published(shared_data):
    with (shared_data / "terminology/news2/rcp_news2_bands.csv").open() as file:
        return list(csv.DictReader(file))


def table_points(published, parameter, value, *, on_oxygen):
    """Points by the published table, read row by row."""
    found = []
    for row in published:
        if row["parameter"] != parameter or row["condition"] not in ("", "on oxygen" if on_oxygen else "on air"):
            continue
        low, high = row["low"], row["high"]
        if (not low or value >= float(low)) and (not high or value <= float(high)):
            found.append(int(row["score"]))
    assert len(found) == 1, (parameter, value, found)
    return found[0]


@pytest.mark.shared_data
@pytest.mark.parametrize("parameter", COLUMNS)
@pytest.mark.parametrize("on_oxygen", [False, True])
def test_news2_equals_the_published_bands_at_every_boundary(shipped, signals, published, parameter, on_oxygen):
    limits = {
        float(row[side]) for row in published if row["parameter"] == parameter for side in ("low", "high") if row[side]
    }
    step = 0.1 if parameter == "temperature" else 1.0
    key = COLUMNS[parameter]
    values = {round(limit + offset * step, 1) for limit in limits for offset in (-1, 0, 1)}
    assert len(values) >= 8
    for value in sorted(values):
        given_signals = signals(**WELL | {key: value, "supplemental_oxygen": int(on_oxygen)})
        score = news2.score(shipped["news2"], given_signals, uses_scale_2=parameter == "spo2_scale2")
        assert score.parts[key] == table_points(published, parameter, value, on_oxygen=on_oxygen), value


@pytest.mark.shared_data
def test_news2_rounds_to_the_chart_before_it_compares(shipped, signals, published):
    for parameter, key in COLUMNS.items():
        if parameter in {"spo2_scale2", "temperature"}:
            continue
        for row in published:
            if row["parameter"] == parameter and row["high"]:
                limit = float(row["high"])
                below = table_points(published, parameter, limit, on_oxygen=False)
                above = table_points(published, parameter, limit + 1, on_oxygen=False)
                for offset, expected in ((-0.1, below), (0.1, below), (0.49, below), (0.5, above), (0.9, above)):
                    score = news2.score(shipped["news2"], signals(**WELL | {key: limit + offset}))
                    assert score.parts[key] == expected, (key, limit + offset)


@pytest.mark.parametrize(
    ("celsius", "points"),
    [(35.0, 3), (35.04, 3), (35.05, 1), (35.1, 1), (36.04, 1), (36.05, 0), (38.0, 0), (38.04, 0), (38.05, 1),
     (39.04, 1), (39.05, 2), (39.1, 2)],
)  # fmt: skip
def test_temperature_is_judged_at_a_tenth_of_a_degree(shipped, signals, celsius, points):
    assert (
        news2.score(shipped["news2"], signals(**WELL | {"body_temperature": celsius})).parts["body_temperature"]
        == points
    )


@pytest.mark.shared_data
def test_a_published_worked_example(shipped, signals, shared_data):
    expected = json.loads((shared_data / "terminology/news2/carol_test.json").read_text())
    carol = WELL | {"respiratory_rate": 22, "heart_rate": 95, "oxygen_saturation": 93, "body_temperature": 38.5}
    score = news2.score(shipped["news2"], signals(**carol))
    parts = expected["components"]
    assert score.total == expected["news2_total"]
    assert score.parts == {
        "respiratory_rate": parts["respiration_rate"],
        "heart_rate": parts["pulse"],
        "oxygen_saturation": parts["spo2_scale1"],
        "supplemental_oxygen": parts["air_or_oxygen"],
        "body_temperature": parts["temperature"],
        "systolic_blood_pressure": parts["systolic_bp"],
        "consciousness": parts["consciousness"],
    }
    assert (score.band, score.coverage, score.missing) == ("medium", 1.0, [])


@pytest.mark.parametrize(
    ("changed", "total", "band"),
    [
        ({}, 0, "low"),
        ({"heart_rate": 95}, 1, "low"),
        ({"heart_rate": 135}, 3, "low-medium"),  # 3 in a single parameter
        ({"respiratory_rate": 22, "heart_rate": 95, "body_temperature": 38.5}, 4, "low"),
        ({"respiratory_rate": 22, "heart_rate": 115, "body_temperature": 38.5}, 5, "medium"),
        ({"consciousness": "V", "heart_rate": 115, "body_temperature": 38.5}, 6, "medium"),
        ({"consciousness": "V", "heart_rate": 115, "supplemental_oxygen": 1}, 7, "high"),
    ],
)
def test_the_band_follows_the_total_and_the_single_parameter(shipped, signals, changed, total, band):
    score = news2.score(shipped["news2"], signals(**WELL | changed))
    assert (score.total, score.band) == (total, band)
    assert score.protocol == "news2@1"


def test_what_was_not_measured_leaves_a_lower_bound_that_says_so(shipped, signals):
    partial = {key: WELL[key] for key in ("heart_rate", "respiratory_rate", "oxygen_saturation", "body_temperature",
                                          "systolic_blood_pressure")}  # fmt: skip
    score = news2.score(shipped["news2"], signals(**partial))
    assert (score.total, score.band, score.missing) == (0, "", ["supplemental_oxygen", "consciousness"])
    assert score.statement == "NEWS2 of what was measured (5 of 7): a lower bound."
    assert score.coverage == pytest.approx(5 / 7)
    worse = news2.score(shipped["news2"], signals(**partial | {"heart_rate": 135, "respiratory_rate": 26}))
    assert (worse.total, worse.band) == (6, "medium")
    assert worse.statement == "NEWS2 of what was measured (5 of 7): at least medium."


def test_a_stale_signal_counts_as_missing_and_nothing_measured_as_nothing_said(shipped, signals):
    assert news2.score(shipped["news2"], signals(**WELL | {"heart_rate": None})).missing == ["heart_rate"]
    nothing = news2.score(shipped["news2"], signals(**dict.fromkeys(WELL)))
    assert (nothing.total, nothing.band, nothing.coverage, nothing.parts) == (None, "", 0.0, {})
    assert nothing.statement == "NEWS2 cannot be said: nothing it needs was measured."


def test_a_value_in_another_unit_is_not_scored(shipped, signals):
    made = signals(**WELL)
    fahrenheit = {"body_temperature": msgspec.structs.replace(made["body_temperature"], value=98.6, unit="[degF]")}
    assert news2.score(shipped["news2"], made | fahrenheit).missing == ["body_temperature"]


def test_substitutes_answer_only_where_the_first_is_not_fresh(shipped, signals):
    def parts(**changed):
        return news2.score(shipped["news2"], signals(**WELL | changed)).parts

    assert parts(heart_rate=None, pulse_rate=135)["heart_rate"] == 3
    assert parts(pulse_rate=135)["heart_rate"] == 0
    arterial = parts(oxygen_saturation=None, arterial_oxygen_saturation=90)
    assert (arterial["arterial_oxygen_saturation"], "oxygen_saturation" in arterial) == (3, False)
    assert parts(body_temperature=None, core_temperature=39.5)["body_temperature"] == 2
    assert "body_temperature" not in parts(body_temperature=None, skin_temperature=39.5)


def test_the_newer_of_cuff_and_line_is_the_pressure(signals):
    def systolic(cuff_at, line_at):
        made = signals(systolic_blood_pressure=(120, cuff_at), arterial_systolic_blood_pressure=(80, line_at))
        return inputs.measured(Input.SYSTOLIC_BLOOD_PRESSURE, made).value

    assert (systolic(2, 1), systolic(1, 2), systolic(1, 1)) == (120, 80, 80)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"supplemental_oxygen": 1}, 1),
        ({"supplemental_oxygen": 0}, 0),
        ({"supplemental_oxygen": 0, "oxygen_flow_rate": 2}, 1),
        ({"inspired_oxygen_fraction": 21}, 0),
        ({"inspired_oxygen_fraction": 21.5}, 1),
        ({"oxygen_flow_rate": 0}, 0),
        ({"mechanical_ventilation": 1}, 1),
        ({"mechanical_ventilation": 1, "inspired_oxygen_fraction": 21}, 0),
        ({"mechanical_ventilation": 0}, None),
        ({"supplemental_oxygen": None}, None),
        ({}, None),
    ],
)
def test_oxygen_is_any_sign_of_it(signals, said, expected):
    found = inputs.measured(Input.SUPPLEMENTAL_OXYGEN, signals(**said))
    assert (None if found is None else found.value) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"consciousness": "A"}, 0),
        ({"consciousness": "C"}, 1),
        ({"consciousness": "U"}, 1),
        ({"consciousness": "?"}, None),
        ({"glasgow_coma_score": 15}, 0),
        ({"glasgow_coma_score": 14}, 1),
        ({"consciousness": ("A", 1), "glasgow_coma_score": (8, 2)}, 1),
        ({"consciousness": ("A", 2), "glasgow_coma_score": (8, 1)}, 0),
        ({"consciousness": ("A", 1), "glasgow_coma_score": (8, 1)}, 1),
        ({"consciousness": "", "glasgow_coma_score": 15}, 0),
    ],
)
def test_alertness_is_the_newer_of_acvpu_and_glasgow(signals, said, expected):
    found = inputs.measured(Input.CONSCIOUSNESS, signals(**said))
    assert (None if found is None else found.value) == expected


def test_scale_2_without_knowing_of_oxygen_judges_only_what_scores_alike(shipped, signals):
    unknown = {key: value for key, value in WELL.items() if key != "supplemental_oxygen"}

    def saturation(percent):
        made = signals(**unknown | {"oxygen_saturation": percent})
        return news2.score(shipped["news2"], made, uses_scale_2=True).parts.get("oxygen_saturation")

    assert [saturation(percent) for percent in (83, 90, 92, 93, 97)] == [3, 0, 0, None, None]


def test_qsofa_counts_three_signs(shipped, signals):
    def said(**given_signals):
        score = qsofa.score(shipped["qsofa"], signals(**given_signals))
        return score.total, score.band

    well = {"respiratory_rate": 21, "systolic_blood_pressure": 101, "glasgow_coma_score": 15}
    assert said(**well) == (0, "negative")
    assert said(**well | {"respiratory_rate": 22}) == (1, "negative")
    assert said(**well | {"respiratory_rate": 22, "systolic_blood_pressure": 100}) == (2, "positive")
    assert said(**well | {"respiratory_rate": 22, "systolic_blood_pressure": 100, "glasgow_coma_score": 14}) == (
        3,
        "positive",
    )
    assert said(respiratory_rate=22) == (1, "")
    assert said(respiratory_rate=22, glasgow_coma_score=3) == (2, "positive")


def test_sirs_takes_the_worse_of_rate_and_carbon_dioxide(shipped, signals):
    def said(**given_signals):
        score = sirs.score(shipped["sirs"], signals(**given_signals))
        return score.total, score.missing

    well = {"body_temperature": 38.0, "heart_rate": 90, "respiratory_rate": 20, "leukocytes": 12.0}
    assert said(**well) == (0, [])
    assert said(**well | {"arterial_co2_pressure": 31}) == (1, [])
    assert said(**well | {"arterial_co2_pressure": 32}) == (0, [])
    assert said(**well | {"body_temperature": 35.9, "leukocytes": 3.9, "heart_rate": 91, "respiratory_rate": 21}) == (
        4,
        [],
    )
    assert said(heart_rate=91) == (1, ["body_temperature", "respiration", "leukocytes"])


@pytest.mark.parametrize(
    ("rate", "pressure", "total", "band"),
    [(70, 120, 0.58, "usual"), (84, 120, 0.7, "raised"), (108, 120, 0.9, "high"), (107, 120, 0.89, "raised")],
)
def test_the_shock_index_is_a_ratio(shipped, signals, rate, pressure, total, band):
    score = shock_index.score(shipped["shock_index"], signals(heart_rate=rate, systolic_blood_pressure=pressure))
    assert (score.total, score.band) == (total, band)


def test_there_is_no_shock_index_of_one_value(shipped, signals):
    for given_signals in (signals(heart_rate=70), signals(heart_rate=70, systolic_blood_pressure=0), {}):
        score = shock_index.score(shipped["shock_index"], given_signals)
        assert (score.total, score.band) == (None, "")


def test_every_protocol_given_is_scored_in_one_order(shipped, signals):
    assert [score.name for score in aggregate.scores(shipped, signals(**WELL))] == [
        "NEWS2",
        "qSOFA",
        "SIRS",
        "Shock index",
    ]
    assert aggregate.scores({"sirs": shipped["sirs"]}, {})[0].total is None


# How far from well a value is, by concept: worse values never lower the score.
WORSE = {
    "respiratory_rate": (st.floats(12, 80), +1),
    "oxygen_saturation": (st.floats(20, 100), -1),
    "systolic_blood_pressure": (st.floats(20, 219.4), -1),
    "heart_rate": (st.floats(51, 300), +1),
    "body_temperature": (st.floats(36.1, 44), +1),
}


@given(st.data(), st.sampled_from(sorted(WORSE)), st.sampled_from([news2, qsofa, sirs]))
def test_a_worse_value_never_lowers_a_score(shipped, signals, data, key, module):
    values, direction = WORSE[key]
    if module is sirs and key == "body_temperature":
        values = st.floats(36, 44)
    better, worse = sorted([data.draw(values), data.draw(values)], reverse=direction < 0)
    protocol = shipped[module.NAME]
    low = module.score(protocol, signals(**WELL | {key: better}))
    high = module.score(protocol, signals(**WELL | {key: worse}))
    assert low.total <= high.total


@given(st.sets(st.sampled_from(sorted(WELL))), st.integers(0, 300), st.integers(50, 100), st.integers(0, 60))
def test_news2_of_what_was_measured_is_a_lower_bound(shipped, signals, gone, rate, saturation, breaths):
    said = WELL | {"heart_rate": rate, "oxygen_saturation": saturation, "respiratory_rate": breaths}
    whole = news2.score(shipped["news2"], signals(**said))
    part = news2.score(shipped["news2"], signals(**{key: said[key] for key in said if key not in gone}))
    words = ["", "low", "low-medium", "medium", "high"]
    assert (part.total or 0) <= whole.total
    assert words.index(part.band) <= words.index(whole.band)
    assert len(part.parts) + len(part.missing) == 7


@given(st.floats(-1e6, 1e6), st.integers(0, 2))
def test_rounding_is_to_the_nearest_and_stays_put(value, decimals):
    once = banded.rounded(value, decimals)
    assert abs(once - value) <= 0.5 * 10**-decimals * (1 + 1e-9) + 1e-9
    assert banded.rounded(once, decimals) == once


def test_a_strongest_level_of_any_two_parts_is_not_weaker(shipped):
    levels = [level.word for level in shipped["news2"].levels]
    for left, right in combinations(range(0, 20, 2), 2):
        weaker = banded.level_of(shipped["news2"], left, ())
        stronger = banded.level_of(shipped["news2"], right, ())
        assert levels.index(weaker.word) <= levels.index(stronger.word)
