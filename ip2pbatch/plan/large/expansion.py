"""The strips and the Edits of very many photos, expanded from a recipe a photo at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, TypeVar, overload

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.plan.edits import MOST_HELD, Edit, ManyEdits, ManyStrips, Photo, Strip, first_with

Thing = TypeVar("Thing")
MakeEdit = Callable[..., Edit]
"""From all fields of an Edit but its key, in their order."""

_KEY = 16  # bytes of a key, which are 32 hex digits
_RECENT = 256  # photos whose strips are held after they were asked for: several threads may be at several of them


class Asked(Protocol):
    """A recipe, as far as it asks for something of a photo."""

    def __call__(self, photo: Photo, make: MakeEdit | None = None, /) -> list[Strip]:
        """The strips of a photo, with the Edits that `make` gives; without it each is made once, with its key."""


class _Known:
    """Makes the Edits of a photo that all differ, by keys that are known: to find them takes most of the time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys, self.made = keys, 0

    def __call__(self, *fields: Any) -> Edit:
        self.made += 1
        return Edit(self._keys[min(self.made, len(self._keys)) - 1], *fields)

    @property
    def fits(self) -> bool:
        """Whether there were as many Edits as keys."""
        return self.made == len(self._keys)


class Expansion:
    """The strips and the Edits of many photos, expanded photo by photo when they are asked for.

    Held are where each photo's strips and Edits begin, and each Edit's key, by which one that an equal photo has
    already is known: sixteen bytes a photo, some thirty an Edit. Safe to use from several threads.
    """

    def __init__(self, photos: Sequence[Photo], asked: Asked) -> None:
        self._photos, self._asked = photos, asked
        self._first_strip, self._first_edit = array("Q", [0]), array("Q", [0])
        self._keys, self._table, self._hands_on = bytearray(), HashTable(), bytearray()
        self._few: list[Strip] | None = []
        seen = HashTable()
        for number, photo in enumerate(photos):
            self._add(asked(photo), is_new=first_with(photos, seen, number, photo.digest) == number)

    def parts(self) -> tuple[Sequence[Strip], Sequence[Edit]]:
        """All strips and all Edits: of a small plan as they are."""
        if self._few is None:
            of_photo = lru_cache(_RECENT)(self._expanded)
            strips = _Strips(self._first_strip, lambda number: of_photo(number)[0], self)
            return strips, _Edits(self._first_edit, lambda number: of_photo(number)[1], self)
        edits = {edit.key: edit for strip in self._few for edit in strip.made}
        return tuple(self._few), tuple(edits.values())

    def _add(self, strips: list[Strip], *, is_new: bool) -> None:
        """`is_new` says that no photo before has these bytes, without which it shares no Edit with one."""
        edits = {edit.key: edit for strip in strips for edit in strip.made}
        for key, edit in edits.items():
            self._enter(bytes.fromhex(key), is_new=is_new)
            if edit.carry == "latent":
                for place in map(self.place, (key, edit.source)):
                    assert place is not None, "parents come before children"
                    self._hands_on[place] = True
        self._first_strip.append(self._first_strip[-1] + len(strips))
        self._first_edit.append(len(self._table))
        if self._few is not None:
            self._few += strips
            if len(self._few) > MOST_HELD:
                self._few = None

    def _enter(self, key: bytes, *, is_new: bool) -> None:
        number = len(self._table)
        if is_new:
            self._table.add(hash(key), number)
        elif self._table.setdefault(hash(key), number, lambda other: self._has(other, key)) != number:
            return
        self._keys += key
        self._hands_on.append(False)

    def _has(self, number: int, key: bytes) -> bool:
        return self._keys.startswith(key, number * _KEY)

    def of_photos(self, photos: Sequence[Photo]) -> tuple[Sequence[Strip], Sequence[Edit]]:
        """What is asked of some of the photos."""
        return Expansion(photos, self._asked).parts()

    def place(self, key: str) -> int | None:
        """The number of the Edit with this key."""
        wanted = bytes.fromhex(key)
        return self._table.get(hash(wanted), lambda number: self._has(number, wanted))

    def photo_with(self, key: str) -> int | None:
        """The number of the first photo that has the Edit with this key."""
        place = self.place(key)
        return None if place is None else bisect_right(self._first_edit, place) - 1

    def keys(self) -> Iterator[str]:
        """The keys of all Edits in order."""
        for at in range(0, len(self._keys), _KEY):
            yield self._keys[at : at + _KEY].hex()

    def keeps_latent(self, key: str) -> bool:
        """Whether an Edit hands its latent on, or is made of one."""
        place = self.place(key)
        return place is not None and bool(self._hands_on[place])

    @property
    def keeps_latents(self) -> bool:
        """Whether any Edit does."""
        return any(self._hands_on)

    def by_photo(self) -> Iterator[tuple[Sequence[Strip], Sequence[Edit]]]:
        """Of each photo its strips, and those of its Edits that no photo before it has."""
        return map(self._expanded, range(len(self._photos)))

    def _expanded(self, number: int) -> tuple[tuple[Strip, ...], tuple[Edit, ...]]:
        """The strips of a photo, and those of its Edits that no photo before it has."""
        photo, first, end = self._photos[number], self._first_edit[number], self._first_edit[number + 1]
        known = _Known([self._keys[at : at + _KEY].hex() for at in range(first * _KEY, end * _KEY, _KEY)])
        strips = tuple(self._asked(photo, known)) if first < end else ()
        if known.fits and strips:
            return strips, tuple(edit for strip in strips for edit in strip.made)
        strips = tuple(self._asked(photo))
        edits = {edit.key: edit for strip in strips for edit in strip.made}
        return strips, tuple(edit for key, edit in edits.items() if self.place(key) in range(first, end))


class _ByPhoto(Sequence[Thing]):
    """All that photos have, by number. `first` says where each photo's begin, `of_photo` gives them."""

    def __init__(self, first: array[int], of_photo: Callable[[int], Sequence[Thing]]) -> None:
        self._first, self._of_photo = first, of_photo

    def __len__(self) -> int:
        return self._first[-1]

    @overload
    def __getitem__(self, at: int) -> Thing: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Thing]: ...
    def __getitem__(self, at: int | slice) -> Thing | Sequence[Thing]:
        if isinstance(at, slice):
            return tuple(self[one] for one in range(*at.indices(len(self))))
        at = range(len(self))[at]
        photo = self._photo_of(at)
        return self._of_photo(photo)[at - self._first[photo]]

    def _photo_of(self, at: int) -> int:
        return bisect_right(self._first, at) - 1

    def __iter__(self) -> Iterator[Thing]:
        return chain.from_iterable(map(self._of_photo, range(len(self._first) - 1)))

    def __reversed__(self) -> Iterator[Thing]:
        for photo in range(len(self._first) - 2, -1, -1):
            yield from reversed(self._of_photo(photo))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class _Strips(_ByPhoto[Strip], ManyStrips):
    """The strips of an Expansion."""

    def __init__(
        self, first: array[int], of_photo: Callable[[int], Sequence[Strip]], expansion: Expansion
    ) -> None:  # fmt: skip
        super().__init__(first, of_photo)
        self._expansion = expansion

    def of_same_photo(self, number: int) -> Sequence[Strip]:
        return self._of_photo(self._photo_of(number))

    def of_photo(self, photo: int) -> Iterator[tuple[int, Strip]]:
        return enumerate(self._of_photo(photo), start=self._first[photo])

    def by_photo(self) -> Iterator[tuple[Sequence[Strip], Sequence[Edit]]]:
        return self._expansion.by_photo()

    def of_photos(self, photos: Sequence[Photo]) -> tuple[Sequence[Strip], Sequence[Edit]]:
        return self._expansion.of_photos(photos)

    def photo_with(self, key: str) -> int | None:
        return self._expansion.photo_with(key)


class _Edits(_ByPhoto[Edit], ManyEdits):
    """The Edits of an Expansion."""

    def __init__(
        self, first: array[int], of_photo: Callable[[int], Sequence[Edit]], expansion: Expansion
    ) -> None:  # fmt: skip
        super().__init__(first, of_photo)
        self._expansion = expansion

    def keys(self) -> Iterator[str]:
        return self._expansion.keys()

    def places(self) -> Callable[[str], int | None]:
        return self._expansion.place

    @property
    def latents(self) -> Container[str]:
        return _Latents(self._expansion)


class _Latents(Container[str]):
    """The keys of an Expansion's Edits that keep a latent."""

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._expansion.keeps_latent(key)

    def __bool__(self) -> bool:
        return self._expansion.keeps_latents
