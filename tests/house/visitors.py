"""Who comes to the clinic's doors: strangers, people of the demonstration, a physician in an emergency.

Here: every route there is, asked rightly and wrongly; signing in; a broken glass and its review. What is answered that
must hold no canary is kept in `house.said`.
Not here: the house itself (haunted_house), the canaries (canaries).
"""

from __future__ import annotations

import ast
import contextlib
import html
import re
import socket
from pathlib import Path
from typing import Any

import httpx

CHECKOUT = Path(__file__).resolve().parent.parent.parent
OPEN_PATHS = ("/health", "/ready", "/metrics", "/static", "/feeds", "/api/feeds", "/auth")
"""Pages that say nothing of patients: their good answers are searched as well."""

PEOPLE = {"a physician": "p-b20d97", "a data engineer": "p-c4590b", "a data-protection officer": "p-e97c04"}
"""People of the demonstration (hospital.issuer.people) who have nothing to do with the canaries' patient."""


def routes() -> list[tuple[str, str]]:
    """Return (method, path) of everything the clinic serves, read from its source: nothing can be forgotten."""
    found = set()
    for path in sorted((CHECKOUT / "clinic").rglob("*.py")):
        tree = ast.parse(path.read_text())
        known: dict[str, str] = {}
        for node in tree.body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                known |= {name.id: _text(node.value, known) for name in ast.walk(target) if isinstance(name, ast.Name)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        prefixes = [_text(k.value, known) for call in calls for k in call.keywords if k.arg == "prefix"]
        for call in calls:
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            served = _text(call.args[0], known) if call.args else ""
            if served.startswith("/") and called in _SERVES:
                found.add((_SERVES[called], "".join(prefixes) + served))
    return sorted(found)


def _text(node: ast.AST, known: dict[str, str]) -> str:
    """Return what a constant, a constant's name, or an f-string of both says; "" for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v.value if isinstance(v, ast.FormattedValue) else v, known) for v in node.values)
    return ""


_SERVES = {
    "get": "GET", "post": "POST", "put": "PUT", "delete": "DELETE", "patch": "PATCH", "head": "HEAD", "route": "GET",
    "api_route": "GET", "add_api_route": "GET", "add_route": "GET", "Route": "GET", "Mount": "GET", "mount": "GET",
}  # fmt: skip


def visitor(house: Any) -> httpx.Client:
    """Return a browser of somebody who is nobody yet."""
    return httpx.Client(base_url=house.board(), timeout=10, verify=False)


def sign_in(house: Any, subject: str) -> httpx.Client:
    """Return a browser in which somebody of the demonstration signed in."""
    client = visitor(house)
    question = client.get("/auth/sign-in", follow_redirects=True)
    hidden = re.search(r'name="question" value="([^"]+)"', question.text)
    assert hidden, f"no question at {question.url.copy_with(query=None)}: {question.status_code}"
    chosen = {"question": html.unescape(hidden[1]), "subject": subject}
    answer = client.post(str(question.url.copy_with(path="/authorize", query=None)), data=chosen, follow_redirects=True)
    assert answer.status_code == 200, answer.status_code
    assert client.get("/me").status_code == 200
    house.secrets += [cookie.value for cookie in client.cookies.jar if cookie.value and len(cookie.value) >= 16]
    return client


def break_the_glass(house: Any, canaries) -> None:
    """Let a physician see the canaries' patient in an emergency, with canaries for a reason, and another review it."""
    physician = sign_in(house, PEOPLE["a physician"])
    officer = sign_in(house, PEOPLE["a data-protection officer"])
    form = physician.get("/break-glass").text
    emergency = {"identifier": canaries.MEDICAL_RECORD_NUMBER, "reason": canaries.RESULT, "csrf": _csrf(form)}
    opened = physician.post("/break-glass", data=emergency)
    assert opened.status_code == 303, opened.status_code
    page = physician.get(opened.headers["location"])
    assert canaries.FAMILY in page.text  # so the canaries are there to be seen by whoever may
    number = opened.headers["location"].rpartition("/")[2]
    for path in (f"/api/patients/{number}", f"/fhir/Patient/{number}", f"/api/patients/{number}/snapshot"):
        assert physician.get(path).status_code == 200, path
    reviews = officer.get("/reviews").text
    (place,) = re.findall(r'action="(/reviews/[0-9]+)"', reviews)
    verdict = {"verdict": "justified", "note": canaries.RESULT, "csrf": _csrf(reviews)}
    assert officer.post(place, data=verdict).status_code in {200, 303}
    for client in (physician, officer):
        client.post("/auth/sign-out", data={"csrf": _csrf(client.get("/me").text)})
        client.close()


def _csrf(page: str) -> str:
    (found, *_) = re.findall(r'name="csrf" value="([^"]+)"', page)
    return html.unescape(found)


def ask_every_route(house: Any, canaries, client: httpx.Client, who: str) -> None:
    """Ask for everything, rightly and wrongly, and keep what denials, errors and open pages answer."""
    tokens = {
        "Authorization": f"Bearer {canaries.WRONG_PASSWORD}.{canaries.FAMILY}.x",
        "Cookie": f"session={canaries.WRONG_PASSWORD}; __Host-vigil={canaries.WRONG_PASSWORD}",
        "User-Agent": f"{canaries.FAMILY}/1.0", "Referer": f"http://elsewhere/?name={canaries.FAMILY}",
        "X-Request-Id": canaries.MEDICAL_RECORD_NUMBER, "If-None-Match": f'"{canaries.FAMILY}"',
        "Last-Event-ID": canaries.FAMILY, "X-Forwarded-For": canaries.FAMILY,
        "Accept": f"text/html, application/{canaries.FAMILY}",
    }  # fmt: skip
    asked = {
        "name": canaries.FAMILY, "identifier": f"CAGE|{canaries.MEDICAL_RECORD_NUMBER}", "birthdate": "1903-07-19",
        "patient": canaries.FAMILY, "_id": canaries.FAMILY, "code": canaries.FAMILY, "date": f"ge{canaries.FAMILY}",
        "_count": canaries.FAMILY, "state": canaries.FAMILY, "error": canaries.FAMILY, "next": f"/{canaries.FAMILY}",
        canaries.FAMILY: canaries.FAMILY,
    }  # fmt: skip
    for method, path in routes():
        for number in ("1", canaries.MEDICAL_RECORD_NUMBER, "999999999999999999999999"):
            place = path
            while "{" in place:
                place = place[: place.index("{")] + number + place[place.index("}") + 1 :]
            for headers, query in (({}, {}), (tokens, asked)):
                for how in dict.fromkeys((method, "POST" if query else method)):
                    body = (
                        {"reason": canaries.RESULT, "patient": canaries.FAMILY} if how not in {"GET", "HEAD"} else None
                    )
                    _ask(house, client, who, how, place, headers=headers, params=query, data=body)
            if place == path:
                break
    _ask(house, client, who, "GET", f"/{canaries.FAMILY}/nothing/here", headers=tokens, params=asked)
    upload = {"file": (f"{canaries.FAMILY}.hl7", canaries.RESULT.encode() * 50_000)}  # large: frameworks spool to disk
    for path in ("/", "/fhir", "/fhir/Patient", "/api/ward", "/health"):
        _ask(house, client, who, "POST", path, files=upload)
        _ask(house, client, who, "PUT", path, content=canaries.RESULT.encode())
        _ask(
            house, client, who, "POST", path, content=b'{"name": "Quexold', headers={"Content-Type": "application/json"}
        )
    host, port = client.base_url.host, client.base_url.port or 80
    for raw in (
        f"GET /{canaries.FAMILY}\r\n\r\n",
        f"{canaries.FAMILY}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{canaries.FAMILY}\r\n\r\n",
    ):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as peer:
            peer.sendall(raw.encode())
            house.said[f"{who}: HTTP that is none, {raw[:20]!r}"] = peer.recv(65536).decode(errors="replace")
    client.close()


def _ask(house: Any, client: httpx.Client, who: str, method: str, path: str, **parts: Any) -> None:
    house.requests += 1
    shown = f"{who}: {method} {path} #{house.requests}"
    try:
        with client.stream(method, path, **parts) as answer:
            is_open = path.startswith(OPEN_PATHS)
            has_asked = "headers" in parts and bool(parts["headers"])
            # None of those who ask has to do with the canaries' patient: unasked, nobody is told anything of them.
            if not answer.is_success or is_open or not has_asked:
                is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
                content = "" if is_stream else answer.read().decode(errors="replace")
                house.said[f"{shown} -> {answer.status_code}"] = f"{answer.headers}\n{content}"
    except httpx.HTTPError as error:  # an answer that was cut off is the server's business, not ours
        house.said[f"{shown} -> {type(error).__name__}"] = ""
