"""The pages for a browser: they ask nobody else for anything, and may be left out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.server.http.asking import V1, ask, picture, port_of
from tests.server.rig import Rig

Start = Callable[..., Rig]
FILES = sorted((ROOT / "server" / "page").iterdir())
ORIGIN = "https://example.org"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/", "/docs", "/page/page.js", "/page/page.css", "/openapi.json"])
def test_a_page_may_load_only_what_comes_from_this_server(port: int, path: str) -> None:
    answer = ask(port, path, headers=BROWSER)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_of_the_pages_names_another_server(file: object) -> None:
    text = (ROOT / "server" / "page" / str(getattr(file, "name", ""))).read_text("utf-8")
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, "a name space is no address"
    assert not re.search(r"\son\w+=|style=|innerHTML|eval\(", text), "the policy forbids it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_of_the_pages_is_served_with_its_type(port: int, file: object) -> None:
    name = str(getattr(file, "name", ""))
    path = {"index.html": "/", "docs.html": "/docs"}.get(name, f"/page/{name}")
    answer = ask(port, path, headers=BROWSER)
    assert answer.body == (ROOT / "server" / "page" / name).read_bytes()
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


def test_what_has_not_changed_is_not_sent_again(port: int) -> None:
    tag = ask(port, "/", headers=BROWSER).headers["etag"]
    again = ask(port, "/", headers={**BROWSER, "If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    assert ask(port, "/", headers={**BROWSER, "If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"}])
def test_who_is_no_browser_is_told_that_the_server_is_alive(port: int, headers: dict[str, str]) -> None:
    """Clients of KServe's version 1 ask for `/`, and accept anything."""
    answer = ask(port, "/", headers=headers)
    assert answer.json == {"status": "alive"}
    assert answer.headers["vary"] == ask(port, "/", headers=BROWSER).headers["vary"] == "Accept"


def test_without_the_pages_the_rest_is_answered(start_rig: Start) -> None:
    port = port_of(start_rig("--no-serve-page"))
    for path in ("/docs", "/page/page.js"):
        assert ask(port, path).status == 404
    assert ask(port, "/").json == {"status": "alive"}, "what KServe's version 1 asks for"
    assert ask(port, "/openapi.json").status == 200
    assert ask(port, "/classify", picture()).status == 200


def test_without_health_checks_there_are_none_over_http_either(start_rig: Start) -> None:
    port = port_of(start_rig("--no-serve-health", "--no-serve-page"))
    assert ask(port, "/v2/health/live").status == 404
    assert ask(port, "/").status == 404
    assert ask(port, "/v2").status == 200


def test_the_document_lists_what_is_served(start_rig: Start, port: int) -> None:
    assert {"/classify", "/v2", "/v2/health/live", "/v2/models/{model}/versions/{version}/infer"} <= ask(
        port, "/openapi.json"
    ).json["paths"].keys()
    less = ask(port_of(start_rig("--no-serve-health", "--no-open-inference")), "/openapi.json").json["paths"]
    assert "/classify" in less
    assert not [path for path in less if path.startswith("/v2")]


def test_pages_of_others_may_not_read_answers_unless_they_are_named(start_rig: Start, port: int) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    closed = ask(port, V1, headers=headers, verb="OPTIONS")
    assert closed.status == 405
    assert not any(name.startswith("access-control") for name in closed.headers)
    assert "access-control-allow-origin" not in ask(port, "/classify", picture(), headers).headers
    named = port_of(start_rig(f"--http-origins={ORIGIN}"))
    allowed = ask(named, V1, headers=headers, verb="OPTIONS")
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert ask(named, "/classify", picture(), headers).headers["access-control-allow-origin"] == ORIGIN
    other = ask(named, "/classify", picture(), {"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers
