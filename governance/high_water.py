"""How far the serving record was when we last believed it, in a file outside of the database.

Rows cut off the record's end would undo a rollback without a trace in the rows that are left. So whoever judged the
record notes its newest row, which approvals were used up, and which versions were rolled back; the next judgement
misses what is gone.

Here: the note (anchors/serving.json), reading it, moving it forward.
Not here: the judgement (governance.serving).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vocabulary.errors import ConfigurationError


class HighWater(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one scope's record."""

    serving_id: int = 0  # newest row
    digest: str = ""  # of it (governance.statements.row_digest)
    at_us: int = 0  # the latest time any row named
    requests: dict[str, str] = msgspec.field(default_factory=dict)  # used up: request → digest of the row it made
    barred: dict[str, int] = msgspec.field(default_factory=dict)  # `bar_key` → serving_id of the rollback
    mends: dict[str, str] = msgspec.field(
        default_factory=dict
    )  # promotion that mended the record: `mend_key` → history


def bar_key(slot: str, model_digest: str, evidence_digest: str) -> str:
    """Return how a version is barred: with this evidence, in this slot."""
    return f"{slot} {model_digest} {evidence_digest}"


def mend_key(serving_id: int, digest: str) -> str:
    """Return how a promotion that mended a broken record is noted: its place and its digest."""
    return f"{serving_id} {digest}"


def path_of(anchors_dir: Path) -> Path:
    """Return the file of the note."""
    return anchors_dir / "serving.json"


def read(anchors_dir: Path) -> dict[str, HighWater]:
    """Return what was seen, by scope; nothing where nothing ever was.

    Raises:
        ConfigurationError: the file is damaged: an undone rollback could not be told from none.
    """
    path = path_of(anchors_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, HighWater])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigurationError(
            f"{path} says how far the serving record was, and cannot be read. Put it back from a copy: until then no "
            "model speaks."
        ) from None


def remember(anchors_dir: Path, seen: Mapping[str, HighWater]) -> bool:
    """Move the notes of scopes forward, never back, and return whether anything was new.

    Call it with what a judgement returned, once its rows are committed. Several processes may.

    Raises:
        ConfigurationError: the file is damaged or cannot be written.
    """
    if not seen:
        return False
    with _locked(anchors_dir):
        known = read(anchors_dir)
        merged = dict(known)
        for scope, new in seen.items():
            merged[scope] = _later(known.get(scope, HighWater()), new)
        if merged == known:
            return False
        _replace(path_of(anchors_dir), msgspec.json.format(msgspec.json.encode(merged, order="sorted")) + b"\n")
        return True


def _later(known: HighWater, new: HighWater) -> HighWater:
    ahead = new if new.serving_id > known.serving_id else known
    return HighWater(
        serving_id=ahead.serving_id,
        digest=ahead.digest,
        at_us=max(known.at_us, new.at_us),
        requests=known.requests | {key: value for key, value in new.requests.items() if key not in known.requests},
        barred=known.barred | {key: max(value, known.barred.get(key, 0)) for key, value in new.barred.items()},
        mends=new.mends | known.mends,
    )


@contextmanager
def _locked(anchors_dir: Path) -> Iterator[None]:
    try:
        anchors_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (anchors_dir / "serving.lock").open("a")
    except OSError as error:
        raise ConfigurationError(f"The anchors {anchors_dir} cannot be written: {error.strerror}.") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None
