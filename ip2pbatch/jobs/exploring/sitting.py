"""A session that stays open while a page asks for one picture after another: the run's one writer till it is closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import Ip2pError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.adding import joined_recipe, leave_recipe
from ip2pbatch.jobs.delivering import picture_options
from ip2pbatch.jobs.exploring.wanted import EXPLORED
from ip2pbatch.jobs.finding import keep_masks, seeks, settle_unmatched
from ip2pbatch.jobs.session import invocation_of, note_unedited, tell_damage
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Photo, Plan, Strip
from ip2pbatch.plan.together import apart, beside
from ip2pbatch.plan.written.as_text import flow
from ip2pbatch.plan.written.recipe import parse_recipe
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.left_recipe import FIRST
from ip2pbatch.run.directory.lines import RecordedRecipe, Status
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.events import Events
from ip2pbatch.run.execute import REDO, Summary, run_plan
from ip2pbatch.run.stop import Stop

if TYPE_CHECKING:
    from ip2pbatch.jobs.exploring.lending import OneEngine
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.run.machine import Machine

AGAIN: frozenset[Status] = REDO | frozenset[Status]({"nan", "flagged"})


class Sitting:
    """One open run of `out` and what is asked of it. To be used from one thread.

    Pictures are made and kept, and no file is delivered: that is a run's. Raises LockedError, UsageError,
    ResourceError, and what the engine raises that cannot be loaded.
    """

    def __init__(self, out: Path, machine: Machine, engine: OneEngine, voice: Voice) -> None:
        self._voice = voice
        self._job: Job | None = None
        spec, open_engine = engine.choose(engine.model, machine, safety=engine.safety, note=voice.note)
        spec = engines.as_known_in(out, engine.model, machine, spec)
        self._asked, self._recipes = _asked_before(out, engine.model)
        self.engine: EditEngine = open_engine()
        self.run = open_run(out, spec, defaults=model_defaults(engine.model))
        try:
            if self.run.spec.determinism == "bitwise":
                engines.refuse_other_bits(self.run, engines.device_name(machine))
            self._begin(machine, engine.safety)
        except BaseException:
            self.run.close()
            raise

    def _begin(self, machine: Machine, safety: bool) -> None:
        text = self._recipes[-1].text if self._recipes else ""
        self.run.begin_session(
            self._asked, invocation_of(text, self.run.spec, partial=False, recipes=self._recipes)
        )  # fmt: skip
        tell_damage(self.run, self._voice)
        described = engines.describe(self.engine, machine, self._asked)
        self.run.note("engine", **described, safety=safety)

    def ask(self, job: Job) -> Sequence[Strip]:
        """Write down that this is asked for too; its strips, whose photos may have got another name."""
        plan = apart(job.plan, self._asked)
        self._asked = beside(plan, self._asked)
        self._tell_plan(plan.photos)
        self._recipes = (*(one for one in self._recipes if one not in job.recipes), *job.recipes)
        self.run.note("asked", recipes=[dataclasses.asdict(one) for one in job.recipes])
        self._job = job
        self._prepare(plan, job)
        return plan.strips

    def _prepare(self, plan: Plan, job: Job) -> None:
        note_unedited(self.run, job.scan)
        if seeks(job.recipe):
            keep_masks(plan, self.run, self._voice)
        settle_unmatched(plan, self.run, self._voice)

    def _tell_plan(self, photos: Iterable[Photo]) -> None:
        """All that is asked of some photos: of a photo, what a session was told last counts, if it is nothing."""
        named = {photo.name: photo for photo in photos}
        part = part_of(self._asked, [strip for strip in self._asked.strips if strip.photo.name in named])
        self.run.ask_more(replace(part, photos=tuple(named.values())))

    def withdraw(
        self, strips: Iterable[Strip], recipes: Sequence[RecordedRecipe], instead: RecordedRecipe | None
    ) -> None:
        """These strips are asked for no longer, nor are the recipes that did; `instead` asks for the rest of them."""
        strips = list(strips)
        gone = {(strip.photo.name, strip.id, strip.edits) for strip in strips}
        left = [strip for strip in self._asked.strips if (strip.photo.name, strip.id, strip.edits) not in gone]
        self._asked = part_of(self._asked, left)
        self._tell_plan(strip.photo for strip in strips)
        kept = [one for one in self._recipes if one not in recipes]
        self._record(tuple([*kept, instead] if instead else kept))

    def _record(self, recipes: tuple[RecordedRecipe, ...]) -> None:
        """The run is asked for these recipes, instead of all that came till now."""
        self._recipes = recipes
        self.run.note("asked", recipes=[dataclasses.asdict(one) for one in recipes], whole=True)

    def make(self, strips: Sequence[Strip], events: Events, stop: Stop, *, again: bool = False) -> Summary:
        """Make what is not there of these strips. Raises what `run_plan` raises."""
        options = picture_options(redo=AGAIN if again else REDO)
        return run_plan(part_of(self._asked, strips), self.run, self.engine, options, events, stop=stop)

    def _leave_recipe(self) -> None:
        """One recipe takes the place of all that pages asked for; where nobody else asked, it is left in the folder."""
        explored = [one for one in self._recipes if _is_explored(one)]
        if not explored or self._job is None:
            return
        last = parse_recipe(explored[-1].text, self.run.root / FIRST)
        job = replace(self._job, recipe=last, text=explored[-1].text, asked=self._asked, recipes=tuple(explored))
        if len(explored) > 1 and (one := joined_recipe(job)) is not None:
            self._record((*(other for other in self._recipes if other not in explored), one))
            job = replace(job, recipe=parse_recipe(one.text, self.run.root / FIRST), text=one.text, recipes=(one,))
        if len(job.recipes) == len(self._recipes):
            leave_recipe(job, self._voice, self.run)

    def close(self) -> None:
        """Leave what the run is asked for as a recipe, and let go of the run."""
        try:
            self._leave_recipe()
        except Ip2pError as error:
            self._voice.warn(f"no recipe could be left in {self.run.root}: {error}")
        finally:
            self.run.close()


def _is_explored(recipe: RecordedRecipe) -> bool:
    """Whether a page asked for it photo by photo: such recipes are joined, and others stay as they were written."""
    return not recipe.file and recipe.text.startswith(f"name: {flow(EXPLORED)}")


def _asked_before(out: Path, model: str) -> tuple[Plan, tuple[RecordedRecipe, ...]]:
    """What the newest run in `out` is asked for, and the recipes that ask for it; nothing where there is no run."""
    folders = run_folders(out)
    if not folders or not Layout(folders[-1]).is_run():
        return Plan(EXPLORED, model, (), (), ()), ()
    view = read_run(out)
    return view.plan, view.sessions[-1].recipes if view.sessions else ()


def part_of(plan: Plan, strips: Sequence[Strip]) -> Plan:
    """The plan of some strips alone, Edits once, parents first."""
    photos = {strip.photo.name: strip.photo for strip in strips}
    edits = {edit.key: edit for strip in strips for edit in strip.made}
    return Plan(plan.name, plan.model, tuple(photos.values()), tuple(strips), tuple(edits.values()))
