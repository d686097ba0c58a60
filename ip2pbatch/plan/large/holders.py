"""Which strips hold an Edit: found through its photo, for those that share Edits are of photos with equal bytes.

holders = Holders(plan)
for number, strip in holders.of(edit.key): ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.plan.edits import ManyStrips, Photo, Plan, Strip, first_with


class Holders:
    """Finds the strips of a plan by the keys of their Edits; of a large plan held are thirteen bytes a photo."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._few, self._strips = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        self._first, self._more = HashTable(), defaultdict[str, list[int]](list)
        if isinstance(plan.strips, ManyStrips):
            for number, photo in enumerate(plan.photos):
                if self._first_with(photo.digest, number) != number:
                    self._more[photo.digest].append(number)
            return
        for number, photo in enumerate(plan.photos):
            self._more[photo.digest].append(number)
        for number, strip in enumerate(plan.strips):
            self._strips[strip.photo.digest].append(number)
            for key in {edit.key for edit in strip.made}:
                self._few[key].append(number)

    def of(self, key: str) -> Iterator[tuple[int, Strip]]:
        """The strips that hold the Edit with this key, each with its number in the plan, in its order."""
        strips = self._plan.strips
        if not isinstance(strips, ManyStrips):
            yield from ((number, strips[number]) for number in self._few.get(key, ()))
            return
        first = strips.photo_with(key)
        for number, strip in () if first is None else self.strips(self._plan.photos[first].digest):
            if any(edit.key == key for edit in strip.made):
                yield number, strip

    def strips(self, digest: str) -> Iterator[tuple[int, Strip]]:
        """The strips of all photos with this digest, each with its number in the plan, in its order."""
        strips = self._plan.strips
        if isinstance(strips, ManyStrips):
            return chain.from_iterable(map(strips.of_photo, self._numbers(digest)))
        return ((number, strips[number]) for number in self._strips.get(digest, ()))

    def photos(self, digest: str) -> list[Photo]:
        """The photos with this digest, in the plan's order."""
        return [self._plan.photos[number] for number in self._numbers(digest)]

    def is_first(self, photo: int) -> bool:
        """Whether no photo before this one has its digest."""
        return self._numbers(self._plan.photos[photo].digest)[0] == photo

    def _numbers(self, digest: str) -> list[int]:
        photos = self._plan.photos
        first = self._first.get(hash(digest), lambda other: photos[other].digest == digest)
        return ([] if first is None else [first]) + self._more.get(digest, [])

    def photo(self, key: str) -> str:
        """The name of the last photo that has the Edit, "" where none has."""
        name = ""
        for _, strip in self.of(key):
            name = strip.photo.name
        return name

    def _first_with(self, digest: str, number: int) -> int:
        """The first photo with this digest, which `number` has."""
        return first_with(self._plan.photos, self._first, number, digest)
