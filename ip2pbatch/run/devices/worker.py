"""A worker: one engine in a process of its own, which makes the groups that it is dealt as `run_plan` makes a plan.

It is started by processes.py with one end of a line, or by Ray with a mailbox (run/on_ray/actor.py). A parent that is
gone ends it at once, in the middle of anything: what it was at is not recorded, and the next run sweeps it away.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.devices.distant import DistantRun, Names
from ip2pbatch.run.devices.links import End
from ip2pbatch.run.devices.overlap import Overlap
from ip2pbatch.run.devices.wire import (
    Ask,
    Beat,
    Close,
    Deal,
    Drain,
    Line,
    Load,
    Open,
    Opened,
    Over,
    Ready,
    Reserved,
    Told,
    Trouble,
    Write,
    Written,
)
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import UNWRITTEN, Options, Summary, Workshop
from ip2pbatch.run.stop import Stop

BEAT = 2.0  # seconds between two signs of life
_ORPHANED = 70  # the exit code of a worker whose parent is gone; nobody is there to read it

Word = TypeVar("Word")


def main(descriptor: int) -> None:
    """The whole life of a worker process; `descriptor` is its end of the line.

    ^C, SIGTERM and a closed terminal are the parent's to hear: it has its workers finish what they are at.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    Worker(Line(Connection(descriptor))).serve()


class Worker:
    """What the process is between its first word and its last."""

    def __init__(self, line: End) -> None:
        self._line, self._stop = line, Stop()
        self._words: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Written | Reserved]] = {}
        self._doing = "starting"

    def serve(self) -> None:
        """Open an engine, then make group after group, until the line ends."""
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        try:
            self._serve()
        except Exception as error:
            with suppress(OSError):
                self._line.say(Trouble.of(error))

    def _serve(self) -> None:
        identity, open_engine = self._next(Open).opening(lambda text: self._tell("said", {"text": text}))
        self._line.say(Opened(identity))
        self._doing = ""
        load = self._next(Load)
        self._doing = f"loading {load.spec.model}"
        load.refuse_unseen()
        with closing(open_engine()) as engine, closing(DistantRun(load, self._tell)) as run:
            self._line.say(Ready(engine.limits, tuple(engine.steps)))
            self._doing = ""
            signer, room = load.signer(), threading.BoundedSemaphore(UNWRITTEN)
            overlap = Overlap(
                lambda deal: self._shop(deal, load, run, engine, signer, room), self._is_over, self._stop
            )  # fmt: skip
            overlap.work(self._next_deal)

    def _next(self, kind: type[Word]) -> Word:
        word = self._words.get()
        if isinstance(word, Close):
            raise SystemExit
        assert isinstance(word, kind), f"a {kind.__name__} was expected, not {word!r}"
        return word

    def _next_deal(self) -> Deal | None:
        word = self._words.get()
        assert isinstance(word, (Deal, Close)), f"a group was expected, not {word!r}"
        return word if isinstance(word, Deal) else None

    def _shop(
        self, deal: Deal, load: Load, base: DistantRun, engine: EditEngine, signer: Signer | None,
        room: threading.BoundedSemaphore,
    ) -> Workshop:  # fmt: skip
        """What makes a group."""
        plan, run = deal.group.plan, base.of(deal, partial(self._write, deal.epoch))
        deliver = Deliverer(
            run, deal.group.asked, deal.group.targets, load.delivery, load.on_conflict, queue=load.queue,
            signer=signer, reserved=Names(self._is_reserved),
        )  # fmt: skip
        threads = max(1, engine.limits.helpers // load.workers)
        options = Options(deliver, load.score, load.redo, threads, couriers=threads, room=room)
        events = _Forwarding(self._tell, self._at, {e.key: s.photo.name for s in plan.strips for e in s.made})
        return Workshop(plan, run, engine, options, events, self._stop)

    def _is_over(self, deal: Deal, summary: Summary) -> None:
        self._doing = ""
        self._line.say(
            Over(deal.epoch, summary.undelivered, summary.notes, summary.shrunk, summary.seconds, summary.busy)
        )

    def _write(
        self, epoch: int, records: tuple[Record, ...], deliveries: tuple[Delivery, ...]
    ) -> Callable[[], None]:  # fmt: skip
        answer = self._ask(lambda number: Write(epoch, number, records, deliveries))

        def wait() -> None:
            written = answer()
            if isinstance(written, Written) and written.trouble is not None:
                raise written.trouble

        return wait

    def _is_reserved(self, name: str) -> bool:
        answer = self._ask(lambda number: Ask(number, name))()
        return isinstance(answer, Reserved) and answer.taken

    def _ask(self, question: Callable[[int], Write | Ask]) -> Callable[[], Written | Reserved]:
        """Say a question; what comes back waits for its answer."""
        number, answer = next(self._numbers), queue.SimpleQueue[Written | Reserved]()
        self._answers[number] = answer
        self._line.say(question(number))
        return answer.get

    def _tell(self, event: str, detail: Any) -> None:
        self._line.say(Told(event, detail))

    def _at(self, doing: str) -> None:
        self._doing = doing

    def _listen(self) -> None:
        """In a thread: everything that the parent says. Where it says nothing any more, this process is over."""
        try:
            while True:
                self._hear(self._line.hear())
        except BaseException:
            os._exit(_ORPHANED)

    def _hear(self, word: object) -> None:
        if isinstance(word, (Written, Reserved)):
            self._answers.pop(word.number).put(word)
        elif isinstance(word, Drain):
            self._stop.ask()
        else:
            self._words.put(word)

    def _beat(self) -> None:
        pause = threading.Event()
        with suppress(OSError):
            while True:
                self._line.say(Beat(self._doing))
                pause.wait(BEAT)


class _Forwarding(Quiet):
    """The Events of a group that the parent does not see by itself; `at` hears which photo was worked on last."""

    def __init__(
        self, tell: Callable[[str, Any], None], at: Callable[[str], None], photos: dict[str, str]
    ) -> None:  # fmt: skip
        self._tell, self._at, self._photos = tell, at, photos

    def started(self, left: int, done: int) -> None:
        self._at(next(iter(self._photos.values()), ""))

    def finished(self, edit: Edit, record: Record) -> None:
        self._at(self._photos.get(edit.key, ""))

    def shrunk(self, limits: Limits) -> None:
        self._tell("limits", {"limits": limits})

    def note(self, text: str) -> None:
        self._tell("remark", {"text": text})
