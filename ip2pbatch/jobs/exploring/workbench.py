"""The engine's thread: takes turns, sits down at the run to make them, and goes on with a folder's run in between."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ip2pbatch.errors import Ip2pError, LockedError
from ip2pbatch.jobs.adding import added
from ip2pbatch.jobs.exploring.board import Previews, all_cells
from ip2pbatch.jobs.exploring.exploration import AtWork, Exploration
from ip2pbatch.jobs.exploring.lending import OneEngine
from ip2pbatch.jobs.exploring.sitting import AGAIN, Sitting
from ip2pbatch.jobs.exploring.wanted import recipe_of
from ip2pbatch.jobs.session import carry_out
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.run.directory.lines import Record, RecordedRecipe
from ip2pbatch.run.engine import Preview
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.stop import Stop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ip2pbatch.jobs.exploring.exploration import Request, Told
    from ip2pbatch.jobs.exploring.folder_run import FolderRun
    from ip2pbatch.jobs.exploring.setting import Setting
    from ip2pbatch.jobs.exploring.turns import Turn
    from ip2pbatch.plan.edits import Strip

_LINGER = 2.0  # seconds for which the run stays open after the last cell: a page that asks for one often asks for more
_AGAIN_IN = 1.0  # seconds after which a run that somebody else writes is tried again
_QUALITY = 80  # of a preview's JPEG
log = logging.getLogger("ip2pbatch.jobs")


@contextmanager
def opened(setting: Setting, told: Told) -> Iterator[Exploration]:
    """What is explored, with the threads that work for it. Raises PlanError where a folder of photos is gone."""
    exploration = Exploration(setting, told)
    exploration.shelf.refresh()
    exploration.catch_up()
    works = (Workbench(exploration).work, exploration.follow)
    threads = [threading.Thread(target=work, name=f"studio {work.__name__}") for work in works]
    for thread in threads:
        thread.start()
    try:
        yield exploration
    finally:
        exploration.stop()
        for thread in threads:
            thread.join()


class Workbench:
    """What the engine's thread does."""

    def __init__(self, exploration: Exploration) -> None:
        self._of, setting = exploration, exploration.setting
        self.engine = OneEngine(setting.ground.model, setting.machine, setting.safety, self)
        self._sitting: Sitting | None = None
        self._open = ExitStack()
        self._previews = Previews()
        self._heard = _Heard(exploration)

    # --- the thread --------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Until the exploration ends."""
        try:
            if not self._of.setting.watches:
                self._load()
            while not self._of.ended:
                self._do_next()
        finally:
            self._stand_up()
            self.engine.close()

    def _do_next(self) -> None:
        """The next thing. A bug ends that, and nobody else's work."""
        try:
            self._next()
        except Exception as error:
            log.exception("the studio's engine")
            self._of.voice.warn(f"this is a bug in ip2pbatch: {error or type(error).__name__}")
        finally:
            with self._of.wake:
                self._of.current = None

    def _next(self) -> None:
        of, stop = self._of, Stop()
        with of.wake:
            if of.ended:
                return
            dropped, of.dropped = of.dropped, []
            turns = [] if dropped else of.turns.take(self._at_once())
            runs = of.run if of.run is not None and of.run.progress.state in ("waiting", "running") else None
            loads, of.loads_again = of.loads_again, False
            idle = not dropped and not turns and runs is None and not loads
            if turns:
                cells = frozenset(cell for turn in turns for cell in turn.cells)
                of.current = AtWork(stop, frozenset(turn.job or "again" for turn in turns), cells)
            elif runs is not None and not dropped:
                runs.now("running")
                of.current, of.voice.asked = AtWork(stop), stop
            called = of.wake.wait(_LINGER if self._sitting else None) if idle else True
        if not called:
            self._stand_up()
        elif dropped:
            self._withdraw(dropped)
        elif turns:
            self._make(turns, stop)
        elif runs is not None:
            self._stint(runs)
        elif loads:
            self._load()

    def _at_once(self) -> int:
        """Turns that share calls: as many as a device takes that works on by itself, else one."""
        engine = self.engine.engine
        return engine.limits.batch if engine is not None and engine.limits.overlaps else 1

    def _load(self) -> bool:
        self._of.loading = True
        self._of.told.state()
        try:
            with self._of.voice.busy("loading the model"):
                self.engine.load(self._of.voice.note)
            self._of.problem = None
        except Ip2pError as error:
            self._of.problem = error
        finally:
            self._of.loading = False
            self._of.told.state()
        return self._of.problem is None

    # --- turns -------------------------------------------------------------------------------------------------------

    def _make(self, turns: Sequence[Turn], stop: Stop) -> None:
        cells = [cell for turn in turns for cell in turn.cells]
        try:
            if not self.engine.is_loaded and not self._load() and self._of.problem is not None:
                raise self._of.problem
            sitting = self._sit_down()
            strips = [self._asked(sitting, turn) for turn in turns]
            sitting.make(strips, self._heard, stop, again=turns[0].again)
        except LockedError as error:
            self._wait_for_another(turns, error)
            return
        except Ip2pError as error:
            self._fail(turns, str(error), error.hint or "")
        except Exception as error:
            log.exception("making %s", cells)
            self._fail(turns, f"this is a bug in ip2pbatch: {error or type(error).__name__}", "the log says more")
        else:
            self._end_of(turns, cells)
        self._of.catch_up()
        for job in {turn.job for turn in turns if turn.job}:
            self._of.told.request(job)

    def _end_of(self, turns: Sequence[Turn], cells: Sequence[str]) -> None:
        """What was made is as the disk says; what a cancelled request left is gone."""
        self._of.problem = None
        gone = [turn for turn in turns if self._is_cancelled(turn)]
        self._of.catch_up()
        self._of.board.settle(cells)
        unmade = [cell for turn in gone for cell in turn.cells if not self._is_kept(cell, ())]
        self._of.board.remove(unmade)

    def _fail(self, turns: Sequence[Turn], reason: str, hint: str) -> None:
        said = f"{reason}: {hint}" if hint else reason
        for turn in turns:
            unmade = [cell for cell in turn.cells if (s := self._of.board.get(cell)) and s.live is not None]
            self._of.board.stand(unmade, "failed", reason=said)
            if request := self._of.requests.get(turn.job):
                request.error, request.hint = reason, hint

    def _wait_for_another(self, turns: Sequence[Turn], error: LockedError) -> None:
        """Another process writes to the run: what waits goes on waiting, and is told why."""
        of = self._of
        with of.wake:
            of.turns.put_back([turn for turn in turns if not self._is_cancelled(turn)])
            of.board.stand([c for turn in turns for c in turn.cells], "waiting", reason=f"{error}: it is tried again")
            self._of.problem = error
            of.told.state()
            of.wake.wait(_AGAIN_IN)

    def _is_cancelled(self, turn: Turn) -> bool:
        request = self._of.requests.get(turn.job)
        return request is not None and request.cancelled

    def _sit_down(self) -> Sitting:
        if self._sitting is None:
            setting = self._of.setting
            self._open.enter_context(self._of.writing())
            try:
                self._sitting = Sitting(setting.ground.out, setting.machine, self.engine, self._of.voice)
            except BaseException:
                self._open.close()
                raise
            self._of.board.layout = self._sitting.run.layout
        return self._sitting

    def _stand_up(self) -> None:
        """Close the run, so that other commands may write it."""
        if self._sitting is not None:
            sitting, self._sitting = self._sitting, None
            try:
                sitting.close()
            except Ip2pError as error:
                self._of.voice.warn(str(error))
            finally:
                self._open.close()

    def _asked(self, sitting: Sitting, turn: Turn) -> Strip:
        """The strip as the run calls it, after it was written down that it is asked for."""
        request = self._of.requests.get(turn.job)
        if request is None:
            return turn.strip
        if not request.now:
            request.now = dict(zip(request.job.plan.strips, sitting.ask(request.job), strict=True))
        return request.now[turn.strip]

    def _withdraw(self, dropped: Sequence[Request]) -> None:
        """Write down that what was not made of these is asked for no longer, as far as it was written that it is."""
        for request in dropped:
            with self._of.wake:
                wanted = {cell for turn in self._of.turns for cell in turn.cells}
            strips = request.job.plan.strips if request.now else ()
            gone = [strip for strip in strips if not all(self._is_kept(cell, wanted) for cell in all_cells([strip]))]
            try:
                if gone:
                    made = [request.now[strip] for strip in strips if strip not in gone]
                    text = recipe_text(recipe_of(request.job.recipe, made)) if made else ""
                    instead = RecordedRecipe(text) if text else None
                    self._sit_down().withdraw([request.now[one] for one in gone], request.job.recipes, instead)
            except Ip2pError as error:
                self._of.voice.warn(f"what was cancelled is still asked for: {error}")

    def _is_kept(self, cell: str, wanted: Container[str]) -> bool:
        """Whether a cell of a cancelled request stays: it is made, or somebody else waits for it."""
        seen = self._of.board.get(cell)
        return cell in wanted or (seen is not None and seen.record is not None and seen.record.status == "done")

    # --- a folder ----------------------------------------------------------------------------------------------------

    def _stint(self, run: FolderRun) -> None:
        """Go on with the folder's run until it is done, or is asked to stop."""
        of = self._of
        self._stand_up()
        of.voice.events = run
        try:
            if not self.engine.is_loaded and not self._load() and self._of.problem is not None:
                raise self._of.problem
            with of.writing():
                job = replace(added(run.job), leaves=True)
                of.board.add(job.plan.strips)
                ended = carry_out(
                    job,
                    of.setting.machine,
                    self._of.voice,
                    choose=self.engine.choose,
                    redo=AGAIN if run.again else None,
                )
            run.again = False
            of.board.layout = ended.view.layout
            of.catch_up()
            if not ended.summary.stopped:
                run.now("done")
            elif run.progress.state == "stopping":
                run.now("stopped")
        except Ip2pError as error:
            run.now("failed", str(error), error.hint or "")
        except Exception as error:
            log.exception("the run of a folder")
            run.now("failed", f"this is a bug in ip2pbatch: {error or type(error).__name__}", "the log says more")
        finally:
            self._of.voice.events = Quiet()
            with of.wake:
                asked = {cell for turn in of.turns for cell in turn.cells}
            of.board.settle(cell for cell in of.board.at_work if cell not in asked)  # what a stop left in the middle

    # --- what the engine is at ---------------------------------------------------------------------------------------

    def begun(self, edits: Sequence[Edit]) -> None:
        """See lending.Listener."""
        for edit in edits:
            self._of.board.stand(self._of.board.cells_of(edit.key), "running")

    def stepped(self, edits: Sequence[Edit], done: int, of: int, preview: Preview) -> None:
        """See lending.Listener."""
        shown = self._previews.made(lambda: [_jpeg(picture) for picture in preview()]) if done < of else []
        self._of.board.step(edits, done, of, shown)


class _Heard(Quiet):
    """The Events of turns."""

    def __init__(self, exploration: Exploration) -> None:
        self._of = exploration

    def finished(self, edit: Edit, record: Record) -> None:
        self._of.board.recorded([record])


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=_QUALITY)
    return held.getvalue()
