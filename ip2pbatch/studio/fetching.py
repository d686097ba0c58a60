"""Downloads: one picture as its file would be, all picks in a zip, the recipe, the sheet."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from ip2pbatch.errors import Ip2pError, PlanError
from ip2pbatch.jobs.exploring.rendering import file_name, rendered
from ip2pbatch.jobs.exploring.scrutiny import recipe_from
from ip2pbatch.studio.desk import Desk
from ip2pbatch.studio.tables import Asked, NotThereError

_PART = 1 << 18
_MOST_PICKS = 1000
_MOST_IN_MEMORY = 32 << 20


def _named(name: str) -> dict[str, str]:
    """What has a browser save an answer as a file of this name, whatever letters are in it."""
    plain = re.sub(r'[^\x20-\x7e]|["\\;]', "_", name)
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"}


def picture(desk: Desk, asked: Asked) -> Response:
    """One picture at its photo's size, as a run would deliver it."""
    seen = desk.seen(asked)
    if seen.state != "done":
        raise NotThereError
    made = rendered(desk.of.board, seen)
    return Response(
        made.data, media_type="application/octet-stream", headers=_named(file_name(seen, made.format))
    )  # fmt: skip


def picks(desk: Desk, asked: Asked) -> Response:
    """All picked cells as files, and a text that says which could not be written."""
    _, seen = desk.of.board.page(0, _MOST_PICKS, only="picked")
    done = [one for one in seen if one.state == "done"]
    if not done:
        raise PlanError("nothing is picked", hint="pick a cell first")
    held = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY)  # noqa: SIM115 (it is closed when it was sent)
    left = []
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as zipped:  # pictures are as small as they get
        for one in done:
            try:
                made = rendered(desk.of.board, one)
                zipped.writestr(file_name(one, made.format), made.data)
            except Ip2pError as error:
                left.append(f"{one.strip.photo.name}: {one.edit.instruction}: {error}")
        if left:
            zipped.writestr("left out.txt", "\n".join(left) + "\n")
    held.seek(0)
    return StreamingResponse(_parts(held), media_type="application/zip", headers=_named("picks.zip"))


def _parts(held: IO[bytes]) -> Iterator[bytes]:
    with held:
        while part := held.read(_PART):
            yield part


def recipe(desk: Desk, asked: Asked) -> Response:
    """The recipe of the picked cells, else the one that the studio was opened with."""
    _, seen = desk.of.board.page(0, _MOST_PICKS, only="picked")
    text = recipe_from(seen, desk.of.setting) if seen else desk.of.setting.text
    if not text:
        raise PlanError("there is no recipe yet", hint="pick a cell first")
    return Response(text.encode(), media_type="application/yaml", headers=_named("recipe.yaml"))


def sheet(desk: Desk, asked: Asked) -> Response:
    """The contact sheet of the run as it is now; several in a zip."""
    from ip2pbatch.plan.written.outputs import Sheet
    from ip2pbatch.run.directory.view import read_run
    from ip2pbatch.show.sheet import write_sheets

    if desk.of.board.layout is None:
        raise PlanError("there is no run yet", hint="make a picture first")
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-sheet-") as folder:
        written = write_sheets(read_run(desk.of.setting.ground.out), Path(folder), Sheet())
        data = [(path.name, path.read_bytes()) for path in written]
    if len(data) == 1:
        return Response(data[0][1], media_type="image/png", headers=_named(data[0][0]))
    held = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY)  # noqa: SIM115
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as zipped:
        for name, drawn in data:
            zipped.writestr(name, drawn)
    held.seek(0)
    return StreamingResponse(_parts(held), media_type="application/zip", headers=_named("sheets.zip"))
