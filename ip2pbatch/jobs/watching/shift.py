"""The work of `watch`: look at the folder, edit what is whole, remember what became of it, again and again."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import NothingMatchedError, PlanError, UsageError
from ip2pbatch.jobs.delivering import options_of, signer_of
from ip2pbatch.jobs.finding import keep_masks, seeks, settle_unmatched
from ip2pbatch.jobs.job import Job, Selection, defaults_of, lift_of, refuse_comparison, refuse_in_bucket
from ip2pbatch.jobs.measuring import refuse_unready
from ip2pbatch.jobs.session import advise, ended, invocation_of, note_unedited, tell_damage
from ip2pbatch.jobs.watching.making import Maker, made_ready
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.photos import Scan, looked_at, refuse_output
from ip2pbatch.plan.unedited import Broken
from ip2pbatch.plan.written.recipe import Recipe, read_recipe
from ip2pbatch.run.directory.healing import heal, last_group
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.execute import Summary
from ip2pbatch.run.incoming.arrivals import Arrivals
from ip2pbatch.run.incoming.lookout import Lookout
from ip2pbatch.run.stop import Stop

if TYPE_CHECKING:
    from ip2pbatch.jobs.outcome import Outcome
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.marks.signer import Signer
    from ip2pbatch.run.machine import Machine

_NOTHING = Scan(())
_HELD = 20_000  # records and deliveries of this process in memory, before they are held by where their lines stand
_PAUSE = 0.5  # seconds between two looks at the folder at most


def keep_watch(
    folder: Path, recipe: Path, machine: Machine, voice: Voice, *, out: Path | None, settle: float,
    once_idle: float | None,
) -> Outcome:  # fmt: skip
    """Edit what arrives in `folder`, until `voice` is asked to stop or nothing came for `once_idle` seconds.

    A file counts as whole after `settle` seconds without a change. Raises UsageError, RecipeError.
    """
    wanted, text = read_recipe(recipe)
    wanted = watched(wanted, folder, out)
    refuse_comparison(wanted)
    refuse_in_bucket(wanted.output.folder, "watch")
    refuse_unready(wanted.sheet.metrics, voice)
    signer = signer_of(wanted)
    defaults, notes = defaults_of(wanted)
    nothing = Plan(wanted.name, wanted.model, (), (), ())
    job = Job(wanted, text, _NOTHING, nothing, nothing, nothing, Selection(), defaults, notes)
    advise(wanted, voice)
    with made_ready(job, machine, voice) as (run, maker):
        pause = min(_PAUSE, max(settle / 4, 0.02))
        with voice.stop() as stop, closing(Arrivals(settle, pairs=wanted.photos[0].pairs)) as arrivals:
            heal(run, last_group(run))
            shift = Shift(job, run, maker, voice, arrivals, signer)
            shift.work(stop, once_idle=once_idle, pause=pause)
            summary = shift.summary(stop)
    return ended(shift.job(), summary, voice)


def watched(recipe: Recipe, folder: Path, out: Path | None) -> Recipe:
    """`recipe` with `folder` in the place of its photos; which files are meant stays as it says. Raises UsageError."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="watch takes the folder that photos arrive in")
    first = recipe.photos[0]
    if first.manifest:
        raise UsageError("watch edits what arrives, and this recipe lists photos", hint="use a recipe without manifest")
    if not recipe.edits or any(photos.instructions for photos in recipe.photos):
        raise UsageError(
            "watch edits every photo alike, and this recipe has instructions for single photos",
            hint="use a recipe with edits and without instructions",
        )
    photos = first.model_copy(update={"folder": folder.absolute()})
    output = recipe.output if out is None else recipe.output.model_copy(update={"folder": out.absolute()})
    return recipe.model_copy(update={"photos": (photos,), "output": output})


class Shift:
    """One watch over one folder with one open run and what makes its pictures. Ends hold what became of every photo
    that is there.

    `nothing` is the job before anything came; a `signer` signs what is delivered.
    """

    def __init__(
        self, nothing: Job, run: Run, maker: Maker, voice: Voice, arrivals: Arrivals, signer: Signer | None = None
    ) -> None:  # fmt: skip
        self._nothing, self.run, self._maker = nothing, run, maker
        self.recipe, self.text = nothing.recipe, nothing.text
        self._voice, self._signer, self._arrivals = voice, signer, arrivals
        self._lookout = Lookout(self.recipe.photos[0], arrivals, voice.warn)
        self._begun = time.monotonic()
        self._broken: dict[str, Broken] = {}
        self._undelivered: dict[str, str] = {}
        self._notes: Counter[str] = Counter()
        self._made = self._delivered = self._shrunk = 0
        self._in_session = False
        self._swept, self._seeks = set[Path](), seeks(self.recipe)

    def work(self, stop: Stop, *, once_idle: float | None, pause: float) -> None:
        """Until `stop` is asked, or nothing came for `once_idle` seconds. Raises PlanError for a folder never there."""
        refuse_output(self.recipe.photos[0].folder, self.recipe.output.folder)
        with closing(self._lookout) as lookout:
            while not stop.asked.is_set():
                if lookout.look():
                    self._forget()
                if lookout.hurries or self._take_whole(stop):
                    continue
                idle = once_idle is not None and not self._arrivals.waiting and self._arrivals.idle >= once_idle
                if idle and lookout.is_calm:
                    return
                if idle:
                    lookout.hurry()
                else:
                    stop.asked.wait(pause)

    def _take_whole(self, stop: Stop) -> bool:
        """Edit the files that became whole since the last look; whether there were any."""
        with self._arrivals.poll() as whole:
            if not whole.files and not whole.broken:
                return False
            found = looked_at(whole.files, whole.broken)
        self._take(found, stop)
        return True

    def job(self) -> Job:
        """What a session's ending is told about."""
        plan = read_run(self.run.root).plan  # all that was ever watched, as the sheets will show it
        lookout = self._lookout
        return self._job(Scan((), tuple(self._broken.values()), notes=lookout.notes, passed=lookout.passed), plan)

    def _job(self, found: Scan, plan: Plan) -> Job:
        notes = (*found.notes, *self._nothing.notes)
        return replace(self._nothing, scan=found, whole=plan, asked=plan, plan=plan, notes=notes)

    def summary(self, stop: Stop) -> Summary:
        """How the whole watch went."""
        states = self._arrivals.sightings.states()
        seconds = time.monotonic() - self._begun
        undelivered = tuple(self._undelivered.items())
        return Summary(
            states, self._made, self._delivered, undelivered, self._shrunk, seconds, stop.exit_code, notes=self._notes
        )

    def _forget(self) -> None:
        """A photo that went before it could be edited is nothing that is missing, and stands in no other's way."""
        sightings = self._arrivals.sightings
        sightings.drop([path for path in sightings.undone() if not os.path.lexists(path)])
        mended = self._lookout.mended
        for path in [path for path in self._broken if path in mended or not os.path.lexists(path)]:
            del self._broken[path]

    def _take(self, found: Scan, stop: Stop) -> None:
        """Edit these photos together; one that cannot be planned takes no other with it."""
        for broken in found.broken:
            self._refuse(broken)
        if not found.photos:
            return
        try:
            self._edit(found, stop)
        except (PlanError, NothingMatchedError) as error:
            if len(found.photos) == 1:
                photo = found.photos[0]
                self._refuse(Broken(photo.name, photo.path, str(error)))
                return
            for photo in found.photos:
                if not stop.asked.is_set():
                    self._take(Scan((photo,)), stop)

    def _edit(self, found: Scan, stop: Stop) -> None:
        plan = expand(self.recipe, found, self._nothing.defaults, self._nothing.registers, lift_of(self._nothing.lift))
        if self._seeks:
            keep_masks(plan, self.run, self._voice)
        settle_unmatched(plan, self.run, self._voice)
        job = self._job(found, plan)
        self._begin()
        self.run.ask_more(plan)
        note_unedited(self.run, Scan((), passed=self._lookout.passed))
        options = options_of(job, self.run, queue=True, signer=self._signer, swept=self._swept)
        self.run.note_news("engine", **self._maker.described(plan, options), safety=self.recipe.safety)
        tell_damage(self.run, self._voice)
        with self._voice.progress(plan) as events:
            summary = self._maker.make(plan, options, events, stop)
        if options.deliver:
            for errand in options.deliver.errands(plan):  # what could not be delivered before was tried again
                self._undelivered.pop(errand.target, None)
        self._count(plan, summary)
        run = self.run
        if run.records.newer + run.deliveries.newer >= _HELD:
            run.records.fold(run.layout.results(run.shard))
            run.deliveries.fold(run.layout.deliveries(run.shard))

    def _begin(self) -> None:
        """One session for all that comes; what it is asked for grows."""
        if not self._in_session:
            self.run.begin_session(self._nothing.plan, invocation_of(self.text, self.run.spec, partial=True))
            self._in_session = True

    def _count(self, plan: Plan, summary: Summary) -> None:
        self._made += summary.made
        self._delivered += summary.delivered
        self._shrunk += summary.shrunk
        self._undelivered |= dict(summary.undelivered)
        self._notes.update(summary.notes)
        for photo in plan.photos:
            self._broken.pop(str(photo.path), None)
        states: dict[str, dict[str, str]] = {str(photo.path): {} for photo in plan.photos}
        for strip in plan.strips:
            states[str(strip.photo.path)] |= {edit.key: self._state(edit) for edit in strip.made}
        for path, own in states.items():
            self._arrivals.sightings.became(path, own)

    def _state(self, edit: Edit) -> str:
        if edit.key in self.run.done:
            return "done"
        record = self.run.records.get(edit.key)
        return record.status if record else "left"

    def _refuse(self, broken: Broken) -> None:
        if self._broken.get(str(broken.path)) == broken:
            return
        self._broken[str(broken.path)] = broken
        self._voice.warn(f"not edited: {broken.name}: {broken.reason}")
        self._begin()  # a note belongs to a session
        self.run.note("broken", photo=broken.name, reason=broken.reason)
