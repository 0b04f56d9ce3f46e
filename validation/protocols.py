"""Clinical protocols of scores from their TOML files, checked before anything is scored with them.

Here: reading a file, its shape, that bands leave no gap and no overlap, the digest a signature is taken over.
Not here: the shape itself (vocabulary.protocol), scoring (models.risk), protocols of learned models, which share the
folder and say `kind = "model"` (validation.model_protocol), signatures (governance).
"""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

import msgspec

from validation import model_protocol
from vocabulary.errors import ConfigurationError
from vocabulary.protocol import Band, Component, Criterion, Kind, Level, Protocol


class _Kind(msgspec.Struct, frozen=True):
    kind: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    title: str
    version: str
    source: str
    kind: Kind
    component: tuple[Component, ...]
    level: tuple[Level, ...]


def load(path: Path | Traversable) -> Protocol:
    """Read one protocol.

    Raises:
        ConfigurationError: the file is not there, not of the shape, or its bands or levels contradict themselves;
            says which file and what to change.
    """
    try:
        body = path.read_bytes()
        parsed = msgspec.toml.decode(body, type=_File)
    except OSError as error:
        raise ConfigurationError(f"protocol {path.name} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"protocol {path.name} is not of the expected shape: {error}") from error
    found = _faults(parsed)
    if found:
        raise ConfigurationError(f"protocol {path.name} contradicts itself: {'; '.join(found)}")
    return Protocol(
        name=parsed.name,
        title=parsed.title,
        version=parsed.version,
        digest=hashlib.sha256(body).hexdigest(),
        source=parsed.source,
        kind=parsed.kind,
        components=parsed.component,
        levels=parsed.level,
    )


def load_all(folder: Path | Traversable | None = None) -> dict[str, Protocol]:
    """Read every score's protocol of a folder (None: Vigil's own), by name.

    Raises:
        ConfigurationError: see `load`; also when two files carry one name.
    """
    where = files("validation") / "protocols" if folder is None else folder
    protocols: dict[str, Protocol] = {}
    for path in sorted(where.iterdir(), key=lambda entry: entry.name):
        if path.name.endswith(".toml") and not _is_of_a_model(path):
            protocol = load(path)
            if protocol.name in protocols:
                raise ConfigurationError(f"protocol {path.name}: another file is named {protocol.name} too")
            protocols[protocol.name] = protocol
    if not protocols:
        raise ConfigurationError(f"no protocol in {where}: expected files like news2.toml")
    return protocols


def _is_of_a_model(path: Path | Traversable) -> bool:
    """Return whether a file is a learned model's protocol; what cannot be read is left to `load`, which says why."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_Kind).kind == model_protocol.KIND
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False


def _faults(parsed: _File) -> list[str]:
    """Return what is wrong, in words."""
    found = [f"{field} is empty" for field in ("name", "title", "version", "source") if not getattr(parsed, field)]
    names = [component.name for component in parsed.component]
    if not names or len(set(names)) != len(names):
        found.append("components must be there and have different names")
    if parsed.kind is Kind.RATIO and len(names) != 2:
        found.append("a ratio has two components")
    for component in parsed.component:
        found.extend(_component_faults(component, parsed.kind))
    found.extend(_level_faults(parsed))
    return found


def _component_faults(component: Component, kind: Kind) -> list[str]:
    if not component.criteria:
        return [f"{component.name} has no criterion"]
    found = []
    for criterion in (*component.criteria, *([component.alternative] if component.alternative else [])):
        if kind is Kind.RATIO:
            if criterion.bands or criterion.on_air or criterion.on_oxygen:
                found.append(f"{component.name} of a ratio has no bands")
        elif criterion.on_air or criterion.on_oxygen:
            found.extend(f"{component.name} on air: {fault}" for fault in _band_faults(criterion, criterion.on_air))
            found.extend(
                f"{component.name} on oxygen: {fault}" for fault in _band_faults(criterion, criterion.on_oxygen)
            )
            if criterion.bands:
                found.append(f"{component.name} has bands both with and without regard to oxygen")
        else:
            found.extend(f"{component.name}: {fault}" for fault in _band_faults(criterion, criterion.bands))
    return found


def _band_faults(criterion: Criterion, bands: tuple[Band, ...]) -> list[str]:
    """Return where bands, in order, leave a gap, overlap, or do not reach from end to end."""
    if not bands:
        return ["no bands"]
    if not 0 <= criterion.decimals <= 6:
        return ["decimals must be 0 to 6"]
    found: list[str] = []
    step = Decimal(1).scaleb(-criterion.decimals)
    for band in bands:
        limits = [limit for limit in (band.low, band.high) if limit is not None]
        found.extend(f"limit {limit} is finer than {step}" for limit in limits if not _is_step(limit, step))
        if band.low is not None and band.high is not None and band.low > band.high:
            found.append(f"{band.low} is above {band.high}")
        if band.points < 0:
            found.append("points below zero")
    if bands[0].low is not None or bands[-1].high is not None:
        found.append("the first band must have no low and the last no high limit")
    for before, after in pairwise(bands):
        if before.high is None or after.low is None:
            found.append("an open limit between bands")
        elif Decimal(repr(after.low)) - Decimal(repr(before.high)) != step:
            found.append(f"from {before.high} to {after.low} is not one step of {step}")
    return found


def _is_step(limit: float, step: Decimal) -> bool:
    return math.isfinite(limit) and Decimal(repr(limit)) % step == 0


def _level_faults(parsed: _File) -> list[str]:
    if not parsed.level:
        return ["no levels"]
    found = []
    if len({level.word for level in parsed.level}) != len(parsed.level):
        found.append("two levels have one word")
    limits = [level.at_least for level in parsed.level if level.at_least is not None]
    if parsed.level[0].at_least is None or any(after <= before for before, after in pairwise(limits)):
        found.append("levels must rise, the first with at_least")
    if any(level.at_least is None and level.single is None for level in parsed.level):
        found.append("a level needs at_least or single")
    return found
