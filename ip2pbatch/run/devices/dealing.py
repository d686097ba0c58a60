"""Which photos go to which worker: whole ones, in groups that shrink towards the end.

dealer = Dealer(plan, asked, targets, todo, owed)
while not dealer.is_empty:
    group = dealer.deal(workers)      # None where it has to look further for what is left
dealer.settle(key)                    # an Edit was made, or failed
victims = dealer.take_back(group, "cuda:1 was killed (signal 9)")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ip2pbatch.plan.edits import Edit, Plan, Strip
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.names import Place
from ip2pbatch.run.deliveries import Errand
from ip2pbatch.run.devices.portions import Portions

_MOST = 48  # edits of a group: enough that the wait between two of them is small beside it
_AHEAD = 16  # edits of a group, below which none is dealt before the last is done: they would be another's at the end
_TOGETHER = 256  # photos of which it is looked up together what is left
_LOOKS = 4_096  # photos that are looked at in one call: workers are heard between two of them

Owed = Callable[[Iterable[tuple[int, Strip]]], Iterable[Errand]]
"""Of strips, with their numbers in the plan, the files that are to be written though nothing is to be made."""


@dataclass(frozen=True, slots=True)
class Group:
    """Whole photos with all their edits: `plan` is what is to be made, `asked` all that is asked of them, in whichever
    shard. `targets` are the files' names by (strip of `plan`, link); `digests` are the photos'.
    """

    plan: Plan
    asked: Plan
    targets: Mapping[Place, str]
    digests: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its first photo's."""
        return self.plan.photos[0].name

    @property
    def size(self) -> int:
        """How many Edits it has."""
        return len(self.plan.edits)


@dataclass(frozen=True, slots=True)
class Victim:
    """What is left of a photo that several workers have ended over: its Edits, its files, and why."""

    edits: tuple[Edit, ...]
    files: tuple[str, ...]
    reason: str


class Dealer(Portions[str]):
    """Deals what is left of a plan. Photos of equal bytes share their Edits and stay together.

    `todo` are the numbers of the Edits still to be made, which it takes over; `owed` says which files are. Held are a
    byte an Edit and some thirteen a photo: photos are looked at in their turn.
    """

    def __init__(
        self, plan: Plan, asked: Plan, targets: Mapping[Place, str], todo: Marked, owed: Owed
    ) -> None:  # fmt: skip
        super().__init__(_MOST, len(todo))
        self._plan, self._targets, self._todo, self._owed = plan, targets, todo, owed
        self._place_of, self._holders = plan.places(), Holders(plan)
        self._asked, self._shown = asked, self._holders if asked is plan else Holders(asked)
        self._seen = 0  # the photo up to which all stand in the queue, or have nothing left

    @property
    def left(self) -> int:
        """Edits that are neither made nor failed."""
        return len(self._todo)

    @property
    def waiting(self) -> Iterator[str]:
        """Their keys."""
        return (self._plan.edits[place].key for place in self._todo)

    @property
    def files(self) -> int:
        """How many files all of the plan asks for."""
        return len(self._targets)

    @property
    def is_looking(self) -> bool:
        """Whether there are photos that it has not looked at yet."""
        return self._seen < len(self._plan.photos)

    def is_left(self, key: str) -> bool:
        """Whether an Edit is neither made nor failed."""
        place = self._place_of(key)
        return place is not None and place in self._todo

    def settle(self, key: str) -> bool:
        """An Edit was made or has failed; whether it was still among those that are left."""
        place = self._place_of(key)
        if place is None or place not in self._todo:
            return False
        self._todo.discard(place)
        return True

    def reopen(self, key: str) -> None:
        """An Edit that was made is to be made again."""
        place = self._place_of(key)
        assert place is not None, "it is one of the plan's"
        self._todo.add(place)

    def deal(self, workers: int) -> Group | None:
        """The next photos for one of so many workers; None where nothing waits (a group may still come back), or where
        nothing was found among the photos that were looked at.
        """
        taken = self._draw(workers)
        return self._group(taken) if taken else None

    def _weigh(self, digest: str) -> int | None:
        """How many of a photo's Edits are left; None where no file is either."""
        unmade = len(self._unmade(digest))
        return unmade if unmade or any(self._files(digest)) else None

    def _fill(self) -> None:
        looked = 0
        while not self._queue and self.is_looking and looked < _LOOKS:
            looked += self._look()

    def _look(self) -> int:
        """Look at the next photos, and put those of which something is left into the queue; how many were looked at."""
        begin, self._seen = self._seen, min(self._seen + _TOGETHER, len(self._plan.photos))
        numbers = [number for number in range(begin, self._seen) if self._holders.is_first(number)]
        digests = [self._plan.photos[number].digest for number in numbers]
        unmade = {digest for digest in digests if self._unmade(digest)}
        made = (pair for digest in digests if digest not in unmade for pair in self._holders.strips(digest))
        owed = {errand.strip.photo.digest for errand in self._owed(made)}
        self._queue.extend(digest for digest in digests if digest in unmade or digest in owed)
        return self._seen - begin

    def deal_ahead(self, workers: int, beside: Group) -> Group | None:
        """The next photos for one that is past the half of `beside`; None before, and towards the end. A photo that a
        worker has ended over is not dealt beside others: what ends the next one is to be known.
        """
        if sum(self.is_left(edit.key) for edit in beside.plan.edits) > len(beside.plan.edits) // 2:
            return None
        head = self._head()
        if head is None or self._most(workers) < _AHEAD or any(self._deaths[one] for one in (*beside.digests, head)):
            return None
        return self.deal(workers)

    def take_back(self, group: Group, reason: str) -> list[Victim]:
        """A worker that had `group` is gone, and `reason` says how, where a photo may be to blame for it ("" else).

        Photos that too many workers have ended over are not dealt again, and come back.
        """
        victims = []
        for digest in group.digests:
            unmade, files = self._unmade(digest), self._files(digest)
            if not unmade and not files:
                continue
            if said := self._return(digest, len(unmade), reason, "photo"):
                victims.append(Victim(tuple(unmade), tuple(errand.target for errand in files), said))
        return victims

    def _unmade(self, digest: str) -> list[Edit]:
        edits = {edit.key: edit for _, strip in self._holders.strips(digest) for edit in strip.made}
        return [edit for key, edit in edits.items() if self.is_left(key)]

    def _files(self, digest: str) -> list[Errand]:
        """Those that are to be written of what is made."""
        return [*self._owed(self._holders.strips(digest))]

    def _group(self, digests: tuple[str, ...]) -> Group:
        plan = _part(self._plan, digests, self._holders)
        asked = plan if self._asked is self._plan else _part(self._asked, digests, self._shown)
        strips = (pair for digest in digests for pair in self._holders.strips(digest))
        targets = {
            (at, link): self._targets[number, link]
            for at, (number, strip) in enumerate(strips) for link in strip.keep
        }  # fmt: skip
        return Group(plan, asked, targets, digests)


def _part(plan: Plan, digests: tuple[str, ...], holders: Holders) -> Plan:
    """The strips of these photos in their order, so that places in it are those of a walk over `digests`."""
    own = tuple(strip for digest in digests for _, strip in holders.strips(digest))
    edits = {edit.key: edit for strip in own for edit in strip.made}
    shown = tuple(photo for digest in digests for photo in holders.photos(digest))
    return Plan(plan.name, plan.model, shown, own, tuple(edits.values()))
