"""A risk model's artefact: bytes, refusals, and rows that do not depend on their neighbours."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import feature_table
from models.feature_table import MORTALITY
from models.risk import artefact, manifest
from models.risk.cohort import features_at
from vocabulary.errors import ConfigurationError

MINUTE = 2880


@pytest.fixture(scope="session")
def unseen(small_cohort):
    """Features at hour 48 of the 200 stays the small model did not learn from."""
    return features_at(MORTALITY, small_cohort, np.arange(400, 600, dtype=np.int32), (48,))[48]


@pytest.fixture(scope="session")
def whole(small_model, unseen):
    """Estimates of all of them in one call."""
    return small_model.score(unseen, np.full(len(unseen), MINUTE), with_reasons=True)


def listed(value):
    """Return plain values with lists for tuples, as TOML has them."""
    if isinstance(value, dict):
        return {key: listed(one) for key, one in value.items()}
    return [listed(one) for one in value] if isinstance(value, list | tuple) else value


def test_the_manifest_is_toml_that_others_read_alike(small_trained):
    read = tomllib.loads(small_trained.manifest.decode())
    described = manifest.from_bytes(small_trained.manifest)
    assert read == listed(msgspec.to_builtins(described))
    assert [member["digest"] for member in read["members"]] == list(small_trained.members)
    assert read["bounds_low"] == list(described.bounds_low)
    assert manifest.to_bytes(described) == small_trained.manifest


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(text, st.floats(allow_nan=False), st.lists(st.floats(allow_nan=False), max_size=4))
@settings(max_examples=60)
def test_any_text_and_number_survives_the_manifest(small_trained, word, number, bounds):
    described = msgspec.structs.replace(
        manifest.from_bytes(small_trained.manifest), outcome=word, level=number, bounds_low=tuple(bounds)
    )
    body = manifest.to_bytes(described)
    assert manifest.from_bytes(body) == described
    assert tomllib.loads(body.decode())["outcome"] == word


def test_the_digest_pins_manifest_and_members(small_trained, small_model):
    assert small_model.digest == small_trained.digest == manifest.digest(small_trained.manifest)
    for digest, body in small_trained.members.items():
        with pytest.raises(artefact.ModelMismatchError, match="not what its digest says"):
            artefact.load(
                small_trained.manifest,
                lambda wanted, d=digest, b=body: b + b" " if wanted == d else small_trained.members[wanted],
            )


def replaced(trained, **fields):
    described = manifest.from_bytes(trained.manifest)
    return manifest.to_bytes(msgspec.structs.replace(described, **fields))


def test_a_model_of_other_features_is_refused(small_trained):
    described = manifest.from_bytes(small_trained.manifest)
    other = msgspec.structs.replace(described.features, digest="0" * 64)
    with pytest.raises(artefact.ModelMismatchError, match="does not compute"):
        artefact.load(replaced(small_trained, features=other), small_trained.members.__getitem__)


def test_weights_that_do_not_sum_to_one_are_refused(small_trained):
    members = manifest.from_bytes(small_trained.manifest).members
    with pytest.raises(artefact.ModelMismatchError, match="sum to 1"):
        artefact.load(replaced(small_trained, members=members[:-1]), small_trained.members.__getitem__)


@pytest.mark.parametrize("body", [b"", b"format = 1", b"\xff\xfe", b"[[", b"scope = 'mortality'"])
def test_what_is_no_manifest_is_refused_by_name(body):
    with pytest.raises(ConfigurationError, match="manifest"):
        artefact.load(body, dict[str, bytes]().__getitem__)


@pytest.mark.parametrize("content", [b"", b"{}", b"not a booster", bytes(range(256))])
def test_a_member_that_is_no_member_is_refused_by_name(small_trained, content):
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    members = manifest.from_bytes(small_trained.manifest).members
    for kind in ("xgboost", "additive"):
        strange = msgspec.structs.replace(members[0], kind=kind, digest=digest)
        body = replaced(small_trained, members=(strange, *members[1:]))
        files = small_trained.members | {digest: content}
        with pytest.raises(artefact.ModelMismatchError, match="is no"):
            artefact.load(body, files.__getitem__)


def test_it_ranks_stays_it_never_saw(small_cohort, whole):
    risk = np.array([estimate.probability for estimate in whole])
    died = small_cohort.died[400:]
    above = (risk[died][:, None] > risk[~died][None, :]).mean()
    assert above > 0.75


@given(st.lists(st.integers(0, 199), min_size=1, max_size=70))
@settings(max_examples=25, deadline=None)
def test_an_estimate_does_not_depend_on_its_neighbours(small_model, unseen, whole, places):
    found = small_model.score(unseen[places], np.full(len(places), MINUTE), with_reasons=True)
    assert found == [whole[place] for place in places]  # bit for bit


def test_one_alone_is_as_in_a_thousand(small_model, unseen, whole):
    many = small_model.score(np.tile(unseen, (5, 1)), np.full(1000, MINUTE))
    for place in range(0, 200, 7):
        alone = small_model.score(unseen[place : place + 1], np.array([MINUTE]), with_reasons=True)
        assert alone == [whole[place]]
        assert {m.probability for m in many[place::200]} == {whole[place].probability}
    assert small_model.score(unseen[:0], np.empty(0, np.int32)) == []


def test_the_interval_holds_the_estimate_and_grows_with_its_level(small_trained, unseen, whole):
    assert all(0 < e.low < e.probability < e.high < 1 for e in whole)
    wider = artefact.load(replaced(small_trained, level=0.99), small_trained.members.__getitem__)
    for narrow, wide in zip(whole, wider.score(unseen, np.full(len(unseen), MINUTE)), strict=True):
        assert wide.probability == narrow.probability
        assert wide.low < narrow.low
        assert wide.high > narrow.high


def test_features_of_another_shape_or_kind_are_refused(small_model, unseen):
    with pytest.raises(ValueError, match="float32"):
        small_model.score(unseen.astype(np.float64), np.full(len(unseen), MINUTE))
    with pytest.raises(ValueError, match="shape"):
        small_model.score(unseen[:, 1:], np.full(len(unseen), MINUTE))
    with pytest.raises(ValueError, match="minutes"):
        small_model.score(unseen, np.array([MINUTE]))


NAMES = feature_table.names(MORTALITY)


def changed(row, **values):
    made = row.copy()
    for name, value in values.items():
        made[NAMES.index(name)] = value
    return made


def test_it_abstains_for_the_reason_that_holds(small_model, unseen):
    good = unseen[0]
    nothing = np.full_like(good, np.nan)
    nothing[NAMES.index("age_last_stay")] = 70
    old = good.copy()
    for place, name in enumerate(NAMES):
        if name.endswith("_hours_since_stay") and not np.isnan(old[place]):
            old[place] += 7
    strange = np.where(np.isnan(good), good, 1e6).astype(np.float32)
    strange[[place for place, name in enumerate(NAMES) if name.endswith("_hours_since_stay")]] = 1
    strange[NAMES.index("age_last_stay")] = 50
    rows = [
        (good, 2880, ""),
        (good, 60, ""),
        (good, 59, "outside_window"),
        (good, 2881, "outside_window"),
        (nothing, 600, "too_little_data"),
        (changed(good, age_last_stay=np.nan), 600, "too_little_data"),
        (old, 2880, "stale_input"),
        (changed(good, age_last_stay=15), 2880, "outside_domain"),
        (strange, 2880, "outside_domain"),
        (nothing, 10, "outside_window"),  # several reasons: the plainest
    ]
    found = small_model.score(np.stack([row for row, _, _ in rows]), np.array([minute for _, minute, _ in rows]))
    assert [estimate.abstention for estimate in found] == [word for _, _, word in rows]
    assert all((estimate.probability is None) == bool(estimate.abstention) for estimate in found)
    assert all(estimate.low is None and not estimate.reasons for estimate in found if estimate.abstention)


def test_loading_opens_nothing_heavy_until_a_model_is_loaded():
    code = (
        "import sys; import models.risk.artefact; "
        "heavy = {'xgboost', 'sklearn', 'pandas', 'scipy', 'mlflow', 'dagster'} & set(sys.modules); "
        "sys.exit(1 if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_references_are_quantiles_of_stays_medians(small_cohort, small_model):
    reference = next(one for one in small_model.manifest.references if one.concept == "sodium")
    from vocabulary import concepts

    bins = small_cohort.bins
    number = concepts.by_key("sodium").number
    medians = [
        np.median(values)
        for stay in range(400)
        if len(values := bins.median[(bins.concept == number) & (bins.stay == stay)])
    ]
    assert reference.values[reference.levels.index(0.5)] == pytest.approx(np.quantile(medians, 0.5))
    assert list(reference.values) == sorted(reference.values)
