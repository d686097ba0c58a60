"""A worker: one engine in a process of its own, which makes the groups that it is dealt as `run_plan` makes a plan.

It is started by processes.py with one end of a line, or by Ray with a mailbox (run/on_ray/actor.py). What it was at
when its parent was gone, the next run sweeps away.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.devices.distant import DistantRun, Names
from ip2pbatch.run.devices.far_end import FarEnd
from ip2pbatch.run.devices.overlap import Overlap
from ip2pbatch.run.devices.wire import Ask, Deal, Line, Load, Over, Ready, Reserved, Write
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import UNWRITTEN, Options, Summary, Workshop


def main(descriptor: int) -> None:
    """The whole life of a worker process; `descriptor` is its end of the line.

    ^C, SIGTERM and a closed terminal are the parent's to hear: it has its workers finish what they are at.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    Worker(Line(Connection(descriptor))).serve()


class Worker(FarEnd):
    """One that makes pictures."""

    def _serve(self, opened: Callable[[], EditEngine]) -> None:
        load = self._next(Load)
        self._doing = f"loading {load.spec.model}"
        load.refuse_unseen()
        with closing(opened()) as engine, closing(DistantRun(load, self._tell)) as run:
            self._line.say(Ready(engine.limits, tuple(engine.steps)))
            self._doing = ""
            signer, room = load.signer(), threading.BoundedSemaphore(UNWRITTEN)
            overlap = Overlap(
                lambda deal: self._shop(deal, load, run, engine, signer, room), self._is_over, self._stop
            )  # fmt: skip
            overlap.work(lambda: self._next_deal(Deal))

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
            Over(deal.epoch, summary.seconds, summary.undelivered, summary.notes, summary.shrunk, summary.busy)
        )

    def _write(
        self, epoch: int, records: tuple[Record, ...], deliveries: tuple[Delivery, ...]
    ) -> Callable[[], None]:  # fmt: skip
        return self._enter(lambda number: Write(epoch, number, records, deliveries))

    def _is_reserved(self, name: str) -> bool:
        answer = self._ask(lambda number: Ask(number, name))()
        return isinstance(answer, Reserved) and answer.taken


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
