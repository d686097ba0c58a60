"""What a page explores: asks for cells, looks at them, cancels, tries again, chooses. The engine works in a thread."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from ip2pbatch.errors import Ip2pError, LockedError, PlanError, UsageError
from ip2pbatch.jobs.exploring.board import Board, Seen, all_cells
from ip2pbatch.jobs.exploring.folder_run import FolderRun
from ip2pbatch.jobs.exploring.following import Following
from ip2pbatch.jobs.exploring.scrutiny import job_of, refuse_paths
from ip2pbatch.jobs.exploring.shelf import Shelf
from ip2pbatch.jobs.exploring.turns import Turn, Turns
from ip2pbatch.jobs.exploring.voiced import Voiced
from ip2pbatch.jobs.exploring.wanted import MOST_CELLS, AskedWrongError, Wanted, recipe_for
from ip2pbatch.jobs.job import Selection, make_job
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.run.chosen.stars import Choice, cell_id, read_choices, write_choices
from ip2pbatch.run.directory.lines import RecordedRecipe

if TYPE_CHECKING:
    from ip2pbatch.jobs.exploring.setting import Setting
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.plan.edits import Strip
    from ip2pbatch.run.directory.view import RunView
    from ip2pbatch.run.stop import Stop

_LOOK = 0.4  # seconds between two looks at a run that others may write
_LISTED_AGAIN = 10.0  # seconds after which a page that asks for the first photos has the folder looked at anew
_REMEMBERED, _REMEMBERED_CELLS = 500, 20_000  # requests that are known though they are over, and their cells
log = logging.getLogger("ip2pbatch.jobs")

RequestState = Literal["waiting", "running", "done", "cancelled", "failed"]


class Told(Protocol):
    """What hears of changes, from several threads; keep it short."""

    def cell(self, cell: str) -> None: ...
    def request(self, request: str) -> None: ...
    def run(self) -> None: ...
    def state(self) -> None: ...
    def photos(self) -> None: ...
    def everything(self) -> None: ...


@dataclass(frozen=True, slots=True)
class AtWork:
    """What the engine's thread is at: turns of some `jobs` for some `cells`, or (there are none) a folder's run."""

    stop: Stop
    jobs: frozenset[str] = frozenset()
    cells: frozenset[str] = frozenset()


@dataclass(slots=True)
class Request:
    """What somebody asked for in one go. `strips` are the plan's, `now` those of the run, once it is written down."""

    id: str
    client: str
    job: Job
    cells: tuple[str, ...]
    cancelled: bool = False
    error: str = ""
    hint: str = ""
    now: dict[Strip, Strip] = field(default_factory=dict)


def no_problem() -> Ip2pError | None:
    """Nothing stands in the way."""
    return None


class Exploration:
    """One output folder, its photos and its cells; `workbench.opened` has threads work for it.

    `voice` and `problem` say what a person should know: what is done at the moment, and why it cannot go on.
    """

    def __init__(self, setting: Setting, told: Told) -> None:
        self.setting, self.told = setting, told
        self.shelf = Shelf(setting.lister, setting.uploads, told.photos)
        self.board = Board(told.cell)
        self.wake = threading.Condition()
        self.turns, self.requests = Turns(), dict[str, Request]()
        self.dropped: list[Request] = []
        self.run: FolderRun | None = None
        self.current: AtWork | None = None
        self.loads_again = False
        self.voice, self.problem, self.loading, self.ended = Voiced(told.state), no_problem(), False, False
        self._numbers = itertools.count(1)
        self._following = Following(setting.ground.out, self._read, self.board.recorded)
        self._looking, self._writes = threading.Lock(), False
        self._quiet, self._asks_for_photos = threading.Event(), False

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, wanted: Wanted, client: str) -> Request:
        """Have these cells made. Raises AskedWrongError, PlanError, NothingMatchedError, ResourceError."""
        recipe = recipe_for(wanted, self.setting.ground)
        for spec in recipe.edits:
            refuse_paths(spec, self.setting)
        job = make_job(recipe, RecordedRecipe(recipe_text(recipe)), Selection())
        if sum(len(strip.edits) for strip in job.plan.strips) > MOST_CELLS:
            hint = "ask for less at once, or run the recipe on the folder"
            raise AskedWrongError(f"more than {MOST_CELLS:,} cells", where="edits", hint=hint)
        if not job.plan.strips:
            why = "; ".join(f"{one.name}: {one.reason}" for one in job.scan.broken)
            raise AskedWrongError(why or "there is nothing to edit", where="photos", hint="choose another photo")
        with self.wake:
            request = Request(f"{next(self._numbers):06x}", client, job, tuple(all_cells(job.plan.strips)))
            turns = [
                Turn(request.id, client, strip, tuple(cell_id(strip, edit) for edit in strip.edits))
                for strip in job.plan.strips
            ]
            self.turns.refuse(len(request.cells))
            self.board.add(job.plan.strips)
            self._remember(request)
            missing = [turn for turn in turns if not all(map(self._is_made, turn.cells))]
            self.turns.add(missing)
            waiting = [cell for turn in missing for cell in turn.cells if not self._is_made(cell)]
            self.board.stand(waiting, "waiting", job=request.id, client=client)
            self._interrupt()
            self.wake.notify_all()
        return request

    def refuse_without_model(self) -> None:
        """Raises why the model could not be loaded, and has that tried again: what was missing may be there by now."""
        if self.problem is not None and not isinstance(self.problem, LockedError):
            with self.wake:
                self.loads_again = True
                self.wake.notify_all()
            raise self.problem

    def _remember(self, request: Request) -> None:
        """Know of this one too, and of as many older ones as are not over yet, or few enough with few enough cells."""
        self.requests[request.id] = request
        cells = sum(len(one.cells) for one in self.requests.values())
        for one in list(self.requests.values())[:-1]:
            if len(self.requests) <= _REMEMBERED and cells <= _REMEMBERED_CELLS:
                break
            if self.request_state(one) in ("done", "cancelled", "failed"):
                cells -= len(one.cells)
                del self.requests[one.id]

    def _is_made(self, cell: str) -> bool:
        seen = self.board.get(cell)
        return seen is not None and seen.record is not None and seen.record.status == "done"

    def _interrupt(self) -> None:
        """What a person looks at comes before the rest of a folder."""
        if self.current is not None and not self.current.jobs:
            self.current.stop.ask()

    def request_state(self, request: Request) -> RequestState:
        """How far a request is, by its cells."""
        if request.cancelled:
            return "cancelled"
        states = [seen.state for cell in request.cells if (seen := self.board.get(cell))]
        if "running" in states or ("waiting" in states and "done" in states):
            return "running"
        if "waiting" in states:
            return "waiting"
        return "done" if not states or "done" in states else "failed"

    def cancel(self, request: Request) -> None:
        """Make no more of it; what is at work stops within a step. What was made stays."""
        with self.wake:
            request.cancelled = True
            self.turns.drop(request.id)
            wanted = {cell for turn in self.turns for cell in turn.cells}
            if self.current is not None and request.id in self.current.jobs:
                self.current.stop.ask(now=True)
                wanted |= self.current.cells  # whoever is at them says what becomes of them
            unmade = [cell for cell in request.cells if not self._is_made(cell)]
            self.dropped.append(request)
            self.wake.notify_all()
        self.board.remove(cell for cell in unmade if cell not in wanted)
        self.told.request(request.id)

    def retry(self, cell: str) -> Seen:
        """Try a cell again. Raises PlanError where there is nothing to try."""
        seen = self.board.get(cell)
        if seen is None or seen.state in ("done", "waiting", "running"):
            raise PlanError("there is nothing to try again", hint="only what failed, was flagged or is left is tried")
        with self.wake:
            self.turns.refuse(1)
            self.turns.add([Turn("", "", seen.strip, tuple(all_cells([seen.strip])), again=True)])
            self.board.stand([cell], "waiting")
            self._interrupt()
            self.wake.notify_all()
        return self.board.get(cell) or seen

    def look(self, cell: str) -> None:
        """A person looks at this cell: it comes next."""
        with self.wake:
            self.turns.look(cell)

    # --- a run of the folder ------------------------------------------------------------------------------------------

    def start(self, text: str) -> FolderRun:
        """Have a recipe run over its photos. Raises UsageError where one runs, and what is wrong with the recipe."""
        job = job_of(text, self.setting)
        with self.wake:
            if self.run is not None and not self.run.is_over:
                raise UsageError("a run is under way", hint="stop it first, or wait until it is done")
            self.run = FolderRun(job, self.told.run, lambda record: self.board.recorded([record]))
            self.wake.notify_all()
        self.told.run()
        return self.run

    def pause(self, paused: bool) -> FolderRun:
        """Have it wait after the edits at hand, or go on. Raises UsageError where none is under way."""
        with self.wake:
            run = self._under_way()
            run.now("paused" if paused else "waiting")
            self._interrupt()
            self.wake.notify_all()
        return run

    def stop_run(self) -> FolderRun:
        """End it within a step: what was made is kept, and running the recipe again goes on. Raises UsageError."""
        with self.wake:
            run = self._under_way()
            at_work = self.current is not None and not self.current.jobs
            run.now("stopping" if at_work else "stopped")
            if at_work and self.current is not None:
                self.current.stop.ask(now=True)
            self.wake.notify_all()
        return run

    def _under_way(self) -> FolderRun:
        if self.run is None or self.run.is_over:
            raise UsageError("no run is under way", hint="start one")
        return self.run

    # --- choosing ----------------------------------------------------------------------------------------------------

    def choose(self, cell: str, changes: dict[str, object]) -> Seen:
        """What a person thinks of a cell, kept at once. Raises PlanError where there is none, ResourceError."""
        seen = self.board.get(cell)
        if seen is None or self.board.layout is None:
            raise PlanError("there is no such cell yet", hint="wait until it is made")
        with self._looking:
            layout = self.board.layout
            choices = read_choices(layout)
            choices[cell] = replace(choices.get(cell, Choice()), **changes)  # type: ignore[arg-type]
            write_choices(layout, choices)
        self.board.choose({cell: choices[cell]})
        return self.board.get(cell) or seen

    # --- a run that anybody writes ------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Look at the run now."""
        with self._looking:
            self._following.look(plans=not self._writes)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While this process writes the run its plan is known; afterwards all is read, for others may have written."""
        self._writes = True
        try:
            yield
        finally:
            with self._looking:
                self._following.forget()
                self._writes = False

    def _read(self, view: RunView) -> None:
        if self.board.layout not in (None, view.layout):  # one was begun afresh
            self.board.clear()
        self.board.layout, before = view.layout, (self.board.is_cut, set(self.board.ids))
        if not self._writes:  # else the board knows more than the disk
            self.board.show(view.strips)
        self.board.recorded(view.records.values())
        self.board.choose(read_choices(view.layout))
        if (self.board.is_cut, set(self.board.ids)) != before:
            self.told.everything()
            if self.setting.watches:  # its photos are those of the run
                self.shelf.refresh()

    def list_again(self) -> None:
        """Have the folder looked at anew, if that was a while ago, behind whoever asks. Raises PlanError where it was
        gone the last time.
        """
        self._asks_for_photos = True
        if self.shelf.problem is not None:
            raise self.shelf.problem

    def follow(self) -> None:
        """Until the end: look at the run, again and again, and at the photos when somebody has asked for them."""
        while not self._quiet.wait(_LOOK):
            with suppress(Ip2pError, OSError):
                self.catch_up()
            if self._asks_for_photos:
                self._asks_for_photos = False
                with suppress(Ip2pError, OSError):
                    self.shelf.refresh(after=_LISTED_AGAIN)

    def stop(self) -> None:
        """Have both threads end: what is at work stops within a step, and nothing that was made is lost."""
        with self.wake:
            self.ended = True
            if self.current is not None:
                self.current.stop.ask(now=True)
            self.wake.notify_all()
        self._quiet.set()

    def cells_of(self, request: Request) -> Sequence[Seen]:
        """The cells of a request, as they are now."""
        return [seen for cell in request.cells if (seen := self.board.get(cell))]
