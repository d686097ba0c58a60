"""Whose cell is made next: the one that somebody looks at, then a cell of each client in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ip2pbatch.errors import ResourceError
from ip2pbatch.plan.edits import Strip

MOST_WAITING = 10_000
"""Cells that may wait: what a page asks for by mistake is not to fill the memory."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A strip to make, for a job of a client; `cells` are the ids of its links, and `again` says that what failed is
    tried once more.
    """

    job: str
    client: str
    strip: Strip
    cells: tuple[str, ...]
    again: bool = False


class Turns:
    """What waits to be made. Not safe to share between threads by itself."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._looked_at: dict[str, None] = {}
        self._cells = 0

    def __len__(self) -> int:
        """Cells that wait. May be asked by any thread."""
        return self._cells

    def __iter__(self) -> Iterator[Turn]:
        return (turn for turns in self._waiting.values() for turn in turns)

    def refuse(self, more: int) -> None:
        """Raises ResourceError where so many cells more are too many."""
        if len(self) + more > MOST_WAITING:
            why = f"{len(self) + more:,} cells would wait, of which {MOST_WAITING:,} may"
            raise ResourceError(why, hint="ask for fewer at once, or run the recipe on the folder")

    def add(self, turns: Sequence[Turn]) -> None:
        """Behind what their clients wait for already."""
        for turn in turns:
            self._waiting.setdefault(turn.client, deque()).append(turn)
            self._cells += len(turn.cells)

    def put_back(self, turns: Sequence[Turn]) -> None:
        """What was taken and not made comes before all else of its client."""
        for turn in reversed(turns):
            self._waiting.setdefault(turn.client, deque()).appendleft(turn)
            self._cells += len(turn.cells)

    def look(self, cell: str) -> None:
        """Somebody looks at this cell; of several the last one comes first."""
        if any(cell in turn.cells for turn in self):
            self._looked_at.pop(cell, None)
            self._looked_at[cell] = None

    def take(self, most: int = 1) -> list[Turn]:
        """What is to be made now: one turn, with as many of the same job behind it as are lone edits and fit into
        `most`. Empty where nothing waits.
        """
        first = self._looked() or self._next_client()
        if first is None:
            return []
        queue, taken = self._waiting[first.client], [first]
        queue.remove(first)
        while len(taken) < most and queue and _go_together(queue[0], first):
            taken.append(queue.popleft())
        del self._waiting[first.client]
        if queue:
            self._waiting[first.client] = queue  # behind the others
        self._cells -= sum(len(turn.cells) for turn in taken)
        return taken

    def _looked(self) -> Turn | None:
        while self._looked_at:
            cell, _ = self._looked_at.popitem()
            for turn in self:
                if cell in turn.cells:
                    return turn
        return None

    def _next_client(self) -> Turn | None:
        return next((turns[0] for turns in self._waiting.values() if turns), None)

    def drop(self, job: str) -> list[Turn]:
        """Take out all of a job; what that was."""
        dropped = [turn for turn in self if turn.job == job]
        self._cells -= sum(len(turn.cells) for turn in dropped)
        for client, turns in list(self._waiting.items()):
            left = deque(turn for turn in turns if turn.job != job)
            if left:
                self._waiting[client] = left
            else:
                del self._waiting[client]
        return dropped


def _go_together(turn: Turn, first: Turn) -> bool:
    """Whether two are lone edits of one job, and so may share a call of the engine."""
    return turn.job == first.job and len(turn.cells) == len(first.cells) == 1 and turn.again == first.again
