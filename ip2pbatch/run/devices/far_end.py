"""The far end of a line: what any worker is between its first word and its last, whatever its work.

A parent that is gone ends it at once, in the middle of anything: what it was at is not recorded.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ip2pbatch.run.devices.links import End
from ip2pbatch.run.devices.wire import Ask, Beat, Close, Drain, Entry, Open, Opened, Reserved, Told, Trouble, Written
from ip2pbatch.run.stop import Stop

BEAT = 2.0  # seconds between two signs of life
_ORPHANED = 70  # the exit code of a worker whose parent is gone; nobody is there to read it

Word = TypeVar("Word")


class FarEnd:
    """A worker, which is heard and asked while it works."""

    def __init__(self, line: End) -> None:
        self._line, self._stop = line, Stop()
        self._words: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Written | Reserved]] = {}
        self._doing = "starting"

    def serve(self) -> None:
        """Open what it is for, then make group after group, until the line ends."""
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        try:
            identity, opened = self._next(Open).opening(lambda text: self._tell("said", {"text": text}))
            self._line.say(Opened(identity))
            self._doing = ""
            self._serve(opened)
        except Exception as error:
            with suppress(OSError):
                self._line.say(Trouble.of(error))

    @abstractmethod
    def _serve(self, opened: Any) -> None:
        """Hear an order, answer it, and make what is dealt; `opened` is what the opening came back with."""

    def _next(self, kind: type[Word]) -> Word:
        word = self._words.get()
        if isinstance(word, Close):
            raise SystemExit
        assert isinstance(word, kind), f"a {kind.__name__} was expected, not {word!r}"
        return word

    def _next_deal(self, kind: type[Word]) -> Word | None:
        word = self._words.get()
        assert isinstance(word, (kind, Close)), f"a group was expected, not {word!r}"
        return None if isinstance(word, Close) else word

    def _enter(self, entry: Callable[[int], Entry]) -> Callable[[], None]:
        """Have the parent write what `entry` makes of a number. What comes back waits until it is written, for ever
        where the parent never answers; it raises ResourceError.
        """
        answer = self._ask(entry)

        def wait() -> None:
            written = answer()
            if isinstance(written, Written) and written.trouble is not None:
                raise written.trouble

        return wait

    def _ask(self, question: Callable[[int], Entry | Ask]) -> Callable[[], Written | Reserved]:
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
