"""A Plan written down beside the pictures it asks for, so that sheets and reports need neither recipe nor photos."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from ip2pbatch.disk.atomic import disk_error, replacing
from ip2pbatch.disk.digests import file_digest
from ip2pbatch.disk.row_index import Rows
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip
from ip2pbatch.run.directory.layout import Layout

Thing = TypeVar("Thing")
FORMAT = 1
_LARGE = 16 << 20  # bytes of a plan that is not held in memory, some sixty thousand edits
_NAME = 32  # hex digits of the digest that are a plan's name


def store_plan(layout: Layout, plan: Plan) -> str:
    """Write `plan` once under the digest of its rows, and return the digest. A plan seen before costs no disk, and one
    that was damaged since is written again.

    Raises ResourceError.
    """
    digest = hashlib.sha256()
    for line in _lines(plan):
        digest.update(line)
    name = digest.hexdigest()[:_NAME]
    path = layout.plan(name)
    if (file_digest(path) or "")[:_NAME] != name:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.writelines(_lines(plan))
        except OSError as error:
            raise disk_error(error, path) from error
    return name


def load_plan(path: Path) -> Plan | None:
    """The Plan that `store_plan` wrote: the same photos, strips and edits in the same order. None where the file is
    gone or is not what its name says.
    """
    if (file_digest(path) or "")[:_NAME] != path.stem:
        return None
    if path.stat().st_size > _LARGE:
        return _read_on_demand(path)
    with path.open("rb") as file:
        rows: Iterator[Any] = map(json.loads, file)
        header = next(rows)
        photos = tuple(_photo(next(rows)) for _ in range(header["photos"]))
        edits = tuple(_edit(next(rows)) for _ in range(header["edits"]))
        strips = tuple(_strip(row, photos, edits) for row in rows)
    return Plan(header["name"], header["model"], photos, strips, edits)


def _read_on_demand(path: Path) -> Plan:
    """A plan that would take much memory: eight bytes a line, and what is asked for is read again and again."""
    of_photos, of_edits, of_strips = Rows(), Rows(), Rows()  # a file each, for they are read side by side
    places = of_photos.places(path)
    for rows in (of_edits, of_strips):
        rows.open(path)
    header = json.loads(of_photos.line(places[0]))
    first, then = 1 + header["photos"], 1 + header["photos"] + header["edits"]
    photos = _OnDemand(of_photos, places[1:first], _photo)
    edits = _OnDemand(of_edits, places[first:then], _edit)
    strips = _OnDemand(of_strips, places[then:], lambda row: _strip(row, photos, edits))
    return Plan(header["name"], header["model"], photos, strips, edits)


class _OnDemand(Sequence[Thing]):
    """What some lines say, each made when it is asked for; the last one is kept, for many ask for it again."""

    def __init__(self, rows: Rows, places: array[int], make: Callable[[Any], Thing]) -> None:
        self._rows, self._places, self._make = rows, places, make
        self._last: tuple[int, Thing] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Thing: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Thing]: ...
    def __getitem__(self, at: int | slice) -> Thing | Sequence[Thing]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place, last = self._places[at], self._last
        if last is None or last[0] != place:
            last = self._last = place, self._make(json.loads(self._rows.line(place)))
        return last[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _lines(plan: Plan) -> Iterator[bytes]:
    """A header, then photos, edits and strips, one a line; strips point at the others by their place."""
    place = {edit.key: number for number, edit in enumerate(plan.edits)}
    photo_place = {photo.name: number for number, photo in enumerate(plan.photos)}
    yield _line(
        {"format": FORMAT, "name": plan.name, "model": plan.model, "photos": len(plan.photos), "edits": len(plan.edits)}
    )
    for photo in plan.photos:
        yield _line([photo.name, os.fspath(photo.path), photo.digest, *photo.size])
    for e in plan.edits:
        how = [e.guidance.text, e.guidance.image, e.seed, e.steps, e.sampler, *e.size, e.carry]
        yield _line([e.key, e.source, e.instruction, *how])
    for s in plan.strips:
        links = [place[edit.key] for edit in s.edits]
        later = [] if s.strength is None else [s.strength]
        yield _line([photo_place[s.photo.name], s.id, s.guidance.text, s.guidance.image, s.seed, links, s.keep, *later])


def _line(row: object) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "surrogatepass")


def _photo(row: Any) -> Photo:
    name, path, digest, width, height = row
    return Photo(name, Path(path), digest, (width, height))


def _edit(row: Any) -> Edit:
    key, source, instruction, text, image, seed, steps, sampler, width, height, carry = row
    return Edit(key, source, instruction, Guidance(text, image), seed, steps, sampler, (width, height), carry)


def _strip(row: Any, photos: Sequence[Photo], edits: Sequence[Edit]) -> Strip:
    photo, name, text, image, seed, links, keep, *later = row
    own = tuple(edits[link] for link in links)
    return Strip(photos[photo], name, Guidance(text, image), seed, own, tuple(keep), *later)
