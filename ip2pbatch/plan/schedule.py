"""Which Edits may run now, and which together: one size, one sampler and one step count a call, parents first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import first_rows, later_rows, terms_of

_ENOUGH = 5_000  # edits that tell how well the calls of a longer run are filled

# Edits of one kind may share a network call; what is refined is made alone, for its tiles fill calls by themselves.
_Kind = tuple[tuple[int, int], int, str, bool]


class Schedule:
    """The order of a run: hands out batches of Edits that may run together, and learns what became of each.

    The order is the plan's and depends on nothing else. An Edit is ready when its source is a photo or a finished
    parent. `done` and `failed` are keys from earlier sessions; what descends from a failed one is in `skipped` and
    never handed out. `left` are the numbers of those that are not done, where they are known.
    """

    def __init__(
        self, plan: Plan, done: Container[str], failed: Iterable[str], limits: Limits,
        left: Iterable[int] | None = None,
    ) -> None:  # fmt: skip
        self._plan, self._done, self._limits = plan, done, limits
        self._place_of, self._holders = plan.places(), Holders(plan)
        if left is None:
            left = (place for place, key in enumerate(plan.keys) if key not in done)
        self._waiting = Marked(len(plan.edits), left)
        self._running: set[int] = set()
        self.skipped = tuple(edit for key in failed if self.is_waiting(key) for edit in self._drop(key))
        self._ready: dict[_Kind, list[int]] = defaultdict(list)
        self._seen = 0  # the place up to which ready Edits stand in their queues

    def edit(self, key: str) -> Edit:
        """One of the plan's Edits."""
        return self._plan.edits[self._place(key)]

    def _place(self, key: str) -> int:
        place = self._place_of(key)
        if place is None:
            raise KeyError(key)
        return place

    def _children(self, key: str) -> list[Edit]:
        """The Edits that start from the one with this key."""
        edits = (edit for _, strip in self._holders.of(key) for edit in strip.made)
        found = {edit.key: edit for edit in edits if edit.carry is not None and edit.source == key}
        return [edit for edit in found.values() if self._place_of(edit.key) is not None]  # a plan may be cut to some

    @property
    def waiting(self) -> Iterator[str]:
        """The keys of the Edits that are neither finished, failed nor skipped."""
        return (self._plan.edits[place].key for place in self._waiting)

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
        if batch:
            queue, taken = self._ready[_kind(batch[0])], {self._place(edit.key) for edit in batch}
            self._running |= taken
            passed_over = []
            while taken:  # what is passed over lies among what is taken, at the queue's head
                place = heapq.heappop(queue)
                if place in taken:
                    taken.remove(place)
                else:
                    passed_over.append(place)
            for place in passed_over:
                heapq.heappush(queue, place)
        return batch

    def peek(self, most: int | None = None) -> list[Edit]:
        """What `take` would return now, for looking ahead: nothing is handed out."""
        self._look(lambda: any(self._ready.values()))
        heads = [(queue[0], kind) for kind, queue in self._ready.items() if queue]
        if not heads:
            return []
        _, kind = min(heads)
        queue, wanted = self._ready[kind], 1 if kind[-1] else min(most or self._limits.batch, self._limits.batch)
        self._look(lambda: len(queue) > wanted)
        edits = [self._plan.edits[place] for place in _first(queue, wanted)]
        if kind[-1]:
            return edits
        if len(edits) == len(queue) and not self._limits.overlaps:
            return edits  # the end of a run needs the same calls in one batch or in two, and shares more in one
        return fill_calls(edits, self._limits.row_bucket(edits[0].size), fewest=self._limits.overlaps)

    def ahead(self, edits: int) -> list[Edit]:
        """The next `edits` ready Edits in the plan's order, whatever their kind: sources worth loading early."""
        self._look(lambda: sum(map(len, self._ready.values())) >= edits)
        places = heapq.nsmallest(edits, (place for queue in self._ready.values() for place in _first(queue, edits)))
        return [self._plan.edits[place] for place in places]

    def _look(self, is_enough: Callable[[], bool]) -> None:
        """Look for further Edits that are ready, in the plan's order: of a run of millions few stand in the queues."""
        while not is_enough():
            place = self._waiting.after(self._seen)
            if place is None:
                self._seen = len(self._plan.edits)
                return
            self._seen, edit = place + 1, self._plan.edits[place]
            if edit.carry is None or (edit.source in self._done and not self.is_waiting(edit.source)):
                heapq.heappush(self._ready[_kind(edit)], place)

    def finish(self, key: str) -> None:
        """`key` is made: its children become ready."""
        self._leave(key)
        for child in self._children(key):
            place = self._place(child.key)
            is_seen = place < self._seen or key not in self._done  # others are found in their turn
            if place in self._waiting and place not in self._running and is_seen:
                heapq.heappush(self._ready[_kind(child)], place)

    def begin_again(self, edit: Edit) -> None:
        """What `edit`, which was taken, starts from is gone: its source is made once more, and then it."""
        self._running.discard(self._place(edit.key))
        source = self._place(edit.source)
        if source in self._waiting:  # for a sister
            return
        for child in self._children(edit.source):
            if self.is_waiting(child.key):
                self._unqueue(child)
        self._waiting.add(source)
        heapq.heappush(self._ready[_kind(self.edit(edit.source))], source)

    def is_waiting(self, key: str) -> bool:
        """Whether an Edit is still to be made; those handed out are until they are reported."""
        place = self._place_of(key)
        return place is not None and place in self._waiting

    def fail(self, key: str) -> list[Edit]:
        """`key` was not made: all Edits that descend from it, which are now skipped, parents first."""
        self._leave(key)
        return self._drop(key)

    def _drop(self, key: str) -> list[Edit]:
        """Take `key` and all that descends from it out of what is waited for; returns the descendants."""
        self._waiting.discard(self._place(key))
        dropped, parents = list[Edit](), [key]
        while parents:
            children = {e.key: e for parent in parents for e in self._children(parent) if self.is_waiting(e.key)}
            for child in children:
                self._waiting.discard(self._place(child))
            dropped += children.values()
            parents = [*children]
        return dropped

    def _leave(self, key: str) -> None:
        place = self._place(key)
        self._waiting.discard(place)
        if place in self._running:
            self._running.discard(place)
        else:  # reported without having been taken, such as an unreadable photo's
            self._unqueue(self.edit(key))

    def _unqueue(self, edit: Edit) -> None:
        queue, place = self._ready[_kind(edit)], self._place(edit.key)
        if place in queue:
            queue.remove(place)
            heapq.heapify(queue)


def fill_calls(edits: Sequence[Edit], bucket: int, *, fewest: bool = False) -> list[Edit]:
    """Those of `edits`, in order, that leave the least padding in calls of `bucket` rows a step, and the most of them.

    Where all but some fill whole calls, the last ones that are too many wait for the next batch. `fewest` takes one
    whole call if it can: an engine that overlaps loses nothing by it, and photos are waited for and pictures written
    while it works.
    """
    rows = [len(terms_of(edit)) for edit in edits]
    total = sum(rows)
    surpluses = range(total % bucket, total, bucket)
    for surplus in reversed(surpluses) if fewest else surpluses:
        if (left_out := _last_with_sum(rows, surplus)) is not None:
            return [edit for place, edit in enumerate(edits) if place not in left_out]
    best, best_share, so_far = 1, 0.0, 0
    for count, own in enumerate(rows, start=1):
        so_far += own
        share = so_far / (-(-so_far // bucket) * bucket)
        if share >= best_share:
            best, best_share = count, share
    return list(edits[:best])


def _last_with_sum(rows: Sequence[int], wanted: int) -> set[int] | None:
    """The places of the fewest of `rows` (1 to 3 each) whose sum is `wanted`, the last ones of equals; None where no
    such ones are.
    """
    places = {size: [place for place, own in enumerate(rows) if own == size] for size in (1, 2, 3)}
    for threes in range(min(len(places[3]), wanted // 3), -1, -1):
        rest = wanted - 3 * threes
        twos = min(len(places[2]), rest // 2)
        ones = rest - 2 * twos
        if ones <= len(places[1]):
            counts = {3: threes, 2: twos, 1: ones}
            return {place for size, count in counts.items() for place in places[size][len(places[size]) - count :]}
    return None


def padding(plan: Plan, limits: Limits, done: Collection[str] = ()) -> float:
    """The share, 0 to 1, of the network rows that a run of `plan` computes only to fill its calls.

    Walks the batches that a run would take, of a long plan the first ones. An engine that shrinks pads otherwise.
    """
    schedule, left = Schedule(plan, done, (), limits), _ENOUGH
    needed = computed = 0
    while left > 0 and (batch := schedule.take()):
        for edit in batch:
            schedule.finish(edit.key)
        left -= len(batch)
        if batch[0].refine is not None:
            continue
        bucket, steps = limits.row_bucket(batch[0].size), batch[0].steps
        for rows, times in ((first_rows(batch), 1), (later_rows(batch), steps - 1)):
            needed += rows * times
            computed += -(-rows // bucket) * bucket * times
    return 1 - needed / computed if computed else 0.0


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
    return edit.size, edit.steps, edit.sampler, edit.refine is not None
