"""Which photos go to which worker: whole ones, in groups that shrink towards the end.

dealer = Dealer(plan, asked, targets, todo, due)
while group := dealer.deal(workers): ...
dealer.settle(key)                    # an Edit was made, or failed
victims = dealer.take_back(group, "cuda:1 was killed (signal 9)")
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ip2pbatch.plan.edits import Edit, Plan, Strip
from ip2pbatch.plan.names import Place

_MOST = 48  # edits of a group: enough that the wait between two of them is small beside it
_SHARES = 2  # of what is left, a worker gets one part in this many a worker: it shrinks, and no one gets the long end
_AHEAD = 16  # edits of a group, below which none is dealt before the last is done: they would be another's at the end
_DEATHS = 3  # workers that may end over one photo


@dataclass(frozen=True, slots=True)
class Group:
    """Whole photos with all their edits: `plan` is what is to be made, `asked` all that is asked of them, in whichever
    shard. `targets` are the files' names by (strip of `plan`, link); `digests` are the photos'.
    """

    plan: Plan
    asked: Plan
    targets: Mapping[Place, str]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Victim:
    """What is left of a photo that several workers have ended over: its Edits, its files, and why."""

    edits: tuple[Edit, ...]
    files: tuple[str, ...]
    reason: str


class Dealer:
    """Deals what is left of a plan. Photos of equal bytes share their Edits and stay together.

    `todo` are the keys still to be made, `due` says of (strip, link, name) whether its file is still to be written. A
    group that comes back is dealt again after everything else, each photo alone: what ended its worker is then known.
    """

    def __init__(
        self, plan: Plan, asked: Plan, targets: Mapping[Place, str], todo: set[str],
        due: Callable[[Strip, int, str], bool],
    ) -> None:  # fmt: skip
        self._plan, self._asked, self._targets, self._due = plan, asked, targets, due
        self._todo = set(todo)
        self._strips = _by_photo(plan)
        self._shown = self._strips if asked is plan else _by_photo(asked)
        self._photos = _grouped((photo.digest, index) for index, photo in enumerate(plan.photos))
        self._shown_photos = (
            self._photos if asked is plan else _grouped((p.digest, i) for i, p in enumerate(asked.photos))
        )
        self._queue = deque(self._strips)
        self._weight = sum(len(self._unmade(digest)) for digest in self._queue)
        self._deaths: Counter[str] = Counter()
        self._reasons: dict[str, list[str]] = defaultdict(list)

    @property
    def left(self) -> int:
        """Edits that are neither made nor failed."""
        return len(self._todo)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be dealt."""
        return not self._queue

    def is_left(self, key: str) -> bool:
        """Whether an Edit is neither made nor failed."""
        return key in self._todo

    def settle(self, key: str) -> bool:
        """An Edit was made or has failed; whether it was still among those that are left."""
        if key not in self._todo:
            return False
        self._todo.remove(key)
        return True

    def reopen(self, key: str) -> None:
        """An Edit that was made is to be made again."""
        self._todo.add(key)

    def deal(self, workers: int) -> Group | None:
        """The next photos for one of so many workers; None where nothing waits (a group may still come back)."""
        most = self._most(workers)
        taken: list[str] = []
        edits = 0
        while self._queue and edits < most and len(taken) < _MOST:
            digest = self._queue[0]
            unmade = len(self._unmade(digest))
            if self._deaths[digest] and taken:
                break
            self._queue.popleft()
            self._weight -= unmade
            if unmade or self._is_due(digest):
                taken.append(digest)
                edits += unmade
            if self._deaths[digest] and taken:
                break
        return self._group(tuple(taken)) if taken else None

    def deal_ahead(self, workers: int, beside: Group) -> Group | None:
        """The next photos for one that is past the half of `beside`; None before, and towards the end. A photo that a
        worker has ended over is not dealt beside others: what ends the next one is to be known.
        """
        if sum(edit.key in self._todo for edit in beside.plan.edits) > len(beside.plan.edits) // 2:
            return None
        if self._most(workers) < _AHEAD or any(self._deaths[digest] for digest in (*beside.digests, self._queue[0])):
            return None
        return self.deal(workers)

    def _most(self, workers: int) -> int:
        """Edits of the next group."""
        return max(1, min(_MOST, self._weight // (_SHARES * workers)))

    def take_back(self, group: Group, reason: str) -> list[Victim]:
        """A worker that had `group` is gone, and `reason` says how, where a photo may be to blame for it ("" else).

        Photos that too many workers have ended over are not dealt again, and come back.
        """
        victims = []
        for digest in group.digests:
            unmade = self._unmade(digest)
            if not unmade and not self._is_due(digest):
                continue
            if reason:
                self._deaths[digest] += 1
                self._reasons[digest].append(reason)
            if self._deaths[digest] >= _DEATHS:
                victims.append(self._victim(digest, unmade))
                continue
            self._queue.append(digest)
            self._weight += len(unmade)
        return victims

    def _victim(self, digest: str, unmade: list[Edit]) -> Victim:
        files = tuple(target for strip, link, target in self._files(digest) if self._due(strip, link, target))
        said = "; ".join(self._reasons[digest])
        return Victim(tuple(unmade), files, f"{_DEATHS} workers ended over this photo: {said}")

    def _unmade(self, digest: str) -> list[Edit]:
        edits = {e.key: e for index in self._strips[digest] for e in self._plan.strips[index].made}
        return [edit for key, edit in edits.items() if key in self._todo]

    def _files(self, digest: str) -> Iterator[tuple[Strip, int, str]]:
        for index in self._strips[digest]:
            strip = self._plan.strips[index]
            yield from ((strip, link, self._targets[index, link]) for link in strip.keep)

    def _is_due(self, digest: str) -> bool:
        return any(self._due(strip, link, target) for strip, link, target in self._files(digest))

    def _group(self, digests: tuple[str, ...]) -> Group:
        plan = _part(self._plan, digests, self._photos, self._strips)
        asked = plan
        if self._asked is not self._plan:
            asked = _part(self._asked, digests, self._shown_photos, self._shown)
        places = (index for digest in digests for index in self._strips[digest])
        targets = {
            (at, link): self._targets[index, link]
            for at, index in enumerate(places) for link in self._plan.strips[index].keep
        }  # fmt: skip
        return Group(plan, asked, targets, digests)


def _by_photo(plan: Plan) -> dict[str, list[int]]:
    return _grouped((strip.photo.digest, index) for index, strip in enumerate(plan.strips))


def _grouped(pairs: Iterator[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for digest, index in pairs:
        found.setdefault(digest, []).append(index)
    return found


def _part(
    plan: Plan, digests: tuple[str, ...], photos: Mapping[str, list[int]], strips: Mapping[str, list[int]]
) -> Plan:  # fmt: skip
    """The strips of these photos in their order, so that places in it are those of a walk over `digests`."""
    own = tuple(plan.strips[index] for digest in digests for index in strips.get(digest, ()))
    edits = {edit.key: edit for strip in own for edit in strip.made}
    shown = tuple(plan.photos[index] for digest in digests for index in photos.get(digest, ()))
    return Plan(plan.name, plan.model, shown, own, tuple(edits.values()))
