"""Merkle trees against the published vectors of Certificate Transparency, and against a definition spelled out anew."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.merkle import (
    EMPTY_ROOT,
    Builder,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    leaf_hash,
    root_of,
)

# The inputs and roots that Certificate Transparency's own reference tests use (RFC 6962 trees of 0 to 8 leaves).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    n = len(leaves)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return hashlib.sha256(b"\x01" + definition(leaves[:k]) + definition(leaves[k:])).digest()


def test_roots_are_those_of_certificate_transparency():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [root_of(CT_LEAVES[:size]).hex() for size in range(1, 9)] == CT_ROOTS


def test_proofs_are_those_of_certificate_transparency():
    proof = [step.hex() for step in inclusion_proof(CT_LEAVES, 0)]
    assert proof == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    grown = [step.hex() for step in consistency_proof(CT_LEAVES, 6)]
    assert grown == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@given(LEAVES)
def test_a_root_built_leaf_by_leaf_is_the_defined_one(leaves):
    builder = Builder()
    for size, leaf in enumerate(leaves, start=1):
        builder.add(leaf)
        assert builder.size == size
        assert builder.root() == definition(leaves[:size])


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70, unique=True), st.data())
def test_each_leaf_is_proven_and_nothing_else_is(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, root = inclusion_proof(leaves, index), definition(leaves)
    assert is_included(leaves[index], index, len(leaves), proof, root)
    assert len(proof) <= max(0, (len(leaves) - 1).bit_length())
    assert not is_included(leaves[index] + b"x", index, len(leaves), proof, root)
    assert not is_included(leaves[index], index, len(leaves), [*proof, bytes(32)], root)
    other = data.draw(st.integers(0, len(leaves) - 1))
    assert is_included(leaves[index], other, len(leaves), proof, root) == (other == index)
    if proof:
        step = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:step], bytes(32), *proof[step + 1 :]]
        assert not is_included(leaves[index], index, len(leaves), bent, root)
        assert not is_included(leaves[index], index, len(leaves), proof[:-1], root)


@given(LEAVES, st.data())
def test_a_tree_that_grew_is_proven_and_one_that_changed_is_not(leaves, data):
    earlier = data.draw(st.integers(1, len(leaves)))
    proof = consistency_proof(leaves, earlier)
    old, new = definition(leaves[:earlier]), definition(leaves)
    assert is_consistent(earlier, old, len(leaves), new, proof)
    changed = list(leaves[:earlier])
    place = data.draw(st.integers(0, earlier - 1))
    changed[place] += b"x"
    assert not is_consistent(earlier, definition(changed), len(leaves), new, proof)
    assert not is_consistent(earlier, old, len(leaves), bytes(32), proof)
    assert not is_consistent(earlier, old, len(leaves), new, [*proof, bytes(32)])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_leaf_that_is_not_there_is_neither_given_nor_believed(index, size):
    with pytest.raises(ValueError, match="expected a leaf"):
        inclusion_proof([b"a"] * size, index)
    assert not is_included(b"a", index, size, [], leaf_hash(b"a"))


@pytest.mark.parametrize("earlier", [0, 4])
def test_an_earlier_size_that_cannot_be_is_refused(earlier):
    with pytest.raises(ValueError, match="earlier size"):
        consistency_proof([b"a", b"b", b"c"], earlier)
    assert not is_consistent(earlier, bytes(32), 3, root_of([b"a", b"b", b"c"]), [])
