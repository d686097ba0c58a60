"""Names of delivered files: a template filled for every link that is kept, safe on every file system, no name twice."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.errors import PlanError
from ip2pbatch.plan.edits import ManyStrips, Photo, Plan, Strip
from ip2pbatch.plan.formats import FORMATS, by_suffix
from ip2pbatch.plan.written.template import FORBIDDEN, UNDATED, Template

if TYPE_CHECKING:
    from ip2pbatch.plan.written.outputs import Output

SHEETS = "sheets"  # the folder of contact sheets beside the delivered files
MAX_BYTES = 255  # of one part of a path, on all common file systems
_ROOM = 20  # of those, for what others add: a suffix, `-2`, a temporary name

# What varies a picture, in the order in which it is appended to a name that does not mention it.
_AXES = {"text": "_t{text}", "image": "_i{image}", "seed": "_s{seed}", "link": "_{link}"}
# The same of what one recipe has once, and a further `edit` into the same folder may change.
_SETTINGS = {"steps": "_{}steps", "sampler": "_{}", "size": "_{}px"}
_FIRST = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"))  # what the first version read
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
# What every file system takes as it is; most names are nothing else.
_HARMLESS = re.compile(r"[0-9A-Za-z_-]+(?:[ .]+[0-9A-Za-z_-]+)*")

# (strip's index in the plan, link counted from 1) → something about that picture
Place = tuple[int, int]
_Row = tuple[str, str]  # a photo's name and an edit's id


def output_names(
    plan: Plan, output: Output, dates: Mapping[str, datetime] | None = None, numbers: Mapping[str, int] | None = None
) -> FileNames:
    """The path below the output folder, with forward slashes, of every kept link: {(strip's index, link): path}.

    `dates` are capture dates and `numbers` the `{n}` by photo name; without them `undated` and the place in the plan.
    An axis that varies within one photo and edit, and that the template does not mention, is appended. Names that are
    taken on disk are not looked at. Raises PlanError for two results on one name (case and Unicode form aside).
    """
    return FileNames(plan, _Naming(plan, output, dates or {}, numbers))


class FileNames(Mapping[Place, str]):
    """The names of a plan's files, each drawn when it is asked for; held is where it is told by a name who has it.

    `folders` are those that files lie in. Safe to use from several threads.
    """

    def __init__(self, plan: Plan, naming: _Naming) -> None:
        self._plan, self._naming = plan, naming
        self._first = array("I")  # of each strip the number of its first file
        self._taken, self._aside = HashTable(), bytearray()
        self.folders: set[str] = set()
        self._some_give_way = False
        for index, strip in enumerate(plan.strips):
            self._first.append(len(self._aside))
            self._aside += bytes(len(strip.keep))
            if _gives_way(strip):
                self._some_give_way = True
            else:
                self._enter(index, strip, gives_way=False)
        for index, strip in enumerate(plan.strips if self._some_give_way else ()):
            if _gives_way(strip):
                self._enter(index, strip, gives_way=True)

    def __getitem__(self, place: Place) -> str:
        index, link = place
        strip = self._plan.strips[index]
        if link not in strip.keep:
            raise KeyError(place)
        return self._name(index, strip, link)

    def __iter__(self) -> Iterator[Place]:
        """First those whose names others give way to."""
        for later in (False, True) if self._some_give_way else (False,):
            for index, strip in enumerate(self._plan.strips):
                if _gives_way(strip) is later:
                    yield from ((index, link) for link in strip.keep)

    def __len__(self) -> int:
        return len(self._aside)

    def has_path(self, path: str) -> bool:
        """Whether one of the files is called so."""
        return self._taken.get(hash(_folded(path)), lambda number: self._name(*self._file(number)) == path) is not None

    def _enter(self, index: int, strip: Strip, *, gives_way: bool) -> None:
        for number, link in enumerate(strip.keep, start=self._first[index]):
            if gives_way:
                self._aside[number] = self._holder(self._name(index, strip, link)) is not None
            name = self._name(index, strip, link)
            other = self._enter_name(_folded(name), number)
            if other != number:
                _refuse(name, self._file(other), (index, strip, link))
            self.folders.add(name.rpartition("/")[0])

    def files(self, strips: Iterable[tuple[int, Strip]]) -> Iterator[tuple[Strip, int, str]]:
        """Every kept link of these strips, which come with their numbers, and its file's name."""
        for index, strip in strips:
            for link in strip.keep:
                yield strip, link, self._name(index, strip, link)

    def _enter_name(self, folded: str, number: int) -> int:
        return self._taken.setdefault(hash(folded), number, lambda other: self._is(other, folded))

    def _holder(self, name: str) -> int | None:
        folded = _folded(name)
        return self._taken.get(hash(folded), lambda number: self._is(number, folded))

    def _is(self, number: int, folded: str) -> bool:
        return _folded(self._name(*self._file(number))) == folded

    def _name(self, index: int, strip: Strip, link: int) -> str:
        number = self._first[index] + strip.keep.index(link)
        return self._naming.name(strip, link, self._naming.varying(index, strip), aside=bool(self._aside[number]))

    def _file(self, number: int) -> tuple[int, Strip, int]:
        index = bisect_right(self._first, number) - 1
        strip = self._plan.strips[index]
        return index, strip, strip.keep[number - self._first[index]]


def paths_of(names: Mapping[Place, str]) -> Container[str]:
    """What these files are called."""
    return _Paths(names) if isinstance(names, FileNames) else frozenset(names.values())


class _Paths(Container[str]):
    """What files are called, without a list of it."""

    def __init__(self, names: FileNames) -> None:
        self._names = names

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._names.has_path(path)


def folders_of(names: Mapping[Place, str]) -> set[str]:
    """The folders of these files, below the output folder."""
    return names.folders if isinstance(names, FileNames) else {name.rpartition("/")[0] for name in names.values()}


class _Naming:
    """How a recipe names files."""

    def __init__(
        self, plan: Plan, output: Output, dates: Mapping[str, datetime], numbers: Mapping[str, int] | None
    ) -> None:  # fmt: skip
        self._output, self._dates, self._strips = output, dates, plan.strips
        self._template = Template.parse(output.name)
        self._fields = self._template.fields
        self._ends = {axis: Template.parse(end) for axis, end in _AXES.items() if axis not in self._fields}
        if numbers is None and "n" in self._fields:
            numbers = {photo.name: place for place, photo in enumerate(plan.photos, start=1)}
        self._numbers, self._extensions = numbers or {}, dict[str, str]()
        self._varying = {} if isinstance(plan.strips, ManyStrips) else _varying(plan.strips)
        self._last: tuple[Photo | None, Mapping[_Row, Collection[str]]] = None, {}

    def varying(self, index: int, strip: Strip) -> Collection[str]:
        """The axes that have several values within the strip's photo and edit."""
        varying: Mapping[_Row, Collection[str]] = self._varying
        if isinstance(self._strips, ManyStrips):
            last, varying = self._last
            if last is not strip.photo:
                varying = _varying(self._strips.of_same_photo(index))
                self._last = strip.photo, varying
        return varying.get(_row(strip), ())

    def name(self, strip: Strip, link: int, varies: Collection[str], *, aside: bool) -> str:
        """The name of one file; `aside` where another photo's has the one that it would have."""
        photo = strip.photo.name
        values = _values(strip)
        values |= {"link": link, "date": self._dates.get(photo, UNDATED) if self._dates else UNDATED}
        if "n" in self._fields:
            values["n"] = self._numbers[photo]
        appended = [end.fill(values) for axis, end in self._ends.items() if axis in varies] if varies else []
        more = "".join([*appended, *_settings(strip, varies)]) if varies else ""
        extension = self._extension(photo)
        if aside:
            extension = f"_{_suffix(photo)[1:].lower()}{extension}"
        return safe_path(self._template.fill(values), more + extension)

    def _extension(self, photo: str) -> str:
        """Of a delivered file, which hangs on that of its photo alone."""
        own = _suffix(photo)
        if own not in self._extensions:
            self._extensions[own] = _extension(self._output, own)
        return self._extensions[own]


def safe_path(path: str, end: str) -> str:
    """`path` + `end` such that every file system takes it: no part is empty, `..`, reserved, too long or absolute."""
    parts = [part for part in path.split("/") if part.strip(" .")] or ["photo"]
    if len(parts) > 1 and parts[0].casefold() == SHEETS:
        parts[0] = f"_{parts[0]}"
    return "/".join([*(_safe_part(part, "") for part in parts[:-1]), _safe_part(parts[-1], end)])


def _safe_part(part: str, end: str) -> str:
    if _HARMLESS.fullmatch(part) and len(part) + len(end) < MAX_BYTES - _ROOM and not _RESERVED.match(part + end):
        return part + end
    text = FORBIDDEN.sub("-", unicodedata.normalize("NFC", part)).strip().rstrip(". ")
    if text.startswith("."):
        text = "_" + text[1:]  # hidden files would be lost from sight, and .ip2pbatch is the run's own
    room = MAX_BYTES - _ROOM - len(end.encode())
    if len(text.encode()) > room:  # the end of a name tells edits apart, so its hash stays
        tail = "~" + hashlib.sha256(text.encode()).hexdigest()[:8]
        text = text.encode()[: room - len(tail)].decode(errors="ignore").rstrip(". ") + tail
    if _RESERVED.match(text + end):
        text = "_" + text
    return (text or "photo") + end


def _values(strip: Strip) -> dict[str, object]:
    folder, stem = _parts(strip.photo.name)
    scales = {"text": strip.guidance.text, "image": strip.guidance.image}
    return {"folder": folder, "stem": stem, "edit": strip.id, "seed": strip.seed, **scales}


@lru_cache(maxsize=1024)  # all files of a photo ask for it
def _parts(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    return folder, file[: -len(_suffix(file))] if _suffix(file) else file


@lru_cache(maxsize=1024)
def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:] if dot > name.rfind("/") + 1 else ""


def _extension(output: Output, own: str) -> str:
    """Of a delivered file: with `same` its photo's `own`, or that of what is written in its stead."""
    if output.format != "same":
        return FORMATS[output.format].suffixes[0]
    kind = by_suffix(own)
    delivered = kind.delivered(output.raw) if kind else ""
    return own if kind is None or delivered == kind.name else FORMATS[delivered].suffixes[0]


def _gives_way(strip: Strip) -> bool:
    """Whether a name goes to other photos first, such as a_winter.jpg to a.jpg and not to a.gif, which is told apart.

    So runs from before such photos were read go on, and no name of theirs changes.
    """
    return _suffix(strip.photo.name) not in _FIRST and _suffix(strip.photo.name).lower() not in _FIRST


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", name).casefold()


def _settings(strip: Strip, varies: Collection[str]) -> Iterator[str]:
    edit = strip.edits[0]
    for name, value in (("steps", edit.steps), ("sampler", edit.sampler), ("size", max(edit.size))):
        if name in varies:
            yield _SETTINGS[name].format(value)


def _row(strip: Strip) -> _Row:
    return strip.photo.name, strip.id


def _varying(strips: Iterable[Strip]) -> dict[_Row, set[str]]:
    """The axes with more than one value, of the photos and edits that have such axes."""
    first: dict[_Row, Strip] = {}
    varying: dict[_Row, set[str]] = defaultdict(set)
    for strip in strips:
        other = first.setdefault(_row(strip), strip)
        if other is not strip:
            one, two = strip.guidance, other.guidance
            pairs = {"text": (one.text, two.text), "image": (one.image, two.image), "seed": (strip.seed, other.seed)}
            varying[_row(strip)].update(axis for axis, (new, old) in pairs.items() if new != old)
            new, old = strip.edits[0], other.edits[0]
            varying[_row(strip)].update(name for name in _SETTINGS if getattr(new, name) != getattr(old, name))
        if len(strip.keep) > 1:
            varying[_row(strip)].add("link")
    return varying


def _refuse(name: str, first: tuple[int, Strip, int], second: tuple[int, Strip, int]) -> None:
    who = [f"{strip.photo.name} ({strip.id}, link {link})" for _, strip, link in (first, second)]
    raise PlanError(
        f"{who[0]} and {who[1]} would both be {name!r}",
        hint="add {folder}, {stem} or {edit} to output.name, or give one of the edits another id",
    )
