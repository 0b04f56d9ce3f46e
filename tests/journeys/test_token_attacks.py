"""Bad tokens at the clinic's doors: whatever is wrong with one, the answer is the same bare 401, to the byte.

Here: a table of tokens that must be refused, over HTTP, against the clinic with an identity provider in this process;
where else a token might be smuggled in; what the audit keeps of it.
Not here: the verifier by itself (tests/governance/test_tokens.py), people with good tokens (test_access_matrix).
Source: RFC 6750 section 3, RFC 8725 (JWT best current practices), RFC 9068.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _site() -> ModuleType:
    """Return the module beside this one: pytest's import mode gives test folders no package."""
    known = "vigil_tests_guarded_site"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name("guarded_site.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


house = _site()
template, site, own_site = house.template, house.shared_site, house.site
site_url = house.site_url
b64 = house.provider.b64

PATIENT = house.PATIENTS[0]
NOW_S = house.NOW_S
NURSE: dict[str, Any] = {"sub": "nora", "roles": ["nurse"], "units": [house.WARD]}
DOORS = (f"/api/patients/{PATIENT.number}", f"/fhir/Patient/{PATIENT.number}", f"/patients/{PATIENT.number}", "/me",
         f"/streams/patients/{PATIENT.number}", "/ready", "/nothing-at-all")  # fmt: skip


def good(issuer: Any, **more: Any) -> str:
    return str(issuer.token(**{**NURSE, **more}))


def part(token: str, place: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[place] = change(parts[place])
    return ".".join(parts)


def resigned_as_secret(issuer: Any) -> str:
    """The classic confusion: HS256 with the published key as the secret."""
    pem = issuer.rsa.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return str(issuer.token(**NURSE, key=pem, algorithm="HS256"))


def with_more_roles(issuer: Any) -> str:
    """Somebody edits their own token."""
    return part(good(issuer), 1, lambda _: b64(json.dumps(issuer.claims(**{**NURSE, "roles": ["physician"]})).encode()))


def in_der(issuer: Any) -> str:
    signed = str(issuer.token(**NURSE, algorithm="ES256", kid="ec")).rpartition(".")[0]
    return f"{signed}.{b64(issuer.ec.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}"


def raw_expiry(issuer: Any, number: str) -> str:
    claims = json.dumps(issuer.claims(**NURSE, exp=0)).replace('"exp": 0', f'"exp": {number}')
    return str(issuer.token(claims.encode()))


def twice(issuer: Any) -> str:
    """A claim said twice: two readers may each believe another one."""
    claims = json.dumps(issuer.claims(**NURSE)).replace('"sub":', '"sub": "somebody-else", "sub":')
    return str(issuer.token(claims.encode()))


ATTACKS: dict[str, Callable[[Any], str]] = {
    # nothing, or no token
    "empty": lambda _: "",
    "no token at all": lambda _: "nonsense",
    "three dots": lambda _: "...",
    "empty parts": lambda _: "..",
    "only the head": lambda i: good(i).partition(".")[0],
    "without a signature": lambda i: good(i).rpartition(".")[0] + ".",
    "two parts": lambda i: good(i).rpartition(".")[0],
    "four parts": lambda i: good(i) + ".AAAA",
    "five parts (JWE)": lambda i: good(i) + ".AAAA.AAAA",
    "cut short": lambda i: good(i)[:-4],
    "another token behind it": lambda i: f"{good(i)} {good(i)}",
    "20 kB": lambda _: "A" * 20_000,
    "a megabyte of dots": lambda _: "." * 60_000,
    "not ASCII": lambda _: "t\xf8ken.t\xf8ken.t\xf8ken",
    "padded": lambda i: part(good(i), 2, lambda text: text + "=="),
    "standard base64": lambda i: part(good(i), 0, lambda text: text + "+/"),
    # signature and key
    "another's key": lambda i: i.token(**NURSE, key=i.foreign),
    "another's key by a name of its own": lambda i: i.token(**NURSE, key=i.foreign, header={"kid": "evil"}),
    "without a key's name": lambda i: i.token(**NURSE, header={"kid": ...}),
    "a path for a name": lambda i: i.token(**NURSE, key=i.foreign, header={"kid": "../../../../dev/null"}),
    "SQL for a name": lambda i: i.token(**NURSE, key=i.foreign, header={"kid": "x' union select 'k"}),
    "brings its own key": lambda i: i.token(**NURSE, key=i.foreign, header={"jwk": i.rsa_jwk(i.foreign)}),
    "says where its key is": lambda i: i.token(**NURSE, key=i.foreign, header={"jku": "https://evil.test/keys"}),
    "brings a certificate": lambda i: i.token(**NURSE, key=i.foreign, header={"x5c": ["MIIB"]}),
    "claims changed": with_more_roles,
    "signature of another token": lambda i: part(good(i), 2, lambda _: good(i, sub="other").rpartition(".")[2]),
    "signature all zeros": lambda i: part(good(i), 2, lambda _: b64(bytes(256))),
    "ES256 all zeros": lambda i: part(i.token(**NURSE, algorithm="ES256", kid="ec"), 2, lambda _: b64(bytes(64))),
    "ES256 in DER": in_der,
    # algorithm
    "alg none": lambda i: part(i.token(**NURSE, header={"alg": "none"}), 2, lambda _: ""),
    "alg None, signed": lambda i: i.token(**NURSE, header={"alg": "None"}),
    "alg missing": lambda i: i.token(**NURSE, header={"alg": ...}),
    "alg a list": lambda i: i.token(**NURSE, header={"alg": ["RS256"]}),
    "HS256 with the public key": resigned_as_secret,
    "RS512": lambda i: i.token(**NURSE, header={"alg": "RS512"}),
    "PS256 said, RS256 signed": lambda i: i.token(**NURSE, header={"alg": "PS256"}),
    "ES256 said by the RSA key's name": lambda i: i.token(**NURSE, header={"alg": "ES256"}),
    "crit": lambda i: i.token(**NURSE, header={"crit": ["exp"]}),
    "b64 false": lambda i: i.token(**NURSE, header={"b64": False}),
    "zip": lambda i: i.token(**NURSE, header={"zip": "DEF"}),
    # time
    "expired": lambda i: good(i, exp=NOW_S - 61),
    "expired for years": lambda i: good(i, exp=1),
    "never expires": lambda i: good(i, exp=...),
    "expiry null": lambda i: good(i, exp=None),
    "expiry a text": lambda i: good(i, exp=str(NOW_S + 900)),
    "expiry true": lambda i: good(i, exp=True),
    "expiry infinite": lambda i: raw_expiry(i, "1e999"),
    "expiry NaN": lambda i: raw_expiry(i, "NaN"),
    "expiry in milliseconds": lambda i: good(i, exp=(NOW_S + 900) * 1000),
    "not yet": lambda i: good(i, nbf=NOW_S + 61),
    "of tomorrow": lambda i: good(i, iat=NOW_S + 86_400),
    # whose and for whom
    "another issuer": lambda i: good(i, iss="https://evil.test"),
    "issuer with a slash": lambda i: good(i, iss=house.ISSUER + "/"),
    "issuer in a list": lambda i: good(i, iss=[house.ISSUER]),
    "no issuer": lambda i: good(i, iss=...),
    "another audience": lambda i: good(i, aud="urn:other"),
    "audience that begins like ours": lambda i: good(i, aud=house.AUDIENCE + ":x"),
    "audience an object": lambda i: good(i, aud={house.AUDIENCE: True}),
    "no audience": lambda i: good(i, aud=...),
    "no subject": lambda i: good(i, sub=...),
    "subject empty": lambda i: good(i, sub=""),
    "subject a number": lambda i: good(i, sub=7),
    "subject with a line end": lambda i: good(i, sub="nora\nroot"),
    "roles an object": lambda i: good(i, roles={"nurse": True}),
    "roles with a number": lambda i: good(i, roles=["nurse", 7]),
    "a claim said twice": twice,
    "claims a list": lambda i: i.token(b"[]"),
    "claims no JSON": lambda i: i.token(b"{"),
    "claims nested deeply": lambda i: i.token(b'{"a":' * 2000 + b"1" + b"}" * 2000),
    # another kind of token
    "an id token": lambda i: i.token(**NURSE, header={"typ": "JWT"}, nonce="n"),
    "an id token by its hash": lambda i: i.token(**NURSE, header={"typ": "JWT"}, at_hash="x"),
    "an id token for the client": lambda i: i.token(**NURSE, header={"typ": "JWT"}, aud="vigil"),
    "a refresh token": lambda i: i.token(**NURSE, header={"typ": "JWT"}, typ="Refresh"),
    "a logout token": lambda i: i.token(**NURSE, header={"typ": "logout+jwt"}),
    "a client assertion": lambda i: i.token(**NURSE, header={"typ": "client-authentication+jwt"}),
    "bound to a certificate": lambda i: i.token(**NURSE, cnf={"x5t#S256": b64(bytes(32))}),
    "bound to a DPoP key": lambda i: i.token(**NURSE, cnf={"jkt": b64(bytes(32))}),
}


def bare(answer: Any) -> bool:
    return bool((answer.status, answer.body, answer.header("www-authenticate")) == (401, b"", "Bearer"))


async def test_the_tokens_that_attacks_are_made_from_are_good(site: Any) -> None:
    for algorithm, kid in (("RS256", "rsa"), ("PS256", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")):
        token = site.issuer.token(**NURSE, algorithm=algorithm, kid=kid)
        answer = await site.ask("GET", DOORS[0], {"authorization": f"Bearer {token}"})
        assert (answer.status, PATIENT.family in answer.body.decode()) == (200, True), algorithm
    again = await site.ask("GET", DOORS[0], {"authorization": f"bEARER  {good(site.issuer)}"})
    assert again.status == 200  # RFC 9110 section 11.1: a scheme's case says nothing


async def test_every_attack_is_the_same_bare_401_at_every_door(site: Any) -> None:
    nothing = await site.ask("GET", DOORS[0], {})
    assert bare(nothing)
    for name, attack in ATTACKS.items():
        shown = {"authorization": f"Bearer {attack(site.issuer)}"}
        assert await site.ask("GET", DOORS[0], shown) == nothing, name
    for door in DOORS:
        for name in ("another's key", "expired", "alg none", "another audience", "no token at all"):
            shown = {"authorization": f"Bearer {ATTACKS[name](site.issuer)}", "accept": "text/html"}
            assert await site.ask("GET", door, shown) == nothing, (name, door)
    assert len(ATTACKS) >= 25


async def test_no_attack_reaches_the_gate_and_the_audit_counts_them_without_their_words(own_site: Any) -> None:
    for attack in ATTACKS.values():
        await own_site.ask("GET", DOORS[0], {"authorization": f"Bearer {attack(own_site.issuer)}"})
    events = await own_site.audit()
    assert 20 < len(events) < len(ATTACKS)  # a flood is counted, not kept one by one
    assert {(event["action"], event["outcome"], event["agent"]) for event in events} == {
        ("sign_in", "failed", "unknown")
    }
    assert {event["patient_id"] for event in events} == {None}
    for event in events:
        assert re.fullmatch(r'\{("not_recorded_before":\d+,)?"reason":"[a-z-]+"\}', event["detail"]), event["detail"]
        assert event["surface"] == "token"
    own_site.clock.advance(60)
    await own_site.ask("GET", DOORS[0], {"authorization": "Bearer x"})
    last = (await own_site.audit())[-1]
    assert json.loads(last["detail"])["not_recorded_before"] == len(ATTACKS) - len(events)


async def test_an_attack_makes_nobody_ask_the_provider_elsewhere_or_often(own_site: Any) -> None:
    own_site.issuer.asked.clear()
    for name, attack in ATTACKS.items():
        await own_site.ask("GET", DOORS[0], {"authorization": f"Bearer {attack(own_site.issuer)}"})
        assert all(url.startswith(house.ISSUER) for url in own_site.issuer.asked), name
    assert len(own_site.issuer.asked) <= 4  # discovery, keys, and once more for names that are not known


async def test_a_token_shown_elsewhere_than_in_its_header_is_none(site: Any) -> None:
    token = good(site.issuer)
    door = DOORS[0]
    tried: list[tuple[str, str, dict[str, str], dict[str, str] | None]] = [
        ("GET", f"{door}?access_token={token}", {}, None),
        ("GET", f"{door}?authorization=Bearer%20{token}", {}, None),
        ("GET", door, {"cookie": f"authorization=Bearer {token}"}, None),
        ("GET", door, {"cookie": f"access_token={token}"}, None),
        ("GET", door, {"cookie": f"vigil_session={token}"}, None),
        ("GET", door, {"x-authorization": f"Bearer {token}"}, None),
        ("GET", door, {"proxy-authorization": f"Bearer {token}"}, None),
        ("GET", door, {"x-forwarded-authorization": f"Bearer {token}"}, None),
        ("GET", door, {"x-access-token": token}, None),
        ("GET", door, {"x-forwarded-user": "nora", "x-remote-user": "nora", "remote-user": "nora"}, None),
        ("POST", "/fhir/Patient/_search", {}, {"access_token": token, "identifier": PATIENT.mrn}),
        *(("GET", door, {"authorization": f"{scheme} {token}"}, None)
          for scheme in ("Basic", "Token", "JWT", "DPoP", "Negotiate", "Bearer:", "Bearer,", "BearerX")),
        ("GET", door, {"authorization": token}, None),
        ("GET", door, {"authorization": f"Bearer\t{token}"}, None),
        ("GET", door, {"authorization": f"Bearer {token}, Bearer {token}"}, None),
    ]  # fmt: skip
    for method, path, headers, form in tried:
        answer = await site.ask(method, path, headers, form)
        assert bare(answer), (path[:60], headers)


async def test_two_headers_are_none_and_a_bad_token_beside_a_good_session_is_none(site: Any) -> None:
    token = good(site.issuer)
    answer = await site.http.get(DOORS[0], headers=[("authorization", f"Bearer {token}")] * 2)
    assert (answer.status_code, answer.content) == (401, b"")
    session = await site.session(house.Person("nora", ("nurse",), (house.WARD,)))
    assert (await site.ask("GET", DOORS[0], site.browser(session))).status == 200
    for name in ("another's key", "expired", "empty"):
        shown = site.browser(session, authorization=f"Bearer {ATTACKS[name](site.issuer)}")
        assert bare(await site.ask("GET", DOORS[0], shown)), name


async def test_a_role_that_no_token_gives_is_not_given(site: Any) -> None:
    for roles in (["operator"], ["Nurse"], ["nurse "], ["root"], ["NURSE"], ["nurse,physician"], []):
        answer = await site.ask("GET", DOORS[0], {"authorization": f"Bearer {good(site.issuer, roles=roles)}"})
        assert answer.status == 404, roles
    program = site.issuer.token(**{**NURSE, "sub": "viewer", "client_id": "viewer", "roles": ["physician", "operator"]})
    answer = await site.ask("GET", "/", {"authorization": f"Bearer {program}"})
    assert answer.status == 404  # a program is a service, whatever roles it names


async def test_while_the_provider_is_away_known_keys_hold_and_unknown_ones_are_refused(own_site: Any) -> None:
    shown = {"authorization": f"Bearer {good(own_site.issuer)}"}
    own_site.issuer.is_there = False
    try:
        answer = await own_site.ask("GET", DOORS[0], shown)
        assert answer.status == 503  # nobody can tell yet whether it is good: nothing is shown
        assert PATIENT.family not in answer.body.decode()
        own_site.issuer.is_there = True
        own_site.clock.advance(2)
        assert (await own_site.ask("GET", DOORS[0], shown)).status == 200
        own_site.issuer.is_there = False
        own_site.clock.advance(800)  # the keys are old by now
        assert (await own_site.ask("GET", DOORS[0], shown)).status == 200
        unknown = own_site.issuer.token(**NURSE, header={"kid": "zzz"})
        assert bare(await own_site.ask("GET", DOORS[0], {"authorization": f"Bearer {unknown}"}))
    finally:
        own_site.issuer.is_there = True
