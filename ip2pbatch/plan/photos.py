"""Folders and manifests to Photos: which files a recipe means, their names, and the digests that pictures hang on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk import opening
from ip2pbatch.disk.buckets.locations import is_object, shown
from ip2pbatch.errors import NothingMatchedError, PhotoError, PlanError, RecipeError
from ip2pbatch.plan.edits import Photo, held
from ip2pbatch.plan.folder_walk import SUFFIXES, File, Walk
from ip2pbatch.plan.globs import matcher
from ip2pbatch.plan.listed.listed_photos import Listing, listing_of
from ip2pbatch.plan.photo_digests import Look, look
from ip2pbatch.plan.unedited import Broken, Passed, Tally
from ip2pbatch.plan.written.yaml_source import suggest

if TYPE_CHECKING:
    from ip2pbatch.plan.memory import Memory
    from ip2pbatch.plan.written.instructions import Instruction
    from ip2pbatch.plan.written.recipe import PhotoFolder


_WAITING = 16  # requests to a store at a time


@dataclass(frozen=True, slots=True)
class Scan:
    """What a recipe's folders hold, by name, or its manifest lists, in its order: photos, files that are broken,
    instructions for single photos. The photos of a manifest are made when they are asked for: go through them in order.

    `passed` counts by kind what lies there and is nothing to edit; `notes` say what a flag would take along, such as
    links that lead out of a folder. `whole` is false for a part. Very many photos are read when they are asked for
    (`edits.held`).
    """

    photos: Sequence[Photo]
    broken: tuple[Broken, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bool = True
    passed: tuple[Passed, ...] = ()

    def only(self, globs: Sequence[str]) -> Scan:
        """The part whose names match one of `globs`. Raises NothingMatchedError."""
        wanted = matcher(globs)
        photos = held(photo for photo in self.photos if wanted(photo.name))
        broken = tuple(one for one in self.broken if wanted(one.name))
        if not photos and not broken:
            raise NothingMatchedError(
                f"no photo matches {' '.join(globs)}", hint=f"for example {self._example()}" if self.photos else None
            )
        return replace(self, photos=photos, broken=broken, whole=False)

    def limit(self, most: int) -> Scan:
        """The first `most` photos."""
        broken = self.broken if most >= len(self.photos) else ()
        return replace(self, photos=self.photos[:most], broken=broken, whole=False)

    def _example(self) -> str:
        return self.photos[0].name


def scan(folders: Sequence[PhotoFolder], *, output: Path | None = None, memory: Memory | None = None) -> Scan:
    """The photos of `folders`, sorted by name; of a lone manifest in its order. Raises PlanError, NothingMatchedError,
    RecipeError (a CSV's rows).

    With several folders each name begins with its folder's name. What a manifest says of a photo is believed: the photo
    is held to it when it is loaded. One that cannot be read is in `broken` and stops nothing. `output` inside a folder
    of photos is refused: a second run would edit the first one's pictures. `memory` is where digests are remembered
    between scans, this user's cache where it is None.
    """
    from ip2pbatch.plan.memory import Memory  # brings a database along, which `--help` does not need

    memory = memory or Memory.of_this_user()
    walk, listings = Walk(), list[Listing]()
    prefixed = sum(map(_is_folder, folders)) > 1
    for folder in folders:
        prefix = _prefix(folder, prefixed)
        if folder.manifest is not None:
            listings.append(listing_of(folder, folder.manifest, prefix, walk.passed, output))
            continue
        if output is not None:
            refuse_output(folder.folder, output)
        if is_object(folder.folder):
            from ip2pbatch.plan.listed.bucket_walk import visit_bucket  # brings a store along

            visit_bucket(walk, folder, prefix)
        else:
            walk.visit(folder, prefix)
    files, unread = _once(walk.files), walk.broken
    if not files and not unread and not any(one.photos or one.rest or one.broken for one in listings):
        raise _nothing(folders, walk)
    photos: Sequence[Photo]
    photos, broken = _look_at(files, memory, walk.passed)
    listed, unlisted = _complete(listings, memory, walk.passed)
    if listings:
        photos = listed[0] if len(folders) == 1 else _together(photos, listed)
    if any(is_object(folder.folder) or folder.manifest for folder in folders):
        from ip2pbatch.disk.buckets.objects import objects

        objects().doubt()  # whoever loads a photo later asks what it is then
    names = chain((name for name, _, _ in files), (one.name for one in unlisted))
    unwanted = walk.unwanted.union(*(one.unwanted for one in listings))
    return Scan(
        photos, tuple(sorted([*unread, *broken, *unlisted], key=lambda one: one.name)),
        tuple(_instructions(folders, chain((photo.name for photo in photos), names, unwanted), prefixed)),
        (*walk.notes(), *filter(None, [memory.trouble])), passed=walk.passed.kinds(),
    )  # fmt: skip


def named(folders: Sequence[PhotoFolder]) -> list[tuple[str, Path]]:
    """The names and places of what `scan` would look at in folders without a manifest, by name; no file is opened.

    Raises PlanError where a folder is gone.
    """
    walk, prefixed = Walk(), sum(map(_is_folder, folders)) > 1
    for folder in folders:
        walk.visit(folder, _prefix(folder, prefixed))
    found = [(name, Path(path)) for name, path, _ in _once(walk.files)]
    return sorted(found + [(one.name, one.path) for one in walk.broken])


def _is_folder(folder: PhotoFolder) -> bool:
    if is_object(folder.folder):
        return folder.manifest is not None or folder.folder.suffix.lower() not in SUFFIXES
    return folder.manifest is not None or os.path.isdir(folder.folder)  # noqa: PTH112 (it raises nothing)


def _prefix(folder: PhotoFolder, prefixed: bool) -> str:
    """What the names of a folder's photos begin with: its own name where there are several folders."""
    return f"{folder.folder.resolve().name}/" if prefixed and _is_folder(folder) else ""


def _complete(listings: Sequence[Listing], memory: Memory, passed: Tally) -> tuple[list[Sequence[Photo]], list[Broken]]:
    """The photos of each manifest, those looked at of which it does not say all, and what cannot be one."""
    files, broken = list[File](), list[Broken]()
    places = [place for listing in listings for place in listing.places()]
    for (name, path), status in zip(places, _statuses([path for _, path in places]), strict=True):
        if isinstance(status, OSError):
            broken.append(Broken(name, path, f"cannot be read: {status.strerror or status}"))
        else:
            files.append((name, str(path), status))
    looked, unread = _look_at(files, memory, passed)
    found = {(photo.name, photo.path): photo for photo in looked}
    photos = [listing.completed(found) for listing in listings]
    return photos, [*broken, *unread, *(one for listing in listings for one in listing.broken)]


def _statuses(paths: Sequence[Path]) -> Iterator[os.stat_result | OSError]:
    """What each path leads to; of a bucket's objects several are asked for at a time. Raises UnreachableError."""

    def attempt(path: Path) -> os.stat_result | OSError:
        try:
            return opening.status(path)
        except OSError as error:
            return error

    if not any(map(is_object, paths)):
        yield from map(attempt, paths)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_WAITING) as pool:
        yield from pool.map(attempt, paths)


def _together(photos: Sequence[Photo], listed: Sequence[Sequence[Photo]]) -> tuple[Photo, ...]:
    """All photos by name, one that is there twice once. Raises PlanError for two of one name."""
    by_name: dict[str, Photo] = {}
    for photo in chain(photos, *listed):
        if by_name.setdefault(photo.name.casefold(), photo).path != photo.path:
            other = by_name[photo.name.casefold()]
            why = f"'{other.path}' and '{photo.path}' would have one name"
            raise PlanError(why, hint="give one of the folders another name, or exclude the photo")
    return tuple(sorted(by_name.values(), key=lambda photo: photo.name))


def looked_at(files: Sequence[File], broken: Sequence[Broken] = ()) -> Scan:
    """What some files of a folder hold that a walk came by, beside those of which it says that they are `broken`; one
    that is gone by now is passed over.
    """
    from ip2pbatch.plan.memory import Memory  # brings a database along, which `--help` does not need

    photos, more = _look_at(files, Memory.of_this_user(), Tally())
    return Scan(photos, tuple(sorted([*broken, *more], key=lambda one: one.name)))


def _nothing(folders: Sequence[PhotoFolder], walk: Walk) -> NothingMatchedError:
    kinds = "; ".join(map(str, walk.passed.kinds()[:3]))
    why = [*walk.notes(), *([f"passed over: {kinds}"] if kinds else [])]
    where = ", ".join(shown(folder.manifest or folder.folder) for folder in folders)
    return NothingMatchedError(f"no photo in {where}", hint="; ".join(why) or "it is empty, or its filters leave none")


def _look_at(files: Sequence[File], memory: Memory, passed: Tally) -> tuple[tuple[Photo, ...], list[Broken]]:
    """Digests and sizes of `files`, remembered ones first, the others in threads; what went meanwhile is `passed`."""
    if not files:
        return (), []
    statuses = {path: status for _, path, status in files}
    known = memory.recall(statuses.items())
    fresh, reasons = _look_in_threads([path for path in statuses if path not in known])
    if fresh:
        memory.keep({(path, statuses[path]): found for path, found in fresh.items()})
    known |= fresh
    photos, broken = [], []
    for name, path, _ in sorted(files):
        if path in known:
            photos.append(Photo(name, Path(path), known[path].digest, known[path].size))
        elif is_object(path) or os.path.lexists(path):
            broken.append(Broken(name, Path(path), reasons[path]))
        else:
            passed.add("vanished", name)
    return tuple(photos), broken


def _look_in_threads(paths: Sequence[str]) -> tuple[dict[str, Look], dict[str, str]]:
    if not paths:
        return {}, {}
    from concurrent.futures import ThreadPoolExecutor

    def attempt(path: str) -> Look | PhotoError:
        try:
            return look(Path(path))
        except PhotoError as error:
            return error

    looks, reasons = {}, {}
    with warnings.catch_warnings(), ThreadPoolExecutor(_threads(paths)) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF that does not matter here
        for path, found in zip(paths, pool.map(attempt, paths), strict=True):
            if isinstance(found, Look):
                looks[path] = found
            else:
                reasons[path] = str(found)
    return looks, reasons


def _threads(paths: Sequence[str]) -> int:
    """As many as the cores can use; where a store is waited for, more."""
    return _WAITING if is_object(paths[0]) else min(8, 2 * (os.cpu_count() or 1))


def _instructions(folders: Sequence[PhotoFolder], found: Iterable[str], prefixed: bool) -> Iterator[Instruction]:
    """The rows of every folder's CSV, with the names that `scan` gave; a row for none of its files is an error."""
    if not any(folder.instructions for folder in folders):
        return
    names = set(found)
    for folder in folders:
        if folder.instructions is None:
            continue
        from ip2pbatch.plan.written.instructions import read_instructions

        prefix = _prefix(folder, prefixed)
        for row in read_instructions(folder.instructions):
            name = prefix + row.photo
            if name not in names:
                hint = suggest(name, sorted(names)) or "photo is the path below the folder, such as day-1/a.jpg"
                raise RecipeError(f"no photo {row.photo!r}", file=row.file, line=row.line, column=1, hint=hint)
            yield replace(row, photo=name)


def refuse_unfit(folders: Sequence[PhotoFolder], output: Path) -> None:
    """What can be said of `folders` without a look at a photo: raises PlanError for an output folder among them, and
    RecipeError for what is wrong in a manifest.
    """
    for folder in folders:
        if folder.manifest is not None:
            listing_of(folder, folder.manifest, "", Tally(), output)
        else:
            refuse_output(folder.folder, output)


def refuse_output(folder: Path, output: Path) -> None:
    """Raises PlanError where a run would write into the photos' folder."""
    inside = os.path.realpath(output)
    photos = os.path.realpath(folder)
    if os.path.isdir(folder) and (inside == photos or inside.startswith(photos.rstrip(os.sep) + os.sep)):  # noqa: PTH112
        raise PlanError(
            f"the output folder {output} is inside the photos' folder {folder}",
            hint="put the output beside the photos, so that a second run does not edit the first one's pictures",
        )


def refuse_bucket(folders: Sequence[PhotoFolder], address: str) -> None:
    """The same where a run writes below an address, "" for none."""
    for folder in folders if address else ():
        photos = shown(folder.folder)
        if is_object(folder.folder) and folder.manifest is None and f"{address}/".startswith(f"{photos}/"):
            raise PlanError(
                f"the output folder {address} is inside the photos' folder {photos}",
                hint="put the output beside the photos, so that a second run does not edit the first one's pictures",
            )


def refuse_listed(photos: Iterable[Photo], address: str) -> None:
    """Raises PlanError where a photo that a manifest names lies below the address that a run writes to."""
    for photo in photos:
        if is_object(photo.path) and shown(photo.path).startswith(f"{address}/"):
            raise PlanError(
                f"{photo.name} lies in the output folder {address}", hint="write to another one: originals are kept"
            )


def _once(files: Sequence[File]) -> list[File]:
    """`files` without those listed twice. Raises PlanError where a file system may take two for one by their names."""
    seen: dict[str, str] = {}
    once = []
    for name, path, status in sorted(files, key=_arrival):
        folded = name.casefold()
        if folded not in seen:
            seen[folded] = path
            once.append((name, path, status))
        elif seen[folded] != path:
            raise PlanError(one_name(seen[folded], path), hint="rename one of them, or exclude it")
    return once


def one_name(first: str, second: str) -> str:
    """Why the second of two files cannot be edited beside the first."""
    return f"{first!r} and {second!r} would have one name (case and Unicode form do not tell files apart)"


def _arrival(file: File) -> tuple[int, str]:
    """Of two files of one name the one that has been there longer is named first."""
    return file[2].st_ctime_ns, file[1]
