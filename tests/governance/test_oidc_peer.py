"""The whole flow over real sockets against two providers: npm's oidc-provider 9, and our own development issuer."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
import msgspec
import pytest
from joserfc.jwk import ECKey

from governance.access import Role
from governance.oidc import Provider
from governance.provider_keys import http_client
from governance.tokens import BadTokenError
from orchestration.embedded import free_port
from vocabulary.clock import SystemClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

PEER = Path(__file__).with_name("oidc_peer.mjs")
BACK = "http://127.0.0.1:18099/auth/callback"
AFTER = "http://127.0.0.1:18099/"
PRACTITIONER_OF = {"nora": "", "pavel": "P-NOVAK"}


@dataclass
class Peer:
    """A provider that runs, and how a browser signs in there."""

    name: str
    issuer: str
    client_id: str
    subjects: dict[str, str]
    role_map: dict[str, str]
    prompt: str | None
    services: dict[str, dict]
    scope: str
    logout_tokens: list[str]
    browser: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False))

    def settings(self, **changes) -> Settings:
        base = {
            "mode": "demo", "oidc_issuer": self.issuer, "oidc_client_id": self.client_id,
            "oidc_role_map": self.role_map,
        }  # fmt: skip
        return Settings(**(base | changes))

    def sign_in(self, url: str, who: str) -> dict[str, str]:
        """Walk as a browser would; return what comes back to us."""
        for _ in range(12):
            answer = self.browser.get(url)
            if answer.is_redirect:
                url = urljoin(url, answer.headers["location"])
            else:
                question = re.search(r'name="question" value="([^"]+)"', answer.text)
                assert question, answer.text[:300]
                form = {"question": question[1], "subject": self.subjects[who]}
                answer = self.browser.post(urljoin(url, "/authorize"), data=form)
                url = answer.headers["location"]
            if url.startswith(BACK):
                return dict(parse_qsl(urlsplit(url).query))
        raise AssertionError("the provider never came back")

    def sign_out(self, url: str) -> str:
        """Walk the sign-out; return where it ends."""
        answer = self.browser.get(url)
        if not answer.is_redirect:
            form = {"xsrf": re.search(r'name="xsrf" value="([^"]+)"', answer.text)[1], "logout": "yes"}
            answer = self.browser.post(re.search(r'action="([^"]+)"', answer.text)[1], data=form)
        return answer.headers["location"]


class Receiver:
    """Our end of the back channel: keeps what it is told."""

    def __init__(self) -> None:
        self.port = free_port()
        self.tokens: list[str] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Receiver]:
        told = self.tokens

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                told.append(dict(parse_qsl(body))["logout_token"])
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextlib.contextmanager
def process(command, log: Path, **arguments) -> Iterator[subprocess.Popen]:
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **arguments)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(issuer: str, child: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert child.poll() is None, log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def node_modules(folder: Path) -> Path:
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the peer oidc-provider cannot run")
    named = os.environ.get("VIGIL_TEST_NODE_MODULES", "/tmp/npm/node_modules")
    if (Path(named) / "oidc-provider").is_dir():
        return Path(named)
    try:
        command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "oidc-provider@9"]
        subprocess.run(command, check=True, capture_output=True, timeout=90)
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"npm's oidc-provider 9 is neither at {named} (VIGIL_TEST_NODE_MODULES) nor can it be installed")
    return folder / "node_modules"


@pytest.fixture(scope="module", params=["oidc-provider RS256", "oidc-provider ES256", "oidc-provider Ed25519", "ours"])
def peer(request, running_peers) -> Peer:
    kind, _, algorithm = request.param.partition(" ")
    found = running_peers(kind)
    if algorithm:
        found.client_id = f"vigil-{algorithm}"
    return found


@pytest.fixture(scope="module")
def running_peers(tmp_path_factory):
    started: dict[str, Peer] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> Peer:
            if kind not in started:
                folder = tmp_path_factory.mktemp("peer")
                started[kind] = stack.enter_context((ours if kind == "ours" else theirs)(folder))
            started[kind].browser = httpx.Client(trust_env=False)
            stack.callback(started[kind].browser.close)
            return started[kind]

        yield start


@contextlib.contextmanager
def theirs(folder: Path) -> Iterator[Peer]:
    modules = node_modules(folder / "npm")
    (folder / "node_modules").symlink_to(modules)
    shutil.copy(PEER, folder / PEER.name)
    key, secret, port = ECKey.generate_key("P-256"), secrets.token_urlsafe(24), free_port()
    (folder / "service.pem").write_bytes(key.as_pem(private=True))
    receiver, log = Receiver(), folder / "log"
    plan = {
        "port": port, "redirectUri": BACK, "afterSignOut": AFTER, "secret": secret,
        "backChannel": f"http://127.0.0.1:{receiver.port}/", "serviceJwk": key.as_dict(private=False),
    }  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PEER": json.dumps(plan)}
    issuer = f"http://127.0.0.1:{port}"
    with (
        receiver.running(),
        process(["node", PEER.name], log, cwd=folder, env=environment) as child,
    ):
        wait_for(issuer, child, log)
        yield Peer(
            "oidc-provider", issuer, "", {"nora": "nora", "pavel": "pavel"}, {"ward-nurse": "nurse"}, "consent",
            {
                "secret": {"oidc_client_id": "by-secret", "oidc_client_secret": secret},
                "key": {"oidc_client_id": "by-key", "oidc_client_key": folder / "service.pem"},
            },
            "twin.read", receiver.tokens,
        )  # fmt: skip


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Peer]:
    port, receiver, log = free_port(), Receiver(), folder / "log"
    issuer = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "hospital", "issuer", "--demo", "--port", str(port), "--folder", str(folder / "keys"),
        "--redirect", "http://127.0.0.1/auth/callback", "--after-sign-out", AFTER,
        "--back-channel", f"http://127.0.0.1:{receiver.port}/",
    ]  # fmt: skip
    with receiver.running(), process(command, log) as child:
        wait_for(issuer, child, log)
        secret = (folder / "keys" / "demo-ehr.secret").read_text()
        key = folder / "keys" / "demo-ehr.pem"
        yield Peer(
            "ours", issuer, "vigil", {"nora": "p-3f6a1c", "pavel": "p-b20d97"}, {}, None,
            {
                "secret": {"oidc_client_id": "demo-ehr", "oidc_client_secret": secret},
                "key": {"oidc_client_id": "demo-ehr", "oidc_client_key": key},
            },
            "system/*.rs", receiver.tokens,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def provider_at(peer: Peer, **changes):
    settings = peer.settings(**changes)
    async with http_client(settings) as http:
        yield Provider(settings, http, SystemClock())


async def sign_in(provider: Provider, peer: Peer, who: str):
    state, nonce, verifier = (secrets.token_urlsafe(48) for _ in range(3))
    url = await provider.authorization_url(
        state, nonce, verifier, BACK, prompt=peer.prompt, max_age_s=600, login_hint=who
    )
    peer.browser.cookies.clear()
    answer = await asyncio.to_thread(peer.sign_in, url, who)
    assert answer["state"] == state
    arguments = {"iss": answer.get("iss"), "max_age_s": 600}
    return answer["code"], verifier, nonce, arguments


async def test_people_sign_in_stay_and_sign_out(peer):
    async with provider_at(peer) as provider:
        await provider.check_allowed()
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        found = await provider.exchange(code, verifier, BACK, nonce, **arguments)
        person = found.principal
        assert (person.subject, person.name, person.roles) == (peer.subjects["nora"], "Nora Lind", {Role.NURSE})
        assert "ICU-A" in person.units
        assert found.sid
        assert 200e6 < found.expires_at_us - SystemClock().now_us() <= 3600e6

        # Their access token is for our API, and says the same of them; their id_token is none.
        verifying = provider.verifier()
        bearer = await verifying.principal_of(found.access_token)
        assert (bearer.agent, bearer.roles, bearer.units) == (person.agent, person.roles, person.units)
        with pytest.raises(BadTokenError):
            await verifying.principal_of(found.id_token)

        # Refresh tokens rotate: the new one works, the old one ends the session.
        again = await provider.refresh(found.refresh_token, person)
        assert again.principal.roles == person.roles
        assert again.refresh_token != found.refresh_token
        last = await provider.refresh(again.refresh_token, person)

        # Signing out comes back, and the back channel tells of exactly this session, once.
        told = len(peer.logout_tokens)
        url = await provider.logout_url(last.id_token or found.id_token, AFTER, "bye")
        end = await asyncio.to_thread(peer.sign_out, url)
        assert end == f"{AFTER}?state=bye"
        async with asyncio.timeout(5):
            while len(peer.logout_tokens) == told:  # noqa: ASYNC110 - it is told in another thread
                await asyncio.sleep(0.02)
        sid, subject = await provider.logout_claims(peer.logout_tokens[-1])
        assert sid == found.sid
        assert subject in {peer.subjects["nora"], None}
        with pytest.raises(BadTokenError) as caught:
            await provider.logout_claims(peer.logout_tokens[-1])
        assert caught.value.reason == "replayed"
        for token in (peer.logout_tokens[-1], found.id_token):
            with pytest.raises(BadTokenError):
                await verifying.principal_of(token)
        if peer.name == "ours":
            with pytest.raises(BadTokenError) as caught:
                await provider.refresh(last.refresh_token, person)
            assert caught.value.reason == "refused-by-the-provider"


async def test_the_practitioner_is_known_as_adt_names_them(peer):
    async with provider_at(peer) as provider:
        code, verifier, nonce, arguments = await sign_in(provider, peer, "pavel")
        found = await provider.exchange(code, verifier, BACK, nonce, **arguments)
        assert (found.principal.practitioner, found.principal.roles) == ("P-NOVAK", {Role.PHYSICIAN})


async def test_a_spent_refresh_token_ends_everything(peer):
    async with provider_at(peer) as provider:
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        found = await provider.exchange(code, verifier, BACK, nonce, **arguments)
        again = await provider.refresh(found.refresh_token, found.principal)
        for spent in (found.refresh_token, again.refresh_token):
            with pytest.raises(BadTokenError):
                await provider.refresh(spent, found.principal)


async def test_a_code_works_once_for_its_own_browser_and_question(peer):
    async with provider_at(peer) as provider:
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        with pytest.raises(BadTokenError):
            await provider.exchange(code, "w" * 43, BACK, nonce, **arguments)
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        with pytest.raises(BadTokenError):
            await provider.exchange(code, verifier, BACK + "x", nonce, **arguments)
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        with pytest.raises(BadTokenError) as caught:
            await provider.exchange(code, verifier, BACK, "another nonce", **arguments)
        assert caught.value.reason == "nonce"
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        found = await provider.exchange(code, verifier, BACK, nonce, **arguments)
        with pytest.raises(BadTokenError):
            await provider.exchange(code, verifier, BACK, nonce, **arguments)
        with pytest.raises(BadTokenError):  # whoever used it first may have been the thief
            await provider.refresh(found.refresh_token, found.principal)


@pytest.mark.parametrize("proof", ["secret", "key"])
async def test_a_system_gets_a_token_and_is_a_service(peer, proof):
    changes = peer.services[proof]
    async with provider_at(peer, **changes) as provider:
        token = await provider.service_token(peer.scope)
        found = await provider.verifier().principal_of(token.access_token)
        # What roles its token names does not matter, where this site maps none of them for systems.
        roles = {Role.NURSE} if peer.role_map else {Role.SERVICE}
        assert (found.subject, found.client, found.roles) == (
            changes["oidc_client_id"], changes["oidc_client_id"], roles,
        )  # fmt: skip
    async with provider_at(peer, oidc_role_map={}, **changes) as provider:
        assert (await provider.verifier().principal_of(token.access_token)).roles == {Role.SERVICE}


async def test_who_cannot_prove_themselves_gets_none(peer, tmp_path):
    (tmp_path / "other.pem").write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    wrong = (
        peer.services["secret"] | {"oidc_client_secret": "not the secret"},
        peer.services["key"] | {"oidc_client_key": tmp_path / "other.pem"},
        peer.services["secret"] | {"oidc_client_id": "nobody"},
    )
    for changes in wrong:
        async with provider_at(peer, **changes) as provider:
            with pytest.raises(ConfigurationError, match="does not know us"):
                await provider.service_token(peer.scope)


async def test_a_token_of_one_provider_is_nothing_at_another(running_peers):
    peers = [running_peers("ours"), running_peers("oidc-provider")]
    async with contextlib.AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(provider_at(peer, **peer.services["secret"])) for peer in peers]
        tokens = [await p.service_token(peer.scope) for p, peer in zip(providers, peers, strict=True)]
        for provider, token in zip(providers, reversed(tokens), strict=True):
            with pytest.raises(BadTokenError):
                await provider.verifier().principal_of(token.access_token)


async def test_our_issuer_is_refused_in_production(running_peers):
    peer = running_peers("ours")
    async with http_client(peer.settings()) as http:
        with pytest.raises(ConfigurationError):
            Provider(peer.settings(mode="production"), http, SystemClock())


async def test_a_principal_survives_the_sessions_store(peer):
    async with provider_at(peer) as provider:
        code, verifier, nonce, arguments = await sign_in(provider, peer, "nora")
        person = (await provider.exchange(code, verifier, BACK, nonce, **arguments)).principal
        assert msgspec.json.decode(msgspec.json.encode(person), type=type(person)) == person
