"""A verdict: what a judgement of data or of a model found, in numbers, under a named protocol.

Here: its shape, canonical bytes and digest, and how several outcomes make one.
Not here: judging (validation), keeping verdicts (stores.models), what follows from one (governance).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

FORMAT: Final = "vigil.verdict.1"


class Outcome(StrEnum):
    """What a judgement says. Inconclusive is not a pass: it needs a person's signed condition."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Kind(StrEnum):
    """What was judged, and so which rule reacts to it."""

    EXPECTATIONS = "expectations"  # is the data what it should be
    DRIFT = "drift"  # is it distributed as where the model learned
    BIAS = "bias"  # do groups fare alike
    CLINICAL = "clinical"  # does the model discriminate, is it calibrated, what would it cost to act on
    LIVE = "live"  # of a model in service


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One number of a verdict, with its interval and what was allowed."""

    name: str  # "auroc", "false_negative_rate_difference", "population_stability_index"
    value: float | None  # None: could not be said; `note` says why
    unit: str = "1"
    low: float | None = None  # interval at `level`
    high: float | None = None
    level: float = 0.95
    at_least: float | None = None  # the protocol's bounds
    at_most: float | None = None
    group: str = ""  # "sex=female", "age=75-", "heart_rate"; "" for all
    count: int = 0  # stays, rows or values behind it
    outcome: Outcome = Outcome.PASS
    note: str = ""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One curve for a plot: a calibration curve, a decision curve, alerts by threshold."""

    name: str  # "calibration", "decision_model", "decision_all", "alert_burden"
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    count: tuple[int, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement. Holds no patient's data: counts, rates and curves only."""

    kind: Kind
    subject: str  # "mortality" with the model's digest below, or an asset key such as "normalized/events"
    outcome: Outcome
    statement: str  # one sentence for a person
    measures: tuple[Measure, ...]
    series: tuple[Series, ...] = ()
    method: str = ""  # how, by name: "population stability index, 10 bins (evidently 0.7.23)"
    protocol: str = ""  # "mortality@1"
    protocol_digest: str = ""  # SHA-256 of its file, hexadecimal
    model_digest: str = ""  # of the artefact judged; "" where data was
    data_fingerprint: str = ""  # SHA-256 of what was judged
    made_at_us: int = 0
    format: str = FORMAT


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Verdict)


def canonical_bytes(verdict: Verdict) -> bytes:
    """Return the verdict as JSON with sorted keys: the bytes that are hashed and kept."""
    return _ENCODER.encode(verdict)


def from_bytes(body: bytes) -> Verdict:
    """Return the verdict that `canonical_bytes` wrote.

    Raises:
        msgspec.MsgspecError: it did not.
    """
    return _DECODER.decode(body)


def digest(verdict: Verdict) -> str:
    """Return the SHA-256 of a verdict's canonical bytes, hexadecimal."""
    return hashlib.sha256(canonical_bytes(verdict)).hexdigest()


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return fail if any failed, else inconclusive if any is, else pass; of none, inconclusive."""
    found = set(outcomes)
    if Outcome.FAIL in found:
        return Outcome.FAIL
    if Outcome.INCONCLUSIVE in found or not found:
        return Outcome.INCONCLUSIVE
    return Outcome.PASS
