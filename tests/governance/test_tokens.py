"""Access tokens: the issuer's own are accepted, and nothing else is, whoever made it and however it is broken."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from governance.access import Role
from governance.jws import LONGEST_TOKEN
from governance.tokens import BadTokenError, ClaimMap, Once, TokenVerifier
from vocabulary.clock import ManualClock

ISSUER = "https://login.example.org/realms/hospital"
AUDIENCE = "urn:vigil:api"
NOW_S = 1_795_000_000
CLAIM_MAP = ClaimMap(
    "roles", "units", "practitioner", {"Pflege": "nurse", "integration": "service", "root": "operator"}
)
CERTIFICATE = b"a client certificate, DER"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def as_json(value) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def signature_of(key, algorithm: str, message: bytes) -> bytes:
    """Sign by hand: joserfc would refuse to make most of what is tried here."""
    if algorithm == "PS256":
        return key.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        size = (key.key_size + 7) // 8
        return r.to_bytes(size) + s.to_bytes(size)
    if isinstance(key, bytes):
        return hmac.digest(key, message, "sha256")
    return key.sign(message)


class Forge:
    """Makes good tokens, and any bad one."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.known = {"rsa": self.rsa, "ec": self.ec, "ed": self.ed}

    async def key(self, kid, algorithm):
        if kid not in self.known:
            raise BadTokenError("unknown-key")
        return self.known[kid].public_key()

    def claims(self, **changes):
        base = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "u-17", "client_id": "viewer", "iat": NOW_S - 10,
            "exp": NOW_S + 290, "jti": "j1", "roles": ["nurse"], "units": ["ICU-A"], "practitioner": "P-1",
            "name": "Nora Lind", "scope": "openid",
        }  # fmt: skip
        return {name: value for name, value in (base | changes).items() if value is not ...}

    def token(self, claims=None, *, header=None, key=None, algorithm="RS256", kid="rsa", **changes):
        head = {"alg": algorithm, "kid": kid, "typ": "at+jwt"}
        if isinstance(header, dict):
            head = {name: value for name, value in (head | header).items() if value is not ...}
        elif header is not None:
            head = header
        body = self.claims(**changes) if claims is None else claims
        signed = f"{b64(as_json(head))}.{b64(as_json(body))}"
        return f"{signed}.{b64(signature_of(key or self.known[kid], algorithm, signed.encode()))}"

    def public_pem(self) -> bytes:
        return self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def public_jwk(self, key):
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "n": b64(numbers.n.to_bytes(256)), "e": b64(numbers.e.to_bytes(3))}


@pytest.fixture(scope="module")
def forge():
    return Forge()


def verifier_of(keys, clock=None, claim_map=CLAIM_MAP) -> TokenVerifier:
    return TokenVerifier(ISSUER, AUDIENCE, keys, clock or ManualClock(NOW_S * 1_000_000), claim_map)


def judge(keys, token, **arguments):
    return asyncio.run(verifier_of(keys).principal_of(token, **arguments))


def refusal_of(keys, token, **arguments) -> BadTokenError:
    with pytest.raises(BadTokenError) as caught:
        judge(keys, token, **arguments)
    return caught.value


# What is accepted


@pytest.mark.parametrize(
    ("algorithm", "kid"), [("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")]
)  # fmt: skip
def test_a_token_of_each_allowed_algorithm_is_accepted(forge, algorithm, kid):
    found = judge(forge, forge.token(algorithm=algorithm, kid=kid))
    assert (found.agent, found.roles, found.units) == (f"{ISSUER}|u-17", {Role.NURSE}, {"ICU-A"})
    assert (found.practitioner, found.name, found.client) == ("P-1", "Nora Lind", "viewer")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
def test_tokens_that_an_independent_library_signs_are_accepted(forge, algorithm):
    kid = "ec" if algorithm == "ES256" else "rsa"
    pem = forge.known[kid].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = (ECKey if kid == "ec" else RSAKey).import_key(pem)
    token = jwt.encode({"alg": algorithm, "kid": kid, "typ": "JWT"}, forge.claims(), key, algorithms=[algorithm])
    assert judge(forge, token).subject == "u-17"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["urn:other", AUDIENCE]},
        {"exp": NOW_S - 59},  # within the leeway
        {"nbf": NOW_S + 59, "iat": NOW_S + 59},
        {"exp": NOW_S + 290.5},
        {"typ": "Bearer", "nonce": "n"},  # Keycloak before 24
        {"cnf": {"x5t#S256": b64(hashlib.sha256(CERTIFICATE).digest())}},
    ],
    ids=str,
)
def test_a_token_that_real_providers_send_is_accepted(forge, changes):
    header = {"typ": "JWT"} if "typ" in changes else {}
    assert judge(forge, forge.token(header=header, **changes), certificate=CERTIFICATE).subject == "u-17"


def test_header_names_of_other_senders_do_no_harm(forge):
    assert judge(forge, forge.token(header={"typ": ..., "x5t": "abc"})).subject == "u-17"
    assert judge(forge, forge.token(header={"typ": "application/at+jwt"})).subject == "u-17"


# Who it says they are


def test_roles_are_mapped_unknown_ones_dropped_and_operator_is_never_accepted(forge):
    found = judge(forge, forge.token(roles=["Pflege", "physician", "janitor", "operator", "root", "Nurse"]))
    assert found.roles == {Role.NURSE, Role.PHYSICIAN}


def test_a_person_without_roles_has_none(forge):
    found = judge(forge, forge.token(roles=..., units=..., practitioner=..., name=...))
    assert (found.roles, found.units, found.practitioner, found.name) == (frozenset(), frozenset(), "", "")


def test_roles_are_found_along_a_path(forge):
    token = forge.token(roles=..., realm_access={"roles": ["physician"]})
    verifier = verifier_of(forge, claim_map=CLAIM_MAP._replace(roles="realm_access.roles"))
    assert asyncio.run(verifier.principal_of(token)).roles == {Role.PHYSICIAN}


def test_a_claim_named_by_an_address_is_no_path(forge):
    name = "https://hospital.example.org/roles"
    verifier = verifier_of(forge, claim_map=CLAIM_MAP._replace(roles=name))
    assert asyncio.run(verifier.principal_of(forge.token(**{name: ["nurse"]}))).roles == {Role.NURSE}


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "ehr", "client_id": "ehr"},
        {"sub": "ehr@clients", "client_id": ..., "azp": "ehr", "gty": "client-credentials"},
        {"sub": "ehr", "client_id": ..., "azp": "ehr"},
        {"sub": "5f0c", "client_id": "ehr", "preferred_username": "service-account-ehr"},
        {"sub": "5f0c", "client_id": ..., "azp": "ehr", "idtyp": "app"},
    ],
    ids=str,
)
def test_a_system_is_a_service_and_nothing_more(forge, changes):
    found = judge(forge, forge.token(roles=["physician", "operator", "root"], **changes))
    assert found.roles == {Role.SERVICE}
    assert (found.units, found.practitioner) == (frozenset(), "")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"preferred_username": "service-account-ehr", "azp": "ehr", "client_id": ...},
        {"preferred_username": "service-account-ehr", "client_id": "ehr", "sid": "s1"},
    ],
    ids=str,
)
def test_a_person_is_never_a_system(forge, changes):
    found = judge(forge, forge.token(roles=["nurse", "service", "integration"], **changes))
    assert found.roles == {Role.NURSE}


def test_a_system_has_another_role_only_where_the_site_maps_it(forge):
    assert judge(forge, forge.token(sub="x", client_id="x", roles=["Pflege"])).roles == {Role.NURSE}


# What is refused: (name, token from the forge, the reason the audit sees)


def dotted(token, index, change):
    parts = token.split(".")
    parts[index] = change(parts[index])
    return ".".join(parts)


def respelled(token):
    """The same bytes in another spelling: one of the last character's unused bits is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return dotted(token, 1, lambda part: part[:-1] + alphabet[alphabet.index(part[-1]) + 1])


def expiring(forge, number):
    return forge.token(as_json(forge.claims(exp=0)).replace(b'"exp": 0', b'"exp": ' + number))


def in_der(forge):
    """ES256's signature as X.509 writes it: JOSE wants r and s side by side."""
    signed = forge.token(algorithm="ES256", kid="ec").rpartition(".")[0]
    return f"{signed}.{b64(forge.ec.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}"


def unaligned(forge):
    """A token whose claims do not fill their last base64 group."""
    for filler in ("", "a", "ab"):
        token = forge.token(filler=filler)
        if len(token.split(".")[1]) % 4:
            return token
    raise AssertionError


def nested(depth):
    return b'{"iss":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


PEM_SECRET = {"alg": "HS256", "typ": "at+jwt"}
BAD = {
    # time
    "expired": (lambda f: f.token(exp=NOW_S - 61), "expired"),
    "expired at the leeway's end": (lambda f: f.token(exp=NOW_S - 60), "expired"),
    "expired long ago": (lambda f: f.token(exp=1), "expired"),
    "not yet": (lambda f: f.token(nbf=NOW_S + 61), "not-yet"),
    "issued in the future": (lambda f: f.token(iat=NOW_S + 3600), "not-yet"),
    "without expiry": (lambda f: f.token(exp=...), "no-expiry"),
    "expiry null": (lambda f: f.token(exp=None), "malformed-claim"),
    "expiry text": (lambda f: f.token(exp=str(NOW_S + 300)), "malformed-claim"),
    "expiry true": (lambda f: f.token(exp=True), "malformed-claim"),
    "expiry infinite": (lambda f: expiring(f, b"1e999"), "malformed-claim"),
    "expiry NaN": (lambda f: expiring(f, b"NaN"), "malformed"),
    "expiry of 5000 digits": (lambda f: expiring(f, b"9" * 5000), "malformed"),
    "expiry negative": (lambda f: f.token(exp=-5), "malformed-claim"),
    # issuer and audience
    "wrong issuer": (lambda f: f.token(iss="https://evil.example.org"), "wrong-issuer"),
    "issuer with a slash": (lambda f: f.token(iss=ISSUER + "/"), "wrong-issuer"),
    "issuer in a list": (lambda f: f.token(iss=[ISSUER]), "wrong-issuer"),
    "without issuer": (lambda f: f.token(iss=...), "wrong-issuer"),
    "wrong audience": (lambda f: f.token(aud="urn:other"), "wrong-audience"),
    "without audience": (lambda f: f.token(aud=...), "wrong-audience"),
    "audience begins like ours": (lambda f: f.token(aud=AUDIENCE + ":other"), "wrong-audience"),
    "audience of ours in a text": (lambda f: f.token(aud=f"urn:other {AUDIENCE}"), "wrong-audience"),
    "audience list without ours": (lambda f: f.token(aud=["urn:a", "urn:b"]), "wrong-audience"),
    "audience nested": (lambda f: f.token(aud=[[AUDIENCE]]), "wrong-audience"),
    "audience list with a number": (lambda f: f.token(aud=[AUDIENCE, 7]), "wrong-audience"),
    "audience an object": (lambda f: f.token(aud={AUDIENCE: True}), "wrong-audience"),
    "audience of ten thousand": (lambda f: f.token(aud=["a"] * 300 + [AUDIENCE]), "wrong-audience"),
    # algorithm
    "alg none": (lambda f: dotted(f.token(header={"alg": "none"}), 2, lambda _: ""), "malformed"),
    "alg none with a signature": (lambda f: f.token(header={"alg": "none"}), "algorithm"),
    "alg None": (lambda f: f.token(header={"alg": "None"}), "algorithm"),
    "alg missing": (lambda f: f.token(header={"alg": ...}), "algorithm"),
    "alg a list": (lambda f: f.token(header={"alg": ["RS256"]}), "algorithm"),
    "alg rs256": (lambda f: f.token(header={"alg": "rs256"}), "algorithm"),
    "HS256 with the public key as secret": (
        lambda f: f.token(header=PEM_SECRET | {"kid": "rsa"}, key=f.public_pem(), algorithm="HS256"), "algorithm",
    ),
    "RS512 not allowed": (lambda f: f.token(header={"alg": "RS512"}), "algorithm"),
    "ES256 by an RSA key's name": (lambda f: f.token(header={"alg": "ES256"}), "signature"),
    "PS256 said, RS256 signed": (lambda f: f.token(header={"alg": "PS256"}), "signature"),
    "ES256 all zeros (CVE-2022-21449)": (
        lambda f: dotted(f.token(algorithm="ES256", kid="ec"), 2, lambda _: b64(bytes(64))), "signature",
    ),
    "ES256 in DER": (in_der, "signature"),
    # key
    "foreign key, same kid": (lambda f: f.token(key=f.foreign), "signature"),
    "unknown kid": (lambda f: f.token(header={"kid": "zzz"}), "unknown-key"),
    "without kid": (lambda f: f.token(header={"kid": ...}), "no-key-id"),
    "kid empty": (lambda f: f.token(header={"kid": ""}), "no-key-id"),
    "kid a list": (lambda f: f.token(header={"kid": ["rsa"]}), "no-key-id"),
    "kid a path": (lambda f: f.token(header={"kid": "../../../dev/null"}, key=b"", algorithm="HS256"), "algorithm"),
    "kid a path, RS256": (lambda f: f.token(header={"kid": "../../../etc/passwd"}, key=f.foreign), "unknown-key"),
    "kid SQL": (lambda f: f.token(header={"kid": "x' union select 'key"}, key=f.foreign), "unknown-key"),
    "kid of 5000": (lambda f: f.token(header={"kid": "k" * 5000}), "no-key-id"),
    "embedded jwk": (lambda f: f.token(header={"jwk": f.public_jwk(f.foreign)}, key=f.foreign), "header"),
    "embedded jwk without kid": (lambda f: f.token(header={"kid": ..., "jwk": {}}, key=f.foreign), "no-key-id"),
    "embedded x5c": (lambda f: f.token(header={"x5c": ["MIIB"]}, key=f.foreign), "header"),
    "jku": (lambda f: f.token(header={"jku": "https://evil.example.org/keys"}, key=f.foreign), "header"),
    "x5u": (lambda f: f.token(header={"x5u": "https://evil.example.org/c"}, key=f.foreign), "header"),
    "crit": (lambda f: f.token(header={"crit": ["exp"], "exp": 1}), "header"),
    "b64 false (RFC 7797)": (lambda f: f.token(header={"b64": False, "crit": ["b64"]}), "header"),
    "zip": (lambda f: f.token(header={"zip": "DEF"}), "header"),
    # kind
    "an id_token by its nonce": (lambda f: f.token(header={"typ": "JWT"}, nonce="n"), "not-an-access-token"),
    "an id_token by its at_hash": (lambda f: f.token(header={"typ": "JWT"}, at_hash="x"), "not-an-access-token"),
    "an id_token by Keycloak's typ": (lambda f: f.token(header={"typ": "JWT"}, typ="ID"), "not-an-access-token"),
    "an id_token by its audience": (lambda f: f.token(header={"typ": "JWT"}, aud="vigil"), "wrong-audience"),
    "a refresh token": (lambda f: f.token(header={"typ": "JWT"}, typ="Refresh"), "not-an-access-token"),
    "a logout token": (lambda f: f.token(header={"typ": "logout+jwt"}), "not-an-access-token"),
    "a logout token by its events": (lambda f: f.token(events={}), "not-an-access-token"),
    "a client assertion": (lambda f: f.token(header={"typ": "client-authentication+jwt"}), "not-an-access-token"),
    "a DPoP proof": (lambda f: f.token(header={"typ": "dpop+jwt"}), "not-an-access-token"),
    "typ a number": (lambda f: f.token(header={"typ": 7}), "malformed"),
    # shape
    "empty": (lambda _: "", "malformed"),
    "dots": (lambda _: "..", "malformed"),
    "two parts": (lambda f: f.token().rpartition(".")[0], "malformed"),
    "four parts": (lambda f: f.token() + ".AAAA", "malformed"),
    "nested JWE": (lambda _: b64(b'{"alg":"dir","enc":"A256GCM"}') + "..AAAA.AAAA.AAAA", "malformed"),
    "truncated": (lambda f: f.token()[:-2], "signature"),
    "truncated in the middle": (lambda f: f.token()[: len(f.token()) // 2], "malformed"),
    "padded": (lambda f: f.token() + "==", "malformed"),
    "a space before": (lambda f: " " + f.token(), "malformed"),
    "a newline after": (lambda f: f.token() + "\n", "malformed"),
    "a signature of other base64": (lambda f: dotted(f.token(), 2, lambda part: "+/" + part[2:]), "malformed"),
    "respelled": (lambda f: respelled(unaligned(f)), "malformed"),
    "not ASCII": (lambda f: f.token().replace("e", "е", 1), "malformed"),
    "1 MB": (lambda _: "A" * 1_000_000, "too-long"),
    "1 MB, signed": (lambda f: f.token(filler="x" * 750_000), "too-long"),
    "1 MB of dots": (lambda _: "." * 1_000_000, "too-long"),
    "deeply nested": (lambda f: f.token(nested(1900)), "malformed"),
    "header no object": (lambda f: f.token(header=b"[]"), "malformed"),
    "claims no object": (lambda f: f.token(b'"text"'), "malformed"),
    "claims no JSON": (lambda f: f.token(b"{iss:1}"), "malformed"),
    "claims with a comma": (lambda f: f.token(as_json(f.claims())[:-1] + b",}"), "malformed"),
    "claims in UTF-16": (lambda f: f.token(as_json(f.claims()).decode().encode("utf-16")), "malformed"),
    "claims with a byte-order mark": (lambda f: f.token(b"\xef\xbb\xbf" + as_json(f.claims())), "malformed"),
    "claims not UTF-8": (lambda f: f.token(as_json(f.claims()).replace(b"u-17", b"\xff\xfe")), "malformed"),
    "a claim twice": (lambda f: f.token(as_json(f.claims())[:-1] + b', "sub": "other"}'), "malformed"),
    "a header twice": (lambda f: f.token(header=b'{"alg":"RS256","alg":"none","kid":"rsa"}'), "malformed"),
    "a name twice, deep": (lambda f: f.token(as_json(f.claims())[:-1] + b', "x": {"a": 1, "a": 2}}'), "malformed"),
    # subject and mapped claims
    "without subject": (lambda f: f.token(sub=...), "no-subject"),
    "subject empty": (lambda f: f.token(sub=""), "no-subject"),
    "subject a number": (lambda f: f.token(sub=17), "no-subject"),
    "subject with a newline": (lambda f: f.token(sub="u\n17"), "no-subject"),
    "subject with a NUL": (lambda f: f.token(sub="u\x00"), "no-subject"),
    "subject a lone surrogate": (lambda f: f.token(as_json(f.claims()).replace(b"u-17", b"\\ud800")), "no-subject"),
    "subject reversed in print": (lambda f: f.token(sub="u\u202e17"), "no-subject"),
    "subject of 300": (lambda f: f.token(sub="u" * 300), "no-subject"),
    "roles an object": (lambda f: f.token(roles={"nurse": True}), "malformed-claim"),
    "roles nested": (lambda f: f.token(roles=[["physician"]]), "malformed-claim"),
    "roles with an object": (lambda f: f.token(roles=["nurse", {"name": "physician"}]), "malformed-claim"),
    "roles null": (lambda f: f.token(roles=None), "malformed-claim"),
    "a thousand roles": (lambda f: f.token(roles=["r"] * 1000), "malformed-claim"),
    "units a number": (lambda f: f.token(units=3), "malformed-claim"),
    "practitioner a list": (lambda f: f.token(practitioner=["P-1"]), "malformed-claim"),
    "name an object": (lambda f: f.token(name={}), "malformed-claim"),
    "client an object": (lambda f: f.token(client_id={}), "malformed-claim"),
    # sender-constrained
    "bound to a certificate, none shown": (lambda f: f.token(cnf={"x5t#S256": "AAAA"}), "not-the-holder"),
    "bound by DPoP": (lambda f: f.token(cnf={"jkt": "AAAA"}), "not-the-holder"),
    "bound to nothing": (lambda f: f.token(cnf={}), "not-the-holder"),
    "bound null": (lambda f: f.token(cnf=None), "not-the-holder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused_quickly_and_without_a_word_why(forge, name):
    make, reason = BAD[name]
    token = make(forge)
    started_s = time.process_time()
    refusal = refusal_of(forge, token)
    assert time.process_time() - started_s < 0.5
    assert str(refusal) == "The token is not accepted."
    assert refusal.__cause__ is None
    assert refusal.__suppress_context__ or refusal.__context__ is None  # no parser's words of it in a traceback
    assert refusal.reason == reason


@pytest.mark.parametrize("thumbprint", ["", "AAAA", 7, None, b64(hashlib.sha256(b"another").digest())], ids=str)
def test_a_bound_token_shown_with_another_certificate_is_refused(forge, thumbprint):
    token = forge.token(cnf={"x5t#S256": thumbprint})
    assert refusal_of(forge, token, certificate=CERTIFICATE).reason == "not-the-holder"
    both = forge.token(cnf={"x5t#S256": b64(hashlib.sha256(CERTIFICATE).digest()), "jkt": "x"})
    assert refusal_of(forge, both, certificate=CERTIFICATE).reason == "not-the-holder"


def test_a_token_of_16_kilobytes_is_still_read(forge):
    token = forge.token(filler="x" * 11_000)
    assert 14_000 < len(token) <= LONGEST_TOKEN
    assert judge(forge, token).subject == "u-17"


def test_a_token_expires_while_the_clock_runs(forge):
    clock = ManualClock(NOW_S * 1_000_000)
    verifier = verifier_of(forge, clock)
    token = forge.token(exp=NOW_S + 10)
    assert asyncio.run(verifier.principal_of(token)).subject == "u-17"
    clock.advance(69)
    assert asyncio.run(verifier.principal_of(token)).subject == "u-17"
    clock.advance(1)
    with pytest.raises(BadTokenError):
        asyncio.run(verifier.principal_of(token))


# Properties


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_change_of_a_valid_token_is_refused(forge, data):
    algorithm, kid = data.draw(st.sampled_from([("RS256", "rsa"), ("EdDSA", "ed"), ("ES256", "ec")]))
    token = forge.token(algorithm=algorithm, kid=kid)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 8)))
    alphabet = st.sampled_from('ABCDxyz0189-_.=+/ {"\n\x00é')
    changed = token[:start] + data.draw(st.text(alphabet, max_size=8)) + token[end:]
    if changed == token:
        assert judge(forge, changed).subject == "u-17"
    else:
        refusal_of(forge, changed)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.lists(st.binary(max_size=60).map(b64), min_size=3, max_size=3).map(".".join)))
def test_any_text_at_all_is_refused(forge, text):
    refusal_of(forge, text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("iss", "aud", "sub", "exp", "nbf", "iat", "roles", "units", "practitioner", "name", "client_id", "azp", "gty",
         "cnf", "typ", "nonce", "preferred_username")  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
def test_whatever_a_signed_token_claims_it_is_a_principal_or_a_refusal(forge, changes):
    try:
        found = judge(forge, forge.token(algorithm="EdDSA", kid="ed", **changes))
    except BadTokenError:
        return
    assert found.issuer == ISSUER
    assert Role.OPERATOR not in found.roles
    assert all(isinstance(text, str) and text.isprintable() for text in (found.subject, found.name, found.client))


# What may be used once


def test_a_name_is_used_once_until_its_end_and_memory_is_bounded():
    clock = ManualClock(NOW_S * 1_000_000)
    once = Once(clock, most=3)
    for name in ("a", "b", "c"):
        once.use(name, NOW_S + 60)
    with pytest.raises(BadTokenError) as caught:
        once.use("a", NOW_S + 60)
    assert caught.value.reason == "replayed"
    with pytest.raises(BadTokenError) as caught:
        once.use("d", NOW_S + 60)
    assert caught.value.reason == "too-many"  # rather than forget one that still works
    clock.advance(61)
    once.use("d", NOW_S + 120)
    assert len(once._names) == len(once._order) == 1
