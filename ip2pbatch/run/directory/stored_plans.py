"""A Plan written down beside the pictures it asks for, so that sheets and reports need neither recipe nor photos."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.digests import file_digest
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip
from ip2pbatch.run.directory.layout import Layout

FORMAT = 1
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
        write_whole(path, b"".join(_lines(plan)))
    return name


def load_plan(path: Path) -> Plan | None:
    """The Plan that `store_plan` wrote: the same photos, strips and edits in the same order. None where the file is
    gone or is not what its name says.
    """
    if (file_digest(path) or "")[:_NAME] != path.stem:
        return None
    with path.open("rb") as file:
        rows: Iterator[Any] = map(json.loads, file)
        header = next(rows)
        photos = tuple(_photo(next(rows)) for _ in range(header["photos"]))
        edits = tuple(_edit(next(rows)) for _ in range(header["edits"]))
        strips = tuple(_strip(row, photos, edits) for row in rows)
    return Plan(header["name"], header["model"], photos, strips, edits)


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
        yield _line([photo_place[s.photo.name], s.id, s.guidance.text, s.guidance.image, s.seed, links, s.keep])


def _line(row: object) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "surrogatepass")


def _photo(row: Any) -> Photo:
    name, path, digest, width, height = row
    return Photo(name, Path(path), digest, (width, height))


def _edit(row: Any) -> Edit:
    key, source, instruction, text, image, seed, steps, sampler, width, height, carry = row
    return Edit(key, source, instruction, Guidance(text, image), seed, steps, sampler, (width, height), carry)


def _strip(row: Any, photos: tuple[Photo, ...], edits: tuple[Edit, ...]) -> Strip:
    photo, name, text, image, seed, links, keep = row
    return Strip(photos[photo], name, Guidance(text, image), seed, tuple(edits[link] for link in links), tuple(keep))
