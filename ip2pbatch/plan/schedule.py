"""Which Edits may run now, and which together: one size, one sampler and one step count a call, parents first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Sequence

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import first_rows, later_rows, terms_of

_ENOUGH = 5_000  # edits that tell how well the calls of a longer run are filled

# Edits of one kind may share a network call.
_Kind = tuple[tuple[int, int], int, str]


class Schedule:
    """The order of a run: hands out batches of Edits that may run together, and learns what became of each.

    The order is the plan's and depends on nothing else. An Edit is ready when its source is a photo or a finished
    parent. `done` and `failed` are keys from earlier sessions; what descends from a failed one is in `skipped` and
    never handed out. `left` are the numbers of those that are not done, where they are known.
    """

    def __init__(
        self, plan: Plan, done: Container[str], failed: Collection[str], limits: Limits,
        left: Iterable[int] | None = None,
    ) -> None:  # fmt: skip
        self._limits = limits
        self._at, self._waiting = _of_use(
            plan, (n for n, key in enumerate(plan.keys) if key not in done) if left is None else left
        )
        self._place = {edit.key: place for place, edit in self._at.items()}
        self._children: dict[str, list[str]] = defaultdict(list)
        for edit in self._at.values():
            if edit.carry is not None:
                self._children[edit.source].append(edit.key)
        self._running: set[str] = set()
        self.skipped = tuple(edit for key in failed if key in self._waiting for edit in self._drop(key))
        self._ready: dict[_Kind, list[int]] = defaultdict(list)
        for place, edit in self._at.items():  # in ascending order, which is a heap
            if edit.key in self._waiting and (edit.carry is None or edit.source in done):
                self._ready[_kind(edit)].append(place)

    def knows(self, key: str) -> bool:
        """Whether an Edit is to be made, or could have to be made once more for one that is."""
        return key in self._place

    def edit(self, key: str) -> Edit:
        """One of those."""
        return self._at[self._place[key]]

    @property
    def waiting(self) -> Collection[str]:
        """The keys of the Edits that are neither finished, failed nor skipped."""
        return self._waiting

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
            queue, taken = self._ready[_kind(batch[0])], {self._place[edit.key] for edit in batch}
            passed_over = []
            while taken:  # what is passed over lies among what is taken, at the queue's head
                place = heapq.heappop(queue)
                if place in taken:
                    taken.remove(place)
                else:
                    passed_over.append(place)
            for place in passed_over:
                heapq.heappush(queue, place)
            self._running.update(edit.key for edit in batch)
        return batch

    def peek(self, most: int | None = None) -> list[Edit]:
        """What `take` would return now, for looking ahead: nothing is handed out."""
        heads = [(queue[0], kind) for kind, queue in self._ready.items() if queue]
        if not heads:
            return []
        queue = self._ready[min(heads)[1]]
        places = _first(queue, min(most or self._limits.batch, self._limits.batch))
        edits = [self._at[place] for place in places]
        if len(edits) == len(queue) and not self._limits.overlaps:
            return edits  # the end of a run needs the same calls in one batch or in two, and shares more in one
        return fill_calls(edits, self._limits.row_bucket(edits[0].size), fewest=self._limits.overlaps)

    def ahead(self, edits: int) -> list[Edit]:
        """The next `edits` ready Edits in the plan's order, whatever their kind: sources worth loading early."""
        places = heapq.nsmallest(edits, (place for queue in self._ready.values() for place in _first(queue, edits)))
        return [self._at[place] for place in places]

    def finish(self, key: str) -> None:
        """`key` is made: its children become ready."""
        self._leave(key)
        for child in self._children[key]:
            if child in self._waiting and child not in self._running:
                heapq.heappush(self._ready[_kind(self.edit(child))], self._place[child])

    def begin_again(self, edit: Edit) -> None:
        """What `edit`, which was taken, starts from is gone: its source is made once more, and then it."""
        self._running.discard(edit.key)
        if edit.source in self._waiting:  # for a sister
            return
        for child in self._children[edit.source]:
            if child in self._waiting:
                self._unqueue(child)
        self._waiting.add(edit.source)
        heapq.heappush(self._ready[_kind(self.edit(edit.source))], self._place[edit.source])

    def is_waiting(self, key: str) -> bool:
        """Whether an Edit is still to be made; those handed out are until they are reported."""
        return key in self._waiting

    def fail(self, key: str) -> list[Edit]:
        """`key` was not made: all Edits that descend from it, which are now skipped, parents first."""
        self._leave(key)
        return self._drop(key)

    def _drop(self, key: str) -> list[Edit]:
        """Take `key` and all that descends from it out of what is waited for; returns the descendants."""
        self._waiting.discard(key)
        dropped, parents = [], [key]
        while parents:
            children = [child for parent in parents for child in self._children[parent] if child in self._waiting]
            self._waiting.difference_update(children)
            dropped += [self.edit(child) for child in children]
            parents = children
        return dropped

    def _leave(self, key: str) -> None:
        self._waiting.discard(key)
        if key in self._running:
            self._running.discard(key)
        else:  # reported without having been taken, such as an unreadable photo's
            self._unqueue(key)

    def _unqueue(self, key: str) -> None:
        queue = self._ready[_kind(self.edit(key))]
        if self._place[key] in queue:
            queue.remove(self._place[key])
            heapq.heapify(queue)


def _of_use(plan: Plan, left: Iterable[int]) -> tuple[dict[int, Edit], set[str]]:
    """The Edits that are left and all that these descend from, by their places in the plan; the keys of the former.

    What is done is not held for its own sake: of a long run that goes on it is nearly all.
    """
    found = {place: plan.edits[place] for place in left}
    waiting, place_of = {edit.key for edit in found.values()}, None
    links = [edit for edit in found.values() if edit.carry is not None and edit.source not in waiting]
    while links:
        place_of = place_of or plan.places()
        place = place_of(links.pop().source)
        if place is not None and place not in found:
            found[place] = plan.edits[place]
            links += [found[place]] if found[place].carry is not None else []
    return dict(sorted(found.items())), waiting


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
    return edit.size, edit.steps, edit.sampler
