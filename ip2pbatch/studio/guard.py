"""Who may ask: the host that was meant, the page's own origin, and whoever has the token. In front of every route.

A page of another site may have a browser send requests to this machine. It knows no token and gets no cookie sent
(SameSite=Strict); besides, its Origin is refused, and a name of its own that it has point to the loopback (DNS
rebinding) is refused by its Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SAFE = ("GET", "HEAD")
_OURS = ("same-origin", "none")  # Sec-Fetch-Site of our page, and of an address that a person typed
_NO_TOKEN = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>ip2pbatch studio</title>"
    "<h1>Open the address that the terminal says</h1>"
    "<p>It ends with the token that lets this browser in: <code>ip2pbatch studio</code> prints it as it starts.</p>"
)


@dataclass(frozen=True, slots=True)
class Door:
    """What is let in: the `token`, and requests to one of `hosts` ("127.0.0.1:8765"); where `any_address` is set, also
    to any numeric address, as of a server that listens on all of them.
    """

    token: str
    hosts: Collection[str]
    any_address: bool = False

    @property
    def cookie(self) -> str:
        """Its name: browsers share cookies between ports, and two studios do not put each other out."""
        return f"ip2pbatch_{hmac.digest(self.token.encode(), b'name', 'sha256').hex()[:8]}"

    def is_meant(self, host: str) -> bool:
        return host in self.hosts or (self.any_address and _is_address(host))

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Guard:
    """ASGI: refuses what the door does not let in, and says on every answer what a browser may do with it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request goes no further, or the redirect that takes the token out of the address; None: it may."""
        headers = Headers(scope=scope)
        if not self._door.is_meant(headers.get("host", "")):
            return refused(403, "this server does not answer to that name", "open the address that the terminal says")
        if not _is_same_site(scope, headers):
            return refused(403, "a request from another site", "use the page, or send the token and no Origin")
        if scope["path"] == "/" and scope["method"] in _SAFE and (given := _token_in(scope)):
            return self._entered(given)
        if self._knows(headers, scope["method"]):
            return None
        if scope["path"] == "/":
            return HTMLResponse(_NO_TOKEN, 401)
        return refused(401, "no token", "open the address that the terminal says, or send Authorization: Bearer TOKEN")

    def _entered(self, given: str) -> Response:
        """The first address: its token becomes a cookie, and is gone from the address and from the history."""
        if not self._door.is_token(given):
            return HTMLResponse(_NO_TOKEN, 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._door.cookie, self._door.token, httponly=True, samesite="strict", path="/")
        return answer

    def _knows(self, headers: Headers, method: str) -> bool:
        """Whether a request has the token. A cookie alone changes nothing: a browser that sends it also says from where
        it does, and what says nothing of that is to send the token itself.
        """
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._door.is_token(bearer.strip())
        cookies = cookie_parser(headers.get("cookie", ""))
        says_where = "origin" in headers or "sec-fetch-site" in headers
        return self._door.is_token(cookies.get(self._door.cookie, "")) and (method in _SAFE or says_where)


def refused(status: int, error: str, hint: str) -> JSONResponse:
    """An answer that says what is wrong and what to do, as every error of the API."""
    return JSONResponse({"error": error, "hint": hint}, status)


def _is_same_site(scope: Scope, headers: Headers) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    ours = f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
    return (origin is None or origin == ours) and (site is None or site in _OURS)


def _token_in(scope: Scope) -> str:
    text: str = scope.get("query_string", b"").decode("latin-1")
    return parse_qs(text).get("token", [""])[0]


def _is_address(host: str) -> bool:
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
