"""Where a delivered file goes: under which name, in the place of what, and when not. In a folder, or in a bucket."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Literal

from ip2pbatch.disk.atomic import Anchor
from ip2pbatch.disk.buckets.locations import is_object, shown
from ip2pbatch.disk.files_at import digest_at, is_plain, is_taken
from ip2pbatch.errors import PhotoError

Conflict = Literal["unique", "skip", "overwrite", "error"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes: `name` below the folder `root`, with its extension, and what to do where one is already.

    `ours` is the sha256 of the file that an earlier delivery of the same picture wrote: where it is still that file
    it is replaced under every policy; where somebody changed it, it is theirs and the policy decides. `reserved` are
    the names of other pictures that are still to come: `unique` leaves them free. `anchor` is `root` as it was when the
    run began, where the run holds it. Where `root` is the address of a bucket, a file waits in the folder `outgoing`
    of this machine before it is put, and `anchor` is of that.
    """

    root: Path
    name: str
    on_conflict: Conflict = "unique"
    ours: str | None = None
    reserved: Container[str] = ()
    anchor: Anchor | None = None
    outgoing: Path | None = None


def choose(place: Place, source: Path, is_same: Callable[[str], bool]) -> str | None:
    """The name to write, or None where `skip` says to leave what is there.

    `is_same` says whether a file holds what is about to be written: then it is ours, though no book says so any more.
    Raises PhotoError where a file is in the way.
    """
    root = place.root
    for name in _candidates(place):
        path = root / name
        if not is_taken(root, name):
            return name
        if _is_photo(path, source):
            if place.on_conflict == "unique":
                continue
            why = f"{shown(path)}: that is the photo itself"
            raise PhotoError(why, hint="write to another folder; originals are kept")
        if place.ours is not None and is_plain(root, name) and digest_at(root, name) == place.ours:
            return name
        if place.on_conflict == "skip":
            return None
        if place.on_conflict == "overwrite" or (is_plain(root, name) and is_same(name)):
            return name
        if place.on_conflict == "error":
            hint = "use on_conflict: unique, skip or overwrite, or another folder"
            raise PhotoError(f"{shown(path)} exists", hint=hint)
    raise AssertionError("count() has an end")


def _is_photo(path: Path, source: Path) -> bool:
    if is_object(path) or is_object(source):
        return path == source
    return path.exists() and path.samefile(source)


def _candidates(place: Place) -> Iterator[str]:
    first = _name(place)
    yield first.as_posix()
    for number in count(2):
        name = first.with_name(f"{first.stem}_{number}{first.suffix}").as_posix()
        if name not in place.reserved:
            yield name


def _name(place: Place) -> PurePosixPath:
    name = PurePosixPath(place.name)
    if name.is_absolute() or not name.parts or ".." in name.parts or "\0" in place.name:
        raise PhotoError(f"{place.name!r} leads outside the output folder", hint="check output.name in the recipe")
    return name
