"""Actors of Ray that make nothing: they say of a group what a worker does, at a rate, so that a driver can be filled.

What is here is imported by them.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from runs import SPEC

from ip2pbatch.plan.edits import Edit, Strip
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.devices.links import End
from ip2pbatch.run.devices.wire import Beat, Close, Deal, Identity, Load, Open, Opened, Over, Ready, Write, Written
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.on_ray.actor import Actor

HANDS = 6  # edits and files of a worker that are under way at the same time


@dataclass(frozen=True)
class Rate:
    """Opens nothing; a worker with it says so many edits a second."""

    edits: float

    def __call__(self, note: Any) -> Any:
        raise AssertionError("no engine is opened here")


class Hollow:
    """Takes the place of a Worker: an edit is a record, a file that is announced, and one that is delivered."""

    def __init__(self, line: End) -> None:
        self._line, self._numbers, self._rate = line, itertools.count(), 0.0
        self._answers: dict[int, queue.SimpleQueue[Written]] = {}
        self._deals: queue.SimpleQueue[Deal | None] = queue.SimpleQueue()
        self._due, self._counting = 0.0, threading.Lock()

    def serve(self) -> None:
        """Until there are no more groups."""
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()
        with ThreadPoolExecutor(HANDS) as hands:
            while (deal := self._deals.get()) is not None:
                strips = deal.group.plan.strips
                made = [(deal, at, strip, link) for at, strip in enumerate(strips) for link in strip.keep]
                list(hands.map(self._make, made))
                self._line.say(Over(deal.epoch, seconds=1.0, undelivered=(), notes={}, shrunk=0, busy={}))

    def _make(self, one: tuple[Deal, int, Strip, int]) -> None:
        deal, at, strip, link = one
        edit: Edit = strip.edits[link - 1]
        with self._counting:
            self._due = max(self._due, time.monotonic() - 0.1) + 1 / self._rate
            pause = self._due - time.monotonic()
        time.sleep(max(0.0, pause))
        name = deal.group.targets[at, link]
        row = Delivery(edit.key, strip_key(strip), name, "ab" * 8, "cd" * 32, 0.5, 1234, 1.5)
        self._say(Write(deal.epoch, 0, (Record(edit.key, "done", 0.1, bytes=9, digest="ab" * 32),))).get()
        self._say(Write(deal.epoch, 0, deliveries=(replace(row, begun=True),))).get()
        self._say(Write(deal.epoch, 0, deliveries=(row,)))

    def _say(self, word: Write) -> queue.SimpleQueue[Written]:
        number, answer = next(self._numbers), queue.SimpleQueue[Written]()
        self._answers[number] = answer
        self._line.say(replace(word, number=number))
        return answer

    def _listen(self) -> None:
        while True:
            word = self._line.hear()
            if isinstance(word, Written):
                self._answers.pop(word.number).put(word)
            elif isinstance(word, Open):
                assert isinstance(word.opening, Rate)
                self._rate = word.opening.edits
                self._line.say(Opened(Identity(SPEC, "cpu")))
            elif isinstance(word, Load):
                self._line.say(Ready(Limits(batch=4), ()))
            elif isinstance(word, Deal | Close):  # and one that is to drain makes what it has
                self._deals.put(word if isinstance(word, Deal) else None)

    def _beat(self) -> None:
        while True:
            self._line.say(Beat(""))
            time.sleep(2.0)


class HollowActor(Actor):
    """The far end of one."""

    def _serve(self) -> None:
        Hollow(self._box).serve()
