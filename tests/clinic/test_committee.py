"""The committee's pages: what they show, who signs, what a complete request does, who takes a voice away."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance import lifecycle, serving, trust
from governance import roster as rosters
from governance.access import Principal, Role
from governance.approval_states import statement_for
from governance.approvals import open_request
from governance.dossier_style import CONTENT_SECURITY_POLICY
from governance.roster import Roster, Signer, SignerKey, sign_statement
from governance.serving import Standing
from governance.serving_record import read_rows
from governance.statements import Action, Slot, statement_bytes
from stores import incidents, models
from stores.approvals import ApprovalRequest, requests, signatures_of
from stores.database import connect, transaction
from stores.incidents import Incident
from stores.models import ModelVersion
from vocabulary.signing import SigningKey
from vocabulary.verdict import Kind, Measure, Outcome, Verdict

DIGEST = "ab12" * 16
PAGE = "/models/mortality/1"
CHROMIUM = Path("/usr/bin/chromium")
MANIFEST = 'outcome = "death before discharge from this hospital stay"\n'


class Committee:
    """A version with its evidence, an open request, and people with keys of their own."""

    def __init__(self, house: Any, issuer: str) -> None:
        self.house = house
        self.issuer = issuer
        self.context = house.app.state.context
        self.keys = {
            name: SigningKey.generate()
            for name in ("clinical_lead", "safety_officer", "physician", "model_author", "both")
        }
        self.request: ApprovalRequest | None = None

    def person(self, name: str) -> str:
        return f"{self.issuer}|s-{name}"

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.context.wall_clock.now_us() / 1e6, UTC)

    def install(self, *more: Signer) -> None:
        """Install the roster these people are named in."""
        settings, today = self.context.settings, self.now.date()
        until = today + timedelta(30)
        roles = {"both": (Role.CLINICAL_LEAD, Role.SAFETY_OFFICER)}
        signers = tuple(
            Signer(
                person=self.person(name), name=f"Person {name}", roles=roles.get(name) or (Role(name),),
                keys=(SignerKey(kind="ed25519", public=key.verifying.text(), valid_from=today, valid_until=until),),
            )
            for name, key in self.keys.items()
        )  # fmt: skip
        root = SigningKey.generate()
        roster = Roster(serial=1, issued_at=self.now, valid_until=until, signers=(*signers, *more))
        path = trust.roster_path(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rosters.sign(rosters.encode(roster), root))
        object.__setattr__(settings, "signer_root", root.verifying.text())
        object.__setattr__(settings, "mode", "demo")  # the silent period is waived

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Any]:
        connection = await connect(self.house.url, application_name="test")
        try:
            async with transaction(connection):
                yield connection
        finally:
            await connection.close()

    async def register(self, digest: str = DIGEST, *, outcome: Outcome = Outcome.PASS) -> ModelVersion:
        version = ModelVersion(
            scope="mortality", model_digest=digest, manifest=MANIFEST, author=self.person("model_author"),
            registered_at_us=self.context.wall_clock.now_us(), data_fingerprint="fa" * 32, code_version="0.4.0",
            lock_digest="be" * 8, protocol="mortality@1", protocol_digest="cd" * 32, is_synthetic=True,
        )  # fmt: skip
        async with self.database() as connection:
            version = await models.add_version(connection, version)
            for kind in (Kind.EXPECTATIONS, Kind.DRIFT, Kind.BIAS, Kind.CLINICAL):
                is_odd = kind is Kind.CLINICAL
                verdict = Verdict(
                    kind=kind, subject="mortality", outcome=outcome if is_odd else Outcome.PASS,
                    statement=f"What {kind} found.", protocol="mortality@1", protocol_digest="cd" * 32,
                    model_digest=digest,
                    measures=(Measure(name="auroc", value=0.86, low=0.84, high=0.88, at_least=0.8, outcome=outcome),)
                    if is_odd else (),
                )  # fmt: skip
                await models.add_verdict(connection, verdict, digest, self.context.wall_clock.now_us())
        return version

    async def ask(self, version: ModelVersion) -> ApprovalRequest:
        async with self.database() as connection:
            self.request = await open_request(
                connection, version, Slot.CHAMPION, opened_by=self.person("model_author"), trust=self.trust(),
                policy=lifecycle.load(), now=self.now, waivers=("silent_period", "sites"),
            )  # fmt: skip
        return self.request

    def trust(self) -> serving.Trust:
        return serving.load_trust(self.context.settings, self.now, self.context.public_url)

    def signature(self, name: str, role: Role | None = None) -> str:
        """Return what `vigil approve --print` prints for a person's key file."""
        assert self.request is not None
        statement = statement_for(self.request, self.person(name), role or Role(name), lifecycle.load())
        return msgspec.json.encode(sign_statement(self.keys[name], statement_bytes(statement), self.now)).decode()

    async def paste(self, client: Any, role: str, signature: str) -> Any:
        assert self.request is not None
        path = f"/approvals/{self.request.request_id}/signature"
        return await client.post(path, data={"role": role, "signature": signature})

    async def champion(self) -> serving.Held:
        async with self.database() as connection:
            rows = await read_rows(connection, "mortality")
        return serving.judge_scope("mortality", rows, self.trust(), lifecycle.load(), self.now).slots[Slot.CHAMPION]

    async def approve(self, digest: str = DIGEST) -> None:
        """Bring a version into service, by the pages."""
        await self.ask(await self.register(digest))
        for name in ("clinical_lead", "safety_officer"):
            self.house.wall_clock.advance(1)
            answer = await self.paste(await self.house.as_(name), name, self.signature(name))
            assert answer.status_code == 303, answer.text
        assert (await self.champion()).standing is Standing.SPEAKING


@pytest.fixture
async def committee(house: Any, guarded: Any) -> Committee:
    found = Committee(house, guarded.ISSUER)
    found.install()
    return found


def _said(answer: Any) -> str:
    [fault] = re.findall(r'<p class="fault" role="alert">(.*?)</p>', answer.text)
    return html.unescape(fault)


async def _outcomes(house: Any) -> list[tuple[str, str, str]]:
    """Return (verb, outcome, act) of each event on models that is no look."""
    found = []
    for event in await house.audit():
        entry = event.entry
        if entry.surface == "models" and entry.verb != "read":
            found.append((entry.verb, entry.outcome, json.loads(entry.detail or "{}").get("act", "")))
    return found


# What is shown, and to whom ------------------------------------------------------------------------------------------


async def test_a_house_without_a_model_says_how_one_is_made(committee: Committee, house: Any) -> None:
    page = (await (await house.as_("safety_officer")).get("/models")).text
    assert "No version is registered." in page


async def test_the_list_tells_stage_verdicts_requests_and_incidents(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register(outcome=Outcome.INCONCLUSIVE))
    await committee.register("cd34" * 16, outcome=Outcome.FAIL)
    async with committee.database() as connection:
        at_us = house.wall_clock.now_us()
        found = Incident(at_us=at_us, scope="mortality", slot="champion", cause="alert_flood", statement="Too many.",
                         reaction="clamp", opened_by="keeper")  # fmt: skip
        await incidents.add(connection, found)
    page = (await (await house.as_("clinical_lead")).get("/models")).text
    rows = dict(re.findall(r'mortality/(\d+)">(.*?)</tr>', page, re.DOTALL))
    assert "validated" in rows["1"]
    assert "? inconclusive" in rows["1"]
    assert "1 open" in rows["1"]
    assert "candidate" in rows["2"]
    assert "✕ failed" in rows["2"]
    assert "synthetic" in rows["2"]
    assert "alert flood" in page
    assert "Too many." in page


async def test_who_has_nothing_to_do_with_models_finds_none(committee: Committee, house: Any) -> None:
    await committee.register()
    for path in ("/models", PAGE, f"{PAGE}/dossier"):
        for who, status in (("nurse", 404), ("nobody_much", 404), ("model_author", 200), ("physician", 200)):
            assert (await (await house.as_(who)).get(path)).status_code == status, (who, path)
        assert (await house.system().get(path)).status_code == 404
    assert [event.entry.outcome for event in await house.audit()].count("denied") == 9


async def test_a_version_that_is_none_is_absent(committee: Committee, house: Any) -> None:
    await committee.register()
    officer = await house.as_("safety_officer")
    for number in ("0", "9", "x", "1.0", "99999999999999999999", "2147483648"):
        for path in (f"/models/mortality/{number}", f"/models/mortality/{number}/dossier"):
            assert (await officer.get(path)).status_code == 404, path


async def test_the_page_shows_the_exact_statement_in_the_roles_one_holds(committee: Committee, house: Any) -> None:
    request = await committee.ask(await committee.register(outcome=Outcome.INCONCLUSIVE))
    page = (await (await house.as_("clinical_lead")).get(PAGE)).text
    shown = [html.unescape(text) for text in re.findall(r"<pre>(\{.*?)</pre>", page, re.DOTALL)]
    statement = statement_for(request, committee.person("clinical_lead"), Role.CLINICAL_LEAD, lifecycle.load())
    assert shown == [statement_bytes(statement).decode()]
    for condition in request.conditions:
        assert html.escape(condition, quote=False) in html.unescape(page) or condition in html.unescape(page)
    assert f"vigil approve {request.request_id} --role clinical_lead --key FILE --print" in page
    for other in ("model_author", "data_engineer"):
        assert "Sign as" not in (await (await house.as_(other)).get(PAGE)).text


async def test_the_dossier_is_one_file_under_a_policy_of_its_own(committee: Committee, house: Any) -> None:
    await committee.register()
    officer = await house.as_("safety_officer")
    shown = await officer.get(f"{PAGE}/dossier")
    assert shown.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "death before discharge from this hospital stay" in shown.text
    assert "Person model_author" in shown.text
    saved = await officer.get(f"{PAGE}/dossier?download=1")
    assert saved.headers["content-disposition"] == 'attachment; filename="dossier-mortality-1.html"'
    assert saved.text == shown.text
    other = await officer.get(PAGE)
    assert other.headers["content-security-policy"].startswith("default-src 'self'")


# Signing -------------------------------------------------------------------------------------------------------------


async def test_two_signatures_promote_and_each_is_one_event(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register())
    lead, officer = await house.as_("clinical_lead"), await house.as_("safety_officer")
    first = await committee.paste(lead, "clinical_lead", committee.signature("clinical_lead"))
    assert (first.status_code, first.headers["location"]) == (303, PAGE)
    assert (await committee.champion()).row is None
    page = (await officer.get(PAGE)).text
    assert "Person clinical_lead" in page
    assert "Missing: 1 more of" in page
    house.wall_clock.advance(2)
    second = await committee.paste(officer, "safety_officer", committee.signature("safety_officer"))
    assert second.status_code == 303
    held = await committee.champion()
    assert held.standing is Standing.SPEAKING
    assert held.row is not None
    assert held.row.model_digest == DIGEST
    assert {signed.statement.person for signed in held.row.signed} == {
        committee.person("clinical_lead"), committee.person("safety_officer"),
    }  # fmt: skip
    assert await _outcomes(house) == [
        ("approve", "permitted", "sign"), ("approve", "permitted", "sign"), ("approve", "permitted", "promote"),
    ]  # fmt: skip
    page = (await officer.get(PAGE)).text
    assert "champion" in page
    assert "serving row 1" in page
    assert "Sign as" not in page


@pytest.mark.parametrize(
    ("who", "role", "signer", "signed_role", "why"),
    [
        ("clinical_lead", "clinical_lead", "safety_officer", Role.CLINICAL_LEAD, "not what key"),
        ("clinical_lead", "clinical_lead", "clinical_lead", Role.SAFETY_OFFICER, "not what key"),
    ],
)
async def test_a_signature_of_another_statement_does_not_count(
    committee: Committee, house: Any, who: str, role: str, signer: str, signed_role: Role, why: str
) -> None:
    await committee.ask(await committee.register())
    answer = await committee.paste(await house.as_(who), role, committee.signature(signer, signed_role))
    assert answer.status_code == 409
    assert why in _said(answer)
    assert await _outcomes(house) == [("approve", "denied", "sign")]


async def test_nobody_signs_twice_nor_a_role(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register())
    both = Principal(
        issuer=committee.issuer, subject="s-both", name="Both",
        roles=frozenset({Role.CLINICAL_LEAD, Role.SAFETY_OFFICER}),
    )  # fmt: skip
    client = await house.as_(both)
    assert (
        await committee.paste(client, "clinical_lead", committee.signature("both", Role.CLINICAL_LEAD))
    ).status_code == 303
    again = await committee.paste(client, "safety_officer", committee.signature("both", Role.SAFETY_OFFICER))
    assert "signed this request already" in _said(again)
    lead = await house.as_("clinical_lead")
    other = await committee.paste(lead, "clinical_lead", committee.signature("clinical_lead"))
    assert "another role is needed" in _said(other)
    assert (await committee.champion()).row is None


async def test_a_role_one_does_not_hold_is_not_signed_in(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register())
    lead = await house.as_("clinical_lead")
    assert (await committee.paste(lead, "safety_officer", committee.signature("clinical_lead"))).status_code == 404
    assert (await committee.paste(lead, "emperor", "{}")).status_code == 404


async def test_what_is_no_signature_is_refused_in_words(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register())
    lead = await house.as_("clinical_lead")
    undated = '{"key_id":"a","signed_at":"2026-01-01T13:00:00"}'
    for text in ("", "hello", "{}", "[]", undated, "x" * 30_000):
        answer = await committee.paste(lead, "clinical_lead", text)
        assert answer.status_code == 409
        assert "signature" in _said(answer)


async def test_the_author_is_offered_nothing_and_refused(committee: Committee, house: Any) -> None:
    committee.keys["model_author"] = committee.keys["both"]
    version = await committee.register()
    async with committee.database() as connection:
        assert (await models.version_of(connection, "mortality", 1)) == version
    author = Principal(issuer=committee.issuer, subject="s-model_author", name="Author",
                       roles=frozenset({Role.MODEL_AUTHOR, Role.CLINICAL_LEAD}))  # fmt: skip
    client = await house.as_(author)
    request = await committee.ask(version)
    page = (await client.get(PAGE)).text
    assert "Sign as" not in page
    assert "You made this version: others judge it." in page
    statement = statement_for(request, author.agent, Role.CLINICAL_LEAD, lifecycle.load())
    signature = sign_statement(committee.keys["model_author"], statement_bytes(statement), committee.now)
    answer = await committee.paste(client, "clinical_lead", msgspec.json.encode(signature).decode())
    assert answer.status_code == 409


async def test_those_without_the_right_sign_nothing(committee: Committee, house: Any) -> None:
    request = await committee.ask(await committee.register())
    for who in ("nurse", "model_author", "data_engineer"):
        client = await house.as_(who)
        answer = await committee.paste(client, who, committee.signature("clinical_lead"))
        assert answer.status_code == 404, who
        rejected = await client.post(f"/approvals/{request.request_id}/rejection", data={"role": who, "reason": "No."})
        assert rejected.status_code == 404
        assert (await client.post(f"/approvals/{request.request_id}/promotion", data={})).status_code == 404
    async with committee.database() as connection:
        assert await signatures_of(connection, request.request_id) == []


async def test_a_form_of_another_site_signs_nothing(committee: Committee, house: Any) -> None:
    request = await committee.ask(await committee.register())
    lead = await house.as_("clinical_lead")
    for path in (f"/approvals/{request.request_id}/signature", f"/approvals/{request.request_id}/rejection",
                 f"/approvals/{request.request_id}/promotion", f"{PAGE}/voice", "/incidents/1/closing",
                 f"/api/approvals/{request.request_id}", f"/api/approvals/{request.request_id}/challenge"):  # fmt: skip
        forged = await lead.post(path, data={"role": "clinical_lead"}, headers={"x-vigil-csrf": "guessed"})
        assert forged.status_code == 403, path
        forged = await lead.post(path, data={"role": "clinical_lead"}, headers={"origin": "https://evil.example"})
        assert forged.status_code == 403, path


async def test_one_rejection_with_a_reason_ends_a_request(committee: Committee, house: Any) -> None:
    request = await committee.ask(await committee.register())
    officer = await house.as_("safety_officer")
    path = f"/approvals/{request.request_id}/rejection"
    empty = await officer.post(path, data={"role": "safety_officer", "reason": "  "})
    assert empty.status_code == 409
    given = await officer.post(path, data={"role": "safety_officer", "reason": "Alerts at <night>."})
    assert given.status_code == 303
    page = (await officer.get(PAGE)).text
    assert "rejected: Alerts at &lt;night&gt;." in page
    assert "retired" in page
    late = await committee.paste(
        await house.as_("clinical_lead"), "clinical_lead", committee.signature("clinical_lead")
    )
    assert "takes no more signatures" in _said(late)
    assert await _outcomes(house) == [
        ("approve", "denied", "reject"), ("approve", "permitted", "reject"), ("approve", "denied", "sign"),
    ]  # fmt: skip


async def test_without_a_roster_the_page_says_why_nobody_counts(committee: Committee, house: Any) -> None:
    await committee.ask(await committee.register())
    trust.roster_path(committee.context.settings).unlink()
    lead = await house.as_("clinical_lead")
    assert "Nobody's signature counts now: roster missing." in (await lead.get(PAGE)).text
    assert (await committee.paste(lead, "clinical_lead", committee.signature("clinical_lead"))).status_code == 409


async def test_signatures_that_suffice_are_promoted_later_when_evidence_still_holds(
    committee: Committee, house: Any
) -> None:
    request = await committee.ask(await committee.register())
    appender = committee.context.appender
    object.__setattr__(committee.context, "appender", None)
    lead, officer = await house.as_("clinical_lead"), await house.as_("safety_officer")
    await committee.paste(lead, "clinical_lead", committee.signature("clinical_lead"))
    refused = await committee.paste(officer, "safety_officer", committee.signature("safety_officer"))
    assert "no key to sign the record with" in _said(refused)
    async with committee.database() as connection:
        assert len(await signatures_of(connection, request.request_id)) == 2  # signed all the same
    object.__setattr__(committee.context, "appender", appender)
    page = (await officer.get(PAGE)).text
    assert "All have signed: promote" in page
    house.wall_clock.advance(1)
    assert (await officer.post(f"/approvals/{request.request_id}/promotion", data={})).status_code == 303
    assert (await committee.champion()).standing is Standing.SPEAKING


# In service ----------------------------------------------------------------------------------------------------------


async def test_one_person_silences_rolls_back_and_lets_speak_again(committee: Committee, house: Any) -> None:
    await committee.approve()
    await committee.approve("cd34" * 16)
    lead = await house.as_("clinical_lead")
    second = "/models/mortality/2"
    told = []
    acts = (
        ("clamp", "Too many."),
        ("resume", "Fixed."),
        ("abstain", "Again."),
        ("resume", "So."),
        ("restore", "Enough."),
    )
    for action, reason in acts:
        house.wall_clock.advance(1)
        answer = await lead.post(f"{second}/voice", data={"action": action, "reason": reason})
        assert answer.status_code == 303, answer.text
        held = await committee.champion()
        told.append((str(held.standing), held.row.version if held.row else 0))
    assert told == [("clamped", 2), ("speaking", 2), ("abstaining", 2), ("speaking", 2), ("speaking", 1)]
    page = (await lead.get(second)).text
    assert "retired" in page
    assert "Enough." in page
    assert await _outcomes(house) == [
        *[("approve", "permitted", act) for act in ("sign", "sign", "promote") * 2],
        ("change", "permitted", "clamp"), ("release", "permitted", "resume"), ("change", "permitted", "abstain"),
        ("release", "permitted", "resume"), ("change", "permitted", "restore"),
    ]  # fmt: skip


async def test_a_voice_is_taken_with_a_reason_by_those_who_may(committee: Committee, house: Any) -> None:
    await committee.approve()
    officer = await house.as_("safety_officer")
    assert 'name="action" value="abstain"' in (await officer.get(PAGE)).text
    assert 'name="action" value="abstain"' not in (await (await house.as_("model_author")).get(PAGE)).text
    empty = await officer.post(f"{PAGE}/voice", data={"action": "abstain", "reason": " "})
    assert "Say why" in _said(empty)
    for action in ("promote", "sing", ""):
        wrong = await officer.post(f"{PAGE}/voice", data={"action": action, "reason": "x"})
        assert wrong.status_code == 400
    for who in ("nurse", "model_author"):
        denied = await (await house.as_(who)).post(f"{PAGE}/voice", data={"action": "abstain", "reason": "x"})
        assert denied.status_code == 404
    physician = await house.as_("physician")
    resumed = await physician.post(f"{PAGE}/voice", data={"action": "resume", "reason": "x"})
    assert resumed.status_code == 404  # taking voice away is for many, giving it back for few
    assert (await committee.champion()).standing is Standing.SPEAKING


async def test_an_incident_is_closed_once_with_what_was_found(committee: Committee, house: Any) -> None:
    await committee.register()
    async with committee.database() as connection:
        number = await incidents.add(
            connection,
            Incident(at_us=house.wall_clock.now_us(), scope="mortality", slot="champion", cause="interface_fault",
                     reaction="abstain", opened_by="keeper"),
        )  # fmt: skip
    officer = await house.as_("safety_officer")
    path = f"/incidents/{number}/closing"
    assert f'action="{path}"' in (await officer.get("/models")).text
    assert (await officer.post(path, data={"note": ""})).status_code == 409
    assert (await officer.post(path, data={"note": "The laboratory changed its unit."})).status_code == 303
    assert (await officer.post(path, data={"note": "Again."})).status_code == 409
    page = (await officer.get("/models")).text
    assert "The laboratory changed its unit." in page
    assert f'action="{path}"' not in page
    assert (await (await house.as_("nurse")).post(path, data={"note": "x"})).status_code == 404


async def test_a_row_that_does_not_hold_is_shown_as_refused(committee: Committee, house: Any) -> None:
    await committee.approve()
    await house.execute("alter table serving disable trigger serving_is_append_only")
    await house.execute("update serving set version = 9 where serving_id = 1")
    page = (await (await house.as_("safety_officer")).get(PAGE)).text
    assert "refused: row altered" in page
    assert '<strong class="stage champion">' not in page


# By a key in the browser ---------------------------------------------------------------------------------------------


async def test_a_challenge_is_over_the_exact_statement_and_time(committee: Committee, house: Any) -> None:
    credential = base64.urlsafe_b64encode(b"credential-7").decode().rstrip("=")
    today = committee.now.date()
    key = SignerKey(kind="webauthn", public=base64.b64encode(b"cose").decode(), credential=credential,
                    valid_from=today, valid_until=today + timedelta(9))  # fmt: skip
    person = Principal(issuer=committee.issuer, subject="s-web", name="Web", roles=frozenset({Role.CLINICAL_LEAD}))
    committee.install(Signer(person=person.agent, name="Web", roles=(Role.CLINICAL_LEAD,), keys=(key,)))
    request = await committee.ask(await committee.register())
    client = await house.as_(person)
    path = f"/api/approvals/{request.request_id}"
    given = (await client.post(f"{path}/challenge", json={"role": "clinical_lead"})).json()
    statement = statement_bytes(statement_for(request, person.agent, Role.CLINICAL_LEAD, lifecycle.load()))
    at = datetime.fromisoformat(given["signed_at"])
    wanted = base64.urlsafe_b64encode(rosters.challenge(statement, at)).decode().rstrip("=")
    assert given["options"]["challenge"] == wanted
    assert [one["id"] for one in given["options"]["allowCredentials"]] == [credential]
    assertion = {"credential": credential, "client_data": "e30", "authenticator_data": "", "signature": ""}
    answer = {"role": "clinical_lead", "signed_at": given["signed_at"], "assertion": assertion}
    forged = await client.post(path, json=answer)
    assert (forged.status_code, "not what key" in forged.json()["refused"]) == (409, True)
    stranger = {**answer, "assertion": {**assertion, "credential": "b3RoZXI"}}
    assert "does not name this key" in (await client.post(path, json=stranger)).json()["refused"]
    for broken in ({}, {**answer, "signed_at": "soon"}, {**answer, "signed_at": "2026-01-01T13:00:00"}, [answer]):
        assert (await client.post(path, json=broken)).status_code == 400
    without = await (await house.as_("safety_officer")).post(f"{path}/challenge", json={"role": "safety_officer"})
    assert without.status_code == 409
    assert (await client.post("/api/approvals/none/challenge", json={"role": "clinical_lead"})).status_code == 404
    async with committee.database() as connection:
        assert await signatures_of(connection, request.request_id) == []


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], headless=True)
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("site", ["localhost"], indirect=True)
def test_a_person_signs_in_the_browser_and_the_last_signature_promotes(site: Any, browser: Any, contrast: str) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    devtools.send(
        "WebAuthn.addVirtualAuthenticator",
        {"options": {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
                     "isUserVerified": True}},
    )  # fmt: skip
    page.goto(f"{site.url}/account/keys")
    page.click("button:has-text('Lena Fischer')")
    page.wait_for_url(f"{site.url}/account/keys")
    page.click("#register")
    page.wait_for_selector("td:has-text('waits until the roster names it')")
    committee = Committee(site.house, site.issuer)
    site.run(_prepare(committee))
    page.goto(f"{site.url}{PAGE}")
    assert page.evaluate(contrast) == []
    page.click("button.sign-here")
    page.wait_for_selector("text=Signed and promoted: serving row 1")
    page.wait_for_selector(".stage.champion")
    held = site.run(committee.champion())
    assert held.standing is Standing.SPEAKING
    assert {signed.signature.webauthn is not None for signed in held.row.signed} == {True, False}
    page.goto(f"{site.url}{PAGE}/dossier")
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).letterSpacing") != "normal"  # its sheet counts
    assert page.evaluate(contrast) == []
    assert not faults


async def _prepare(committee: Committee) -> None:
    """Name the browser's key in the roster, ask, and let another person have signed already."""
    from stores import passkey_registrations as registrations

    async with committee.database() as connection:
        [row] = await registrations.read(connection)
    today = date.today()  # noqa: DTZ011 - the roster's days
    key = SignerKey(kind="webauthn", public=base64.b64encode(row.public).decode(), credential=row.credential,
                    valid_from=today - timedelta(1), valid_until=today + timedelta(9))  # fmt: skip
    committee.install(Signer(person=row.person, name=row.name, roles=(Role.CLINICAL_LEAD,), keys=(key,)))
    await committee.ask(await committee.register())
    officer = Principal(issuer=committee.issuer, subject="s-safety_officer", name="Officer",
                        roles=frozenset({Role.SAFETY_OFFICER}))  # fmt: skip
    client = await committee.house.as_(officer)
    client.base_url = committee.context.public_url
    answer = await committee.paste(client, "safety_officer", committee.signature("safety_officer"))
    assert answer.status_code == 303, answer.text
    async with committee.database() as connection:
        [request] = await requests(connection)
        assert len(await signatures_of(connection, request.request_id)) == 1
        assert all(row.action is not Action.PROMOTE for row in await read_rows(connection))
