"""Contributions: they add up, and they are Shapley's."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from models import feature_table
from models.feature_table import MORTALITY
from models.risk import additive, fitting
from models.risk.clinical_groups import GROUPS, OBSERVATION, group_of_columns
from models.risk.cohort import features_at
from models.risk.monotone import DIRECTIONS, constraints

NAMES = feature_table.names(MORTALITY)


@pytest.fixture(scope="session")
def rows(small_cohort):
    return features_at(MORTALITY, small_cohort, np.arange(400, 460, dtype=np.int32), (48,))[48]


def test_groups_add_up_to_the_log_odds(small_model, rows):
    base, parts = small_model.contributions(rows)
    # Trees sum in single precision: a few ulps of each of hundreds of trees.
    np.testing.assert_allclose(base + parts.sum(axis=1), small_model.scores(rows).margin, atol=2e-5)
    assert np.ptp(base) == 0


def test_reasons_are_the_groups_strongest_first(small_model, rows):
    _, parts = small_model.contributions(rows[:5])
    for row, estimate in zip(parts, small_model.score(rows[:5], np.full(5, 2880), with_reasons=True), strict=True):
        sizes = [abs(reason.log_odds) for reason in estimate.reasons]
        assert sizes == sorted(sizes, reverse=True)
        by_group = dict(zip([group.key for group in GROUPS], row, strict=True))
        assert all(reason.log_odds == by_group[reason.group] for reason in estimate.reasons)


def conditional(tree, row, known, names):
    """Return a tree's expectation when only `known` features are known: elsewhere by training rows, as TreeSHAP."""
    if "leaf" in tree:
        return tree["leaf"]
    children = {child["nodeid"]: child for child in tree["children"]}
    if tree["split"] in known:
        value = row[names.index(tree["split"])]
        branch = tree["missing"] if np.isnan(value) else tree["yes"] if value < tree["split_condition"] else tree["no"]
        return conditional(children[branch], row, known, names)
    total = sum(child["cover"] for child in children.values())
    return sum(child["cover"] / total * conditional(child, row, known, names) for child in children.values())


def test_tree_contributions_are_shapley_values_by_definition():
    import xgboost

    random = np.random.default_rng(3)
    x = random.normal(size=(400, 4)).astype(np.float32)
    x[random.random(x.shape) < 0.15] = np.nan
    y = random.random(400) < 1 / (1 + np.exp(-np.nan_to_num(x[:, 0] + x[:, 1] * x[:, 2])))
    recipe = fitting.Recipe(depth=3, rounds=6, eta=0.3, rows=1.0, columns=1.0, smallest_child=1.0, shrinkage=1.0)
    booster = fitting.trees(fitting.matrix(x, y, np.ones(400), 1), recipe, (0, 0, 0, 0), 1, 1)
    names = ["f0", "f1", "f2", "f3"]
    trees = [json.loads(dump) for dump in booster.get_dump(with_stats=True, dump_format="json")]
    found = booster.predict(xgboost.DMatrix(x[:8]), pred_contribs=True)
    for row, parts in zip(x[:8], found, strict=True):

        def worth(known, row=row):
            return sum(conditional(tree, row, set(known), names) for tree in trees)

        for place, name in enumerate(names):
            others = [one for one in names if one != name]
            value = sum(
                math.factorial(size)
                * math.factorial(3 - size)
                / math.factorial(4)
                * (worth({*some, name}) - worth(some))
                for size in range(4)
                for some in itertools.combinations(others, size)
            )
            assert parts[place] == pytest.approx(value, abs=2e-5)


def test_additive_contributions_are_differences_to_the_mean_row(small_model, rows):
    scorer, _ = small_model.additives[0]
    member = scorer.member
    total = scorer.base + scorer.contributions(rows).sum(axis=0)
    np.testing.assert_allclose(total, scorer.margin(rows), atol=1e-12)
    dense = np.full(len(rows), member.intercept)
    for term in member.terms:
        raw = rows[:, term.column].astype(np.float64)
        clipped = np.minimum(np.maximum(raw, term.low), term.high)
        z = ((clipped**0.25 if term.is_rooted else clipped) - term.mean) / term.scale
        is_missing = np.isnan(raw)
        dense += np.where(is_missing, 2 * term.missing_weight, term.weight * z + term.square_weight * (z * z - 1))
    np.testing.assert_allclose(dense, scorer.margin(rows), atol=1e-9)


def test_the_additive_member_reads_back_to_the_same_bits(small_model):
    for scorer, _ in small_model.additives:
        assert additive.from_bytes(additive.to_bytes(scorer.member)) == scorer.member


@pytest.mark.parametrize("direction", DIRECTIONS, ids=lambda direction: direction.series)
def test_no_estimate_contradicts_a_direction_medicine_states(small_model, rows, direction):
    bound = constraints(MORTALITY)
    columns = [i for i, name in enumerate(NAMES) if name.startswith(direction.series + "_") and bound[i]]
    assert columns
    assert all(bound[i] == direction.sign for i in columns)
    before = small_model.scores(rows).margin
    for column in columns:
        known = rows[:, column][~np.isnan(rows[:, column])]
        spread = float(np.ptp(known)) if len(known) else 1.0
        for step in (0.1, 1.0):
            moved = rows.copy()
            moved[:, column] += np.float32(step * spread)
            change = direction.sign * (small_model.scores(moved).margin - before)
            assert change.min() >= -1e-9, NAMES[column]


def test_every_column_has_a_group_and_patterns_of_care_are_no_organ():
    groups = dict(zip(NAMES, group_of_columns(MORTALITY), strict=True))
    assert set(groups.values()) == {group.key for group in GROUPS}
    assert groups["creatinine_last_stay"] == "kidney"
    assert groups["creatinine_share_of_hours_stay"] == OBSERVATION
    assert groups["mechanical_ventilation_share_of_hours_24h"] == "oxygenation_and_ventilation"
    assert groups["urea_creatinine_ratio_mean_stay"] == "kidney"
    assert groups["hours_since_admission"] == OBSERVATION
    assert not any("sex" in name or "icu" in name or "ward" in name for name in NAMES)
