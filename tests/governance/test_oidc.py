"""The provider as we see it: what we send, which of its answers we believe, and how it is when it is down or lies."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

from governance import provider_keys
from governance.access import Principal, Role
from governance.id_tokens import BACK_CHANNEL_LOGOUT
from governance.oidc import Provider
from governance.provider_keys import KEYS_KEPT_S, LARGEST_ANSWER, Discovery, http_client, usable_keys
from governance.tokens import BadTokenError
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings

ISSUER = "https://login.example.org"
NOW_S = 1_795_000_000
VERIFIER = "v" * 43
BACK = "https://vigil.example.org/auth/callback"
KEY = ECKey.generate_key("P-256")
OTHER = ECKey.generate_key("P-256")


def settings_of(**changes):
    return Settings(**({"oidc_issuer": ISSUER, "mode": "production"} | changes))


class Idp:
    """An identity provider in memory, which can be told to lie, to be slow, or to be down."""

    def __init__(self, **changes):
        self.settings = settings_of(**changes)
        self.clock = ManualClock(NOW_S * 1_000_000)
        self.keys = [self.jwk(KEY, "k1")]
        self.metadata = {
            "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/authorize?tenant=7",
            "token_endpoint": f"{ISSUER}/token", "jwks_uri": f"{ISSUER}/keys",
            "end_session_endpoint": f"{ISSUER}/end", "code_challenge_methods_supported": ["S256"],
        }  # fmt: skip
        self.asked: list[httpx.Request] = []
        self.answers: dict[str, object] = {}
        self.is_down = False
        self.http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.provider = Provider(self.settings, self.http, self.clock)

    @staticmethod
    def jwk(key, kid, **changes):
        return key.as_dict(private=False) | {"kid": kid, "use": "sig"} | changes

    async def answer(self, request):
        self.asked.append(request)
        if self.is_down:
            raise httpx.ConnectError("down")
        path = request.url.path
        if path in self.answers:
            found = self.answers[path]
            found = found(request) if callable(found) else found
            return await found if asyncio.iscoroutine(found) else found
        if path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if path == "/keys":
            return httpx.Response(200, json={"keys": self.keys})
        return httpx.Response(404, json={})

    def count(self, path):
        return sum(request.url.path == path for request in self.asked)

    def signed(self, claims, *, typ="JWT", key=KEY, kid="k1", alg="ES256"):
        return jws.serialize_compact({"alg": alg, "kid": kid, "typ": typ}, json.dumps(claims), key, algorithms=[alg])

    def id_claims(self, **changes):
        base = {
            "iss": ISSUER, "aud": "vigil", "sub": "u-17", "nonce": "n", "iat": NOW_S, "exp": NOW_S + 300, "sid": "s1",
            "name": "Nora Lind", "roles": ["nurse", "service", "operator"], "units": ["ICU-A"],
        }  # fmt: skip
        return {name: value for name, value in (base | changes).items() if value is not ...}

    def access_token(self, **changes):
        base = {"iss": ISSUER, "aud": "urn:vigil:api", "sub": "u-17", "client_id": "x", "exp": NOW_S + 300}
        return self.signed(base | changes, typ="at+jwt")

    def tokens(self, **changes):
        """Let the token endpoint answer; `id_token=` claims or text."""
        body = {"access_token": "at", "token_type": "Bearer", "expires_in": 300, "refresh_token": "r1"}
        body |= {"id_token": self.signed(self.id_claims())} | changes
        self.answers["/token"] = httpx.Response(200, json={k: v for k, v in body.items() if v is not ...})

    async def exchange(self, **arguments):
        return await self.provider.exchange("code", VERIFIER, BACK, "n", **arguments)


@pytest.fixture
async def idp():
    made = Idp()
    yield made
    await made.http.aclose()


def form_of(request):
    return dict(parse_qsl(request.content.decode()))


def half(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


# Signing in


async def test_the_browser_is_sent_with_pkce_state_and_nonce(idp):
    url = await idp.provider.authorization_url("st", "no", VERIFIER, BACK, max_age_s=60, login_hint="nora")
    parts = urlsplit(url)
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{ISSUER}/authorize"
    assert asked == {
        "tenant": "7", "response_type": "code", "client_id": "vigil", "redirect_uri": BACK, "state": "st",
        "nonce": "no", "scope": "openid profile roles offline_access", "code_challenge": challenge,
        "code_challenge_method": "S256", "max_age": "60", "login_hint": "nora",
    }  # fmt: skip
    assert VERIFIER not in url


@pytest.mark.parametrize("verifier", ["short", "v" * 129, "v" * 42 + "!", ""])
async def test_a_weak_verifier_is_a_mistake_of_the_caller(idp, verifier):
    with pytest.raises(ValueError, match="43 to 128"):
        await idp.provider.authorization_url("s", "n", verifier, BACK)


async def test_a_code_brings_a_person_who_is_never_a_service_or_operator(idp):
    idp.tokens(id_token=idp.signed(idp.id_claims(at_hash=half("at"))))
    found = await idp.exchange()
    assert found.principal == Principal(
        issuer=ISSUER, subject="u-17", name="Nora Lind", roles=frozenset({Role.NURSE}), units=frozenset({"ICU-A"}),
        client="vigil",
    )  # fmt: skip
    assert (found.sid, found.refresh_token, found.expires_at_us) == ("s1", "r1", (NOW_S + 300) * 1_000_000)
    sent = form_of(idp.asked[-1] if idp.asked[-1].url.path == "/token" else idp.asked[-2])
    assert sent == {
        "grant_type": "authorization_code", "code": "code", "code_verifier": VERIFIER, "redirect_uri": BACK,
        "client_id": "vigil",
    }  # fmt: skip


async def test_no_text_of_tokens_shows_a_token(idp):
    idp.tokens()
    found = await idp.exchange()
    assert found.access_token == "at"
    for secret in (found.id_token, "r1", "'at'"):
        assert secret not in repr(found) + str(found)


BAD_ID_TOKENS = {
    "another nonce": ({"nonce": "other"}, "nonce"),
    "no nonce": ({"nonce": ...}, "nonce"),
    "nonce a list": ({"nonce": ["n"]}, "nonce"),
    "nonce a lone surrogate": ({"nonce": "\ud800"}, "nonce"),
    "another issuer": ({"iss": "https://evil.example.org"}, "wrong-issuer"),
    "another audience": ({"aud": "other"}, "wrong-audience"),
    "for several, not said for whom": ({"aud": ["vigil", "other"]}, "wrong-audience"),
    "for several, asked by another": ({"aud": ["vigil", "other"], "azp": "other"}, "wrong-audience"),
    "asked by another": ({"azp": "other"}, "wrong-audience"),
    "azp null": ({"azp": None}, "wrong-audience"),
    "expired": ({"exp": NOW_S - 61}, "expired"),
    "no expiry": ({"exp": ...}, "no-expiry"),
    "no time": ({"iat": ...}, "not-an-id-token"),
    "of the future": ({"iat": NOW_S + 600}, "not-yet"),
    "another access token": ({"at_hash": half("other")}, "at-hash"),
    "at_hash null": ({"at_hash": None}, "at-hash"),
    "no subject": ({"sub": ...}, "no-subject"),
    "a logout token": ({"events": {BACK_CHANNEL_LOGOUT: {}}}, "not-an-id-token"),
    "sid a list": ({"sid": ["s"]}, "malformed-claim"),
    "roles nested": ({"roles": {"nurse": True}}, "malformed-claim"),
}


@pytest.mark.parametrize("name", BAD_ID_TOKENS)
async def test_a_bad_id_token_signs_nobody_in(idp, name):
    changes, reason = BAD_ID_TOKENS[name]
    idp.tokens(id_token=idp.signed(idp.id_claims(**changes)))
    with pytest.raises(BadTokenError) as caught:
        await idp.exchange()
    assert (caught.value.reason, str(caught.value)) == (reason, "The token is not accepted.")


async def test_a_foreign_signature_kind_or_missing_part_signs_nobody_in(idp):
    claims = idp.id_claims()
    for text, reason in (
        (idp.signed(claims, key=OTHER), "signature"),
        (idp.signed(claims, typ="at+jwt"), "not-an-id-token"),
        (idp.signed(claims, typ="logout+jwt"), "not-an-id-token"),
        (idp.signed(claims).rpartition(".")[0] + ".", "malformed"),
        (..., "incomplete-answer"),
        (7, "incomplete-answer"),
    ):
        idp.tokens(id_token=text)
        with pytest.raises(BadTokenError) as caught:
            await idp.exchange()
        assert caught.value.reason == reason
    for changes, reason in (({"token_type": "DPoP"}, "token-type"), ({"access_token": ...}, "incomplete-answer")):
        idp.tokens(**changes)
        with pytest.raises(BadTokenError) as caught:
            await idp.exchange()
        assert caught.value.reason == reason


async def test_an_id_token_for_several_that_names_us_is_accepted(idp):
    idp.tokens(id_token=idp.signed(idp.id_claims(aud=["other", "vigil"], azp="vigil")))
    assert (await idp.exchange()).principal.subject == "u-17"


async def test_a_sign_in_that_is_too_old_is_refused_where_we_asked_for_a_fresh_one(idp):
    for changes, is_fresh in (({"auth_time": NOW_S - 100}, True), ({"auth_time": NOW_S - 200}, False), ({}, False)):
        idp.tokens(id_token=idp.signed(idp.id_claims(**changes)))
        if is_fresh:
            await idp.exchange(max_age_s=60)
        else:
            with pytest.raises(BadTokenError):
                await idp.exchange(max_age_s=60)


async def test_an_answer_of_another_provider_is_refused_before_the_code_is_sent(idp):
    idp.tokens()
    with pytest.raises(BadTokenError) as caught:
        await idp.exchange(iss="https://evil.example.org")
    assert caught.value.reason == "mix-up"
    assert idp.count("/token") == 0
    assert (await idp.exchange(iss=ISSUER)).sid == "s1"


async def test_a_provider_that_names_itself_must_do_so(idp):
    idp.metadata["authorization_response_iss_parameter_supported"] = True
    idp.tokens()
    with pytest.raises(BadTokenError) as caught:
        await idp.exchange()
    assert caught.value.reason == "mix-up"


async def test_roles_that_only_userinfo_tells_are_asked_for_and_must_be_the_same_persons(idp):
    idp.metadata["userinfo_endpoint"] = f"{ISSUER}/me"
    idp.tokens(id_token=idp.signed(idp.id_claims(roles=...)))
    idp.answers["/me"] = httpx.Response(200, json={"sub": "u-17", "roles": ["physician"], "name": "Other Name"})
    found = await idp.exchange()
    assert (found.principal.roles, found.principal.name) == ({Role.PHYSICIAN}, "Nora Lind")
    assert idp.asked[-1].headers["authorization"] == "Bearer at"
    idp.answers["/me"] = httpx.Response(200, json={"sub": "u-18", "roles": ["physician"]})
    with pytest.raises(BadTokenError) as caught:
        await idp.exchange()
    assert caught.value.reason == "wrong-subject"
    idp.answers["/me"] = httpx.Response(401, json={})
    assert (await idp.exchange()).principal.roles == frozenset()


# Staying and leaving


async def test_a_refresh_brings_the_roles_of_now_and_the_next_token(idp):
    before = Principal(issuer=ISSUER, subject="u-17", roles=frozenset({Role.NURSE}), session="short")
    idp.tokens(id_token=idp.signed(idp.id_claims(nonce=..., roles=["physician"])), refresh_token="r2")
    found = await idp.provider.refresh("r1", before)
    assert (found.principal.roles, found.principal.session, found.refresh_token) == ({Role.PHYSICIAN}, "short", "r2")
    assert form_of(next(r for r in idp.asked if r.url.path == "/token"))["refresh_token"] == "r1"


async def test_a_refresh_that_says_nothing_of_the_person_keeps_what_was_known(idp):
    before = Principal(issuer=ISSUER, subject="u-17", roles=frozenset({Role.NURSE}))
    idp.tokens(id_token=..., refresh_token=...)
    found = await idp.provider.refresh("r1", before)
    assert (found.principal, found.refresh_token, found.id_token) == (before, "r1", "")


async def test_a_refresh_that_takes_the_roles_away_takes_them_away(idp):
    before = Principal(issuer=ISSUER, subject="u-17", roles=frozenset({Role.NURSE}))
    idp.tokens(id_token=idp.signed(idp.id_claims(roles=[])))
    assert (await idp.provider.refresh("r1", before)).principal.roles == frozenset()


async def test_a_refresh_of_somebody_else_is_refused(idp):
    idp.tokens(id_token=idp.signed(idp.id_claims(sub="u-18")))
    with pytest.raises(BadTokenError) as caught:
        await idp.provider.refresh("r1", Principal(issuer=ISSUER, subject="u-17", roles=frozenset()))
    assert caught.value.reason == "wrong-subject"


async def test_the_page_to_sign_out_at_is_named_where_there_is_one(idp):
    url = await idp.provider.logout_url("hint", "https://vigil.example.org/", "st")
    assert url is not None
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "id_token_hint": "hint", "client_id": "vigil", "post_logout_redirect_uri": "https://vigil.example.org/",
        "state": "st",
    }  # fmt: skip
    other = Idp()
    del other.metadata["end_session_endpoint"]
    assert await other.provider.logout_url("hint", "https://vigil.example.org/") is None
    await other.http.aclose()


def logout_claims(**changes):
    base = {
        "iss": ISSUER, "aud": "vigil", "sub": "u-17", "sid": "s1", "iat": NOW_S, "exp": NOW_S + 120, "jti": "l1",
        "events": {BACK_CHANNEL_LOGOUT: {}},
    }  # fmt: skip
    return {name: value for name, value in (base | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ("s1", "u-17")),
        ({"sub": ...}, ("s1", None)),
        ({"sid": ...}, (None, "u-17")),
        ({"aud": ["vigil"]}, ("s1", "u-17")),
    ],
    ids=str,
)  # fmt: skip
async def test_a_logout_token_says_whose_sessions_end(idp, changes, said):
    assert await idp.provider.logout_claims(idp.signed(logout_claims(**changes), typ="logout+jwt")) == said


BAD_LOGOUTS = {
    "with a nonce": ({"nonce": "n"}, "not-a-logout-token"),
    "without events": ({"events": ...}, "not-a-logout-token"),
    "events of another kind": ({"events": {"urn:other": {}}}, "not-a-logout-token"),
    "event no object": ({"events": {BACK_CHANNEL_LOGOUT: True}}, "not-a-logout-token"),
    "events a list": ({"events": [BACK_CHANNEL_LOGOUT]}, "not-a-logout-token"),
    "of nobody": ({"sub": ..., "sid": ...}, "not-a-logout-token"),
    "of an empty session": ({"sub": ..., "sid": ""}, "not-a-logout-token"),
    "without jti": ({"jti": ...}, "not-a-logout-token"),
    "jti a number": ({"jti": 7}, "not-a-logout-token"),
    "without iat": ({"iat": ...}, "expired"),
    "made long ago": ({"iat": NOW_S - 700, "exp": NOW_S + 9_000_000}, "expired"),
    "without exp": ({"exp": ...}, "no-expiry"),
    "expired": ({"exp": NOW_S - 61}, "expired"),
    "another issuer": ({"iss": "https://evil.example.org"}, "wrong-issuer"),
    "another client": ({"aud": "other"}, "wrong-audience"),
    "our API": ({"aud": "urn:vigil:api"}, "wrong-audience"),
}


@pytest.mark.parametrize("name", BAD_LOGOUTS)
async def test_a_bad_logout_token_ends_nothing(idp, name):
    changes, reason = BAD_LOGOUTS[name]
    with pytest.raises(BadTokenError) as caught:
        await idp.provider.logout_claims(idp.signed(logout_claims(**changes), typ="logout+jwt"))
    assert caught.value.reason == reason


async def test_a_logout_token_works_once_and_other_tokens_never(idp):
    token = idp.signed(logout_claims(), typ="logout+jwt")
    await idp.provider.logout_claims(token)
    for again in (token, idp.signed(logout_claims(sid="s2"), typ="logout+jwt")):  # the same jti in another token too
        with pytest.raises(BadTokenError) as caught:
            await idp.provider.logout_claims(again)
        assert caught.value.reason == "replayed"
    for other in (idp.signed(idp.id_claims()), idp.access_token(), idp.signed(logout_claims(jti="l9"), key=OTHER)):
        with pytest.raises(BadTokenError):
            await idp.provider.logout_claims(other)
    idp.clock.advance(181)
    with pytest.raises(BadTokenError) as caught:
        await idp.provider.logout_claims(token)  # forgotten by now, and too old
    assert caught.value.reason == "expired"


# Who we are


async def test_a_secret_is_sent_as_basic_each_part_encoded_first():
    idp = Idp(oidc_client_id="vi:gil", oidc_client_secret="s%c ret:ü")
    idp.tokens(access_token="service")
    found = await idp.provider.service_token("system/*.rs")
    request = next(r for r in idp.asked if r.url.path == "/token")
    sent = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    assert sent == "vi%3Agil:s%25c+ret%3A%C3%BC"
    assert form_of(request) == {"grant_type": "client_credentials", "scope": "system/*.rs"}
    assert (found.access_token, found.expires_at_us) == ("service", (NOW_S + 300) * 1_000_000)
    assert "service" not in repr(found)
    await idp.http.aclose()


@pytest.mark.parametrize(
    ("key", "says", "algorithm"),
    [
        (ECKey.generate_key("P-256"), ["RS256", "ES256"], "ES256"),
        (RSAKey.generate_key(2048), ["RS256", "PS256"], "PS256"),
        (RSAKey.generate_key(2048), None, "RS256"),
    ],
    ids=["EC", "RSA", "RSA to one that does not say"],
)
async def test_an_assertion_is_signed_for_the_issuer_once(tmp_path, key, says, algorithm):
    path = tmp_path / "client.pem"
    path.write_bytes(key.as_pem(private=True))
    idp = Idp(oidc_client_key=path)
    if says:
        idp.metadata["token_endpoint_auth_signing_alg_values_supported"] = says
    idp.tokens()
    await idp.exchange()
    await idp.exchange()
    forms = [form_of(r) for r in idp.asked if r.url.path == "/token"]
    assert forms[0]["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    opened = [jwt.decode(form["client_assertion"], key, algorithms=[algorithm]) for form in forms]
    claims = opened[0].claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("vigil", "vigil", ISSUER)
    assert (claims["iat"], claims["exp"]) == (NOW_S, NOW_S + 60)
    assert claims["jti"] != opened[1].claims["jti"]
    assert opened[0].header == {"alg": algorithm, "typ": "JWT"}
    await idp.http.aclose()


async def test_an_unusable_client_key_is_named_and_never_shown(tmp_path):
    path = tmp_path / "client.pem"
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"nonsense", ECKey.generate_key("P-384").as_pem(private=True), KEY.as_pem(private=False), small):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="VIGIL_OIDC_CLIENT_KEY") as caught:
            Idp(oidc_client_key=path)
        assert content.decode()[:8] not in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Idp(oidc_client_key=tmp_path / "missing.pem")
    with pytest.raises(ConfigurationError, match="both set"):
        Idp(oidc_client_key=path, oidc_client_secret="s")


async def test_a_key_the_provider_cannot_check_is_said_so(tmp_path):
    path = tmp_path / "client.pem"
    path.write_bytes(KEY.as_pem(private=True))
    idp = Idp(oidc_client_key=path)
    idp.metadata["token_endpoint_auth_signing_alg_values_supported"] = ["RS256"]
    with pytest.raises(ConfigurationError, match="another kind"):
        await idp.exchange()
    await idp.http.aclose()


async def test_a_public_client_has_no_token_of_its_own(idp):
    with pytest.raises(ConfigurationError, match="neither is set"):
        await idp.provider.service_token("x")


# The provider fails, or is not what it says


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(400, json={"error": "invalid_grant", "error_description": "secret words"}), BadTokenError),
        (httpx.Response(400, json={}), BadTokenError),
        (httpx.Response(401, json={"error": "invalid_client"}), ConfigurationError),
        (httpx.Response(500, json={}), UnavailableError),
        (httpx.Response(503, text="<html>"), UnavailableError),
        (httpx.Response(429, json={}), UnavailableError),
        (httpx.Response(200, text="<html>secret words</html>"), UnavailableError),
        (httpx.Response(200, json=["access_token"]), UnavailableError),
        (httpx.Response(302, headers={"location": "https://evil.example.org/token"}), UnavailableError),
        (httpx.Response(307, headers={"location": "https://evil.example.org/token"}), UnavailableError),
        (httpx.Response(200, content=b'{"a":"' + b"x" * LARGEST_ANSWER + b'"}'), UnavailableError),
        (httpx.Response(200, content=b"[" * 100_000), UnavailableError),
    ],
    ids=lambda value: str(value) if isinstance(value, type) else None,
)
async def test_each_failure_of_the_token_endpoint_has_its_name(idp, answer, kind):
    idp.answers["/token"] = answer
    with pytest.raises(kind) as caught:
        await idp.exchange()
    assert type(caught.value) is kind
    assert "secret words" not in str(caught.value)
    assert all(request.url.host == "login.example.org" for request in idp.asked)


async def test_a_provider_that_trickles_is_given_up(idp, monkeypatch):
    monkeypatch.setattr(provider_keys, "ANSWER_TIMEOUT_S", 0.2)

    async def trickle():
        while True:
            await asyncio.sleep(0.05)
            yield b" "

    idp.answers["/token"] = lambda _: httpx.Response(200, content=trickle())
    with pytest.raises(UnavailableError, match="does not answer"):
        await idp.exchange()


async def test_a_provider_under_another_name_is_refused(idp):
    idp.metadata["issuer"] = ISSUER + "/"
    with pytest.raises(ConfigurationError, match="another name"):
        await idp.provider.check_allowed()


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"])
@pytest.mark.parametrize(
    "url", ["http://login.example.org/x", "http://127.0.0.1/x", "file:///etc/passwd", "https://", 7]
)
async def test_an_endpoint_that_could_be_overheard_is_refused(idp, name, url):
    idp.metadata[name] = url
    with pytest.raises(ConfigurationError):
        await idp.provider.check_allowed()


async def test_a_provider_without_s256_is_refused(idp):
    idp.metadata["code_challenge_methods_supported"] = ["plain"]
    with pytest.raises(ConfigurationError, match="S256"):
        await idp.provider.authorization_url("s", "n", VERIFIER, BACK)


@pytest.mark.parametrize(
    ("mode", "issuer", "is_development", "is_allowed"),
    [
        ("production", ISSUER, False, True),
        ("production", ISSUER, True, False),
        ("demo", ISSUER, True, True),
        ("demo", "http://127.0.0.1:9", True, True),
        ("demo", "http://localhost:9", False, True),
        ("production", "http://127.0.0.1:9", False, False),
        ("demo", "http://10.0.0.1:9", True, False),
        ("demo", "http://127.0.0.1.evil.example.org", True, False),
        ("demo", "http://user@127.0.0.1:9", True, False),
        ("production", "ftp://login.example.org", False, False),
        ("production", None, False, False),
    ],
)
async def test_which_issuer_is_allowed_in_which_mode(mode, issuer, is_development, is_allowed):
    def answer(request):
        base = str(request.url).partition("/.well-known")[0]
        found = {"issuer": base} | dict.fromkeys(("authorization_endpoint", "token_endpoint", "jwks_uri"), base + "/x")
        return httpx.Response(200, json=found | ({"vigil_development_issuer": True} if is_development else {}))

    async def check():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            clock = ManualClock(NOW_S * 1_000_000)
            await Provider(settings_of(mode=mode, oidc_issuer=issuer), http, clock).check_allowed()

    if is_allowed:
        await check()
    else:
        with pytest.raises(ConfigurationError):
            await check()


# Keys


async def test_unknown_key_names_make_at_most_one_question_in_30_seconds(idp):
    verifier = idp.provider.verifier()
    assert (await verifier.principal_of(idp.access_token())).subject == "u-17"
    assert idp.count("/keys") == 1
    hostile = [idp.signed({"iss": ISSUER}, kid=f"x{number}") for number in range(200)]
    for _ in range(3):
        idp.clock.advance(31)
        found = await asyncio.gather(*(verifier.principal_of(t) for t in hostile), return_exceptions=True)
        assert {type(each) for each in found} == {BadTokenError}
    assert idp.count("/keys") == 4


async def test_a_new_key_is_learnt_and_a_withdrawn_one_forgotten(idp):
    verifier = idp.provider.verifier()
    await verifier.principal_of(idp.access_token())
    idp.clock.advance(31)
    idp.keys = [idp.jwk(OTHER, "k2")]
    claims = {"iss": ISSUER, "aud": "urn:vigil:api", "sub": "u-17", "exp": NOW_S + 3000}
    assert (await verifier.principal_of(idp.signed(claims, key=OTHER, kid="k2"))).subject == "u-17"
    with pytest.raises(BadTokenError) as caught:
        await verifier.principal_of(idp.signed(claims))
    assert caught.value.reason == "unknown-key"


async def test_a_withdrawn_key_is_forgotten_although_no_new_one_is_used(idp):
    verifier = idp.provider.verifier()
    token = idp.access_token(exp=NOW_S + 3000)
    await verifier.principal_of(token)
    idp.keys = [idp.jwk(OTHER, "k2")]
    idp.clock.advance(599)
    await verifier.principal_of(token)
    idp.clock.advance(2)
    with pytest.raises(BadTokenError):
        await verifier.principal_of(token)


async def test_keys_are_kept_for_a_day_while_the_provider_is_down(idp):
    verifier = idp.provider.verifier()
    token = idp.access_token(exp=NOW_S + 30 * 24 * 3600)
    await verifier.principal_of(token)
    idp.is_down = True
    asked = len(idp.asked)
    for _ in range(23):
        idp.clock.advance(3600)
        for _ in range(20):
            await verifier.principal_of(token)
    assert len(idp.asked) - asked <= 2 * 23  # metadata and keys, once an hour
    idp.clock.advance(KEYS_KEPT_S - 23 * 3600 + 1)
    with pytest.raises(UnavailableError):
        await verifier.principal_of(token)
    idp.is_down = False
    idp.clock.advance(31)
    assert (await verifier.principal_of(token)).subject == "u-17"


async def test_a_provider_that_starts_after_us_is_found(idp):
    idp.is_down = True
    verifier = idp.provider.verifier()
    for _ in range(10):
        with pytest.raises(UnavailableError):
            await verifier.principal_of(idp.access_token())
    assert len(idp.asked) == 1
    idp.is_down = False
    idp.clock.advance(1.1)
    assert (await verifier.principal_of(idp.access_token())).subject == "u-17"


async def test_who_needs_a_known_key_does_not_wait_for_a_provider_that_hangs(idp, monkeypatch):
    verifier = idp.provider.verifier()
    token = idp.access_token(exp=NOW_S + 3000)
    await verifier.principal_of(token)
    started, answered = asyncio.Event(), asyncio.Event()

    async def hang(_):
        started.set()
        await answered.wait()
        return httpx.Response(200, json={"keys": idp.keys})

    idp.answers["/keys"] = hang
    idp.clock.advance(601)
    first = asyncio.create_task(verifier.principal_of(token))
    await started.wait()
    async with asyncio.timeout(1):
        assert (await verifier.principal_of(token)).subject == "u-17"
    answered.set()
    assert (await first).subject == "u-17"


def test_only_keys_that_may_check_signatures_are_used():
    rsa_key, other = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
    jwk = Idp.jwk
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_numbers()
    modulus = base64.urlsafe_b64encode(numbers.n.to_bytes(128)).rstrip(b"=").decode()
    found = usable_keys(
        [
            jwk(rsa_key, "rsa"), jwk(rsa_key, "only-ps", alg="PS256"), jwk(KEY, "ec"),
            jwk(rsa_key, "for-encryption", use="enc"), jwk(rsa_key, "other-alg", alg="RSA-OAEP"),
            {"kty": "RSA", "kid": "small", "n": modulus, "e": "AQAB"}, jwk(ECKey.generate_key("P-384"), "p384"),
            jwk(rsa_key, "twice"), jwk(other, "twice"), jwk(rsa_key, "may-sign", key_ops=["sign"]),
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}, rsa_key.as_dict(private=True) | {"kid": "private"},
            {"kty": "RSA", "kid": "damaged", "n": "!", "e": "AQAB"}, {"kty": "RSA", "kid": "empty"},
            {"kid": "no-kind"}, jwk(rsa_key, None), jwk(rsa_key, ""), "text", None, 7,
        ]
    )  # fmt: skip
    assert {kid: sorted(algorithms) for kid, (_, algorithms) in found.items()} == {
        "rsa": ["PS256", "RS256"], "only-ps": ["PS256"], "ec": ["ES256"],
    }  # fmt: skip


async def test_the_client_follows_no_redirect_and_uses_no_proxy_for_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with http_client(settings_of(mode="demo", oidc_issuer="http://127.0.0.1:1")) as http:
        assert not http.follow_redirects
        assert not http._mounts
    async with http_client(settings_of()) as http:
        assert http._mounts


async def test_an_unreadable_authority_is_named(tmp_path):
    (tmp_path / "authority.pem").write_text("nonsense")
    with pytest.raises(ConfigurationError, match=r"authority\.pem"):
        http_client(settings_of(identity_dir=tmp_path))


def test_no_issuer_is_a_setting_to_change():
    with pytest.raises(ConfigurationError, match="VIGIL_OIDC_ISSUER"):
        Discovery(settings_of(oidc_issuer=None), None, None)
