"""Which Edits may run now, and which together: one size, one sampler and one step count a call, parents first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.rows import terms_of


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can take, known before anything loads.

    `batch` is the most Edits a call; `multiple` divides width and height; sizes are in pixels. `rows` names the row
    bucket (network rows a call is padded to) of a size, `default_rows` that of every other size.
    """

    batch: int = 8
    multiple: int = 8
    min_side: int = 64
    max_side: int = 2048
    carries_latents: bool = True
    default_rows: int = 12
    rows: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def row_bucket(self, size: tuple[int, int]) -> int:
        """Network rows in one padded call at `size` (width, height)."""
        return self.rows.get(size, self.default_rows)


# Edits of one kind may share a network call.
_Kind = tuple[tuple[int, int], int, str]


class Schedule:
    """The order of a run: hands out batches of Edits that may run together, and learns what became of each.

    The order is the plan's and depends on nothing else. An Edit is ready when its source is a photo or a finished
    parent. `done` and `failed` are keys from earlier sessions; what descends from a failed one is in `skipped` and
    never handed out.
    """

    def __init__(self, plan: Plan, done: Collection[str], failed: Collection[str], limits: Limits) -> None:
        self._limits = limits
        self._edits = {edit.key: edit for edit in plan.edits}
        self._place = {key: place for place, key in enumerate(self._edits)}
        self._children: dict[str, list[str]] = defaultdict(list)
        for edit in plan.edits:
            if edit.carry is not None:
                self._children[edit.source].append(edit.key)
        self._waiting = {key for key in self._edits if key not in done}
        self._running: set[str] = set()
        self.skipped = tuple(edit for key in failed if key in self._waiting for edit in self._drop(key))
        self._keys = list(self._edits)
        self._ready: dict[_Kind, list[int]] = defaultdict(list)
        for place, edit in enumerate(plan.edits):  # in ascending order, which is a heap
            if edit.key in self._waiting and (edit.carry is None or edit.source in done):
                self._ready[_kind(edit)].append(place)

    @property
    def left(self) -> int:
        """How many Edits are neither finished, failed nor skipped; those handed out count until they are reported."""
        return len(self._waiting)

    def take(self, most: int | None = None) -> list[Edit]:
        """The next batch: ready Edits of one size, step count and sampler, as many as fill network calls well.

        At most `limits.batch`, or `most` where an engine has shrunk. Empty where nothing is ready: then either the run
        is over (`left` is 0) or Edits that were handed out have not been reported yet.
        """
        batch = self.peek(most)
        for edit in batch:
            heapq.heappop(self._ready[_kind(edit)])
            self._running.add(edit.key)
        return batch

    def peek(self, most: int | None = None) -> list[Edit]:
        """What `take` would return now, for looking ahead: nothing is handed out."""
        heads = [(queue[0], kind) for kind, queue in self._ready.items() if queue]
        if not heads:
            return []
        queue = self._ready[min(heads)[1]]
        places = _first(queue, min(most or self._limits.batch, self._limits.batch))
        edits = [self._edits[self._keys[place]] for place in places]
        return edits if len(edits) == len(queue) else edits[: self._well_filled(edits)]

    def ahead(self, edits: int) -> list[Edit]:
        """The next `edits` ready Edits in the plan's order, whatever their kind: sources worth loading early."""
        places = heapq.nsmallest(edits, (place for queue in self._ready.values() for place in _first(queue, edits)))
        return [self._edits[self._keys[place]] for place in places]

    def finish(self, key: str) -> None:
        """`key` is made: its children become ready."""
        self._leave(key)
        for child in self._children[key]:
            if child in self._waiting:
                heapq.heappush(self._ready[_kind(self._edits[child])], self._place[child])

    def fail(self, key: str) -> list[Edit]:
        """`key` was not made: all Edits that descend from it, which are now skipped, parents first."""
        self._leave(key)
        return self._drop(key)

    def give_back(self, edits: Collection[Edit]) -> None:
        """Edits that were taken and not tried, because the engine ran out of memory: ready again."""
        for edit in edits:
            self._running.discard(edit.key)
            heapq.heappush(self._ready[_kind(edit)], self._place[edit.key])

    def _drop(self, key: str) -> list[Edit]:
        """Take `key` and all that descends from it out of what is waited for; returns the descendants."""
        self._waiting.discard(key)
        dropped, parents = [], [key]
        while parents:
            children = [child for parent in parents for child in self._children[parent] if child in self._waiting]
            self._waiting.difference_update(children)
            dropped += [self._edits[child] for child in children]
            parents = children
        return dropped

    def _leave(self, key: str) -> None:
        self._waiting.discard(key)
        if key in self._running:
            self._running.discard(key)
            return
        queue = self._ready[_kind(self._edits[key])]
        if self._place[key] in queue:  # reported without having been taken, such as an unreadable photo's
            queue.remove(self._place[key])
            heapq.heapify(queue)

    def _well_filled(self, edits: list[Edit]) -> int:
        """How many of `edits` to take so that the padded calls of a step hold the least padding; the most of equals."""
        bucket = self._limits.row_bucket(edits[0].size)
        best, best_share, rows = 1, 0.0, 0
        for count, edit in enumerate(edits, start=1):
            rows += len(terms_of(edit.guidance, edit.instruction))
            share = rows / (-(-rows // bucket) * bucket)
            if share >= best_share:
                best, best_share = count, share
        return best


def _first(heap: list[int], count: int) -> list[int]:
    """The `count` smallest of a heap in order, without touching the rest: a run of a million takes a batch as fast."""
    edge = [(heap[0], 0)] if heap else []
    found: list[int] = []
    while edge and len(found) < count:
        value, at = heapq.heappop(edge)
        found.append(value)
        for child in (2 * at + 1, 2 * at + 2):
            if child < len(heap):
                heapq.heappush(edge, (heap[child], child))
    return found


def _kind(edit: Edit) -> _Kind:
    return edit.size, edit.steps, edit.sampler
