"""Which files of a folder may be photos: one pass over it, whatever lies there and whatever happens to it meanwhile."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.formats import FORMATS, by_suffix, suffixes
from ip2pbatch.plan.globs import below, matcher
from ip2pbatch.plan.unedited import Broken, Tally, is_litter, why_not

if TYPE_CHECKING:
    from ip2pbatch.plan.written.recipe import Pairs, PhotoFolder

SUFFIXES = frozenset(suffixes())
RUN_FOLDER = ".ip2pbatch"

# A file as a walk finds it: its name, its path, its status.
File = tuple[str, str, os.stat_result]

# What a camera makes of one shot, the most finished first.
_SHOT = {"jpeg": 0, "heic": 1, "raw": 2}

# What a run leaves in its output folder beside the files that it delivers.
_OWN = re.compile(r"sheets|report\.html|recipe(?:-\d+)?\.yaml")

# The folders of a run and of those that were begun beside it; whoever removes the first may keep a later one.
_RUNS = (RUN_FOLDER, *(f"{RUN_FOLDER}-{number}" for number in range(2, 6)))

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ESTALE}


@dataclass(slots=True)
class Walk:
    """One pass over all folders, with what was found and what was passed over."""

    files: list[File] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    unwanted: set[str] = field(default_factory=set)
    passed: Tally = field(default_factory=Tally)
    outside: int = 0

    def visit(self, folder: PhotoFolder, prefix: str) -> None:
        """Read a folder, or take the one file that it names. Raises PlanError where there is neither."""
        root = folder.folder
        try:
            status = root.stat()
        except OSError as error:
            raise PlanError(f"{root}: {error.strerror or error}", hint="photos: names a folder or a photo") from None
        suffix = root.suffix.lower()
        if stat.S_ISDIR(status.st_mode):
            before = len(self.files)
            for _ in FolderWalk(self, folder, prefix).steps():
                pass
            self.files[before:] = self.without_twins(self.files[before:], folder.pairs)
        elif stat.S_ISREG(status.st_mode) and suffix in SUFFIXES:
            self.files.append((nfc(root.name), str(root.absolute()), status))
        else:
            why = why_not(suffix) if stat.S_ISREG(status.st_mode) else "is a pipe or a device and no file"
            self.broken.append(Broken(nfc(root.name), root, why))

    def without_twins(self, files: list[File], pairs: Pairs) -> list[File]:
        """Of the files of one shot (IMG_1.JPG, IMG_1.HEIC, IMG_1.CR3) the one that `pairs` asks for."""
        if pairs == "both":
            return files
        shots: dict[str, dict[int, list[File]]] = {}
        for file in files:
            if shot := shot_of(file[0]):
                shots.setdefault(shot[0], {}).setdefault(shot[1], []).append(file)
        twins = set()
        for kinds in shots.values():
            wanted = (min if pairs == "jpeg" else max)(kinds)
            twins |= {file[0] for kind, found in kinds.items() if kind != wanted for file in found}
        for name in sorted(twins):
            self.passed.add("twin", name)
        self.unwanted |= twins
        return [file for file in files if file[0] not in twins]

    def notes(self) -> tuple[str, ...]:
        """What was passed over and a flag would follow."""
        if not self.outside:
            return ()
        one = self.outside == 1
        links, were, them = ("1 link leads", "was", "it") if one else (f"{self.outside:,} links lead", "were", "them")
        return (f"{links} out of the photos' folder and {were} passed over; `follow_links: true` follows {them}",)


class Entry(Protocol):
    """What a walk asks of a name that it comes by, as os.DirEntry answers it."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    def is_symlink(self) -> bool: ...
    def is_file(self) -> bool: ...
    def is_dir(self) -> bool: ...
    def stat(self) -> os.stat_result: ...


@dataclass(frozen=True, slots=True)
class _Named:
    """The same of a name that somebody told of."""

    name: str
    path: str

    def is_symlink(self) -> bool:
        return os.path.islink(self.path)  # noqa: PTH114 (it raises nothing)

    def is_file(self) -> bool:
        return os.path.isfile(self.path)  # noqa: PTH113 (it raises nothing)

    def is_dir(self) -> bool:
        return os.path.isdir(self.path)  # noqa: PTH112 (it raises nothing)

    def stat(self) -> os.stat_result:
        return Path(self.path).stat()


class FolderWalk:
    """One folder, recursively: real folders first, then the links within it, so that names do not depend on order.

    What it comes by it notes in `walk`.
    """

    def __init__(self, walk: Walk, folder: PhotoFolder, prefix: str = "") -> None:
        self.walk, self.folder, self.prefix = walk, folder, prefix
        self.top, self.root = str(folder.folder.absolute()), os.path.realpath(folder.folder)
        self.wanted, self.unwanted = matcher(folder.include), matcher([*folder.exclude, *below(folder.exclude)])
        self.seen: set[tuple[int, int]] = set()
        self.links: list[tuple[str, str]] = []

    def steps(self, top: str | None = None) -> Iterator[None]:
        """Walk it, or a folder in it that `one` was told of: a step for each name, so that one may stop in between.

        Of a part, links are followed where they lead away: what they lead to in it has a name of its own.
        """
        below = "" if top is None else self.below(top)
        if below is None:
            return
        yield from self.enter(os.path.join(self.top, below), below)  # noqa: PTH118 (a path as os.scandir gives it)
        while self.links:
            links, self.links = sorted(self.links), []
            for path, name in links:
                if top is None or not _is_in(os.path.realpath(path), self.root):
                    yield from self.enter(path, name)

    def one(self, path: str) -> bool:
        """Note the one thing at `path` as a walk would come by it; whether it is a folder, to be walked then."""
        folder, name = os.path.split(path)
        below = self.below(folder)
        if below is None:
            return False
        entry = _Named(name, os.path.join(self.top, below + name))  # noqa: PTH118 (a path as os.scandir gives it)
        if not self.shows(entry, below, self.ran_in(folder)):
            return False
        try:
            return self.take(entry, below)
        except OSError as error:
            self.lost(entry, below, error)
            return False

    def below(self, folder: str) -> str | None:
        """What the names in a folder begin with, by the real folder's path where a link leads to it; None where no walk
        comes there.
        """
        real = os.path.realpath(folder)
        base, path = (self.root, real) if _is_in(real, self.root) else (self.top, folder)
        if path is folder and not (self.folder.follow_links and _is_in(folder, self.top)):
            return None
        below, at = "", self.top
        for name in filter(None, path[len(base) :].split(os.sep)):  # noqa: PTH206
            entry = _Named(name, os.path.join(at, name))  # noqa: PTH118 (a path as os.scandir gives it)
            child = nfc(below + name)
            if not self.shows(entry, below, self.ran_in(at)) or self.unwanted(child) or self.unwanted(child + "/"):
                return None
            below, at = f"{below}{name}/", entry.path
            if self.ran_in(at):
                return None
        return below

    def rivals(self, name: str, path: str) -> list[str]:
        """The paths at which a file of the same shot may lie that is edited in the place of this one."""
        shot = shot_of(name)
        if shot is None:
            return []
        better = [kind for kind, rank in _SHOT.items() if is_better(rank, shot[1], self.folder.pairs)]
        ends = {end for kind in better for suffix in FORMATS[kind].suffixes for end in (suffix, suffix.upper())}
        (own, _), (stem, _) = os.path.splitext(name), os.path.splitext(path)  # noqa: PTH122
        return [stem + end for end in sorted(ends) if self.wanted(own + end) and not self.unwanted(own + end)]

    def enter(self, top: str, name: str) -> Iterator[None]:
        """Walk `top`, called `name`, without recursion: a tree may be deeper than Python's stack."""
        waiting = [(top, name)]
        while waiting:
            path, below = waiting.pop()
            for entry in self.entries(path, below):
                try:
                    if self.take(entry, below):
                        waiting.append((entry.path, f"{below}{entry.name}/"))
                except OSError as error:
                    self.lost(entry, below, error)
                yield

    def take(self, entry: Entry, below: str) -> bool:
        """Note a file, or a link for later; whether this is a folder to walk now. Raises OSError."""
        child = f"{below}{entry.name}"
        if entry.is_symlink() and not self.follows(entry, child):
            return False
        if entry.is_file():
            self.file(entry, child)
        elif not entry.is_dir():  # one that would never end, or a name whose file went meanwhile
            self.walk.passed.add("special" if Path(entry.path).exists() else "vanished", self.prefix + child)
        elif self.unwanted(nfc(child)) or self.unwanted(nfc(child) + "/"):
            pass
        elif entry.is_symlink():
            self.links.append((entry.path, child + "/"))
        else:
            return True
        return False

    def entries(self, path: str, below: str) -> Iterator[Entry]:
        """What a folder holds but for hidden things; nothing of another run's output folder, and of none twice.

        One by one: a folder may hold a million.
        """
        try:
            status = os.stat(path)  # noqa: PTH116 (a path that os.scandir gave)
            if (status.st_dev, status.st_ino) in self.seen:
                return
            self.seen.add((status.st_dev, status.st_ino))
            ran_here = self.ran_in(path)
            if ran_here and below:
                self.walk.passed.add("another run", self.prefix + below.rstrip("/"))
                return
            with os.scandir(path) as found:
                yield from (entry for entry in found if self.shows(entry, below, ran_here))
        except OSError as error:
            self.unopened(path, below, error)

    def ran_in(self, path: str) -> bool:
        """Whether a run has its output there. Asked by the names it has: a folder is not listed for it."""
        return any(os.path.lexists(f"{path}{os.sep}{name}") for name in _RUNS)

    def shows(self, entry: Entry, below: str, ran_here: bool) -> bool:
        """Whether a name is anybody's work: not hidden, not a run's own, not what systems leave about."""
        if entry.name.startswith("."):
            self.hidden(entry, below)
            return False
        return not (ran_here and _OWN.fullmatch(entry.name)) and not is_litter(entry.name)

    def hidden(self, entry: Entry, below: str) -> None:
        if _suffix(entry) in SUFFIXES and not is_litter(entry.name):
            self.walk.passed.add("hidden", f"{self.prefix}{below}{entry.name}")

    def unopened(self, path: str, below: str, error: OSError) -> None:
        """A folder that cannot be listed may hold photos; one that went meanwhile held none any more."""
        name = self.prefix + nfc(below or ".")
        if below and error.errno in _GONE:
            self.walk.passed.add("vanished", name)
        else:
            reason = f"the folder cannot be read: {error.strerror or error}"
            self.walk.broken.append(Broken(name, Path(path), reason))

    def lost(self, entry: Entry, below: str, error: OSError) -> None:
        """A name whose file cannot be looked at: gone, or out of reach."""
        name = f"{self.prefix}{nfc(below + entry.name)}"
        if error.errno in _GONE:
            self.walk.passed.add("vanished", name)
        elif _suffix(entry) in SUFFIXES:
            self.walk.broken.append(Broken(name, Path(entry.path), f"cannot be read: {error.strerror or error}"))
        else:
            self.walk.passed.add("unreachable", name)

    def follows(self, entry: Entry, child: str) -> bool:
        real = os.path.realpath(entry.path)
        if self.folder.follow_links or real == self.root or real.startswith(self.root.rstrip(os.sep) + os.sep):
            if not Path(real).exists():
                self.walk.passed.add("lost link", self.prefix + child)
                return False
            return True
        self.walk.outside += 1
        return False

    def file(self, entry: Entry, child: str) -> None:
        name = self.prefix + nfc(child)
        if _suffix(entry) not in SUFFIXES:
            self.walk.passed.add_file(name)
        elif not self.wanted(nfc(child)) or self.unwanted(nfc(child)):
            self.walk.unwanted.add(name)
            self.walk.passed.add("excluded", name)
        elif not _is_text(entry.path):
            shown = name.encode(errors="replace").decode()
            self.walk.broken.append(Broken(shown, Path(entry.path), "its name is not UTF-8; rename it"))
        else:
            self.walk.files.append((name, entry.path, entry.stat()))


def is_runs_own(name: str) -> bool:
    """Whether a name in a run's output folder is of what it leaves there beside the files that it delivers."""
    return _OWN.fullmatch(name) is not None


def shot_of(name: str) -> tuple[str, int] | None:
    """The shot that a file is of, by how its name begins, and how finished it is (0 most); None of other files."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (100,000 of them)
    kind = by_suffix(suffix)
    return (stem.casefold(), _SHOT[kind.name]) if kind is not None and kind.name in _SHOT else None


def is_better(rank: int, other: int, pairs: Pairs) -> bool:
    """Whether of two files of one shot the one of this `rank` is asked for in the place of the other."""
    return pairs != "both" and (rank < other if pairs == "jpeg" else rank > other)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def nfc(name: str) -> str:
    """A name as photos have it: composed, whatever the file system did to it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _suffix(entry: Entry) -> str:
    return os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (100,000 of them)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
