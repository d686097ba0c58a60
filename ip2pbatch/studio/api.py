"""The studio's app: the table of its routes, the page's files, and the guard in front of both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ip2pbatch.jobs.exploring.shelf import MOST_BYTES
from ip2pbatch.studio import desk, fetching
from ip2pbatch.studio import messages as say
from ip2pbatch.studio.desk import Desk
from ip2pbatch.studio.guard import Door, Guard, refused
from ip2pbatch.studio.openapi import schema
from ip2pbatch.studio.tables import JSON, Endpoint, routes

_PHOTO, _CELL, _JOB = {"id": say.PHOTO}, {"key": say.CELL}, {"id": say.JOB}
JPEG, PNG, ZIP, YAML = "image/jpeg", "image/png", "application/zip", "application/yaml"

ENDPOINTS: tuple[Endpoint[Desk], ...] = (
    Endpoint("GET", "/api/state", desk.state, say.StudioState),
    Endpoint("GET", "/api/photos", desk.photos, say.Photos, say.Page),
    Endpoint("POST", "/api/photos", desk.add_photo, say.Photo, say.Upload, takes=MOST_BYTES, heavy=True),
    Endpoint(
        "GET", "/api/photos/{id}/picture", desk.photo_picture, query=say.PhotoSide, places=_PHOTO, media=(JPEG,),
        heavy=True, listens=("if-none-match",),
    ),
    Endpoint("POST", "/api/jobs", desk.ask, say.JobSaid, body=say.JobAsked, listens=("x-client",)),
    Endpoint("GET", "/api/jobs/{id}", desk.job, say.JobSaid, places=_JOB),
    Endpoint("DELETE", "/api/jobs/{id}", desk.cancel, say.JobSaid, places=_JOB),
    Endpoint("GET", "/api/cells", desk.cells, say.Cells, say.CellPage),
    Endpoint("GET", "/api/cells/{key}", desk.cell, say.Cell, places=_CELL),
    Endpoint("PATCH", "/api/cells/{key}", desk.choose, say.Cell, body=say.Chosen, places=_CELL),
    Endpoint(
        "GET", "/api/cells/{key}/picture", desk.cell_picture, query=say.PictureAt, places=_CELL, media=(PNG, JPEG),
        heavy=True,
    ),
    Endpoint("GET", "/api/cells/{key}/preview", desk.preview, query=say.Growing, places=_CELL, media=(JPEG,)),
    Endpoint("POST", "/api/cells/{key}/retry", desk.retry, say.Cell, places=_CELL),
    Endpoint("POST", "/api/cells/{key}/look", desk.look, say.Nothing, places=_CELL),
    Endpoint("POST", "/api/recipe/check", desk.check_recipe, say.Checked, body=say.RecipeText),
    Endpoint("POST", "/api/recipe/from", desk.make_recipe, say.RecipeSaid, body=say.Picked),
    Endpoint("POST", "/api/run", desk.start_run, say.Running, body=say.RecipeText),
    Endpoint("POST", "/api/run/pause", desk.pause_run, say.Running, body=say.Paused),
    Endpoint("POST", "/api/run/stop", desk.stop_run, say.Running),
    Endpoint("GET", "/api/events", desk.events, media=("text/event-stream",), listens=("last-event-id",)),
    Endpoint(
        "GET", "/api/download/picture/{key}", fetching.picture, places=_CELL, heavy=True,
        media=("application/octet-stream",),
    ),
    Endpoint("GET", "/api/download/picks.zip", fetching.picks, heavy=True, media=(ZIP,)),
    Endpoint("GET", "/api/download/recipe", fetching.recipe, media=(YAML,)),
    Endpoint("GET", "/api/download/sheet", fetching.sheet, heavy=True, media=(PNG, ZIP)),
)  # fmt: skip

_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
_SHARED = ("look.css", "slider.js", "mixing.js")  # of the report, whose page this is too


def app(at: Desk, door: Door) -> Guard:
    """The whole server as an ASGI app."""
    described = json.dumps(schema(ENDPOINTS))

    async def openapi(request: Request) -> Response:
        return Response(described, media_type=JSON)

    served = Starlette(
        routes=[
            Route("/", _index), Route("/static/{name}", _static), Route("/api/openapi.json", openapi),
            *routes(ENDPOINTS, at),
        ],
        exception_handlers={HTTPException: _http, Exception: _bug},
    )  # fmt: skip
    return Guard(served, door)


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    answer = refused(status, "there is nothing at this address", "see /api/openapi.json")
    answer.headers.update(headers)
    return answer


async def _bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this is a bug in ip2pbatch", "hint": "the terminal says more"}, 500)


async def _index(request: Request) -> Response:
    return _file("index.html", request)


async def _static(request: Request) -> Response:
    return _file(request.path_params["name"], request)


def _file(name: str, request: Request) -> Response:
    found = _read(name)
    if found is None:
        return refused(404, "there is nothing at this address", "see /")
    data, tag = found
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    kind = _KINDS["." + name.rpartition(".")[2]]
    return Response(data, media_type=kind, headers=headers)


@lru_cache(maxsize=64)
def _read(name: str) -> tuple[bytes, str] | None:
    """A file of the page with its tag, read once; None where it has none of that name."""
    found = page_files().get(name)
    if found is None:
        return None
    data = found.read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'


@cache
def page_files() -> Mapping[str, Traversable]:
    """The files of the page by name: its own, and those that it shares with the report."""
    page, report = files("ip2pbatch.studio") / "page", files("ip2pbatch.show")
    own = [one for one in page.iterdir() if re.fullmatch(r"[\w-]+\.(css|js|svg|html)", one.name)]
    shared = [one for name in _SHARED if (one := report / name).is_file()]
    return {one.name: one for one in (*shared, *own)}
