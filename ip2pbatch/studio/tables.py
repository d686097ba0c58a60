"""A route as a row: what it takes and gives, from which come the server's routes and the OpenAPI schema alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio import CapacityLimiter
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ip2pbatch.errors import (
    Ip2pError,
    LockedError,
    MissingError,
    ModelError,
    PhotoError,
    RecipeError,
    ResourceError,
)
from ip2pbatch.jobs.exploring.wanted import AskedWrongError

if TYPE_CHECKING:
    from collections.abc import Awaitable

Desk = TypeVar("Desk")
JSON, MOST_JSON = "application/json", 1 << 20
NOTHING_SENT = b"{}"


class NotThereError(Exception):
    """There is nothing at this address."""


class TooLargeError(Exception):
    """More bytes than are taken."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: what stands in its path, its query and its body, each checked; `raw` is the body of an upload."""

    path: Mapping[str, str]
    query: Any
    body: Any
    raw: bytes
    client: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Desk]):
    """`call` answers, in a thread. `places` are the patterns of what stands in the path, `media` the kinds of an answer
    that is no JSON. `takes` is the most bytes of an upload, `heavy` says that it decodes pictures,
    `listens` which headers it listens to.
    """

    method: str
    path: str
    call: Callable[[Desk, Asked], BaseModel | Response]
    reply: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    places: Mapping[str, str] | None = None
    media: tuple[str, ...] = ()
    takes: int = 0
    heavy: bool = False
    status: int = 200
    listens: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the schema."""
        return self.call.__name__.strip("_")

    @property
    def summary(self) -> str:
        """The first sentence of what it does."""
        return (self.call.__doc__ or self.name).strip().split("\n\n")[0].replace("\n    ", " ")


def routes(endpoints: tuple[Endpoint[Desk], ...], desk: Desk) -> list[Route]:
    """The server's routes: one a path, for all its methods."""
    heavy = CapacityLimiter(3)
    by_path: dict[str, dict[str, Endpoint[Desk]]] = {}
    for one in endpoints:
        by_path.setdefault(one.path, {})[one.method] = one
    return [_route(path, methods, desk, heavy) for path, methods in by_path.items()]


def _route(path: str, methods: Mapping[str, Endpoint[Desk]], desk: Desk, heavy: CapacityLimiter) -> Route:
    async def answer(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        return await _answered(endpoint, desk, request, heavy if endpoint.heavy else None)

    endpoint: Callable[[Request], Awaitable[Response]] = answer
    return Route(path, endpoint, methods=list(methods))


async def _answered(
    endpoint: Endpoint[Desk], desk: Desk, request: Request, limiter: CapacityLimiter | None
) -> Response:
    try:
        call = partial(endpoint.call, desk, await _read(endpoint, request))
        if limiter is None:
            said = await anyio.to_thread.run_sync(call)
        else:
            async with limiter:
                await _refuse_gone(request)
                said = await anyio.to_thread.run_sync(call)
    except ClientDisconnect:
        return Response(status_code=204)  # to nobody
    except (NotThereError, TooLargeError, ValidationError, Ip2pError, _WrongKindError) as error:
        return refusal(error)
    if isinstance(said, Response):
        return said
    return Response(said.model_dump_json(), endpoint.status, media_type=JSON)


class _WrongKindError(Exception):
    """A body of another kind than JSON."""


async def _read(endpoint: Endpoint[Desk], request: Request) -> Asked:
    path = {name: str(value) for name, value in request.path_params.items()}
    for name, pattern in (endpoint.places or {}).items():
        if not re.fullmatch(pattern, path[name]):
            raise NotThereError
    query = endpoint.query.model_validate(dict(request.query_params)) if endpoint.query else None
    raw = await _body(request, endpoint.takes or MOST_JSON) if endpoint.takes or endpoint.body else b""
    body = None
    if endpoint.body is not None:
        if raw and request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise _WrongKindError
        body = endpoint.body.model_validate_json(raw or NOTHING_SENT)
    client = re.sub(r"[^A-Za-z0-9_-]", "", request.headers.get("x-client", ""))[:64]
    return Asked(path, query, body, raw, client, request.headers)


async def _refuse_gone(request: Request) -> None:
    """Raises ClientDisconnect where nobody waits any more: a page that is scrolled drops pictures before their turn."""
    if request.method in ("GET", "HEAD"):
        await request.body()  # what comes after it is heard of only then
    if await request.is_disconnected():
        raise ClientDisconnect


async def _body(request: Request, most: int) -> bytes:
    """The body, of which no more than `most` bytes are ever read."""
    if int(request.headers.get("content-length") or 0) > most:
        raise TooLargeError(most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLargeError(most)
        parts.append(part)
    return b"".join(parts)


def refusal(error: Exception) -> JSONResponse:
    """What goes wrong, as every route says it."""
    said: dict[str, str | None]
    if isinstance(error, NotThereError):
        return _refused(404, "there is nothing at this address", "read the list anew")
    if isinstance(error, TooLargeError):
        return _refused(413, f"more than {error.args[0]:,} bytes", "send less at once")
    if isinstance(error, _WrongKindError):
        return _refused(415, "the body is no JSON", f"Content-Type: {JSON}")
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        return _refused(422, first["msg"], "see /api/openapi.json", where)
    assert isinstance(error, Ip2pError)
    usual = "choose another photo" if isinstance(error, PhotoError) else None
    said = {"error": str(error), "hint": error.hint or usual}
    if isinstance(error, AskedWrongError):
        said["where"] = error.where
    return JSONResponse(said, _status(error))


def _status(error: Ip2pError) -> int:
    if isinstance(error, LockedError):
        return 409
    if isinstance(error, (ResourceError, ModelError, MissingError)):
        return 503
    return 415 if isinstance(error, PhotoError) and not isinstance(error, RecipeError) else 422


def _refused(status: int, error: str, hint: str, where: str = "") -> JSONResponse:
    return JSONResponse({"error": error, "hint": hint, **({"where": where} if where else {})}, status)
