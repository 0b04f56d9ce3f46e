"""Whether bytes are well-formed UBJSON of one object: looked at before XGBoost is, which aborts the process on others.

Here: a walk over the structure, in strict bounds, and the keys of the outermost object.
Not here: what the values mean (XGBoost), whether the bytes are the ones that were approved (their digest).
Source: Universal Binary JSON draft 12, as XGBoost writes it: big-endian, keys and strings with a typed length, typed
arrays as `[$type#count`.
"""

from __future__ import annotations

from typing import Final

_SIZES: Final = {
    ord(key): size
    for key, size in {"Z": 0, "T": 0, "F": 0, "i": 1, "U": 1, "C": 1, "I": 2, "l": 4, "d": 4, "L": 8, "D": 8}.items()
}
_INTEGERS: Final = {ord(key): (size, key != "U") for key, size in (("i", 1), ("U", 1), ("I", 2), ("l", 4), ("L", 8))}
_DEEPEST: Final = 32


def keys(content: bytes) -> frozenset[bytes] | None:
    """Return the outermost object's keys, or None where the bytes are not exactly one well-formed object."""
    try:
        found, end = _object(content, 0, 0)
    except (IndexError, ValueError):
        return None
    return frozenset(found) if end == len(content) else None


def _object(content: bytes, at: int, depth: int) -> tuple[list[bytes], int]:
    if content[at] != ord("{") or depth > _DEEPEST:
        raise ValueError
    at += 1
    found = []
    while content[at] != ord("}"):
        length, at = _length(content, at)
        found.append(content[at : at + length])
        at = _value(content, at + length, depth)
    return found, at + 1


def _value(content: bytes, at: int, depth: int) -> int:
    """Return where the value that begins at `at` ends."""
    mark = content[at]
    if mark in _SIZES:
        return _within(content, at + 1 + _SIZES[mark])
    if mark == ord("S"):
        length, at = _length(content, at + 1)
        return _within(content, at + length)
    if mark == ord("{"):
        return _object(content, at, depth + 1)[1]
    if mark == ord("["):
        return _array(content, at + 1, depth + 1)
    raise ValueError


def _array(content: bytes, at: int, depth: int) -> int:
    if depth > _DEEPEST:
        raise ValueError
    kind = None
    if content[at] == ord("$"):
        kind, at = content[at + 1], at + 2
        if content[at] != ord("#"):
            raise ValueError
    if content[at] == ord("#"):
        count, at = _length(content, at + 1)
        if kind is not None:
            return _within(content, at + count * _SIZES[kind]) if kind in _SIZES else _refuse()
        for _ in range(count):
            at = _value(content, at, depth)
        return at
    while content[at] != ord("]"):
        at = _value(content, at, depth)
    return at + 1


def _length(content: bytes, at: int) -> tuple[int, int]:
    if content[at] not in _INTEGERS:
        raise ValueError
    size, is_signed = _INTEGERS[content[at]]
    end = _within(content, at + 1 + size)
    length = int.from_bytes(content[at + 1 : end], "big", signed=is_signed)
    if length < 0:
        raise ValueError
    return length, end


def _within(content: bytes, end: int) -> int:
    if end > len(content):
        raise ValueError
    return end


def _refuse() -> int:
    raise ValueError
