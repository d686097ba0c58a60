"""The loop that makes pictures exist: prefetch → engine.edit → commit → deliver, with back-off and a clean stop.

The engine works in the calling thread. Photos are decoded ahead of it and finished pictures are encoded, written and
delivered behind it, all in threads and all bounded. One bad photo or picture is a failed row; only the disk, memory at
the smallest batch, or an engine that says so (an Ip2pError) end a run, and then everything finished is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import TracebackType

from ip2pbatch import errors
from ip2pbatch.errors import DamagedError, Ip2pError, ResourceError, UnreachableError
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.schedule import Schedule
from ip2pbatch.run.calls import Calls, Job
from ip2pbatch.run.deliveries import Deliverer, Errand, Ready
from ip2pbatch.run.delivery_threads import Couriers
from ip2pbatch.run.directory.kept import Pixels
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Status
from ip2pbatch.run.engine import EditEngine, Result, Source
from ip2pbatch.run.events import Events, OneAtATime, Quiet
from ip2pbatch.run.flat import judge
from ip2pbatch.run.pace import Pace, Then
from ip2pbatch.run.sources import Sources
from ip2pbatch.run.states import already_done, states_of
from ip2pbatch.run.stop import Flag, Stop, listening
from ip2pbatch.run.utilisation import Busy

_AHEAD = 2  # batches whose photos are being loaded while the engine works
UNWRITTEN = 32  # finished pictures that may wait for the disk before the engine waits for it

REDO: frozenset[Status] = frozenset({"failed", "skipped"})
"""What is tried again by default. A nan or flagged picture would come out the same: only `retry` asks for it again."""

Score = Callable[[Edit, Pixels, Pixels], Mapping[str, float]]
log = logging.getLogger("ip2pbatch.run")


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is carried out; nothing in it changes a picture.

    `deliver` writes the photographer's files (none where it is None); `score` gives the numbers beside a cell from
    (Edit, photo at model size, picture); `redo` are the states of earlier sessions that are tried again. Loaders and
    couriers are as many as the engine's limits say where they are not named. `then` is what the caller goes on with,
    for whoever tells how long it takes. Plans that are carried out at the same time share `room`, for what may wait to
    be written.
    """

    deliver: Deliverer | None = None
    score: Score | None = None
    redo: frozenset[Status] = REDO
    loaders: int | None = None
    writers: int = 2
    couriers: int | None = None
    then: Then | None = None
    room: threading.BoundedSemaphore | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `states` counts the Edits of the whole plan: done, failed, nan, flagged, skipped, left.

    `made` and `delivered` are of this session; `undelivered` are (file, reason). `stopped` is 130 or 143, 0 where
    nobody asked. `busy` says how a warm model spent its time (see Busy). `notes` are what could not be carried over
    into delivered files, with how many files.
    """

    states: Mapping[str, int]
    made: int
    delivered: int
    undelivered: tuple[tuple[str, str], ...]
    shrunk: int
    seconds: float
    stopped: int = 0
    busy: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        if self.stopped:
            return self.stopped
        settled = sum(self.states.get(state, 0) for state in ("done", "unmatched"))
        complete = settled == sum(self.states.values()) and not self.undelivered
        return errors.DONE if complete else errors.UNFINISHED


def run_plan(
    plan: Plan, run: Run, engine: EditEngine, options: Options | None = None, events: Events | None = None, *,
    stop: Stop | None = None,
) -> Summary:  # fmt: skip
    """Make every picture of `plan` that is not done yet, and deliver every kept one that is not delivered.

    It ends early where `stop` is asked; without one it answers ^C and SIGTERM itself. Raises ResourceError when the
    disk or memory runs out, and what the engine raises to end a run.
    """
    with listening() if stop is None else nullcontext(stop) as stop:
        with Workshop(plan, run, engine, options or Options(), events or Quiet(), stop) as shop:
            shop.make(stop)
            shop.finish(stop)
        return shop.summary(stop)  # last, so that a signal that came while the run was being closed counts


class Workshop:
    """The state of one `run_plan`: what is taken, what is being written, what went wrong.

    `make` is for the thread that the engine is used by; what is before it and after it may be done by others.
    """

    def __init__(self, plan: Plan, run: Run, engine: EditEngine, options: Options, events: Events, stop: Stop) -> None:
        self.plan, self.run, self.engine, self.options = plan, run, engine, options
        self._events, self._counting = OneAtATime(events), threading.Lock()
        self._begun = options.clock()
        self._busy = Busy(options.clock)
        self._trouble: BaseException | None = None
        self._made = self._delivered = 0
        self._again: set[str] = set()
        self.calls = Calls(engine, run, self._events, stop, self._busy, options.clock, self._unmade)
        self._latents = plan.latents
        self._room = options.room or threading.BoundedSemaphore(UNWRITTEN)
        self._writers = ThreadPoolExecutor(options.writers, thread_name_prefix="write")
        done = already_done(plan, run)
        settled = [record.edit for record in run.records.failed() if record.status not in options.redo]
        self._schedule = Schedule(plan, done, settled, engine.limits, done.lacking())
        self._holders = Holders(plan)
        loaders = options.loaders or engine.limits.helpers
        ahead = (_AHEAD + 1) * engine.limits.batch
        self._sources = Sources(run, self._holders.photos, ahead=ahead, threads=loaders)
        for edit in self._schedule.skipped:
            if run.records.status(edit.key) != "unmatched":
                run.fail(edit.key, "skipped", self._why_skipped(edit))
        backlog: Iterator[Errand] = iter(())
        if options.deliver:
            options.deliver.sweep()
            backlog = options.deliver.outstanding(enumerate(plan.strips), done.each)
        couriers = options.couriers or engine.limits.helpers
        files = self._promised()
        self._pace = Pace(options.clock, self._schedule.left, files, self._files_of, couriers, options.then)
        self._events.started(self._schedule.left, len(done))
        self._couriers = Couriers(self._prepare, self._place, backlog, threads=couriers, after=self._tell_ahead)
        self._couriers.start()
        log.info("%s: %d edits to make, %d done", plan.name, self._schedule.left, len(done))

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever ended the run: what is finished is written, and nothing else is begun."""
        if isinstance(error, Exception) and not self._trouble:
            with suppress(Exception):  # the one that ended the run is the one to tell
                for made in self.calls.collect():
                    self.keep(*made)
        self._couriers.abandon()
        self._writers.shutdown(wait=True)
        self._sources.close()
        self._couriers.finish(Flag())
        if self.options.deliver:
            self.options.deliver.close()
        log.info("ended after %.1f s: %s", self._seconds(), error or "in order")
        with suppress(ResourceError):
            self.run.settle()  # or its end could count what a power cut took
            self.run.note(
                "end", error=str(error or ""), states=dict(states_of(self.plan, self.run)), delivered=self._delivered,
                seconds=round(self._seconds(), 3), busy=self._busy.shares(),
            )  # fmt: skip

    def make(self, stop: Stop) -> None:
        """Every picture, but for the writing of the last ones; none further once `stop` is asked."""
        while not stop.asked.is_set() and (batch := self.next_batch()) is not None:
            for made in self.calls.make(self.load(batch)):
                self.keep(*made)
        for made in self.calls.collect():  # of a run that was asked to stop: it is made already
            self.keep(*made)

    def next_batch(self) -> list[tuple[Edit, Callable[[], Source]]] | None:
        """The Edits to make now, while the photos of those after them are being loaded.

        Empty where they hang on what is under way; None at the end.
        """
        self._raise_trouble()
        batch = [(edit, self._sources.fetch(edit)) for edit in self._schedule.take(self.engine.limits.batch)]
        self.foresee()
        return batch if batch or self.calls.waiting else None

    def foresee(self) -> None:
        """Begin to load the photos that come next."""
        for edit in self._schedule.ahead(_AHEAD * self.engine.limits.batch):
            self._sources.foresee(edit)

    def load(self, batch: list[tuple[Edit, Callable[[], Source]]]) -> list[Job]:
        """Wait for the Sources of a batch; an Edit whose photo cannot be read becomes a failed row."""
        jobs: list[Job] = []
        for edit, source in batch:
            try:
                with self._busy.at("photos"):
                    jobs.append((edit, source()))
            except (ResourceError, UnreachableError):
                raise
            except DamagedError as error:
                self._begin_again(edit, error)
            except Ip2pError as error:
                self._fail(edit, "failed", str(error))
            except Exception as error:
                log.exception("loading for edit %s", edit.key)
                self._fail(edit, "failed", f"its source could not be loaded: {error}")
        return jobs

    def _begin_again(self, edit: Edit, error: DamagedError) -> None:
        """What `edit` starts from is damaged on the disk: it is made once more first. The second time `edit` fails."""
        if not self._schedule.is_waiting(edit.source):
            if edit.source in self._again:
                self._fail(edit, "failed", str(error))
                return
            self._again.add(edit.source)
            self.run.set_aside(edit.source, error)
            self._events.note(f"{error.path.name}: {error}: it is made again, for a later link starts from it")
        self._schedule.begin_again(edit)

    def keep(self, edit: Edit, source: Source, result: Result, seconds: float) -> None:
        """Have a Result written and delivered, or record why it is no picture."""
        state, detail = judge(result, source)
        if state != "done" or result.image is None:
            self._fail(edit, state, detail, seconds)
            return
        self._made += 1
        self._sources.hold(edit.key, Source(result.image, result.latent))
        self._schedule.finish(edit.key)
        with self._busy.at("disk"):
            self._room.acquire()
        self._writers.submit(self._write, edit, result, seconds)

    def finish(self, stop: Stop) -> None:
        """Wait until what was made is on the disk and delivered; after a stop, only for what is under way."""
        self._writers.shutdown(wait=True)
        self._raise_trouble()
        self._couriers.finish(stop.asked)
        self._raise_trouble()
        self.run.settle()

    def summary(self, stop: Stop) -> Summary:
        deliver = self.options.deliver
        return Summary(
            states=states_of(self.plan, self.run),
            made=self._made,
            delivered=self._delivered,
            undelivered=tuple(deliver.refused) if deliver else (),
            shrunk=self.calls.shrunk,
            seconds=self._seconds(),
            stopped=stop.exit_code,
            busy=self._busy.shares(),
            notes=dict(deliver.notes) if deliver else {},
        )

    def _write(self, edit: Edit, result: Result, seconds: float) -> None:
        """In a writer thread: score, commit, then hand over to the couriers."""
        try:
            assert result.image is not None
            latent = result.latent if edit.key in self._latents else None
            numbers = self._score(edit, result.image)
            record = self.run.commit(
                edit.key, result.image, latent, seconds=seconds, metrics=numbers, detail=result.detail
            )
            self._sources.release(edit.key)
            self._events.finished(edit, record)
            self._couriers.send(self._errands_of(edit.key))
            self._ended(edit)
        # The main thread must hear of anything: an exception in a thread is otherwise lost.
        except BaseException as error:
            self._trouble = self._trouble or error
        finally:
            self._room.release()

    def _errands_of(self, key: str) -> list[Errand]:
        """The files that an Edit is delivered as."""
        deliver = self.options.deliver
        return [] if deliver is None else deliver.errands_of(key, self._holders.of(key))

    def _files_of(self, key: str) -> int:
        """How many these are."""
        deliver = self.options.deliver
        return 0 if deliver is None else deliver.count_files(key, self._holders.of(key))

    def _promised(self) -> int:
        """Those of all Edits that are to be made."""
        deliver, schedule = self.options.deliver, self._schedule
        if deliver is not None and schedule.left == len(self.plan.edits):
            return len(deliver.targets)
        return sum(map(self._files_of, schedule.waiting))

    def _score(self, edit: Edit, image: Pixels) -> Mapping[str, float]:
        if self.options.score is None or edit.refine is not None:
            return {}
        try:
            _, strip = next(self._holders.of(edit.key))
            photo = self._sources.photo(strip.photo.digest, edit.size).result()
            return self.options.score(edit, photo, image)
        except Exception:
            log.exception("scoring %s", edit.key)  # a picture without numbers is better than none
            return {}

    def _prepare(self, errand: Errand) -> tuple[Ready, float] | None:
        """In a courier thread: one file for the photographer but for its name, and the seconds that it took."""
        assert self.options.deliver is not None
        begun = self.options.clock()
        ready = self.options.deliver.prepare(errand)
        seconds = self.options.clock() - begun
        if ready is None:
            self._pace.carried(seconds)
            return None
        return ready, seconds

    def _place(self, files: list[tuple[Ready, float]]) -> None:
        """In a courier thread: files that are ready appear together."""
        assert self.options.deliver is not None
        begun = self.options.clock()
        deliveries = self.options.deliver.place([ready for ready, _ in files])
        share = (self.options.clock() - begun) / len(files)
        with self._counting:
            self._delivered += len(deliveries)
        for ready, seconds in files:
            self._pace.carried(seconds + share)
            if ready in deliveries:
                self._events.delivered(deliveries[ready])

    def _fail(self, edit: Edit, status: Status, detail: str, seconds: float = 0.0) -> None:
        """Record why an Edit has no picture, and that the links after it were not tried."""
        log.warning("%s (%s) is %s: %s", edit.key, edit.instruction, status, detail)
        self._events.finished(edit, self.run.fail(edit.key, status, detail, seconds=seconds))
        self._ended(edit)
        for later in self._schedule.fail(edit.key):
            self._events.finished(later, self.run.fail(later.key, "skipped", self._why_skipped(later)))
            self._ended(later)

    def _ended(self, edit: Edit) -> None:
        """Tell how far the run is, now that an Edit was made or failed."""
        self._pace.ended(edit.key)
        self._tell_ahead()

    def _tell_ahead(self) -> None:
        with self._counting:
            self._events.ahead(self._pace.ahead(self._couriers.left))

    def _unmade(self, edit: Edit, detail: str) -> None:
        self._fail(edit, "failed", detail)

    def _why_skipped(self, edit: Edit) -> str:
        parent = self._schedule.edit(edit.source)
        return not_tried(parent, self.run.records[parent.key].status)

    def _raise_trouble(self) -> None:
        trouble = self._trouble or self._couriers.trouble
        if trouble is not None:
            raise trouble

    def _seconds(self) -> float:
        return self.options.clock() - self._begun


def not_tried(parent: Edit, status: Status) -> str:
    """Why a link after `parent` was not tried."""
    return f"not tried: it starts from “{parent.instruction}”, which is {status}"
