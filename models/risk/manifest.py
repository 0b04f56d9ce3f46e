"""A model's manifest: everything that makes the model what it is, as TOML. Its digest is the model's.

Here: the shape, its bytes, reading them back.
Not here: scoring by it (models.risk.artefact), making it (models.risk.training), where files lie (stores.model_files).

Members lie beside it as files by SHA-256, so the manifest's own digest pins every byte of the model. No pickle:
Boosters are XGBoost's UBJSON, the additive member is JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from vocabulary.errors import ConfigurationError

FORMAT: Final = "vigil.risk_model.1"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the manifest."""


class FeatureSet(_Part, frozen=True, kw_only=True):
    """Which columns the model reads, in which order."""

    name: str
    version: int
    digest: str  # of models.feature_table
    columns: int


class Member(_Part, frozen=True, kw_only=True):
    """One part of the ensemble."""

    kind: Literal["xgboost", "additive"]
    digest: str  # SHA-256 of its bytes
    weight: float  # of its log-odds; all weights sum to 1


class Calibration(_Part, frozen=True, kw_only=True):
    """Logistic recalibration of the ensemble's log-odds, fitted on out-of-fold ones, with its covariance."""

    intercept: float
    slope: float
    intercept_variance: float
    slope_variance: float
    covariance: float


class Limits(_Part, frozen=True, kw_only=True):
    """When the model does not speak."""

    first_minute: int  # of the stay
    last_minute: int
    least_groups: int  # of the key groups below, with any value since admission
    key_groups: tuple[str, ...]
    stale_after_hours: float  # since the last value of any series it reads
    least_age_years: float
    largest_share_outside: float  # of the measured features that lie beyond what training saw


class Reference(_Part, frozen=True, kw_only=True):
    """How one concept was distributed where the model learned: one value a stay, the median of its values."""

    concept: str
    levels: tuple[float, ...]
    values: tuple[float, ...]


class Importance(_Part, frozen=True, kw_only=True):
    """Mean absolute contribution of one clinical group over the training stays, in log-odds."""

    group: str
    log_odds: float


class Monotone(_Part, frozen=True, kw_only=True):
    """A direction the model may not contradict."""

    series: str
    sign: int
    source: str


class Training(_Part, frozen=True, kw_only=True):
    """What it learned from, and how."""

    stays: int
    deaths: int
    hours: tuple[int, ...]  # a row of each stay at each of these hours
    hour_weights: tuple[float, ...]
    data_fingerprint: str  # SHA-256 of bins, stays and labels
    code_version: str
    lock_digest: str
    salt: str  # of the folds; the cohort's split is sha256(salt:record) % 10
    folds: tuple[int, ...]  # of ten: those it learned from
    seed: int
    library: str  # "xgboost 3.2.0"
    chosen: dict[str, float]  # what tuning inside the training part chose


class Manifest(_Part, frozen=True, kw_only=True):
    """The whole."""

    format: Literal["vigil.risk_model.1"] = FORMAT
    scope: str
    outcome: str
    is_synthetic: bool
    protocol: str
    protocol_digest: str
    level: float  # of the interval
    interval: str  # what the interval is, in words
    bounds_low: tuple[float, ...]  # each column's smallest value in training; -inf where it was never measured
    bounds_high: tuple[float, ...]
    features: FeatureSet
    calibration: Calibration
    limits: Limits
    training: Training
    members: tuple[Member, ...]
    monotone: tuple[Monotone, ...]
    importance: tuple[Importance, ...]
    references: tuple[Reference, ...]


def to_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as TOML; the same manifest always gives the same bytes."""
    return _toml(msgspec.to_builtins(manifest)).encode()


def from_bytes(body: bytes) -> Manifest:
    """Return what `to_bytes` wrote.

    Raises:
        ConfigurationError: no manifest of this format.
    """
    try:
        return msgspec.toml.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"expected a model's manifest of format {FORMAT}: {error}; it was made by another version of Vigil"
        ) from None


def digest(body: bytes) -> str:
    """Return the model's digest: SHA-256 of its manifest's bytes, hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def _toml(tables: Mapping[str, object]) -> str:
    """Return tables of plain values, of tables, and of lists of tables, as TOML 1.0."""
    lines = [f"{key} = {_value(value)}" for key, value in tables.items() if not _is_table(value)]
    for key, value in tables.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_value(one)}" for name, one in value.items())]
        elif _is_table(value):
            assert isinstance(value, list | tuple)
            for each in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {_value(one)}" for name, one in each.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(each, dict) for each in value)
    )


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            if math.isfinite(value):
                return repr(value)
            return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + " }"
        case _:
            raise TypeError(f"expected a plain value, found {type(value).__name__}")
