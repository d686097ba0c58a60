"""Who is let in: by the host that was meant, the page's own origin, and the token."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="starlette is not installed")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ip2pbatch.studio.guard import Door, Guard

HOST = "127.0.0.1:8765"
TOKEN = "a-token-that-nobody-guesses"
ELSEWHERE = [
    *({"Origin": origin} for origin in (
        "https://evil.example", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:8766", "null",
        "https://127.0.0.1:8765", "http://localhost:8765", "http://127.0.0.1:8765.evil.example", "file://", "",
    )),
    *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "elsewhere")),
    *({"Host": host} for host in (
        "evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8765.evil.example", "[::1]:80", "",
    )),
]  # fmt: skip


def client(door: Door | None = None) -> TestClient:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("let in")

    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in ("/", "/api/state")])
    return TestClient(Guard(app, door or Door(TOKEN, [HOST, "localhost:8765"])), base_url=f"http://{HOST}")


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_from_elsewhere_is_refused_even_with_the_token(headers: dict[str, str], method: str) -> None:
    said = client().request(method, "/api/state", headers={"Authorization": f"Bearer {TOKEN}", **headers})
    assert said.status_code == 403
    assert set(said.json()) == {"error", "hint"}


def test_there_are_twenty_of_these() -> None:
    assert len(ELSEWHERE) == 20


def test_the_token_of_the_first_address_becomes_a_cookie_that_only_this_site_sends() -> None:
    page = client()
    said = page.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (said.status_code, said.headers["location"]) == (303, "/")
    cookie = said.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert page.get("/").text == "let in"
    assert page.get("/api/state").text == "let in"
    assert page.post("/api/state", headers={"Origin": f"http://{HOST}"}).text == "let in"


def test_without_a_token_or_with_another_nobody_gets_in() -> None:
    page = client()
    for address in ("/", "/api/state", "/?token=wrong", "/api/state?token=" + TOKEN):
        assert page.get(address).status_code == 401
    assert page.get("/api/state", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert page.get("/api/state", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401


def test_a_cookie_alone_changes_nothing() -> None:
    page = client()
    page.get(f"/?token={TOKEN}")
    assert page.post("/api/state").status_code == 401
    assert page.post("/api/state", headers={"Sec-Fetch-Site": "same-origin"}).text == "let in"


def test_a_server_on_all_addresses_answers_to_each_of_them_but_to_no_name() -> None:
    page = client(Door(TOKEN, ["localhost:8765"], any_address=True))
    key = {"Authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.1.20:8765", "[fe80::1]:8765", "127.0.0.1:8765", "localhost:8765"):
        assert page.get("/api/state", headers={"Host": host, **key}).status_code == 200
    assert page.get("/api/state", headers={"Host": "evil.example:8765", **key}).status_code == 403


@pytest.mark.parametrize("address", ["/", "/api/state", "/nowhere"])
def test_every_answer_says_what_a_browser_may_do_with_it(address: str) -> None:
    for said in (client().get(address), client().get(address, headers={"Authorization": f"Bearer {TOKEN}"})):
        policy = said.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert said.headers["x-content-type-options"] == "nosniff"
        assert said.headers["cache-control"] == "no-store"
