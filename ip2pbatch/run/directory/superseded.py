"""Delivered files of pictures that nobody asks for any more: what is behind a name changed, or is gone.

A file that shows an earlier picture under the name of a new one is ours to replace, as long as nobody changed it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ip2pbatch.disk.files_at import is_there
from ip2pbatch.plan.edits import Photo, Plan, Strip
from ip2pbatch.run.directory.books import Delivered, Place, read_books
from ip2pbatch.run.directory.layout import Layout, strip_key
from ip2pbatch.run.directory.lines import Delivery
from ip2pbatch.run.directory.standing_files import Look, digest_now, look_at
from ip2pbatch.run.directory.stored_plans import load_plan
from ip2pbatch.run.directory.view import RunView


class Superseded:
    """What earlier sessions delivered of pictures that `asked`, a plan with all edits of its photos, has no more.

    `queue` says that the photos' folder is one: another photo of the same name there is no later state of the first.
    The run directory is read when it is first asked; safe to use from several threads.
    """

    def __init__(self, layout: Layout, asked: Plan, *, queue: bool = False) -> None:
        self._layout, self._asked, self._queue, self._lock = layout, asked, queue, threading.Lock()

    def file(self, target: str, photo: Photo) -> Delivery | None:
        """What was delivered last as `target`, where it was an earlier picture of this photo for the same recipe."""
        with self._lock:
            last = self._files.under(target)
            if last is None or self._asker(photo, self._asked) not in self._askers[last.strip]:
                return None
            return None if (last.strip, last.edit) in self._wanted(photo.name) else last

    def replaceable(self, root: Path, target: str, photo: Photo) -> str | None:
        """The sha256 of that file, where it stands below `root` and nobody changed it."""
        file = self.file(target, photo) if is_there(root, target) else None
        return file.sha256 if file is not None and digest_now(root, file) == file.sha256 else None

    def _asker(self, photo: Photo, plan: Plan) -> tuple[str, ...]:
        """A photo and a recipe. Two files may have one name in NFC, and then differ in the one that the disk has."""
        return photo.name, photo.path.name, photo.digest if self._queue else "", plan.name

    def _wanted(self, photo: str) -> set[Place]:
        return {place for strip in self._strips[photo] for place in places(strip)}

    @cached_property
    def _files(self) -> Delivered:
        return read_books(self._layout).delivered

    @cached_property
    def _strips(self) -> dict[str, list[Strip]]:
        found: dict[str, list[Strip]] = defaultdict(list)
        for strip in self._asked.strips:
            found[strip.photo.name].append(strip)
        return found

    @cached_property
    def _askers(self) -> dict[str, set[tuple[str, ...]]]:
        """The photos and recipes by which each strip was ever asked for."""
        found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for plan in _plans(self._layout):
            for strip in plan.strips:
                found[strip_key(strip)].add(self._asker(strip.photo, plan))
        return found


def places(strip: Strip) -> Iterator[Place]:
    """The kept links of a strip as deliveries call them."""
    key = strip_key(strip)
    return ((key, strip.edits[link - 1].key) for link in strip.keep)


def superseded(view: RunView) -> dict[Look, list[str]]:
    """The delivered files of pictures that the run is no longer asked for, by path, as they stand.

    None where a line or a plan of the run cannot be read: what it is asked for is then not wholly known.
    """
    found: dict[Look, list[str]] = {look: [] for look in Look}
    for file in _unasked(view):
        found[look_at(view.files, file)].append(file.path)
    return {look: sorted(paths) for look, paths in found.items()}


def restorable(view: RunView) -> list[Delivery]:
    """Those of them that the same recipe asked for of a photo that it still edits, as it was.

    They can be delivered again without the model. Not what another recipe delivered here, nor what was made of a photo
    that was moved away or replaced since: that may be all there is of it.
    """
    photos = {(photo.name, photo.digest) for photo in view.photos}
    askers = {
        strip_key(strip)
        for plan in _plans(view.layout) if plan.name == view.plan.name
        for strip in plan.strips if (strip.photo.name, strip.photo.digest) in photos
    }  # fmt: skip
    return [file for file in _unasked(view) if file.strip in askers]


def _unasked(view: RunView) -> Iterator[Delivery]:
    if view.complaints or not view.strips:
        return
    yield from view.deliveries.unasked(place for strip in view.strips for place in places(strip))


def _plans(layout: Layout) -> Iterator[Plan]:
    """What was ever asked for."""
    stored = map(load_plan, sorted((layout.folder / "plans").glob("*.jsonl")))
    return (plan for plan in stored if plan is not None)
