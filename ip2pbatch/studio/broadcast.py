"""Server-sent events: what changed, to every page that listens, each at its own pace and none of them at ours."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from itertools import islice

HELD = 4096
"""Events that are kept: a page that missed more is told to read everything anew."""

HELD_BYTES = 8 << 20
"""… and their letters: a cell of a long chain has many."""

MOST_LISTENERS = 64
_AT_ONCE = 256  # events that go over a line together
_BEAT = 15.0  # seconds after which a silent line says that it is there


class Hub:
    """`publish` may be called from any thread; it never waits for a listener."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, str, str]] = deque()
        self._last, self._bytes, self._closed = 0, 0, False
        self._listeners: set[_Listener] = set()
        self._lock = threading.Lock()

    def publish(self, event: str, data: str) -> None:
        """Tell all; `data` is JSON, without a line break."""
        with self._lock:
            self._last += 1
            self._events.append((self._last, event, data))
            self._bytes += len(data)
            while len(self._events) > HELD or (self._bytes > HELD_BYTES and len(self._events) > 1):
                self._bytes -= len(self._events.popleft()[2])
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    def close(self) -> None:
        """Let go of all listeners."""
        self._closed = True
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    @property
    def is_full(self) -> bool:
        return len(self._listeners) >= MOST_LISTENERS

    async def listen(self, after: int | None) -> AsyncIterator[bytes]:
        """The events after the one numbered `after`; None: from now on. The first line says that it is open."""
        listener = _Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners.add(listener)
            oldest = self._events[0][0] if self._events else self._last + 1
            lost = after is not None and not oldest - 1 <= after <= self._last
            at = self._last if after is None or lost else after
        try:
            yield b"retry: 1000\n\n"
            if lost:
                yield f"id: {at}\nevent: reset\ndata: {{}}\n\n".encode()
            while not self._closed:
                text, at = self._since(at)
                if text:
                    yield text
                elif not await listener.wait():
                    yield b": still here\n\n"
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _since(self, at: int) -> tuple[bytes, int]:
        """What came after the event `at` as it goes over the line, and the number of the last of it."""
        with self._lock:
            last = self._last
            if last == at:
                return b"", at
            if self._events[0][0] > at + 1:
                return f"id: {last}\nevent: reset\ndata: {{}}\n\n".encode(), last
            first = at + 1 - self._events[0][0]
            new = [*islice(self._events, first, first + _AT_ONCE)]
        told = "".join(f"id: {n}\nevent: {event}\ndata: {data}\n\n" for n, event, data in new)
        return told.encode(), new[-1][0]


class _Listener:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._event, self._awake = loop, asyncio.Event(), False

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:  # the loop is over
                return

    async def wait(self) -> bool:
        """Until there is something; False after a while without."""
        try:
            await asyncio.wait_for(self._event.wait(), _BEAT)
        except TimeoutError:
            return False
        self._awake = False
        self._event.clear()
        return True
