"""What each route answers: a request of the page to `jobs/exploring/`, and what came of it in the API's words."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from starlette.responses import Response, StreamingResponse

from ip2pbatch import __version__
from ip2pbatch.errors import PhotoError
from ip2pbatch.jobs.exploring.board import Seen
from ip2pbatch.jobs.exploring.exploration import Exploration, Request
from ip2pbatch.jobs.exploring.rendering import rendered, shown
from ip2pbatch.jobs.exploring.scrutiny import recipe_from, scrutinise
from ip2pbatch.jobs.exploring.shelf import LIMITS, Listed
from ip2pbatch.jobs.exploring.wanted import AskedWrongError, Wanted
from ip2pbatch.plan.defaults import family_for, model_defaults
from ip2pbatch.plan.editors.composed import base_of
from ip2pbatch.plan.edits import Strip
from ip2pbatch.plan.regional.regions import in_words
from ip2pbatch.plan.written.recipe import DEFAULT_SEED
from ip2pbatch.studio import messages as say
from ip2pbatch.studio.broadcast import Hub
from ip2pbatch.studio.tables import Asked, NotThereError

_LASTING = "private, max-age=3600"


class Desk:
    """One exploration behind the API; it is also what hears of changes, and tells all pages of them."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.boot = hub, uuid.uuid4().hex
        self.exploring: Exploration | None = None
        self._telling = threading.Lock()  # what is said later is never the older

    @property
    def of(self) -> Exploration:
        assert self.exploring is not None, "a desk answers after it was opened"
        return self.exploring

    # --- what changed ---------------------------------------------------------------------------------------------

    def cell(self, cell: str) -> None:
        self._tell("cell", lambda: self.said(seen).model_dump_json() if (seen := self.of.board.get(cell)) else "")

    def request(self, request: str) -> None:
        def said() -> str:
            known = self.of.requests.get(request)
            return self.job_said(known, brief=True).model_dump_json() if known else ""

        self._tell("job", said)

    def run(self) -> None:
        self._tell("run", lambda: running.model_dump_json() if (running := self.running()) else "")

    def state(self) -> None:
        self._tell("state", lambda: self.state_said().model_dump_json())

    def photos(self) -> None:
        self._tell("photos", lambda: f'{{"total": {len(self.of.shelf)}}}')

    def _tell(self, event: str, say: Callable[[], str]) -> None:
        """Tell all pages what `say` says now; nothing where it says nothing."""
        if self.exploring is not None:
            with self._telling:
                if data := say():
                    self.hub.publish(event, data)

    def everything(self) -> None:
        self.hub.publish("reset", "{}")

    # --- in the API's words ---------------------------------------------------------------------------------------

    def state_said(self) -> say.StudioState:
        of = self.of
        setting, ground = of.setting, of.setting.ground
        usual, family = model_defaults(ground.model), family_for(ground.model)
        more, problem = ground.more, of.problem
        size = more.get("size")
        side = int(size["long_side"]) if isinstance(size, dict) and "long_side" in size else usual.long_side
        return say.StudioState(
            version=__version__, boot=self.boot, model=base_of(ground.model).rpartition("/")[2],
            defaults=say.Defaults(
                text=usual.text, image=usual.image, steps=int(str(more.get("steps", usual.steps))),
                sampler=str(more.get("sampler", usual.sampler)), size=side, seed=DEFAULT_SEED, strength=1.0,
            ),
            scales=say.Scales(text="text" in family.scales, image="image" in family.scales),
            negative=family.null_text and not usual.embedded, regions=family.call is None, folder=setting.called,
            out=str(ground.out), recipe=setting.text, photos=len(of.shelf), cells=len(of.board), cut=of.board.is_cut,
            waiting=len(of.turns), running=self.running(), loading=of.loading, busy=of.voice.at,
            problem=None if problem is None else say.Problem(error=str(problem), hint=problem.hint),
            notes=list(of.voice.said), limits=say.Limits(**LIMITS),
        )  # fmt: skip

    def running(self) -> say.Running | None:
        if self.of.run is None:
            return None
        now = self.of.run.progress
        return say.Running(
            state=now.state, done=now.done, left=now.left, failed=now.failed, rate=now.rate,
            seconds_left=now.seconds_left, message=now.message, hint=now.hint,
        )  # fmt: skip

    def said(self, seen: Seen) -> say.Cell:
        edit, strip, live, record = seen.edit, seen.strip, seen.live, seen.record
        made = seen.state == "done"
        chain = [_link(strip, place) for place in range(seen.link)]
        return say.Cell(
            key=seen.id, photo=self.of.shelf.id_of(strip.photo.path), photo_name=strip.photo.name,
            instruction=edit.instruction, links=[one.instruction for one in strip.edits], link=seen.link,
            chain=chain if seen.link > 1 else None, carry=edit.carry, negative=edit.negative,
            region=chain[-1].get("region"), protect=chain[-1].get("protect"),
            text=edit.guidance.text, image=edit.guidance.image, seed=edit.seed,
            strength=1.0 if strip.strength is None else strip.strength,
            state=seen.state, reason=seen.reason, step=live.step if live else 0,
            steps=live.steps if live and live.steps else edit.steps, preview=live.preview if live else 0,
            width=edit.size[0], height=edit.size[1], job=live.job or None if live else None,
            client=live.client or None if live else None, seconds=record.seconds if record else 0.0, mark=seen.mark,
            picked=seen.choice.picked, stars=seen.choice.stars, note=seen.choice.note,
            picture=f"/api/cells/{seen.id}/picture" if made else None,
        )  # fmt: skip

    def job_said(self, request: Request, *, brief: bool = False) -> say.JobSaid:
        """Without its cells where `brief`: each has an event of its own."""
        return say.JobSaid(
            id=request.id, state=self.of.request_state(request), error=request.error or None, hint=request.hint or None,
            cells=[] if brief else [self.said(seen) for seen in self.of.cells_of(request)],
            broken={one.name: one.reason for one in request.job.scan.broken},
        )  # fmt: skip

    def seen(self, asked: Asked) -> Seen:
        """The cell that stands in the path."""
        found = self.of.board.get(asked.path["key"])
        if found is None:
            raise NotThereError
        return found

    def photo_of(self, asked: Asked) -> Listed:
        """The photo that stands in the path."""
        found = self.of.shelf.get(asked.path["id"])
        if found is None:
            raise NotThereError
        return found

    def asked_job(self, asked: Asked) -> Request:
        """The job that stands in the path."""
        found = self.of.requests.get(asked.path["id"])
        if found is None:
            raise NotThereError
        return found

    def photo_said(self, photo: Listed) -> say.Photo:
        facts = self.of.shelf.facts(photo)
        return say.Photo(
            id=photo.id, name=photo.name, width=facts.width, height=facts.height, error=facts.error or None,
            cells=self.of.board.count(photo.path),
        )  # fmt: skip


def _link(strip: Strip, place: int) -> dict[str, Any]:
    """A link of a chain in a recipe's words."""
    edit, feather = strip.edits[place], strip.feathers[place] if strip.feathers else 0.0
    said = {"instruction": edit.instruction, "text": edit.guidance.text, "image": edit.guidance.image}
    return said | in_words(edit.region, feather)


# --- the page ---------------------------------------------------------------------------------------------------------


def state(desk: Desk, asked: Asked) -> say.StudioState:
    """All that a page needs to begin with."""
    return desk.state_said()


def photos(desk: Desk, asked: Asked) -> say.Photos:
    """The photos that were given and those that were dropped in, with their sizes."""
    query: say.Page = asked.query
    if query.offset == 0:
        desk.of.list_again()
    total, found = desk.of.shelf.page(query.offset, query.limit, query.search)
    return say.Photos(total=total, photos=[desk.photo_said(photo) for photo in found])


def photo_picture(desk: Desk, asked: Asked) -> Response:
    """A photo, upright, as a JPEG at most `side` pixels long."""
    photo, side = desk.photo_of(asked), asked.query.side
    tag = f'"{desk.of.shelf.version(photo)}-{side}"'
    if asked.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": _LASTING})
    data = desk.of.shelf.picture(photo, None if side == "full" else int(side))
    return Response(data, media_type="image/jpeg", headers={"ETag": tag, "Cache-Control": _LASTING})


def add_photo(desk: Desk, asked: Asked) -> say.Photo:
    """Take in one photo: the body is the file, `name` what it is called."""
    if not asked.raw:
        raise PhotoError("is empty", hint="send the file as the body")
    return desk.photo_said(desk.of.shelf.take_in(asked.raw, asked.query.name))


def ask(desk: Desk, asked: Asked) -> say.JobSaid:
    """Have cells made: each photo with each edit at each pair of scales with each seed."""
    body: say.JobAsked = asked.body
    desk.of.refuse_without_model()
    paths = []
    for number, photo in enumerate(body.photos):
        found = desk.of.shelf.get(photo)
        if found is None:
            raise AskedWrongError("there is no such photo", where=f"photos.{number}", hint="read the list anew")
        paths.append(found.path)
    edits = tuple(edit.model_dump(exclude_none=True) for edit in body.edits)
    wanted = Wanted(
        tuple(dict.fromkeys(paths)), edits, tuple(body.text), tuple(body.image), tuple(body.seeds), body.steps
    )  # fmt: skip
    return desk.job_said(desk.of.ask(wanted, asked.client))


def job(desk: Desk, asked: Asked) -> say.JobSaid:
    """How far a job is, with its cells."""
    return desk.job_said(desk.asked_job(asked))


def cancel(desk: Desk, asked: Asked) -> say.JobSaid:
    """Make no more of a job: what is at work stops within a step, and what was made stays."""
    found = desk.asked_job(asked)
    desk.of.cancel(found)
    return desk.job_said(found)


def cells(desk: Desk, asked: Asked) -> say.Cells:
    """The cells of the run, and those that wait."""
    query: say.CellPage = asked.query
    paths = None
    if query.photo is not None:
        found = desk.of.shelf.get(query.photo)
        paths = [] if found is None else [str(found.path)]
    total, page = desk.of.board.page(
        query.offset, query.limit, photos=paths, only=query.only, search=query.search, newest=query.order == "newest"
    )
    return say.Cells(total=total, cut=desk.of.board.is_cut, cells=[desk.said(seen) for seen in page])


def cell(desk: Desk, asked: Asked) -> say.Cell:
    """One cell."""
    return desk.said(desk.seen(asked))


def cell_picture(desk: Desk, asked: Asked) -> Response:
    """A cell: at the model's size, the photo it was made of at that size, or at the photo's own size."""
    seen, at = desk.seen(asked), asked.query.at
    lasting = {"Cache-Control": _LASTING}
    if at == "before":
        before = desk.of.board.before(seen)
        if before is None:
            raise NotThereError
        return Response(before.read(), media_type="image/png", headers=lasting)
    if seen.state != "done":
        raise NotThereError
    if at == "full":
        return Response(rendered(desk.of.board, seen, format="jpeg").data, media_type="image/jpeg", headers=lasting)
    return Response(shown(desk.of.board, seen), media_type="image/png", headers=lasting)


def preview(desk: Desk, asked: Asked) -> Response:
    """A cell as it grows, a JPEG."""
    data = desk.of.board.preview(desk.seen(asked).id)
    if data is None:
        raise NotThereError
    return Response(data, media_type="image/jpeg")


def choose(desk: Desk, asked: Asked) -> say.Cell:
    """Pick a cell, give it stars, or write a note."""
    desk.seen(asked)
    said: say.Chosen = asked.body
    changes = {name: value for name, value in said.model_dump().items() if value is not None}
    return desk.said(desk.of.choose(asked.path["key"], changes))


def retry(desk: Desk, asked: Asked) -> say.Cell:
    """Try a cell again that failed, was flagged, or is left."""
    desk.seen(asked)
    return desk.said(desk.of.retry(asked.path["key"]))


def look(desk: Desk, asked: Asked) -> say.Nothing:
    """Somebody looks at this cell: it comes next."""
    desk.of.look(desk.seen(asked).id)
    return say.Nothing()


def check_recipe(desk: Desk, asked: Asked) -> say.Checked:
    """What is wrong with a recipe, and what a run of it would make."""
    found = scrutinise(asked.body.text, desk.of.setting, desk.of.board)
    cost = None
    if (cast := found.cast) is not None:
        cost = say.Cost(
            photos=cast.photos, edits=cast.edits, edits_left=cast.edits_left, files=cast.files, rows=cast.rows,
            disk=cast.disk, seconds=found.seconds, notes=list(cast.notes),
        )  # fmt: skip
    messages = [
        say.Mistake(line=one.line, column=one.column, error=one.error, hint=one.hint, warning=one.warning)
        for one in found.messages
    ]
    return say.Checked(messages=messages, plan=cost)


def make_recipe(desk: Desk, asked: Asked) -> say.RecipeSaid:
    """A recipe that makes of every photo what some cells are of theirs."""
    seen = [found for key in asked.body.cells if (found := desk.of.board.get(key))]
    return say.RecipeSaid(text=recipe_from(seen, desk.of.setting))


def start_run(desk: Desk, asked: Asked) -> say.Running:
    """Run a recipe over its photos."""
    desk.of.refuse_without_model()
    desk.of.start(asked.body.text)
    return _running(desk)


def pause_run(desk: Desk, asked: Asked) -> say.Running:
    """Have the run wait, or go on."""
    desk.of.pause(asked.body.paused)
    return _running(desk)


def stop_run(desk: Desk, asked: Asked) -> say.Running:
    """End the run; what was made is kept."""
    desk.of.stop_run()
    return _running(desk)


def _running(desk: Desk) -> say.Running:
    found = desk.running()
    if found is None:
        raise NotThereError
    return found


def events(desk: Desk, asked: Asked) -> Response:
    """What changes, as server-sent events: cell, job, run, state, photos, reset."""
    if desk.hub.is_full:
        return Response('{"error": "too many pages listen", "hint": "close some"}', 503, media_type="application/json")
    given = asked.headers.get("last-event-id", "")
    after = int(given) if given.isascii() and given.isdigit() and len(given) < 16 else (-1 if given else None)
    return StreamingResponse(desk.hub.listen(after), media_type="text/event-stream")
