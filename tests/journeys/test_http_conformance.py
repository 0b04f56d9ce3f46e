"""The HTTP surface as such: what its description promises, methods, the headers of answers.

Here: schemathesis over every operation of the description, with credentials and without; every route is described;
other methods; the headers of every answer.
Not here: who may see what (test_access_matrix), odd requests (test_http_requests), tokens (test_token_attacks), the
server (site_server).
Source: OpenAPI 3.1; RFC 9110.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from starlette.routing import Mount

pytestmark = pytest.mark.slow


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
there = house.beside("site_server")
template, served, client = house.template, there.served, there.client
PLAIN, FAR, Served = there.PLAIN, there.FAR, there.Served
names_a_patient = there.names_a_patient
KNOWN, paths_of = there.KNOWN, there.paths_of
EXAMPLES = 4

# What the description promises ----------------------------------------------------------------------------------------

CHECKS = [status_code_conformance, content_type_conformance]


def ask(session: requests.Session, case: Any, url: str, headers: dict[str, str]) -> requests.Response:
    """Send a case; of a stream only the head is read."""
    arguments = case.as_transport_kwargs(base_url=url, headers=headers)
    arguments.pop("cookies", None)  # credentials come in our headers alone
    answer: requests.Response = session.request(**arguments, stream=True, timeout=10, allow_redirects=False)
    session.cookies.clear()  # what one answer sets must not speak for the next question
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        answer._content = b""
        answer.close()
    else:
        assert answer.content is not None
    return answer


def check_open(operation: str, answer: requests.Response) -> None:
    """Check what somebody unknown was answered."""
    method, _, path = operation.partition(" ")
    if path == "/health":
        assert answer.status_code < 500
    elif path.startswith("/auth/"):
        assert 300 <= answer.status_code < 500, (operation, answer.status_code)
    elif answer.status_code == 303 and method == "GET":
        assert answer.headers["location"].startswith("/auth/sign-in"), operation
        assert answer.content == b""
    elif answer.status_code != 421:  # a Host of schemathesis' own making
        found = (answer.status_code, answer.content, answer.headers.get("www-authenticate"))
        assert found == (401, b"", "Bearer"), operation
    assert not names_a_patient(answer.text), operation


def test_every_operation_keeps_its_promises_and_tells_nobody_anything(served: Served) -> None:
    described = requests.get(f"{served.url}/api/openapi.json", headers=served.headers["nurse"], timeout=10).json()
    schema = schemathesis.openapi.from_dict(described)
    counts: Counter[str] = Counter()
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            assert operation is not None
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                counts.update(_run(session, operation, mode, served))
    print(f"\n{len(described['paths'])} paths, {counts.total()} answers: {dict(sorted(counts.items()))}")  # noqa: T201
    assert counts.total() > 5 * len(described["paths"])
    assert counts["2xx"] > len(described["paths"]) // 2


def _run(session: requests.Session, operation: Any, mode: GenerationMode, served: Served) -> Counter[str]:
    counts: Counter[str] = Counter()

    @seed(20260603)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and case.path_parameters:
            turn = counts.total()
            for name, values in KNOWN.items():
                if name in case.path_parameters:
                    case.path_parameters[name] = values[turn % len(values)]
        for who in ("nobody", "everything", "fuzzed browser"):
            answer = ask(session, case, served.url, served.headers[who])
            counts[f"{answer.status_code // 100}xx"] += 1
            where = (operation.label, who, answer.status_code, case.path_parameters, case.query)
            assert answer.status_code < 500, where
            if who == "nobody":
                check_open(operation.label, answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                case.validate_response(answer, checks=CHECKS)

    try:
        check()
    except schemathesis.errors.InvalidSchema:  # pragma: no cover - the description itself would be wrong
        raise
    except Exception as error:
        if "Unsatisfiable" in type(error).__name__:  # nothing wrong can be sent to what takes nothing
            return counts
        raise
    return counts


def test_every_route_is_described_or_declared_hidden(served: Served) -> None:
    described = requests.get(f"{served.url}/api/openapi.json", headers=served.headers["nurse"], timeout=10).json()
    told = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    routes = served.site.app.routes
    assert [route.path for route in routes if not isinstance(route, APIRoute)] == ["/static"]
    assert all(isinstance(route, APIRoute | Mount) for route in routes)
    hidden = set()
    for route in (one for one in routes if isinstance(one, APIRoute)):
        for method in route.methods:
            path = re.sub(r":path\}", "}", route.path)
            if (method, path) not in told:
                hidden.add((method, path, route.include_in_schema))
    assert all(not is_in_schema for _, _, is_in_schema in hidden), hidden
    for path, methods in described["paths"].items():
        for operation in methods.values():
            is_open = path == "/health" or path.startswith("/auth/")
            assert (operation["security"] == []) == is_open, path


# Methods --------------------------------------------------------------------------------------------------------------

SAID = ("OPTIONS", "PUT", "TRACE")  # by somebody known
METHODS = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "NONSENSE")


def test_other_methods_do_nothing_and_tell_nothing(served: Served, client: httpx.Client) -> None:
    before = served.run(served.site.last_event())
    for path in paths_of(served):
        for method in METHODS:
            unknown = client.request(method, path)
            assert unknown.status_code in {400, 401, 404, 405}, (method, path, unknown.status_code)
            assert unknown.status_code in {400, 401} or path == "/health" or path.startswith("/auth/"), (method, path)
            known = client.request(method, path, headers=served.headers["nurse"]) if method in SAID else unknown
            assert known.status_code in {400, 401, 404, 405}, (method, path, known.status_code)
            for answer in (unknown, known):
                assert not names_a_patient(answer.text)
                assert not any(name.startswith("access-control-") for name in answer.headers)
                assert "Bearer ey" not in answer.text  # TRACE repeats no credentials
    assert served.run(served.site.last_event()) == before  # nothing was decided: nothing was asked


OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override", "_method")


def test_no_header_makes_one_method_another(served: Served, client: httpx.Client) -> None:
    before = served.run(served.site.last_event())
    for name in OVERRIDES:
        forged = client.get(
            "/reviews/1", headers={**served.headers["everything"], name: "POST"}, params={"_method": "POST"}
        )
        assert forged.status_code == 405
        read = client.post(
            f"/patients/{PLAIN.number}", headers={**served.headers["browser"], name: "GET"},
            params={"_method": "GET"},
        )  # fmt: skip
        assert read.status_code == 405
        assert not names_a_patient(read.text)
    assert served.run(served.site.last_event()) == before


def test_every_answer_carries_the_headers_that_keep_it_from_others(served: Served, client: httpx.Client) -> None:
    for who in ("nobody", "nurse"):
        for path in (*paths_of(served), "/nothing", "/static/vigil.css"):
            if path.startswith("/streams/"):
                continue
            answer = client.get(path, headers=served.headers[who])
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
            wanted = "no-cache" if path.startswith("/static/") else "no-store"
            assert answer.headers["cache-control"] == wanted, path
            assert "server" not in answer.headers
