"""The photos of a bucket, by its listing: what a walk of a folder finds, without a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ip2pbatch.disk.buckets.locations import Location, location
from ip2pbatch.disk.buckets.objects import objects, status_of
from ip2pbatch.disk.buckets.stores import StoreError, Version, store_of
from ip2pbatch.errors import PlanError
from ip2pbatch.plan.folder_walk import RUN_FOLDER, SUFFIXES, Walk, is_runs_own, nfc
from ip2pbatch.plan.globs import below, matcher
from ip2pbatch.plan.unedited import is_litter

if TYPE_CHECKING:
    from ip2pbatch.plan.written.recipe import PhotoFolder


def visit_bucket(walk: Walk, folder: PhotoFolder, prefix: str) -> None:
    """Note in `walk` the photos below an address, or the one that it names, as `walk.visit` does of a folder's.

    Raises PlanError where nothing is there, UnreachableError, and MissingError without the library.
    """
    place = location(folder.folder)
    try:
        if folder.folder.suffix.lower() in SUFFIXES:  # one photo
            version = objects().version(folder.folder)
            walk.files.append((nfc(PurePosixPath(place.key).name), os.fspath(folder.folder), status_of(version)))
            return
        found = _listed(place)
    except StoreError as error:
        raise error.as_error() from None
    if not found:
        raise PlanError(f"nothing is at {place}", hint="photos: names a folder or a photo; check the key's first part")
    root = f"{os.fspath(folder.folder)}/"
    sidecars = (f"{place.key}/{name}".lstrip("/") for name in found if name.lower().endswith(".xmp"))
    objects().tell_sidecars(folder.folder, frozenset(sidecars))
    before, wanted = len(walk.files), _Wanted(walk, folder, prefix, found)
    for name, version in found.items():
        if wanted(name):
            objects().tell(root + name, version)
            walk.files.append((prefix + nfc(name), root + name, status_of(version)))
    walk.files[before:] = walk.without_twins(walk.files[before:], folder.pairs)


def _listed(place: Location) -> dict[str, Version]:
    """What lies below an address, by its name there. An object of no bytes whose key ends with `/` is no file."""
    start = len(place.key) + 1 if place.key else 0
    return {key[start:]: version for key, version in store_of(place).listing(place.key) if key[start:]}


class _Wanted:
    """Whether a name is a photo that is asked for; what is passed over is counted."""

    def __init__(self, walk: Walk, folder: PhotoFolder, prefix: str, names: dict[str, Version]) -> None:
        self._walk, self._prefix = walk, prefix
        self._include, self._exclude = matcher(folder.include), matcher([*folder.exclude, *below(folder.exclude)])
        self._ran = {top for name in names for top in _run_above(name)}
        self._told = set[str]()

    def __call__(self, name: str) -> bool:
        path, full = PurePosixPath(name), self._prefix + nfc(name)
        if self._of_another_run(path) or any(is_litter(part) for part in path.parts):
            return False
        if path.name.startswith(".") or any(part.startswith(".") for part in path.parts[:-1]):
            if path.name.startswith(".") and path.suffix.lower() in SUFFIXES:
                self._walk.passed.add("hidden", full)
            return False
        if path.suffix.lower() not in SUFFIXES:
            self._walk.passed.add_file(full)
            return False
        if not self._include(nfc(name)) or self._exclude(nfc(name)):
            self._walk.unwanted.add(full)
            self._walk.passed.add("excluded", full)
            return False
        return True

    def _of_another_run(self, path: PurePosixPath) -> bool:
        """Whether a run has its output there, which is told once; of one at the top only its own files."""
        for parent in path.parents:
            if (top := "" if parent == PurePosixPath() else parent.as_posix()) in self._ran:
                if not top:
                    return is_runs_own(path.parts[0])
                if top not in self._told:
                    self._told.add(top)
                    self._walk.passed.add("another run", self._prefix + top)
                return True
        return False


def _run_above(name: str) -> Iterator[str]:
    parts = PurePosixPath(name).parts
    if RUN_FOLDER in parts[:-1]:
        yield "/".join(parts[: parts.index(RUN_FOLDER)])
