"""Training: the same bytes for the same data, nothing from outside the training part, nothing learned from noise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.feature_table import MORTALITY
from models.risk import cohort as cohorts
from models.risk import cross_validation, training
from models.risk.cohort import fold_of, stays_in
from models.risk.fitting import Recipe
from validation import protocols
from vocabulary.errors import ConfigurationError

SMALL = (Recipe(depth=2, rounds=30, eta=0.1, smallest_child=2.0),)


def area(died, risk):
    above = risk[died][:, None] - risk[~died][None, :]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def test_the_same_data_and_seed_give_the_same_bytes(small_cohort, small_trained, train):
    again = train(small_cohort, np.arange(400), threads=2)
    assert again.manifest == small_trained.manifest
    assert again.members == small_trained.members
    assert all(hashlib.sha256(body).hexdigest() == digest for digest, body in again.members.items())
    assert train(small_cohort, np.arange(400), seed=8).digest != small_trained.digest


def test_stays_outside_the_training_part_leave_no_trace(small_cohort, small_trained, train):
    bins = small_cohort.bins
    other = small_cohort._replace(
        died=np.where(np.arange(600) < 400, small_cohort.died, ~small_cohort.died),
        bins=bins._replace(median=np.where(bins.stay < 400, bins.median, bins.median * 3).astype(np.float32)),
    )
    assert train(other, np.arange(400)).digest == small_trained.digest


def test_the_manifest_tells_what_was_learned_from(small_cohort, small_model):
    told = small_model.manifest.training
    assert (told.stays, told.deaths) == (400, int(small_cohort.died[:400].sum()))
    assert told.data_fingerprint == cohorts.fingerprint(small_cohort, np.arange(400, dtype=np.int32))
    assert small_model.manifest.is_synthetic
    assert {one.series for one in small_model.manifest.monotone} >= {"age", "glasgow_coma_score"}
    assert sum(one.log_odds for one in small_model.manifest.importance) > 0


def test_a_fingerprint_changes_with_any_value_label_or_stay(small_cohort):
    whole = cohorts.fingerprint(small_cohort)
    bins = small_cohort.bins
    touched = bins.median.copy()
    touched[17] += 1
    died = small_cohort.died.copy()
    died[3] = not died[3]
    others = [
        cohorts.fingerprint(small_cohort._replace(bins=bins._replace(median=touched))),
        cohorts.fingerprint(small_cohort._replace(died=died)),
        cohorts.fingerprint(small_cohort, np.arange(599, dtype=np.int32)),
        cohorts.fingerprint(small_cohort._replace(record_ids=("x", *small_cohort.record_ids[1:]))),
    ]
    assert len({whole, *others}) == 5


def test_out_of_fold_scores_of_noise_do_not_rank(small_cohort):
    random = np.random.default_rng(2)
    features = cohorts.features_at(MORTALITY, small_cohort, np.arange(600, dtype=np.int32), (48,))
    noise = random.permutation(small_cohort.died)
    try:
        learned = training.learn(
            MORTALITY, features, noise, small_cohort.record_ids, seed=1, recipes=SMALL, hour_weights=(1.0,)
        )
    except ConfigurationError:
        return  # refused: the scores do not rise with the outcome
    assert abs(area(noise, learned.margins[48]) - 0.5) < 0.1


def test_too_few_deaths_are_refused(small_cohort):
    survivors = np.flatnonzero(~small_cohort.died)[:100].astype(np.int32)
    features = cohorts.features_at(MORTALITY, small_cohort, survivors, (48,))
    ids = [small_cohort.record_ids[i] for i in survivors]
    with pytest.raises(ConfigurationError, match="too few deaths"):
        training.learn(MORTALITY, features, small_cohort.died[survivors], ids, seed=1, hour_weights=(1.0,))


@given(st.text("0123456789", min_size=1, max_size=9), st.text(max_size=9), st.integers(1, 20))
def test_a_fold_is_the_hash_of_salt_and_record(record, salt, folds):
    digest = hashlib.sha256(f"{salt}:{record}".encode()).hexdigest()
    assert fold_of(record, salt, folds) == int(digest, 16) % folds


def test_folds_are_about_equal_and_disjoint(small_cohort):
    parts = [stays_in(small_cohort, "salt", [fold]) for fold in range(10)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(600))
    assert all(30 < len(part) < 95 for part in parts)


def validate(cohort, threads):
    return cross_validation.run(
        MORTALITY,
        cohort,
        protocols.load_all()["news2"],
        repeats=1,
        folds=2,
        hours=(12, 48),
        training_hours=(12, 48),
        hour_weights=(0.4, 0.6),
        recipes=SMALL,
        threads=threads,
    )


@pytest.fixture(scope="module")
def validated(fewer_stays):
    """One repeat of two folds."""
    return validate(fewer_stays, 2)


def test_every_stay_is_predicted_once_by_every_method(validated):
    for method, by_hour in validated.probability.items():
        for hour, found in by_hour.items():
            assert found.shape == (1, 300), (method, hour)
            assert ((found > 0) & (found < 1)).all(), (method, hour)
    assert set(validated.probability) >= {"vigil", "hist_gradient_boosting", "logistic_regression", "saps_i", "sofa"}
    assert set(validated.probability["vigil"]) == {12, 48}
    assert 0 < validated.coverage["news2_of_what_was_measured"][48] < 1
    assert len(validated.choices) == 2


def test_learned_methods_rank_and_ours_is_calibrated_in_the_large(validated):
    for method in ("vigil", "hist_gradient_boosting", "logistic_regression"):
        assert area(validated.died, validated.probability[method][48][0]) > 0.75, method
    assert abs(validated.probability["vigil"][48].mean() - validated.died.mean()) < 0.05


def test_what_is_predicted_of_a_stay_does_not_depend_on_its_own_outcome(fewer_stays, validated):
    flipped = fewer_stays.died.copy()
    members = np.flatnonzero(cohorts.folds_of(fewer_stays.record_ids, "cross-validation 0", 2) == 1)
    flipped[members[:15]] = ~flipped[members[:15]]
    again = validate(fewer_stays._replace(died=flipped), 1)
    for method, by_hour in validated.probability.items():
        for hour, found in by_hour.items():
            np.testing.assert_array_equal(again.probability[method][hour][0, members], found[0, members], method)


@pytest.mark.slow
def test_on_real_stays_it_ranks_is_calibrated_and_its_intervals_agree_with_what_was_seen(real_cohort, ancestry):
    model = training.fit(MORTALITY, real_cohort, stays_in(real_cohort, "vigil", range(7)), ancestry, threads=2).load()
    unseen = stays_in(real_cohort, "vigil", (7, 8, 9))
    scores = model.scores(cohorts.features_at(MORTALITY, real_cohort, unseen, (48,))[48])
    died = real_cohort.died[unseen]
    assert area(died, scores.probability) > 0.84
    misses = 0.0
    for tenth in np.array_split(np.argsort(scores.probability), 10):
        said, width = scores.probability[tenth].mean(), (scores.high - scores.low)[tenth].mean() / 2 / 1.2816
        chance = np.sqrt((scores.probability * (1 - scores.probability))[tenth].sum()) / len(tenth)
        misses += ((died[tenth].mean() - said) / np.hypot(width, chance)) ** 2
    # Seen and said differ by no more than the interval and chance allow: chi-squared with 10 degrees of freedom, 0.1 %.
    assert misses < 29.6
