"""A worker's groups without a gap: while one is made the next is prepared, and what came of the last is written out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ip2pbatch.run.devices.wire import Deal
from ip2pbatch.run.execute import Summary, Workshop
from ip2pbatch.run.stop import Stop


class Overlap:
    """`open_shop` makes a Workshop of a Deal, `over` hears how each ended. At most as many are at hand as are dealt."""

    def __init__(
        self, open_shop: Callable[[Deal], Workshop], over: Callable[[Deal, Summary], None], stop: Stop
    ) -> None:  # fmt: skip
        self._open_shop, self._over, self._stop = open_shop, over, stop
        self._shops: queue.SimpleQueue[tuple[Deal, Workshop] | BaseException | None] = queue.SimpleQueue()

    def work(self, deals: Callable[[], Deal | None]) -> None:
        """Until there are no more `deals`, which are waited for in a thread. Makes pictures in the calling thread, and
        raises what ended one.
        """
        threading.Thread(target=self._prepare, args=(deals,), name="prepare", daemon=True).start()
        with ThreadPoolExecutor(1, thread_name_prefix="finish") as finishing:
            while (ready := self._next()) is not None:
                deal, shop = ready
                with ExitStack() as held:
                    held.enter_context(shop)
                    shop.make(self._stop)
                    finishing.submit(self._finish, deal, shop, held.pop_all())

    def _next(self) -> tuple[Deal, Workshop] | None:
        ready = self._shops.get()
        if isinstance(ready, BaseException):
            raise ready
        return ready

    def _prepare(self, deals: Callable[[], Deal | None]) -> None:
        """In a thread: what is dealt, with its first photos being loaded."""
        try:
            while (deal := deals()) is not None:
                shop = self._open_shop(deal)
                shop.foresee()
                self._shops.put((deal, shop))
            self._shops.put(None)
        except BaseException as error:
            self._shops.put(error)

    def _finish(self, deal: Deal, shop: Workshop, held: ExitStack) -> None:
        """In a thread: what was made is written and delivered."""
        try:
            with held:
                shop.finish(self._stop)
            self._over(deal, shop.summary(self._stop))
        except BaseException as error:
            self._shops.put(error)
