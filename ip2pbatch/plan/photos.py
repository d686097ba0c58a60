"""Folders to Photos: which files a recipe means, what each is called, and the digest that its pictures hang on."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import NothingMatchedError, PhotoError, PlanError, RecipeError
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.formats import suffixes, titles
from ip2pbatch.plan.globs import matcher
from ip2pbatch.plan.photo_digests import Look, look
from ip2pbatch.plan.written.yaml_source import suggest

if TYPE_CHECKING:
    from ip2pbatch.plan.memory import Memory
    from ip2pbatch.plan.written.instructions import Instruction
    from ip2pbatch.plan.written.recipe import PhotoFolder

SUFFIXES = frozenset(suffixes())
RUN_FOLDER = ".ip2pbatch"


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that should be a photo and cannot be planned: a failed row with its reason."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a recipe's folders hold, by name: photos, files that are broken, instructions for single photos.

    `notes` say what was passed over on purpose, such as links that lead out of a folder. `whole` is false for a part.
    """

    photos: tuple[Photo, ...]
    broken: tuple[Broken, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bool = True

    def only(self, globs: Sequence[str]) -> Scan:
        """The part whose names match one of `globs`. Raises NothingMatchedError."""
        wanted = matcher(globs)
        photos = tuple(photo for photo in self.photos if wanted(photo.name))
        broken = tuple(one for one in self.broken if wanted(one.name))
        if not photos and not broken:
            raise NothingMatchedError(
                f"no photo matches {' '.join(globs)}", hint=f"for example {self._example()}" if self.photos else None
            )
        return replace(self, photos=photos, broken=broken, whole=False)

    def limit(self, most: int) -> Scan:
        """The first `most` photos by name."""
        broken = self.broken if most >= len(self.photos) else ()
        return replace(self, photos=self.photos[:most], broken=broken, whole=False)

    def _example(self) -> str:
        return self.photos[0].name


def scan(
    folders: Sequence[PhotoFolder], *, output: Path | None = None, memory: Memory | None = None,
    wanted: Callable[[str, os.stat_result], bool] | None = None,
) -> Scan:  # fmt: skip
    """The photos of `folders`, sorted by name. Raises PlanError, NothingMatchedError, RecipeError (a CSV's rows).

    With several folders each name begins with its folder's name. A photo that cannot be read is in `broken` and stops
    nothing. `output` inside a folder of photos is refused: a second run would edit the first one's pictures.
    `memory` is where digests are remembered between scans, this user's cache where it is None. `wanted` is asked with
    the path and the status of each file before it is opened: `watch` leaves out what is still being copied. With it two
    files of one name refuse nothing: the later one is `broken`, because nobody looks at a folder that is watched.
    """
    walk = _Walk()
    prefixed = sum(folder.folder.is_dir() for folder in folders) > 1
    for folder in folders:
        if output is not None:
            refuse_output(folder.folder, output)
        walk.visit(folder, f"{folder.folder.resolve().name}/" if prefixed and folder.folder.is_dir() else "")
    if not walk.files and not walk.broken:
        raise NothingMatchedError(
            f"no photo in {', '.join(str(folder.folder) for folder in folders)}", hint=_passed_over(walk.others)
        )
    files, twins = _once(walk.files)
    passed_over = walk.broken
    if wanted is not None:
        files = [file for file in files if wanted(file[1], file[2])]
        unread = [*passed_over, *twins]
        passed_over = [one for one in unread if wanted(str(one.path), one.path.lstat())]
    elif twins:
        raise PlanError(twins[0].reason, hint="rename one of them, or exclude it")
    photos, broken = _look_at(files, memory)
    names = {name for name, _, _ in files} | walk.unwanted
    instructions = tuple(_instructions(folders, names, prefixed))
    return Scan(photos, tuple(sorted([*passed_over, *broken], key=lambda one: one.name)), instructions, walk.notes())


# A file as a walk finds it: its name, its path, its status.
_File = tuple[str, str, os.stat_result]


@dataclass(slots=True)
class _Walk:
    """One pass over all folders, with what was found and what was passed over."""

    files: list[_File] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    unwanted: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    outside: int = 0

    def visit(self, folder: PhotoFolder, prefix: str) -> None:
        root = folder.folder
        try:
            status = root.stat()
        except OSError as error:
            raise PlanError(f"{root}: {error.strerror or error}", hint="photos: names a folder or a photo") from None
        if root.is_dir():
            _FolderWalk(self, folder, prefix).run()
        elif root.suffix.lower() in SUFFIXES:
            self.files.append((_nfc(root.name), str(root.absolute()), status))
        else:
            self.broken.append(Broken(_nfc(root.name), root, f"is not a {titles('or')} file"))

    def notes(self) -> tuple[str, ...]:
        if not self.outside:
            return ()
        links = "1 link leads" if self.outside == 1 else f"{self.outside} links lead"
        return (f"{links} out of the photos' folder and was passed over; `follow_links: true` follows it",)


class _FolderWalk:
    """One folder, recursively: real folders first, then the links within it, so that names do not depend on order."""

    def __init__(self, walk: _Walk, folder: PhotoFolder, prefix: str) -> None:
        self.walk, self.folder, self.prefix = walk, folder, prefix
        self.root = os.path.realpath(folder.folder)
        self.wanted, self.unwanted = matcher(folder.include), matcher([*folder.exclude, *_below(folder.exclude)])
        self.seen: set[tuple[int, int]] = set()
        self.links: list[tuple[str, str]] = []

    def run(self) -> None:
        top = str(self.folder.folder.absolute())
        self.enter(top, "")
        while self.links:
            links, self.links = sorted(self.links), []
            for path, name in links:
                self.enter(path, name)

    def enter(self, top: str, name: str) -> None:
        """Walk `top`, called `name`, without recursion: a tree may be deeper than Python's stack."""
        waiting = [(top, name)]
        while waiting:
            path, below = waiting.pop()
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in self.seen:
                continue
            self.seen.add((status.st_dev, status.st_ino))
            for entry in self.entries(path, below):
                child = f"{below}{entry.name}"
                if entry.is_symlink() and not self.follows(entry):
                    continue
                if entry.is_file():
                    self.file(entry, child)
                elif not entry.is_dir():
                    continue  # a pipe or a device, which would never end
                elif self.unwanted(_nfc(child)) or self.unwanted(_nfc(child) + "/"):
                    continue
                elif entry.is_symlink():
                    self.links.append((entry.path, child + "/"))
                else:
                    waiting.append((entry.path, child + "/"))

    def entries(self, path: str, below: str) -> Iterator[os.DirEntry[str]]:
        """What a folder holds but for hidden things; nothing of another run's output folder."""
        try:
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            reason = f"the folder cannot be read: {error.strerror or error}"
            self.walk.broken.append(Broken(self.prefix + _nfc(below or "."), Path(path), reason))
            return
        ran_here = any(entry.name.startswith(RUN_FOLDER) for entry in entries)
        if ran_here and below:
            return
        for entry in entries:
            if not entry.name.startswith(".") and not (ran_here and entry.name == "sheets"):
                yield entry

    def follows(self, entry: os.DirEntry[str]) -> bool:
        real = os.path.realpath(entry.path)
        if self.folder.follow_links or real == self.root or real.startswith(self.root + os.sep):
            return Path(real).exists()
        self.walk.outside += 1
        return False

    def file(self, entry: os.DirEntry[str], child: str) -> None:
        name = self.prefix + _nfc(child)
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (100,000 of them)
        if suffix not in SUFFIXES:
            self.walk.others[suffix] += 1
        elif not self.wanted(_nfc(child)) or self.unwanted(_nfc(child)):
            self.walk.unwanted.add(name)
        elif not _is_text(entry.path):
            shown = name.encode(errors="replace").decode()
            self.walk.broken.append(Broken(shown, Path(entry.path), "its name is not UTF-8; rename it"))
        else:
            self.walk.files.append((name, entry.path, entry.stat()))


def _look_at(files: Sequence[_File], memory: Memory | None) -> tuple[tuple[Photo, ...], list[Broken]]:
    """Digests and sizes of `files`, remembered ones first, the others in threads."""
    from ip2pbatch.plan.memory import Memory  # brings a database along, which `--help` does not need

    memory = memory or Memory()
    stamps = {path: (path, status.st_size, status.st_mtime_ns) for _, path, status in files}
    known = memory.recall(stamps.values())
    fresh, reasons = _look_in_threads([path for path in stamps if path not in known])
    if fresh:
        memory.keep({stamps[path]: found for path, found in fresh.items()})
    known |= fresh
    photos, broken = [], []
    for name, path, _ in sorted(files):
        if path in known:
            photos.append(Photo(name, Path(path), known[path].digest, known[path].size))
        else:
            broken.append(Broken(name, Path(path), reasons[path]))
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
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF that does not matter here
        for path, found in zip(paths, pool.map(attempt, paths), strict=True):
            if isinstance(found, Look):
                looks[path] = found
            else:
                reasons[path] = str(found)
    return looks, reasons


def _instructions(folders: Sequence[PhotoFolder], names: set[str], prefixed: bool) -> Iterator[Instruction]:
    """The rows of every folder's CSV, with the names that `scan` gave; a row for no photo is an error."""
    for folder in folders:
        if folder.instructions is None:
            continue
        from ip2pbatch.plan.written.instructions import read_instructions

        prefix = f"{folder.folder.resolve().name}/" if prefixed and folder.folder.is_dir() else ""
        for row in read_instructions(folder.instructions):
            name = prefix + row.photo
            if name not in names:
                hint = suggest(name, sorted(names)) or "photo is the path below the folder, such as day-1/a.jpg"
                raise RecipeError(f"no photo {row.photo!r}", file=row.file, line=row.line, column=1, hint=hint)
            yield replace(row, photo=name)


def refuse_output(folder: Path, output: Path) -> None:
    """Raises PlanError where a run would write into the photos' folder."""
    inside = os.path.realpath(output)
    photos = os.path.realpath(folder)
    if folder.is_dir() and (inside == photos or inside.startswith(photos.rstrip(os.sep) + os.sep)):
        raise PlanError(
            f"the output folder {output} is inside the photos' folder {folder}",
            hint="put the output beside the photos, so that a second run does not edit the first one's pictures",
        )


def _once(files: Sequence[_File]) -> tuple[list[_File], list[Broken]]:
    """`files` without those listed twice, and those whose name some file system takes for an earlier one's."""
    seen: dict[str, str] = {}
    once, twins = [], []
    for name, path, status in sorted(files, key=_arrival):
        folded = name.casefold()
        if folded not in seen:
            seen[folded] = path
            once.append((name, path, status))
        elif seen[folded] != path:
            why = f"{seen[folded]!r} and {path!r} would have one name (case and Unicode form do not tell files apart)"
            twins.append(Broken(name, Path(path), why))
    return once, twins


def _arrival(file: _File) -> tuple[int, str]:
    """Of two files of one name the one that has been there longer is the photo, after a restart of `watch` too."""
    return file[2].st_ctime_ns, file[1]


def _below(globs: Sequence[str]) -> list[str]:
    """An excluded folder takes all below it along."""
    return [f"{glob.rstrip('/')}/**" for glob in globs]


def _passed_over(others: Counter[str]) -> str | None:
    kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common(3)]
    return f"passed over: {', '.join(kinds)}; {titles('and')} are read" if kinds else None


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
