"""The protocol a learned model is judged by: what it must reach, for whom, and when it must fall silent.

Here: its shape, reading it from TOML, the checks that make it one whole, the digest a signature is taken over.
Not here: bands of scores (validation.protocols), judging (validation.clinical, bias, drift, live), what follows from a
verdict (governance.lifecycle, governance.rollback).
Every number of a file carries its reason there, as a comment or in a field `reason` that the dossier prints.
"""

from __future__ import annotations

import hashlib
import math
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import msgspec

from vocabulary.errors import ConfigurationError

KIND: Final = "model"
"""What a protocol's `kind` says when it is a model's; other kinds are scores'."""

MODELS: Final = ("mortality",)

Metric = Literal[
    "auroc",
    "auprc",
    "brier",
    "scaled_brier",
    "log_loss",
    "calibration_intercept",
    "calibration_slope",
    "integrated_calibration_index",
    "expected_calibration_error",
    "min_se_ppv",
    "sensitivity",
    "specificity",
    "positive_predictive_value",
    "negative_predictive_value",
    "net_benefit_over_none",
    "net_benefit_over_all",
    "alerts_per_patient_day",
    "alerts_per_caught_event",
    "abstention_rate",
]
Rate = Literal[
    "false_negative_rate",
    "false_positive_rate",
    "selection_rate",
    "positive_predictive_value",
    "auroc",
    "observed_to_expected",
]
Attribute = Literal["sex", "age"]
DriftMethod = Literal["psi", "ks", "wasserstein", "jensenshannon"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class Bound(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one metric must reach at the primary hour. The whole interval counts, never the point alone."""

    metric: Metric
    at_least: float | None = None
    at_most: float | None = None
    reason: str


class Attention(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When an estimate raises a clinician's attention, and when it may do so again."""

    threshold: float  # probability at or above which a patient's risk is called high
    rearm_below: float  # a new alert needs the risk to have been below this since the last
    reason: str


class Timing(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When the model may speak, and at which hours it is judged."""

    first_hour: int
    last_hour: int
    primary_hour: int  # the bounds hold here
    judged_hours: tuple[int, ...]


class HeldOut(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much unseen evidence a conclusive judgement needs, and how its intervals are made."""

    least_stays: int
    least_events: int
    level: float  # of every interval
    bootstrap_repetitions: int
    seed: int


class BiasRule(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one group's rate may lie from everybody else's."""

    measure: Rate
    attribute: Attribute
    at_most: float | None = None  # absolute difference; of observed_to_expected the ratio, either way; None: shown
    reason: str


class Bias(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which groups are looked at, and which differences are too large."""

    age_bands_from_years: tuple[int, ...]  # lower edges, rising; the last band is open
    smallest_group: int  # stays; smaller groups are not shown at all
    fewest_events: int  # deaths (or survivors) a rate is made of; fewer is inconclusive
    rule: tuple[BiasRule, ...]


class DriftRule(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one kind of column is compared with where the model learned."""

    kind: Literal["continuous", "discrete", "prediction"]
    method: DriftMethod
    at_most: float  # a distance; of ks the family-wise level: drifted where Holm's adjusted p-value is at or below it
    severe_above: float | None = None  # one such column alone fails the verdict; None: none does alone


class Drift(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When data has moved away."""

    least_rows: int
    most_distinct_values_of_discrete: int
    share_of_columns_at_most: float
    missing_rate_difference_at_most: float
    missing_rate_difference_severe_above: float  # one such column alone fails the verdict
    prevalence_difference_at_most: float
    rule: tuple[DriftRule, ...]


class LiveCalibration(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When observed deaths contradict the expected ones."""

    observed_to_expected_at_least: float
    observed_to_expected_at_most: float
    least_stays: int
    window_days: int


class LiveAlerts(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When attention is raised too often."""

    per_patient_day_at_most: float
    first_alert_share: float  # of newly watched patients who may be high at once, before the rate begins to count
    least_alerts: int
    window_hours: float


class LiveInputs(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When values no longer look like those the model learned from."""

    share_outside_at_most: float  # of patients whose values lie outside the reference's central range
    distance_at_most: float  # Kolmogorov distance at which a known factor is called a change of unit
    distance_at_most_unexplained: float  # and at which the input is called faulty though no factor explains it
    refused_share_at_most: float  # of values that were refused as implausible
    least_patients: int
    window_hours: float


class Live(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What silences a model in service."""

    level: float  # of every live interval: high, since it is looked at again and again
    calibration: LiveCalibration
    subgroup: LiveCalibration
    alerts: LiveAlerts
    inputs: LiveInputs


class _File(_Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["model"]
    name: str
    title: str
    version: str
    source: str
    outcome: str
    horizon: str
    timing: Timing
    attention: Attention
    held_out: HeldOut
    bound: tuple[Bound, ...]
    bias: Bias
    drift: Drift
    live: Live


class ModelProtocol(_File, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model protocol with the SHA-256 of the bytes it was read from."""

    digest: str

    @property
    def label(self) -> str:
        """Return name and version, as verdicts carry them."""
        return f"{self.name}@{self.version}"

    def bound_of(self, metric: str) -> Bound | None:
        """Return what a metric must reach, or None where the protocol only shows it."""
        return next((bound for bound in self.bound if bound.metric == metric), None)

    def drift_rule(self, kind: str) -> DriftRule:
        """Return how columns of a kind are compared."""
        return next(rule for rule in self.drift.rule if rule.kind == kind)


def load(name_or_path: str | Path | Traversable = "mortality") -> ModelProtocol:
    """Read one model protocol: Vigil's own by name, or any file.

    Raises:
        ConfigurationError: the file is not there, not of the shape, or contradicts itself; says which file and where.
    """
    path = files("validation") / "protocols" / f"{name_or_path}.toml" if isinstance(name_or_path, str) else name_or_path
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"model protocol {path.name} cannot be read: {error.strerror}") from error
    return parse(body, path.name)


def parse(body: bytes, where: str = "model protocol") -> ModelProtocol:
    """Return the protocol that a file's bytes spell out.

    Raises:
        ConfigurationError: see `load`.
    """
    try:
        parsed = msgspec.toml.decode(body, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"model protocol {where} is not of the expected shape: {error}") from error
    found = _faults(parsed)
    if found:
        raise ConfigurationError(f"model protocol {where} contradicts itself: {'; '.join(found)}")
    fields = {field: getattr(parsed, field) for field in parsed.__struct_fields__}
    return ModelProtocol(**fields, digest=hashlib.sha256(body).hexdigest())


def _faults(parsed: _File) -> list[str]:
    """Return what is wrong, in words."""
    words = ("name", "title", "version", "source", "outcome", "horizon")
    found = [f"{field} is empty" for field in words if not getattr(parsed, field)]
    found.extend(_timing_faults(parsed.timing))
    found.extend(_bound_faults(parsed.bound))
    found.extend(_bias_faults(parsed.bias))
    found.extend(_drift_faults(parsed.drift))
    found.extend(_number_faults(parsed))
    return found


def _timing_faults(timing: Timing) -> list[str]:
    found = []
    if not 0 <= timing.first_hour < timing.last_hour:
        found.append("timing: first_hour must be before last_hour")
    if any(after <= before for before, after in pairwise(timing.judged_hours)):
        found.append("timing: judged_hours must rise")
    if timing.primary_hour not in timing.judged_hours:
        found.append("timing: primary_hour must be among judged_hours")
    if any(not timing.first_hour <= hour <= timing.last_hour for hour in timing.judged_hours):
        found.append("timing: judged_hours must lie where the model may speak")
    return found


def _bound_faults(bounds: tuple[Bound, ...]) -> list[str]:
    found = []
    if not bounds or len({bound.metric for bound in bounds}) != len(bounds):
        found.append("bounds must be there, one a metric")
    for bound in bounds:
        limits = [limit for limit in (bound.at_least, bound.at_most) if limit is not None]
        if not limits or not all(map(math.isfinite, limits)) or limits != sorted(limits):
            found.append(f"bound of {bound.metric}: expected at_least, at_most or both, in order")
        if not bound.reason:
            found.append(f"bound of {bound.metric} gives no reason")
    return found


def _bias_faults(bias: Bias) -> list[str]:
    found = []
    edges = bias.age_bands_from_years
    if not edges or edges[0] < 0 or any(after <= before for before, after in pairwise(edges)):
        found.append("bias: age bands must rise")
    if bias.smallest_group < 10 or bias.fewest_events < 1:
        found.append("bias: smallest_group must be 10 or more and fewest_events 1 or more")
    pairs = [(rule.measure, rule.attribute) for rule in bias.rule]
    if not pairs or len(set(pairs)) != len(pairs):
        found.append("bias: rules must be there, one a measure and attribute")
    for rule in bias.rule:
        smallest = 1.0 if rule.measure == "observed_to_expected" else 0.0
        if rule.at_most is not None and not smallest < rule.at_most < math.inf:
            found.append(f"bias: {rule.measure} by {rule.attribute} must allow more than {smallest:g}")
        if not rule.reason:
            found.append(f"bias: {rule.measure} by {rule.attribute} gives no reason")
    return found


def _drift_faults(drift: Drift) -> list[str]:
    found = []
    kinds = [rule.kind for rule in drift.rule]
    if sorted(kinds) != ["continuous", "discrete", "prediction"]:
        found.append("drift: expected one rule each for continuous, discrete and prediction")
    for rule in drift.rule:
        if rule.kind == "discrete" and rule.method in {"ks", "wasserstein"}:
            found.append(f"drift: {rule.method} is not for discrete columns")
        if rule.severe_above is not None and (rule.method == "ks" or rule.severe_above <= rule.at_most):
            found.append(f"drift: severe_above of {rule.kind} must be above at_most, and is not for ks")
    return found


def _number_faults(parsed: _File) -> list[str]:
    """Return numbers outside what they can mean."""
    drift, live = parsed.drift, parsed.live
    shares = {
        "attention.threshold": parsed.attention.threshold,
        "attention.rearm_below": parsed.attention.rearm_below,
        "held_out.level": parsed.held_out.level,
        "live.level": live.level,
        "drift.share_of_columns_at_most": drift.share_of_columns_at_most,
        "drift.missing_rate_difference_at_most": drift.missing_rate_difference_at_most,
        "drift.missing_rate_difference_severe_above": drift.missing_rate_difference_severe_above,
        "drift.prevalence_difference_at_most": drift.prevalence_difference_at_most,
        "live.alerts.first_alert_share": live.alerts.first_alert_share,
        "live.inputs.share_outside_at_most": live.inputs.share_outside_at_most,
        "live.inputs.distance_at_most": live.inputs.distance_at_most,
        "live.inputs.distance_at_most_unexplained": live.inputs.distance_at_most_unexplained,
        "live.inputs.refused_share_at_most": live.inputs.refused_share_at_most,
    }
    found = [f"{name} must lie between 0 and 1" for name, value in shares.items() if not 0 < value < 1]
    least = {
        "held_out.least_stays": parsed.held_out.least_stays,
        "held_out.least_events": parsed.held_out.least_events,
        "held_out.bootstrap_repetitions": parsed.held_out.bootstrap_repetitions - 99,
        "drift.least_rows": drift.least_rows,
        "drift.most_distinct_values_of_discrete": drift.most_distinct_values_of_discrete - 1,
        "live.calibration.least_stays": live.calibration.least_stays,
        "live.calibration.window_days": live.calibration.window_days,
        "live.subgroup.least_stays": live.subgroup.least_stays,
        "live.subgroup.window_days": live.subgroup.window_days,
        "live.alerts.per_patient_day_at_most": live.alerts.per_patient_day_at_most,
        "live.alerts.least_alerts": live.alerts.least_alerts,
        "live.alerts.window_hours": live.alerts.window_hours,
        "live.inputs.least_patients": live.inputs.least_patients,
        "live.inputs.window_hours": live.inputs.window_hours,
    }
    found.extend(f"{name} is too small" for name, value in least.items() if not 0 < value < math.inf)
    if parsed.attention.rearm_below > parsed.attention.threshold:
        found.append("attention: rearm_below must not be above threshold")
    for name, limits in (("calibration", live.calibration), ("subgroup", live.subgroup)):
        if not 0 < limits.observed_to_expected_at_least < 1 < limits.observed_to_expected_at_most < math.inf:
            found.append(f"live.{name}: observed_to_expected must allow 1")
    return found
