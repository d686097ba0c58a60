"""Which Edits of a plan need no engine, and in which state each is: asked of very many at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.directory.ledger import Run


class AlreadyDone(Set[str]):
    """Of the keys of a plan's Edits those that need no engine, held as a byte for each that says whether it does."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self._plan, self._run, self._place = plan, run, plan.places()
        missing = self._missing = bytearray(state != "done" for state in run.records.statuses(plan.keys))
        hands_on = any(missing) and plan.latents
        for edit in reversed(plan.edits) if hands_on else ():  # children first: one made again may ask for its parent's
            lacks = edit.carry == "latent" and self._misses(edit.key) and not run.has_latent(edit.source)
            if lacks and (place := self._place(edit.source)) is not None:
                missing[place] = True

    @property
    def _lacks(self) -> bool:
        return 1 in self._missing

    def lacking(self) -> Iterator[int]:
        """The numbers of the others in the plan."""
        return (number for number, missing in enumerate(self._missing) if missing)

    def each(self, keys: Sequence[str]) -> Iterator[bool]:
        """Whether each of many is among it."""
        made = (state == "done" for state in self._run.records.statuses(keys))
        if not self._lacks:
            return made
        return (is_made and not self._misses(key) for key, is_made in zip(keys, made, strict=True))

    def _misses(self, key: str) -> bool:
        place = self._place(key)
        return place is not None and bool(self._missing[place])

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        place = self._place(key)
        return key in self._run.done if place is None else not self._missing[place] and key in self._run.done

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._plan.keys if key in self)

    def __len__(self) -> int:
        return len(self._missing) - sum(self._missing)

    @classmethod
    def _from_iterable(cls, keys: Iterable[Any]) -> set[Any]:
        return set(keys)


def already_done(plan: Plan, run: Run) -> AlreadyDone:
    """The keys of `plan` that need no engine: done, and with the latent that a link still to be made starts from."""
    return AlreadyDone(plan, run)


def states_of(plan: Plan, run: Run) -> Counter[str]:
    """How many Edits of the plan are in each state."""
    return Counter(state or "left" for state in run.records.statuses(plan.keys))
