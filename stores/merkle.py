"""Merkle trees: one hash for many rows, and short proofs that a row is among them or that a tree only grew.

Here: the root, inclusion proofs and consistency proofs over a sequence of leaves, and checking both.
Not here: what the leaves are and who signs the root (governance.notary).
Source: RFC 6962 section 2.1 (hashes), RFC 9162 section 2.1.3.2 and 2.1.4.2 (checking proofs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf; the first byte keeps it from being mistaken for a node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Builder:
    """The root of leaves that come one by one; memory grows with the logarithm of their number."""

    def __init__(self) -> None:
        """Begin with no leaf."""
        self.size = 0
        self._complete: list[bytes] = []  # roots of complete subtrees, the largest first: one for each bit of the size

    def add(self, data: bytes) -> None:
        """Append a leaf."""
        found = leaf_hash(data)
        size = self.size
        while size & 1:
            found = node_hash(self._complete.pop(), found)
            size >>= 1
        self._complete.append(found)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the leaves so far."""
        if not self._complete:
            return EMPTY_ROOT
        found = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            found = node_hash(left, found)
        return found


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaves' data."""
    builder = Builder()
    for leaf in leaves:
        builder.add(leaf)
    return builder.root()


def _split(size: int) -> int:
    """Return the largest power of two below a size of at least two."""
    return 1 << (size - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return node_hash(_root(hashes[:split]), _root(hashes[split:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes beside the path from a leaf to the root, the leaf's neighbour first.

    Args:
        leaves: the data of all leaves.
        index: which one, from 0.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"expected a leaf below {len(leaves)}, found {index}")
    hashes = [leaf_hash(leaf) for leaf in leaves]
    path: list[bytes] = []
    while len(hashes) > 1:
        split = _split(len(hashes))
        if index < split:
            path.append(_root(hashes[split:]))
            hashes = hashes[:split]
        else:
            path.append(_root(hashes[:split]))
            hashes, index = hashes[split:], index - split
    return path[::-1]


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether a proof shows that a tree of this size and root has this leaf at this index."""
    if not 0 <= index < size:
        return False
    found, node, last = leaf_hash(leaf), index, size - 1
    for step in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(step, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def consistency_proof(leaves: Sequence[bytes], earlier: int) -> list[bytes]:
    """Return the hashes that show that the tree of the first `earlier` leaves is the beginning of the tree of all.

    Raises:
        ValueError: `earlier` is not between 1 and the number of leaves.
    """
    if not 1 <= earlier <= len(leaves):
        raise ValueError(f"expected an earlier size between 1 and {len(leaves)}, found {earlier}")
    hashes = [leaf_hash(leaf) for leaf in leaves]
    path: list[bytes] = []
    is_known = True  # whether the earlier root itself is the subtree that is left
    while earlier != len(hashes):
        split = _split(len(hashes))
        if earlier <= split:
            path.append(_root(hashes[split:]))
            hashes = hashes[:split]
        else:
            path.append(_root(hashes[:split]))
            hashes, earlier, is_known = hashes[split:], earlier - split, False
    if not is_known:
        path.append(_root(hashes))
    return path[::-1]


def is_consistent(earlier: int, earlier_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether a proof shows that a tree grew from the one of the earlier size and root."""
    if not 1 <= earlier <= size:
        return False
    if earlier == size:
        return not proof and earlier_root == root
    steps = list(proof)
    if earlier & (earlier - 1) == 0:  # a complete tree: its root is the first step, and is not sent
        steps.insert(0, earlier_root)
    if not steps:
        return False
    node, last = earlier - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    return last == 0 and old == earlier_root and new == root
