"""A Plan written down beside the pictures it asks for, so that sheets and reports need neither recipe nor photos."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from ip2pbatch.disk.atomic import disk_error, replacing
from ip2pbatch.disk.buckets.locations import shown
from ip2pbatch.disk.digests import file_digest
from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.disk.on_demand import OnDemand
from ip2pbatch.disk.row_index import Rows
from ip2pbatch.plan.edits import (
    Edit,
    Guidance,
    ManyEdits,
    ManyStrips,
    Photo,
    Plan,
    Region,
    Strip,
    region_of,
)  # fmt: skip
from ip2pbatch.plan.tiling import refinement_of
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.sessions import ALSO, JOINED, read_sessions

FORMAT = 1
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_LARGE = 16 << 20  # bytes of a plan that is not held in memory, some sixty thousand edits
_NAME = 32  # hex digits of the digest that are a plan's name
TOGETHER, _TIMES = 16, 2
_MOST = 100_000  # edits of a plan that is joined no further: joining takes memory for all of them


def store_plan(layout: Layout, plan: Plan) -> str:
    """Write `plan` once under the digest of its rows, and return the digest. A plan seen before costs no disk, and one
    that was damaged since is written again.

    Raises ResourceError.
    """
    digest = hashlib.sha256()
    try:
        layout.plan("").parent.mkdir(parents=True, exist_ok=True)
        with SpooledTemporaryFile(_LARGE, dir=str(layout.folder)) as copy:  # its name is known when it is written
            for line in _lines(plan):
                digest.update(line)
                copy.write(line)
            path = layout.plan(name := digest.hexdigest()[:_NAME])
            if (file_digest(path) or "")[:_NAME] != name:
                copy.seek(0)
                with replacing(path) as file:
                    shutil.copyfileobj(copy, file)
    except OSError as error:
        raise disk_error(error, layout.plan("").parent) from error
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
    photos = OnDemand(of_photos.line, places[1:first], _photo)
    edits = _StoredEdits(of_edits.line, places[first:then], _edit)
    strips = OnDemand(of_strips.line, places[then:], lambda row: _strip(row, photos, edits))
    return Plan(header["name"], header["model"], photos, strips, edits)


class _StoredEdits(OnDemand[Edit], ManyEdits):
    """The Edits of a stored plan. Their keys stand at the beginning of their lines."""

    def keys(self) -> Iterator[str]:
        return (self._line(place)[2 : 2 + _NAME].decode() for place in self._places)


def _lines(plan: Plan) -> Iterator[bytes]:
    """A header, then photos, edits and strips, one a line; strips point at the others by their place."""
    yield _line(
        {"format": FORMAT, "name": plan.name, "model": plan.model, "photos": len(plan.photos), "edits": len(plan.edits)}
    )
    for photo in plan.photos:
        yield _line([photo.name, shown(photo.path), photo.digest, *photo.size])
    if isinstance(plan.strips, ManyStrips):
        yield from _lines_by_photo(plan, plan.strips)
        return
    yield from map(_edit_line, plan.edits)
    photos, place = _places_of(plan.photos), plan.places()
    for strip in plan.strips:
        yield _strip_line(strip, photos(strip.photo), map(place, (edit.key for edit in strip.made)))


def _lines_by_photo(plan: Plan, strips: ManyStrips) -> Iterator[bytes]:
    """Those of edits, then of strips, with each photo's expanded once: the latter wait in a file meanwhile."""
    place, first = plan.places(), 0
    with SpooledTemporaryFile(_LARGE) as waiting:
        for number, (own, edits) in enumerate(strips.by_photo()):
            yield from map(_edit_line, edits)
            places = {edit.key: at for at, edit in enumerate(edits, start=first)}
            first += len(edits)
            for strip in own:
                links = (places[edit.key] if edit.key in places else place(edit.key) for edit in strip.made)
                waiting.write(_strip_line(strip, number, links))
        waiting.seek(0)
        yield from waiting


def _edit_line(e: Edit) -> bytes:
    begun = f"[{encode_basestring(e.key)},{encode_basestring(e.source)},"
    said = _said(e.instruction, e.guidance.text, e.guidance.image)
    end = "".join(f",{_as_json(more)}" for more in _later(e))
    return f"{begun}{said},{e.seed},{_said(e.steps, e.sampler, *e.size, e.carry)}{end}]\n".encode(
        "utf-8", "surrogatepass"
    )


def _strip_line(s: Strip, photo: int, links: Iterable[int | None]) -> bytes:
    later = f",{_said(s.strength, s.feathers)}" if s.feathers else "" if s.strength is None else f",{_said(s.strength)}"
    places = [*map(str, links)]
    if s.refined is not None:  # the last of them
        later = f",{_said(s.strength, s.feathers)},{places.pop()}"
    said = _said(s.id, s.guidance.text, s.guidance.image)
    return f"[{photo},{said},{s.seed},[{','.join(places)}],{_said(s.keep)}{later}]\n".encode("utf-8", "surrogatepass")


@lru_cache(maxsize=4096, typed=True)
def _said(*values: object) -> str:
    """Some values of a line, which very many lines have in common."""
    return _as_json(values)[1:-1]


def _places_of(photos: Sequence[Photo]) -> Callable[[Photo], int]:
    """What gives the number of a photo, which it has; of two of one name each its own."""
    table = HashTable()

    def place(one: Photo) -> int:
        key = one.name, one.digest
        return table.setdefault(
            hash(key), len(table), lambda number: (photos[number].name, photos[number].digest) == key
        )

    for photo in photos:
        place(photo)
    return place


def _later(edit: Edit) -> Iterator[dict[str, Any]]:
    """What Edits did not always have, where it is set."""
    region = {} if edit.region is None else _region(edit.region)
    negative = {"negative": edit.negative} if edit.negative else {}
    refine = {"refine": edit.refine.row} if edit.refine else {}
    if region or negative or refine:
        yield region | negative | refine


def _region(region: Region) -> dict[str, Any]:
    """Its row, and what is in no key: where a mask lies now, whose photo is looked at, how its model is called."""
    later = {
        "masks": str(region.folder or ""), "photo": region.photo,
        "finder": region.sought.model if region.sought else "",
        "protect": _region(region.protect) if region.protect else None,
    }  # fmt: skip
    return {"region": region.row, "path": str(region.path or "")} | {k: v for k, v in later.items() if v}


def _region_again(more: Any) -> Region:
    protect = _region_again(more["protect"]) if "protect" in more else None
    return region_of(
        more["region"], more["path"], more.get("masks", ""), photo=more.get("photo", ""),
        model=more.get("finder", ""), protect=protect,
    )  # fmt: skip


def _line(row: object) -> bytes:
    return (_as_json(row) + "\n").encode("utf-8", "surrogatepass")


def _photo(row: Any) -> Photo:
    name, path, digest, width, height = row
    return Photo(name, Path(path), digest, (width, height))


def _edit(row: Any) -> Edit:
    key, source, instruction, text, image, seed, steps, sampler, width, height, carry, *later = row
    more = later[0] if later else {}
    region = _region_again(more) if "region" in more else None
    fixed = Guidance(text, image), seed, steps, sampler, (width, height), carry
    refine = refinement_of(more["refine"]) if "refine" in more else None
    return Edit(key, source, instruction, *fixed, region, more.get("negative", ""), refine)


def _strip(row: Any, photos: Sequence[Photo], edits: Sequence[Edit]) -> Strip:
    photo, name, text, image, seed, links, keep, *later = row
    own = tuple(edits[link] for link in links)
    strength: float | None = later[0] if later else None
    feathers = tuple(later[1]) if len(later) > 1 else ()
    refined = edits[later[2]] if len(later) > 2 else None
    return Strip(photos[photo], name, Guidance(text, image), seed, own, tuple(keep), strength, feathers, refined)


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    times: int  # it was joined


class GrowingPlan:
    """The plans of a session that is asked for more as it goes on; `first` is the one that it began with, which stays.

    So that a run does not come to hold one for every few photos, sixteen parts are joined as one, and sixteen of those.
    The files of what was joined go when the next are joined: whoever just read the session's lines still finds them.
    """

    def __init__(self, layout: Layout, first: str) -> None:
        self._layout, self._parts, self._replaced = layout, list[_Part](), list[str]()
        own = read_sessions(layout)
        self._kept = {first, *(name for session in own for name in session.plans)}

    def add(self, plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
        """Store one more; what is to be noted in the session, once that is stored. Raises ResourceError."""
        name = store_plan(self._layout, plan)
        self._parts = [part for part in self._parts if part.name != name] + [_Part(name, 0)]
        yield ALSO, {"plan": name}
        while (joined := self._join()) is not None:
            self.tidy()
            old, self._parts[-TOGETHER:] = self._parts[-TOGETHER:], [joined]
            yield JOINED, {"plans": [part.name for part in self._parts]}
            self._replaced = [part.name for part in old]

    def tidy(self) -> None:
        """Remove the files of what was joined before; not those that another session was asked for too."""
        needed = self._kept.union(part.name for part in self._parts)
        for name in self._replaced:
            if name not in needed:
                with suppress(OSError):
                    self._layout.plan(name).unlink()
        self._replaced = []

    def _join(self) -> _Part | None:
        """The last parts as one, where they are enough of a kind; None also where one of them cannot be read."""
        last = self._parts[-TOGETHER:]
        times = last[-1].times
        if len(last) < TOGETHER or times >= _TIMES or any(part.times != times for part in last):
            return None
        plans = [plan for part in last if (plan := load_plan(self._layout.plan(part.name))) is not None]
        if len(plans) < TOGETHER or sum(len(plan.edits) for plan in plans) > _MOST:
            return None
        return _Part(store_plan(self._layout, joined_plan(plans)), times + 1)


def joined_plan(plans: Sequence[Plan]) -> Plan:
    """All that plans ask for, oldest first. A photo that another one replaced under its name stays in it: what was
    delivered of it is known by that. Readers show the last one of a name.
    """
    strips = {(strip.photo.name, strip.photo.digest, strip.id, *(e.key for e in strip.edits)): strip
              for plan in plans for strip in plan.strips}  # fmt: skip
    photos: dict[tuple[str, str], Photo] = {}
    for photo in (photo for plan in plans for photo in plan.photos):
        photos.pop((photo.name, photo.digest), None)  # the last one of a name stands last
        photos[photo.name, photo.digest] = photo
    edits = {edit.key: edit for plan in plans for edit in plan.edits}
    return Plan(plans[-1].name, plans[-1].model, tuple(photos.values()), tuple(strips.values()), tuple(edits.values()))
