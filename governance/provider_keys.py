"""What an OpenID provider publishes about itself: its endpoints and its public keys, fetched, checked and kept.

Here: bounded requests to the provider, its discovery document, its JSON Web Key Set, and how long each is believed.
Not here: tokens (governance.jws, governance.tokens), signing in (governance.oidc).
Source: OpenID Connect Discovery 1.0; RFC 7517 (JWK); RFC 8414.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.errors import JoseError
from joserfc.jwk import import_key

from governance.jws import ALGORITHMS, BadTokenError, PublicKey
from vocabulary.clock import Clock
from vocabulary.errors import ConfigurationError, UnavailableError
from vocabulary.settings import Settings, is_loopback
from vocabulary.tls import Identity

ANSWER_TIMEOUT_S = 5.0
LARGEST_ANSWER = 512 * 1024
"""Bytes. A key set has a few thousand; a provider that was taken over cannot fill our memory."""
METADATA_AGE_S = 3600.0
KEYS_AGE_S = 600.0
"""After this the keys are asked for again, so that a key the provider withdrew is not believed for long."""
KEYS_KEPT_S = 24 * 3600.0
"""How long keys are believed while the provider is down: people who are signed in keep working."""
REFRESH_INTERVAL_S = 30.0
"""Between two questions for keys, however many tokens name unknown ones: nobody makes us hammer the provider."""
FIRST_RETRY_S = 1.0
"""Between two questions while we know no keys at all: the provider may be starting beside us."""
SMALLEST_RSA_BITS = 2048  # RFC 7518 section 3.3
_MOST_KEYS = 100
_PUBLIC_MEMBERS = ("kty", "n", "e", "crv", "x", "y")


class Answer(NamedTuple):
    """What the provider answered."""

    status: int
    body: dict[str, Any]


class Metadata(NamedTuple):
    """The part of a discovery document that we use."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    signing_algorithms: frozenset[str]  # for client assertions; empty where it does not say
    names_itself_in_answers: bool  # RFC 9207


def http_client(settings: Settings) -> httpx.AsyncClient:
    """Return a client that believes the system's authorities and those of our identity folder. Close it at the end.

    Raises:
        ConfigurationError: the authorities cannot be read.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.identity_dir is not None and Identity(settings.identity_dir).authority.exists():
        authority = Identity(settings.identity_dir).authority
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"The authorities {authority} cannot be read: {error.strerror or type(error).__name__}."
            ) from None
    is_here = settings.oidc_issuer is not None and is_loopback(urlsplit(settings.oidc_issuer).hostname or "")
    return httpx.AsyncClient(
        verify=context,
        timeout=ANSWER_TIMEOUT_S,
        follow_redirects=False,
        # A proxy of the environment is for the world outside; asked for our own machine, it would fail or listen.
        trust_env=not is_here,
        limits=httpx.Limits(max_connections=8),
    )


async def ask(http: httpx.AsyncClient, method: str, url: str, **arguments: Any) -> Answer:  # noqa: ANN401
    """Send one request; follow no redirect; read no more than a bounded JSON object, in bounded time.

    Raises:
        UnavailableError: no answer, too much of one, a server's error, or no JSON object.
    """
    host = urlsplit(url).netloc
    headers = {"accept": "application/json", "accept-encoding": "identity"} | dict(arguments.pop("headers", {}))
    try:
        async with (
            asyncio.timeout(ANSWER_TIMEOUT_S),
            http.stream(method, url, headers=headers, follow_redirects=False, **arguments) as response,
        ):
            # We asked for none: a compressed answer could grow without bound between two looks at its size.
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnavailableError(f"The identity provider {host} sent a compressed answer we did not ask for.")
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise UnavailableError(
                        f"The identity provider {host} answered with more than {LARGEST_ANSWER} bytes."
                    )
    except (httpx.HTTPError, TimeoutError, ssl.SSLError) as error:
        raise UnavailableError(
            f"The identity provider {host} does not answer ({type(error).__name__}). Check VIGIL_OIDC_ISSUER and that "
            "it runs."
        ) from None
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or 300 <= response.status_code < 400:
        raise UnavailableError(f"The identity provider {host} answered with status {response.status_code}.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(f"The identity provider {host} answered {response.status_code} with no JSON object.")
    return Answer(response.status_code, found)


def check_address(name: str, url: str, settings: Settings) -> None:
    """Check that an address of the provider cannot be overheard.

    Raises:
        ConfigurationError: it is not https, and not a demonstration's on this machine.
    """
    parts = urlsplit(url)
    is_demonstration = settings.mode == "demo" and parts.scheme == "http" and is_loopback(parts.hostname or "")
    if (parts.scheme != "https" and not is_demonstration) or not parts.hostname or parts.username or parts.fragment:
        raise ConfigurationError(
            f"The identity provider's {name} must be an https address; plain http is for VIGIL_MODE=demo on this "
            "machine only. Check VIGIL_OIDC_ISSUER."
        )


def age_s(at_ns: int | None, clock: Clock) -> float:
    """Return how long ago a moment of the monotonic clock was [s]; infinite for never."""
    return float("inf") if at_ns is None else (clock.monotonic_ns() - at_ns) / 1e9


class Discovery:
    """The provider's description of itself, asked for at most once an hour."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, clock: Clock) -> None:
        """Know where to ask; nothing is asked yet.

        Raises:
            ConfigurationError: no issuer is set, or its address could be overheard.
        """
        if not settings.oidc_issuer:
            raise ConfigurationError("VIGIL_OIDC_ISSUER is not set: nobody could sign in. Name the OpenID provider.")
        check_address("issuer", settings.oidc_issuer, settings)
        self.issuer = settings.oidc_issuer
        self._settings = settings
        self._http = http
        self._clock = clock
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._asked_ns: int | None = None

    async def metadata(self) -> Metadata:
        """Return it; one that is older than an hour is kept while the provider is down.

        Raises:
            UnavailableError: never fetched, and the provider does not answer.
            ConfigurationError: it is not the issuer it is asked as, lacks what we need, or is the development issuer
                outside of demo mode.
        """
        async with self._lock:
            longest_s = FIRST_RETRY_S if self._metadata is None else METADATA_AGE_S
            if age_s(self._asked_ns, self._clock) >= longest_s:
                try:
                    self._metadata = await self._fetch()
                except UnavailableError:
                    if self._metadata is None:
                        raise
                finally:
                    self._asked_ns = self._clock.monotonic_ns()
            if self._metadata is None:
                raise UnavailableError("The identity provider did not answer a moment ago. Check that it runs.")
            return self._metadata

    async def _fetch(self) -> Metadata:
        answer = await ask(self._http, "GET", self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if answer.status != httpx.codes.OK:
            raise UnavailableError(f"The identity provider has no discovery document (status {answer.status}).")
        return self._checked(answer.body)

    def _checked(self, body: Mapping[str, Any]) -> Metadata:
        if body.get("issuer") != self.issuer:
            # OpenID Connect Discovery section 4.3: else another issuer's tokens would be taken for this one's.
            raise ConfigurationError(
                "The identity provider calls itself by another name than VIGIL_OIDC_ISSUER; both must be the same to "
                "the last character."
            )
        if body.get("vigil_development_issuer") and self._settings.mode != "demo":
            raise ConfigurationError(
                "VIGIL_OIDC_ISSUER is the development issuer, where anybody may be anybody. It is for VIGIL_MODE=demo "
                "only; name the hospital's own identity provider."
            )
        addresses = {
            name: self._address(body, name, is_needed=is_needed)
            for name, is_needed in (
                ("authorization_endpoint", True),
                ("token_endpoint", True),
                ("jwks_uri", True),
                ("userinfo_endpoint", False),
                ("end_session_endpoint", False),
            )
        }
        methods = body.get("code_challenge_methods_supported")
        if isinstance(methods, list) and "S256" not in methods:
            raise ConfigurationError("The identity provider does not do PKCE with S256, which we never go without.")
        algorithms = body.get("token_endpoint_auth_signing_alg_values_supported")
        return Metadata(
            issuer=self.issuer,
            signing_algorithms=frozenset(algorithms if isinstance(algorithms, list) else ()),
            names_itself_in_answers=body.get("authorization_response_iss_parameter_supported") is True,
            **addresses,
        )

    def _address(self, body: Mapping[str, Any], name: str, *, is_needed: bool) -> str:
        url = body.get(name, "")
        if not isinstance(url, str) or (is_needed and not url):
            raise ConfigurationError(f"The identity provider's discovery document lacks {name}.")
        if url:
            check_address(name, url, self._settings)
        return url


class ProviderKeys:
    """The provider's public keys, by name."""

    def __init__(self, discovery: Discovery, http: httpx.AsyncClient, clock: Clock) -> None:
        """Know whom to ask; nothing is asked yet."""
        self._discovery = discovery
        self._http = http
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: dict[str, tuple[PublicKey, frozenset[str]]] = {}
        self._fetched_ns: int | None = None
        self._asked_ns: int | None = None

    async def key(self, kid: str, algorithm: str) -> PublicKey:
        """Return the issuer's key of that name for that algorithm.

        Raises:
            BadTokenError: the issuer has none.
            UnavailableError: no keys are known, and the issuer does not answer.
        """
        if age_s(self._fetched_ns, self._clock) > KEYS_AGE_S or kid not in self._keys:
            await self._refresh(kid)
        found = self._keys.get(kid)
        if found is None:
            raise BadTokenError("unknown-key")
        key, algorithms = found
        if algorithm not in algorithms:
            raise BadTokenError("wrong-key")
        return key

    async def _refresh(self, kid: str) -> None:
        # Who needs a key that is known waits for nobody else's question.
        if self._lock.locked() and kid in self._keys and age_s(self._fetched_ns, self._clock) <= KEYS_KEPT_S:
            return
        async with self._lock:
            interval_s = REFRESH_INTERVAL_S if self._keys else FIRST_RETRY_S
            if age_s(self._asked_ns, self._clock) >= interval_s:
                # A provider that suddenly calls itself otherwise is as good as silent: what it said before holds.
                with contextlib.suppress(UnavailableError, ConfigurationError):
                    await self._fetch()
                self._asked_ns = self._clock.monotonic_ns()
            if age_s(self._fetched_ns, self._clock) > KEYS_KEPT_S:
                self._keys = {}
                raise UnavailableError(
                    "The identity provider's keys are not known and it does not answer. Check VIGIL_OIDC_ISSUER and "
                    "that it runs; `vigil status` shows the development issuer."
                )

    async def _fetch(self) -> None:
        metadata = await self._discovery.metadata()
        answer = await ask(self._http, "GET", metadata.jwks_uri)
        entries = answer.body.get("keys")
        if answer.status != httpx.codes.OK or not isinstance(entries, list):
            raise UnavailableError(f"The identity provider publishes no key set (status {answer.status}).")
        self._keys = usable_keys(entries)
        self._fetched_ns = self._clock.monotonic_ns()


def usable_keys(entries: list[Any]) -> dict[str, tuple[PublicKey, frozenset[str]]]:
    """Return the keys of a JWK Set that may check signatures, each with the algorithms it may do so with.

    Keys of other kinds, weak, unnamed or damaged are left out: providers publish keys for encryption beside these. A
    name that occurs twice is left out too, for either may be meant.
    """
    found: dict[str, tuple[PublicKey, frozenset[str]]] = {}
    twice: set[str] = set()
    for entry in entries[:_MOST_KEYS]:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        # A public set with a private or secret key in it is somebody's mistake; that key is known to everybody.
        if not isinstance(kid, str) or not kid or "d" in entry or "k" in entry:
            continue
        usable = _usable(entry)
        if usable is not None:
            if kid in found:
                twice.add(kid)
            found[kid] = usable
    return {kid: usable for kid, usable in found.items() if kid not in twice}


def _usable(entry: dict[str, Any]) -> tuple[PublicKey, frozenset[str]] | None:
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    # joserfc only warns of short keys, and a warning is nothing a running process reads.
    if entry.get("kty") == "RSA" and len(str(entry.get("n", ""))) * 6 < SMALLEST_RSA_BITS:
        return None
    members: dict[str, str | list[str]] = {name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}
    try:
        key = import_key(members).public_key
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    algorithms: frozenset[str]
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= SMALLEST_RSA_BITS:
        algorithms = frozenset({"RS256", "PS256"})
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithms = frozenset({"ES256"})
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithms = frozenset({"EdDSA"})
    else:
        return None
    declared = entry.get("alg")
    declared = "EdDSA" if declared == "Ed25519" else declared  # RFC 9864 renamed it
    if declared is not None:
        algorithms &= {declared} if isinstance(declared, str) else frozenset()
    return (key, algorithms & ALGORITHMS) if algorithms else None
