"""Evidence: what an approval depends on, as one digest. Another byte of it is another evidence.

Here: putting a version and its verdicts together, canonical bytes, the digest, what is missing or failed, and what was
inconclusive, in sentences that people sign as conditions.
Not here: judging (validation), asking people (governance.approvals).
Source: design.md section 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stores.models import ModelVersion, StoredVerdict
from vocabulary import verdict as verdicts
from vocabulary.verdict import Kind, Measure, Outcome, Verdict

FORMAT: Final = "vigil.evidence.1"

INCONCLUSIVE: Final = "Inconclusive: "
"""How the condition of a finding that could not be decided begins."""
SYNTHETIC: Final = "Trained on synthetic patients: its figures mean nothing clinically."
"""A condition of every approval of such a model, shown wherever it speaks."""


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One verdict that the evidence rests on."""

    kind: Kind
    subject: str
    outcome: Outcome
    digest: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an approval depends on. Holds no patient's data."""

    format: str = FORMAT
    scope: str
    version: int
    model_digest: str
    author: str
    is_synthetic: bool
    data_fingerprint: str
    code_version: str
    lock_digest: str
    protocol: str
    protocol_digest: str
    verdicts: tuple[Judged, ...]  # by kind and subject
    sites: tuple[str, ...]  # hospitals it comes from
    conditions: tuple[str, ...]  # what was inconclusive, in words


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Evidence)


def canonical_bytes(evidence: Evidence) -> bytes:
    """Return the evidence as JSON with sorted keys: what is hashed and kept."""
    return _ENCODER.encode(evidence)


def from_bytes(body: bytes) -> Evidence:
    """Return what `canonical_bytes` wrote.

    Raises:
        msgspec.MsgspecError: it did not.
    """
    return _DECODER.decode(body)


def digest(evidence: Evidence) -> str:
    """Return the SHA-256 of the canonical bytes, hexadecimal."""
    return hashlib.sha256(canonical_bytes(evidence)).hexdigest()


def newest(stored: Iterable[StoredVerdict], kinds: Sequence[Kind]) -> list[StoredVerdict]:
    """Return the newest verdict of each subject, of these kinds only, ordered by kind and subject."""
    found: dict[tuple[int, str], StoredVerdict] = {}
    order = {kind: number for number, kind in enumerate(kinds)}
    for one in sorted(stored, key=lambda one: one.verdict_id):
        if one.verdict.kind in order:
            found[order[one.verdict.kind], one.verdict.subject] = one
    return [found[key] for key in sorted(found)]


def gather(
    version: ModelVersion, stored: Iterable[StoredVerdict], kinds: Sequence[Kind], sites: Sequence[str]
) -> Evidence:
    """Return the evidence for a version.

    Args:
        version: as registered.
        stored: verdicts kept for it; the newest of each kind and subject counts.
        kinds: those the policy wants (Lifecycle.evidence.kinds).
        sites: hospitals whose patients the verdicts are about.
    """
    used = newest(stored, kinds)
    conditions = [SYNTHETIC] if version.is_synthetic else []
    for one in used:
        conditions += findings(one.verdict)
    return Evidence(
        scope=version.scope,
        version=version.version,
        model_digest=version.model_digest,
        author=version.author,
        is_synthetic=version.is_synthetic,
        data_fingerprint=version.data_fingerprint,
        code_version=version.code_version,
        lock_digest=version.lock_digest,
        protocol=version.protocol,
        protocol_digest=version.protocol_digest,
        verdicts=tuple(
            Judged(kind=one.verdict.kind, subject=one.verdict.subject, outcome=one.verdict.outcome, digest=one.digest)
            for one in used
        ),
        sites=tuple(sorted(set(sites))),
        conditions=tuple(dict.fromkeys(conditions)),
    )


def faults(version: ModelVersion, stored: Iterable[StoredVerdict], kinds: Sequence[Kind]) -> tuple[str, ...]:
    """Return in words why a version is not validated; nothing: nobody needs to judge it again."""
    used = newest(stored, kinds)
    found = [f"no verdict on {kind}" for kind in kinds if all(one.verdict.kind is not kind for one in used)]
    for one in used:
        verdict = one.verdict
        name = f"{verdict.kind} of {verdict.subject}"
        if verdict.outcome is Outcome.FAIL:
            found.append(f"{name} failed")
        if one.digest != verdicts.digest(verdict):
            found.append(f"{name} was altered after it was kept")
        if verdict.model_digest not in {"", version.model_digest}:
            found.append(f"{name} is about another model")
        if verdict.protocol_digest not in {"", version.protocol_digest}:
            found.append(f"{name} was judged under another protocol")
        if any(measure.outcome is Outcome.FAIL for measure in verdict.measures) and verdict.outcome is Outcome.PASS:
            found.append(f"{name} passes although a measure in it failed")
    return tuple(found)


def findings(verdict: Verdict) -> list[str]:
    """Return what a verdict could not decide, a sentence each; nothing where it is not inconclusive."""
    found = [_sentence(verdict, measure) for measure in verdict.measures if measure.outcome is Outcome.INCONCLUSIVE]
    if not found and verdict.outcome is Outcome.INCONCLUSIVE:
        found = [f"{INCONCLUSIVE}{verdict.kind} of {verdict.subject}. {verdict.statement}".strip()]
    return found


def _sentence(verdict: Verdict, measure: Measure) -> str:
    where = f" ({measure.group})" if measure.group else ""
    said = "cannot be said"
    if measure.value is not None:
        said = f"{measure.value:.4g}"
        if measure.low is not None and measure.high is not None:
            said += f", {100 * measure.level:.0f} % interval {measure.low:.4g} to {measure.high:.4g}"
    bounds = [
        f"{word} {bound:.4g}"
        for word, bound in (("at least", measure.at_least), ("at most", measure.at_most))
        if bound is not None
    ]
    wanted = f"; wanted {' and '.join(bounds)}" if bounds else ""
    note = f" ({measure.note.rstrip('.')})" if measure.note else ""
    return f"{INCONCLUSIVE}{verdict.kind}, {measure.name.replace('_', ' ')}{where} {said}{wanted}{note}."


def at_the_bedside(conditions: Sequence[str]) -> tuple[str, ...]:
    """Return signed conditions as they stand beside each forecast: all but inconclusive findings, which are counted.

    Every one of them stands in the statement that was signed, and in the dossier.
    """
    kept = tuple(one for one in conditions if not one.startswith(INCONCLUSIVE))
    count = len(conditions) - len(kept)
    if not count:
        return kept
    findings = "1 inconclusive finding" if count == 1 else f"{count} inconclusive findings"
    return (*kept, f"Approved with {findings}: see its dossier.")
