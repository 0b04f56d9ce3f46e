"""Envelopes: the published vectors, an independent implementation, and nothing that passes for another's."""

from __future__ import annotations

import hashlib
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from stores import envelope
from stores.envelope import OVERHEAD_BYTES, ContentKey, DamagedEnvelopeError, is_sealed, key_id_of, nobody
from vocabulary.errors import BrokenInvariantError

KEY_ID = b"\x00keyid\x01\x02"
NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"
INT8 = st.integers(-(2**63), 2**63 - 1)


def derived(key: bytes, nonce: bytes) -> bytes:
    """The key of one message as C2SP XAES-256-GCM derives it, with AES done by openssl and doubling by hand."""

    def aes(block: bytes) -> bytes:
        done = subprocess.run(
            ["openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex()], input=block, capture_output=True, check=True
        )
        return done.stdout

    bits = "".join(f"{byte:08b}" for byte in aes(bytes(16)))
    shifted = int(bits[1:] + "0", 2)
    mask = (shifted ^ 0b10000111 if bits[0] == "1" else shifted).to_bytes(16)

    def masked(block: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(block, mask, strict=True))

    return aes(masked(b"\x00\x01X\x00" + nonce[:12])) + aes(masked(b"\x00\x02X\x00" + nonce[:12]))


@pytest.mark.parametrize(
    ("byte", "associated", "expected"),
    [
        # https://c2sp.org/XAES-256-GCM: one key for each branch of the doubling
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_the_published_vectors_of_xaes_256_gcm_hold(byte, associated, expected):
    key = ContentKey(KEY_ID, bytes([byte]) * 32)
    assert key._derived(NONCE).encrypt(NONCE[12:], b"XAES-256-GCM", associated).hex() == expected
    assert AESGCM(derived(bytes([byte]) * 32, NONCE)).encrypt(NONCE[12:], b"XAES-256-GCM", associated).hex() == expected


def test_an_envelope_is_laid_out_as_documented():
    raw = hashlib.sha256(b"a key").digest()
    sealed = ContentKey(KEY_ID, raw).seal(b"snapshot", 412, b"body", NONCE)
    associated = b"\x01" + KEY_ID + b"\x08snapshot" + struct.pack(">q", 412)
    expected = AESGCM(derived(raw, NONCE)).encrypt(NONCE[12:], b"body", associated)
    assert sealed == b"\x01" + KEY_ID + NONCE + expected
    # Written down once, so that a change of the layout is noticed even when both sides change.
    assert hashlib.sha256(sealed).hexdigest() == "3afe10ccef63af80803d0768a712ae31e141509431f1e66346c247d0c767a02e"


@given(raw=st.binary(min_size=32, max_size=32), purpose=st.binary(max_size=255), subject=INT8, body=st.binary())
def test_any_bytes_come_back(raw, purpose, subject, body):
    key = ContentKey(KEY_ID, raw)
    sealed = key.seal(purpose, subject, body)
    assert key.unseal(purpose, subject, sealed) == body
    assert len(sealed) == len(body) + OVERHEAD_BYTES
    assert is_sealed(sealed)
    assert key_id_of(sealed) == KEY_ID
    assert key.seal(purpose, subject, body) != sealed, "a nonce is used once"


@given(data=st.data(), body=st.binary(max_size=40))
def test_any_changed_bit_is_noticed(data, body):
    key = ContentKey(KEY_ID, bytes(32))
    sealed = bytearray(key.seal(b"p", 1, body))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedEnvelopeError):
        key.unseal(b"p", 1, bytes(sealed))


@given(cut=st.integers(0, OVERHEAD_BYTES + 3))
def test_what_is_cut_off_is_noticed(cut):
    key = ContentKey(KEY_ID, bytes(32))
    sealed = key.seal(b"p", 1, b"body")
    with pytest.raises(DamagedEnvelopeError):
        key.unseal(b"p", 1, sealed[:cut])


@pytest.mark.parametrize(
    ("purpose", "subject", "key"),
    [
        (b"other", 1, ContentKey(KEY_ID, bytes(32))),
        (b"purpose", 2, ContentKey(KEY_ID, bytes(32))),
        (b"purpose", 1, ContentKey(KEY_ID, bytes(31) + b"\x01")),
        (b"purpose", 1, ContentKey(bytes(8), bytes(32))),
    ],
)
def test_bytes_of_another_purpose_patient_or_key_are_refused(purpose, subject, key):
    sealed = ContentKey(KEY_ID, bytes(32)).seal(b"purpose", 1, b"body")
    with pytest.raises(DamagedEnvelopeError):
        key.unseal(purpose, subject, sealed)


@given(first=st.binary(max_size=20), second=st.binary(max_size=20), one=INT8, other=INT8)
def test_no_two_contexts_share_their_associated_data(first, second, one, other):
    head = b"\x01" + KEY_ID
    is_same = envelope._associated(head, first, one) == envelope._associated(head, second, other)
    assert is_same == ((first, one) == (second, other))


def test_a_key_never_shows_itself():
    key = ContentKey(KEY_ID, b"secret-secret-secret-secret-secr")
    assert "secret" not in repr(key)
    assert "secret" not in str(key)


@pytest.mark.parametrize(("key_id", "key"), [(b"short", bytes(32)), (KEY_ID, bytes(16))])
def test_a_key_of_another_size_is_refused(key_id, key):
    with pytest.raises(BrokenInvariantError):
        ContentKey(key_id, key)


def test_what_is_nobodys_belongs_to_its_utc_day():
    day_us = 86_400_000_000
    assert nobody(20_000 * day_us) == nobody(20_001 * day_us - 1) == -20_000
    assert nobody(20_001 * day_us) == -20_001
    assert nobody(0) == -1, "0 means: of today"
